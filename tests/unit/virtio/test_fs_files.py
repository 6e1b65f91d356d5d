"""virtio-fs: the data of files, extended attributes, locks."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fs_driver as f
from tests.driver import Buffer
from tests.fs_driver import ROOT, FsGuest, cstr
from vmm.memory import GuestMemory

BIG = 1 << 20


@pytest.fixture(params=[True, False], ids=["handles", "names"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FsGuest]:
    with FsGuest(tmp_path, handles=request.param, max_fds=16, memory=GuestMemory(32 << 20)) as made:
        yield made


def opened(guest: FsGuest, path: Path, content: bytes = b"", flags: int = os.O_RDWR) -> tuple[int, int]:
    """A file of the host, as ``(node, fh)``."""
    path.write_bytes(content)
    node = guest.lookup(path.name).node
    return node, guest.open(node, flags)


def test_a_megabyte_in_pages(guest: FsGuest, tmp_path: Path) -> None:
    content = os.urandom(BIG)
    node, fh = opened(guest, tmp_path / "file", content)
    with guest.scratch():
        base = guest.alloc(2 * BIG, 4096)
        # every other page, last first: nothing of it can be joined
        pages = [Buffer(base + 8192 * n, 4096, writable=True) for n in reversed(range(256))]
        body = struct.pack("<QQIIQII", fh, 0, BIG, 0, 0, 0, 0)
        head = guest.data(guest.header(f.READ, node, len(body)) + body)
        used = guest.queues[1].send(head, guest.room(16), *pages, indirect=True)
        assert used.written == 16 + BIG
        assert b"".join(guest.content(page) for page in pages) == content
        again = [Buffer(page.gpa, 4096) for page in reversed(pages)]
        body = struct.pack("<QQIIQII", fh, 100, BIG, 0, 0, 0, 0)
        head = guest.data(guest.header(f.WRITE, node, len(body) + BIG) + body)
        answer = guest.room(24)
        guest.queues[1].send(head, *again, answer, indirect=True)
        assert struct.unpack("<IiQII", guest.content(answer))[4 - 1] == BIG
    turned = b"".join(content[at : at + 4096] for at in reversed(range(0, BIG, 4096)))
    assert (tmp_path / "file").read_bytes() == content[:100] + turned


def test_reading_around_the_end(guest: FsGuest, tmp_path: Path) -> None:
    _, fh = opened(guest, tmp_path / "file", b"0123456789")
    assert guest.read_file(fh, 0, 5) == b"01234"
    assert guest.read_file(fh, 8, 5) == b"89"
    assert guest.read_file(fh, 10, 5) == b""
    assert guest.read_file(fh, 1 << 40, 5) == b""
    assert guest.read_file(fh, 0, 0) == b""
    assert guest.read_file(fh, 2, 3, room=100) == b"234", "not more than was asked for, however much room there is"


NO_FILE, READ_BY_NODE = (1 << 64) - 1, 1 << 30


def test_reading_a_file_that_is_not_open(guest: FsGuest, tmp_path: Path) -> None:
    """A feature of our own: one request, and the rules of OPEN."""

    def read(node: int, offset: int = 0, size: int = 100) -> bytes:
        return guest.call(f.READ, node, struct.pack("<QQIIQII", NO_FILE, offset, size, 0, 0, 0, 0), room=size)

    def errno_of(node: int) -> int:
        body = struct.pack("<QQIIQII", NO_FILE, 0, 100, 0, 0, 0, 0)
        return guest.errno_of(f.READ, node, body, room=100)

    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    file, link, folder, fifo = (guest.lookup(name).node for name in ("file", "link", "folder", "fifo"))
    assert (read(file), read(file, 8), read(file, 20), read(file, 2, 3)) == (b"0123456789", b"89", b"", b"234")
    assert guest.device.stats()["files"] == 0
    assert [errno_of(node) for node in (link, folder, fifo)] == [errno.ELOOP, errno.EISDIR, errno.ENXIO]
    assert errno_of(file + 1000) == errno.ESTALE
    guest.mount(flags2=0xFFFF_FFFF & ~READ_BY_NODE)
    assert errno_of(guest.lookup("file").node) == errno.EBADF, "not negotiated"


def test_writing(guest: FsGuest, tmp_path: Path) -> None:
    _, fh = opened(guest, tmp_path / "file", b"0123")
    assert guest.write_file(fh, b"xy", 1) == 2
    assert guest.write_file(fh, b"end", 8) == 3
    assert (tmp_path / "file").read_bytes() == b"0xy3\0\0\0\0end"
    _, reader = opened(guest, tmp_path / "other", b"", os.O_RDONLY)
    body = struct.pack("<QQIIQII", reader, 0, 1, 0, 0, 0, 0)
    assert guest.errno_of(f.WRITE, ROOT, body, b"x") == errno.EBADF


def test_an_answer_to_a_write_has_the_attributes(guest: FsGuest, tmp_path: Path) -> None:
    """Another feature of our own: the time of the change that this write has made."""
    guest.mount(flags2=f.ALL_FLAGS)
    _, fh = opened(guest, tmp_path / "file", b"0123")
    body = struct.pack("<QQIIQII", fh, 2, 4, 0, 0, 0, 0)
    size, answer = 8 + 16 + f.ATTR.size, guest.call(f.WRITE, guest.lookup("file").node, body, b"wxyz", room=200)
    assert len(answer) == size
    attr, status = f.Attr(*f.ATTR.unpack_from(answer, 24)), (tmp_path / "file").stat()
    assert struct.unpack_from("<I", answer)[0] == 4
    assert (attr.size, attr.ino) == (6, status.st_ino)
    assert attr.mtime * 10**9 + attr.mtimensec == status.st_mtime_ns
    assert guest.errno_of(f.WRITE, ROOT, body, b"wxyz", room=size - 1) == errno.EINVAL, "no room for them"


def test_appending_is_the_hosts_business(guest: FsGuest, tmp_path: Path) -> None:
    _, fh = opened(guest, tmp_path / "file", b"start", os.O_WRONLY | os.O_APPEND)
    with open(tmp_path / "file", "ab") as file:
        file.write(b" host")
    guest.write_file(fh, b" guest", 5)
    assert (tmp_path / "file").read_bytes() == b"start host guest"


def test_opening(guest: FsGuest, tmp_path: Path) -> None:
    node, _ = opened(guest, tmp_path / "file", b"content")
    guest.release(guest.open(node, os.O_RDWR | os.O_TRUNC))
    assert (tmp_path / "file").read_bytes() == b""
    folder = guest.mkdir("dir")
    assert guest.errno_of(f.OPEN, folder.node, struct.pack("<II", 0, 0)) == errno.EISDIR
    assert guest.errno_of(f.OPENDIR, node, struct.pack("<II", 0, 0)) == errno.ENOTDIR
    link = f.Entry.of(guest.call(f.SYMLINK, ROOT, cstr("link"), cstr("file")))
    assert guest.errno_of(f.OPEN, link.node, struct.pack("<II", 0, 0)) == errno.ELOOP


def test_creating(guest: FsGuest, tmp_path: Path) -> None:
    entry, fh = guest.create("new", os.O_RDWR | os.O_EXCL)
    guest.write_file(fh, b"abc")
    assert guest.read_file(fh) == b"abc"
    assert guest.lookup("new").node == entry.node
    with pytest.raises(f.FuseError) as caught:
        guest.create("new", os.O_RDWR | os.O_EXCL)
    assert caught.value.errno == errno.EEXIST
    (tmp_path / "host").write_bytes(b"was there")
    found, fh = guest.create("host")
    assert guest.read_file(fh) == b"was there", "without O_EXCL it is opened"
    assert guest.lookup("host").node == found.node
    _, fh = guest.create("host", os.O_RDWR | os.O_TRUNC)
    assert (tmp_path / "host").read_bytes() == b""
    os.symlink("/etc/passwd", tmp_path / "link")
    with pytest.raises(f.FuseError) as caught:
        guest.create("link")
    assert caught.value.errno == errno.ELOOP, "a link is for the guest to follow"


def test_a_file_without_a_name(guest: FsGuest, tmp_path: Path) -> None:
    entry, fh = guest.create("/", os.O_RDWR, opcode=f.TMPFILE)
    guest.write_file(fh, b"secret")
    assert os.listdir(tmp_path) == []
    assert guest.getattr(entry.node).nlink == 0
    guest.call(f.LINK, ROOT, struct.pack("<Q", entry.node), cstr("named"))
    assert (tmp_path / "named").read_bytes() == b"secret"
    _, fh = guest.create("/", os.O_RDWR | os.O_EXCL, opcode=f.TMPFILE)
    guest.write_file(fh, b"x")


def test_flush_fsync_release(guest: FsGuest, tmp_path: Path) -> None:
    node, fh = opened(guest, tmp_path / "file")
    for flags in (0, 1):
        guest.call(f.FSYNC, node, struct.pack("<QII", fh, flags, 0))
    guest.flush(node, fh)
    guest.call(f.SYNCFS, ROOT, bytes(8))
    guest.release(fh)
    for opcode, body in (
        (f.FSYNC, struct.pack("<QII", fh, 0, 0)),
        (f.FLUSH, struct.pack("<QIIQ", fh, 0, 0, 0)),
        (f.RELEASE, struct.pack("<QIIQ", fh, 0, 0, 0)),
    ):
        assert guest.errno_of(opcode, node, body) == errno.EBADF
    assert guest.share.stats()["files"] == 0


def test_holes(guest: FsGuest, tmp_path: Path) -> None:
    _, fh = opened(guest, tmp_path / "file")
    guest.write_file(fh, b"x" * 4096, 1 << 20)

    def seek(offset: int, whence: int) -> int:
        return int(struct.unpack("<Q", guest.call(f.LSEEK, ROOT, struct.pack("<QQII", fh, offset, whence, 0)))[0])

    assert seek(0, os.SEEK_DATA) == 1 << 20
    assert seek(0, os.SEEK_HOLE) == 0
    assert seek(1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
    body = struct.pack("<QQII", fh, 1 << 30, os.SEEK_DATA, 0)
    assert guest.errno_of(f.LSEEK, ROOT, body) == errno.ENXIO
    assert guest.errno_of(f.LSEEK, ROOT, struct.pack("<QQII", fh, 0, os.SEEK_END, 0)) == errno.EINVAL


def test_fallocate(guest: FsGuest, tmp_path: Path) -> None:
    _, fh = opened(guest, tmp_path / "file", b"x" * 8192)

    def fallocate(mode: int, offset: int, length: int) -> int:
        return guest.errno_of(f.FALLOCATE, ROOT, struct.pack("<QQQII", fh, offset, length, mode, 0))

    assert fallocate(0, 0, 16384) == 0
    assert os.stat(tmp_path / "file").st_size == 16384
    assert fallocate(1, 16384, 4096) == 0, "KEEP_SIZE"
    assert os.stat(tmp_path / "file").st_size == 16384
    assert fallocate(3, 4096, 4096) == 0, "PUNCH_HOLE"
    assert (tmp_path / "file").read_bytes()[4096:8192] == bytes(4096)
    assert fallocate(0, 0, 0) == errno.EINVAL
    assert fallocate(0, 1 << 63, 10) == errno.EINVAL


def test_copy_file_range(guest: FsGuest, tmp_path: Path) -> None:
    _, a = opened(guest, tmp_path / "a", bytes(range(200)) * 100)
    _, b = opened(guest, tmp_path / "b", b"....")

    def copy(a: int, b: int, off_in: int, off_out: int, length: int, flags: int = 0) -> bytes:
        body = struct.pack("<QQQQQQQ", a, off_in, ROOT, b, off_out, length, flags)
        return guest.call(f.COPY_FILE_RANGE, ROOT, body, room=8)

    assert struct.unpack("<II", copy(a, b, 10, 2, 5000))[0] == 5000
    assert (tmp_path / "b").read_bytes() == b".." + (bytes(range(200)) * 100)[10:5010]
    for bad in ((a, b, 0, 0, 1, 1), (a, 999, 0, 0, 1), (999, b, 0, 0, 1)):
        with pytest.raises(f.FuseError):
            copy(*bad)


def setxattr(guest: FsGuest, node: int, name: str, value: bytes, flags: int = 0) -> int:
    return guest.errno_of(f.SETXATTR, node, struct.pack("<4I", len(value), flags, 0, 0), cstr(name), value)


def getxattr(guest: FsGuest, node: int, name: str, size: int = 1000) -> bytes:
    return guest.call(f.GETXATTR, node, struct.pack("<II", size, 0), cstr(name))


def test_extended_attributes(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    try:
        os.setxattr(tmp_path / "file", "user.host", b"from the host")
    except OSError:
        pytest.skip("no user attributes on this file system")
    node = guest.lookup("file").node
    assert getxattr(guest, node, "user.host") == b"from the host"
    assert getxattr(guest, node, "user.host", 0) == struct.pack("<II", 13, 0)
    assert setxattr(guest, node, "user.guest", b"\0\1\2") == 0
    assert os.getxattr(tmp_path / "file", "user.guest") == b"\0\1\2"
    assert setxattr(guest, node, "user.guest", b"", os.XATTR_CREATE) == errno.EEXIST
    assert setxattr(guest, node, "user.none", b"", os.XATTR_REPLACE) == errno.ENODATA
    assert setxattr(guest, node, "user.empty", b"") == 0
    names = guest.call(f.LISTXATTR, node, struct.pack("<II", 1000, 0))
    assert {b"user.host", b"user.guest", b"user.empty"} <= set(names.split(b"\0"))
    assert struct.unpack("<II", guest.call(f.LISTXATTR, node, bytes(8)))[0] == len(names)
    guest.call(f.REMOVEXATTR, node, cstr("user.host"))
    assert "user.host" not in os.listxattr(tmp_path / "file")
    body = struct.pack("<II", 1, 0)
    assert guest.errno_of(f.GETXATTR, node, body, cstr("user.guest")) == errno.ERANGE
    assert guest.errno_of(f.LISTXATTR, node, body) == errno.ERANGE
    assert guest.errno_of(f.GETXATTR, node, body, cstr("user.host")) == errno.ENODATA
    assert guest.errno_of(f.REMOVEXATTR, node, cstr("user.host")) == errno.ENODATA


def test_attributes_of_what_is_not_opened(guest: FsGuest, tmp_path: Path) -> None:
    """Of links and FIFOs the attributes are read without opening them."""
    os.mkfifo(tmp_path / "fifo")
    os.symlink("/etc/passwd", tmp_path / "link")
    for name in ("fifo", "link"):
        node = guest.lookup(name).node
        assert guest.errno_of(f.LISTXATTR, node, struct.pack("<II", 1000, 0)) in (0, errno.EOPNOTSUPP)
        assert guest.errno_of(f.GETXATTR, node, struct.pack("<II", 9, 0), cstr("user.x")) in (
            errno.ENODATA,
            errno.EPERM,
            errno.EOPNOTSUPP,
        )


def test_acls_only_when_they_were_asked_for(tmp_path: Path) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, who)
        for tag, perm, who in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 7),
            (4, 0, 0xFFFFFFFF),
            (16, 4, 0xFFFFFFFF),
            (32, 0, 0xFFFFFFFF),
        )
    )
    name = "system.posix_acl_access"
    (tmp_path / "file").touch()
    with FsGuest(tmp_path) as guest:
        node = guest.lookup("file").node
        assert setxattr(guest, node, name, acl) == errno.EOPNOTSUPP
    with FsGuest(tmp_path, acl=True) as guest:
        node = guest.lookup("file").node
        if setxattr(guest, node, name, acl) == errno.EOPNOTSUPP:
            pytest.skip("no ACLs on this file system")
        assert getxattr(guest, node, name) == acl
        assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o640


# -- locks


@pytest.fixture
def other(tmp_path: Path) -> Iterator[FsGuest]:
    """A second guest with the same share."""
    with FsGuest(tmp_path) as made:
        yield made


def lock_errno(guest: FsGuest, node: int, *args: Any, **options: Any) -> int:
    try:
        guest.lock(node, *args, **options)
    except f.FuseError as error:
        return error.errno or 0
    return 0


@pytest.mark.parametrize("flags", [0, f.LK_FLOCK], ids=["posix", "flock"])
def test_locks_hold_between_guests(guest: FsGuest, other: FsGuest, tmp_path: Path, flags: int) -> None:
    node, fh = opened(guest, tmp_path / "file")
    node2 = other.lookup("file").node
    fh2 = other.open(node2, os.O_RDWR)
    assert lock_errno(guest, node, fh, 1, f.F_RDLCK, flags=flags) == 0
    assert lock_errno(other, node2, fh2, 1, f.F_RDLCK, flags=flags) == 0, "two may read"
    assert lock_errno(other, node2, fh2, 1, f.F_WRLCK, flags=flags) == errno.EAGAIN
    assert lock_errno(other, node2, fh2, 1, f.F_UNLCK, flags=flags) == 0
    assert lock_errno(guest, node, fh, 1, f.F_WRLCK, flags=flags) == 0
    assert lock_errno(other, node2, fh2, 1, f.F_RDLCK, flags=flags) == errno.EAGAIN
    lock = fcntl.flock if flags else fcntl.lockf
    with open(tmp_path / "file", "r+b") as file, pytest.raises(BlockingIOError):
        lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if flags:
        guest.release(fh)
    else:
        guest.flush(node, fh, owner=1)
    assert lock_errno(other, node2, fh2, 1, f.F_WRLCK, flags=flags) == 0, "closing gives it back"


def test_posix_locks_belong_to_owners(guest: FsGuest, tmp_path: Path) -> None:
    node, fh = opened(guest, tmp_path / "file")
    assert lock_errno(guest, node, fh, 1, f.F_WRLCK, 0, 9) == 0
    assert lock_errno(guest, node, fh, 1, f.F_WRLCK, 5, 20) == 0, "its own locks are not in its way"
    assert lock_errno(guest, node, fh, 2, f.F_WRLCK, 30, 39) == 0
    assert lock_errno(guest, node, fh, 2, f.F_RDLCK, 20, 25) == errno.EAGAIN
    start, end, kind, _ = guest.lock(node, fh, 2, f.F_RDLCK, 0, 100, opcode=f.GETLK)
    assert (start, end, kind) == (0, 20, f.F_WRLCK)
    assert guest.lock(node, fh, 1, f.F_WRLCK, 0, 20, opcode=f.GETLK)[2] == f.F_UNLCK
    guest.lock(node, fh, 1, f.F_WRLCK, 100)
    assert guest.lock(node, fh, 3, f.F_WRLCK, 1000, 1001, opcode=f.GETLK)[:2] == (100, (1 << 63) - 1)
    guest.lock(node, fh, 1, f.F_UNLCK, 0, 9)
    assert lock_errno(guest, node, fh, 2, f.F_WRLCK, 0, 9) == 0
    assert lock_errno(guest, node, fh, 2, f.F_WRLCK, 10, 10) == errno.EAGAIN


@pytest.mark.parametrize("flags", [0, f.LK_FLOCK], ids=["posix", "flock"])
def test_waiting_for_a_lock_holds_nobody_up(guest: FsGuest, other: FsGuest, tmp_path: Path, flags: int) -> None:
    node, fh = opened(guest, tmp_path / "file")
    fh3 = guest.open(node, os.O_RDWR)
    node2 = other.lookup("file").node
    fh2 = other.open(node2, os.O_RDWR)
    other.lock(node2, fh2, 1, f.F_WRLCK, flags=flags)
    body = f.lock_body(fh, 1, f.F_WRLCK, flags=flags)
    head, answer = guest.submit(f.SETLKW, node, body, room=0)
    unique = guest.unique
    assert guest.getattr(node).size == 0, "other requests go on"
    assert lock_errno(guest, node, fh3, 2, f.F_WRLCK, flags=flags) == errno.EAGAIN
    other.lock(node2, fh2, 1, f.F_UNLCK, flags=flags)
    (used,) = guest.queues[1].wait()
    assert used.head == head
    assert guest.answer(answer, used.written) == (0, unique, b"")
    assert lock_errno(other, node2, fh2, 1, f.F_WRLCK, flags=flags) == errno.EAGAIN, "now it is the other's"
    # its own share's lock is given back: no need to look again and again
    head, answer = guest.submit(f.SETLKW, node, f.lock_body(fh3, 2, f.F_WRLCK, flags=flags), room=0)
    guest.submit(f.SETLK, node, f.lock_body(fh, 1, f.F_UNLCK, flags=flags), room=0)
    written = {used.head: used.written for used in guest.queues[1].wait(2)}
    assert guest.answer(answer, written[head])[0] == 0


def test_a_wait_that_is_interrupted(guest: FsGuest, other: FsGuest, tmp_path: Path) -> None:
    node, fh = opened(guest, tmp_path / "file")
    node2 = other.lookup("file").node
    other.lock(node2, other.open(node2, os.O_RDWR), 1, f.F_WRLCK)
    head, answer = guest.submit(f.SETLKW, node, f.lock_body(fh, 1, f.F_WRLCK), room=0)
    unique = guest.unique
    request = guest.data(guest.header(f.INTERRUPT, 0, 8) + struct.pack("<Q", unique))
    queue = guest.queues[1]
    queue.offer(queue.chain([request]))
    queue.kick()
    used = {entry.head: entry.written for entry in queue.wait(2)}
    assert guest.answer(answer, used[head]) == (errno.EINTR, unique, b"")


def test_a_reset_while_a_lock_is_waited_for(guest: FsGuest, other: FsGuest, tmp_path: Path) -> None:
    node, fh = opened(guest, tmp_path / "file")
    node2 = other.lookup("file").node
    other.lock(node2, other.open(node2, os.O_RDWR), 1, f.F_WRLCK)
    guest.submit(f.SETLKW, node, f.lock_body(fh, 1, f.F_WRLCK), room=0)
    guest.getattr(node)
    guest.start()
    guest.mount()
    assert guest.lookup("file").attr.size == 0


def test_bad_locks(guest: FsGuest, tmp_path: Path) -> None:
    node, fh = opened(guest, tmp_path / "file")
    for kind, start, end in ((3, 0, 1), (f.F_WRLCK, 5, 4), (f.F_WRLCK, 1 << 63, 1 << 63)):
        assert lock_errno(guest, node, fh, 1, kind, start, end) == errno.EINVAL
    assert lock_errno(guest, node, fh, 1, 7, flags=f.LK_FLOCK) == errno.EINVAL
    for opcode in (f.SETLK, f.SETLKW, f.GETLK):
        assert lock_errno(guest, node, fh + 1, 1, f.F_WRLCK, opcode=opcode) == errno.EBADF
