"""`make check`: every static check; all run, and the exit status says whether all passed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tools.step import run_step, say

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
PYTHON_CODE = ("vmm", "tests", "tools", "guest-kernel", "examples")
C_CODE = (
    "vmm/native/*",
    "vmm/virtio/*",
    "vmm/virtio/fs/*",
    "vmm/faststart/native",
    "tests/guest/programs",
    "tests/conformance/programs",
    "examples/kata/agent",
    "examples/kata/client",
    "tests/kata/src",
)
KATA_CODE = C_CODE[6:]
GENERATED = ROOT / "build" / "kata-messages"
C_FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla", "-Werror"]
C_COMPILERS = {
    # gcc finds some mistakes only while it optimises.
    "gcc": ["-O2", "-c", "-o", os.devnull],
    "clang": ["-fsyntax-only"],
}


def c_sources() -> list[str]:
    """The C files that are ours: not what cffi generates."""
    found = [path for folder in C_CODE for path in ROOT.glob(f"{folder}/*.c") if path.name[0] != "_"]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def check_c(compiler: str) -> int:
    """Compile every C file with all warnings; returns the exit status."""
    sys.path.append(str(ROOT / "examples" / "kata"))
    from image import agent

    agent.generate(GENERATED)
    kata = [*agent.DEFINES, *agent.includes(GENERATED)]
    others = ["-Ivmm/native", "-Ivmm/virtio", f"-I{sysconfig.get_path('include')}"]
    command = [compiler, *C_FLAGS, *C_COMPILERS[compiler]]
    return max(
        subprocess.run([*command, *(kata if source.startswith(KATA_CODE) else others), source]).returncode
        for source in c_sources()
    )


def main() -> int:
    """Run all checks; returns 1 when one failed."""
    os.chdir(ROOT)
    code = [name for name in PYTHON_CODE if os.path.isdir(name)]
    checks = {
        "ruff check": [str(BIN / "ruff"), "check", "."],
        "ruff format --check": [str(BIN / "ruff"), "format", "--check", "."],
        "mypy --strict": [str(BIN / "mypy"), *code],
        "import layers": [str(BIN / "lint-imports"), "--no-logo"],
        "API reference": [sys.executable, "-m", "tools.docs"],
        **{f"C warnings ({name})": [sys.executable, "-m", "tools.check", name] for name in C_COMPILERS},
    }
    failed = [title for title, command in checks.items() if run_step(title, command)]
    say(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(check_c(sys.argv[1]) if len(sys.argv) > 1 else main())
