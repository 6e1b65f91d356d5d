#!/usr/bin/env python3
"""Steps with a line at their start and one that says how long they took. Standard library only, Python 3.9 or newer.

From a shell: tools/step.py TITLE -- COMMAND...
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def say(text: str) -> None:
    """One line of progress, on stderr: stdout belongs to what is run."""
    if os.isatty(2):
        text = f"\033[1m{text}\033[0m"
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say that `title` starts and, at its end, whether it worked and after how many seconds.

    Whoever is interrupted (Ctrl-C, a signal) says so itself.
    """
    say(f"==> {title}")
    start = time.monotonic()
    try:
        yield
    except (Exception, SystemExit):
        say(f"<== {title}: failed after {time.monotonic() - start:.1f} s")
        raise
    say(f"<== {title}: done after {time.monotonic() - start:.1f} s")


def with_parent(command: Sequence[str]) -> list[str]:
    """`command`, which gets SIGTERM when the thread that starts it ends, however this program ends."""
    return ["setpriv", "--pdeathsig", "TERM", *command]


def run_step(title: str, command: Sequence[str]) -> int:
    """Run `command` as a step and return its exit status, 128 + N when signal N killed it."""
    start = time.monotonic()
    say(f"==> {title}")
    try:
        status = subprocess.run(command).returncode
    except FileNotFoundError:
        say(f"{command[0]} is not installed")
        status = 127
    except KeyboardInterrupt:
        status = 130
    if status < 0:
        status = 128 - status
    outcome = f"failed with status {status}" if status else "done"
    say(f"<== {title}: {outcome} after {time.monotonic() - start:.1f} s")
    return status


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit("usage: tools/step.py TITLE -- COMMAND...")
    sys.exit(run_step(sys.argv[1], sys.argv[3:]))
