"""Command lines of podman's as data: lines of a group are run one after the other, and most are a case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.conformance.suite import Case, Observation, Script

SCRIPT = Script()
SETUP = ""


class Line(NamedTuple):
    """One command.

    :param name: of the case, SETUP when the line is none
    :param command: words as a shell reads them, without `podman`; a host's command begins with `!`. ``{dir}`` is the
        folder of the scene
    :param status: what it ends with
    :param out: pattern that its output has; None: any
    :param err: the same of its standard error
    :param not_out: pattern that its output lacks
    :param stdin: what it gets
    :param until: repeat it until the output has the pattern of `out`
    :param volatile: its output need not be the same as with crun
    :param lines: "sorted": the order of its lines does not matter
    """

    name: str
    must: str
    command: str
    status: str = "0"
    out: str | None = None
    err: str | None = None
    not_out: str | None = None
    stdin: str = ""
    until: bool = False
    volatile: bool = False
    order: bool = True


def do(command: str, **more: Any) -> Line:
    """A line that is no case."""
    return Line(SETUP, "", command, **more)


def line(name: str, must: str, command: str, **more: Any) -> Line:
    """A line that is a case."""
    return Line(f"podman/{name}", must, command, **more)


def holds(text: str | None, pattern: str | None) -> bool:
    """Whether the pattern, if there is one, occurs in what was seen."""
    return pattern is None or (text is not None and re.search(pattern, text, re.MULTILINE) is not None)


def as_case(one: Line) -> Case:
    """The case of a line."""

    def check(seen: Observation) -> bool:
        key = one.name
        return (
            seen.get(f"{key} $?") == one.status
            and holds(seen.get(key), one.out)
            and holds(seen.get(f"{key} 2>"), one.err)
            and (one.not_out is None or not holds(seen.get(key), one.not_out))
        )

    return Case(one.name, one.must, check, () if one.volatile else (one.name,))


def group(name: str, lines: Sequence[Line], *, third: bool = False) -> None:
    """A scene of lines."""

    def play(box: Any) -> Observation:
        seen: Observation = box.seen
        for number, one in enumerate(lines):
            status, out, err = box.line(one)
            key = one.name or f"line {number}"
            seen |= {f"{key} $?": status, key: out, f"{key} 2>": err}
        return seen

    play.__name__ = name
    SCRIPT.scene(*(as_case(one) for one in lines if one.name), third=third)(play)
