"""Runs inside a sandbox: pytest, which has collected the tests and set up the fixtures of the session, and then waits.

The plug-in starts it with ``python3 -c`` and the text of this file, which therefore imports nothing of the package. Its
exit status is 0 when the process that waits is ready. Each copy of the sandbox has that process, and runs one test.

A connection has one request, a line of JSON, and its answers, lines of JSON, the last of which is ``{"done": true}``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import traceback
from typing import Any

import pytest

OPTIONS = ("--fork-vm-image", "--fork-vm-jobs", "--fork-vm-timeout")
SETTINGS = ("fork_vm_image", "fork_vm_memory", "fork_vm_network", "fork_vm_python", "fork_vm_setup")
LOG_MOST = 8 << 10
MEMORY = "/dev/shm"
"""Where files without a name are opened that stay open: a sandbox cannot be copied while it has one on its root."""


class Hooks:
    """What conftest.py can implement."""

    @pytest.hookspec(firstresult=True)
    def pytest_fork_vm_options(self, config: Any) -> dict[str, Any] | None:
        """More options of the :class:`~pyvmm_sandbox.Sandbox` that is warmed: ``volumes``, ``env``, ``cpus``."""


class Server:
    """A plug-in of pytest that replaces its loop.

    :param ready: is called when it listens
    """

    def __init__(self, listener: socket.socket, ready: Any) -> None:
        self.listener, self.ready = listener, ready
        self.config: Any = None
        self.client: Any = None
        self.early: list[dict[str, Any]] = []
        self.deselected = 0
        self.printed = ("", "")

    def pytest_addhooks(self, pluginmanager: Any) -> None:
        pluginmanager.add_hookspecs(Hooks)

    def pytest_addoption(self, parser: Any) -> None:
        """The host's plug-in has acted on them."""
        parser.addoption("--fork-vm", action="store_true")
        for name in OPTIONS:
            parser.addoption(name)
        for name in SETTINGS:
            parser.addini(name, name)

    def pytest_configure(self, config: Any) -> None:
        self.config = config
        tempfile.tempdir = None  # pytest has opened those of its capture; tests have the usual place

    def pytest_deselected(self, items: list[Any]) -> None:
        self.deselected += len(items)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed or report.skipped:
            self.send({"collect": self.plain(report)})

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.send({"test": self.plain(report)})

    def pytest_warning_recorded(self, warning_message: Any, when: str, nodeid: str, location: Any) -> None:
        message = warning_message.message
        kind = type(message) if isinstance(message, Warning) else warning_message.category
        named = [kind.__module__, kind.__qualname__, str(message), warning_message.filename, warning_message.lineno]
        self.send({"warning": named, "when": when, "nodeid": nodeid, "location": location})

    def plain(self, report: Any) -> Any:
        return self.config.hook.pytest_report_to_serializable(config=self.config, report=report)

    def send(self, event: dict[str, Any]) -> None:
        if self.client is None:
            self.early.append(event)
        else:
            self.client.sendall(json.dumps(event, default=str).encode() + b"\n")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        self.warm(session)
        self.ready()
        while True:
            self.client, _ = self.listener.accept()
            with self.client, self.client.makefile("rb") as lines:
                self.answer(session, json.loads(lines.readline() or b"{}"))
            self.client = None

    def answer(self, session: Any, request: dict[str, Any]) -> None:
        try:
            if "run" in request:
                if request.get("process") and os.fork():
                    return
                self.run(session, request["run"])
            else:
                items = [[item.nodeid, list(item.location)] for item in session.items]
                self.send({"items": items, "deselected": self.deselected})
                for event in self.early:
                    self.send(event)
            self.send_coverage()
            self.send({"done": True})
        except OSError:
            pass  # the host has gone
        if request.get("process"):
            os._exit(0)

    def warm(self, session: Any) -> None:
        """Set up what lives as long as the session; an error of a fixture is one of each test that uses it."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        capture.resume_global_capture()
        active = session._setupstate
        active.setup(session)
        for item in session.items:
            request = getattr(item, "_request", None)
            definitions = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
            names = [name for name, found in definitions.items() if found and is_warm(found[-1])]
            if request is None or not names:
                continue
            active.stack[item] = ([], None)  # fixtures are set up for tests that run
            for name in names:
                try:
                    request._get_active_fixturedef(name)
                except BaseException as error:
                    if isinstance(error, (KeyboardInterrupt, SystemExit)):
                        raise
            del active.stack[item]
            item._initrequest()
        capture.suspend_global_capture()
        self.printed = capture.read_global_capture()

    def run(self, session: Any, index: int) -> None:
        item = session.items[index]
        for name, text in zip(("stdout", "stderr"), self.printed, strict=True):
            if index == 0 and text:  # the first test sets the fixtures up, where all run in one process
                item.add_report_section("setup", name, text)
        following = session.items[index + 1] if index + 1 < len(session.items) else None
        try:
            self.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        except BaseException as error:  # pytest.exit()
            self.send({"exit": str(error) or type(error).__name__})

    def send_coverage(self) -> None:
        """As numbers: the host must not run SQL of a sandbox, which coverage's own format is."""
        coverage = sys.modules.get("coverage")
        current = coverage.Coverage.current() if coverage is not None else None
        if current is None:
            return
        data = current.get_data()
        for context in sorted(data.measured_contexts()):
            data.set_query_context(context)
            found = {path: data.arcs(path) if data.has_arcs() else data.lines(path) for path in data.measured_files()}
            self.send({"coverage": found, "context": context, "arcs": data.has_arcs()})


def is_warm(fixture: Any) -> bool:
    """Its value is the same for all tests."""
    return str(fixture.scope) == "session" and fixture.params is None


def serve(port: int, arguments: list[str], ready: Any) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    os.environ["COVERAGE_FILE"] = os.path.join(tempfile.mkdtemp(prefix="coverage-"), "data")
    sys.argv = ["pytest", *arguments]
    pytest.main(
        ["-p", "no:pyvmm_sandbox", "-p", "no:xdist", *arguments, "--capture=fd"], plugins=[Server(listener, ready)]
    )


def main(port: int, arguments: list[str]) -> None:
    wait, tell = os.pipe()
    if os.access(MEMORY, os.W_OK):
        tempfile.tempdir = MEMORY
    with tempfile.TemporaryFile() as log:
        if os.fork():
            os.close(tell)
            if not os.read(wait, 1):
                log.seek(max(os.fstat(log.fileno()).st_size - LOG_MOST, 0))
                sys.exit(log.read().decode(errors="replace"))
            os._exit(0)
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (log.fileno(), 1), (log.fileno(), 2)):
            os.dup2(fd, target)
        os.close(wait)
        try:
            serve(port, arguments, lambda: os.write(tell, b"1"))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)  # it ends before it was ready, as of a wrong option


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
