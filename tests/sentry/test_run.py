"""`pyvmm run --isolation`: containers without KVM, from the command that people try first."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kata.oci_runtime import needs_namespaces
from tools.where import PYVMM

pytestmark = needs_namespaces


class Command:
    """``pyvmm`` with a root of its own, and a directory to run."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "state"
        self.image = folder / "image"
        (self.image / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", self.image / "bin" / "busybox")
        for applet in ("sh", "uname", "sleep"):
            (self.image / "bin" / applet).symlink_to("busybox")

    def __call__(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [PYVMM, name, "--root", str(self.root), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--network", "none", *words)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    made = Command(tmp_path)
    yield made
    made("rm", "-f", "box")


def test_a_program_runs_on_the_sentry(command: Command) -> None:
    done = command.run("--isolation", "sentry", str(command.image), "sh", "-c", "uname -r; exit 7")
    assert (done.stdout, done.returncode) == ("6.12.0-pyvmm\n", 7), done.stderr
    assert not any(command.root.glob("*/state.json")), "nothing is left"


def test_ps_names_the_isolation(command: Command) -> None:
    done = command.run("-d", "--name", "box", "--isolation", "sentry", str(command.image), "sleep", "1000")
    assert done.returncode == 0, done.stderr
    (listed,) = json.loads(command("ps", "--json").stdout)
    assert (listed["name"], listed["isolation"]) == ("box", "sentry")


def test_auto_runs_wherever_something_can(command: Command) -> None:
    """Without KVM on the Sentry. With it, a machine needs a kernel, which may be missing."""
    done = command.run("--isolation", "auto", str(command.image), "sh", "-c", "echo $((6 * 7))")
    assert done.stdout == "42\n" or "guest's kernel" in done.stderr


@pytest.mark.skipif(os.access("/usr/share/pyvmm/vmlinux", os.R_OK), reason="a guest's kernel is installed")
def test_a_machine_is_not_replaced(command: Command) -> None:
    done = command.run("--isolation", "vm", str(command.image), "true")
    assert done.returncode != 0 and "guest's kernel" in done.stderr
