"""The MCP server under the protocol's own conformance suite, which npm has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kata.oci_runtime import needs_namespaces
from tests.mcp.test_mcp import Server

PACKAGES = ["@modelcontextprotocol/conformance@0.1.16", "node@22"]
"""The suite needs fs.globSync(), which Debian's node does not have."""
EXPECTED = Path(__file__).with_name("conformance.yaml")
PASS = 11
"""Checks of the scenarios that apply."""


@needs_namespaces
@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_conformance(tmp_path: Path) -> None:
    """It downloads 60 MB."""
    place = tmp_path / "server"
    place.mkdir()
    install: list[str | Path] = ["npm", "install", "--no-audit", "--no-fund", "--prefix", tmp_path, *PACKAGES]
    subprocess.run(install, check=True, cwd=tmp_path)
    modules = tmp_path / "node_modules"
    suite: list[str | Path] = [
        modules / "node" / "bin" / "node",
        modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js",
    ]
    with Server(place).started() as (_, url):
        command = [*suite, "server", "--url", url, "--expected-failures", EXPECTED]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"Total: {PASS} passed" in ran.stdout, ran.stdout
