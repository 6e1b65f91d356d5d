"""fio in the guest, on a disk whose image is in the host's memory: how fast the monitors serve requests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tests.bench import boot, counters, programs
from tests.bench.child import ENVIRONMENT, Child, ChildError
from tests.bench.row import Row, absolute, compare, mean, median

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.inside import Spec

JOBS = {
    "randread-4k-qd1": ("randread", "4k", 1),
    "randwrite-4k-qd1": ("randwrite", "4k", 1),
    "randread-4k-qd32": ("randread", "4k", 32),
    "randwrite-4k-qd32": ("randwrite", "4k", 32),
    "read-1m": ("read", "1m", 8),
    "write-1m": ("write", "1m", 8),
}
MUST, AIM = 1.15, 1.4
READY, DONE = b"bench-ready", b"bench-done "
AGENT = f"""stty -echo
echo {READY.decode()}
while read -r line; do eval "$line" </dev/null; echo "{DONE.decode()}$?"; done
"""
STATS = "/bench/stats"
"""What :mod:`tests.bench.runner` writes to, with the machine's name behind it."""
PATIENCE = 180.0
"""Seconds: a lab on a busy machine can be slow to answer."""
RESTARTS = 3
"""How many hangs of machines are tolerated in all."""
FILTER_TURNS = 3

# fio's terse format, version 3: where the bandwidth in KiB/s of reads and of writes is; the requests per second follow
READ_BANDWIDTH, WRITE_BANDWIDTH = 6, 47


class Vm:
    """A machine of either program, booted, that runs commands typed on its console."""

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        self.name = name
        # With `-open` the filters of system calls hold for nothing; an image of a started Python has no library loaded
        without = {"LD_PRELOAD": programs.OPEN, "PYVMM_WARM": "0"} if name.endswith("-open") else {}
        self.child = Child(argv, ENVIRONMENT | without if without else None)
        self._mark = 0
        try:
            self.child.wait_for(READY, 300)
        except ChildError:
            self.child.close()
            raise

    def run(self, command: str, timeout: float) -> str:
        """Run a shell command in the guest and return what it wrote. Raises ChildError when it fails."""
        start = len(self.child.output)
        self.child.write(command + "\n")
        self.child.wait_for(DONE, timeout, start)
        self.child.wait_for(b"\n", PATIENCE, self.child.output.index(DONE, start))
        output, _, status = self.child.output[start:].decode(errors="replace").partition(DONE.decode())
        if status.split()[0] != "0":
            raise ChildError(f"{self.name}: in the guest: {command}: status {status}\n{output}")
        return output

    def counters(self) -> dict[str, int]:
        """KVM's counters, and what pyvmm says of exits answered in C and in Python."""
        found = counters.kvm_counters(self.child.pid)
        if self.name.startswith("pyvmm"):
            stats = f"{STATS}-{self.name}"
            size = os.path.getsize(stats) if os.path.exists(stats) else 0
            os.kill(self.child.pid, signal.SIGUSR1)
            deadline = time.monotonic() + PATIENCE
            while not os.path.exists(stats) or os.path.getsize(stats) == size:
                if time.monotonic() > deadline:
                    raise ChildError(f"no statistics\n{self.child.last_words()}")
                time.sleep(0.02)
            with open(stats) as file:
                exits = json.loads(file.read().splitlines()[-1])
            found |= {f"exits_{who}": int(exits[who]) for who in ("c", "python")}
        return found

    def fio(self, seconds: float) -> dict[str, Any]:
        """Run all jobs, one after the other, each for `seconds`; return their figures and what was counted meanwhile.

        One program runs all of them: it takes the guest longer to start fio than to run a short job.
        """
        command = ["fio", "--output-format=terse", "--terse-version=3"]
        for job, (rw, size, depth) in JOBS.items():
            command += [f"--name={job}", "--stonewall", f"--rw={rw}", f"--bs={size}", f"--iodepth={depth}"]
            command += ["--filename=/dev/vdb", "--direct=1", "--thread", "--ioengine=io_uring", "--norandommap"]
            command += ["--time_based", f"--runtime={round(seconds * 1000)}ms"]
        before = self.counters()
        output = self.run(" ".join(command), len(JOBS) * seconds + PATIENCE)
        after = self.counters()
        figures: dict[str, Any] = {"counted": {name: after[name] - before[name] for name in after}, "requests": 0}
        for line in output.splitlines():
            if line.startswith("3;fio"):
                fields = line.split(";")
                rw, size, _ = JOBS[fields[2]]
                at = READ_BANDWIDTH if "read" in rw else WRITE_BANDWIDTH
                figures[fields[2]] = {"kib_s": int(fields[at]), "iops": int(fields[at + 1])}
                figures["requests"] += int(fields[at - 1]) // (4 if size == "4k" else 1024)
        return figures

    def filtered(self) -> int:
        """How many threads of its process have a filter of system calls."""
        folder = f"/proc/{self.child.pid}/task"
        texts = [Path(folder, task, "status").read_text() for task in os.listdir(folder)]
        return sum("\nSeccomp:\t2\n" in text for text in texts)

    def close(self) -> None:
        """End it."""
        self.child.close()


def make_image(path: str, mib: int) -> None:
    """An image of `mib` MiB without holes: reading a hole costs less than reading data."""
    with open("/dev/urandom", "rb") as source:
        block = source.read(1 << 20)
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(block)


def start(name: str, spec: Spec) -> Vm:
    """Boot the machine of program `name`."""
    disk, data = f"/bench/vda-{name}", f"/bench/vdb-{name}"
    shutil.copyfile(spec.fio_disk, disk)
    make_image(data, 64 if spec.icount else 512)
    cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest(AGENT)}"
    guest = programs.Guest(spec.kernel, cmdline, disk=disk, data=data)
    if name.startswith("qemu"):
        return Vm(name, programs.qemu(guest, poll=not spec.icount, iothread=name == "qemu"))
    python = os.path.join(os.path.dirname(spec.pyvmm), "python3")
    return Vm(name, [python, "/bench/runner.py", json.dumps(asdict(guest)), f"{STATS}-{name}"])


M = TypeVar("M", bound="Measured")


class Measured(Protocol):
    """A machine that was booted."""

    def close(self) -> None:
        """End it; may be called again."""


def take_turns(
    names: Sequence[str],
    start: Callable[[str], M],
    measure: Callable[[M], dict[str, Any]],
    turns: int,
    tell: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """The figures of each program, a dictionary for each turn.

    A machine that stands still is started anew, and its turn measured again: QEMU's own guests do so now and then in
    the lab. How often is `restarts` of that turn.

    :raises ChildError: one has stood still too often
    """
    figures: dict[str, Any] = {name: [] for name in names}
    machines: dict[str, M] = {}
    left = dict.fromkeys(names, RESTARTS)
    try:
        for name in names:
            machines[name] = start(name)
            boot.say(f"{name} is up")
        for turn in range(turns):
            for name in names if turn % 2 == 0 else reversed(names):
                before = left[name]
                while True:
                    try:
                        run = measure(machines[name])
                        break
                    except ChildError as error:
                        if not left[name]:
                            raise
                        left[name] -= 1
                        boot.say(f"{name} stood still, and is started anew: {str(error).splitlines()[0]}")
                        machines[name].close()
                        machines[name] = start(name)
                figures[name].append(run | {"restarts": before - left[name]})
                boot.say(f"{name}: {tell(run)}")
    finally:
        for machine in machines.values():
            machine.close()
    return figures


def measure(spec: Spec) -> dict[str, Any]:
    """All jobs on both programs, turn by turn, so that what else the machine does hits both.

    `qemu-main` is QEMU without an iothread: is the peer the better one of the two?
    """
    return take_turns(
        ("qemu", "pyvmm", "qemu-main"),
        lambda name: start(name, spec),
        lambda machine: machine.fio(spec.seconds),
        spec.turns,
        lambda run: ", ".join(f"{job} {run[job]['iops']}/s" for job in JOBS),
    )


def measure_filters(spec: Spec) -> dict[str, Any]:
    """What the filters of system calls cost a disk: pyvmm with them, and without."""
    return with_and_without(
        lambda name: start(name, spec),
        lambda machine: {job: each["iops"] for job, each in machine.fio(spec.seconds).items() if job in JOBS},
    )


V = TypeVar("V", bound=Vm)


def with_and_without(start: Callable[[str], V], measure: Callable[[V], dict[str, Any]]) -> dict[str, Any]:
    """The figures of pyvmm, and of one whose filters of system calls hold for nothing, turn by turn.

    :raises ChildError: the one has no filters, or the other has
    """

    def checked(machine: V) -> dict[str, Any]:
        run = measure(machine)
        if bool(machine.filtered()) == machine.name.endswith("-open"):
            raise ChildError(f"{machine.name}: {machine.filtered()} threads have filters")
        return run

    return take_turns(
        ("pyvmm", "pyvmm-open"),
        start,
        checked,
        FILTER_TURNS,
        lambda run: ", ".join(f"{job} {value:.1f}" for job, value in run.items()),
    )


def filter_rows(figures: dict[str, Any], device: str, less: Sequence[str] = ()) -> list[Row]:
    """The lines of the table: of each job the median of the turns' ratios, since a turn is the same for both.

    :param less: jobs whose figure is better when it is less
    """
    made = []
    for job in figures["pyvmm"][0]:
        if job != "restarts":
            ours, bare = ([float(run[job]) for run in figures[name]] for name in ("pyvmm", "pyvmm-open"))
            ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
            at_least, name = job not in less, f"{device} {job} with filters of system calls, instructions"
            both = statistics.median(ours), statistics.median(bare)
            must = 0.97 if at_least else 1.03
            made.append(Row(name, ratio, "", *both, peer_name="without", must=must, at_least=at_least))
    return made


def _jobs(figures: dict[str, Any], peer: str = "qemu") -> list[tuple[str, str, float, float]]:
    """Of each job: name, unit, and the medians of pyvmm and the peer."""
    jobs = []
    for job in JOBS:
        unit, key, scale = ("requests/s", "iops", 1) if "4k" in job else ("MiB/s", "kib_s", 1024)
        ours, theirs = (median([run[job] for run in figures[name]], key) / scale for name in ("pyvmm", peer))
        jobs.append((job, unit, ours, theirs))
    return jobs


def restart_rows(figures: dict[str, Any]) -> list[Row]:
    """A line for each program that was started again after a hang."""
    counts = {name: sum(run.get("restarts", 0) for run in runs) for name, runs in figures.items()}
    return [absolute(f"  {name} stood still and was started anew", count) for name, count in counts.items() if count]


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    made = [
        compare(f"fio {job}", ours, theirs, unit, must=MUST, aim=AIM, at_least=True)
        for job, unit, ours, theirs in _jobs(figures)
    ]
    made.append(Row("fio, geometric mean", mean(made), at_least=True))
    main = [compare("", ours, theirs) for _, _, ours, theirs in _jobs(figures, "qemu-main")]
    made.append(Row("  geometric mean against QEMU without an iothread", mean(main), at_least=True))
    python = sum(run["counted"]["exits_python"] for run in figures["pyvmm"])
    made.append(absolute("exits answered by Python during fio", python, must=0, aim=0))
    return made + restart_rows(figures)


def icount_rows(figures: dict[str, Any]) -> list[Row]:
    """The same of the run that counts instructions."""
    made = [
        compare(
            f"fio {job}, one CPU, instructions", ours, theirs, unit + " at 1 GHz", must=MUST, aim=AIM, at_least=True
        )
        for job, unit, ours, theirs in _jobs(figures)
    ]
    made.append(Row("  geometric mean", mean(made), at_least=True))
    for key in ("exits", "mmio_exits", "io_exits"):
        per = [sum(r["counted"][key] for r in figures[n]) / sum(r["requests"] for r in figures[n]) for n in figures]
        ours, theirs = (dict(zip(figures, per, strict=True))[name] for name in ("pyvmm", "qemu"))
        made.append(compare(f"  {key.replace('_', ' ')} per request", ours, theirs))
    return made + restart_rows(figures)
