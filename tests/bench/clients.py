"""E2B's own client and ``pyvmm serve``: the time to interactive, and 500 sandboxes by 20 clients.

The time to interactive is ComputeSDK's: from the client's call that makes a sandbox to the answer of its first
command. Sandboxes are made one after another, one every STEP_S seconds, and all at once; each is killed when it has
answered, which is not counted. Here the sandboxes are on the Sentry without KVM; `--only clients-lab` has them in the
lab's machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench import own_lab
from tests.bench.row import Row, absolute
from tools.where import ROOT

TURNS, COUNT, CLIENTS = 100, 500, 20
LAB_TURNS = 20
"""A machine of the lab needs seconds for a start."""
STEP_S = 0.2
PATIENCE = 600.0
"""Seconds for one answer."""
TIMEOUT = 3600.0
SANDBOX_S = 3600
PLACE = "/var/tmp"
"""Where the roots are: on a disk, as those of users."""
LIVES_ON = (b"tests.bench", b"pyvmm_sandbox.owners")
MODES = {"sequential": "one after another", "staggered": f"one every {STEP_S * 1e3:.0f} ms", "burst": "all at once"}

Figures = dict[str, Any]


class Clients:
    """Uses one server, and keeps what went wrong.

    :param options: of E2B's client
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = {**options, "request_timeout": PATIENCE}
        self._lock = threading.Lock()
        self.errors: list[str] = []

    def use(self, number: int) -> tuple[float, float, float] | None:
        """Seconds of making, of the first command's answer, and of the end of a sandbox; None: an error."""
        from e2b import Sandbox

        begun = time.monotonic()
        try:
            box = Sandbox.create(timeout=SANDBOX_S, allow_internet_access=False, **self._options)
            made = time.monotonic()
            try:
                answer = box.commands.run(f"echo {number}").stdout
                ran = time.monotonic()
            finally:
                box.kill()
            if answer != f"{number}\n":
                raise ValueError(f"sandbox {number} printed {answer!r}")
        except Exception as error:  # whatever the client makes of it is a finding
            with self._lock:
                self.errors.append(f"{type(error).__name__}: {error}"[:500])
            return None
        return made - begun, ran - made, time.monotonic() - ran

    def run(self, count: int, threads: int, step_s: float = 0.0) -> list[tuple[float, float, float]]:
        """*count* sandboxes.

        :param threads: so many at a time
        :param step_s: each begins so long after the one before
        """
        with ThreadPoolExecutor(threads) as pool:
            begun, answers = time.monotonic(), []
            for number in range(count):
                time.sleep(max(0.0, begun + number * step_s - time.monotonic()))
                answers.append(pool.submit(self.use, number))
            return [took for each in answers if (took := each.result()) is not None]


def measure_with(clients: Clients, turns: int, count: int, left: Callable[[], list[str]]) -> Figures:
    """All parts, with one server.

    :param turns: sandboxes for the time to interactive, in each mode
    :param count: sandboxes of 20 clients
    :param left: what the sandboxes have left, when all have ended
    """
    clients.use(-1)  # the first one imports what the others find
    figures: Figures = {"turns": turns, "count": count, "clients": CLIENTS}
    for mode, threads, step_s in (("sequential", 1, 0.0), ("staggered", turns, STEP_S), ("burst", turns, 0.0)):
        figures[mode] = clients.run(turns, threads, step_s)
        tell(mode, [make + answer for make, answer, _ in figures[mode]])
    begun = time.monotonic()
    figures["many"] = clients.run(count, CLIENTS)
    figures["took"] = time.monotonic() - begun
    tell("many", [make for make, _, _ in figures["many"]])
    deadline = time.monotonic() + 60
    while (remains := left()) and time.monotonic() < deadline:
        time.sleep(0.2)  # its last processes end a moment after the answer
    for each in remains:
        os.write(2, f"    left over: {each}\n".encode())
    return {**figures, "errors": clients.errors, "left": remains}


def tell(mode: str, seconds: list[float]) -> None:
    """A line for those who wait."""
    words = f"p50 {statistics.median(seconds) * 1e3:.0f} ms" if seconds else "no answer"
    os.write(2, f"    {mode}: {len(seconds)} sandboxes, {words}; load {os.getloadavg()[0]:.1f}\n".encode())


def processes_of(place: str) -> list[str]:
    """The command lines that name this folder, but those of this program and of the server's own watcher."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if place.encode() in line and not any(each in line for each in LIVES_ON):
                found.append(line.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def measure_here(place: str, turns: int, count: int) -> Figures:
    """With sandboxes on the Sentry, in namespaces of networks and mounts of its own."""
    from tests.server import sentry_server

    def left() -> list[str]:
        folders = [*Path(place, "state").iterdir(), *Path(place, "server/bundles").iterdir()]
        return [str(each) for each in folders] + processes_of(place)

    with sentry_server.serving("--network", "none") as (_, options):
        return measure_with(Clients(options), turns, count, left)


def measure(turns: int = TURNS, count: int = COUNT) -> Figures:
    """The same, from outside of the namespaces.

    :raises subprocess.CalledProcessError: it fails, which it prints
    """
    from tests.sentry.small_root import make

    packages = ("", *(f"examples/{name}" for name in ("kata", "sandbox", "sentry", "server")))
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="pyvmm-bench-") as folder:
        (rootfs := Path(folder, "rootfs")).mkdir()
        make(rootfs)
        result = Path(folder, "figures.json")
        (place := Path(folder, "place")).mkdir()
        words = [str(rootfs), str(place), "here", str(result), str(turns), str(count)]
        subprocess.run(
            ["unshare", "--net", "--mount", sys.executable, "-m", "tests.bench.clients", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            env={
                **os.environ,
                "TMPDIR": str(place),
                "XDG_RUNTIME_DIR": str(place),
                "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in packages),
            },
            timeout=TIMEOUT,
            check=True,
        )
        figures: Figures = json.loads(result.read_text())
        return figures


def measure_machines_here(folder: Path, turns: str, count: str) -> Figures:
    """In the lab: the sandboxes are machines of a template."""
    sys.path += [str(ROOT / "examples" / name) for name in ("kata", "sandbox")]
    from pyvmm_sandbox import Template
    from tests.guest.kata_tools import Oci
    from tests.guest.test_server import Server

    oci = Oci(folder)
    state = oci.folder / "state"
    Template.build(folder / "base", str(oci.rootfs), memory="96M", config=str(oci.settings), root=str(state))
    server = Server(oci, "--template", f"base={folder}/base")
    server.start()
    try:
        return measure_with(Clients(server.client), int(turns), int(count), lambda: os.listdir(state))
    finally:
        server.stop()


def measure_in_lab(folder: Path, turns: int, count: int) -> Figures:
    """The same with machines of the lab, from outside of it."""
    figures: Figures = own_lab.measure("tests.bench.clients", folder, str(turns), str(count), memory="10G")
    return figures


def rows(figures: Figures, what: str) -> list[Row]:
    """The lines of the table.

    :param what: the sandboxes are of this kind
    """
    title = f"E2B's client, {figures['count']} {what} by {figures['clients']} threads"
    found = [
        absolute(f"{title}: errors", len(figures["errors"]), must=0),
        absolute(f"{title}: left over (folders, processes)", len(figures["left"]), must=0),
        absolute(f"{title}: a second", len(figures["many"]) / figures["took"], "1/s"),
    ]
    steps = zip(("to make", "to run echo", "to end"), zip(*figures["many"], strict=True), strict=True)
    for name, column in steps:
        found += _percentiles(f"{title}: {name}", column)
    for mode, words in MODES.items():
        interactive = [make + answer for make, answer, _ in figures[mode]]
        found += _percentiles(f"time to interactive, {figures['turns']} {what} {words}", interactive)
    return found


def _percentiles(title: str, seconds: Sequence[float]) -> list[Row]:
    parts = statistics.quantiles(seconds, n=100, method="inclusive")
    return [absolute(f"{title}, p{percent}", 1e3 * parts[percent - 1], "ms") for percent in (50, 99)]


if __name__ == "__main__":
    if sys.argv[3:4] == ["here"]:
        Path(sys.argv[4]).write_text(json.dumps(measure_here(sys.argv[2], *map(int, sys.argv[5:7]))))
    else:
        own_lab.write(measure_machines_here, "/tmp")
