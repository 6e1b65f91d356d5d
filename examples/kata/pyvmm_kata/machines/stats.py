"""``pyvmm stats``: what containers use, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata.errors import VmmError
from pyvmm_kata.machines import live
from pyvmm_kata.machines.options import attempt, new_parser, size_text, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pyvmm_kata.machines.records import Machine

SUMMARY = "show what containers use"
_HEAD = ("NAME", "CPU", "MEMORY", "LIMIT", "RECEIVED", "SENT", "PROCESSES")
_GUEST_S = 5.0
_NO_LIMIT = 1 << 60


def parser() -> argparse.ArgumentParser:
    """For help and shell completion."""
    made = new_parser("stats", "Show what containers use: on a terminal live, until q or Ctrl-C.")
    live.add_options(made)
    made.add_argument("names", nargs="*", metavar="NAME", help="default: all that run")
    return made


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = parser().parse_args(argv)
    live.check_options(options, parser())
    view = _View(options.root, options.names)
    return attempt(lambda: live.show(view, options, "pyvmm stats"))


class _View:
    def __init__(self, root: str, names: Sequence[str]) -> None:
        self._root, self._names = root, names
        self._samples: dict[str, tuple[float, float]] = {}
        self._rows: list[dict[str, Any]] = []

    def sample(self) -> None:
        self._rows = [_sample(each, self._samples) for each in _chosen(self._root, self._names)]

    def text(self) -> str:
        return table([_HEAD, *map(_row, self._rows)])

    def json(self) -> object:
        return self._rows


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
