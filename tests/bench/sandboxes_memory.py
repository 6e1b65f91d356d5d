"""The memory of sandboxes in real machines: `python -m tests.bench.sandboxes_memory FILE COUNT` in the lab writes
the figures.

Each figure is by how much MemAvailable falls for one more sandbox. A sandbox that has run a program which touched much
memory is measured when the program has ended: how many of these a host of 16 GiB holds follows from it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import own_lab
from tests.bench.memory import available_kib
from tests.bench.row import Row, absolute
from tools.where import ROOT

COUNT = 100
MOMENTS = (0, 30, 300)
"""Seconds after the last one was made."""
MEMORY = "512M"
TOUCHED_MIB, HOST_MIB = 256, 16 << 10
SETTLE_S = 30
LAB_MEMORY = "10G"

Figures = dict[str, Any]


def fall(before: int, count: int) -> float:
    """MiB of MemAvailable for each of *count* sandboxes."""
    return (before - available_kib()) / 1024 / count


def of_many(make: Callable[[int], list[Any]], count: int, moments: tuple[int, ...] = MOMENTS) -> list[float]:
    """MiB for each of *count* sandboxes, at each moment.

    :param make: makes so many
    """
    before = available_kib()
    with contextlib.ExitStack() as stack:
        for box in make(count):
            stack.enter_context(box)
        made, found = time.monotonic(), []
        for moment in moments:
            time.sleep(max(0.0, made + moment - time.monotonic()))
            found.append(fall(before, count))
    return found


def after_work(make: Callable[[int], list[Any]], count: int) -> float:
    """MiB for each of *count* sandboxes in which a program has touched TOUCHED_MIB and ended."""
    before = available_kib()
    with contextlib.ExitStack() as stack:
        for box in make(count):
            stack.enter_context(box)
            box.run(f"dd if=/dev/zero of=/dev/null bs={TOUCHED_MIB}M count=1", check=True, timeout=None)
        time.sleep(SETTLE_S)
        return fall(before, count)


def measure_here(folder: Path, sandboxes: str) -> Figures:
    """In the lab.

    :param sandboxes: how many
    """
    count = int(sandboxes)
    sys.path += [str(ROOT / "examples" / name) for name in ("kata", "sandbox")]
    from pyvmm_sandbox import Sandbox, Template
    from tests.guest.kata_tools import Oci

    oci = Oci(folder)
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.root)}
    options: dict[str, Any] = {"memory": MEMORY, "timeout": None, "isolation": "vm", **where}
    with Sandbox(str(oci.rootfs), **options):  # programs and images of starts are in memory from now on
        pass
    template = Template.build(folder / "template", str(oci.rootfs), memory=MEMORY, **where)
    figures: Figures = {"count": count}
    figures["one"] = of_many(lambda _: [Sandbox(str(oci.rootfs), **options)], 1)
    figures["idle"] = of_many(lambda wanted: [template.start(timeout=None, **where) for _ in range(wanted)], count)
    figures["worked"] = after_work(
        lambda wanted: [template.start(timeout=None, **where) for _ in range(wanted)], count // 4
    )
    with template.start(timeout=None, **where) as source:
        figures["forks"] = of_many(source.fork, count)
    return figures


def measure(folder: Path, count: int = COUNT) -> Figures:
    """The same, from outside of the lab."""
    figures: Figures = own_lab.measure("tests.bench.sandboxes_memory", folder, str(count), memory=LAB_MEMORY)
    return figures


def rows(figures: Figures) -> list[Row]:
    """The lines of the table."""
    count, found = figures["count"], []
    names = {"one": "alone, booted", "idle": f"one of {count} clones", "forks": f"one of {count} copies"}
    for name, title in names.items():
        for moment, mib in zip(MOMENTS, figures[name], strict=True):
            found.append(absolute(f"memory of a sandbox, {title}, after {moment} s", mib, "MiB"))
    worked = figures["worked"]
    title = f"  after a program that touched {TOUCHED_MIB} MiB"
    found.append(absolute(title, worked, "MiB"))
    fit = int(HOST_MIB / worked)
    overcommit = fit * TOUCHED_MIB / HOST_MIB
    found.append(Row(f"  {fit} of these fit into 16 GiB: touched, of the host's", overcommit, must=8.0, at_least=True))
    return found


if __name__ == "__main__":
    own_lab.write(measure_here, "/tmp")
