"""Many sandboxes at a time, on this machine itself: the library and its processes, with machines that need no KVM.

The machines are those of tests, which run their programs on this host: the figures are of everything but a guest.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.row import Row, absolute
from tests.sandbox.fake_machines import environment

COUNT, THREADS = 500, 20
SECONDS = 1800
PROGRAM = r"""
import json, os, sys, threading, time
from pathlib import Path
from tests.sandbox.fake_machines import fake_machines, options, prepare
place, count, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
prepare(place)
fake_machines()
from pyvmm_sandbox import Sandbox
def use(number):
    begun = time.monotonic()
    with Sandbox(str(place / "rootfs"), **options(place)) as box:
        made = time.monotonic()
        assert box.run(f"echo {number}").stdout == f"{number}\n"
        ran = time.monotonic()
    return made - begun, ran - made, time.monotonic() - ran
def state():
    return len(os.listdir("/proc/self/fd")), threading.active_count()
use(-1)
before = state()
numbers, lock, seconds, errors = iter(range(count)), threading.Lock(), [], []
def work():
    while True:
        with lock:
            number = next(numbers, None)
        if number is None:
            return
        try:
            seconds.append(use(number))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
begun = time.monotonic()
workers = [threading.Thread(target=work) for _ in range(threads)]
for each in workers: each.start()
for each in workers: each.join()
took = time.monotonic() - begun
left = [name for name in os.listdir(place) if name.startswith("pyvmm-")] + os.listdir(place / "state")
def children():
    return sum(len(Path(task, "children").read_text().split()) for task in Path("/proc/self/task").iterdir())
watchers = 1  # it removes what this process leaves at its end
after = state()
for _ in range(20):  # a machine's process ends a moment after its sandbox, and the next removal finds that
    if children() == watchers:
        break
    use(-1)
print(json.dumps({
    "seconds": seconds, "errors": errors, "took": took, "left": left, "descriptors": after[0] - before[0],
    "threads": after[1] - before[1], "processes": children() - watchers,
}))
"""


def measure(count: int = COUNT, threads: int = THREADS) -> dict[str, Any]:
    """Make, use and end sandboxes: seconds of each step, and what is left afterwards.

    :raises subprocess.CalledProcessError: the program ends with an error
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-c", PROGRAM, folder, str(count), str(threads)]
        done = subprocess.run(
            command, env=environment(Path(folder)), stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=True
        )
    figures: dict[str, Any] = json.loads(done.stdout)
    return {**figures, "count": count, "by": threads}


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    title = f"{figures['count']} sandboxes by {figures['by']} threads"
    leaks = len(figures["left"]) + sum(max(figures[name], 0) for name in ("descriptors", "threads", "processes"))
    found = [
        absolute(f"{title}: errors", len(figures["errors"]), must=0),
        absolute(f"{title}: left over (files, descriptors, threads, processes)", leaks, must=0),
        absolute(f"{title}: a second", len(figures["seconds"]) / figures["took"], "1/s"),
    ]
    for name, column in zip(("to make", "to run echo", "to end"), zip(*figures["seconds"], strict=True), strict=True):
        parts = statistics.quantiles(column, n=100, method="inclusive")
        for percent in (50, 99):
            found.append(absolute(f"{title}: {name}, p{percent}", 1e3 * parts[percent - 1], "ms"))
    return found
