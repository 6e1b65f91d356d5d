"""``pyvmm fork``: running copies of a machine."""

from __future__ import annotations

import sys

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm fork"
DESCRIPTION = "Make running copies of a machine, which continues.  Prints the control socket of each."
EPILOG = """\
VM is the control socket of the machine. A copy continues where the machine is. It shares memory until one of them
writes, and has private copies of the disks, which are deleted when it ends. Its control socket is VM.1, VM.2 and so
on, and the socket of its --vsock gets the same number. Networks of --net user are new and publish no ports. A copy has
no console, and ends with the machine at the latest. If the machine is in a jail, each copy has its own jail.

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --control /tmp/vm.sock
  pyvmm fork /tmp/vm.sock -n 2
  pyvmm snapshot /tmp/vm.sock.1 warm
"""

_DIGITS = 18


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, (), EPILOG)
    made.add_argument("-n", metavar="N", dest="children", default="1", help="so many copies (default: 1)")
    add_vm(made)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.control.client import ask

    if not values.children.isdecimal() or len(values.children) > _DIGITS:
        raise ConfigError(f"-n {values.children!r:.60}: no number of children", code="fork-children", hint="-n 2")
    for child in ask(values.vm, "fork", n=int(values.children))["children"]:
        sys.stdout.write(f"{child['control']}\n")
    return 0
