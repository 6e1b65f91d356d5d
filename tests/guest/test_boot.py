"""Linux is booted by either entry, from a root disk and from an initrd, and is told what it should be."""

from __future__ import annotations

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import complaints
from tools import guest as recipes
from vmm.boot import default_cmdline, layout


@pytest.fixture(scope="session")
def initrd() -> str:
    """The guest's root as an initramfs."""
    return recipes.make("rootfs.py", "--kind", "initrd")


@pytest.mark.parametrize("entry", ["pvh", "linux64"])
@pytest.mark.parametrize("root", ["disk", "initrd"])
def test_entry_and_root(boot: Boot, request: pytest.FixtureRequest, entry: str, root: str) -> None:
    default = default_cmdline(rootfs=root == "disk")
    room = layout.CMDLINE_SIZE - 1 - len(default) - 1
    own = "pyvmm.quiet " + "x" * (room - 17) + ".last"
    if root == "disk":
        guest = boot(entry=entry, cmdline=own)
    else:
        guest = boot(entry=entry, cmdline=own, rootfs=None, initrd=request.getfixturevalue("initrd"))

    # Our own kernel has a beginning of its command line built in; of a line that is too long, Linux drops the end
    seen = guest.check("cat /proc/cmdline").removesuffix("\n")
    before, given, _ = seen.partition(default)
    assert given and len(before) < 100
    assert seen == f"{before}{default} {own}"[: layout.CMDLINE_SIZE - 1]

    mounted = guest.check("awk '$2 == \"/\" { print $3 }' /proc/mounts").split()
    assert mounted[-1] == ("ext4" if root == "disk" else "rootfs")
    assert complaints(guest) == []
    assert guest.power_off().kind == "poweroff"
