"""``pyvmm restore``: a machine that continues from a snapshot."""

from __future__ import annotations

from vmm.cli.boot import (
    CGROUP,
    CONTROL,
    DEVICE_OPTIONS,
    JAIL,
    Messages,
    Run,
    devices_from,
    open_to_shares,
    run_machine,
    take_limits,
)
from vmm.cli.options import Option, parse_fast
from vmm.cli.options import parser as make_parser
from vmm.cli.signals import Signals, exit_at_once
from vmm.processes.jail import enter as jail
from vmm.virtio.console import ConsoleConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

PROG = "pyvmm restore"
DESCRIPTION = "Start a machine from a snapshot, with its console on this terminal."
EPILOG = """\
The machine has the devices of the saved one. Its disks are private copies, which are deleted when it ends. Options
replace all devices of a kind: name the same number, in the same order. Networks and sockets are new: connections of
the guest are closed.

exit status: as that of pyvmm boot

example:
  pyvmm restore warm --net tap:tap1
"""
OPTIONS = (
    *(option for option in DEVICE_OPTIONS),
    Option("--console", "WHERE", "stdio, pty, file:PATH or none (default: stdio)", default="stdio"),
    Option(
        "--clock",
        "HOW",
        "the guest's clocks: host, with the time since the snapshot, or resume where they were",
        default="host",
    ),
    Option(
        "--cow",
        "HOW",
        "how to make its disks: auto, reflink, copy or overlay (default: that of the disk's cow=)",
        default="",
    ),
    Option("--prefetch", "", "prefetch the memory that the first machine with this option needed"),
    Option("--verify", "", "read the whole snapshot first, and compare checksums"),
    Option("--force", "", "restore even if the processor or a disk has changed"),
    JAIL,
    CGROUP,
    *CONTROL,
    Option("--timeout", "SECONDS", "end the machine after this time"),
    Option("--json", "", "write messages and the result to stderr as JSON, one object a line"),
    Option("--stats", "", "print at the end: exits, kicks, interrupts, bytes"),
)


def parser() -> argparse.ArgumentParser:
    """The parser, for help, completion and the command line."""
    made = make_parser(PROG, DESCRIPTION, OPTIONS, EPILOG)
    made.add_argument("directory", metavar="DIR", help="the snapshot").complete = "directory"  # type: ignore[attr-defined]
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    exit_at_once()
    values: dict[str, Any] = parse_fast(OPTIONS, argv, "directory") or vars(parser().parse_args(argv))
    messages = Messages(values["json"])
    values.update(gdb=None)
    take_limits(values)
    changes = devices_from(values)
    from vmm.cli.open_console import open_console
    from vmm.machine.machine import Machine
    from vmm.processes.outside import Outside, import_the_rest
    from vmm.saving.restore import Restored

    with open_console(values["console"]) as console, Signals() as signals:
        # Which device the guest has for it is the snapshot's to say
        changes["console"] = ConsoleConfig("fd", console.out_fd, console.drop)
        origin = Restored(
            values["directory"],
            changes,
            clock=values["clock"],
            force=values["force"],
            prefetch=values["prefetch"],
            cow=values["cow"],
            verify=values["verify"],
        )
        try:
            values["records"] = origin.records
            config = open_to_shares(origin.config, values)
            with Outside(config, values) as outside, Machine.of_origin(origin, config, start=False) as machine:
                if values["jail"] != jail.OFF:
                    import_the_rest(as_json=values["json"], stats=values["stats"])
                return run_machine(Run(machine, signals, console, values, messages, outside))
        finally:
            origin.close()
