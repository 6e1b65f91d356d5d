"""The process that holds a virtual machine, and its containers: one, or those of a pod.

It is a child of the ``create`` that made its first container, and later of that process's reaper, in a session of its
own. Its mounts, machine and taps disappear when it ends; folders and cgroups are left, which ``delete`` removes. A
container's pid is that of its proxy process, which ends when this process does.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from pyvmm_kata import privileges, state, timeline
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.checks import namespace
from pyvmm_kata.bundle.guest_settings import machine_name
from pyvmm_kata.bundle.mount_plan import Placed
from pyvmm_kata.bundle.settings import NETWORK
from pyvmm_kata.bundle.user_namespace import NO_MAPS, id_maps
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host import mounts
from pyvmm_kata.host.cgroups import ROOT, Cgroup
from pyvmm_kata.host.proxy_process import Face
from pyvmm_kata.oci.container_service import ContainerService, Plan
from pyvmm_kata.oci.delete import clear
from pyvmm_kata.oci.idle_wait import IdleWait
from pyvmm_kata.oci.shared_machine import folder_of, sweep
from pyvmm_kata.pod import network
from pyvmm_kata.pod.events import SandboxEvent
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.sandbox import Sandbox
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.pod.stdio import Stdio
from vmm import Publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_kata.pod.templates import Kind
    from pyvmm_kata.state import Json

MANAGER = "io.container.manager"
SPARES = 4
"""Network devices for podman's networks of a container with a user namespace, each a virtio device at the start."""
WAY_S = 0.005
SETTLED_S = 1.0
"""After the start of the first container, until nothing more is expected to happen soon."""
LINGER_S = 10.0
"""Seconds that requests which wait for a process may take to report its end."""


class Asked:
    """A ``create``'s request to a process with a machine: a container in it.

    :param fds: the proxy process, the streams, and the mounts, which it takes over
    """

    def __init__(self, request: Json, fds: list[int]) -> None:
        first = 1 + int(request["streams"])
        self.container_id, self.folder = str(request["id"]), str(request["folder"])
        self.placed = Placed.from_json(request["placed"], fds[first:])
        self.face = Face.adopt(int(request["face"]), fds[0])
        self._streams = fds[1:first]

    def stdio(self, *, terminal: bool) -> tuple[Stdio, int]:
        """The streams, and the console, owned by the caller from now on; -1: no console."""
        ends = self._streams
        if terminal:
            stdio = Stdio(os.dup(ends[0]), os.dup(ends[-1]), None, terminal=True)
        else:
            stdio = Stdio(os.dup(ends[0]), os.dup(ends[1]), os.dup(ends[2]))
        return stdio, ends.pop() if len(ends) == 1 else -1

    def close(self) -> None:
        """Close what nobody took, except the proxy process."""
        self.placed.close()
        while self._streams:
            os.close(self._streams.pop())


class Monitor:
    """A machine and its containers.  Made and run on the main thread.

    :param plan: of the first container, which determines the machine
    """

    def __init__(self, plan: Plan, boot: Callable[..., Any] | None = None) -> None:
        self._plan = plan
        self._boot = boot
        self._folder = folder_of(os.path.dirname(plan.folder), os.getpid())
        self._lock = threading.Lock()
        self._ended = IdleWait()
        self._sandbox: Sandbox | None = None
        self._first = ContainerService(plan, self._join, self._adopt_network, self._on_lost, self._may_save)
        self._services = {plan.container_id: self._first}
        self._home = plan.cgroup
        self._can = kind_named(plan.settings.guest).can
        self._has_network = False
        self._settle: Callable[[], None] = lambda: None
        """Waits until the processes of a machine that was adopted are in the container's control group."""
        self.wanted: Kind | None = None
        """The template that there should be for the next machine like this one."""

    # -- making ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Enter the namespaces and the cgroup.

        :raises VmmError: the host does not permit it
        """
        plan = self._plan
        self._first.save(monitor=os.getpid(), monitorStart=state.start_time(os.getpid()))
        os.mkdir(self._folder, 0o700)
        cgroup = Cgroup(plan.cgroup)
        if cgroup.hold(0, plan.face.pid):
            added = plan.kept.added if plan.kept else 0
            cgroup.limit_memory(self._size[0] + added, self._resources)
        else:
            self._home = ""
            self._first.save(cgroup="")
        entry = namespace(plan.bundle.spec, "network")
        user = plan.settings.network == "user"
        if entry is None and not user:
            raise ConfigError(
                "config.json: linux.namespaces: without a network namespace of its own, the container would have the "
                "host's network, which a virtual machine cannot have",
                code="oci-network",
                hint="podman: leave --network host out",
            )
        if not user:
            network.enter(plan.face.namespace("net"))
            self._has_network = True
        elif entry is not None and entry.get("path"):  # passt makes its connections there, and not from the host
            network.enter(plan.face.namespace("net"))
        mounts.enter_namespace()
        if plan.bundle.layer and plan.bundle.disk is None and not plan.bundle.overlay:
            from pyvmm_kata.bundle import writable_layer

            plan.bundle.rootfs = writable_layer.make(plan.bundle.rootfs, plan.bundle.layer, self._folder)
        privileges.restrict()
        timeline.note("namespaces")

    def create(self) -> None:
        """Boot the machine and make the container in it.

        :raises VmmError: one of the two fails; nothing of them is left
        """
        plan = self._plan
        spec, kept = plan.bundle.spec, plan.kept
        memory, vcpus = self._size
        self._sandbox = Sandbox(
            SandboxConfig(
                plan.container_id,
                self._folder,
                plan.settings.kernel,
                plan.settings.image,
                memory,
                vcpus,
                hostname=machine_name(spec),
                cmdline=plan.settings.kernel_params,
                network=self._network(),
                loopback=self._has_network and self._can.forwarding,
                root=plan.bundle.machine_disk,
                volumes=plan.bundle.volumes,
                seal=lambda wanted: privileges.seal(),
                template=plan.settings.template == "auto" and kept is None,
                isolation=plan.settings.isolation,
                guest=plan.settings.guest,
                users=NO_MAPS if self._can.users else id_maps(spec),
                policy=plan.settings.policy,
                checkpoint=kept.machine if kept is not None else "",
                forked=kept.forked if kept is not None else None,
                balloon=kept is None or kept.balloon,
                more_memory=kept.more_memory if kept is not None else plan.settings.more_memory,
                more_cpus=kept.more_cpus if kept is not None else plan.settings.more_cpus,
            ),
            self._boot,
        )
        self._sandbox.listen(self._on_event)
        self._sandbox.on_checked = self._ended.tidy
        self._sandbox.size.bound, self._sandbox.size.bound_cpu = self._bound, self._bound_cpu
        if kept is not None:
            self._first.restore(self._sandbox, kept)
        else:
            self._sandbox.start()
            self.wanted = self._sandbox.wanted
            self._sandbox.size.fit(self._resources)
            self._first.create(self._sandbox)
        if self._home:
            Cgroup(self._home).limit_cpu(self._resources)

    def adopt(self, sandbox: Sandbox, group: str) -> None:
        """Replaces :meth:`prepare` and the machine of :meth:`create`: use one that is ready.

        :param group: this process's cgroup; empty: none
        :raises VmmError: it does not fit this container, of which nothing has been made
        """
        plan = self._plan
        spec = plan.bundle.spec
        self._sandbox = sandbox
        self._first.save(monitor=os.getpid(), monitorStart=state.start_time(os.getpid()))
        cgroup = Cgroup(plan.cgroup)
        if group:
            self._settle = cgroup.take_meanwhile(Cgroup(group), plan.face.pid)
        elif not cgroup.hold(plan.face.pid):
            self._home = ""
            self._first.save(cgroup="")
        path = plan.face.namespace("net")
        apart = os.readlink(path) != os.readlink("/proc/self/ns/net")
        self._has_network = True
        try:
            sandbox.begin(plan.container_id, machine_name(spec), path if apart else "")
        except BaseException:
            self._settle()
            raise
        sandbox.listen(self._on_event)
        sandbox.on_checked = self._ended.tidy
        sandbox.size.bound, sandbox.size.bound_cpu = self._bound, self._bound_cpu
        try:
            sandbox.size.fit(self._resources)
        except BaseException:
            self._settle()
            raise

    def _bound(self, memory: int) -> None:
        """Set the container's limits on the host, where its RAM is *memory* bytes."""
        if self._home:
            Cgroup(self._home).limit_memory(memory, self._resources)

    def _bound_cpu(self, cpu: Json) -> None:
        if self._home:
            Cgroup(self._home).limit_cpu({"cpu": cpu})

    def create_adopted(self, placed: Placed) -> None:
        """Make the container in the machine that was adopted.

        :raises VmmError: it cannot be made
        """
        assert self._sandbox is not None
        try:
            self._first.create(self._sandbox, placed)
        finally:
            self._settle()
        self._bound(self._sandbox.size.memory)
        if self._home:
            Cgroup(self._home).limit_cpu(self._resources)

    def start(self, *, removes: bool) -> None:
        """Start the first container, see :meth:`pyvmm_kata.oci.container_service.ContainerService.start`."""
        self._first.start(removes=removes)

    @property
    def _size(self) -> tuple[int, int]:
        """Memory and vCPUs of the machine: a copy has those of the original."""
        plan = self._plan
        if plan.kept:
            return plan.kept.memory, plan.kept.vcpus
        has_disks = plan.bundle.machine_disk is not None or bool(plan.bundle.volumes)
        return plan.settings.size(self._resources, clone=not has_disks and self._can.templates)

    def _may_save(self) -> None:
        from pyvmm_kata.pod.checkpoint_folder import check_alone, check_disks

        check_disks(self._plan.bundle, images=True)
        if self._plan.bundle.layer and self._plan.bundle.disk is None and not self._plan.bundle.overlay:
            raise ConfigError(
                "a container whose root is a folder with a limited layer cannot be saved",
                code="root-disk",
                hint="use an image of the store",
            )
        with self._lock:
            ids = [each.plan.container_id for each in self._services.values()]
        check_alone(ids)

    @property
    def _resources(self) -> Json:
        found: Json = (self._plan.bundle.spec.get("linux") or {}).get("resources") or {}
        return found

    def _network(self) -> network.Network | None:
        annotations = self._plan.bundle.annotations
        chosen, kept = self._plan.settings, self._plan.kept
        if chosen.network == "none":
            return None
        if not self._can.network:
            self._check_no_network()
            return None
        if chosen.network == "user":
            if kept is not None and [net.mac for net in kept.nets] != [network.USER_MAC]:
                raise ConfigError(f"annotation {NETWORK}: the container that was checkpointed had another network")
            return network.user_network([Publish.parse(text) for text in chosen.publish.split()])
        if kept is not None:
            return network.take_again(kept.nets)
        if not self._has_network:
            return None
        spec = self._plan.bundle.spec
        # podman fills a namespace that config.json names before create.  It fills one without a path after create if
        # that has to belong to the container's user namespace, and otherwise never.
        is_filled_late = annotations.get(MANAGER) != "libpod" or namespace(spec, "user") is not None
        late = is_filled_late and not (namespace(spec, "network") or {}).get("path")
        spares = SPARES if namespace(spec, "user") is not None and self._can.networks else 1
        return network.take_over(self._plan.face.namespace("net") if late else "", spares)

    def _check_no_network(self) -> None:
        """
        :raises ConfigError: the container is to have one
        """
        if self._plan.settings.network or network.has_interfaces():
            guest = self._plan.settings.guest
            raise ConfigError(
                f"a guest of the kind {guest} has no network but its loopback interface, and the container has another",
                code="oci-network",
                hint="podman: --network none; or use --isolation vm",
            )

    def _adopt_network(self) -> None:
        if self._sandbox is not None:
            self._sandbox.adopt_network()

    def _join(self, request: Json, fds: list[int]) -> None:
        """Make one more container, from the request of a ``create`` and its descriptors: the proxy process, the
        streams, and the mounts."""
        asked = Asked(request, fds)
        try:
            bundle = Bundle.load(state.read(asked.folder)["bundle"])
            if self._can.images:
                bundle.put_in_share()
            stdio, console = asked.stdio(terminal=bool(bundle.spec["process"].get("terminal")))
            self._add(asked.container_id, asked.folder, bundle, stdio, asked.face, console, asked.placed)
        except BaseException:
            asked.face.close()
            raise
        finally:
            asked.close()

    def _add(
        self, container_id: str, folder: str, bundle: Bundle, stdio: Stdio, face: Face, console: int, placed: Placed
    ) -> None:
        cgroup = Cgroup(state.read(folder)["cgroup"])
        plan = Plan(container_id, folder, bundle, self._plan.settings, cgroup.path, stdio, face, console)
        service = ContainerService(plan, self._join, self._adopt_network, self._on_lost, self._may_save)
        with self._lock:
            sandbox = self._sandbox
            if self._ended.is_set() or sandbox is None:
                stdio.close()
                raise HostError("the virtual machine is ending", code="oci-gone")
            self._services[container_id] = service
        try:
            service.save(monitor=os.getpid(), monitorStart=state.start_time(os.getpid()), shared=True)
            self._first.save(shared=True)
            if not cgroup.hold(face.pid):
                service.save(cgroup="")
            service.create(sandbox, placed)
        except BaseException:
            self._forget(service)
            raise

    # -- running -----------------------------------------------------------------------------------------------------

    def wait(self) -> int:
        """Wait for the end of the last container, report it, and end the machine; returns the exit status.

        The guest's writes to its share are on the host when its processes have ended. Its writes to a disk are there
        when the machine has ended, so that comes first.
        """
        if not self._ended.wait(SETTLED_S):
            self._ended.wait_idle()
        last = list(self._services.values())
        for service in last:
            service.mark_stopped()
        deadline = time.monotonic() + LINGER_S
        while any(service.busy for service in last) and time.monotonic() < deadline:
            time.sleep(0.005)
        left = [(service, place) for service in last if (place := service.leave(self._folder))]
        if self._plan.bundle.machine_disk is None:
            for service in last:
                service.tell_end()
            _make_way()
        self._stop()
        timeline.note("closed")
        for service in last:
            service.release()
        if left:
            self._remove(left)
        # Last: the next container of this name waits for it
        state.remove_tree(self._folder)
        return self._first.status

    def _remove(self, left: list[tuple[ContainerService, str]]) -> None:
        """Remove the remains of containers, as `delete` does."""
        try:
            if self._home:
                Cgroup(ROOT).enter(0)
            for service, place in left:
                group = service.plan.cgroup if self._home else ""
                if place == service.plan.folder:
                    clear(place, group)
                else:  # the folder of that name may be another container's by now
                    Cgroup(group).remove()
            sweep(os.path.dirname(self._folder))
        except (OSError, VmmError):
            pass  # the next container of that name removes it

    def close(self) -> None:
        """End the machine, and remove its folder."""
        self._stop()
        state.remove_tree(self._folder)

    def _stop(self) -> None:
        if self._sandbox is not None:
            try:
                self._sandbox.stop()
            except VmmError:
                pass  # its mounts are in this process's namespace, and end with it

    def _on_event(self, event: SandboxEvent) -> None:
        service = next(
            (each for each in list(self._services.values()) if each.plan.guest_id == event.container_id), None
        )
        if event.kind == "end":
            for each in list(self._services.values()):
                each.lose(event.reason)
            self._ended.set()
        elif service is None:
            pass
        elif event.kind == "oom":
            service.tell_oom()
        elif event.exec_id == event.container_id and event.exit_status is not None:
            service.end(event.exit_status)
            self._finish(service)

    def _on_lost(self, service: ContainerService) -> None:
        """Its face was killed."""
        with self._lock:
            alone = all(each.has_ended for each in self._services.values() if each is not service)
        if alone:
            service.has_ended = True
            self._ended.set()  # wait() ends the machine
        else:
            service.kill()

    def _finish(self, service: ContainerService) -> None:
        """A container has ended: end the machine if it was the last one, else remove it from the machine."""
        with self._lock:
            if all(each.has_ended for each in self._services.values()):
                self._ended.set()
                return
        self._forget(service)

    def _forget(self, service: ContainerService) -> None:
        with self._lock:
            self._services.pop(service.plan.container_id, None)
            left = list(self._services.values())
        service.remove()
        if self._home and service.plan.cgroup == self._home:
            self._move_home([each.plan.cgroup for each in left])
        service.mark_stopped()
        service.release()

    def _move_home(self, groups: list[str]) -> None:
        """Enter the cgroup of another container: the present one will be removed."""
        old = self._home
        for path in groups:
            group = Cgroup(path)
            try:
                for pid in Cgroup(old).pids():
                    if all(pid != each.plan.face.pid for each in (*self._services.values(), self._first)):
                        group.enter(pid)
                self._home = path
                return
            except (OSError, VmmError):
                continue


def _make_way() -> None:
    """Release the processes that wait for a container's end, before its remains are removed."""
    time.sleep(WAY_S)  # no event reports that they have run
