"""An agent without a guest: speaks the agent's interface over a unix socket, and runs programs here, without a wall.

:class:`FakeVm` is a machine around it, in the shape that a Sandbox wants.  A test of a hostile guest replaces handlers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyvmm_kata.bundle.root_disks import RootDisk
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host.mounts import GUEST_SHARED
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.protocol import protobuf, ttrpc
from vmm.config import BootConfig, MachineConfig, MemoryConfig
from vmm.saving import memory_file
from vmm.saving.manifest import FORMAT, Cpu, FileState, Manifest, encode_state, write_manifest
from vmm.saving.records import plain

EMPTY = "google.protobuf.Empty"


class FakeProcess:
    """A program of the host's, in the place of one in the guest."""

    def __init__(self, process: dict[str, Any]) -> None:
        self.args = process["args"]
        self.env = dict(entry.split("=", 1) for entry in process.get("env", ()))
        self.terminal = bool(process.get("terminal"))
        size = process.get("consoleSize") or {}
        self.size = (int(size.get("height", 0)), int(size.get("width", 0)))
        self.started = threading.Event()
        self.ended = threading.Event()
        self.status = 255
        self.program: subprocess.Popen[bytes] | None = None
        self.stdin, self.stdout, self.stderr = -1, -1, -1
        self.window = ""

    def __del__(self) -> None:
        for fd in {self.stdin, self.stdout, self.stderr} - {-1}:
            os.close(fd)

    def start(self) -> None:
        if self.terminal:
            master, slave = os.openpty()
            ends: tuple[int, ...] = (slave, slave, slave)
            self.stdin = self.stdout = master
            self.resize(*self.size)
        else:
            (its_in, self.stdin), (self.stdout, its_out), (self.stderr, its_err) = os.pipe(), os.pipe(), os.pipe()
            ends = its_in, its_out, its_err
        try:
            # As descriptor 3, if there is one
            window = ["sh", "-c", 'exec "$@" 3<>"$0"', self.window] if self.window else []
            self.program = subprocess.Popen(
                [*window, *self.args],
                env=self.env,
                stdin=ends[0],
                stdout=ends[1],
                stderr=ends[2],
                start_new_session=True,
            )
        except OSError as error:
            raise ttrpc.RpcError("INTERNAL", f"executable file `{self.args[0]}` not found: {error.strerror}") from None
        finally:
            for fd in set(ends):
                os.close(fd)
        self.started.set()
        threading.Thread(target=self._wait, args=(self.program,), daemon=True).start()

    def _wait(self, program: subprocess.Popen[bytes]) -> None:
        code = program.wait()
        self.end(code if code >= 0 else 128 - code)

    def end(self, status: int) -> None:
        self.status = status
        self.started.set()
        self.ended.set()

    def kill(self, number: int, *, everything: bool = False) -> None:
        if self.program is None:
            if number == signal.SIGKILL:
                self.end(137)
        elif not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                (os.killpg if everything else os.kill)(self.program.pid, number)

    def signal_tree(self, number: int) -> None:
        """To it and its descendants, those in other sessions, too: a parent that is stopped makes no more of them."""
        found = [self.program.pid] if self.program is not None and not self.ended.is_set() else []
        for pid in found:
            with contextlib.suppress(OSError):  # it ended just now
                os.kill(pid, number)
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as file:
                        found += [int(child) for child in file.read().split()]

    def resize(self, rows: int, columns: int) -> None:
        self.size = (rows, columns)
        if self.terminal and self.stdout >= 0:
            termios.tcsetwinsize(self.stdout, self.size)

    def read(self, name: str, length: int) -> bytes:
        self.started.wait()
        try:
            return os.read(getattr(self, name), length)
        except OSError:
            return b""


class FakeAgent:
    """The service.  :attr:`calls` are the names of what was called; *replace* takes the place of handlers."""

    def __init__(self, replace: Mapping[str, ttrpc.Handler] | None = None) -> None:
        self.calls: list[str] = []
        self.requests: dict[str, Any] = {}
        self.processes: dict[tuple[str, str], FakeProcess] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        self.oom: list[str] = []
        self.oom_ready = threading.Event()
        self.power_off: Callable[[], None] = lambda: None
        methods = {name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")}
        self.shared = ""
        """The directory of the share, where it makes the mount points of containers."""
        methods.update(replace or {})
        check = methods.pop("Check")
        self.server = ttrpc.Server(
            {
                "grpc.AgentService": {name: self._noting(name, method) for name, method in methods.items()},
                "grpc.Health": {"Check": self._noting("Check", check)},
            }
        )

    def _noting(self, name: str, method: ttrpc.Handler) -> ttrpc.Handler:
        def handle(request: Any, call: ttrpc.Call) -> Any:
            self.calls.append(name)
            self.requests[name] = request
            answer = method(request, call)
            return protobuf.message(EMPTY)() if answer is None else answer

        return handle

    def find(self, request: Any) -> FakeProcess:
        found = self.processes.get((request.container_id, request.exec_id))
        if found is None:
            raise ttrpc.RpcError("NOT_FOUND", f"no process {request.exec_id} in {request.container_id}")
        return found

    # -- handlers ----------------------------------------------------------------------------------------------------

    def do_Check(self, _request: Any, _call: ttrpc.Call) -> Any:
        return protobuf.message("grpc.HealthCheckResponse")(status=1)

    def do_SetGuestDateTime(self, request: Any, _call: ttrpc.Call) -> None:
        pass

    def do_CreateSandbox(self, request: Any, _call: ttrpc.Call) -> None:
        pass

    def do_SetPolicy(self, request: Any, _call: ttrpc.Call) -> None:
        pass

    def do_DestroySandbox(self, _request: Any, _call: ttrpc.Call) -> None:
        for process in self.processes.values():
            process.kill(signal.SIGKILL, everything=True)
        threading.Thread(target=self.power_off).start()

    def do_CreateContainer(self, request: Any, _call: ttrpc.Call) -> None:
        spec = self.specs[request.container_id] = json.loads(request.config)
        root = os.path.join(self.shared, os.path.relpath(spec["root"]["path"], GUEST_SHARED))
        if self.shared and os.path.isdir(root):
            for mount in spec["mounts"]:  # as crun does; a file's mount point tests make themselves
                with contextlib.suppress(OSError):
                    os.makedirs(root + mount["destination"], exist_ok=True)
        self.processes[request.container_id, request.exec_id] = FakeProcess(spec["process"])

    def do_StartContainer(self, request: Any, _call: ttrpc.Call) -> None:
        self.processes[request.container_id, request.container_id].start()

    def do_RemoveContainer(self, request: Any, _call: ttrpc.Call) -> None:
        for key in [key for key in self.processes if key[0] == request.container_id]:
            self.processes.pop(key).kill(signal.SIGKILL, everything=True)

    def do_ExecProcess(self, request: Any, _call: ttrpc.Call) -> None:
        process = FakeProcess(json.loads(request.config))
        if request.window:
            process.window = os.path.join(self.shared, os.path.relpath(request.window, GUEST_SHARED))
        process.start()
        self.processes[request.container_id, request.exec_id] = process

    def do_SignalProcess(self, request: Any, _call: ttrpc.Call) -> None:
        if not request.exec_id:
            for (container_id, _), process in self.processes.items():
                if container_id == request.container_id:
                    process.kill(request.signal, everything=True)
        else:
            self.find(request).kill(request.signal)

    def do_WaitProcess(self, request: Any, _call: ttrpc.Call) -> Any:
        process = self.find(request)
        process.ended.wait()
        while os.path.exists(os.environ.get("PYVMM_FAKE_SLOW", "")):
            time.sleep(0.01)
        return protobuf.message("grpc.WaitProcessResponse")(status=process.status)

    def do_ListProcesses(self, request: Any, _call: ttrpc.Call) -> Any:
        pids = listing([Made((40, 1)), Made((43, 7), parent=40)]) if request.format == "files" else b"[1, 7]"
        return protobuf.message("grpc.ListProcessesResponse")(process_list=pids)

    def do_ReadStdout(self, request: Any, _call: ttrpc.Call) -> Any:
        data = self.find(request).read("stdout", request.len)
        return protobuf.message("grpc.ReadStreamResponse")(data=data)

    def do_ReadStderr(self, request: Any, _call: ttrpc.Call) -> Any:
        data = self.find(request).read("stderr", request.len)
        return protobuf.message("grpc.ReadStreamResponse")(data=data)

    def do_WriteStdin(self, request: Any, _call: ttrpc.Call) -> Any:
        process = self.find(request)
        process.started.wait()
        try:
            taken = os.write(process.stdin, request.data)
        except OSError as error:
            raise ttrpc.RpcError("OUT_OF_RANGE", str(error)) from None
        return protobuf.message("grpc.WriteStreamResponse")(len=taken)

    def do_CloseStdin(self, request: Any, _call: ttrpc.Call) -> None:
        process = self.find(request)
        process.started.wait()
        if process.stdin >= 0 and not process.terminal:
            os.close(process.stdin)
            process.stdin = -1

    def do_TtyWinResize(self, request: Any, _call: ttrpc.Call) -> None:
        self.find(request).resize(request.row, request.column)

    def do_ReseedRandomDev(self, request: Any, _call: ttrpc.Call) -> None:
        if "PYVMM_FAKE_NO_SEED" in os.environ:
            raise ttrpc.RpcError("INTERNAL", "no entropy taken")

    def do_OnlineCPUMem(self, request: Any, _call: ttrpc.Call) -> None:
        pass

    def do_UpdateContainer(self, request: Any, _call: ttrpc.Call) -> None:
        pass

    def do_PauseContainer(self, request: Any, _call: ttrpc.Call) -> None:
        for process in self.processes.values():
            process.signal_tree(signal.SIGSTOP)

    def do_ResumeContainer(self, request: Any, _call: ttrpc.Call) -> None:
        for process in self.processes.values():
            process.signal_tree(signal.SIGCONT)

    def do_StatsContainer(self, request: Any, _call: ttrpc.Call) -> Any:
        answer = protobuf.message("grpc.StatsContainerResponse")()
        answer.cgroup_stats.memory_stats.usage.usage = 4096
        answer.cgroup_stats.pids_stats.current = 2
        return answer

    def do_GetOOMEvent(self, _request: Any, call: ttrpc.Call) -> Any:
        while not self.oom and not call.gone.is_set():
            self.oom_ready.wait(0.1)
        return protobuf.message("grpc.OOMEvent")(container_id=self.oom.pop() if self.oom else "")


class FakeVm:
    """A machine that runs nothing: its agent is here."""

    template = why = ""
    wanted: Any = None
    memory = 0
    network = ""
    """The network namespace of the machine that it is a copy of, whose programs run on; empty: it is none."""

    def __init__(self, agent: FakeAgent) -> None:
        self.agent = agent
        self.closed = False
        self.disks: dict[str, RootDisk] = {}
        self.refreshed: list[list[str]] = []
        """Each time, what the agent had been asked for."""
        self.sizes: list[int] = []
        """Those that the machine was asked to have."""
        self.cpus = 1
        self.counts: list[tuple[int, int]] = []
        """Of CPUs: those that the machine was told to have, each with what the guest had been told before."""
        self.plugs = True
        """The guest takes memory, at once."""
        self._on_end: Callable[[str], None] = lambda reason: None
        agent.power_off = lambda: self._on_end("poweroff")

    def connect(self, timeout: float) -> socket.socket:
        ours, its = socket.socketpair()
        self.agent.server.serve_connection(its)
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
        self.refreshed.append([*self.agent.calls])

    def readdress(self, number: int, mac: str) -> None:
        raise AssertionError("it has no network")

    def save(self, folder: str) -> None:
        """A snapshot whose machine would begin its containers' programs anew."""
        hold = os.environ.get("PYVMM_FAKE_HOLD", "")
        while os.path.exists(hold):
            Path(f"{hold}-reached").touch()
            time.sleep(0.01)
        specs = {container_id: self.agent.specs[container_id]["process"] for container_id in self.agent.specs}
        write_snapshot(folder, self.memory, specs)
        Path(folder, "network").write_text(self.network or f"/proc/{os.getpid()}/ns/net")

    base_size = 0

    def fork(self, count: int) -> tuple[dict[str, Any], list[int]]:
        raise ConfigError("it has no process of its own", code="fork-isolation")

    def write_touched(self, fd: int) -> None:
        os.pwrite(fd, b"touched", 0)

    def resize_memory(self, size: int) -> None:
        self.sizes.append(size)

    def resize_cpus(self, count: int) -> None:
        self.cpus = count
        self.counts.append((count, self.agent.requests["OnlineCPUMem"].cpus if self.counts else 1))

    def figures(self) -> dict[str, Any]:
        plugged = self.sizes[-1] - self.memory if self.sizes and self.plugs else 0
        devices = [{"name": "disk", "reads": 3, "words": "no number"}]
        if self.sizes:
            devices.append({"name": "hotplug memory", "plugged": plugged})
        return {"vcpus": [{"exits": 5}], "devices": devices}

    def die(self, reason: str) -> None:
        """As if the guest had."""
        self.agent.server.close()
        self._on_end(reason)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.agent.do_DestroySandbox(None, None)  # type: ignore[arg-type]
            self.agent.server.close()
            self._on_end("stopped")


def boot_fake(config: SandboxConfig, folder: str, shared: str) -> FakeVm:
    """As :func:`pyvmm_kata.pod.sandbox.boot_vm`."""
    agent = FakeAgent()
    agent.shared = shared
    if config.checkpoint:
        for container_id, process in json.loads(Path(config.checkpoint, "programs").read_text()).items():
            agent.specs[container_id] = {"process": process}
            agent.processes[container_id, container_id] = FakeProcess(process)
            agent.processes[container_id, container_id].start()
    vm = FakeVm(agent)
    vm.memory = config.memory
    if config.checkpoint and os.path.exists(kept := os.path.join(config.checkpoint, "network")):
        vm.network = Path(kept).read_text()
    return vm


def write_snapshot(folder: str, memory: int, specs: Mapping[str, dict[str, Any]]) -> None:
    """What pyvmm takes for a snapshot, of a machine that has nothing in its memory."""
    state = encode_state({"version": 1})
    made = Path(f"{folder}.new")
    made.mkdir()
    (made / "state").write_bytes(state)
    (made / "memory").touch()
    os.truncate(made / "memory", memory)
    (made / "programs").write_text(json.dumps(specs))
    config = MachineConfig(BootConfig("/kernel"), MemoryConfig(memory))
    manifest = Manifest(
        format=FORMAT,
        id="0" * 32,
        base="",
        base_id="",
        taken="",
        pyvmm="",
        host_kernel="",
        cpu=Cpu("", "", ""),
        kernel=FileState("/kernel", 0, 0),
        state_sha256=hashlib.sha256(state).hexdigest(),
        memory_size=memory,
        memory_bytes=0,
        memory_crc32=memory_file.checksum(str(made / "memory"), memory),
        devices=(),
        disks=(),
        config=plain(config),
    )
    write_manifest(str(made / "manifest.json"), manifest)
    made.rename(folder)


# -- what an agent answers of processes (linux-guest/agent/container.h), made up -------------------------------------


class Made(NamedTuple):
    """A process: the numbers that it has, from the guest's namespace inwards, and its parent's in the guest's."""

    numbers: Sequence[int]
    parent: int = 0
    name: str = "sh"
    cmdline: bytes = b"sh\0-c\0sleep 3600\0"


def files_of(made: Made) -> dict[str, bytes]:
    """As the kernel writes them, as far as tools read them."""
    pid, parent, name = made.numbers[0], made.parent, made.name.encode()
    inner = "\t".join(map(str, made.numbers)).encode()
    pairs = {b"Umask": b"0022", b"State": b"S (sleeping)", b"Tgid": b"%d" % pid, b"Pid": b"%d" % pid}
    pairs |= {b"PPid": b"%d" % parent, b"TracerPid": b"0", b"Uid": b"0\t0\t0\t0"}
    pairs |= dict.fromkeys((b"NStgid", b"NSpid", b"NSpgid", b"NSsid"), inner)
    status = b"Name:\t%s\n" % name.replace(b"\n", b"\\n") + b"".join(b"%s:\t%s\n" % pair for pair in pairs.items())
    stat = b"%d (%s) S %d %d %d 34816 %d 4194560 90 0 0 0 1 2 0 0 20 0 1 0 250\n" % (pid, name, parent, pid, pid, pid)
    return {"status": status, "stat": stat, "cmdline": made.cmdline}


def record(name: str, content: bytes) -> bytes:
    return f"{name} {len(content)}\n".encode() + content


def listing(processes: Sequence[Made], top: Mapping[str, bytes] | None = None) -> bytes:
    """The first one is the container's."""
    text = f"first {processes[0].numbers[0]}\n".encode()
    for name, content in (top or {"uptime": b"12.00 3.00\n", "stat": b"cpu 1 2\nbtime 1700000000\n"}).items():
        text += record(name, content)
    for made in processes:
        for name, content in files_of(made).items():
            text += record(f"{made.numbers[0]}/{name}", content)
    return text + b"end\n"
