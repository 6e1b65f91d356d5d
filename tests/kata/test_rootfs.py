"""Mounts that containerd's snapshotters describe, made for real in a mount namespace of the test's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm_kata import protobuf
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host.mounts import enter_namespace, mounts_below
from pyvmm_kata.protobuf import Message
from pyvmm_kata.shim.rootfs import mount_rootfs
from tests.kata.containerd import need


def mount(kind: str, source: str, *options: str, target: str = "") -> Message:
    return protobuf.message("containerd.types.Mount")(type=kind, source=source, target=target, options=options)


def apart(work: Callable[[], None]) -> None:
    """Run a test in a thread that has a mount namespace of its own."""
    need()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            import ctypes

            ctypes.CDLL(None).unshare(0x200)  # a namespace is for threads that share no working directory
            enter_namespace()
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def test_a_folder_read_only(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "file").write_text("content")
        (tmp_path / "target").mkdir()
        mount_rootfs([mount("bind", str(tmp_path / "source"), "rbind", "ro")], str(tmp_path / "target"))
        assert (tmp_path / "target" / "file").read_text() == "content"
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "target" / "new").write_text("")

    apart(work)


@pytest.mark.parametrize("layers", [2, 120])
def test_layers(tmp_path: Path, layers: int) -> None:
    """The kernel takes one page of options, which a hundred layers by their full paths do not fit in."""

    def work() -> None:
        base = tmp_path / ("snapshots-" + "x" * 60)
        for number in range(layers):
            (base / str(number) / "fs").mkdir(parents=True)
            (base / str(number) / "fs" / f"from-{number}").write_text("")
        for name in ("upper", "work", "target"):
            (tmp_path / name).mkdir()
        stack = ":".join(str(base / str(number) / "fs") for number in range(layers))
        options = [f"workdir={tmp_path}/work", f"upperdir={tmp_path}/upper", f"lowerdir={stack}"]
        before = os.getcwd()
        try:
            mount_rootfs([mount("overlay", "overlay", *options)], str(tmp_path / "target"))
        except HostError as error:
            pytest.skip(f"this kernel has no overlay here: {error}")
        assert os.getcwd() == before
        found = {path.name for path in (tmp_path / "target").iterdir()}
        assert found == {f"from-{number}" for number in range(layers)}
        (tmp_path / "target" / "new").write_text("written")
        assert (tmp_path / "upper" / "new").read_text() == "written"

    apart(work)


@pytest.mark.parametrize(
    "bad, problem",
    [
        (mount("bind", "/", "rbind", target="/etc"), "only mounts of the root itself"),
        (mount("ext4", "/image", "loop"), "loop device"),
        (mount("overlay", "overlay", "lowerdir=" + ":".join(f"/x/{n}" for n in range(2000))), "bytes of mount options"),
    ],
)
def test_mounts_that_make_no_sense(tmp_path: Path, bad: Message, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        mount_rootfs([bad], str(tmp_path))


def test_nothing_is_mounted_when_one_of_several_fails(tmp_path: Path) -> None:
    def work() -> None:
        good, bad = mount("bind", "/usr", "rbind"), mount("bind", "/no/such/folder", "rbind")
        with pytest.raises(HostError, match="/no/such/folder"):
            mount_rootfs([good, bad], str(tmp_path))
        assert mounts_below(str(tmp_path)) == []

    apart(work)
