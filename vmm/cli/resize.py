"""``pyvmm resize``: ask a running machine to have more or less memory."""

from __future__ import annotations

import sys

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.config.sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm resize"
DESCRIPTION = "Ask the guest of a running machine to have more or less memory."
EPILOG = """\
VM is the control socket of the machine.  SIZE is all of its memory, that of its start included: from --memory up to so
much more as --hotplug-memory says.  The guest takes it, or gives it back as far as it can, in its own time.

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --memory 256M --hotplug-memory size=1G --control /tmp/vm.sock
  pyvmm resize /tmp/vm.sock 768M
"""


def parser() -> argparse.ArgumentParser:
    """For help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, (), EPILOG)
    add_vm(made)
    made.add_argument("size", metavar="SIZE", help="how much memory the guest is to have")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.control.client import ask

    size = parse_size(values.size, "SIZE")
    ask(values.vm, "resize-memory", size=size)
    sys.stderr.write(f"pyvmm: the guest is asked to have {size >> 20} MiB\n")
    return 0
