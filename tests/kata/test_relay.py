"""Bytes between the host and the machine: the agent's relays, and the host's loopback addresses, on this machine.

The agent runs here, under ASan and UBSan; its "machine" is this test's network namespace, and the pod is another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.pod.loopback import MAX_CONNECTIONS, Loopback
from pyvmm_kata.pod.network import in_namespace
from pyvmm_kata.protocol.ttrpc import RpcError
from tests.kata.oci_runtime import eventually
from tests.kata.test_agent import PATIENCE, Agent
from tests.native.programs import compiler

pytestmark = pytest.mark.skipif(compiler("asan") is None, reason="no C compiler")
MUCH = hashlib.shake_128(b"much").digest(20 << 20)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    try:
        made.call("CreateSandbox")
        yield made
    finally:
        made.close()


class Server:
    """Answers each connection with what *work* makes of all that it sends, once it has ended."""

    def __init__(self, work: Callable[[bytes], bytes], listener: socket.socket | None = None) -> None:
        self.sock = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.sock.getsockname()[1]
        self._work = work
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.sock.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.sendall(self._work(read_all(client)))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send it, end that direction, and read the answer to its end."""
    with sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def asked(agent: Agent, address: str, port: int) -> tuple[int, socket.socket]:
    """What the agent answers to a request, and the connection."""
    sock = agent.dial()
    sock.sendall((socket.inet_aton(address) if address != "::1" else bytes(4)) + struct.pack(">H", port))
    return sock.recv(1)[0], sock


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(lambda data: hashlib.sha256(data).digest() + data)
    yield made
    made.close()


# -- the agent's end ---------------------------------------------------------------------------------------------------


def test_forward_both_ways_with_half_close(agent: Agent, server: Server) -> None:
    answer, sock = asked(agent, "127.0.0.1", server.port)
    assert answer == 0
    got = exchange(sock, MUCH)
    assert got[:32] == hashlib.sha256(MUCH).digest()
    assert got[32:] == MUCH


def test_forward_to_the_other_family(agent: Agent) -> None:
    only_v6 = Server(bytes.upper, socket.create_server(("::1", 0), family=socket.AF_INET6))
    only_v4 = Server(bytes.upper)
    try:
        for address, server in (("127.0.0.1", only_v6), ("::1", only_v4), ("::1", only_v6)):
            answer, sock = asked(agent, address, server.port)
            assert answer == 0
            assert exchange(sock, b"text") == b"TEXT"
    finally:
        only_v6.close()
        only_v4.close()


def test_forward_to_nobody(agent: Agent, server: Server) -> None:
    server.close()
    answer, sock = asked(agent, "127.0.0.1", server.port)
    assert answer == errno.ECONNREFUSED
    assert sock.recv(1) == b""


def test_forward_nowhere_else(agent: Agent, server: Server) -> None:
    """Only to loopback addresses."""
    answer, sock = asked(agent, "10.0.0.1", server.port)
    assert answer == errno.EINVAL
    assert sock.recv(1) == b""


def test_forward_of_those_who_leave(agent: Agent, server: Server) -> None:
    """At every point of a connection, by a close with and without bytes that nobody has read."""
    request = socket.inet_aton("127.0.0.1") + struct.pack(">H", server.port)
    for sent in (b"", request[:3], request, request + b"text"):
        for _ in range(20):
            sock = agent.dial()
            sock.sendall(sent)
            sock.close()
    answer, sock = asked(agent, "127.0.0.1", server.port)
    assert answer == 0
    assert exchange(sock, b"text")[32:] == b"text"


def test_forward_waits_for_a_slow_reader(agent: Agent, server: Server) -> None:
    """What nobody reads is held up at its source, and not kept by the agent."""
    answer, sock = asked(agent, "127.0.0.1", server.port)
    assert answer == 0
    sock.sendall(MUCH)
    sock.shutdown(socket.SHUT_WR)
    before = agent.memory()
    time.sleep(0.5)  # nothing more may be taken
    assert agent.memory() < before + (4 << 20)
    assert read_all(sock)[32:] == MUCH


def test_more_than_may_be_at_a_time(agent: Agent, server: Server) -> None:
    """The others wait until one ends."""
    held = [agent.dial() for _ in range(300)]
    for sock in held:
        sock.sendall(socket.inet_aton("127.0.0.1") + struct.pack(">H", server.port))
    for sock in held:
        assert sock.recv(1) == b"\0"
        assert exchange(sock, b"text")[32:] == b"text"
    assert server.count == 300


def test_relays_do_not_wear_out(agent: Agent, server: Server) -> None:
    """Ten times as many as may be at a time: those that end, those that leave early, and those that dial nobody."""
    unused = socket.socket()
    unused.bind(("127.0.0.1", 0))
    exchange(asked(agent, "127.0.0.1", server.port)[1], b"text")
    files = agent.files()
    for number in range(2560):
        code, sock = asked(agent, "127.0.0.1", unused.getsockname()[1] if number % 4 == 0 else server.port)
        with sock:
            if number % 4 == 0:
                assert code == errno.ECONNREFUSED
            elif number % 4 == 1:
                sock.sendall(b"half")
            else:
                assert code == 0 and exchange(sock, b"text")[32:] == b"text"
    unused.close()
    eventually(lambda: agent.files() <= files, "connections are left")


# -- sockets of the host's ---------------------------------------------------------------------------------------------


def host_server(agent: Agent, port: int, work: Callable[[bytes], bytes]) -> Server:
    """What the guest's connections to a port of the host reach."""
    listener = socket.socket(socket.AF_UNIX)
    here = os.open(agent.folder, os.O_PATH)
    listener.bind(f"/proc/self/fd/{here}/host_{port}")
    os.close(here)
    listener.listen(512)
    return Server(work, listener)


def storage(path: Path, **options: object) -> dict[str, Any]:
    wanted = {"port": 65536, "mode": "0640", "uid": os.getuid(), "gid": os.getgid(), **options}
    driver_options = [f"{name}={value}" for name, value in wanted.items()]
    return {"driver": "unix-socket", "mount_point": str(path), "driver_options": driver_options}


def connect(path: Path) -> socket.socket:
    folder = os.open(path.parent, os.O_PATH)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    return sock


def test_a_socket_of_the_host(agent: Agent, tmp_path: Path) -> None:
    place = tmp_path / ("c" * 64) / ("d" * 64) / "0.sock"
    server = host_server(agent, 65536, lambda data: hashlib.sha256(data).digest() + data)
    agent.create("one", "true", storages=[storage(place)])
    agent.call("StartContainer", container_id="one")
    assert agent.wait("one") == 0
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    got = exchange(connect(place), MUCH)
    assert got[:32] == hashlib.sha256(MUCH).digest()
    assert got[32:] == MUCH
    many = [connect(place) for _ in range(300)]
    for sock in many:
        assert exchange(sock, b"text")[32:] == b"text"
    server.close()
    (tmp_path / "host_65536").unlink()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert exchange(connect(place), b"text") == b""
    open_one = connect(place)
    agent.call("RemoveContainer", container_id="one")
    assert not place.exists()
    with contextlib.suppress(ConnectionResetError):
        assert open_one.recv(1) == b""


@pytest.mark.parametrize("wrong", [{"port": "x"}, {"mode": "07777"}, {"uid": -1}, {"port": ""}, {"port": 1 << 32}])
def test_a_socket_without_sense(agent: Agent, tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(RpcError, match="a socket has port, mode, uid and gid"):
        agent.create("one", "sleep", "100", storages=[storage(tmp_path / "x.sock", **wrong)])
    assert not (tmp_path / "x.sock").exists()


# -- the host's end ----------------------------------------------------------------------------------------------------


def can_steer() -> bool:
    try:
        in_namespace("", lambda: Loopback(lambda: socket.socket()).close())
    except Exception:
        return False
    return True


needs_bpf = pytest.mark.skipif(not can_steer(), reason="needs the right to load BPF programs, and Linux 5.9")


class Pod:
    """A network namespace, in which :meth:`do` works, and whose loopback addresses lead to the agent."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        self._holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; read line"], stdin=-1, stdout=-1)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self._path = f"/proc/{self._holder.pid}/ns/net"
        self.do(loopback_up)
        self.loopback = self.do(lambda: Loopback(dial))
        self.loopback.start()

    def do(self, work: Callable[[], Any]) -> Any:
        return in_namespace(self._path, work)

    def dial(self, address: str, port: int) -> socket.socket:
        sock: socket.socket = self.do(lambda: socket.create_connection((address, port), PATIENCE))
        return sock

    def close(self) -> None:
        self.loopback.close()
        self._holder.communicate()


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 1 | 64))


@pytest.fixture
def pod(agent: Agent) -> Iterator[Pod]:
    made = Pod(agent.dial)
    yield made
    made.close()


@needs_bpf
@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.8.7", "::1"])
def test_localhost_of_the_pod(pod: Pod, server: Server, address: str) -> None:
    answering = server if address != "127.9.8.7" else Server(lambda data: data, socket.create_server((address, 0)))
    got = exchange(pod.dial(address, answering.port), MUCH)
    assert got.endswith(MUCH)
    answering.close()


@needs_bpf
def test_localhost_without_a_server(pod: Pod, server: Server) -> None:
    server.close()
    for address in ("127.0.0.1", "127.9.8.7", "::1"):
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                pod.dial(address, server.port)


@needs_bpf
def test_no_other_address_of_the_pod(pod: Pod, server: Server) -> None:
    """What comes from elsewhere is not forwarded: the steering ends at loopback addresses."""

    def dial_own_address() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            address = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("10.7.7.7"))
            fcntl.ioctl(sock, 0x8916, address)
        socket.create_connection(("10.7.7.7", server.port), PATIENCE)

    with pytest.raises(ConnectionRefusedError):
        pod.do(dial_own_address)


@needs_bpf
def test_many_who_dial_localhost(pod: Pod, server: Server) -> None:
    many = [pod.dial("127.0.0.1", server.port) for _ in range(300)]
    ours = [thread for thread in threading.enumerate() if thread.name == "loopback"]
    assert len(ours) <= 2 * MAX_CONNECTIONS + 1
    for sock in many:
        assert exchange(sock, b"text")[32:] == b"text"
    assert server.count == 300


@needs_bpf
def test_the_end_of_the_machine(pod: Pod, server: Server) -> None:
    """What is open ends, and nothing is steered any more."""
    sock = pod.dial("127.0.0.1", server.port)
    sock.sendall(b"text")
    other = pod.dial("127.0.0.1", server.port)
    assert exchange(other, b"text")[32:] == b"text"
    pod.loopback.close()
    with contextlib.suppress(ConnectionResetError):
        assert sock.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        pod.dial("127.0.0.1", server.port)


@needs_bpf
def test_a_guest_that_lies(server: Server) -> None:
    """It refuses, closes, or answers with what is no answer: the client is refused, and the next is served."""
    behaviours: list[Callable[[socket.socket], None]] = [
        lambda sock: sock.close(),
        lambda sock: sock.sendall(b"\xff" * 100),
        lambda sock: sock.shutdown(socket.SHUT_RDWR),
    ]
    kept: list[socket.socket] = []

    def dial() -> socket.socket:
        ours, its = socket.socketpair()
        kept.append(its)
        behaviours[len(kept) % len(behaviours)](its)
        return ours

    pod = Pod(dial)
    try:
        for _ in range(30):
            with pytest.raises(ConnectionRefusedError):
                pod.dial("127.0.0.1", 80)
    finally:
        pod.close()


@needs_bpf
def test_without_the_right() -> None:
    """In a user namespace: an error, and nothing is left open."""
    script = """
import os, socket
from pyvmm_kata.pod.loopback import Loopback
before = sorted(os.listdir("/proc/self/fd"))
try:
    Loopback(socket.socket)
except PermissionError:
    refused = True
print(refused and sorted(os.listdir("/proc/self/fd")) == before)
"""
    done = subprocess.run(["unshare", "-rn", sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
