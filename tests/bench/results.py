"""From raw figures to the table and the file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import boot, console, debian, fio, fs, kata, memory, net, startup, vsock
from tests.bench.row import Row

ROOT = Path(__file__).resolve().parents[2]


def rows(figures: dict[str, Any]) -> list[Row]:
    """The rows of the parts that were measured, in their order."""
    makers = {
        "boot": boot.rows,
        "memory": memory.rows,
        "startup": startup.rows,
        "fio": fio.rows,
        "fio-icount": fio.icount_rows,
        "vsock": vsock.rows,
        "console": console.rows,
        "debian": debian.rows,
        "fs": fs.rows,
        "net": net.rows,
        "net-icount": net.icount_rows,
        "fs-icount": fs.icount_rows,
        "vsock-icount": vsock.icount_rows,
        "kata": kata.rows,
    }
    return [row for part, make in makers.items() if part in figures for row in make(figures[part])]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def table(rows: list[Row]) -> str:
    """The rows for a person."""
    head = ("", "pyvmm", "peer", "unit", "value", "must", "aim", "")
    lines = [head]
    for row in rows:
        sign = ">=" if row.at_least else "<="
        must, aim = ("" if target is None else f"{sign} {target:g}" for target in (row.must, row.aim))
        peer = f"{_number(row.peer)} {row.peer_name}" if row.peer is not None else row.peer_name
        value = f"{row.value:.2f} x" if row.ratio else _number(row.value)
        lines.append((row.name, _number(row.pyvmm), peer, row.unit, value, must, aim, row.verdict))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n" + "\n".join([text[0], "-" * max(map(len, text)), *text[1:]]) + "\n"


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except FileNotFoundError:
        return ""


def write(path: Path, rows: list[Row], figures: dict[str, Any]) -> None:
    """Rows, raw figures and where they come from, as JSON."""
    data = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": _output("git", "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "qemu": _output("qemu-system-x86_64", "--version").partition("\n")[0],
        "host": {"kernel": platform.release(), "cpus": os.cpu_count(), "load": os.getloadavg()},
        "rows": [{**asdict(row), "verdict": row.verdict} for row in rows],
        "raw": figures,
    }
    path.write_text(json.dumps(data, indent=1))
