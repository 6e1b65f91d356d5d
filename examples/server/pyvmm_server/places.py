"""Which sandbox is on which node, in the server's database: nothing is counted beside the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

INDEX = "CREATE INDEX IF NOT EXISTS by_node ON sandboxes (node, state) WHERE node <> '';"
_HOLD = "('creating', 'running', 'paused', 'ending')"
"""States of sandboxes that have memory of their node."""


class Places:
    """
    :param db: with the sandboxes
    :param changed: called after a change
    """

    def __init__(self, db: sqlite3.Connection, changed: Callable[[], None]) -> None:
        self._db = db
        self._changed = changed

    def used(self, node: str) -> int:
        """The MiB of the sandboxes of a node."""
        text = f"SELECT total(memory) FROM sandboxes WHERE node = ? AND node <> '' AND state IN {_HOLD}"
        return int(self._db.execute(text, [node]).fetchone()[0])

    def nodes(self) -> set[str]:
        """Those that have sandboxes."""
        text = f"SELECT DISTINCT node FROM sandboxes WHERE node <> '' AND state IN {_HOLD}"
        return {row[0] for row in self._db.execute(text)}

    def on(self, node: str) -> set[str]:
        """Ids of the sandboxes that a node may have."""
        text = f"SELECT id FROM sandboxes WHERE node = ? AND node <> '' AND state IN {_HOLD}"
        return {row[0] for row in self._db.execute(text, [node])}

    def lose(self, node: str) -> list[str]:
        """Mark the sandboxes of a node as lost, all or none; their ids.

        Those that were being ended are gone, as their clients wanted.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            found = self._db.execute(
                "UPDATE sandboxes SET state = 'lost', ends = NULL WHERE node = ? AND node <> ''"
                " AND state IN ('creating', 'running', 'paused') RETURNING id",
                [node],
            ).fetchall()
            self._db.execute("DELETE FROM sandboxes WHERE node = ? AND node <> '' AND state = 'ending'", [node])
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        self._changed()
        return [row[0] for row in found]
