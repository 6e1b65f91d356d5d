"""`make coverage-sentry`: the lines of the Sentry's core that its tests run on the platforms trap and ptrace.

clang compiles both programs with counters. Until the tests and the fuzzer have run, this checkout's package has them,
as an installation has: a link leads into build/. The table goes to the terminal; build/coverage-sentry/lines lists
the lines that did not run. The exit status is 1 if fewer than PERCENT of the lines ran, or a test failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from pyvmm_sentry import installed, program
from tools.where import ROOT

PERCENT = 90.0
FOLDER = ROOT / "build" / "coverage-sentry"
PRINTED = "tests/sentry/test_programs.py::test_busybox_behaves_as_on_linux"
"""The counters add a variable to the environment, which the case ``env`` of it prints."""
PLATFORMS = {"pyvmm-sentry-trap": program.TRAP, "pyvmm-sentry-ptrace": program.PTRACE}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; exits with 2 and a usage message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sentry.coverage", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="how long to fuzz (60)")
    parser.add_argument("--keep", action="store_true", help="add to the counters of the last run")
    parser.add_argument("--report", action="store_true", help="run nothing: print the table of the last run")
    parser.add_argument("tests", nargs="*", help="arguments of pytest (tests/sentry)")
    return parser.parse_args(argv)


def build() -> list[Path]:
    """Compile both programs."""
    os.environ["CC"] = "clang"
    shutil.rmtree(FOLDER / "built", ignore_errors=True)
    (FOLDER / "built").mkdir(parents=True)
    made = []
    for name, platform in PLATFORMS.items():
        profile = f"{FOLDER}/profile/%m%c.profraw"
        made.append(program.hosted(f"covered-{name}", program.with_host(platform), profile=profile))
        shutil.copy(made[-1], FOLDER / "built" / name)
    return made


@contextlib.contextmanager
def installed_programs() -> Iterator[None]:
    """Programs that start meanwhile use those of build()."""
    link = Path(installed.FOLDER)
    link.unlink(missing_ok=True)  # of a run that was killed
    link.symlink_to(FOLDER / "built")
    try:
        yield
    finally:
        link.unlink()


def run(options: argparse.Namespace) -> bool:
    """Run the tests and the fuzzer; whether all passed."""
    environment = {**os.environ, "CC": "gcc"}
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "not guest and not long"]
    tests += [f"--deselect={PRINTED}[{platform}-env]" for platform in ("trap", "ptrace")]
    status = subprocess.run([*tests, *(options.tests or ["tests/sentry"])], cwd=ROOT, env=environment).returncode
    if options.seconds:
        fuzz = [sys.executable, "-m", "tests.sentry.fuzz", "--seconds", str(options.seconds)]
        status |= subprocess.run(fuzz, cwd=ROOT, env=environment).returncode
    return status == 0


def report(programs: Sequence[Path]) -> bool:
    """Print the lines that ran, by folder; whether they are enough."""
    data = FOLDER / "data"
    profiles = [str(path) for path in (FOLDER / "profile").glob("*.profraw")]
    subprocess.run(["llvm-profdata", "merge", "-o", data, *profiles], check=True)
    objects = [str(programs[0]), *(word for path in programs[1:] for word in ("-object", str(path)))]
    command = ["llvm-cov", "export", "-format=lcov", f"-instr-profile={data}", *objects]
    lines = _lines(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    folders: dict[str, list[int]] = defaultdict(list)
    missing = []
    for path, hits in sorted(lines.items()):
        name = path.relative_to(program.CORE)
        folders[name.parts[0] if len(name.parts) > 1 else "."] += [count > 0 for count in hits.values()]
        missing += [f"{name}:{number}" for number, count in hits.items() if not count]
    (FOLDER / "lines").write_text("".join(f"{each}\n" for each in missing))
    total = [ran for each in folders.values() for ran in each]
    for folder, ran in [*sorted(folders.items()), ("all", total)]:
        print(f"{folder:10} {sum(ran):6} of {len(ran):6} lines  {100 * sum(ran) / len(ran):5.1f} %")
    return 100 * sum(total) >= PERCENT * len(total)


def _lines(lcov: str) -> dict[Path, dict[int, int]]:
    """Of each source of the core: how often each line ran."""
    found: dict[Path, dict[int, int]] = {}
    current: dict[int, int] = {}
    for line in lcov.splitlines():
        kind, _, rest = line.partition(":")
        if kind == "SF":
            path = Path(rest).resolve()
            ours = path.is_relative_to(program.CORE)
            current = found.setdefault(path, {}) if ours else {}
        elif kind == "DA":
            number, count = rest.split(",")[:2]
            current[int(number)] = max(current.get(int(number), 0), int(count))
    return found


def main(argv: Sequence[str]) -> int:
    """Returns the exit status."""
    options = parse(argv)
    known = FOLDER / "programs"
    if options.report:
        return 0 if report([Path(each) for each in json.loads(known.read_text())]) else 1
    if not options.keep:
        shutil.rmtree(FOLDER / "profile", ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    programs = build()
    known.write_text(json.dumps([str(path) for path in programs]))
    with installed_programs():
        passed = run(options)
    return 0 if report(programs) and passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
