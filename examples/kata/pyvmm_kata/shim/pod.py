"""The pod of a shim: its sandbox, made with the first container, and its containers.

Every change and its event are one step: containerd gets events in the order in which things happened.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata import timeline
from pyvmm_kata.bundle import guest_spec
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host.mounts import unmount
from pyvmm_kata.pod.process import ExitStatus
from pyvmm_kata.shim.events import event
from pyvmm_kata.shim.rootfs import as_disk, mount_rootfs
from pyvmm_kata.shim.stream_paths import open_stdio
from pyvmm_kata.shim.task import StdioPaths, Task, TaskProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyvmm_kata.host.namespaces import Member
    from pyvmm_kata.host.proxy_process import Face
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.pod.container import Container
    from pyvmm_kata.pod.events import SandboxEvent
    from pyvmm_kata.pod.sandbox import Sandbox
    from pyvmm_kata.protocol.protobuf import Message

    Boot = Callable[[Bundle, Face, Message | None, Callable[[SandboxEvent], None], "Resumed | None"], Sandbox]
    Launch = Callable[[Bundle, Sequence[Member]], Face]

KILLED = 128 + 9
TRACED = {
    "io.kubernetes.cri.sandbox-name": "k8s.pod.name",
    "io.kubernetes.cri.sandbox-namespace": "k8s.namespace.name",
    "io.kubernetes.cri.sandbox-uid": "k8s.pod.uid",
}
"""Annotations of containerd's, and what OpenTelemetry calls them."""
EXECS_S = 5.0
"""How long the end of a container's first process waits for the ends of the others: they die with it."""


class Resumed(NamedTuple):
    """The checkpoint from which a pod's machine continues, with its container.

    :ivar kept: the checkpoint
    :ivar stdio: the container's new streams
    """

    kept: Kept
    stdio: StdioPaths


class Pod:
    """All containers of one virtual machine.

    :param boot: starts the sandbox for the pod's first bundle, its proxy process, and the runtime's options, or with
        its container from a checkpoint; reports its events
    :param publish: receives messages of containerd.events in order
    :param launch: makes the proxy process of a container, from its bundle and the other members
    """

    def __init__(
        self,
        boot: Boot,
        publish: Callable[[Message], None],
        launch: Launch,
    ) -> None:
        self._boot = boot
        self._launch = launch
        self._publish = publish
        self._lock = threading.RLock()
        self._sandbox: Sandbox | None = None
        self._tasks: dict[str, Task] = {}
        self._creating: set[str] = set()
        self._closed = False

    def task(self, task_id: str) -> Task:
        """A container. Raises ConfigError, code container-missing."""
        with self._lock:
            found = self._tasks.get(task_id)
        if found is None:
            raise ConfigError(f"there is no container {task_id} here", code="container-missing")
        return found

    def update(self, task_id: str, resources: dict[str, Any]) -> None:
        """Change limits of a container, see :meth:`pyvmm_kata.pod.machine_size.MachineSize.update`."""
        made, sandbox = self.task(task_id).container, self._sandbox
        if sandbox is None:
            raise HostError("the pod has no virtual machine any more", code="sandbox-state")
        sandbox.size.update(made.id, resources)

    def pid_of(self, task_id: str) -> int:
        """The pid of a container, 0: it does not exist yet."""
        with self._lock:
            found = self._tasks.get(task_id)
        return found.face.pid if found is not None else 0

    def figures(self) -> dict[str, Any]:
        """The counters of the sandbox. Raises VmmError: there is none."""
        from pyvmm_kata.pod.statistics import collect

        sandbox = self._sandbox
        if sandbox is None:
            raise HostError("there is no virtual machine (yet)", code="sandbox-state")
        return collect(sandbox)

    @property
    def is_empty(self) -> bool:
        """Whether no container is left, so that the shim may end."""
        with self._lock:
            return not self._tasks and not self._creating

    # -- containers --------------------------------------------------------------------------------------------------

    def create(
        self,
        task_id: str,
        path: str,
        rootfs: Sequence[Message],
        stdio: StdioPaths,
        options: Message,
        checkpoint: str = "",
    ) -> Task:
        """Make a container of a bundle, and the sandbox if it is the first. Nothing of it is left after an error.

        :param path: of the bundle
        :param rootfs: mounts that make its root file system
        :param options: of the runtime, a google.protobuf.Any, perhaps empty
        :param checkpoint: the folder of a checkpoint from which it continues when it is started; empty: none
        :raises VmmError: it cannot be made
        """
        with self._reserved(task_id):
            target = os.path.join(path, "rootfs")
            face: Face | None = None
            disk = as_disk(rootfs)
            if rootfs and disk is None:
                os.makedirs(target, exist_ok=True)
                mount_rootfs(rootfs, target)
            traced = {"container.id": task_id}
            try:
                bundle = Bundle.load(path, disk)
                traced |= _traced(bundle.annotations)
                terminal = bool(bundle.spec["process"].get("terminal"))
                if terminal != stdio.terminal:
                    raise ConfigError(
                        f"container {task_id}: process.terminal is {str(terminal).lower()}, the request says otherwise",
                        code="oci-config",
                    )
                running = self._sandbox
                members = running.members if running is not None else []
                guest_spec.check(bundle, members, more_disks=running is not None and running.config.more_disks)
                face = self._launch(bundle, members)
                if checkpoint:
                    sandbox, container = self._resumed(bundle, face, options, checkpoint, stdio)
                else:
                    sandbox = self._started_sandbox(bundle, face, options)
                    container = sandbox.create_container(task_id, bundle, open_stdio(stdio), face.pid)
                _show(face, sandbox, container.id)
            except BaseException as error:
                timeline.finish(traced, str(error) or type(error).__name__)
                if face is not None:
                    face.close()
                    face.reap()
                unmount(target)
                with self._lock:
                    unused = self._sandbox if not self._tasks and self._creating == {task_id} else None
                    if unused is not None:
                        self._sandbox = None
                if unused is not None:
                    unused.stop()
                raise
            task = Task(task_id, path, container, TaskProcess("", stdio), face)
            task.init.process = container.init
            threading.Thread(target=self._watch_face, args=(task,), name=f"face {task_id}", daemon=True).start()
            with task.order:
                with self._lock:
                    self._tasks[task_id] = task
                io = {"stdin": stdio.stdin, "stdout": stdio.stdout, "stderr": stdio.stderr, "terminal": stdio.terminal}
                made = {"bundle": path, "rootfs": rootfs, "io": io, "checkpoint": checkpoint, "pid": face.pid}
                self._publish(event("TaskCreate", container_id=task_id, **made))
            if (status := container.init.exit_status) is not None:
                self._on_exit(task, container.id, status)  # before anybody knew of the task
            return task

    @contextmanager
    def _reserved(self, task_id: str) -> Iterator[None]:
        """No other thread makes a container of that id meanwhile."""
        with self._lock:
            if task_id in self._tasks or task_id in self._creating:
                raise ConfigError(f"container {task_id} exists already", code="container-exists")
            self._creating.add(task_id)
        try:
            yield
        finally:
            with self._lock:
                self._creating.discard(task_id)

    def _watch_face(self, task: Task) -> None:
        """Forward the signals of a container's proxy process; when that is killed, so is the container."""
        task.face.watch(lambda number: _quietly(lambda: task.container.kill(number)), task.container.process_files)
        if task.init.status is None:
            _quietly(lambda: task.container.kill(signal.SIGKILL, everything=True))
        task.face.reap()

    def _started_sandbox(self, bundle: Bundle, face: Face, options: Message) -> Sandbox:
        with self._lock:
            self._expect_open()
            if self._sandbox is None:
                self._sandbox = self._boot(bundle, face, options, self._on_event, None)
            return self._sandbox

    def _resumed(
        self, bundle: Bundle, face: Face, options: Message, checkpoint: str, stdio: StdioPaths
    ) -> tuple[Sandbox, Container]:
        """The sandbox of a checkpoint, and its container, whose processes are frozen."""
        from pyvmm_kata.pod import checkpoint_folder

        found = checkpoint_folder.read(checkpoint)
        with self._lock:
            self._expect_open()
            if self._sandbox is not None:
                raise ConfigError(
                    "a checkpoint continues in a machine of its own, but this pod has one already",
                    code="checkpoint-shared",
                )
            sandbox = self._boot(bundle, face, options, self._on_event, Resumed(found, stdio))
            self._sandbox = sandbox
        return sandbox, sandbox.containers[found.id]

    def _expect_open(self) -> None:
        if self._closed:
            raise HostError("this shim is being shut down", code="shim-closed")

    def start(self, task_id: str, exec_id: str) -> None:
        """Start a container's first process, or an exec. Raises VmmError."""
        task = self.task(task_id)
        with task.order:
            process = task.find(exec_id)
            if not exec_id:
                if self._sandbox is not None:
                    self._sandbox.adopt_network()
                if task.container.state == "paused" and not process.started:
                    task.container.resume()  # it continues from a checkpoint
                else:
                    task.container.start()
                process.started = True
                timeline.note("started")
                timeline.finish({"container.id": task_id, **_traced(task.container.bundle.annotations)})
                self._publish(event("TaskStart", container_id=task_id, pid=task.face.pid))
                return
            if process.spec is None:
                raise ConfigError(
                    f"process {exec_id} of container {task_id} was started before", code="container-state"
                )
            spec, process.spec = process.spec, None
            try:
                process.process = task.container.exec(exec_id, spec, open_stdio(process.stdio))
            except VmmError:
                # Who made it deletes it next, and wants to hear that it has ended
                process.end(ExitStatus(127, time.time()))
                raise
            process.started = True
            self._publish(event("TaskExecStarted", container_id=task_id, exec_id=exec_id, pid=task.face.pid))

    def add_exec(self, task_id: str, exec_id: str, stdio: StdioPaths, spec: dict[str, Any]) -> None:
        """Make an exec, to be started. Raises ConfigError: the id is taken, or names the container itself."""
        task = self.task(task_id)
        with task.order:
            if exec_id in task.execs or exec_id in ("", task_id):
                raise ConfigError(f"container {task_id} has a process {exec_id!r} already", code="exec-exists")
            task.execs[exec_id] = TaskProcess(exec_id, stdio, {**spec, "terminal": stdio.terminal})
            self._publish(event("TaskExecAdded", container_id=task_id, exec_id=exec_id))

    def pause(self, task_id: str) -> None:
        """Freeze a container. Raises VmmError."""
        task = self.task(task_id)
        with task.order:
            task.container.pause()
            self._publish(event("TaskPaused", container_id=task_id))

    def resume(self, task_id: str) -> None:
        """Thaw a container. Raises VmmError."""
        task = self.task(task_id)
        with task.order:
            task.container.resume()
            self._publish(event("TaskResumed", container_id=task_id))

    def checkpoint(self, task_id: str, path: str, *, end: bool) -> None:
        """Save a container with its machine, in the form of :mod:`pyvmm_kata.pod.checkpoint_folder`.

        :param path: of the folder, which need not exist
        :param end: the container ends then; otherwise it continues
        :raises VmmError: it cannot be saved; it continues, and the folder is unchanged
        """
        from pyvmm_kata.pod import checkpoint_folder

        if not os.path.isabs(path):
            raise ConfigError(f"checkpoint: the path {path!r:.200} is not absolute", code="checkpoint-place")
        task = self.task(task_id)
        container = task.container
        with task.order:
            with self._lock:
                sandbox = self._sandbox
                checkpoint_folder.check_alone([*self._tasks, *self._creating])
            if sandbox is None or not task.init.started:
                raise ConfigError(f"container {task_id} does not run", code="container-state")
            checkpoint_folder.check_disks(container.bundle)
            machine = sandbox.saveable()
            with checkpoint_folder.place_for(path) as name:
                status = container.state
                execs = container.hold()
                done = False
                try:
                    machine.save(os.path.join(path, name))
                    told = checkpoint_folder.describe(sandbox, container.id, status=status, execs=execs, serial=0)
                    checkpoint_folder.write(path, name, told, container.bundle.spec)
                    done = True
                finally:
                    container.release(end=end and done)
            self._publish(event("TaskCheckpointed", container_id=task_id, checkpoint=path))

    def kill(self, task_id: str, exec_id: str, signal: int, *, everything: bool) -> None:
        """Send a signal to a process, or to all of a container. Raises VmmError, code process-ended if it is late."""
        task = self.task(task_id)
        process = task.find(exec_id)
        if process.status is not None:
            raise ConfigError(f"process {exec_id or task_id} has ended already", code="process-ended")
        if not exec_id:
            task.container.kill(signal, everything=everything)
        elif process.process is not None and process.started:
            process.process.kill(signal)
        else:
            raise ConfigError(f"process {exec_id} of container {task_id} was not started", code="container-state")

    def delete(self, task_id: str, exec_id: str) -> ExitStatus:
        """Remove a container or an exec that has ended, or was never started; returns how it ended. Raises VmmError."""
        task = self.task(task_id)
        with task.order:
            # A containerd that was started again deletes what the one before it was about to delete
            if self.task(task_id) is not task:
                raise ConfigError(f"container {task_id} was deleted meanwhile", code="container-missing")
            process = task.find(exec_id)
            if process.is_running:
                raise ConfigError(f"process {exec_id or task_id} still runs", code="container-state")
            # What was never started counts as ended when it is removed
            status = process.status or ExitStatus(0, time.time())
            if exec_id:
                task.container.forget(exec_id)
                del task.execs[exec_id]
            else:
                # One that was to go on from a checkpoint, and never did, is frozen
                task.container.delete(force=self._has_ended or task.container.state == "paused")
                task.face.end(status.code)
                unmount(os.path.join(task.bundle, "rootfs"))
                with self._lock:
                    del self._tasks[task_id]
            process.end(status)
            self._publish(_with_exit("TaskDelete", status, container_id=task_id, id=exec_id, pid=task.face.pid))
            return status

    @property
    def _has_ended(self) -> bool:
        """Whether the virtual machine has ended: containers are then removed without it."""
        sandbox = self._sandbox
        return sandbox is None or sandbox.wait(0)

    def close(self) -> None:
        """End the virtual machine. Raises VmmError if something of it is left."""
        with self._lock:
            self._closed = True
            sandbox, self._sandbox = self._sandbox, None
        if sandbox is not None:
            sandbox.stop()

    # -- what happens by itself --------------------------------------------------------------------------------------

    def _on_event(self, happened: SandboxEvent) -> None:
        if happened.kind == "end":
            sys.stderr.write(f"the pod is lost: {happened.reason}\n")  # containerd's log
            return
        with self._lock:
            # A continued container keeps its id in the guest
            tasks = (each for each in self._tasks.values() if each.container.id == happened.container_id)
            task = next(tasks, None)
        if task is None:
            return
        if happened.kind == "oom":
            with task.order:
                self._publish(event("TaskOOM", container_id=task.id))
        elif happened.kind == "exit" and happened.exit_status is not None:
            self._on_exit(task, happened.exec_id, happened.exit_status)

    def _on_exit(self, task: Task, exec_id: str, status: ExitStatus) -> None:
        if exec_id == task.container.id:
            exec_id = ""
            # Its end is the container's: no event of the container may follow
            deadline = time.monotonic() + EXECS_S
            for other in list(task.execs.values()):
                if other.is_running:
                    other.wait(max(0.0, deadline - time.monotonic()))
        with task.order:
            process = task.init if not exec_id else task.execs.get(exec_id)
            if process is None or process.status is not None:
                return
            self._publish(
                _with_exit("TaskExit", status, container_id=task.id, id=exec_id or task.id, pid=task.face.pid)
            )
            process.end(status)
        if not exec_id:
            task.face.end(status.code)


def _traced(annotations: Mapping[str, str]) -> dict[str, str]:
    """Attributes of a pod for the trace of its start, by OpenTelemetry's names."""
    return {name: annotations[key] for key, name in TRACED.items() if key in annotations}


def _show(face: Face, sandbox: Sandbox, task_id: str) -> None:
    """Show a container's files in a proxy process, or none: the guest can remove a mount point."""
    try:
        face.show(*sandbox.shown(task_id))
    except HostError as error:
        sys.stderr.write(f"container {task_id}: {error}\n")  # the log


def _quietly(work: Callable[[], None]) -> None:
    """Call *work* where an error could not be reported to anybody."""
    try:
        work()
    except (VmmError, OSError):
        pass


def _with_exit(name: str, status: ExitStatus, **fields: object) -> Message:
    """An event with how and when a process ended."""
    made = event(name, exit_status=status.code, **fields)
    set_time(made.exited_at, status)
    return made


def set_time(stamp: Message, status: ExitStatus) -> None:
    """Set a Timestamp to when a process ended."""
    nanoseconds = int(status.at * 1e9)
    stamp.seconds, stamp.nanos = nanoseconds // 10**9, nanoseconds % 10**9
