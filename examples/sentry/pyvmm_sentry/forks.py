"""A program that was stopped at a point of its life, and children that continue from there, each in a machine of its
own.

A request is a line of JSON on the child's standard input, and its answer the next line of its standard output.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from pyvmm_sentry import boot
from pyvmm_sentry.guest import ERRORS_MOST, Guest, ProgramError, ProgramTimeout, deadline_in
from vmm import ConfigError, ConsoleConfig, Machine

TIMEOUT_S = 30.0
PREPARED = 2
"""Empty machines that wait for children."""
CHILDREN = 256
"""Of a point, the most that :meth:`vmm.Machine.fork_point` permits."""


class Fork:
    """A child: made by :meth:`Template.fork`.  One thread at a time may call it; any may close it."""

    def __init__(self, template: Template, guest: Guest) -> None:
        self._template = template
        self._guest = guest

    def call(self, request: object, timeout: float | None = TIMEOUT_S) -> Any:
        """Send a request; returns the answer.

        :param request: what :func:`json.dumps` accepts
        :param timeout: seconds; None: no limit
        :raises ConfigError: the request is no JSON, or the child was closed
        :raises ProgramTimeout: there was no answer in time. The child is closed
        :raises ProgramError: the program has ended, or its answer is no JSON. The child is closed
        """
        try:
            line = json.dumps(request).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"the request is no JSON: {error}") from error
        try:
            return self._exchange(line, timeout)
        except BaseException:
            self.close()
            raise

    def _exchange(self, request: bytes, timeout: float | None) -> Any:
        try:
            answer = self._guest.line(deadline_in(timeout), request)
        except ProgramTimeout as error:
            text = f"the program has not answered after {timeout:g} s"
            raise ProgramTimeout(text, stderr=error.stderr, hint="give it more: timeout=") from None
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise ProgramError(
                f"the program answered {answer[:80]!r}: {error}",
                stderr=self.stderr,
                hint="it must write each answer as one line of JSON, and nothing else, to standard output",
            ) from error

    @property
    def machine(self) -> Machine:
        """That of the child.

        :raises ConfigError: the child was closed
        """
        return self._guest.machine

    @property
    def stderr(self) -> bytes:
        """The last of what the program wrote to standard error, as far as calls have read it."""
        return bytes(self._guest.stderr)

    def close(self) -> None:
        """End the child.  A second call does nothing."""
        self._guest.close()
        self._template.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _closed_error() -> ConfigError:
    return ConfigError("the template was closed", hint="fork before close()")


class Template:
    """A stopped program: made by `SentrySandbox.freeze`.  Any thread may call it.

    :param guest: whose program stops; closed with this
    :param network: children have a network
    :param prepared: empty machines that wait for children
    :raises VmmError: it cannot be forked
    """

    def __init__(self, guest: Guest, *, network: bool = False, prepared: int = PREPARED) -> None:
        self._guest = guest
        self._changes: dict[str, Any] = {"nets": (boot.NETWORK,)} if network else {}
        self._prepared = prepared
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._point: Any = None
        self._left = 0
        """Children that can be made from the point."""
        self._forks: set[Fork] = set()
        self._closed = False
        guest.machine.pause()
        guest.machine.prepare_forks(prepared)

    @property
    def prepared(self) -> int:
        """How many empty machines wait for children now."""
        return self._guest.machine.prepared_forks

    def fork(self) -> Fork:
        """A child that continues from where the program was stopped.

        :raises ConfigError: this was closed
        :raises HostError: the host refuses
        """
        fork = Fork(self, Guest(self._child, most=ERRORS_MOST))
        with self._lock:
            closed = self._closed
            self._forks.add(fork)
        if closed:
            fork.close()
            raise _closed_error()
        return fork

    def _child(self, console: ConsoleConfig) -> Machine:
        """Many are made from one point, since the program does not go on: its state is saved once."""
        machine = self._guest.machine
        with self._making:
            if self._closed:
                raise _closed_error()
            if not self._left:
                self._close_point()
                self._point, self._left = machine.fork_point(CHILDREN), CHILDREN
            self._left -= 1
            child = Machine.of_fork(self._point, {"console": console, **self._changes}, start=True)
        try:
            if self._prepared:
                machine.prepare_forks(self._prepared)  # replaces the one that was used
        except BaseException:
            child.close()
            raise
        return child

    def _close_point(self) -> None:
        point, self._point, self._left = self._point, None, 0
        if point is not None:
            point.close()

    def map(self, requests: Iterable[object], *, workers: int = 4, timeout: float | None = TIMEOUT_S) -> list[Any]:
        """Send each request to a child of its own; returns the answers in the order of the requests.

        :param workers: children at one time
        :param timeout: seconds for each request
        :raises ConfigError: a request is no JSON, or *workers* is below 1
        :raises ProgramError: as :meth:`Fork.call`, for the first request that fails; later ones may not be sent
        """
        if workers < 1:
            raise ConfigError(f"workers={workers}: at least 1")

        def answer(request: object) -> Any:
            with self.fork() as fork:
                return fork.call(request, timeout)

        with ThreadPoolExecutor(workers, "sentry-fork") as threads:
            return list(threads.map(answer, requests))

    def forget(self, fork: Fork) -> None:
        """A child was closed."""
        with self._lock:
            self._forks.discard(fork)

    def close(self) -> None:
        """End the children, and the stopped program.  A second call does nothing."""
        with self._lock:
            self._closed = True
            forks = list(self._forks)
        for fork in forks:
            fork.close()
        with self._making:
            self._close_point()
        self._guest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
