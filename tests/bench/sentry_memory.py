"""The memory of forks of a program on the Sentry: `python -m tests.bench.sentry_memory FILE COUNT` writes the
figures: in the lab those of kvm and trap, on a host without KVM those of trap.

A figure is by how much MemAvailable falls for each of so many forks, which all live and have answered a request.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import own_lab
from tests.bench.boot import say
from tests.bench.row import Row, absolute
from tests.bench.sandboxes_memory import of_many
from tests.bench.sentry_forks import PYTHON, SHELL
from tests.sentry import small_root
from tools.where import ROOT
from vmm import kvm_verdict

COUNT = 100
MUST = 3.0
LAB_MEMORY = "6G"
SETTLE_S = 3.0
"""Seconds after which what a first fork has to load is there, and as many children wait as before."""

MOMENTS = {"shell": (0, 30, 300), "python": (0, 30)}
"""Seconds after the last fork was made."""

Figures = dict[str, Any]
PROGRAMS = {"shell": ["/bin/busybox", "sh", "-c", SHELL], "python": [small_root.PYTHON, "-c", PYTHON]}


def of_program(root: Path, platform: str, name: str, count: int) -> list[float]:
    """MiB for each fork, at each moment."""
    from pyvmm_sentry import SentrySandbox

    base = SentrySandbox(root, PROGRAMS[name], platform=platform, memory=128).run(until="ready")

    def make(wanted: int) -> list[Any]:
        forks = []
        for number in range(wanted):
            forks.append(template.fork())
            if forks[-1].call(number, None) != number:
                raise ValueError("a child does not answer as it should")
        return forks

    with base.freeze() as template:
        with template.fork() as first:
            first.call(0, None)
        while template.prepared == 0:
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        found = of_many(make, count, MOMENTS[name])
    say(f"{platform}, {name}: " + ", ".join(f"{mib:.2f}" for mib in found) + " MiB for each")
    return found


def measure_here(folder: Path, forks: str) -> Figures:
    """
    :param forks: how many
    """
    sys.path.append(str(ROOT / "examples" / "sentry"))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each machine has dozens
    root = small_root.make(folder / "root")
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    return {
        "count": int(forks),
        **{
            platform: {name: of_program(root, platform, name, int(forks)) for name in PROGRAMS}
            for platform in (("kvm", "trap") if kvm_verdict().usable else ("trap",))
        },
    }


def measure(folder: Path, count: int = COUNT) -> Figures:
    """The same, from outside of the lab."""
    figures: Figures = own_lab.measure("tests.bench.sentry_memory", folder, str(count), memory=LAB_MEMORY)
    return figures


def rows(figures: Figures) -> list[Row]:
    """The lines of the table."""
    found = []
    for platform in ("kvm", "trap"):
        for name, moments in figures[platform].items():
            for moment, mib in zip(MOMENTS[name], moments, strict=True):
                title = f"Sentry on {platform}: memory of one of {figures['count']} forks of {name}, after {moment} s"
                found.append(absolute(title, mib, "MiB", MUST))
    return found


if __name__ == "__main__":
    own_lab.write(measure_here, "/tmp")
