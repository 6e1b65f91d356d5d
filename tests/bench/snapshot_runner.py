"""Forks and saves a machine of pyvmm's library, and measures that. Used by the snapshot rows.

`snapshot_runner.py JSON`: what to do, under `do`, and with what; writes one line of JSON to stdout. Nothing of the test
suite is imported: it runs with the installed pyvmm alone.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import time
from typing import Any

from vmm import (
    BootConfig,
    ConsoleConfig,
    DiskConfig,
    Machine,
    MachineConfig,
    MemoryConfig,
    NetConfig,
    ShareConfig,
    VsockConfig,
)

READY, DONE = b"bench-ready", b"bench-done "
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
PATIENCE = 300.0


class Console:
    """A guest's console, whose shell runs commands one after the other."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.output = b""

    def close(self) -> None:
        """Of both ends."""
        os.close(self.reader)
        os.close(self.writer)

    def wait_for(self, text: bytes, start: int = 0) -> None:
        """Wait until the guest has written *text*."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output[start:]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.reader], [], [], left)[0]:
                sys.exit(f"no {text!r} from the guest: {self.output[-1000:]!r}")
            self.output += os.read(self.reader, 65536)

    def run(self, machine: Machine, command: str) -> None:
        """Run *command* in the guest."""
        start = len(self.output)
        machine.console_input(command.encode() + b"\n")
        self.wait_for(DONE, start)
        self.wait_for(b"\n", self.output.index(DONE, start))
        if not self.output[self.output.index(DONE, start) :].startswith(DONE + b"0"):
            sys.exit(f"in the guest: {command}: {self.output[start:]!r}")


def boot(spec: dict[str, Any], console: Console, **more: Any) -> Machine:
    """Start the machine; its guest waits for commands."""
    config = MachineConfig(
        BootConfig(spec["kernel"], cmdline="=" + spec["cmdline"]),
        MemoryConfig(spec["memory"] << 20, huge_pages=spec.get("huge_pages", "auto")),
        disks=(DiskConfig(spec["disk"], read_only=True),),
        console=ConsoleConfig("fd", console.writer),
        **more,
    )
    machine = Machine(config)
    machine.start()
    console.wait_for(READY)
    return machine


def to_first_run(child: Machine) -> int:
    """CLOCK_MONOTONIC in ns of its first KVM_RUN."""
    deadline = time.monotonic() + PATIENCE
    while True:
        began = [ns for vcpu in child.vcpus if (ns := vcpu.exit_counts()["first_run_ns"])]
        if began:
            return int(min(began))
        if time.monotonic() > deadline:
            sys.exit("a child never ran")
        time.sleep(0.001)


class Pause:
    """Measures how long *machine* is paused in a block, as :attr:`ns`."""

    def __init__(self, machine: Machine) -> None:
        self.ns = 0
        pause, resume = machine.pause, machine.resume

        def stop() -> None:
            self.ns -= time.monotonic_ns()
            pause()

        def go_on() -> None:
            resume()
            self.ns += time.monotonic_ns()

        machine.pause, machine.resume = stop, go_on  # type: ignore[method-assign]


def wait_for_shell(machine: Machine) -> None:
    """Until the machine is ready for a child."""
    deadline = time.monotonic() + PATIENCE
    while not machine.prepared_forks:
        if time.monotonic() > deadline:
            sys.exit("no machine was made ahead")
        time.sleep(0.01)


def fork(spec: dict[str, Any]) -> dict[str, Any]:
    """Fork a machine with a disk, a network, a share and a vsock several times: for each fork, ns from the call to the
    child's first instruction, to the call's return, and to what the child prints first, whose shell is typed a command
    then; and ns for which the source is paused."""
    console = Console()
    machine = boot(
        spec,
        console,
        nets=(NetConfig("tap", spec["taps"][0]),),
        shares=(ShareConfig(spec["folder"], tag="share"),) if spec["share"] else (),
        vsock=VsockConfig(uds="/tmp/fork-0.sock"),
    )
    if spec["share"]:
        console.run(machine, "mkdir -p /tmp/share; mount -t virtiofs share /tmp/share; ls /tmp/share")
    runs = []
    pause = Pause(machine)
    if spec["ready"]:
        machine.prepare_forks(1)
    for number in range(spec["rounds"]):
        if spec["ready"]:
            wait_for_shell(machine)
        changes: dict[str, Any] = {
            "nets": (NetConfig("tap", spec["taps"][1]),),
            "vsock": VsockConfig(uds=f"/tmp/fork-{number + 1}.sock"),
        }
        printed = Console()
        changes["console"] = ConsoleConfig("fd", printed.writer)
        pause.ns, began = 0, time.monotonic_ns()
        (child,) = machine.fork(**changes)
        returned = time.monotonic_ns()
        child.console_input(b"echo here\n")
        printed.wait_for(b"here")
        output, first = time.monotonic_ns(), to_first_run(child)
        phases = {name: round(at * 1e9) - began for name, at in child.phases}
        times = {"first_run_ns": first, "returned_ns": returned, "output_ns": output}
        runs.append({"pause_ns": pause.ns, "phases": phases, **{name: at - began for name, at in times.items()}})
        child.close()
        printed.close()
    machine.close()
    return {"runs": runs}


def ram_kib(machine: Machine) -> int:
    """KiB of guest RAM that are resident."""
    begin, found, inside = machine.memory.host_address, 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            if header := MAPPING.match(line):
                start = int(header[1], 16)
                inside = begin <= start < begin + machine.memory.size or start <= begin < int(header[2], 16)
            elif inside and line.startswith("Rss:"):
                found += int(line.split()[1])
    return found


def pause(spec: dict[str, Any]) -> dict[str, Any]:
    """ns for which the source is paused, and ns of the first half of a fork: at the first fork, with nothing written
    since, and with `mib` written, the third time and the fifth."""
    console = Console()
    shares = (ShareConfig(spec["folder"], tag="share"),) if spec["share"] else ()
    machine = boot(spec, console, shares=shares)
    figures: dict[str, Any] = {"first_kib": ram_kib(machine)}
    still = Pause(machine)
    for name in ("first", "nothing", "written", "fourth", "fifth"):
        if name not in ("first", "nothing"):
            console.run(machine, f"yes 0123456789abcde | head -c $(({spec['mib']}<<20)) >/tmp/written")
        still.ns, began = 0, time.monotonic_ns()
        point = machine.fork_point(1)
        figures[f"{name}_ns"], figures[f"{name}_all_ns"] = still.ns, time.monotonic_ns() - began
        point.close()
    console.run(machine, "md5sum /tmp/written")
    machine.close()
    return figures


def amounts(spec: dict[str, Any]) -> dict[str, Any]:
    """The size of a snapshot when the guest has touched `touched`, and of a diff after it has written `mib`."""
    console = Console()
    machine = boot(spec | {"huge_pages": "none"}, console)
    figures: dict[str, Any] = {}
    lacking = (spec["touched"] << 10) - ram_kib(machine)
    if lacking > 0:
        console.run(machine, f"yes 0123456789abcde | head -c $(({lacking}<<10)) >/tmp/touched")
    figures["touched_kib"] = ram_kib(machine)
    machine.snapshot("/tmp/full")
    console.run(machine, f"yes 0123456789abcdf | head -c $(({spec['mib']}<<20)) >/tmp/written")
    machine.snapshot("/tmp/diff", base="/tmp/full")
    for name in ("full", "diff"):
        files = [os.stat(entry.path) for entry in os.scandir(f"/tmp/{name}")]
        figures[f"{name}_kib"] = sum(each.st_blocks for each in files) // 2
    machine.close()
    return figures


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    print(json.dumps({"fork": fork, "pause": pause, "amounts": amounts}[told["do"]](told)), flush=True)
