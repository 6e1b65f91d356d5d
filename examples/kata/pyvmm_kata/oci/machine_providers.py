"""The ways in which a new container gets a machine: that of another container, one of the pool, one that is made.

``create`` asks them in this order: the first that claims the container decides on its network namespace, and makes it
once its face is there.  One that turns out not to be able to leaves the container to the next.  (A machine that is made
is a clone of a template or boots, which :mod:`pyvmm_kata.pod.machine_source` decides.)
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyvmm_kata import timeline
from pyvmm_kata.bundle.mount_plan import Placed
from pyvmm_kata.entry import COPY, load
from pyvmm_kata.errors import VmmError
from pyvmm_kata.host.proxy_process import Face
from pyvmm_kata.oci.pool_machine import Elsewhere, take
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.pool_client import see
from pyvmm_kata.pod.stdio import Stdio
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.oci.container_service import Plan
    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.oci.shared_machine import Machine
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.pod.pool_client import Taken
    from pyvmm_kata.state import Json


class Wanted(NamedTuple):
    """A container to create, whose configuration was checked.

    :ivar machine: that of the containers whose namespaces it enters, if any
    :ivar cgroup: where its processes on the host are to be
    :ivar kept: a checkpoint from which it goes on; None: it is new
    :ivar wishes: what a monitor that was ready before is to do when the container is made
    :ivar streams: its standard input, output and error
    :ivar only_ready: this process makes no machine: another one does if none is ready
    """

    context: Context
    container_id: str
    bundle: Bundle
    chosen: Settings
    machine: Machine
    cgroup: str
    kept: Kept | None
    wishes: Json
    only_ready: bool
    streams: tuple[int, int, int] = (0, 1, 2)


class Begun(NamedTuple):
    """What there is of it when it gets its machine.

    :ivar known: its state
    :ivar folder: that of its state
    :ivar console: the terminal's descriptor, or -1
    """

    known: Json
    folder: str
    face: Face
    console: int

    def request(self, own: tuple[int, int, int]) -> tuple[Json, list[int]]:
        """The part of a request for every process with a machine, and its descriptors.

        :param own: the streams where there is no console
        """
        terminal = bool(self.known["process"].get("terminal"))
        streams = [self.console] if self.console >= 0 else list(own[:2] if terminal else own)
        request = {"id": self.known["id"], "folder": self.folder, "face": self.face.pid, "streams": len(streams)}
        return request, [self.face.fileno(), *streams]


class Provider(Protocol):
    """A way to get a machine.  The methods are called in this order, each once; :meth:`close` in any case.

    :ivar machine: the containers that share it and, for the namespaces of the face, its network
    """

    machine: Machine

    def claim(self) -> bool:
        """Whether this provider has a machine for the container. Nothing of the container exists yet.

        :raises Elsewhere: another process makes it
        """

    def prepare(self) -> None:
        """Load what :meth:`create` needs, while the face starts."""

    def create(self, begun: Begun) -> bool:
        """Make the container; False: this machine is not fit for it, and has ended.

        :raises VmmError: it cannot be made
        """

    def close(self) -> None:
        """Give back what was claimed and not used."""


def providers(wanted: Wanted) -> list[Provider]:
    """All of them, in their order."""
    return [OfOthers(wanted), OfPool(wanted), Own(wanted)]


class OfOthers:
    """The machine of the containers whose namespaces this one enters."""

    def __init__(self, wanted: Wanted) -> None:
        self.machine = wanted.machine
        self._wanted = wanted

    def claim(self) -> bool:
        """See :class:`Provider`."""
        return bool(self.machine.holder)

    def prepare(self) -> None:
        """See :class:`Provider`."""

    def create(self, begun: Begun) -> bool:
        """See :class:`Provider`: its monitor makes it, with the files that this process sees."""
        placed = Placed.of(self._wanted.bundle, self._wanted.container_id, self.machine.members)
        try:
            request, fds = begun.request(self._wanted.streams)
            channel = control.connect(self.machine.holder)
            try:
                channel.request({"op": "create", **request, "placed": placed.to_json()}, [*fds, *placed.trees])
                channel.answer(control.creation_s(self._wanted.bundle.spec))
            finally:
                channel.close()
        finally:
            placed.close()
        return True

    def close(self) -> None:
        """See :class:`Provider`."""


class OfPool:
    """A machine that was ready before."""

    def __init__(self, wanted: Wanted) -> None:
        self.machine = wanted.machine
        self._wanted = wanted
        self._taken: Taken | None = None

    def claim(self) -> bool:
        """See :class:`Provider`."""
        wanted = self._wanted
        if wanted.kept is None:
            self._taken = take(wanted.context, wanted.bundle, wanted.chosen)
        if self._taken is None:
            return False
        self.machine = wanted.machine.prefer_network(self._taken.network)
        return True

    def prepare(self) -> None:
        """See :class:`Provider`."""

    def create(self, begun: Begun) -> bool:
        """See :class:`Provider`: it becomes the monitor."""
        wanted, taken = self._wanted, self._taken
        assert taken is not None
        placed = Placed.of(wanted.bundle, wanted.container_id, ())
        try:
            request, fds = begun.request(wanted.streams)
            request |= {"op": "create", "same": see([begun.folder]), "cgroup": wanted.cgroup, **wanted.wishes}
            disk = wanted.bundle.disk._asdict() if wanted.bundle.disk is not None else None
            request |= {"bundle": wanted.bundle.path, "spec": wanted.bundle.spec, "disk": disk}
            request |= {"placed": placed.to_json()}
            return not taken.become(request, [*fds, *placed.trees])
        finally:
            placed.close()

    def close(self) -> None:
        """See :class:`Provider`."""
        if self._taken is not None:
            self._taken.close()


class Own:
    """A machine that a monitor of the container's own makes."""

    def __init__(self, wanted: Wanted) -> None:
        self.machine = wanted.machine
        self._wanted = wanted

    def claim(self) -> bool:
        """See :class:`Provider`."""
        if self._wanted.only_ready:
            raise Elsewhere
        return True

    def prepare(self) -> None:
        """See :class:`Provider`."""
        kept = self._wanted.kept
        _prepare(self._wanted.chosen, copies=kept is not None and kept.forked is not None)

    def create(self, begun: Begun) -> bool:
        """See :class:`Provider`: fork the monitor, and wait until the container is made."""

        wanted = self._wanted
        self.prepare()  # unless another provider was the first

        def agree(channel: control.Channel, _pid: int) -> None:
            missing = channel.answer(control.creation_s(wanted.bundle.spec)).get("wanted")
            if missing:
                from pyvmm_kata.pod import templates

                templates.request(templates.Kind(*missing))

        face = begun.face.pid, begun.face.fileno()
        control.fork("the new monitor", lambda sock: self._be_monitor(begun, face, sock), agree)
        return True

    def close(self) -> None:
        """See :class:`Provider`."""

    def _plan(self, begun: Begun, face: tuple[int, int]) -> Plan:
        """In the monitor: take over the caller's standard input, output and error."""
        from pyvmm_kata.oci.container_service import Plan

        wanted, console = self._wanted, begun.console
        streams = wanted.streams
        if console >= 0:
            stdio = Stdio(os.dup(console), os.dup(console), None, terminal=True)
        elif wanted.bundle.spec["process"].get("terminal"):
            stdio = Stdio(os.dup(streams[0]), os.dup(streams[1]), None, terminal=True)
        else:
            stdio = Stdio(os.dup(streams[0]), os.dup(streams[1]), os.dup(streams[2]))
        return Plan(
            wanted.container_id,
            begun.folder,
            wanted.bundle,
            wanted.chosen,
            wanted.cgroup,
            stdio,
            Face.adopt(*face),
            console,
            wanted.kept,
        )

    def _be_monitor(self, begun: Begun, face: tuple[int, int], sock: socket.socket) -> int:
        """Run the monitor, in the child; returns its exit status."""
        channel = control.Channel(sock, "create")
        try:
            timeline.keep()
            timeline.note("monitor")
            plan = self._plan(begun, face)
            streams = (end for end in plan.stdio[:3] if isinstance(end, int))
            machine = plan.kept.forked.fds if plan.kept is not None and plan.kept.forked is not None else ()
            control.leave_descriptors({sock.fileno(), plan.console, plan.face.fileno(), *streams, *machine})
            from pyvmm_kata.oci.monitor import Monitor

            monitor = Monitor(plan)
            try:
                monitor.prepare()
                monitor.create()
            except BaseException:
                monitor.close()
                raise
        except VmmError as error:
            channel.send(control.refusal(error))
            return 255
        except Exception as error:
            channel.send({"error": f"{type(error).__name__}: {error}"})
            return 255
        channel.send({"wanted": monitor.wanted})
        channel.close()
        gc.freeze()
        gc.enable()
        return monitor.wait()


def _prepare(chosen: Settings, *, copies: bool = False) -> None:
    """Load what a monitor needs, before it is forked: a process that makes many containers loads it once.

    :param copies: its machine is a copy of one that runs
    """
    with contextlib.suppress(ImportError, VmmError):  # the monitor reports it
        load(["pyvmm_kata.oci.monitor", *(COPY if copies else ())])
        kind_named(chosen.guest).prepare(chosen.kernel_params)
