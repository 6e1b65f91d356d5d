"""Which sandbox is on which node: nothing is counted beside the records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_server.database import Database
    from pyvmm_server.index import Index
    from pyvmm_server.store import Record

INDEX = "CREATE INDEX IF NOT EXISTS by_node ON sandboxes (node, state) WHERE node <> '';"


class Places:
    """
    :param db: with the sandboxes
    :param index: of its records
    :param changed: called after a change
    """

    def __init__(self, db: Database, index: Index, changed: Callable[[], None]) -> None:
        self._db = db
        self._index = index
        self._changed = changed

    def used(self, node: str) -> int:
        """The MiB of the sandboxes of a node."""
        return self._index.used(node)

    def nodes(self) -> set[str]:
        """Those that have sandboxes in memory."""
        return self._index.nodes()

    def holders(self) -> set[str]:
        """Those that have sandboxes on disk alone; an empty name: who has some is unknown."""
        return self._index.holders()

    def held(self, holder: str) -> list[Record]:
        """The sandboxes that a node has on disk, and that no node has in memory."""
        return self._index.held(holder)

    def on(self, node: str) -> set[str]:
        """Ids of the sandboxes that a node may have."""
        return {each.id for each in self._index.on(node)}

    def lose(self, node: str) -> list[str]:
        """Mark the sandboxes of a node as lost, all or none; their ids.

        Those that were being ended are gone, as their clients wanted; those that were being resumed are on disk.
        """
        resumed = [each for each in self._index.on(node) if each.state == "paused" and each.saved]
        with self._db.transaction():
            self._db.execute(
                "UPDATE sandboxes SET node = '', holder = '' WHERE node = ? AND state = 'paused' AND saved <> ''",
                [node],
            )
            found = self._db.execute(
                "UPDATE sandboxes SET state = 'lost', ends = NULL WHERE node = ? AND node <> ''"
                " AND state IN ('creating', 'running', 'paused') RETURNING id",
                [node],
            ).fetchall()
            self._db.execute("DELETE FROM sandboxes WHERE node = ? AND node <> '' AND state = 'ending'", [node])
        for record in resumed:
            self._index.put(replace(record, node="", holder=""))
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
