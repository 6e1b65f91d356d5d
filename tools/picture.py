"""`python -m tools.picture [--write]`: docs/pictures/house.svg, the floors that import-linter enforces.

A floor may import what is below it, rooms on one floor know nothing of each other.  A test compares the file with this.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path

from tools import documents
from tools.tree import first_line, said
from tools.where import ROOT

PAGE = documents.HOUSE
WIDTH, MARGIN, GAP, HEIGHT = 1120, 20, 8, 46
LETTERS = 6.1
"""Width of a small letter, px."""
HOUSES = (("pyvmm_kata", "examples/kata: containers", "#fdf0dc"), ("vmm", "vmm: the library", "#e3eefb"))
NATIVE = ("vcpu", "uart", "ram", "jail", "dataplane", "calls", "ring", "base")
"""The folders of the last floor, from what stands on others to what all stand on."""


def floors(package: str) -> list[list[str]]:
    """The floors of a package, top to bottom, each with its rooms."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == [package])
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def text_of(house: str, room: str) -> str:
    """A description of a room, or of a file on a floor of its own."""
    place = ROOT / {"vmm": "vmm", "pyvmm_kata": "examples/kata/pyvmm_kata"}[house] / room
    text = (
        said(place)
        if place.is_dir()
        else first_line(ast.get_docstring(ast.parse(place.with_suffix(".py").read_text())) or "")
    )
    return text.partition(":")[0].replace("``", "")


def cut(text: str, width: float) -> str:
    """Cut a text to a width in px."""
    most = int(width / LETTERS)
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\u2026"


def row(names: list[tuple[str, str]], y: float, colour: str) -> Iterator[str]:
    """Boxes side by side."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(names) - 1)) / len(names)
    for index, (name, text) in enumerate(names):
        x = MARGIN + index * (width + GAP)
        size = f'width="{width:.1f}" height="{HEIGHT}"'
        yield f'<rect x="{x:.1f}" y="{y}" {size} rx="5" fill="{colour}" stroke="#7a8aa0"/>'
        yield f'<text x="{x + 8:.1f}" y="{y + 19}" font-weight="bold">{escape(name)}</text>'
        if text:
            yield f'<text x="{x + 8:.1f}" y="{y + 36}" font-size="11">{escape(cut(text, width - 14))}</text>'


def devices() -> list[Path]:
    """The packages of devices that have C code."""
    return sorted({path.parent for path in (ROOT / "vmm" / "virtio").glob("*/*.c")})


def picture() -> str:
    """The picture, as SVG."""
    lines: list[str] = []
    y = MARGIN
    for house, title, colour in HOUSES:
        lines.append(f'<text x="{MARGIN}" y="{y + 14}" font-size="15">{escape(title)}</text>')
        y += 24
        for floor in floors(house):
            lines += row([(name, text_of(house, name)) for name in floor], y, colour)
            y += HEIGHT + GAP
        y += GAP
    lines.append(
        f'<text x="{MARGIN}" y="{y + 14}" font-size="15">C code, without Python: devices, and vmm/native</text>'
    )
    y += 24
    folders = [*devices(), *(ROOT / "vmm" / "native" / name for name in NATIVE)]
    for start in range(0, len(folders), 8):
        lines += row([(path.name, said(path)) for path in folders[start : start + 8]], y, "#e4f3e3")
        y += HEIGHT + GAP
    size = f'width="{WIDTH}" height="{y + MARGIN}" viewBox="0 0 {WIDTH} {y + MARGIN}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
    style = ' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head + style, *lines, "</svg>\n"])


def main(arguments: list[str]) -> int:
    """Print it, or write it."""
    if arguments == ["--write"]:
        PAGE.write_text(picture())
    else:
        print(picture(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
