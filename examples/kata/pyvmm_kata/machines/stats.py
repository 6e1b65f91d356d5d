"""``pyvmm stats``: what containers use, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import VmmError
from pyvmm_kata.machines.options import attempt, new_parser, print_json, size_text, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pyvmm_kata.machines.records import Machine

SUMMARY = "show what containers use"
_HEAD = ("NAME", "CPU", "MEMORY", "LIMIT", "RECEIVED", "SENT", "PROCESSES")
_GUEST_S = 5.0
_NO_LIMIT = 1 << 60
_CLEAR = "\x1b[H\x1b[J"


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser("stats", "Show what containers use; again and again, until Ctrl-C.")
    made.add_argument("--no-stream", action="store_true", help="once")
    made.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two times (default: 2)")
    made.add_argument("names", nargs="*", metavar="NAME", help="default: all that run")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    if not 0.1 <= options.interval <= 86400:
        parser().error(f"--interval {options.interval:g} is not 0.1 to 86400")
    return attempt(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    samples: dict[str, tuple[float, float]] = {}
    live = not options.no_stream and not options.json and sys.stdout.isatty()
    while True:
        rows = [_sample(each, samples) for each in _chosen(options.root, options.names)]
        if options.json and not options.no_stream:
            import json

            print(json.dumps(rows), flush=True)
        elif options.json:
            print_json(rows)
        else:
            sys.stdout.write((_CLEAR if live else "") + table([_HEAD, *map(_row, rows)]))
            sys.stdout.flush()
        if options.no_stream:
            return 0
        time.sleep(options.interval)


def _chosen(root: str, names: Sequence[str]) -> list[Machine]:
    from pyvmm_kata.machines import records

    if not names:
        return [each for each in records.describe_all(root) if each.state in ("running", "paused")]
    found = [records.find(root, name) for name in names]
    for each in found:
        each.expect("running", "paused")
    return found


def _sample(each: Machine, samples: dict[str, tuple[float, float]]) -> dict[str, Any]:
    """What it uses; the CPU time is that since its last sample, at first since its start."""
    from pyvmm_kata.protocol import control

    try:
        data = control.call(each.folder, "stats", _GUEST_S)["data"]
    except VmmError as error:
        return {"name": each.name, "error": str(error)}
    now, cpu, memory = time.time(), data["cpu"]["usage"]["total"] / 1e9, data["memory"]["usage"]
    then, before = samples.get(each.name, (each.created, 0.0))
    samples[each.name] = now, cpu
    nets = data["network_interfaces"]
    return {
        "name": each.name,
        "cpu_percent": round(100 * max(0.0, cpu - before) / max(now - then, 1e-3), 2),
        "cpu_seconds": cpu,
        "memory": memory["usage"],
        "memory_limit": memory["limit"] if 0 < memory["limit"] < _NO_LIMIT else None,
        "received": sum(net["RxBytes"] for net in nets),
        "sent": sum(net["TxBytes"] for net in nets),
        "processes": data["pids"]["current"],
    }


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return (row["name"], *["--"] * (len(_HEAD) - 1))
    limit = "-" if row["memory_limit"] is None else size_text(row["memory_limit"])
    traffic = size_text(row["received"]), size_text(row["sent"])
    return (
        row["name"],
        f"{row['cpu_percent']:.1f} %",
        size_text(row["memory"]),
        limit,
        *traffic,
        str(row["processes"]),
    )
