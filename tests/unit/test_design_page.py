"""docs/design.md shows the rooms that are there."""

from __future__ import annotations

from tools import tree


def test_the_rooms_are_those_of_the_page() -> None:
    assert tree.shown(tree.PAGE.read_text()) == tree.rooms(), "python -m tools.tree --write"
