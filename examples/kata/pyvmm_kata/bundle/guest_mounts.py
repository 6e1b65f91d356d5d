"""The mounts of config.json, for a guest: those bound from the host, and those that the guest mounts itself."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.guest_devices import DEVICES, device_in_guest
from pyvmm_kata.bundle.root_disks import IMAGE, image_storages, layer_storages
from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import ConfigError, bad
from pyvmm_kata.host import namespaces
from pyvmm_kata.host.mounts import GUEST_GENERATION, SOLE, file_system
from pyvmm_kata.state import Json

if TYPE_CHECKING:
    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.guest_share import Share
    from pyvmm_kata.host.mounts import SharedDirectory

_IN_GUEST = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs")
# linux/magic.h, of file systems that the kernel generates: proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs,
# securityfs, bpf, configfs, pstore, efivarfs, binfmt_misc, selinuxfs
_KERNEL_FILE_SYSTEMS = {
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11, 0x62656570,
    0x6165676C, 0xDE5E81E4, 0x42494E4D, 0xF97CFF8C,
}  # fmt: skip
_KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
SHM, GUEST_SHM = "/dev/shm", "/run/kata-containers/sandbox/shm"
GENERATION = "io.pyvmm.generation"
"""Annotation: the path in the container of the file whose content is another one in each copy of the machine."""
_NAME_LENGTH = 60
_OVERLAY_WORDS = ("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable")
_FOLLOWING = {"slave", "rslave"}
"""Options of a bind mount in which later mounts of the host appear; in any other they do not (mount_namespaces(7))."""
_LEADING = {"shared", "rshared"}
"""Those in which mounts of the container would appear on the host, too."""
_FLAG_WORDS = ("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "strictatime")


def place_mount(mount: Json, index: int, bundle: Bundle, container_id: str, shared: Share) -> Json:
    options = mount.get("options", [])
    kind = mount.get("type", "")
    destination = destination_of(mount)
    name = f"{container_id}/{index}-{os.path.basename(destination)[:_NAME_LENGTH] or 'root'}"
    read_only = "ro" in options or "rro" in options
    if "uidMappings" in mount or "gidMappings" in mount or any(_is_idmap(option) for option in options):
        raise bad(
            f"mounts[{index}].options",
            f"{destination}: a mount with other ids (idmap) cannot be given to a guest",
            "change the owner of the files, as podman's option U does",
        )
    if not is_bind(mount):
        if kind == "overlay":
            return _place_overlay(mount, index, name, shared, read_only=read_only)
        if kind not in _IN_GUEST:
            raise bad(
                f"mounts[{index}].type",
                f"the guest cannot mount {kind!r:.60} at {destination}",
                f"it can mount {', '.join(_IN_GUEST)}, and bind what the host has",
            )
        if kind == "sysfs" and namespaces.has(bundle.spec, "user"):
            # The network namespace that it shows belongs to the machine: a user namespace can bind it, not mount it
            return {**mount, "type": "bind", "source": "/sys", "options": ["rbind", *options]}
        return mount
    if not _LEADING.isdisjoint(options):
        raise bad(
            f"mounts[{index}].options",
            f"{destination}: what a guest mounts cannot appear on the host (shared, rshared)",
            "with rslave the container sees what the host mounts later",
        )
    source = os.path.join(bundle.path, mount.get("source", ""))
    status = _status(source, index, "source")
    if destination == SHM:
        return {**mount, "type": "bind", "source": _shm_place(status)}
    if stat.S_ISSOCK(status.st_mode):
        _check_socket(source, index)
        return {**mount, "type": "bind", "source": shared.socket(source, f"{container_id}/{index}.sock")}
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return {**mount, "source": device_in_guest(status, source, index), "type": "bind"}
    if _is_kernel_file(source, status):
        return {**mount, "source": _in_guest(source, index), "type": "bind"}
    follow = not _FOLLOWING.isdisjoint(options)
    guest = shared.bind(source, name, recursive="bind" not in options, read_only=read_only, follow=follow)
    return {**mount, "type": "bind", "source": guest, "options": options}


def generation_mounts(bundle: Bundle) -> list[Json]:
    """The mount of the file of the annotation, if there is one.

    :raises ConfigError: it names no absolute path
    """
    path = bundle.annotations.get(GENERATION, "")
    if not path:
        return []
    if path == "/" or path != "/" + os.path.normpath(path).lstrip("/"):
        raise ConfigError(f"annotation {GENERATION}: {path!r:.200} is no absolute path", code="oci-annotation")
    options = ["bind", "ro", "nosuid", "nodev", "noexec"]
    return [{"destination": path, "type": "bind", "source": GUEST_GENERATION, "options": options}]


def destination_of(mount: Json) -> str:
    """The destination of a mount of config.json, as an absolute path."""
    destination: str = mount["destination"]
    return os.path.normpath("/" + destination.lstrip("/"))


def is_bind(mount: Json) -> bool:
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", ()))


def is_device_of_host(mount: Json) -> bool:
    """Whether it binds a device under its own name that the guest does not have."""
    source = mount.get("source", "")
    if not (is_bind(mount) and source == mount["destination"] and source.startswith("/dev/")):
        return False
    try:
        status = os.stat(source)
    except OSError:
        return False
    if stat.S_ISBLK(status.st_mode):
        return True
    return stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) not in DEVICES


def root_of_layers(bundle: Bundle, container_id: str, shared: Share) -> tuple[str, list[Storage]]:
    """Bind the lower layer of a root into *shared*: an image, or a folder that the container does not change.

    :returns: the root's path in the guest, and the storages that the agent mounts for it; empty for any other root
    :raises HostError: it cannot be bound
    """
    disk = bundle.disk
    if disk is not None and disk.in_share:
        return image_storages(disk, shared.bind(disk.path, f"{container_id}/{IMAGE}", read_only=True), container_id)
    if disk is None and bundle.overlay:
        lower = shared.bind(bundle.rootfs, f"{container_id}/{SOLE}", read_only=True)
        return layer_storages(lower, container_id, bundle.layer)
    return "", []


def shm_storages(bundle: Bundle) -> list[Storage]:
    """A tmpfs of the guest for each directory of the host that would be ``/dev/shm``: processes could not share a
    mapping of a virtio-fs file. Containers of a pod that name the same directory have the same tmpfs."""
    made = []
    for index, mount in enumerate(bundle.spec.get("mounts", ())):
        if is_bind(mount) and destination_of(mount) == SHM:
            source = os.path.join(bundle.path, mount.get("source", ""))
            place, size = _shm_place(_status(source, index, "source")), os.statvfs(source)
            options = ("nosuid", "nodev", "noexec", "mode=1777", f"size={size.f_blocks * size.f_frsize}")
            made.append(Storage("ephemeral", "tmpfs", "tmpfs", place, options))
    return made


def _shm_place(status: os.stat_result) -> str:
    return f"{GUEST_SHM}-{status.st_dev}-{status.st_ino}"


def socket_storages(shared: SharedDirectory, container_id: str) -> list[Storage]:
    """Storages by which the agent listens in the guest for each host socket of a container."""
    return [
        Storage(
            "unix-socket",
            "",
            "",
            made.path,
            driver_options=(f"port={made.port}", f"mode=0{made.mode:o}", f"uid={made.uid}", f"gid={made.gid}"),
        )
        for made in shared.sockets(container_id)
    ]


def _check_socket(source: str, index: int) -> None:
    """Refuse sockets of datagrams or packets.  The file does not tell the type, but connect(2) fails for any other one.

    SOCK_STREAM is not tried, so the server of such a socket sees no connection.
    """
    import socket

    for kind, name in ((socket.SOCK_DGRAM, "datagrams"), (socket.SOCK_SEQPACKET, "packets (SOCK_SEQPACKET)")):
        if _connects(source, kind):
            raise bad(
                f"mounts[{index}].source",
                f"{source}: a socket of {name} cannot be given to a guest, one of streams can",
            )


def _connects(source: str, kind: int) -> bool:
    """Whether a unix socket of that type can be connected to the file; also False if nothing listens there."""
    import socket

    at = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
            probe.connect(f"/proc/self/fd/{at}")
    except BlockingIOError:
        return True  # its backlog is full
    except OSError:
        return False
    finally:
        os.close(at)
    return True


def _is_idmap(option: str) -> bool:
    return option.partition("=")[0] in ("idmap", "ridmap")


def _place_overlay(mount: Json, index: int, name: str, shared: Share, *, read_only: bool) -> Json:
    """An overlay of directories of the host, which mounts it; the guest binds it."""
    words = [option for option in mount.get("options", ()) if option in _OVERLAY_WORDS + _FLAG_WORDS]
    layers = [option for option in mount.get("options", ()) if option not in words]
    for option in layers:
        key, _, folders = option.partition("=")
        if key not in ("lowerdir", "upperdir", "workdir"):
            continue
        for folder in folders.replace("\\:", "\0").split(":"):
            path = folder.replace("\0", ":").replace("\\", "")
            if not path.startswith("/"):
                raise bad(f"mounts[{index}].options", f"{path!r:.60} is no absolute path")
            if _is_kernel_file(path, _status(path, index, "options")):
                raise bad(f"mounts[{index}].options", f"{path}: a directory of the host's kernel cannot be a layer")
    guest = shared.overlay(name, layers, read_only=read_only)
    return {**mount, "type": "bind", "source": guest, "options": ["rbind", *words]}


def _status(path: str, index: int, field: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise bad(f"mounts[{index}].{field}", f"{path}: {error.strerror}") from error


def _is_kernel_file(source: str, status: os.stat_result) -> bool:
    """Whether the host's kernel generates the file: no guest may see it, and it has its own kernel's files."""
    if file_system(source) in _KERNEL_FILE_SYSTEMS:
        return True
    # devtmpfs calls itself a tmpfs
    return status.st_dev == os.stat("/dev").st_dev != os.stat("/").st_dev


def _in_guest(source: str, index: int) -> str:
    """The path of the same file of the guest's kernel."""
    real = os.path.realpath(source)
    if real in _KERNEL_FOLDERS or real.startswith(tuple(folder + "/" for folder in _KERNEL_FOLDERS)):
        return real
    raise bad(f"mounts[{index}].source", f"{source}: the host's kernel has this file, and a guest has no such place")
