"""The records of sandboxes in memory, by what lists, limits, the upkeep and the placement ask for.

Only one server uses a database at a time, so that what it has read and written is all there is.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyvmm_server.store import Record

Key = tuple[float, str]
"""The start and the id, by which lists are ordered."""
HOLD = frozenset(("creating", "running", "paused", "ending"))
"""States of sandboxes that have memory of their node."""
ON_DISK = frozenset(("running", "paused"))
"""States of sandboxes that can be saved and in no node's memory; one that runs is being paused."""
_FEW_ENDS = 64
"""Ends that have been moved, which may stay in the heap of ends with those that hold."""


def _key(record: Record) -> Key:
    return record.started, record.id


class Index:
    """
    :param records: that the database has
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._all: dict[str, Record] = {}
        self._in_state: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self._of_owner: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self._on_node: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self._memory: defaultdict[str, int] = defaultdict(int)
        self._held_by: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self._of_request: dict[tuple[str, str], str] = {}
        self._sorted: dict[str, list[Record]] = {}
        """The records of an owner in their order; none since they have changed."""
        self._ends: list[tuple[float, str]] = []
        """A heap, which also has some ends that have been moved."""
        for each in records:
            self.put(each)

    def put(self, record: Record) -> None:
        """Add a record, or replace the one with its id."""
        self.drop(record.id)
        self._sorted.pop(record.owner, None)
        self._all[record.id] = record
        self._in_state[record.state][record.id] = record
        self._of_owner[record.owner][record.id] = record
        if record.request:
            self._of_request[record.owner, record.request] = record.id
        if record.node and record.state in HOLD:
            self._on_node[record.node][record.id] = record
            self._memory[record.node] += record.memory
        if record.is_on_disk and record.state in ON_DISK:
            self._held_by[record.holder][record.id] = record
        if record.ends is not None and record.state == "running":
            self._note_end(record.ends, record.id)

    def _note_end(self, ends: float, sandbox_id: str) -> None:
        # A client can move an end as often as it likes
        if len(self._ends) > 2 * len(self._in_state["running"]) + _FEW_ENDS:
            running = self._in_state["running"].values()
            self._ends = [(each.ends, each.id) for each in running if each.ends is not None]
            heapq.heapify(self._ends)
        heapq.heappush(self._ends, (ends, sandbox_id))

    def drop(self, sandbox_id: str) -> None:
        """Remove a record, if it is there."""
        record = self._all.pop(sandbox_id, None)
        if record is None:
            return
        self._sorted.pop(record.owner, None)
        del self._in_state[record.state][sandbox_id]
        _remove(self._of_owner, record.owner, sandbox_id)
        if record.request:
            del self._of_request[record.owner, record.request]
        if record.node and record.state in HOLD:
            _remove(self._on_node, record.node, sandbox_id)
            self._memory[record.node] -= record.memory
            if record.node not in self._on_node:
                del self._memory[record.node]
        if record.is_on_disk and record.state in ON_DISK:
            _remove(self._held_by, record.holder, sandbox_id)

    def all(self) -> list[Record]:
        return list(self._all.values())

    def get(self, sandbox_id: str) -> Record | None:
        return self._all.get(sandbox_id)

    def of_request(self, owner: str, request: str) -> Record | None:
        """The sandbox that an idempotency key has made."""
        return self._all.get(self._of_request.get((owner, request), ""))

    def in_states(self, states: Iterable[str], owner: str | None) -> list[Record]:
        """In the order of their start."""
        if owner is not None:
            wanted = frozenset(states)
            return [each for each in self._ordered(owner) if each.state in wanted]
        found = [each for state in states for each in self._in_state.get(state, {}).values()]
        return sorted(found, key=_key)

    def count(self, owner: str, states: Iterable[str]) -> int:
        wanted = frozenset(states)
        return sum(each.state in wanted for each in self._of_owner.get(owner, {}).values())

    def walk(self, owner: str, states: Iterable[str], after: Key | None, *, newest_first: bool) -> Sequence[Record]:
        """Those of an owner, in the order of their start; see :meth:`pyvmm_server.store.Store.walk`."""
        wanted, found = frozenset(states), self._ordered(owner)
        if after is not None and newest_first:
            found = found[: bisect_left(found, after, key=_key)]
        elif after is not None:
            found = found[bisect_right(found, after, key=_key) :]
        return [each for each in (reversed(found) if newest_first else found) if each.state in wanted]

    def _ordered(self, owner: str) -> list[Record]:
        if owner not in self._of_owner:
            return []
        if (found := self._sorted.get(owner)) is None:
            found = self._sorted[owner] = sorted(self._of_owner[owner].values(), key=_key)
        return found

    def due(self, now: float) -> list[Record]:
        """Running ones whose time is over."""
        return [each for each in self._in_state["running"].values() if each.ends is not None and each.ends <= now]

    def next_end(self) -> float | None:
        """When the first running one's time is over."""
        while self._ends:
            ends, sandbox_id = self._ends[0]
            record = self._all.get(sandbox_id)
            if record is not None and record.state == "running" and record.ends == ends:
                return ends
            heapq.heappop(self._ends)
        return None

    def states(self) -> dict[str, int]:
        """How many there are in each state."""
        return {state: len(found) for state, found in self._in_state.items() if found}

    def owners(self, states: Iterable[str]) -> list[int]:
        """How many each owner has in these states, of those who have some."""
        counts = (self.count(owner, states) for owner in self._of_owner)
        return [each for each in counts if each]

    def nodes(self) -> set[str]:
        """Those whose memory sandboxes have."""
        return set(self._on_node)

    def on(self, node: str) -> list[Record]:
        """The sandboxes that have memory of a node."""
        return list(self._on_node.get(node, {}).values())

    def used(self, node: str) -> int:
        """The MiB of the sandboxes of a node."""
        return self._memory.get(node, 0)

    def holders(self) -> set[str]:
        """Those that have saved sandboxes which are in no node's memory."""
        return set(self._held_by)

    def held(self, holder: str) -> list[Record]:
        """The sandboxes that a node has saved, and that are in no node's memory."""
        return list(self._held_by.get(holder, {}).values())


def _remove(groups: defaultdict[str, dict[str, Record]], name: str, sandbox_id: str) -> None:
    """Remove a record from its group, and the group with its last one."""
    del groups[name][sandbox_id]
    if not groups[name]:
        del groups[name]
