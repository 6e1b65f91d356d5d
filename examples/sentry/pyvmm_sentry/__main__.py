"""`python -m pyvmm_sentry run PROGRAM [ARGUMENT]...`: run a static Linux program on the Sentry.

`python -m pyvmm_sentry kernel` builds the Sentry as a guest kernel and prints its path.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import NoReturn

from pyvmm_sentry import program

CANNOT_START, NOT_FOUND = 125, 127
"""Exit statuses, as `env` has them; 126 is the platform's: the file is not a program that it can run."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser("pyvmm_sentry", description="Runs Linux programs on a guest kernel of our own.")
    commands = whole.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a static program; exits as the program does")
    run.add_argument("--memory", type=int, default=256, metavar="MIB", help="memory of the sandbox (default: 256)")
    run.add_argument("--strace", action="store_true", help="print every system call to standard error")
    run.add_argument("program", help="a static x86-64 program")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    commands.add_parser("kernel", help="build the Sentry as a guest kernel, and print its path")
    return whole


def fail(text: str, status: int) -> NoReturn:
    """Print an error and exit."""
    print(f"pyvmm_sentry: {text}", file=sys.stderr)
    sys.exit(status)


def run(options: argparse.Namespace) -> NoReturn:
    """Replace this process by the platform's program."""
    if not 16 <= options.memory <= 65536:
        fail(f"--memory {options.memory}: a number of MiB from 16 to 65536", CANNOT_START)
    path = options.program if "/" in options.program else shutil.which(options.program)
    if not path or not os.path.exists(path):
        fail(f"{options.program}: not found", NOT_FOUND)
    platform = program.ptrace()
    strace = ["--strace"] if options.strace else []
    command = [str(platform), *strace, "--memory", str(options.memory), "--", path, *options.arguments]
    sys.stdout.flush()
    os.execv(platform, command)


def main(argv: list[str]) -> None:
    """Run a command."""
    options = parser().parse_args(argv)
    try:
        if options.command == "kernel":
            print(program.kernel())
        else:
            run(options)
    except program.BuildError as error:
        fail(str(error), CANNOT_START)


if __name__ == "__main__":
    main(sys.argv[1:])
