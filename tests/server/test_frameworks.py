"""Agent frameworks that use E2B, each in an environment of its own: three variables lead them to the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, needs_namespaces
from tests.server.conftest import Server

PROGRAMS = Path(__file__).with_name("frameworks")
PACKAGES = {
    "smolagents_agent": ["smolagents[e2b]==1.26.0", "numpy"],
    "langchain_backend": ["langchain-e2b==0.0.6"],
    "inspect_sandbox": ["inspect-sandboxes[e2b]==0.6.1", "inspect-ai==0.3.285"],
    "openai_agents": ["openai-agents[e2b]==0.24.0"],
}


@needs_namespaces
@pytest.mark.long  # installs packages
@pytest.mark.parametrize("name", PACKAGES)
def test_frameworks(server: Server, tmp_path: Path, name: str) -> None:
    python = str(tmp_path / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
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
