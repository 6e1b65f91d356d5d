"""``pyvmm-oci create``: makes the state's folder, the face and the monitor, and waits until the container is made."""

from __future__ import annotations

import gc
import os
import socket
from errno import EACCES, EPERM
from typing import TYPE_CHECKING

from pyvmm_kata import state, timeline
from pyvmm_kata.bundle import guest_spec, settings
from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.mount_plan import Placed
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.host import cgroups, hooks
from pyvmm_kata.host.cgroups import Cgroup
from pyvmm_kata.host.proxy_process import Face
from pyvmm_kata.oci import shared_machine
from pyvmm_kata.oci.options import FLAG, NUMBER, VALUE, one_id, parse
from pyvmm_kata.oci.pool_machine import Elsewhere, take
from pyvmm_kata.pod.pool_client import Taken, see
from pyvmm_kata.pod.stdio import Stdio
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyvmm_kata.oci.container_service import Plan
    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.oci.launcher_server import Front
    from pyvmm_kata.oci.shared_machine import Machine
    from pyvmm_kata.pod.checkpoint_folder import Kept
    from pyvmm_kata.state import Json

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
CREATE_S = 150.0


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
) -> int:
    """Make a container; returns the pid of its face, a child of this process, or of the front's caller.

    :param kept: a checkpoint from which it goes on; None: it is made anew, and not yet started
    :param foreground: the container may use this process's terminal, without a console socket
    :param front: this process is one
    :raises Elsewhere: another process can make it, and this one cannot
    :raises VmmError: it cannot be made; nothing of it is left
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
    if kept is not None:
        kept.sort(bundle)
        kept.check(bundle, chosen, shared=bool(machine.holder))
    cgroup_path = (bundle.spec.get("linux") or {}).get("cgroupsPath") or ""
    cgroup = cgroups.place(cgroup_path, container_id, systemd=context.systemd_cgroup)
    if front is not None:
        front.check(bundle, machine, chosen)
    folder = _make_folder(context, container_id)
    face: Face | None = None
    taken: Taken | None = None
    console = -1
    try:
        if kept is None and not machine.holder and (taken := take(context, bundle, chosen)) is not None:
            machine = machine.prefer_network(taken.network)
        if front is not None and taken is None:
            raise Elsewhere
        state.write_cgroup(folder, cgroup)
        entered = cgroup if Cgroup(cgroup).make() else ""
        face = Face.launch(
            machine.face_namespaces(bundle.spec),
            bundle.spec.get("hostname") or "",
            entered,
            front.spawn if front is not None else None,
        )
        known = first_state(container_id, bundle, cgroup, face.pid)
        state.write(folder, known)
        for kind in ("prestart", "createRuntime"):
            # They see the container as created, as with crun
            hooks.run(known["hooks"], kind, {**state.public(known), "status": "created"})
        if options["console-socket"]:
            from pyvmm_kata.oci.console import open_console

            console = open_console(options["console-socket"])
        if machine.holder:
            _join(machine, known, bundle, face, folder, console)
        elif taken is None or not _give(taken, known, bundle, face, folder, console, front):
            if front is not None:
                raise Elsewhere
            pid = face.pid, face.fileno()
            _start_monitor(lambda: _plan(container_id, folder, bundle, chosen, cgroup, console, terminal, pid, kept))
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
        if taken is not None:
            taken.close()
        if console >= 0:
            os.close(console)
    face.close()
    return face.pid


def _join(machine: Machine, known: Json, bundle: Bundle, face: Face, folder: str, console: int) -> None:
    """Have the monitor of another container make this one in its machine, with the files that this process sees."""
    placed = Placed.of(bundle, known["id"], machine.members)
    try:
        request, fds = _request(known, folder, face, console)
        channel = control.connect(machine.holder)
        try:
            channel.request({"op": "create", **request, "placed": placed.to_json()}, [*fds, *placed.trees])
            channel.answer(CREATE_S)
        finally:
            channel.close()
    finally:
        placed.close()


def _give(
    taken: Taken, known: Json, bundle: Bundle, face: Face, folder: str, console: int, front: Front | None
) -> bool:
    """Have a machine of the pool be this container's; False: it cannot be."""
    placed = Placed.of(bundle, known["id"], ())
    try:
        request, fds = _request(known, folder, face, console)
        request |= {"op": "create", "same": see([folder]), "cgroup": known["cgroup"]}
        if front is not None:
            request |= front.wishes
        request |= {"bundle": bundle.path, "spec": bundle.spec, "placed": placed.to_json()}
        return not taken.become(request, [*fds, *placed.trees])
    finally:
        placed.close()


def _request(known: Json, folder: str, face: Face, console: int) -> tuple[Json, list[int]]:
    """The part of a request that all processes with a machine understand, and its descriptors."""
    terminal = bool(known["process"].get("terminal"))
    streams = [console] if console >= 0 else [0, 1] if terminal else [0, 1, 2]
    request = {"id": known["id"], "folder": folder, "face": face.pid, "streams": len(streams)}
    return request, [face.fileno(), *streams]


def _plan(
    container_id: str,
    folder: str,
    bundle: Bundle,
    chosen: settings.Settings,
    cgroup: str,
    console: int,
    terminal: bool,
    face: tuple[int, int],
    kept: Kept | None,
) -> Plan:
    """In the monitor: take over the caller's standard input, output and error."""
    from pyvmm_kata.oci.container_service import Plan

    if console >= 0:
        stdio = Stdio(os.dup(console), os.dup(console), None, terminal=True)
    elif terminal:
        stdio = Stdio(os.dup(0), os.dup(1), None, terminal=True)
    else:
        stdio = Stdio(os.dup(0), os.dup(1), os.dup(2))
    return Plan(container_id, folder, bundle, chosen, cgroup, stdio, Face.adopt(*face), console, kept)


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
            wait_removed(folder)  # the folder of the last one of this name is gone, its control group may not be
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
    """That of a container whose face has this pid, before it is made."""
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


def _start_monitor(make_plan: Callable[[], Plan]) -> None:
    """Fork it, and wait until the container is made."""

    def agree(channel: control.Channel, _pid: int) -> None:
        wanted = channel.answer(CREATE_S).get("wanted")
        if wanted:
            from pyvmm_kata.pod import templates

            templates.request(templates.Kind(*wanted))

    control.fork("the new monitor", lambda sock: _be_monitor(make_plan, sock), agree)


def _be_monitor(make_plan: Callable[[], Plan], sock: socket.socket) -> int:
    """Be the monitor, in the child; returns its exit status."""
    channel = control.Channel(sock, "create")
    try:
        timeline.note("monitor")
        plan = make_plan()
        streams = (end for end in plan.stdio[:3] if isinstance(end, int))
        control.leave_descriptors({sock.fileno(), plan.console, plan.face.fileno(), *streams})
        from pyvmm_kata.oci.monitor import Monitor

        monitor = Monitor(plan)
        try:
            monitor.prepare()
            monitor.create()
        except BaseException:
            monitor.close()
            raise
    except VmmError as error:
        channel.send({"error": f"{error} ({error.hint})" if error.hint else str(error)})
        return 255
    except Exception as error:
        channel.send({"error": f"{type(error).__name__}: {error}"})
        return 255
    channel.send({"wanted": monitor.wanted})
    channel.close()
    gc.freeze()
    gc.enable()
    return monitor.wait()
