"""A sandbox: one virtual machine, and the containers (a pod) in it."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata import timeline
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.bundle.guest_config import guest_config
from pyvmm_kata.bundle.guest_mounts import shm_storages, socket_storages
from pyvmm_kata.bundle.guest_spec import check_layout, layout_of, place, shown
from pyvmm_kata.bundle.root_disks import SERIAL, RootDisk, device_storage, root_storages
from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import AgentGone, ConfigError, GuestError, HostError, VmmError
from pyvmm_kata.host.mounts import GUEST_SHARED, TAG, SharedDirectory
from pyvmm_kata.host.namespaces import Member
from pyvmm_kata.pod import templates
from pyvmm_kata.pod.agent_client import AgentClient
from pyvmm_kata.pod.container import Container
from pyvmm_kata.pod.machine_size import MachineSize
from pyvmm_kata.pod.network import in_namespace
from pyvmm_kata.pod.sandbox_config import SandboxConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.mount_plan import Placed
    from pyvmm_kata.host.proxy_process import Shown
    from pyvmm_kata.pod.loopback import Loopback
    from pyvmm_kata.pod.network import KeptNet
    from pyvmm_kata.pod.process import ExitStatus, Process
    from pyvmm_kata.pod.stdio import Stdio
    from pyvmm_kata.pod.virtual_machine import Vm
    from pyvmm_kata.state import Json

MIB = 1 << 20
START_S = 60.0
STOP_S = 5.0
SEED = 64
UNMOUNT_S = 25.0
"""How long a guest may take to write its disks back before the machine is ended."""
CHECK_EVERY_S, CHECK_S = 10.0, 30.0


class SandboxEvent(NamedTuple):
    """An event of a sandbox.

    :ivar kind: ``exit``: a process ended; ``oom``: the guest's kernel killed a process of a container because memory
        ran out; ``end``: the virtual machine has ended, and with it everything in it
    :ivar container_id: of which container, empty for ``end``
    :ivar exec_id: of which process, for ``exit``
    :ivar exit_status: for ``exit``
    :ivar reason: for ``end``, in words
    """

    kind: str
    container_id: str = ""
    exec_id: str = ""
    exit_status: ExitStatus | None = None
    reason: str = ""


def boot_vm(config: SandboxConfig, folder: str, shared: str) -> Vm:
    """A machine of pyvmm's."""
    from pyvmm_kata.pod.virtual_machine import PyvmmVm

    return PyvmmVm(config, folder, shared)


class Sandbox:
    """One virtual machine with its containers.  Its methods can be called from any thread.

    The share's mounts are made in the caller's mount namespace: see :func:`pyvmm_kata.host.mounts.enter_namespace`.

    :param boot: makes the machine from the configuration, the folder for its sockets and the directory to share
    """

    def __init__(self, config: SandboxConfig, boot: Callable[[SandboxConfig, str, str], Vm] | None = None) -> None:
        self.config = config
        check_id(config.sandbox_id, "sandbox")
        self._boot = boot or boot_vm
        self._shared = SharedDirectory(config.state_dir)
        self._lock = threading.RLock()
        self._vm: Vm | None = None
        self._agent: AgentClient | None = None
        self._loopback: Loopback | None = None
        self.no_loopback = ""
        """Why ``config.loopback`` has no effect, as text; containers run without it."""
        self._containers: dict[str, Container] = {}
        self._disks: dict[str, list[tuple[RootDisk, str]]] = {}
        self._pids: dict[str, int] = {}
        self.size = MachineSize(self)
        self._shown: dict[str, tuple[Shown | None, list[Shown]]] = {}
        self._layouts: dict[str, list[list[str]]] = {}
        self._serials = 0
        self._listeners: list[Callable[[SandboxEvent], None]] = []
        self._stopping = threading.Event()
        self._ended = threading.Event()

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Boot the machine and wait for its agent. On an error, everything that was made is removed.

        :raises VmmError: the machine cannot be made, or its agent does not answer in a minute
        """
        try:
            self._make()
            self._begin()
        except BaseException:
            self.stop()
            raise
        self._attend("check", self._check)
        self._attend("oom", self._watch_oom)

    def prepare(self) -> None:
        """Do the part of :meth:`start` that is the same for all sandboxes; :meth:`begin` does the rest, once.

        :raises VmmError: see :meth:`start`
        """
        try:
            self._make()
        except BaseException:
            self.stop()
            raise
        self._attend("check", self._check)

    def restore(
        self,
        container_id: str,
        bundle: Bundle,
        stdio: Stdio,
        pid: int,
        layout: Sequence[Sequence[str]],
        nets: Sequence[KeptNet],
        execs: Sequence[str],
        *,
        frozen: bool,
        added: int = 0,
    ) -> Container:
        """Replaces :meth:`start` and :meth:`create_container`, if the configuration has a checkpoint: a copy of the
        saved machine, with its only container.

        :param container_id: the id of the container in the guest
        :param stdio: the new streams of its first process
        :param layout: what its guest has mounted, see :func:`pyvmm_kata.bundle.guest_spec.layout_of`
        :param nets: the network devices that the machine had
        :param execs: ids of its processes besides the first one
        :param frozen: its processes stay frozen; otherwise they continue
        :param added: bytes of RAM that the machine was given while it ran
        :raises VmmError: it cannot be made, or does not accept an identity of its own; nothing of it is left
        """
        taken = False
        try:
            self._shared.make()
            # The machine's share looks for the files that its guest has open: they are there before it
            spec = place(bundle, container_id, self._shared)
            self._shown[container_id] = shown(spec, self._shared)
            self._layouts[container_id] = found = layout_of(spec)
            check_layout(found, layout)
            self._make_machine()
            network, vm = self.config.network, self._vm
            assert vm is not None
            if network is not None:
                network.take_up(nets, self.agent, vm.readdress)
            made = Container(self.agent, container_id, bundle, stdio, self._on_exit, self._on_delete, self._refresh)
            taken = True
            self._containers[container_id] = made
            self._pids[container_id] = pid
            self.size.take_up(added)
            made.take_up(execs, frozen=frozen)
        except BaseException:
            if not taken:
                stdio.close()
            self.stop()
            raise
        timeline.note("container")
        self._attend("check", self._check)
        self._attend("oom", self._watch_oom)
        return made

    def layout(self, container_id: str) -> list[list[str]]:
        """What the guest has mounted for a container, see :func:`pyvmm_kata.bundle.guest_spec.layout_of`."""
        return self._layouts[container_id]

    def save(self, folder: str) -> None:
        """Save the machine, see :meth:`pyvmm_kata.pod.virtual_machine.Vm.save`.

        :raises VmmError: it cannot be saved, or does not run (any more)
        """
        self.machine().save(folder)

    def begin(self, sandbox_id: str, hostname: str, namespace: str) -> None:
        """Give a prepared sandbox its name.

        :param namespace: the path of another network namespace than the present one, whose interfaces it gets, or empty
        :raises VmmError: it is impossible; the caller stops it
        """
        check_id(sandbox_id, "sandbox")
        self.config = self.config._replace(sandbox_id=sandbox_id, hostname=hostname)
        self.agent.set_time(time.time())  # the host's may have been set since
        self._begin()
        if namespace and self.config.network is not None:
            self.config.network.move(namespace)
            loopback, self._loopback = self._loopback, None
            if loopback is not None:
                loopback.close()
                vm = self._vm
                self._loopback = in_namespace(namespace, lambda: self._take_loopback(vm)) if vm is not None else None
            self.adopt_network()
        self._attend("oom", self._watch_oom)

    def _make(self) -> None:
        """Make a machine, its share, and a connection to its agent."""
        self._shared.make()
        self._make_machine()

    def _make_machine(self) -> None:
        network = self.config.network
        try:
            self._vm = self._boot(self.config, self.config.state_dir, self._shared.path)
        finally:
            if network is not None:
                network.release()
        self._vm.watch(self._on_end)
        if self.config.loopback:
            self._loopback = self._take_loopback(self._vm)
        timeline.note("machine")
        self._agent = self._connect(self._vm)
        timeline.note("connected")

    def _begin(self) -> None:
        """Make the sandbox in the guest, with its network."""
        agent, network, vm = self.agent, self.config.network, self._vm
        if self.config.policy is not None:
            agent.set_policy(self.config.policy)
        agent.create_sandbox(
            self.config.sandbox_id,
            self.config.hostname,
            (Storage("virtio-fs", TAG, "virtiofs", GUEST_SHARED),),
            shared_pids=self.config.shared_pids,
        )
        if network is not None:
            if vm is not None and vm.template:
                network.readdress(vm.readdress)
            network.configure(agent)
        timeline.note("sandbox")

    def _attend(self, name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def _connect(self, vm: Vm) -> AgentClient:
        """The connection to the agent. A clone gets random numbers of its own and the time before any other request.
        Otherwise there is no sandbox, and its template is removed.
        """
        name = self.config.sandbox_id
        if not vm.template and not self.config.checkpoint:
            return AgentClient(vm.connect(START_S), name)
        agent: AgentClient | None = None
        try:
            agent = AgentClient(vm.connect(START_S), name)
            agent.reseed(os.urandom(SEED))
            agent.set_time(time.time())
        except VmmError as error:
            if agent is not None:
                agent.close()
            if self.config.checkpoint:
                raise GuestError(
                    f"sandbox {name}: the machine of the checkpoint did not accept its new identity: {error}",
                    code="checkpoint-identity",
                ) from error
            templates.forget(vm.template)
            raise GuestError(
                f"sandbox {name}: a clone of the template {vm.template} did not accept its new identity: {error}",
                code="template-identity",
                hint="the template is removed: another start boots",
            ) from error
        return agent

    @property
    def wanted(self) -> templates.Kind | None:
        """The template to build for the next sandbox like this one; None: there is nothing to build."""
        return self._vm.wanted if self._vm is not None else None

    @property
    def origin(self) -> str:
        """How its machine was made, in words."""
        if self._vm is None or not (self._vm.template or self._vm.why):
            return "has booted"
        return f"is a clone of {self._vm.template}" if self._vm.template else f"has booted: {self._vm.why}"

    def _take_loopback(self, vm: Vm) -> Loopback | None:
        """Listen for the guest, while it boots."""
        from pyvmm_kata.pod.loopback import Loopback

        try:
            made = Loopback(vm.dial)
        except OSError as error:
            self.no_loopback = f"localhost of the pod does not lead into the guest (BPF sk_lookup): {error}"
            timeline.note(self.no_loopback)
            return None
        made.start()
        return made

    @property
    def agent(self) -> AgentClient:
        """The connection to the guest.

        :raises AgentGone: there is none (any more)
        """
        if self._agent is None:
            raise AgentGone(f"sandbox {self.config.sandbox_id} does not run")
        return self._agent

    def adopt_network(self) -> None:
        """Give the guest the interfaces that have been added to its network namespace since its start.

        :raises VmmError: it cannot be given
        """
        network = self.config.network
        vm = self._vm
        if network is not None and network.spares and vm is not None:
            with self._lock:
                network.adopt(self.agent, vm.readdress)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the machine is gone; False after *timeout* seconds."""
        return self._ended.wait(timeout)

    def figures(self) -> Json:
        """What the machine counts, see :meth:`pyvmm_kata.pod.virtual_machine.Vm.figures`.

        :raises HostError: it does not run (any more)
        """
        return self.machine().figures()

    def machine(self) -> Vm:
        """Its machine.

        :raises HostError: it does not run (any more)
        """
        vm = self._vm
        if vm is None:
            raise HostError(f"sandbox {self.config.sandbox_id} does not run", code="sandbox-state")
        return vm

    def stop(self) -> None:
        """End the machine with everything in it, and remove its files. A second call does nothing.

        :raises VmmError: something could not be removed
        """
        with self._lock:
            self._stopping.set()
            agent, self._agent = self._agent, None
            vm, self._vm = self._vm, None
            loopback, self._loopback = self._loopback, None
        if loopback is not None:
            loopback.close()
        if agent is not None:
            try:
                # A share has what was written before the end of a process is told.  Only disks are to be unmounted
                config = self.config
                if config.root is not None or config.volumes or config.more_disks or timeline.is_told():
                    agent.destroy_sandbox(STOP_S)
                written = [not disk.read_only for disks in self._disks.values() for disk, _ in disks]
                if any(written + [not volume.read_only for volume in config.volumes]):
                    self._ended.wait(UNMOUNT_S)
            except VmmError:
                pass  # it hangs, or has ended: the machine is closed in any case
            agent.close()
        if vm is not None:
            vm.close()
        self._ended.set()
        self._shared.remove()

    def _on_end(self, reason: str) -> None:
        """The machine has ended."""
        words = f"the virtual machine ended: {reason}"
        agent = self._agent
        if agent is not None:
            agent.close(words)  # calls that wait fail with this reason
        with self._lock:
            first = not self._ended.is_set() and not self._stopping.is_set()
            self._ended.set()
        if first:
            self._tell(SandboxEvent("end", reason=words))

    def _check(self) -> None:
        """Check at intervals whether the agent still serves; end the machine if it does not."""
        while not self._stopping.wait(CHECK_EVERY_S) and not self._ended.is_set():
            try:
                self.agent.check(CHECK_S)
            except AgentGone:
                return
            except GuestError as error:
                vm = self._vm
                if vm is not None and not self._stopping.is_set():
                    self._on_end(str(error))
                    vm.close()
                return

    def _watch_oom(self) -> None:
        while not self._stopping.is_set():
            try:
                container_id = self.agent.get_oom_event()
            except GuestError:
                return
            with self._lock:
                known = container_id in self._containers
            if known:
                self._tell(SandboxEvent("oom", container_id))
            self._stopping.wait(1)  # a guest can invent such events: that limits their rate

    # -- containers --------------------------------------------------------------------------------------------------

    @property
    def containers(self) -> dict[str, Container]:
        """By their ids."""
        with self._lock:
            return dict(self._containers)

    @property
    def members(self) -> list[Member]:
        """The containers, each with its proxy process on the host."""
        with self._lock:
            return [Member(container_id, self._pids.get(container_id, 0)) for container_id in self._containers]

    def create_container(
        self, container_id: str, bundle: Bundle, stdio: Stdio, pid: int = 0, placed: Placed | None = None
    ) -> Container:
        """Make a container, not yet started.

        :param pid: of its proxy process on the host
        :param placed: the host's files for the guest, from a process that sees other mounts than this one; None: those
            of the bundle
        :raises ConfigError: it is impossible, or the id is in use
        :raises VmmError: the host or the guest refuses; nothing of it is left
        """
        with self._lock:
            try:
                check_id(container_id)
                if container_id in self._containers:
                    raise ConfigError(f"container {container_id} exists already", code="container-exists")
                agent = self.agent
            except BaseException:
                stdio.close()
                raise
            made = Container(agent, container_id, bundle, stdio, self._on_exit, self._on_delete, self._refresh)
            try:
                root, storages = self._mount_root(bundle, container_id)
                if placed is None:
                    serials, devices = self._plug_volumes(bundle, container_id)
                    storages += devices
                    spec = place(bundle, container_id, self._shared, root, self.members, serials)
                    storages += shm_storages(bundle)
                else:
                    placed.attach(self._shared)
                    spec = placed.spec
                    storages += placed.storages
                storages += socket_storages(self._shared, container_id)
                self._shown[container_id] = shown(spec, self._shared)
                self._layouts[container_id] = layout_of(spec)
                config = guest_config(spec, self.config.hostname, shared_pids=self.config.shared_pids)
                agent.create_container(container_id, config, storages)
            except BaseException:
                made.init.abandon()
                self._let_go(container_id)
                raise
            timeline.note("container")
            self._containers[container_id] = made
            self._pids[container_id] = pid
            made.init.watch()  # it can be killed before it is started
            return made

    def shown(self, container_id: str) -> tuple[Shown | None, list[Shown]]:
        """What :meth:`pyvmm_kata.host.proxy_process.Face.show` shows of a container."""
        return self._shown[container_id]

    def _refresh(self) -> None:
        vm = self._vm
        if vm is not None:
            vm.refresh()

    def _on_delete(self, container: Container) -> None:
        with self._lock:
            self._containers.pop(container.id, None)
            self._let_go(container.id)

    def _mount_root(self, bundle: Bundle, container_id: str) -> tuple[str, list[Storage]]:
        """The path in the guest of a root on a disk, and the storages that mount it; empty for a folder."""
        disk, vm = bundle.disk, self._vm
        if disk is None:
            return "", []
        if self.config.more_disks and vm is not None:
            serial = self._plug(vm, disk, container_id)
        elif disk == self.config.root and not self._disks:
            serial = SERIAL
            self._disks[container_id] = [(disk, serial)]
        else:
            raise ConfigError(
                f"container {container_id}: its root is on the disk {disk.path}, and this virtual machine has no room",
                code="root-disk-late",
                hint="containers of a pod may have disks if its first one has, or with more_disks = true in kata.toml",
            )
        return root_storages(disk, serial, container_id)

    def _plug_volumes(self, bundle: Bundle, container_id: str) -> tuple[list[str], list[Storage]]:
        """The serial numbers of a container's block devices that come with it, and the storages by which the agent
        finds them."""
        vm, serials = self._vm, []
        if self.config.more_disks and vm is not None:
            serials = [self._plug(vm, RootDisk(path, "", ro), container_id) for path, ro in bundle.volumes]
        return serials, [device_storage(serial) for serial in serials]

    def _plug(self, vm: Vm, disk: RootDisk, container_id: str) -> str:
        """Give the guest a disk, until the container is removed; returns its serial number."""
        self._serials += 1
        serial = f"{SERIAL}-{self._serials}"
        vm.plug(disk, serial)
        self._disks.setdefault(container_id, []).append((disk, serial))
        return serial

    def _let_go(self, container_id: str) -> None:
        """Remove what only this container used."""
        self._shown.pop(container_id, None)
        self._layouts.pop(container_id, None)
        self._pids.pop(container_id, None)
        vm = self._vm
        for _, serial in self._disks.pop(container_id, []):
            if serial != SERIAL and vm is not None:
                try:
                    vm.unplug(serial)
                except VmmError:
                    pass  # the machine has ended, or is about to, and the disk is closed with it
        self._shared.unbind(container_id)

    # -- events ------------------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[SandboxEvent], None]) -> None:
        """Call *listener* with each later event, on a thread of the sandbox."""
        with self._lock:
            self._listeners.append(listener)

    def _on_exit(self, process: Process, status: ExitStatus) -> None:
        self._tell(SandboxEvent("exit", process.container_id, process.exec_id, status))

    def _tell(self, event: SandboxEvent) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(event)
