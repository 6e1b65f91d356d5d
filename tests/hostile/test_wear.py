"""What has a table, a counter or a limit is used ten times past its size: nothing wears out, and nothing is left."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from tests import fs_driver as f
from tests import tiny
from tests.command import descriptors
from tests.fs_driver import FsGuest, cstr
from tests.vsock_driver import VsockGuest, is_asleep, resident, works
from vmm import ConsoleConfig, DiskConfig, HostError, Machine, VsockConfig
from vmm.control.client import ask
from vmm.control.server import CONNECTIONS_MAX, ControlServer
from vmm.faststart.record import replace
from vmm.processes.jail import users
from vmm.virtio.vsock import device as vsock_spec
from vmm.virtio.vsock.device import Vsock

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
TIMES = 10
CONNECTIONS = 8
BOTH = vsock_spec.VSOCK_SHUTDOWN_RCV | vsock_spec.VSOCK_SHUTDOWN_SEND
GREETINGS = 1024
"""VSOCK_GREETING_MAX of vmm/virtio/vsock/vsock.h."""


@pytest.fixture
def guest(tmp_path: Path) -> VsockGuest:
    config = VsockConfig(3, str(tmp_path / "v.sock"), connections=CONNECTIONS)
    return VsockGuest(tmp_path, device=Vsock(config), buffers=64)


@pytest.mark.parametrize("end", ["reset", "shutdown", "program"])
def test_connections_of_the_guest(guest: VsockGuest, end: str) -> None:
    """Ended in each way there is; as many as there may be at a time, and one more, which is refused."""
    with guest, guest.listen(1000) as listener:
        before = descriptors()
        for round_ in range(TIMES + 1):
            programs = []
            for src in range(CONNECTIONS):
                guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, src)
                programs.append(listener.accept()[0])
                guest.expect(vsock_spec.VSOCK_OP_RESPONSE)
            guest.send(vsock_spec.VSOCK_OP_REQUEST, 1000, CONNECTIONS)
            assert guest.expect(vsock_spec.VSOCK_OP_RST).dst_port == CONNECTIONS, f"round {round_}"
            for src, program in enumerate(programs):
                if end == "reset":
                    guest.send(vsock_spec.VSOCK_OP_RST, 1000, src)
                elif end == "shutdown":
                    guest.send(vsock_spec.VSOCK_OP_SHUTDOWN, 1000, src, flags=BOTH)
                    guest.expect(vsock_spec.VSOCK_OP_RST)
                program.close()
                if end == "program":
                    guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN)
                    guest.send(vsock_spec.VSOCK_OP_RST, 1000, src)
            guest.wait_for("all to be gone", lambda: guest.vsock.stats()["connections"] == 0)
        assert descriptors() <= before
        works(guest)


def test_connections_of_the_host(guest: VsockGuest) -> None:
    with guest:
        before = descriptors()
        for _ in range(TIMES * CONNECTIONS):
            client, port, src = guest.from_host()
            client.close()
            guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN)
            guest.send(vsock_spec.VSOCK_OP_RST, port, src)
            guest.wait_for("it to be gone", lambda: guest.vsock.stats()["connections"] == 0)
        assert descriptors() <= before
        works(guest)


def test_programs_that_connect_and_say_nothing(guest: VsockGuest) -> None:
    with guest:
        guest.client().close()
        guest.wait_for("sleep", is_asleep)
        before, memory = descriptors(), resident()
        for _ in range(TIMES * GREETINGS // 64):
            clients = [guest.client() for _ in range(64)]
            for number, client in enumerate(clients):
                if number % 2:
                    client.send(b"CONN")
                client.close()
        # Accepted after all of them; until these are gone, there may be no room for a connection of the guest
        client, port, src = guest.from_host()
        guest.wait_for("all others to be gone", lambda: descriptors() <= before + 2)
        client.close()
        guest.expect(vsock_spec.VSOCK_OP_SHUTDOWN)
        guest.send(vsock_spec.VSOCK_OP_RST, port, src)
        works(guest)
        guest.wait_for("sleep", is_asleep)
        assert descriptors() <= before
        assert resident() - memory < 1 << 20


def test_nodes_and_files_of_a_share(tmp_path: Path) -> None:
    """As many as there may be, again and again: made, opened, locked, listed, removed, forgotten."""
    with FsGuest(tmp_path, max_nodes=40) as guest:
        for _ in range(3):  # what the first rounds keep is kept
            _use_files(guest, 30)
        before, open_before = guest.share.stats()["nodes"], descriptors()
        memory = resident()
        for _ in range(TIMES):
            _use_files(guest, 30)
        assert guest.share.stats()["nodes"] == before
        assert descriptors() <= open_before  # those of an earlier test may have been closed meanwhile
        assert resident() - memory < 1 << 20


def _use_files(guest: FsGuest, count: int) -> None:
    made = [guest.create(f"f{number}") for number in range(count)]
    for number, (entry, fh) in enumerate(made):
        assert guest.errno_of(f.SETLK, entry.node, f.lock_body(fh, number, f.F_WRLCK)) == 0
        assert guest.errno_of(f.SETLK, entry.node, f.lock_body(fh, number, f.F_UNLCK)) == 0
    assert len(guest.readdir(plus=True)) >= count
    for number, (entry, fh) in enumerate(made):
        guest.release(fh)
        assert guest.errno_of(f.UNLINK, f.ROOT, cstr(f"f{number}")) == 0
        guest.forget(entry.node, 2)


def test_handles_of_a_share(tmp_path: Path) -> None:
    """They have numbers, of which 10,000 are given out here."""
    (tmp_path / "file").write_text("text")
    with FsGuest(tmp_path) as guest:
        node = guest.lookup("file").node
        guest.release(guest.open(node))
        before, memory = descriptors(), resident()
        for _ in range(TIMES * 100):
            for fh in [guest.open(node) for _ in range(10)]:
                guest.release(fh)
        assert descriptors() == before
        assert resident() - memory < 1 << 20
        assert guest.errno_of(f.READ, node, struct.pack("<QQIIQII", 1 << 40, 0, 10, 0, 0, 0, 0)) == errno.EBADF


def test_users_of_machines(tmp_path: Path) -> None:
    """Each has one of its own as long as there are some, and gives it back with its last descriptor."""
    folder = str(tmp_path / "users")
    before = descriptors()
    for _ in range(TIMES):
        held = [users.claim(folder, 1000, 4) for _ in range(4)]
        assert sorted(user for user, _ in held) == [1000, 1001, 1002, 1003]
        with pytest.raises(HostError, match="all 4 users"):
            users.claim(folder, 1000, 4)
        for _, fd in held:
            os.close(fd)
    assert descriptors() <= before


@needs_kvm
def test_connections_of_a_control_socket(tmp_path: Path) -> None:
    """Asked, half asked, and left without a word."""
    path = str(tmp_path / "control")
    with Machine(tiny.config(tiny.make(tmp_path))) as machine, ControlServer(machine, path):
        machine.start()
        ask(path, "status")
        before, memory = descriptors(), resident()
        for number in range(TIMES * CONNECTIONS_MAX):
            with socket.socket(socket.AF_UNIX) as left:
                left.connect(path)
                left.send((b"", b'{"command": "sta', b'{"command": "status"}\n')[number % 3])
            if number % 8 == 7:
                assert _asked(path)
        assert _asked(path)
        while not descriptors() <= before:  # the last ones are being closed
            pass
        assert resident() - memory < 4 << 20


def _asked(path: str) -> bool:
    """Ask, until one of the connections that were left is free again."""
    while True:
        try:
            return bool(ask(path, "status")["state"] == "running")
        except HostError:
            pass


@needs_kvm
def test_machines_of_one_process(tmp_path: Path) -> None:
    """Workers, rings, mappings and eventfds of machines that run and end."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    kernel = tiny.make(tmp_path, tiny.POWEROFF)
    null = os.open("/dev/null", os.O_RDWR)
    config = replace(
        tiny.config(kernel, disks=(DiskConfig(str(disk)),), console=ConsoleConfig("fd", null)),
        vsock=VsockConfig(3, str(tmp_path / "v.sock")),
    )

    def live() -> None:
        with Machine(config) as machine:
            machine.start()
            end = machine.wait(60)
            assert end is not None and end.kind == "poweroff"

    live()
    before, memory = descriptors(), resident()
    for _ in range(TIMES * 3):
        live()
    assert descriptors() <= before
    assert resident() - memory < 8 << 20
    os.close(null)
