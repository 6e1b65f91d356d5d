"""The shim's record of a container (a *task* in containerd's terms) and of each process in it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from pyvmm_kata.host.proxy_process import Face
    from pyvmm_kata.pod.container import Container
    from pyvmm_kata.pod.process import ExitStatus, Process


class StdioPaths(NamedTuple):
    """FIFOs or URIs of a process's streams from containerd; empty for none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class TaskProcess:
    """A process: the container's own, whose exec_id is empty, or an exec.

    :ivar spec: an exec's OCI process, until it is started
    :ivar process: the library's process, once there is one
    :ivar started: whether TaskStart or TaskExecStarted was sent
    :ivar status: how it ended
    """

    def __init__(self, exec_id: str, stdio: StdioPaths, spec: dict[str, Any] | None = None) -> None:
        self.exec_id = exec_id
        self.stdio = stdio
        self.spec = spec
        self.process: Process | None = None
        self.started = False
        self.status: ExitStatus | None = None
        self._ended = threading.Event()

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.started and self.status is None

    def end(self, status: ExitStatus) -> None:
        """It has ended: wake the threads that wait for that."""
        self.status = status
        self._ended.set()

    def wait(self, timeout: float) -> ExitStatus | None:
        """How it ended; None if it has not after `timeout` seconds."""
        self._ended.wait(timeout)
        return self.status


class Task:
    """A container and its processes.

    :ivar face: the process whose pid is reported to containerd
    :ivar order: held from a change until its event is queued, so that events have the order of what happened
    """

    def __init__(self, task_id: str, bundle: str, container: Container, init: TaskProcess, face: Face) -> None:
        self.id = task_id
        self.bundle = bundle
        self.container = container
        self.init = init
        self.face = face
        self.execs: dict[str, TaskProcess] = {}
        self.order = threading.RLock()

    def find(self, exec_id: str) -> TaskProcess:
        """A process by its exec_id, empty for the container's own. Raises ConfigError, code process-missing."""
        found = self.execs.get(exec_id) if exec_id else self.init
        if found is None:
            raise ConfigError(f"container {self.id} has no process {exec_id}", code="process-missing")
        return found
