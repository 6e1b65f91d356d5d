"""From raw figures to the table, the picture and the file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import (
    boot,
    budget,
    clients,
    console,
    fio,
    fs,
    kata,
    memory,
    net,
    sandboxes,
    sandboxes_lab,
    sandboxes_memory,
    sentry,
    sentry_containers,
    sentry_files,
    sentry_host,
    sentry_lab,
    sentry_machines,
    sentry_memory,
    sentry_net,
    sentry_programs,
    sentry_restore,
    server,
    snapshots,
    startup,
    vsock,
)
from tests.bench.row import Row

ROOT = Path(__file__).resolve().parents[2]
GOOD, FAIR, BAD = "#2a9d55", "#c9a227", "#c0392b"


def rows(figures: dict[str, Any]) -> list[Row]:
    """The rows of the parts that were measured, in their order."""
    makers = {
        "boot": boot.rows,
        "memory": memory.rows,
        "startup": startup.rows,
        "server": server.rows,
        "clients": lambda figures: clients.rows(figures, "sandboxes"),
        "clients-lab": lambda figures: clients.rows(figures, "machines"),
        "sentry": sentry.rows,
        "sentry-containers": sentry_containers.rows,
        "sentry-host": sentry_host.rows,
        "sandboxes": sandboxes.rows,
        **dict.fromkeys(("sandboxes-lab", *(f"sandboxes-{part}" for part in sandboxes_lab.PARTS)), sandboxes_lab.rows),
        "sandboxes-memory": sandboxes_memory.rows,
        "sentry-lab": sentry_lab.rows,
        "sentry-programs": sentry_programs.rows,
        "fio": fio.rows,
        "fio-icount": fio.icount_rows,
        "fio-filters": lambda figures: fio.filter_rows(figures, "fio"),
        "net-filters": net.filter_rows,
        "vsock-filters": vsock.filter_rows,
        "vsock": vsock.rows,
        "console": console.rows,
        "debian": boot.debian_rows,
        "fs": fs.rows,
        "net": net.rows,
        "net-icount": net.icount_rows,
        "fs-icount": fs.icount_rows,
        "vsock-icount": vsock.icount_rows,
        "snapshots": snapshots.rows,
        "clones": snapshots.clone_rows,
        "kata": kata.rows,
        "kata-pool": kata.pool_rows,
        "sentry-machines": sentry_machines.rows,
        "sentry-net": sentry_net.rows,
        "sentry-restore": sentry_restore.rows,
        "sentry-files": sentry_files.rows,
        "sentry-memory": sentry_memory.rows,
        "budget": budget.rows,
    }
    return [row for part, make in makers.items() if part in figures for row in make(figures[part])]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"


def table(rows: list[Row]) -> str:
    """The rows as text."""
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
    """Rows, raw figures and versions, as JSON."""
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


def draw(rows: list[Row], path: Path) -> str:
    """Draw the rows that have a target into `path`; returns a line that says so, or why not.

    matplotlib is optional: `pip install matplotlib`.
    """
    try:
        import matplotlib
    except ImportError:
        return "no plot: matplotlib is not installed (pip install matplotlib)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row.ratio and row.verdict]
    if not shown:
        return "no plot: nothing to compare"
    plot: Any = pyplot
    figure, axes = plot.subplots(figsize=(9, 0.55 * len(shown) + 1.4))
    places = list(range(len(shown)))[::-1]
    colours = [BAD if row.verdict == "MISSED" else GOOD if row.meets(row.aim) is not False else FAIR for row in shown]
    axes.barh(places, [row.value for row in shown], color=colours, height=0.6)
    for place, row in zip(places, shown, strict=True):
        for target, style in ((row.must, "-"), (row.aim, ":")):
            if target is not None:
                axes.plot([target, target], [place - 0.4, place + 0.4], color="black", linestyle=style, linewidth=1.5)
        peer = row.peer_name or "QEMU"
        better = "more is better" if row.at_least else "less is better"
        # Behind the bar and the lines
        end = max(row.value, row.must or 0, row.aim or 0)
        axes.annotate(f"  {row.value:.2f} x {peer}, {better}", (end, place), va="center", fontsize=8)
    axes.set_yticks(places, [row.name.strip() for row in shown])
    axes.set_xlim(0, max(row.value for row in shown) * 1.45)
    axes.set_xlabel("pyvmm in proportion to its peer (line: must, dots: aim)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    plot.close(figure)
    return f"plot: {path}"
