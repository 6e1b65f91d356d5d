"""Where guests run: on this machine's own KVM, or in the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYVMM = str(ROOT / ".venv" / "bin" / "pyvmm")
DEVICE = "/dev/kvm"


def cpu_flags() -> set[str]:
    """The flags of the first CPU in /proc/cpuinfo."""
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def why_unusable() -> str | None:
    """None when guests can run here natively, else the reason in a few words.

    A /dev/kvm on a CPU that shows neither VMX nor SVM belongs to a paravirtual KVM (PVM), which emulates an ordinary
    guest kernel instruction by instruction: it answers every ioctl and still boots nothing.
    """
    if not os.path.exists(DEVICE):
        return f"no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"no permission on {DEVICE}"
    if not cpu_flags() & {"vmx", "svm"}:
        return "PVM: no vmx or svm"
    return None


def is_native() -> bool:
    """Whether `pyvmm doctor` finds KVM usable here (it is, in the lab)."""
    return subprocess.run([PYVMM, "doctor", "--quiet"], stdout=subprocess.DEVNULL).returncode == 0


def with_kvm(command: Sequence[str], *lab_options: str) -> list[str]:
    """`command`, or the command that runs it in the lab and says so."""
    if "PYVMM_LAB" in os.environ or is_native():
        return list(command)
    return [sys.executable, "-m", "tests.lab", "run", *lab_options, "--", *command]
