"""The maintainer scripts of the Debian packages, with programs that only record how they are called."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.where import ROOT


@pytest.mark.parametrize("status", [0, 8])
def test_a_purge_succeeds_while_sandboxes_run(tmp_path: Path, status: int) -> None:
    """userdel(8) ends with 8 if the user has processes: the package would stay half removed."""
    calls = tmp_path / "calls"
    for name, code in (("rm", 0), ("getent", 0), ("userdel", status)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} $@ >> {calls}\nexit {code}\n")
        program.chmod(0o755)
    script = ROOT / "tools" / "debian" / "pyvmm-server.postrm"
    done = subprocess.run(
        ["/bin/sh", script, "purge"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert ("end the processes of the user" in done.stderr) == bool(status)
    assert "userdel pyvmm-server\n" in calls.read_text()
