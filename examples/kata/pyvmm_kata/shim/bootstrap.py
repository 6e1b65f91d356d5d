"""How containerd starts a shim, finds it again, and cleans up after one that died.

A shim has a directory of its own, named after what it serves (containerd's address, the namespace, the pod):

    lock        locked by the shim while it lives: who gets the lock knows that it is dead
    pid         the shim's number and start time
    shim.sock   where it serves
    sandbox/    the sandbox's state
    machine     where that is when the machine was ready before the pod (pyvmm_kata.oci.pool_machine)
    cgroup      the directory of its control group

containerd calls `start` for each container, and mostly the shim exists: modules for the other cases are imported when
they are needed.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from _blake2 import blake2b  # not by hashlib, which loads OpenSSL: a third of the time of `start`
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.state import is_alive, noted_cgroup, start_time, write_cgroup

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = "/run/pyvmm/shim"
GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")
"""Annotations whose value is the same for all containers of a pod: they share a shim and its virtual machine."""

SERVICE = "containerd.task.v2.Task"
READY_S = 30.0
DELETE_S = 3.0
"""How long a shim may take to delete a container when it is asked at the last; containerd ends `delete` after 5 s."""

KILLED = 128 + 9


class Arguments(NamedTuple):
    """containerd's arguments on the command line and in the environment."""

    task_id: str
    namespace: str
    address: str
    bundle: str
    events: str
    version: int


class Place:
    """The directory of a shim."""

    def __init__(self, group: str, folder: str, *, is_shared: bool = False, lock: int = -1) -> None:
        """
        :param lock: the descriptor of the lock, if it is held
        """
        self.group = group
        self.is_shared = is_shared
        self.folder = folder
        self.socket = os.path.join(self.folder, "shim.sock")
        self.sandbox = os.path.join(self.folder, "sandbox")
        self._lock = lock

    @property
    def lock(self) -> int:
        """The descriptor of the lock, which its holder may send to another process."""
        return self._lock

    @classmethod
    def of(cls, arguments: Arguments, root: str = ROOT) -> Place:
        """The place of the shim of a container, whether it exists or not."""
        found = _group(arguments)
        group, is_shared = found or arguments.task_id, found != ""
        words = "\0".join((arguments.address, arguments.namespace, group))
        folder = os.path.join(root, blake2b(words.encode(), digest_size=16).hexdigest())
        return cls(group, folder, is_shared=is_shared)

    def try_lock(self) -> bool:
        """Take the place, empty, if no shim lives there."""
        path = os.path.join(self.folder, "lock")
        while True:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # another process is removing the folder of a dead one
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(fd).st_ino == os.stat(path).st_ino:
                    self._lock = fd
                    break
            except BlockingIOError:
                os.close(fd)
                return False
            except FileNotFoundError:
                pass
            os.close(fd)
        self._clear()
        return True

    def _clear(self) -> None:
        import shutil

        from pyvmm_kata.host.mounts import mounts_below

        if points := mounts_below(self.folder):
            # They belong to the shim's namespace, and must not be in this one: removing would follow them.
            raise HostError(f"{points[0]} is still mounted", code="shim")
        self.remove_cgroup()
        self.remove_machine()
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
            elif name != "lock":
                os.unlink(path)

    def remove(self) -> None:
        """Remove all of it; the caller holds the lock. Raises HostError if something is mounted there."""
        import shutil

        self._clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def write_cgroup(self, folder: str) -> None:
        """Record the shim's control group."""
        write_cgroup(self.folder, folder)

    def remove_cgroup(self) -> None:
        """Remove the recorded cgroup, and end its processes. Raises HostError if that is impossible."""
        if not (folder := noted_cgroup(self.folder)):
            return
        from pyvmm_kata.host.cgroups import Cgroup

        Cgroup(folder).remove()

    def write_machine(self, folder: str) -> None:
        """Record the place of the machine's state."""
        with open(os.path.join(self.folder, "machine"), "w") as file:
            file.write(folder)

    def remove_machine(self) -> None:
        """Remove the recorded state of the machine, which has ended, and its own cgroup. Raises HostError if that is
        impossible."""
        try:
            with open(os.path.join(self.folder, "machine")) as file:
                folder = file.read()
            os.unlink(file.name)
        except FileNotFoundError:
            return
        import shutil

        from pyvmm_kata.host.cgroups import ROOT as GROUPS_OF_HOST
        from pyvmm_kata.host.cgroups import Cgroup

        if folder:
            shutil.rmtree(folder, ignore_errors=True)
            Cgroup(os.path.join(GROUPS_OF_HOST, "pyvmm", os.path.basename(folder))).remove()

    def release(self) -> None:
        """Close this process's descriptor of the lock; a child with a copy still holds it."""
        os.close(self._lock)
        self._lock = -1

    def listen(self) -> socket.socket:
        """The socket that the shim serves."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.socket)
        os.chmod(self.socket, 0o600)
        listener.listen(64)
        return listener

    def connect(self, timeout: float) -> socket.socket:
        """A connection to the shim. Raises OSError if it does not accept in time."""
        deadline = time.monotonic() + timeout
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(max(0.1, deadline - time.monotonic()))
                sock.connect(self.socket)
                return sock
            except OSError:
                sock.close()
                if time.monotonic() > deadline or not os.path.isdir(self.folder):
                    raise
            time.sleep(0.05)  # it has the lock, and makes its socket

    def write_pid(self) -> None:
        """Note who serves here."""
        with open(os.path.join(self.folder, "pid"), "w") as file:
            file.write(f"{os.getpid()} {start_time(os.getpid())}\n")

    def kill(self) -> None:
        """End the shim that serves here, at once; no effect without one."""
        import signal

        try:
            with open(os.path.join(self.folder, "pid")) as file:
                pid, began = (int(word) for word in file.read().split())
        except (OSError, ValueError):
            return
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return
        try:
            if is_alive(pid, began):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(process)


def _group(arguments: Arguments) -> str:
    """The pod of a bundle, empty for a container without one."""
    try:
        with open(os.path.join(arguments.bundle, "config.json"), "rb") as file:
            annotations = json.load(file).get("annotations") or {}
    except (OSError, ValueError, AttributeError):
        return ""
    for name in GROUPS:
        if isinstance(found := annotations.get(name), str) and found:
            return found
    return ""


def start(arguments: Arguments, serve: Callable[[Place, socket.socket], None], root: str = ROOT) -> str:
    """The answer to containerd's `start`: the address of this container's shim, which is started if there is none.

    :param serve: runs the shim on a listening socket, in a process of its own, until it ends
    :raises HostError: the existing shim does not answer
    """
    place = Place.of(arguments, root)
    deadline = time.monotonic() + READY_S
    while not place.try_lock():
        try:
            place.connect(max(0.1, deadline - time.monotonic())).close()
            return answer(place, arguments)
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostError(
                    f"the shim of pod {place.group} lives, but does not answer: {error}", code="shim"
                ) from None
    listener = place.listen()
    if os.fork() == 0:
        status = 1
        try:
            os.setsid()
            place.write_pid()
            serve(place, listener)
            status = 0
        finally:
            # Nothing of the parent's may run twice
            os._exit(status)
    listener.close()
    place.release()
    return answer(place, arguments)


def begin(arguments: Arguments, root: str = ROOT) -> tuple[Place, socket.socket] | None:
    """Make this process the shim of a container: returns its place, and the socket to serve; None: there is one
    already."""
    place = Place.of(arguments, root)
    if not place.try_lock():
        return None
    listener = place.listen()
    place.write_pid()
    return place, listener


def answer(place: Place, arguments: Arguments) -> str:
    """The printed answer: containerd before 2.0 expects an address alone, for version 2 of the service."""
    address = f"unix://{place.socket}"
    if arguments.version < 3:
        # Where such a containerd looks for the shim when it was restarted
        with open(os.path.join(arguments.bundle, "address"), "w") as file:
            file.write(address)
        return address
    return json.dumps({"version": 3, "address": address, "protocol": "ttrpc"})


def delete(arguments: Arguments, root: str = ROOT) -> bytes:
    """The answer to containerd's `delete`, a DeleteResponse: nothing of the container is left.

    containerd calls it when it has lost the shim. A running shim receives a request to delete the container; if that
    fails it is killed, and its pod with it.
    """
    from pyvmm_kata.host.mounts import unmount
    from pyvmm_kata.protocol import protobuf

    place = Place.of(arguments, root)
    if os.path.isdir(place.folder):
        deadline = time.monotonic() + DELETE_S
        while not place.try_lock():
            if not _ask(place, arguments.task_id, deadline):
                place.kill()
            elif _serves(place):
                break  # other containers of the pod are alive
            if time.monotonic() > deadline + 1:
                raise HostError(f"the shim of pod {place.group} cannot be killed", code="shim")
            time.sleep(0.02)
        else:
            place.remove()
    sweep(root)
    if arguments.bundle:
        unmount(os.path.join(arguments.bundle, "rootfs"))
    now = time.time_ns()
    made = protobuf.message("containerd.task.v2.DeleteResponse")(exit_status=KILLED)
    made.exited_at.seconds, made.exited_at.nanos = now // 10**9, now % 10**9
    payload: bytes = made.SerializeToString()
    return payload


def sweep(root: str = ROOT) -> None:
    """Remove the remains of shims for which containerd never calls `delete`: they died before it contacted them."""
    for folder in os.listdir(root) if os.path.isdir(root) else ():
        place = Place("", os.path.join(root, folder))
        if place.try_lock():
            place.remove()


def _serves(place: Place) -> bool:
    try:
        place.connect(0).close()
    except OSError:
        return False
    return True


def _ask(place: Place, task_id: str, deadline: float) -> bool:
    """Whether the shim has deleted the container, or never had it."""
    from pyvmm_kata.protocol import protobuf, ttrpc

    try:
        client = ttrpc.Client(place.connect(0), "the shim")
    except OSError:
        return not os.path.isdir(place.folder)

    def call(method: str, kind: str, **fields: Any) -> None:
        request = protobuf.message(f"containerd.task.v2.{kind}")(id=task_id, **fields)
        client.call(SERVICE, method, request, max(0.1, deadline - time.monotonic()))

    try:
        try:
            call("Kill", "KillRequest", signal=9, all=True)
            call("Wait", "WaitRequest")
            call("Delete", "DeleteRequest")
        except ttrpc.RpcError as error:
            if error.code != "NOT_FOUND":
                raise
        call("Shutdown", "ShutdownRequest", now=True)
    except ttrpc.ConnectionLost:
        return True  # it has ended
    except ttrpc.RpcError:
        return False
    finally:
        client.close()
    return True


def check(arguments: Arguments) -> None:
    """Raises ConfigError for a command line that containerd would not write."""
    if not arguments.task_id or "/" in arguments.task_id:
        raise ConfigError(f"-id {arguments.task_id!r} is not the id of a container", code="usage")
    if not arguments.namespace:
        raise ConfigError("-namespace is missing", code="usage")
