"""Python code that runs in a kernel inside a sandbox, which keeps its state: ``box.run_code()``, ``box.contexts``."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_sandbox import kernel_server
from pyvmm_sandbox.commands import OUTPUT_MOST
from pyvmm_sandbox.errors import CodeTimeout, SandboxError, UsageError
from pyvmm_sandbox.lines import read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyvmm_sandbox.commands import Result
    from pyvmm_sandbox.ports import Ports

    Feed = Callable[[str], object]

PORT = 48888
"""The port of the sandbox's loopback interface where the kernels' server listens."""
DEFAULT = kernel_server.DEFAULT
RESULTS_MOST = 64 << 20
"""Bytes of the results that one execution keeps."""
_LINE_MOST = 2 * kernel_server.RESULT_MOST
_START_S = 2 * kernel_server.START_S
_NO_PROGRAM = (126, 127)


class Context(NamedTuple):
    """A kernel with its state.

    :ivar id: for *context* of :meth:`Sandbox.run_code`
    :ivar cwd: where it started; empty: where commands start
    """

    id: str
    cwd: str


class Bundle(NamedTuple):
    """Something that code shows: the same in several forms.

    :ivar data: each form by its MIME type, as Jupyter has it: texts, base64 of images, JSON as objects
    :ivar is_main: it is the value of the last line; otherwise it was displayed
    """

    data: Mapping[str, Any]
    is_main: bool

    @property
    def text(self) -> str:
        """As plain text."""
        return str(self.data.get("text/plain", ""))

    @property
    def html(self) -> str:
        """As HTML; empty: it has no such form."""
        return str(self.data.get("text/html", ""))

    @property
    def png(self) -> bytes:
        """As an image; empty: it has no such form."""
        try:
            return base64.b64decode(str(self.data.get("image/png", "")))
        except ValueError:
            return b""

    @property
    def json(self) -> Any:
        """As JSON; None: it has no such form."""
        return self.data.get("application/json")


class CodeError(NamedTuple):
    """The exception that ended code; ``KernelDied``: its kernel has ended, and its state is lost.

    :ivar name: of its type
    :ivar traceback: with the colours of a terminal
    """

    name: str
    value: str
    traceback: str


@dataclass(frozen=True)
class Execution:
    """What code has done.

    :ivar results: what it has shown, in order
    :ivar stdout: what it has printed
    :ivar stderr: likewise
    :ivar error: the exception that ended it
    :ivar count: the number of the execution in its context
    :ivar truncated: there was more than was kept
    """

    results: tuple[Bundle, ...] = ()
    stdout: str = ""
    stderr: str = ""
    error: CodeError | None = None
    count: int = 0
    truncated: bool = False

    @property
    def text(self) -> str:
        """The value of the last line, as text; empty: it has none."""
        return next((each.text for each in self.results if each.is_main), "")


class Contexts:
    """The kernels of a sandbox: ``box.contexts``.  Copies of the sandbox have copies of them.

    :param run: runs a command to its end
    """

    def __init__(self, run: Callable[[list[str]], Result], ports: Ports) -> None:
        self._run = run
        self._ports = ports
        self._starting = threading.Lock()

    def create(self, *, cwd: str = "", env: Mapping[str, str] | None = None) -> Context:
        """A new one.

        :param cwd: where it starts
        :param env: more variables
        :raises UsageError: the image has no Python, or no ipykernel
        """
        return _context(self._request({"op": "create", "cwd": cwd, "env": dict(env or {})}))

    def entries(self) -> list[Context]:
        """All of them."""
        try:
            sock = self._ports.connect(PORT)
        except ConnectionRefusedError:
            return []
        with sock:
            answer = _answer(sock, {"op": "list"})
        found = answer.get("contexts")
        return [_context({"context": each}) for each in (found if isinstance(found, list) else [])]

    def restart(self, context: Context | str = DEFAULT) -> None:
        """End its code and start it again, without state."""
        self._request({"op": "restart", "context": id_of(context)})

    def remove(self, context: Context | str = DEFAULT) -> None:
        """End it."""
        self._request({"op": "remove", "context": id_of(context)})

    def _request(self, request: dict[str, Any]) -> dict[str, Any]:
        with self.connect() as sock:
            return _answer(sock, request)

    def connect(self) -> socket.socket:
        """A connection to the kernels' server, which is started if there is none."""
        with self._starting:
            with contextlib.suppress(ConnectionRefusedError):
                return self._ports.connect(PORT)
            with open(kernel_server.__file__, encoding="utf-8") as file:
                done = self._run(["python3", "-c", file.read(), str(PORT)])
            if done.exit_code == kernel_server.MISSING:
                raise UsageError(f"the image has no ipykernel: {done.stderr.strip()}", hint="pip install ipykernel")
            if done.exit_code in _NO_PROGRAM:
                raise UsageError("the image has no python3", hint='use one that has, as "python:3.13"')
            if done.exit_code not in (0, kernel_server.BUSY):
                words = done.stderr.strip()[-500:] or f"it has ended with status {done.exit_code}"
                raise SandboxError(f"the kernels' server does not start: {words}")
            return self._ports.connect(PORT)

    list = entries


class Running:
    """Code that runs, and what it has shown until now, up to limits."""

    def __init__(
        self,
        *,
        on_stdout: Feed | None = None,
        on_stderr: Feed | None = None,
        on_result: Callable[[Bundle], object] | None = None,
        max_output: int = OUTPUT_MOST,
    ) -> None:
        self._feeds = {"stdout": on_stdout, "stderr": on_stderr}
        self._on_result = on_result
        self._texts: dict[str, list[str]] = {name: [] for name in self._feeds}
        self._room = dict.fromkeys(self._feeds, max_output)
        self._results: list[Bundle] = []
        self._results_room = RESULTS_MOST
        self._error: CodeError | None = None
        self._truncated = False
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._stopped = False

    def run(self, contexts: Contexts, code: str, context: Context | str | None, timeout: float | None) -> Execution:
        """See :meth:`Sandbox.run_code`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        request = {"op": "run", "context": DEFAULT if context is None else id_of(context), "code": code}
        with contexts.connect() as sock:
            with self._lock:
                self._sock = None if self._stopped else sock
            try:
                for event, size in _events(sock, request, deadline) if self._sock else ():
                    _check(event)
                    if "done" in event:
                        return self._execution(event["done"] if isinstance(event["done"], int) else 0)
                    self._take(event, size)
            except TimeoutError:
                words = f"the code did not end in {timeout:g} s and was interrupted"
                raise CodeTimeout(words, self._execution(), "raise its timeout=") from None
            finally:
                with self._lock:
                    self._sock = None
        raise _ended()

    def stop(self) -> None:
        """Interrupt it, from another thread."""
        with self._lock:
            self._stopped = True
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)

    def _take(self, event: dict[str, Any], size: int) -> None:
        """
        :param size: of the line with the event
        """
        for name, feed in self._feeds.items():
            if name in event:
                text = str(event[name])
                room = self._room[name]
                self._texts[name].append(text[:room])
                self._room[name] = max(room - len(text), 0)
                self._truncated = self._truncated or len(text) > room
                if feed is not None:
                    feed(text)
        if isinstance(event.get("result"), dict):
            self._take_result(Bundle(event["result"], bool(event.get("main"))), size)
        if isinstance(event.get("error"), dict):
            self._error = CodeError(*(str(event["error"].get(key, "")) for key in CodeError._fields))

    def _take_result(self, bundle: Bundle, size: int) -> None:
        if size <= self._results_room:
            self._results_room -= size
            self._results.append(bundle)
        else:
            self._truncated = True
        if self._on_result is not None:
            self._on_result(bundle)

    def _execution(self, count: int = 0) -> Execution:
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        return Execution(tuple(self._results), **texts, error=self._error, count=count, truncated=self._truncated)


def id_of(context: Context | str) -> str:
    """Its id."""
    return context if isinstance(context, str) else context.id


def _answer(sock: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    try:
        for event, _ in _events(sock, request, time.monotonic() + _START_S):
            return _check(event)
    except TimeoutError as error:
        raise SandboxError(f"the kernels' server does not answer in {_START_S:g} s") from error
    raise _ended()


def _ended() -> SandboxError:
    return SandboxError("the kernels' server has ended", hint="it may have run out of memory")


def _check(event: dict[str, Any]) -> dict[str, Any]:
    if "unknown" in event:
        raise UsageError(f"no context {event['unknown']!r:.80}", hint="box.contexts.create() makes one")
    if "failed" in event:
        raise SandboxError(f"the kernel cannot be used: {str(event['failed'])[:500]}")
    return event


def _context(answer: dict[str, Any]) -> Context:
    found = answer.get("context")
    if not isinstance(found, dict):
        raise SandboxError("the kernels' server sent something else than a context")
    return Context(str(found.get("name", "")), str(found.get("cwd", "")))


def _events(
    sock: socket.socket, request: dict[str, Any], deadline: float | None
) -> Iterator[tuple[dict[str, Any], int]]:
    """The answers to a request, with the sizes of their lines.  The sender is not trusted.

    :raises TimeoutError: there is no end before *deadline*
    :raises SandboxError: it sends something else
    """
    threading.Thread(target=_send, args=(sock, json.dumps(request).encode() + b"\n"), daemon=True).start()
    for line in read_lines(sock, deadline, line_most=_LINE_MOST):
        yield _parse(line), len(line)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SandboxError("the kernels' server sent no JSON") from error
    if not isinstance(event, dict):
        raise SandboxError("the kernels' server sent no object")
    return event


def _send(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it has ended, or the time is over
        sock.sendall(data)
