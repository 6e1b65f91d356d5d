"""Which tests run where: those marked `guest` need KVM that can run a guest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.driver import Guest
from tests.lab.kvm import why_unusable

# Tests of devices that go through virtqueues: those of a module run with both formats by
# pytestmark = pytest.mark.usefixtures("virtqueues")
FORMATS = ("split", "packed")
OUTCOMES = ("passed", "failed", "skipped", "deselected", "xfailed", "xpassed", "error")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip guest tests, with the way to run them, where no guest can run."""
    reason = why_unusable()
    if reason is None:
        return
    way = "run them in the lab: `make test`, or python -m tests.lab run -- .venv/bin/pytest tests/guest"
    for item in items:
        if item.get_closest_marker("guest"):
            item.add_marker(pytest.mark.skip(reason=f"no usable KVM here ({reason}); {way}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Leave the numbers for tools/run_tests.py."""
    if path := os.environ.get("PYVMM_TEST_COUNTS"):
        stats = terminalreporter.stats
        Path(path).write_text(json.dumps({name: len(stats[name]) for name in OUTCOMES if name in stats}))


@pytest.fixture(params=FORMATS)
def virtqueues(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The format of the queues of all :class:`tests.driver.Guest`."""
    monkeypatch.setattr(Guest, "packed", request.param == "packed")
    return str(request.param)
