"""virtio-blk (virtio 1.2, 5.2) as a well-behaved driver uses it, over real files and the real C worker."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.blk_driver import IO_URING, BlkGuest, header, segment
from tests.command import descriptors, links_of, one_cpu
from tests.driver import Used
from vmm.errors import ConfigError
from vmm.options.limit import LimitConfig
from vmm.virtio import spec
from vmm.virtio.blk import DiskConfig
from vmm.virtio.blk import device as blk
from vmm.virtio.blk import device as blk_spec
from vmm.virtio.mmio import MmioRegisters

pytestmark = pytest.mark.usefixtures("virtqueues")

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@contextmanager
def small_files() -> Iterator[None]:
    """Files of this process cannot grow beyond 1 MiB: what a host without space looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# -- requests (5.2.6) --------------------------------------------------------------------------------------------------


@IO_URING
@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
@pytest.mark.parametrize("indirect", [False, True], ids=["", "indirect"])
def test_what_is_written_is_read(image: Path, io_uring: bool | None, direct: bool, indirect: bool) -> None:
    model = bytearray(image.read_bytes())
    rng = random.Random(2)
    with BlkGuest(image, io_uring=io_uring, direct=direct) as guest:
        guest.start()
        for _ in range(100):
            sectors = rng.choice([1, 1, 2, 3, 8, 64, 300])
            sector = rng.randrange(SIZE // 512 - sectors)
            start, end = 512 * sector, 512 * (sector + sectors)
            if rng.random() < 0.5:
                model[start:end] = rng.randbytes(end - start)
                answer = guest.request(blk_spec.BLK_T_OUT, sector, bytes(model[start:end]), indirect=indirect)
                assert answer[::2] == (blk_spec.BLK_S_OK, 1)
            else:
                answer = guest.request(blk_spec.BLK_T_IN, sector, end - start, indirect=indirect)
                assert answer == (blk_spec.BLK_S_OK, bytes(model[start:end]), end - start + 1)
        assert guest.request(blk_spec.BLK_T_FLUSH).status == blk_spec.BLK_S_OK
        assert image.read_bytes() == model


@IO_URING
def test_many_requests_at_once_come_back_each_with_its_own_data(image: Path, io_uring: bool | None) -> None:
    content = image.read_bytes()
    with BlkGuest(image, io_uring=io_uring) as guest:
        queue = guest.start()
        for _ in range(5):
            with guest.scratch():
                sectors = random.Random(3).sample(range(SIZE // 512), 80)
                requests = {}
                for sector in sectors:
                    request = guest.submit(blk_spec.BLK_T_IN, sector, 512, kick=False)
                    requests[request.head] = (sector, request)
                queue.kick()
                for head, written in queue.wait(80):
                    sector, request = requests.pop(head)
                    answer = guest.answer(request, written)
                    assert answer == (blk_spec.BLK_S_OK, content[512 * sector : 512 * sector + 512], 513)
                assert not requests


@IO_URING
def test_on_one_cpu(image: Path, io_uring: bool | None) -> None:
    """There a worker that wakes up lets the driver go on: with requests one by one, now and then."""
    content = image.read_bytes()
    with one_cpu(), BlkGuest(image, io_uring=io_uring) as guest:
        queue = guest.start()
        for sector in range(40):
            assert guest.request(blk_spec.BLK_T_IN, sector, 512).data == content[512 * sector : 512 * sector + 512]
        with guest.scratch():
            for sector in range(30):
                guest.submit(blk_spec.BLK_T_IN, sector, 512)
            assert len(queue.wait(30)) == 30


@IO_URING
def test_a_request_of_many_segments(image: Path, io_uring: bool | None) -> None:
    content = image.read_bytes()
    with BlkGuest(image, io_uring=io_uring) as guest:
        queue = guest.start()
        rooms = [guest.room(512) for _ in range(blk.SEG_MAX)]
        used = queue.send(guest.data(header(blk_spec.BLK_T_IN, 7)), *rooms, status := guest.room(1))
        assert (guest.content(status), used.written) == (b"\0", 512 * blk.SEG_MAX + 1)
        assert b"".join(guest.content(room) for room in rooms) == content[7 * 512 : (7 + blk.SEG_MAX) * 512]

        pieces = [bytes([n]) * 512 for n in range(blk.SEG_MAX)]
        used = queue.send(guest.data(header(blk_spec.BLK_T_OUT, 9)), *map(guest.data, pieces), status := guest.room(1))
        assert (guest.content(status), used.written) == (b"\0", 1)
    assert image.read_bytes() == content[: 9 * 512] + b"".join(pieces) + content[(9 + blk.SEG_MAX) * 512 :]


def test_all_queues_work_and_keep_apart(image: Path) -> None:
    with BlkGuest(image, cpus=16) as guest:
        assert len(guest.disk.queue_sizes) == blk.MAX_QUEUES
        assert guest.config(34, 2) == blk.MAX_QUEUES
        guest.start()
        for index, queue in guest.queues.items():
            assert guest.request(blk_spec.BLK_T_OUT, index, bytes([index]) * 512, queue=queue).status == 0
        for index, queue in guest.queues.items():
            other = (index + 1) % 4
            assert guest.request(blk_spec.BLK_T_IN, other, 512, queue=queue).data == bytes([other]) * 512


def test_the_number_of_queues_can_be_said(image: Path) -> None:
    with BlkGuest(image, cpus=8, queues=1) as guest:
        assert len(guest.disk.queue_sizes) == 1
        assert not guest.offered() & blk_spec.BLK_F_MQ
        assert guest.config(34, 2) == 0


def test_discarded_sectors_are_freed_and_read_as_zeroes(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()
        before = image.stat().st_blocks
        assert guest.request(blk_spec.BLK_T_DISCARD, data=segment(256, 512) + segment(1024, 256)).status == 0
        assert image.stat().st_blocks < before
        assert guest.read_disk(256, 4096) == guest.read_disk(1024, 4096) == bytes(4096)
        assert guest.read_disk(768, 512) != bytes(512)


@IO_URING
@pytest.mark.parametrize("flags", [0, blk_spec.BLK_RANGE_F_UNMAP])
def test_write_zeroes(image: Path, io_uring: bool | None, flags: int) -> None:
    content = bytearray(image.read_bytes())
    with BlkGuest(image, io_uring=io_uring) as guest:
        guest.start()
        segments = segment(1, 3, flags) + segment(500, 1000, flags)
        assert guest.request(blk_spec.BLK_T_WRITE_ZEROES, data=segments).status == blk_spec.BLK_S_OK
        content[512:2048] = bytes(1536)
        content[500 * 512 : 1500 * 512] = bytes(512000)
        assert image.read_bytes() == content


def test_the_serial_number(image: Path) -> None:
    for serial in ("", "abc", "12345678901234567890"):
        with BlkGuest(image, serial=serial) as guest:
            guest.start()
            assert guest.request(blk_spec.BLK_T_GET_ID, data=20).data == serial.encode().ljust(20, b"\0")


def test_a_read_only_disk(image: Path) -> None:
    content = image.read_bytes()
    with BlkGuest(image, read_only=True) as guest:
        offered = guest.offered()
        assert offered & blk_spec.BLK_F_RO
        assert not offered & (blk_spec.BLK_F_DISCARD | blk_spec.BLK_F_WRITE_ZEROES)
        guest.start()
        assert guest.read_disk(5, 1024) == content[2560:3584]
        assert guest.request(blk_spec.BLK_T_FLUSH).status == blk_spec.BLK_S_OK


# -- the configuration space (5.2.4) -----------------------------------------------------------------------------------


def test_the_configuration_space(image: Path) -> None:
    with BlkGuest(image, queues=3) as guest:
        wanted = (
            blk_spec.BLK_F_SEG_MAX | blk_spec.BLK_F_BLK_SIZE | blk_spec.BLK_F_FLUSH | blk_spec.BLK_F_TOPOLOGY
            | blk_spec.BLK_F_CONFIG_WCE | blk_spec.BLK_F_MQ | blk_spec.BLK_F_DISCARD | blk_spec.BLK_F_WRITE_ZEROES
        )  # fmt: skip
        assert guest.offered() & 0xFF_FFFF == wanted
        raw = bytes(guest.registers.page[0x100 : 0x100 + blk_spec.BLK_CONFIG_SIZE])
        assert struct.unpack(blk_spec.BLK_CONFIG_FORMAT, raw) == (
            SIZE // 512, 0, 254, 0, 0, 0, 512, 3, 0, 8, 0, 1, 3,
            blk.MAX_DISCARD_SECTORS, 64, 8, blk.MAX_DISCARD_SECTORS, 64, 1, 0, 0, 0,
        )  # fmt: skip


def test_resizing_tells_the_driver(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()
        assert guest.config(0, 8) == SIZE // 512
        assert guest.request(blk_spec.BLK_T_IN, SIZE // 512, 512).status == blk_spec.BLK_S_IOERR
        os.truncate(image, 2 * SIZE)
        guest.disk.resize()
        assert guest.wait_irq() & spec.INT_CONFIG
        assert guest.config(0, 8) == 2 * SIZE // 512
        guest.write_disk(SIZE // 512, b"new!" * 128)
        os.truncate(image, SIZE // 2)
        guest.disk.resize()
        assert guest.config(0, 8) == SIZE // 1024
        assert guest.request(blk_spec.BLK_T_IN, SIZE // 512, 512).status == blk_spec.BLK_S_IOERR


def test_a_size_that_cannot_be_changes_nothing(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()
        for size in (0, SIZE + 1):
            os.truncate(image, size)
            with pytest.raises(ConfigError, match="disk"):
                guest.disk.resize()
        assert guest.config(0, 8) == SIZE // 512


WCE = blk_spec.BLK_F_CONFIG_WCE
FLUSH = blk_spec.BLK_F_FLUSH


@pytest.mark.parametrize(
    "cache, without, first, after_1, after_0",
    [
        ("writeback", 0, 1, 1, 0),
        ("writethrough", 0, 0, 1, 0),
        # A driver that did not negotiate CONFIG_WCE cannot change it
        ("writeback", WCE, 1, 1, 1),
        ("writethrough", WCE, 0, 0, 0),
        # One that cannot flush never gets a cache
        ("writeback", FLUSH, 0, 0, 0),
        ("writeback", FLUSH | WCE, 0, 0, 0),
    ],
)
def test_the_cache_mode(image: Path, cache: str, without: int, first: int, after_1: int, after_0: int) -> None:
    with BlkGuest(image, cache=cache) as guest:
        for _ in range(2):  # and a reset brings the first mode back
            guest.start(guest.offered() & ~without)
            modes = [guest.config(blk_spec.BLK_CONFIG_WRITEBACK, 1)]
            for value in (1, 0):
                guest.write(spec.MMIO_CONFIG + blk_spec.BLK_CONFIG_WRITEBACK, value, 1)
                modes.append(guest.config(blk_spec.BLK_CONFIG_WRITEBACK, 1))
                guest.write_disk(3, b"mode" * 128)
                assert guest.read_disk(3, 512) == b"mode" * 128
            assert modes == [first, after_1, after_0]


def rings() -> set[str]:
    """The io_urings of this process."""
    return {fd for fd, link in links_of().items() if "io_uring" in link}


def test_resets_use_the_rings_that_there_are(image: Path) -> None:
    """In a jail nobody can make one: the first worker has one to itself, and all those after it have the other."""
    before = rings()
    with BlkGuest(image, io_uring=True) as guest:
        made = rings() - before
        if not made:
            pytest.skip("this host does not allow io_uring")
        for turn in range(20):
            guest.start()
            for sector in range(8):
                guest.write_disk(sector, bytes([turn + sector]) * 512)
                assert guest.read_disk(sector, 512) == bytes([turn + sector]) * 512
            assert guest.transport.stats()["uring"] == 1
            assert rings() - before <= made
        guest.reset()
        (left,) = rings() - before
        result = ctypes.CDLL(None, use_errno=True).syscall(427, int(left), 8, 0, 0)  # io_uring_register, REGISTER_PROBE
        assert (result, ctypes.get_errno()) == (-1, errno.EACCES), "it has been restricted"
    assert rings() == before


def test_other_fields_cannot_be_written(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()
        before = bytes(guest.registers.page[0x100:0x200])
        for size in (1, 2, 4):
            for offset in range(0, 0x100, size):
                if offset != blk_spec.BLK_CONFIG_WRITEBACK or size > 1:
                    guest.write(spec.MMIO_CONFIG + offset, 0xFFFF_FFFF, size)
        guest.write(spec.MMIO_CONFIG + blk_spec.BLK_CONFIG_WRITEBACK, 2, 1)
        assert bytes(guest.registers.page[0x100:0x200]) == before


# -- the host's side ---------------------------------------------------------------------------------------------------


@IO_URING
def test_a_failing_host_is_an_error_for_the_guest_and_logged_once(
    image: Path, io_uring: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(image, 2 * SIZE)
    with BlkGuest(image, io_uring=io_uring) as guest, caplog.at_level(logging.ERROR):
        guest.start()
        with small_files():
            for _ in range(3):
                assert guest.request(blk_spec.BLK_T_OUT, SIZE // 512 + 5, bytes(512)).status == blk_spec.BLK_S_IOERR
            guest.write_disk(0, b"fine" * 128)
        guest.write_disk(SIZE // 512 + 5, b"fine" * 128)
        guest.wait_for("the log", lambda: caplog.records)
        assert guest.disk.stats()["errors"] == 3
    assert len(caplog.records) == 1
    assert f"{image}: File too large; the guest sees I/O errors" in caplog.records[0].message


def test_statistics(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()
        guest.write_disk(0, bytes(1024))
        guest.read_disk(0, 2048)
        guest.request(blk_spec.BLK_T_FLUSH)
        guest.request(99)
        guest.reset()
        guest.start()
        guest.read_disk(0, 512)
        stats = guest.transport.stats()
        counts = ("reads", "writes", "flushes", "unsupported", "errors", "read_bytes", "write_bytes", "chains")
        assert [stats[name] for name in counts] == [2, 1, 1, 1, 0, 2560, 1024, 5]
        assert int(stats["kicks"]) > 0 and int(stats["irqs"]) > 0


@IO_URING
@pytest.mark.parametrize("direct", [False, True], ids=["cached", "direct"])
def test_a_limit_of_requests(image: Path, io_uring: bool | None, direct: bool) -> None:
    """What goes beyond the burst waits, is done all the same, and nobody spins meanwhile."""
    limit = LimitConfig(ops=400, ops_burst=4)
    with BlkGuest(image, io_uring=io_uring, direct=direct, limit=limit, cpus=2) as guest:
        guest.start()
        began = time.monotonic()
        for at in range(104):
            queue = guest.queues[at % 2]
            assert guest.request(blk_spec.BLK_T_IN, at, 512, queue=queue).status == blk_spec.BLK_S_OK
        # 100 of them at 400 a second
        assert time.monotonic() - began > 0.2
        stats = guest.disk.stats()
        assert stats["limit_waits"] > 10
        assert stats["wakeups"] < 2000


@IO_URING
def test_a_limit_of_bytes_is_that_of_all_queues(image: Path, io_uring: bool | None) -> None:
    limit = LimitConfig(bytes=1 << 20, bytes_burst=4096)
    with BlkGuest(image, io_uring=io_uring, limit=limit, cpus=2) as guest:
        guest.start()
        began = time.monotonic()
        requests = [(guest.submit(blk_spec.BLK_T_IN, 0, 65536, queue=guest.queues[at % 2]), at % 2) for at in range(6)]
        for index in (0, 1):
            guest.queues[index].wait(3)
        # The first of each queue is done at once, perhaps; four times 64 KiB at 1 MiB a second is 1/4 s
        assert time.monotonic() - began > 0.15
        assert all(guest.answer(request).status == blk_spec.BLK_S_OK for request, _ in requests)


@IO_URING
def test_a_limited_disk_stops_at_once(image: Path, io_uring: bool | None) -> None:
    """A reset does not wait for the limit."""
    with BlkGuest(image, io_uring=io_uring, limit=LimitConfig(ops=1, ops_burst=1)) as guest:
        guest.start()
        for at in range(60):
            guest.submit(blk_spec.BLK_T_IN, at, 512)
        guest.reset()
        guest.start()
        assert guest.disk.stats()["reads"] < 10


def test_a_closed_disk_is_free(image: Path) -> None:
    before = descriptors()
    for _ in range(3):
        with BlkGuest(image) as guest:
            guest.start()
            guest.read_disk(0, 512)
    assert descriptors() <= before


def test_a_paused_disk_does_not_touch_memory(image: Path) -> None:
    with BlkGuest(image) as guest:
        queue = guest.start()
        guest.read_disk(0, 512)
        guest.transport.pause()
        request = guest.submit(blk_spec.BLK_T_IN, 0, 512)
        assert guest.answer(request).status is None
        guest.transport.resume()
        assert queue.wait() == [Used(request.head, 513)]
        assert guest.answer(request).status == blk_spec.BLK_S_OK


def threads_of_disks() -> set[str]:
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            name = Path(f"/proc/self/task/{task}/comm").read_text()
        except OSError:
            continue  # it has just ended
        if name.startswith("blk"):
            found.add(task)
    return found


def test_a_pause_ends_no_thread(image: Path) -> None:
    with BlkGuest(image) as guest:
        guest.start()
        guest.read_disk(0, 512)
        # One that was joined may still be seen for a moment
        guest.wait_for("the disk has one thread", lambda: len(threads_of_disks()) == 1)
        before = threads_of_disks()
        for _ in range(3):
            guest.transport.pause()
            guest.transport.resume()
            guest.read_disk(0, 512)
            assert threads_of_disks() == before
        guest.transport.pause()
        guest.reset()
        guest.wait_for("a reset ends it all the same", lambda: threads_of_disks() == set())
        guest.transport.resume()
        guest.start()
        guest.read_disk(0, 512)
        guest.transport.pause()
    guest.wait_for("so does a close", lambda: threads_of_disks() == set())


def test_the_state_of_a_disk_is_data(image: Path) -> None:
    with BlkGuest(image) as guest:
        queue = guest.start()
        guest.write(spec.MMIO_CONFIG + blk_spec.BLK_CONFIG_WRITEBACK, 0, 1)
        guest.write_disk(9, b"save" * 128)
        guest.transport.pause()
        request = guest.submit(blk_spec.BLK_T_IN, 9, 512)
        state = guest.transport.save()
        guest.transport.close()
        disk = blk.Blk(DiskConfig(str(image)))
        guest.registers = MmioRegisters(disk, guest.memory, guest.loop, guest.irq, guest.kicks, packed=guest.packed)
        guest.transport = guest.registers.transport
        guest.transport.restore(state)
        guest.transport.resume()
        assert len(queue.wait()) == 1
        assert guest.answer(request).data == b"save" * 128
        assert guest.config(blk_spec.BLK_CONFIG_WRITEBACK, 1) == 0


# -- overlays (cow=overlay) --------------------------------------------------------------------------------------------


def overlaid(image: Path, overlay: Path | str = "") -> BlkGuest:
    guest = BlkGuest(image, cow="overlay", overlay=str(overlay))
    guest.start()
    return guest


def test_a_write_of_many_segments_to_an_overlay(image: Path) -> None:
    pieces = [bytes([n]) * 512 for n in range(blk.SEG_MAX)]
    with overlaid(image) as guest:
        status = guest.room(1)
        guest.queues[0].send(guest.data(header(blk_spec.BLK_T_OUT, 9)), *map(guest.data, pieces), status)
        assert guest.content(status) == b"\0"
        assert guest.read_disk(9, 512 * blk.SEG_MAX) == b"".join(pieces)


def test_an_overlay_has_what_was_written_and_the_image_has_not(image: Path, tmp_path: Path) -> None:
    before, overlay = image.read_bytes(), tmp_path / "own"
    with overlaid(image, overlay) as guest:
        guest.write_disk(3, b"1" * 512)
        guest.write_disk(2040, b"2" * 4096)
        assert guest.request(blk_spec.BLK_T_WRITE_ZEROES, 0, segment(1000, 50)).status == blk_spec.BLK_S_OK
        model = bytearray(before)
        model[3 * 512 : 4 * 512], model[2040 * 512 :] = b"1" * 512, b"2" * 4096
        model[1000 * 512 : 1050 * 512] = bytes(50 * 512)
        assert guest.read_disk(0, SIZE) == model
        with pytest.raises(ConfigError, match="keeps its size"):
            guest.disk.resize()
        # Others may read the image meanwhile, and have overlays of their own over it
        with overlaid(image) as other:
            assert other.read_disk(0, SIZE) == before
            other.write_disk(0, b"3" * 512)
        with pytest.raises(ConfigError, match=rf"overlay {overlay}: in use by"):
            overlaid(image, overlay)
        with pytest.raises(ConfigError, match=r"disk\.img: in use"):
            BlkGuest(image)
    # Closed in good order, without a flush of the guest's
    with overlaid(image, overlay) as guest:
        assert guest.read_disk(0, SIZE) == model
    assert image.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.img", "own"]
    assert overlay.stat().st_blocks * 512 < 64 << 10


def test_an_overlay_that_does_not_fit_is_refused_by_name(image: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "own"
    with overlaid(image, overlay) as guest:
        guest.write_disk(0, b"1" * 512)
    good, times = overlay.read_bytes(), image.stat()

    def refused(match: str, path: Path = overlay, base: Path = image) -> None:
        with pytest.raises(ConfigError, match=match) as caught:
            overlaid(base, path)
        assert str(path) in str(caught.value)

    for damage, match in (
        (bytes(len(good)), "not an overlay"),
        (b"QFI\xfb" + good[4:], "not an overlay"),
        (good[:20], "damaged"),
        (good[:30] + bytes([good[30] ^ 1]) + good[31:], "checksum"),
        (good[:-1], "damaged: it has"),
        (good + b"\0", "damaged: it has"),
        (good[:8192], "damaged: it has"),
    ):
        overlay.write_bytes(damage)
        refused(match)
        assert overlay.read_bytes() == damage, "nothing was changed"
    overlay.write_bytes(good)
    os.utime(image)
    refused("was changed since")
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    other = tmp_path / "other.img"
    other.write_bytes(bytes(2 * SIZE))
    refused(f"it is for an image of {SIZE} bytes", base=other)
    os.mkfifo(tmp_path / "fifo")
    refused("no file", tmp_path / "fifo")
    refused("the image itself", image)
    refused("No such file", tmp_path / "none" / "own")
    refused("directory", tmp_path)
    # A process that was killed while it made one left this, or nothing
    for begun in (b"", good[:52]):
        overlay.write_bytes(begun)
        with overlaid(image, overlay) as guest:
            assert guest.read_disk(0, SIZE) == image.read_bytes()
        overlay.unlink()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cow": "qcow2"}, "not one of"),
        ({"overlay": "own"}, "cow=overlay only"),
        ({"cow": "overlay", "read_only": True}, "read-only"),
        ({"cow": "overlay", "direct": True}, "direct"),
    ],
)
def test_what_goes_with_no_overlay(options: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DiskConfig("disk.img", **options)  # type: ignore[arg-type]


KILLED = """
import sys
from tests.blk_driver import BlkGuest
from vmm.virtio.blk.device import BLK_T_FLUSH
guest = BlkGuest(sys.argv[1], cow="overlay", overlay=sys.argv[2])
guest.start()
n = int(sys.argv[3])
while True:
    n += 1
    guest.write_disk(n % 97 * 21, n.to_bytes(8, "little") * 64)
    if n % 3 == 0:
        assert guest.request(BLK_T_FLUSH).status == 0
        print(n, flush=True)
"""


def test_a_flush_that_was_answered_outlives_kill_9(image: Path, tmp_path: Path) -> None:
    before, overlay, flushed = image.read_bytes(), tmp_path / "own", 0
    for least in (1, 40, 150):
        command = [sys.executable, "-c", KILLED, str(image), str(overlay), str(flushed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(least):
                flushed = int(writer.stdout.readline())
            writer.kill()
            # What it said before it died
            flushed = max([flushed, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        with overlaid(image, overlay) as guest:
            for n in range(max(1, flushed - 96), flushed + 1):
                found = guest.read_disk(n % 97 * 21, 512)
                written = int.from_bytes(found[:8], "little")
                assert written >= n and written % 97 == n % 97 and found == found[:8] * 64
    assert image.read_bytes() == before
