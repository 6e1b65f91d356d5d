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
from vmm import kvm_verdict

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


@pytest.mark.skipif(kvm_verdict().usable, reason="KVM runs a virtual machine")
def test_an_error_without_kvm_names_the_sentry(command: Command, tmp_path: Path) -> None:
    settings = tmp_path / "kata.toml"
    settings.write_text(f'kernel = "{tmp_path}/none"\n')
    done = command.run("--config", str(settings), str(command.image), "true")
    assert done.returncode != 0 and "--isolation sentry needs none" in done.stderr
    done = command.run("--config", str(settings), "--isolation", "vm", str(command.image), "true")
    assert done.returncode != 0 and "--isolation" not in done.stderr
    assert not any(command.root.glob("*/state.json")), "nothing is left"


def test_auto_runs_wherever_something_can(command: Command) -> None:
    """Without KVM on the Sentry. With it, a machine needs a kernel, which may be missing."""
    done = command.run("--isolation", "auto", str(command.image), "sh", "-c", "echo $((6 * 7))")
    assert done.stdout == "42\n" or "guest's kernel" in done.stderr


@pytest.mark.skipif(os.access("/usr/share/pyvmm/vmlinux", os.R_OK), reason="a guest's kernel is installed")
def test_a_machine_is_not_replaced(command: Command) -> None:
    done = command.run("--isolation", "vm", str(command.image), "true")
    assert done.returncode != 0 and "guest's kernel" in done.stderr
