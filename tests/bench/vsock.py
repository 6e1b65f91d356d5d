"""vsock between the host and a guest: pyvmm's unix sockets; and vhost-vsock, which is in the kernel, under both.

The programs of both sides are the same one, vsocktool; on the host it connects to a unix socket or by AF_VSOCK.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from tests.bench import boot, fio, programs
from tests.bench.child import ChildError
from tests.bench.fio import AGENT, PATIENCE, Vm
from tests.bench.row import Row, compare, median

if TYPE_CHECKING:
    from tests.bench.inside import Spec

TOOL = "/bench/vsocktool"
SOCKET = "/tmp/vm.sock"
ADDRESSES = {"pyvmm": SOCKET, "pyvmm-vhost": "54", "qemu": "55", "pyvmm-open": f"{SOCKET}.open"}
"""The address of each machine's guest, for vsocktool."""
COMPARED = "pyvmm", "pyvmm-vhost", "qemu"
SINK, SOURCE, ECHO = 5000, 5001, 5002
WRITE = 64 << 10
SERVERS = {SINK: "sink", SOURCE: "source", ECHO: "echo"}
MOVES = {f"{verb}-{n}": (verb, n) for verb in ("send", "recv") for n in (1, 8)}
"""Directions and numbers of connections: to and from the guest, by one connection and by several."""


def start(name: str, spec: Spec) -> Vm:
    """Boot the machine of program `name`, with servers in it."""
    disk, tools = f"/bench/vda-vsock-{name}", f"/bench/programs-{name}"
    shutil.copyfile(spec.disk, disk)
    shutil.copyfile("/bench/programs", tools)
    cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest(AGENT)}"
    guest = programs.Guest(spec.kernel, cmdline, disk=disk, data=tools)
    if name == "qemu":
        device = ("-device", f"vhost-vsock-device,guest-cid={ADDRESSES[name]}")
        machine = Vm(name, programs.qemu(guest, extra=device))
    else:
        where = ADDRESSES[name]
        device = ("--vsock", f"cid={where},backend=vhost" if where.isdecimal() else f"cid=3,uds={where}")
        machine = Vm(name, programs.pyvmm(spec.pyvmm, guest, extra=device))
    try:
        machine.run("tar xf /dev/vdb -C /", PATIENCE)
        for port, mode in SERVERS.items():
            machine.run(f"vsocktool serve stream {port} {mode} >/tmp/{port} 2>&1 &", PATIENCE)
            machine.run(f"while ! grep -q listening /tmp/{port}; do sleep 0.1; done", PATIENCE)
    except BaseException:
        machine.close()
        raise
    return machine


def tool(name: str, verb: str, port: int, *numbers: int) -> float:
    """Seconds that vsocktool took on the host."""
    command = [TOOL, verb, "stream", ADDRESSES[name], str(port), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    if done.returncode:
        raise ChildError(f"{name}: {' '.join(command)}: status {done.returncode}\n{done.stderr}")
    return int(done.stdout) / 1e9


def measure_one(name: str, seconds: float) -> dict[str, float]:
    """One turn: MiB/s, microseconds of a round trip, connections per second."""
    mib = max(16, round(32 * seconds))
    figures = {}
    for key, (verb, n) in MOVES.items():
        port = SINK if verb == "send" else SOURCE
        figures[key] = mib / tool(name, verb, port, n, WRITE, (mib << 20) // n)
    trips, connections = max(200, round(1000 * seconds)), max(50, round(200 * seconds))
    figures["rtt_us"] = tool(name, "rtt", ECHO, 64, trips) * 1e6 / trips
    figures["connects"] = connections / tool(name, "connects", ECHO, connections)
    return figures


def measure(spec: Spec) -> dict[str, Any]:
    """Turn by turn, so that what else the machine does hits all."""
    figures: dict[str, Any] = {name: [] for name in COMPARED}
    machines: list[Vm] = []
    try:
        for name in figures:
            machines.append(start(name, spec))
            boot.say(f"{name} is up")
        for turn in range(spec.turns + 1):
            for machine in machines if turn % 2 == 0 else reversed(machines):
                run = measure_one(machine.name, spec.seconds)
                boot.say(f"{machine.name}: " + ", ".join(f"{key} {value:.1f}" for key, value in run.items()))
                if turn:  # the first is for the caches
                    figures[machine.name].append(run)
    finally:
        for machine in machines:
            machine.close()
    return figures


def measure_filters(spec: Spec) -> dict[str, Any]:
    """What the filters of system calls cost a socket device."""

    def jobs(machine: Vm) -> dict[str, float]:
        return measure_one(machine.name, max(2.0, spec.seconds))  # less is too short to see a hundredth

    return fio.with_and_without(lambda name: start(name, spec), jobs)


def filter_rows(figures: dict[str, Any]) -> list[Row]:
    """What they cost, job by job."""
    return fio.filter_rows(figures, "vsock", less=("rtt_us",))


def rows(figures: dict[str, Any], suffix: str = "") -> list[Row]:
    """`suffix`: of the names of rows in the run that counts instructions."""
    names = {"send": "to the guest", "recv": "from the guest"}
    wanted: list[tuple[str, str, str, float, bool]] = [
        (key, f"vsock {names[verb]}, {n} connection{'s' * (n > 1)}, 64 KiB writes", "MiB/s", 1.2, True)
        for key, (verb, n) in MOVES.items()
    ]
    wanted += [
        ("rtt_us", "vsock round trip of 64 bytes", "us", 1 / 1.2, False),
        ("connects", "vsock connections", "1/s", 1.2, True),
    ]
    made = []
    for key, name, unit, aim, at_least in wanted:
        ours, vhost, theirs = (median(figures[each], key) for each in ("pyvmm", "pyvmm-vhost", "qemu"))
        made.append(compare(name + suffix, ours, theirs, unit, must=1.0, aim=aim, at_least=at_least))
        made.append(compare("  with backend=vhost", vhost, theirs, unit, at_least=at_least))
    return made


def icount_rows(figures: dict[str, Any]) -> list[Row]:
    """The same of the run that counts instructions."""
    return rows(figures, ", one CPU, instructions")
