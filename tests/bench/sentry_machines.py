"""Containers on the Sentry in a machine, beside Debian's runc and runsc (gVisor), from the same bundle: their start,
and their memory when they are idle, on trap as well.

As in :mod:`tests.bench.kata`, all programs run from the stage, and one instruction is one nanosecond.  Of runsc's
platforms, the faster one counts.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import kata, kata_phases
from tests.bench.boot import say
from tests.bench.row import Row, absolute, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.inside import Spec

IDLE_MOST = {"kvm": 16.0, "trap": 12.0}
"""MiB."""
PLATFORMS = ("systrap", "ptrace")
"""Those of runsc that work in the lab."""
STEPS = tuple(step for step in kata_phases.STEPS if step.end != "process 1")
"""As those of a Linux guest, without a first process of the guest."""


def _run_each(name: str, command: Sequence[str], bundle: str, turns: int) -> list[int]:
    """Nanoseconds of `run`, for each turn after one that is not counted."""
    runs = [kata.run([*command, "run", "--bundle", bundle, "c1"]) for _ in range(turns + 1)][1:]
    say(f"{name}: run of true {', '.join(f'{each / 1e6:.1f}' for each in runs)} M instructions")
    return runs


def idle(name: str, command: Sequence[str], bundle: str) -> int:
    """KiB (PSS) of all processes of a container that sleeps."""
    root = str(kata.HERE / f"idle-{name}")
    words = [*command[: command.index("--root")], "--root", root, *command[command.index("--root") + 2 :]]
    kata.run([*words, "run", "--bundle", str(kata.HERE / "sentry"), "c1"])  # what only the first start makes
    try:
        kata.sleep_in(words, "c1", bundle)
        time.sleep(kata.IDLE_S)
        size = kata.memory_of(root)
    finally:
        subprocess.run([*words, "delete", "--force", "c1"], capture_output=True, timeout=kata.TIMEOUT)
    say(f"{name}: idle {size / 1024:.1f} MiB")
    return size


def measure(spec: Spec) -> dict[str, Any]:
    """`run`: nanoseconds of each turn, by program; `pool`: of ours from a pool; `phases`: those of our steps; `idle`:
    KiB by program."""
    kata.HERE.mkdir(exist_ok=True)
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    bundle = kata.make_bundle("sentry", pyvmm, ["true"])
    programs = kata.commands(pyvmm, spec)
    ours = [*programs["pyvmm"], "--isolation", "sentry"]
    runs = {"pyvmm": _run_each("pyvmm", ours, bundle, spec.boots)}
    runs["runc"] = _run_each("runc", programs["runc"], bundle, spec.boots)
    for platform in PLATFORMS:
        peer = [*programs["runsc"], f"--platform={platform}"]
        runs[f"runsc-{platform}"] = _run_each(f"runsc {platform}", peer, bundle, spec.boots)
    config = kata.HERE / "sentry.toml"
    config.write_text(f'{kata.SETTINGS.read_text()}guest = "sentry"\npool = {kata.READY}\n')
    pool = kata.measure_pool(pyvmm, bundle, spec.boots, "sentry-pool", config)
    phases = kata_phases.measure(ours, bundle, spec.boots, kata.HERE / "sentry.log", STEPS)
    sleep = kata.make_bundle("sentry-sleep", pyvmm, ["sleep", "1000"])
    systems = {"kvm": ours, "trap": [*ours, "--platform", "trap"]}
    systems |= {f"runsc-{platform}": [*programs["runsc"], f"--platform={platform}"] for platform in PLATFORMS}
    sizes = {name: idle(name, command, sleep) for name, command in systems.items()}
    return {"run": runs, "pool": pool, "phases": phases, "idle": sizes}


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    middle = {name: statistics.median(runs) / 1e6 for name, runs in figures["run"].items()}
    runsc = min(middle[f"runsc-{platform}"] for platform in PLATFORMS)
    unit = "M instructions"
    title = "container on the Sentry: run of `true`"
    made = [compare(title, middle["pyvmm"], runsc, unit, peer_name="runsc", must=0.35)]
    made.append(compare("  against runc", middle["pyvmm"], middle["runc"], unit, peer_name="runc"))
    made += kata_phases.rows(figures["phases"])
    pooled = statistics.median(figures["pool"]) / 1e6
    title = "container on the Sentry: run of `true` from a pool"
    made.append(compare(title, pooled, middle["runc"], unit, peer_name="runc", must=0.6))
    made.append(compare("  against runsc", pooled, runsc, unit, peer_name="runsc"))
    sizes = {name: kib / 1024 for name, kib in figures["idle"].items()}
    peer = min(sizes[f"runsc-{platform}"] for platform in PLATFORMS)
    for name, most in IDLE_MOST.items():
        made.append(absolute(f"container on the Sentry: memory when idle (PSS), {name}", sizes[name], "MiB", most))
        made.append(compare("  beside runsc", sizes[name], peer, "MiB", peer_name="runsc"))
    return made
