"""Containers that share a machine: one that enters namespaces of another runs in the other's machine.

podman's pods and ``--network container:X`` are such containers (see :mod:`pyvmm_kata.host.namespaces`).

The folder of a machine is beside those of the containers: ``@PID-START``, after its monitor. No container can have such
a name, and it shows whether the monitor still runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError, VmmError, bad
from pyvmm_kata.host import cgroups, mounts
from pyvmm_kata.host.namespaces import Member, owner

if TYPE_CHECKING:
    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json


class Machine(NamedTuple):
    """The machine for a container.

    :ivar holder: the folder of a container in that machine; empty: it gets a machine of its own
    :ivar members: the containers of that machine
    """

    holder: str = ""
    members: tuple[Member, ...] = ()
    network: str = ""

    def prefer_network(self, path: str) -> Machine:
        """The same, with the path of a container's network namespace if its spec names none."""
        return self._replace(network=path)

    def face_namespaces(self, spec: Json) -> dict[str, str]:
        """The namespaces that the container's proxy process enters, by type."""
        found = {kind: path for kind, path in _paths(spec).items() if self.holder or kind == "network"}
        return {"network": self.network, **found} if self.network else found


def _paths(spec: Json) -> dict[str, str]:
    kinds = ("network", "ipc", "uts", "pid")
    entries = spec.get("linux", {}).get("namespaces", ())
    return {entry["type"]: entry["path"] for entry in entries if entry.get("path") and entry["type"] in kinds}


def machine_for(context: Context, spec: Json) -> Machine:
    """The machine whose containers have the namespaces that *spec* names.

    :raises ConfigError: they belong to containers of several machines
    """
    paths = _paths(spec)
    if not paths:
        return Machine()
    running = _running(context)
    everybody = [Member(known["id"], known["pid"]) for known in running.values()]
    found = {kind: owner(path, kind, everybody) for kind, path in paths.items()}
    owners = {kind: container_id for kind, container_id in found.items() if container_id is not None}
    if not owners:
        return Machine()
    monitors = {running[container_id]["monitor"] for container_id in owners.values()}
    if len(monitors) > 1:
        raise bad(
            "linux.namespaces",
            f"the {' and '.join(owners)} namespaces belong to containers in different virtual machines",
            "all namespaces that are shared must be of containers in one machine, such as a pod's",
        )
    if "network" not in owners:
        raise bad(
            "linux.namespaces",
            f"the {' and '.join(owners)} namespace is another container's, whose virtual machine has one network",
            f"share that, too: podman run --network container:{next(iter(owners.values()))}",
        )
    members = (each for each in everybody if running[each.container_id]["monitor"] in monitors)
    return Machine(context.folder(next(iter(owners.values()))), tuple(members))


def _running(context: Context) -> dict[str, Json]:
    """The states of the containers that have not ended, by their ids."""
    found = {}
    for name in os.listdir(context.root) if os.path.isdir(context.root) else ():
        try:
            known = state.read(context.folder(name))
        except ConfigError:
            continue  # it is being made, or removed, or is no container
        if known["status"] != "stopped" and "monitor" in known:
            found[name] = known
    return found


def folder_of(root: str, pid: int) -> str:
    """The folder of a monitor's machine."""
    return os.path.join(root, f"@{pid}-{state.start_time(pid)}")


def group_of(pid: int) -> str:
    """The cgroup of a machine without a container."""
    return f"{cgroups.ROOT}/pyvmm/@{pid}-{state.start_time(pid)}"


def sweep(root: str) -> None:
    """Remove the folders of killed monitors, and cgroups of machines that never had a container."""
    for name in os.listdir(root) if os.path.isdir(root) else ():
        pid, _, began = name.removeprefix("@").partition("-")
        if name.startswith("@") and not state.is_alive(int(pid), int(began)):
            try:
                _remove(root, name)
            except (VmmError, OSError):
                pass  # another process removes it at the same time, or the next one does


def _remove(root: str, name: str) -> None:
    folder = os.path.join(root, name)
    mounts.SharedDirectory(folder).remove()
    for place in state.all_left_in(folder):
        cgroups.Cgroup(state.left_cgroup(place)).remove()
    state.remove_tree(folder)
    cgroups.Cgroup(f"{cgroups.ROOT}/pyvmm/{name}").remove()
