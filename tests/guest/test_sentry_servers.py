"""Servers in containers on the Sentry, which continue from a checkpoint: Debian's nginx, and Python with 64 MiB."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import PATIENCE, eventually, leftovers
from tests.guest.test_kata_oci import wired as wired
from tests.guest.test_sentry_containers import SentryOci
from tests.sentry import servers, small_root

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("wired")]
NAMESPACES = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
WIRED = {"type": "network", "path": "/run/netns/kata-test"}
URL = f"http://10.77.0.2:{servers.PORT}"


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentryOci]:
    made = SentryOci(tmp_path_factory.mktemp("servers"))
    shutil.rmtree(made.rootfs)
    small_root.make(made.rootfs)
    small_root.copy(made.rootfs, servers.NGINX[0])
    small_root.add_libraries(made.rootfs, [made.rootfs / servers.NGINX[0].lstrip("/")])
    servers.prepare_nginx(made.rootfs)
    yield made
    made.close()


def start(oci: SentryOci, *command: str) -> str:
    """A container that runs a server; its bundle."""
    bundle = oci.bundle("", linux__namespaces=[*NAMESPACES, WIRED])
    config = Path(bundle, "config.json")
    spec = json.loads(config.read_text())
    spec["process"]["args"] = command
    spec["root"]["readonly"] = False
    config.write_text(json.dumps(spec))
    with open(oci.folder / "c1.out", "wb") as out:
        words = oci.command("create", "--bundle", bundle, "c1")
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE)
    oci.check("start", "c1")
    return bundle


def page(path: str = "/", patience: float = PATIENCE) -> str:
    """What the server answers; empty: it does not answer."""
    try:
        with urllib.request.urlopen(URL + path, timeout=patience) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def exchange(host: str, kind: str, size: int, piece: int, sent: bytes = b"") -> bytes:
    """One request to the server of streams."""
    with socket.create_connection((host, servers.PORT), timeout=PATIENCE) as sock:
        sock.sendall(f"{kind} {size} {piece}\n".encode() + sent)
        with sock.makefile("rb") as stream:
            return stream.read()


def numbered(size: int) -> bytes:
    """What the server sends."""
    return b"".join(b"%d\n" % number for number in range(size // 2 + 1))[:size]


def can_reach(host: str) -> bool:
    try:
        return exchange(host, "text", 4, 4) != b""
    except OSError:
        return False


def frames() -> dict[str, int]:
    """How many have passed the host's end of the container's interface, by direction; a large one is one."""
    place = Path("/sys/class/net/kata0/statistics")
    return {way: int((place / f"{way}_packets").read_text()) for way in ("rx", "tx")}


def end(oci: SentryOci, name: str) -> None:
    oci.check("kill", name, "KILL")
    eventually(lambda: oci.state(name)["status"] == "stopped", "it does not end")
    oci.check("delete", name)
    eventually(lambda: leftovers(oci.folder) == [], "something is left")


def test_nginx_answers_after_a_restore(oci: SentryOci, tmp_path: Path) -> None:
    """Twice from one checkpoint; it serves files that it opens then, and starts workers."""
    bundle = start(oci, *servers.NGINX)
    eventually(lambda: page(patience=5) == servers.PAGE, "nginx does not answer")
    oci.check("checkpoint", "--image-path", str(tmp_path / "image"), "c1")
    assert page(patience=1) == ""
    for number in (1, 2):
        (oci.rootfs / "www" / f"{number}").write_text(f"file {number}")
        oci.restore("c2", tmp_path / "image", bundle)
        assert [page(), page(f"/{number}"), page("/absent")] == [servers.PAGE, f"file {number}", ""]
        oci.check("kill", "c2", "HUP")
        eventually(lambda: page() == servers.PAGE, "it does not answer with new workers")
        end(oci, "c2")


@pytest.mark.long  # a minute; nginx is restored, too
def test_a_server_that_holds_memory_answers_after_a_restore(oci: SentryOci, tmp_path: Path) -> None:
    """It has what it had in memory, and has counted the requests."""
    bundle = start(oci, *servers.PYTHON)
    eventually(lambda: page(patience=5) != "", "the server does not answer")
    asked, whole = map(int, page().split())
    kept = page("/sum").split()
    assert (whole, kept[0]) == (servers.HELD, str(asked + 1))
    oci.check("checkpoint", "--image-path", str(tmp_path / "image"), "c1")
    for _ in range(2):
        oci.restore("c2", tmp_path / "image", bundle)
        assert [page(), page("/sum")] == [f"{asked + 2} {servers.HELD}", f"{asked + 3} {kept[1]}"]
        end(oci, "c2")


@pytest.mark.long  # more than a minute in the lab
def test_streams_are_whole_and_large_segments_pass(oci: SentryOci) -> None:
    """In both directions, by IPv4 and IPv6, in pieces of any size; the host's stack splits what it has to."""
    subprocess.run(["ip", "addr", "add", "fd77::1/64", "dev", "kata0", "nodad"], check=True)
    subprocess.run(["ip", "-n", "kata-test", "addr", "add", "fd77::2/64", "dev", "eth0", "nodad"], check=True)
    start(oci, *servers.STREAMS)
    data = os.urandom(2 << 20)
    expected = hashlib.sha256(data).hexdigest().encode()
    text = numbered(len(data))
    eventually(lambda: can_reach("10.77.0.2"), "the server does not answer")
    for host in ("10.77.0.2", "fd77::2"):
        for piece in (len(data), 1 << 16, 1000):
            before = frames()
            assert exchange(host, "sum", len(data), piece, data) == expected
            between = frames()
            assert exchange(host, "text", len(data), piece) == text
            after = frames()
            if piece >= 1 << 16:
                # A slow path gets two segments a frame from Linux's TCP; without offloads there is one of 1,400 bytes
                assert between["tx"] - before["tx"] < len(data) // 2048, "the frames to it are small"
                assert after["rx"] - between["rx"] < len(data) // 4096, "the frames from it are small"
    for size in (1, 1399, 1400, 1401, 65535, 65536, 100_001):
        digest = hashlib.sha256(data[:size]).hexdigest().encode()
        assert exchange("10.77.0.2", "sum", size, 1 << 16, data[:size]) == digest
        assert exchange("10.77.0.2", "text", size, 1 << 16) == numbered(size)
    ask = f"import socket; s = socket.create_connection(('10.77.0.2', {servers.PORT})); s.send(b'text 9 9\\n')"
    answer = oci.check("exec", "c1", small_root.PYTHON, "-c", f"{ask}; print(s.recv(9).hex())")
    assert answer == f"{numbered(9).hex()}\n", "to its own address"
    oci.check("delete", "--force", "c1")
