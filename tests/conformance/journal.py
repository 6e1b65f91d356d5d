"""Results of scenes, a line of JSON each, so that a lab that stops loses one scene."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.suite import Result

Key = tuple[str, str, str]
"""(suite, runtime, scene)"""
LOST = "the lab ended while it ran"
TRIES = 2


class Journal:
    """A file of results; several processes write to it, a line at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, key: Key) -> None:
        """A scene begins."""
        self._write({"key": key})

    def end(self, key: Key, result: Result) -> None:
        """A scene has ended."""
        self._write({"key": key, "seen": result.seen, "problem": result.problem, "seconds": result.seconds})

    def _write(self, entry: dict[str, object]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def results(self) -> dict[Key, Result]:
        """The last result of each scene that has ended, or has begun too often."""
        found: dict[Key, Result] = {}
        begun: dict[Key, int] = {}
        for entry in self._entries():
            key: Key = tuple(entry["key"])  # type: ignore[assignment, arg-type]
            if "seen" in entry:
                found[key] = Result(entry["seen"], str(entry["problem"]), float(str(entry["seconds"])))  # type: ignore[arg-type]
            else:
                begun[key] = begun.get(key, 0) + 1
        for key, count in begun.items():
            if key not in found and count >= TRIES:
                found[key] = Result({}, LOST, 0.0)
        return found

    def _entries(self) -> Iterator[dict[str, object]]:
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # its writer was cut off
                continue
