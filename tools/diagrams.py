"""`python -m tools.diagrams [--write]`: the diagrams of the documents, drawn by Graphviz from docs/pictures/*.dot.

The pictures are in the repository, so that neither a reader on a web page of it nor `make docs` needs Graphviz.  Each
names the text that it was drawn from by a checksum, since versions of Graphviz draw differently: a test compares that.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tools import documents
from tools.where import ROOT

MARK = re.compile(r"<!-- drawn from (\S+), sha256 (\w+) -->")


def sources() -> list[Path]:
    """The texts of all diagrams."""
    return sorted(documents.PICTURES.glob("*.dot"))


def checksum(source: Path) -> str:
    """What names a text."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def is_current(source: Path) -> bool:
    """Whether a text's picture was drawn from it."""
    picture = source.with_suffix(".svg")
    found = MARK.search(picture.read_text()) if picture.exists() else None
    return found is not None and found.groups() == (source.name, checksum(source))


def draw(source: Path) -> None:
    """Draw a text's picture."""
    svg = subprocess.run(["dot", "-Tsvg", source], check=True, capture_output=True, text=True).stdout
    svg = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)  # no version of Graphviz, no document type
    mark = f"<!-- drawn from {source.name}, sha256 {checksum(source)} -->\n"
    source.with_suffix(".svg").write_text(mark + svg)


def main(arguments: list[str]) -> int:
    """List the diagrams that are not current; with --write draw them."""
    old = [source for source in sources() if not is_current(source)]
    for source in old:
        if arguments == ["--write"]:
            draw(source)
        print(source.relative_to(ROOT).with_suffix(".svg"))
    return 1 if old and arguments != ["--write"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
