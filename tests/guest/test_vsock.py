"""virtio-vsock with Linux's own driver and programs of both sides."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.shared import INSTALL_PROGRAMS, programs_disk
from tests.guest.vmfixture import RUN_TIMEOUT, Guest
from vmm import Machine, VsockConfig

TIMEOUT = RUN_TIMEOUT
ROOT = Path(__file__).parents[2]


@pytest.fixture
def guest(boot: Boot, tmp_path: Path) -> Guest:
    """A guest with a socket device, and the tool in it."""
    guest = boot(disks=[programs_disk()], vsock=VsockConfig(3, str(tmp_path / "v.sock")))
    guest.check(INSTALL_PROGRAMS)
    return guest


def serve(guest: Guest, port: int, mode: str = "echo", kind: str = "stream") -> None:
    guest.check(
        f"vsocktool serve {kind} {port} {mode} >/tmp/serve{port} 2>&1 & "
        f"while ! grep -q listening /tmp/serve{port}; do sleep 0.01; done"
    )


def send_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 16):
        data += piece
    return data


def test_the_host_connects_and_is_answered(guest: Guest) -> None:
    serve(guest, 5000)
    with guest.machine.vsock.connect(5000, timeout=TIMEOUT) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        payload = bytes(range(256)) * 8192
        sender = threading.Thread(target=send_all, args=(sock, payload))
        sender.start()
        assert read_to_end(sock) == payload
        sender.join()


def test_messages_to_the_guest_and_back(guest: Guest) -> None:
    serve(guest, 5001, kind="seqpacket")
    with guest.machine.vsock.connect(5001, seqpacket=True, timeout=TIMEOUT) as sock:
        for message in (b"one", b"x" * 50000, b"3"):
            sock.send(message)
            assert sock.recv(1 << 20) == message


@pytest.mark.parametrize("kind", ["stream", "seqpacket"])
def test_the_guest_connects_to_a_program(guest: Guest, kind: str) -> None:
    with guest.machine.vsock.listen(6000, seqpacket=kind == "seqpacket") as listener:
        listener.settimeout(TIMEOUT)
        guest.check(f"(echo from the guest | vsocktool cat {kind} 2 6000 >/tmp/answer 2>&1; echo $? >/tmp/status) &")
        program, _ = listener.accept()
        with program:
            program.settimeout(TIMEOUT)
            assert program.recv(100) == b"from the guest\n"
            assert program.recv(100) == b"", "the guest has shut its half down"
            program.sendall(b"from the host")
        guest.check("while ! [ -s /tmp/status ]; do sleep 0.01; done")
        assert guest.check("cat /tmp/answer /tmp/status") == "from the host0\n"


def test_nobody_listens_on_either_side(guest: Guest) -> None:
    with pytest.raises(ConnectionRefusedError):
        guest.machine.vsock.connect(5999, timeout=TIMEOUT)
    status, output = guest.run("vsocktool cat stream 2 6999 </dev/null 2>&1")
    assert status == 1
    assert "reset by peer" in output


def test_back_pressure_and_many_at_a_time(guest: Guest) -> None:
    """Eight connections at a time, each with more on its way than anybody has room for."""
    serve(guest, 5000)
    payload = bytes(range(256)) * 2048
    socks = [guest.machine.vsock.connect(5000, timeout=TIMEOUT) for _ in range(8)]
    senders = [threading.Thread(target=send_all, args=(sock, payload)) for sock in socks]
    for sender in senders:
        sender.start()
    for sock in reversed(socks):  # who is read last has long filled everything
        assert read_to_end(sock) == payload
        sock.close()
    for sender in senders:
        sender.join()
    stats = guest.machine.vsock.stats()
    assert stats["from_guest_bytes"] == stats["to_guest_bytes"] == 8 * len(payload)
    assert stats["resets"] == 0


ROUNDS = [pytest.param(20, id="some"), pytest.param(250, id="many", marks=pytest.mark.long)]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize(
    ("cpus", "loaded"), [(1, False), pytest.param(2, True, marks=pytest.mark.long)], ids=["idle", "loaded"]
)
@pytest.mark.parametrize("way", ["restore", "fork"])
def test_a_clone_answers_the_first_call(
    boot: Boot, tmp_path: Path, way: str, cpus: int, loaded: bool, rounds: int
) -> None:
    """A client that does not wait: its request comes while the guest has not handled yet that old connections ended."""
    guest = boot(cpus=cpus, disks=[programs_disk()], vsock=VsockConfig(3, str(tmp_path / "v.sock")))
    guest.check(INSTALL_PROGRAMS)
    serve(guest, 5000)
    old = guest.machine.vsock.connect(5000, timeout=TIMEOUT)
    old.sendall(b"old")
    assert old.recv(3) == b"old"
    if loaded:
        guest.check("(while :; do :; done) & (while :; do :; done) & true")
    if way == "restore":
        guest.machine.snapshot(str(tmp_path / "warm"))
        guest.machine.pause()
    for number in range(rounds):
        vsock = VsockConfig(3, str(tmp_path / f"{number}.sock"))
        if way == "restore":
            clone = Machine.restore(str(tmp_path / "warm"), vsock=vsock, cow="overlay")
        else:
            (clone,) = guest.machine.fork(vsock=vsock)
        with clone, clone.vsock.connect(5000, timeout=TIMEOUT) as sock:
            sock.settimeout(TIMEOUT)
            sock.sendall(b"%d" % number)
            assert sock.recv(10) == b"%d" % number, f"call {number}"
    if way == "fork":
        old.sendall(b"more")
        assert old.recv(4) == b"more", "connections of the source go on"
    old.close()


def test_connections_end_with_the_guest(guest: Guest) -> None:
    serve(guest, 5000)
    sock = guest.machine.vsock.connect(5000, timeout=TIMEOUT)
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    guest.machine.close()
    assert sock.recv(1) == b""


def _is_reset(sock: socket.socket) -> bool:
    try:
        while True:
            sock.sendall(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    except TimeoutError:
        return False


@pytest.mark.skipif(not os.path.exists("/dev/vhost-vsock"), reason="no /dev/vhost-vsock here")
@pytest.mark.parametrize("transport", ["mmio", pytest.param("pci", marks=pytest.mark.long)])
def test_the_hosts_own_sockets(boot: Boot, transport: str) -> None:
    guest = boot(disks=[programs_disk()], vsock=VsockConfig(77, backend="vhost"), transport=transport)
    guest.check(INSTALL_PROGRAMS)
    serve(guest, 5000)
    with guest.machine.vsock.connect(5000, timeout=TIMEOUT) as sock:
        payload = bytes(range(256)) * 1024
        sender = threading.Thread(target=send_all, args=(sock, payload))
        sender.start()
        assert read_to_end(sock) == payload
        sender.join()
    with guest.machine.vsock.listen(6000) as listener:
        listener.settimeout(TIMEOUT)
        guest.check("(echo hello | vsocktool cat stream 2 6000 >/dev/null 2>&1) &")
        program, (cid, _) = listener.accept()
        with program:
            assert (cid, program.recv(100)) == (77, b"hello\n")
    # Drivers come and go; the device keeps its CID and serves each at once
    guest.check("driver=/sys/bus/virtio/drivers/vmw_vsock_virtio_transport; device=$(cd $driver; echo virtio*)")
    for port in range(5001, 5006):
        with guest.machine.vsock.connect(port - 1, timeout=TIMEOUT) as old:
            guest.check("killall vsocktool; echo $device >$driver/unbind; echo $device >$driver/bind")
            serve(guest, port)
            with guest.machine.vsock.connect(port, timeout=TIMEOUT) as sock:
                sock.sendall(b"again")
                assert sock.recv(100) == b"again"
            assert _is_reset(old), "the new driver knows nothing of it and says so"


@pytest.mark.skipif("PYVMM_GUEST_INITRD" in os.environ, reason="the example boots without an initrd")
def test_rpc_example(guest_kernel: str, fresh_disk: Path) -> None:
    arguments = [guest_kernel, str(fresh_disk), "uname -s", "echo out; exit 3"]
    command = [sys.executable, str(ROOT / "examples" / "vsock_rpc.py"), *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["'uname -s' -> 0: Linux", "'echo out; exit 3' -> 3: out"]
