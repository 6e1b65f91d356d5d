"""``pyvmm share``: add and remove shared directories while a machine runs."""

from __future__ import annotations

from vmm.cli.plug import Plug

DESCRIPTION = "Share a directory with the guest of a running machine, or take back one that was added."
EPILOG = """\
VM is the control socket of the machine, which is on PCI and was started with --shares-from. DIR is a directory below
that one, without links in its path, and may have the options of --share except dax and isolation. add prints the tag
that the guest mounts: mount -t virtiofs TAG /mnt. remove requests that the guest release it, and waits for that.

exit status:
  0  done
  1  the guest still has the directory
  2  impossible

example:
  pyvmm boot --kernel vmlinuz --rootfs debian.img --transport pci --control /tmp/vm.sock --shares-from /srv/data
  pyvmm share add /tmp/vm.sock /srv/data/project,ro
  pyvmm share remove /tmp/vm.sock /srv/data/project
"""
_COMMAND = Plug("share", "DIR", "the directory", "directory", DESCRIPTION, EPILOG)
parser, main = _COMMAND.parser, _COMMAND.main
