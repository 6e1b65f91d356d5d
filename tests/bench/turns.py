"""Measures machines of several programs in turns, so that other load on the host affects all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tests.bench.boot import say
from tests.bench.child import ChildError
from tests.bench.row import Row, absolute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESTARTS = 3
"""How many hangs of machines are tolerated in all."""


M = TypeVar("M", bound="Measured")


class Measured(Protocol):
    """A machine that was booted."""

    def close(self) -> None:
        """End it; may be called again."""


def take_turns(
    names: Sequence[str],
    start: Callable[[str], M],
    measure: Callable[[M], dict[str, Any]],
    turns: int,
    tell: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """The figures of each program, a dictionary for each turn.

    A machine that stands still is started anew, and its turn measured again: QEMU's own guests do so now and then in
    the lab. How often is `restarts` of that turn.

    :raises ChildError: one has stood still too often
    """
    figures: dict[str, Any] = {name: [] for name in names}
    machines: dict[str, M] = {}
    left = dict.fromkeys(names, RESTARTS)
    try:
        for name in names:
            machines[name] = start(name)
            say(f"{name} is up")
        for turn in range(turns):
            for name in names if turn % 2 == 0 else reversed(names):
                before = left[name]
                while True:
                    try:
                        run = measure(machines[name])
                        break
                    except ChildError as error:
                        if not left[name]:
                            raise
                        left[name] -= 1
                        say(f"{name} stood still, and is started anew: {str(error).splitlines()[0]}")
                        machines[name].close()
                        machines[name] = start(name)
                figures[name].append(run | {"restarts": before - left[name]})
                say(f"{name}: {tell(run)}")
    finally:
        for machine in machines.values():
            machine.close()
    return figures


def restart_rows(figures: dict[str, Any]) -> list[Row]:
    """A line for each program that was started again after a hang."""
    counts = {name: sum(run.get("restarts", 0) for run in runs) for name, runs in figures.items()}
    return [absolute(f"  {name} stood still and was started anew", count) for name, count in counts.items() if count]
