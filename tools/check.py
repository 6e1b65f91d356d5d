"""`make check`: every static check; all run, as many at a time as there are CPUs, and the exit status says whether all
passed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tools.step import say

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
    "examples/kata/linux-guest/agent",
    "examples/kata/launcher",
    "tests/kata/src",
    "examples/sandbox/guest",
    "examples/sentry/core",
    "examples/sentry/core/*",
    "examples/sentry/kvm",
    "examples/sentry/vdso",
    "examples/sentry/host",
    "examples/sentry/ptrace",
    "examples/sentry/trap",
    "tests/sentry/src",
)
KATA_CODE = C_CODE[6:9]
SANDBOX_CODE = C_CODE[9:10]
SENTRY_KERNEL, SENTRY_CODE = C_CODE[10:14], C_CODE[14:]
GENERATED = ROOT / "build" / "kata-messages"
C_FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla", "-Werror"]
C_COMPILERS = {
    # gcc finds some mistakes only while it optimises.
    "gcc": ["-O2", "-c", "-o", os.devnull],
    "clang": ["-fsyntax-only"],
}


def make_docs() -> int:
    """Make the site of the documents and docstrings, warnings as errors, into build/docs; returns the exit status."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", "build/docs"]
    status = subprocess.run(command, cwd=ROOT).returncode
    if not status:
        print("build/docs/index.html")
    return status


def c_sources() -> list[str]:
    """The C files that are ours: not what cffi generates."""
    found = [path for folder in C_CODE for path in ROOT.glob(f"{folder}/*.c") if path.name[0] != "_"]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def check_c() -> int:
    """Compile every C file with all warnings, by each compiler; returns the exit status."""
    sys.path.append(str(ROOT / "examples" / "kata" / "linux-guest"))
    from image import agent
    from pyvmm_sentry import program

    agent.generate(GENERATED)
    others = ["-Ivmm/native", "-Ivmm/virtio", f"-I{sysconfig.get_path('include')}"]
    own: dict[tuple[str, ...], list[str]] = {
        KATA_CODE: [*agent.DEFINES, *agent.includes(GENERATED)],
        SANDBOX_CODE: ["-D_GNU_SOURCE"],
        SENTRY_KERNEL: ["-ffreestanding", "-nostdinc", "-mgeneral-regs-only", f"-I{SENTRY_KERNEL[0]}"],
        SENTRY_CODE: [f"-I{SENTRY_KERNEL[0]}", f"-I{SENTRY_CODE[0]}"],
    }

    own[SENTRY_KERNEL] += program.includes()

    def flags(source: str) -> list[str]:
        return next((flags for folders, flags in own.items() if source.startswith(folders)), others)

    commands = [
        [compiler, *C_FLAGS, *options, *flags(source), source]
        for compiler, options in C_COMPILERS.items()
        for source in c_sources()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = list(threads.map(lambda command: subprocess.run(command, capture_output=True), commands))
    for each in done:
        sys.stderr.buffer.write(each.stdout + each.stderr)
    return 1 if any(each.returncode for each in done) else 0


class Checks:
    """Runs checks, and shows what each printed when it has ended."""

    def __init__(self) -> None:
        self._lock = Lock()

    def run(self, check: tuple[str, Sequence[str]]) -> bool:
        """Run a title's command; whether it passed."""
        title, command = check
        start = time.monotonic()
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            status, output = done.returncode, done.stdout
        except FileNotFoundError:
            status, output = 127, f"{command[0]} is not installed\n".encode()
        outcome = f"failed with status {status}" if status else "done"
        with self._lock:
            say(f"==> {title}")
            sys.stderr.buffer.write(output)
            say(f"<== {title}: {outcome} after {time.monotonic() - start:.1f} s")
        return not status


def main() -> int:
    """Run all checks; returns 1 when one failed."""
    os.chdir(ROOT)
    code = [name for name in PYTHON_CODE if os.path.isdir(name)]
    packages = ":".join(f"examples/{name}" for name in ("sentry", "sandbox", "server", "mcp"))
    checks = {  # the longest first
        "mypy --strict": [str(BIN / "mypy"), *code],
        f"C warnings ({', '.join(C_COMPILERS)})": [sys.executable, "-m", "tools.check", "c"],
        "documents": [sys.executable, "-m", "tools.check", "docs"],
        "import layers": ["env", f"PYTHONPATH={packages}", str(BIN / "lint-imports"), "--no-logo"],
        "ruff check": [str(BIN / "ruff"), "check", "."],
        "sleeps without a reason": [sys.executable, "-m", "tools.sleeps"],
        "ruff format --check": [str(BIN / "ruff"), "format", "--check", "."],
    }
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        passed = list(threads.map(Checks().run, checks.items()))
    failed = [title for title, good in zip(checks, passed, strict=True) if not good]
    say(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit({"c": check_c, "docs": make_docs}.get("".join(sys.argv[1:]), main)())
    except KeyboardInterrupt:
        sys.exit(130)
