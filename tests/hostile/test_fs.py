"""virtio-fs: rules that a guest breaks.  Each ends with an errno, or with a device that wants a reset; never with
anything outside of the share.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
import threading
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.command import descriptors
from tests.fs_driver import ROOT, FsGuest, cstr, every_request, named
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
    before = descriptors()
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
    assert descriptors() <= before


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


# -- virtio-fs: requests that are not what they say. The server answers with an errno, or the device wants a reset


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
