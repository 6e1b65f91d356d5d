"""From a bundle to what the guest is told: which files it sees where, and what of config.json is the host's affair."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyvmm_kata.config.checks import Json, bad
from pyvmm_kata.host import namespaces
from pyvmm_kata.host.face import Shown
from pyvmm_kata.host.mounts import GUEST_SHARED, file_system, guest_socket
from pyvmm_kata.sandbox.agent import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_kata.host.mounts import SharedDirectory
    from pyvmm_kata.host.namespaces import Member
    from pyvmm_kata.sandbox.bundle import Bundle

_IN_GUEST = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs")
_FIRST_PORT, _PING_GROUPS = "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"
_NETWORK_SYSCTLS, _IPC_SYSCTLS = ("net.",), ("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")
DEVICES = {
    (1, 3): "/dev/null", (1, 5): "/dev/zero", (1, 7): "/dev/full", (1, 8): "/dev/random", (1, 9): "/dev/urandom",
    (1, 11): "/dev/kmsg", (5, 0): "/dev/tty", (10, 200): "/dev/net/tun", (10, 229): "/dev/fuse",
}  # fmt: skip
"""Character devices, by number, that mean the same in the guest, and where it has them."""
LABELS = ("apparmorProfile", "selinuxLabel")
ALL_DEVICES: Json = {"path": "/dev", "type": "a"}
"""What the agent takes for every device that the guest has."""
_PRIVILEGES = {"CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_MKNOD"}
# linux/magic.h, of file systems that a kernel makes up: proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs,
# securityfs, bpf, configfs, pstore, efivarfs, binfmt_misc, selinuxfs
_KERNEL_FILE_SYSTEMS = {
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11, 0x62656570,
    0x6165676C, 0xDE5E81E4, 0x42494E4D, 0xF97CFF8C,
}  # fmt: skip
_KERNEL_FOLDERS = ("/proc", "/sys", "/dev")
SHM, GUEST_SHM = "/dev/shm", "/run/kata-containers/sandbox/shm"
_NAME_LENGTH = 60
_OVERLAY_WORDS = ("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable")
_FOLLOWING = {"slave", "rslave"}
"""Options of a bind mount in which later mounts of the host appear; in any other they do not (mount_namespaces(7))."""
_LEADING = {"shared", "rshared"}
"""Those in which mounts of the container would appear on the host, too."""
_FLAG_WORDS = ("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "strictatime")


class Share(Protocol):
    """What binds and mounts for the guest: :class:`pyvmm_kata.host.mounts.SharedDirectory`."""

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        """Let the guest see a file or a directory of the host; its path in the guest."""
        ...

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        """Mount an overlay of directories of the host; its path in the guest."""
        ...

    def socket(self, source: str, name: str) -> str:
        """Let the guest reach a unix socket of the host; its path in the guest."""
        ...


class Nowhere:
    """A share into which nothing is bound."""

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        return name

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        return name

    def socket(self, source: str, name: str) -> str:
        return name


class Bind(NamedTuple):
    """A file or a directory of the host that the guest is to see as *name*."""

    source: str
    name: str
    recursive: bool
    read_only: bool
    follow: bool


class Recorder:
    """A share that notes what is to be bound, for a process that sees other mounts."""

    def __init__(self) -> None:
        self.binds: list[Bind] = []
        self.overlays: list[tuple[str, list[str], bool]] = []
        self.sockets: list[tuple[str, str]] = []

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        """See :class:`Share`."""
        self.binds.append(Bind(source, name, recursive, read_only, follow))
        return f"{GUEST_SHARED}/{name}"

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        """See :class:`Share`."""
        self.overlays.append((name, list(options), read_only))
        return f"{GUEST_SHARED}/{name}"

    def socket(self, source: str, name: str) -> str:
        """See :class:`Share`."""
        self.sockets.append((source, name))
        return guest_socket(name)


def check(bundle: Bundle, members: Sequence[Member] = ()) -> None:
    """Whether the guest can have all that a bundle names, before there is anything of it.

    :param members: the containers of its machine
    :raises ConfigError: a volume, device or namespace cannot be given to a guest
    """
    place(bundle, "", Nowhere(), members=members)


def place(bundle: Bundle, container_id: str, shared: Share, root: str = "", members: Sequence[Member] = ()) -> Json:
    """Bind a container's root file system and its volumes into *shared*; the config.json of the guest.

    What was bound is below ``<container_id>`` and is taken away by ``shared.unbind(container_id)``, which also a
    failure leaves to the caller.

    :param root: where the guest has mounted the root file system itself; empty: it is bound, too
    :param members: the containers of its machine
    :raises ConfigError: a volume, device or namespace cannot be given to a guest
    :raises HostError: something cannot be bound
    """
    _check_limits(bundle.spec.get("linux", {}))
    spec = {**bundle.spec, "root": {**bundle.spec["root"]}, "process": {**bundle.spec["process"]}}
    spec["root"]["path"] = root or shared.bind(bundle.rootfs, f"{container_id}/rootfs")
    spec["mounts"] = [
        _place_mount(mount, index, bundle, container_id, shared)
        for index, mount in enumerate(spec.get("mounts", ()))
        if not (_has_all_rights(bundle.spec) and _is_device_of_host(mount))
    ]
    # The others are the host's, and are run there
    spec["hooks"] = {kind: hooks for kind, hooks in spec.get("hooks", {}).items() if kind == "startContainer"}
    if not spec["hooks"]:
        del spec["hooks"]
    linux = spec["linux"] = {**spec.get("linux", {})}
    linux["namespaces"] = namespaces.in_guest(bundle.spec, members)
    linux["cgroupsPath"] = f"/{container_id}"
    linux["sysctl"] = _sysctls(bundle.spec)
    linux.pop("mountLabel", None)
    for label in LABELS:
        spec["process"].pop(label, None)  # the guest's kernel has neither
    linux["devices"] = _devices(bundle.spec)
    resources = linux["resources"] = {**linux.get("resources", {})}
    resources["devices"] = [_device_rule(rule) for rule in resources.get("devices", ())]
    return spec


def _check_limits(linux: Json) -> None:
    if linux.get("intelRdt"):
        raise bad("linux.intelRdt", "caches and memory bandwidth of the host cannot be given to a guest")
    check_disk_limits(linux.get("resources", {}), "linux.resources.")


def check_disk_limits(resources: Json, prefix: str = "", source: str = "config.json") -> None:
    """Whether there are none: they are by numbers of the host's devices, which a guest does not have.

    :param prefix: of the fields' names
    :raises ConfigError: there are
    """
    for field, value in resources.get("blockIO", {}).items():
        if value:
            raise bad(
                f"{prefix}blockIO.{field}",
                "a container's use of the host's disks cannot be limited from inside of a guest",
                "limit the control group above the container's",
                source,
            )


def shown(spec: Json, shared: SharedDirectory) -> tuple[Shown | None, list[Shown]]:
    """How the container's face shows its files on the host: the root, None for one that only the guest has, and what is
    mounted in it.

    :param spec: as :func:`place` has made it
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
            # Whoever prints processes (podman top) wants to have a look at the terminals, too
            mounts.append(Shown(destination, processes=kind == "proc"))
    root = shared.source_of(spec["root"]["path"])
    return (Shown("/", root, bool(spec["root"].get("readonly"))) if root else None), mounts


def _mount_above(mounts: list[Shown], path: str) -> Shown | None:
    """The last of *mounts* below which *path* is."""
    found = [one for one in mounts if path.startswith(one.destination.rstrip("/") + "/")]
    return max(found, key=lambda one: len(one.destination)) if found else None


# -- sysctls ---------------------------------------------------------------------------------------------------------


def machine_name(spec: Json) -> str:
    """The host name of a machine, after its first container's: the host's own, if that shares the host's."""
    return spec.get("hostname") or ("" if namespaces.has(spec, "uts") else os.uname().nodename)


def is_of_sandbox(spec: Json, sysctl: str) -> bool:
    """Whether a kernel parameter is one of a namespace that belongs to the machine: its agent sets it."""
    if sysctl.startswith(_NETWORK_SYSCTLS):
        return True
    return sysctl.startswith(_IPC_SYSCTLS) and not namespaces.has(spec, "ipc")


def _sysctls(spec: Json) -> dict[str, str]:
    """Those of the container, for a network that belongs to the machine.

    With runc, a container with a user namespace has a network namespace that belongs to it: its root, who has
    CAP_NET_BIND_SERVICE there, opens ports below 1024, and ids of groups are its own (ip(7), icmp(7)).
    """
    linux = spec.get("linux", {})
    found = {_dotted(key): value for key, value in linux.get("sysctl", {}).items()}
    if namespaces.has(spec, "user"):
        bounding = spec["process"].get("capabilities", {}).get("bounding", ())
        if "CAP_NET_BIND_SERVICE" in bounding:
            found.setdefault(_FIRST_PORT, "0")
        if _PING_GROUPS in found:
            found[_PING_GROUPS] = _mapped_range(found[_PING_GROUPS], linux.get("gidMappings", ()))
    return found


def _mapped_range(text: str, mappings: Sequence[Json]) -> str:
    """``FIRST LAST`` of a user namespace, in ids of the guest: as it is when no mapping has all of it."""
    words = text.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return text
    first, last = map(int, words)
    for mapping in mappings:
        offset = first - int(mapping["containerID"])
        if offset >= 0 and first <= last < first - offset + int(mapping["size"]):
            start = int(mapping["hostID"]) + offset
            return f"{start} {start + last - first}"
    return text


def _dotted(sysctl: str) -> str:
    """A name with slashes, ``net/ipv4/conf/eth0.1/forwarding``, as one with dots (sysctl(8))."""
    first = next((letter for letter in sysctl if letter in "./"), ".")
    return sysctl if first == "." else sysctl.translate({ord("."): "/", ord("/"): "."})


# -- mounts ----------------------------------------------------------------------------------------------------------


def _place_mount(mount: Json, index: int, bundle: Bundle, container_id: str, shared: Share) -> Json:
    options = mount.get("options", [])
    kind = mount.get("type", "")
    destination = _destination(mount)
    name = f"{container_id}/{index}-{os.path.basename(destination)[:_NAME_LENGTH] or 'root'}"
    read_only = "ro" in options or "rro" in options
    if "uidMappings" in mount or "gidMappings" in mount or any(_is_idmap(option) for option in options):
        raise bad(
            f"mounts[{index}].options",
            f"{destination}: a mount with other ids (idmap) cannot be given to a guest",
            "change the owner of the files, as podman's option U does",
        )
    if not _is_bind(mount):
        if kind == "overlay":
            return _place_overlay(mount, index, name, shared, read_only=read_only)
        if kind not in _IN_GUEST:
            raise bad(
                f"mounts[{index}].type",
                f"the guest cannot mount {kind!r:.60} at {destination}",
                f"it can mount {', '.join(_IN_GUEST)}, and bind what the host has",
            )
        if kind == "sysfs" and namespaces.has(bundle.spec, "user"):
            # It shows the network, which is the machine's: in a user namespace it can be bound, and not be mounted
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
        return {**mount, "source": _device(status, source, index), "type": "bind"}
    if _is_kernel_file(source, status):
        return {**mount, "source": _in_guest(source, index), "type": "bind"}
    follow = not _FOLLOWING.isdisjoint(options)
    guest = shared.bind(source, name, recursive="bind" not in options, read_only=read_only, follow=follow)
    return {**mount, "type": "bind", "source": guest, "options": options}


def _destination(mount: Json) -> str:
    destination: str = mount["destination"]
    return os.path.normpath("/" + destination.lstrip("/"))


def _is_bind(mount: Json) -> bool:
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", ()))


def shm_storages(bundle: Bundle) -> list[Storage]:
    """The guest's own memory for each directory of the host that is to be ``/dev/shm``: through a share nobody could
    map it together.  Containers of a pod that name the same directory have the same."""
    made = []
    for index, mount in enumerate(bundle.spec.get("mounts", ())):
        if _is_bind(mount) and _destination(mount) == SHM:
            source = os.path.join(bundle.path, mount.get("source", ""))
            place, size = _shm_place(_status(source, index, "source")), os.statvfs(source)
            options = ("nosuid", "nodev", "noexec", "mode=1777", f"size={size.f_blocks * size.f_frsize}")
            made.append(Storage("ephemeral", "tmpfs", "tmpfs", place, options))
    return made


def _shm_place(status: os.stat_result) -> str:
    return f"{GUEST_SHM}-{status.st_dev}-{status.st_ino}"


def socket_storages(shared: SharedDirectory, container_id: str) -> list[Storage]:
    """What has the guest listen in the place of the sockets that a container was given."""
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
    """What kind of socket it is does not show by its file, but it takes connections of its own kind alone.

    One of streams is not asked, so its server hears nothing.
    """
    import socket

    for kind, name in ((socket.SOCK_DGRAM, "datagrams"), (socket.SOCK_SEQPACKET, "packets (SOCK_SEQPACKET)")):
        if _connects(source, kind):
            raise bad(
                f"mounts[{index}].source",
                f"{source}: a socket of {name} cannot be given to a guest, one of streams can",
            )


def _connects(source: str, kind: int) -> bool:
    """Whether a unix socket of that kind can be connected to the file; not so when nobody listens there, as may be."""
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
    """An overlay of directories of the host's, which mounts it; the guest binds it."""
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
    """Whether the host's kernel makes it up: that is what the wall is there for, and the guest has its own."""
    if file_system(source) in _KERNEL_FILE_SYSTEMS:
        return True
    # devtmpfs calls itself a tmpfs
    return status.st_dev == os.stat("/dev").st_dev != os.stat("/").st_dev


def _in_guest(source: str, index: int) -> str:
    """Where the guest has the same of its own kernel's."""
    real = os.path.realpath(source)
    if real in _KERNEL_FOLDERS or real.startswith(tuple(folder + "/" for folder in _KERNEL_FOLDERS)):
        return real
    raise bad(f"mounts[{index}].source", f"{source}: the host's kernel has this file, and a guest has no such place")


# -- devices ---------------------------------------------------------------------------------------------------------


def _device(status: os.stat_result, source: str, index: int) -> str:
    """The guest's, of a device of the host's that is to be bound."""
    number = os.major(status.st_rdev), os.minor(status.st_rdev)
    if stat.S_ISCHR(status.st_mode) and number in DEVICES:
        return DEVICES[number]
    raise bad(
        f"mounts[{index}].source",
        f"{source} is no file, directory or socket: a device or a pipe of the host cannot be given to a guest",
    )


def _devices(spec: Json) -> list[Json]:
    linux = spec.get("linux", {})
    devices = linux.get("devices", ())
    if is_privileged(spec):
        return [*(device for device in devices if _is_in_guest(device)), ALL_DEVICES]
    for index, device in enumerate(devices):
        if not _is_in_guest(device):
            raise bad(
                f"linux.devices[{index}].path",
                f"{device['path']!r:.200}: the guest has no such device",
                f"it has {', '.join(DEVICES.values())}",
            )
    return list(devices)


def _is_in_guest(device: Json) -> bool:
    if device["type"] == "p":
        return True
    return device["type"] in "cu" and (device.get("major", 0), device.get("minor", 0)) in DEVICES


def is_privileged(spec: Json) -> bool:
    """Whether the container may do whatever the guest's root may: engines give such a one all devices of the host."""
    rules = spec.get("linux", {}).get("resources", {}).get("devices", ())
    return _has_rights(spec) and any(_allows_all(rule) for rule in rules)


def _has_rights(spec: Json) -> bool:
    return set(spec["process"].get("capabilities", {}).get("bounding", ())) >= _PRIVILEGES


def _has_all_rights(spec: Json) -> bool:
    """As ``--privileged`` is said by an engine that runs in a user namespace: there are no rules about devices there,
    and each device of the host is a bind mount, since none can be made."""
    return _has_rights(spec) and not spec.get("linux", {}).get("maskedPaths")


def _is_device_of_host(mount: Json) -> bool:
    """Whether it binds a device under its own name which the guest does not have."""
    source = mount.get("source", "")
    if not (_is_bind(mount) and source == mount["destination"] and source.startswith("/dev/")):
        return False
    try:
        status = os.stat(source)
    except OSError:
        return False
    if stat.S_ISBLK(status.st_mode):
        return True
    return stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) not in DEVICES


def _allows_all(rule: Json) -> bool:
    return (
        bool(rule.get("allow"))
        and rule.get("type", "") in ("", "a")
        and set(rule.get("access", "rwm")) >= set("rwm")
        and rule.get("major", -1) == rule.get("minor", -1) == -1
    )


def _device_rule(rule: Json) -> Json:
    """A rule with what it leaves out: in the message a number that is not there would be 0, and -1 is any."""
    return rule if rule.get("type", "a") in ("", "a") else {"major": -1, "minor": -1, **rule}
