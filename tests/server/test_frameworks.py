"""Agent frameworks that use E2B, each in an environment of its own: three variables lead them to the server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.server.conftest import Server, running

PROGRAMS = Path(__file__).with_name("frameworks")
APART = Path(__file__).parents[1] / "sandbox" / "suites" / "apart.sh"
PACKAGES = {
    "smolagents_agent": ["smolagents[e2b]==1.26.0", "numpy"],
    "langchain_backend": ["langchain-e2b==0.0.6"],
    "inspect_sandbox": ["inspect-sandboxes[e2b]==0.6.1", "inspect-ai==0.3.285"],
    "openai_agents": ["openai-agents[e2b]==0.24.0"],
    "verifiers_runtime": ["verifiers[e2b]==0.4.0"],
}


@needs_namespaces
@pytest.mark.long  # installs packages
@pytest.mark.parametrize("name", PACKAGES)
def test_frameworks(server: Server, tmp_path: Path, name: str) -> None:
    _run(server, tmp_path, name, PACKAGES[name])


@needs_namespaces
@pytest.mark.long  # likewise
@pytest.mark.skipif(sys.version_info < (3, 12), reason="Harbor needs Python 3.12")
def test_harbor(tmp_path: Path) -> None:
    """It writes to fixed places, so its sandboxes have files of their own."""
    program: list[str | Path] = [
        "unshare",
        "--mount",
        "sh",
        APART,
        sys.executable,
        Path(__file__).with_name("rooted_server.py"),
    ]
    with tempfile.TemporaryDirectory(prefix="harbor-", dir="/var/tmp") as folder:  # the server sees another /tmp
        (Path(folder) / "server").mkdir()
        with running(Path(folder) / "server", program=program) as server:
            _run(server, tmp_path, "harbor_trials", ["harbor[e2b]==0.26.0"])


def _run(server: Server, tmp_path: Path, name: str, packages: list[str]) -> None:
    """Run a program of frameworks/ in an environment with these packages."""
    python = str(tmp_path / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-compile", *packages], check=True)
    folder = server.place / "files" / name
    folder.mkdir()
    addresses = {"E2B_API_URL": server.url, "E2B_SANDBOX_URL": server.url, "E2B_API_KEY": "e2b_0"}
    done = subprocess.run(
        [python, str(PROGRAMS / f"{name}.py"), str(folder)],
        env={**os.environ, **addresses, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
