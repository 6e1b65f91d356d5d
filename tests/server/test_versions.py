"""Older versions of E2B's client, each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.server.conftest import Server

CLIENT = Path(__file__).with_name("old_client.py")
VERSIONS = {  # of e2b, and of e2b-code-interpreter
    "2.31.0": "2.8.1",
    "2.45.0": "2.8.1",
    "2.51.0": "2.10.0",
}


def _use(server: Server, python: str, name: str, *parts: str) -> None:
    folder = server.place / "files" / name
    folder.mkdir()
    addresses = {"E2B_API_URL": server.url, "E2B_SANDBOX_URL": server.url, "E2B_API_KEY": "e2b_0"}
    command = [python, str(CLIENT), str(folder), *parts]
    done = subprocess.run(
        command, env={**os.environ, **addresses}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


@needs_namespaces
@pytest.mark.long  # the other tests use this version
def test_the_newest_version(server: Server) -> None:
    _use(server, sys.executable, "newest", "code")


@needs_namespaces
@pytest.mark.long  # installs packages
@pytest.mark.parametrize("version", VERSIONS)
def test_older_versions(server: Server, tmp_path: Path, version: str) -> None:
    python = str(tmp_path / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    packages = [f"e2b=={version}", f"e2b-code-interpreter=={VERSIONS[version]}"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    # Until 2.10, the interpreter's client ignores E2B_SANDBOX_URL: it needs TLS, and names below the domain
    _use(server, python, version, *(["code"] if version == "2.51.0" else []))
