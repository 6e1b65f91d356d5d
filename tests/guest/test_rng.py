"""The entropy device with Linux's own driver."""

from __future__ import annotations

import pytest

from tests.guest.conftest import Boot
from vmm import RngConfig

CURRENT = "cat /sys/class/misc/hw_random/rng_current"


@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_a_guest_has_one_unless_told_otherwise(boot: Boot, transport: str) -> None:
    guest = boot(transport=transport)
    assert guest.check(CURRENT) == "virtio_rng.0\n"
    first, second = (guest.check("head -c 100000 /dev/hwrng | md5sum") for _ in range(2))
    assert first != second
    assert guest.check("head -c 100000 /dev/hwrng | wc -c") == "100000\n"
    assert guest.machine.devices[-1].stats()["bytes"] >= 300000
    guest.machine.pause()
    guest.machine.resume()
    assert guest.check("head -c 64 /dev/hwrng | wc -c") == "64\n"


def test_other_devices_are_where_they_were(boot: Boot) -> None:
    """The first slot is the first disk's, whether the guest has this device or not."""
    links = [boot(rng=rng).check("readlink /sys/block/vda/device") for rng in (RngConfig(), None)]
    assert links[0] == links[1]


def test_none(boot: Boot) -> None:
    guest = boot(rng=None)
    assert guest.check(f"{CURRENT}; ls /sys/bus/virtio/drivers/virtio_rng | grep -c ^virtio || true") == "none\n0\n"


def test_a_source_of_the_hosts(boot: Boot) -> None:
    guest = boot(rng=RngConfig("/dev/zero"))
    assert guest.check("head -c 4096 /dev/hwrng | tr -d '\\0' | wc -c") == "0\n"
