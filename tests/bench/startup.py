"""Start-up: from the start of the `pyvmm boot` process to the first KVM_RUN, on this machine itself, everything warm.

Any /dev/kvm will do, one that cannot run a guest too: the machine is ended right after its first instructions.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench import programs
from tests.bench.child import Child, ChildError, wait_for_image
from tests.bench.row import Row, compare


def to_first_run(pyvmm: str, kernel: str, environment: dict[str, str]) -> tuple[int, dict[str, float]]:
    """Nanoseconds from the start of the process to its first KVM_RUN, and the phases that pyvmm reports."""
    guest = programs.Guest(kernel, "console=ttyS0")
    extra = ("--console", "none", "--stats", "--json", "--timeout", "0.1")  # a busy host may need a while for KVM_RUN
    with Child(programs.pyvmm(pyvmm, guest, extra=extra), environment) as child:
        child.finish(60)
        for line in child.errors().splitlines():
            if '"phases"' in line:
                stats = json.loads(line)["stats"]
                phases = {str(name): float(at) for name, at in stats["phases"].items()}
                first_run = stats["began"] + phases["first-run"]
                return round(first_run * 1e9) - child.started, phases
        raise ChildError(f"no statistics\n{child.last_words()}")


def python_pass(python: str, environment: dict[str, str]) -> int:
    """Nanoseconds that `python3 -c pass` takes, start to end."""
    with Child([python, "-c", "pass"], environment) as child:
        child.finish(60)
        return time.monotonic_ns() - child.started


def measure(pyvmm: str, kernel: str, repeat: int) -> dict[str, Any]:
    """Both, turn by turn, `repeat` times after two that are not counted; kernels are cached below the folder given."""
    python = str(Path(pyvmm).with_name("python3"))
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(Path(pyvmm).parents[1])}
    time.sleep(4)  # nothing is kept of files as new as this installation's
    passes, starts, phases = [], [], []
    for turn in range(repeat + 2):
        wait_for_image(environment)
        bare = python_pass(python, environment)
        first_run, steps = to_first_run(pyvmm, kernel, environment)
        if turn >= 2:
            passes.append(bare)
            starts.append(first_run)
            phases.append(steps)
    middle = {name: statistics.median(each[name] for each in phases) for name in phases[0]}
    figures = {"python_ns": passes, "first_run_ns": starts, "phases_s": middle}
    ratio = statistics.median(starts) / statistics.median(passes)
    os.write(2, f"    first KVM_RUN after {statistics.median(starts) / 1e6:.1f} ms, {ratio:.2f} x python3\n".encode())
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    ours, theirs = (statistics.median(figures[name]) / 1e6 for name in ("first_run_ns", "python_ns"))
    name = "start-up to the first KVM_RUN"
    return [compare(name, ours, theirs, "ms", peer_name="python3 -c pass", must=3.5, aim=2.5)]
