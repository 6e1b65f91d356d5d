"""An image as memory with Linux's own driver: a root file system with DAX, shared pages, a file cut short."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.filesystems import sparse_copy
from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest
from vmm import PmemConfig
from vmm.options.sizes import MIB

ROOT = "root=/dev/pmem0 rootflags=dax"


@pytest.fixture
def image(guest_disk: Path, tmp_path: Path) -> Path:
    """A root disk of 2 MiB pieces."""
    path = sparse_copy(guest_disk, tmp_path / "pmem.ext4")
    os.truncate(path, -(-path.stat().st_size // (2 * MIB)) * 2 * MIB)
    return path


def private(guest: Guest) -> int:
    """Bytes of the guest's image that this process has a copy of."""
    device = next(slot.device for slot in guest.machine.attached if slot.device.name.startswith("pmem"))
    (region,) = device.regions.values()
    end, total, inside = region.host_address + region.size, 0, False
    with open("/proc/self/smaps", encoding="ascii") as maps:
        for line in maps:
            first, second, *_ = line.split()
            if "-" in first:
                low, high = (int(part, 16) for part in first.split("-"))
                inside = low < end and high > region.host_address
            elif inside and first == "Anonymous:":
                total += int(second) << 10
    return total


# The window lies outside of the transport; shares with a window are tested on PCI
@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_a_root_with_dax(boot: Boot, image: Path, transport: str) -> None:
    guest = boot(rootfs=None, pmems=(PmemConfig(str(image)),), cmdline=f"{ROOT} rw", transport=transport)
    assert "dax" in guest.check("grep ' / ' /proc/mounts")
    guest.check("echo kept >/root/file && sync")
    assert guest.machine.attached[0].device.stats()["flushes"] > 0
    guest.power_off()
    guest.close()
    again = boot(rootfs=None, pmems=(PmemConfig(str(image)),), cmdline=f"{ROOT} rw", transport=transport)
    assert again.check("cat /root/file") == "kept\n"
    assert private(again) == 0


def test_guests_share_the_pages_of_one_image(boot: Boot, image: Path) -> None:
    before = image.read_bytes()
    pmems = (PmemConfig(str(image), read_only=True),)
    guests = [boot(rootfs=None, pmems=pmems, cmdline=f"{ROOT} ro") for _ in range(2)]
    sums = {guest.check("md5sum /bin/busybox; cat /dev/pmem0 | md5sum") for guest in guests}
    assert len(sums) == 1
    for guest in guests:
        assert private(guest) == 0, "it has a copy of its own"
        assert "ro" in guest.check("grep ' / ' /proc/mounts").split()[3].split(",")
        guest.run("echo x | dd of=/dev/pmem0 bs=4096 seek=3 conv=fsync")
        guest.power_off()
    assert image.read_bytes() == before


def test_a_file_cut_short(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"A" * (16 * MIB))
    guest = boot(pmems=(PmemConfig(str(path)),))
    count = "dd if=/dev/pmem0 bs=1M iflag=direct 2>/dev/null | tr -cd {} | wc -c"
    assert guest.check(count.format("A")) == f"{16 * MIB}\n"
    os.truncate(path, 4 * MIB)
    assert guest.check(count.format("A")) == f"{4 * MIB}\n"
    path.write_bytes(b"B" * (16 * MIB))
    count = count.format("B")
    guest.check(f"for i in 1 2 3 4 5 6 7 8 9; do got=$({count}); [ $got = {16 * MIB} ] && break; sleep 1; done")
    assert guest.check(count) == f"{16 * MIB}\n"
