"""The pod's sandbox: from the runtime's options, the first container's annotations, limits and namespaces."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from pyvmm_kata import privileges, timeline
from pyvmm_kata.bundle import settings
from pyvmm_kata.bundle.checks import namespace
from pyvmm_kata.bundle.guest_settings import machine_name
from pyvmm_kata.bundle.user_namespace import NO_MAPS, id_maps
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import cgroups
from pyvmm_kata.host.namespaces import owner
from pyvmm_kata.host.proxy_process import Face
from pyvmm_kata.pod import network, templates
from pyvmm_kata.pod.guest_kinds import kind_named
from pyvmm_kata.pod.sandbox import Sandbox
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.protocol import protobuf
from pyvmm_kata.shim.stream_paths import open_stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.host.namespaces import Member
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.pod.events import SandboxEvent
    from pyvmm_kata.protocol.protobuf import Message
    from pyvmm_kata.shim.bootstrap import Place
    from pyvmm_kata.shim.pod import Resumed

OPTIONS = "runtimeoptions.v1.Options"
SANDBOX = "io.kubernetes.cri.sandbox-"
"""Annotations with the sum of the limits of a pod's containers begin so."""


def launch_face(bundle: Bundle, members: Sequence[Member], network_path: str = "") -> Face:
    """The proxy process of a container: in the network namespace that its bundle names, and in others of the pod.

    :param network_path: the network namespace if the bundle names none; empty: a new one
    """
    paths = {"network": network_path} if network_path else {}
    for entry in bundle.spec.get("linux", {}).get("namespaces", ()):
        kind, path = entry["type"], entry.get("path")
        if path and (kind == "network" or (kind in ("ipc", "uts", "pid") and owner(path, kind, members))):
            paths[kind] = path
    return Face.launch(paths, bundle.spec.get("hostname") or "")


class PodStart:
    """Creates and starts the machine of a pod, once.

    :param home: the cgroup to return to if that fails
    """

    def __init__(self, place: Place, home: str) -> None:
        self._place = place
        self._home = home
        self._sealed = threading.Event()
        """This process can make no further machine."""

    def start(
        self,
        bundle: Bundle,
        face: Face,
        options: Message | None,
        listener: Callable[[SandboxEvent], None],
        resumed: Resumed | None,
    ) -> Sandbox:
        """Boot the machine, in the network namespace and the cgroup of the pod's first container.

        :param resumed: the machine continues from there, with its container frozen
        :raises VmmError: it cannot be booted; nothing of it is left
        """
        if self._sealed.is_set():
            raise HostError("this shim has made its only virtual machine", code="shim-closed")
        wanted = settings.load(config_path(options)).with_annotations(bundle.annotations)
        place, resources = self._place, pod_resources(bundle)
        config = self._config(bundle, wanted, resources, resumed)
        if wanted.traces:
            timeline.begin(timeline.start_sender(wanted.traces))
        os.makedirs(place.sandbox, mode=0o700, exist_ok=True)
        group = _enter_cgroup(place, bundle, face, config.memory, resources)

        def run() -> Sandbox:
            if resumed is None:
                late = "" if (namespace(bundle.spec, "network") or {}).get("path") else face.namespace("net")
                nets = network.take_over(late)
            else:
                nets = network.take_again(resumed.kept.nets)
            sandbox = Sandbox(config._replace(network=nets))
            sandbox.listen(listener)
            _run(sandbox, bundle, face, resumed)
            return sandbox

        try:
            sandbox = network.in_namespace(face.namespace("net"), run)
        except BaseException:
            leave_cgroup(place, self._home)
            raise
        if group is not None:
            _limit(sandbox, group, resources)
        if resumed is None:
            try:
                sandbox.size.fit(resources)
            except BaseException:
                sandbox.stop()
                leave_cgroup(place, self._home)
                raise
        return sandbox

    def _config(
        self, bundle: Bundle, wanted: settings.Settings, resources: dict[str, Any], resumed: Resumed | None
    ) -> SandboxConfig:
        """The sandbox that the pod needs, but for its network.

        :raises ConfigError: there is no such machine
        """
        place, has_disks = self._place, bundle.disk is not None or bool(bundle.volumes)
        more_disks = place.is_shared and (wanted.more_disks or has_disks)
        config = SandboxConfig(
            sandbox_id=place.group,
            state_dir=place.sandbox,
            kernel=wanted.kernel,
            image=wanted.image,
            more_memory=wanted.more_memory,
            more_cpus=wanted.more_cpus,
            hostname=machine_name(bundle.spec),
            cmdline=wanted.kernel_params,
            loopback=kind_named(wanted.guest).can.forwarding,
            root=None if place.is_shared else bundle.disk,
            volumes=() if more_disks else bundle.volumes,
            more_disks=more_disks,
            template=wanted.template == "auto",
            isolation=wanted.isolation,
            guest=wanted.guest,
            users=NO_MAPS if kind_named(wanted.guest).can.users else id_maps(bundle.spec),
            policy=wanted.policy,
            seal=self._seal,
        )
        if resumed is None:
            memory, vcpus = wanted.size(resources, clone=place.is_shared or not has_disks)
            config = config._replace(memory=memory, vcpus=vcpus)
        else:
            config = _as_kept(config, bundle, wanted, resumed.kept)
        if namespace(bundle.spec, "network") is None:
            raise ConfigError(
                "config.json: linux.namespaces: a virtual machine cannot have the host's network",
                code="oci-network",
                hint="ctr: leave --net-host out; Kubernetes: hostNetwork pods need another RuntimeClass",
            )
        if wanted.network:
            raise ConfigError(
                f"annotation {settings.NETWORK}: pods have the network that CNI gives", code="oci-annotation"
            )
        return config

    def _seal(self, kind: templates.Kind | None) -> None:
        """Make no further machine and start no builder from now on."""
        if kind is not None:
            # Now or never, and not in the pod's network namespace
            outside = f"/proc/{os.getpid()}/ns/net"
            if pid := network.in_namespace(outside, lambda: templates.request(kind, self._home)):
                threading.Thread(target=os.waitpid, args=(pid, 0), name="template", daemon=True).start()
        self._sealed.set()
        privileges.seal(programs=True)


def _as_kept(config: SandboxConfig, bundle: Bundle, wanted: settings.Settings, kept: Kept) -> SandboxConfig:
    """The sandbox that continues from a checkpoint.

    :raises ConfigError: the container or the settings are not those of the checkpoint
    """
    kept.sort(bundle)
    kept.check(bundle, wanted, shared=False)
    return config._replace(
        memory=kept.memory,
        vcpus=kept.vcpus,
        more_memory=kept.more_memory,
        more_cpus=kept.more_cpus,
        template=False,
        checkpoint=kept.machine,
        balloon=kept.balloon,
    )


def _run(sandbox: Sandbox, bundle: Bundle, face: Face, resumed: Resumed | None) -> None:
    """Start it, or continue it with its container."""
    if resumed is None:
        sandbox.start()
    else:
        kept = resumed.kept
        sandbox.restore(
            kept.id,
            bundle,
            open_stdio(resumed.stdio),
            face.pid,
            kept.layout,
            kept.nets,
            kept.execs,
            frozen=True,
            added=kept.added,
        )
    _note(sandbox)


def _note(sandbox: Sandbox) -> None:
    if sandbox.no_loopback:
        sys.stderr.write(f"{sandbox.no_loopback}\n")  # the log


def _limit(sandbox: Sandbox, group: cgroups.Cgroup, resources: dict[str, Any]) -> None:
    """Limit the processes of a pod, now and when its machine grows."""
    sandbox.size.bound = lambda memory: group.limit_memory(memory, resources)
    sandbox.size.bound_cpu = lambda cpu: group.limit_cpu({"cpu": cpu})
    group.limit_cpu(resources)


class Adopted:
    """A pod's machine that was ready before the pod, in this process (:mod:`pyvmm_kata.oci.pool_machine`).

    :param bundle: that of the pod's first container
    :param sandbox: is prepared
    :param memory: of the machine
    :param group: this process's cgroup; empty: none
    :raises VmmError: it does not fit the pod, of which nothing has been made
    """

    def __init__(self, place: Place, bundle: Bundle, sandbox: Sandbox, memory: int, group: str) -> None:
        self._sandbox = sandbox
        self._target = cgroups.Cgroup("")
        self._started = threading.Event()
        resources = pod_resources(bundle)
        settle: Callable[[], None] | None = None
        if group:
            path = (bundle.spec.get("linux") or {}).get("cgroupsPath") or ""
            self._target = cgroups.Cgroup(cgroups.place(path, place.group, systemd=path.count(":") == 2))
            place.write_cgroup(self._target.path)
            settle = self._target.take_meanwhile(cgroups.Cgroup(group))
        try:
            network_path = (namespace(bundle.spec, "network") or {}).get("path") or ""
            sandbox.begin(place.group, machine_name(bundle.spec), network_path)
        finally:
            if settle is not None:
                settle()
        if group and not place.is_shared:
            _limit(sandbox, self._target, resources)
            sandbox.size.bound(memory)
        sandbox.size.fit(resources)

    def launch_face(self, bundle: Bundle, members: Sequence[Member]) -> Face:
        """See :func:`launch_face`.  A container without a network has the machine's."""
        return launch_face(bundle, members, f"/proc/{os.getpid()}/ns/net")

    def start(self, face: Face, listener: Callable[[SandboxEvent], None], resumed: Resumed | None) -> Sandbox:
        """In place of :meth:`PodStart.start`.

        :raises VmmError: this process has made its machine, which does not continue from a checkpoint
        """
        if self._started.is_set() or resumed is not None:
            raise HostError("this shim has made its only virtual machine", code="shim-closed")
        self._started.set()
        if self._target.path:
            self._target.enter(face.pid)
        self._sandbox.listen(listener)
        _note(self._sandbox)
        return self._sandbox


def pod_resources(bundle: Bundle) -> dict[str, Any]:
    """``linux.resources`` for all of a pod: for a pause container, containerd's annotations about later containers.

    :raises ConfigError: an annotation is not a number
    """
    resources: dict[str, Any] = (bundle.spec.get("linux") or {}).get("resources") or {}
    noted = {}
    for name in ("memory", "cpu-quota", "cpu-period"):
        text = bundle.annotations.get(SANDBOX + name, "0")
        if not (text.isascii() and text.lstrip("-").isdigit() and len(text) < 20):
            raise ConfigError(f"annotation {SANDBOX}{name}: {text!r} is no number", code="oci-annotation")
        noted[name] = int(text)
    made = dict(resources)
    if noted["memory"] > 0:
        made["memory"] = {"limit": noted["memory"]}
    if noted["cpu-quota"] > 0 and noted["cpu-period"] > 0:
        made["cpu"] = {"quota": noted["cpu-quota"], "period": noted["cpu-period"]}
    return made


def _enter_cgroup(
    place: Place, bundle: Bundle, face: Face, memory: int, resources: dict[str, Any]
) -> cgroups.Cgroup | None:
    """Enter the cgroup of the pod's processes; returns the group to limit: for a pod of several containers, its
    parent."""
    path = (bundle.spec.get("linux") or {}).get("cgroupsPath") or ""
    folder = cgroups.place(path, place.group, systemd=path.count(":") == 2)
    group = cgroups.Cgroup(folder)
    place.write_cgroup(folder)  # first: a shim that is killed in between leaves a group that is known
    if not group.make():
        place.write_cgroup("")
        return None
    if not place.is_shared:
        group.limit_memory(memory, resources)
    group.enter()
    group.enter(face.pid)
    return None if place.is_shared else group


def own_cgroup() -> str:
    """The directory of this process's cgroup, empty without cgroup v2 (cgroups(7))."""
    with open("/proc/self/cgroup") as lines:
        for line in lines:
            if line.startswith("0::") and os.path.exists(f"{cgroups.ROOT}/cgroup.controllers"):
                return cgroups.ROOT + line[3:].rstrip("\n")
    return ""


def leave_cgroup(place: Place, home: str) -> None:
    """Return to the group `home`, and remove the pod's. Raises VmmError if it has other processes."""
    if home:
        try:
            cgroups.Cgroup(home).enter()
        except HostError:
            cgroups.Cgroup(cgroups.ROOT).enter()  # that of a service which has ended
    place.remove_cgroup()


def config_path(options: Message | None) -> str:
    """The settings' file that containerd's configuration names for this runtime, empty for the default."""
    if options is None or options.type_url.rpartition("/")[2] != OPTIONS:
        return ""
    try:
        return str(protobuf.parse(protobuf.message(OPTIONS), options.value).config_path)
    except ValueError:
        return ""
