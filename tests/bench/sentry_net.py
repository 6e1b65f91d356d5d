"""TCP between a container on the Sentry and its host, beside Debian's runsc (gVisor): a stream in each direction, and
many short connections.

Each container has a network namespace of its own, with one end of a veth pair.  The same program is the server in the
container and the client on the host, so its cost and that of the host's network are in all figures.  As in
:mod:`tests.bench.kata`, all programs run from the stage, and one instruction is one nanosecond.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import kata
from tests.bench.boot import say
from tests.bench.child import ENVIRONMENT, Child, ChildError
from tests.bench.row import Row, compare
from tests.bench.sentry_machines import PLATFORMS
from tools.where import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.inside import Spec

SOURCE = ROOT / "tests/sentry/src/exchange.c"
EXCHANGE = "/bench/exchange"
"""The program of both ends, in the stage."""
IP, PORT = "/usr/sbin/ip", "9999"
CONNECTIONS, QUICK_CONNECTIONS = 10_000, 1000
JOBS = {"put": 32 << 20, "get": 32 << 20, "connect": CONNECTIONS}
"""What the client does: a stream is `put` into the container, and one is got from it, each of so many bytes."""
WARM = {"put": 4 << 20, "get": 4 << 20, "connect": 50}
TIMEOUT = 3600.0
MUST = {"put": 1.0, "get": 1.0, "connect": 1.5}
"""Of runsc's speed."""


def _ip(*commands: str) -> None:
    for command in commands:
        subprocess.run([IP, *command.split()], check=True, env=ENVIRONMENT)


def make_network(name: str, number: int) -> str:
    """A network namespace with an interface, whose other end is here; the address in there."""
    net = f"10.9.{number}"
    _ip(
        f"netns add {name}",
        f"link add host{number} type veth peer name eth0 netns {name}",
        f"addr add {net}.1/24 dev host{number}",
        f"link set host{number} up",
        f"-n {name} addr add {net}.2/24 dev eth0",
        f"-n {name} link set eth0 up",
        f"-n {name} route add default via {net}.1",
    )
    return f"{net}.2"


def hide_settings(name: str) -> None:
    """Debian's runsc takes a namespace with /proc/sys/net/core/rmem_default for the host's, which each has by now."""
    command = f"nsenter --net=/run/netns/{name} {kata.BUSYBOX} mount -t tmpfs none /proc/sys/net/core"
    subprocess.run([kata.BUSYBOX, *command.split()], check=True, env=ENVIRONMENT)


def remove_network(name: str) -> None:
    """Remove the namespace, and its interface with it."""
    _ip(f"netns del {name}")


def wire(bundle: str, name: str) -> None:
    """A bundle's container has the interface of the namespace *name*."""
    config = Path(bundle, "config.json")
    spec = json.loads(config.read_text())
    others = [each for each in spec["linux"]["namespaces"] if each["type"] != "network"]
    spec["linux"]["namespaces"] = [*others, {"type": "network", "path": f"/run/netns/{name}"}]
    config.write_text(json.dumps(spec))


def measure_one(name: str, number: int, command: Sequence[str], pyvmm: str, jobs: dict[str, int]) -> dict[str, int]:
    """Nanoseconds of each job."""
    address = make_network(name, number)
    if name.startswith("runsc"):
        hide_settings(name)
    bundle = kata.make_bundle(f"net-{name}", pyvmm, [EXCHANGE, "serve", PORT])
    place = Path(bundle, "rootfs", EXCHANGE.lstrip("/"))
    place.parent.mkdir()
    shutil.copy(EXCHANGE, place)
    wire(bundle, name)
    try:
        with Child([*command, "run", "--bundle", bundle, name], ENVIRONMENT) as server:
            server.wait_for(b"ready", TIMEOUT)
            for job, amount in WARM.items():
                _client(job, address, amount)
            figures = {job: _client(job, address, amount) for job, amount in jobs.items()}
            say(f"{name}: " + ", ".join(f"{job} {ns / 1e6:.1f}" for job, ns in figures.items()) + " M instructions")
            subprocess.run([*command, "kill", name, "KILL"], capture_output=True, timeout=TIMEOUT, env=ENVIRONMENT)
            server.finish(TIMEOUT)
    finally:
        subprocess.run([*command, "delete", "--force", name], capture_output=True, timeout=TIMEOUT, env=ENVIRONMENT)
        remove_network(name)
    return figures


def _client(job: str, address: str, amount: int) -> int:
    done = subprocess.run(
        [EXCHANGE, job, address, PORT, str(amount)], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode:
        raise ChildError(f"{job} of {address} ended with {done.returncode}: {done.stderr}")
    return int(done.stdout)


def measure(spec: Spec) -> dict[str, Any]:
    """The figures by program, and `connections`."""
    kata.HERE.mkdir(exist_ok=True)
    pyvmm = str(Path(spec.pyvmm).with_name("pyvmm-oci"))
    programs = kata.commands(pyvmm, spec)
    runsc = [word for word in programs["runsc"] if not word.startswith("--network")]
    systems = {"sentry": [*programs["pyvmm"], "--isolation", "sentry"], "runc": programs["runc"]}
    systems |= {f"runsc-{platform}": [*runsc, f"--platform={platform}"] for platform in PLATFORMS}
    jobs = {**JOBS, "connect": CONNECTIONS if spec.boots > 1 else QUICK_CONNECTIONS}
    figures: dict[str, Any] = {
        name: measure_one(name, number, command, pyvmm, jobs)
        for number, (name, command) in enumerate(systems.items(), 1)
    }
    return {**figures, "connections": jobs["connect"]}


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    titles = {
        "put": "a stream to the container",
        "get": "a stream from it",
        "connect": f"{figures['connections']:,} short connections",
    }
    found = []
    for job, title in titles.items():
        ours, runc = (figures[name][job] / 1e6 for name in ("sentry", "runc"))
        runsc = min(figures[f"runsc-{platform}"][job] for platform in PLATFORMS) / 1e6
        unit = "M instructions, speed"
        name = f"Sentry on kvm, network: {title}"
        found.append(Row(name, runsc / ours, unit, ours, runsc, "runsc", MUST[job], at_least=True))
        found.append(compare("  in proportion to runc", ours, runc, unit, peer_name="runc"))
    return found
