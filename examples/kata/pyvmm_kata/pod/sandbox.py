"""A sandbox: one virtual machine, and the containers (a pod) in it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pyvmm_kata import timeline
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import AgentGone, ConfigError, GuestError, HostError, VmmError
from pyvmm_kata.host.mounts import GUEST_SHARED, TAG, SharedDirectory
from pyvmm_kata.host.windows import Window, Windows
from pyvmm_kata.pod import guest_port
from pyvmm_kata.pod.agent_connection import connect_agent
from pyvmm_kata.pod.containers import PodContainers
from pyvmm_kata.pod.events import Listeners, SandboxEvent
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.machine_size import MachineSize
from pyvmm_kata.pod.network import in_namespace

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.mount_plan import Placed
    from pyvmm_kata.host.namespaces import Member
    from pyvmm_kata.host.proxy_process import Shown
    from pyvmm_kata.pod import templates
    from pyvmm_kata.pod.agent_client import AgentClient
    from pyvmm_kata.pod.container import Container
    from pyvmm_kata.pod.loopback import Loopback
    from pyvmm_kata.pod.network import KeptNet
    from pyvmm_kata.pod.process import ExitStatus, Process
    from pyvmm_kata.pod.sandbox_config import SandboxConfig
    from pyvmm_kata.pod.stdio import Stdio
    from pyvmm_kata.pod.vm import Vm
    from pyvmm_kata.state import Json

STOP_S = 5.0
UNMOUNT_S = 25.0
"""How long a guest may take to write its disks back before the machine is ended."""
CHECK_EVERY_S, CHECK_S = 10.0, 30.0


def boot_vm(config: SandboxConfig, folder: str, shared: str) -> Vm:
    """A machine of pyvmm's, or what its kind of guest has instead."""
    from pyvmm_kata.pod.virtual_machine import start_vm

    return start_vm(config, folder, shared)


class Sandbox:
    """One virtual machine with its containers.  Its methods can be called from any thread.

    The share's mounts are made in the caller's mount namespace: see :func:`pyvmm_kata.host.mounts.enter_namespace`.

    :param boot: makes the machine from the configuration, the folder for its sockets and the directory to share
    """

    def __init__(self, config: SandboxConfig, boot: Callable[[SandboxConfig, str, str], Vm] | None = None) -> None:
        check_id(config.sandbox_id, "sandbox")
        self._can = kind_named(config.guest).can
        self.config = config._replace(
            more_memory=config.more_memory if self._can.memory else 0,
            more_cpus=config.more_cpus if self._can.cpus else 0,
        )
        self._boot = boot or boot_vm
        self._shared = SharedDirectory(config.state_dir)
        self._windows = Windows(self._shared)
        self._lock = threading.RLock()
        self._vm: Vm | None = None
        self._agent: AgentClient | None = None
        self._loopback: Loopback | None = None
        self.no_loopback = ""
        """Why ``config.loopback`` has no effect, as text; containers run without it."""
        self._containers = PodContainers(self, self._shared, self._lock, self._on_exit, self._refresh)
        self.size = MachineSize(self)
        self._listeners = Listeners(self._lock)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self.on_checked: Callable[[], None] = lambda: None
        """Called when the agent has been checked: nothing may happen for a while then."""

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
        _attend("check", self._check)
        _attend("oom", self._watch_oom)

    def prepare(self) -> None:
        """Do the part of :meth:`start` that is the same for all sandboxes; :meth:`begin` does the rest, once.

        :raises VmmError: see :meth:`start`
        """
        try:
            self._make()
        except BaseException:
            self.stop()
            raise
        _attend("check", self._check)

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
            self._containers.place(container_id, bundle, pid, layout)
            self._make_machine()
            network, vm = self.config.network, self._vm
            assert vm is not None
            if network is not None:
                network.take_up(nets, self.agent, vm.readdress)
            made = self._containers.adopt(container_id, bundle, stdio)
            taken = True
            self.size.take_up(added)
            made.take_up(execs, frozen=frozen)
        except BaseException:
            if not taken:
                stdio.close()
            self.stop()
            raise
        timeline.note("container")
        _attend("check", self._check)
        _attend("oom", self._watch_oom)
        return made

    def layout(self, container_id: str) -> list[list[str]]:
        """What the guest has mounted for a container, see :func:`pyvmm_kata.bundle.guest_spec.layout_of`."""
        return self._containers.on_host[container_id].layout

    def saveable(self) -> Vm:
        """Its machine, to be saved or copied.

        :raises VmmError: a guest of this kind cannot be; or it does not run (any more)
        """
        config = self.config
        if not self._can.checkpoints:
            raise ConfigError(
                f"a guest of the kind {config.guest} cannot be saved", code="guest-kind", hint="use --isolation vm"
            )
        return self.machine()

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
        _attend("oom", self._watch_oom)

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
        self._agent = connect_agent(self._vm, self.config)
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

    def connect_to_port(self, port: int) -> socket.socket | None:
        """Open a TCP connection to a port on the guest's loopback interface.  None: the guest refuses it.

        :raises HostError: the guest does not answer
        """
        vm = self._vm
        if vm is None:
            raise HostError(f"sandbox {self.config.sandbox_id} does not run", code="sandbox-gone")
        try:
            return guest_port.connect_to_port(vm.dial, "127.0.0.1", port)
        except OSError as error:
            raise HostError(f"port {port} in the guest cannot be reached: {error}", code="guest-port") from error

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
        """Wait until the machine has ended; False after *timeout* seconds."""
        return self._ended.wait(timeout)

    def figures(self) -> Json:
        """What the machine counts, see :meth:`pyvmm_kata.pod.vm.Vm.figures`.

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

    def open_window(self) -> Window | None:
        """Memory to share with a process of the guest; None: there is none (left)."""
        return self._windows.take() if self._can.windows else None

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
                # A share has all data before the exit of a process is reported. Only disks must be unmounted
                config = self.config
                if config.root is not None or config.volumes or config.more_disks or timeline.is_told():
                    agent.destroy_sandbox(STOP_S)
                if self._containers.disks.are_written:
                    self._ended.wait(UNMOUNT_S)
            except VmmError:
                pass  # it hangs, or has ended: the machine is closed in any case
            agent.close()
        if vm is not None:
            vm.close()
        self._ended.set()
        self._windows.close()
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
            self._listeners.tell(SandboxEvent("end", reason=words))

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
            self.on_checked()

    def _watch_oom(self) -> None:
        while not self._stopping.is_set():
            try:
                container_id = self.agent.get_oom_event()
            except GuestError:
                return
            if container_id in self._containers.all:
                self._listeners.tell(SandboxEvent("oom", container_id))
            self._stopping.wait(1)  # a guest can invent such events: that limits their rate

    # -- containers --------------------------------------------------------------------------------------------------

    @property
    def containers(self) -> dict[str, Container]:
        """By their ids."""
        return self._containers.all

    @property
    def members(self) -> list[Member]:
        """The containers, each with its proxy process on the host."""
        return self._containers.members

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
        return self._containers.create(container_id, bundle, stdio, pid, placed)

    def shown(self, container_id: str) -> tuple[Shown | None, list[Shown]]:
        """What :meth:`pyvmm_kata.host.proxy_process.Face.show` shows of a container."""
        return self._containers.on_host[container_id].shown

    def _refresh(self) -> None:
        vm = self._vm
        # An older kernel may continue from a checkpoint
        if vm is not None and (self.config.continues or not self._can.rereads):
            vm.refresh()

    # -- events ------------------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[SandboxEvent], None]) -> None:
        """Call *listener* with each later event, on a thread of the sandbox."""
        self._listeners.add(listener)

    def _on_exit(self, process: Process, status: ExitStatus) -> None:
        self._listeners.tell(SandboxEvent("exit", process.container_id, process.exec_id, status))


def _attend(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
