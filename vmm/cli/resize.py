"""``pyvmm resize``: change the memory or the number of vCPUs of a running machine."""

from __future__ import annotations

import sys

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.options.sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm resize"
DESCRIPTION = "Change the memory or the number of vCPUs of a running machine."
EPILOG = """\
VM is the control socket of the machine. SIZE is its total memory: from --memory up to --hotplug-memory more. The guest
takes it, or returns it as far as possible, in its own time.

N is the number of its vCPUs, from --cpus up to --max-cpus. The guest brings new ones online itself. It must take those
that are removed offline first, by /sys/devices/system/cpu/cpuN/online.

example:
  pyvmm boot --kernel vmlinux --rootfs rootfs.img --memory 256M --hotplug-memory size=1G --max-cpus 4 \\
    --control /tmp/vm.sock
  pyvmm resize /tmp/vm.sock 768M --cpus 2
"""


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, (), EPILOG)
    add_vm(made)
    made.add_argument("size", metavar="SIZE", nargs="?", help="how much memory the guest should have")
    made.add_argument("--cpus", metavar="N", type=int, help="how many vCPUs the guest may have")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    own = parser()
    values = own.parse_args(argv)
    if values.size is None and values.cpus is None:
        own.error("nothing to change: give SIZE, --cpus N, or both")
    from vmm.control.client import ask

    size = None if values.size is None else parse_size(values.size, "SIZE")
    if values.cpus is not None:
        ask(values.vm, "resize-cpus", count=values.cpus)
        sys.stderr.write(f"pyvmm: the guest may have {values.cpus} vCPUs\n")
    if size is not None:
        ask(values.vm, "resize-memory", size=size)
        sys.stderr.write(f"pyvmm: the guest is asked to have {size >> 20} MiB\n")
    return 0
