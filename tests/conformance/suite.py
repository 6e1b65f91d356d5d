"""Cases, scenes and verdicts: what the three suites have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

Observation = dict[str, str]
"""What was seen in a scene. Of every scene: `errors`, what its commands wrote to standard error."""
Check = Callable[[Observation], bool]
Verdict = Literal["pass", "fail", "different", "error"]


class Case(NamedTuple):
    """One demand.

    :param name: area/subject, the areas being the headings of the specification: ``config/process/cwd``
    :param must: what is demanded, in one line
    :param compared: what of the observation has to be as with the first reference
    """

    name: str
    must: str
    check: Check
    compared: tuple[str, ...] = ()


class Scene(NamedTuple):
    """Commands, and the cases that look at what came of them.

    :param play: called with the suite's stage for one runtime; it may raise, which is an error of all cases
    :param third: whether it belongs to the third that runs with the tests
    """

    name: str
    play: Callable[[Any], Observation]
    cases: tuple[Case, ...]
    third: bool


class Script:
    """The scenes of a suite, in the order in which they are written."""

    def __init__(self) -> None:
        self.scenes: list[Scene] = []

    def scene(
        self, *cases: Case, third: bool = False
    ) -> Callable[[Callable[[Any], Observation]], Callable[[Any], Observation]]:
        """Decorator: the function plays a scene, which has these cases."""

        def add(play: Callable[[Any], Observation]) -> Callable[[Any], Observation]:
            self.scenes.append(Scene(play.__name__.replace("_", "-"), play, cases, third))
            return play

        return add


def case(name: str, must: str, *checks: Check) -> Case:
    """A case that all of the checks have to hold for."""
    return Case(name, must, lambda seen: all(check(seen) for check in checks))


def equal(key: str, value: str) -> Check:
    """Seen was exactly this."""
    return lambda seen: seen.get(key) == value


def differs(key: str, value: str) -> Check:
    """Seen was something, and not this."""
    return lambda seen: seen.get(key, value) != value


def matches(key: str, pattern: str) -> Check:
    """Seen was something in which the pattern occurs; ^ and $ are of lines."""
    return lambda seen: key in seen and re.search(pattern, seen[key], re.MULTILINE) is not None


def lacks(key: str, pattern: str) -> Check:
    """Seen was something in which the pattern does not occur."""
    return lambda seen: key in seen and re.search(pattern, seen[key], re.MULTILINE) is None


def same(one: str, other: str) -> Check:
    """Both were seen, and are the same."""
    return lambda seen: one in seen and seen[one] == seen.get(other)


def succeeded(key: str = "status") -> Check:
    """The command's status was 0."""
    return equal(key, "0")


def failed(key: str = "status") -> Check:
    """The command had a status, and not 0."""
    return lambda seen: seen.get(key, "0") not in ("0", "timeout")


def refused(key: str) -> Check:
    """A call was answered with an error's code."""
    return lambda seen: seen.get(key, "OK") != "OK"


class Result(NamedTuple):
    """What a scene gave with a runtime; `problem` says why the observation is not whole."""

    seen: Observation
    problem: str
    seconds: float


def judge(demand: Case, result: Result, reference: Result | None = None, difference: Check | None = None) -> Verdict:
    """
    :param reference: what the first reference gave, where it was played
    :param difference: what is seen of a known difference; None: there is none
    """
    if demand.check(result.seen):
        other = reference.seen if reference and not reference.problem else result.seen
        if all(result.seen.get(key) == other.get(key) for key in demand.compared):
            return "pass"
    # A line of podman's has its own errors, other scenes those of all their commands
    errors = result.seen.get(f"{demand.name} 2>", result.seen.get("errors", "") + result.problem)
    if difference is not None and difference({**result.seen, "errors": errors}):
        return "different"
    return "error" if result.problem else "fail"
