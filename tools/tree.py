"""`python -m tools.tree [--write]`: the rooms of the house, as docs/reference/rooms.md shows them between two marks.

A room is a folder with code; what is said of it is the first sentence of the docstring of its package, or of the first
comment in the main file of a C folder. A test compares the page with this.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from pathlib import Path

from tools import documents
from tools.where import ROOT

PAGE = documents.ROOMS
BEGIN, END = "<!-- rooms: python -m tools.tree --write -->", "<!-- end of rooms -->"
HOUSES = ("vmm", "examples/kata/pyvmm_kata")
MAIN = {"base": "native.h", "dataplane": "worker.h", "native": "warm.h"}
"""The main file of C folders, if it does not have the folder's name."""
WIDTH, NAME = 118, 24


def first_line(text: str) -> str:
    """The first sentence of a text, on one line."""
    text = re.split(r"(?<=[^.])\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    return text.partition(", between its files")[0].partition("::")[0].rstrip(":")


def said_in_c(folder: Path) -> str:
    """The first comment of the folder's main file."""
    name = MAIN.get(folder.name, f"{folder.name}.h")
    main = folder / name if (folder / name).exists() else folder / f"{folder.name}.c"
    comments = re.findall(r"/\*(.*?)\*/", main.read_text(), re.S)
    texts = (re.sub(r"^\s*\*", "", comment, flags=re.M).strip() for comment in comments)
    return first_line(next(text for text in texts if "SPDX" not in text))


def said(folder: Path) -> str:
    """A description of a room, in a sentence."""
    init = folder / "__init__.py"
    return first_line(ast.get_docstring(ast.parse(init.read_text())) or "") if init.exists() else said_in_c(folder)


def room(folder: Path, top: Path) -> list[str]:
    """The lines of one room; none where there is no code of ours."""
    modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__" and path.stem[0] != "_")
    sources = sorted(path.name for path in folder.glob("*.[hc]") if path.stem[0] != "_")
    if not modules and not sources:
        return []
    depth = len(folder.relative_to(top).parts)
    name = f"{'  ' * depth}{folder.name if depth else top.relative_to(ROOT)}/"
    inside = " ".join(modules + sources)
    pad = " " * NAME
    lines = textwrap.wrap(f"{said(folder)}.", WIDTH - NAME) + textwrap.wrap(inside, WIDTH - NAME)
    if len(name) >= NAME:
        return [name, *(pad + line for line in lines)]
    return [name.ljust(NAME) + lines[0], *(pad + line for line in lines[1:])]


def rooms() -> str:
    """The lines of all rooms."""
    lines: list[str] = []
    for house in HOUSES:
        top = ROOT / house
        folders = [top, *sorted(path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")]
        for folder in folders:
            lines += room(folder, top)
    return "```\n" + "\n".join(lines) + "\n```"


def shown(page: str) -> str:
    """The text of the page between the marks."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def main(arguments: list[str]) -> int:
    """Print them, or write them into the page."""
    if arguments != ["--write"]:
        print(rooms())
        return 0
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{rooms()}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
