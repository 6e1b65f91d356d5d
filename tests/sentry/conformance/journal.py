"""Outcomes of tests, a unit a line of JSON: a run that ends early loses one unit."""

from __future__ import annotations

import json
from pathlib import Path

from tests.sentry.conformance.play import Outcome

Key = tuple[str, str, str]
"""(suite, place, unit)"""


def add(path: Path, key: Key, outcomes: dict[str, Outcome]) -> None:
    """Add what a unit gave."""
    with path.open("a") as file:
        file.write(json.dumps({"key": key, "outcomes": outcomes}) + "\n")


def read(path: Path) -> dict[Key, dict[str, Outcome]]:
    """The last outcomes of each unit."""
    found: dict[Key, dict[str, Outcome]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # its writer was cut off
            continue
        suite, place, unit = entry["key"]
        found[suite, place, unit] = {name: Outcome(*value) for name, value in entry["outcomes"].items()}
    return found
