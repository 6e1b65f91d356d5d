"""virtio-fs: names, attributes, directories, and how a mount begins and ends.  With and without file handles."""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fs_driver as f
from tests.fs_driver import ROOT, FsGuest, cstr
from vmm.virtio import spec

pytestmark = pytest.mark.usefixtures("virtqueues")


@pytest.fixture(params=[True, False], ids=["handles", "names"])
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FsGuest]:
    """A guest with a share, whose server keeps few descriptors."""
    with FsGuest(tmp_path, handles=request.param, max_fds=16) as made:
        yield made


def test_what_the_driver_sees(tmp_path: Path) -> None:
    with FsGuest(tmp_path, mount=False, tag="a-tag", cpus=3) as guest:
        assert guest.read(spec.MMIO_DEVICE_ID) == spec.ID_FS
        guest.start()
        raw = bytes(guest.config(at, 1) for at in range(44))
        assert raw[:36] == b"a-tag".ljust(36, b"\0")
        assert struct.unpack("<I", raw[36:40]) == (3,), "a request queue for each CPU"
        assert sorted(guest.queues) == [0, 1, 2, 3]


@pytest.mark.parametrize("queue", [0, 1, 2])
def test_every_queue_serves(tmp_path: Path, queue: int) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    with FsGuest(tmp_path, queues=2) as guest:
        entry = f.Entry.of(guest.call(f.LOOKUP, ROOT, cstr("file"), queue=guest.queues[queue]))
        assert entry.attr.size == 4


def test_lookup_and_attributes(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5000)
    os.chmod(tmp_path / "file", 0o640)
    os.utime(tmp_path / "file", ns=(1_000_000_007, 2_000_000_009))
    entry = guest.lookup("file")
    host = os.stat(tmp_path / "file")
    attr = entry.attr
    assert (attr.ino, attr.size, attr.mode, attr.nlink) == (host.st_ino, 5000, stat.S_IFREG | 0o640, 1)
    assert (attr.atime, attr.atimensec, attr.mtime, attr.mtimensec) == (1, 7, 2, 9)
    assert (attr.uid, attr.gid, attr.blocks) == (host.st_uid, host.st_gid, host.st_blocks)
    assert guest.getattr(entry.node) == attr
    assert guest.lookup("file").node == entry.node, "one file is one node"
    assert guest.getattr(ROOT).ino == os.stat(tmp_path).st_ino
    assert guest.errno_of(f.LOOKUP, ROOT, cstr("nothing")) == errno.ENOENT
    assert guest.errno_of(f.LOOKUP, entry.node, cstr("under-a-file")) == errno.ENOTDIR


def test_statx_tells_the_time_of_birth(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10)
    entry = guest.lookup("file")
    out = guest.call(f.STATX, entry.node, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF))
    mask, _, _, nlink, _, _, mode, _, ino, size = struct.unpack_from("<IIQIIIHHQQ", out, 32)
    assert mask & 0x7FF == 0x7FF
    assert (nlink, mode, ino, size) == (1, entry.attr.mode, entry.attr.ino, 10)
    if mask & 0x800:
        born = struct.unpack_from("<q", out, 32 + 80)[0]
        assert 0 < born <= entry.attr.mtime


def test_setattr(guest: FsGuest, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    node = guest.lookup("file").node
    assert guest.setattr(node, f.FATTR_MODE, mode=0o604).mode == stat.S_IFREG | 0o604
    assert guest.setattr(node, f.FATTR_SIZE, size=4).size == 4
    assert path.read_bytes() == b"0123"
    assert guest.setattr(node, f.FATTR_SIZE, size=6).size == 6
    assert path.read_bytes() == b"0123\0\0"
    attr = guest.setattr(node, f.FATTR_ATIME | f.FATTR_MTIME, atime=111, mtime=222)
    assert (attr.atime, attr.mtime) == (111, 222)
    attr = guest.setattr(node, f.FATTR_MTIME_NOW)
    assert attr.atime == 111 and attr.mtime > 1_600_000_000
    before = path.stat()
    time.sleep(0.02)  # a tick of the kernel's clock
    guest.setattr(node, f.FATTR_CTIME)
    after = path.stat()
    assert after.st_ctime_ns > before.st_ctime_ns
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    fh = guest.open(node, os.O_RDWR)
    assert guest.setattr(node, f.FATTR_SIZE | f.FATTR_FH, size=1, fh=fh).size == 1
    assert guest.errno_of(f.SETATTR, node, struct.pack("<IIQQ64x", f.FATTR_SIZE, 0, 0, 1 << 63)) == errno.EFBIG
    assert guest.errno_of(f.SETATTR, ROOT, struct.pack("<IIQQ64x", f.FATTR_SIZE, 0, 0, 0)) == errno.EISDIR


def test_everything_that_can_be_made(guest: FsGuest, tmp_path: Path) -> None:
    folder = guest.mkdir("dir", 0o750)
    assert stat.S_ISDIR(folder.attr.mode) and os.stat(tmp_path / "dir").st_mode & 0o777 == 0o750
    link = f.Entry.of(guest.call(f.SYMLINK, folder.node, cstr("link"), cstr("../some/where")))
    assert stat.S_ISLNK(link.attr.mode)
    assert guest.call(f.READLINK, link.node) == b"../some/where"
    assert os.readlink(tmp_path / "dir/link") == "../some/where"
    fifo = f.Entry.of(guest.call(f.MKNOD, ROOT, struct.pack("<4I", stat.S_IFIFO | 0o600, 0, 0, 0), cstr("fifo")))
    assert stat.S_ISFIFO(fifo.attr.mode)
    entry, fh = guest.create("file", node=folder.node)
    assert guest.write_file(fh, b"content") == 7
    guest.release(fh)
    hard = f.Entry.of(guest.call(f.LINK, ROOT, struct.pack("<Q", entry.node), cstr("hard")))
    assert hard.node == entry.node and hard.attr.nlink == 2
    soft = f.Entry.of(guest.call(f.LINK, ROOT, struct.pack("<Q", link.node), cstr("hard-link-to-link")))
    assert soft.node == link.node and os.readlink(tmp_path / "hard-link-to-link") == "../some/where"
    assert (tmp_path / "hard").read_bytes() == b"content"
    assert guest.errno_of(f.MKDIR, ROOT, struct.pack("<II", 0o755, 0), cstr("dir")) == errno.EEXIST
    assert guest.errno_of(f.RMDIR, ROOT, cstr("dir")) == errno.ENOTEMPTY
    assert guest.errno_of(f.UNLINK, ROOT, cstr("dir")) == errno.EISDIR
    assert guest.errno_of(f.RMDIR, ROOT, cstr("hard")) == errno.ENOTDIR
    for name in ("link", "file"):
        guest.call(f.UNLINK, folder.node, cstr(name))
    guest.call(f.RMDIR, ROOT, cstr("dir"))
    assert sorted(os.listdir(tmp_path)) == ["fifo", "hard", "hard-link-to-link"]
    assert guest.errno_of(f.READLINK, ROOT) == errno.EINVAL


def test_rename(guest: FsGuest, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    sub = guest.mkdir("sub")
    a, b = guest.lookup("a"), guest.lookup("b")
    body = struct.pack("<Q", sub.node)
    guest.call(f.RENAME, ROOT, body, cstr("a"), cstr("moved"))
    assert (tmp_path / "sub/moved").read_text() == "a"
    assert guest.lookup("moved", sub.node).node == a.node, "it is still the same file"

    def rename2(flags: int, old: str, new: str) -> int:
        return guest.errno_of(f.RENAME2, ROOT, struct.pack("<QII", ROOT, flags, 0), cstr(old), cstr(new))

    (tmp_path / "c").write_text("c")
    assert rename2(1, "b", "c") == errno.EEXIST, "RENAME_NOREPLACE"
    assert rename2(2, "b", "c") == 0, "RENAME_EXCHANGE"
    assert ((tmp_path / "b").read_text(), (tmp_path / "c").read_text()) == ("c", "b")
    assert rename2(8, "b", "c") == errno.EINVAL
    assert rename2(3, "b", "c") == errno.EINVAL
    assert rename2(0, "gone", "c") == errno.ENOENT
    assert guest.lookup("c").node == b.node


def test_directories_are_read_whole(guest: FsGuest, tmp_path: Path) -> None:
    names = {f"file-{n:04}-{'x' * (n % 60)}" for n in range(700)}
    for name in names:
        (tmp_path / name).write_bytes(b"y" * (len(name) % 7))
    found = {entry.name.decode() for entry in guest.readdir()}
    assert found == names | {".", ".."}
    plus = guest.readdir(plus=True)
    assert {entry.name.decode() for entry in plus} == names | {".", ".."}
    for entry in plus:
        assert entry.entry is not None
        if entry.name in (b".", b".."):
            assert entry.entry.node == 0, "these are not looked up"
        else:
            assert entry.entry.attr.size == len(entry.name) % 7
            assert entry.entry.attr.ino == entry.ino
            assert guest.lookup(entry.name).node == entry.entry.node
    assert guest.share.stats()["fds"] <= 16


def test_a_directory_is_read_from_anywhere(guest: FsGuest, tmp_path: Path) -> None:
    for n in range(50):
        (tmp_path / f"{n}").touch()
    fh = guest.open(ROOT, opcode=f.OPENDIR)
    first = guest.readdir_page(fh, 0, size=400)
    rest = guest.readdir_page(fh, first[2].off, size=4096)
    assert rest[0] == first[3], "an offset is that of the next entry"
    (tmp_path / "new").touch()
    assert b"new" in {entry.name for entry in guest.readdir(fh=fh)}, "from the start it is read anew"
    assert guest.readdir_page(fh, first[2].off, size=10) == [], "no entry fits"
    guest.call(f.FSYNCDIR, ROOT, struct.pack("<QII", fh, 0, 0))
    guest.release(fh, f.RELEASEDIR)
    assert guest.errno_of(f.READDIR, ROOT, struct.pack("<QQIIQII", fh, 0, 100, 0, 0, 0, 0)) == errno.EBADF


def test_above_the_share_is_nothing(guest: FsGuest) -> None:
    entries = {entry.name: entry.ino for entry in guest.readdir()}
    assert entries[b".."] == 1


def test_statfs(guest: FsGuest, tmp_path: Path) -> None:
    host = os.statvfs(tmp_path)
    blocks, _, _, files, _, bsize, namelen, frsize = struct.unpack_from("<5Q3I", guest.call(f.STATFS, ROOT, room=80))
    assert (blocks, files, namelen, frsize) == (host.f_blocks, host.f_files, host.f_namemax, host.f_frsize)
    assert bsize == host.f_bsize


def test_access_as_another_user(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.chmod(tmp_path / "file", 0o600)
    node = guest.lookup("file").node
    read = struct.pack("<II", os.R_OK, 0)
    assert guest.errno_of(f.ACCESS, node, read) == 0
    assert guest.errno_of(f.ACCESS, node, struct.pack("<II", 64, 0)) == errno.EINVAL
    if os.geteuid() == 0:
        guest.uid = guest.gid = 4321
        assert guest.errno_of(f.ACCESS, node, read) == errno.EACCES


def test_host_changes_are_seen_by_the_next_question(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    first = guest.lookup("file")
    (tmp_path / "file").write_text("longer")
    assert guest.getattr(first.node).size == 6
    os.rename(tmp_path / "file", tmp_path / "other")
    assert guest.errno_of(f.LOOKUP, ROOT, cstr("file")) == errno.ENOENT
    assert guest.lookup("other").node == first.node
    (tmp_path / "other").unlink()
    (tmp_path / "other").write_text("new file")
    assert guest.lookup("other").attr.size == 8


def test_a_number_that_another_file_has_got(guest: FsGuest, tmp_path: Path) -> None:
    """The host may give the inode number of a file that is gone to a new one."""
    nodes: dict[int, set[int]] = {}
    for n in range(60):
        path = tmp_path / "file"
        path.write_bytes(b"x" * n)
        entry = guest.lookup("file")
        assert entry.attr.size == n
        assert guest.getattr(entry.node).size == n, "what was looked up is what is there, not what was there before"
        nodes.setdefault(entry.attr.ino, set()).add(entry.node)
        path.unlink()
        for filler in range(20):  # the descriptor of the node is closed, so the number is free
            (tmp_path / f"filler{filler}").touch()
            guest.lookup(f"filler{filler}")
            (tmp_path / f"filler{filler}").unlink()


def test_unlinked_files_live_while_they_are_open(guest: FsGuest, tmp_path: Path) -> None:
    entry, fh = guest.create("file")
    guest.write_file(fh, b"still here")
    guest.call(f.UNLINK, ROOT, cstr("file"))
    for n in range(40):
        guest.create(f"other{n}")
    assert guest.read_file(fh) == b"still here"
    assert guest.getattr(entry.node, fh).nlink == 0
    assert guest.getattr(entry.node).size == 10, "also by its node alone"


@pytest.mark.parametrize("handles", [True, False], ids=["handles", "names"])
def test_times_of_a_file_that_is_gone_are_no_error(tmp_path: Path, handles: bool) -> None:
    """Linux writes them back late, and would tell the error to a process that syncs."""
    with FsGuest(tmp_path, max_fds=16, handles=handles) as guest:
        (tmp_path / "file").touch()
        node = guest.lookup("file").node
        for n in range(40):
            (tmp_path / f"other{n}").touch()
            guest.lookup(f"other{n}")
        (tmp_path / "file").unlink()
        assert guest.errno_of(f.GETATTR, node, bytes(16)) == errno.ESTALE
        assert stat.S_ISREG(guest.setattr(node, f.FATTR_MTIME, mtime=7).mode)
        assert guest.errno_of(f.SETATTR, node, struct.pack("<I84x", f.FATTR_MODE)) == errno.ESTALE


def test_a_tree_is_renamed_above_what_is_known(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/file").write_text("deep")
    deep = guest.walk("a/b/c/file")
    guest.call(f.RENAME, ROOT, struct.pack("<Q", ROOT), cstr("a"), cstr("z"))
    for n in range(40):
        guest.create(f"other{n}")  # every other descriptor is closed now
    assert guest.getattr(deep.node).size == 4
    fh = guest.open(deep.node)
    assert guest.read_file(fh) == b"deep"


def test_what_is_forgotten_is_gone(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = guest.share.stats()["nodes"]
    node = guest.lookup("file").node
    guest.lookup("file")
    guest.forget(node)
    assert guest.getattr(node).size == 0, "one lookup is left"
    guest.quiet(f.BATCH_FORGET, 0, struct.pack("<II", 1, 0), struct.pack("<QQ", node, 1))
    guest.wait_for("the node to go", lambda: guest.share.stats()["nodes"] == before)
    assert guest.errno_of(f.GETATTR, node, bytes(16)) == errno.ESTALE
    again = guest.lookup("file").node
    assert again != node, "an id is used once"


def test_unmounting_forgets_everything(guest: FsGuest, tmp_path: Path) -> None:
    entry, fh = guest.create("file")
    guest.call(f.DESTROY, 0, room=0)
    stats = guest.share.stats()
    assert (stats["nodes"], stats["files"], stats["fds"]) == (0, 0, 0)
    assert guest.errno_of(f.GETATTR, ROOT, bytes(16)) == errno.EIO, "not without FUSE_INIT"
    guest.mount()
    assert guest.errno_of(f.GETATTR, entry.node, bytes(16)) == errno.ESTALE
    assert guest.errno_of(f.READ, ROOT, struct.pack("<QQIIQII", fh, 0, 10, 0, 0, 0, 0)) == errno.EBADF
    assert guest.lookup("file").attr.size == 0


def test_a_reset_forgets_everything(guest: FsGuest, tmp_path: Path) -> None:
    entry, _ = guest.create("file")
    guest.start()
    guest.mount()
    assert guest.errno_of(f.GETATTR, entry.node, bytes(16)) == errno.ESTALE
    assert guest.lookup("file").attr.nlink == 1


def test_pause_and_resume_keep_what_is_open(guest: FsGuest) -> None:
    entry, fh = guest.create("file")
    guest.write_file(fh, b"before")
    guest.transport.pause()
    guest.transport.resume()
    guest.write_file(fh, b" and after", 6)
    assert guest.getattr(entry.node).size == 16
    assert guest.share.stats()["ops"]["write"]["count"] == 2, "counters go on"


def test_requests_that_do_not_exist(guest: FsGuest) -> None:
    for opcode in (0, 7, 19, f.BMAP, f.IOCTL, f.POLL, f.NOTIFY_REPLY, 53, 63, 64, 4096, 0xFFFF_FFFF):
        assert guest.errno_of(opcode, ROOT, bytes(64)) == errno.ENOSYS


def test_statistics(guest: FsGuest, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    fh = guest.open(guest.lookup("file").node, os.O_RDWR)
    for _ in range(10):
        guest.read_file(fh)
    guest.write_file(fh, b"12345")
    assert guest.errno_of(f.RMDIR, ROOT, cstr("file")) == errno.ENOTDIR
    stats = guest.transport.stats()
    assert (stats["read_bytes"], stats["write_bytes"], stats["errors"], stats["files"]) == (10000, 5, 1, 1)
    read = stats["ops"]["read"]
    assert read["count"] == 10 == sum(read["latency"])
    assert 0.5 < read["p50_us"] <= read["p99_us"]
    assert stats["chains"] == sum(op["count"] for op in stats["ops"].values())


# -- virtio-fs: what FUSE_INIT settles, and what the guest may keep in each cache mode -------------------------------


DIRECT_IO, KEEP_CACHE, CACHE_DIR, PARALLEL = 1, 2, 8, 1 << 6
WRITEBACK, ACL, AUTO_INVAL = 1 << 16, 1 << 20, 1 << 12
POSIX_LOCKS, FLOCK_LOCKS = 1 << 1, 1 << 10
ALLOW_MMAP = 1 << 4  # in the second word
SOLE = 1 << 31  # of an attribute's flags, for the guest kernel of this project
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


EXEC = 0x20
"""A flag of open() in Linux: the file is to be run."""


def test_programs_that_have_not_changed_stay_in_the_guests_cache(tmp_path: Path) -> None:
    path, old = tmp_path / "program", time.time() - 60
    path.write_bytes(b"one")
    with FsGuest(tmp_path) as guest:
        node = guest.lookup("program").node

        def kept(flags: int = EXEC) -> bool:
            guest.open(node, flags)
            assert guest.open_flags in (0, KEEP_CACHE)
            return bool(guest.open_flags == KEEP_CACHE)

        # What was changed just now could change once more in the same moment
        assert not any(kept() for _ in range(3))
        # The time of the last change of its attributes cannot be set
        time.sleep(max(0.0, path.stat().st_ctime + 3.1 - time.time()))
        assert not kept(0)
        assert [kept() for _ in range(3)] == [False, True, True]
        assert not kept(0), "it is not opened to be run"
        with open(path, "r+b") as file:
            file.write(b"two")
        os.utime(path, (old, old))
        assert not kept() and not kept()
        path.unlink()
        path.write_bytes(b"two")
        node = guest.lookup("program").node
        assert not kept() and not kept()


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


@pytest.mark.parametrize("sole", ["proc", "pro", ""])
def test_files_of_the_guest_alone_are_marked(sole: str) -> None:
    """Regular ones below mounts of a name.  Linux knows the attribute's other flags."""
    with FsGuest("/", sole=sole) as guest:
        proc = guest.lookup("proc")
        assert proc.attr.flags == 1
        assert guest.lookup("version", proc.node).attr.flags == (SOLE if sole == "proc" else 0)
        assert guest.lookup("passwd", guest.lookup("etc").node).attr.flags == 0
