"""virtio-fs: rules that a guest breaks.  Each ends with an errno, or with a device that wants a reset; never with
anything outside of the share."""

from __future__ import annotations

import errno
import gc
import os
import stat
import struct
import threading
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import ROOT, FsGuest, cstr
from tests.fs_requests import every_request, named
from vmm.memory import GuestMemory

LONGEST = b"n" * 255
BAD_NAMES = [
    b"", b".", b"..", b"/", b"/etc", b"a/b", b"../x", b"x/..", b"dir/", b"/", b"n" * 256, b"n" * 5000,
]  # fmt: skip


def alive(guest: FsGuest) -> None:
    """The server still serves."""
    assert guest.lookup("file").attr.size == 10000


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: f"{name[:8]!r}-{len(name)}")
def test_names_that_are_none(guest: FsGuest, share: Path, name: bytes) -> None:
    before = sorted(os.listdir(share))
    for opcode, node, parts in named(guest, cstr(name)):
        number = guest.errno_of(opcode, node, *parts)
        assert number == (errno.ENAMETOOLONG if len(name) > 255 else errno.EINVAL), f"opcode {opcode}"
    assert sorted(os.listdir(share)) == before
    alive(guest)


@pytest.mark.parametrize("name", [b"no-end", b"two\0words\0", b"\0x\0", b"\0\0"])
def test_names_that_do_not_end_where_the_request_does(guest: FsGuest, share: Path, name: bytes) -> None:
    before = sorted(os.listdir(share))
    for opcode, node, parts in named(guest, name):
        assert guest.errno_of(opcode, node, *parts) == errno.EINVAL, f"opcode {opcode}"
    assert sorted(os.listdir(share)) == before


def test_the_longest_name_is_one(guest: FsGuest) -> None:
    entry, _ = guest.create(LONGEST)
    assert guest.lookup(LONGEST).node == entry.node
    guest.call(f.UNLINK, ROOT, cstr(LONGEST))
    odd = bytes(set(range(1, 256)) - {ord("/")})
    guest.create(odd)
    assert odd in {entry.name for entry in guest.readdir()}


def test_links_lead_nowhere(guest: FsGuest, share: Path) -> None:
    """A symbolic link is text for the guest: the server follows none, be it in the last place."""
    for number, target in enumerate(("../secret", "/etc/passwd", "..", "dir", "/proc/self/root", "x" * 4095)):
        link = f.Entry.of(guest.call(f.SYMLINK, ROOT, cstr(f"l{number}"), cstr(target)))
        assert guest.call(f.READLINK, link.node) == target.encode()
        assert stat.S_ISLNK(guest.getattr(link.node).mode)
        assert guest.errno_of(f.LOOKUP, link.node, cstr("passwd")) == errno.ENOTDIR
        assert guest.errno_of(f.OPEN, link.node, struct.pack("<II", os.O_RDWR | os.O_TRUNC, 0)) == errno.ELOOP
        assert guest.errno_of(f.OPENDIR, link.node, bytes(8)) == errno.ENOTDIR
        assert guest.errno_of(f.MKDIR, link.node, struct.pack("<II", 0o755, 0), cstr("x")) == errno.ENOTDIR
        body = struct.pack("<IIQQ64x", f.FATTR_SIZE, 0, 0, 0)
        assert guest.errno_of(f.SETATTR, link.node, body) == errno.EINVAL
        make = struct.pack("<4I", os.O_RDWR | os.O_CREAT, 0o644, 0, 0)
        assert guest.errno_of(f.CREATE, ROOT, make, cstr(f"l{number}")) == errno.ELOOP
    assert guest.errno_of(f.SYMLINK, ROOT, cstr("long"), cstr("x" * 4096)) == errno.ENAMETOOLONG
    assert guest.errno_of(f.SYMLINK, ROOT, cstr("empty"), cstr("")) == errno.ENOENT


def test_a_link_swapped_while_a_path_is_walked(guest: FsGuest, share: Path) -> None:
    """CVE-2026-47243 and its like: what was a directory is a link out of the share the next moment."""
    (share / "dir/inside").write_text("right")
    (share.parent / "inside").write_text("wrong: outside")
    (share / "out").symlink_to("..")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for old, new in (("dir", "spare"), ("out", "dir"), ("dir", "out"), ("spare", "dir")):
                os.rename(share / old, share / new)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen, numbers = set(), set()
        for _ in range(3000):
            try:
                node = guest.lookup("dir").node
                seen.add(guest.lookup("inside", node).attr.size)
                guest.create("made", node=node)
            except f.FuseError as error:
                numbers.add(error.errno)
        assert seen <= {len("right")}
        assert numbers <= {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
    finally:
        stop.set()
        thread.join()
        assert not (share.parent / "made").exists()
        (share.parent / "inside").unlink()


@pytest.mark.parametrize(
    "stranger", [0, 2, 3, 7 << 32 | 2, 1 << 32 | 1, 1 << 32, 0xFFFF_FFFF, (1 << 64) - 1, 0xFFFF << 32 | 2]
)
def test_nodes_and_files_that_were_never_given_out(guest: FsGuest, share: Path, stranger: int) -> None:
    for opcode, node, parts in every_request(stranger, stranger):
        assert guest.errno_of(opcode, node, *parts) in (errno.ESTALE, errno.EBADF), f"opcode {opcode}"
    assert sorted(os.listdir(share)) == ["dir", "file"]
    alive(guest)


def test_nodes_and_files_that_are_gone(guest: FsGuest, share: Path) -> None:
    node = guest.lookup("file").node
    fh = guest.open(node, os.O_RDWR)
    guest.release(fh)
    guest.forget(node)
    guest.wait_for("the node to go", lambda: guest.share.stats()["nodes"] == 0)
    for opcode, at, parts in every_request(node, fh):
        assert guest.errno_of(opcode, at, *parts) in (errno.ESTALE, errno.EBADF), f"opcode {opcode}"
    assert guest.lookup("file").node != node
    assert guest.open(guest.lookup("file").node) != fh


def test_files_are_not_directories(guest: FsGuest) -> None:
    file, folder = guest.open(guest.lookup("file").node, os.O_RDWR), guest.open(ROOT, opcode=f.OPENDIR)
    io = struct.pack("<QIIQ", folder, 0, 0, 0)
    body = struct.pack("<QQIIQII", folder, 0, 16, 0, 0, 0, 0)
    assert guest.errno_of(f.READ, ROOT, body) == errno.EBADF
    assert guest.errno_of(f.RELEASE, ROOT, io) == errno.EBADF
    assert guest.errno_of(f.FSYNC, ROOT, struct.pack("<QII", folder, 0, 0)) == errno.EBADF
    assert guest.errno_of(f.READDIR, ROOT, struct.pack("<QQIIQII", file, 0, 16, 0, 0, 0, 0)) == errno.EBADF
    assert guest.errno_of(f.RELEASEDIR, ROOT, struct.pack("<QIIQ", file, 0, 0, 0)) == errno.EBADF


def test_fifos_and_devices_are_not_opened(guest: FsGuest, share: Path) -> None:
    os.mkfifo(share / "fifo")
    names = ["fifo"]
    if os.geteuid() == 0:
        os.mknod(share / "watchdog", stat.S_IFCHR | 0o666, os.makedev(10, 130))
        os.mknod(share / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 200))
        names += ["watchdog", "disk"]
    for name in names:
        node = guest.lookup(name).node
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            assert guest.errno_of(f.OPEN, node, struct.pack("<II", flags, 0)) == errno.ENXIO
            body = struct.pack("<4I", flags | os.O_CREAT, 0o644, 0, 0)
            assert guest.errno_of(f.CREATE, ROOT, body, cstr(name)) == errno.ENXIO
        assert guest.errno_of(f.SETATTR, node, struct.pack("<IIQQ64x", f.FATTR_SIZE, 0, 0, 0)) == errno.EINVAL
        assert guest.errno_of(f.OPENDIR, node, bytes(8)) == errno.ENOTDIR
        assert guest.errno_of(f.SYNCFS, node, bytes(8)) == errno.EINVAL
    alive(guest)


def test_the_files_of_proc_are_not_opened() -> None:
    """In a share of the whole host they are those of the server: its memory, for one."""
    with FsGuest("/") as guest:
        own = guest.walk(f"proc/{os.getpid()}")
        for name in ("mem", "environ", "maps"):
            node = guest.lookup(name, own.node).node
            for flags in (os.O_RDONLY, os.O_RDWR):
                assert guest.errno_of(f.OPEN, node, struct.pack("<II", flags, 0)) == errno.EACCES
            body = struct.pack("<4I", os.O_RDWR | os.O_CREAT, 0o644, 0, 0)
            assert guest.errno_of(f.CREATE, own.node, body, cstr(name)) == errno.EACCES
        link = guest.lookup("root", own.node)
        assert guest.errno_of(f.LOOKUP, link.node, cstr("etc")) == errno.ENOTDIR
        descriptors = guest.lookup("fd", own.node)
        link = guest.lookup("0", descriptors.node)
        assert guest.errno_of(f.OPEN, link.node, struct.pack("<II", os.O_RDONLY, 0)) == errno.ELOOP


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_the_hosts_kernel_is_not_changed_by_files(isolation: str) -> None:
    """What looks like a file there may have the kernel run a program as root."""
    with FsGuest("/", isolation=isolation) as guest:
        own = guest.walk(f"proc/{os.getpid()}")
        score = guest.lookup("oom_score_adj", own.node).node
        module = guest.walk("sys/kernel").node
        files = [
            entry for entry in guest.readdir(module, plus=True) if entry.entry and stat.S_ISREG(entry.entry.attr.mode)
        ]
        assert files, "sysfs has files there"
        for node in (score, *(entry.entry.node for entry in files if entry.entry)):
            assert guest.errno_of(f.OPEN, node, struct.pack("<II", os.O_RDONLY, 0)) == errno.EACCES
            for valid in (f.FATTR_SIZE, f.FATTR_MODE, f.FATTR_UID, f.FATTR_MTIME_NOW | f.FATTR_MTIME):
                assert guest.errno_of(f.SETATTR, node, struct.pack("<IIQQ64x", valid, 0, 0, 0)) == errno.EACCES
            assert (
                guest.errno_of(f.SETXATTR, node, struct.pack("<4I", 1, 0, 0, 0), cstr("user.x"), b"x") == errno.EACCES
            )
        make = struct.pack("<4I", os.O_RDWR | os.O_CREAT, 0o644, 0, 0)
        for folder in (own.node, module):
            for opcode, *parts in (
                (f.CREATE, make, cstr("x")),
                (f.MKNOD, struct.pack("<4I", stat.S_IFREG, 0, 0, 0), cstr("x")),
                (f.MKDIR, struct.pack("<II", 0o755, 0), cstr("x")),
                (f.SYMLINK, cstr("x"), cstr("y")),
                (f.UNLINK, cstr("x")),
                (f.RMDIR, cstr("x")),
                (f.RENAME, struct.pack("<Q", folder), cstr("x"), cstr("y")),
            ):
                assert guest.errno_of(opcode, folder, *parts) == errno.EACCES, f"opcode {opcode}"


def test_a_fifo_swapped_in_while_files_are_opened(guest: FsGuest, share: Path) -> None:
    """Nobody writes to the FIFO: a server that opened it would wait for ever."""
    (share / "a").write_text("regular")
    os.mkfifo(share / "b")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
                os.rename(share / old, share / new)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        numbers = set()
        for _ in range(1500):
            try:
                fh = guest.open(guest.lookup("a").node)
                assert guest.read_file(fh) == b"regular"
                guest.release(fh)
            except f.FuseError as error:
                numbers.add(error.errno)
        assert numbers <= {errno.ENOENT, errno.ENXIO}
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("handles", [True, False], ids=["handles", "names"])
def test_a_guest_that_knows_everything_uses_few_descriptors(share: Path, handles: bool) -> None:
    """CVE-2020-10717."""
    for n in range(40):
        (share / f"d{n}").mkdir()
        for m in range(100):
            (share / f"d{n}/{m}").touch()
    gc.collect()  # what earlier tests left
    before = len(os.listdir("/proc/self/fd"))
    with FsGuest(share, handles=handles) as guest:
        own = len(os.listdir("/proc/self/fd"))
        nodes = {}
        for n in range(40):
            folder = guest.lookup(f"d{n}").node
            for entry in guest.readdir(folder, plus=True):
                assert entry.entry is not None
                if entry.entry.node:
                    nodes[n, entry.name] = entry.entry
        assert len(nodes) == 4000 and guest.share.stats()["nodes"] >= 4040
        assert len(os.listdir("/proc/self/fd")) - own <= 260
        for known in list(nodes.values())[::37]:
            assert guest.getattr(known.node) == known.attr
        assert len(os.listdir("/proc/self/fd")) - own <= 260
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_without_names_use_few_descriptors_too(share: Path) -> None:
    """Without handles they can only be kept open: the guest gets no more of them than there is room for."""
    with FsGuest(share, handles=False, max_fds=16) as guest:
        own = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            _, fh = guest.create("/", opcode=f.TMPFILE)
            guest.release(fh)
        assert len(os.listdir("/proc/self/fd")) - own <= 40
        alive(guest)


def test_more_nodes_than_there_may_be(share: Path) -> None:
    for n in range(30):
        (share / f"f{n}").touch()
    with FsGuest(share, max_nodes=20) as guest:
        nodes = [guest.lookup(f"f{n}").node for n in range(20)]
        assert guest.errno_of(f.LOOKUP, ROOT, cstr("f20")) == errno.ENFILE
        assert len(guest.readdir(plus=True)) == 34, "they can be listed all the same"
        body = struct.pack("<4I", os.O_RDWR, 0o644, 0, 0)
        assert guest.errno_of(f.CREATE, ROOT, body, cstr("made")) == errno.ENFILE
        guest.forget(nodes[0], 2)
        guest.wait_for("the node to go", lambda: guest.share.stats()["nodes"] < 20)
        assert guest.lookup("f20").attr.nlink == 1


def test_more_open_files_than_there_may_be(guest: FsGuest) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    node = guest.lookup("file").node
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        opened: list[int] = []
        number = 0
        while not number:
            try:
                opened.append(guest.open(node))
            except f.FuseError as error:
                number = error.errno or 0
        assert number in (errno.EMFILE, errno.ENFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fh in opened:
        guest.release(fh)
    alive(guest)


@pytest.mark.parametrize("count", [2, 1000, (1 << 64) - 1])
def test_forgetting_more_than_was_known(guest: FsGuest, count: int) -> None:
    node = guest.lookup("file").node
    guest.forget(node, count)
    guest.forget(node, count)
    assert guest.errno_of(f.GETATTR, node, bytes(16)) == errno.ESTALE
    guest.forget(ROOT, count)
    guest.forget(0, count)
    guest.forget((1 << 64) - 1, count)
    guest.quiet(f.BATCH_FORGET, 0, struct.pack("<II", 0xFFFF_FFFF, 0), struct.pack("<QQ", node, count))
    guest.quiet(f.BATCH_FORGET, 0, struct.pack("<II", 3, 0))
    guest.quiet(f.FORGET, node, b"1234")
    assert guest.getattr(ROOT).nlink > 0, "the root is never forgotten"
    alive(guest)


def test_more_waits_than_there_may_be(guest: FsGuest, share: Path) -> None:
    node = guest.lookup("file").node
    with FsGuest(share) as other:
        theirs = other.lookup("file").node
        fh2 = other.open(theirs, os.O_RDWR)
        other.lock(theirs, fh2, 1, f.F_WRLCK)
        fh = guest.open(node, os.O_RDWR)
        waits = [guest.submit(f.SETLKW, node, f.lock_body(fh, n + 1, f.F_RDLCK), room=0) for n in range(64)]
        assert guest.errno_of(f.SETLKW, node, f.lock_body(fh, 99, f.F_RDLCK), room=0) == errno.ENOLCK
        guest.submit(f.RELEASE, node, struct.pack("<QIIQ", fh, 0, 0, 0), room=0)
        written = {used.head: used.written for used in guest.queues[1].wait(65)}
        assert {guest.answer(answer, written[head])[0] for head, answer in waits} == {errno.EBADF}, "it was closed"


def test_more_lock_owners_than_there_may_be(guest: FsGuest) -> None:
    node = guest.lookup("file").node
    fh = guest.open(node, os.O_RDWR)
    numbers = {guest.errno_of(f.SETLK, node, f.lock_body(fh, n, f.F_RDLCK)) for n in range(1100)}
    assert numbers == {0, errno.ENOLCK}
    guest.call(f.DESTROY, 0, room=0)
    guest.mount()
    alive(guest)


def test_two_queues_at_once(share: Path) -> None:
    """A vCPU removes and forgets what another one works with."""
    with FsGuest(share, queues=2, memory=GuestMemory(32 << 20)) as guest:
        stop = threading.Event()
        queue = guest.queues[2]
        request = guest.data(f.HEADER.pack(48, f.FORGET, 2, 0, 0, 0, 1, 0, 0) + struct.pack("<Q", 1))

        def forget() -> None:
            ids = [gen << 32 | index for index in range(2, 40) for gen in range(1, 4)]
            while not stop.is_set():
                for node in ids:
                    guest.memory.write(request.gpa + 16, struct.pack("<Q", node))
                    queue.offer(queue.chain([request]))
                    queue.kick()
                    while not queue.take_used() and not stop.is_set():
                        pass

        thread = threading.Thread(target=forget)
        thread.start()
        numbers = set()
        try:
            for n in range(400):
                try:
                    entry, fh = guest.create(f"f{n % 7}")
                    guest.write_file(fh, b"abc")
                    assert guest.read_file(fh)[:3] == b"abc"
                    guest.getattr(entry.node)
                    guest.release(fh)
                    guest.call(f.UNLINK, ROOT, cstr(f"f{n % 7}"))
                except f.FuseError as error:
                    numbers.add(error.errno)
        finally:
            stop.set()
            thread.join()
        assert numbers <= {errno.ESTALE, errno.ENOENT}
        alive(guest)
