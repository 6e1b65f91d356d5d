"""Runs tests, natively or on the Sentry: ``python3 inside.py`` with a request, JSON on standard input.

It prints a line of JSON when a test begins, and one with its outcome. A request has either `module`, tests for Python's
unittest, or `commands`, programs whose statuses `words` names. If a test of a module takes too long, the process exits:
the caller starts another without the tests that have begun. Only modules of Python itself are imported.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator
from typing import Any

MARK = "@"
"""Begins a line of this program, beside what tests print."""
DETAIL = 1500
_results = os.fdopen(os.dup(1), "w")  # a descriptor of its own: tests close, replace and capture their standard output


def tell(**what: object) -> None:
    """Print a line for the caller."""
    _results.write(f"\n{MARK}{json.dumps(what)}\n")
    _results.flush()


class Outcomes(unittest.TestResult):
    """Prints what each test of a module gave."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._outcome = ("pass", "")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome = ("pass", "")
        tell(begins=test.id())
        faulthandler.dump_traceback_later(self._seconds, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        tell(ended=test.id(), outcome=self._outcome[0], detail=self._outcome[1])

    def _note(self, test: unittest.TestCase, outcome: str, text: str) -> None:
        if isinstance(test, unittest.TestCase):
            self._outcome = (outcome, text[-DETAIL:])
        else:  # the set-up of a class or module
            tell(ended=str(test), outcome=outcome, detail=text[-DETAIL:])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._note(test, "fail", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._note(test, "skip", reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._note(test, "fail", "unexpected success")


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite and of those in it."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from cases(each)
        else:
            yield each


def run_module(name: str, seconds: float, only: list[str], skip: list[str]) -> None:
    """Run the tests of a module: those of *only*, if it names some, without those of *skip*."""
    from test import support  # type: ignore[import-not-found]

    support.use_resources = ()
    tests = list(cases(unittest.TestLoader().loadTestsFromName(name)))
    chosen = [test for test in tests if test.id() not in skip and (not only or test.id() in only)]
    unittest.TestSuite(chosen).run(Outcomes(seconds))


def run_command(command: list[str], seconds: float) -> tuple[str, str]:
    """How a program ended, and the end of what it wrote."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = str(process.wait(seconds))
        except subprocess.TimeoutExpired:
            status = "hang"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        output.seek(0)
        return status, output.read()[-DETAIL:].decode(errors="replace")


def main() -> None:
    """Do what the request asks for."""
    request = json.load(sys.stdin)
    with open(os.devnull) as null:
        os.dup2(null.fileno(), 0)
    seconds = float(request["seconds"])
    if "module" in request:
        run_module(request["module"], seconds, request["only"], request["skip"])
    for name, command in request.get("commands", {}).items():
        tell(begins=name)
        status, output = run_command(command, seconds)
        tell(ended=name, outcome=request["words"].get(status, status), detail=output)
    tell(done=True)
    os._exit(0)  # threads that tests left behind do not matter


if __name__ == "__main__":
    main()
