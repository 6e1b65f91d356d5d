"""From a bundle to what the guest is told: which files it sees where, and what of config.json is the host's affair."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pyvmm_kata.spec import Json, bad

if TYPE_CHECKING:
    from pyvmm_kata.bundle import Bundle
    from pyvmm_kata.mounts import SharedDirectory

_IN_GUEST = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs")
_GUEST_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup", "user")
_HOST_ONLY_DIRECTORIES = ("/dev", "/proc", "/sys")
_SANDBOX_SYSCTLS = ("net.", "kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")
"""Of namespaces that belong to the sandbox."""
GUEST_DEVICES = {
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/fuse", "/dev/net/tun",
}  # fmt: skip
"""Devices of the host's that mean the same in the guest."""


def place(bundle: Bundle, container_id: str, shared: SharedDirectory, root: str = "") -> Json:
    """Bind a container's root file system and its volumes into *shared*; the config.json of the guest.

    What was bound is below ``<container_id>`` and is taken away by ``shared.unbind(container_id)``, which also a
    failure leaves to the caller.

    :param root: where the guest has mounted the root file system itself; empty: it is bound, too
    :raises ConfigError: a volume cannot be given to a guest
    :raises HostError: something cannot be bound
    """
    spec = {**bundle.spec, "root": {**bundle.spec["root"]}, "process": {**bundle.spec["process"]}}
    spec["root"]["path"] = root or shared.bind(bundle.rootfs, f"{container_id}/rootfs")
    spec["mounts"] = [
        _place_mount(mount, index, bundle, container_id, shared) for index, mount in enumerate(spec.get("mounts") or ())
    ]
    spec.pop("hooks", None)  # they are the host's, and are run there
    linux = spec["linux"] = {**spec.get("linux", {})}
    linux["namespaces"] = [
        {"type": entry["type"]}
        for entry in linux.get("namespaces") or ()
        if entry.get("type") in _GUEST_NAMESPACES and not (entry["type"] == "user" and entry.get("path"))
    ]
    linux["cgroupsPath"] = f"/pyvmm/{container_id}"
    linux["sysctl"] = {key: value for key, value in _sysctls(spec).items() if not key.startswith(_SANDBOX_SYSCTLS)}
    linux.pop("intelRdt", None)
    linux.pop("mountLabel", None)
    for label in ("apparmorProfile", "selinuxLabel"):
        spec["process"].pop(label, None)  # the guest's kernel has neither
    linux["devices"] = [_check_device(device, i) for i, device in enumerate(linux.get("devices") or ())]
    resources = linux["resources"] = {**linux.get("resources", {})}
    resources.pop("blockIO", None)  # by numbers of the host's devices
    resources["devices"] = [_device_rule(rule) for rule in resources.get("devices") or ()]
    return spec


def _sysctls(spec: Json) -> dict[str, str]:
    return (spec.get("linux") or {}).get("sysctl") or {}


def kernel_parameters(spec: Json) -> str:
    """What the guest's kernel is told at its start: the settings of namespaces that belong to the sandbox, which has
    them for all its containers (kernel-parameters, ``sysctl.*=``).

    :raises ConfigError: one of them cannot be said there
    """
    words = []
    for key, value in _sysctls(spec).items():
        if not key.startswith(_SANDBOX_SYSCTLS):
            continue
        if not isinstance(value, str) or not (key + value).isprintable() or '"' in key + value or " " in key:
            raise bad(f"linux.sysctl[{key!r:.60}]", f"{value!r:.60} cannot be said to a kernel")
        words.append(f'sysctl.{key}="{value}"')
    return " ".join(words)


def _place_mount(mount: Json, index: int, bundle: Bundle, container_id: str, shared: SharedDirectory) -> Json:
    options = list(mount.get("options") or ())
    kind = mount.get("type") or ""
    if not ({"bind", "rbind"} & set(options) or kind == "bind"):
        if kind not in _IN_GUEST:
            raise bad(
                f"mounts[{index}].type",
                f"the guest cannot mount {kind!r} at {mount['destination']}",
                f"it can mount {', '.join(_IN_GUEST)}, and bind what the host has",
            )
        return mount
    source = os.path.join(bundle.path, mount.get("source", ""))
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise bad(f"mounts[{index}].source", f"{source}: {error.strerror}") from error
    if mount["destination"] == "/dev/shm":
        # Shared memory is the guest's own: through a share nobody could map it together
        size = os.statvfs(source)
        limit = f"size={size.f_blocks * size.f_frsize}"
        return {**mount, "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "noexec", "mode=1777", limit]}
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return _place_special(mount, index, source)
    if _is_kernel_file(source):
        # The host's own kernel is what the wall is there for: the guest shows its own
        return {**mount, "source": source, "type": "bind"}
    name = f"{container_id}/{index}-{os.path.basename(mount['destination'].rstrip('/'))[:60] or 'root'}"
    guest = shared.bind(source, name, recursive="bind" not in options, read_only="ro" in options or "rro" in options)
    return {**mount, "type": "bind", "source": guest, "options": options}


def _is_kernel_file(source: str) -> bool:
    return any(source == folder or source.startswith(folder + "/") for folder in _HOST_ONLY_DIRECTORIES)


def _place_special(mount: Json, index: int, source: str) -> Json:
    if source in GUEST_DEVICES:
        return {**mount, "source": source, "type": "bind"}
    raise bad(
        f"mounts[{index}].source",
        f"{source} is no file and no directory: a device, socket or pipe of the host cannot be given to a guest",
    )


def _device_rule(rule: Json) -> Json:
    """A rule with what it leaves out: in the message a number that is not there would be 0, and -1 is any."""
    return rule if rule.get("type", "a") == "a" else {"major": -1, "minor": -1, **rule}


def _check_device(device: Json, index: int) -> Json:
    if device.get("path") not in GUEST_DEVICES:
        raise bad(f"linux.devices[{index}].path", f"{device.get('path')!r}: the guest has no such device")
    return device
