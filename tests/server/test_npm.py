"""E2B's clients of npm, unmodified: the library, the code interpreter and the command line."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.image_store.store import ImageStore
from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.server.conftest import Server

pytestmark = [
    needs_namespaces,
    pytest.mark.long,  # they download packages
    pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm"),
]
CLIENT = Path(__file__).with_name("npm_client.mjs")
VERSIONS = {  # of e2b, and of @e2b/code-interpreter
    "2.45.0": "",
    "2.51.0": "2.8.0",
}
CLI = "2.19.0"


def _install(folder: Path, *packages: str) -> None:
    command: list[str | Path] = ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, *packages]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)


def _environment(server: Server, folder: Path) -> dict[str, str]:
    addresses = {"E2B_API_URL": server.url, "E2B_SANDBOX_URL": server.url, "E2B_API_KEY": "e2b_0"}
    return {**os.environ, **addresses, "HOME": str(folder)}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_library(server: Server, tmp_path: Path, version: str) -> None:
    interpreter = VERSIONS[version]
    _install(tmp_path, f"e2b@{version}", *([f"@e2b/code-interpreter@{interpreter}"] if interpreter else []))
    folder = server.place / "files" / f"npm-{version}"
    folder.mkdir()
    command = ["node", str(CLIENT), str(folder), *(["code"] if interpreter else [])]
    environment = _environment(server, tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_secrets_and_volumes(server: Server, tmp_path: Path) -> None:
    _install(tmp_path, f"e2b@{[*VERSIONS][-1]}")
    (server.place / "npm-tree").mkdir()
    ImageStore(str(server.place / "images")).add(str(server.place / "npm-tree"), "npm-tree:1")
    command = ["node", str(CLIENT.with_name("npm_vault.mjs")), "npm-tree:1"]
    environment = _environment(server, tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


class Cli:
    """The program ``e2b``."""

    def __init__(self, server: Server, folder: Path) -> None:
        _install(folder, f"@e2b/cli@{CLI}")
        self.command = ["node", str(folder / "node_modules" / ".bin" / "e2b")]
        self.options: Mapping[str, Any] = {"env": _environment(server, folder), "cwd": folder}

    def run(self, *words: str) -> str:
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=PATIENCE, **self.options)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def type(self, text: str, wanted: str, *words: str) -> None:
        """Run it on a terminal, type *text* when it shows a prompt, and wait for its end."""
        ours, its = pty.openpty()
        with subprocess.Popen([*self.command, *words], stdin=its, stdout=its, stderr=its, **self.options) as program:
            os.close(its)
            output, typed = _read(ours, b"", b"# "), text.encode()
            os.write(ours, typed)
            output = _read(ours, output, wanted.encode())
            assert wanted in output.decode(errors="replace"), output
            program.wait(PATIENCE)
        os.close(ours)


def _read(terminal: int, output: bytes, wanted: bytes) -> bytes:
    deadline = time.monotonic() + PATIENCE
    while wanted not in output and select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0]:
        try:
            output += os.read(terminal, 4096)
        except OSError:
            break  # it has ended
    return output


def test_the_command_line(server: Server, tmp_path: Path) -> None:
    cli = Cli(server, tmp_path)
    name = cli.run("sandbox", "create", "--detach", "base").split()[-1]
    assert name in [each["sandboxId"] for each in json.loads(cli.run("sandbox", "list", "--format", "json"))]
    assert "State: running" in cli.run("sandbox", "info", name)
    assert cli.run("sandbox", "exec", name, "echo", "in it") == "in it\n"
    cli.type("echo $((6 * 7)) typed; exit\n", "42 typed", "sandbox", "connect", name)
    assert "process ended" in cli.run("sandbox", "logs", name) and "in it" in cli.run("sandbox", "logs", name)
    assert "Memory" in cli.run("sandbox", "metrics", name)
    cli.run("sandbox", "pause", name)
    assert "State: paused" in cli.run("sandbox", "info", name)
    cli.run("sandbox", "resume", name)
    assert "Created snapshot" in cli.run("sandbox", "snapshot", "create", name)
    cli.run("template", "list")
    cli.run("sandbox", "kill", name)
    assert name not in cli.run("sandbox", "list", "--format", "json")
