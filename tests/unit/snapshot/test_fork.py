"""Machines forked while they run: what children have of the moment, what nobody sees of another, and failures."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import tiny
from tests.blk_driver import BlkGuest, segment
from tests.command import descriptors
from tests.sample_devices import Echo
from tests.tiny import Console
from vmm import AsyncMachine, ConfigError, DiskConfig, GuestMemory, HostError, Machine, PmemConfig, ShareConfig
from vmm.boot import layout
from vmm.faststart.record import replace
from vmm.native import ffi, lib
from vmm.saving import memory_file
from vmm.saving.memory_base import copied_ahead, merge_layers, take_base
from vmm.virtio.blk.device import BLK_T_WRITE_ZEROES

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

PATIENCE = 60.0
COUNTER = 0x20_0000
# Wait for a byte, count it in RAM, and say how many there were
COUNT = (
    b"\x66\xba" + tiny.LINE_STATUS.to_bytes(2, "little") + b"\xec\xa8\x01\x74\xfb"  # in; test al, 1; jz to the in
    b"\x66\xba" + layout.COM1.to_bytes(2, "little") + b"\xec"  # in
    b"\xfe\x05" + COUNTER.to_bytes(4, "little") + b"\xa0" + COUNTER.to_bytes(4, "little") +  # inc [COUNTER]; mov al, it
    b"\xee\xeb\xe4"  # out; jmp the start
)  # fmt: skip


@pytest.fixture
def consoles() -> Iterator[list[Console]]:
    made = [Console() for _ in range(5)]
    yield made
    for console in made:
        console.close()


def count(machine: Machine, console: Console) -> int:
    """Have the guest count one further byte; what it has come to."""
    assert machine.console_input(b"x") == 1
    return console.read(1)[0]


def counting(folder: Path, console: Console, **options: object) -> Machine:
    return Machine(tiny.config(tiny.make(folder, tiny.say(">"), COUNT), console=console.config, **options))  # type: ignore[arg-type]


@needs_kvm
@pytest.mark.parametrize("cpus", [1, 4])
@pytest.mark.parametrize("paused", [False, True])
def test_everybody_goes_on_from_the_moment_alone(
    tmp_path: Path, consoles: list[Console], cpus: int, paused: bool
) -> None:
    with counting(tmp_path, consoles[0], cpus=cpus) as source:
        events: list[tuple[str, str]] = []
        source.listen(lambda event: events.append((event.kind, event.detail)))
        source.start()
        assert consoles[0].read(1) == b">"
        assert [count(source, consoles[0]) for _ in range(3)] == [1, 2, 3]
        if paused:
            source.pause()
        children = source.fork(2, each=lambda number: {"console": consoles[1 + number].config})
        assert source.state == ("paused" if paused else "running")
        if paused:
            source.resume()
        assert ("forked", "2") in events
        assert [count(source, consoles[0]) for _ in range(2)] == [4, 5]
        assert count(children[0], consoles[1]) == 4
        assert count(children[1], consoles[2]) == 4
        generations = [each.memory.read(layout.VM_GENERATION_ID, 16) for each in (source, *children)]
        assert len(set(generations)) == 3
        # A fork of a fork, and a second one of the source
        deeper = children[0].fork(console=consoles[3].config)[0]
        later = source.fork(console=consoles[4].config)[0]
        assert count(deeper, consoles[3]) == 5
        assert count(later, consoles[4]) == 6
        assert count(children[0], consoles[1]) == 5
        assert count(source, consoles[0]) == 6
        children[1].close()
        source.close()
        assert count(deeper, consoles[3]) == 6, "it needs nobody that it was forked from"
        for each in (children[0], deeper, later):
            each.close()


@needs_kvm
def test_a_child_can_wait_be_saved_and_reset(tmp_path: Path, consoles: list[Console]) -> None:
    with counting(tmp_path, consoles[0]) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        assert count(source, consoles[0]) == 1
        (child,) = source.fork(console=consoles[1].config, start=False)
        with child:
            assert child.state == "made"
            source.close()
            child.start()
            assert count(child, consoles[1]) == 2
            child.snapshot(str(tmp_path / "warm"))
            child.snapshot(str(tmp_path / "diff"), base=str(tmp_path / "warm"))
            child.reset()
            assert consoles[1].read(1) == b">"
            assert count(child, consoles[1]) == 1
    with Machine.restore(str(tmp_path / "diff"), console=consoles[2].config) as clone:
        assert count(clone, consoles[2]) == 3
        with clone.fork(console=consoles[3].config)[0] as child:
            assert count(child, consoles[3]) == 4
            assert count(clone, consoles[2]) == 4


@needs_kvm
def test_disks_are_of_the_moment(tmp_path: Path, consoles: list[Console]) -> None:
    disks = tiny.two_disks(tmp_path)
    written, read = (Path(disk.path) for disk in disks)
    with counting(tmp_path, consoles[0], disks=disks) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        children = source.fork(2)
        written.write_bytes(b"later".ljust(1 << 20, b"\0"))
        (deeper,) = children[1].fork()
        for number, each in enumerate((*children, deeper)):
            assert each.config.disks[1].path == str(read)
            assert not os.path.exists(each.config.disks[0].path), "nothing is left when it is killed"
            each.snapshot(str(tmp_path / f"{number}"))
            assert (tmp_path / f"{number}" / "disk0").read_bytes()[:11] == b"at the time"
            each.close()
        assert sorted(path.name for path in tmp_path.glob(".pyvmm*")) == []
        read.unlink()
        read.write_bytes(bytes(1 << 20))
        with pytest.raises(ConfigError, match=r"read\.img: its path names another file"):
            source.fork()
        assert count(source, consoles[0]) == 1


def overlaid(folder: Path) -> tuple[DiskConfig, bytes]:
    """A disk with an overlay that has a part of it, and what is on it."""
    image, overlay = folder / "image.img", folder / "own"
    image.write_bytes(os.urandom(1 << 20))
    with BlkGuest(image, cow="overlay", overlay=str(overlay)) as guest:
        guest.start()
        guest.write_disk(5, b"own" * 1024)
        assert guest.request(BLK_T_WRITE_ZEROES, 0, segment(100, 64, 1)).status == 0
        seen = guest.read_disk(0, 1 << 20)
    assert seen != image.read_bytes()
    return DiskConfig(str(image), cow="overlay", overlay=str(overlay)), seen


@needs_kvm
def test_children_have_copies_of_an_overlay_over_the_same_image(tmp_path: Path, consoles: list[Console]) -> None:
    disk, seen = overlaid(tmp_path)
    image = Path(disk.path).read_bytes()
    with counting(tmp_path, consoles[0], disks=(disk,)) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        children = source.fork(2)
        (deeper,) = children[1].fork()
        source.close()
        # A child needs no name of the image
        os.unlink(disk.path)
        (last,) = deeper.fork()
        for number, each in enumerate((*children, deeper, last)):
            assert each.config.disks[0].cow == "overlay"
            assert not os.path.exists(each.config.disks[0].overlay), "nothing is left when it is killed"
            each.snapshot(str(tmp_path / f"{number}"))
            assert (tmp_path / f"{number}" / "disk0").read_bytes() == seen, "a snapshot needs nothing else"
            each.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "own", "tiny.elf"]
    # What is restored has an overlay over the snapshot's image, many at once
    warm = str(tmp_path / "3")
    with Machine.restore(warm) as one, Machine.restore(warm) as two:
        assert [each.config.disks[0].path for each in (one, two)] == [f"{warm}/disk0"] * 2
        two.snapshot(str(tmp_path / "again"))
    assert (tmp_path / "again" / "disk0").read_bytes() == seen != image
    with Machine.restore(warm, cow="copy") as copied:
        assert copied.config.disks[0].path != f"{warm}/disk0"
    assert sorted(os.listdir(warm)) == ["disk0", "manifest.json", "memory", "state"]


@needs_kvm
def test_blocks_that_cannot_be_shared_are_an_error_where_that_was_asked(
    tmp_path: Path, consoles: list[Console]
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as memory:  # tmpfs has no reflinks
        disk, _ = tiny.two_disks(Path(memory))
        with counting(tmp_path, consoles[0], disks=(replace(disk, cow="reflink"),)) as source:
            source.start()
            assert consoles[0].read(1) == b">"
            with pytest.raises(HostError, match="cow=reflink"):
                source.fork()
            with pytest.raises(HostError, match="cow=reflink"):
                source.snapshot(f"{memory}/warm")
            assert source.state == "running"
            assert count(source, consoles[0]) == 1
        with counting(tmp_path, consoles[1], disks=(replace(disk, cow="copy"),)) as source:
            source.start()
            assert consoles[1].read(1) == b">"
            source.fork()[0].close()
        assert sorted(os.listdir(memory)) == ["read.img", "written.img"]


@needs_kvm
def test_a_root_is_the_clone_s_own_although_disks_are_given(tmp_path: Path, consoles: list[Console]) -> None:
    root, read = tiny.two_disks(tmp_path)
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT), console=consoles[0].config, disks=(read,))
    with Machine(replace(config, rootfs=root)) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        source.snapshot(str(tmp_path / "warm"))
    for cow, own in (("", False), ("overlay", True)):
        with Machine.restore(str(tmp_path / "warm"), disks=(read,), cow=cow) as clone:
            assert isinstance(clone.config.rootfs, DiskConfig)
            assert clone.config.rootfs.path != root.path
            assert (clone.config.rootfs.path == str(tmp_path / "warm" / "disk0")) is own
    with pytest.raises(ConfigError, match="cow 'qcow2'"):
        Machine.restore(str(tmp_path / "warm"), cow="qcow2")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond it, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@needs_kvm
@pytest.mark.parametrize("room", [1 << 19, 1 << 24], ids=["disk", "memory"])
def test_the_source_goes_on_when_the_host_is_full(tmp_path: Path, consoles: list[Console], room: int) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(os.urandom(1 << 20))
    with counting(tmp_path, consoles[0], disks=(DiskConfig(str(disk)),)) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        assert count(source, consoles[0]) == 1
        with files_of_at_most(room), pytest.raises(HostError, match="cannot"):
            source.fork()
        assert source.state == "running"
        assert count(source, consoles[0]) == 2
        assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.img", "tiny.elf"]
        (child,) = source.fork(console=consoles[1].config)
        with child:
            assert count(child, consoles[1]) == 3


@needs_kvm
def test_no_children_when_one_cannot_be(tmp_path: Path, consoles: list[Console]) -> None:
    with counting(tmp_path, consoles[0]) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        with pytest.raises(ConfigError, match="cpus cannot be another"):
            source.fork(2, each=lambda number: {"cpus": 1 + number, "console": consoles[1].config})
        with pytest.raises(ConfigError, match="0 children"):
            source.fork(0)
        assert count(source, consoles[0]) == 1
        with pytest.raises(ConfigError, match="more of them"):
            source.fork(each=lambda number: (_ for _ in ()).throw(ConfigError("more of them", code="test")))
        assert count(source, consoles[0]) == 2


@needs_kvm
def test_devices_of_a_program_are_given_again(tmp_path: Path) -> None:
    with Machine(tiny.config(tiny.make(tmp_path)), devices=(Echo(),)) as source:
        source.start()
        with pytest.raises(ConfigError, match="2 devices, this machine 1"):
            source.fork()
        assert source.state == "running"
        (child,) = source.fork(each=lambda number: {"devices": (Echo(),)})
        with child:
            assert [each.name for each in child.devices] == [each.name for each in source.devices]


@needs_kvm
def test_a_fork_for_asyncio(tmp_path: Path) -> None:
    async def talk() -> list[bytes]:
        async with AsyncMachine(tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT))) as source:
            await source.start()
            assert await source.console.read(1) == b">"
            await source.console.write(b"x")
            assert await source.console.read(1) == b"\1"
            children = await source.fork(2)
            said = []
            for each in (source, *children):
                async with each:
                    await each.console.write(b"x")
                    said.append(await each.console.read(1))
            return said

    assert asyncio.run(talk()) == [b"\2"] * 3


@needs_kvm
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_children_have_directories_of_their_own(tmp_path: Path, consoles: list[Console], isolation: str) -> None:
    for name in ("template", "first", "second", "third"):
        (tmp_path / name).mkdir()
    share = ShareConfig(str(tmp_path / "template"), isolation=isolation)
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT), console=consoles[0].config)
    with Machine(replace(config, shares=(share, replace(share, tag="same")))) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        source.snapshot(str(tmp_path / "warm"))
        assert count(source, consoles[0]) == 1
        own = [{"share": str(tmp_path / name)} for name in ("first", "second")]
        children = source.fork(2, each=lambda number: {"shares": own[number], "console": consoles[1 + number].config})
        third = {"share": str(tmp_path / "third")}
        children.append(Machine.restore(str(tmp_path / "warm"), shares=third, console=consoles[3].config))
        for number, name in enumerate(("first", "second", "third")):
            shares = [each.path for _, each in children[number].config.tagged_shares()]
            assert shares == [str(tmp_path / name), str(tmp_path / "template")]
            assert count(children[number], consoles[1 + number]) == (1 if name == "third" else 2)
            children[number].close()
        with pytest.raises(ConfigError, match="no share 'other'"):
            source.fork(shares={"other": str(tmp_path)})
        with pytest.raises(ConfigError, match="missing"):
            source.fork(shares={"share": str(tmp_path / "missing")})
        assert count(source, consoles[0]) == 2


@needs_kvm
def test_children_of_a_source_that_is_forked_again_and_again(tmp_path: Path, consoles: list[Console]) -> None:
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT), console=consoles[0].config)
    with Machine(replace(config, shares=(ShareConfig(str(tmp_path), isolation="process"),))) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        for number in range(10):
            assert count(source, consoles[0]) == 2 * number + 1
            with source.fork(console=consoles[1].config)[0] as child:
                assert count(source, consoles[0]) == 2 * number + 2
                assert count(child, consoles[1]) == 2 * number + 2
                with child.fork(console=consoles[2].config)[0] as deeper:
                    assert count(deeper, consoles[2]) == 2 * number + 3


def wait_for_shells(machine: Machine, n: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while machine.prepared_forks != n:
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Whether KVM offers asynchronous page faults, as a digit: mov eax, 0x40000001; cpuid; bit 4
OFFERED = (
    b"\xb8\x01\x00\x00\x40\x0f\xa2\xc1\xe8\x04\x24\x01\x04\x30"
    b"\x66\xba" + layout.COM1.to_bytes(2, "little") + b"\xee"
)  # fmt: skip


@needs_kvm
def test_a_child_that_is_reset_has_the_processor_of_a_machine_with_windows(
    tmp_path: Path, consoles: list[Console]
) -> None:
    """A guest that waits for a page which its file has lost waits for ever."""
    (tmp_path / "image").write_bytes(bytes(2 << 20))
    config = tiny.config(tiny.make(tmp_path, OFFERED, COUNT), console=consoles[0].config)
    with Machine(replace(config, pmems=(PmemConfig(str(tmp_path / "image"), True),))) as source:
        source.start()
        assert consoles[0].read(1) == b"0"
        source.prepare_forks(1)
        wait_for_shells(source, 1)
        with source.fork(console=consoles[1].config)[0] as child:
            assert count(child, consoles[1]) == 1
            child.reset()
            assert consoles[1].read(1) == b"0"


@needs_kvm
@pytest.mark.parametrize("transport", ["mmio", "pci"])
@pytest.mark.parametrize("shared", [False, True])
def test_children_are_put_into_what_was_made_ahead(
    tmp_path: Path, consoles: list[Console], transport: str, shared: bool
) -> None:
    for name in ("template", "other"):
        (tmp_path / name).mkdir()
    share = ShareConfig(str(tmp_path / "template"), isolation="process")
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT), cpus=2, disks=tiny.two_disks(tmp_path))
    config = replace(config, console=consoles[0].config, transport=transport, shares=(share,) if shared else ())
    own = {1: {"shares": {"share": str(tmp_path / "other")}}} if shared else {}
    before = descriptors()
    with Machine(config) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        assert count(source, consoles[0]) == 1
        source.prepare_forks(2)
        wait_for_shells(source, 2)
        # The third finds none, and is as the others
        children = source.fork(3, each=lambda i: {"console": consoles[1 + i].config, **own.get(i, {})})
        assert [count(child, consoles[1 + i]) for i, child in enumerate(children)] == [2] * 3
        assert len({each.memory.read(layout.VM_GENERATION_ID, 16) for each in (source, *children)}) == 4
        wait_for_shells(source, 2)
        with pytest.raises(ConfigError, match="cpus cannot be another"):
            source.fork(cpus=1)
        with children[0].fork(console=consoles[4].config)[0] as deeper:
            assert count(deeper, consoles[4]) == 3
        with Machine.of_fork(point := source.fork_point(1), {"console": consoles[4].config}, start=False) as waiting:
            point.close()
            waiting.start()
            assert count(waiting, consoles[4]) == 2
        children[0].reset()
        assert consoles[1].read(1) == b">"
        assert count(children[0], consoles[1]) == 1
        children[1].snapshot(str(tmp_path / "warm"))
        for child in children:
            child.close()
        source.prepare_forks(0)
        wait_for_shells(source, 0)
        with pytest.raises(ConfigError, match="65 machines"):
            source.prepare_forks(65)
        source.prepare_forks(2)
        assert count(source, consoles[0]) == 2
    # What has been closed has memory that both a server and the machine had
    del source, children, child, deeper, waiting, point
    deadline = time.monotonic() + PATIENCE
    while not descriptors() <= before:  # a thread closes what was being made ahead
        assert time.monotonic() < deadline, descriptors() - before
        time.sleep(0.01)
    with Machine.restore(str(tmp_path / "warm"), console=consoles[1].config) as clone:
        assert count(clone, consoles[1]) == 3


@needs_kvm
def test_memory_that_is_filled_ahead_is_that_of_the_moment(tmp_path: Path, consoles: list[Console]) -> None:
    """What children touch first is there before they are forked; the source changes it afterwards."""
    (tmp_path / "shared").mkdir()
    share = ShareConfig(str(tmp_path / "shared"), isolation="process")
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), COUNT), console=consoles[0].config)
    with Machine(replace(config, shares=(share,))) as source:
        source.start()
        assert consoles[0].read(1) == b">"
        source.prepare_forks(1)
        faults = []
        counted = 0
        for turn in range(6):
            wait_for_shells(source, 1)
            assert count(source, consoles[0]) == counted + 1
            counted += 1
            if turn == 4:  # a page that was given back is zero, not what it was
                assert source.memory.release(COUNTER, PAGE)
                counted = 0
            point = source.fork_point(1)
            with Machine.of_fork(point, {"console": consoles[1].config}, start=True) as child:
                assert [count(child, consoles[1]) for _ in range(2)] == [counted + 1, counted + 2]
                assert source.memory.read(COUNTER, 1)[0] == counted
                faults.append(child.memory.fill_stats().get("faults", 0))
                point.close()  # which begins to make the next one
        # The host may let nobody fill memory on demand
        assert faults[0] == 0 or faults[2] < faults[0]


# -- RAM --------------------------------------------------------------------------------------------------------------

PAGE = 4096
RAM = 16 << 20
CONSTANT = ((5 * PAGE, 12 * PAGE), (90 * PAGE, 105 * PAGE), (1000 * PAGE, 2500 * PAGE))
"""What clones lie over, whatever is done to it."""


class Modelled:
    """RAM, and beside it what it must hold."""

    def __init__(self, memory: GuestMemory, content: bytearray) -> None:
        self.memory = memory
        self.content = content

    def write(self, page: int, data: bytes) -> None:
        self.memory.write(page * PAGE, data)
        self.content[page * PAGE : page * PAGE + len(data)] = data

    def give_back(self, page: int, pages: int) -> None:
        """As the balloon does."""
        at, size = page * PAGE, pages * PAGE
        if self.memory.over_file:
            assert lib.ram_zero(ffi.cast("void *", self.memory.host_address + at), size) == 0
        elif self.memory.on_demand:
            self.memory.release(at, size)
        else:
            self.memory.write(at, bytes(size))
        self.content[at : at + size] = bytes(size)

    def fork(
        self,
        n: int,
        shared: bool,
        on_demand: bool = False,
        *,
        alone: bool = False,
        meanwhile: Callable[[], None] | None = None,
        watch_from: int = -1,
    ) -> list[Modelled]:
        """:param meanwhile: what is done to it when it is copied while it runs."""
        ahead = None
        if meanwhile is not None:
            ahead = copied_ahead(self.memory, n, watch_from=watch_from)
            meanwhile()
        base = take_base(self.memory, n, ahead, alone=alone)
        base.finish(self.memory)
        if ahead is not None:
            ahead.close()
        made = [base.open(huge_pages="auto", shared=shared, prefault=False, on_demand=on_demand) for _ in range(n)]
        base.close()
        return [Modelled(each, bytearray(self.content)) for each in made]

    def save(self, folder: Path, shared: bool = False) -> list[Modelled]:
        """What a full snapshot gives, and a diff of that one's clone after some writes."""
        paths = [folder / f"{len(list(folder.iterdir()))}{kind}" for kind in ("full", "diff")]
        for path in paths:
            path.mkdir()
        files = [str(path / "memory") for path in paths]
        memory_file.write_new(self.memory, files[0])
        clone = self.load(files[:1], shared)
        clone.write(7, b"clone's")
        clone.write(9, bytes(PAGE))
        clone.give_back(100, 20)
        clone.write(110, b"after")
        assert memory_file.write_new(clone.memory, files[1], than=files[0]) <= 22 * PAGE
        return [clone, clone.load(files, shared)]

    def load(self, files: list[str], shared: bool) -> Modelled:
        memory = memory_file.open_ram(
            RAM, files, huge_pages="auto", shared=shared, prefault=False, on_demand=shared, constant=CONSTANT
        )
        return Modelled(memory, bytearray(self.content))

    def check(self) -> None:
        assert self.memory.read(0, RAM) == self.content


@pytest.mark.parametrize("seed", range(8))
def test_nobody_sees_what_another_writes(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    everybody = [Modelled(GuestMemory(RAM, shared=seed in (5, 7)), bytearray(RAM))]

    def change(one: Modelled) -> None:
        for _ in range(chance.randrange(100)):
            one.write(chance.randrange(RAM // PAGE), chance.choice((b"changed", bytes(PAGE), chance.randbytes(PAGE))))
        one.give_back(chance.randrange(RAM // PAGE - 64), chance.randrange(1, 64))

    for _ in range(60):
        one = chance.choice(everybody)
        what = chance.random()
        page = chance.randrange(RAM // PAGE - 64)
        if what < 0.6:
            for _ in range(chance.choice((1, 1, 200))):
                one.write(chance.randrange(RAM // PAGE), chance.randbytes(9) if chance.random() < 0.8 else bytes(PAGE))
        elif what < 0.75:
            one.give_back(page, chance.randrange(1, 64))
        elif what < 0.78:
            one.memory.clear()
            one.content[:] = bytes(RAM)
        elif what < 0.82:
            everybody += one.save(tmp_path, seed > 3)
        elif len(everybody) < 10:
            everybody += one.fork(
                chance.randrange(1, 4),
                chance.random() < 0.4,
                on_demand=chance.random() < 0.8,
                alone=seed > 2,
                meanwhile=partial(change, one) if chance.random() < 0.5 else None,
                watch_from=chance.choice((0, 0, 1 << 16, -1)),
            )
        else:
            everybody.remove(one)
            one.memory.close()
        for each in everybody:
            each.check()
    for each in everybody:
        each.memory.close()


@pytest.mark.parametrize("what", [lib.RAM_TOUCHED, lib.RAM_OWN])
def test_the_same_pages_are_found_where_the_kernel_tells_them_one_by_one(what: int) -> None:
    """PAGEMAP_SCAN is there since Linux 6.7.  A file with the same entries does not have it."""
    source = Modelled(GuestMemory(RAM, huge_pages="none"), bytearray(RAM))
    for page in (0, 1, 2, 511, 512, 700, 702, 704, RAM // PAGE - 1):
        source.write(page, b"%d" % page)
    if what == lib.RAM_OWN:
        (source,) = source.fork(1, False)
        for page in (*range(1, 600, 2), 702, 703, 704):
            source.write(page, b"own")
    base = source.memory.host_address
    copy = os.memfd_create("pagemap")
    real = os.open("/proc/self/pagemap", os.O_RDONLY)
    found = []
    for pagemap in (real, copy):
        os.pwrite(copy, os.pread(real, RAM // PAGE * 8, base // PAGE * 8), base // PAGE * 8)
        bits, file = bytearray(RAM // PAGE // 8), os.memfd_create("ram")
        native = ffi.new("struct ram_file *", {"fd": file, "pagemap": pagemap, "what": what})
        native.bitmap = room = ffi.from_buffer(bits)
        done = lib.ram_save(native, ffi.cast("void *", base), 0, RAM)
        ffi.release(room)
        found.append((done, bytes(bits), os.pread(file, RAM, 0)))
        os.close(file)
    for fd in (real, copy):
        os.close(fd)
    pages = [page for page in range(RAM // PAGE) if found[0][1][page // 8] >> page % 8 & 1]
    assert pages == (
        [*range(1, 600, 2), 702, 703, 704]
        if what == lib.RAM_OWN
        else [0, 1, 2, 511, 512, 700, 702, 704, RAM // PAGE - 1]
    )
    assert found[0] == found[1]
    assert found[0][0] == len(pages) * PAGE
    source.memory.close()


def test_a_second_fork_copies_what_was_written_since() -> None:
    source = Modelled(GuestMemory(RAM), bytearray(RAM))
    for page in range(1024):
        source.write(page, b"%d" % page)
    first = source.fork(1, False)
    source.write(5, b"later")
    second = source.fork(3, False)
    base = os.fstat(source.memory.file).st_ino
    assert [os.fstat(each.memory.file).st_ino for each in (*first, *second)] == [base] * 4, "all have one base"
    for page in range(1000):
        source.write(page, b"new%d" % page)
    third = source.fork(3, False)
    assert os.fstat(source.memory.file).st_ino == os.fstat(third[0].memory.file).st_ino != base
    for each in (source, *first, *second, *third):
        each.check()
        each.memory.close()


def test_children_of_a_clone_that_is_filled_on_demand_have_its_template(tmp_path: Path) -> None:
    source = Modelled(GuestMemory(RAM, shared=True), bytearray(RAM))
    for page in range(1024):
        source.write(page, b"%d" % page)
    memory_file.write_new(source.memory, str(tmp_path / "memory"))
    clone = source.load([str(tmp_path / "memory")], True)
    clone.write(5, b"own")
    clone.write(2000, b"own")
    clone.give_back(100, 3)
    for each in (clone, *clone.fork(2, True, on_demand=True)):
        deeper = each.fork(1, True, on_demand=True)[0]
        filled = each.memory.fill_stats()["filled"]
        assert filled < 64 * PAGE, "to be forked fills nothing"
        deeper.check()
        each.check()
        deeper.memory.close()
        each.memory.close()
    source.memory.close()


@pytest.mark.parametrize("runs", [False, True])
def test_shared_memory_is_put_below_a_new_one_and_not_copied(runs: bool) -> None:
    before = descriptors()
    source = Modelled(GuestMemory(RAM, shared=True), bytearray(RAM))
    for page in range(1024):
        source.write(page, b"%d" % page)
    children = []
    latest = source
    for number in range(20):

        def write(number: int = number) -> None:
            source.write(500 + 3 * number, b"meanwhile")

        made = source.fork(2, True, on_demand=True, alone=True, meanwhile=write if runs else None)
        filled = source.memory.fill_stats()["filled"]
        assert filled == 0, "what is filled is the source's own from then on"
        assert os.fstat(source.memory.fd).st_blocks == 0
        source.write(number, b"source")
        made[0].write(number, b"child")
        source.give_back(64 * number + 10, 3)
        # And one of one of one
        latest.write(900 + number, b"parent")
        (latest,) = latest.fork(1, True, on_demand=True, alone=True)
        children += [*made, latest]
        for each in (source, *children):
            each.check()
    for each in (source, *children):
        each.memory.close()
    assert descriptors() <= before


def test_files_below_are_put_together_while_memory_is_used_and_forked() -> None:
    before = descriptors()
    source = Modelled(GuestMemory(RAM, shared=True), bytearray(RAM))
    for page in range(1024):
        source.write(page, b"%d" % page)
    over = threading.Event()

    def merge() -> None:
        while not over.is_set():
            merge_layers(source.memory, soon=True)

    merging = threading.Thread(target=merge)
    merging.start()
    try:
        children = []
        for number in range(30):
            children += source.fork(1, True, on_demand=True, alone=True)
            source.write(7 * number, b"%d once more" % number)
            source.give_back(64 * number + 10, 3)
            source.check()
    finally:
        over.set()
        merging.join()
    for each in (source, *children):
        each.check()
        each.memory.close()
    assert descriptors() <= before


def test_memory_that_somebody_else_can_write_is_copied() -> None:
    """A server that has not let go of memory, and says so, changes nothing in what children see."""
    source = Modelled(GuestMemory(RAM, shared=True), bytearray(RAM))
    source.write(3, b"before")
    with mmap(source.memory.fd, RAM) as kept:
        (child,) = source.fork(1, True, on_demand=True, alone=True)
        assert not source.memory.on_demand
        kept[3 * PAGE : 3 * PAGE + 5] = b"later"
        child.check()
        source.check()
    for each in (source, child):
        each.memory.close()


def test_children_have_no_pages_of_their_own_at_first() -> None:
    def anonymous() -> int:
        """Bytes of this process that are no file's."""
        fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) << 10

    source = GuestMemory(RAM, huge_pages="none")
    for page in range(2048):
        source.write(page * PAGE, os.urandom(PAGE))
    before = anonymous()
    base = take_base(source, 4)
    base.finish(source)
    children = [base.open(huge_pages="none", shared=False, prefault=False) for _ in range(4)]
    base.close()
    assert anonymous() < before - (6 << 20), "the source's are the base's now"
    for page in range(2048):
        assert {each.read(page * PAGE, 16) for each in children} == {source.read(page * PAGE, 16)}
    assert anonymous() < before - (6 << 20), "reading does not copy"
    for each in (source, *children):
        each.close()
