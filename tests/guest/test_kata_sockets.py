"""Unix sockets of the host's as volumes, and the guest's servers at localhost of the pod's network namespace."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.pod.network import in_namespace
from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import PATIENCE, make_rootfs

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
PROGRAM = Path(__file__).parents[1] / "conformance" / "programs" / "exchange.c"
MUCH = hashlib.shake_128(b"much").digest(20 << 20)
UNCONFINED = ("--security-opt", "seccomp=unconfined")
"""podman's filter has no sockets of virtual machines."""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    made = Podman(tmp_path_factory.mktemp("sockets"))
    rootfs = make_rootfs(made.folder / "tools")
    subprocess.run(["gcc", "-O2", "-static", "-o", str(rootfs / "bin" / "exchange"), str(PROGRAM)], check=True)
    made.add_image("tools", rootfs)
    yield made
    made.close()


class Echo:
    """A server of the host's at a unix socket: answers each connection with all that it sent, once that has ended."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._sock.bind(str(path))
        self._sock.listen(512)
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            self.count += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.sendall(read_all(client))

    def close(self) -> None:
        """Close it.  A second call does nothing."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while piece := sock.recv(1 << 20):
        data += piece
    return bytes(data)


def send_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def exchange(sock: socket.socket, data: bytes) -> bytes:
    with sock:
        sender = threading.Thread(target=send_all, args=(sock, data))
        sender.start()
        got = read_all(sock)
        sender.join()
        return got


@pytest.fixture
def echo(podman: Podman) -> Iterator[Echo]:
    path = podman.folder / "host.sock"
    made = Echo(path)
    path.chmod(0o640)
    yield made
    made.close()
    path.unlink(missing_ok=True)


def test_a_socket_as_a_volume(podman: Podman, echo: Echo) -> None:
    (podman.folder / "in").write_bytes(MUCH)
    volumes = ["-v", f"{podman.folder}/host.sock:/run/x/y.sock", "-v", f"{podman.folder}/in:/in:ro"]
    script = """
    cd /run/x
    stat -c '%a %F' y.sock; exchange y.sock </in | sha256sum | cut -d' ' -f1; head -c 5 /in | wc -c
    for i in $(seq 150); do echo $i | exchange y.sock & done | sort -n | uniq | wc -l; wait"""
    done = podman.run("run", "--rm", "--network", "none", *volumes, "tools", "sh", "-c", script)
    assert done.stdout.splitlines() == ["640 socket", hashlib.sha256(MUCH).hexdigest(), "5", "150"], done.stderr
    assert echo.count == 151


def test_only_what_was_given_is_reached(podman: Podman, echo: Echo) -> None:
    """Anybody in the machine reaches the socket by its port, and no other of the host's."""
    other = Echo(podman.folder / "other.sock")
    script = "for p in 65536 65537 1024 1025 1; do echo $p | exchange vsock:$p 2>&1; done; ls /run/kata-containers 2>&1"
    volume = ["-v", f"{podman.folder}/host.sock:/s", *UNCONFINED]
    done = podman.run("run", "--rm", "--network", "none", *volume, "tools", "sh", "-c", script)
    assert done.stdout.splitlines()[0] == "65536", done.stderr
    assert done.stdout.count("Connection reset") == 4, done.stdout
    assert (echo.count, other.count) == (1, 0)
    other.close()


def test_a_server_that_has_gone(podman: Podman, echo: Echo) -> None:
    volume = ["-v", f"{podman.folder}/host.sock:/s"]
    podman.check("run", "-d", "--name", "gone", "--network", "none", *volume, "tools", "sleep", "3600")
    assert podman.check("exec", "-i", "gone", "exchange", "/s", text="text") == "text"
    echo.close()
    done = podman.run("exec", "-i", "gone", "timeout", "30", "exchange", "/s", text="text")
    assert "text" not in done.stdout
    podman.check("rm", "--force", "--time", "0", "gone")


@pytest.mark.long  # half a minute; others have one of the first
def test_a_socket_of_the_second_container(podman: Podman, echo: Echo) -> None:
    """podman makes its mounts where the machine's monitor does not see them."""
    podman.check("run", "-d", "--name", "first", "tools", "sleep", "3600")
    volume = ["-v", f"{podman.folder}/host.sock:/s"]
    options = ["run", "--rm", "-i", "--network", "container:first", *volume, "tools"]
    assert podman.check(*options, "exchange", "/s", text="text") == "text"
    assert podman.check(*options, "exchange", "/s", text="more") == "more"
    podman.check("rm", "--force", "--time", "0", "first")


@pytest.mark.long  # many starts of a container, each of which fails
def test_sockets_that_cannot_be(podman: Podman) -> None:
    path = podman.folder / "log.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        done = podman.run("run", "--rm", "--network", "none", "-v", f"{path}:/s", "tools", "true")
    assert "a socket of datagrams cannot be given to a guest" in done.stderr
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(podman.folder / "packets.sock"))
        sock.listen()
        volume = f"{podman.folder}/packets.sock:/s"
        done = podman.run("run", "--rm", "--network", "none", "-v", volume, "tools", "true")
    assert "a socket of packets (SOCK_SEQPACKET) cannot be given to a guest" in done.stderr
    os.mkfifo(podman.folder / "pipe")
    done = podman.run("run", "--rm", "--network", "none", "-v", f"{podman.folder}/pipe:/s", "tools", "true")
    assert "a device or a pipe of the host cannot be given to a guest" in done.stderr


class Pod:
    """A container with a network namespace, in which :meth:`do` works."""

    def __init__(self, podman: Podman, script: str, *options: str) -> None:
        self._podman = podman
        podman.check("run", "-d", "--name", "pod", *options, "tools", "sh", "-c", script)
        self.pid = int(podman.check("inspect", "--format", "{{.State.Pid}}", "pod"))

    def do(self, work: Callable[[], Any]) -> Any:
        return in_namespace(f"/proc/{self.pid}/ns/net", work)

    def dial(self, address: str, port: int) -> socket.socket:
        sock: socket.socket = self.do(lambda: socket.create_connection((address, port), PATIENCE))
        return sock

    def until_served(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert exchange(self.dial("127.0.0.1", port), b"text") == b"text"
                return
            except OSError:
                assert time.monotonic() < deadline, "nobody answers"
                time.sleep(0.1)

    def close(self) -> None:
        self._podman.check("rm", "--force", "--time", "0", "pod")


def test_localhost_of_the_pod(podman: Podman) -> None:
    pod = Pod(podman, "exec exchange serve:8000")
    try:
        pod.until_served(8000)
        for address in ("127.0.0.1", "127.1.2.3", "::1"):
            assert exchange(pod.dial(address, 8000), b"text") == b"text"
        assert exchange(pod.dial("127.0.0.1", 8000), MUCH) == MUCH
        with pytest.raises(ConnectionRefusedError):
            pod.dial("127.0.0.1", 8001)
        many = [pod.dial("127.0.0.1", 8000) for _ in range(100)]
        for sock in many:
            assert exchange(sock, b"text") == b"text"
        own = podman.check("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "pod").strip()
        with pytest.raises(ConnectionError):
            pod.dial(own, 8000)  # as ever: only from outside of the namespace does it lead to the guest
    finally:
        pod.close()


@pytest.mark.long  # half a minute; the test above has the localhost of a pod
def test_localhost_is_not_the_guests_to_use(podman: Podman) -> None:
    """Its frames to a loopback address leave by the pod's interface, and the namespace's stack does not see them."""
    script = "exchange serve:8000 & exchange serve:8001 & wait"
    pod = Pod(podman, script, "--privileged")
    try:
        pod.until_served(8000)
        route = """
            gw=$(ip route | awk '/^default/ {print $3}')
            echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
            ip route del local 127.0.0.1 dev lo table local; ip route del local 127.0.0.0/8 dev lo table local
            ip route add 127.0.0.0/8 via $gw dev eth0 && ip route get 127.0.0.1
            echo text | nc -w 5 127.0.0.1 8001; echo status $?"""
        done = podman.run("exec", "pod", "sh", "-c", route)
        assert "via" in done.stdout and "dev eth0" in done.stdout, done.stdout + done.stderr
        assert "text" not in done.stdout
        assert "status 1" in done.stdout
    finally:
        pod.close()
