"""`make demo`, in a pipe, with either kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.where import ROOT


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.demo", *options]
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False
    )


@pytest.mark.parametrize(
    ("options", "about", "transport"),
    [
        ((), "pyvmm's own kernel; `make demo KERNEL=debian`", ""),
        (("--kernel", "debian"), "the distribution's kernel", " --transport pci "),
    ],
    ids=["own, which is there already", "the distribution's"],
)
def test_a_guest_boots_answers_and_powers_off(options: tuple[str, ...], about: str, transport: str) -> None:
    done = demo(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert about in done.stderr and transport in done.stderr
    assert "Linux version " in done.stdout, "the boot is seen"
    assert "under KVM" in done.stdout and "disk    vda" in done.stdout, "the guest says where it is"
    assert "\nhello from the guest" in done.stdout, "and takes a command"
    assert "the guest powered off: exit status 0" in done.stderr


def test_a_kernel_that_does_not_exist_is_a_usage_error() -> None:
    done = demo("--kernel", "hurd")
    assert done.returncode == 2 and "choose from own, debian, ubuntu" in done.stderr.replace("'", "")
