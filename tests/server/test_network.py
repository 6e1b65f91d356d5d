"""E2B's rules for the network of a sandbox, by its own client, with sandboxes on the Sentry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE
from tests.sandbox.outside import OTHER, SERVER
from tests.sandbox.test_network import rootfs  # noqa: F401  # a fixture
from vmm import kvm_verdict

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine")
@pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs, which makes images")
def test_rules_of_a_sandbox_hold_and_are_replaced(rootfs: Path, tmp_path: Path) -> None:  # noqa: F811
    packages = ("", "examples/kata", "examples/sandbox", "examples/sentry", "examples/server")
    path = os.pathsep.join(str(ROOT / name) for name in packages)
    program = [sys.executable, str(Path(__file__).with_name("sentry_server.py")), str(rootfs), str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, direct = "http good.test 80", f"http {SERVER} 7000"
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "reached": [[first, direct], [first, direct], []],
        "packets": [["tcp", SERVER, 80], ["tcp", SERVER, 7000]],
        "refused": ["400", "400", "400"],
        "left": [],
    }
    assert OTHER not in done.stdout
