"""iperf3 and round trips between the guest and the host, over a tap device: how fast the monitors move frames."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import struct
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tests.bench import boot, fio, programs
from tests.bench.child import Child, ChildError
from tests.bench.fio import AGENT, STATS, Vm
from tests.bench.row import Row, absolute, compare, mean, median

if TYPE_CHECKING:
    from tests.bench.inside import Spec

IPERF = "/usr/bin/iperf3"
BUSYBOX = "/bin/busybox"
JOBS = {"to-host": "", "to-guest": "-R"}
ROUND_TRIP = "round-trip"
PAYLOAD = 64 - 8
"""Bytes behind the header of an ICMP message of 64 bytes."""
PATIENCE = 120.0
NETWORKS = {
    "pyvmm": "10.8.1",
    "qemu": "10.8.2",
    "pyvmm-vhost": "10.8.3",
    "qemu-vhost": "10.8.4",
    "pyvmm-open": "10.8.5",
}
TAPS = {name: f"tap-{name}" for name in NETWORKS}

# linux/if_tun.h
TUNSETIFF, TUNSETPERSIST = 0x4004_54CA, 0x4004_54CB
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000


def make_tap(name: str, network: str) -> None:
    """A tap device that stays, with the first address of its network."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tun, TUNSETPERSIST, 1)
    os.close(tun)
    for command in (f"ip addr add {network}.1/24 dev {name}", f"ip link set {name} up"):
        with Child([BUSYBOX, *command.split()]) as child:
            assert child.finish(PATIENCE) == 0, child.last_words()


class NetVm(Vm):
    """A machine with a network card, and the jobs that measure it."""

    def __init__(self, name: str, spec: Spec) -> None:
        self.network = NETWORKS[name]
        tap = TAPS[name]
        disk = f"/bench/vda-net-{name}"
        shutil.copyfile(spec.net_disk, disk)
        cmdline = f"{spec.cmdline} root=/dev/vda rw {boot.run_in_guest(AGENT)}"
        guest = programs.Guest(spec.kernel, cmdline, disk=disk, tap=tap, vhost=name.endswith("-vhost"))
        if name.startswith("qemu"):
            argv = programs.qemu(guest, iothread=False)
        else:
            python = os.path.join(os.path.dirname(spec.pyvmm), "python3")
            argv = [python, "/bench/runner.py", json.dumps(asdict(guest)), f"{STATS}-{name}"]
        super().__init__(name, argv)
        self.run(f"ip addr add {self.network}.2/24 dev eth0 && ip link set lo up && ip link set eth0 up", PATIENCE)

    def iperf(self, seconds: float, direction: str) -> float:
        """MiB/s of one TCP connection, as the receiver counted."""
        with Child([IPERF, "-s", "-1", "-B", f"{self.network}.1", "--forceflush"]) as server:
            server.wait_for(b"listening", PATIENCE)
            # A time, not an amount: with `-n` and without reports in between, iperf3 (3.18) never ends. Its first
            # thread waits without a timeout, and the one that has sent all there is to send turns round and round.
            command = f"iperf3 -c {self.network}.1 -f k -i 0 -t {max(1, round(seconds))} {direction}"
            try:
                output = self.run(command, PATIENCE + 60 * seconds)
            except ChildError as error:
                error.add_note(f"the server:\n{server.last_words()}")
                raise
            server.finish(PATIENCE)
        found = re.search(r"([\d.]+) Kbits/sec\s+receiver", output)
        assert found, output
        return float(found[1]) * 1000 / 8 / (1 << 20)

    def round_trips(self, seconds: float) -> float:
        """Messages of 64 bytes that the guest's kernel sends back, one after the other: how many a second."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        sock.settimeout(PATIENCE)
        sock.connect((f"{self.network}.2", 0))
        done, began = 0, time.monotonic()
        with sock:
            while done < 20 or time.monotonic() - began < seconds:
                sock.send(_echo(done & 0xFFFF))
                while True:
                    try:
                        answer = sock.recv(256)
                    except TimeoutError:
                        raise ChildError(f"{self.name}: no answer to an echo request") from None
                    if answer[20] == 0 and answer[26:28] == struct.pack(">H", done & 0xFFFF):
                        break
                done += 1
        return done / (time.monotonic() - began)

    def measure(self, seconds: float) -> dict[str, Any]:
        """All figures once, and what was counted meanwhile."""
        before = self.counters()
        figures: dict[str, Any] = {job: self.iperf(seconds, direction) for job, direction in JOBS.items()}
        figures[ROUND_TRIP] = self.round_trips(seconds)
        after = self.counters()
        return figures | {"counted": {name: after[name] - before[name] for name in after}}


def _echo(sequence: int) -> bytes:
    """An echo request with its checksum."""
    body = struct.pack(">HH", 7, sequence) + bytes(PAYLOAD)
    total = 0x0800 + sum(struct.unpack(f">{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBH", 8, 0, ~(total + (total >> 16)) & 0xFFFF) + body


def start(name: str, spec: Spec) -> NetVm:
    """Boot the machine of program `name`, with a tap device."""
    with suppress(FileNotFoundError):
        os.unlink(f"{STATS}-{name}")
    if not os.path.exists(f"/sys/class/net/{TAPS[name]}"):
        make_tap(TAPS[name], NETWORKS[name])
    machine = NetVm(name, spec)
    machine.round_trips(0)  # the first answer waits for addresses
    return machine


def measure(spec: Spec) -> dict[str, Any]:
    """Both programs, turn by turn, so that what else the machine does hits both; each without vhost and with it."""
    return fio.take_turns(
        ("qemu", "pyvmm", "qemu-vhost", "pyvmm-vhost"),
        lambda name: start(name, spec),
        lambda machine: machine.measure(spec.seconds),
        spec.turns,
        lambda run: ", ".join(f"{job} {run[job]:.0f}" for job in (*JOBS, ROUND_TRIP)),
    )


def rows(figures: dict[str, Any], suffix: str = "") -> list[Row]:
    """The lines of the table."""
    made, vhost = [], []
    unit = " at 1 GHz" if suffix else ""
    for job in (*JOBS, ROUND_TRIP):
        ours, theirs = (median(figures[name], job) for name in ("pyvmm", "qemu"))
        label = "net 64-byte round trips" if job == ROUND_TRIP else f"net iperf3 {job}"
        what = ("trips/s" if job == ROUND_TRIP else "MiB/s") + unit
        made.append(compare(label + suffix, ours, theirs, what, must=1.3, at_least=True))
        ours, theirs = (median(figures[name], job) for name in ("pyvmm-vhost", "qemu-vhost"))
        vhost.append(compare(f"{label} with vhost{suffix}", ours, theirs, what, must=1.0, at_least=True))
    made.append(Row("  net, geometric mean", mean(made), at_least=True))
    made += vhost
    python = sum(run["counted"]["exits_python"] for name in ("pyvmm", "pyvmm-vhost") for run in figures[name])
    made.append(absolute("  exits answered by Python meanwhile", python, must=0))
    return made + fio.restart_rows(figures)


def icount_rows(figures: dict[str, Any]) -> list[Row]:
    """The same of the run that counts instructions."""
    return rows(figures, ", one CPU, instructions")


def measure_filters(spec: Spec) -> dict[str, Any]:
    """What the filters of system calls cost a network, for which each round trip is two frames and a wait."""

    def jobs(machine: NetVm) -> dict[str, Any]:
        return {ROUND_TRIP: machine.round_trips(spec.seconds * 4)}

    return fio.with_and_without(lambda name: start(name, spec), jobs)


def filter_rows(figures: dict[str, Any]) -> list[Row]:
    """What they cost, job by job."""
    return fio.filter_rows(figures, "net")
