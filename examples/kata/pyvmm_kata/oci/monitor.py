"""The process that holds a container's virtual machine.  Its pid is the container's: it lives as long, ends with the
container's status, and what signals it gets, the container gets.

It is a child of the ``create`` that made it, and of whoever adopts that one's children afterwards, in its own session.
Everything it has (mounts, the machine, taps) is its own and goes with it; what is left then are the state's folder and
a control group, which ``delete`` removes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata import mounts, network, state, timeline
from pyvmm_kata.cgroups import Cgroup
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.guest_spec import kernel_parameters
from pyvmm_kata.oci import control
from pyvmm_kata.oci.console import follow
from pyvmm_kata.sandbox import Sandbox, SandboxConfig, SandboxEvent
from pyvmm_kata.spec import namespace
from pyvmm_kata.stdio import Stdio
from vmm import Publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.bundle import Bundle
    from pyvmm_kata.container import Container
    from pyvmm_kata.process import Process
    from pyvmm_kata.settings import Settings
    from pyvmm_kata.state import Json

FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGTSTP")
NETWORK, PUBLISH = "io.pyvmm.network", "io.pyvmm.publish"
"""Annotations: ``user``, for a network that needs no rights, instead of that of the namespace; and the ports of the
host that lead into it, ``8080:80 127.0.0.1:5353:53/udp``."""
LINGER_S = 10.0
"""How long those who wait for a process may take to hear of its end."""


class Plan(NamedTuple):
    """What ``create`` has decided.

    :ivar folder: of the state, there already
    :ivar cgroup: directory of the control group, empty for none
    :ivar console: the descriptor of its terminal, or -1
    """

    container_id: str
    folder: str
    bundle: Bundle
    settings: Settings
    cgroup: str
    stdio: Stdio
    console: int = -1


class Monitor:
    """Everything of one container.  Made and run on the main thread."""

    def __init__(self, plan: Plan, boot: Callable[..., Any] | None = None) -> None:
        self._plan = plan
        self._boot = boot
        self._state = {**state.read(plan.folder), "status": "creating"}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._status = 255
        self._netns = ""
        self._execs = 0
        self._busy = 0
        self._sandbox: Sandbox | None = None
        self._container: Container | None = None

    # -- making ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Enter the namespaces and the control group.

        :raises VmmError: the host does not let us
        """
        plan = self._plan
        self._save(pid=os.getpid(), startTime=state.start_time(os.getpid()))
        cgroup = Cgroup(plan.cgroup)
        if cgroup.make():
            resources = (plan.bundle.spec.get("linux") or {}).get("resources") or {}
            cgroup.limit(plan.settings.size(resources)[0], resources)
            cgroup.enter()
        else:
            self._save(cgroup="")
        entry = namespace(plan.bundle.spec, "network")
        user = plan.bundle.annotations.get(NETWORK) == "user"
        if entry is None and not user:
            raise ConfigError(
                "config.json: linux.namespaces: without a network namespace of its own, the container would have the "
                "host's network, which a virtual machine cannot have",
                code="oci-network",
                hint="podman: leave --network host out",
            )
        self._netns = "" if user or entry is None else entry.get("path") or ""
        if not user:
            network.enter(self._netns)
        mounts.enter_namespace()
        timeline.note("namespaces")

    def create(self) -> None:
        """Boot the machine and make the container in it.

        :raises VmmError: one of the two fails; nothing of them is left
        """
        plan = self._plan
        spec = plan.bundle.spec
        memory, vcpus = plan.settings.size((spec.get("linux") or {}).get("resources") or {})
        self._sandbox = Sandbox(
            SandboxConfig(
                plan.container_id,
                plan.folder,
                plan.settings.kernel,
                plan.settings.image,
                memory,
                vcpus,
                hostname=spec.get("hostname") or "",
                cmdline=f"{plan.settings.kernel_params} {kernel_parameters(spec)}".strip(),
                network=self._network(),
                root=plan.bundle.disk,
            ),
            self._boot,
        )
        self._sandbox.listen(self._on_event)
        self._sandbox.start()
        self._container = self._sandbox.create_container(plan.container_id, plan.bundle, plan.stdio)
        self._save(status="created")

    def _network(self) -> network.Network | None:
        annotations = self._plan.bundle.annotations
        kind = annotations.get(NETWORK, "")
        if kind == "user":
            return network.user_network([Publish.parse(text) for text in annotations.get(PUBLISH, "").split()])
        if kind:
            raise ConfigError(f"annotation {NETWORK}: {kind!r} is not user", code="oci-annotation")
        return network.take_over() if self._netns else None

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve the commands until the container has ended; the exit status."""
        folder = os.open(self._plan.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        listener = control.listen(folder)
        threading.Thread(target=self._accept, args=(listener,), name="control", daemon=True).start()
        for name in FORWARDED:
            signal.signal(getattr(signal, name), self._forward)
        if self._plan.console >= 0:
            follow(self._plan.console, self._resize, take=True)
        return 0

    def wait(self) -> int:
        """Wait for the container's end, and end the machine; the exit status."""
        self._ended.wait()
        self._save(status="stopped", exitStatus=self._status)
        deadline = time.monotonic() + LINGER_S
        while self._busy and time.monotonic() < deadline:
            time.sleep(0.005)
        self.close()
        timeline.note("closed")
        return self._status

    def close(self) -> None:
        """End the machine."""
        if self._sandbox is not None:
            try:
                self._sandbox.stop()
            except VmmError:
                pass  # its mounts are in our namespace, and go with us

    def _resize(self, rows: int, columns: int) -> None:
        container = self._container
        if container is not None and container.state == "running":
            # Not on the main thread, which is in a signal handler
            threading.Thread(target=_quietly, args=(container.init.resize, rows, columns), daemon=True).start()

    def _forward(self, number: int, _frame: Any) -> None:
        container = self._container
        if container is not None:
            threading.Thread(target=_quietly, args=(container.kill, number), daemon=True).start()

    def _on_event(self, event: SandboxEvent) -> None:
        if event.kind == "exit" and event.exec_id == self._plan.container_id and event.exit_status is not None:
            timeline.note("exited")
            self._status = event.exit_status.code
            if event.exit_status.reason:
                self._save(reason=event.exit_status.reason)
            self._ended.set()
        elif event.kind == "oom":
            self._save(oom=self._state.get("oom", 0) + 1)
        elif event.kind == "end":
            self._save(reason=event.reason)
            self._ended.set()

    def _save(self, **fields: Any) -> None:
        with self._lock:
            self._state.update(fields)
            state.write(self._plan.folder, self._state)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: Any) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                time.sleep(0.1)  # out of descriptors: some will be closed
                continue
            threading.Thread(target=self._serve, args=(sock,), name="request", daemon=True).start()

    def _serve(self, sock: Any) -> None:
        channel = control.Channel(sock, "the command")
        with self._lock:
            self._busy += 1
        try:
            request = channel.receive(10.0)
            if request is None:
                return
            handler = getattr(self, f"_do_{request.get('op')}", None)
            if handler is None:
                raise ConfigError(f"no request {request.get('op')!r}", code="oci-control")
            handler(request, channel)
        except VmmError as error:
            _quietly(channel.send, {"error": f"{error} ({error.hint})" if error.hint else str(error)})
        except (KeyError, TypeError, ValueError) as error:
            _quietly(channel.send, {"error": f"the request makes no sense: {type(error).__name__}: {error}"})
        except OSError:
            pass  # the command is gone
        finally:
            with self._lock:
                self._busy -= 1
            channel.close()

    @property
    def _made(self) -> Container:
        if self._container is None:
            raise HostError("the container is not made yet", code="oci-state")
        return self._container

    def _do_start(self, _request: Json, channel: control.Channel) -> None:
        timeline.note("start")
        self._made.start()
        timeline.note("started")
        self._save(status="running")
        if self._plan.console >= 0:
            os.kill(os.getpid(), signal.SIGWINCH)
        channel.send({})

    def _do_kill(self, request: Json, channel: control.Channel) -> None:
        self._made.kill(request["signal"], everything=bool(request.get("all")))
        channel.send({})

    def _do_pids(self, _request: Json, channel: control.Channel) -> None:
        channel.send({"pids": self._made.pids()})

    def _do_pause(self, _request: Json, channel: control.Channel) -> None:
        self._made.pause()
        self._save(status="paused")
        channel.send({})

    def _do_resume(self, _request: Json, channel: control.Channel) -> None:
        self._made.resume()
        self._save(status="running")
        channel.send({})

    def _do_update(self, request: Json, channel: control.Channel) -> None:
        self._made.update(request["resources"])
        channel.send({})

    def _do_resize(self, request: Json, channel: control.Channel) -> None:
        self._made.init.resize(int(request["rows"]), int(request["columns"]))
        channel.send({})

    def _do_stats(self, _request: Json, channel: control.Channel) -> None:
        from pyvmm_kata.oci.stats import to_json

        channel.send({"data": to_json(self._made.stats()), "oom": self._state.get("oom", 0)})

    def _do_exec(self, request: Json, channel: control.Channel) -> None:
        """Started -> an answer; ended -> one more.  While it runs, its terminal's size and signals can be sent; when
        the connection ends, the process does."""
        fds, channel.fds = channel.fds, []
        self._exec(request["process"], fds, channel)

    def _do_exec_command(self, request: Json, channel: control.Channel) -> None:
        """The same for a command line of ``exec``, each word with a zero byte at its end, and perhaps a fourth
        descriptor, the file with the process: what the program in C has (examples/kata/client)."""
        from pyvmm_kata.oci.exec import process_of

        words = os.fsdecode(channel.take(request["bytes"])).split("\0")[:-1]
        fds, channel.fds = channel.fds[:3], channel.fds[3:]
        try:
            process = process_of(words, self._state["process"], *channel.fds)
            if process.get("terminal"):
                raise ConfigError("exec: this connection is for processes without a terminal", code="oci-control")
        except BaseException:
            channel.fds += fds
            raise
        self._exec(process, fds, channel)

    def _exec(self, process: Json, fds: list[int], channel: control.Channel) -> None:
        """Run it with these descriptors, which become the process's, and answer."""
        with self._lock:
            self._execs += 1
            exec_id = f"exec-{self._execs}"
        terminal = bool(process.get("terminal"))
        if len(fds) == 1:
            fds.append(os.dup(fds[0]))
        stdin, stdout, stderr = (*fds, None, None, None)[:3]
        running = self._made.exec(exec_id, process, Stdio(stdin, stdout, stderr, terminal))
        threading.Thread(target=_follow_exec, args=(running, channel), name=exec_id, daemon=True).start()
        channel.send({"pid": 0, "exec": exec_id})
        status = running.wait()
        self._made.forget(exec_id)
        assert status is not None
        channel.send({"exit": status.code, "reason": status.reason})


def _follow_exec(process: Process, channel: control.Channel) -> None:
    while True:
        try:
            request = channel.receive(None)
        except (OSError, VmmError):
            request = None
        if process.exit_status is not None:
            return
        if request is None:
            _quietly(process.kill, signal.SIGKILL)
            return
        if "signal" in request:
            _quietly(process.kill, request["signal"])
        elif "rows" in request:
            _quietly(process.resize, request["rows"], request["columns"])


def _quietly(work: Callable[..., None], *arguments: Any) -> None:
    """Where nobody could be told of an error."""
    try:
        work(*arguments)
    except (VmmError, OSError, TypeError, ValueError):
        pass
