"""A process in a container: its stdio and its exit status."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import AgentError, AgentGone, GuestError
from pyvmm_kata.pod.stdio import DRAIN_FIRST_S, DRAIN_S, Pumps, Stdio

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.pod.agent_client import AgentClient

LOST = 255
"""Exit code of a process whose virtual machine ended before the agent reported its status."""


class ExitStatus(NamedTuple):
    """How a process ended.

    :ivar code: 0 to 255; 128 + N for signal N
    :ivar at: ``time.time()`` when the status arrived
    :ivar reason: empty; or the reason why the process itself has no status
    """

    code: int
    at: float
    reason: str = ""


class Process:
    """A process of a container, by the id of its exec; the container's id stands for its first process.

    Made by :class:`~pyvmm_kata.pod.container.Container`; any call from any thread.
    """

    def __init__(
        self,
        agent: AgentClient,
        container_id: str,
        exec_id: str,
        stdio: Stdio,
        on_exit: Callable[[Process, ExitStatus], None],
    ) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.stdio = stdio
        self._agent = agent
        self._on_exit = on_exit
        self._ended = threading.Event()
        self._exit: ExitStatus | None = None
        patience = DRAIN_FIRST_S if exec_id == container_id else DRAIN_S
        self._pumps = Pumps(agent, container_id, exec_id, stdio, patience)

    @property
    def exit_status(self) -> ExitStatus | None:
        """None while it runs."""
        return self._exit

    def watch(self) -> None:
        """Start to copy stdio and to wait for the end, once the agent has made the process."""
        self._pumps.start()
        threading.Thread(target=self._watch, name=f"wait {self.exec_id}", daemon=True).start()

    def attend(self) -> ExitStatus:
        """The same in the calling thread: returns when it has ended and its output was written."""
        self._pumps.start()
        return self._watch()

    def _watch(self) -> ExitStatus:
        try:
            self._pumps.end_input()
            status = ExitStatus(self._agent.wait_process(self.container_id, self.exec_id), time.time())
        except (AgentGone, AgentError) as error:
            status = ExitStatus(LOST, time.time(), str(error))
        except GuestError as error:
            status = ExitStatus(LOST, time.time(), f"the agent's answer makes no sense: {error}")
        self._pumps.finish()
        self._exit = status
        try:
            self._on_exit(self, status)
        finally:
            self._ended.set()
        return status

    def abandon(self) -> None:
        """It never started: close its stdio."""
        self._pumps.finish()

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Wait until it has ended and its output was written; None after *timeout* seconds."""
        self._ended.wait(timeout)
        return self._exit if self._ended.is_set() else None

    def hold(self) -> None:
        """See :meth:`pyvmm_kata.pod.stdio.Pumps.hold`."""
        self._pumps.hold()

    def release(self, *, drop: bool = False) -> None:
        """See :meth:`pyvmm_kata.pod.stdio.Pumps.release`."""
        self._pumps.release(drop=drop)

    def kill(self, signal: int) -> None:
        """
        :raises AgentError: there is no such process (any more)
        """
        self._agent.signal_process(self.container_id, self.exec_id, signal)

    def resize(self, rows: int, columns: int) -> None:
        """Give its terminal a size."""
        self._agent.tty_win_resize(self.container_id, self.exec_id, rows, columns)

    def close_stdin(self) -> None:
        """Close its stdin: its readers see the end of the file."""
        self._pumps.close_stdin()
