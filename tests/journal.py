"""A pytest plugin for tools/run_tests.py: writes down which test starts and ends, and goes on where a run broke off.

Loaded by ``-p tests.journal``, with a file's name in PYVMM_TEST_JOURNAL.  Each line of the file is one JSON object:
``{"test": NODEID, "started": true}``, and at its end ``{"test": NODEID, "outcomes": {"passed": 1}, "seconds": 2}``
with the time of its setup, itself and its teardown, and with ``"error"``, the end of its report, if it failed.  What
was said of a test so far is void from ``{"test": NODEID, "again": true}`` on.

With workers (pytest-xdist) only the process that gives them tests writes, and tells each what has ended before the run:
they must all find the same tests, one that takes the place of a crashed one too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

LINES = 12
"""How much of a report is kept: its end has the error.  The rest is printed when all tests have ended."""
ATTEMPTS = 2
"""How often a test may have been running when everything stopped, before it is to blame."""


def _largest(seconds: dict[str, float], number: int) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])[:number]


class Journal:
    """What has run so far, by this process and those before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: dict[str, dict[str, int]] = {}
        self.starts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            entry = json.loads(line)
            test = entry["test"]
            if "outcomes" in entry:
                self.outcomes[test] = entry["outcomes"]
                self.seconds[test] = entry["seconds"]
                self.errors[test] = entry.get("error", "")
            elif "again" in entry:
                self.outcomes.pop(test, None)
                self.starts.pop(test, None)
            else:
                self.starts[test] = self.starts.get(test, 0) + 1

    def unfinished(self) -> list[str]:
        """The tests that started and did not end."""
        return [test for test in self.starts if test not in self.outcomes]

    def failed(self) -> list[str]:
        """The tests that ended badly."""
        return [test for test, outcomes in self.outcomes.items() if outcomes.keys() & {"failed", "error"}]

    def slowest(self, number: int) -> list[tuple[str, float]]:
        """The tests that took longest, and their seconds."""
        return _largest(self.seconds, number)

    def slowest_files(self, number: int) -> list[tuple[str, float]]:
        """The files whose tests took longest together, and their seconds."""
        files: dict[str, float] = {}
        for test, seconds in self.seconds.items():
            file = test.partition("::")[0]
            files[file] = files.get(file, 0.0) + seconds
        return _largest(files, number)

    def counts(self) -> dict[str, int]:
        """How many tests had which outcome; one that never ended is an error."""
        total = {"error": len(self.unfinished())} if self.unfinished() else {}
        for outcomes in self.outcomes.values():
            for name, count in outcomes.items():
                total[name] = total.get(name, 0) + count
        return total

    def write(self, **entry: object) -> None:
        """Add a line.  Opened each time: whoever looks sees it at once, from outside of the lab too."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Reader:
    """Leaves out what has ended, in the process that runs tests."""

    def __init__(self, ended: Collection[str], stopped: Collection[str]) -> None:
        self.ended = ended
        self.stopped = stopped

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.ended]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.nodeid in self.stopped:
            pytest.fail(f"everything stopped in this test, {ATTEMPTS} times", pytrace=False)


class Writer:
    """Keeps the journal of this run."""

    def __init__(self, journal: Journal, config: pytest.Config) -> None:
        self.journal = journal
        self.config = config
        self.ended = sorted(journal.outcomes)
        self.stopped = sorted(test for test, starts in journal.starts.items() if starts >= ATTEMPTS)
        self.now: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["journal"] = (self.ended, self.stopped)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now[nodeid] = {}
        self.journal.write(test=nodeid, started=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        category = self.config.hook.pytest_report_teststatus(report=report, config=self.config)[0]
        if category:
            now = self.now.setdefault(report.nodeid, {})
            now[category] = now.get(category, 0) + 1
        if report.failed:
            self.errors[report.nodeid] = "\n".join(report.longreprtext.splitlines()[-LINES:])
        if report.when not in ("setup", "call", "teardown"):  # its worker crashed, and will not say that it has ended
            self.pytest_runtest_logfinish(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        seconds = round(self.seconds.pop(nodeid, 0.0), 2)
        error = {"error": self.errors.pop(nodeid)} if nodeid in self.errors else {}
        self.journal.write(test=nodeid, outcomes=self.now.pop(nodeid), seconds=seconds, **error)


def pytest_configure(config: pytest.Config) -> None:
    if worker := getattr(config, "workerinput", None):
        if "journal" in worker:
            config.pluginmanager.register(Reader(*worker["journal"]), "journal-reader")
    elif path := os.environ.get("PYVMM_TEST_JOURNAL"):
        writer = Writer(Journal(Path(path)), config)
        config.pluginmanager.register(writer, "journal-writer")
        config.pluginmanager.register(Reader(writer.ended, writer.stopped), "journal-reader")
