"""One line of the benchmark's table: a ratio, its target, and whether it meets that."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `value` is compared with `must` and `aim`; `at_least` says which side of them is good. `pyvmm` and `peer` are the
    figures behind it, in `unit`.
    """

    name: str
    value: float
    unit: str = ""
    pyvmm: float | None = None
    peer: float | None = None
    peer_name: str = ""
    must: float | None = None
    aim: float | None = None
    at_least: bool = False
    ratio: bool = True

    def meets(self, target: float | None) -> bool | None:
        """Whether `value` is on the good side of `target`; None when there is none."""
        if target is None:
            return None
        return self.value >= target if self.at_least else self.value <= target

    @property
    def verdict(self) -> str:
        """Whether it meets its targets, in a word or two."""
        if self.must is None and self.aim is None:
            return ""
        if self.meets(self.must) is False:
            return "MISSED"
        if self.meets(self.aim) is False:
            return "met, aim missed"
        return "met, aim too" if self.aim is not None else "met"


def compare(
    name: str,
    pyvmm: float,
    peer: float,
    unit: str = "",
    *,
    peer_name: str = "QEMU",
    must: float | None = None,
    aim: float | None = None,
    at_least: bool = False,
) -> Row:
    """`pyvmm` in proportion to `peer`."""
    return Row(name, pyvmm / peer if peer else math.nan, unit, pyvmm, peer, peer_name, must, aim, at_least)


def absolute(name: str, value: float, unit: str = "", must: float | None = None, aim: float | None = None) -> Row:
    """A figure that has no peer."""
    return Row(name, value, unit, pyvmm=value, must=must, aim=aim, ratio=False)


def median(runs: list[dict[str, Any]], name: str) -> float:
    """The median of the figure `name` of each run."""
    return float(statistics.median(run[name] for run in runs))


def mean(rows: Iterable[Row]) -> float:
    """The geometric mean of ratios."""
    return math.exp(statistics.fmean(math.log(row.value) for row in rows))
