"""`make test`: every test; those that need KVM run in the lab where this machine has no usable one.

usage: python -m tools.run_tests [--native | --guest] [PYTEST ARGUMENT]...

Two runs of pytest, and after them a summary line of both in pytest's own form. The exit status is 0 when all tests that
were selected passed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from tools import guest
from tools.step import say, step
from tools.where import ROOT, with_kvm

COUNTS = ROOT / "build" / "test-counts.json"
"""Where tests/conftest.py writes how many tests had which outcome; the lab can write there too."""

NO_TESTS = 5  # pytest's exit status when nothing was selected
ORDER = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "error")


def run_pytest(title: str, arguments: list[str], *, needs_kvm: bool) -> tuple[int, dict[str, int]]:
    """One run of pytest: its exit status (0 for no tests) and how many tests had which outcome."""
    COUNTS.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *arguments]
    if os.isatty(1):
        command.append("--color=yes")
    environment = {**os.environ, "PYVMM_TEST_COUNTS": str(COUNTS)}
    start = time.monotonic()
    say(f"==> {title}")
    status = subprocess.run(with_kvm(command) if needs_kvm else command, env=environment, cwd=ROOT).returncode
    say(f"<== {title}: {'failed' if status not in (0, NO_TESTS) else 'done'} after {time.monotonic() - start:.1f} s")
    try:
        counts: dict[str, int] = json.loads(COUNTS.read_text())
    except (OSError, ValueError):
        counts = {"error": 1}  # it did not get as far as counting
    return (0 if status == NO_TESTS else status), counts


def summary(counts: dict[str, int], seconds: float) -> str:
    """The last line, as pytest words it."""
    parts = [f"{counts[name]} {name}" for name in ORDER if counts.get(name)]
    return f" {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ".center(80, "=")


def main(arguments: list[str]) -> int:
    """Run what `arguments` select; returns the exit status."""
    start = time.monotonic()
    only = arguments.pop(0) if arguments[:1] in (["--native"], ["--guest"]) else ""
    runs = []
    if only != "--guest":
        runs.append(run_pytest("tests", ["-m", "not guest", *arguments], needs_kvm=False))
    if only != "--native":
        with step("guest kernel, root disk and programs"):
            guest.publish()
        where = [] if any(os.path.exists(argument.partition("::")[0]) for argument in arguments) else ["tests/guest"]
        runs.append(run_pytest("guest tests", ["-m", "guest", *where, *arguments], needs_kvm=True))
    total: dict[str, int] = {}
    for _, counts in runs:
        for name, count in counts.items():
            if name != "deselected":
                total[name] = total.get(name, 0) + count
    print(summary(total, time.monotonic() - start), flush=True)
    return max(status for status, _ in runs)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
