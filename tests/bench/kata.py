"""Containers in machines of their own beside Debian's runc and runsc (gVisor), from the same bundles.

All that runs is in the stage.  Times are from the start of a command to its end, where one instruction is one
nanosecond.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.boot import say
from tests.bench.child import Child, ChildError
from tests.bench.row import Row, absolute, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.inside import Spec

HERE = Path("/bench/kata")
RUNSC = ("/usr/bin/runsc", "--ignore-cgroups", "--network=none")
RUNC = "/usr/sbin/runc"
BUSYBOX = "/bin/busybox"
IDLE_S = 3.0
TIMEOUT = 300.0


def run(argv: Sequence[str]) -> int:
    """Nanoseconds from the start of a program to its end. ChildError when it fails."""
    with Child(argv) as child:
        if child.finish(TIMEOUT):
            raise ChildError(f"ended with {child.status}\n{child.last_words()}")
        return time.monotonic_ns() - child.started


def make_bundle(name: str, pyvmm: str, command: list[str]) -> str:
    """A bundle with busybox; its folder."""
    path = HERE / name
    for folder in ("bin", "dev", "proc", "sys", "tmp"):
        (path / "rootfs" / folder).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "rootfs" / "bin" / "busybox")
    for applet in ("true", "sleep"):
        (path / "rootfs" / "bin" / applet).symlink_to("busybox")
    run([pyvmm, "spec", "--bundle", str(path)])
    config = path / "config.json"
    spec = json.loads(config.read_text())
    spec["process"] |= {"args": command, "terminal": False}
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"]
    config.write_text(json.dumps(spec))
    return str(path)


def commands(pyvmm: str, spec: Spec) -> dict[str, list[str]]:
    """The programs, without their command."""
    settings = HERE / "kata.toml"
    settings.write_text(f'kernel = "{spec.kernel}"\nimage = "{spec.kata_image}"\nmemory = "256M"\n')
    return {
        "pyvmm": [pyvmm, "--config", str(settings), "--root", str(HERE / "pyvmm")],
        "runsc": [*RUNSC, "--root", str(HERE / "runsc")],
        "runc": [RUNC, "--root", str(HERE / "runc")],
    }


def memory_of(root: str) -> int:
    """KiB (PSS) of all processes that were started for the state in *root*, or by those."""
    parents: dict[str, str] = {}
    ours: set[str] = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[name] = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]
            if os.fsencode(root) in Path("/proc", name, "cmdline").read_bytes():
                ours.add(name)
        except OSError:
            continue
    while more := {name for name, parent in parents.items() if parent in ours} - ours:
        ours |= more
    total = 0
    for name in ours:
        try:
            lines = Path("/proc", name, "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def measure_one(name: str, command: list[str], bundles: dict[str, str], turns: int) -> dict[str, Any]:
    """`run`, `exec`: nanoseconds of each turn; `idle`: KiB of the container that sleeps."""
    runs = [run([*command, "run", "--bundle", bundles["true"], "c1"]) for _ in range(turns + 1)][1:]
    say(f"{name}: run of true {', '.join(f'{each / 1e6:.1f}' for each in runs)} M instructions")
    # Its streams must not be pipes of ours: they would be open for as long as the container runs
    create = [*command, "create", "--bundle", bundles["sleep"], "c1"]
    subprocess.run(create, check=True, stdin=-3, stdout=-3, stderr=-3, timeout=TIMEOUT)
    try:
        run([*command, "start", "c1"])
        execs = [run([*command, "exec", "c1", "true"]) for _ in range(turns + 1)][1:]
        time.sleep(IDLE_S)
        idle = memory_of(command[command.index("--root") + 1])
    finally:
        subprocess.run([*command, "delete", "--force", "c1"], capture_output=True, timeout=TIMEOUT)
    say(f"{name}: exec {', '.join(f'{each / 1e6:.1f}' for each in execs)} M instructions, idle {idle / 1024:.1f} MiB")
    return {"run": runs, "exec": execs, "idle": idle}


def measure(spec: Spec) -> dict[str, Any]:
    """Of each program what :func:`measure_one` says."""
    HERE.mkdir()
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    bundles = {"true": make_bundle("true", pyvmm, ["true"]), "sleep": make_bundle("sleep", pyvmm, ["sleep", "1000"])}
    return {name: measure_one(name, command, bundles, spec.boots) for name, command in commands(pyvmm, spec).items()}


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = []
    middle = {
        who: {key: statistics.median(each[key]) / 1e6 for key in ("run", "exec")} for who, each in figures.items()
    }
    unit = "M instructions"
    for key, name, must, aim in (("run", "container: run of `true`", 2.5, 1.5), ("exec", "container: exec", 1.0, 0.5)):
        ours, runsc, runc = (middle[who][key] for who in ("pyvmm", "runsc", "runc"))
        made.append(compare(name, ours, runsc, unit, peer_name="runsc", must=must, aim=aim))
        made.append(compare("  against runc", ours, runc, unit, peer_name="runc"))
    ours, runsc = (figures[who]["idle"] / 1024 for who in ("pyvmm", "runsc"))
    made.append(compare("container: memory when idle", ours, runsc, "MiB", peer_name="runsc", must=3.0))
    made.append(absolute("container: memory when idle, absolute", ours, "MiB", 64, 32))
    return made
