"""``pyvmm kill``: sends containers a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata.machines.options import add_name, attempt, for_each, new_parser

if TYPE_CHECKING:
    import argparse

SUMMARY = "send containers a signal"


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser("kill", "Send the first process of containers a signal.")
    made.add_argument("-s", "--signal", default="KILL", help="its name or number (default: KILL)")
    add_name(made, many=True)
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    from pyvmm_kata.machines import records
    from pyvmm_kata.oci.kill import signal_number
    from pyvmm_kata.protocol import control

    def kill() -> int:
        number = signal_number(options.signal)

        def one(name: str) -> str:
            found = records.find(options.root, name)
            found.expect("created", "running", "paused")
            control.call(found.folder, "kill", signal=number, all=False)
            return found.name

        return for_each(options.names, one, as_json=options.json)

    return attempt(kill)
