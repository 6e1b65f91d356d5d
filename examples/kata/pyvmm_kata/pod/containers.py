"""The containers of a pod, and what each has on the host while it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata import timeline
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.bundle.guest_mounts import shm_storages, socket_storages
from pyvmm_kata.bundle.guest_spec import check_layout, layout_of, place, shown
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.host.namespaces import Member
from pyvmm_kata.pod.container import Container, Describe
from pyvmm_kata.pod.disks import PodDisks
from pyvmm_kata.pod.guest_kinds import kind_named

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.mount_plan import Placed
    from pyvmm_kata.host.mounts import SharedDirectory
    from pyvmm_kata.host.proxy_process import Shown
    from pyvmm_kata.pod.agent_client import AgentClient
    from pyvmm_kata.pod.machine_size import Pod
    from pyvmm_kata.pod.process import ExitStatus, Process
    from pyvmm_kata.pod.stdio import Stdio


class _OnHost(NamedTuple):
    """What a container has on the host.

    :ivar pid: of its proxy process
    :ivar shown: what :meth:`pyvmm_kata.host.proxy_process.Face.show` shows of it
    :ivar layout: what the guest has mounted for it, see :func:`pyvmm_kata.bundle.guest_spec.layout_of`
    """

    pid: int
    shown: tuple[Shown | None, list[Shown]]
    layout: list[list[str]]


class PodContainers:
    """The containers of one machine.  Its methods can be called from any thread.

    :param pod: whose containers they are
    :param shared: the directory that the guest sees
    :param lock: of the pod: held while a container is made or removed
    :param on_exit: called when a process of a container has ended
    """

    def __init__(
        self,
        pod: Pod,
        shared: SharedDirectory,
        lock: threading.RLock,
        on_exit: Callable[[Process, ExitStatus], None],
        refresh: Callable[[], None],
    ) -> None:
        self._pod = pod
        self._shared = shared
        self._lock = lock
        self._on_exit = on_exit
        self._refresh = refresh
        self.disks = PodDisks(pod.config, pod.machine)
        self._all: dict[str, Container] = {}
        self._on_host: dict[str, _OnHost] = {}

    @property
    def all(self) -> dict[str, Container]:
        """By their ids."""
        with self._lock:
            return dict(self._all)

    @property
    def members(self) -> list[Member]:
        """The containers, each with its proxy process."""
        with self._lock:
            return [Member(container_id, self._on_host[container_id].pid) for container_id in self._all]

    @property
    def on_host(self) -> dict[str, _OnHost]:
        """What they have on the host, by their ids."""
        return self._on_host

    def create(self, container_id: str, bundle: Bundle, stdio: Stdio, pid: int, placed: Placed | None) -> Container:
        """See :meth:`pyvmm_kata.pod.sandbox.Sandbox.create_container`."""
        with self._lock:
            try:
                check_id(container_id)
                if container_id in self._all:
                    raise ConfigError(f"container {container_id} exists already", code="container-exists")
                agent = self._pod.agent
            except BaseException:
                stdio.close()
                raise
            made = self._container(agent, container_id, bundle, stdio)
            try:
                if placed is None:
                    root, storages = self.disks.mount_root(bundle, container_id, self._shared)
                    serials, devices = self.disks.plug_volumes(bundle, container_id)
                    storages += devices
                    spec = place(bundle, container_id, self._shared, root, self.members, serials)
                    storages += shm_storages(bundle)
                else:
                    placed.attach(self._shared)
                    spec = placed.spec
                    storages = placed.storages
                self.disks.hold_images(container_id, storages, self._shared)
                storages += socket_storages(self._shared, container_id)
                self._on_host[container_id] = _OnHost(pid, shown(spec, self._shared), layout_of(spec))
                pod = self._pod.config
                config = kind_named(pod.guest).describe(spec, pod.hostname, shared_pids=pod.shared_pids)
                agent.create_container(container_id, config, storages)
            except BaseException:
                made.init.abandon()
                self._let_go(container_id)
                raise
            timeline.note("container")
            self._all[container_id] = made
            made.init.watch()  # it can be killed before it is started
            return made

    def place(self, container_id: str, bundle: Bundle, pid: int, layout: Sequence[Sequence[str]]) -> None:
        """Put the files of a container into the share that is in the guest already: of a checkpoint.

        :param layout: what its guest has mounted
        :raises ConfigError: the bundle has other mounts
        """
        root, storages = self.disks.mount_root(bundle, container_id, self._shared)
        self.disks.hold_images(container_id, storages, self._shared)
        spec = place(bundle, container_id, self._shared, root)
        found = layout_of(spec)
        self._on_host[container_id] = _OnHost(pid, shown(spec, self._shared), found)
        check_layout(found, layout)

    def adopt(self, container_id: str, bundle: Bundle, stdio: Stdio) -> Container:
        """The container of :meth:`place`, once its machine runs."""
        made = self._container(self._pod.agent, container_id, bundle, stdio)
        self._all[container_id] = made
        return made

    def _container(self, agent: AgentClient, container_id: str, bundle: Bundle, stdio: Stdio) -> Container:
        kind = kind_named(self._pod.config.guest)
        describe = Describe(kind.describe_process, kind.describe_resources)
        return Container(agent, container_id, bundle, stdio, self._on_exit, self._on_delete, self._refresh, describe)

    def _on_delete(self, container: Container) -> None:
        with self._lock:
            self._all.pop(container.id, None)
            self._let_go(container.id)

    def _let_go(self, container_id: str) -> None:
        """Remove what only this container used."""
        self._on_host.pop(container_id, None)
        self.disks.release(container_id)
        self._shared.unbind(container_id)
