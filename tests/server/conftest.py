"""The server with fake machines, and E2B's own client."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.kata.oci_runtime import PATIENCE, eventually
from tests.sandbox.test_code import _end_programs_of as end_programs_of

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("fake_server.py")


def free_port() -> int:
    """A TCP port of the loopback interface on which nothing listens: machines share this host's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Server:
    """``pyvmm serve`` in a process of its own, on a free port.

    :ivar place: its folders
    :param program: that of the server, if not the usual one with fake machines
    """

    def __init__(self, place: Path, *program: str | Path) -> None:
        self.place = place
        self._program = program or (sys.executable, PROGRAM)
        for name in ("rootfs", "files"):
            (place / name).mkdir()
        (place / "image").write_bytes(b"an image")
        (place / "kata.toml").write_text(f'image = "{place}/image"\nmemory = "64M"\n')
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.kernels = tempfile.TemporaryDirectory()
        self.options: tuple[str, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        self.options = options or self.options
        packages = ("", "examples/kata", "examples/sandbox", "examples/server")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in packages),
            "TMPDIR": str(self.place),
            "PYVMM_FAKE_KERNELS": self.kernels.name,
        }
        command = [*self._program, self.place, "--port", str(self.port), *self.options]
        with open(self.place / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert httpx.get(f"{self.url}/health").status_code == 204
                return
            except httpx.TransportError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log
                time.sleep(0.02)  # only a try shows whether it listens

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self.process = None

    @property
    def log(self) -> str:
        return (self.place / "log").read_text()

    @property
    def machines(self) -> set[str]:
        """Ids of all sandboxes that have a machine."""
        return {path.name.removeprefix("e2b-") for path in self.states}

    @property
    def states(self) -> list[Path]:
        """The folders of their states, on this host or on nodes of it."""
        place = self.place / "state"
        return [*place.glob("e2b-*"), *place.glob("*/e2b-*")]

    def client(self, key: str = "e2b_0") -> dict[str, Any]:
        """Options of E2B's client."""
        return {"api_key": key, "api_url": self.url, "sandbox_url": self.url}

    def http(self, method: str, path: str, key: str = "e2b_0", **options: Any) -> httpx.Response:
        """A request that the client would not make."""
        headers = {"X-API-Key": key, **options.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, **options)

    def kill_all(self, key: str = "e2b_0") -> None:
        """End the sandboxes of a key."""
        from e2b import Sandbox

        pages = Sandbox.list(**self.client(key))
        while pages.has_next:
            for each in pages.next_items():
                Sandbox.kill(each.sandbox_id, **self.client(key))

    def end(self) -> None:
        """End all, and check that nothing is left."""
        if self.process is None:
            self.start()
        for key in ("e2b_0", "e2b_1"):
            self.kill_all(key)
        eventually(lambda: self.machines == set(), "a sandbox is left")
        self.stop()
        bad = [line[:3000] for line in self.log.splitlines() if "Traceback" in line or '"error"' in line]
        assert bad == []


@contextlib.contextmanager
def running(folder: Path, *options: str, program: Sequence[str | Path] = ()) -> Iterator[Server]:
    """A server that runs, and of which nothing is left."""
    with killed_at_last(Server(folder, *program)) as server:
        server.start(*options)
        yield server
        server.end()


@contextlib.contextmanager
def killed_at_last(server: Server) -> Iterator[Server]:
    """Neither the server nor a program of its sandboxes outlives the block."""
    try:
        yield server
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        with server.kernels:
            end_programs_of(server.kernels.name)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that do not restart it."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test."""
    with running(tmp_path) as server:
        yield server
