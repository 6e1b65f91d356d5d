"""Disks that come and go while the machine runs; a guest of a few instructions does what ACPI's methods do."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import descriptors, links_of
from vmm import (
    BalloonConfig,
    BootConfig,
    DiskConfig,
    Machine,
    MachineConfig,
    MemoryConfig,
    PmemConfig,
    RngConfig,
    ShareConfig,
    create_machine,
)
from vmm.boot import layout
from vmm.devices.pci_hotplug import CAME, GONE, LEAVE, PciHotplug
from vmm.errors import ConfigError, HostError
from vmm.events import EventFd
from vmm.faststart.record import replace
from vmm.options.limit import LimitConfig
from vmm.processes.jailed import Plugged
from vmm.virtio.spec import ID_ENTROPY

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
MIB = 1 << 20
PATIENCE = 60.0


def port(number: int, action: bytes) -> bytes:
    """mov dx, number; in eax, dx or out dx, eax"""
    return b"\x66\xba" + number.to_bytes(2, "little") + action


OBEDIENT = tiny.forever(port(layout.PCI_HOTPLUG + LEAVE, b"\xed") + port(layout.PCI_HOTPLUG + GONE, b"\xef"))
"""Lets every device go at once."""


MAY_RAISE = bool(int(re.findall(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())[0], 16) >> 24 & 1)
"""This process has CAP_SYS_RESOURCE."""


def config(kernel: str, transport: str = "pci") -> MachineConfig:
    return MachineConfig(BootConfig(kernel), MemoryConfig(32 * MIB), transport=transport, rng=None)


@pytest.fixture
def disk(tmp_path: Path) -> DiskConfig:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MIB))
    return DiskConfig(str(path))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(config(tiny.make(tmp_path, OBEDIENT))) as machine:
        machine.start()
        yield machine


@needs_kvm
def test_a_disk_comes_and_goes_and_leaves_nothing_behind(machine: Machine, disk: DiskConfig) -> None:
    assert machine.unplug(machine.plug(disk))
    before, closers = descriptors(), len(machine._owned)
    for _ in range(310):  # ten times as often as there are device numbers
        attached = machine.plug(disk)
        assert machine.attached == [attached]
        with pytest.raises(ConfigError, match="in use by"):
            machine.plug(disk)
        assert machine.unplug(attached)
        assert machine.attached == []
    assert descriptors() <= before and len(machine._owned) == closers


@needs_kvm
def test_any_record_can_be_plugged_in(machine: Machine) -> None:
    attached = machine.plug(RngConfig("/dev/zero"))
    assert [device.device_id for device in machine.devices] == [ID_ENTROPY]
    assert machine.unplug(attached)
    assert machine.devices == []


@needs_kvm
def test_what_cannot_be_plugged_in_is_closed(machine: Machine, disk: DiskConfig, tmp_path: Path) -> None:
    """A window has to be there from the start.  The image is not locked afterwards."""
    image = tmp_path / "image"
    image.write_bytes(bytes(2 * MIB))
    before = descriptors()
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be plugged in"):
            machine.plug(PmemConfig(str(image)))
    assert descriptors() <= before
    assert machine.devices == []


@needs_kvm
def test_every_device_number_and_no_more(machine: Machine, tmp_path: Path) -> None:
    attached = []
    for number in range(31):
        path = tmp_path / f"{number}.img"
        path.write_bytes(bytes(4096))
        attached.append(machine.plug(DiskConfig(str(path))))
    (tmp_path / "more.img").write_bytes(bytes(4096))
    with pytest.raises(ConfigError, match="all 32 device numbers"):
        machine.plug(DiskConfig(str(tmp_path / "more.img")))
    assert machine.unplug(attached[7])
    assert machine.plug(DiskConfig(str(tmp_path / "more.img")))


@needs_kvm
def test_a_guest_that_does_not_let_go(tmp_path: Path, disk: DiskConfig) -> None:
    with Machine(config(tiny.make(tmp_path, tiny.SPIN))) as machine:
        machine.start()
        attached = machine.plug(disk)
        assert not machine.unplug(attached, timeout=0.1)
        assert machine.attached == [attached]
        with pytest.raises(ConfigError, match="in use by"):
            machine.plug(disk)
        assert machine.unplug(attached, timeout=0.1, force=True)
        assert machine.attached == []
        with pytest.raises(ConfigError, match="not attached"):
            machine.unplug(attached, timeout=0, force=True)
        assert machine.plug(disk)


@needs_kvm
def test_a_guest_that_throws_everything_out_unasked(tmp_path: Path, disk: DiskConfig) -> None:
    """The host bridge and empty slots included."""
    all_of_them = b"\xb8\xff\xff\xff\xff" + port(layout.PCI_HOTPLUG + GONE, b"\xef")
    kernel = tiny.make(tmp_path, all_of_them, all_of_them, tiny.POWEROFF)
    boot = MachineConfig(BootConfig(kernel), MemoryConfig(32 * MIB), disks=(disk,), transport="pci", rng=None)
    with Machine(boot) as machine:
        assert machine.run(timeout=60).kind == "poweroff"
        assert machine.attached == []
        assert machine.mmio.read(layout.PCI_ECAM, 4) != 0xFFFF_FFFF, "the bridge stays"
        assert machine.mmio.read(layout.PCI_ECAM + (1 << 15), 4) == 0xFFFF_FFFF


@needs_kvm
@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_not_before_the_start_and_only_on_pci(tmp_path: Path, disk: DiskConfig, transport: str) -> None:
    with Machine(config(tiny.make(tmp_path, tiny.HALT), transport)) as machine:
        with pytest.raises(ConfigError, match=r"plug a machine that is made|only on PCI"):
            machine.plug(disk)
        if transport == "mmio":
            machine.start()
            with pytest.raises(ConfigError, match="only on PCI"):
                machine.plug(disk)


def test_the_registers_of_every_size_and_offset() -> None:
    gone: list[int] = []
    irq = EventFd()
    registers = PciHotplug(irq, gone.append)
    registers.announce(3)
    registers.ask_to_leave(4)
    assert irq.clear() == 2
    for size in (1, 2, 4, 8):
        for offset in range(-8, 20):
            if size != 4 or offset not in (CAME, LEAVE, GONE):
                assert registers.read(offset, size) == 0
                registers.write(offset, size, (1 << 8 * size) - 1)
    assert gone == []
    assert (registers.read(CAME, 4), registers.read(LEAVE, 4)) == (1 << 3, 1 << 4)
    assert (registers.read(CAME, 4), registers.read(LEAVE, 4)) == (0, 0), "read once"
    registers.announce(5)
    registers.reset()
    assert registers.read(CAME, 4) == 0
    registers.write(GONE, 4, 0x8000_0001)
    assert gone == [0, 31]
    irq.close()


@needs_kvm
def test_disks_are_counted_by_themselves(tmp_path: Path, disk: DiskConfig) -> None:
    """Whatever else has a slot: a resize is of a disk, or an error."""
    settings = config(tiny.make(tmp_path, OBEDIENT))
    settings = MachineConfig(settings.boot, settings.memory, transport="pci", balloon=BalloonConfig(), rng=None)
    with Machine(settings) as machine:
        machine.start()
        assert len(machine.devices) == 1 and machine.disks == []
        with pytest.raises(ConfigError, match="disk 0: the machine has 0 disks"):
            machine.resize_disk(0)
        attached = machine.plug(disk)
        assert machine.disks == [attached]
        machine.resize_disk(0)


# -- a machine in a process of its own: this process opens the disk, and passes it on ----------------------------------


def isolated(folder: Path, *code: bytes, isolation: str = "process", transport: str = "pci") -> Any:
    return create_machine(replace(config(tiny.make(folder, *code), transport), isolation=isolation))


def soon_has(machine: Any, most: int) -> bool:
    """Its process has no more descriptors than *most*; it closes that of an answer when the answer is read."""
    deadline = time.monotonic() + PATIENCE
    while len(links_of(machine.pid)) > most and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(links_of(machine.pid)) <= most


@needs_kvm
@pytest.mark.parametrize("isolation", ["process", "fork"])
def test_a_jailed_machine_gets_disks_and_leaves_nothing_behind(
    tmp_path: Path, disk: DiskConfig, isolation: str
) -> None:
    limited = replace(disk, limit=LimitConfig(bytes=MIB), queues=4, cache="writethrough")
    over, kept = replace(disk, cow="overlay"), replace(disk, cow="overlay", overlay=str(tmp_path / "overlay"))
    with isolated(tmp_path, OBEDIENT, isolation=isolation) as machine:
        machine.start()
        assert "files" in machine.walls and machine.unplug(machine.plug(disk))
        before, there = descriptors(), len(links_of(machine.pid))
        for record in [disk, replace(disk, read_only=True), limited, over, kept] * 7:  # more than device numbers
            attached = machine.plug(record)
            assert [each.name for each in machine.devices] == [f"disk {disk.path}"] and not attached.wait_gone(0)
            with pytest.raises(ConfigError, match="in use by"):
                machine.plug(disk)
            assert machine.unplug(attached) and attached.wait_gone(0) and machine.devices == []
            with pytest.raises(ConfigError, match="not attached"):
                machine.unplug(attached)
        assert descriptors() <= before and soon_has(machine, there)
        assert machine.state == "running"


@needs_kvm
@pytest.mark.parametrize("isolation", ["process", "fork"])
def test_a_jailed_machine_gets_shares_and_leaves_nothing_behind(tmp_path: Path, isolation: str) -> None:
    """The caller starts the server of each, which is a child of its own."""
    share = ShareConfig(str(tmp_path), "late")
    settings = replace(
        config(tiny.make(tmp_path, OBEDIENT)), isolation=isolation, memory=MemoryConfig(32 * MIB, shared=True)
    )
    made: Any = create_machine(settings)
    with made as machine:
        machine.start()
        assert "files" in machine.walls and machine.unplug(machine.plug(share))
        before, there = descriptors(), len(links_of(machine.pid))
        for record in [share, replace(share, read_only=True, queues=2, handles=True), replace(share, cache="none")] * 4:
            attached = machine.plug(record)
            server = attached.server.pid
            assert [each.name for each in machine.devices] == ["share late"] and not attached.wait_gone(0)
            assert os.readlink(f"/proc/{server}/exe").endswith("pyvmm-fsd")
            assert machine.unplug(attached) and machine.devices == []
            assert not Path(f"/proc/{server}").exists()
        # Before Python 3.13 a map has a descriptor of its own until it is collected
        maps = 0 if sys.version_info >= (3, 13) else 2 * 12
        assert descriptors() <= before and soon_has(machine, there + maps)
        with pytest.raises(ConfigError, match="No such file"):
            machine.plug(ShareConfig(str(tmp_path / "none")))
        for wrong in (replace(share, isolation="thread"), replace(share, dax=2 * MIB)):
            with pytest.raises(ConfigError, match="has a server of its own and no window"):
                machine.plug(wrong)
        last = machine.plug(share).server.pid
        machine.reset()
        assert [each.name for each in machine.devices] == ["share late"] and not Path(f"/proc/{last}").exists()
    assert descriptors() <= before
    with isolated(tmp_path, OBEDIENT, isolation=isolation) as machine:
        machine.start()
        with pytest.raises(ConfigError, match="which cannot be shared") as caught:
            machine.plug(share)
        assert "shared=True" in caught.value.hint


@needs_kvm
@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_a_jailed_machine_may_write_a_disk_as_large_as_it_is_now(
    tmp_path: Path, disk: DiskConfig, transport: str
) -> None:
    """The jail's limit on the size of files, where there is one, grows with the image, and with nothing else."""
    record = replace(config(tiny.make(tmp_path, OBEDIENT), transport), isolation="process", disks=(disk,))
    null, stderr = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(null, 2)  # where this is a file the limit is more than that
    try:
        made: Any = create_machine(record)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
    with made as machine:
        machine.start()

        def most() -> int:
            limits = Path(f"/proc/{machine.pid}/limits").read_text()
            (line,) = [line.split() for line in limits.splitlines() if line.startswith("Max file size")]
            assert line[4] == ("unlimited" if transport == "pci" else line[3]), "on PCI larger disks may come"
            return int(line[3])

        before = most()
        for size, wrong in ((2 * MIB + 7, "not a multiple of 512"), (0, "it is empty")):
            os.truncate(disk.path, size)
            with pytest.raises(ConfigError, match=wrong):
                machine.resize_disk(0)
        assert most() == before
        os.truncate(disk.path, 100 * MIB)
        if transport == "mmio" and not MAY_RAISE:
            with pytest.raises(HostError, match="may not write a file of that size") as caught:
                machine.resize_disk(0)
            assert "CAP_SYS_RESOURCE" in caught.value.hint and most() == before
            return
        machine.resize_disk(0)
        assert most() == 100 * MIB
        with pytest.raises(ConfigError, match="disk 1: the machine has 1 disks"):
            machine.resize_disk(1)
        machine.snapshot(str(tmp_path / "saved"))
    assert [path.stat().st_size for path in (tmp_path / "saved").glob("disk*")] == [100 * MIB]


@needs_kvm
def test_a_disk_that_cannot_be_had_is_told_to_the_caller(tmp_path: Path, disk: DiskConfig) -> None:
    """As it would be without a jail; the machine goes on, and nothing of it stays open or locked."""
    (tmp_path / "empty").touch()
    wrong = [DiskConfig(str(tmp_path / "none")), DiskConfig(str(tmp_path)), DiskConfig(str(tmp_path / "empty"))]
    wrong += [DiskConfig("/dev/zero"), replace(disk, cow="overlay", overlay=disk.path)]
    with isolated(tmp_path, OBEDIENT) as machine, Machine(config(tiny.make(tmp_path, OBEDIENT))) as usual:
        with pytest.raises(ConfigError, match="plug a machine that is made"):
            machine.plug(disk)
        machine.start()
        usual.start()
        assert machine.unplug(machine.plug(disk))
        before, there = descriptors(), len(links_of(machine.pid))
        for record in wrong:
            with pytest.raises(ConfigError) as caught:
                machine.plug(record)
            with pytest.raises(ConfigError) as same:
                usual.plug(record)
            told, wanted = caught.value, same.value
            assert (str(told), told.code, told.hint) == (str(wanted), wanted.code, wanted.hint)
        with pytest.raises(ConfigError, match="a RngConfig that is plugged in is not available"):
            machine.plug(RngConfig())
        with pytest.raises(ConfigError, match="not attached"):
            machine.unplug(Plugged(disk))
        assert descriptors() <= before and soon_has(machine, there)
        assert machine.unplug(machine.plug(disk))
        machine.pause()
        with pytest.raises(ConfigError, match="plug a machine that is paused"):
            machine.plug(disk)
    with isolated(tmp_path, tiny.SPIN, transport="mmio") as machine:
        machine.start()
        with pytest.raises(ConfigError, match="only on PCI") as caught:
            machine.plug(disk)
        assert "transport" in caught.value.hint


@needs_kvm
def test_a_jailed_guest_that_does_not_let_go(tmp_path: Path, disk: DiskConfig) -> None:
    with isolated(tmp_path, tiny.SPIN) as machine:
        machine.start()
        attached = machine.plug(disk)
        assert not machine.unplug(attached, timeout=0.1) and len(machine.devices) == 1
        with pytest.raises(ConfigError, match="in use by"):
            machine.plug(disk)
        assert machine.unplug(attached, timeout=0.1, force=True) and machine.devices == []
        attached = machine.plug(disk)
        first = machine.pid
        machine.reset()
        assert machine.pid != first and len(machine.devices) == 1, "it has it again"
        assert not attached.wait_gone(0)
        with pytest.raises(ConfigError, match="in use by"):
            machine.plug(disk)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(machine.unplug, attached, PATIENCE)
            os.kill(machine.pid, signal.SIGKILL)
            with pytest.raises((HostError, ConfigError)):
                waits.result(PATIENCE)
        assert not attached.wait_gone(0)
    with Machine(config(str(tmp_path / "tiny.elf"))) as usual:
        usual.start()
        usual.plug(disk)


@needs_kvm
def test_every_device_number_of_a_jailed_machine_and_no_more(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.img" for number in range(32)]
    for path in paths:
        path.write_bytes(bytes(4096))
    with isolated(tmp_path, OBEDIENT) as machine:
        machine.start()
        attached = [machine.plug(DiskConfig(str(path))) for path in paths[:31]]
        before, there = descriptors(), len(links_of(machine.pid))
        for _ in range(2):  # it was not locked the first time
            with pytest.raises(ConfigError, match="all 32 device numbers"):
                machine.plug(DiskConfig(str(paths[31])))
        assert descriptors() <= before and soon_has(machine, there)
        assert machine.unplug(attached[7]) and machine.plug(DiskConfig(str(paths[31])))
