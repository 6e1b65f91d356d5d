"""`python -m tools.paths [--write]`: files of ours that documents name and that do not exist.

With --write a name whose file has moved, and is the only one of its name now, is replaced by where it is.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from tools import documents
from tools.where import ROOT

NAMED = re.compile(r"`((?:[\w.*-]+/)+[\w.*-]+\.(?:py|c|h|md|rst|toml|yaml|config|svg|dot))`")
BELOW = ("", "vmm/", "vmm/virtio/", "tests/", "examples/kata/", "examples/kata/pyvmm_kata/", "docs/")
"""Documents name files from here."""
BUILT = re.compile(r"build/|\.venv/|etc/|linux/|/|.*X\.Y")


@cache
def files() -> frozenset[str]:
    """The files of the repository, also those that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return frozenset(name for name in listed.stdout.decode().splitlines() if (ROOT / name).exists())


def exists(name: str, page: Path) -> bool:
    """Whether a page can name a file so."""
    places = [ROOT / below for below in BELOW] + [page.parent]
    return any(list(place.glob(name)) if "*" in name else (place / name).exists() for place in places)


def missing(page: Path) -> list[str]:
    """The names in a page for which there is no file; a sample names the files of the day on which it was drawn."""
    if page == documents.SENTENCES:
        return []
    named = dict.fromkeys(NAMED.findall(page.read_text()))
    return [name for name in named if not BUILT.match(name) and not exists(name, page)]


def moved(name: str) -> str | None:
    """Where a file is now, as documents name it, if there is one of its name."""
    found = [file for file in files() if Path(file).name == Path(name).name]
    if len(found) != 1:
        return None
    below = max((below for below in BELOW if found[0].startswith(below)), key=len)
    return found[0].removeprefix(below)


def main(arguments: list[str]) -> int:
    """Print what is missing, and with --write mend it."""
    left = 0
    for page in documents.pages():
        for name in missing(page):
            now = moved(name)
            print(f"{page.relative_to(ROOT)}: {name} -> {now or 'no file, or several'}")
            if now and arguments == ["--write"]:
                page.write_text(page.read_text().replace(f"`{name}`", f"`{now}`"))
            else:
                left += 1
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
