"""``pyvmm serve`` with real machines, and E2B's own clients."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_sandbox import Template
from tests.guest.kata_tools import BIN, PATIENCE, Oci, eventually


class Server:
    """``pyvmm serve`` on a free port."""

    def __init__(self, oci: Oci, *options: str) -> None:
        self.folder = oci.folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = [str(BIN / "pyvmm"), "serve", "--port", str(port), "--state", str(oci.folder / "server")]
        self.command += ["--config", str(oci.settings), "--root", str(oci.folder / "state"), "--network", "none"]
        self.command += ["--memory", "96", *options]

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(self.listens, "it does not listen")

    def listens(self) -> bool:
        import httpx

        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return httpx.get(f"{self.url}/health").status_code == 204
        except httpx.TransportError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    @property
    def client(self) -> dict[str, Any]:
        """Options of E2B's client."""
        return {"api_key": "e2b_0", "api_url": self.url, "sandbox_url": self.url, "request_timeout": PATIENCE}


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    made = Oci(tmp_path)
    yield made
    made.close()


def test_sandboxes_of_a_client(oci: Oci, tmp_path: Path) -> None:
    """Commands, files, pause, fork and snapshot, and a server that is killed meanwhile."""
    # Each lab collects this file, and takes seconds to import these
    from e2b import CommandExitException, Sandbox, SandboxState

    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    Template.build(tmp_path / "base", str(oci.rootfs), memory="96M", **where)
    server = Server(oci, "--template", f"base={tmp_path}/base")
    server.start()
    box = Sandbox.create(metadata={"a": "b"}, envs={"FROM": "the client"}, timeout=3600, **server.client)
    assert box.commands.run("echo $FROM; id -u").stdout.startswith("the client\n")
    with pytest.raises(CommandExitException) as failed:
        box.commands.run("echo no >&2; exit 3")
    assert (failed.value.exit_code, failed.value.stderr) == (3, "no\n")
    data = bytes(range(256)) * 4096
    box.files.write("/tmp/data", data)
    assert bytes(box.files.read("/tmp/data", format="bytes")) == data
    counter = box.commands.run("i=0; while :; do i=$((i + 1)); echo $i; sleep 0.2; done", background=True)
    assert next(iter(counter))[0] == "1\n"
    snapshot = box.create_snapshot()
    server.stop(signal.SIGKILL)
    server.start()
    assert box.get_info().metadata == {"a": "b"}
    box.pause()
    assert box.get_info().state == SandboxState.PAUSED
    box.connect(timeout=3600)
    assert box.commands.run("sha256sum </tmp/data | cut -c-8; echo changed >/tmp/data").stdout.strip()
    with Sandbox.create(snapshot.snapshot_id, timeout=3600, **server.client) as copy:
        assert bytes(copy.files.read("/tmp/data", format="bytes")) == data
    assert box.files.read("/tmp/data") == "changed\n"
    box.kill()
    server.stop()
    eventually(lambda: os.listdir(oci.folder / "state") == [], "something is left")
    assert "Traceback" not in (oci.folder / "log").read_text()
