"""A machine in a jail that was taken over: what its process answers outside is checked."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from tests import tiny
from tests.command import descriptors
from vmm import DiskConfig, Machine
from vmm.errors import ConfigError, HostError
from vmm.faststart.record import replace
from vmm.processes.jailed import Jailed
from vmm.saving.manifest import read_manifest
from vmm.virtio.image import Image

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]


class Impostor:
    """What answers for a machine in a jail when somebody has taken it over: *answers*, whatever is asked.

    :param do: to the first file that comes with a request
    """

    def __init__(self, folder: Path, *answers: bytes, do: Callable[[int], object] = lambda fd: None) -> None:
        self._do = do
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(["sleep", "1000"])
        self._pidfd = os.pidfd_open(self.process.pid)
        self._answers = answers
        config = tiny.config(str(folder / "tiny.elf"), disks=(DiskConfig(str(folder / "disk.img")),))
        self.machine = Jailed(theirs, self._pidfd, config)
        self._thread = Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.ours, 4096, 16)
            if not data:
                return
            with socket.socket(fileno=fds.pop(0)) as answer:
                self._do(fds[0] if fds else -1)
                for each in self._answers:
                    answer.send(each)
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        self.machine._sock.close()
        self._thread.join()
        self.ours.close()
        self.process.kill()
        self.process.wait()
        os.close(self._pidfd)


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (b"x",),
        (b"[" * 60000,),
        (b"[1]",),
        (b'{"ok": 1}',),
        (b"{}",),
        (b'{"progress": "x", "of": 1}',),
        (b'{"progress": -1, "of": 1}', b'{"ok": {}}'),
        (b'{"error": 5}',),
        (b'{"ok": {}}',),
        (b'{"ok": {"devices": [], "disks": [], "cpuid": "", "memory_bytes": 0}}',),
        (b'{"ok": {"devices": [["x"]], "disks": [[1, true]], "cpuid": "%s", "memory_bytes": 0}}' % (b"0" * 64),),
        (b'{"ok": {"devices": 7, "disks": [["/etc/shadow", 1]], "cpuid": "%s", "memory_bytes": 0}}' % (b"0" * 64),),
    ],
    ids=range(13),
)
def test_a_snapshot_of_an_impostor_is_none(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    impostor = Impostor(tmp_path, *answers)
    try:
        with pytest.raises(HostError, match=r"sends invalid answers|ended before"):
            impostor.machine.snapshot(str(tmp_path / "warm"), progress=lambda done, size: None)
    finally:
        impostor.close()
    assert sorted(os.listdir(tmp_path)) == ["disk.img"]


@pytest.mark.parametrize(
    "answers", [(), (b"x",), (b'{"ok": {}}',), (b'{"ok": {"number": -1}}',), (b'{"ok": {"number": true}}',)]
)
def test_a_disk_for_an_impostor_is_not_locked_afterwards(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    disk = DiskConfig(str(tmp_path / "disk.img"))
    Path(disk.path).write_bytes(bytes(4096))
    before = descriptors()
    impostor = Impostor(tmp_path, *answers)
    impostor.machine.config = replace(impostor.machine.config, transport="pci")
    try:
        for _ in range(2):
            with pytest.raises(HostError, match=r"sends invalid answers|ended before"):
                impostor.machine.plug(disk)
        Image(disk.path).close()
    finally:
        impostor.close()
    assert descriptors() <= before


@pytest.mark.parametrize(
    "answers",
    [(), (b"x",), (b'{"ok": {}}',), (b'{"ok": {"devices": [], "disks": [], "cpuid": "", "memory_bytes": 0}}',)],
)
def test_a_fork_of_an_impostor_is_none(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    before = descriptors()
    impostor = Impostor(tmp_path, *answers)
    try:
        with pytest.raises(HostError, match=r"sends invalid answers|ended before"):
            impostor.machine.fork_point(1)
    finally:
        impostor.close()
    assert descriptors() <= before and os.listdir(tmp_path) == ["disk.img"]


def _maps(fd: int) -> None:
    """Keep a mapping of it that can be written."""
    KEPT.append(mmap.mmap(fd, 4096))


KEPT: list[mmap.mmap] = []


@pytest.mark.parametrize(
    "do",
    [_maps, lambda fd: os.ftruncate(fd, 4096), lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)],
    ids=["maps", "truncates", "seals"],
)
def test_memory_that_an_impostor_can_change_is_nobodys(tmp_path: Path, do: Callable[[int], object]) -> None:
    """A child would die when memory that it has mapped is gone, or see the other's writes."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096))
    said = {"devices": [], "disks": [[4096, disk.stat().st_mtime_ns]], "cpuid": "0" * 64, "memory_bytes": 0}
    impostor = Impostor(tmp_path, json.dumps({"ok": said}).encode(), do=do)
    try:
        with pytest.raises(HostError, match=r"sends invalid answers|cannot copy the machine"):
            impostor.machine.fork_point(1)
    finally:
        impostor.close()
        while KEPT:
            KEPT.pop().close()


def test_an_impostor_does_not_say_what_a_snapshot_is_of(tmp_path: Path) -> None:
    """The paths in it are opened, as root, when it is restored: they are the user's."""
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    answer = {
        "devices": [["virtio-blk", 1]], "disks": [[4096, 1]], "cpuid": "0" * 64, "memory_bytes": 0,
        "config": {"shares": [{"path": "/"}]}, "kernel": "/etc/shadow",
    }  # fmt: skip
    impostor = Impostor(tmp_path, json.dumps({"ok": answer}).encode())
    try:
        impostor.machine.snapshot(str(tmp_path / "warm"))
    finally:
        impostor.close()
    manifest = read_manifest(str(tmp_path / "warm"))
    assert manifest.config["shares"] == [] and manifest.kernel.path == str(tmp_path / "tiny.elf")
    assert [disk.image.path for disk in manifest.disks] == [str(tmp_path / "disk.img")]
    with pytest.raises(ConfigError):  # it has written nothing
        Machine.restore(str(tmp_path / "warm"))


def test_what_an_impostor_says_is_no_order_to_a_terminal(tmp_path: Path) -> None:
    impostor = Impostor(
        tmp_path, json.dumps({"error": "\x1b]0;x\x07" + "y" * 5000, "code": "a", "hint": "\r"}).encode()
    )
    try:
        with pytest.raises(HostError) as caught:
            impostor.machine.pause()
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
        assert caught.value.hint == "?"
    finally:
        impostor.close()


def test_who_does_not_stop_is_killed(tmp_path: Path) -> None:
    impostor = Impostor(tmp_path)
    try:
        impostor.machine.stop()
        assert impostor.process.wait(60) == -signal.SIGKILL
    finally:
        impostor.close()
