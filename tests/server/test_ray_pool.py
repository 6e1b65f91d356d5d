"""The sandbox library on the nodes of a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
from tests.sandbox.test_code import _end_programs_of as end_programs_of
from tests.server.conftest import Server
from tests.server.ray_nodes import Cluster

pytest.importorskip("ray")
pytestmark = [needs_namespaces, pytest.mark.long]  # a cluster takes 20 s to start


def test_sandboxes_of_a_program(tmp_path: Path) -> None:
    """Three nodes of 4 GiB: what fits, what it returns, what is lost with a node, and that nothing is left."""
    server = Server(tmp_path)
    cluster = Cluster(server)
    try:
        command = [sys.executable, str(Path(__file__).with_name("ray_pool.py")), str(tmp_path)]
        done = subprocess.run(
            [*command, json.dumps(cluster.keepers)],
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            env={**os.environ, **cluster.environment, "TMPDIR": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        eventually(lambda: os.listdir(tmp_path / "state") == [], "a sandbox is left")
    finally:
        cluster.close()
        with server.kernels:
            end_programs_of(server.kernels.name)
    (found,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray prints to it, too
    assert json.loads(found) == {
        "nodes": [4, 4, 4],
        "full": ["SandboxError", "none of 3 nodes has 1024 MiB for another", ""],
        "outputs": [f"{number}\n" for number in range(12)],
        "file": "text",
        "errors": [["CommandFailed"], ["CommandTimeout", "out\n"], ["FileNotFoundError"], ["AttributeError"]],
        "copy": ["copied\n", True],
        "no room": ["SandboxError"],
        "lost": "_NodeLost",
        "after": ["on\n"] * 6,
        "again": True,
        "closed": ["UsageError"],
    }
