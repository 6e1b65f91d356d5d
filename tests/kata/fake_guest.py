"""A guest without a virtual machine: Kata's agent service on a socket, whose processes do what their arguments say.

The arguments are those of a small language: ["exit", CODE], ["sleep"], ["cat"], ["print", TEXT]. An attacker's guest is
one whose handlers a test replaces.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.root_disks import RootDisk
from pyvmm_kata.bundle.settings import VARIABLE
from pyvmm_kata.host.mounts import SharedDirectory
from pyvmm_kata.host.proxy_process import Face, Shown
from pyvmm_kata.pod.events import SandboxEvent
from pyvmm_kata.pod.sandbox import Sandbox
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.protocol import protobuf, ttrpc
from pyvmm_kata.protocol.protobuf import Message
from pyvmm_kata.shim.pod import Pod, Resumed
from pyvmm_kata.shim.task_service import TaskService

RUNTIME = "io.containerd.fake.v2"
HERE = Path(__file__).resolve()
SHIM, POOL = (
    f"""#!{sys.executable}
import sys
if sys.flags.no_site:
    import site
    site.main()
sys.path[:0] = {[str(HERE.parents[2]), str(HERE.parents[2] / "examples" / "kata")]!r}
if "pyvmm_warm" in sys._xoptions:
    from pyvmm_kata.entry import SHIM
    from vmm import warm_start
    warm_start(SHIM)
import pyvmm_kata.pod.virtual_machine
from pyvmm_kata.pod import pool_client
from tests.kata.fake_guest import FakeGuest
pyvmm_kata.pod.virtual_machine.PyvmmVm = FakeGuest
pool_client.PODS = __file__.rpartition("/")[0] + "/pods"
from {module} import main
sys.exit(main())
"""
    for module in ("pyvmm_kata.shim.main", "pyvmm_kata.oci.pool")
)

AGENT, HEALTH = "grpc.AgentService", "grpc.Health"
PATIENCE = 60.0


def empty() -> Message:
    return protobuf.message("google.protobuf.Empty")()


class GuestProcess:
    """A process in the fake guest."""

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self.started = self.stdin_closed = False
        self.code: int | None = None
        self.ended = threading.Event()
        self.output = b""
        self.changed = threading.Condition()
        self.size = (0, 0)

    def run(self) -> None:
        self.started = True
        verb, *rest = os.path.basename(self.args[0]), *self.args[1:]
        if verb == "exit":
            self.end(int(rest[0]))
        elif verb == "print":
            self.write(rest[0].encode())
            self.end(0)
        elif verb == "cat" and self.stdin_closed:
            self.end(0)
        elif verb not in ("sleep", "cat"):
            raise ttrpc.RpcError("INVALID_ARGUMENT", f"exec: {verb}: not found")

    def write(self, data: bytes) -> None:
        with self.changed:
            self.output += data
            self.changed.notify_all()

    def end(self, code: int) -> None:
        if self.code is None:
            self.code = code
            self.ended.set()
            with self.changed:
                self.changed.notify_all()

    def read(self, length: int) -> bytes:
        with self.changed:
            self.changed.wait_for(lambda: self.output or self.code is not None, PATIENCE)
            data, self.output = self.output[:length], self.output[length:]
        return data


class FakeGuest:
    """Takes the place of `vm.PyvmmVm`: `Sandbox(config, boot=FakeGuest)`."""

    def __init__(self, config: SandboxConfig, folder: str, shared: str) -> None:
        self.config = config
        self.shared = shared
        self.processes: dict[tuple[str, str], GuestProcess] = {}
        self.paused: set[str] = set()
        self.interfaces: list[Message] = []
        self.calls: list[str] = []
        self.ooms: list[str] = []
        self.disks: dict[str, RootDisk] = {}
        self.macs: dict[int, str] = {}
        self._taps = config.network.take_keepers() if config.network is not None else []
        self.storages: dict[str, list[Message]] = {}
        self.changed = threading.Condition()
        self.closed = threading.Event()
        self._on_end: Callable[[str], None] = lambda reason: None
        self.handlers: dict[str, ttrpc.Handler] = {
            name: self._recorded(getattr(self, name)) for name in dir(type(self)) if name[0].isupper()
        }
        health: dict[str, ttrpc.Handler] = {
            "Check": lambda request, call: protobuf.message("grpc.HealthCheckResponse")(status=1)
        }
        self.server = ttrpc.Server({AGENT: self.handlers, HEALTH: health})
        if config.seal is not None:
            config.seal(self.wanted)

    def _recorded(self, handler: ttrpc.Handler) -> ttrpc.Handler:
        def recorded(request: Message, call: ttrpc.Call) -> Message:
            self.calls.append(call.method)
            return handler(request, call)

        return recorded

    # -- the Vm ------------------------------------------------------------------------------------------------------

    template = why = ""
    wanted: Any = None

    def connect(self, timeout: float) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.server.serve_connection(theirs)
        return ours

    def dial(self) -> socket.socket:
        raise ConnectionRefusedError("nobody forwards here")

    def watch(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end

    def plug(self, disk: RootDisk, serial: str) -> None:
        self.disks[serial] = disk

    def unplug(self, serial: str) -> None:
        del self.disks[serial]

    def refresh(self) -> None:
        pass

    def readdress(self, number: int, mac: str) -> None:
        self.macs[number] = mac

    def close(self) -> None:
        self.closed.set()
        while self._taps:
            os.close(self._taps.pop())
        self.server.close()
        with self.changed:
            self.changed.notify_all()

    def save(self, folder: str) -> None:
        raise AssertionError("nobody saves it")

    base_size = 0

    def fork(self, count: int) -> tuple[dict[str, Any], list[int]]:
        raise AssertionError("nobody copies it")

    def write_touched(self, fd: int) -> None:
        raise AssertionError("nobody has restored it")

    def resize_memory(self, size: int) -> None:
        raise AssertionError("it has no more memory")

    cpus = 1

    def resize_cpus(self, count: int) -> None:
        raise AssertionError("it has no more CPUs")

    def figures(self) -> dict[str, Any]:
        return {"vcpus": [{"exits": 5}], "devices": [{"name": "disk", "reads": 3, "words": "no number"}]}

    def die(self) -> None:
        """What the host sees of a guest that panics."""
        self.server.close()
        self._on_end("panic")

    def oom(self, container_id: str) -> None:
        """The kernel kills what the container's first process is."""
        with self.changed:
            self.ooms.append(container_id)
            self.changed.notify_all()
        self.processes[container_id, container_id].end(137)

    # -- the agent ---------------------------------------------------------------------------------------------------

    def _process(self, request: Message) -> GuestProcess:
        found = self.processes.get((request.container_id, request.exec_id or request.container_id))
        if found is None:
            raise ttrpc.RpcError("NOT_FOUND", f"no process {request.exec_id} in {request.container_id}")
        return found

    def CreateSandbox(self, request: Message, call: ttrpc.Call) -> Message:
        return empty()

    def SetGuestDateTime(self, request: Message, call: ttrpc.Call) -> Message:
        return empty()

    def DestroySandbox(self, request: Message, call: ttrpc.Call) -> Message:
        threading.Thread(target=self._on_end, args=("poweroff",)).start()
        return empty()

    def CreateContainer(self, request: Message, call: ttrpc.Call) -> Message:
        assert request.storages or os.path.isdir(os.path.join(self.shared, request.container_id, "rootfs"))
        self.storages[request.container_id] = request.storages
        args = json.loads(request.config)["process"]["args"]
        self.processes[request.container_id, request.container_id] = GuestProcess(args)
        return empty()

    def StartContainer(self, request: Message, call: ttrpc.Call) -> Message:
        self.processes[request.container_id, request.container_id].run()
        return empty()

    def RemoveContainer(self, request: Message, call: ttrpc.Call) -> Message:
        for key in [key for key in self.processes if key[0] == request.container_id]:
            self.processes.pop(key).end(137)
        return empty()

    def ExecProcess(self, request: Message, call: ttrpc.Call) -> Message:
        made = GuestProcess(json.loads(request.config)["args"])
        self.processes[request.container_id, request.exec_id] = made
        try:
            made.run()
        except ttrpc.RpcError:
            del self.processes[request.container_id, request.exec_id]
            raise
        return empty()

    def SignalProcess(self, request: Message, call: ttrpc.Call) -> Message:
        for (container_id, exec_id), process in list(self.processes.items()):
            # With the first process of a pid namespace all others die
            if container_id == request.container_id and request.exec_id in ("", container_id, exec_id):
                process.end(128 + request.signal)
        return empty()

    def WaitProcess(self, request: Message, call: ttrpc.Call) -> Message:
        process = self._process(request)
        while not process.ended.wait(0.1):
            if call.gone.is_set():
                raise ttrpc.RpcError("CANCELLED", "gone")
        return protobuf.message("grpc.WaitProcessResponse")(status=process.code)

    def ReadStdout(self, request: Message, call: ttrpc.Call) -> Message:
        data = self._process(request).read(request.len)
        if not data:
            raise ttrpc.RpcError("OUT_OF_RANGE", "end of file")
        return protobuf.message("grpc.ReadStreamResponse")(data=data)

    def ReadStderr(self, request: Message, call: ttrpc.Call) -> Message:
        raise ttrpc.RpcError("OUT_OF_RANGE", "end of file")

    def WriteStdin(self, request: Message, call: ttrpc.Call) -> Message:
        self._process(request).write(request.data)
        return protobuf.message("grpc.WriteStreamResponse")(len=len(request.data))

    def CloseStdin(self, request: Message, call: ttrpc.Call) -> Message:
        process = self._process(request)
        process.stdin_closed = True
        if process.args == ["cat"] and process.started:
            process.end(0)
        return empty()

    def TtyWinResize(self, request: Message, call: ttrpc.Call) -> Message:
        self._process(request).size = request.row, request.column
        return empty()

    def PauseContainer(self, request: Message, call: ttrpc.Call) -> Message:
        self.paused.add(request.container_id)
        return empty()

    def ResumeContainer(self, request: Message, call: ttrpc.Call) -> Message:
        self.paused.discard(request.container_id)
        return empty()

    def UpdateContainer(self, request: Message, call: ttrpc.Call) -> Message:
        return empty()

    def UpdateInterface(self, request: Message, call: ttrpc.Call) -> Message:
        self.interfaces.append(request.interface)
        return request.interface

    def UpdateRoutes(self, request: Message, call: ttrpc.Call) -> Message:
        return request.routes

    def AddARPNeighbors(self, request: Message, call: ttrpc.Call) -> Message:
        return empty()

    def StatsContainer(self, request: Message, call: ttrpc.Call) -> Message:
        made = protobuf.message("grpc.StatsContainerResponse")()
        made.cgroup_stats.cpu_stats.cpu_usage.total_usage = 7_000_000
        made.cgroup_stats.memory_stats.usage.usage = 4096
        made.cgroup_stats.memory_stats.stats["anon"] = 1024
        made.cgroup_stats.memory_stats.stats["events.oom_kill"] = 2
        made.cgroup_stats.memory_stats.stats["no such thing"] = 5
        made.cgroup_stats.pids_stats.current = 3
        made.cgroup_stats.blkio_stats.io_service_bytes_recursive.add(major=254, minor=1, op="Read", value=512)
        return made

    def GetOOMEvent(self, request: Message, call: ttrpc.Call) -> Message:
        with self.changed:
            while not self.ooms and not self.closed.is_set() and not call.gone.is_set():
                self.changed.wait(0.1)
            if not self.ooms:
                raise ttrpc.RpcError("CANCELLED", "gone")
            container_id = self.ooms.pop(0)
        return protobuf.message("grpc.OOMEvent")(container_id=container_id)


def write_shim(folder: Path) -> None:
    """Our shim by another name, and a pool for it, with machines that are none, and settings for both."""
    for name in ("kernel", "image"):
        (folder / name).write_text(name)
    (folder / "kata.toml").write_text(
        f'kernel = "{folder}/kernel"\nimage = "{folder}/image"\ntemplate = "auto"\npool = 1\n'
    )
    for name, text in (("containerd-shim-fake-v2", SHIM), ("poold", POOL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


class Pods:
    """``pyvmm-poold --pods`` of a shim of :func:`write_shim`, with one machine.

    :param enter: a command that runs another one elsewhere
    """

    def __init__(self, folder: Path, enter: Sequence[str] = ()) -> None:
        for name in ("kernel", "image"):
            (folder / name).write_text(name)
        self.folder = folder / "pods"
        self.settings = folder / "kata.toml"
        self.settings.write_text(f'kernel = "{folder}/kernel"\nimage = "{folder}/image"\ntemplate = "auto"\npool = 1\n')
        self.environment = {**os.environ, VARIABLE: str(self.settings), "XDG_CACHE_HOME": str(folder / "cache")}
        self._command = [str(folder / "poold"), "--pods"]
        self.process = subprocess.Popen([*enter, *self._command], env=self.environment)

    def figures(self) -> dict[str, int]:
        """What it says of itself; empty: nothing yet."""
        command = [*self._command, "--status"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def wait_until_full(self) -> None:
        """Until its machine is ready."""
        deadline = time.monotonic() + PATIENCE
        while self.figures().get("ready") != 1:
            assert time.monotonic() < deadline, f"no machine is ready: {self.figures()}"
            time.sleep(0.05)

    @property
    def left(self) -> list[str]:
        """The folders of its machines, ready or in use."""
        return [path.name for path in self.folder.glob("@*")]

    def kill(self) -> None:
        """kill -9; its machine ends."""
        self.process.kill()
        self.process.wait()


# -- the containerd shim as containerd uses it: its service over a real socket, with a guest that is none ------------


PID = 4242


class PlainDirectory(SharedDirectory):
    """A share without mounts, which not everybody may make."""

    def make(self) -> None:
        os.makedirs(self.path, exist_ok=True)

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        os.makedirs(os.path.join(self.path, name), exist_ok=True)
        return f"/guest/{name}"

    def unbind(self, name: str) -> None:
        pass

    def remove(self) -> None:
        pass


class FakeFace:
    """A face without a process, which not everybody may make."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()

    def show(self, root: Shown | None, volumes: Sequence[Shown]) -> None:
        pass

    def watch(self, on_signal: Callable[[int], None], processes: Callable[[], bytes]) -> None:
        self._ended.wait()

    def end(self, status: int) -> None:
        self._ended.set()

    close = reap = lambda self: self._ended.set()


class Shim:
    """A pod, its service on a socket, and the events that it sent."""

    def __init__(self, folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pyvmm_kata.pod.sandbox.SharedDirectory", PlainDirectory)
        self.folder = folder
        self.package = package
        self.events: list[Message] = []
        self.published = threading.Condition()
        self.guests: list[FakeGuest] = []
        self.ended = threading.Event()
        self.pod = Pod(self._sandbox, self._publish, lambda bundle, others: FakeFace(PID))  # type: ignore[arg-type, return-value]
        self.service = TaskService(package, self.pod, "2", self.ended.set)
        self.server = ttrpc.Server({self.service.name: self.service.handlers()})
        ours, theirs = socket.socketpair()
        self.server.serve_connection(theirs)
        self.client = ttrpc.Client(ours, "the shim")

    def _sandbox(
        self,
        bundle: Bundle,
        _face: Face,
        options: Message | None,
        listener: Callable[[SandboxEvent], None],
        _resumed: Resumed | None,
    ) -> Sandbox:
        def boot(config: SandboxConfig, folder: str, shared: str) -> FakeGuest:
            self.guests.append(FakeGuest(config, folder, shared))
            return self.guests[-1]

        made = Sandbox(
            SandboxConfig("pod", str(self.folder), "kernel", "image", more_disks=bundle.disk is not None), boot
        )
        made.listen(listener)
        made.start()
        return made

    def _publish(self, content: Message) -> None:
        with self.published:
            self.events.append(content)
            self.published.notify_all()

    @property
    def guest(self) -> FakeGuest:
        return self.guests[-1]

    def bundle(self, task_id: str, args: list[str], **process: Any) -> str:
        path = self.folder / f"bundle-{task_id}"
        (path / "rootfs").mkdir(parents=True)
        spec = {
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"args": args, "cwd": "/", **process},
            "linux": {},
        }
        (path / "config.json").write_text(json.dumps(spec))
        return str(path)

    def call(self, method: str, kind: str, **fields: Any) -> Message:
        message = protobuf.message(f"{self.package}.{kind}")(**fields)
        return self.client.call(self.service.name, method, message, PATIENCE)

    def create(self, task_id: str, *args: str, **fields: Any) -> Message:
        bundle = self.bundle(task_id, list(args), terminal=fields.get("terminal", False))
        return self.call("Create", "CreateTaskRequest", id=task_id, bundle=bundle, **fields)

    def run(self, task_id: str, *args: str, **fields: Any) -> None:
        self.create(task_id, *args, **fields)
        self.call("Start", "StartRequest", id=task_id)

    def exec(self, task_id: str, exec_id: str, *args: str, **fields: Any) -> None:
        process = json.dumps({"args": list(args), "cwd": "/"}).encode()
        spec = protobuf.message("google.protobuf.Any")(type_url="x/Process", value=process)
        self.call("Exec", "ExecProcessRequest", id=task_id, exec_id=exec_id, spec=spec, **fields)

    def wait(self, task_id: str, exec_id: str = "") -> int:
        return int(self.call("Wait", "WaitRequest", id=task_id, exec_id=exec_id).exit_status)

    def delete(self, task_id: str, exec_id: str = "") -> Message:
        return self.call("Delete", "DeleteRequest", id=task_id, exec_id=exec_id)

    def state(self, task_id: str, exec_id: str = "") -> str:
        number = self.call("State", "StateRequest", id=task_id, exec_id=exec_id).status
        names = ("CREATED", "RUNNING", "STOPPED", "PAUSED")
        return {protobuf.enum_value("containerd.v1.types.Status", name): name for name in names}[number]

    def wait_for_events(self, count: int) -> list[str]:
        with self.published:
            assert self.published.wait_for(lambda: len(self.events) >= count, PATIENCE), self.names()
        return self.names()

    def names(self) -> list[str]:
        return [event.DESCRIPTOR.name for event in self.events]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ttrpc.RpcError) as caught:
        call()
    return caught.value.code
