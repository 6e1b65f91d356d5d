"""Outcomes of tests, a unit a line of JSON: a run that ends early loses one unit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.sentry.conformance.play import Outcome
from tools.where import ROOT

Key = tuple[str, str, str]
"""(suite, place, unit)"""


def _commit() -> str:
    """The commit of the checkout, with `-dirty` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def add(path: Path, key: Key, outcomes: dict[str, Outcome]) -> None:
    """Add what a unit gave."""
    with path.open("a") as file:
        file.write(json.dumps({"key": key, "commit": _commit(), "outcomes": outcomes}) + "\n")


def _entries(path: Path) -> Iterator[tuple[Key, dict[str, Any]]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # its writer was cut off
            continue
        suite, place, unit = entry["key"]
        yield (suite, place, unit), entry


def read(path: Path) -> dict[Key, dict[str, Outcome]]:
    """The last outcomes of each unit."""
    return {key: {name: Outcome(*value) for name, value in entry["outcomes"].items()} for key, entry in _entries(path)}


def commits(path: Path, place: str) -> list[str]:
    """The commits of the outcomes in a place that read() returns, each once."""
    last = {key: entry.get("commit", "unknown") for key, entry in _entries(path) if key[1] == place}
    return list(dict.fromkeys(last.values()))
