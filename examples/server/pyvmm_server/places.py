"""Which sandbox is on which node: nothing is counted beside the records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from pyvmm_server.index import Index

INDEX = "CREATE INDEX IF NOT EXISTS by_node ON sandboxes (node, state) WHERE node <> '';"


class Places:
    """
    :param db: with the sandboxes
    :param index: of its records
    :param changed: called after a change
    """

    def __init__(self, db: sqlite3.Connection, index: Index, changed: Callable[[], None]) -> None:
        self._db = db
        self._index = index
        self._changed = changed

    def used(self, node: str) -> int:
        """The MiB of the sandboxes of a node."""
        return self._index.used(node)

    def nodes(self) -> set[str]:
        """Those that have sandboxes."""
        return self._index.nodes()

    def on(self, node: str) -> set[str]:
        """Ids of the sandboxes that a node may have."""
        return {each.id for each in self._index.on(node)}

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
        lost = [row[0] for row in found]
        for record in self._index.on(node):
            if record.state == "ending":
                self._index.drop(record.id)
        for sandbox_id in lost:
            record_now = self._index.get(sandbox_id)
            assert record_now is not None
            self._index.put(replace(record_now, state="lost", ends=None))
        self._changed()
        return lost
