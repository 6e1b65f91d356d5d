"""Servers in containers on the Sentry that continue from a checkpoint: Debian's nginx, and Python with 64 MiB.

A figure is the time from the start of the first command to the server's first answer, which a client on the host
requests through the container's network.  *Cold* is `create` and `start`; *restored* is `restore --detach`.  As in
:mod:`tests.bench.kata`, all programs run from the stage, and one instruction is one nanosecond.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.bench import kata, sentry_net
from tests.bench.boot import say
from tests.bench.child import ENVIRONMENT, ChildError, wait_for_image
from tests.bench.row import Row, compare
from tests.sentry import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.inside import Spec

MUST = 0.1
TURNS = 3
TIMEOUT = 300.0
RETRY = 0.0005
"""Seconds after which another connection is tried: what was sent to a machine that was not there is lost."""
PARTS = ("bin", "lib64", "sbin", "lib/python3*", "lib/x86_64-linux-gnu")


class Server(NamedTuple):
    """A server.

    :ivar command: that runs it
    :ivar prepare: makes its files, in the root of the container
    :ivar answer: what it answers begins with
    """

    command: Sequence[str]
    prepare: Callable[[Path], None]
    answer: bytes


SERVERS = {
    "nginx": Server(servers.NGINX, servers.prepare_nginx, b"HTTP/1.1 200"),
    "python": Server(servers.PYTHON, lambda _: None, b"HTTP/1.0 200"),
}


def make_root(root: Path) -> None:
    """The programs of the stage, by hard links, in the root of a container."""
    for pattern in PARTS:
        for source in Path("/usr").glob(pattern):
            target = root / source.relative_to("/")
            shutil.copytree(source, target, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
    for name in ("lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")


def first_answer(address: str, expected: bytes) -> int:
    """CLOCK_MONOTONIC in ns of the first answer.  A connection that nobody has answered is given up."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            sock.settimeout(RETRY)
            try:
                sock.connect((address, servers.PORT))
                sock.settimeout(TIMEOUT)
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = sock.recv(4096)
            except OSError:
                continue
            took = time.monotonic_ns()
        if not answer.startswith(expected):
            raise ChildError(f"the server answers {answer!r}")
        return took
    raise ChildError("the server does not answer")


def _to_answer(command: Sequence[str], steps: Sequence[Sequence[str]], address: str, expected: bytes) -> int:
    wait_for_image()
    started = time.monotonic_ns()
    for step in steps:
        subprocess.run([*command, *step], check=True, stdin=-3, stdout=-3, stderr=-3, timeout=TIMEOUT, env=ENVIRONMENT)
    return first_answer(address, expected) - started


def steps(log: Path, began: int) -> list[tuple[str, int]]:
    """What a command has logged, and nanoseconds from its start to that."""
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    return [(note["msg"], round(note["monotonic"] * 1e9) - began) for note in notes]


def measure_one(name: str, number: int, command: Sequence[str], pyvmm: str, turns: int) -> dict[str, Any]:
    """Nanoseconds to the first answer, for each turn after one that is not counted: `cold`, `restored`; `steps`: those
    of another restore, whose log costs a bit."""
    server = SERVERS[name]
    address = sentry_net.make_network(name, number)
    bundle = kata.make_bundle(f"restore-{name}", pyvmm, list(server.command))
    sentry_net.wire(bundle, name)
    make_root(Path(bundle, "rootfs"))
    server.prepare(Path(bundle, "rootfs"))
    image = str(kata.HERE / f"checkpoint-{name}")
    made: dict[str, list[int]] = {"cold": [], "restored": []}
    log = kata.HERE / f"restore-{name}.log"
    debug = ["--debug", "--log", str(log), "--log-format", "json"]
    try:
        for turn in range(turns + 1):
            cold = (["create", "--bundle", bundle, name], ["start", name])
            made["cold"].append(_to_answer(command, cold, address, server.answer))
            if not turn:
                kata.run([*command, "checkpoint", "--leave-running", "--image-path", image, name])
            kata.run([*command, "delete", "--force", name])
            restore = ["restore", "--detach", "--bundle", bundle, "--image-path", image, name]
            made["restored"].append(_to_answer(command, (restore,), address, server.answer))
            kata.run([*command, "delete", "--force", name])
        wait_for_image()
        began = time.monotonic_ns()
        logged = _to_answer([*command, *debug], (restore,), address, server.answer)
        noted = [*steps(log, began), ("answer", logged)]
    finally:
        subprocess.run([*command, "delete", "--force", name], capture_output=True, timeout=TIMEOUT, env=ENVIRONMENT)
        sentry_net.remove_network(name)
    for what, times in made.items():
        say(f"{name}, {what}: {', '.join(f'{each / 1e6:.1f}' for each in times)} M instructions to an answer")
    say(f"{name}, restored: " + ", ".join(f"{step} {ns / 1e6:.1f}" for step, ns in noted))
    return {**{what: times[1:] for what, times in made.items()}, "steps": noted}


def measure(spec: Spec) -> dict[str, Any]:
    """The figures of each server."""
    kata.HERE.mkdir(exist_ok=True)
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    command = [*kata.commands(pyvmm, spec)["pyvmm"], "--isolation", "sentry"]
    turns = min(spec.boots, TURNS)
    return {name: measure_one(name, 20 + at, command, pyvmm, turns) for at, name in enumerate(SERVERS)}


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    found = []
    for name, times in figures.items():
        cold, restored = (statistics.median(times[what]) / 1e6 for what in ("cold", "restored"))
        title = f"Sentry on kvm: {name}, a checkpoint's restore to the first answer"
        found.append(compare(title, restored, cold, "M instructions", peer_name="cold", must=MUST))
    return found
