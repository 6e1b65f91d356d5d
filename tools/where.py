"""Where guests run: on this machine's own KVM, or in the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYVMM = str(ROOT / ".venv" / "bin" / "pyvmm")


def is_native() -> bool:
    """Whether `pyvmm doctor` finds KVM usable here (it is, in the lab)."""
    return subprocess.run([PYVMM, "doctor", "--quiet"], stdout=subprocess.DEVNULL).returncode == 0


def with_kvm(command: Sequence[str], *lab_options: str) -> list[str]:
    """`command`, or the command that runs it in the lab and says so."""
    if "PYVMM_LAB" in os.environ or is_native():
        return list(command)
    return [sys.executable, "-m", "tests.lab", "run", *lab_options, "--", *command]
