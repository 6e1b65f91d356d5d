"""A sandbox of the Sentry without KVM, on this machine itself: its memory, beside gVisor's, and its CPUs, beside Linux.

Memory is the proportional set size (PSS) of all processes that a command starts, itself included, while busybox's shell
waits for input. CPUs: four threads that compute, on one CPU of the sandbox and on two.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import sentry
from tests.bench.child import ChildError
from tests.bench.row import Row, absolute, compare
from tests.process_memory import pss
from tools.where import ROOT

SOURCES = ROOT / "tests" / "sentry" / "src"
IDLE_MOST, RETURN_MOST, SPEED_LEAST = 10.0, 1.0, 1.8
MIB = 1 << 20
USED = 64 * MIB
SETTLE, PATIENCE = 2.0, 60.0
THREADS, STEPS = 4, 100_000_000
SHELL = ("/bin/busybox", "sh", "-c", "echo started; read line")


def descendants(pid: int) -> list[int]:
    """The pids of a process's children, of their children, and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT / "examples" / "sentry")}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)


def idle(command: Sequence[str]) -> float:
    """MiB of all processes of a sandbox whose shell waits."""
    with started([*command, *SHELL]) as process:
        assert process.stdout
        if process.stdout.readline() != b"started\n":
            process.kill()
            raise ChildError(f"{command[0]} does not run a shell")
        time.sleep(SETTLE)  # for what it frees behind its start
        size = sum(map(pss, (process.pid, *descendants(process.pid))))
        process.communicate(b"\n", timeout=PATIENCE)
    return size / MIB


def shared_memory(pid: int) -> int:
    """Allocated bytes of the memfd that is the sandbox's RAM."""
    found = {}
    for mapping in Path(f"/proc/{pid}/map_files").iterdir():
        if str(mapping.readlink()).startswith("/memfd:sentry "):
            status = mapping.stat()
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def returned(command: Sequence[str], held: Callable[[int], int] = shared_memory) -> float:
    """Seconds from munmap() of 64 MiB until the host has seven eighths of them back.

    :param held: bytes of a sandbox, by pid
    """
    with started(command) as process:
        assert process.stdin
        assert process.stdout
        sizes = []
        for name in (b"start", b"used"):
            if process.stdout.readline().strip() != name:
                process.kill()
                raise ChildError(f"{command[0]} does not run release.c")
            sizes.append(held(process.pid))
            process.stdin.write(b"\n")
            process.stdin.flush()
        process.stdout.readline()
        begin = time.monotonic()
        while held(process.pid) > sizes[1] - USED * 7 // 8:
            if time.monotonic() > begin + PATIENCE:
                process.kill()
                raise ChildError("the host gets no memory back")
            time.sleep(0.002)
        took = time.monotonic() - begin
        process.kill()
    return took


def compute(command: Sequence[str], program: Path) -> float:
    """Nanoseconds of four threads."""
    return sentry.run([*command, str(program), str(THREADS), str(STEPS)])["compute"]


def measure(folder: Path, repeat: int) -> dict[str, Any]:
    """Everything, `repeat` times, turn by turn."""
    sys.path.append(str(ROOT / "examples" / "sentry"))
    from pyvmm_sentry import program

    for name in ("release", "compute"):
        words = ["gcc", "-O1", "-static", "-pthread", "-o", str(folder / name), str(SOURCES / f"{name}.c")]
        subprocess.run(words, check=True)
    root = folder / "sentry-root"
    for place in ("bin", "dev", "proc", "etc"):
        (root / place).mkdir(parents=True, exist_ok=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin" / "busybox")
    trap, binary = str(program.trap()), folder / "compute"
    do = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "trap", "--root", str(root), "--"]
    cpus = sorted(os.sched_getaffinity(0))
    figures: dict[str, Any] = {
        "idle": [],
        "idle-runsc": [],
        "returned": [],
        "cpus": len(cpus),
        "speed": [],
        "native": [],
    }
    for _ in range(repeat):
        figures["idle"].append(idle(do))
        if shutil.which("runsc"):
            runsc = [*sentry.RUNSC, "--platform=systrap", f"--root={folder}", "do", f"--root={root}", "--cwd=/"]
            figures["idle-runsc"].append(idle(runsc))
        figures["returned"].append(returned([trap, "--", str(folder / "release")]))
        if len(cpus) > 1:
            pinned = [["taskset", "-c", ",".join(map(str, cpus[:count]))] for count in (1, 2)]
            one, two = (compute(head, binary) for head in pinned)
            figures["native"].append(one / two)
            one, two = (compute([*pinned[1], trap, "--cpus", f"{count}", "--"], binary) for count in (1, 2))
            figures["speed"].append(one / two)
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    name, size = "Sentry on trap: memory of an idle sandbox, PSS", statistics.median(figures["idle"])
    found = [absolute(name, size, "MiB", must=IDLE_MOST)]
    if peers := figures["idle-runsc"]:
        found.append(compare("  beside runsc", size, statistics.median(peers), "MiB", peer_name="runsc"))
    took = max(figures["returned"])
    found.append(absolute("Sentry on trap: freed memory returns to the host within", took, "s", must=RETURN_MOST))
    if speed := figures["speed"]:
        native = statistics.median(figures["native"])
        name = "Sentry on trap: four threads on two CPUs, beside one"
        row = Row(name, max(speed), "speed", None, native, "Linux natively", SPEED_LEAST, at_least=True, ratio=False)
        found.append(row)
    return found
