"""The benchmark: pyvmm and Debian's QEMU side by side, in the same lab, in one run (`make bench`).

`python -m tests.bench` on the host prepares everything, starts the lab once without and once with `icount`, and runs
`tests.bench.inside` in it; it prints a table and writes JSON and a plot into build/bench/. docs/benchmarks.md says what
each row means and how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import (
    artefacts,
    budget,
    clients,
    kata_phases,
    results,
    sandboxes,
    sandboxes_lab,
    sandboxes_memory,
    sentry,
    sentry_containers,
    sentry_host,
    sentry_lab,
    sentry_memory,
    sentry_programs,
    server,
    startup,
)
from tests.bench.child import ChildError
from tests.bench.inside import Spec
from tests.bench.stage import InstallError, StageError, install
from tests.filesystems import make_image
from tests.lab import Lab, LabError
from tests.lab.terminal import Interrupted, Signals
from tools import guest
from tools.step import step

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "bench"
LAB_PARTS = {
    True: (
        "budget",
        "boot",
        "fio-icount",
        "net-icount",
        "fs-icount",
        "vsock-icount",
        "snapshots",
        "kata",
        "kata-pool",
        "sentry-machines",
        "sentry-net",
        "sentry-restore",
        "sentry-files",
        "fio-filters",
        "net-filters",
        "vsock-filters",
    ),
    False: ("memory", "fio", "net", "fs", "vsock", "console", "debian", "clones"),
}
"""What runs in the lab where one instruction is one nanosecond, and what in the other."""
CLONE_MIB, FEW_CLONES = 24, 100
"""Of the lab's memory for each clone, where they are many."""
FREE_DISK, FREE_MIB = OUTPUT / "free-disk.img", 1024
"""For caches: the start of each of ten containers has an image of 12 there, and there is a template."""
OWN: dict[str, tuple[str, Callable[[bool], dict[str, Any]]]] = {
    "sentry": (
        "system calls of the Sentry without KVM, on this machine itself",
        lambda quick: sentry.measure(OUTPUT, 1 if quick else 5, 10 if quick else 30),
    ),
    "sentry-containers": (
        "containers of the Sentry without KVM, on this machine itself",
        lambda quick: sentry_containers.measure(OUTPUT, 1 if quick else 5),
    ),
    "sentry-host": (
        "memory and CPUs of a sandbox without KVM, on this machine itself",
        lambda quick: sentry_host.measure(OUTPUT, 1 if quick else 3),
    ),
    "sandboxes": (
        "many sandboxes at a time, with machines that need no KVM",
        lambda quick: sandboxes.measure(50 if quick else sandboxes.COUNT),
    ),
    "sentry-lab": (
        "the Sentry in a machine, in a lab that counts instructions",
        lambda _: sentry_lab.measure(OUTPUT),
    ),
    "sandboxes-lab": ("sandboxes in machines, in labs of their own", lambda _: sandboxes_lab.measure(OUTPUT)),
    "sandboxes-starts": (
        "starts of sandboxes in machines, in a lab that counts instructions",
        lambda _: sandboxes_lab.measure(OUTPUT, ("starts",)),
    ),
    "sandboxes-forks": (
        "copies of sandboxes in machines, in a lab that counts instructions",
        lambda _: sandboxes_lab.measure(OUTPUT, ("forks",)),
    ),
    "sandboxes-files": (
        "files and commands of sandboxes in machines, in a lab with 2 CPUs",
        lambda _: sandboxes_lab.measure(OUTPUT, ("files",)),
    ),
    "sandboxes-memory": (
        "the memory of many sandboxes in machines, in a lab of its own",
        lambda quick: sandboxes_memory.measure(OUTPUT, 10 if quick else sandboxes_memory.COUNT),
    ),
    "sentry-programs": (
        "programs on the Sentry in a machine, in a lab that counts instructions",
        lambda _: sentry_programs.measure(OUTPUT),
    ),
    "sentry-memory": (
        "the memory of forks of programs on the Sentry, in a lab of its own",
        lambda quick: sentry_memory.measure(OUTPUT, 10 if quick else sentry_memory.COUNT),
    ),
    "server": (
        "the server of sandboxes, on this machine itself",
        lambda quick: server.measure(20 if quick else 100, 2 if quick else 10),
    ),
    "clients": (
        "E2B's client and sandboxes on the Sentry, on this machine itself",
        lambda quick: clients.measure(*((10, 50) if quick else (clients.TURNS, clients.COUNT))),
    ),
    "clients-lab": (
        "E2B's client and sandboxes in machines, in a lab of its own",
        lambda quick: clients.measure_in_lab(OUTPUT, *((3, 20) if quick else (clients.LAB_TURNS, clients.COUNT))),
    ),
}
"""What runs on this machine itself, or in a lab of its own, without a stage: its title, and what measures it."""
PARTS = ("startup", *OWN, *LAB_PARTS[True], *LAB_PARTS[False])
ON_REQUEST = (
    *("budget", "kata-pool", "sentry-containers", "sentry-files", "sentry-host", "sentry-machines", "sentry-memory"),
    *(
        "clients",
        "clients-lab",
        "sentry-net",
        "sentry-programs",
        "sentry-restore",
        "sandboxes-starts",
        "sandboxes-forks",
        "sandboxes-files",
    ),
)
"""Parts that run only when they are asked for: they explain the figures of others, are a part of these, or are new."""


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help=f"one part: {', '.join(PARTS)}; repeatable"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: to see that it works")
    parser.add_argument("--clones", type=int, metavar="N", help="how many clones of one template (30; --quick: 10)")
    parser.add_argument("--kernel", metavar="FILE", help="a vmlinux to use instead of the project's")
    parser.add_argument("--plot", default="png", choices=("png", "svg", "none"), help="what to draw (default: png)")
    return parser.parse_args(argv)


def measure_in_lab(spec: Spec) -> dict[str, Any]:
    """Run the parts of `spec` in one lab and return their figures. Raises LabError when that fails."""
    request = Path(spec.result).with_suffix(".spec")
    request.write_text(json.dumps(asdict(spec)))
    Path(spec.result).unlink(missing_ok=True)
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    memory = f"{4096 + CLONE_MIB * max(spec.clones - 50, 0)}M" if "clones" in spec.parts else "4G"
    # With two CPUs the lab's kernel ended at the 370th clone, by an int3 of its own patching of code
    cpus = 1 if "clones" in spec.parts and spec.clones > FEW_CLONES else 2
    with Lab(icount=spec.icount, cpus=cpus, memory=memory) as lab:
        # In a mount namespace of its own, whose root it changes
        status = lab.run(["/usr/bin/unshare", "--mount", python, "-m", "tests.bench.inside", str(request)], cwd=ROOT)
    if status:
        raise LabError(f"measuring {', '.join(spec.parts)} failed with status {status}")
    figures: dict[str, Any] = json.loads(Path(spec.result).read_text())
    return figures


def make_spec(parts: Sequence[str], stage: Path, pyvmm: Path, *, icount: bool, quick: bool, clones: int) -> Spec:
    """What the lab is told."""
    from vmm.boot import default_cmdline

    return Spec(
        parts=tuple(part for part in LAB_PARTS[icount] if part in parts),
        stage=str(stage),
        result=str(OUTPUT / f"lab-{'icount' if icount else 'plain'}.raw.json"),
        pyvmm=str(pyvmm),
        kernel="/bench/vmlinux",
        initrd="/bench/initrd",
        disk="/bench/disk",
        fio_disk="/bench/fio-disk",
        net_disk="/bench/net-disk",
        kata_image="/bench/kata-image",
        debian_disk=guest.debian() if "debian" in parts and not icount else "",
        free_disk=str(FREE_DISK) if "kata" in parts and icount else "",
        cmdline=default_cmdline(),
        boots=1 if quick else 5,
        turns=1 if icount or quick else 5,
        seconds=0.05 if icount else 1 if quick else 2,
        icount=icount,
        clones=clones or (10 if quick else 30),
    )


def measure(parts: Sequence[str], kernel: str | None, quick: bool, clones: int) -> dict[str, Any]:
    """Everything: the raw figures by part."""
    figures: dict[str, Any] = {}
    for part, (title, run_part) in OWN.items():
        if part in parts:
            with step(f"bench: {title}"):
                figures[part] = run_part(quick)
    if set(parts) <= set(OWN):
        return figures
    stage = OUTPUT / "stage.tar"
    try:
        with step("bench: kernel, disks, an installation of pyvmm, and the root to run from"):
            made = artefacts.make(kernel)
            pyvmm = install(OUTPUT / "env")
            if set(parts) - {"startup", *OWN}:
                artefacts.make_stage(stage, pyvmm, made, native="budget" in parts, tools="sentry-files" in parts)
            if "kata" in parts:
                make_image("ext4", FREE_DISK, FREE_MIB)
        if "startup" in parts:
            with step("bench: start-up, on this machine itself"):
                figures["startup"] = startup.measure(str(pyvmm), made.kernel, 5 if quick else 25)
        for icount, title in ((True, "in a lab that counts instructions"), (False, "in a lab with 2 CPUs")):
            spec = make_spec(parts, stage, pyvmm, icount=icount, quick=quick, clones=clones)
            if spec.parts:
                with step(f"bench: {', '.join(spec.parts)}, {title}"):
                    figures |= measure_in_lab(spec)
    finally:
        stage.unlink(missing_ok=True)
        FREE_DISK.unlink(missing_ok=True)
    return figures


def main(argv: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    options = parse(argv)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        parts = options.only or [part for part in PARTS if part not in ON_REQUEST]
        figures = measure(parts, options.kernel, options.quick, options.clones or 0)
    except (InstallError, StageError, ChildError, LabError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rows = results.rows(figures)
    path = OUTPUT / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    results.write(path, rows, figures)
    print(results.table(rows))
    print(f"raw figures: {path}   ({time.monotonic() - begin:.0f} s in all)")
    if options.plot != "none":
        if "kata" in figures:
            print(kata_phases.draw(figures["kata"], path.with_suffix(".start.svg")))
        if "budget" in figures:
            print(budget.draw(figures["budget"], path.with_suffix(f".budget.{options.plot}")))
        print(results.draw(rows, path.with_suffix("." + options.plot)))
    if failed := [part for part in parts if part not in figures]:
        print(f"bench: not measured, see above: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def end_children() -> None:
    """End what this process has started, and wait for it: a signal may come when only the kernel knows of a child."""
    for task in os.listdir("/proc/self/task"):
        for pid in map(int, Path("/proc/self/task", task, "children").read_text().split()):
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


def run(argv: list[str]) -> int:
    """As `main`, and a signal that ends it is one line and a status of 128 + its number; nothing goes on behind it."""
    try:
        with Signals():
            return main(argv)
    except Interrupted as interrupted:
        end_children()
        print(f"bench: interrupted by {interrupted}", file=sys.stderr)
        return interrupted.status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
