"""The pytest plugin, as another project's test run has it: found by its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

KVM = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")


def run(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the test file *text* elsewhere."""
    (folder / "test_it.py").write_text("from vmm import BootConfig, MemoryConfig\n" + text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@KVM
def test_a_guest_is_booted_talked_to_and_closed(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    done = run(
        tmp_path,
        f"""
def test_echo(vm):
    guest = vm(BootConfig({kernel!r}), memory=MemoryConfig(32 << 20), cpus=2)
    guest.expect("^hello$")
    guest.type("there\\4")
    guest.expect(b"there")
    assert guest.wait().kind == "poweroff"

def test_two(vm):
    first, second = vm(BootConfig({kernel!r})), vm(BootConfig({kernel!r}), start=False)
    assert (first.machine.state, second.machine.state) == ("running", "made")
    global kept
    kept = first.machine

def test_they_are_gone():
    assert kept.state == "closed"
""",
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


@KVM
def test_the_report_of_a_failure_has_the_console(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("the last words\n"), tiny.POWEROFF)
    done = run(tmp_path, f"def test_x(vm):\n    vm(BootConfig({kernel!r})).expect('never')\n")
    assert "1 failed" in done.stdout
    assert "console of vm 0" in done.stdout and "the last words" in done.stdout
    assert "the guest ended (poweroff) before it printed 'never'" in done.stdout


def test_without_kvm_the_test_is_skipped_or_fails_as_asked(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path)
    text = f"""
def test_x(vm, monkeypatch):
    import vmm.board.kvm_vm
    from vmm.kvm import System
    monkeypatch.setattr(vmm.board.kvm_vm, "System", lambda: System("/not/there"))
    vm(BootConfig({kernel!r}))
"""
    done = run(tmp_path, text)
    assert "1 skipped" in done.stdout and "no virtual machine can run here" in done.stdout
    done = run(tmp_path, text, "--require-vm")
    assert "1 failed" in done.stdout and "cannot open /not/there" in done.stdout


def test_the_plugin_costs_other_test_runs_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys\ndef test_x():\n    assert 'vmm.machine.machine' not in sys.modules\n")
    assert "1 passed" in done.stdout, done.stdout
