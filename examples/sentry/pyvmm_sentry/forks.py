"""A program that was stopped at a point of its life, and children that continue from there, each in a sandbox of its
own: a machine on kvm, a process with a core on trap.

A request is a line of JSON on the child's standard input, and its answer the next line of its standard output.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from pyvmm_sentry import boot
from pyvmm_sentry.cores import Core, ProgramNursery
from pyvmm_sentry.guest import Guest
from pyvmm_sentry.nursery import Image
from pyvmm_sentry.ready import Ready, ReadyGuests, closed_error
from pyvmm_sentry.streams import ERRORS_MOST, ProgramError, ProgramTimeout, Streams, deadline_in
from vmm import ConfigError, ConsoleConfig, Machine, allow_open_files

TIMEOUT_S = 30.0
PREPARED, PREPARED_MOST = 2, 64
"""Children that wait to continue."""
CHILDREN = 256
"""Of a point, the most that :meth:`vmm.Machine.fork_point` permits."""


class Fork:
    """A child: made by :meth:`Template.fork`.  One thread at a time may call it; any may close it."""

    def __init__(self, template: Template, guest: Streams) -> None:
        self._template = template
        self._guest = guest
        self._frozen: Template | None = None

    def call(self, request: object, timeout: float | None = TIMEOUT_S) -> Any:
        """Send a request; returns the answer.

        :param request: what :func:`json.dumps` accepts
        :param timeout: seconds; None: no limit
        :raises ConfigError: the request is no JSON, or the child was closed
        :raises ProgramTimeout: there was no answer in time. The child is closed
        :raises ProgramError: the program has ended, or its answer is no JSON. The child is closed
        """
        if self._frozen:
            raise ConfigError("the child was stopped by freeze()", hint="fork its template")
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

        :raises ConfigError: the child was closed, or is no machine
        """
        if not isinstance(self._guest, Guest):
            raise ConfigError("a child on trap is a process, no machine")
        return self._guest.machine

    def freeze(self, *, prepared: int = PREPARED) -> Template:
        """Stop the child for good; returns what forks it, which this closes.

        :param prepared: see :meth:`SentrySandbox.freeze`
        :raises ConfigError: it was closed, or stopped before
        :raises ProgramError: the program has ended
        :raises VmmError: it cannot be forked
        """
        if self._frozen:
            raise ConfigError("the child was stopped before", hint="fork its template")
        check_prepared(prepared)
        try:
            self._frozen = self._template.of_child(self._guest, prepared)
        except BaseException:
            self.close()
            raise
        return self._frozen

    @property
    def stderr(self) -> bytes:
        """The last of what the program wrote to standard error, as far as calls have read it."""
        return bytes(self._guest.stderr)

    def close(self) -> None:
        """End the child.  A second call does nothing."""
        if self._frozen:
            self._frozen.close()
        self._guest.close()
        self._template.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check_prepared(count: int) -> None:
    """
    :raises ConfigError: so many children cannot wait
    """
    if not 0 <= count <= PREPARED_MOST:
        raise ConfigError(f"prepared={count}: not 0 to {PREPARED_MOST}")


class Template(ABC):
    """A stopped program: made by `SentrySandbox.freeze` or :meth:`Fork.freeze`.  Any thread may call it.

    Each child has dozens of descriptors in this process, whose limit of open files is raised as far as it may be.
    """

    def __init__(self) -> None:
        allow_open_files()
        self._lock = threading.Lock()
        self._forks: set[Fork] = set()
        self._closed = False

    @property
    @abstractmethod
    def prepared(self) -> int:
        """How many children wait to continue."""

    @abstractmethod
    def _child(self) -> Streams:
        """A program that continues from the point."""

    @abstractmethod
    def of_child(self, guest: Streams, prepared: int) -> Template:
        """Stop a child."""

    @abstractmethod
    def _end(self) -> None:
        """Forget the stopped program."""

    def fork(self) -> Fork:
        """A child that continues from where the program was stopped.

        :raises ConfigError: this was closed
        :raises HostError: the host refuses
        """
        fork = Fork(self, self._child())
        with self._lock:
            closed = self._closed
            self._forks.add(fork)
        if closed:
            fork.close()
            raise closed_error()
        return fork

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
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class MachineTemplate(Template):
    """Of a machine.

    :param guest: whose program stops; closed with this
    :param network: children have a network
    :param prepared: children that wait to continue
    :raises ConfigError: *prepared* is not 0 to 64
    :raises VmmError: it cannot be forked
    """

    def __init__(self, guest: Guest, *, network: bool = False, prepared: int = PREPARED) -> None:
        super().__init__()
        check_prepared(prepared)
        self._guest = guest
        self._network = network
        self._changes: dict[str, Any] = {"nets": (boot.NETWORK,)} if network else {}
        self._making = threading.Lock()
        self._point: Any = None
        self._left = 0
        """Children that can be made from the point."""
        guest.machine.pause()
        self._ready = ReadyGuests(lambda: Guest(self._make, most=ERRORS_MOST), prepared)

    @property
    def prepared(self) -> int:
        return len(self._ready)

    def _child(self) -> Guest:
        guest = self._ready.take()
        try:
            guest.machine.release()
        except BaseException:
            guest.close()
            raise
        return guest

    def of_child(self, guest: Streams, prepared: int) -> MachineTemplate:
        assert isinstance(guest, Guest)
        return MachineTemplate(guest, network=self._network, prepared=prepared)

    def _make(self, console: ConsoleConfig) -> Machine:
        """Many are made from one point, since the program does not go on: its state is saved once."""
        with self._making:
            if not self._left:
                self._close_point()
                self._point, self._left = self._guest.machine.fork_point(CHILDREN), CHILDREN
            self._left -= 1
            child = Machine.of_fork(self._point, {"console": console, **self._changes}, start=False)
        try:
            child.start(held=True)
        except BaseException:
            child.close()
            raise
        return child

    def _close_point(self) -> None:
        point, self._point, self._left = self._point, None, 0
        if point is not None:
            point.close()

    def _end(self) -> None:
        self._ready.close()
        with self._making:
            self._close_point()
        self._guest.close()


class CoreTemplate(Template):
    """Of a core that is a process.

    :param nursery: which made it, and makes children
    :param image: what they continue; closed with this
    :param prepared: children that wait
    :param owner: the nursery is closed with this, too
    :raises ConfigError: *prepared* is not 0 to 64
    """

    def __init__(self, nursery: ProgramNursery, image: Image, *, prepared: int = PREPARED, owner: bool = False) -> None:
        super().__init__()
        check_prepared(prepared)
        self._nursery, self._image, self._owner = nursery, image, owner
        self._ended = False
        self._ready = Ready(lambda: Core(nursery, image, most=ERRORS_MOST), prepared)

    @property
    def prepared(self) -> int:
        return len(self._ready)

    def _child(self) -> Core:
        return self._ready.take().go()

    def of_child(self, guest: Streams, prepared: int) -> CoreTemplate:
        assert isinstance(guest, Core)
        return CoreTemplate(self._nursery, guest.stop(), prepared=prepared)

    def _end(self) -> None:
        self._ready.close()
        with self._lock:
            ended, self._ended = self._ended, True
        if not ended:
            self._image.close()
        if self._owner:
            self._nursery.close()
