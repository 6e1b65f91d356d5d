"""Guest memory as Linux finds it: sizes around the hole below 4 GiB, and what it is made of on the host."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, complaints, programs_disk
from tests.guest.vmfixture import Guest
from vmm import BalloonConfig, ConfigError, DiskConfig, HostError, HotplugMemoryConfig, MemoryConfig, ShareConfig
from vmm.memory import GuestMemory
from vmm.native import ffi, lib

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture(scope="module")
def programs() -> DiskConfig:
    return programs_disk()


def system_ram(guest: Guest) -> list[tuple[int, int]]:
    """The ranges (first, last byte) of /proc/iomem that are RAM."""
    found = []
    for line in guest.check("grep ' : System RAM$' /proc/iomem").splitlines():
        first, _, last = line.partition(" : ")[0].partition("-")
        found.append((int(first, 16), int(last, 16)))
    return found


def total(guest: Guest) -> int:
    """MemTotal in bytes: what Linux has left after it has reserved for itself."""
    return int(guest.check("grep MemTotal: /proc/meminfo").split()[1]) << 10


def free_pages(guest: Guest, zone: str) -> int:
    """Free bytes of a zone: on x86-64, ``DMA32`` ends and ``Normal`` begins at 4 GiB."""
    pages = guest.check(
        f"awk '/^Node/ {{ zone = $4 }} zone == \"{zone}\" && /pages free/ {{ print $3 }}' /proc/zoneinfo"
    )
    return sum(map(int, pages.split())) * 4096


@pytest.mark.parametrize("size", [64 * MIB, 3 * GIB, 8 * GIB], ids=["64M", "3G", "8G"])
def test_all_memory_is_there_and_can_be_used(boot: Boot, programs: DiskConfig, size: int) -> None:
    guest = boot(memory=MemoryConfig(size), disks=[programs])
    ram = system_ram(guest)
    low = min(size, 3 * GIB)
    high = [(4 * GIB, 4 * GIB + size - low - 1)] if size > low else []
    assert ram == [(0x1000, 0x9FFFF), (MIB, low - 1), *high]
    assert size * 0.95 - 24 * MIB < total(guest) < size
    guest.check(INSTALL_PROGRAMS)
    use = 16 if size < GIB else 64
    assert guest.check(f"touch_memory {use} small") == f"{use} 0\n"
    assert complaints(guest) == []


def test_memory_on_both_sides_of_the_hole_at_once(boot: Boot, programs: DiskConfig) -> None:
    above = 256 * MIB
    guest = boot(memory=MemoryConfig(3 * GIB + above), disks=[programs])
    guest.check(INSTALL_PROGRAMS)
    # Linux takes the highest first, so this much is all that is above, and the rest below
    use = (above >> 20) + 128
    before = {zone: free_pages(guest, zone) for zone in ("DMA32", "Normal")}
    guest.check(f"touch_memory {use} huge keep >/tmp/touched &")
    guest.check("until [ -s /tmp/touched ]; do sleep 0.1; done")
    after = {zone: free_pages(guest, zone) for zone in ("DMA32", "Normal")}
    guest.check("kill $!; wait")
    taken = {zone: before[zone] - after[zone] for zone in before}
    assert taken["DMA32"] > 64 * MIB
    assert taken["Normal"] > above / 2
    assert guest.check("cat /tmp/touched") == f"{use} {use}\n"


@contextlib.contextmanager
def set_to(path: str, value: str) -> Iterator[None]:
    """Have a setting of the host's kernel; skips the test where that may not be."""
    file = Path(path)
    try:
        before = file.read_text().split()
        file.write_text(value)
    except OSError as error:
        pytest.skip(f"{path}: {error.strerror}")
    try:
        yield
    finally:
        file.write_text(next((word[1:-1] for word in before if word.startswith("[")), before[0]))


def large_mappings(guest: Guest) -> int:
    """How many mappings of 2 MiB KVM has made for the guest."""
    core = guest.machine._core
    assert core is not None
    stats = core.vm.stats()
    if "pages_2m" not in stats:
        pytest.skip("this host's KVM does not count its mappings")
    return stats["pages_2m"] + stats["pages_1g"]


def test_small_pages_are_mapped_small(boot: Boot) -> None:
    assert large_mappings(boot(memory=MemoryConfig(128 * MIB, huge_pages="none"))) == 0


def test_huge_pages_come_of_themselves(boot: Boot, programs: DiskConfig) -> None:
    with set_to("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"):
        guest = boot(memory=MemoryConfig(GIB), disks=[programs])  # with less than 512 MiB Linux has none for itself
        guest.check(INSTALL_PROGRAMS)
        booted = large_mappings(guest)
        assert booted > 0
        assert guest.check("touch_memory 64 huge") == "64 64\n"
        assert large_mappings(guest) > booted + 16, "the guest's huge pages are huge on the host too"


def test_a_buffer_comes_in_blocks(boot: Boot) -> None:
    guest = boot(memory=MemoryConfig(128 * MIB))
    sizes = "/sys/kernel/mm/transparent_hugepage/hugepages-"
    blocks = f"cat {sizes}1024kB/stats/anon_fault_alloc"
    before = int(guest.check(blocks))
    guest.check("dd if=/dev/zero of=/dev/null bs=8M count=1")
    assert int(guest.check(blocks)) >= before + 6
    assert "[inherit]" in guest.check(f"cat {sizes}2048kB/enabled"), "as transparent_hugepage says"


def test_hugetlb_pages_are_mapped_large(boot: Boot) -> None:
    pages = 64
    with set_to("/proc/sys/vm/nr_hugepages", str(pages)):
        if int(Path("/proc/sys/vm/nr_hugepages").read_text()) < pages:
            pytest.skip("the host has no memory for huge pages")
        guest = boot(memory=MemoryConfig(pages * 2 * MIB, huge_pages="hugetlb"))
        assert large_mappings(guest) > 0
        with pytest.raises(HostError, match="cannot get 128 MiB") as caught:
            boot(memory=MemoryConfig(pages * 2 * MIB, huge_pages="hugetlb"))
        assert "vm.nr_hugepages=64" in caught.value.hint
        guest.close()


def test_transparent_huge_pages_of_shared_memory_are_mapped_large(boot: Boot) -> None:
    with set_to("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "advise"):
        guest = boot(memory=MemoryConfig(128 * MIB, huge_pages="thp", prefault=True, shared=True))
        assert large_mappings(guest) > 0
        guest.close()


def test_shared_memory_is_huge_where_a_guest_needs_all_of_it(boot: Boot) -> None:
    with set_to("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "never"):
        other = GuestMemory(4 * MIB, shared=True)
        made = lib.ram_huge(ffi.cast("void *", other.host_address), 2 * MIB) == 0
        other.close()
        guest = boot(memory=MemoryConfig(256 * MIB, shared=True))
        used, large = resident(guest), large_mappings(guest)
        guest.close()
    assert used < 40 * MIB
    if not made:
        pytest.skip("this host makes no huge pages of shared memory")
    assert large >= 10


# -- the memory balloon with Linux's own driver ----------------------------------------------------------------------


TIMEOUT = 60.0
USE = "mount -t tmpfs -o size=90% none /mnt && dd if=/dev/zero of=/mnt/f bs=1M count={} 2>/dev/null"
FREE = "umount /mnt"


def resident(guest: Guest) -> int:
    """Bytes of guest RAM that take memory of the host."""
    memory = guest.machine.memory
    start, end = memory.host_address, memory.host_address + memory.size
    total, inside = 0, False
    with open("/proc/self/smaps", encoding="ascii") as maps:
        for line in maps:
            first, second, *_ = line.split()
            if "-" in first:
                low, high = (int(part, 16) for part in first.split("-"))
                inside = low < end and high > start
            elif inside and first == "Rss:":
                total += int(second) << 10
    return total


def wait_until(what: str, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {TIMEOUT:g} s"
        time.sleep(0.1)


@pytest.mark.long  # a minute
@pytest.mark.parametrize("shared", [False, True])
def test_what_the_guest_frees_goes_back_to_the_host(boot: Boot, shared: bool) -> None:
    guest = boot(balloon=BalloonConfig(free_page_reporting=True), memory=MemoryConfig(256 * MIB, shared=shared))
    guest.check(USE.format(128))
    used = resident(guest)
    assert used > 128 * MIB
    guest.check(FREE)
    wait_until("free memory of the host", lambda: resident(guest) < used - 100 * MIB)
    guest.check(USE.format(128))
    assert guest.check("tr -d '\\0' </mnt/f | wc -c; wc -c </mnt/f").split() == ["0", str(128 * MIB)]
    stats = guest.machine.balloon.stats()
    assert stats["errors"] == 0
    assert stats["reported"] == stats["released"] >= 100 * MIB


# tests/guest/test_demo.py has a balloon on PCI
@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_the_balloon_takes_memory_and_gives_it_back(boot: Boot, transport: str) -> None:
    guest = boot(balloon=BalloonConfig(), transport=transport)
    balloon = guest.machine.balloon
    guest.check(f"{USE.format(128)}; {FREE}")
    before = resident(guest)
    balloon.resize(128 * MIB)
    wait_until("the whole balloon", lambda: balloon.stats()["actual"] == 128 * MIB)
    assert resident(guest) < before - 100 * MIB
    assert int(guest.check("awk '/MemFree/ {print $2}' /proc/meminfo")) < 128 << 10
    balloon.resize(0)
    wait_until("no balloon", lambda: balloon.stats()["actual"] == 0)
    guest.check(USE.format(150))


def test_the_guests_own_figures(boot: Boot) -> None:
    guest = boot(balloon=BalloonConfig(size=32 * MIB))
    wait_until("the balloon", lambda: guest.machine.balloon.stats()["actual"] == 32 * MIB)
    figures = guest.machine.balloon.stats(timeout=TIMEOUT)["guest"]
    total = int(guest.check("awk '/MemTotal/ {print $2}' /proc/meminfo")) << 10
    assert figures["total_memory"] == total
    assert 0 < figures["free_memory"] < figures["total_memory"]
    assert figures["minor_faults"] > 0
    guest.check(USE.format(64))
    assert guest.machine.balloon.stats(timeout=TIMEOUT)["guest"]["free_memory"] < figures["free_memory"] - 60 * MIB


def test_a_guest_short_of_memory_takes_it_out_of_the_balloon(boot: Boot) -> None:
    guest = boot(balloon=BalloonConfig())
    guest.machine.balloon.resize(200 * MIB)
    wait_until("a large balloon", lambda: guest.machine.balloon.stats()["actual"] > 150 * MIB)
    guest.check("mount -t tmpfs -o size=100% none /mnt && dd if=/dev/zero of=/mnt/f bs=1M count=80 2>/dev/null")
    assert guest.machine.balloon.stats()["actual"] < 160 * MIB


# -- memory that is added while it runs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "shared", "size"), [("mmio", True, 256), pytest.param("pci", False, 512, marks=pytest.mark.long)]
)
def test_a_guest_gets_memory_and_gives_it_back(
    boot: Boot, tmp_path: Path, transport: str, shared: bool, size: int
) -> None:
    """The server of a share, another process where memory is shared, reads what is in it."""
    shares = (ShareConfig(str(tmp_path), tag="s", isolation="process" if shared else "thread"),)
    more, fill = HotplugMemoryConfig(size * MIB), size - 112
    guest = boot(memory=MemoryConfig(128 * MIB), hotplug_memory=more, transport=transport, shares=shares)
    machine, first = guest.machine, total(guest)
    used = resident(guest)

    def plugged() -> int:
        return machine.hotplug_memory.stats()["plugged"]

    with pytest.raises(ConfigError, match="not 0 to"):
        machine.resize_memory((128 + size + 2) * MIB)
    machine.resize_memory((128 + size) * MIB)
    wait_until("all that there is", lambda: plugged() == size * MIB)
    wait_until("it is used", lambda: total(guest) == first + size * MIB)
    guest.check(USE.format(fill))
    assert resident(guest) > used + (fill - 10) * MIB
    guest.check("mkdir /tmp/s && mount -t virtiofs s /tmp/s && dd if=/dev/vda of=/mnt/g bs=1M count=32 2>/dev/null")
    words = guest.check("cp /mnt/g /tmp/s/f && md5sum /mnt/g").split()
    with open(tmp_path / "f", "rb") as file:
        assert hashlib.file_digest(file, "md5").hexdigest() == words[0]
    guest.check(f"umount /tmp/s; {FREE}; echo 3 >/proc/sys/vm/drop_caches")
    machine.resize_memory(128 * MIB)
    wait_until("most of it back", lambda: plugged() <= size // 4 * MIB)
    wait_until("memory of the host", lambda: resident(guest) < used + (size // 4 + 32) * MIB)
    assert total(guest) <= first + size // 4 * MIB
    assert not complaints(guest)
