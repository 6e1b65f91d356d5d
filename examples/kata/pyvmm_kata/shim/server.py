"""The shim's process: serves containerd until no container is left and it is told to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

from pyvmm_kata import ttrpc
from pyvmm_kata.host.mounts import enter_namespace
from pyvmm_kata.host.walls import restrict
from pyvmm_kata.shim import bootstrap
from pyvmm_kata.shim.boot import launch_face, leave_cgroup, own_cgroup, start_sandbox
from pyvmm_kata.shim.events import Publisher
from pyvmm_kata.shim.pod import Pod
from pyvmm_kata.shim.tasks import MONITOR, PACKAGES, TaskService, monitor_handlers

if TYPE_CHECKING:
    import socket

    from pyvmm_kata.shim.bootstrap import Arguments, Place

VERSION = "2"
FLUSH_S = 5.0
IDLE_S = 5.0
"""A shim without a container and without a connection, seen twice at this distance, ends."""


def serve(arguments: Arguments, place: Place, listener: socket.socket) -> None:
    """Be the shim: returns when it has ended and its place is removed."""
    log = Log(os.path.join(arguments.bundle or ".", "log"))
    try:
        _detach(log)
        enter_namespace()
        restrict()
        publisher = Publisher(arguments.events, arguments.namespace, log.error)
        home = own_cgroup()
        sealed = threading.Event()
        pod = Pod(
            lambda bundle, face, options, listener: start_sandbox(place, home, sealed, bundle, face, options, listener),
            publisher.publish,
            launch_face,
        )
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        services = [TaskService(package, pod, VERSION, ending.set) for package in PACKAGES]
        server = ttrpc.Server(
            {**{service.name: service.handlers() for service in services}, MONITOR: monitor_handlers(pod)},
            lambda method, error: log.error(f"{method}: {''.join(traceback.format_exception(error))}"),
        )
        serving = threading.Thread(target=server.serve, args=(listener,), name="accept", daemon=True)
        serving.start()
        looks = 0
        while looks < 2 and not ending.wait(IDLE_S):
            # A containerd that dies while it starts us forgets us
            looks = looks + 1 if pod.is_empty and not server.connections else 0
        pod.close()
        publisher.close(FLUSH_S)
        # No earlier: containerd gets the answer to Shutdown before the connection ends. Where the pod cannot be closed
        # the place stays as it is, for whoever comes without our mounts.
        server.close()
        leave_cgroup(place, home)
        place.remove()
        bootstrap.sweep()
    except BaseException:
        log.error(f"the shim ends: {traceback.format_exc()}")
        raise


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
    """Writes lines in the form of containerd's own into the FIFO that it copies to its log.  Nothing waits for a
    reader: what it does not take is lost.

    :param path: of the FIFO `log` in the bundle
    """

    def __init__(self, path: str) -> None:
        try:
            # For reading as well: so it opens without a reader, and outlives one (fifo(7)).
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def info(self, text: str) -> None:
        """Something that an administrator may want to know."""
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
