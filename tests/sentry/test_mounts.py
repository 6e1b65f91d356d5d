"""Mounts change and show on the Sentry as they do in a mount namespace of Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.sentry.conftest import Compile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def test_calls_for_mounts_return_what_they_return_on_linux(platform: Path, compile_static: Compile) -> None:
    """Results, /proc/self/mountinfo and statfs, in a new folder of a tmpfs."""
    program = compile_static("mounts")
    folder = tempfile.mkdtemp(dir="/dev/shm")
    os.rmdir(folder)
    try:
        command = ["unshare", "--mount", "--propagation", "private", program, folder]
        native = subprocess.run(command, capture_output=True, text=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ours = subprocess.run([platform, "--", program, folder], capture_output=True, text=True, timeout=120)
    assert native.returncode == ours.returncode == 42, (native.stderr, ours.stderr)
    assert len(native.stdout.splitlines()) > 240
    assert ours.stdout.splitlines() == native.stdout.splitlines()
