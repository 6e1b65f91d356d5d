"""Asking ``pyvmm-poold`` for a spare: a machine that is ready, see :mod:`pyvmm_kata.oci.pool_machine`."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from _blake2 import blake2b
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.bundle.checks import namespace
from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.pod.templates import Kind
    from pyvmm_kata.state import Json

PODS = "/run/pyvmm/pods"
"""The folder of machines that are ready for pods of containerd's; one for ``pyvmm-oci`` has its states beside them."""
NETS = 1
"""Network devices of a spare."""
TAKE_S = 1.0
"""Seconds that a pool may take to give a machine: otherwise a machine is made."""
_END_S = 5.0
_CREDENTIALS = struct.Struct("3i")


def address(root: str) -> tuple[str, str]:
    """The folder and the name of the socket of the pool whose machines are in the folder *root*."""
    folder, name = os.path.split(os.path.abspath(root))
    return folder, f"{name}.pool"


def kind_of(chosen: Settings, memory: int, vcpus: int) -> Kind:
    """What a spare's machine is: of Linux, a clone of a template like this."""
    from pyvmm_kata.pod import machine_source

    return machine_source.kind_by(chosen, memory, vcpus, NETS)


def name_of(chosen: Settings, kind: Kind) -> str:
    """The properties that a spare and a request must share: the template, the isolation, the agent's policy, and the
    meaning of a pid or a group.

    :raises OSError: there is no kernel, or no image
    """
    policy = blake2b(chosen.policy.text.encode(), digest_size=16).hexdigest() if chosen.policy is not None else "-"
    spaces = (os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "user", "cgroup"))
    return " ".join([kind.key(), chosen.isolation, policy, *spaces])


def is_for_pool(bundle: Bundle, chosen: Settings) -> bool:
    """Whether a sandbox with this first container can use a machine that was made before it, if a pool has such.

    A disk or a user namespace needs other devices, and so does a network other than a namespace's. A limit for the root
    needs mounts before others."""
    spec = bundle.spec
    return (
        chosen.pool > 0
        and chosen.template == "auto"
        and bundle.machine_disk is None
        and not bundle.layer
        and not bundle.volumes
        and namespace(spec, "network") is not None
        and namespace(spec, "user") is None
        and not chosen.network
    )


def is_ours(sock: socket.socket) -> bool:
    """Whether the other end belongs to this user: the server there decides what containers run on."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1]) == os.geteuid()


def ask(root: str, request: Json) -> tuple[control.Channel, Json]:
    """A connection to the pool of *root*, or to one of its spares, and the first answer.

    :raises OSError: there is no pool
    :raises VmmError: it refuses, belongs to somebody else, or does not answer in time
    """
    folder, name = address(root)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    channel = control.Channel(sock, "the pool")
    try:
        # Through a descriptor, since a unix socket's path must be short, and this one may not be
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.settimeout(TAKE_S)
            sock.connect(f"/proc/self/fd/{place}/{name}")
        finally:
            os.close(place)
        if not is_ours(sock):
            raise HostError(f"{folder}/{name} is the socket of another user", code="pool")
        channel.request(request)
        return channel, channel.answer(TAKE_S)
    except BaseException:
        channel.close()
        raise


class Taken:
    """A spare that is ours.

    :ivar network: the path of its network namespace, which is new
    """

    def __init__(self, channel: control.Channel, pid: int) -> None:
        self._channel = channel
        self._process = os.pidfd_open(pid)
        self.network = f"/proc/{pid}/ns/net"

    def become(self, request: Json, fds: Sequence[int]) -> str:
        """Make it the monitor of a container, or the shim of a pod.

        :returns: the reason why it cannot be, and has ended; empty: it is
        :raises VmmError: the container cannot be made
        """
        self._channel.request(request, fds)
        answer = self._channel.answer(control.creation_s(request.get("spec") or {}))
        if "unfit" in answer:
            self.end()
        return str(answer.get("unfit", ""))

    def end(self) -> None:
        """End it, unless it has become a monitor, and wait until nothing of it is left.

        :raises HostError: it does not end
        """
        self.close()
        ended = select.poll()
        ended.register(self._process, select.POLLIN)
        if not ended.poll(_END_S * 1000):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
            if not ended.poll(_END_S * 1000):
                raise HostError("a machine of the pool does not end", code="pool")

    def close(self) -> None:
        """Close the connection: a spare that has not become a monitor ends."""
        self._channel.close()


def take(root: str, chosen: Settings, resources: Mapping[str, Json]) -> Taken:
    """A spare for a sandbox with such limits (``linux.resources``).

    :raises HostError: there is no pool, or none of its machines fits; the message has the reason
    """
    channel: control.Channel | None = None
    try:
        name = name_of(chosen, kind_of(chosen, *chosen.size(resources)))
        channel, answer = ask(root, {"op": "take", "name": name})
        return Taken(channel, int(answer["pid"]))
    except (OSError, VmmError, KeyError, TypeError, ValueError) as error:
        if channel is not None:
            channel.close()
        raise HostError(f"the pool gives no machine: {error}", code="pool") from error


# -- two mount namespaces --------------------------------------------------------------------------------------------


class Same(NamedTuple):
    """A file as one process sees it, for comparison by another one."""

    path: str
    device: int
    inode: int


def see(paths: Iterable[str]) -> list[Same]:
    """Those that are there."""
    found = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append(Same(path, status.st_dev, status.st_ino))
    return found


def check_same(seen: Iterable[Sequence[str | int]]) -> None:
    """
    :param seen: the result of :func:`see` in a process with other mounts
    :raises HostError: one of them is another file here, or missing
    """
    for path, *rest in seen:
        if [list(mine[1:]) for mine in see([str(path)])] != [rest]:
            raise HostError(f"{path} is another one here", code="pool")
