"""Requests that a driver must not make of a disk (virtio 1.2, 5.2.6), and hosts that fail.

A request that is well-formed as a chain but bad as a request gets a status byte; the disk goes on working.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blk_driver import BlkGuest, header, segment
from tests.driver import Buffer
from vmm.virtio import spec
from vmm.virtio.blk import device as blk
from vmm.virtio.blk import device as blk_spec

SIZE = 1 << 20
SECTORS = SIZE // 512
OK, IOERR, UNSUPP = blk_spec.BLK_S_OK, blk_spec.BLK_S_IOERR, blk_spec.BLK_S_UNSUPP
IN, OUT, FLUSH, GET_ID = blk_spec.BLK_T_IN, blk_spec.BLK_T_OUT, blk_spec.BLK_T_FLUSH, blk_spec.BLK_T_GET_ID
DISCARD, ZEROES = blk_spec.BLK_T_DISCARD, blk_spec.BLK_T_WRITE_ZEROES


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture(params=[None, True, False], ids=["auto", "io_uring", "sync"])
def guest(request: pytest.FixtureRequest, image: Path) -> Iterator[BlkGuest]:
    content = image.read_bytes()
    with BlkGuest(image, io_uring=request.param, serial="SERIAL-0123456789-XY") as guest:
        guest.start()
        yield guest
        assert not guest.status & spec.DEVICE_NEEDS_RESET
        assert guest.read_disk(7, 512) == content[3584:4096], "it goes on working"
    assert image.read_bytes() == content, "nothing was written"


OUT_OF_DISK = {
    "at the end": (SECTORS, 512),
    "over the end by one sector": (SECTORS - 1, 1024),
    "far behind the end": (1 << 40, 512),
    "sector times 512 overflows": (1 << 55, 512),
    "sector times 512 overflows to the start": ((1 << 55) + 1, 512),
    "sector plus count overflows": ((1 << 64) - 1, 512),
    "sector plus count overflows by two": ((1 << 64) - 1, 1024),
    "sector as a negative number": (1 << 63, 512),
}


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("sector, length", OUT_OF_DISK.values(), ids=OUT_OF_DISK.keys())
def test_requests_past_the_end(guest: BlkGuest, kind: int, sector: int, length: int) -> None:
    answer = guest.request(kind, sector, length if kind == IN else b"\xaa" * length)
    assert answer.status == IOERR
    if kind == IN:
        assert answer.data == b"\xee" * length, "no data came"


@pytest.mark.parametrize("length", [1, 511, 513, 1000, 4095])
@pytest.mark.parametrize("kind", [IN, OUT])
def test_sizes_that_are_not_a_multiple_of_512(guest: BlkGuest, kind: int, length: int) -> None:
    assert guest.request(kind, 0, length if kind == IN else b"\xaa" * length).status == IOERR


@pytest.mark.parametrize("count", [blk.SEG_MAX + 1, 400, 1000])
def test_more_segments_than_allowed(guest: BlkGuest, count: int) -> None:
    room, status = guest.room(512), guest.room(1)
    guest.queues[0].send(guest.data(header(IN)), *[room] * count, status, indirect=True)
    assert guest.content(status) == bytes([IOERR])


@pytest.mark.parametrize("kind", [2, 3, 5, 6, 7, 9, 10, 12, 14, 99, 0x8000_0000, 0xFFFF_FFFF])
def test_unknown_types(guest: BlkGuest, kind: int) -> None:
    for data in (None, 512, b"\xaa" * 512):
        assert guest.request(kind, 0, data).status == UNSUPP


@pytest.mark.parametrize("kind", [OUT, DISCARD, ZEROES])
def test_writes_to_a_read_only_disk(image: Path, kind: int) -> None:
    content = image.read_bytes()
    with BlkGuest(image, read_only=True) as guest:
        guest.start()
        answer = guest.request(kind, 0, b"\xaa" * 512 if kind == OUT else segment(0, 8))
        assert answer.status in (IOERR, UNSUPP)
        assert guest.read_disk(0, 512) == content[:512]
        guest.write(spec.MMIO_CONFIG + blk_spec.BLK_CONFIG_WRITEBACK, 0, 1)
    assert image.read_bytes() == content


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 64])
def test_get_id_into_a_buffer_of_any_length(guest: BlkGuest, length: int) -> None:
    with guest.scratch():
        buffers = [guest.room(length)] if length else []
        behind, status = guest.room(32), guest.room(1)
        guest.queues[0].send(guest.data(header(GET_ID)), *buffers, status)
        assert guest.content(status) in (bytes([OK]), bytes([IOERR]))
        if guest.content(status) == bytes([OK]) and length:
            data = guest.content(buffers[0])
            assert data == b"SERIAL-0123456789-XY"[:length] + b"\xee" * max(0, length - 20)
        assert guest.content(behind) == b"\xee" * 32


BAD_SEGMENTS = {
    "none": b"",
    "a part of one": segment(0, 8)[:15],
    "one and a part": segment(0, 8) + b"\0",
    "too many": segment(0, 1) * (blk.MAX_DISCARD_SEGMENTS + 1),
    "far too many": segment(0, 1) * 2000,
    "behind the end": segment(SECTORS, 1),
    "over the end": segment(SECTORS - 1, 2),
    "sector plus count overflows": segment((1 << 64) - 1, 2),
    "sector times 512 overflows": segment(1 << 55, 8),
    "more sectors than allowed": segment(0, blk.MAX_DISCARD_SECTORS + 1),
    "all sectors there can be": segment(0, 0xFFFF_FFFF),
    "unknown flags": segment(0, 8, 2),
    "all flags": segment(0, 8, 0xFFFF_FFFF),
    "a bad one behind a good one": segment(0, 0) + segment(SECTORS, 1),
}


@pytest.mark.parametrize("kind", [DISCARD, ZEROES])
@pytest.mark.parametrize("data", BAD_SEGMENTS.values(), ids=BAD_SEGMENTS.keys())
def test_segments_that_cannot_be(guest: BlkGuest, kind: int, data: bytes) -> None:
    assert guest.request(kind, 0, data).status in (IOERR, UNSUPP)


def test_a_bad_segment_behind_a_good_one_changes_nothing(guest: BlkGuest) -> None:
    for kind in (DISCARD, ZEROES):
        assert guest.request(kind, 0, segment(0, 8) + segment(SECTORS, 1)).status == IOERR


def test_unmap_on_a_discard(guest: BlkGuest) -> None:
    assert guest.request(DISCARD, 0, segment(0, 8, blk_spec.BLK_RANGE_F_UNMAP)).status == UNSUPP


@pytest.mark.parametrize("length", [0, 1, 8, 15])
def test_headers_cut_short(guest: BlkGuest, length: int) -> None:
    status = guest.room(1)
    buffers = [guest.data(header(IN)[:length])] if length else []
    guest.queues[0].send(*buffers, status)
    assert guest.content(status) == bytes([IOERR])


def test_no_room_for_a_status(image: Path) -> None:
    content = image.read_bytes()
    with BlkGuest(image) as guest:
        for buffers in ([header(OUT), b"\xaa" * 512], [header(OUT)], [b"\0"]):
            queue = guest.start()
            queue.offer(queue.chain([guest.data(data) for data in buffers]))
            queue.kick()
            guest.wait_needs_reset()
        guest.start()
        guest.read_disk(0, 512)
    assert image.read_bytes() == content


@pytest.mark.parametrize("cuts", [(1,), (8,), (15,), (1, 2, 3, 4), tuple(range(1, 16))])
def test_headers_in_pieces(guest: BlkGuest, image: Path, cuts: tuple[int, ...]) -> None:
    """Legal since 1.0 (2.7.4.3): nobody may rely on the framing."""
    whole = header(IN, 3)
    pieces = [whole[a:b] for a, b in zip((0, *cuts), (*cuts, 16), strict=True)]
    room, status = guest.room(512), guest.room(1)
    guest.queues[0].send(*[guest.data(piece) for piece in pieces], room, status)
    assert guest.content(status) == bytes([OK])
    assert guest.content(room) == image.read_bytes()[1536:2048]


def test_status_behind_the_data_in_one_buffer(guest: BlkGuest, image: Path) -> None:
    room = guest.room(513)
    guest.queues[0].send(guest.data(header(IN, 3)), room)
    assert guest.content(room) == image.read_bytes()[1536:2048] + bytes([OK])


def test_header_and_data_in_one_buffer(image: Path) -> None:
    with BlkGuest(image) as guest:
        status = guest.room(1)
        guest.start().send(guest.data(header(OUT, 3) + b"\xaa" * 512), status)
        assert guest.content(status) == bytes([OK])
    assert image.read_bytes()[1536:2048] == b"\xaa" * 512


@pytest.mark.parametrize("kind", [IN, OUT, FLUSH])
def test_nothing_to_do(guest: BlkGuest, kind: int) -> None:
    assert guest.request(kind, 0).status == OK


def test_a_flush_with_data(guest: BlkGuest) -> None:
    assert guest.request(FLUSH, 0, b"\xaa" * 512).status in (OK, IOERR)
    assert guest.request(FLUSH, 1 << 60).status in (OK, IOERR)


@pytest.mark.parametrize("target", ["desc", "avail", "used", "header"])
def test_a_read_into_the_rings_and_the_request_itself(image: Path, target: str) -> None:
    """The disk's data land on what it is working from: on its own copy that changes nothing."""
    with BlkGuest(image) as guest:
        queue = guest.start()
        first = guest.data(header(IN))
        gpa = first.gpa if target == "header" else getattr(queue, target)
        queue.offer(queue.chain([first, Buffer(gpa, 512, writable=True), status := guest.room(1)]))
        queue.kick()
        guest.wait_for("the answer", lambda: guest.content(status) == b"\0")
        guest.start()
        assert guest.read_disk(0, 512) == image.read_bytes()[:512]


def test_a_format_guessed_from_content(image: Path) -> None:
    """The guest writes a qcow2 header that names a file of the host; the disk stays raw."""
    fake = b"QFI\xfb\0\0\0\3" + (104).to_bytes(8, "big") + (11).to_bytes(4, "big") + bytes(80) + b"/etc/passwd"
    with BlkGuest(image) as guest:
        guest.start()
        guest.write_disk(0, fake.ljust(512, b"\0"))
    with BlkGuest(image) as guest:
        guest.start()
        assert guest.config(0, 8) == SECTORS
        assert guest.read_disk(0, 512) == fake.ljust(512, b"\0")


@pytest.mark.parametrize("io_uring", [None, True, False], ids=["auto", "io_uring", "sync"])
def test_an_image_that_was_cut_off_under_the_disk(image: Path, io_uring: bool | None) -> None:
    with BlkGuest(image, io_uring=io_uring) as guest:
        guest.start()
        os.truncate(image, SIZE // 2)
        answer = guest.request(IN, SECTORS - 8, 4096)
        assert answer.status == IOERR
        assert guest.request(IN, 0, 512).status == OK


FULL = """
import errno, logging, sys
from tests.blk_driver import BlkGuest
from vmm.virtio.blk import device as blk_spec
logging.basicConfig(stream=sys.stdout, format="%(message)s")
io_uring = {"auto": None, "io_uring": True, "sync": False}[sys.argv[2]]
path = sys.argv[1] + "/disk.img"
with open(path, "wb") as image:
    image.truncate(16 << 20)
with BlkGuest(path, io_uring=io_uring) as guest:
    guest.start()
    statuses = [guest.request(blk_spec.BLK_T_OUT, 512 * at, bytes([at + 1]) * 65536).status for at in range(60)]
    good = statuses.index(blk_spec.BLK_S_IOERR)
    assert set(statuses[good:]) == {blk_spec.BLK_S_IOERR}, statuses
    for at in range(good):
        assert guest.read_disk(512 * at, 65536) == bytes([at + 1]) * 65536
    assert guest.disk.stats()["last_errno"] == errno.ENOSPC
    assert guest.request(blk_spec.BLK_T_DISCARD, data=b"".join(
        (512 * at).to_bytes(8, "little") + (128).to_bytes(8, "little") for at in range(good))).status == 0
    guest.write_disk(0, bytes(65536))
print("good:", good)
"""


@pytest.mark.parametrize("io_uring", ["auto", "io_uring", "sync"])
def test_a_host_without_space(tmp_path: Path, io_uring: str) -> None:
    """ENOSPC is an error of the request, said once; the disk lives, and works when there is space again."""
    unshare = shutil.which("unshare")
    mount = ["sh", "-c", f'mount -t tmpfs -o size=2m none {tmp_path} && exec "$@"', "sh"]
    command = [unshare or "unshare", "-rm", *mount]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system of its own")
    run = subprocess.run(
        [*command, sys.executable, "-c", FULL, str(tmp_path), io_uring], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert [line for line in lines if "No space left on device" in line] == lines[:1]
    assert 20 <= int(lines[-1].removeprefix("good: ")) <= 32


BROKEN = """
import ctypes, errno, os, struct, sys, threading
from tests.blk_driver import BlkGuest
from vmm.virtio.blk import device as blk_spec
folder, how = sys.argv[1:]
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40755,user_id=0,group_id=0" % fuse
assert not ctypes.CDLL(None).mount(b"broken", folder.encode(), b"fuse", ctypes.c_ulong(0), options)
content, broken, bad = bytearray(1 << 20), threading.Event(), 1 << 19
def attributes(node):
    size, mode = (len(content), 0o100600) if node == 2 else (0, 0o40755)
    return struct.pack("6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def answer(opcode, node, data):
    if opcode == 26:  # FUSE_INIT
        return struct.pack("4I2H2I2H2I24x", 7, 31, 0, 0, 0, 0, 1 << 16, 1, 0, 0, 0, 0)
    if opcode == 1 and data == b"disk\\0":
        return struct.pack("4Q2I", 2, 0, 1, 1, 0, 0) + attributes(2)
    if opcode in (3, 4):
        return struct.pack("Q2I", 1, 0, 0) + attributes(node)
    if opcode == 14:
        return struct.pack("Q2I", 0, 1, 0)  # FOPEN_DIRECT_IO: nothing is in the host's memory
    if opcode in (18, 25, 34):
        return b""
    if opcode == 17:
        return struct.pack("5Q3I28x", 0, 0, 0, 0, 0, 4096, 255, 4096)
    if opcode in (15, 16):
        _, at, size = struct.unpack_from("QQI", data)
        if broken.is_set() and at + size > bad:
            return errno.EIO
        if opcode == 15:
            return bytes(content[at : at + size])
        content[at : at + size] = data[40 : 40 + size]
        return struct.pack("2I", size, 0)
    if opcode == 20:
        return errno.EIO if broken.is_set() else b""
    return errno.ENOSYS
def serve():
    while True:
        request = os.read(fuse, 1 << 18)
        _, opcode, unique, node = struct.unpack_from("IIQQ", request)
        if opcode in (2, 36, 42):
            continue
        told = answer(opcode, node, request[40:])
        failed, told = (-told, b"") if isinstance(told, int) else (0, told)
        os.write(fuse, struct.pack("Iiq", 16 + len(told), failed, unique) + told)
threading.Thread(target=serve, daemon=True).start()
kind = {"auto": None, "io_uring": True, "sync": False}[how]
with BlkGuest(folder + "/disk", io_uring=kind) as guest:
    guest.start()
    for at in (0, bad):
        guest.write_disk(at // 512, bytes([7]) * 8192)
    broken.set()
    assert guest.read_disk(0, 8192) == bytes([7]) * 8192
    for _ in range(3):
        assert guest.request(blk_spec.BLK_T_IN, bad // 512, 8192).status == blk_spec.BLK_S_IOERR
        assert guest.request(blk_spec.BLK_T_IN, bad // 512 - 1, 1024).status == blk_spec.BLK_S_IOERR
        assert guest.request(blk_spec.BLK_T_OUT, bad // 512, bytes(8192)).status == blk_spec.BLK_S_IOERR
        assert guest.request(blk_spec.BLK_T_FLUSH).status == blk_spec.BLK_S_IOERR
    assert guest.disk.stats()["last_errno"] == errno.EIO
    guest.write_disk(16, bytes([8]) * 512)
    broken.clear()
    assert guest.read_disk(bad // 512, 8192) == bytes([7]) * 8192, "what was not written is what was there"
    guest.write_disk(bad // 512, bytes([9]) * 8192)
    assert guest.request(blk_spec.BLK_T_FLUSH).status == blk_spec.BLK_S_OK
assert content[8192:8704] == bytes([8]) * 512 and content[bad : bad + 8192] == bytes([9]) * 8192
os._exit(0)  # the thread waits for requests
"""


@pytest.mark.parametrize("io_uring", ["auto", "io_uring", "sync"])
def test_a_host_whose_disk_fails(tmp_path: Path, io_uring: str) -> None:
    """EIO of reads, writes and flushes, of a file system of the test's own: as ENOSPC is."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse here")
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this user cannot mount a file system of its own")
    command = ["unshare", "-m", sys.executable, "-c", BROKEN, str(tmp_path), io_uring]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr.count("Input/output error") == 1
