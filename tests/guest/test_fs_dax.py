"""Files of the host in the guest's address space: ``mount -o dax``."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import Guest
from vmm import DiskConfig, ShareConfig

MIB = 1 << 20
SIZE = 6 * MIB
ISOLATION = pytest.mark.parametrize("isolation", ["thread", "process"])


@pytest.fixture(scope="module")
def programs() -> DiskConfig:
    return programs_disk()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "big").write_bytes(random.Random(1).randbytes(SIZE))
    (folder / "small").write_bytes(b"small")
    return folder


def mount(boot: Boot, share: Path, programs: DiskConfig, isolation: str, **options: Any) -> Guest:
    transport = options.pop("transport", "mmio")
    config = ShareConfig(str(share), isolation=isolation, dax=64 * MIB, **options)
    guest = boot(shares=[config], disks=[programs], cpus=2, transport=transport)
    guest.check(INSTALL_PROGRAMS)
    guest.check("mount -t virtiofs -o dax share /mnt")
    return guest


def stats(guest: Guest) -> dict[str, Any]:
    (found,) = [row for row in (a.transport.stats() for a in guest.machine.attached) if "dax_maps" in row]
    return found


def start_map(guest: Guest, size: int) -> None:
    """A process that has the file mapped and waits for lines."""
    guest.check(
        f"mkfifo /tmp/in; (mapfile /mnt/big {size} </tmp/in >>/tmp/out; echo ended $? >>/tmp/out) & exec 9>/tmp/in"
    )


def ask(guest: Guest, line: str) -> str:
    """The answer to a line."""
    guest.check(f": >/tmp/out; echo {line} >&9")
    return guest.check("while ! [ -s /tmp/out ]; do usleep 10000; done; cat /tmp/out").strip()


@pytest.mark.parametrize(
    ("isolation", "transport"),
    [("thread", "mmio"), ("process", "pci"), pytest.param("process", "mmio", marks=pytest.mark.long)],
)
def test_reading_copies_nothing(boot: Boot, share: Path, programs: DiskConfig, isolation: str, transport: str) -> None:
    guest = mount(boot, share, programs, isolation, transport=transport)
    wanted = hashlib.md5((share / "big").read_bytes()).hexdigest()
    assert guest.check("md5sum </mnt/big").split()[0] == wanted
    total = sum((share / "big").read_bytes())
    assert guest.check(f"echo s | mapfile /mnt/big {SIZE}").strip() == str(total)
    assert guest.check("cat /mnt/small") == "small"
    seen = stats(guest)
    assert seen["read_bytes"] == 0
    assert "read" not in seen["ops"]
    assert seen["ops"]["setupmapping"]["count"] >= SIZE // (2 * MIB)
    assert seen["dax_maps"] >= SIZE // (2 * MIB)
    guest.check("umount /mnt")
    assert guest.power_off().kind == "poweroff"


@ISOLATION
def test_writing_in_place(boot: Boot, share: Path, programs: DiskConfig, isolation: str) -> None:
    guest = mount(boot, share, programs, isolation)
    guest.check(f"printf 'w 5000 65\\nw {SIZE - 1} 66\\n' | mapfile /mnt/big {SIZE}")
    guest.check("printf done | dd of=/mnt/big bs=4 seek=1000 conv=notrunc")
    guest.check("printf 'longer' >/mnt/small; printf ' and longer' >>/mnt/small; sync")
    data = (share / "big").read_bytes()
    assert len(data) == SIZE
    assert (data[5000], data[-1], data[4000:4004]) == (65, 66, b"done")
    assert (share / "small").read_text() == "longer and longer" == guest.check("cat /mnt/small")


@pytest.mark.parametrize(
    ("isolation", "transport"),
    [("process", "mmio"), ("thread", "pci"), pytest.param("thread", "mmio", marks=pytest.mark.long)],
)
def test_a_mapped_file_that_the_host_truncates(
    boot: Boot, share: Path, programs: DiskConfig, isolation: str, transport: str
) -> None:
    """What is gone reads as zeroes, or the process gets a signal; the machine goes on, other files as before, and what
    the host writes there again is seen."""
    guest = mount(boot, share, programs, isolation, transport=transport)
    start_map(guest, SIZE)
    data = (share / "big").read_bytes()
    at = 5 * MIB
    assert ask(guest, f"r {at}") == f"{data[at]:02x}"
    os.truncate(share / "big", 4096)
    assert ask(guest, f"r {at}") == "00"
    assert ask(guest, "r 100") == f"{data[100]:02x}"
    guest.check(f"echo w {at} 7 >&9")
    assert ask(guest, f"r {at + 4096}") == "00"
    assert stats(guest)["dax_faults"] >= 1
    assert guest.check("cat /mnt/small") == "small"
    guest.check("echo more >>/mnt/small")
    assert guest.check("cat /mnt/small") == "smallmore\n"

    (share / "big").write_bytes(b"\x42" * SIZE)
    guest.check(f"while :; do : >/tmp/out; echo r {at} >&9; usleep 50000; grep -q 42 /tmp/out && break; done")
    assert stats(guest)["dax_cut"] == 0
    guest.check("exec 9>&-; umount /mnt || umount -l /mnt")
    assert guest.power_off().kind == "poweroff"


def test_a_place_first_mapped_after_the_host_has_truncated_the_file(
    boot: Boot, share: Path, programs: DiskConfig
) -> None:
    """A guest whose idea of the size is an old one reads zeroes behind the end, and what is written there later."""
    guest = mount(boot, share, programs, "process", cache="always")
    data = (share / "big").read_bytes()
    assert guest.check("stat -c %s /mnt/big").strip() == str(SIZE)
    os.truncate(share / "big", 5000)
    start_map(guest, SIZE)
    assert guest.check("stat -c %s /mnt/big").strip() == str(SIZE), "it has not asked again"
    assert ask(guest, "r 100000") == "00", "in the slot where the file ends"
    assert ask(guest, f"r {5 * MIB}") == "00", "in one behind it"
    assert ask(guest, "r 4999") == f"{data[4999]:02x}"
    with open(share / "big", "r+b") as file:
        file.write(b"\x42" * SIZE)
    for at in (100000, 5 * MIB, 3 * MIB):
        guest.check(f"while :; do : >/tmp/out; echo r {at} >&9; usleep 50000; grep -q 42 /tmp/out && break; done")
    assert stats(guest)["dax_cut"] == 0
    guest.check("exec 9>&-; umount /mnt || umount -l /mnt")
    assert guest.power_off().kind == "poweroff"


def test_a_small_file_that_grows_is_seen_at_once(boot: Boot, share: Path, programs: DiskConfig) -> None:
    """Behind its end the window is closed; whoever comes there finds what the file has by then."""
    guest = mount(boot, share, programs, "process")
    done = guest.check("""
        cd /mnt && echo 0 >log
        for i in $(seq 1 100); do
            printf '%0200d\\n' $i >>log
            [ "$(tail -n 1 log)" = "$(printf '%0200d' $i)" ] || echo wrong at $i
        done
        wc -l <log; md5sum <log; cd /
    """).split()
    assert done[0] == "101"
    assert done[1] == hashlib.md5((share / "log").read_bytes()).hexdigest()


def test_a_read_only_share_in_the_window(boot: Boot, share: Path, programs: DiskConfig) -> None:
    guest = mount(boot, share, programs, "process", read_only=True)
    before = (share / "big").read_bytes()
    assert guest.check(f"echo s | mapfile /mnt/big {SIZE} 2>/dev/null").strip() == str(sum(before))
    assert guest.run("echo x >>/mnt/big")[0] != 0
    assert (share / "big").read_bytes() == before
