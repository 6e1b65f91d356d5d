"""The memory balloon (virtio 1.2, 5.5) and the memory device (5.15): what the guest gives up is the host's again."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import pytest

from tests.driver import Buffer, DriverQueue, Guest
from vmm import BootConfig, HotplugMemoryConfig, MachineConfig, MemoryConfig
from vmm.errors import ConfigError
from vmm.memory import GuestMemory
from vmm.memory.layout import regions
from vmm.saveable import State
from vmm.saving.memory_file import open_ram
from vmm.virtio import spec
from vmm.virtio.balloon import BalloonConfig
from vmm.virtio.balloon import device as balloon_spec
from vmm.virtio.balloon.device import DEFLATE, HINTS, INFLATE, STATS, Balloon
from vmm.virtio.mem import device as mem_spec
from vmm.virtio.mem.device import HotplugMemory

pytestmark = pytest.mark.usefixtures("virtqueues")

RAM = 64 << 20
PAGE = 4096
AREA = 32 << 20
RINGS = 256 << 10
"""What rings and requests may have made resident meanwhile."""


def make(*, shared: bool = False, **options: bool | int) -> Guest:
    return Guest(Balloon(BalloonConfig(**options), RAM), memory=GuestMemory(RAM, shared=shared))  # type: ignore[arg-type]


def make_clone(tmp_path: Path, **options: bool) -> Guest:
    """One whose memory is filled on demand, of a template of 0xaa."""
    template = tmp_path / "memory"
    template.write_bytes(b"\xaa" * RAM)
    memory = open_ram(RAM, [str(template)], huge_pages="auto", shared=True, prefault=False, on_demand=True)
    assert memory.on_demand
    return Guest(Balloon(BalloonConfig(**options), RAM), memory=memory)


def pfns(guest: Guest, pages: list[int]) -> Buffer:
    return guest.data(struct.pack(f"<{len(pages)}I", *pages))


def fill(guest: Guest, gpa: int, size: int) -> None:
    guest.memory.write(gpa, b"\xaa" * size)


def resident(guest: Guest) -> int:
    return resident_of(guest.memory)


def resident_of(memory: GuestMemory) -> int:
    """Bytes of guest RAM that take memory of the host."""
    start = memory.host_address
    with open("/proc/self/smaps", encoding="ascii") as maps:
        total, inside = 0, False
        for line in maps:
            if "-" in (fields := line.split())[0]:
                low, high = (int(part, 16) for part in fields[0].split("-"))
                inside = low < start + memory.size and high > start
            elif inside and fields[0] == "Rss:":
                total += int(fields[1]) << 10
    return total


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_inflated_pages_go_back_to_the_host(shared: bool, order: int) -> None:
    with make(shared=shared) as guest:
        guest.start()
        fill(guest, AREA, 16 << 20)
        before = resident(guest)
        first, count = AREA // PAGE, (8 << 20) // PAGE
        pages = list(range(first, first + count))[::order]
        for at in range(0, count, 256):
            assert guest.queues[INFLATE].send(pfns(guest, pages[at : at + 256])).written == 0
        assert before - resident(guest) >= (8 << 20) - RINGS
        assert guest.memory.read(AREA, 8 << 20) == bytes(8 << 20)
        assert guest.memory.read(AREA + (8 << 20), 8 << 20) == b"\xaa" * (8 << 20)
        stats = guest.device.stats()
        assert (stats["inflated"], stats["released"], stats["errors"]) == (count, 8 << 20, 0)


def test_what_a_clone_gives_back_is_never_the_templates_again(tmp_path: Path) -> None:
    """Pages that it has touched, and pages that it has not."""
    with make_clone(tmp_path, free_page_reporting=True) as guest:
        guest.start()
        guest.memory.write(AREA, b"own")
        first = AREA // PAGE
        guest.queues[INFLATE].send(pfns(guest, [first, first + 1, first + 100, first + 101]))
        guest.queues[3].send(Buffer(AREA + 200 * PAGE, 8 * PAGE, writable=True))
        gone = {0, 1, 100, 101, *range(200, 208)}
        for _ in range(2):
            for page in range(300):
                expected = b"\0" if page in gone else b"\xaa"
                assert guest.memory.read(AREA + page * PAGE, PAGE) == expected * PAGE, page
        assert guest.device.stats()["errors"] == 0
        guest.memory.write(AREA + 100 * PAGE, b"new")
        assert guest.memory.read(AREA + 100 * PAGE, 5) == b"new\0\0"
        guest.queues[INFLATE].send(pfns(guest, [first + 100]))
        assert guest.memory.read(AREA + 100 * PAGE, 5) == bytes(5)


def test_page_numbers_cut_anywhere_and_in_any_order() -> None:
    with make() as guest:
        queue = guest.start()
        fill(guest, AREA, 64 * PAGE)
        pages = [AREA // PAGE + at for at in (5, 9, 7, 8, 6, 40, 41, 20)]
        data = struct.pack(f"<{len(pages)}I", *pages)
        queue.send(*(guest.data(piece) for piece in (data[:3], data[3:9], data[9:])))
        for at in range(64):
            kept = AREA // PAGE + at not in pages
            assert guest.memory.read(AREA + at * PAGE, PAGE) == (b"\xaa" if kept else b"\0") * PAGE, at


def test_a_deflated_page_is_there_again() -> None:
    with make() as guest:
        guest.start()
        page = pfns(guest, [AREA // PAGE])
        guest.queues[INFLATE].send(page)
        guest.queues[DEFLATE].send(page)
        fill(guest, AREA, PAGE)
        assert guest.memory.read(AREA, PAGE) == b"\xaa" * PAGE
        assert guest.device.stats()["deflated"] == 1


def test_the_size_is_told_to_the_guest_and_back() -> None:
    with make(size=1 << 20) as guest:
        guest.start()
        assert guest.config(0, 4) == 256
        guest.device.resize(2 << 20)  # type: ignore[attr-defined]
        assert guest.wait_irq() & spec.INT_CONFIG
        assert guest.config(0, 4) == 512
        guest.write(spec.MMIO_CONFIG + 4, 300)
        guest.write(spec.MMIO_CONFIG, 7)
        assert (guest.config(0, 4), guest.config(4, 4)) == (512, 300)
        stats = guest.device.stats()
        assert (stats["target"], stats["actual"]) == (2 << 20, 300 * PAGE)


@pytest.mark.parametrize("size", [-PAGE, 1, RAM, RAM + PAGE])
def test_sizes_that_cannot_be(size: int) -> None:
    balloon = Balloon(BalloonConfig(), RAM)
    with pytest.raises(ConfigError):
        balloon.resize(size)


def give_stats(guest: Guest, **values: int) -> Buffer:
    tags = {name: tag for tag, name in enumerate(balloon_spec.BALLOON_STAT_NAMES)}
    data = b"".join(struct.pack(balloon_spec.BALLOON_STAT_FORMAT, tags[name], value) for name, value in values.items())
    return guest.data(data)


def offer(queue: DriverQueue, buffer: Buffer) -> None:
    queue.offer(queue.chain([buffer]))
    queue.kick()


def test_the_guests_own_figures() -> None:
    with make() as guest:
        guest.start()
        queue = guest.queues[STATS]
        offer(queue, give_stats(guest, free_memory=1000, total_memory=9000))
        guest.wait_for("figures", lambda: guest.device.stats()["guest"])
        assert guest.device.stats()["guest"] == {"free_memory": 1000, "total_memory": 9000}
        assert queue.take_used() == [], "the buffer is kept until somebody asks"
        answers: list[dict[str, int]] = []
        asker = threading.Thread(target=lambda: answers.append(guest.device.stats(timeout=60.0)["guest"]))  # type: ignore[call-arg]
        asker.start()
        queue.wait()
        offer(queue, give_stats(guest, free_memory=500))
        asker.join()
        assert answers == [{"free_memory": 500}]


def test_a_guest_that_gives_no_figures() -> None:
    with make() as guest:
        guest.start()
        with pytest.raises(TimeoutError):
            guest.device.stats(timeout=0.05)  # type: ignore[call-arg]


@pytest.mark.parametrize("index", [3, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_free_pages_that_are_reported_go_back(index: int, shared: bool) -> None:
    with make(free_page_reporting=True, shared=shared) as guest:
        guest.start()
        fill(guest, AREA, 16 << 20)
        before = resident(guest)
        ranges = [Buffer(AREA + at, 2 << 20, writable=True) for at in range(0, 8 << 20, 2 << 20)]
        guest.queues[index].send(*ranges)
        assert before - resident(guest) >= (8 << 20) - RINGS
        assert guest.memory.read(AREA + (8 << 20), 8 << 20) == b"\xaa" * (8 << 20)
        assert guest.device.stats()["reported"] == 8 << 20


def command(guest: Guest, value: int) -> None:
    guest.queues[HINTS].send(guest.data(struct.pack("<I", value)))


@pytest.mark.parametrize("acknowledges", [True, False])
def test_free_pages_of_a_run_go_back(acknowledges: bool) -> None:
    """Those of another run stay; the host ends the run by itself, or when it is told to."""
    with make(free_page_hinting=True) as guest:
        guest.start()
        balloon: Balloon = guest.device  # type: ignore[assignment]
        fill(guest, AREA, 16 << 20)
        pages = [Buffer(AREA + at, 2 << 20, writable=True) for at in range(0, 8 << 20, 2 << 20)]
        guest.queues[HINTS].send(pages[0])
        for _ in range(2):
            balloon.start_hinting(acknowledges)
            run = guest.config(8, 4)
            assert run > 1
            command(guest, run - 1 if run > 2 else 99)
            guest.queues[HINTS].send(pages[1])
            assert guest.memory.read(AREA, 4 << 20) == b"\xaa" * (4 << 20)
            command(guest, run)
            guest.queues[HINTS].send(pages[2])
            assert guest.memory.read(AREA + (4 << 20), 2 << 20) == bytes(2 << 20)
            fill(guest, AREA, 16 << 20)
            assert balloon.stats()["guest_hint"] == run
            command(guest, 0)
            if not acknowledges:
                assert guest.config(8, 4) == run
                balloon.stop_hinting()
            guest.wait_for("the end", lambda: guest.config(8, 4) == 1)
            guest.queues[HINTS].send(pages[3])
        assert guest.memory.read(AREA, 16 << 20) == b"\xaa" * (16 << 20)
        stats = balloon.stats()
        assert (stats["host_hint"], stats["guest_hint"], stats["released"]) == (1, 0, 4 << 20)


def test_a_run_does_not_end_while_its_hints_are_served() -> None:
    """Otherwise the guest may use memory again, and lose it when the worker comes to its hint."""
    with make(free_page_hinting=True) as guest:
        guest.start()
        balloon: Balloon = guest.device  # type: ignore[assignment]
        balloon.start_hinting(acknowledge=False)
        run, seen = guest.config(8, 4), list[int]()
        serves, ends = threading.Event(), threading.Event()

        def serve() -> None:
            serves.set()
            ends.wait()
            seen.append(int(balloon.stats()["host_hint"]))

        assert balloon._context is not None
        server = threading.Thread(target=balloon._context.run, args=(serve,))
        server.start()
        serves.wait()
        stopper = threading.Thread(target=balloon.stop_hinting)
        stopper.start()
        stopper.join(0.2)  # it waits for the other thread
        ends.set()
        for each in (server, stopper):
            each.join()
        assert (seen, guest.config(8, 4)) == ([run], 1)


def test_hinting_that_was_not_configured() -> None:
    with make() as guest, pytest.raises(ConfigError, match="no free page hinting"):
        guest.device.start_hinting()  # type: ignore[attr-defined]


def test_statistics_are_requested_without_waiting() -> None:
    with make() as guest:
        guest.start()
        balloon: Balloon = guest.device  # type: ignore[assignment]
        balloon.request_stats()
        queue = guest.queues[STATS]
        offer(queue, give_stats(guest, free_memory=(1 << 64) - 1))
        guest.wait_for("figures", lambda: balloon.stats()["guest"])
        assert balloon.stats()["guest"] == {"free_memory": (1 << 63) - 1}
        balloon.request_stats()
        queue.wait()
        offer(queue, give_stats(guest, free_memory=5))
        guest.wait_for("figures", lambda: balloon.stats()["guest"] == {"free_memory": 5})


def test_what_is_offered() -> None:
    offered = {
        "plain": Balloon(BalloonConfig(), RAM).features,
        "reporting": Balloon(BalloonConfig(free_page_reporting=True), RAM).features,
        "hinting": Balloon(BalloonConfig(free_page_hinting=True), RAM).features,
        "no oom": Balloon(BalloonConfig(deflate_on_oom=False), RAM).features,
    }
    plain = balloon_spec.BALLOON_F_STATS_VQ | balloon_spec.BALLOON_F_DEFLATE_ON_OOM
    assert offered == {
        "plain": plain,
        "reporting": plain | balloon_spec.BALLOON_F_PAGE_REPORTING,
        "hinting": plain | balloon_spec.BALLOON_F_FREE_PAGE_HINT,
        "no oom": balloon_spec.BALLOON_F_STATS_VQ,
    }


def test_a_balloon_is_paused_with_the_figures_in_hand() -> None:
    with make(size=1 << 20) as guest:
        guest.start()
        queue = guest.queues[STATS]
        offer(queue, give_stats(guest, free_memory=1000))
        guest.wait_for("figures", lambda: guest.device.stats()["guest"])
        state = guest.transport.save()
        assert state.payload["device"] == guest.device.save().plain()
        assert guest.device.save().payload == {"target": 256, "actual": 0}
        queue.wait()
        offer(queue, give_stats(guest, free_memory=2000))
        guest.wait_for("figures", lambda: guest.device.stats()["guest"]["free_memory"] == 2000)


def test_the_command_lines_words() -> None:
    assert BalloonConfig.parse("on") == BalloonConfig()
    text = "size=64M,free-page-reporting=on,deflate-on-oom=off"
    assert BalloonConfig.parse(text) == BalloonConfig(64 << 20, True, False)
    for wrong in ("", "off", "size=1", "free-page-reporting", "free-page-reporting=yes", "size=x"):
        with pytest.raises(ConfigError, match="balloon"):
            BalloonConfig.parse(wrong)


@pytest.mark.parametrize("queue", ["inflate", "report"])
def test_pages_given_up_over_a_snapshots_file_are_zero(tmp_path: Path, queue: str) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"\xbb" * RAM)
    with open(path, "rb") as file:
        memory = GuestMemory(RAM, file=file.fileno())
    # Rings begin as zeros in any guest
    memory.write(0, bytes(AREA))
    with Guest(Balloon(BalloonConfig(free_page_reporting=True), RAM), memory=memory) as guest:
        guest.start()
        fill(guest, AREA, PAGE)
        if queue == "inflate":
            guest.queues[INFLATE].send(pfns(guest, [AREA // PAGE, AREA // PAGE + 1]))
        else:
            guest.queues[3].send(Buffer(AREA, 2 * PAGE, writable=True))
        assert guest.memory.read(AREA, 2 * PAGE) == bytes(2 * PAGE)
        assert guest.memory.read(AREA + 2 * PAGE, PAGE) == b"\xbb" * PAGE
        assert guest.device.stats()["errors"] == 0
    with open(path, "rb") as file:
        assert file.read(RAM) == b"\xbb" * RAM


# -- the memory device -----------------------------------------------------------------------------------------------

MIB = 1 << 20
MORE = 256 * MIB
BLOCK = 2 * MIB
ADDR = 4 << 30


class MemGuest(Guest):
    """A guest of 16 MiB that may get 256 MiB more."""

    def __init__(self, memory: GuestMemory | None = None, *, requested: int = 0) -> None:
        memory = memory or GuestMemory((16 << 20) + MORE, hotplug=MORE)
        self.mem = HotplugMemory(HotplugMemoryConfig(MORE), ADDR)
        super().__init__(self.mem, memory=memory)
        self.start()
        if requested:
            self.mem.resize(requested)

    def ask(self, kind: int, addr: int = 0, count: int = 0) -> tuple[int, int]:
        """Type and state of the answer."""
        room = self.room(10)
        used = self.queues[0].send(self.data(struct.pack(mem_spec.MEM_REQ_FORMAT, kind, addr, count)), room)
        assert used.written == 10
        answer: tuple[int, int] = struct.unpack(mem_spec.MEM_RESP_FORMAT, self.memory.read(room.gpa, 10))
        return answer

    def do(self, kind: int, addr: int = 0, count: int = 0) -> None:
        assert self.ask(kind, addr, count) == (mem_spec.MEM_RESP_ACK, 0)


def cloned_memory(tmp_path: Path) -> GuestMemory:
    """Filled on demand, of a template of 0xaa."""
    template = tmp_path / "memory"
    template.write_bytes(b"\xaa" * (16 * MIB + MORE))
    memory = open_ram(
        16 * MIB + MORE,
        [str(template)],
        huge_pages="auto",
        shared=True,
        prefault=False,
        on_demand=True,
        hotplug=MORE,
    )
    assert memory.on_demand
    return memory


def file_memory(tmp_path: Path) -> GuestMemory:
    """Over a file of 0xaa."""
    template = tmp_path / "memory"
    template.write_bytes(b"\xaa" * (16 * MIB + MORE))
    with template.open("rb") as file:
        memory = GuestMemory(16 * MIB + MORE, file=file.fileno(), hotplug=MORE)
    assert memory.over_file
    return memory


@pytest.mark.parametrize("kind", ["private", "shared", "clone", "file"])
def test_memory_is_plugged_and_goes_back_to_the_host(tmp_path: Path, kind: str) -> None:
    if kind in ("clone", "file"):
        memory = (cloned_memory if kind == "clone" else file_memory)(tmp_path)
    else:
        memory = GuestMemory(16 * MIB + MORE, shared=kind == "shared", hotplug=MORE)
    with MemGuest(memory, requested=64 * MIB) as guest:
        assert guest.config(0, 8) == BLOCK
        assert [guest.config(at, 8) for at in (16, 24, 32, 40, 48)] == [ADDR, MORE, MORE, 0, 64 * MIB]
        guest.do(mem_spec.MEM_REQ_PLUG, ADDR, 8)
        guest.do(mem_spec.MEM_REQ_PLUG, ADDR + MORE - BLOCK, 1)
        assert guest.config(40, 8) == 9 * BLOCK
        memory.write(ADDR, b"\xbb" * 8 * BLOCK)
        before = resident_of(memory)
        guest.do(mem_spec.MEM_REQ_UNPLUG, ADDR + 2 * BLOCK, 6)
        assert before - resident_of(memory) >= 6 * BLOCK - RINGS
        assert memory.read(ADDR, 2 * BLOCK) == b"\xbb" * 2 * BLOCK
        assert memory.read(ADDR + 2 * BLOCK, 6 * BLOCK) == bytes(6 * BLOCK)
        guest.do(mem_spec.MEM_REQ_UNPLUG_ALL)
        assert memory.read(ADDR, 2 * BLOCK) == bytes(2 * BLOCK)
        assert guest.config(40, 8) == 0
        guest.do(mem_spec.MEM_REQ_PLUG, ADDR, 1)
        stats = guest.mem.stats()
        assert stats == {"requested": 64 * MIB, "plugged": BLOCK, "plugs": 3, "unplugs": 2, "refused": 0}


def test_the_states_of_blocks() -> None:
    with MemGuest(requested=MORE) as guest:
        guest.do(mem_spec.MEM_REQ_PLUG, ADDR + BLOCK, 2)
        states = [guest.ask(mem_spec.MEM_REQ_STATE, ADDR + at * BLOCK, n) for at, n in ((1, 2), (0, 1), (2, 2))]
        wanted = (mem_spec.MEM_STATE_PLUGGED, mem_spec.MEM_STATE_UNPLUGGED, mem_spec.MEM_STATE_MIXED)
        assert states == [(mem_spec.MEM_RESP_ACK, state) for state in wanted]


def test_the_guest_is_told_of_another_size_and_of_nothing_that_it_knows() -> None:
    with MemGuest() as guest:
        guest.mem.resize(32 * MIB)
        assert guest.wait_irq() & spec.INT_CONFIG
        assert guest.config(48, 8) == 32 * MIB
        guest.mem.resize(0)
        assert guest.wait_irq() & spec.INT_CONFIG


@pytest.mark.parametrize("size", [-BLOCK, 1, BLOCK - 4096, MORE + BLOCK])
def test_memory_that_cannot_be_added(size: int) -> None:
    device = HotplugMemory(HotplugMemoryConfig(MORE), ADDR)
    with pytest.raises(ConfigError, match="not 0 to"):
        device.resize(size)
    assert device.stats()["requested"] == 0


def test_a_driver_that_begins_anew_finds_its_memory_and_a_machine_that_does_has_none() -> None:
    with MemGuest(requested=MORE) as guest:
        guest.do(mem_spec.MEM_REQ_PLUG, ADDR, 4)
        guest.start()
        assert guest.config(40, 8) == 4 * BLOCK
        assert guest.ask(mem_spec.MEM_REQ_PLUG, ADDR, 4) == (mem_spec.MEM_RESP_ERROR, 0)
        guest.transport.reset()
        assert (guest.config(40, 8), guest.config(48, 8)) == (0, MORE)
        guest.start()
        guest.do(mem_spec.MEM_REQ_PLUG, ADDR, 4)


def test_what_is_plugged_is_so_in_a_clone() -> None:
    with MemGuest(requested=32 * MIB) as first:
        first.do(mem_spec.MEM_REQ_PLUG, ADDR + 8 * BLOCK, 3)
        state = first.mem.save()
        second = HotplugMemory(HotplugMemoryConfig(MORE), ADDR)
        second.restore(state)
        assert second.read_config() == first.mem.read_config()
        assert second.save() == state
    for size, addr in ((2 * MORE, ADDR), (MORE, 2 * ADDR)):
        other = HotplugMemory(HotplugMemoryConfig(size), addr)
        with pytest.raises(ConfigError, match="blocks of"):
            other.restore(state)
    for wrong in ({"plugged": b"\2" * (MORE // BLOCK)}, {"requested": BLOCK + 1}, {"requested": MORE + BLOCK}):
        with pytest.raises(ConfigError, match="neither plugged nor"):
            second.restore(State(state.kind, state.version, {**state.payload, **wrong}))


def test_memory_that_may_come_costs_nothing_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 MiB"):
        MachineConfig(BootConfig("k"), MemoryConfig(33 * MIB), hotplug_memory=HotplugMemoryConfig(MORE))
    with pytest.raises(ConfigError, match="or be one of more_devices"):
        MachineConfig(BootConfig("k"), more_devices=(HotplugMemoryConfig(MORE),))
    with pytest.raises(ConfigError, match="hugetlb"):
        MachineConfig(BootConfig("k"), MemoryConfig(huge_pages="hugetlb"), hotplug_memory=HotplugMemoryConfig(MORE))
    with pytest.raises(ConfigError, match="address"):
        MachineConfig(BootConfig("k"), hotplug_memory=HotplugMemoryConfig(512 << 30))
    memory = GuestMemory(32 * MIB + (64 << 30), prefault=True, hotplug=64 << 30)
    assert 32 * MIB <= resident_of(memory) < 36 * MIB
    assert [(each.gpa, each.size) for each in memory.regions] == [(0, 32 * MIB), (ADDR, 64 << 30)]
    memory.close()
    assert [each.gpa for each in regions(5 << 30, MORE)] == [0, 4 << 30, 6 << 30]
