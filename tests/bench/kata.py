"""Containers in machines beside Debian's runc and runsc (gVisor): `true` of busybox, cold, with the same bundle.

`python -m tests.bench.kata SPEC`, in the lab, where SPEC is a JSON file: see :class:`Spec`.  It does not run from the
stage of the other parts, whose chroot a container runtime cannot be in: what is run once before anything counts is in
the page cache, and guest, bundle and states are on a tmpfs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.child import ChildError

HERE = Path("/run/katabench")
RUNSC = ("runsc", "--ignore-cgroups", "--network=none")
IDLE_S = 3.0


@dataclass(frozen=True)
class Spec:
    """Paths of the host's; *turns* of each program, after one that is not counted."""

    program: str
    kernel: str
    image: str
    result: str
    turns: int


def say(text: str) -> None:
    """One line of progress."""
    print(f"    {text}", file=sys.stderr, flush=True)


def make_bundle(path: Path, command: list[str]) -> Path:
    """A bundle with busybox."""
    from pyvmm_kata.oci.spec import default_spec

    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (path / "rootfs" / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", path / "rootfs" / "bin" / "busybox")
    for applet in ("true", "sleep"):
        (path / "rootfs" / "bin" / applet).symlink_to("busybox")
    spec = default_spec(command, terminal=False)
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"]
    (path / "config.json").write_text(json.dumps(spec))
    return path


def commands(spec: Spec) -> dict[str, list[str]]:
    """The programs, without their command."""
    settings = HERE / "kata.toml"
    settings.write_text(f'kernel = "{HERE}/vmlinux"\nimage = "{HERE}/image"\nmemory = "256M"\n')
    return {
        "pyvmm": [spec.program, "--config", str(settings), "--root", str(HERE / "pyvmm")],
        "runsc": [*RUNSC, "--root", str(HERE / "runsc")],
        "runc": ["runc", "--root", str(HERE / "runc")],
    }


def run_once(command: list[str], bundle: Path) -> float:
    """Seconds from the start of `run` to its end."""
    start = time.monotonic()
    done = subprocess.run([*command, "run", "--bundle", str(bundle), "c1"], capture_output=True, stdin=-3, timeout=300)
    seconds = time.monotonic() - start
    if done.returncode:
        words = done.stderr.decode(errors="replace")[-2000:]
        raise ChildError(f"{command[0]} ended with {done.returncode}: {words}")
    return seconds


def exec_once(command: list[str]) -> float:
    """Seconds from the start of `exec` to its end."""
    start = time.monotonic()
    subprocess.run([*command, "exec", "c1", "true"], check=True, capture_output=True, stdin=-3, timeout=300)
    return time.monotonic() - start


def memory_of(root: Path) -> int:
    """KiB (PSS) of all processes that were started for the state in *root*, or by those."""
    parents: dict[str, str] = {}
    ours: set[str] = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[name] = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1]
            if os.fsencode(root) in Path("/proc", name, "cmdline").read_bytes() and name != str(os.getpid()):
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


def start_idle(command: list[str], bundle: Path) -> None:
    """A container that sleeps."""
    create = [*command, "create", "--bundle", str(bundle), "c1"]
    subprocess.run(create, check=True, stdin=-3, stdout=-3, stderr=-3, timeout=300)
    subprocess.run([*command, "start", "c1"], check=True, stdin=-3, timeout=300)


def measure(spec: Spec) -> dict[str, Any]:
    """`run`: seconds of each turn; `exec`: the same, into a container that sleeps; `idle`: KiB of that container."""
    HERE.mkdir()
    shutil.copy(spec.kernel, HERE / "vmlinux")
    shutil.copy(spec.image, HERE / "image")
    true, sleep = make_bundle(HERE / "true", ["true"]), make_bundle(HERE / "sleep", ["sleep", "1000"])
    figures: dict[str, Any] = {}
    for name, command in commands(spec).items():
        runs = [run_once(command, true) for _ in range(spec.turns + 1)][1:]
        say(f"{name}: run of true {', '.join(f'{each * 1e3:.0f}' for each in runs)} ms")
        start_idle(command, sleep)
        try:
            execs = [exec_once(command) for _ in range(spec.turns + 1)][1:]
            time.sleep(IDLE_S)
            idle = memory_of(HERE / name)
        finally:
            subprocess.run([*command, "delete", "--force", "c1"], capture_output=True, timeout=300)
        say(f"{name}: exec {', '.join(f'{each * 1e3:.0f}' for each in execs)} ms, idle {idle / 1024:.1f} MiB")
        figures[name] = {"run": runs, "exec": execs, "idle": idle}
    return figures


def main(argv: list[str]) -> int:
    """Measure what the file `argv[0]` says."""
    spec = Spec(**json.loads(Path(argv[0]).read_text()))
    figures = measure(spec)
    Path(spec.result).write_text(json.dumps(figures))
    return 0


def write_spec(spec: Spec) -> Path:
    """Where :func:`main` finds it."""
    path = Path(spec.result).with_suffix(".spec")
    path.write_text(json.dumps(asdict(spec)))
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
