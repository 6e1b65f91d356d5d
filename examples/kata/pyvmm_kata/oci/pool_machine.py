"""A spare: a process with a machine that has no container yet. It becomes the monitor of one, or ends.

``pyvmm-poold`` (:mod:`pyvmm_kata.oci.pool`) keeps spares, each its child. It has a socket beside the folder of the
states, which only its user can enter. A ``create`` requests a machine there (:func:`take`), the pool passes the
connection to a spare, and the two negotiate the rest. After a refusal or a timeout, the ``create`` makes a machine
itself.

A spare is given away only once: it ends with the connection if it does not get a container. An unused one ends with the
pool, however that ends: a socket connects them too.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
from typing import TYPE_CHECKING

from pyvmm_kata import timeline
from pyvmm_kata.errors import HostError, VmmError
from pyvmm_kata.pod import pool_client
from pyvmm_kata.pod.pool_client import NETS
from pyvmm_kata.protocol import control
from pyvmm_kata.state import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.oci.monitor import Monitor
    from pyvmm_kata.pod.events import SandboxEvent
    from pyvmm_kata.pod.pool_client import Taken
    from pyvmm_kata.pod.sandbox import Sandbox
    from pyvmm_kata.state import Json

MAX_WORD = 4096


# -- the client ------------------------------------------------------------------------------------------------------


def take(context: Context, bundle: Bundle, chosen: Settings) -> Taken | None:
    """A spare for a container in a machine of its own; None: none fits it, or there is no pool."""
    if not pool_client.is_for_pool(bundle, chosen):
        return None
    try:
        return pool_client.take(context.root, chosen, (bundle.spec.get("linux") or {}).get("resources") or {})
    except HostError:
        return None


# -- the process -----------------------------------------------------------------------------------------------------


def be_spare(pool: socket.socket, root: str, chosen: Settings, *, pods: bool = False) -> int:
    """Run the server, in a child of the pool without other threads; returns the exit status.

    :param pods: it becomes a shim of containerd, which starts programs; otherwise the monitor of a container
    :param pool: a socket of packets. The spare sends what :class:`Spare` has made, or the reason for its failure, as
        JSON; later the pool sends it the connection of a ``create``
    """
    from pyvmm_kata.pod import templates

    spare: Spare | None = None
    try:
        control.leave_descriptors({pool.fileno()})
        templates.become_nice()
        spare = Spare(root, chosen, pods=pods)
        spare.make()
        _rehearse(spare.folder, chosen.guest)
        gc.freeze()
        pool.send(json.dumps({"ready": True, "booted": spare.booted}).encode())
    except Exception as error:
        if spare is not None:
            spare.close()
        try:
            pool.send(json.dumps({"error": f"{error}"[:MAX_WORD]}).encode())
        except OSError:
            pass
        return 255
    client = spare.wait(pool)
    pool.close()
    if client is None:
        spare.close()
        return 0
    return spare.serve(control.Channel(client, "create"))


def _rehearse(folder: str, guest: str) -> None:
    """Run the computations for a container once: memory that they write, which is shared with the pool, is then copied
    before anybody waits."""
    from pyvmm_kata.bundle import guest_share, guest_spec
    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.default_spec import default_spec
    from pyvmm_kata.bundle.mount_plan import Placed
    from pyvmm_kata.host.mounts import SharedDirectory
    from pyvmm_kata.pod.guest_kinds import kind_named
    from pyvmm_kata.protocol import protobuf

    name = "rehearsal"
    bundle = Bundle.checked("/", default_spec(["true"], terminal=False))
    recorder = guest_share.Recorder()
    made = Placed(guest_spec.place(bundle, name, recorder, members=()), (), (), (), ())
    placed = Placed.from_json(json.loads(json.dumps(made.to_json())), ())
    guest_spec.shown(placed.spec, SharedDirectory(folder))
    config = kind_named(guest).describe(placed.spec, name, shared_pids=False)
    protobuf.message("grpc.CreateContainerRequest")(
        container_id=name, exec_id=name, OCI=config.message, config=config.text, mark=config.mark
    ).SerializeToString()
    protobuf.message("grpc.StartContainerRequest")(container_id=name).SerializeToString()


class Spare:
    """A machine without a container.

    :param root: the place for the state of its container
    :ivar booted: it has booted, since there is no template; one would help
    """

    def __init__(self, root: str, chosen: Settings, *, pods: bool = False) -> None:
        from pyvmm_kata.oci.shared_machine import folder_of, group_of

        self._settings = chosen
        self._pods = pods
        self.folder = folder_of(root, os.getpid())
        self._group = group_of(os.getpid())
        self._sandbox: Sandbox | None = None
        self._ended, self._end = os.pipe2(os.O_CLOEXEC)
        self.booted = False

    def make(self) -> None:
        """Make the machine, jailed like that of any monitor.

        :raises VmmError: it cannot be made
        """
        from pyvmm_kata import privileges
        from pyvmm_kata.host import mounts
        from pyvmm_kata.host.cgroups import Cgroup
        from pyvmm_kata.pod import network
        from pyvmm_kata.pod.guest_kinds import kind_named
        from pyvmm_kata.pod.sandbox import Sandbox
        from pyvmm_kata.pod.sandbox_config import SandboxConfig

        guest = kind_named(self._settings.guest)
        memory, vcpus = self._settings.size({})
        os.mkdir(self.folder, 0o700)
        group = Cgroup(self._group)
        if group.hold(0):
            group.limit_memory(memory, {"memory": {"limit": memory}})
        else:
            self._group = ""
        network.enter("")
        mounts.enter_namespace()
        privileges.restrict()
        self._sandbox = Sandbox(
            SandboxConfig(
                f"spare-{os.getpid()}",
                self.folder,
                self._settings.kernel,
                self._settings.image,
                memory,
                vcpus,
                cmdline=f"{self._settings.kernel_params} {guest.spare}".strip(),
                network=network.take_over(f"/proc/{os.getpid()}/ns/net", NETS),
                loopback=guest.can.forwarding,
                seal=lambda wanted: privileges.seal(programs=self._pods),
                template=True,
                isolation=self._settings.isolation,
                guest=self._settings.guest,
                policy=self._settings.policy,
                more_memory=self._settings.more_memory,
                more_cpus=self._settings.more_cpus,
                more_disks=self._pods and self._settings.more_disks,
            )
        )
        self._sandbox.listen(self._on_event)
        if self._pods:
            # Only threads that the machine needs give up what starting a container's face takes
            network.in_namespace(f"/proc/{os.getpid()}/ns/net", self._sandbox.prepare)
        else:
            self._sandbox.prepare()
        self.booted = self._sandbox.wanted is not None

    def _on_event(self, event: SandboxEvent) -> None:
        if event.kind == "end":
            os.write(self._end, b".")

    def wait(self, pool: socket.socket) -> socket.socket | None:
        """The connection of its user; None: the pool has ended, or the machine has."""
        ready = select.poll()
        for fd in (pool.fileno(), self._ended):
            ready.register(fd, select.POLLIN)
        found = dict(ready.poll())
        if self._ended in found:
            return None
        try:
            _, fds, _, _ = socket.recv_fds(pool, 16, 1)
        except OSError:
            return None
        return socket.socket(fileno=fds[0]) if fds else None

    def serve(self, channel: control.Channel) -> int:
        """Become the monitor of any requested container, or the shim of a pod; returns the exit status."""
        monitor: Monitor | None = None
        shim: Callable[[], None] | None = None
        answer: Json = {}
        try:
            channel.send({"pid": os.getpid()})
            request = channel.receive(control.CREATE_S)
            if request is None:
                self.close()
                return 0
            fds, channel.fds = channel.fds, []
            if (request.get("op") == "pod") != self._pods:
                raise _Unfit("the pool's machines are for others")
            if self._pods:
                shim = self._become_shim(request, fds)
            else:
                monitor = self._become(request, fds)
        except _Unfit as error:
            answer = {"unfit": str(error)}
        except VmmError as error:
            answer = control.refusal(error)
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        if monitor is None and shim is None:
            self.close()
        try:
            channel.send(answer)
        except OSError:
            pass  # it has ended: what it has begun is removed by `delete`
        channel.close()
        gc.freeze()
        gc.enable()
        if shim is not None:
            shim()
            return 0
        return monitor.wait() if monitor is not None else 255

    def _become_shim(self, request: Json, fds: list[int]) -> Callable[[], None]:
        from pyvmm_kata.shim import server

        assert self._sandbox is not None
        try:
            return server.take_over(request, fds, self._sandbox, self._group, self.folder)
        except (OSError, VmmError, KeyError, TypeError, ValueError) as error:
            raise _Unfit(str(error)) from error

    def _become(self, request: Json, fds: list[int]) -> Monitor:
        from pyvmm_kata.bundle.bundle import Bundle
        from pyvmm_kata.bundle.root_disks import RootDisk
        from pyvmm_kata.oci.container_service import Plan
        from pyvmm_kata.oci.monitor import Asked, Monitor

        assert self._sandbox is not None
        timeline.keep()
        timeline.note("machine of the pool")
        asked = Asked(request, fds)
        try:
            try:
                pool_client.check_same(request["same"])
            except HostError as error:
                raise _Unfit(str(error)) from error
            if not self.folder.startswith(f"{os.path.dirname(asked.folder)}/@"):
                raise _Unfit(f"{self.folder} is not beside {asked.folder}")
            disk = RootDisk(**request["disk"]) if request["disk"] else None
            bundle = Bundle.checked(str(request["bundle"]), request["spec"], disk)
            stdio, console = asked.stdio(terminal=bool(bundle.spec["process"].get("terminal")))
            cgroup = str(request["cgroup"])
            plan = Plan(asked.container_id, asked.folder, bundle, self._settings, cgroup, stdio, asked.face, console)
            monitor = Monitor(plan)
            try:
                monitor.adopt(self._sandbox, self._group)
            except (OSError, VmmError) as error:
                raise _Unfit(str(error)) from error
            monitor.create_adopted(asked.placed)
            if request.get("start"):
                monitor.start(removes=bool(request.get("removes")))
            return monitor
        except BaseException:
            asked.face.close()
            raise
        finally:
            asked.close()

    def close(self) -> None:
        """End the machine, and remove its files."""
        from pyvmm_kata.host import cgroups

        try:
            if self._sandbox is not None:
                self._sandbox.stop()
            remove_tree(self.folder)
            if self._group:
                cgroups.Cgroup(cgroups.ROOT).enter(0)
                cgroups.Cgroup(self._group).remove()
        except VmmError:
            pass  # the pool removes it, or the next one


class Elsewhere(Exception):
    """A launcher server cannot make that container; the Python program can, or reports why it cannot either."""


class _Unfit(Exception):
    """The machine does not fit that container; another one may."""
