"""``pyvmm disk``: disks that come, go and grow while a machine runs."""

from __future__ import annotations

import os

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm disk"
DESCRIPTION = "Add a disk to a running machine, remove one that was added, or tell the guest that one has another size."
EPILOG = """\
VM is the control socket of the machine, which is on PCI and was told where its disks may come from.  FILE is a disk
image or a block device below that directory, without links in its path, and may have the options of --disk but cow and
overlay.  remove asks the guest to let the disk go, and waits for it.  resize is for a file that was made larger, or
smaller, on the host; it may also be a disk that the machine was started with.

exit status:
  0  it is done
  1  the guest still has the disk
  2  it cannot be done

example:
  pyvmm boot --kernel vmlinuz --rootfs debian.img --transport pci --control /tmp/vm.sock --disks-from /srv/disks
  pyvmm disk add /tmp/vm.sock /srv/disks/data.img,serial=data
  truncate -s 2G /srv/disks/data.img && pyvmm disk resize /tmp/vm.sock /srv/disks/data.img
  pyvmm disk remove /tmp/vm.sock /srv/disks/data.img
"""


def parser() -> argparse.ArgumentParser:
    """For help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, (), EPILOG)
    made.add_argument("--timeout", metavar="SECONDS", default="30", help="remove: wait so long (default: 30)")
    made.add_argument("--force", action="store_true", help="remove: take it away then, whatever the guest does with it")
    made.add_argument("what", choices=("add", "remove", "resize"), help="what to do")
    add_vm(made)
    made.add_argument("disk", metavar="FILE", help="the image or block device").complete = "file"  # type: ignore[attr-defined]
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.control.client import ask

    if not values.timeout.isdecimal():
        raise ConfigError(f"--timeout {values.timeout!r}: not a number", code="number-syntax")
    if values.what == "add":
        file, comma, options = values.disk.replace(",,", "\0").partition(",")
        path = os.path.abspath(file.replace("\0", ",")).replace(",", ",,")
        ask(values.vm, "add-disk", disk=path + comma + options.replace("\0", ",,"))
        return 0
    place = os.path.abspath(values.disk)
    if values.what == "resize":
        ask(values.vm, "resize-disk", path=place)
        return 0
    seconds = int(values.timeout)
    if not ask(values.vm, "remove-disk", path=place, seconds=seconds, force=values.force)["removed"]:
        raise HostError(
            f"disk {place}: the guest has not let it go within {seconds} s",
            code="disk-busy",
            hint="it may be mounted there; --force takes it away",
        )
    return 0
