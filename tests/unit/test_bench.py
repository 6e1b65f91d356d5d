"""The benchmark as a program: how it ends when it is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
needs_tools = pytest.mark.skipif(
    sys.prefix == sys.base_prefix or not all(map(shutil.which, ("mke2fs", "busybox", "ldd"))),
    reason="it makes disks before it measures",
)


@needs_tools
@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_a_status(tmp_path: Path, number: int, status: int) -> None:
    command = [sys.executable, "-m", "tests.bench", "--only", "startup", "--quick", "--plot", "none"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("==> bench: ")
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (status, "")
    # A recipe may have said how far it was
    assert "Traceback" not in errors, errors
    assert errors.splitlines()[-1] == f"bench: interrupted by {signal.Signals(number).name}"
    assert "Traceback" not in errors
