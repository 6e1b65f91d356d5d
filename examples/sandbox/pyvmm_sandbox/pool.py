"""Sandboxes that are ready before a program needs them: they are started in the background."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_sandbox.errors import SandboxError, SandboxGone, UsageError
from pyvmm_sandbox.image_version import version_of
from pyvmm_sandbox.sandbox import Sandbox
from pyvmm_sandbox.template import Template

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

_LARGEST = 1000


class _Ready(NamedTuple):
    box: Sandbox
    version: str


class SandboxPool:
    """Keeps sandboxes ready.  Those that :meth:`take` returns are the caller's; at the end of the block the pool kills
    the others.

    :param source: a template, the name of an image, or a folder with a root file system
    :param size: how many wait at most
    :param starting: how many are started at a time
    :param timeout: seconds after which a sandbox is killed, counted from :meth:`take`; None: never
    :param options: of :meth:`Template.start` or of :class:`Sandbox`
    :raises UsageError: the numbers do not fit together
    :ivar size: likewise
    """

    def __init__(
        self,
        source: Template | str,
        *,
        size: int = 4,
        starting: int = 2,
        timeout: float | None = 300,
        **options: Any,
    ) -> None:
        if not 1 <= size <= _LARGEST or not 1 <= starting <= _LARGEST:
            raise UsageError(f"size {size} and starting {starting} are not 1 to {_LARGEST}")
        if options.get("detach") or options.get("name"):
            raise UsageError("sandboxes of a pool end with this process", hint="leave name= and detach= out")
        self.size = size
        self._source: _TemplateSource | _ImageSource = (
            _TemplateSource(source, options) if isinstance(source, Template) else _ImageSource(source, options)
        )
        self._timeout = timeout
        self._changed = threading.Condition()
        self._ready: deque[_Ready] = deque()
        self._starting = 0
        self._takers = 0
        self._error: BaseException | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._fill, name="sandbox pool", daemon=True) for _ in range(min(starting, size))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, timeout: float | None = None) -> Sandbox:
        """A sandbox that runs; if none is ready, the next one that is.

        The pool drops sandboxes that have ended, or whose image or template has changed meanwhile.

        :param timeout: seconds to wait; None: no limit
        :raises SandboxError: a sandbox cannot be started; the cause is the error of the start
        :raises TimeoutError: none was ready in time
        :raises UsageError: the pool is closed
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._next(deadline)
            try:
                if found.version == self._source.version() and found.box.is_running:
                    found.box.set_timeout(self._timeout)
                    return found.box
            except SandboxGone:
                pass  # it has ended just now
            except BaseException:
                found.box.kill()  # the template was removed
                raise
            found.box.kill()

    def _next(self, deadline: float | None) -> _Ready:
        with self._changed:
            self._takers += 1
            try:
                self._changed.notify_all()
                while not self._ready:
                    if self._closed:
                        raise UsageError("the pool is closed")
                    if self._error is not None:
                        error, self._error = self._error, None
                        raise SandboxError(f"no sandbox could be started: {error}", hint=_hint(error)) from error
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError("no sandbox was ready in time")
                    self._changed.wait(left)
                return self._ready.popleft()
            finally:
                self._takers -= 1
                self._changed.notify_all()

    @property
    def ready(self) -> int:
        """How many wait now."""
        return len(self._ready)

    def close(self) -> None:
        """Kill those that wait, and start no more.  A second call does nothing."""
        with self._changed:
            self._closed = True
            left = list(self._ready)
            self._ready.clear()
            self._changed.notify_all()
        for each in left:
            each.box.kill()
        for thread in self._threads:
            thread.join()

    def _fill(self) -> None:
        """Of a thread: start sandboxes while some are missing."""
        while self._claim():
            made: _Ready | None = None
            error: BaseException | None = None
            try:
                made = self._source.start()
            except Exception as failure:
                error = failure
            with self._changed:
                self._starting -= 1
                self._error = error
                if made is not None and not self._closed:
                    self._ready.append(made)
                    made = None
                self._changed.notify_all()
            if made is not None:
                made.box.kill()

    def _claim(self) -> bool:
        """Wait until one is missing; False: the pool is closed.

        After an error, the next try waits for a caller to have seen the error.
        """
        with self._changed:
            while not self._closed:
                missing = max(self.size, self._takers) - len(self._ready) - self._starting
                if missing > 0 and self._error is None:
                    self._starting += 1
                    return True
                self._changed.wait()
            return False

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SandboxPool of {self.size}, {self.ready} ready>"


class _ImageSource:
    def __init__(self, image: str, options: dict[str, Any]) -> None:
        self._image, self._options = image, options

    def version(self) -> str:
        return version_of(self._image)

    def start(self) -> _Ready:
        version = self.version()
        box = Sandbox(self._image, timeout=None, **self._options)
        return _Ready(box, version or self.version())  # the start has pulled an image that was unknown


class _TemplateSource:
    def __init__(self, template: Template, options: dict[str, Any]) -> None:
        self._folder, self._options = template.folder, options
        self._building = threading.Lock()

    def version(self) -> str:
        template = Template(self._folder)
        return template.record["saved"] if template.is_current else ""

    def start(self) -> _Ready:
        while True:
            with self._building:
                template = Template(self._folder)
                if not template.is_current:
                    template = template.rebuild()
            version = template.record["saved"]
            try:
                return _Ready(template.start(timeout=None, **self._options), version)
            except Exception:
                if self.version() == version:
                    raise  # otherwise it was replaced meanwhile


def _hint(error: BaseException) -> str:
    return str(getattr(error, "hint", ""))
