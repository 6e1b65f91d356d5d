"""``pyvmm disk``: add, remove and resize disks while a machine runs."""

from __future__ import annotations

from vmm.cli.plug import Plug

DESCRIPTION = "Add a disk to a running machine, remove one that was added, or tell the guest that one has another size."
EPILOG = """\
VM is the control socket of the machine, which is on PCI and was started with --disks-from. FILE is a disk image or a
block device below that directory, without links in its path, and may have the options of --disk except cow and overlay.
remove requests that the guest release the disk, and waits for it. resize is for a file whose size has changed on the
host; it may also be an initial disk of the machine.

exit status:
  0  done
  1  the guest still has the disk
  2  impossible

example:
  pyvmm boot --kernel vmlinuz --rootfs debian.img --transport pci --control /tmp/vm.sock --disks-from /srv/disks
  pyvmm disk add /tmp/vm.sock /srv/disks/data.img,serial=data
  truncate -s 2G /srv/disks/data.img && pyvmm disk resize /tmp/vm.sock /srv/disks/data.img
  pyvmm disk remove /tmp/vm.sock /srv/disks/data.img
"""
_COMMAND = Plug("disk", "FILE", "the image or block device", "file", DESCRIPTION, EPILOG, "resize")
parser, main = _COMMAND.parser, _COMMAND.main
