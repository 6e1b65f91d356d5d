"""Makes the guest's config.json from a bundle's: with the guest's paths, and without the host's settings.

Each part of config.json has a module of its own: mounts, devices, sysctls, limits.
"""

from __future__ import annotations

import os
from itertools import zip_longest
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.guest_devices import device_rule, devices_of, has_all_rights, is_privileged, serial_of
from pyvmm_kata.bundle.guest_mounts import destination_of, generation_mounts, is_device_of_host, place_mount
from pyvmm_kata.bundle.guest_settings import check_limits, sysctls_of
from pyvmm_kata.bundle.guest_share import Nowhere
from pyvmm_kata.errors import bad
from pyvmm_kata.host import namespaces
from pyvmm_kata.host.mounts import GUEST_SHARED, GUEST_SOCKETS
from pyvmm_kata.host.proxy_process import Shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.guest_share import Share
    from pyvmm_kata.host.mounts import SharedDirectory
    from pyvmm_kata.host.namespaces import Member
    from pyvmm_kata.state import Json

DEV: Json = {
    "destination": "/dev",
    "type": "tmpfs",
    "source": "tmpfs",
    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
}
"""What a bundle has there that names no mount."""
MEMORY = ("tmpfs", "ramfs")
LABELS = ("apparmorProfile", "selinuxLabel")


def check(bundle: Bundle, members: Sequence[Member] = (), *, more_disks: bool = False) -> None:
    """Check that a guest can have everything that a bundle names, before anything is made.

    :param members: the containers of its machine
    :param more_disks: which may get disks while it runs
    :raises ConfigError: a volume, device or namespace cannot be given to a guest
    """
    serials = [serial_of(number) for number in range(len(bundle.volumes))] if more_disks else []
    place(bundle, "", Nowhere(), members=members, serials=serials)


def place(
    bundle: Bundle,
    container_id: str,
    shared: Share,
    root: str = "",
    members: Sequence[Member] = (),
    serials: Sequence[str] = (),
) -> Json:
    """Bind a container's root file system and its volumes into *shared*; returns the config.json of the guest.

    The binds are below ``<container_id>``, and ``shared.unbind(container_id)`` removes them, which the caller must do
    even after an error.

    :param root: the guest's path of a root file system that it mounts itself; empty: it is bound too
    :param members: the containers of its machine
    :param serials: of its block devices that come with it; empty: they exist from the machine's start
    :raises ConfigError: a volume, device or namespace cannot be given to a guest
    :raises HostError: something cannot be bound
    """
    check_limits(bundle.spec.get("linux", {}))
    if members and bundle.volumes and not serials:
        raise bad(
            "linux.devices",
            f"{bundle.volumes[0].path}: the machine that the container shares has the disks of its start",
            "alone in its machine it can have them, and in a pod of containerd's whose first container has a disk, or "
            "with more_disks = true in kata.toml",
        )
    spec = {**bundle.spec, "root": {**bundle.spec["root"]}, "process": {**bundle.spec["process"]}}
    spec["root"]["path"] = root or shared.bind(bundle.rootfs, f"{container_id}/rootfs")
    spec["mounts"] = [
        place_mount(mount, index, bundle, container_id, shared)
        for index, mount in enumerate(spec.get("mounts", ()))
        if not (has_all_rights(bundle.spec) and is_device_of_host(mount))
    ]
    spec["mounts"] += generation_mounts(bundle)
    if not any(destination_of(mount) == "/dev" for mount in spec["mounts"]):
        # Without one crun makes the devices in the root, which is the host's file system
        below = (n for n, mount in enumerate(spec["mounts"]) if destination_of(mount).startswith("/dev/"))
        spec["mounts"].insert(next(below, len(spec["mounts"])), dict(DEV))
    # The others are the host's, and are run there
    spec["hooks"] = {kind: hooks for kind, hooks in spec.get("hooks", {}).items() if kind == "startContainer"}
    if not spec["hooks"]:
        del spec["hooks"]
    linux = spec["linux"] = {**spec.get("linux", {})}
    linux["namespaces"] = namespaces.in_guest(bundle.spec, members)
    linux["cgroupsPath"] = f"/{container_id}"
    linux["sysctl"] = sysctls_of(bundle.spec)
    linux.pop("mountLabel", None)
    for label in LABELS:
        spec["process"].pop(label, None)  # the guest's kernel has neither
    linux["devices"] = devices_of(bundle.spec, serials)
    if not root and not namespaces.has(bundle.spec, "user"):  # there crun binds those of the guest
        _check_places(bundle.spec, spec["mounts"])
    resources = linux["resources"] = {**linux.get("resources", {})}
    resources["devices"] = [device_rule(rule, linux["devices"]) for rule in resources.get("devices", ())]
    return spec


def _check_places(spec: Json, mounts: Sequence[Json]) -> None:
    """Check that the devices of a config.json are at paths where a guest can make them.

    :param mounts: from the result of :func:`place`
    :raises ConfigError: one is in a file system of the host
    """
    if is_privileged(spec):
        return  # an engine names all that the host has
    for index, device in enumerate(spec.get("linux", {}).get("devices", ())):
        path = os.path.normpath("/" + device["path"].lstrip("/"))
        above = [each for each in mounts if path.startswith(destination_of(each).rstrip("/") + "/")]
        last = max(above, key=lambda each: len(destination_of(each)), default={})
        if device["type"] != "p" and last.get("type") not in MEMORY:
            raise bad(
                f"linux.devices[{index}].path",
                f"{path:.200} is in a file system of the host, in which a guest makes no devices",
                "name a path below /dev, or mount a tmpfs there",
            )


def shown(spec: Json, shared: SharedDirectory) -> tuple[Shown | None, list[Shown]]:
    """What the container's proxy process shows on the host: its root, None if only the guest has it, and the mounts in
    it.

    :param spec: the result of :func:`place`
    """
    mounts: list[Shown] = []
    for mount in spec["mounts"]:
        destination, source = mount["destination"], shared.source_of(mount.get("source") or "")
        options = mount.get("options") or ()
        is_file = mount.get("type") == "bind" and not source and not os.path.isdir(mount["source"])
        if source or is_file:
            mounts.append(Shown(destination, source or shared.empty_file(), "ro" in options or "rro" in options))
        elif (
            (kind := mount.get("type")) == "devpts"
            or (above := _mount_above(mounts, destination)) is None
            or above.source
        ):
            # podman top reads the terminals' names, too
            mounts.append(Shown(destination, processes=kind == "proc"))
    root = shared.source_of(spec["root"]["path"])
    return (Shown("/", root, bool(spec["root"].get("readonly"))) if root else None), mounts


def layout_of(spec: Json) -> list[list[str]]:
    """The guest's mounts: destination, type, and name in the share, for the root file system and each mount. A copy of
    the machine finds open files by these.

    :param spec: the result of :func:`place`
    """
    entries = [{"destination": "/", "source": spec["root"]["path"], "type": "bind"}, *spec["mounts"]]
    found = []
    for entry in entries:
        source = entry.get("source") or ""
        name = next((source.removeprefix(top) for top in (GUEST_SHARED, GUEST_SOCKETS) if source.startswith(top)), "")
        found.append([entry["destination"], entry.get("type") or "", name])
    return found


def check_layout(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> None:
    """Compare the layout of a bundle with that of a checkpoint.

    :raises ConfigError: they are not the same
    """
    for index, (one, other) in enumerate(zip_longest(found, wanted)):
        if one is None or other is None or list(one) != list(other):
            there = "nothing" if one is None else f"{one[0]} ({one[1] or 'a bind'})"
            had = "nothing" if other is None else f"{other[0]} ({other[1] or 'a bind'})"
            raise bad(
                f"mounts[{index - 1}]" if index else "root",
                f"there is {there}, and the container that was checkpointed had {had}",
                "it needs the same mounts in the same order",
            )


def _mount_above(mounts: list[Shown], path: str) -> Shown | None:
    """The last of *mounts* that contains *path*."""
    found = [one for one in mounts if path.startswith(one.destination.rstrip("/") + "/")]
    return max(found, key=lambda one: len(one.destination)) if found else None
