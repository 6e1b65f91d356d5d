"""Sandboxes in machines: `python -m tests.bench.sandboxes_lab FILE starts forks` in a lab that counts instructions, and
with `files` in one with 2 CPUs, writes the figures. `--only sandboxes-files` measures one part alone.

Counted: a start from a template, and a sandbox of a pool, are compared with `crun run` of the same program and Python's
own start, a copy with `Machine.fork`. The root is a stored image, as that of most sandboxes. The peers run from memory:
the lab reads programs over 9p, and counts instructions while it waits. The library's import is not counted, nor the
first turn of each.

Timed: files and commands, compared with `podman cp` and `podman exec` on runc.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import own_lab
from tests.bench.row import Row, compare
from tests.bench.stage import libraries, python_files
from tests.lab import LabError
from tests.mounts import bind
from tools.where import ROOT

TURNS, RUNS = 5, 10
MIB = 64
LINES = 20_000
MEMORY_MIB = 256
MEMORY = f"{MEMORY_MIB}M"
RUNC, PYTHON = "/usr/sbin/runc", "/usr/bin/python3"

PACKAGES = ("/usr/lib/python3", "/usr/local/lib/python{}.{}".format(*sys.version_info))
"""Where Python looks for packages when it starts."""

Figures = dict[str, list[int]]


def first_line(command: Sequence[str]) -> int:
    """Nanoseconds from the start of a program to its first line."""
    begun = time.monotonic_ns()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        line, took = process.stdout.readline(), time.monotonic_ns() - begun
        process.stdout.read()
    if line != b"hi\n" or process.returncode:
        raise LabError(f"{command[0]} printed {line!r} and ended with {process.returncode}")
    return took


def seconds_of(work: Callable[[], object]) -> int:
    """Nanoseconds."""
    begun = time.monotonic_ns()
    work()
    return time.monotonic_ns() - begun


def turns(measure: Callable[[], int], count: int = TURNS) -> list[int]:
    """The figures of each turn but the first."""
    return [measure() for _ in range(count + 1)][1:]


def to_first_line(box: Any) -> int:
    """CLOCK_MONOTONIC in ns of the first line of a command in a sandbox."""
    seen: list[int] = []
    done = box.run("echo hi", on_stdout=lambda text: seen.append(time.monotonic_ns()))
    if done.stdout != "hi\n":
        raise LabError(f"the sandbox printed {done.stdout!r}")
    return seen[0]


def put_in_memory(folder: Path) -> None:
    """Copy the peers' programs, with all that they read, to memory, and mount the copies in their places."""
    library, extensions = python_files(PYTHON)
    programs = ["/usr/bin/crun", os.path.realpath(PYTHON)]
    folders = [each for each in (library, *PACKAGES) if os.path.isdir(each)]
    for number, path in enumerate([*programs, *sorted(libraries([*programs, *extensions])), *folders]):
        copy = folder / f"{number}-{os.path.basename(path)}"
        if os.path.isdir(path):
            shutil.copytree(path, copy, symlinks=True, ignore=shutil.ignore_patterns("test", "idlelib", "tkinter"))
        else:
            shutil.copy2(path, copy)
        bind(copy, Path(os.path.realpath(path)))


def starts(template: Any, folder: Path, rootfs: Path, where: dict[str, Any]) -> Figures:
    """`start`: a sandbox of a template to its first line; `crun` and `python`: the peer's two parts."""

    def start() -> int:
        begun = time.monotonic_ns()
        with template.start(**where) as box:
            return to_first_line(box) - begun

    bundle = folder / "bundle"
    bundle.mkdir()
    subprocess.run(["crun", "spec", f"--bundle={bundle}"], check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"args": ["sh", "-c", "echo hi"], "terminal": False}
    spec["root"] = {"path": str(rootfs), "readonly": True}
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "cgroup"]
    (bundle / "config.json").write_text(json.dumps(spec))
    crun = ["crun", f"--root={folder}/crun", "--cgroup-manager=disabled", "run", f"--bundle={bundle}", "c1"]
    return {
        "start": turns(start),
        "crun": turns(lambda: first_line(crun)),
        "python": turns(lambda: first_line([PYTHON, "-c", "print('hi')"])),
    }


def until_full(pool: Any) -> None:
    while pool.ready < pool.size:
        time.sleep(0.05)


def pooled(template: Any, where: dict[str, Any]) -> Figures:
    """`pool`: a sandbox of a pool to its first line, from the call of `take()`.

    The pool makes the next ones meanwhile, on other CPUs. This lab has one: so all are taken, and the pool is full
    again before the commands run.
    """
    from pyvmm_sandbox import SandboxPool

    found = []
    with SandboxPool(template, size=TURNS + 1, timeout=None, **where) as pool:
        taken = []
        until_full(pool)
        for _ in range(TURNS + 1):
            begun = time.monotonic_ns()
            taken.append((pool.take(), time.monotonic_ns() - begun))
        until_full(pool)
        for box, took in taken:
            begun = time.monotonic_ns()
            with box:
                found.append(took + to_first_line(box) - begun)
    return {"pool": found[1:]}


def forks(box: Any) -> Figures:
    """`fork`: a copy of a sandbox to its first line."""

    def fork() -> int:
        begun = time.monotonic_ns()
        (copy,) = box.fork()
        with copy:
            return to_first_line(copy) - begun

    return {"fork": turns(fork)}


def files(box: Any) -> Figures:
    """`write` and `read` of MIB mebibytes."""
    data = os.urandom(1 << 20) * MIB
    found = {"write": turns(lambda: seconds_of(lambda: box.files.write("/tmp/data", data)), 1)}
    if box.files.read("/tmp/data") != data:
        raise LabError("the file was read differently")
    return found | {"read": turns(lambda: seconds_of(lambda: box.files.read("/tmp/data")), 1)}


def commands(box: Any) -> Figures:
    """`run`: of true; `lines`: LINES lines as they come."""

    def lines() -> int:
        begun = time.monotonic_ns()
        with box.popen(["seq", str(LINES)]) as command:
            count = sum(event.text.count("\n") for event in command)
        if count != LINES:
            raise LabError(f"{count} lines came, not {LINES}")
        return time.monotonic_ns() - begun

    return {"run": turns(lambda: seconds_of(lambda: box.run("true", check=True)), RUNS), "lines": turns(lines, 1)}


def of_podman(folder: Path) -> Figures:
    """The same by podman on runc, in one container that sleeps."""
    from tests.guest.kata_podman import Podman

    folder.mkdir()
    podman = Podman(folder)
    source, target = folder / "data", folder / "copied"
    source.write_bytes(os.urandom(1 << 20) * MIB)

    def call(*words: str) -> int:
        return seconds_of(lambda: podman.check(*words, runtime=RUNC))

    def lines() -> int:
        command = podman.command("exec", "c1", "seq", str(LINES), runtime=RUNC)
        begun = time.monotonic_ns()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            count = sum(1 for _ in process.stdout)
        if count != LINES:
            raise LabError(f"{count} lines came, not {LINES}")
        return time.monotonic_ns() - begun

    call("run", "--detach", "--name", "c1", "--network", "none", "--init=false", "box", "sleep", "100000")
    try:
        return {
            "podman-run": turns(lambda: call("exec", "c1", "true"), RUNS),
            "podman-lines": turns(lines, 1),
            "podman-write": turns(lambda: call("cp", str(source), "c1:/tmp/data"), 1),
            "podman-read": turns(lambda: call("cp", "c1:/tmp/data", str(target)), 1),
        }
    finally:
        call("rm", "--force", "--time", "0", "c1")
        podman.close()


def of_machines() -> Figures:
    """`machine-fork`: `Machine.fork()` of a guest with as much memory and a vsock device, to its return."""
    from tools import guest
    from vmm import BootConfig, Machine, MachineConfig, MemoryConfig
    from vmm.virtio.blk import DiskConfig
    from vmm.virtio.vsock import VsockConfig

    with tempfile.TemporaryDirectory() as folder:
        config = MachineConfig(
            BootConfig(guest.kernel(), cmdline="root=/dev/vda ro quiet init=/bin/busybox -- sleep 100000"),
            memory=MemoryConfig(MEMORY_MIB << 20),
            disks=(DiskConfig(guest.rootfs(), read_only=True),),
            vsock=VsockConfig(3, f"{folder}/v.sock"),
        )
        with Machine(config) as machine:
            machine.start()
            time.sleep(5)  # of the lab's clock: the guest has booted and is idle

            def fork(number: int) -> int:
                begun = time.monotonic_ns()
                (copy,) = machine.fork(vsock=VsockConfig(3, f"{folder}/{number}.sock"))
                took = time.monotonic_ns() - begun
                copy.close()
                return took

            return {"machine-fork": [fork(number) for number in range(TURNS + 1)][1:]}


def counted(folder: Path, oci: Any, where: dict[str, Any], parts: Sequence[str]) -> Figures:
    """In a lab that counts instructions."""
    from pyvmm_kata.image_store.store import ImageStore
    from pyvmm_sandbox import Template

    (folder / "peers").mkdir()
    put_in_memory(folder / "peers")
    image = ImageStore(str(folder / "store")).add(str(oci.rootfs), "box").path
    template = Template.build(folder / "template", image, memory=MEMORY, **where)
    figures: Figures = {}
    if "starts" in parts:
        figures |= starts(template, folder, oci.rootfs, where) | pooled(template, where)
    if "forks" in parts:
        with template.start(timeout=None, **where) as box:
            figures |= forks(box)
        figures |= of_machines()
    return figures


def timed(folder: Path, oci: Any, where: dict[str, Any]) -> Figures:
    """In a lab with 2 CPUs."""
    from pyvmm_sandbox import Sandbox

    with Sandbox(str(oci.rootfs), memory=MEMORY, timeout=None, isolation="vm", **where) as box:
        figures = files(box) | commands(box)
    return figures | of_podman(folder / "podman")


def measure_here(folder: Path, *parts: str) -> Figures:
    """In the lab: ``files`` alone, or some of the others."""
    sys.path += [str(ROOT / "examples" / name) for name in ("kata", "sandbox")]
    from tests.guest.kata_tools import Oci

    (folder / "oci").mkdir()
    oci = Oci(folder / "oci")
    where = {"config": str(oci.settings), "root": str(oci.root)}
    return timed(folder, oci, where) if parts == ("files",) else counted(folder, oci, where, parts)


PARTS = ("starts", "forks", "files")
"""What can be measured alone."""


def measure(folder: Path, parts: Sequence[str] = PARTS) -> Figures:
    """The same, from outside of the labs."""
    figures: Figures = {}
    if words := [part for part in parts if part != "files"]:
        figures |= own_lab.measure("tests.bench.sandboxes_lab", folder, *words, icount=True)
        (folder / "sandboxes-lab.raw.json").rename(folder / "sandboxes-counted.raw.json")
    if "files" in parts:
        figures |= own_lab.measure("tests.bench.sandboxes_lab", folder, "files")
    return figures


SPEEDS = {
    "write": (f"{MIB} MiB written", "cp", 0.8),
    "read": (f"{MIB} MiB read", "cp", 0.8),
    "lines": (f"{LINES} lines", "exec", 0.8),
    "run": ("run of true", "exec", 1.0),
}


def rows(figures: Figures) -> list[Row]:
    """The lines of the table, of what was measured."""
    middle = {name: sorted(runs)[len(runs) // 2] / 1e6 for name, runs in figures.items()}
    unit = "ms"
    made = []
    if "start" in middle:
        peer = middle["crun"] + middle["python"]
        for name, what in (("start", "template"), ("pool", "pool")):
            title = f"sandbox: {what} to first line"
            made.append(compare(title, middle[name], peer, unit, peer_name="crun + python", must=0.5))
    if "fork" in middle:
        theirs = middle["machine-fork"]
        title = "sandbox: copy to first line"
        made.append(compare(title, middle["fork"], theirs, unit, peer_name="Machine.fork", must=1.5))
    for name, (what, command, must) in SPEEDS.items():
        if name in middle:
            ours, theirs = middle[name], middle[f"podman-{name}"]
            title = f"sandbox: {what}, speed"
            made.append(Row(title, theirs / ours, unit, ours, theirs, f"podman {command}", must, at_least=True))
    return made


if __name__ == "__main__":
    own_lab.write(measure_here, "/tmp")
