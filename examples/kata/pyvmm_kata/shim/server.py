"""The shim's process: serves containerd until no container is left and it is told to end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from pyvmm_kata import proto, settings, ttrpc
from pyvmm_kata.mounts import enter_namespace
from pyvmm_kata.sandbox import Sandbox, SandboxConfig
from pyvmm_kata.shim import bootstrap
from pyvmm_kata.shim.events import Publisher
from pyvmm_kata.shim.log import Log
from pyvmm_kata.shim.pod import Pod
from pyvmm_kata.shim.tasks import PACKAGES, TaskService

if TYPE_CHECKING:
    import socket

    from pyvmm_kata.bundle import Bundle
    from pyvmm_kata.proto import Message
    from pyvmm_kata.shim.bootstrap import Arguments, Place

VERSION = "2"
FLUSH_S = 5.0
IDLE_S = 5.0
"""A shim without a container and without a connection, seen twice at this distance, ends."""

OPTIONS = "runtimeoptions.v1.Options"


def serve(arguments: Arguments, place: Place, listener: socket.socket) -> None:
    """Be the shim: returns when it has ended and its place is removed."""
    log = Log(os.path.join(arguments.bundle or ".", "log"))
    try:
        _detach(log)
        enter_namespace()
        publisher = Publisher(arguments.events, arguments.namespace, log.error)
        pod = Pod(lambda bundle, options: _sandbox(place, bundle, options), publisher.publish, os.getpid())
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        services = [TaskService(package, pod, VERSION, ending.set) for package in PACKAGES]
        server = ttrpc.Server(
            {service.name: service.handlers() for service in services},
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
        place.remove()
        bootstrap.sweep()
    except BaseException:
        log.error(f"the shim ends: {traceback.format_exc()}")
        raise


def _detach(log: Log) -> None:
    """Let go of what `start` was called with: containerd waits until its output has no writer."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log.fileno(), 2)
    os.close(null)
    os.chdir("/")
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _sandbox(place: Place, bundle: Bundle, options: Message | None) -> Sandbox:
    """The sandbox for a pod's first container, as the runtime's options, its annotations and its limits want it."""
    wanted = settings.load(_config_path(options)).with_annotations(bundle.annotations)
    memory, vcpus = wanted.size((bundle.spec.get("linux") or {}).get("resources") or {})
    os.makedirs(place.sandbox, mode=0o700, exist_ok=True)
    return Sandbox(
        SandboxConfig(
            sandbox_id=place.group,
            state_dir=place.sandbox,
            kernel=wanted.kernel,
            image=wanted.image,
            memory=memory,
            vcpus=vcpus,
            hostname=bundle.spec.get("hostname") or "",
            cmdline=wanted.kernel_params,
        )
    )


def _config_path(options: Message | None) -> str:
    """The settings' file that containerd's configuration names for this runtime, empty for the usual one."""
    if options is None or options.type_url.rpartition("/")[2] != OPTIONS:
        return ""
    try:
        return str(proto.parse(proto.message(OPTIONS), options.value).config_path)
    except ValueError:
        return ""
