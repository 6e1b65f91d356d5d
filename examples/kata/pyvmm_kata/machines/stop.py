"""``pyvmm stop``: ends containers, which can be seen and removed then."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.machines.options import add_name, for_each, new_parser

if TYPE_CHECKING:
    import argparse

    from pyvmm_kata.machines.records import Machine

SUMMARY = "end containers"
_KILLED_S = 30.0


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser(
        "stop", "Send the first process of containers SIGTERM, and SIGKILL if they have not ended in time."
    )
    made.add_argument("-t", "--time", type=float, default=10.0, metavar="SECONDS", help="until SIGKILL (default: 10)")
    add_name(made, many=True)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    if not 0 <= options.time <= 1 << 20:
        parser().error(f"--time {options.time:g} is not 0 to {1 << 20}")
    from pyvmm_kata.machines import records

    def one(name: str) -> str:
        found = records.find(options.root, name)
        _stop(found, options.time)
        return found.name

    return for_each(options.names, one, as_json=options.json)


def _stop(found: Machine, seconds: float) -> None:
    """
    :raises VmmError: it does not end
    """
    if found.state == "stopped":
        return
    found.expect("created", "running", "paused")
    if found.state == "running" and seconds:
        _send(found, signal.SIGTERM)
        if found.wait(seconds):
            return
    _send(found, signal.SIGKILL)
    if not found.wait(_KILLED_S):
        raise HostError(f"{found.name} has not ended {_KILLED_S:g} s after SIGKILL", code="timeout", hint="pyvmm rm -f")


def _send(found: Machine, number: int) -> None:
    from pyvmm_kata.protocol import control

    try:
        control.call(found.folder, "kill", signal=number, all=False)
    except VmmError:
        if not found.wait(0):  # else it has just ended
            raise
