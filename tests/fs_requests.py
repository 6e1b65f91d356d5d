"""Requests to virtio-fs in bulk, for tests that send one of each."""

from __future__ import annotations

import os
import stat
import struct

from tests import fs_driver as f
from tests.fs_driver import ROOT, FsGuest, cstr

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
