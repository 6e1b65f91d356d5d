"""The Sentry without KVM: what system calls cost on its platforms and on gVisor's, on this machine itself.

gVisor is Debian's `runsc`; each row is compared with the better of its platforms systrap and ptrace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.child import ChildError
from tests.bench.row import Row, absolute, compare, mean, median

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "sentry" / "src" / "costs.c"
RUNSC = ("runsc", "--rootless", "--network=none", "--ignore-cgroups")


def systems(folder: Path) -> dict[str, list[str]]:
    """The command that runs a program on each system: natively, on the Sentry, and on gVisor if it is installed."""
    sys.path.append(str(ROOT / "examples" / "sentry"))
    from pyvmm_sentry import program

    found = {"native": [], "trap": [str(program.trap()), "--"], "ptrace": [str(program.ptrace()), "--"]}
    if shutil.which("runsc"):
        for platform in ("systrap", "ptrace"):
            found[f"runsc-{platform}"] = [*RUNSC, f"--platform={platform}", f"--root={folder}", "do"]
    return found


def run(command: list[str]) -> dict[str, float]:
    """Nanoseconds by the name of what was measured."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise ChildError(f"{command[0]} ended with status {done.returncode}\n{done.stderr}")
    return {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}


def measure(folder: Path, repeat: int, turns: int) -> dict[str, Any]:
    """Each system `repeat` times, turn by turn; in each run, the least of `turns`."""
    binary = folder / "costs"
    subprocess.run(["gcc", "-O1", "-static", "-o", str(binary), str(SOURCE)], check=True)
    found = systems(folder)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    for _ in range(repeat):
        for name, head in found.items():
            figures[name].append(run([*head, str(binary), str(turns)]))
    text = ", ".join(f"{name} {median(runs, 'getpid') / 1e3:.2f}" for name, runs in figures.items())
    os.write(2, f"    getpid, us: {text}\n".encode())
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    trap, peers = figures["trap"], [runs for system, runs in figures.items() if system.startswith("runsc-")]
    if not peers:
        return [absolute(f"Sentry on trap: {name}", median(trap, name) / 1e3, "us") for name in trap[0]]
    found = []
    for name in trap[0]:
        title, best = f"Sentry on trap: {name}", min(median(peer, name) for peer in peers)
        found.append(compare(title, median(trap, name) / 1e3, best / 1e3, "us", peer_name="runsc", must=1.0))
    return [*found, Row("Sentry on trap: geometric mean", mean(found), must=0.7)]
