"""Chooses the node of a sandbox, and decides when a node is lost.  Neither does any I/O nor reads a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvmm_server.engine import Node

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pyvmm_server.places import Places

CHOICES = 3
"""Random nodes of which the one with the most free memory gets the sandbox."""
LOST_AFTER_S = 8.0
"""Silence of a node after which it is lost."""
_SILENT_ROUNDS = 3
"""Rounds without an answer, at least: a server that was stopped for a while has seen one only."""


def choose(nodes: Sequence[Node], used: Callable[[str], int], memory: int, rng: random.Random) -> Node | None:
    """The best of three random nodes by free memory; None: no node has room.

    :param used: the MiB of the sandboxes of a node
    :param memory: of the new sandbox, in MiB
    """
    few = rng.sample(nodes, min(CHOICES, len(nodes)))
    return _best(few, used, memory) or _best(nodes, used, memory)


def _best(nodes: Iterable[Node], used: Callable[[str], int], memory: int) -> Node | None:
    free = [(each.memory - used(each.id), each) for each in nodes]
    most, best = max(free, key=lambda pair: pair[0], default=(0, None))
    return best if best is not None and most >= memory else None


@dataclass
class Changes:
    """
    :ivar lost: nodes that are lost since this round
    :ivar fence: lost nodes that answer again: their sandboxes were reported lost, and have to end
    """

    lost: list[str] = field(default_factory=list)
    fence: list[str] = field(default_factory=list)


@dataclass
class _Seen:
    silent_since: float | None = None
    rounds: int = 0
    is_lost: bool = False


class Membership:
    """The nodes of a cluster, as the rounds of a server find them.

    :ivar ready: those that take sandboxes
    :ivar candidates: the same, for a choice among them that does not look at all
    """

    def __init__(self) -> None:
        self.ready: dict[str, Node] = {}
        self.candidates: list[Node] = []
        self._seen: dict[str, _Seen] = {}

    def expect(self, nodes: Iterable[str]) -> None:
        """Nodes with sandboxes, which an earlier server has known."""
        for each in nodes:
            self._seen.setdefault(each, _Seen())

    @property
    def known(self) -> list[str]:
        """All that may answer, lost ones as well."""
        return list(self._seen)

    @property
    def is_settled(self) -> bool:
        """Whether each node is lost or ready: nobody who is silent may still have something."""
        return bool(self.ready) and all(seen.is_lost or node in self.ready for node, seen in self._seen.items())

    def is_lost(self, node: str) -> bool:
        return node in self._seen and self._seen[node].is_lost

    def suspect(self, node: str) -> None:
        """A call to the node has failed: place no sandbox there before it answers again."""
        self._set_ready({name: each for name, each in self.ready.items() if name != node})

    def _set_ready(self, ready: dict[str, Node]) -> None:
        self.ready, self.candidates = ready, list(ready.values())

    def readmit(self, node: str) -> None:
        """A lost node has ended its sandboxes."""
        self._seen[node] = _Seen()

    def observe(self, now: float, alive: Iterable[str], ready: Mapping[str, Node]) -> Changes:
        """The result of a round.

        :param now: of a monotonic clock, in seconds
        :param alive: nodes that have answered, or whose engine has
        :param ready: those of them that can start sandboxes
        """
        answered = {*alive, *ready}
        self.expect(answered)
        changes = Changes()
        for node, seen in self._seen.items():
            if node in answered:
                seen.silent_since, seen.rounds = None, 0
                if seen.is_lost:
                    changes.fence.append(node)
                continue
            if seen.silent_since is None:
                seen.silent_since = now
            seen.rounds += 1
            if not seen.is_lost and seen.rounds >= _SILENT_ROUNDS and now - seen.silent_since >= LOST_AFTER_S:
                seen.is_lost = True
                changes.lost.append(node)
        self._set_ready({node: each for node, each in ready.items() if not self._seen[node].is_lost})
        return changes

    def settle(self, places: Places) -> dict[str, list[str]]:
        """Mark the sandboxes of lost nodes as lost: the ids by node.

        Again in each round, since a call that was under way when its node was lost can still change a record.
        """
        return {node: places.lose(node) for node in places.nodes() if self.is_lost(node)}

    def forget(self, node: str) -> None:
        """A lost node that the engine does not list any more."""
        self._seen.pop(node, None)
        self.suspect(node)
