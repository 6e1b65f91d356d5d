"""The broker of a machine in a jail: what it has, and what it does for a machine that was taken over."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.command import Command, links_of
from tests.jail_processes import children, status_of, threads
from vmm import VsockConfig
from vmm.native import lib
from vmm.processes.broker import Broker
from vmm.processes.jail import users
from vmm.virtio.vsock.device import Vsock

pytestmark = [
    pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root has more to give up"),
]


def broker_of(command: Command) -> int:
    """The process that a machine has outside of its jail."""
    for pid in children(command.process.pid):
        if Path(f"/proc/{pid}/comm").read_text() == "pyvmm-broker\n":
            return pid
    raise AssertionError("no broker")


@pytest.fixture
def with_sockets(tmp_path: Path) -> Iterator[Command]:
    """A jailed machine whose guest can connect to Unix sockets on the host."""
    kernel = tiny.make(tmp_path, tiny.say("hello\n") + tiny.ECHO)
    command = Command(tmp_path, "--kernel", kernel, "--memory", "32M", "--vsock", f"uds={tmp_path}/v", "--json")
    command.expect("hello")
    yield command
    command.close()


def test_a_machine_with_sockets_is_nobody_and_its_broker_has_nothing_of_it(with_sockets: Command) -> None:
    machine, broker = with_sockets.process.pid, broker_of(with_sockets)
    for status in threads(machine):
        assert int(status["Uid"].split()[0]) >= users.FIRST and status["CapEff"] == "0" * 16
    assert os.listdir(f"/proc/{machine}/root") == []
    deadline = time.monotonic() + 60
    # The broker restricts itself while the guest starts.
    while (status := status_of(Path(f"/proc/{broker}")))["Seccomp"] != "2":
        assert time.monotonic() < deadline, status
        time.sleep(0.01)
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{1 << 1:016x}"}, "CAP_DAC_OVERRIDE"
    assert (status["NoNewPrivs"], status["Seccomp"], status["Threads"]) == ("1", "2", "1")
    links = links_of(broker).values()
    assert not [link for link in links if "kvm" in link or "memfd" in link or "event" in link]
    mapped = Path(f"/proc/{broker}/maps").read_text()
    assert "memfd" not in mapped and "python" not in mapped


def test_nothing_is_left_of_a_machine_that_was_killed(with_sockets: Command, tmp_path: Path) -> None:
    broker = os.pidfd_open(broker_of(with_sockets))
    assert {"v", "v.seqpacket"} <= set(os.listdir(tmp_path))
    with_sockets.process.kill()
    with_sockets.process.wait()
    assert select.select([broker], [], [], 60)[0]
    os.close(broker)
    assert not {"v", "v.seqpacket"} & set(os.listdir(tmp_path))


def test_a_machine_ends_with_its_broker(with_sockets: Command) -> None:
    os.kill(broker_of(with_sockets), signal.SIGKILL)
    assert with_sockets.wait() == 1
    assert json.loads(with_sockets.errors)["detail"] == "its broker has ended"


def test_a_machine_with_sockets_ends_in_order(with_sockets: Command, tmp_path: Path) -> None:
    with_sockets.type(b"\4")
    assert with_sockets.wait() == 0
    assert not {"v", "v.seqpacket"} & set(os.listdir(tmp_path))
    assert with_sockets.leftovers() == []


class Captured:
    """A broker, and the machine's end of its socket in the hands of somebody hostile."""

    def __init__(self, folder: Path) -> None:
        self.device = Vsock(VsockConfig(uds=str(folder / "v")))
        self.broker = Broker(self.device)
        self.sock = socket.socket(fileno=os.dup(self.broker._sock.fileno()))
        self.pidfd = os.pidfd_open(self.broker.pid)

    def ask(self, port: int, kind: int = 1) -> tuple[int, list[int]]:
        """The errno, and descriptors, that are the answer."""
        self.sock.send(struct.pack("=II", port, kind))
        data, fds, _, _ = socket.recv_fds(self.sock, 64, 8)
        echoed, error = struct.unpack("=II", data)
        assert echoed == port
        return error, fds

    def has_ended(self) -> bool:
        """Now, or within a minute."""
        return bool(select.select([self.pidfd], [], [], 60)[0])

    def close(self) -> None:
        self.sock.close()
        self.broker.close()
        self.device.close()
        os.close(self.pidfd)


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    made = Captured(tmp_path)
    yield made
    made.close()


def test_a_broker_connects_to_sockets_of_ports_and_to_nothing_else(captured: Captured, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as program, socket.socket(socket.AF_UNIX) as other:
        program.bind(str(tmp_path / "v_7"))
        program.listen()
        other.bind(str(tmp_path / "secret"))
        other.listen()
        os.symlink(tmp_path / "secret", tmp_path / "v_8")
        (tmp_path / "v_9").write_text("a file")
        error, (fd,) = captured.ask(7)
        os.write(fd, b"x")
        os.close(fd)
        assert error == 0 and program.accept()[0].recv(1) == b"x"
        assert captured.ask(7, kind=2) == (errno.EPROTOTYPE, [])
        assert captured.ask(6) == (errno.ENOENT, [])
        assert captured.ask(8)[1] == captured.ask(9)[1] == captured.ask(0xFFFF_FFFF)[1] == []
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()
        assert not captured.device._listening[0].sock.getblocking()


@pytest.mark.parametrize(
    "message",
    [b"", b"x", bytes(7), bytes(9), bytes(8), struct.pack("=II", 7, 3), b"\0\0\0\0../../../../run/x", b"y" * 60000],
    ids=["empty", "one", "short", "long", "type-0", "type-3", "a-path", "huge"],
)
def test_what_is_no_request_ends_the_broker_and_its_names(captured: Captured, tmp_path: Path, message: bytes) -> None:
    captured.sock.send(message)
    assert captured.has_ended()
    assert not {"v", "v.seqpacket"} & set(os.listdir(tmp_path))


def test_a_broker_takes_no_orders_any_more(captured: Captured, tmp_path: Path) -> None:
    """What it is to remove, and where it connects to, was said before."""
    victim = tmp_path / "victim"
    victim.write_text("")
    info = victim.stat()
    order = struct.pack("=IIQQ256s", lib.BROKER_NAME, 0, info.st_dev, info.st_ino, os.fsencode(victim))
    captured.sock.send(order)
    assert captured.has_ended()
    assert victim.exists()


def test_a_broker_is_not_filled_with_descriptors(captured: Captured) -> None:
    many = [1] * 200
    for _ in range(100):
        try:
            socket.send_fds(captured.sock, [struct.pack("=II", 6, 1)], many, socket.MSG_DONTWAIT)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            break
    assert captured.has_ended(), "a request has none"


def test_a_broker_whose_answers_nobody_takes_waits_and_ends(captured: Captured) -> None:
    captured.sock.setblocking(False)
    sent = 0
    try:
        while sent < 100_000:
            sent += captured.sock.send(struct.pack("=II", 6, 1)) // 8
    except BlockingIOError:
        pass
    assert sent < 100_000
    status = status_of(Path(f"/proc/{captured.broker.pid}"))
    assert int(status["VmHWM"].split()[0]) < 4096, "KiB: nothing piles up in it"
    captured.sock.close()
    captured.broker.close()
    assert captured.has_ended()
