"""Modules of CPython's own tests pass on the Sentry; `make conformance-sentry` runs many more, and other suites."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sentry.conformance.play import PYTHON, play
from tests.sentry.conformance.suites import python_units

UNITS = {unit.name: unit for unit in python_units()}
LIBRARY = Path(f"/usr/lib/{os.path.basename(os.path.realpath(PYTHON))}/test/test_os.py")


@pytest.mark.skipif(os.getuid() != 0 or not LIBRARY.exists(), reason="needs root, and CPython's own tests")
@pytest.mark.parametrize(("name", "least"), [("mmap", 35), ("fileio", 90), ("fcntl", 9), ("epoll", 10), ("wait4", 2)])
def test_a_module_of_cpythons_own_tests_passes(name: str, least: int) -> None:
    found = play(UNITS[name], "trap")
    bad = {test: outcome for test, outcome in found.items() if outcome.word not in ("pass", "skip")}
    assert not bad
    assert sum(outcome.word == "pass" for outcome in found.values()) >= least
