"""A container in a sandbox: its processes, and the operations on it."""

from __future__ import annotations

import threading
from signal import SIGKILL
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata.bundle.checks import check_process, check_resources
from pyvmm_kata.errors import AgentError, ConfigError
from pyvmm_kata.pod.process import ExitStatus, Process
from pyvmm_kata.pod.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.pod.agent_client import AgentClient
    from pyvmm_kata.state import Json

CREATED, RUNNING, PAUSED, STOPPED = "created", "running", "paused", "stopped"
REMOVE_S = 30


class Describe(NamedTuple):
    """What the agent reads of parts of a config.json, by the kind of guest: a message, and text.

    :ivar process: of ``process``
    :ivar resources: of ``linux.resources``; it raises ConfigError for what a guest cannot enforce
    """

    process: Callable[[Json], tuple[Any, str]]
    resources: Callable[[Json], tuple[Any, str]]


class Container:
    """One container, made by :meth:`pyvmm_kata.pod.sandbox.Sandbox.create_container`.  Its methods can be called
    from any thread.

    :param describe: for the agent
    :ivar id: its id
    :ivar bundle: what it was made from
    :ivar init: its first process
    """

    def __init__(
        self,
        agent: AgentClient,
        container_id: str,
        bundle: Bundle,
        stdio: Stdio,
        on_exit: Callable[[Process, ExitStatus], None],
        on_delete: Callable[[Container], None],
        refresh: Callable[[], None],
        describe: Describe,
    ) -> None:
        self.id = container_id
        self.bundle = bundle
        self._agent = agent
        self._lock = threading.RLock()
        self._state = CREATED
        self._execs: dict[str, Process] = {}
        self._report = on_exit
        self._on_delete = on_delete
        self._refresh = refresh
        self._describe = describe
        self._held = self._goes_on = False
        self.init = Process(agent, container_id, container_id, stdio, self._on_exit)

    @property
    def state(self) -> str:
        """``created``, ``running``, ``paused`` or ``stopped``, as the OCI runtime specification names them."""
        return self._state

    @property
    def processes(self) -> dict[str, Process]:
        """By the ids of their execs; the container's own id stands for its first process."""
        with self._lock:
            return {self.id: self.init, **self._execs}

    def _on_exit(self, process: Process, status: ExitStatus) -> None:
        if process is self.init:
            self._state = STOPPED
        self._report(process, status)

    def _expect(self, call: str, *states: str) -> None:
        if self._state not in states:
            raise ConfigError(
                f"cannot {call} container {self.id}: it is {self._state}",
                code="container-state",
                hint=f"it can be done while it is {' or '.join(states)}",
            )

    def _expect_no_copy(self) -> None:
        if self._held:
            raise ConfigError(f"container {self.id} is being checkpointed", code="container-state")

    def start(self) -> None:
        """Run the first process.

        :raises ConfigError: it has been started before
        :raises AgentError: the program cannot be run
        """
        with self._lock:
            self._expect("start", CREATED)
            self._refresh()
            self._agent.start_container(self.id)
            self._state = RUNNING
            if self.init.exit_status is not None:
                self._state = STOPPED  # it has ended already, and was marked so before

    def exec(
        self, exec_id: str, process: dict[str, Any], stdio: Stdio, *, attended: bool = False, window: str = ""
    ) -> Process:
        """Run one more process.

        :param process: the ``process`` of a config.json
        :param attended: the caller must call :meth:`Process.attend`, whatever happens
        :param window: the guest's path of a file that becomes its descriptor 3, see :mod:`pyvmm_kata.host.windows`
        :raises ConfigError: the container does not run, *process* is invalid, or the id is in use
        :raises AgentError: the program cannot be run
        """
        with self._lock:
            try:
                check_process(process, source=f"exec {exec_id}")
                self._expect("exec in", RUNNING)
                if exec_id in self._execs or exec_id == self.id:
                    raise ConfigError(f"container {self.id} has a process {exec_id} already", code="exec-exists")
            except BaseException:
                stdio.close()
                raise
            made = Process(self._agent, self.id, exec_id, stdio, self._on_exit)
            try:
                self._refresh()
                self._agent.exec_process(self.id, exec_id, *self._describe.process(process), window)
            except BaseException:
                made.abandon()
                raise
            self._execs[exec_id] = made
            if not attended:
                made.watch()
            return made

    def forget(self, exec_id: str) -> None:
        """Release the id of an exec that has ended."""
        with self._lock:
            found = self._execs.get(exec_id)
            if found is not None and found.exit_status is not None:
                del self._execs[exec_id]

    def kill(self, signal: int, *, everything: bool = False) -> None:
        """Send a signal to the first process, or to all of the container.

        :raises ConfigError: it has ended
        """
        self._expect("kill", CREATED, RUNNING, PAUSED)
        self._agent.signal_process(self.id, "" if everything else self.id, signal)

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Wait until the first process has ended; None after *timeout* seconds."""
        return self.init.wait(timeout)

    def stats(self) -> Any:
        """A ``grpc.StatsContainerResponse``, read from the container's cgroups in the guest."""
        return self._agent.stats_container(self.id)

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits.

        :param resources: ``linux.resources`` of a config.json; limits that it does not name do not change
        :raises ConfigError: *resources* is invalid
        """
        self.check_update(resources)
        self._agent.update_container(self.id, *self._describe.resources(resources))

    def check_update(self, resources: dict[str, Any]) -> None:
        """
        :raises ConfigError: *resources* is invalid
        """
        check_resources(resources, "update")
        self._describe.resources(resources)

    def pause(self) -> None:
        """Freeze all its processes."""
        with self._lock:
            self._expect("pause", RUNNING)
            self._agent.pause_container(self.id)
            self._state = PAUSED

    def resume(self) -> None:
        """Thaw all its processes."""
        with self._lock:
            self._expect("resume", PAUSED)
            self._expect_no_copy()
            self._thaw()

    def _thaw(self) -> None:
        self._agent.resume_container(self.id)
        self._state = RUNNING
        if self.init.exit_status is not None:
            self._state = STOPPED  # it has been killed

    def take_up(self, execs: Sequence[str], *, frozen: bool) -> None:
        """It was made, and frozen, in a machine of which this one is a copy: follow its processes.

        :param execs: the ids of those besides the first one; nobody reads their output any more
        :param frozen: leave them so
        """
        with self._lock:
            self._state = PAUSED
            for exec_id in execs:
                self._execs[exec_id] = Process(self._agent, self.id, exec_id, Stdio(), self._on_exit)
            for process in self.processes.values():
                process.watch()
            if not frozen:
                self._thaw()

    def hold(self) -> list[str]:
        """Freeze all its processes for a copy of the machine, with all their output either read or left in the guest:
        :meth:`release` follows.

        :returns: the ids of the running execs
        :raises ConfigError: it does not run
        """
        with self._lock:
            self._expect("checkpoint", RUNNING, PAUSED)
            self._expect_no_copy()
            processes = {name: one for name, one in self.processes.items() if one.exit_status is None}
            for process in processes.values():
                process.hold()
            self._held, self._goes_on = True, self._state == RUNNING
            try:
                if self._goes_on:
                    self._agent.pause_container(self.id)
                    self._state = PAUSED
                self._agent.check()  # what it has read from them before has arrived with its answer
            except BaseException:
                self.release()
                raise
            return [name for name in processes if name != self.id]

    def release(self, *, end: bool = False) -> None:
        """Go on after :meth:`hold`.

        :param end: it does not continue here: its processes are killed
        """
        with self._lock:
            for process in self.processes.values():
                process.release(drop=end)
            self._held = False
            if end:
                self._agent.signal_process(self.id, "", SIGKILL)
            elif self._goes_on and self._state == PAUSED:
                self._thaw()

    def pids(self) -> list[int]:
        """The pids of its processes, as the guest reports them."""
        return self._agent.list_pids(self.id)

    def process_files(self) -> bytes:
        """See :meth:`pyvmm_kata.pod.agent_client.AgentClient.list_files`."""
        return self._agent.list_files(self.id)

    def stacks(self) -> bytes:
        """See :meth:`pyvmm_kata.pod.agent_client.AgentClient.list_stacks`."""
        return self._agent.list_stacks(self.id)

    def delete(self, *, force: bool = False) -> None:
        """Remove it from the guest, together with its mounts.

        :param force: kill its processes, and continue if the guest does not answer
        :raises ConfigError: it runs, and *force* is not given
        """
        with self._lock:
            if not force:
                self._expect("delete", CREATED, STOPPED)
            try:
                self._agent.remove_container(self.id, REMOVE_S)
            except AgentError:
                if not force:
                    raise
            except Exception:
                if not force and self._state != STOPPED:
                    raise
            self._state = STOPPED
            self._on_delete(self)
