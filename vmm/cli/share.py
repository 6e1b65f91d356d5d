"""``pyvmm share``: shared directories that come and go while a machine runs."""

from __future__ import annotations

import os

from vmm.cli.options import add_vm
from vmm.cli.options import parser as make_parser
from vmm.errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

PROG = "pyvmm share"
DESCRIPTION = "Share a directory with the guest of a running machine, or take back one that was added."
EPILOG = """\
VM is the control socket of the machine, which is on PCI and was told where directories may come from.  DIR is one below
that, without links in its path, and may have the options of --share but dax and isolation.  add prints the tag by which
the guest mounts it: mount -t virtiofs TAG /mnt.  remove asks the guest to let it go, and waits for that.

exit status:
  0  it is done
  1  the guest still has the directory
  2  it cannot be done

example:
  pyvmm boot --kernel vmlinuz --rootfs debian.img --transport pci --control /tmp/vm.sock --shares-from /srv/data
  pyvmm share add /tmp/vm.sock /srv/data/project,ro
  pyvmm share remove /tmp/vm.sock /srv/data/project
"""


def parser() -> argparse.ArgumentParser:
    """For help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, (), EPILOG)
    made.add_argument("--timeout", metavar="SECONDS", default="30", help="remove: wait so long (default: 30)")
    made.add_argument("--force", action="store_true", help="remove: take it away then, whatever the guest does with it")
    made.add_argument("what", choices=("add", "remove"), help="what to do")
    add_vm(made)
    made.add_argument("share", metavar="DIR", help="the directory").complete = "directory"  # type: ignore[attr-defined]
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    values = parser().parse_args(argv)
    from vmm.control.client import ask

    if not values.timeout.isdecimal():
        raise ConfigError(f"--timeout {values.timeout!r}: not a number", code="number-syntax")
    if values.what == "add":
        folder, comma, options = values.share.replace(",,", "\0").partition(",")
        path = os.path.abspath(folder.replace("\0", ",")).replace(",", ",,")
        print(ask(values.vm, "add-share", share=path + comma + options.replace("\0", ",,"))["tag"])
        return 0
    place, seconds = os.path.abspath(values.share), int(values.timeout)
    if not ask(values.vm, "remove-share", path=place, seconds=seconds, force=values.force)["removed"]:
        raise HostError(
            f"share {place}: the guest has not let it go within {seconds} s",
            code="share-busy",
            hint="it may be mounted there; --force takes it away",
        )
    return 0
