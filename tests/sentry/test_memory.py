"""Memory of the host that a sandbox uses, and that it returns freed memory to the host."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyvmm_sentry import program
from tests.process_memory import pss
from tests.sentry.conftest import Compile
from tests.sentry.test_command import ENVIRONMENT
from tests.sentry.test_kernel import microvm, needs_qemu
from tests.sentry.test_share import root as root

MIB = 1 << 20
USED = 64 * MIB
PATIENCE = 60.0


def converse(command: list[str], held: Callable[[int], int]) -> None:
    """Run the guest program `release` step by step, and check its sandbox's memory use after each.

    :param held: measures a process, by pid, in bytes
    """
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        contextlib.ExitStack() as at_end,
    ):
        at_end.callback(process.kill)
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
        assert step(b"used") >= before + USED * 7 // 8  # the host gets back what the start freed meanwhile
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
    """Allocated bytes of the memfd that the core shares with its children."""
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
    """It reports to QEMU's virtio-balloon, on an emulated CPU."""
    device = ["-device", "virtio-balloon-device,free-page-reporting=on", "-m", "256"]
    words = ["-kernel", str(program.kernel()), "-initrd", str(compile_static("release")), "-append", "quiet -- release"]
    converse([*microvm(*device), "-serial", "stdio", *words], resident)


MOST_IDLE = 10 * MIB


def children(pid: int) -> list[int]:
    """The pids of all descendants."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    return found + [each for child in found for each in children(child)]


def command(root: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start busybox on the platform trap, with a directory of the host as the root."""
    head = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "trap", "--root", str(root), "--", "/bin/busybox"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*head, *words], stdin=pipe, stdout=pipe, stderr=pipe, env=ENVIRONMENT)


def test_an_idle_sandbox_needs_little_memory(root: Path) -> None:
    """The limit holds for the sum over the command, the core, program processes and the file server."""
    with command(root, "sh", "-c", "echo started; read line") as process:
        assert process.stdout
        assert process.stdout.readline() == b"started\n"
        pids = [process.pid, *children(process.pid)]
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
        assert names == {"pyvmm-sentry-tr", "pyvmm-fsd"}
        assert sum(map(pss, pids)) <= MOST_IDLE
        process.communicate(b"\n")


def test_a_sandbox_ends_when_the_server_of_its_root_does(root: Path) -> None:
    with command(root, "sh", "-c", "echo started; read line; cat /etc/motd") as process:
        assert process.stdout
        assert process.stdout.readline() == b"started\n"
        (server,) = (pid for pid in children(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "pyvmm-fsd\n")
        os.kill(server, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 126
        assert errors == b"/bin/busybox: the server of a device cannot be reached\n"
