"""The session of ``pytest --fork-vm``: what sandboxes report becomes the reports of this pytest."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pyvmm_sandbox import pytest_server
from pyvmm_sandbox.errors import SandboxError
from pyvmm_sandbox.lines import read_lines
from pyvmm_sandbox.sandbox import Sandbox
from vmm import VmmError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

PORT = 48889
"""The port of the sandbox's loopback interface where its pytest listens."""
PROCESSES = False
"""The copies run their tests in processes that they fork: for machines of tests, which share one pytest."""
_MOST = 256 << 20
"""Bytes of the answers to one request."""


class Item(NamedTuple):
    """A test that the sandbox has collected."""

    nodeid: str
    location: tuple[str, int | None, str]


class ForkVm:
    """A plug-in that replaces the collection and the loop."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self._box: Sandbox | None = None
        self._items: list[Item] = []
        self._forking = threading.Lock()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = False

    # -- hooks -------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Nothing of the tests is imported here."""
        try:
            self._box = self._start()
            events = list(self._ask(self._box, {}, None))
        except (VmmError, OSError) as error:
            hint = getattr(error, "hint", "")
            raise pytest.UsageError(f"--fork-vm: {error}{f' ({hint})' if hint else ''}") from error
        for event in events:
            if "items" in event:
                self._items = [Item(nodeid, tuple(location)) for nodeid, location in event["items"]]
                self._announce(event["deselected"])
            self._take(event)
        session.testscollected = len(self._items)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed and not session.config.getoption("continue_on_collection_errors"):
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        if session.config.getoption("collectonly"):
            for item in self._items:
                self._write(item.nodeid)
            return True
        done: queue.SimpleQueue[tuple[Item, list[dict[str, Any]] | BaseException]] = queue.SimpleQueue()
        with ThreadPoolExecutor(self.config.getoption("fork_vm_jobs"), "fork-vm") as threads:
            try:
                for index in range(len(self._items)):
                    threads.submit(self._run, index, done)
                for _ in self._items:
                    self._report(*done.get())
                    if session.shouldfail:
                        raise session.Failed(session.shouldfail)
                    if session.shouldstop:
                        raise session.Interrupted(session.shouldstop)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                self._end()
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._end()
        if self._box is not None:
            self._box.kill()

    # -- sandboxes ---------------------------------------------------------------------------------------------------

    def _start(self) -> Sandbox:
        """The sandbox that has collected and is warm."""
        config = self.config
        folders = {str(config.rootpath): None, str(config.invocation_params.dir): None}
        options = {
            "memory": config.getini("fork_vm_memory") or "1G",
            "network": config.getini("fork_vm_network") or "none",
            **(config.hook.pytest_fork_vm_options(config=config) or {}),
        }
        volumes = [f"{folder}:{folder}:ro" for folder in folders]
        options["volumes"] = [*volumes, *options.get("volumes", ())]
        image = config.getoption("fork_vm_image") or config.getini("fork_vm_image")
        box = Sandbox(image, timeout=None, **options)
        try:
            for command in config.getini("fork_vm_setup"):
                box.run(command, timeout=None, check=True)
            with open(pytest_server.__file__, encoding="utf-8") as file:
                python = [config.getini("fork_vm_python") or "python3", "-c", file.read(), str(PORT)]
            arguments = map(str, config.invocation_params.args)
            done = box.run(
                [*python, *arguments],
                timeout=None,
                cwd=str(config.invocation_params.dir),
                env={"PYTHONDONTWRITEBYTECODE": "1", "PY_COLORS": "0"},
            )
            if done.exit_code:
                raise SandboxError(f"pytest does not start in {image}:\n{(done.stderr or done.stdout).strip()}")
        except BaseException:
            box.kill()
            raise
        return box

    def _run(self, index: int, done: queue.SimpleQueue[Any]) -> None:
        """Of a thread: run a test in a copy."""
        item = self._items[index]
        try:
            with self._forking:
                if self._ended:
                    return
                assert self._box is not None
                (copy,) = self._box.fork()
            with copy:
                request = {"run": index, "process": PROCESSES}
                done.put((item, list(self._ask(copy, request, self.config.getoption("fork_vm_timeout")))))
        except BaseException as error:
            done.put((item, error))

    def _ask(self, box: Sandbox, request: dict[str, Any], limit: float | None) -> Iterator[dict[str, Any]]:
        """The answers to a request.

        :raises SandboxError: they end early
        :raises TimeoutError: they do not end in time
        """
        deadline = None if limit is None else time.monotonic() + limit
        with box.ports.connect(PORT) as sock:
            with self._lock:
                if self._ended:
                    return
                self._open.add(sock)
            try:
                sock.sendall(json.dumps(request).encode() + b"\n")
                for line in read_lines(sock, deadline, line_most=_MOST, most=_MOST):
                    event = json.loads(line)
                    if "done" in event:
                        return
                    yield event
            except TimeoutError:
                raise TimeoutError(f"the test did not end in {limit:g} s") from None
            finally:
                with self._lock:
                    self._open.discard(sock)
        raise SandboxError("the sandbox ended while it ran the test")

    def _end(self) -> None:
        """End what runs."""
        import socket

        with self._lock:
            self._ended = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    # -- reports -----------------------------------------------------------------------------------------------------

    def _report(self, item: Item, found: list[dict[str, Any]] | BaseException) -> None:
        hook = self.config.hook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        try:
            if isinstance(found, BaseException):
                raise found
            for event in found:
                self._take(event, item)
        except pytest.exit.Exception:
            raise
        except Exception as error:  # also of plug-ins that get what no pytest sends
            words = f"{item.nodeid}: {error}"
            report = pytest.TestReport(item.nodeid, item.location, {}, "failed", words, "call")
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _take(self, event: dict[str, Any], item: Item | None = None) -> None:
        """Its sender is not trusted: it can report its own test alone."""
        hook = self.config.hook
        if "test" in event and item is not None:
            report = self._restored(event["test"])
            report.nodeid, report.location = item
            hook.pytest_runtest_logreport(report=report)
            if self.config.getoption("capture") == "no" and report.when == "teardown":
                self._write(report.capstdout + report.capstderr)
        elif "collect" in event:
            if item is not None:
                raise ValueError("it reports a collection")
            hook.pytest_collectreport(report=self._restored(event["collect"]))
        elif "warning" in event:
            location = tuple(event["location"]) if event["location"] else None
            hook.pytest_warning_recorded.call_historic(
                kwargs={
                    "warning_message": _warning(*event["warning"]),
                    "when": event["when"],
                    "nodeid": event["nodeid"],
                    "location": location,
                }
            )
        elif "coverage" in event:
            self._add_coverage(event["coverage"], event["context"], event["arcs"])
        elif "exit" in event:
            pytest.exit(event["exit"])

    def _restored(self, data: dict[str, Any]) -> Any:
        report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
        for name in ("longrepr", "location"):  # JSON has no tuples
            if isinstance(getattr(report, name, None), list):
                setattr(report, name, tuple(getattr(report, name)))
        report.sections = [tuple(each) for each in report.sections]
        return report

    def _add_coverage(self, found: dict[str, list[Any]], context: str, arcs: bool) -> None:
        """As a file beside that of pytest-cov, which combines them at its end."""
        plugin = self.config.pluginmanager.getplugin("_cov")
        measuring = getattr(getattr(plugin, "cov_controller", None), "cov", None)
        if measuring is None:
            return
        from coverage import CoverageData

        measuring._warn_no_data = False
        made = CoverageData(os.path.abspath(measuring.config.data_file), suffix=True)
        made.set_context(context)
        if arcs:
            made.add_arcs({path: [(int(start), int(end)) for start, end in pairs] for path, pairs in found.items()})
        else:
            made.add_lines({path: [int(line) for line in lines] for path, lines in found.items()})
        made.write()
        made.close()

    def _announce(self, deselected: int) -> None:
        count = len(self._items)
        words = f"collected {count + deselected} items" + (f" / {deselected} deselected" if deselected else "")
        self._write(f"{words}; each runs in a copy of {self._box}")
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and deselected:
            reporter.stats.setdefault("deselected", []).extend([None] * deselected)

    def _write(self, text: str) -> None:
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and text:
            reporter.ensure_newline()
            reporter.write_line(text.rstrip("\n"))


def _warning(module: str, name: str, text: str, filename: str, line: int) -> warnings.WarningMessage:
    """One whose class this process has not imported is a UserWarning."""
    kind: Any = UserWarning
    if module in ("builtins", "pytest"):
        kind = getattr(importlib.import_module(module), name, UserWarning)
    if not (isinstance(kind, type) and issubclass(kind, Warning)):
        kind = UserWarning
    prefix = "" if kind.__name__ == name else f"{name}: "
    return warnings.WarningMessage(prefix + text, kind, filename, line)
