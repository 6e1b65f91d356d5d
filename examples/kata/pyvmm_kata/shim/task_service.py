"""The service `Task` of a shim, versions 2 and 3: maps requests to calls of the pod, and errors to statuses."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pyvmm_kata.bundle.bundle import parse_json
from pyvmm_kata.errors import AgentError, AgentGone, AgentTimeout, ConfigError, VmmError
from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.ttrpc import RpcError
from pyvmm_kata.protocol.ttrpc.wire import CODES
from pyvmm_kata.shim.pod import set_time
from pyvmm_kata.shim.stream_paths import end_input
from pyvmm_kata.shim.task import StdioPaths

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.protocol.protobuf import Message
    from pyvmm_kata.protocol.ttrpc import Call, Handler
    from pyvmm_kata.shim.pod import Pod

MONITOR = "pyvmm.Monitor"
CHECKPOINT_OPTIONS = "containerd.runc.v1.CheckpointOptions"
NO_LIMIT = (1 << 64) - 1
EVENTS = "events."  # the prefix of memory.events among the agent's memory statistics
PACKAGES = ("containerd.task.v2", "containerd.task.v3")
LOOK_S = 5.0  # interval at which a waiting call checks whether its client is still connected

CODE_OF = {
    "container-missing": "NOT_FOUND",
    "process-missing": "NOT_FOUND",
    "process-ended": "NOT_FOUND",  # containerd's words for a kill that comes too late
    "container-exists": "ALREADY_EXISTS",
    "exec-exists": "ALREADY_EXISTS",
    "container-state": "FAILED_PRECONDITION",
    "shim-closed": "UNAVAILABLE",
}
"""Codes of our errors that containerd tells apart."""


def as_status(error: VmmError) -> RpcError:
    """The status that reports an error to containerd."""
    text = f"{error} ({error.hint})" if error.hint and error.hint not in str(error) else str(error)
    if isinstance(error, AgentError):
        return RpcError(_code_name(error.status), text)
    if isinstance(error, AgentTimeout):
        return RpcError("DEADLINE_EXCEEDED", text)
    if isinstance(error, AgentGone):
        return RpcError("UNAVAILABLE", text)
    default = "INVALID_ARGUMENT" if isinstance(error, ConfigError) else "INTERNAL"
    return RpcError(CODE_OF.get(error.code, default), text)


def _code_name(status: int | str) -> str:
    return CODES.get(status, "UNKNOWN") if isinstance(status, int) else status


class TaskService:
    """The handlers of one version of the service.

    :param package: the proto package: "containerd.task.v2"
    :param on_shutdown: called when containerd requests the shim's end and no container is left
    """

    def __init__(self, package: str, pod: Pod, version: str, on_shutdown: Callable[[], None]) -> None:
        self.name = f"{package}.Task"
        self._package = package
        self._pod = pod
        self._version = version
        self._on_shutdown = on_shutdown

    def handlers(self) -> dict[str, Handler]:
        """By method name."""
        return {name: _guarded(getattr(self, f"_{_snake(name)}")) for name in METHODS}

    def _make(self, name: str, **fields: object) -> Message:
        return protobuf.message(f"{self._package}.{name}")(**fields)

    def _state(self, request: Message, call: Call) -> Message:
        task = self._pod.task(request.id)
        process = task.find(request.exec_id)
        status = process.status
        if status is not None:
            state = "STOPPED"
        elif not process.started:
            state = "CREATED"
        else:
            state = "PAUSED" if task.container.state == "paused" else "RUNNING"
        made = self._make(
            "StateResponse",
            id=task.id,
            bundle=task.bundle,
            pid=task.face.pid,
            status=protobuf.enum_value("containerd.v1.types.Status", state),
            exec_id=request.exec_id,
            **process.stdio._asdict(),
        )
        if status is not None:
            made.exit_status = status.code
            set_time(made.exited_at, status)
        return made

    def _create(self, request: Message, call: Call) -> Message:
        task = self._pod.create(
            request.id, request.bundle, request.rootfs, _stdio(request), request.options, request.checkpoint
        )
        return self._make("CreateTaskResponse", pid=task.face.pid)

    def _start(self, request: Message, call: Call) -> Message:
        self._pod.start(request.id, request.exec_id)
        return self._make("StartResponse", pid=self._pod.task(request.id).face.pid)

    def _delete(self, request: Message, call: Call) -> Message:
        pid = self._pod.task(request.id).face.pid
        status = self._pod.delete(request.id, request.exec_id)
        made = self._make("DeleteResponse", pid=pid, exit_status=status.code)
        set_time(made.exited_at, status)
        return made

    def _pids(self, request: Message, call: Call) -> Message:
        """Each process that was started from the host: the guest's numbers would name others of the host."""
        task = self._pod.task(request.id)
        made = self._make("PidsResponse")
        for process in (task.init, *list(task.execs.values())):
            if process.is_running:
                details = protobuf.message("containerd.runc.v1.ProcessDetails")(exec_id=process.exec_id)
                made.processes.add(pid=task.face.pid, info=protobuf.pack(details) if process.exec_id else None)
        return made

    def _pause(self, request: Message, call: Call) -> Message:
        self._pod.pause(request.id)
        return _empty()

    def _resume(self, request: Message, call: Call) -> Message:
        self._pod.resume(request.id)
        return _empty()

    def _checkpoint(self, request: Message, call: Call) -> Message:
        """The other options concern what the guest's kernel keeps in any case."""
        options = request.options
        end = False
        if options.type_url.rpartition("/")[2] == CHECKPOINT_OPTIONS:
            try:
                end = protobuf.parse(protobuf.message(CHECKPOINT_OPTIONS), options.value).exit
            except ValueError as error:
                raise RpcError("INVALID_ARGUMENT", f"options: {error}") from error
        self._pod.checkpoint(request.id, request.path, end=end)
        return _empty()

    def _kill(self, request: Message, call: Call) -> Message:
        self._pod.kill(request.id, request.exec_id, request.signal, everything=request.all)
        return _empty()

    def _exec(self, request: Message, call: Call) -> Message:
        spec = _json(request.spec, "spec")
        self._pod.add_exec(request.id, request.exec_id, _stdio(request), spec)
        return _empty()

    def _resize_pty(self, request: Message, call: Call) -> Message:
        found = self._pod.task(request.id).find(request.exec_id)
        if found.process is not None:
            found.process.resize(request.height, request.width)
        return _empty()

    def _close_io(self, request: Message, call: Call) -> Message:
        found = self._pod.task(request.id).find(request.exec_id)
        if request.stdin:
            end_input(found.stdio)
        return _empty()

    def _update(self, request: Message, call: Call) -> Message:
        self._pod.update(request.id, _json(request.resources, "resources"))
        return _empty()

    def _wait(self, request: Message, call: Call) -> Message:
        process = self._pod.task(request.id).find(request.exec_id)
        while (status := process.wait(LOOK_S)) is None:
            if call.gone.is_set():
                raise RpcError("CANCELLED", "the client has gone")
        made = self._make("WaitResponse", exit_status=status.code)
        set_time(made.exited_at, status)
        return made

    def _stats(self, request: Message, call: Call) -> Message:
        stats = metrics(self._pod.task(request.id).container.stats())
        return self._make("StatsResponse", stats=protobuf.pack(stats))

    def _connect(self, request: Message, call: Call) -> Message:
        pid = self._pod.pid_of(request.id)
        return self._make("ConnectResponse", shim_pid=os.getpid(), task_pid=pid, version=self._version)

    def _shutdown(self, request: Message, call: Call) -> Message:
        if self._pod.is_empty:
            self._on_shutdown()
        return _empty()


METHODS = (
    "State", "Create", "Start", "Delete", "Pids", "Pause", "Resume", "Checkpoint", "Kill", "Exec", "ResizePty",
    "CloseIO", "Update", "Wait", "Stats", "Connect", "Shutdown",
)  # fmt: skip


def monitor_handlers(pod: Pod) -> dict[str, Handler]:
    """Of the service ``pyvmm.Monitor``."""

    def figures(_request: Message, _call: Call) -> Message:
        return protobuf.message("pyvmm.FiguresResponse")(json=json.dumps(pod.figures()).encode())

    return {"Figures": _guarded(figures)}


def _snake(name: str) -> str:
    """A method's handler: ResizePty -> resize_pty, CloseIO -> close_io."""
    return {"ResizePty": "resize_pty", "CloseIO": "close_io"}.get(name, name.lower())


def _guarded(handler: Handler) -> Handler:
    def guarded(request: Message, call: Call) -> Message:
        try:
            return handler(request, call)
        except VmmError as error:
            raise as_status(error) from error

    return guarded


def _stdio(request: Message) -> StdioPaths:
    return StdioPaths(request.stdin, request.stdout, request.stderr, request.terminal)


def _json(packed: Message, field: str) -> dict[str, Any]:
    """The JSON object in a google.protobuf.Any, which is how containerd sends OCI's structures."""
    return parse_json(packed.value, f"{field}: {packed.type_url or 'nothing'}", "oci-config")


def _empty() -> Message:
    return protobuf.message("google.protobuf.Empty")()


# -- statistics of a container's cgroup in the guest, from the agent's message to containerd's -------------------------


def metrics(stats: Message) -> Message:
    """The io.containerd.cgroups.v2.Metrics of a grpc.StatsContainerResponse."""
    cgroup = stats.cgroup_stats
    made = protobuf.message("io.containerd.cgroups.v2.Metrics")()
    made.pids.current = cgroup.pids_stats.current
    made.pids.limit = cgroup.pids_stats.limit or NO_LIMIT
    usage = cgroup.cpu_stats.cpu_usage
    throttling = cgroup.cpu_stats.throttling_data
    made.cpu.usage_usec = usage.total_usage // 1000
    made.cpu.user_usec = usage.usage_in_usermode // 1000
    made.cpu.system_usec = usage.usage_in_kernelmode // 1000
    made.cpu.nr_periods = throttling.periods
    made.cpu.nr_throttled = throttling.throttled_periods
    made.cpu.throttled_usec = throttling.throttled_time // 1000
    _set_memory(made, cgroup.memory_stats)
    _set_io(made, cgroup.blkio_stats)
    for size, huge in sorted(cgroup.hugetlb_stats.items()):
        made.hugetlb.add(pagesize=size, current=huge.usage, max=huge.max_usage)
    return made


def _set_memory(made: Message, memory: Message) -> None:
    made.memory.usage = memory.usage.usage
    made.memory.usage_limit = memory.usage.limit
    made.memory.max_usage = memory.usage.max_usage
    made.memory.swap_usage = memory.swap_usage.usage
    made.memory.swap_limit = memory.swap_usage.limit
    made.memory.swap_max_usage = memory.swap_usage.max_usage
    for target, prefix in ((made.memory, ""), (made.memory_events, EVENTS)):
        for field in target.DESCRIPTOR.fields:
            if (value := memory.stats.get(prefix + field.name)) is not None:
                setattr(target, field.name, value)


def _set_io(made: Message, blkio: Message) -> None:
    fields = {
        ("bytes", "read"): "rbytes",
        ("bytes", "write"): "wbytes",
        ("count", "read"): "rios",
        ("count", "write"): "wios",
    }
    devices: dict[tuple[int, int], Message] = {}
    for kind, entries in (("bytes", blkio.io_service_bytes_recursive), ("count", blkio.io_serviced_recursive)):
        for entry in entries:
            field = fields.get((kind, entry.op.lower()))
            if field is not None:
                number = entry.major, entry.minor
                if number not in devices:
                    devices[number] = made.io.usage.add(major=entry.major, minor=entry.minor)
                setattr(devices[number], field, entry.value)
