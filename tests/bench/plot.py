"""The ratios as a picture. matplotlib is optional: `pip install pyvmm[bench]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench.row import Row

GOOD, FAIR, BAD = "#2a9d55", "#c9a227", "#c0392b"


def draw(rows: list[Row], path: Path) -> str:
    """Draw the rows that have a target into `path`; returns a line that says so, or why not."""
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
