"""The file by which podman knows that a container ran out of memory, for a conmon that is a copy of sh."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm_kata.oci.conmon import tell_oom


@contextmanager
def child_of(name: str, folder: Path, *words: str) -> Iterator[int]:
    """The pid of a child of a program of that name."""
    shutil.copy("/bin/sh", folder / name)
    command = [str(folder / name), "-c", "sleep 600 & echo $!; wait", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield child
        finally:
            parent.kill()
            subprocess.run(["kill", "-9", str(child)], check=True)


def test_the_folder_that_conmon_was_given(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with child_of("conmon", tmp_path, "--persist-dir", str(tmp_path / "kept"), "--full-attach") as pid:
        tell_oom(str(tmp_path), pid)
        assert (tmp_path / "kept" / "oom").exists()
        assert not (tmp_path / "oom").exists()


def test_the_bundle_of_an_older_conmon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ctl").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with child_of("conmon", tmp_path, "--persist-dir") as pid:
        tell_oom(str(tmp_path), pid)
    assert (tmp_path / "oom").exists()
    assert not list((tmp_path / "here").iterdir())


def test_whoever_is_no_conmon(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with child_of("other", tmp_path, "--persist-dir", str(tmp_path / "kept")) as pid:
        tell_oom(str(tmp_path), pid)
    assert list((tmp_path / "kept").iterdir()) == []
    assert not (tmp_path / "oom").exists()


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with child_of("conmon", tmp_path, "--persist-dir", str(tmp_path / "gone")) as pid:
        tell_oom(str(tmp_path), pid)
    tell_oom(str(tmp_path), pid)
