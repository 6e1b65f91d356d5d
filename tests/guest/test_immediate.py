"""An immediate user: a clone or a fork is asked for everything as soon as it is there, many times over."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.guest.clones import TROUBLE, Child, Clone
from tests.guest.conftest import Boot
from tests.guest.vmfixture import Guest
from vmm import DiskConfig

ROUNDS = 20  # of the tests that are marked long
FEW = 2  # of the others: a round takes 5 to 60 seconds in the hostile lab


def use(guest: Guest, number: int, cpus: int) -> None:
    """Its console, memory, disk, timers and vCPUs, in one command."""
    on_each = "; ".join(f"taskset {1 << cpu:x} true" for cpu in range(cpus))
    # The sleep takes a timer
    did = guest.check(
        f"cat /tmp/nonce /root/own; echo {number} >/root/own; sync; sleep 0.01; {on_each}; "
        "dd if=/dev/vda of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null; cat /root/own; nproc"
    )
    assert did == f"nonce\nfirst\n{number}\n{cpus}\n", f"round {number}"


def prepare(boot: Boot, cpus: int, transport: str) -> Guest:
    guest = boot(cpus=cpus, transport=transport)
    guest.check("echo nonce >/tmp/nonce; echo first >/root/own; sync")
    return guest


@pytest.mark.parametrize(
    ("cpus", "transport", "rounds"), [(1, "mmio", FEW), pytest.param(2, "pci", ROUNDS, marks=pytest.mark.long)]
)
def test_clones_are_used_at_once(boot: Boot, tmp_path: Path, cpus: int, transport: str, rounds: int) -> None:
    guest = prepare(boot, cpus, transport)
    guest.machine.snapshot(str(tmp_path / "warm"))
    for number in range(rounds):
        with contextlib.closing(Clone(tmp_path / "warm", guest)) as clone:
            use(clone, number, cpus)
            if number in (0, rounds - 1):
                assert clone.check(TROUBLE) == ""
    assert guest.check("cat /root/own") == "first\n"


@pytest.mark.parametrize(
    ("cpus", "transport", "rounds"),
    [
        pytest.param(1, "pci", ROUNDS, marks=pytest.mark.long),
        pytest.param(2, "mmio", FEW, marks=pytest.mark.long),  # a minute and a half in the lab
    ],
)
def test_forks_are_used_at_once(boot: Boot, cpus: int, transport: str, rounds: int) -> None:
    """And the one that was forked, too."""
    guest = prepare(boot, cpus, transport)
    for number in range(rounds):
        with contextlib.closing(Child(guest)) as child:
            assert guest.check("cat /root/own") == "first\n"
            use(child, number, cpus)
            if number in (0, rounds - 1):
                assert child.check(TROUBLE) == ""
    assert guest.check("cat /root/own") == "first\n"
    assert guest.check(TROUBLE) == ""


@pytest.mark.parametrize(
    ("isolation", "rounds"), [("thread", FEW), pytest.param("process", ROUNDS, marks=pytest.mark.long)]
)
def test_disks_that_come_are_used_at_once(boot: Boot, tmp_path: Path, isolation: str, rounds: int) -> None:
    """Read, written, and gone again as soon as the guest has let go."""
    image = tmp_path / "late.img"
    image.write_bytes(b"turn00".ljust(1 << 20, b"."))
    guest = boot(transport="pci", isolation=isolation)
    remove = "echo 1 >$(readlink -f /sys/block/vdb | sed 's,/virtio[0-9].*,,')/remove; test ! -e /dev/vdb"
    for number in range(1, rounds + 1):
        late = guest.machine.plug(DiskConfig(str(image), serial="late"))
        # This kernel looks for devices when it is told to
        did = guest.check(
            "echo 1 >/sys/bus/pci/rescan; until [ -b /dev/vdb ]; do :; done; cat /sys/block/vdb/serial; "
            f"head -c 6 /dev/vdb; printf turn{number:02} | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null"
        )
        assert did == f"lateturn{number - 1:02}"
        assert image.read_bytes()[:6] == b"turn%02d" % number
        guest.check(remove)
        assert guest.machine.unplug(late, timeout=0, force=True)
    assert guest.check(TROUBLE) == ""
