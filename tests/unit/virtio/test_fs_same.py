"""virtio-fs: what makes two looks the same file, on each file system that a share may lie on.

A guest drops a directory entry whose file got another id, and with it every mount on or below it.  So an id must stay
for as long as the file does, and never be that of another file.  See docs/decisions/shares.md, 0009.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.filesystems import bind, filesystem, overlay
from tests.fs_driver import ROOT, FsGuest, cstr

MAX_FDS = 16
FILLERS = 40

OVERLAYS = {
    "one-fs": ("plain", "plain", ""),
    "one-fs-index": ("plain", "plain", "index=on"),
    "redirect": ("plain", "plain", "redirect_dir=on"),
    "metacopy": ("plain", "plain", "metacopy=on,redirect_dir=on"),
    "xino": ("tmpfs", "plain", "xino=on"),
    "no-xino": ("tmpfs", "plain", "xino=off"),
    "no-xino-index": ("tmpfs", "plain", "xino=off,index=on"),
    "nfs-export": ("tmpfs", "plain", "xino=off,index=on,nfs_export=on,redirect_dir=on"),
    "on-ext4": ("ext4", "ext4", ""),
    "on-xfs": ("xfs", "xfs", ""),
    "on-btrfs": ("btrfs", "btrfs", ""),
    "on-tmpfs": ("tmpfs", "tmpfs", ""),
}
"""Of an overlay: what its lower and its upper directory lie on, and its options."""


def fill(lower: Path) -> None:
    for top in ("dir", *(change.__name__ for change in CHANGES)):
        (lower / top / "sub/deep").mkdir(parents=True)
        (lower / top / "file").write_text("lower")
        (lower / top / "sub/file").write_text("lower")
    (lower / "link1").write_text("linked")
    os.link(lower / "link1", lower / "link2")
    (lower / "fill").mkdir()
    for n in range(FILLERS):
        (lower / f"fill/{n}").touch()


class Share:
    """A directory of the host and a guest that has it; *close* makes the server close every descriptor of a node."""

    def __init__(self, path: Path, guest: FsGuest, closes: bool) -> None:
        self.path, self.guest, self.closes = path, guest, closes

    def settle(self) -> None:
        if self.closes:
            for n in range(FILLERS):
                self.guest.lookup(str(n), self.guest.lookup("fill").node)

    def id_of(self, path: str) -> int:
        """Of a file and all directories above it."""
        return self.guest.walk(path).node


@pytest.fixture(params=["held", "closed"])
def closes(request: pytest.FixtureRequest) -> bool:
    """Does the server have to open the file anew?"""
    return bool(request.param == "closed")


@pytest.fixture(params=OVERLAYS)
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    below, above, options = OVERLAYS[request.param]
    with ExitStack() as stack:
        upper = stack.enter_context(filesystem(above, tmp_path))
        lower = upper if above == below else stack.enter_context(filesystem(below, tmp_path))
        yield stack.enter_context(overlay(lower, upper, options, fill))


@pytest.fixture(params=["process", "thread"])
def share(request: pytest.FixtureRequest, layers: Path, closes: bool) -> Iterator[Share]:
    with FsGuest(layers, max_fds=MAX_FDS, isolation=request.param) as guest:
        yield Share(layers, guest, closes)


def host_creates(share: Share, top: str) -> None:
    (share.path / top / "new").touch()


def guest_creates(share: Share, top: str) -> None:
    share.guest.create("new", node=share.id_of(top))


def guest_makes_directory(share: Share, top: str) -> None:
    share.guest.mkdir("new", node=share.id_of(top))


def guest_links(share: Share, top: str) -> None:
    node = share.id_of(f"{top}/sub/file")
    share.guest.call(f.LINK, share.id_of(top), struct.pack("<Q", node), cstr("new"))


def guest_renames_beside(share: Share, top: str) -> None:
    node = share.id_of(top)
    share.guest.call(f.RENAME, node, struct.pack("<Q", node), cstr("file"), cstr("other"))


def guest_removes_beside(share: Share, top: str) -> None:
    share.guest.call(f.UNLINK, share.id_of(top), cstr("file"))


def guest_changes_mode(share: Share, top: str) -> None:
    share.guest.setattr(share.id_of(f"{top}/sub"), f.FATTR_MODE, mode=0o700)


def host_removes_beside(share: Share, top: str) -> None:
    (share.path / top / "file").unlink()


CHANGES = [
    host_creates, guest_creates, guest_makes_directory, guest_links, guest_renames_beside, guest_removes_beside,
    guest_changes_mode, host_removes_beside,
]  # fmt: skip
"""Each copies up a directory of its own, which has its name: mounting an overlay takes longer than all of them."""


def test_a_directory_that_is_copied_up_stays_what_it_is(share: Share) -> None:
    for change in CHANGES:
        top = change.__name__
        paths = (top, f"{top}/sub", f"{top}/sub/deep")
        before = [share.id_of(path) for path in paths]
        share.settle()
        change(share, top)
        share.settle()
        assert [share.id_of(path) for path in paths] == before, top
        assert share.guest.getattr(before[2]).mode & 0o777 == 0o755, top


@pytest.mark.parametrize("by", ["host", "guest"])
def test_a_file_that_is_copied_up_stays_what_it_is(share: Share, by: str) -> None:
    node = share.id_of("dir/sub/file")
    reader = share.guest.open(node)
    assert share.guest.read_file(reader) == b"lower"
    share.settle()
    if by == "host":
        (share.path / "dir/sub/file").write_text("upper")
    else:
        writer = share.guest.open(node, os.O_RDWR)
        share.guest.write_file(writer, b"upper")
    share.settle()
    assert share.id_of("dir/sub/file") == node
    assert share.guest.read_file(reader) == b"upper", "also through what was opened before"
    assert share.guest.read_file(share.guest.open(node)) == b"upper"


def test_directories_outlive_the_hosts_memory_of_them(share: Share) -> None:
    """Without xino a directory of an overlay gets another number each time that the kernel reads it in."""
    before = [share.id_of(path) for path in ("dir", "dir/sub", "dir/sub/deep", "dir/sub/file")]
    share.settle()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2")
    except OSError:
        pytest.skip("this host does not drop its caches for us")
    after = [share.id_of(path) for path in ("dir", "dir/sub", "dir/sub/deep", "dir/sub/file")]
    assert after == before


def test_another_file_under_the_name_is_another(share: Share) -> None:
    path = share.path / "dir/sub/file"
    node = share.id_of("dir/sub/file")
    share.settle()
    seen = {node}
    for _ in range(5):
        path.unlink()
        path.write_text("another")
        entry = share.guest.walk("dir/sub/file")
        assert entry.node not in seen
        assert share.guest.read_file(share.guest.open(entry.node)) == b"another"
        seen.add(entry.node)
        share.settle()
    if not share.closes:
        assert share.guest.getattr(node).size == 5, "the first is still there for who has it"
    else:
        assert share.guest.errno_of(f.GETATTR, node, bytes(16)) == errno.ESTALE


def test_another_directory_under_the_name_is_another(share: Share) -> None:
    sub = share.path / "made"
    seen: set[int] = set()
    for _ in range(5):
        sub.mkdir()
        node = share.id_of("made")
        assert node not in seen
        seen.add(node)
        share.settle()
        sub.rmdir()


def test_the_guest_replaces_a_file(share: Share) -> None:
    """By rename, as editors do; what is open stays the old one."""
    node = share.id_of("dir/file")
    old = share.guest.open(node)
    made, fh = share.guest.create("tmp", node=share.id_of("dir"))
    share.guest.write_file(fh, b"replaced")
    share.settle()
    parent = share.id_of("dir")
    share.guest.call(f.RENAME, parent, struct.pack("<Q", parent), cstr("tmp"), cstr("file"))
    share.settle()
    assert share.id_of("dir/file") == made.node
    assert share.guest.read_file(old) == b"lower"
    assert share.guest.read_file(share.guest.open(made.node)) == b"replaced"
    assert share.guest.getattr(node).size == 5


def test_links_of_a_lower_layer_part_when_one_is_written(share: Share, request: pytest.FixtureRequest) -> None:
    """Without an index; with one they stay together.  Either way as for a process of the host."""
    together = "index" in request.node.callspec.params["layers"] or "nfs" in request.node.callspec.params["layers"]
    one, two = share.id_of("link1"), share.id_of("link2")
    share.settle()
    fh = share.guest.open(one, os.O_RDWR)
    share.guest.write_file(fh, b"CHANGE")
    share.settle()
    expected = (share.path / "link2").read_bytes()
    assert expected == (b"CHANGE" if together else b"linked")
    assert share.guest.read_file(share.guest.open(share.id_of("link2"))) == expected
    assert share.guest.read_file(share.guest.open(two)) == expected
    assert share.guest.read_file(share.guest.open(share.id_of("link1"))) == b"CHANGE"


def test_links_that_the_guest_makes_are_one_file(layers: Path) -> None:
    with FsGuest(layers, max_fds=MAX_FDS) as guest:
        for path in ("dir/file", "dir/sub/file"):
            node = guest.walk(path).node
            made = guest.call(f.LINK, ROOT, struct.pack("<Q", node), cstr(path.replace("/", "-")))
            assert f.Entry.of(made).node == node
            assert guest.lookup(path.replace("/", "-")).node == guest.walk(path).node


def test_a_directory_that_the_guest_renames_keeps_its_ids(share: Share) -> None:
    before = [share.id_of(path) for path in ("dir", "dir/sub", "dir/sub/file")]
    share.settle()
    body = (struct.pack("<Q", ROOT), cstr("dir"), cstr("moved"))
    number = share.guest.errno_of(f.RENAME, ROOT, *body)
    if number:
        assert number == errno.EXDEV, "as the host says without redirect_dir"
        return
    share.settle()
    assert [share.id_of(path) for path in ("moved", "moved/sub", "moved/sub/file")] == before
    assert share.guest.read_file(share.guest.open(before[2])) == b"lower"


def test_only_a_directory_is_the_root_of_a_mount(layers: Path, tmp_path: Path) -> None:
    """Linux drops the entry of any other file that is said to be one, though a lower file may be on another device."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").touch()
    with (
        bind(outside / "folder", layers / "fill"),
        bind(outside / "file", layers / "dir/file"),
        FsGuest(layers) as guest,
    ):
        assert guest.lookup("fill").attr.flags == 1
        assert [guest.walk(path).attr.flags for path in ("dir", "dir/sub", "dir/file", "dir/sub/file")] == [0] * 4
        listed = guest.readdir(guest.walk("dir/sub").node, plus=True)
        assert {entry.name: entry.entry.attr.flags for entry in listed if entry.entry}[b"file"] == 0


# -- other file systems --------------------------------------------------------------------------------------


@pytest.fixture(params=["ext4", "xfs", "btrfs", "tmpfs"])
def plain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with filesystem(request.param, tmp_path) as root:
        fill(root)
        yield root


@pytest.mark.parametrize("handles", [True, False], ids=["handles", "marks"])
def test_a_number_that_is_used_again_is_another_file(plain: Path, handles: bool, closes: bool) -> None:
    """Within one tick of the clock: the time of birth would not tell them apart."""
    with FsGuest(plain, handles=handles, max_fds=MAX_FDS) as guest:
        share = Share(plain, guest, closes)
        seen: set[int] = set()
        for n in range(20):
            (plain / "file").write_text(str(n))
            entry = guest.lookup("file")
            assert entry.node not in seen
            assert guest.read_file(guest.open(entry.node)) == str(n).encode()
            seen.add(entry.node)
            share.settle()
            (plain / "file").unlink()
            (plain / "other").write_text("other")
            assert guest.lookup("other").node not in seen
            seen.add(guest.lookup("other").node)
            (plain / "other").unlink()


@pytest.mark.parametrize("handles", [True, False], ids=["handles", "marks"])
def test_the_guest_uses_a_number_again(plain: Path, handles: bool, closes: bool) -> None:
    with FsGuest(plain, handles=handles, max_fds=MAX_FDS) as guest:
        share = Share(plain, guest, closes)
        seen: set[int] = set()
        for _ in range(20):
            entry, fh = guest.create("file")
            guest.release(fh)
            assert entry.node not in seen
            seen.add(entry.node)
            share.settle()
            guest.call(f.UNLINK, ROOT, cstr("file"))


@pytest.mark.parametrize("handles", [True, False], ids=["handles", "marks"])
def test_links_are_one_file(plain: Path, handles: bool, closes: bool) -> None:
    with FsGuest(plain, handles=handles, max_fds=MAX_FDS) as guest:
        share = Share(plain, guest, closes)
        node = share.id_of("link1")
        share.settle()
        assert share.id_of("link2") == node
        share.settle()
        guest.call(f.UNLINK, ROOT, cstr("link1"))
        share.settle()
        assert share.id_of("link2") == node
        assert guest.getattr(node).nlink == 1


def test_with_neither_handles_nor_marks_names_and_numbers_do(plain: Path, closes: bool) -> None:
    """As on NFS before Linux 4.13, 9p before 6.5: what the guest itself removes is never taken for something else."""
    with FsGuest(plain, handles=False, marks=False, max_fds=MAX_FDS) as guest:
        share = Share(plain, guest, closes)
        node = share.id_of("dir/sub/file")
        share.settle()
        assert share.id_of("dir/sub/file") == node
        assert guest.read_file(guest.open(node)) == b"lower"
        seen: set[int] = set()
        for _ in range(20):
            entry, fh = guest.create("file")
            guest.release(fh)
            assert entry.node not in seen
            seen.add(entry.node)
            share.settle()
            guest.call(f.UNLINK, ROOT, cstr("file"))


def test_an_overlay_without_marks_keeps_its_directories(layers: Path, closes: bool) -> None:
    """As before Linux 6.6."""
    with FsGuest(layers, marks=False, max_fds=MAX_FDS) as guest:
        share = Share(layers, guest, closes)
        before = [share.id_of(path) for path in ("dir", "dir/sub", "dir/sub/deep")]
        share.settle()
        guest_creates(share, "dir")
        share.settle()
        assert [share.id_of(path) for path in ("dir", "dir/sub", "dir/sub/deep")] == before


def test_two_mounts_of_a_directory_are_two(plain: Path, closes: bool) -> None:
    """A bind mount shows the same numbers; the guest has them as two, as its own kernel would."""
    (plain / "again").mkdir()
    with bind(plain / "dir", plain / "again"), FsGuest(plain, max_fds=MAX_FDS) as guest:
        share = Share(plain, guest, closes)
        one, two = share.id_of("dir/file"), share.id_of("again/file")
        assert one != two
        share.settle()
        assert (share.id_of("dir/file"), share.id_of("again/file")) == (one, two)
        assert guest.read_file(guest.open(two)) == b"lower"
