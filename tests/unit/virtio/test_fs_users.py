"""virtio-fs: whose files they are, and which bits their modes keep.  What the server does for a guest's user, the
host's kernel must take for that user's doing."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import fs_driver as f
from tests.command import python_is_for_all
from tests.fs_driver import ROOT, FsGuest, cstr
from tests.unit.virtio.test_fs_files import getxattr, setxattr

USER, GROUP = 4321, 5432

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as other users")


def as_user(guest: FsGuest, uid: int = USER, gid: int = GROUP) -> None:
    guest.uid, guest.gid = uid, gid


def owner(path: Path) -> tuple[int, int, int]:
    """``(uid, gid, mode)`` of what lies there."""
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@root_only
@pytest.mark.parametrize("handles", [True, False])
def test_what_a_user_makes_is_the_users(tmp_path: Path, handles: bool) -> None:
    os.chmod(tmp_path, 0o777)
    with FsGuest(tmp_path, handles=handles) as guest:
        as_user(guest)
        guest.create("file", mode=0o666, umask=0o027)
        guest.mkdir("dir", 0o777, umask=0o077)
        guest.call(f.SYMLINK, ROOT, cstr("link"), cstr("x"))
        guest.call(f.MKNOD, ROOT, struct.pack("<4I", stat.S_IFIFO | 0o666, 0, 0o022, 0), cstr("fifo"))
        entry, _ = guest.create("/", mode=0o600, opcode=f.TMPFILE)
        assert (entry.attr.uid, entry.attr.gid) == (USER, GROUP)
        as_user(guest, 0, 0)
        guest.create("roots", mode=0o666)
    assert owner(tmp_path / "file") == (USER, GROUP, 0o640)
    assert owner(tmp_path / "dir") == (USER, GROUP, 0o700)
    assert owner(tmp_path / "link")[:2] == (USER, GROUP)
    assert owner(tmp_path / "fifo") == (USER, GROUP, 0o644)
    assert owner(tmp_path / "roots") == (0, 0, 0o666), "nothing of the user before is left"


@root_only
def test_where_only_the_guest_decides(tmp_path: Path) -> None:
    """Root of a user namespace in the guest, uid 1234 for us, makes things in its read-only directories."""
    (tmp_path / "closed").mkdir(mode=0o555)
    with FsGuest(tmp_path, permissions="guest") as guest:
        node = guest.lookup("closed").node
        as_user(guest)
        guest.call(f.CREATE, node, struct.pack("<4I", os.O_RDWR, 0o644, 0, 0), cstr("file"))
        guest.call(f.MKDIR, node, struct.pack("<II", 0o755, 0), cstr("dir"))
        guest.call(f.SYMLINK, node, cstr("link"), cstr("y"))
        guest.call(f.MKNOD, node, struct.pack("<4I", stat.S_IFREG | 0o644, 0, 0, 0), cstr("node"))
        guest.call(f.TMPFILE, node, struct.pack("<4I", os.O_RDWR, 0o644, 0, 0), cstr("/"))
        device = struct.pack("<4I", stat.S_IFCHR | 0o666, 0x103, 0, 0)
        assert guest.errno_of(f.MKNOD, node, device, cstr("null")) == errno.EPERM, "no user makes devices"
        as_user(guest, 0, 0)
        guest.create("roots", mode=0o666)
    for name in ("file", "dir", "link", "node"):
        assert owner(tmp_path / "closed" / name)[:2] == (USER, GROUP), name
    assert owner(tmp_path / "roots")[:2] == (0, 0)


@root_only
def test_nobody_makes_anything_where_they_may_not(tmp_path: Path) -> None:
    """The guest's kernel checks that before; the host's does it again."""
    (tmp_path / "closed").mkdir(mode=0o755)
    with FsGuest(tmp_path) as guest:
        node = guest.lookup("closed").node
        as_user(guest)
        for opcode, parts in (
            (f.CREATE, (struct.pack("<4I", os.O_RDWR, 0o644, 0, 0), cstr("x"))),
            (f.MKDIR, (struct.pack("<II", 0o755, 0), cstr("x"))),
            (f.SYMLINK, (cstr("x"), cstr("y"))),
            (f.MKNOD, (struct.pack("<4I", stat.S_IFREG | 0o644, 0, 0, 0), cstr("x"))),
            (f.TMPFILE, (struct.pack("<4I", os.O_RDWR, 0o644, 0, 0), cstr("/"))),
        ):
            assert guest.errno_of(opcode, node, *parts) == errno.EACCES
        device = struct.pack("<4I", stat.S_IFCHR | 0o666, 0x103, 0, 0)
        os.chmod(tmp_path / "closed", 0o777)
        assert guest.errno_of(f.MKNOD, node, device, cstr("null")) == errno.EPERM, "no user makes devices"
        assert os.listdir(tmp_path / "closed") == []
        (tmp_path / "secret").write_text("x")
        os.chmod(tmp_path / "secret", 0o600)
        body = struct.pack("<4I", os.O_RDWR, 0o644, 0, 0)
        assert guest.errno_of(f.CREATE, ROOT, body, cstr("secret")) == errno.EACCES, "found, not made: still not theirs"


@root_only
def test_set_group_id_directories(tmp_path: Path) -> None:
    """CVE-2022-0358: somebody outside of the group must not get a set-group-id file of it."""
    folder = tmp_path / "dir"
    folder.mkdir()
    os.chown(folder, 0, 777)
    os.chmod(folder, 0o2777)
    with FsGuest(tmp_path) as guest:
        node = guest.lookup("dir").node
        as_user(guest)
        guest.create("outside", mode=0o2755, node=node)
        assert owner(folder / "outside") == (USER, 777, 0o755)
        sub = guest.mkdir("sub", 0o755, node=node)
        assert owner(folder / "sub") == (USER, 777, 0o2755), "directories pass the group on"
        assert sub.attr.mode & stat.S_ISGID
        if guest.init_flags2 & 1 << 2:  # CREATE_SUPP_GROUP: the guest says that this user is in the group
            extension = struct.pack("<IIII", 16, 32, 1, 777)
            guest.create("inside", mode=0o2755, node=node, extension=extension, ext=2)
            assert owner(folder / "inside") == (USER, 777, 0o2755)
            guest.create("again", mode=0o2755, node=node)
            assert owner(folder / "again") == (USER, 777, 0o755), "that was for one request"


@root_only
def test_default_acls_go_before_the_umask(tmp_path: Path) -> None:
    entries = ((1, 7), (4, 7), (16, 7), (32, 0))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, 0xFFFFFFFF) for tag, perm in entries)
    with FsGuest(tmp_path, acl=True) as guest:
        if setxattr(guest, ROOT, "system.posix_acl_default", acl) == errno.EOPNOTSUPP:
            pytest.skip("no ACLs on this file system")
        guest.create("file", mode=0o666, umask=0o077)
    assert owner(tmp_path / "file")[2] == 0o660


@root_only
@pytest.mark.parametrize("bits", [0o4755, 0o2755, 0o6755, 0o755])
def test_writing_takes_set_user_id_away(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "file"
    with FsGuest(tmp_path) as guest:
        path.write_bytes(b"x" * 100)
        node = guest.lookup("file").node
        fh = guest.open(node, os.O_RDWR)
        for act in (
            lambda kill: guest.write_file(fh, b"y", 0, f.WRITE_KILL if kill else 0),
            lambda kill: guest.setattr(node, f.FATTR_SIZE | (f.FATTR_KILL if kill else 0), size=50),
            lambda kill: guest.setattr(node, f.FATTR_SIZE | f.FATTR_FH | (f.FATTR_KILL if kill else 0), size=50, fh=fh),
            lambda kill: guest.release(guest.open(node, os.O_WRONLY | os.O_TRUNC, f.OPEN_KILL if kill else 0)),
        ):
            for kill in (False, True):
                os.chmod(path, bits)
                act(kill)
                assert owner(path)[2] == (bits & 0o777 if kill else bits), "the guest says for whom it is"
        os.chmod(path, bits)
        guest.setattr(node, f.FATTR_UID, uid=USER)
        assert owner(path) == (USER, 0, bits & 0o777), "a new owner"


@root_only
def test_an_acl_takes_set_group_id_away(tmp_path: Path) -> None:
    entries = ((1, 7), (4, 5), (32, 5))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, 0xFFFFFFFF) for tag, perm in entries)
    (tmp_path / "file").touch()
    with FsGuest(tmp_path, acl=True) as guest:
        node = guest.lookup("file").node
        for flag, mode in ((0, 0o2755), (1, 0o755)):
            os.chmod(tmp_path / "file", 0o2755)
            body = struct.pack("<4I", len(acl), 0, flag, 0)
            if guest.errno_of(f.SETXATTR, node, body, cstr("system.posix_acl_access"), acl) == errno.EOPNOTSUPP:
                pytest.skip("no ACLs on this file system")
            assert owner(tmp_path / "file")[2] == mode


@root_only
def test_ids_are_mapped_both_ways(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    (tmp_path / "alien").touch()
    os.chown(tmp_path / "alien", 7, 7)
    with FsGuest(tmp_path, maps=((0, 100_000, 1000), (5000, 200_000, 10)), acl=True) as guest:
        as_user(guest, 0, 5003)
        entry, _ = guest.create("file")
        assert owner(tmp_path / "file")[:2] == (100_000, 200_003)
        assert (entry.attr.uid, entry.attr.gid) == (0, 5003)
        attr = guest.setattr(entry.node, f.FATTR_UID | f.FATTR_GID, uid=999, gid=0)
        assert (attr.uid, attr.gid) == (999, 0)
        assert owner(tmp_path / "file")[:2] == (100_999, 100_000)
        assert guest.lookup("alien").attr.uid == 65534, "nobody, in the guest"
        body = struct.pack("<IIQQQQQQ8I", f.FATTR_UID, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1000, 0, 0)
        assert guest.errno_of(f.SETATTR, entry.node, body) == errno.EINVAL, "there is no such user on the host"
        as_user(guest, 7, 7777)
        assert guest.errno_of(f.MKDIR, ROOT, struct.pack("<II", 0o755, 0), cstr("d")) == errno.EINVAL
        acl = struct.pack("<I", 2) + b"".join(
            struct.pack("<HHI", *entry)
            for entry in (
                (1, 6, 0xFFFFFFFF),
                (2, 4, 5001),
                (4, 0, 0xFFFFFFFF),
                (16, 4, 0xFFFFFFFF),
                (32, 0, 0xFFFFFFFF),
            )
        )
        name = "system.posix_acl_access"
        if setxattr(guest, entry.node, name, acl) != errno.EOPNOTSUPP:
            assert getxattr(guest, entry.node, name) == acl
            assert struct.pack("<HHI", 2, 4, 200_001) in os.getxattr(tmp_path / "file", name)


@root_only
def test_the_process_itself_stays_as_it_is(tmp_path: Path) -> None:
    """Ids, umask and working directory change in the server's threads only."""
    before = (os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd())
    mask = os.umask(0o022)
    os.umask(mask)
    stop = threading.Event()
    seen: list[Any] = []

    def watch() -> None:
        while not stop.is_set():
            (tmp_path / "own").write_text("")
            seen.append(owner(tmp_path / "own"))
            (tmp_path / "own").unlink()

    thread = threading.Thread(target=watch)
    os.chmod(tmp_path, 0o777)
    with FsGuest(tmp_path) as guest:
        thread.start()
        as_user(guest)
        for n in range(300):
            guest.mkdir(f"d{n}", umask=0o077)
        stop.set()
        thread.join()
    assert set(seen) == {(0, 0, 0o666 & ~mask)}
    assert (os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd()) == before
    assert os.umask(mask) == mask


def without_privileges(code: str, folder: Path) -> None:
    """Run Python code as an ordinary user who owns *folder*, in *folder*."""
    os.chown(folder, USER, USER)
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & stat.S_IXOTH:
            os.chmod(parent, parent.stat().st_mode | stat.S_IXOTH)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONDONTWRITEBYTECODE": "1"},
        user=USER, group=USER, extra_groups=[], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@root_only
@pytest.mark.skipif(not python_is_for_all(), reason="other users cannot run this Python")
def test_a_server_without_privileges(tmp_path: Path) -> None:
    """It can do what its own user can; what is made is that user's."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "roots").write_text("not for you")
    os.chmod(folder / "roots", 0o600)
    without_privileges(
        """
import os, sys, struct, errno
from pathlib import Path
from tests import fs_driver as f
folder = Path(sys.argv[1])
with f.FsGuest(folder, max_fds=16) as guest:
    entry, fh = guest.create("file", mode=0o640)
    assert guest.write_file(fh, b"hello") == 5 and guest.read_file(fh) == b"hello"
    assert entry.attr.uid == os.getuid() and (folder / "file").stat().st_mode & 0o777 == 0o640
    for n in range(60):
        guest.mkdir(f"d{n}")
    assert guest.getattr(entry.node).size == 5, "opened again by its name"
    assert len(guest.readdir(plus=True)) == 64
    roots = guest.lookup("roots")
    assert guest.errno_of(f.OPEN, roots.node, struct.pack("<II", 0, 0)) == errno.EACCES
    assert guest.share.stats()["fds"] <= 16
""",
        folder,
    )
