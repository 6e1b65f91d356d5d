"""``pyvmm ps``: the containers of this host."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata.machines.options import new_parser, print_json, printable, span_text, table

if TYPE_CHECKING:
    import argparse

    from pyvmm_kata.machines.records import Machine

SUMMARY = "list containers and sandboxes"
_HEAD = ("NAME", "STATE", "IMAGE", "CREATED", "UPTIME", "ISOLATION", "PORTS", "EXPIRES")


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser("ps", "List containers of `pyvmm run`, sandboxes, and containers of pyvmm-oci.")
    made.add_argument("-a", "--all", action="store_true", help="also those that have ended")
    made.add_argument("-q", "--quiet", action="store_true", help="names alone")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    from pyvmm_kata.machines import records

    found = [each for each in records.describe_all(options.root) if options.all or each.state != "stopped"]
    if options.json:
        print_json([_plain(each) for each in found])
    elif options.quiet:
        sys.stdout.write("".join(f"{each.name}\n" for each in found))
    else:
        now = time.time()
        sys.stdout.write(table([_HEAD, *(_row(each, now) for each in found)]))
    return 0


def _plain(each: Machine) -> dict[str, Any]:
    uptime = max(0.0, time.time() - each.created) if each.state in ("running", "paused") else None
    return {
        "name": each.name,
        "state": each.state,
        "exit_status": each.exit_status,
        "image": each.image,
        "command": each.command,
        "created": each.created,
        "uptime": uptime,
        "isolation": each.isolation,
        "ports": each.ports,
        "expires": each.expires,
        "pid": each.pid if each.state != "stopped" else None,
    }


def _row(each: Machine, now: float) -> tuple[str, ...]:
    running = each.state in ("running", "paused")
    return (
        each.name,
        each.state if each.exit_status is None else f"{each.state} ({each.exit_status})",
        printable(each.image) or "-",
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.created)),
        span_text(now - each.created) if running else "-",
        each.isolation,
        ", ".join(each.ports) or "-",
        "-" if each.expires is None else f"in {span_text(each.expires - now)}",
    )
