"""The part of the benchmark in the lab: `python -m tests.bench.inside SPEC`, started by `python -m tests.bench`.

Unpacks the stage into a tmpfs and makes that the root of its mount namespace, which must be its own; then measures the
parts of SPEC and writes their figures as JSON. SPEC is a JSON file, see `Spec`. This interpreter stays the one from the
host's root, so that none of the pages of what is measured are shared with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

NEW_ROOT = "/run/bench"
OLD_ROOT = "old-root"
BUSYBOX, MODPROBE = "/run/lab/busybox", "/run/lab/modprobe"


@dataclass(frozen=True)
class Spec:
    """The parts to measure, and their inputs. The paths after `result` are in the stage, except `debian_disk`, which is
    a path on the host, and `free_disk`: that is a file on the host, and a block device for what measures.

    `boots`: for each program and kind, after one that is not counted; `turns`: of fio, with `seconds` for each job.
    """

    parts: tuple[str, ...]
    stage: str
    result: str
    pyvmm: str
    kernel: str
    initrd: str
    disk: str
    fio_disk: str
    net_disk: str
    kata_image: str
    debian_disk: str
    free_disk: str
    cmdline: str
    boots: int
    turns: int
    seconds: float
    icount: bool
    clones: int = 30


def say(text: str) -> None:
    """One line of progress."""
    print(f"    {text}", file=sys.stderr, flush=True)


def fill_stage(archive: str) -> None:
    """Unpack `archive` into a tmpfs."""
    os.makedirs(NEW_ROOT)
    mount("tmpfs", "tmpfs", NEW_ROOT, "size=70%")
    subprocess.run([BUSYBOX, "tar", "-x", "-f", archive, "-C", NEW_ROOT], check=True)


def attach_disk(file: str) -> str:
    """The block device of the host's `file`: what is cached of it is no memory of the lab's that it could not drop."""
    subprocess.run([MODPROBE, "loop"], check=True)
    subprocess.run([BUSYBOX, "losetup", "/dev/loop0", file], check=True)
    return "/dev/loop0"


def enter_stage() -> None:
    """Make the stage the root: not by chroot, in which nobody may make user namespaces."""
    for name in ("dev", "proc", "sys", "tmp", "run", "bench", OLD_ROOT):
        os.makedirs(f"{NEW_ROOT}/{name}", exist_ok=True)
    for name in ("dev", "proc", "sys"):
        subprocess.run([BUSYBOX, "mount", "-o", "rbind", f"/{name}", f"{NEW_ROOT}/{name}"], check=True)
    mount("debugfs", "debug", f"{NEW_ROOT}/sys/kernel/debug")
    mount("tracefs", "trace", f"{NEW_ROOT}/sys/kernel/tracing")
    subprocess.run([BUSYBOX, "pivot_root", NEW_ROOT, f"{NEW_ROOT}/{OLD_ROOT}"], check=True)
    os.chdir("/bench")
    subprocess.run(["/bin/busybox", "umount", "-l", f"/{OLD_ROOT}"], check=True)


def mount(kind: str, source: str, target: str, options: str = "rw") -> None:
    """mount(8) of the lab's busybox."""
    subprocess.run([BUSYBOX, "mount", "-t", kind, "-o", options, source, target], check=True)


def main(argv: list[str]) -> int:
    """Measure the parts that the file `argv[0]` lists."""
    spec = Spec(**json.loads(Path(argv[0]).read_text()))
    # Before the root changes: what is imported later would come from the stage, and share its pages.
    from tests.bench import (
        boot,
        budget,
        console,
        fio,
        fs,
        kata,
        memory,
        net,
        sentry_files,
        sentry_machines,
        sentry_net,
        sentry_restore,
        snapshots,
        vsock,
    )
    from tests.bench.child import ChildError

    measures = {"boot": boot.measure, "memory": memory.measure, "fio": fio.measure, "fio-icount": fio.measure}
    measures |= {"fs": fs.measure, "vsock": vsock.measure, "console": console.measure}
    measures |= {"debian": boot.measure_debian}
    measures |= {"net": net.measure, "net-icount": net.measure}
    measures |= {"fio-filters": fio.measure_filters, "net-filters": net.measure_filters}
    measures |= {"vsock-filters": vsock.measure_filters}
    measures |= {"fs-icount": fs.measure_instructions, "vsock-icount": vsock.measure, "kata": kata.measure}
    measures |= {"kata-pool": kata.measure_pools, "sentry-machines": sentry_machines.measure}
    measures |= {"sentry-net": sentry_net.measure, "sentry-restore": sentry_restore.measure}
    measures["sentry-files"] = sentry_files.measure
    measures |= {"snapshots": snapshots.measure, "clones": snapshots.measure_clones, "budget": budget.measure}
    result = os.open(spec.result, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    say("unpacking what is measured into a tmpfs")
    fill_stage(spec.stage)
    if "debian" in spec.parts:
        boot.carry_debian(spec.debian_disk, NEW_ROOT)
    if spec.free_disk:
        spec = replace(spec, free_disk=attach_disk(spec.free_disk))
    enter_stage()
    figures = {}
    for part in spec.parts:
        say(f"{part}:")
        try:
            figures[part] = measures[part](spec)
        except ChildError as error:  # the others are not lost for that
            say("\n".join([f"{part} failed: {error}", *getattr(error, "__notes__", ())]))
    with open(result, "w") as file:
        json.dump(figures, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
