"""Shares that are saved: what a guest finds in the same directory and in another, what cannot be saved, and lies."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.filesystems import filesystem
from tests.fs_driver import ROOT, FsGuest, FuseError
from vmm.errors import ConfigError
from vmm.saveable import State

OPTIONS = [
    pytest.param({"isolation": "thread"}, id="thread"),
    pytest.param({"isolation": "process"}, id="process"),
    pytest.param({"isolation": "thread", "marks": False, "max_fds": 16}, id="names"),
]

ROOT_INO = 40
"""Where the head has the inode of the root."""

MakeGuest = Callable[..., FsGuest]


@pytest.fixture(params=OPTIONS)
def make(request: pytest.FixtureRequest) -> Iterator[MakeGuest]:
    made: list[FsGuest] = []

    def make_one(path: Path, **more: object) -> FsGuest:
        made.append(FsGuest(path, **{**request.param, **more}))
        return made[-1]

    yield make_one
    for guest in made:
        guest.close()
        assert guest.error is None


def saved(guest: FsGuest) -> State:
    guest.transport.pause()
    try:
        return guest.share.save()
    finally:
        guest.transport.resume()


def restored(make: MakeGuest, state: State, path: Path, **options: object) -> FsGuest:
    """A guest that goes on with what another one knew."""
    guest = make(path, mount=False, **options)
    guest.start()
    guest.transport.pause()
    guest.share.restore(state)
    guest.transport.resume()
    return guest


def tree(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "deep").mkdir()
    (path / "deep" / "deeper").mkdir()
    (path / "deep" / "deeper" / "file").write_text(f"{text} deep")
    (path / "file").write_text(f"{text} file")
    (path / "link").symlink_to("file")
    return path


def content(guest: FsGuest, node: int) -> bytes:
    fh = guest.open(node)
    data = guest.read_file(fh)
    guest.release(fh)
    return data


def test_what_was_known_and_open_is_in_the_same_directory(make: MakeGuest, tmp_path: Path) -> None:
    one = make(tree(tmp_path / "one", "one"))
    file, deep, link = one.lookup("file"), one.walk("deep/deeper/file"), one.lookup("link")
    forgotten = one.lookup("deep").node  # a second time
    one.forget(forgotten)
    fh, directory = one.open(file.node, os.O_RDWR), one.open(ROOT, opcode=f.OPENDIR)
    closed = one.open(deep.node)
    one.release(closed)
    state = saved(one)
    assert one.write_file(fh, b"ONE") == 3, "it goes on itself"
    two = restored(make, state, tmp_path / "one")
    assert two.read_file(fh) == b"ONE file"
    assert two.write_file(fh, b"two") == 3
    assert (tmp_path / "one" / "file").read_text() == "two file"
    assert content(two, deep.node) == b"one deep"
    assert two.call(f.READLINK, link.node) == b"file"
    assert {each.name for each in two.readdir(fh=directory)} >= {b"file", b"deep", b"link"}
    assert two.lookup("file").node == file.node, "it is still the same file to the guest"
    assert two.errno_of(f.READ, ROOT, struct.pack("<QQIIQII", closed, 0, 9, 0, 0, 0, 0)) == errno.EBADF
    new = two.open(deep.node)
    assert new not in (fh, directory, closed)
    for each in (fh, new):
        two.release(each)
    two.release(directory, f.RELEASEDIR)
    counts = two.transport.stats()
    assert (counts["files"], counts["nodes"]) == (0, 5)
    two.forget(file.node, 2)
    two.forget(link.node)
    two.forget(deep.node)
    assert two.transport.stats()["nodes"] == 2, "lookups were counted"


def test_another_directory_has_its_own_files(make: MakeGuest, tmp_path: Path) -> None:
    one = make(tree(tmp_path / "one", "one"))
    file, deep, link = one.lookup("file"), one.walk("deep/deeper/file"), one.lookup("link")
    fh, gone_fh = one.open(file.node, os.O_RDWR), one.open(deep.node)
    state = saved(one)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("other file")
    (other / "link").mkdir()
    two = restored(make, state, other)
    assert two.read_file(fh) == b"other file"
    assert two.write_file(fh, b"OTHER") == 5
    assert (other / "file").read_text() == "OTHER file"
    assert (tmp_path / "one" / "file").read_text() == "one file"
    for node in (deep.node, link.node):  # not there; not of that type
        assert two.errno_of(f.GETATTR, node, bytes(16)) == errno.ESTALE
    with pytest.raises(FuseError):
        two.read_file(gone_fh)
    assert content(two, two.create("new")[0].node) == b""
    assert two.lookup("link").node != link.node
    assert (other / "new").exists()
    two.forget(deep.node)
    (other / "deep").mkdir()
    assert two.lookup("deep").node not in (deep.node, file.node)


def test_another_directory_may_have_the_number_of_the_first(make: MakeGuest, tmp_path: Path) -> None:
    """As a directory that is made just after another one was removed: its files are found by their names."""
    one = make(tree(tmp_path / "one", "one"))
    file, deep = one.lookup("file"), one.walk("deep/deeper/file")
    state = saved(one)
    other = tree(tmp_path / "other", "other")
    raw: bytes = state.payload["server"]
    number, another = (struct.pack("<Q", path.stat().st_ino) for path in (tmp_path / "one", other))
    assert raw.index(number) == ROOT_INO
    state = State(state.kind, state.version, {**state.payload, "server": raw.replace(number, another, 1)})
    two = restored(make, state, other)
    assert content(two, file.node) == b"other file"
    assert content(two, deep.node) == b"other deep"


def test_a_share_that_nobody_looked_at_gets_any_directory(make: MakeGuest, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = make(tmp_path / "empty", cache="always")
    assert one.readdir() != []
    state = saved(one)
    for number in range(2):
        two = restored(make, state, tree(tmp_path / f"{number}", f"{number}"), cache="always")
        assert content(two, two.lookup("file").node) == f"{number} file".encode()
        two.create("own")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_file_that_was_replaced_is_another(make: MakeGuest, tmp_path: Path) -> None:
    one = make(tree(tmp_path / "one", "one"))
    file = one.lookup("file").node
    state = saved(one)
    (tmp_path / "one" / "new").write_text("new")
    os.rename(tmp_path / "one" / "new", tmp_path / "one" / "file")
    two = restored(make, state, tmp_path / "one")
    assert two.errno_of(f.GETATTR, file, bytes(16)) == errno.ESTALE
    assert content(two, two.lookup("file").node) == b"new"


def test_a_file_that_was_replaced_by_one_with_its_number_is_another(make: MakeGuest, tmp_path: Path) -> None:
    """ext4 and tmpfs give the number of a removed file to the next one."""
    with filesystem("ext4", tmp_path) as top:
        one = make(tree(top / "one", "one"))
        if not one.marks:
            pytest.skip("a host that has no file handles cannot tell them apart")
        file, number = one.lookup("file").node, (top / "one" / "file").stat().st_ino
        fh = one.open(file, os.O_RDWR)
        state = saved(one)
        one.close()
        (top / "one" / "file").unlink()
        os.sync()
        for name in range(50):
            (top / "one" / f"{name}").write_text("new")
            if (top / "one" / f"{name}").stat().st_ino == number:
                (top / "one" / f"{name}").rename(top / "one" / "file")
                break
        else:
            pytest.skip("its number was not used again")
        two = restored(make, state, top / "one")
        assert two.errno_of(f.GETATTR, file, bytes(16)) == errno.ESTALE
        assert two.errno_of(f.READ, file, *read(fh)) == errno.ESTALE
        assert two.errno_of(f.WRITE, file, *read(fh), b"old writer", room=8) in (errno.ESTALE, errno.EINVAL)
        assert content(two, two.lookup("file").node) == b"new"
        two.close()


@pytest.mark.parametrize("change", ["remove", "rename", "replace"])
def test_what_is_open_of_a_file_that_has_gone_is_stale(make: MakeGuest, tmp_path: Path, change: str) -> None:
    one = make(tree(tmp_path / "one", "one"))
    file = one.lookup("file").node
    fh, folder = one.open(file, os.O_RDWR), one.open(one.lookup("deep").node, opcode=f.OPENDIR)
    state = saved(one)
    (tmp_path / "one" / "deep").rename(tmp_path / "one" / "other")
    if change == "remove":
        (tmp_path / "one" / "file").unlink()
    else:
        (tmp_path / "one" / "file").rename(tmp_path / "one" / "moved")
    if change == "replace":
        (tmp_path / "one" / "file").write_text("another")
    two = restored(make, state, tmp_path / "one")
    for _ in range(2):
        stale = {
            "read": two.errno_of(f.READ, file, *read(fh)),
            "getattr": two.errno_of(f.GETATTR, file, struct.pack("<IIQ", 1, 0, fh)),
            "setlk": two.errno_of(f.SETLK, file, f.lock_body(fh, 1, f.F_WRLCK)),
            "getlk": two.errno_of(f.GETLK, file, f.lock_body(fh, 1, f.F_WRLCK)),
            "flush": two.errno_of(f.FLUSH, file, struct.pack("<QIIQ", fh, 0, 0, 0)),
            "fsync": two.errno_of(f.FSYNC, file, struct.pack("<QII", fh, 0, 0)),
            "readdir": two.errno_of(f.READDIR, ROOT, *read(folder)),
        }
        assert set(stale.values()) == {errno.ESTALE}, stale
        two = restored(make, saved(two), tmp_path / "one")  # and so it stays
    two.release(fh)
    two.release(folder, f.RELEASEDIR)
    assert two.errno_of(f.READ, file, *read(fh)) == errno.EBADF
    assert two.transport.stats()["files"] == 0


def read(fh: int) -> tuple[bytes]:
    return (struct.pack("<QQIIQII", fh, 0, 9, 0, 0, 0, 0),)


def test_files_keep_their_numbers_in_another_directory(make: MakeGuest, tmp_path: Path) -> None:
    """SQLite writes to no database whose file has another number than the one that it has open."""
    one = make(tree(tmp_path / "one", "one"))
    file, deep = one.lookup("file"), one.walk("deep/deeper/file")
    fh = one.open(file.node, os.O_RDWR)
    state = saved(one)
    two = restored(make, state, tree(tmp_path / "two", "two"))
    for _ in range(3):
        assert two.getattr(file.node, fh).ino == two.getattr(file.node).ino == file.attr.ino
        assert two.lookup("file").attr.ino == file.attr.ino
        assert two.walk("deep/deeper/file").attr.ino == deep.attr.ino
        assert two.lookup("link").attr.ino == (tmp_path / "two" / "link").lstat().st_ino
        # A file that has one of these numbers on the host has another one to the guest
        if not (tmp_path / "two" / "same").exists():
            os.link(tmp_path / "one" / "file", tmp_path / "two" / "same")
        same = two.lookup("same")
        assert same.attr.ino not in (file.attr.ino, deep.attr.ino)
        assert two.getattr(same.node).ino == same.attr.ino
        two = restored(make, saved(two), tmp_path / "two")
    three = restored(make, state, tmp_path / "one")
    assert three.getattr(file.node).ino == file.attr.ino
    three.release(fh)
    three.forget(file.node)
    assert three.lookup("file").attr.ino == file.attr.ino


def test_it_can_be_saved_again_and_again(make: MakeGuest, tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}").write_text(f"{number}")
    guest = make(tmp_path)
    nodes = [guest.lookup(f"{number}").node for number in range(300)]
    handles = [guest.open(node) for node in nodes[:50]]
    for _ in range(3):
        guest = restored(make, saved(guest), tmp_path)
    assert [content(guest, node) for node in nodes] == [str(number).encode() for number in range(300)]
    assert [guest.read_file(fh) for fh in handles] == [str(number).encode() for number in range(50)]
    state = saved(guest)
    assert saved(guest) == state


def test_what_cannot_be_saved_is_named(make: MakeGuest, tmp_path: Path) -> None:
    guest = make(tree(tmp_path / "one", "one"))
    file = guest.lookup("file").node
    fh = guest.open(file, os.O_RDWR)
    for flags in (0, f.LK_FLOCK):
        guest.lock(file, fh, 7, f.F_WRLCK, flags=flags)
        kind = r"flock\(\)" if flags else "POSIX"
        words = rf"cannot be saved: its guest has a {kind} lock of process 77 on \S*/file$"
        with pytest.raises(ConfigError, match=words):
            saved(guest)
        guest.lock(file, fh, 7, f.F_UNLCK, flags=flags)
        saved(guest)  # the file is still open
    saved(guest)
    guest.call(f.UNLINK, ROOT, f.cstr("file"))
    with pytest.raises(ConfigError, match=r"its guest has \S*file \(deleted\)"):
        saved(guest)
    assert guest.read_file(fh) == b"one file", "it goes on"
    guest.release(fh)
    saved(guest)


def test_a_lock_counts_until_all_of_it_is_released(make: MakeGuest, tmp_path: Path) -> None:
    guest = make(tree(tmp_path / "one", "one"))
    file = guest.lookup("file").node
    fh = guest.open(file, os.O_RDWR)
    pending, first, last = 0x40000000, 0x40000002, 0x40000002 + 509  # as SQLite has them
    for _ in range(2):
        guest.lock(file, fh, 7, f.F_RDLCK, pending, pending)
        guest.lock(file, fh, 7, f.F_RDLCK, first, last)
        guest.lock(file, fh, 7, f.F_UNLCK, pending, pending)
        guest.lock(file, fh, 7, f.F_WRLCK, first, last)
        guest.lock(file, fh, 7, f.F_UNLCK, first + 10, last - 10)
        guest.lock(file, fh, 7, f.F_UNLCK, first, last - 5)
        with pytest.raises(ConfigError, match="lock of process 77"):
            saved(guest)
        guest.lock(file, fh, 7, f.F_UNLCK, last - 9, last)
        saved(guest)
    for number in range(40):
        guest.lock(file, fh, 7, f.F_WRLCK, number * 10, number * 10)
    guest.lock(file, fh, 7, f.F_UNLCK, 0, 385)
    with pytest.raises(ConfigError, match="lock of process 77"):
        saved(guest)
    guest.lock(file, fh, 7, f.F_UNLCK)
    saved(guest)


def test_owners_that_hold_nothing_do_not_use_the_table_up(make: MakeGuest, tmp_path: Path) -> None:
    guest = make(tree(tmp_path / "one", "one"))
    file = guest.lookup("file").node
    fh = guest.open(file, os.O_RDWR)
    for owner in range(3000):
        guest.lock(file, fh, owner, f.F_WRLCK)
        guest.lock(file, fh, owner, f.F_UNLCK)
    saved(guest)


def test_other_options_are_refused(make: MakeGuest, tmp_path: Path) -> None:
    one = make(tree(tmp_path / "one", "one"), cache="always")
    one.lookup("file")
    state = saved(one)
    with pytest.raises(ConfigError, match="another directory for good"):
        restored(make, state, tree(tmp_path / "two", "two"), cache="always")
    with pytest.raises(ConfigError, match="other options"):
        restored(make, state, tmp_path / "one", cache="always", locks="guest")
    with pytest.raises(ConfigError, match="it is of the share"):
        restored(make, state, tmp_path / "one", cache="always", tag="other")
    with pytest.raises(ConfigError, match="may"):
        restored(make, state, tmp_path / "one", cache="always", max_nodes=1 << 16, node_bytes=1)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_lies_open_nothing_and_break_nothing(tmp_path: Path, isolation: str) -> None:
    """Bytes of a server that somebody has taken over, or of a file that somebody has changed."""
    (tmp_path / "secret").write_text("secret")
    with FsGuest(tree(tmp_path / "one", "one")) as one:
        file, deep = one.lookup("file").node, one.walk("deep/deeper/file").node
        handles = [one.open(node, os.O_RDWR) for node in (file, deep)]
        state = saved(one)
    raw: bytes = state.payload["server"]
    chance = random.Random(3)
    with FsGuest(tmp_path / "one", mount=False, isolation=isolation) as guest:
        guest.start()
        for number in range(1500 if isolation == "thread" else 150):
            lie = bytearray(raw)
            if number == 0:
                at = raw.index(b"file", 56)
                lie[at : at + 4] = b"../s"
            elif number == 1:
                lie = lie.replace(b"deeper", b"..\0...")
            else:
                for _ in range(chance.choice((1, 1, 2, 8))):
                    lie[chance.randrange(len(lie))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF, chance.randrange(256)))
                if chance.random() < 0.1:
                    del lie[chance.randrange(len(lie)) :]
            guest.transport.pause()
            with contextlib.nullcontext() if number > 1 else pytest.raises(ConfigError, match="does not fit"):
                try:
                    guest.share.restore(State(state.kind, state.version, {"tag": "share", "server": bytes(lie)}))
                except ConfigError:
                    if number < 2:
                        raise
            guest.transport.resume()
            for node in (file, deep):
                guest.errno_of(f.GETATTR, node, bytes(16))
            for fh in handles:
                guest.errno_of(f.READ, ROOT, struct.pack("<QQIIQII", fh, 0, 9, 0, 0, 0, 0))
        guest.reset()
        guest.start()
        guest.mount()
        assert content(guest, guest.lookup("file").node) == b"one file"
    assert (tmp_path / "secret").read_text() == "secret"
