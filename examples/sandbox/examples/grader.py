"""A grader: each submission runs in a copy of one prepared machine, and none sees another.

usage: grader.py IMAGE TESTS.py SUBMISSION.py..., where the tests import `submission` and print `POINTS/MOST`.
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyvmm_sandbox import CommandTimeout, Sandbox

LIMIT_S = 20


def grade(copy: Sandbox, submission: Path) -> str:
    """Its points, or what went wrong.  The copy is used up."""
    with copy:
        copy.files.write("/grader/submission.py", submission.read_bytes())
        try:
            done = copy.run(["python3", "tests.py"], cwd="/grader", timeout=LIMIT_S, max_output=10_000)
        except CommandTimeout:
            return "too slow"
    if not done.ok:
        return (done.stderr.strip().splitlines() or [f"status {done.exit_code}"])[-1]
    points = re.search(r"^\d+/\d+$", done.stdout, re.MULTILINE)
    return points[0] if points else "no points"


def main(image: str, tests: Path, submissions: list[Path]) -> None:
    with Sandbox(image, timeout=None) as prepared:
        prepared.files.write("/grader/tests.py", tests.read_bytes())
        prepared.run(["python3", "-m", "compileall", "-q", "/grader"], check=True)  # and whatever else takes long
        with ThreadPoolExecutor(8) as threads:
            grades = threads.map(grade, prepared.fork(len(submissions)), submissions)
            for submission, points in zip(submissions, grades, strict=True):
                print(f"{submission.stem:20} {points}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
