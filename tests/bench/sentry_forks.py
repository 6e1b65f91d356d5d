"""Forks of a program on the Sentry, in the lab where one instruction is one nanosecond: what a child costs until it has
answered its first request."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.row import Row, absolute
from tests.bench.snapshot_runner import ram_kib
from tests.sentry import small_root

ROUNDS = 7
IN_A_ROW = 20
SETTLE = 0.3
"""Seconds after which the host has done what a fork leaves to do."""
SHELL = "echo ready; while read -r line; do echo $line; done"
PYTHON = """
import json, sys
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(json.loads(line)), flush=True)
"""
FORK, PAGE, PYTHON_CALL, AIM = 1.5e6, 12e3, 5e6, 0.4e6
"""Instructions of a fork, of each of its pages of memory beside that, and of a fork that Python answers."""


def measure_one(root: Path, words: Sequence[str]) -> dict[str, float]:
    """Medians: ns until `fork()` returns, and until the first answer; pages of memory that the child has then. And ns
    of each of several forks in a row: they include the making of children, and their end."""
    from pyvmm_sentry import SentrySandbox

    base = SentrySandbox(root, words, platform="kvm", memory=128).run(until="ready")
    found = []
    with base.freeze(prepared=1) as template:
        for _ in range(ROUNDS):
            while not template.prepared:
                time.sleep(0.01)
            time.sleep(SETTLE)
            began = time.monotonic_ns()
            with template.fork() as child:
                returned = time.monotonic_ns()
                child.call(1, None)
                answered = time.monotonic_ns()
                found.append((returned - began, answered - began, ram_kib(child.machine) // 4))
        began = time.monotonic_ns()
        template.map(range(IN_A_ROW), workers=1, timeout=None)
        in_a_row = (time.monotonic_ns() - began) / IN_A_ROW
    names = ("returned", "answered", "pages")
    medians = map(statistics.median, zip(*found[1:], strict=True))
    return {**dict(zip(names, medians, strict=True)), "in_a_row": in_a_row}


def measure_here(folder: Path) -> dict[str, dict[str, float]]:
    """In the lab: a shell, and Python."""
    root = small_root.make(folder / "root")
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    return {
        "shell": measure_one(root, ["/bin/busybox", "sh", "-c", SHELL]),
        "python": measure_one(root, [small_root.PYTHON, "-c", PYTHON]),
    }


def rows(figures: dict[str, dict[str, float]]) -> list[Row]:
    """The lines of the table."""
    shell, python = figures["shell"], figures["python"]
    name = "Sentry on kvm: fork to the child's first answer"
    return [
        absolute(name, shell["answered"], "instr", FORK + PAGE * shell["pages"], AIM + PAGE * shell["pages"]),
        absolute("  to the return of fork()", shell["returned"], "instr"),
        absolute("  pages of memory of the child", shell["pages"], ""),
        absolute("  to the first answer of Python", python["answered"], "instr", PYTHON_CALL),
        absolute("  pages of memory of that", python["pages"], ""),
        absolute("  each of several in a row, with its making and its end: shell", shell["in_a_row"], "instr"),
        absolute("  the same of Python", python["in_a_row"], "instr"),
    ]
