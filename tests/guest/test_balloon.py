"""The memory balloon with Linux's own driver."""

from __future__ import annotations

import time

import pytest

from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest
from vmm import BalloonConfig, MemoryConfig
from vmm.config.sizes import MIB

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


@pytest.mark.parametrize("transport", ["mmio", "pci"])
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
