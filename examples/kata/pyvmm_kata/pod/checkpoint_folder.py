"""A checkpoint of a container, on disk: a folder with ``container.json``, the record that the host needs to continue
it, and ``machine-X``, a snapshot of pyvmm.

The first names the second, and is moved to its place by one rename(2) when both are on the disk: after a crash at any
time, the old or the new checkpoint exists. A checkpoint may come from an untrusted source.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
from _blake2 import blake2b
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import vmm
from pyvmm_kata import state
from pyvmm_kata.bundle.checks import check_id
from pyvmm_kata.errors import ConfigError, HostError, bad
from pyvmm_kata.pod.guest_kinds import KINDS
from pyvmm_kata.pod.network import KeptNet
from pyvmm_kata.pod.templates import identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyvmm_kata.bundle.bundle import Bundle
    from pyvmm_kata.bundle.policy import Policy
    from pyvmm_kata.bundle.root_disks import RootDisk
    from pyvmm_kata.bundle.settings import Settings
    from pyvmm_kata.pod.sandbox import Sandbox
    from pyvmm_kata.pod.sandbox_config import Forked
    from pyvmm_kata.state import Json

FORMAT = 1
LINUX_GUEST = "linux"
"""The kind of guests whose image stays in use; of records that name no kind, too."""
RECORD, MACHINE = "container.json", "machine-"
INVENTORY = "inventory.img"
"""podman takes a folder without such a file for none with a checkpoint."""
TOLD = (
    *("id", "status", "execs", "serial", "memory", "more_memory", "added", "vcpus", "more_cpus", "nets", "layout"),
    *("policy", "root", "guest"),
)
"""What :func:`describe` tells as it is written."""
SENTRY_CORE = "sentry-core"
"""The manifest's ``record`` of a Sentry without a machine."""
_BALLOON = "virtio-balloon"
"""The kind of its state in a snapshot's manifest."""
MAX_RECORD = 4 << 20
MAX_MEMORY, MAX_VCPUS = 1 << 44, 1024


class Kept(NamedTuple):
    """A checkpoint, checked.

    :ivar machine: the folder of the machine's snapshot
    :ivar id: of the container, in the guest
    :ivar status: ``running`` or ``paused``
    :ivar execs: ids of its processes besides the first one
    :ivar serial: the number of the last exec
    :ivar memory: of the machine, in bytes
    :ivar more_memory: bytes that the machine may get while it runs
    :ivar added: how many of these it has
    :ivar more_cpus: CPUs that the machine may get; its snapshot has the number in use
    :ivar image: the SHA-256 of the guest's image; empty: it has none
    :ivar image_file: its :func:`~pyvmm_kata.pod.templates.identity` then, if whoever wrote this has told it
    :ivar policy: of the guest's agent, see :func:`digest_of`
    :ivar order: the destinations of the mounts in its config.json, in their order
    :ivar layout: see :func:`pyvmm_kata.bundle.guest_spec.layout_of`
    :ivar made_of: what else of config.json its processes were made from, see :func:`_made_of`
    :ivar root: the stored image that is its root, see :func:`_root_identity`; None: a folder is
    :ivar guest: the kind of its guest, see :mod:`pyvmm_kata.pod.guest_kind`
    :ivar balloon: its machine has one
    :ivar forked: its machine is not in a folder: it runs, and has exported this
    """

    machine: str
    id: str
    status: str
    execs: tuple[str, ...]
    serial: int
    memory: int
    vcpus: int
    nets: tuple[KeptNet, ...]
    image: str
    policy: str
    order: tuple[str, ...]
    layout: tuple[tuple[str, ...], ...]
    made_of: Json
    image_file: Any = None
    more_memory: int = 0
    added: int = 0
    more_cpus: int = 0
    root: Any = None
    guest: str = LINUX_GUEST
    balloon: bool = False
    forked: Forked | None = None

    def sort(self, bundle: Bundle) -> None:
        """Sort the mounts of a bundle into the order of the checkpoint, which the names in the share depend on: podman
        uses another order each time."""
        rest = list(bundle.spec.get("mounts") or ())
        found = []
        for destination in self.order:
            mount = next((each for each in rest if each["destination"] == destination), None)
            if mount is not None:
                rest.remove(mount)
                found.append(mount)
        bundle.spec["mounts"] = [*found, *rest]

    def check(self, bundle: Bundle, chosen: Settings, *, shared: bool, images: bool = False) -> None:
        """
        :param chosen: the settings for it
        :param shared: its namespaces belong to another container's machine
        :param images: see :func:`check_disks`
        :raises ConfigError: it cannot continue with this bundle
        """
        if digest_of(chosen.policy) != self.policy:
            raise ConfigError(
                f"the container {self.id} was checkpointed with another policy of the agent", code="checkpoint-policy"
            )
        if self.guest != chosen.guest:
            raise ConfigError(
                f"the container {self.id} was checkpointed with a guest of the kind {self.guest}, not {chosen.guest}",
                code="checkpoint-guest",
                hint="leave --isolation out, or change the annotation io.pyvmm.isolation",
            )
        image = image_of(chosen.guest, chosen.image)
        if self.image_file != _identity(image) and _sha256(image) != self.image:
            raise ConfigError(
                f"the container {self.id} was checkpointed with another image of the guest than {chosen.image}",
                code="checkpoint-image",
                hint="its guest relies on what it has read: install the version that it had",
            )
        if shared:
            raise bad("linux.namespaces", "a checkpoint goes on in a machine of its own, not in another container's")
        check_disks(bundle, images=images)
        if _root_identity(bundle.disk) != self.root:
            raise bad(
                "root.path",
                f"{bundle.rootfs} is not the root file system that the checkpoint was made with",
                "a guest relies on what it has read: the same folder or image, not one of the same name",
            )
        for name, value in _made_of(bundle.spec).items():
            if value != self.made_of.get(name):
                raise bad(name, "is not what it was when the checkpoint was made")


def image_of(guest: str, image: str) -> str:
    """The image that a guest goes on reading; empty: all of it is in its memory.

    :param guest: its kind
    :param image: that of the settings
    """
    return image if guest == LINUX_GUEST else ""


def digest_of(policy: Policy | None) -> str:
    """The identity of a policy; empty for none."""
    return blake2b(policy.text.encode(), digest_size=16).hexdigest() if policy is not None else ""


def check_disks(bundle: Bundle, *, images: bool = False) -> None:
    """
    :param images: its root may be a stored image, which never changes: the checkpoint has its identity instead
    :raises ConfigError: its machine has disks, which a checkpoint does not contain
    """
    if bundle.disk is not None and not (images and bundle.disk.is_mappable):
        kinds = "a folder or a stored image" if images else "a folder"
        raise bad("root.path", f"{bundle.disk.path} is a disk, and a checkpoint needs {kinds}")
    if bundle.volumes:
        raise bad("linux.devices", f"{bundle.volumes[0].path} is a disk, which a checkpoint does not have")


def _root_identity(disk: RootDisk | None) -> list[int] | None:
    """Size and time of the last change: copies and hard links have the same, whatever file system they are on."""
    if disk is None:
        return None
    try:
        status = os.stat(disk.path)
    except OSError as error:
        raise ConfigError(f"{disk.path}: {error.strerror}", code="checkpoint-damaged") from error
    return [status.st_size, status.st_mtime_ns]


def _made_of(spec: Json) -> Json:
    """The parts of a restored container that are as it was made, whatever config.json contains now."""
    process, root = spec["process"], spec["root"]
    user = process.get("user") or {}
    kinds = sorted(entry.get("type", "") for entry in (spec.get("linux") or {}).get("namespaces") or ())
    return {
        "process.args": process.get("args"),
        "process.cwd": process.get("cwd"),
        "process.user": [user.get("uid", 0), user.get("gid", 0)],
        "process.terminal": bool(process.get("terminal")),
        "root.readonly": bool(root.get("readonly")),
        "linux.namespaces": kinds,
    }


# -- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def place_for(place: str) -> Iterator[str]:
    """The name of a new machine in the folder *place*, which is created. The folder is locked until the end, when
    everything that the record does not name is removed. After an error, a folder that is empty is removed, too.

    :raises VmmError: it cannot be created, or another process makes a checkpoint there
    """
    was_there = os.path.isdir(place)
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{place}: {error.strerror}", code="checkpoint-place", errno=error.errno or 0) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{place}: another checkpoint is being made there", code="checkpoint-busy") from error
        try:
            yield f"{MACHINE}{os.urandom(8).hex()}"
        finally:
            sweep(place)
            if not was_there:
                with suppress(OSError):  # it has a checkpoint
                    os.rmdir(place)
    finally:
        os.close(lock)


def check_alone(ids: Sequence[str]) -> None:
    """
    :param ids: of the containers in a machine
    :raises ConfigError: there are several
    """
    if len(ids) > 1:
        raise ConfigError(
            f"checkpoint: the containers {', '.join(sorted(ids))} share a virtual machine, which is saved whole",
            code="checkpoint-shared",
            hint="one that has a machine of its own can be checkpointed",
        )


def describe(sandbox: Sandbox, container_id: str, *, status: str, execs: Sequence[str], serial: int) -> Json:
    """The record of a saved machine.

    :param container_id: of its container, in the guest
    :param status: the container's, ``running`` or ``paused``
    :param execs: ids of its processes besides the first one
    :param serial: the number of the last of them
    """
    config = sandbox.config
    return {
        "id": container_id,
        "status": status,
        "execs": execs,
        "serial": serial,
        "memory": config.memory,
        "more_memory": config.more_memory,
        "added": sandbox.size.memory - config.memory,
        "vcpus": config.vcpus,
        "more_cpus": config.more_cpus,
        "nets": config.network.kept() if config.network is not None else (),
        "layout": sandbox.layout(container_id),
        "image": image_of(config.guest, config.image),
        "guest": config.guest,
        "policy": digest_of(config.policy),
        "root": _root_identity(sandbox.containers[container_id].bundle.disk),
    }


def write(place: str, name: str, saved: Json, spec: Json) -> None:
    """Write the record of a machine beside it, replacing the previous one.

    :param name: of the machine, in the folder *place*
    :param saved: see :func:`describe`; JSON may have made lists of its tuples
    :param spec: the container's config.json
    :raises VmmError: it cannot be written, and the previous one is unchanged
    """
    record = {
        "format": FORMAT,
        "pyvmm": vmm.__version__,
        "taken": state.now(),
        "manifest": _sha256(os.path.join(place, name, "manifest.json")),
        "image": _sha256(saved["image"]),
        "files": _identities(os.path.join(place, name)),
        **_told(name, saved, spec),
    }
    path = os.path.join(place, RECORD)
    # A FIFO in its place fails, since it has no reader
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.path.join(place, INVENTORY), "w", opener=lambda name, _: os.open(name, flags, 0o600)) as file:
            file.write(f"see {RECORD}\n")
        with open(f"{path}.new", "w", opener=lambda name, _: os.open(name, flags, 0o600)) as file:
            file.write(json.dumps(record))
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="checkpoint-place", errno=error.errno or 0) from error


def _told(name: str, saved: Json, spec: Json) -> Json:
    """What is in a record of every kind."""
    return {
        "machine": name,
        **{key: saved[key] for key in TOLD},
        "image_file": _identity(saved["image"]),
        "order": [mount["destination"] for mount in spec.get("mounts") or ()],
        "made_of": _made_of(spec),
    }


def of_fork(saved: Json, spec: Json, forked: Forked) -> Kept:
    """The same of a machine that runs.

    :param saved: see :func:`describe`
    :param spec: the container's config.json
    :param forked: what the machine has exported
    :raises ConfigError: it makes no sense
    """
    record = {**_told(f"{MACHINE}{'0' * 16}", saved, spec), "image": ""}
    return _checked(record, "", "the fork")._replace(machine="", forked=forked)


def sweep(place: str) -> None:
    """Remove machines that the record does not name: the previous one, or remains of a killed process."""
    try:
        named = str(_record(place).get("machine"))
    except ConfigError:
        named = ""
    for name in os.listdir(place):
        if name.startswith(MACHINE) and name != named:
            state.remove_tree(os.path.join(place, name))


def _sha256(path: str) -> str:
    from hashlib import file_digest

    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="checkpoint-damaged") from error


def _sha256_of(data: bytes) -> str:
    # `hashlib` would load OpenSSL, which costs a restore as much as all that it reads
    module = __import__("_sha2" if sys.version_info >= (3, 12) else "_sha256")
    return str(module.sha256(data).hexdigest())


def _identity(path: str) -> list[int]:
    if not path:
        return []
    try:
        return identity(os.stat(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="checkpoint-damaged") from error


def _identities(machine: str) -> list[list[int]]:
    return [_identity(os.path.join(machine, name)) for name in ("memory", "state")]


# -- reading ---------------------------------------------------------------------------------------------------------


def read(place: str, *, verified: bool = False) -> Kept:
    """The checkpoint in the folder *place*.

    :param verified: it was just made
    :raises ConfigError: there is none, or it cannot be continued here; the message has the reason
    """
    record = _record(place)
    path = os.path.join(place, RECORD)
    if record.get("format") != FORMAT:
        raise ConfigError(f"{path}: its format is {record.get('format')!r:.20}, not {FORMAT}", code="checkpoint-format")
    kept = _checked(record, place, path)
    if not _is(stat.S_IFDIR, kept.machine):
        raise ConfigError(f"{kept.machine}: no folder", code="checkpoint-damaged")
    for name in ("manifest.json", "state", "memory"):
        if not _is(stat.S_IFREG, os.path.join(kept.machine, name)):
            raise ConfigError(f"{kept.machine}/{name}: no file", code="checkpoint-damaged")
    manifest = os.path.join(kept.machine, "manifest.json")
    text = _content(manifest)
    if _sha256_of(text) != record.get("manifest"):
        raise ConfigError(f"{manifest}: is not the one that was written with {path}", code="checkpoint-damaged")
    told = _json(manifest, text)
    if told.get("base") != "" or told.get("memory_size") != kept.memory + kept.more_memory or told.get("disks") != []:
        raise ConfigError(f"{manifest}: is not of a container's machine", code="checkpoint-damaged")
    # Who has copied it, as to another host, has it read; 64 MiB take a billion instructions
    if not verified and record.get("files") != _identities(kept.machine):
        _verify(kept.machine, told)
    return kept._replace(balloon=_has_balloon(told))


def _verify(machine: str, manifest: Json) -> None:
    """
    :raises ConfigError: a file of it is damaged
    """
    if manifest.get("record") != SENTRY_CORE:
        vmm.verify_snapshot(machine)
        return
    try:
        from pyvmm_sentry import saved
    except ImportError as error:
        raise ConfigError("the Sentry is not installed", code="guest-kind") from error
    saved.verify(machine)


def _has_balloon(manifest: Json) -> bool:
    """Machines of older checkpoints have none."""
    devices = manifest.get("devices")
    rows = devices if isinstance(devices, list) else []
    return any(isinstance(each, dict) and each.get("kind") == _BALLOON for each in rows)


def _record(place: str) -> Json:
    path = os.path.join(place, RECORD)
    if not _is(stat.S_IFREG, path):
        raise ConfigError(
            f"{place}: there is no checkpoint: no file {RECORD}",
            code="checkpoint-none",
            hint="pyvmm-oci checkpoint --image-path makes one",
        )
    return _json(path, _content(path))


def _content(path: str) -> bytes:
    """Of a file that the folder's author may replace at any time, by a link, a pipe or a device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{path}: no file", code="checkpoint-damaged")
            text = file.read(MAX_RECORD + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", code="checkpoint-damaged") from error
    if len(text) > MAX_RECORD:
        raise ConfigError(f"{path}: damaged: more than {MAX_RECORD} bytes", code="checkpoint-damaged")
    return text


def _json(path: str, text: bytes) -> Json:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: {error}", code="checkpoint-damaged") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: damaged: no object", code="checkpoint-damaged")
    return value


def _is(kind: int, path: str) -> bool:
    """Whether it is a file, or a folder, and no link to another one: the folder's author could name any file of the
    host."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode) == kind
    except OSError:
        return False


def _checked(record: Json, place: str, path: str) -> Kept:
    """Of a record, which is not trusted."""

    def wrong(name: str) -> ConfigError:
        return ConfigError(f"{path}: damaged: {name} makes no sense", code="checkpoint-damaged")

    def texts(name: str, value: Any, most: int = 4096) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > most or not all(type(one) is str for one in value):
            raise wrong(name)
        return tuple(value)

    def number(name: str, least: int, most: int, otherwise: int | None = None) -> int:
        value = record.get(name, otherwise)
        if type(value) is not int or not least <= value <= most:
            raise wrong(name)
        return value

    def lists(name: str, size: int) -> list[tuple[str, ...]]:
        value = record.get(name)
        if not isinstance(value, list) or len(value) > 4096:
            raise wrong(name)
        rows = [texts(name, row) for row in value]
        if any(len(row) != size for row in rows):
            raise wrong(name)
        return rows

    machine = record.get("machine")
    if type(machine) is not str or len(machine) != 24 or not machine.startswith(MACHINE) or not machine[8:].isalnum():
        raise wrong("machine")
    if record.get("status") not in ("running", "paused"):
        raise wrong("status")
    made_of = record.get("made_of")
    if not isinstance(made_of, dict):
        raise wrong("made_of")
    try:
        ids = [check_id(one) for one in texts("id", [record.get("id")])]
        execs = tuple(check_id(one, "exec") for one in texts("execs", record.get("execs")))
    except ConfigError as error:
        raise wrong("id" if "execs" not in str(error) else "execs") from error
    nets = tuple(KeptNet(*row) for row in lists("nets", 2))
    if not all(_is_mac(net.mac) and len(net.name) < 16 for net in nets) or len(nets) > 64:
        raise wrong("nets")
    root = record.get("root")
    if root is not None and not (isinstance(root, list) and [type(one) for one in root] == [int, int]):
        raise wrong("root")
    guest = record.get("guest", LINUX_GUEST)
    if type(guest) is not str or guest not in KINDS:
        raise wrong("guest")
    return Kept(
        os.path.join(place, machine),
        ids[0],
        record["status"],
        execs,
        number("serial", 0, 1 << 53),
        number("memory", 1 << 20, MAX_MEMORY),
        number("vcpus", 1, MAX_VCPUS),
        nets,
        texts("image", [record.get("image")])[0],
        texts("policy", [record.get("policy")])[0],
        texts("order", record.get("order")),
        tuple(lists("layout", 3)),
        made_of,
        record.get("image_file"),
        more := number("more_memory", 0, MAX_MEMORY, 0),
        number("added", 0, more, 0),
        number("more_cpus", 0, MAX_VCPUS, 0),
        root,
        guest,
    )


def _is_mac(text: str) -> bool:
    parts = text.split(":")
    return len(parts) == 6 and all(len(part) == 2 and set(part) <= set("0123456789abcdefABCDEF") for part in parts)
