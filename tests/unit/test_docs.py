"""docs/design.md shows the rooms that are there, and docs/house.svg the floors that import-linter holds."""

from __future__ import annotations

import re

from tools import picture, tree
from tools.where import ROOT


def test_the_rooms_are_those_of_the_page() -> None:
    assert tree.shown(tree.PAGE.read_text()) == tree.rooms(), "python -m tools.tree --write"


def test_the_picture_is_of_this_house() -> None:
    assert picture.PAGE.read_text() == picture.picture(), "python -m tools.picture --write"


def test_the_page_has_the_floors_of_import_linter() -> None:
    floors = "  >  ".join(" | ".join(floor) for floor in picture.floors("vmm"))
    assert floors.split() == re.search(r"^    (cli .*?)\n\n", tree.PAGE.read_text(), re.M | re.S)[1].split()  # type: ignore[index]


def test_every_folder_of_the_data_plane_is_in_the_picture() -> None:
    folders = {path.name for path in (ROOT / "vmm" / "native").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {*picture.NATIVE}


# -- docs/spec-map.md speaks of what exists --------------------------------------------------------------------------


MAP = (ROOT / "docs" / "spec-map.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in MAP.splitlines() if line.startswith("| ")]


def test_every_code_reference_exists() -> None:
    references = [
        (path, name)
        for row in ROWS
        for path, name in re.findall(r"`((?:virtio|native)/[\w/]+\.\w+)`(?: `(\w+)`)?", row[-2])
    ]
    assert len(references) > 40
    for path, name in references:
        text = (ROOT / "vmm" / path).read_text()
        assert not name or re.search(rf"\b{name}\b", text), f"{path} has no {name}"


def test_every_test_reference_exists() -> None:
    references = [pair for row in ROWS for pair in re.findall(r"`([\w/]+\.py)::(\w+)`", row[-1])]
    assert len(references) > 60
    for path, name in references:
        assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), f"{path} has no {name}"


def test_every_c_test_reference_exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "native" / "src").glob("test_*.c"))
    references = [name for row in ROWS for name in re.findall(r"`T\((\w+)\)`", row[-1])]
    assert len(references) > 10
    for name in references:
        assert f"T({name})" in sources, name


def test_every_row_names_code_and_a_test() -> None:
    for row in ROWS:
        if row[0] not in ("Section", "Bit", "Rule", "---"):
            assert "`" in row[-2], row
            assert "::" in row[-1] or "T(" in row[-1] or row[-1].startswith("see "), row
