"""Shares that are saved: what their guest goes on relying on after a restore, in the same directory and in a copy."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests.fs_driver import FsGuest
from tests.unit.virtio.test_fs_saved import MakeGuest, make, restored, saved, tree
from vmm.saveable import State

__all__ = ["make"]

HEAD = struct.Struct("<10I2Q")
"""Of the state of a server: its first number is the version, the tenth the number of records of what was told."""
BIRTH_SIZE = 8
"""Bytes behind it, which versions 2 and 3 lack."""
TOLD = struct.Struct("<3Q2I")


def looked_at(make: MakeGuest, path: Path) -> FsGuest:
    """A guest that relies on some files."""
    guest = make(tree(path, "one"))
    guest.walk("deep/deeper/file")
    guest.getattr(guest.lookup("file").node)
    return guest


def test_what_nobody_has_changed_is_not_stale_after_a_restore(make: MakeGuest, tmp_path: Path) -> None:
    state = saved(looked_at(make, tmp_path / "one"))
    assert restored(make, state, tmp_path / "one").share.stale() == 0
    again = restored(make, saved(restored(make, state, tmp_path / "one")), tmp_path / "one")
    assert again.share.stale() == 0


@pytest.mark.parametrize("change", ["write", "chmod", "replace", "rename"])
def test_what_the_host_has_changed_meanwhile_is_stale(make: MakeGuest, tmp_path: Path, change: str) -> None:
    state = saved(looked_at(make, tmp_path / "one"))
    file = tmp_path / "one" / "deep" / "deeper" / "file"
    if change == "write":
        file.write_text("new")
    elif change == "chmod":
        file.chmod(0o600)
    elif change == "replace":
        shutil.copy2(file, tmp_path / "new")
        (tmp_path / "new").replace(file)
    else:
        file.rename(file.with_name("other"))
    assert restored(make, state, tmp_path / "one").share.stale() > 0


def test_a_faithful_copy_of_the_directory_is_not_stale(make: MakeGuest, tmp_path: Path) -> None:
    state = saved(looked_at(make, tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two", symlinks=True)
    assert restored(make, state, tmp_path / "two").share.stale() == 0
    (tmp_path / "two" / "file").write_text("two file")
    assert restored(make, state, tmp_path / "two").share.stale() > 0, "of the same size, but of another time"


def test_what_the_guest_has_written_itself_is_not_stale_in_a_copy(make: MakeGuest, tmp_path: Path) -> None:
    guest = looked_at(make, tmp_path / "one")
    entry, fh = guest.create("own")
    guest.call(f.WRITE, entry.node, struct.pack("<QQIIQII", fh, 0, 4, 0, 0, 0, 0), b"text", room=8)
    guest.release(fh)
    state = saved(guest)
    shutil.copytree(tmp_path / "one", tmp_path / "two", symlinks=True)
    assert restored(make, state, tmp_path / "two").share.stale() == 0
    (tmp_path / "one" / "own").write_text("the host's")
    assert restored(make, state, tmp_path / "one").share.stale() > 0


@pytest.mark.parametrize("version", ["older", "unknown"])
def test_where_nobody_knows_what_was_told_all_of_it_is_stale(make: MakeGuest, tmp_path: Path, version: str) -> None:
    state = saved(looked_at(make, tmp_path / "one"))
    server = state.payload["server"]
    head = list(HEAD.unpack_from(server))
    body = server[HEAD.size : len(server) - head[9] * TOLD.size]
    assert head[0] == 4 and head[9] >= 3
    if version == "older":
        head[0], head[9], body = 2, 0, body[BIRTH_SIZE:]
    else:
        head[9] = 0xFFFFFFFF
    older = State(state.kind, state.version, {**state.payload, "server": HEAD.pack(*head) + body})
    assert restored(make, older, tmp_path / "one").share.stale() > 0


def test_a_state_of_version_3_is_read(make: MakeGuest, tmp_path: Path) -> None:
    """It does not tell when the root was made."""
    state = saved(looked_at(make, tmp_path / "one"))
    server = state.payload["server"]
    head = [3, *HEAD.unpack_from(server)[1:]]
    older = State(
        state.kind, state.version, {**state.payload, "server": HEAD.pack(*head) + server[HEAD.size + BIRTH_SIZE :]}
    )
    assert restored(make, older, tmp_path / "one").share.stale() == 0


def test_a_share_with_more_files_than_are_remembered(make: MakeGuest, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(4100):
        (tmp_path / "many" / str(number)).touch()
    guest = make(tmp_path / "many", max_fds=16)
    guest.readdir(plus=True)
    assert restored(make, saved(guest), tmp_path / "many").share.stale() > 0
