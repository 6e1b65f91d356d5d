"""docs/design.md shows the rooms that are there, and docs/house.svg the floors that import-linter holds."""

from __future__ import annotations

from tools import picture, tree
from tools.where import ROOT


def test_the_rooms_are_those_of_the_page() -> None:
    assert tree.shown(tree.PAGE.read_text()) == tree.rooms(), "python -m tools.tree --write"


def test_the_picture_is_of_this_house() -> None:
    assert picture.PAGE.read_text() == picture.picture(), "python -m tools.picture --write"


def test_every_folder_of_the_data_plane_is_in_the_picture() -> None:
    folders = {path.name for path in (ROOT / "vmm" / "native").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(picture.NATIVE)
