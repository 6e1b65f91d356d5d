"""What one request costs, by part: pyvmm, its peer, and the same work done on the host without a guest.

One CPU, where one instruction is one nanosecond. What a program takes to start is not part of a request: of each job of
a disk there is a short and a long run, and the difference counts.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import boot, counters, fio, fs, vsock
from tests.bench.child import ChildError
from tests.bench.memory import family
from tests.bench.row import Row, absolute, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.bench.inside import Spec

SHORT = {"4k": 256, "1m": 32}
"""Requests of the short run, by their size; the long one has LONGER times as many."""
LONGER = 9
FOLDERS = 3
FILES = FOLDERS * fs.FILES_PER_FOLDER
CREATE = "mkdir {0}; i=0; while [ $i -lt {1} ]; do : >{0}/$i; i=$((i+1)); done"
TREE_JOBS = {"create": CREATE, **{job: command.replace(fs.TREE, "{0}") for job, command in fs.TREE_JOBS.items()}}
"""{0} is the tree's directory, {1} the number of files."""
MIB = 1 << 20
SIZES = {"4k": 4096, "1m": MIB}
SOCKET_JOBS = {
    "send-1": ("send", vsock.SINK, 1, vsock.WRITE, 8 * MIB),
    "send-8": ("send", vsock.SINK, 8, vsock.WRITE, MIB),
    "recv-1": ("recv", vsock.SOURCE, 1, vsock.WRITE, 8 * MIB),
    "recv-8": ("recv", vsock.SOURCE, 8, vsock.WRITE, MIB),
    "round-trip": ("rtt", vsock.ECHO, 1, 64, 100),
}
"""What vsocktool does on the host, the port, connections, bytes of a write, and bytes (or round trips) of each."""
NATIVE = ("/bench/native-tree", "/bench/native-new")
QUICK = ("randread-4k-qd1", "randread-4k-qd32", "read-1m", "create", "unpack", "send-8", "recv-8")
"""What --quick measures."""
PARTS = ("guest", "server", "rest")
COLOURS = {"guest": "#4477aa", "server": "#ee6677", "rest": "#bbbbbb", "native": "#228833"}
COUNTS = ("exits", "irq_injections", "switches", "syscalls")
LABELS = {
    "guest": "the guest, with its exits",
    "server": "the monitor's other threads",
    "rest": "the rest of the host",
    "exits": "exits",
    "irq_injections": "interrupts",
    "switches": "switches of the monitor's threads",
    "syscalls": "system calls of the monitor",
}


def ended_children() -> int:
    """What children that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * 1e9)


class Meter:
    """Counts what the processes below `pid`, and those of `servers`, do; `vcpus` are the threads that run the guest."""

    def __init__(self, pid: int, *servers: int) -> None:
        self.pid = pid
        self.servers = servers
        self.vcpus = {int(path.read_text()) for path in counters.KVM.glob(f"{pid}-*/vcpu*/pid")}

    def threads(self) -> set[int]:
        """All threads that there are now."""
        return {thread for pid in (*family(self.pid), *self.servers) for thread in counters.threads(pid)}

    def read(self) -> dict[str, int]:
        """All counters now; only differences mean something.

        Not the clock, which jumps where nobody has work, but what the scheduler has counted for each thread.
        """
        found = {"guest": 0, "server": 0, "rest": 0, "switches": 0}
        ours = self.threads()
        for path in Path("/proc").glob("[0-9]*/task/[0-9]*/schedstat"):
            thread = int(path.parent.name)
            with contextlib.suppress(OSError):
                ran, _, times = map(int, path.read_text().split())
                found["guest" if thread in self.vcpus else "server" if thread in ours else "rest"] += ran
                found["switches"] += times if thread in ours else 0
        found["rest"] += ended_children() - int(Path("/proc/thread-self/schedstat").read_text().split()[0])
        return found | counters.kvm_counters(self.pid)

    def count(self, work: Callable[[], object]) -> dict[str, int]:
        """What `work` takes."""
        before = self.read()
        work()
        after = self.read()
        return {name: after[name] - before[name] for name in after}

    def syscalls(self, work: Callable[[], object]) -> dict[str, int]:
        """System calls during `work`, which takes longer meanwhile: all, and by number."""
        with counters.Trace() as trace:
            work()
            calls = trace.syscalls(self.threads())
        return {"syscalls": sum(calls.values()), **{f"syscall {number}": count for number, count in calls.items()}}


def jobs_of(kind: Iterable[str], spec: Spec) -> list[str]:
    """The jobs of a kind that are wanted."""
    return [job for job in kind if spec.boots > 1 or job in QUICK]


def per_request(short: dict[str, int], long: dict[str, int], requests: int) -> dict[str, float]:
    """Of `requests` more requests."""
    each = {name: (long[name] - short.get(name, 0)) / requests for name in long}
    if "guest" in each:
        each["total"] = sum(each[part] for part in PARTS)
    return each


def fio_command(job: str, path: str, longer: int = 1) -> tuple[str, int]:
    """The command of a job of fio, and its number of requests."""
    rw, size, depth = fio.JOBS[job]
    requests = SHORT[size] * longer
    words = ["fio", f"--name={job}", "--output-format=terse", "--terse-version=3", f"--rw={rw}", f"--bs={size}"]
    words += [f"--iodepth={depth}", f"--filename={path}", "--thread", "--ioengine=io_uring", "--norandommap"]
    # With a number of requests (number_ios) it ends with the file, however many are left
    words += ["--size=48m", f"--io_size={requests * SIZES[size]}"]
    words.append("--direct=1" if path.startswith("/dev") else "--direct=0")
    return " ".join(words), requests


def differ(measure: Callable[[str], dict[str, int]], job: str, path: str) -> dict[str, float]:
    """What one request of a job of fio takes, from a short and a long run."""
    (short, fewer), (long, more) = fio_command(job, path), fio_command(job, path, LONGER)
    first = measure(short)
    return per_request(first, measure(long), more - fewer)


def run_native(command: str) -> dict[str, int]:
    """What a command takes on the host."""
    before = ended_children()
    done = subprocess.run(["/bin/busybox", "sh", "-c", command], capture_output=True, text=True)
    if done.returncode:
        raise ChildError(f"{command}: status {done.returncode}\n{done.stderr}")
    return {"total": ended_children() - before}


def measure_disk(spec: Spec, name: str) -> dict[str, Any]:
    """All jobs of fio on the disk of one program."""
    machine = fio.start(name, spec)
    boot.say(f"{name} is up")
    figures: dict[str, Any] = {}
    try:
        meter = Meter(machine.child.pid)

        def run(command: str) -> str:
            return machine.run(command, 3 * fio.PATIENCE)

        run(fio_command("randread-4k-qd1", "/dev/vdb")[0])  # for the caches
        for job in jobs_of(fio.JOBS, spec):
            figures[job] = differ(lambda command: meter.count(lambda: run(command)), job, "/dev/vdb")
            calls = differ(lambda command: meter.syscalls(lambda: run(command)), job, "/dev/vdb")
            figures[job] |= calls
            boot.say(f"{name}: {job}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures[job].items()))
    finally:
        machine.close()
    return figures


@contextlib.contextmanager
def share_of(spec: Spec, name: str) -> Iterator[fs.Share]:
    """A machine with a share, and the tree's archive in the guest's memory."""
    fs.make_tree("/bench/tree.tar", FOLDERS)
    shutil.copyfile("/bench/programs", "/bench/data.tar")
    with tarfile.open("/bench/data.tar", "a") as data:
        data.add("/bench/tree.tar", "ram/tree.tar")
    folder = f"/bench/share-{name}"
    os.mkdir(folder)
    share = fs.Share(name, spec, folder, data="/bench/data.tar")
    try:
        boot.say(f"{name} is up")
        yield share
    finally:
        share.close()
        shutil.rmtree(folder)


def measure_share(spec: Spec, name: str) -> dict[str, Any]:
    """All jobs of the tree on the share of one program."""
    figures: dict[str, Any] = {}
    with share_of(spec, name) as share:
        meter = Meter(share.vm.child.pid, *share.servers())
        for turn in range(2):  # the first is for the caches, and counts system calls
            share.vm.run(f"rm -rf /mnt/new {fs.TREE}", fio.PATIENCE)
            for job in jobs_of(TREE_JOBS, spec):
                line = TREE_JOBS[job].format("/mnt/new" if job == "create" else fs.TREE, FILES)
                share.vm.run("sync; echo 3 >/proc/sys/vm/drop_caches", fio.PATIENCE)

                def run(line: str = line) -> str:
                    return share.vm.run(line, 5 * fio.PATIENCE)

                counted = meter.count(run) if turn else meter.syscalls(run)
                figures[job] = figures.get(job, {}) | per_request({}, counted, FILES)
        if name == "pyvmm":
            figures["stats"] = share.finish()
    for job in jobs_of(TREE_JOBS, spec):
        boot.say(f"{name}: {job}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures[job].items()))
    return figures


def measure_native(spec: Spec) -> dict[str, Any]:
    """The same work on the host."""
    figures: dict[str, Any] = {}
    fio.make_image("/bench/native-file", 64)
    run_native(fio_command("randread-4k-qd1", "/bench/native-file")[0])
    for job in jobs_of(fio.JOBS, spec):
        figures[job] = differ(run_native, job, "/bench/native-file")
    Path("/bench/native-file").unlink()
    os.makedirs("/ram", exist_ok=True)
    shutil.copyfile("/bench/tree.tar", "/ram/tree.tar")
    for job in jobs_of(TREE_JOBS, spec):
        figures[job] = per_request({}, run_native(TREE_JOBS[job].format(NATIVE[job == "create"], FILES)), FILES)
    boot.say("native: " + ", ".join(f"{job} {figures[job]['total']:.0f}" for job in figures))
    return figures


def measure_sockets(spec: Spec, name: str) -> dict[str, Any]:
    """Streams and round trips of the socket device of one program."""
    figures: dict[str, Any] = {}
    machine = vsock.start(name, spec)
    boot.say(f"{name} is up")
    try:
        meter = Meter(machine.child.pid)
        for job in jobs_of(SOCKET_JOBS, spec):
            verb, port, count, size, each = SOCKET_JOBS[job]
            arguments = (count, size, each) if verb != "rtt" else (size, each)
            requests = count * each // MIB if verb != "rtt" else each

            def run(verb: str = verb, port: int = port, arguments: tuple[int, ...] = arguments) -> float:
                return vsock.tool(name, verb, port, *arguments)

            run()  # for the caches
            figures[job] = per_request({}, meter.count(run), requests)
            figures[job] |= per_request({}, meter.syscalls(run), requests)
            boot.say(f"{name}: {job}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures[job].items()))
    finally:
        machine.close()
    return figures


def measure(spec: Spec) -> dict[str, Any]:
    """All requests, of all three."""
    figures: dict[str, Any] = {name: measure_disk(spec, name) for name in ("pyvmm", "qemu")}
    for name in ("pyvmm", "qemu"):
        figures[name] |= measure_share(spec, name)
    for name in ("pyvmm", "qemu"):
        figures[name] |= measure_sockets(spec, name)
    return figures | {"native": measure_native(spec)}


def rows(figures: dict[str, Any]) -> list[Row]:
    """A group of lines for each kind of request."""
    made = []
    kinds = dict.fromkeys(fio.JOBS, ("fio {}, a request", "QEMU")) | dict.fromkeys(
        TREE_JOBS, ("share: {}, a file", "virtiofsd")
    )
    kinds |= dict.fromkeys(SOCKET_JOBS, ("vsock {}, a MiB", "vhost-vsock"))
    kinds["round-trip"] = ("vsock {}", "vhost-vsock")
    for job, (what, peer) in kinds.items():
        if job not in figures["pyvmm"]:
            continue
        ours, theirs = (figures[name][job] for name in ("pyvmm", "qemu"))
        made.append(compare(what.format(job), ours["total"], theirs["total"], "instructions", peer_name=peer))
        if job in figures["native"]:
            made.append(
                compare("  against the host itself", ours["total"], figures["native"][job]["total"], peer_name="native")
            )
        for key in (*PARTS, *COUNTS):
            made.append(
                compare(f"  {LABELS[key]}", ours[key], theirs[key], peer_name=peer)
                if theirs[key]
                else absolute(f"  {LABELS[key]}", ours[key])
            )
    return made


def draw(figures: dict[str, Any], path: Path) -> str:
    """Draw the parts of each request's instructions as stacked bars; returns a line that says so, or why not."""
    try:
        import matplotlib
    except ImportError:
        return "no plot of the budget: matplotlib is not installed (pip install matplotlib)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    plot: Any = pyplot
    jobs = [job for job in figures["pyvmm"] if "total" in figures["pyvmm"][job]]
    figure, all_axes = plot.subplots(len(jobs), 1, figsize=(9, 0.75 * len(jobs) + 1))
    for job, axes in zip(jobs, all_axes, strict=True):
        names = [name for name in ("native", "qemu", "pyvmm") if job in figures[name]]
        for place, name in enumerate(names):
            start, found = 0.0, figures[name][job]
            parts = {part: found[part] for part in PARTS} if "guest" in found else {"native": found["total"]}
            for part, value in parts.items():
                axes.barh(place, value, left=start, color=COLOURS[part], height=0.8)
                start += value
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_title(job, fontsize=8, loc="left", pad=2)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [plot.Rectangle((0, 0), 1, 1, color=COLOURS[part]) for part in PARTS]
    figure.legend(handles, [LABELS[part] for part in PARTS], loc="upper center", ncols=3, fontsize=8)
    figure.supxlabel("instructions for one request, one file or one MiB", fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, dpi=140)
    plot.close(figure)
    return f"plot: {path}"
