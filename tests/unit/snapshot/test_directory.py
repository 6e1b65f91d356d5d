"""A snapshot's directory: the old one or the new one, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.errors import ConfigError, HostError
from vmm.snapshot.directory import MANIFEST, NewDirectory


def write(place: Path, text: str) -> None:
    with NewDirectory(str(place)) as new:
        Path(new.file(MANIFEST)).write_text(text)


def test_it_is_there_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    with NewDirectory(str(place)) as new:
        Path(new.file(MANIFEST)).write_text("1")
        assert not place.exists()
    assert (place / MANIFEST).read_text() == "1"
    assert os.listdir(tmp_path) == ["warm"]


def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    write(place, "old")

    def fail() -> None:
        with NewDirectory(str(place)) as new:
            Path(new.file(MANIFEST)).write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (place / MANIFEST).read_text() == "old"
    assert os.listdir(tmp_path) == ["warm"]


def test_it_replaces_a_snapshot(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    write(place, "old")
    (place / "disk0").write_text("more")
    write(place, "new")
    assert os.listdir(place) == [MANIFEST]
    assert (place / MANIFEST).read_text() == "new"
    assert os.listdir(tmp_path) == ["warm"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_snapshot_is_not_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "warm"
    if kind == "file":
        place.write_text("mine")
    elif kind == "link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
        (place / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="no snapshot"):
        write(place, "new")
    assert os.path.lexists(place)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot write"):
        write(tmp_path / "missing" / "warm", "new")


KILLED = """
import os, signal, sys
from vmm.snapshot import directory
steps = int(sys.argv[2])
def trace(frame, event, argument):
    global steps
    if frame.f_code.co_filename == directory.__file__:
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
with directory.NewDirectory(sys.argv[1]) as new:
    for name in ("memory", "state", "manifest.json"):
        open(new.file(name), "w").write("new")
sys.settrace(None)
"""


def test_killed_at_any_line_there_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    write(place, "old")
    seen, steps, status = set(), 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        status = subprocess.run([sys.executable, "-c", KILLED, str(place), str(steps)], check=False).returncode
        found = {name: (place / name).read_text() for name in os.listdir(place)}
        assert found in ({MANIFEST: "old"}, {"memory": "new", "state": "new", MANIFEST: "new"})
        seen.add(found[MANIFEST])
        if found[MANIFEST] == "new":
            write(place, "old")
        steps += 4
    assert status == 0
    assert seen == {"old", "new"}
    # The next one clears away what the killed ones left
    write(place, "old")
    assert os.listdir(tmp_path) == ["warm"]
