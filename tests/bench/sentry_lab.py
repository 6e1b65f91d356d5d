"""The Sentry in a machine, in the lab where one instruction is one nanosecond: `python -m tests.bench.sentry_lab FILE`
there writes the figures.

System calls are compared with gVisor's `runsc`, the better of its platforms without KVM, and with Linux in a machine:
the program `costs` is the first program of both machines. A machine's start is measured from its first instruction to
the first output of its program.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import own_lab, sentry, sentry_forks
from tests.bench.row import Row, compare, mean
from tests.lab import LabError
from tools import guest
from tools.where import PYVMM, ROOT

MUST = {
    "getpid": 0.05,
    "read-64": 0.1,
    "pwrite-4k": 0.15,
    "pread-4k": 0.15,
    "stat": 0.15,
    "open-close": 0.2,
    "map-touch": 0.3,
    "ping-pong": 0.15,
    "fork": 0.15,
    "exec": 0.25,
}
MEAN, START, START_AIM = 0.2, 0.15, 0.05
TURNS = 10
_ROW = re.compile(r"^([a-z0-9-]+) (\d+)\r?$", re.MULTILINE)


def pack(program: Path, folder: Path) -> Path:
    """An initramfs for Linux with a static program as its init."""
    root = folder / "linux"
    (root / "tmp").mkdir(parents=True)
    (root / "dev").mkdir()
    (root / "init").write_bytes(program.read_bytes())
    (root / "init").chmod(0o755)
    for name, minor in (("console", 1), ("zero", 5)):
        os.mknod(root / "dev" / name, 0o20600, os.makedev(5 if name == "console" else 1, minor))
    from pyvmm_sentry import archive

    with open(folder / "linux.cpio", "wb") as out:
        archive.pack(root, out)
    return folder / "linux.cpio"


def machine(
    kernel: str, initrd: Path | None, *words: str, cmdline: str = "", options: Sequence[str] = ()
) -> tuple[str, int, dict[str, Any]]:
    """Run a program in a machine: what it prints, when it began to (ns of the monotonic clock), and the statistics."""
    command = [PYVMM, "boot", "--kernel", kernel, "--cmdline", f"quiet panic=-1 {cmdline}", "--json", *options]
    command += [] if initrd is None else ["--initrd", str(initrd)]
    with subprocess.Popen(
        [*command, "--stats", "--", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        first = os.read(process.stdout.fileno(), 1)
        began = time.monotonic_ns()
        text = (first + process.stdout.read()).decode(errors="replace")
        events = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith(b"{")]
    return text, began, next(event["stats"] for event in events if "stats" in event)


def calls(text: str) -> dict[str, float]:
    """Nanoseconds by the name of what was measured."""
    found = {name: float(value) for name, value in _ROW.findall(text)}
    if set(found) != set(MUST):
        raise LabError(f"not what costs.c prints: {text!r}")
    return found


def start(kernel: str, initrd: Path, *words: str) -> float:
    """From the machine's first instruction to its program's first output: ns, the least of three."""
    found = []
    for _ in range(3):
        _, began, stats = machine(kernel, initrd, *words)
        found.append(float(began - (stats["began"] + stats["phases"]["first-run"]) * 1e9))
    return min(found)


def measure_here(folder: Path) -> dict[str, Any]:
    """In the lab."""
    sys.path.append(str(ROOT / "examples" / "sentry"))
    from pyvmm_sentry import program

    costs = folder / "costs"
    subprocess.run(["gcc", "-O1", "-static", "-o", str(costs), str(sentry.SOURCE)], check=True)
    linux, kernel = guest.kernel(), str(program.kernel())
    initrd = pack(costs, folder)
    figures: dict[str, Any] = {
        "kvm": calls(machine(kernel, costs, "/program", str(TURNS))[0]),
        "linux": calls(machine(linux, initrd, str(TURNS))[0]),
        "start": {"kvm": start(kernel, costs, "/program", "1"), "linux": start(linux, initrd, "1")},
        "forks": sentry_forks.measure_here(folder),
    }
    for platform in ("systrap", "ptrace"):
        command = [*sentry.RUNSC, f"--platform={platform}", f"--root={folder}", "do", str(costs), str(TURNS)]
        figures[f"runsc-{platform}"] = sentry.run(command)
    return figures


def measure(folder: Path) -> dict[str, Any]:
    """The same, from outside of the lab."""
    figures: dict[str, Any] = own_lab.measure("tests.bench.sentry_lab", folder, icount=True)
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    ours, peers = figures["kvm"], [figures[name] for name in figures if name.startswith("runsc-")]
    found = []
    for name, must in MUST.items():
        best = min(peer[name] for peer in peers)
        found.append(compare(f"Sentry on kvm: {name}", ours[name], best, "instr", peer_name="runsc", must=must))
    found.append(Row("Sentry on kvm: geometric mean", mean(found), must=MEAN))
    for name in MUST:
        title = f"Sentry on kvm: {name}, beside Linux"
        found.append(compare(title, ours[name], figures["linux"][name], "instr", peer_name="Linux guest"))
    begin = figures["start"]
    title = "Sentry on kvm: start of the machine to the program"
    return [
        *found,
        compare(title, begin["kvm"], begin["linux"], "instr", peer_name="Linux guest", must=START, aim=START_AIM),
        *sentry_forks.rows(figures["forks"]),
    ]


if __name__ == "__main__":
    own_lab.write(measure_here, "/run")
