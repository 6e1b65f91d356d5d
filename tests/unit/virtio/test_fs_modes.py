"""virtio-fs: what FUSE_INIT settles, and what the guest may keep in each cache mode."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from tests import fs_driver as f
from tests.fs_driver import ROOT, FsGuest

DIRECT_IO, KEEP_CACHE, CACHE_DIR, PARALLEL = 1, 2, 8, 1 << 6
WRITEBACK, ACL, AUTO_INVAL = 1 << 16, 1 << 20, 1 << 12
POSIX_LOCKS, FLOCK_LOCKS = 1 << 1, 1 << 10
ALLOW_MMAP = 1 << 4  # in the second word
INIT_EXT = 1 << 30


def init_out(raw: bytes) -> tuple[Any, ...]:
    """struct fuse_init_out: ``(major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
    time_gran, max_pages, map_alignment, flags2)``."""
    return struct.unpack_from("<IIIIHHIIHHI", raw)


def test_the_protocol_is_negotiated(tmp_path: Path) -> None:
    with FsGuest(tmp_path, mount=False) as guest:
        guest.start()
        major, minor, readahead, flags, _, _, max_write, grain, max_pages, _, flags2 = init_out(guest.mount())
        assert (major, minor) == (7, 41)
        assert (max_write, max_pages, grain, readahead) == (1 << 20, 256, 1, 1 << 20)
        everything = 0
        for bit in (0, 1, 3, 5, 6, 10, 13, 14, 15, 18, 22, 23, 27, 28, 29, 30):
            everything |= 1 << bit
        assert flags & everything == everything
        assert not flags & (1 << 7 | 1 << 8 | 1 << 9 | 1 << 4), "nothing of /dev/fuse, no NFS handles"
        assert flags2 & 1 << 2, "supplementary groups"
        assert init_out(guest.mount(minor=36))[1] == 36
        assert init_out(guest.mount(flags=1 << 5))[3] == 1 << 5, "only what the guest knows"
        assert init_out(guest.mount(flags=f.ALL_FLAGS & ~INIT_EXT))[10] == 0


def test_versions(tmp_path: Path) -> None:
    with FsGuest(tmp_path, mount=False) as guest:
        guest.start()

        def init(major: int, minor: int) -> bytes:
            return guest.call(f.INIT, 0, struct.pack("<5I44x", major, minor, 0, f.ALL_FLAGS, 0))

        assert init_out(init(8, 0))[:2] == (7, 41), "a newer one asks again with ours"
        assert guest.errno_of(f.GETATTR, ROOT, bytes(16)) == errno.EIO
        for old in ((6, 99), (7, 30)):
            with pytest.raises(f.FuseError) as caught:
                init(*old)
            assert caught.value.errno == errno.EPROTO
        init(7, 31)
        assert guest.getattr(ROOT).nlink > 0
        # as Linux before 5.17 says it, without the second word
        guest.call(f.INIT, 0, struct.pack("<4I", 7, 31, 0, f.ALL_FLAGS))


@pytest.mark.parametrize(
    ("cache", "seconds", "file_flags", "dir_flags"),
    [("none", 0, DIRECT_IO | PARALLEL, 0), ("auto", 1, 0, 0), ("always", 86400, KEEP_CACHE, KEEP_CACHE | CACHE_DIR)],
)
def test_cache_mode(tmp_path: Path, cache: str, seconds: int, file_flags: int, dir_flags: int) -> None:
    (tmp_path / "file").touch()
    with FsGuest(tmp_path, cache=cache) as guest:
        entry = guest.lookup("file")
        assert (entry.entry_valid, entry.attr_valid) == (seconds, seconds)
        assert struct.unpack_from("<Q", guest.call(f.GETATTR, ROOT, bytes(16)))[0] == seconds
        guest.open(entry.node)
        assert guest.open_flags == file_flags
        guest.open(ROOT, opcode=f.OPENDIR)
        assert guest.open_flags == dir_flags
        assert bool(guest.init_flags & AUTO_INVAL) == (cache == "auto")
        assert bool(guest.init_flags2 & ALLOW_MMAP) == (cache == "none")
        assert not guest.init_flags & (WRITEBACK | ACL)


@pytest.mark.parametrize("locks", ["host", "guest"])
def test_who_keeps_locks(tmp_path: Path, locks: str) -> None:
    (tmp_path / "file").touch()
    with FsGuest(tmp_path, locks=locks) as guest:
        assert bool(guest.init_flags & POSIX_LOCKS) == bool(guest.init_flags & FLOCK_LOCKS) == (locks == "host")
        node = guest.lookup("file").node
        flush = struct.pack("<QIIQ", guest.open(node), 0, 0, 0)
        if locks == "host":
            assert guest.call(f.FLUSH, node, flush) == b""
        else:
            assert guest.errno_of(f.FLUSH, node, flush) == errno.ENOSYS, "it would be for locks only"


def test_writeback(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with FsGuest(tmp_path, writeback=True, acl=True) as guest:
        assert guest.init_flags & WRITEBACK and guest.init_flags & ACL
        fh = guest.open(guest.lookup("file").node, os.O_WRONLY | os.O_APPEND)
        assert guest.read_file(fh) == b"0123456789", "the guest reads what lies around what it writes"
        guest.write_file(fh, b"xx", 4)
    assert (tmp_path / "file").read_bytes() == b"0123xx6789", "and says itself where the end is"


def test_a_submount_is_announced(tmp_path: Path) -> None:
    """/proc is a mount of its own, and there is one everywhere."""
    with FsGuest("/") as guest:
        entry = guest.lookup("proc")
        assert entry.attr.flags & 1, "FUSE_ATTR_SUBMOUNT"
        assert not guest.lookup("etc").attr.flags & 1
        inside = guest.lookup("version", entry.node)
        assert stat.S_ISREG(inside.attr.mode)
        # links of proc lead anywhere: they are only read
        own = f.Entry.of(guest.call(f.LOOKUP, entry.node, f.cstr("self")))
        assert guest.call(f.READLINK, own.node).isdigit()
        assert guest.errno_of(f.LOOKUP, own.node, f.cstr("root")) == errno.ENOTDIR
