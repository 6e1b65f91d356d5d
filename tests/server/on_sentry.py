"""Runs programs of tests whose sandboxes are on the Sentry, in namespaces of networks and mounts of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kata.oci_runtime import PATIENCE
from vmm import kvm_verdict

ROOT = Path(__file__).parents[2]
PACKAGES = ("", "examples/kata", "examples/sandbox", "examples/sentry", "examples/server")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine"),
    pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs, which makes images"),
]


def run(program: str, rootfs: Path, place: Path, *more: str, patience: float = PATIENCE) -> tuple[Any, str]:
    """Run a program of this folder; what it prints as JSON on its last line, and all of its output."""
    path = os.pathsep.join(str(ROOT / name) for name in PACKAGES)
    command = [sys.executable, str(Path(__file__).with_name(program)), str(rootfs), str(place), *more]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
        env={**os.environ, "TMPDIR": str(place), "XDG_RUNTIME_DIR": str(place), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout
