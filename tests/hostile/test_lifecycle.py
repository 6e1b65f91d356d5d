"""Reset, close, pause and garbage collection while requests are in flight; and a guest that attacks on all sides.

Workers are joined first: afterwards no byte of guest memory changes any more, and nothing that a thread uses is freed.
"""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from tests import tiny
from tests.blk_driver import IO_URING, BlkGuest, Request, header
from tests.command import Command
from tests.driver import Guest
from tests.pci_driver import PciGuest
from tests.sample_devices import Echo, Holder
from vmm.events import EventFd, Loop
from vmm.memory import GuestMemory
from vmm.virtio import spec
from vmm.virtio.blk import DiskConfig
from vmm.virtio.blk import device as blk_spec
from vmm.virtio.blk.device import Blk
from vmm.virtio.mmio import MmioRegisters

SIZE = 8 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


def fill(guest: BlkGuest) -> list[Request]:
    """Many requests at once: reads that overwrite memory, and writes."""
    requests = []
    for at in range(40):
        kind, data = (blk_spec.BLK_T_IN, 65536) if at % 4 else (blk_spec.BLK_T_OUT, bytes([at]) * 65536)
        requests.append(guest.submit(kind, 128 * at, data, kick=False))
    guest.queues[0].kick()
    return requests


class PciDisk(BlkGuest, PciGuest):
    """A disk on PCI."""

    def __enter__(self) -> PciDisk:
        return self


@IO_URING
def test_thrown_out_with_requests_in_flight(image: Path, io_uring: bool | None) -> None:
    """What a guest does by ACPI, asked or not: as for a reset, the memory is its own when the device is gone."""
    for _ in range(5):
        with PciDisk(image, io_uring=io_uring) as guest:
            guest.start()
            for request in fill(guest):
                assert request.data is not None
            guest.bus.remove(guest.slot)
            guest.transport.close()
            before = guest.memory.read(0, guest.memory.size)
            time.sleep(0.01)  # nothing may be written
            assert guest.memory.read(0, guest.memory.size) == before
            assert guest.config_read(0, 4) == 0xFFFF_FFFF


@IO_URING
@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
def test_reset_with_requests_in_flight(image: Path, io_uring: bool | None, direct: bool) -> None:
    with BlkGuest(image, io_uring=io_uring, direct=direct) as guest:
        for _ in range(5):
            guest.start()
            with guest.scratch():
                requests = fill(guest)
                guest.status = 0
                for request in requests:
                    assert request.data is not None
                    guest.memory.write(request.data.gpa, b"\x5a" * request.data.length)
                    guest.memory.write(request.status.gpa, b"\x5a")
                before = guest.memory.read(0, guest.memory.size)
                time.sleep(0.01)  # nothing may be written
                assert guest.memory.read(0, guest.memory.size) == before, "the memory is the driver's again"
        guest.start()
        guest.read_disk(0, 512)


@IO_URING
def test_close_with_requests_in_flight(image: Path, io_uring: bool | None) -> None:
    for _ in range(5):
        with BlkGuest(image, io_uring=io_uring) as guest:
            guest.start()
            fill(guest)
        assert threading.active_count() < 20


@IO_URING
def test_pause_with_requests_in_flight_loses_none(image: Path, io_uring: bool | None) -> None:
    with BlkGuest(image, io_uring=io_uring) as guest:
        for _ in range(5):
            queue = guest.start()
            with guest.scratch():
                requests = fill(guest)
                guest.transport.pause()
                before = guest.memory.read(0, guest.memory.size)
                time.sleep(0.01)  # nothing may be written
                assert guest.memory.read(0, guest.memory.size) == before
                guest.transport.resume()
                done = queue.wait(len(requests))
                assert sorted(used.head for used in done) == sorted(request.head for request in requests)
                assert {guest.answer(request).status for request in requests} == {blk_spec.BLK_S_OK}


@IO_URING
def test_needs_reset_with_requests_in_flight(image: Path, io_uring: bool | None) -> None:
    with BlkGuest(image, io_uring=io_uring) as guest:
        for _ in range(5):
            queue = guest.start()
            with guest.scratch():
                requests = fill(guest)
                queue.write_avail_idx(queue.next_avail + 1000)
                queue.kick()
                guest.wait_needs_reset()
                heads = [used.head for used in queue.take_used()]
                answered = [request for request in requests if guest.answer(request).status is not None]
                assert sorted(heads) == sorted(request.head for request in answered), "what was begun was finished"


def test_a_resize_and_resets_at_the_same_time(image: Path) -> None:
    stop = threading.Event()
    with BlkGuest(image) as guest:

        def resize() -> None:
            size = SIZE
            while not stop.is_set():
                size = 3 * SIZE - size
                with image.open("r+b") as file:
                    file.truncate(size)
                guest.disk.resize()
                guest.disk.stats()
                guest.transport.save()

        thread = threading.Thread(target=resize)
        thread.start()
        try:
            for _ in range(100):
                guest.start()
                with guest.scratch():
                    guest.read_disk(5, 512)
                guest._free = 0x10000
        finally:
            stop.set()
            thread.join()


def test_registers_written_by_several_vcpus_at_once(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()

        def storm(seed: int) -> None:
            rng = random.Random(seed)
            registers = [spec.MMIO_STATUS, *range(0x10, 0x110, 4)]
            for _ in range(3000):
                guest.write(rng.choice(registers), rng.choice([0, 1, 3, 11, 15, 64, rng.getrandbits(32)]))

        threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        guest._free = 0x10000
        guest.start()
        guest.read_disk(5, 512)


def test_a_forgotten_device_is_not_collected_under_its_thread(image: Path) -> None:
    """The memory of a C thread belongs to Python objects that nobody may refer to any more."""
    with BlkGuest(image) as guest:
        memory, loop, irq, kicks = GuestMemory(16 << 20), Loop(), EventFd(), [EventFd()]
        queue = guest.start()
        state = guest.transport.save()
        content = guest.memory.read(0, 1 << 20)
        guest.transport.close()

        memory.write(0, content)
        registers = MmioRegisters(Blk(DiskConfig(str(image))), memory, loop, irq, kicks)
        registers.transport.restore(state)
        registers.transport.resume()
        seen = weakref.ref(registers)
        loop.remove(registers.transport.runner._event.fd)  # the last reference but that of the running device itself
        del registers, loop, state
        gc.collect()

        memory.write(0x80000, header(blk_spec.BLK_T_IN))
        queue.memory = memory
        queue.write_desc(0, 0x80000, 16, spec.DESC_F_NEXT, 1)
        queue.write_desc(1, 0x81000, 512, spec.DESC_F_NEXT | spec.DESC_F_WRITE, 2)
        queue.write_desc(2, 0x82000, 1, spec.DESC_F_WRITE)
        queue.offer(0)
        kicks[0].signal()
        guest.wait_for("the answer", lambda: queue.read_used_idx() == queue.next_avail)
        assert memory.read(0x81000, 512) == image.read_bytes()[:512]

        survivor = seen()
        assert survivor is not None
        survivor.transport.close()
        del survivor
        gc.collect()
        assert seen() is None, "closed, it is garbage like anything else"
        memory.close()


def test_chains_kept_over_a_reset_touch_nothing() -> None:
    with Guest(device := Holder()) as guest:
        queue = guest.start()
        room = guest.room(4)
        queue.offer(queue.chain([room]))
        queue.kick()
        guest.wait_for("the device has it", lambda: device.held)
        guest.reset()
        guest.start()
        with pytest.raises(Exception, match="taken its queue away"):
            device.held[0].write(b"late")
        assert guest.content(room) == b"\xee" * 4


def test_resets_without_end_leave_nothing_behind(image: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd")) + len(os.listdir("/proc/self/task"))

    with BlkGuest(image, io_uring=True) as guest:
        for round_ in range(60):
            guest._free = 0x10000
            guest.start()
            guest.read_disk(1, 512)
            guest.reset()
            if round_ == 10:
                first = count()
        assert count() == first


def test_a_device_in_python_is_reset_while_it_works() -> None:
    with Guest(Echo()) as guest:
        for _ in range(100):
            guest._free = 0x10000
            queue = guest.start()
            queue.offer(*[queue.chain([guest.data(b"x" * 100), guest.room(100)]) for _ in range(20)])
            queue.kick()
            guest.status = 0
            before = queue.read_used_idx()
            guest.turn_loop(2)
            assert queue.read_used_idx() == before


KILLED = """
import os, random, signal, struct, sys
from tests import fs_driver as f
from tests import tiny
from tests.blk_driver import BlkGuest
from tests.fs_driver import FsGuest
from vmm.virtio.blk import device as blk
folder, what = sys.argv[1:]
image, rounds = os.path.join(folder, "data"), 34
SLOTS, SIZE = 16, 8192

def serve(acknowledged):
    guest = BlkGuest(image) if what == "disk" else FsGuest(folder, isolation=what)
    with guest:
        if what == "disk":
            guest.start()
        else:
            node = guest.lookup("data").node
            fh = guest.open(node, os.O_RDWR)
        number = 0
        while True:
            number += 1
            at, data = number % SLOTS * SIZE, struct.pack("<Q", number) * (SIZE // 8)
            if what == "disk":
                guest.write_disk(at // 512, data)
                assert guest.request(blk.BLK_T_FLUSH).status == blk.BLK_S_OK
            else:
                assert guest.write_file(fh, data, at) == SIZE
                guest.call(f.FSYNC, node, struct.pack("<QII", fh, 0, 0))
            os.write(acknowledged, struct.pack("<Q", number))

for round in range(rounds):
    with open(image + ".new", "wb") as file:  # a server of the last round may still have that round's
        file.truncate(SLOTS * SIZE)
    os.replace(image + ".new", image)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            serve(writer)
        finally:
            os._exit(9)
    os.close(writer)
    told, wanted = b"", 8 * random.randrange(1, 2 * SLOTS)
    while len(told) < wanted and (piece := os.read(reader, 65536)):
        told += piece
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    while piece := os.read(reader, 65536):
        told += piece
    os.close(reader)
    last = len(told) // 8
    assert 8 * last >= wanted, "it ended by itself"
    content = open(image, "rb").read()
    assert len(content) == SLOTS * SIZE
    for number in range(max(1, last - SLOTS + 2), last + 1):
        found = content[number % SLOTS * SIZE :][:SIZE]
        assert found == struct.pack("<Q", number) * (SIZE // 8), (round, number, last, found[:16])
"""


@pytest.mark.parametrize("what", ["disk", "thread", "process"])
def test_what_was_flushed_is_there_after_kill_9(tmp_path: Path, what: str) -> None:
    """A disk, and a share served by a thread and by a process: whoever was told that data is safe finds it, and who
    comes next can write at once."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
@pytest.mark.parametrize("transport", ["mmio", "pci"])
def test_a_guest_that_attacks_from_two_cpus_harms_nobody(tmp_path: Path, transport: str) -> None:
    """Every device, on registers, rings, requests, configuration space and ports.  PYVMM_TEST_ATTACKS says how many
    steps each CPU makes, PYVMM_TEST_SEED which."""
    steps = int(os.environ.get("PYVMM_TEST_ATTACKS", "3000"))
    seed = int(os.environ.get("PYVMM_TEST_SEED", "0")) or random.randrange(1, 1 << 24)
    kernel = tiny.attack(tmp_path, pci=transport == "pci", steps=steps, seed=seed)
    for name in ("disk", "below", "pmem"):
        (tmp_path / name).write_bytes(bytes(4 << 20))
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "file").write_bytes(b"x" * 5000)
    (tmp_path / "secret").write_bytes(b"outside")
    devices = ["--disk", f"{tmp_path}/disk", "--disk", f"{tmp_path}/below,cow=overlay", "--pmem", f"{tmp_path}/pmem"]
    devices += ["--share", f"{tmp_path}/share", "--vsock", f"cid=3,uds={tmp_path}/v", "--balloon", "on"]
    devices += ["--hotplug-memory", "size=128M", "--transport", transport, "--cpus", "2", "--memory", "32M"]
    command = Command(tmp_path, "--kernel", kernel, *devices)
    try:
        command.expect("attacked")

        def used() -> int:
            fields = Path(f"/proc/{command.process.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        for _ in range(60):  # what was asked for last may still be under way
            before = used()
            time.sleep(1)
            if used() - before < os.sysconf("SC_CLK_TCK") // 4:
                break
        else:
            pytest.fail(f"seed {seed}: it does not become idle")
        status = Path(f"/proc/{command.process.pid}/status").read_text()
        anonymous = int(status.partition("RssAnon:")[2].split()[0])
        assert anonymous < 64 << 10, f"seed {seed}: it has grown to {anonymous} KiB"
        command.process.terminate()
        assert command.wait() == 143, f"seed {seed}: {command.errors}"
        assert "Traceback" not in command.errors and "system call" not in command.errors, f"seed {seed}"
        assert len(command.errors.splitlines()) < 100, "a guest cannot fill a log"
        assert command.leftovers() == []
        assert not (tmp_path / "v").exists() and (tmp_path / "secret").read_bytes() == b"outside"
    finally:
        command.close()
