"""The guest's side of virtio-fs (virtio 1.2, 5.11; linux/fuse.h), on top of :mod:`tests.driver`.

:class:`FsGuest` mounts a directory and does what Linux' driver does, or what it would never do.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any, NamedTuple

from tests import fs_driver as f
from tests.driver import DriverQueue, Guest
from vmm.memory import GuestMemory
from vmm.virtio.fs import ShareConfig
from vmm.virtio.fs.device import Fs
from vmm.virtio.fs.process import FsProcess

ROOT = 1
(
    LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, _, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ,
    WRITE, STATFS, RELEASE, _, FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR,
    RELEASEDIR, FSYNCDIR, GETLK, SETLK, SETLKW, ACCESS, CREATE, INTERRUPT, BMAP, DESTROY, IOCTL, POLL, NOTIFY_REPLY,
    BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE, SETUPMAPPING, REMOVEMAPPING, SYNCFS,
    TMPFILE, STATX,
) = range(1, 53)  # fmt: skip

HEADER = struct.Struct("<IIQQIIIHH")
OUT = struct.Struct("<IiQ")
ATTR = struct.Struct("<6Q10I")
ENTRY_HEAD = struct.Struct("<4Q2I")
ENTRY_SIZE = ENTRY_HEAD.size + ATTR.size

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = (1 << n for n in range(7))
FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_CTIME, FATTR_KILL = 1 << 7, 1 << 8, 1 << 10, 1 << 11
WRITE_KILL = 1 << 2
OPEN_KILL = 1
LK_FLOCK = 1
ALL_FLAGS = 0xFFFF_FFFF
WRITE_ATTR = 1 << 29
"""In the second word: a feature of our own, which changes the form of answers."""
F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2


class Attr(NamedTuple):
    """struct fuse_attr."""

    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Entry(NamedTuple):
    """struct fuse_entry_out."""

    node: int
    generation: int
    entry_valid: int
    attr_valid: int
    attr: Attr

    @classmethod
    def of(cls, data: bytes) -> Entry:
        node, generation, entry_valid, attr_valid, _, _ = ENTRY_HEAD.unpack_from(data)
        return cls(node, generation, entry_valid, attr_valid, Attr(*ATTR.unpack_from(data, ENTRY_HEAD.size)))


class Dirent(NamedTuple):
    ino: int
    off: int
    kind: int
    name: bytes
    entry: Entry | None


class FuseError(OSError):
    """The server answered with an errno."""

    def __init__(self, opcode: int, number: int) -> None:
        super().__init__(number, f"opcode {opcode}: {os.strerror(number)}")


class FsGuest(Guest):
    """A driver with a share, mounted unless *mount* is False."""

    def __init__(
        self,
        path: Path | str,
        *,
        memory: GuestMemory | None = None,
        mount: bool = True,
        flags: int = ALL_FLAGS,
        flags2: int = ALL_FLAGS & ~WRITE_ATTR,
        cpus: int = 1,
        marks: bool = True,
        max_fds: int = 0,
        max_nodes: int = 0,
        node_bytes: int = 0,
        **options: Any,
    ) -> None:
        config = ShareConfig(str(path), **{"isolation": "thread", **options})
        kind = FsProcess if config.isolation == "process" else Fs
        limits: dict[str, Any] = {"max_fds": max_fds, "max_nodes": max_nodes, "node_bytes": node_bytes}
        if kind is FsProcess and memory is not None:
            limits["on_demand"] = memory.on_demand
        self.marks = marks
        self.share = kind(config, cpus=cpus, marks=marks, **limits)
        super().__init__(self.share, memory=memory)
        self.unique = 0
        self.uid = self.gid = 0
        self.pid = 1
        self.init_flags = self.init_flags2 = 0
        if mount:
            self.start()
            self.mount(flags, flags2)

    def __enter__(self) -> FsGuest:
        return self

    # -- one request -----------------------------------------------------------------------------------------

    def header(self, opcode: int, node: int, length: int, ext: int = 0) -> bytes:
        self.unique += 2
        return HEADER.pack(HEADER.size + length, opcode, self.unique, node, self.uid, self.gid, self.pid, ext, 0)

    def submit(
        self, opcode: int, node: int, *parts: bytes, room: int = 4096, queue: DriverQueue | None = None, ext: int = 0
    ) -> tuple[int, list[Any]]:
        """Make a request available and kick; returns its head, and the buffers of the answer."""
        queue = queue or self.queues[1]
        parts = tuple(part for part in parts if part)
        buffers = [self.data(self.header(opcode, node, sum(map(len, parts)), ext))]
        buffers += [self.data(part) for part in parts]
        answer = [self.room(OUT.size), *([self.room(room)] if room else [])]
        head = queue.chain([*buffers, *answer])
        queue.offer(head)
        queue.kick()
        return head, answer

    def answer(self, answer: list[Any], written: int) -> tuple[int, int, bytes]:
        """``(errno, unique, payload)`` of a request that came back with *written* bytes."""
        raw = b"".join(self.content(buffer) for buffer in answer)
        length, error, unique = OUT.unpack_from(raw)
        assert length == written, f"the header says {length} bytes, the ring {written}"
        return -error, unique, raw[OUT.size : length]

    def call(self, opcode: int, node: int, *parts: bytes, room: int = 4096, **options: Any) -> bytes:
        """A request; returns the payload of its answer.

        :raises FuseError: the server's errno
        """
        with self.scratch():
            queue = options.get("queue") or self.queues[1]
            head, answer = self.submit(opcode, node, *parts, room=room, **options)
            (used,) = queue.wait()
            assert used.head == head
            number, unique, payload = self.answer(answer, used.written)
            assert unique == self.unique
            if number:
                raise FuseError(opcode, number)
            return payload

    def quiet(self, opcode: int, node: int, *parts: bytes) -> None:
        """A request that is not answered, on the high-priority queue."""
        with self.scratch():
            raw = b"".join(parts)
            used = self.queues[0].send(self.data(self.header(opcode, node, len(raw)) + raw))
            assert used.written == 0

    def errno_of(self, opcode: int, node: int, *parts: bytes, **options: Any) -> int:
        """The errno of a request, 0 when it works."""
        try:
            self.call(opcode, node, *parts, **options)
        except FuseError as error:
            return error.errno or 0
        return 0

    # -- requests --------------------------------------------------------------------------------------------

    def mount(self, flags: int = ALL_FLAGS, flags2: int = ALL_FLAGS & ~WRITE_ATTR, minor: int = 41) -> bytes:
        out = self.call(INIT, 0, struct.pack("<5I44x", 7, minor, 1 << 20, flags, flags2))
        self.init_flags, self.init_flags2 = struct.unpack_from("<I", out, 12)[0], struct.unpack_from("<I", out, 32)[0]
        return out

    def lookup(self, name: str | bytes, node: int = ROOT) -> Entry:
        return Entry.of(self.call(LOOKUP, node, cstr(name)))

    def walk(self, path: str) -> Entry:
        """Look up each component."""
        entry = None
        for name in path.split("/"):
            entry = self.lookup(name, entry.node if entry else ROOT)
        assert entry is not None
        return entry

    def forget(self, node: int, count: int = 1) -> None:
        self.quiet(FORGET, node, struct.pack("<Q", count))

    def getattr(self, node: int, fh: int | None = None) -> Attr:
        out = self.call(GETATTR, node, struct.pack("<IIQ", 0 if fh is None else 1, 0, fh or 0))
        return Attr(*ATTR.unpack_from(out, 16))

    def setattr(
        self, node: int, valid: int, *, size: int = 0, mode: int = 0, uid: int = 0, gid: int = 0, fh: int = 0,
        atime: int = 0, mtime: int = 0,
    ) -> Attr:  # fmt: skip
        body = struct.pack("<IIQQQQQQ8I", valid, 0, fh, size, 0, atime, mtime, 0, 0, 0, 0, mode, 0, uid, gid, 0)
        return Attr(*ATTR.unpack_from(self.call(SETATTR, node, body), 16))

    def open(self, node: int, flags: int = os.O_RDONLY, open_flags: int = 0, opcode: int = OPEN) -> int:
        fh, self.open_flags = struct.unpack_from("<QI", self.call(opcode, node, struct.pack("<II", flags, open_flags)))
        return int(fh)

    def create(
        self, name: str | bytes, flags: int = os.O_RDWR, mode: int = 0o644, node: int = ROOT, umask: int = 0,
        opcode: int = CREATE, **options: Any,
    ) -> tuple[Entry, int]:  # fmt: skip
        body = struct.pack("<4I", flags | os.O_CREAT, stat_reg(mode), umask, 0)
        out = self.call(opcode, node, body, cstr(name), options.pop("extension", b""), **options)
        return Entry.of(out), int(struct.unpack_from("<Q", out, ENTRY_SIZE)[0])

    def read_file(self, fh: int, offset: int = 0, size: int = 4096, room: int | None = None) -> bytes:
        body = struct.pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0)
        return self.call(READ, ROOT, body, room=size if room is None else room)

    def write_file(self, fh: int, data: bytes, offset: int = 0, flags: int = 0) -> int:
        body = struct.pack("<QQIIQII", fh, offset, len(data), flags, 0, 0, 0)
        return int(struct.unpack("<II", self.call(WRITE, ROOT, body, data, room=8))[0])

    def release(self, fh: int, opcode: int = RELEASE) -> None:
        self.call(opcode, ROOT, struct.pack("<QIIQ", fh, 0, 0, 0))

    def flush(self, node: int, fh: int, owner: int = 0) -> None:
        self.call(FLUSH, node, struct.pack("<QIIQ", fh, 0, 0, owner))

    def readdir(self, node: int = ROOT, *, plus: bool = False, size: int = 4096, fh: int | None = None) -> list[Dirent]:
        """The whole directory."""
        handle = self.open(node, opcode=OPENDIR) if fh is None else fh
        entries: list[Dirent] = []
        off = 0
        while page := self.readdir_page(handle, off, node=node, plus=plus, size=size):
            entries += page
            off = page[-1].off
        if fh is None:
            self.release(handle, RELEASEDIR)
        return entries

    def readdir_page(
        self, fh: int, off: int, *, node: int = ROOT, plus: bool = False, size: int = 4096
    ) -> list[Dirent]:
        body = struct.pack("<QQIIQII", fh, off, size, 0, 0, 0, 0)
        raw = self.call(READDIRPLUS if plus else READDIR, node, body, room=size)
        assert len(raw) <= size
        entries, at = [], 0
        while at < len(raw):
            entry = Entry.of(raw[at:]) if plus else None
            at += ENTRY_SIZE if plus else 0
            ino, next_off, length, kind = struct.unpack_from("<QQII", raw, at)
            entries.append(Dirent(ino, next_off, kind, raw[at + 24 : at + 24 + length], entry))
            at += -(-(24 + length) // 8) * 8
        return entries

    def mkdir(self, name: str | bytes, mode: int = 0o755, node: int = ROOT, umask: int = 0) -> Entry:
        return Entry.of(self.call(MKDIR, node, struct.pack("<II", mode, umask), cstr(name)))

    def lock(
        self, node: int, fh: int, owner: int, kind: int, start: int = 0, end: int = (1 << 63) - 1, *, flags: int = 0,
        opcode: int = SETLK,
    ) -> tuple[int, int, int, int]:  # fmt: skip
        """SETLK, or GETLK with its answer ``(start, end, type, pid)``."""
        out = self.call(opcode, node, lock_body(fh, owner, kind, start, end, flags), room=24)
        return struct.unpack("<QQII", out) if out else (0, 0, 0, 0)


def lock_body(fh: int, owner: int, kind: int, start: int = 0, end: int = (1 << 63) - 1, flags: int = 0) -> bytes:
    """struct fuse_lk_in."""
    return struct.pack("<QQQQIIII", fh, owner, start, end, kind, 77, flags, 0)


def cstr(name: str | bytes) -> bytes:
    return (name.encode() if isinstance(name, str) else name) + b"\0"


def stat_reg(mode: int) -> int:
    return 0o100000 | mode


# -- requests to virtio-fs in bulk, for tests that send one of each --------------------------------------------------


Request = tuple[int, int, tuple[bytes, ...]]
"""Opcode, node, arguments."""


def named(guest: FsGuest, name: bytes) -> list[Request]:
    """Every request that has a name, with *name* in it."""
    file = guest.lookup("file").node
    make = struct.pack("<4I", stat.S_IFREG | 0o644, 0, 0, 0)
    return [
        (f.LOOKUP, ROOT, (name,)),
        (f.SYMLINK, ROOT, (name, cstr("target"))),
        (f.MKNOD, ROOT, (make, name)),
        (f.MKDIR, ROOT, (struct.pack("<II", 0o755, 0), name)),
        (f.UNLINK, ROOT, (name,)),
        (f.RMDIR, ROOT, (name,)),
        (f.RENAME, ROOT, (struct.pack("<Q", ROOT), name, cstr("new"))),
        (f.RENAME, ROOT, (struct.pack("<Q", ROOT), cstr("file"), name)),
        (f.RENAME2, ROOT, (struct.pack("<QII", ROOT, 0, 0), name, cstr("new"))),
        (f.RENAME2, ROOT, (struct.pack("<QII", ROOT, 2, 0), cstr("file"), name)),
        (f.LINK, ROOT, (struct.pack("<Q", file), name)),
        (f.CREATE, ROOT, (struct.pack("<4I", os.O_RDWR | os.O_CREAT, 0o644, 0, 0), name)),
    ]


def every_request(node: int, fh: int) -> list[Request]:
    """One of each request that takes a node or an open file."""
    io = struct.pack("<QQIIQII", fh, 0, 16, 0, 0, 0, 0)
    name = cstr("some-name")
    return [
        (f.LOOKUP, node, (name,)), (f.GETATTR, node, (bytes(16),)), (f.GETATTR, node, (struct.pack("<IIQ", 1, 0, fh),)),
        (f.SETATTR, node, (struct.pack("<IIQ72x", f.FATTR_MODE | f.FATTR_FH, 0, fh),)),
        (f.SETATTR, node, (struct.pack("<IIQ72x", f.FATTR_SIZE, 0, fh),)),
        (f.STATX, node, (bytes(24),)), (f.STATX, node, (struct.pack("<IIQII", 1, 0, fh, 0, 0),)),
        (f.ACCESS, node, (bytes(8),)), (f.STATFS, node, ()), (f.READLINK, node, ()),
        (f.SYMLINK, node, (name, cstr("x"))), (f.MKNOD, node, (struct.pack("<4I", 0o100644, 0, 0, 0), name)),
        (f.MKDIR, node, (bytes(8), name)), (f.UNLINK, node, (name,)), (f.RMDIR, node, (name,)),
        (f.RENAME, node, (struct.pack("<Q", ROOT), name, name)),
        (f.RENAME, ROOT, (struct.pack("<Q", node), name, name)),
        (f.RENAME2, node, (struct.pack("<QII", ROOT, 0, 0), name, name)),
        (f.LINK, node, (struct.pack("<Q", ROOT), name)), (f.LINK, ROOT, (struct.pack("<Q", node), name)),
        (f.OPEN, node, (bytes(8),)), (f.OPENDIR, node, (bytes(8),)),
        (f.CREATE, node, (struct.pack("<4I", os.O_RDWR, 0o644, 0, 0), name)),
        (f.TMPFILE, node, (struct.pack("<4I", os.O_RDWR, 0o644, 0, 0), name)),
        (f.READ, node, (io,)), (f.WRITE, node, (struct.pack("<QQIIQII", fh, 0, 4, 0, 0, 0, 0), b"data")),
        (f.FLUSH, node, (struct.pack("<QIIQ", fh, 0, 0, 0),)), (f.FSYNC, node, (struct.pack("<QII", fh, 0, 0),)),
        (f.FSYNCDIR, node, (struct.pack("<QII", fh, 0, 0),)), (f.READDIR, node, (io,)), (f.READDIRPLUS, node, (io,)),
        (f.LSEEK, node, (struct.pack("<QQII", fh, 0, os.SEEK_DATA, 0),)),
        (f.FALLOCATE, node, (struct.pack("<QQQII", fh, 0, 10, 0, 0),)),
        (f.COPY_FILE_RANGE, node, (struct.pack("<7Q", fh, 0, node, fh, 0, 10, 0),)), (f.SYNCFS, node, (bytes(8),)),
        (f.SETXATTR, node, (struct.pack("<4I", 1, 0, 0, 0), cstr("user.x"), b"x")),
        (f.GETXATTR, node, (bytes(8), cstr("user.x"))), (f.LISTXATTR, node, (bytes(8),)),
        (f.REMOVEXATTR, node, (cstr("user.x"),)), (f.GETLK, node, (f.lock_body(fh, 1, f.F_WRLCK),)),
        (f.SETLK, node, (f.lock_body(fh, 1, f.F_WRLCK),)), (f.SETLKW, node, (f.lock_body(fh, 1, f.F_WRLCK),)),
        (f.RELEASE, node, (struct.pack("<QIIQ", fh, 0, 0, 0),)),
        (f.RELEASEDIR, node, (struct.pack("<QIIQ", fh, 0, 0, 0),)),
    ]  # fmt: skip
