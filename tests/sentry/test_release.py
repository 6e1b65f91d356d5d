"""Memory that the programs of a sandbox free returns to the host."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pyvmm_sentry import program
from tests.sentry.conftest import Compile
from tests.sentry.test_kernel import microvm, needs_qemu

MIB = 1 << 20
USED = 64 * MIB
PATIENCE = 60.0


def converse(command: list[str], held: Callable[[int], int]) -> None:
    """Run `release` step by step, and look at what its sandbox holds of the host's memory.

    :param held: bytes, of the process with this number
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout

        def step(line: bytes) -> int:
            assert process.stdout
            assert process.stdout.readline().strip() == line
            return held(process.pid)

        def go_on() -> None:
            assert process.stdin
            process.stdin.write(b"\n")
            process.stdin.flush()

        before = step(b"start")
        go_on()
        assert step(b"used") >= before + USED
        go_on()
        step(b"freed")
        deadline = time.monotonic() + PATIENCE
        while held(process.pid) > before + USED // 8:
            assert time.monotonic() < deadline, "the host gets no memory back"
            time.sleep(0.05)
        go_on()
        assert process.stdout.readline().strip() == b"0 pages are not zero"
        process.stdin.close()
        process.stdout.read()


def blocks(pid: int) -> int:
    """What is allocated of the memfd that the core and its children share."""
    found = {}
    for mapping in os.listdir(f"/proc/{pid}/map_files"):
        path = f"/proc/{pid}/map_files/{mapping}"
        if os.readlink(path).startswith("/memfd:sentry "):
            found[os.stat(path).st_ino] = os.stat(path).st_blocks * 512
    return sum(found.values())


def test_memory_that_a_program_frees_returns_to_the_host(platform: Path, compile_static: Compile) -> None:
    converse([str(platform), "--", str(compile_static("release"))], blocks)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@needs_qemu
def test_a_guest_kernel_reports_free_memory_by_a_balloon(compile_static: Compile) -> None:
    """To the balloon of QEMU, on a CPU that QEMU emulates."""
    device = ["-device", "virtio-balloon-device,free-page-reporting=on", "-m", "256"]
    words = ["-kernel", str(program.kernel()), "-initrd", str(compile_static("release")), "-append", "quiet -- release"]
    converse([*microvm(*device), "-serial", "stdio", *words], resident)
