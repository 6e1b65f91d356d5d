"""``pyvmm-oci create``: makes the state's folder, the proxy process and the monitor, and waits until the container is
made."""

from __future__ import annotations

import os
from errno import EACCES, EPERM
from typing import TYPE_CHECKING

from pyvmm_kata import state
from pyvmm_kata.bundle import guest_spec, settings
from pyvmm_kata.bundle.bundle import OVERLAY, Bundle
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.host import cgroups, hooks
from pyvmm_kata.host.cgroups import Cgroup
from pyvmm_kata.host.proxy_process import Face
from pyvmm_kata.oci import shared_machine
from pyvmm_kata.oci.machine_providers import Begun, Provider, Wanted, providers
from pyvmm_kata.oci.options import FLAG, NUMBER, VALUE, one_id, parse
from pyvmm_kata.pod.guest_kinds import kind_named

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Protocol

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.oci.shared_machine import Machine
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.state import Json

    class Front(Protocol):
        """Who creates the container for another process: :class:`pyvmm_kata.oci.launcher_server.Front`."""

        @property
        def wishes(self) -> Json: ...

        def check(self, bundle: Bundle, machine: Machine, chosen: settings.Settings) -> None: ...

        def spawn(self, words: list[str]) -> socket.socket: ...


OPTIONS = {
    "bundle": VALUE,
    "console-socket": VALUE,
    "pidfd-socket": VALUE,
    "pid-file": VALUE,
    "no-pivot": FLAG,
    "no-new-keyring": FLAG,
    "preserve-fds": NUMBER,
}
ALIASES = {"b": "bundle"}


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, OPTIONS, ALIASES, "create")
    create(context, one_id(rest, "create"), options)
    return 0


def create(
    context: Context,
    container_id: str,
    options: Json,
    *,
    foreground: bool = False,
    kept: Kept | None = None,
    front: Front | None = None,
    streams: tuple[int, int, int] = (0, 1, 2),
) -> int:
    """Make a container; returns the pid of its proxy process, a child of this process or of the launcher.

    :param kept: a checkpoint from which it continues; None: it is new, and not yet started
    :param foreground: the container may use this process's terminal, without a console socket
    :param front: this process is one
    :param streams: descriptors of its standard input, output and error, unless it has a console
    :raises Elsewhere: another process can make it, and this one cannot
    :raises VmmError: it cannot be made; nothing of it is left
    """
    wanted = _checked(context, container_id, options, foreground=foreground, kept=kept, front=front)
    wanted = wanted._replace(streams=streams)
    folder = _make_folder(context, container_id)
    face: Face | None = None
    console = -1
    ways = providers(wanted)
    try:
        chain = iter(ways)
        provider = next(each for each in chain if each.claim())
        face = _launch_face(wanted, provider, folder, front)
        known = _write_first_state(wanted, folder, face)
        if options["console-socket"]:
            from pyvmm_kata.oci.console import open_console

            console = open_console(options["console-socket"])
        while not provider.create(Begun(known, folder, face, console)):
            provider = next(each for each in chain if each.claim())
        if options["pid-file"]:
            state.write_pid(options["pid-file"], face.pid)
    except BaseException:
        from pyvmm_kata.oci.delete import delete

        delete(folder, force=True)
        if face is not None:
            face.close()
            face.reap()
        raise
    finally:
        for way in ways:
            way.close()
        if console >= 0:
            os.close(console)
    face.close()
    return face.pid


def _checked(
    context: Context, container_id: str, options: Json, *, foreground: bool, kept: Kept | None, front: Front | None
) -> Wanted:
    """The container to create.

    :raises VmmError: it cannot be; nothing has been made
    """
    if options["preserve-fds"]:
        raise ConfigError(
            "create: --preserve-fds: a descriptor of the host cannot be given to a virtual machine", code="oci-usage"
        )
    bundle = Bundle.load(options["bundle"] or ".")
    hooks.check(bundle.spec)
    machine = shared_machine.machine_for(context, bundle.spec)
    guest_spec.check(bundle, machine.members)
    terminal = bool(bundle.spec["process"].get("terminal"))
    if terminal and not options["console-socket"] and not foreground:
        raise ConfigError("create: process.terminal needs --console-socket", code="oci-console")
    if options["console-socket"] and not terminal:
        raise ConfigError("create: --console-socket needs process.terminal in config.json", code="oci-console")
    chosen = settings.load(context.config).allow(context.annotations).with_annotations(bundle.annotations)
    if context.isolation:
        chosen = chosen._replace(guest=settings.guest_named(context.isolation, "--isolation"))
    elif kept is not None:
        chosen = chosen._replace(guest=kept.guest)
    if context.network:
        chosen = settings.with_network(chosen, context.network)
    if context.overlay:
        bundle.spec["annotations"] = {**bundle.annotations, OVERLAY: context.overlay}
    if kind_named(chosen.guest).can.images:
        bundle.put_in_share()
    elif bundle.overlay and (bundle.disk is None or not bundle.disk.read_only):
        raise ConfigError(
            "changes of the root are in memory with --isolation sentry, or if it is an image of pyvmm image",
            code="oci-usage",
            hint="without --overlay, they are in the root",
        )
    if chosen.guest == "sentry":
        from pyvmm_kata.pod import sentry_checks

        sentry_checks.check(bundle.spec)
        words = sentry_checks.command_line(context.platform, strace=context.strace)
        chosen = chosen._replace(kernel_params=f"{chosen.kernel_params} {words}".strip())
    elif context.platform or context.strace:
        raise ConfigError("create: --platform and --strace need --isolation sentry", code="oci-usage")
    if kept is not None:
        kept.sort(bundle)
        kept.check(bundle, chosen, shared=bool(machine.holder), images=True)
    cgroup_path = (bundle.spec.get("linux") or {}).get("cgroupsPath") or ""
    cgroup = cgroups.place(cgroup_path, container_id, systemd=context.systemd_cgroup)
    if front is not None:
        front.check(bundle, machine, chosen)
    wishes = front.wishes if front is not None else {}
    return Wanted(context, container_id, bundle, chosen, machine, cgroup, kept, wishes, front is not None)


def _launch_face(wanted: Wanted, provider: Provider, folder: str, front: Front | None) -> Face:
    """Launch the face in the namespaces of the provider's machine."""
    state.write_cgroup(folder, wanted.cgroup)
    entered = wanted.cgroup if Cgroup(wanted.cgroup).make() else ""
    spec = wanted.bundle.spec
    spawn = front.spawn if front is not None else None
    namespaces = provider.machine.face_namespaces(spec)
    return Face.launch(namespaces, spec.get("hostname") or "", entered, spawn, provider.prepare)


def _write_first_state(wanted: Wanted, folder: str, face: Face) -> Json:
    """Write it, and run the hooks that come before the container is made."""
    known = first_state(wanted.container_id, wanted.bundle, wanted.cgroup, face.pid)
    state.write(folder, known)
    for kind in ("prestart", "createRuntime"):
        # They see the container as created, as with crun
        hooks.run(known["hooks"], kind, {**state.public(known), "status": "created"})
    return known


def _make_folder(context: Context, container_id: str) -> str:
    from pyvmm_kata.oci.delete import wait_removed

    folder = context.folder(container_id)
    try:
        os.makedirs(context.root, mode=0o700, exist_ok=True)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            wait_removed(folder)
            os.mkdir(folder, 0o700)
        try:
            wait_removed(folder)  # the folder of the last one of this name was removed, its cgroup perhaps not yet
        except BaseException:
            os.rmdir(folder)
            raise
    except FileExistsError:
        raise ConfigError(f"container with id {container_id} exists already", code="container-exists") from None
    except OSError as error:
        hint = "an ordinary user needs XDG_RUNTIME_DIR, or --root DIR" if error.errno in (EACCES, EPERM) else ""
        raise HostError(f"{folder}: {error.strerror}", code="oci-root", hint=hint, errno=error.errno or 0) from error
    return folder


def first_state(container_id: str, bundle: Bundle, cgroup: str, pid: int) -> Json:
    """The monitor of a container whose proxy process has this pid, before the container is made."""
    return {
        "ociVersion": state.OCI_VERSION,
        "id": container_id,
        "pid": pid,
        "startTime": state.start_time(pid),
        "status": "creating",
        "bundle": bundle.path,
        "rootfs": bundle.rootfs,
        "annotations": bundle.annotations,
        "created": state.now(),
        "owner": str(os.getuid()),
        "cgroup": cgroup,
        "hooks": bundle.spec.get("hooks") or {},
        "process": bundle.spec["process"],
    }
