"""``pyvmm disk``: disks that come, go and grow while a machine runs."""

from __future__ import annotations

from vmm.cli.plug import Plug

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
_COMMAND = Plug("disk", "FILE", "the image or block device", "file", DESCRIPTION, EPILOG, "resize")
parser, main = _COMMAND.parser, _COMMAND.main
