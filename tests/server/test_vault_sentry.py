"""What secrets and volumes do for a sandbox, by E2B's own client, with sandboxes on the Sentry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE
from tests.sandbox.test_network import rootfs  # noqa: F401  # a fixture
from vmm import kvm_verdict

ROOT = Path(__file__).parents[2]
VALUE = "sk-0123456789-never-inside"


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(kvm_verdict().usable, reason="with KVM, the Sentry is the kernel of a machine")
@pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs, which makes images")
def test_secrets_reach_their_hosts_alone_and_volumes_outlive_sandboxes(
    rootfs: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    packages = ("", "examples/kata", "examples/sandbox", "examples/sentry", "examples/server")
    path = os.pathsep.join(str(ROOT / name) for name in packages)
    program = [sys.executable, str(Path(__file__).with_name("sentry_vault.py")), str(rootfs), str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--net", "--mount", *program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["secrets"].pop("refused").startswith("400: secret 'no' does not exist")
    (status, echo), *others = found["secrets"].pop("answers")
    assert status == 200 and echo.startswith("pyvmm-secret-") and others == [[200, "mine"], [200, "mine"]]
    assert found == {
        "secrets": {
            "sent": {
                "/one": [f"Bearer {VALUE}", "kept"],
                "/two": ["mine", "kept"],  # not encrypted
                "/three": ["mine", "kept"],  # another host
            },
            "shown": False,
            "kept": 0,
        },
        "volumes": {"both": "one\ntwo\n", "kept": True, "after": "one\ntwo\n", "destroyed": True, "left": []},
    }
