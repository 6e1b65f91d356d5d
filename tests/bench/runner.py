"""A machine made by pyvmm's library that prints its statistics on request. Used by the fio and net rows.

`runner.py CONFIG STATS`: CONFIG is JSON (kernel, cmdline, memory in MiB, cpus, disk, data, tap, vhost); the console is
stdin and stdout; each SIGUSR1 writes how many exits C and Python have answered as one line of JSON to the file STATS.
Nothing of the test suite is imported: it runs with the installed pyvmm alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from vmm import BootConfig, ConsoleConfig, DiskConfig, Machine, MachineConfig, MemoryConfig, NetConfig


def main(config: dict[str, str], stats_path: str) -> int:
    """Run the machine to its end."""
    disks = tuple(DiskConfig(config[name]) for name in ("disk", "data") if config[name])
    backend = "vhost" if config["vhost"] else "worker"
    machine_config = MachineConfig(
        BootConfig(config["kernel"], cmdline="=" + config["cmdline"]),
        MemoryConfig(int(config["memory"]) << 20),
        cpus=int(config["cpus"]),
        disks=disks,
        console=ConsoleConfig("fd", 1),
        nets=(NetConfig("tap", config["tap"], backend=backend),) if config["tap"] else (),
    )
    stats = os.open(stats_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with Machine(machine_config) as machine:
        # The loop answers: a signal that came just before the main thread waits would wake nobody
        asked, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

        def write_stats(_events: int) -> None:
            os.read(asked, 64)
            # Not vmm.machine.stats.collect(): what KVM counts of a vCPU waits for the vCPU to leave KVM_RUN
            counts = [vcpu.exit_counts() for vcpu in machine.vcpus]
            sums = {who: sum(sum(each[who].values()) for each in counts) for who in ("c", "python")}
            os.write(stats, json.dumps(sums).encode() + b"\n")

        def type_input(_events: int) -> None:
            data = os.read(0, 256)
            if data:
                machine.console_input(data)
            else:
                machine.loop.remove(0)

        signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        machine.loop.add(asked, write_stats)
        machine.loop.add(0, type_input)
        end = machine.run()
    print(end.kind, end.detail, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2]))
