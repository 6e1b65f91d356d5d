"""virtio-fs: requests that are not what they say.  The server answers with an errno, or the device wants a reset."""

from __future__ import annotations

import errno
import os
import random
import struct
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import ROOT, FsGuest, cstr
from tests.fs_requests import every_request
from vmm.memory import GuestMemory


def alive(guest: FsGuest) -> None:
    """The server still serves."""
    assert guest.lookup("file").attr.size == 10000


def test_lengths_that_disagree_with_the_chain(guest: FsGuest) -> None:
    good = guest.header(f.LOOKUP, ROOT, 5) + cstr("file")
    for length in (0, 1, 39, 40, 44, 46, 1 << 20, 0xFFFF_FFFF):
        raw = struct.pack("<I", length) + good[4:]
        answer = guest.room(4096)
        used = guest.queues[1].send(guest.data(raw), answer)
        assert used.written == 16
        assert f.OUT.unpack(guest.content(answer)[:16]) == (16, -errno.EINVAL, guest.unique)
    alive(guest)


def test_arguments_that_are_cut_short(guest: FsGuest, share: Path) -> None:
    for opcode, node, parts in every_request(ROOT, 1):
        raw = b"".join(parts)
        fixed = len(parts[0]) if parts else 0
        for length in range(fixed):
            assert guest.errno_of(opcode, node, raw[:length]) == errno.EINVAL, f"opcode {opcode}, {length} bytes"
    assert sorted(os.listdir(share)) == ["dir", "file"]
    alive(guest)


def test_answers_that_do_not_fit(guest: FsGuest, share: Path) -> None:
    """Nothing is made, opened or looked up that could not be told of."""
    folder = guest.lookup("dir").node
    before = guest.share.stats()
    file = guest.lookup("file").node
    fh = guest.open(file, os.O_RDWR)
    for opcode, node, parts in every_request(folder, fh):
        if opcode in (f.UNLINK, f.RMDIR, f.RENAME, f.RENAME2, f.ACCESS, f.RELEASE, f.FSYNC, f.FLUSH, f.SETLK, f.SETLKW):
            continue  # no payload
        for room in (0, 1, 7):
            assert guest.errno_of(opcode, node, *parts, room=room) != 0 or opcode in (
                f.FALLOCATE, f.SETXATTR, f.READDIR, f.READDIRPLUS, f.SYNCFS, f.SETATTR, f.REMOVEXATTR,
            ), f"opcode {opcode}"  # fmt: skip
    guest.release(fh)
    guest.forget(file)
    guest.wait_for("the node to go", lambda: guest.share.stats()["nodes"] == before["nodes"])
    assert guest.share.stats()["files"] == before["files"]
    assert os.listdir(share / "dir") == []
    assert sorted(os.listdir(share)) == ["dir", "file"]


def test_a_read_larger_than_its_buffers(guest: FsGuest) -> None:
    fh = guest.open(guest.lookup("file").node)
    folder = guest.open(ROOT, opcode=f.OPENDIR)
    for size, room in ((4097, 4096), (0xFFFF_FFFF, 4096), (1, 0)):
        with guest.scratch():
            fence = guest.room(64)
            body = struct.pack("<QQIIQII", fh, 0, size, 0, 0, 0, 0)
            assert guest.errno_of(f.READ, ROOT, body, room=room) == errno.EINVAL
            body = struct.pack("<QQIIQII", folder, 0, size, 0, 0, 0, 0)
            assert guest.errno_of(f.READDIR, ROOT, body, room=room) == errno.EINVAL
            assert guest.content(fence) == b"\xee" * 64
    body = struct.pack("<QQIIQII", fh, 1 << 63, 10, 0, 0, 0, 0)
    assert guest.errno_of(f.READ, ROOT, body) == errno.EINVAL


def test_a_write_that_says_another_size_than_it_brings(guest: FsGuest, share: Path) -> None:
    fh = guest.open(guest.lookup("file").node, os.O_RDWR)
    for size in (0, 3, 5, 4096, 0xFFFF_FFFF):
        body = struct.pack("<QQIIQII", fh, 0, size, 0, 0, 0, 0)
        assert guest.errno_of(f.WRITE, ROOT, body, b"four") == errno.EINVAL
    body = struct.pack("<QQIIQII", fh, (1 << 64) - 1, 4, 0, 0, 0, 0)
    assert guest.errno_of(f.WRITE, ROOT, body, b"four") == errno.EINVAL
    body = struct.pack("<QQIIQII", fh, (1 << 63) - 2, 4, 0, 0, 0, 0)
    assert guest.errno_of(f.WRITE, ROOT, body, b"four") in (errno.EINVAL, errno.EFBIG)
    assert (share / "file").read_bytes() == b"x" * 10000


def test_requests_that_are_too_long(guest: FsGuest) -> None:
    node = guest.lookup("file").node
    for size in (65537, 1 << 17, 1 << 20):
        body = struct.pack("<4I", size, 0, 0, 0)
        assert guest.errno_of(f.SETXATTR, node, body, cstr("user.x"), bytes(size)) == errno.E2BIG
    assert guest.errno_of(f.LOOKUP, ROOT, b"n" * (1 << 20)) == errno.E2BIG
    for size, said in ((10, 9), (10, 11), (0, 1)):
        body = struct.pack("<4I", said, 0, 0, 0)
        assert guest.errno_of(f.SETXATTR, node, body, cstr("user.x"), bytes(size)) == errno.EINVAL


@pytest.mark.parametrize("name", [b"", b"\0", b"no-end", b"user." + b"x" * 251 + b"\0", b"user.x\0more"])
def test_attribute_names_that_are_none(guest: FsGuest, name: bytes) -> None:
    node = guest.lookup("file").node
    wrong = (errno.EINVAL, errno.ERANGE)
    assert guest.errno_of(f.SETXATTR, node, struct.pack("<4I", 0, 0, 0, 0), name) in wrong
    assert guest.errno_of(f.GETXATTR, node, struct.pack("<II", 100, 0), name) in wrong
    assert guest.errno_of(f.REMOVEXATTR, node, name) in wrong
    alive(guest)


def test_a_read_only_share_written_through_every_request(share: Path) -> None:
    with FsGuest(share, read_only=True, acl=True) as guest:
        file, folder = guest.lookup("file").node, guest.lookup("dir").node
        fh = guest.open(file)
        before = {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in (share, *share.iterdir())}
        reading = {
            f.LOOKUP, f.GETATTR, f.STATX, f.ACCESS, f.STATFS, f.READLINK, f.OPENDIR, f.READ, f.FLUSH, f.FSYNC,
            f.FSYNCDIR,
            f.READDIR, f.READDIRPLUS, f.LSEEK, f.SYNCFS, f.GETXATTR, f.LISTXATTR, f.GETLK, f.SETLK, f.SETLKW,
            f.RELEASE, f.RELEASEDIR, f.OPEN,
        }  # fmt: skip
        for node in (file, folder, ROOT):
            for opcode, at, parts in every_request(node, fh):
                if opcode not in reading:
                    assert guest.errno_of(opcode, at, *parts) == errno.EROFS, f"opcode {opcode}"
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT, 3):
            assert guest.errno_of(f.OPEN, file, struct.pack("<II", flags, 0)) == errno.EROFS
        assert guest.errno_of(f.ACCESS, file, struct.pack("<II", os.W_OK, 0)) == errno.EROFS
        assert {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in before} == before
        assert guest.read_file(guest.open(file), 0, 10) == b"x" * 10


def test_nothing_before_init(share: Path) -> None:
    with FsGuest(share, mount=False) as guest:
        guest.start()
        for opcode, node, parts in every_request(ROOT, 1):
            assert guest.errno_of(opcode, node, *parts) == errno.EIO, f"opcode {opcode}"
        for length in range(16):
            assert guest.errno_of(f.INIT, 0, bytes(length)) == errno.EINVAL
        assert guest.errno_of(f.INIT, 0, struct.pack("<5I44x", 7, 41, 0, 0, 0), room=63) == errno.EINVAL
        guest.mount()
        alive(guest)


def test_a_header_in_pieces(guest: FsGuest) -> None:
    """2.7.4: nobody said that a header is one buffer."""
    raw = guest.header(f.LOOKUP, ROOT, 5) + cstr("file")
    answer = [guest.room(1) for _ in range(16)] + [guest.room(3), guest.room(125)]
    used = guest.queues[1].send(*[guest.data(raw[at : at + 1]) for at in range(len(raw))], *answer)
    number, unique, payload = guest.answer(answer, used.written)
    assert (number, unique) == (0, guest.unique)
    assert f.Entry.of(payload).attr.size == 10000


@pytest.mark.parametrize("length", [1, 15, 39])
def test_a_chain_without_a_header(guest: FsGuest, length: int) -> None:
    queue = guest.queues[1]
    queue.offer(queue.chain([guest.data(bytes(length)), guest.room(100)]))
    queue.kick()
    guest.wait_needs_reset()
    guest.start()
    guest.mount()
    alive(guest)


@pytest.mark.parametrize("room", [0, 1, 15])
def test_a_chain_without_room_for_an_answer(guest: FsGuest, room: int) -> None:
    queue = guest.queues[1]
    raw = guest.data(guest.header(f.GETATTR, ROOT, 16) + bytes(16))
    queue.offer(queue.chain([raw, *([guest.room(room)] if room else [])]))
    queue.kick()
    guest.wait_needs_reset()
    guest.start()
    guest.mount()
    alive(guest)


def test_extensions_that_are_none(guest: FsGuest, share: Path) -> None:
    body = struct.pack("<4I", os.O_RDWR, 0o644, 0, 0)
    for raw, units in (
        (b"", 1), (b"", 0xFFFF), (bytes(8), 1), (struct.pack("<II", 4, 32), 1), (struct.pack("<II", 16, 32), 1),
        (struct.pack("<II", 9, 32), 1), (struct.pack("<IIII", 16, 32, 9, 0) + bytes(8), 3),
    ):  # fmt: skip
        assert guest.errno_of(f.CREATE, ROOT, body, cstr("made"), raw, ext=units) == errno.EINVAL
    assert not (share / "made").exists()
    # of a kind that is not known, and a number of groups that is not one: ignored
    for raw in (struct.pack("<IIII", 16, 99, 1, 0), struct.pack("<IIII", 16, 32, 5, 0)):
        guest.create("made", extension=raw, ext=2)


def test_noise(share: Path) -> None:
    """Anything as any request: answered, and the share is what is hit, at most."""
    luck = random.Random(11)
    with FsGuest(share, memory=GuestMemory(32 << 20), queues=2) as guest:
        nodes = [ROOT, guest.lookup("dir").node, guest.lookup("file").node, 0, (1 << 64) - 1]
        files = [guest.open(nodes[2], os.O_RDWR), guest.open(ROOT, opcode=f.OPENDIR)]
        for _ in range(4000):
            opcode = luck.choice(
                [n for n in range(60) if n not in (f.DESTROY, f.SETLKW, f.FORGET, f.INTERRUPT, f.BATCH_FORGET)]
            )
            body = bytearray(luck.randbytes(luck.choice([0, 8, 16, 24, 40, 56, 88, 200])))
            if len(body) >= 8 and luck.random() < 0.5:
                body[:8] = struct.pack("<Q", luck.choice(files + nodes))
            if luck.random() < 0.3:
                body += cstr(luck.choice(["file", "dir", "new", "..", "a/b", "user.x"]))
            if luck.random() < 0.3:
                body[8:] = bytes(len(body[8:]))
            guest.errno_of(opcode, luck.choice(nodes), bytes(body), queue=guest.queues[luck.choice([0, 1, 2])])
        assert guest.getattr(ROOT).nlink > 0
    assert sorted(os.listdir(share.parent)) == ["secret", "share"]
