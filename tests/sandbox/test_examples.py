"""The programs of examples/sandbox/examples, with machines that run their programs here and have files of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.sandbox.rooted_machines import run

PLACE = Path(__file__).parents[2] / "examples" / "sandbox" / "examples"


def example(place: Path, name: str, *arguments: object, stdin: str = "", status: int = 0) -> str:
    """What it prints, which ends with *status*."""
    words = [str(word) for word in arguments]
    return run(
        place,
        f"""
import io, runpy, sys
sys.argv = [{name!r}, image, *{words!r}]
sys.stdin = io.StringIO({stdin!r})
status = 0
try:
    runpy.run_path({str(PLACE / name)!r}, run_name="__main__")
except SystemExit as end:
    status = end.code or 0
assert status == {status}, status
""",
        PATIENCE,
    )


def test_they_are_short() -> None:
    for path in PLACE.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path


@needs_namespaces
def test_the_code_interpreter(tmp_path: Path) -> None:
    cells = "x = 6\n\nprint('out')\nx * 7\n\n1 / 0\n\nx\n"
    printed = example(tmp_path, "interpreter.py", stdin=cells)
    assert printed == "out\n[2] 42\nZeroDivisionError: division by zero\n[4] 6\n"


@needs_namespaces
def test_the_grader(tmp_path: Path) -> None:
    tests = tmp_path / "tests.py"
    tests.write_text("import submission\nprint(sum(submission.double(n) == 2 * n for n in range(5)), 5, sep='/')\n")
    codes = {
        "right": "def double(n): return n + n",
        "partly": "def double(n): return n * n",
        "broken": "def double(n): return m",
        # It looks for, and spoils, the work of others
        "evil": "import os; print(os.listdir('/grader')); os.unlink('/grader/tests.py')\ndef double(n): return 0",
    }
    for name, code in codes.items():
        (tmp_path / f"{name}.py").write_text(code)
    printed = example(tmp_path, "grader.py", tests, *(tmp_path / f"{name}.py" for name in codes))
    rows = [line.split(maxsplit=1) for line in printed.splitlines()]
    assert rows[2][1].startswith("NameError: name 'm' is not defined")
    del rows[2]
    assert rows == [["right", "5/5"], ["partly", "2/5"], ["evil", "1/5"]]


@needs_namespaces
def test_the_checks_of_a_pull_request(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    script = """
    git init -q -b main; echo one >a; git add a; git commit -qm one
    git checkout -qb change; echo two >b; git add b; git commit -qm two
    git checkout -q main; echo three >>a; git commit -qam three
    """
    repository.mkdir()
    identity = {f"GIT_{who}_{what}": "ci@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["sh", "-ec", script], cwd=repository, check=True, env={**os.environ, **identity})
    checks = ["grep -q three a && grep -q two b && rm a", "test -e a", "echo the reason; false"]
    printed = example(tmp_path, "ci.py", repository, "main", "change", *checks, status=1)
    assert printed == f"ok   {checks[0]}\nok   test -e a\nFAIL {checks[2]}\nthe reason\n"


@needs_namespaces
def test_the_tree_search(tmp_path: Path) -> None:
    assert example(tmp_path, "tree_search.py", 32) == "32 by n + 7, n * 2, n * 2\n"


@needs_namespaces
def test_the_notebook(tmp_path: Path) -> None:
    cell: dict[str, Any] = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": "6 * 7"}
    cell["execution_count"] = None
    source, result = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    source.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert example(tmp_path, "notebook.py", source, result) == ""
    (shown,) = json.loads(result.read_text())["cells"][0]["outputs"]
    assert "".join(shown["data"]["text/plain"]) == "42"
