"""``pyvmm snapshot``: save a running machine."""

from __future__ import annotations

import os
import sys
import time

from vmm.cli.options import Option, add_vm
from vmm.cli.options import parser as make_parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm snapshot"
DESCRIPTION = "Save a running machine as a directory that pyvmm restore starts clones from."
EPILOG = """\
VM is the control socket of the machine. It is paused while its memory and its disks are copied, and then continues. An
existing snapshot is replaced when the new one is complete, unless it has diffs.

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --control /tmp/vm.sock
  pyvmm snapshot /tmp/vm.sock warm
  pyvmm restore warm
"""
OPTIONS = (
    Option(
        "--diff",
        "BASE",
        "write only memory that differs from the snapshot BASE, which is needed later",
        complete="directory",
    ),
    Option("--stop", "", "end the machine when it is saved"),
)
_SECONDS = 2.0


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, OPTIONS, EPILOG)
    add_vm(made)
    made.add_argument("directory", metavar="DIR", help="the directory of the snapshot").complete = "directory"  # type: ignore[attr-defined]
    return made


class Progress:
    """Called with the number of bytes that are done and their total; prints progress to standard error after two
    seconds.

    :param what: the verb for them, such as ``saved``
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._next = time.monotonic() + _SECONDS

    def __call__(self, done: int, size: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _SECONDS
            sys.stderr.write(f"pyvmm: {done >> 20} of {size >> 20} MiB {self._what}\n")
            sys.stderr.flush()


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.control.client import ask

    base = None if values.diff is None else os.path.abspath(values.diff)
    place = os.path.abspath(values.directory)
    ask(values.vm, "snapshot", Progress("saved"), path=place, base=base, stop=values.stop)
    sys.stderr.write(f"pyvmm: saved in {values.directory}\n")
    return 0
