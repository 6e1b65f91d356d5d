"""The shim's process: serves containerd until no container is left and containerd requests its end."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from pyvmm_kata import timeline
from pyvmm_kata.bundle import settings
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.checks import namespace
from pyvmm_kata.errors import VmmError
from pyvmm_kata.host.mounts import enter_namespace
from pyvmm_kata.pod import pool_client
from pyvmm_kata.pod.network import count_interfaces, in_namespace
from pyvmm_kata.privileges import restrict
from pyvmm_kata.protocol import protobuf, ttrpc
from pyvmm_kata.protocol.ttrpc.wire import HEADER, REMOTE_OPEN, REQUEST
from pyvmm_kata.shim import bootstrap
from pyvmm_kata.shim.bootstrap import Arguments, Place
from pyvmm_kata.shim.events import Publisher
from pyvmm_kata.shim.pod import Pod
from pyvmm_kata.shim.pod_sandbox import (
    Adopted,
    PodStart,
    config_path,
    launch_face,
    leave_cgroup,
    own_cgroup,
    pod_resources,
)
from pyvmm_kata.shim.rootfs import as_disk
from pyvmm_kata.shim.task_service import MONITOR, PACKAGES, TaskService, monitor_handlers
from vmm import warm_settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm_kata.host.proxy_process import Face
    from pyvmm_kata.pod.events import SandboxEvent
    from pyvmm_kata.pod.sandbox import Sandbox
    from pyvmm_kata.protocol.protobuf import Message
    from pyvmm_kata.shim.pod import Boot, Launch, Resumed
    from pyvmm_kata.state import Json

MAX_PEEKED = 128 << 10
"""Bytes of the first request: a socket has room for as many (net.core.wmem_default)."""
VERSION = "2"
FLUSH_S = 5.0
IDLE_S = 5.0
"""A shim without a container and without a connection, seen twice at this distance, ends."""


def serve(arguments: Arguments, place: Place, listener: socket.socket) -> None:
    """Run the shim: returns when it has ended and its place is removed, or another process is the shim."""
    log = Log(os.path.join(arguments.bundle or ".", "log"))
    try:
        _detach(log)
        connections: list[socket.socket] = []
        if os.path.exists("/".join(pool_client.address(pool_client.PODS))):
            first = FirstCall(listener)
            connections = first.connections
            if _give(arguments, place, first, log):
                return  # the place is not ours any more
        enter_namespace()
        restrict()
        home = own_cgroup()
        start = PodStart(place, home)

        def boot(
            bundle: Bundle,
            face: Face,
            options: Message | None,
            listener: Callable[[SandboxEvent], None],
            resumed: Resumed | None,
        ) -> Sandbox:
            sandbox = start.start(bundle, face, options, listener, resumed)
            gc.freeze()
            gc.enable()
            log.info(f"pod {place.group}: its machine {sandbox.origin}")
            return sandbox

        _run(arguments, place, log, home, listener, connections, boot, launch_face)
    except BaseException:
        log.error(f"the shim ends: {traceback.format_exc()}")
        raise


def _run(
    arguments: Arguments,
    place: Place,
    log: Log,
    home: str,
    listener: socket.socket,
    connections: Sequence[socket.socket],
    boot: Boot,
    launch: Launch,
) -> None:
    publisher = Publisher(arguments.events, arguments.namespace, log.error)
    pod = Pod(boot, publisher.publish, launch)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    services = [TaskService(package, pod, VERSION, ending.set) for package in PACKAGES]
    server = ttrpc.Server(
        {**{service.name: service.handlers() for service in services}, MONITOR: monitor_handlers(pod)},
        lambda method, error: log.error(f"{method}: {''.join(traceback.format_exception(error))}"),
    )
    for sock in connections:
        server.serve_connection(sock)
    serving = threading.Thread(target=server.serve, args=(listener,), name="accept", daemon=True)
    serving.start()
    looks, settled = 0, False
    while looks < 2 and not ending.wait(IDLE_S):
        if not settled and not pod.is_empty:
            warm_settle()
            settled = True
        # A containerd that dies while it starts us forgets us
        looks = looks + 1 if pod.is_empty and not server.connections else 0
    pod.close()
    publisher.close(FLUSH_S)
    # No earlier: containerd gets the answer to Shutdown before the connection ends. Where the pod cannot be closed
    # the directory stays as it is, for processes without our mounts.
    server.close()
    leave_cgroup(place, home)
    place.remove()
    bootstrap.sweep()


# -- machines that are ready -----------------------------------------------------------------------------------------


class FirstCall:
    """Waits for the shim's first call, and reads it without removing it from its connection.

    :ivar connections: those that there are
    :ivar request: of the method Create; None: the first call is another one, or none came in time
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.connections: list[socket.socket] = []
        self.request: Message | None = None
        deadline = time.monotonic() + 2 * IDLE_S
        ready = select.poll()
        ready.register(listener, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            found = {fd for fd, _ in ready.poll(left * 1000)}
            if listener.fileno() in found:
                sock, _ = listener.accept()
                self.connections.append(sock)
                ready.register(sock, select.POLLIN)
            for sock in [each for each in self.connections if each.fileno() in found]:
                if _has_ended(sock):  # a client checked whether a shim is running
                    ready.unregister(sock)
                    self.connections.remove(sock)
                    sock.close()
                elif not self._look(sock):
                    return

    def _look(self, sock: socket.socket) -> bool:
        """Whether there is more to wait for."""
        try:
            header = sock.recv(HEADER.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if len(header) < HEADER.size:
                return _wait_for_more()
            size, _, kind, flags = HEADER.unpack(header)
            if size > MAX_PEEKED or kind != REQUEST or flags & REMOTE_OPEN:
                return False
            data = sock.recv(HEADER.size + size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if len(data) < HEADER.size + size:
                return _wait_for_more()
            request = protobuf.parse(protobuf.message("ttrpc.Request"), data[HEADER.size :])
            package, _, service = request.service.rpartition(".")
            if package in PACKAGES and service == "Task" and request.method == "Create":
                made = protobuf.message(f"{package}.CreateTaskRequest")
                self.request = protobuf.parse(made, request.payload)
        except (OSError, ValueError):
            pass
        return False


def _has_ended(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _wait_for_more() -> bool:
    """poll(2) has nothing to wait for: received data stay there."""
    time.sleep(0.001)  # the caller looks again, until its own deadline
    return True


def _give(arguments: Arguments, place: Place, first: FirstCall, log: Log) -> bool:
    """Make a process whose machine is ready the shim of this pod; False: there is none for it."""
    request = first.request
    if request is None or request.checkpoint:
        return False
    taken: pool_client.Taken | None = None
    traced: list[int] = []
    try:
        disk = as_disk(request.rootfs)
        if request.rootfs:
            os.makedirs(os.path.join(request.bundle, "rootfs"), exist_ok=True)
        bundle = Bundle.load(request.bundle, disk)
        chosen = settings.load(config_path(request.options)).with_annotations(bundle.annotations)
        if not pool_client.is_for_pool(bundle, chosen):
            return False
        network_path = (namespace(bundle.spec, "network") or {}).get("path")
        if network_path and in_namespace(network_path, count_interfaces) > pool_client.NETS:
            return False
        taken = pool_client.take(pool_client.PODS, chosen, pod_resources(bundle))
        if chosen.traces:
            traced.append(timeline.start_sender(chosen.traces))
        words = {
            "op": "pod",
            "arguments": arguments,
            "group": place.group,
            "folder": place.folder,
            "shared": place.is_shared,
            "bundle": bundle.path,
            "home": own_cgroup(),
            "traced": bool(traced),
            "same": pool_client.see(_paths(bundle, request.rootfs)),
        }
        connections = [sock.fileno() for sock in first.connections]
        fds = [first.listener.fileno(), place.lock, log.fileno(), *traced, *connections]
        unfit = taken.become(words, fds)
        if not unfit:
            return True
        log.info(f"pod {place.group}: the machine of the pool is not fit: {unfit}")
    except (VmmError, OSError) as error:
        log.info(f"pod {place.group}: {error}")
    finally:
        if taken is not None:
            taken.close()
        for fd in traced:
            os.close(fd)
    if taken is not None:
        taken.end()
        place.remove_machine()
    place.write_pid()
    return False


def _paths(bundle: Bundle, rootfs: Sequence[Message]) -> Iterator[str]:
    """The files of the host that the first container of a pod names."""
    yield bundle.path
    for mount in bundle.spec.get("mounts") or ():
        yield os.path.join(bundle.path, mount.get("source") or "")  # "proc" is no file
    for entry in (bundle.spec.get("linux") or {}).get("namespaces") or ():
        yield entry.get("path") or ""
    for one in rootfs:
        yield one.source
        for option in one.options:
            name, _, value = option.partition("=")
            if name in ("lowerdir", "upperdir", "workdir"):
                yield from value.split(":")


def take_over(request: Json, fds: list[int], sandbox: Sandbox, group: str, folder: str) -> Callable[[], None]:
    """In a process whose machine is ready: be the shim of a pod from now on, instead of the requesting process.

    :param request: the message of :func:`_give`, with descriptors, which are taken over
    :param group: this process's cgroup; empty: none
    :param folder: of the sandbox's state
    :returns: serves containerd, and returns as :func:`serve` does
    :raises VmmError: the machine does not fit that pod, of which nothing has been made
    """
    listener, lock, output, *others = fds
    if request["traced"]:
        timeline.begin(others.pop(0))
    arguments = Arguments(*request["arguments"])
    place = Place(str(request["group"]), str(request["folder"]), is_shared=bool(request["shared"]), lock=lock)
    pool_client.check_same(request["same"])
    bundle = Bundle.load(str(request["bundle"]))
    place.write_machine(folder)
    adopted = Adopted(place, bundle, sandbox, sandbox.config.memory, group)
    place.write_pid()

    def run() -> None:
        log = Log("", output)
        try:
            _detach(log)
            log.info(f"pod {place.group}: its machine is of the pool, where it {sandbox.origin}")
            connections = [socket.socket(fileno=fd) for fd in others]

            def boot(
                _bundle: Bundle,
                face: Face,
                _options: Message | None,
                listener: Callable[[SandboxEvent], None],
                resumed: Resumed | None,
            ) -> Sandbox:
                return adopted.start(face, listener, resumed)

            home = str(request["home"]) if group else ""
            _run(
                arguments,
                place,
                log,
                home,
                socket.socket(fileno=listener),
                connections,
                boot,
                adopted.launch_face,
            )
        except BaseException:
            log.error(f"the shim ends: {traceback.format_exc()}")
            raise

    return run


def _detach(log: Log) -> None:
    """Close the descriptors of `start`: containerd waits until its output has no writer."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log.fileno(), 2)
    os.close(null)
    os.chdir("/")
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


class Log:
    """Writes lines in containerd's format into the FIFO that it copies to its log. It never waits for a reader: unread
    lines are lost.

    :param path: of the FIFO `log` in the bundle
    :param fd: it is open already
    """

    def __init__(self, path: str, fd: int = -1) -> None:
        if fd >= 0:
            self._fd = fd
            return
        try:
            # For reading as well: so it opens without a reader, and outlives one (fifo(7)).
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def info(self, text: str) -> None:
        """Log a message for administrators."""
        self._write("info", text)

    def error(self, text: str) -> None:
        """Something that went wrong."""
        self._write("error", text)

    def _write(self, level: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        try:
            os.write(
                self._fd, f'time="{stamp}Z" level={level} msg="{quoted}" runtime=io.containerd.pyvmm.v2\n'.encode()
            )
        except OSError:
            pass
