"""The host's files that the guest sees: one directory for each sandbox, and the bind mounts in it.

The directory is shared with the guest as a whole (virtio-fs, tag ``kataShared``).  A container's root file system and
its volumes are bind mounts below it, made with the container.  The server of the share has a copy of this mount that
receives later mounts (a *slave*, mount_namespaces(7)).

The front ends make these mounts in a mount namespace of their own (:func:`enter_namespace`): the kernel unmounts them
when its last process has ended, for any reason.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TAG = "kataShared"
SOLE = "rootfs"
"""The name of the mounts below the share whose files the guest sees by itself: nobody else changes them, or it does not
cache them."""
GUEST_SHARED = "/run/kata-containers/shared/containers"
"""Where the agent mounts the share (as Kata does)."""
GUEST_GENERATION = "/run/kata-containers/sandbox/generation"
"""Where the agent writes another line in each copy of the machine, before the containers go on."""
GUEST_SOCKETS = "/run/kata-containers/sandbox/sockets"
"""Where the agent listens in place of sockets of the host."""
VSOCK = "vm"
"""The machine's socket in the sandbox's folder: what the guest dials, port P of the host, is ``vm_P`` beside it."""
_FIRST_PORT = 1 << 16

MS_RDONLY, MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1, 4096, 16384, 1 << 18, 1 << 19, 1 << 20
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOSYMFOLLOW = 2, 4, 8, 256
MS_REMOUNT, MNT_DETACH, UMOUNT_NOFOLLOW = 32, 2, 8
CLONE_NEWNS = 0x20000
MAX_DATA = 4095
"""mount(2) takes one page of options, with a zero byte at its end."""
# x86-64; linux/mount.h, linux/fcntl.h
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
FUSE_REQUEST_MAX = 16384
_SAFE = 1 | 2 | 4 | 8  # MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC
_SHARED = 2 | 4 | 8  # MOUNT_ATTR_NOSUID, NODEV, NOEXEC
_NOSYMFOLLOW = 0x200000  # MOUNT_ATTR_NOSYMFOLLOW, Linux 5.14
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH, _MOUNT_ATTR_RDONLY = 1, 4, 1
libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise HostError(f"{what}: {os.strerror(number)}", code="mount", errno=number)


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2).

    :raises HostError: it failed
    """
    words = [os.fsencode(word) for word in (source, target, fstype)]
    result = libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) if data else None)
    _check(result, f"mounting {source or fstype} at {target}")


def open_tree(source: str, *, recursive: bool = True, read_only: bool = False, follow: bool = True) -> int:
    """A descriptor of a new, detached mount of *source* (open_tree(2)), read-only from its first moment.

    :param follow: later mounts below *source* appear there too; never the reverse
    :raises HostError: it cannot be made
    """
    deep = _AT_RECURSIVE if recursive else 0
    tree = int(libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC | deep))
    _check(min(tree, 0), f"binding {source}")
    try:
        attributes = struct.pack("QQQQ", 0, 0, MS_SLAVE if follow else MS_PRIVATE, 0)
        result = libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | deep, attributes, len(attributes))
        _check(result, f"the propagation of the mount of {source}")
        if read_only:
            attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
            result = libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
            _check(result, f"making the mount of {source} read-only")
    except BaseException:
        os.close(tree)
        raise
    return tree


def move_tree(tree: int, target: str, *, read_only: bool, programs: bool) -> None:
    """Attach a detached mount of :func:`open_tree` at a path, which is made, without devices and set-user-ID programs.

    :param programs: its files may be executed
    :raises HostError: it cannot be attached
    """
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    wanted = MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0) | (0 if programs else MS_NOEXEC)
    attributes = struct.pack("QQQQ", wanted, 0, MS_PRIVATE, 0)
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE
    _check(libc.syscall(_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes)), f"restricting {target}")
    result = libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    _check(result, f"mounting at {target}")


def follow_links(tree: int) -> None:
    """Allow links to be followed in a detached mount, of :func:`open_tree` below a :class:`SharedDirectory`."""
    attributes = struct.pack("QQQQ", 0, _NOSYMFOLLOW, 0, 0)
    libc.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, attributes, len(attributes))


def new_mount(
    fstype: str,
    options: Mapping[str, str],
    flags: Sequence[str] = (),
    attributes: int = _SHARED,
    before: Callable[[], object] = lambda: None,
) -> int:
    """A descriptor of a detached mount of a new file system.

    :param flags: options without a value
    :param attributes: of the mount
    :param before: called when the file system is there, before it is mounted
    :raises HostError: the host has no such file system, or does not permit it
    """
    context = int(libc.syscall(_FSOPEN, fstype.encode(), 1))
    _check(min(context, 0), fstype)
    try:
        for key, value in options.items():
            result = libc.syscall(_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
            _check(result, f"{fstype}: {key}")
        for key in flags:
            _check(libc.syscall(_FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0), f"{fstype}: {key}")
        _check(libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), fstype)
        before()
        tree = int(libc.syscall(_FSMOUNT, context, 1, attributes))
        _check(min(tree, 0), f"mounting {fstype}")
    finally:
        os.close(context)
    return tree


def open_fuse(name: str) -> tuple[int, int]:
    """A new, detached, read-only mount of a FUSE file system: its descriptor, and one of ``/dev/fuse``, which delivers
    its requests. Only processes with this one's ids may access it.

    :param name: its name in the list of mounts
    :raises HostError: the host has no FUSE, or does not permit it
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"/dev/fuse: {error.strerror}", code="mount", errno=error.errno or 0) from error
    options = {"source": name, "fd": str(device), "rootmode": "40555"}
    options |= {"user_id": str(os.geteuid()), "group_id": str(os.getegid())}
    try:
        tree = new_mount("fuse", options, ("default_permissions", "ro"), _SAFE, lambda: _begin_fuse(device))
    except OSError as error:
        os.close(device)
        raise HostError(f"fuse: {error.strerror}", code="mount", errno=error.errno or 0) from error
    except BaseException:
        os.close(device)
        raise
    return tree, device


def _begin_fuse(device: int) -> None:
    """Answer the first request, which is pending now and which all others wait for (linux/fuse.h, FUSE_INIT)."""
    unique = os.read(device, FUSE_REQUEST_MAX)[8:16]
    answer = struct.pack("4I2H2I2H2I24x", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, 0, 0)
    os.write(device, struct.pack("Ii8s", 16 + len(answer), 0, unique) + answer)


def file_system(path: str) -> int:
    """The type of the file system of a file (statfs(2), linux/magic.h); 0: unknown."""
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(os.fsencode(path), buffer):
        return 0
    return int.from_bytes(buffer.raw[:4], "little")  # f_type has 8 bytes, magic numbers have 4


def unmount(target: str) -> None:
    """Detach the mounts at *target* and below it; no effect without any.

    :raises HostError: it failed
    """
    while libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        pass  # several may lie upon each other
    if ctypes.get_errno() not in (22, 2):  # EINVAL: not a mount point
        _check(-1, f"unmounting {target}")


def enter_namespace() -> None:
    """Give this thread, and the threads and processes that it starts later, a mount namespace of its own. Later mounts
    of the host are visible here; mounts here are not visible outside.

    :raises HostError: CAP_SYS_ADMIN is missing
    """
    _check(libc.unshare(CLONE_NEWNS), "a mount namespace")
    mount("", "/", "", MS_REC | MS_SLAVE)


class SharedSocket(NamedTuple):
    """A unix socket of the host that the guest reaches.

    :ivar port: port of the host, at which the guest connects to it
    :ivar path: path at which the guest's agent listens in its place
    :ivar mode: its permissions, an octal number
    """

    port: int
    path: str
    mode: int
    uid: int
    gid: int


class SharedDirectory:
    """The directory that a sandbox shares with its guest.

    Two mounts of the same: ``mounts``, for changes, and ``shared``, which is read-only at its top, so that the guest
    can write only into what is bound for it. A mount below one appears below the other.

    :param folder: the directory of both; ours alone
    """

    def __init__(self, folder: str) -> None:
        self.work = os.path.join(folder, "mounts")
        self.path = os.path.join(folder, "shared")
        self._folder = folder
        self._ports = _FIRST_PORT
        self._sockets: dict[str, SharedSocket] = {}

    def make(self) -> None:
        """
        :raises HostError: mounting is not permitted
        """
        for path in (self.work, self.path):
            # On the host, the folder above is closed to other users; in the guest, processes with other ids pass
            # through
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o755)
        mount(self.work, self.work, "", MS_BIND)
        mount("", self.work, "", MS_PRIVATE)
        mount("", self.work, "", MS_SHARED)
        mount(self.work, self.path, "", MS_BIND)
        mount("", self.path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | kept_flags(self.path))

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        """Show *source*, a file or a directory of the host, to the guest as *name*; returns its path in the guest.

        :param follow: later mounts of the host below it, too
        :raises HostError: it cannot be bound
        """
        # Read-only from its first moment: its copies (in the share) are not changed with it later
        tree = open_tree(source, recursive=recursive, read_only=read_only, follow=follow)
        try:
            self.attach(tree, name)
        finally:
            os.close(tree)
        return f"{GUEST_SHARED}/{name}"

    def attach(self, tree: int, name: str) -> None:
        """Show a detached mount, of :func:`open_tree`, to the guest as *name*.

        It gets the flags nodev and nosuid, against an attacker who has taken over the share's server. The server has
        set them for the mounts that existed when it started, and this one comes later.

        :raises HostError: it cannot be mounted
        """
        _restrict(tree, name)
        target = os.path.join(self.work, name)
        try:
            if stat.S_ISDIR(os.fstat(tree).st_mode):
                self._make_place(name)
            else:
                self._make_place(os.path.dirname(name))
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HostError(f"{target}: {error.strerror}", code="mount", errno=error.errno or 0) from error
        result = libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(result, f"mounting at {target}")

    def socket(self, source: str, name: str) -> str:
        """Make *source*, a unix socket of the host, available to the guest as *name*; returns its path in the guest.

        :raises HostError: it cannot be bound
        """
        tree = open_tree(source, recursive=False)
        try:
            self.attach_socket(tree, name)
        finally:
            os.close(tree)
        return guest_socket(name)

    def attach_socket(self, tree: int, name: str) -> None:
        """The same for a detached mount, of :func:`open_tree`.

        It is mounted where the machine's socket device looks for the listener of a port, and the device connects the
        guest to it by itself. Any process in the machine can connect to the port.

        :raises HostError: it cannot be mounted
        """
        status = os.fstat(tree)
        if not stat.S_ISSOCK(status.st_mode):
            raise HostError(f"{name} is no socket any more", code="mount")
        port = self._ports
        target = self._socket_place(port)
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HostError(f"{target}: {error.strerror}", code="mount", errno=error.errno or 0) from error
        self._ports += 1
        made = SharedSocket(
            port, guest_socket(name), stat.S_IMODE(status.st_mode) & 0o777, status.st_uid, status.st_gid
        )
        self._sockets[name] = made
        result = libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(result, f"mounting at {target}")

    def sockets(self, name: str) -> list[SharedSocket]:
        """Those below *name*."""
        return [made for each, made in self._sockets.items() if each.startswith(f"{name}/")]

    def _socket_place(self, port: int) -> str:
        return os.path.join(self._folder, f"{VSOCK}_{port}")

    def _unbind_sockets(self, names: list[str]) -> None:
        for each in names:
            target = self._socket_place(self._sockets.pop(each).port)
            unmount(target)
            _remove_places(target)

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        """Show an overlay of directories of the host to the guest as *name*; returns its path in the guest.

        :param options: ``lowerdir=``, ``upperdir=``, ``workdir=`` and further options of the file system
        :raises HostError: it cannot be mounted
        """
        data = ",".join(options)
        if len(os.fsencode(data)) > MAX_DATA:
            raise HostError(f"an overlay with {len(data)} bytes of options: mount(2) takes {MAX_DATA}", code="mount")
        try:
            self._make_place(name)
        except OSError as error:
            raise HostError(f"{name}: {error.strerror}", code="mount", errno=error.errno or 0) from error
        mount("overlay", os.path.join(self.work, name), "overlay", _OVERLAY | (MS_RDONLY if read_only else 0), data)
        return f"{GUEST_SHARED}/{name}"

    def _make_place(self, name: str) -> None:
        """A directory for mounts, or above such directories, which every user can traverse."""
        path = self.work
        for part in name.split("/"):
            path = os.path.join(path, part)
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            os.chmod(path, 0o755)

    def source_of(self, path: str) -> str:
        """The host's path of what the guest sees at *path*, empty if the host does not have it."""
        below = path.removeprefix(f"{GUEST_SHARED}/")
        return os.path.join(self.work, below) if below != path else ""

    def empty_file(self) -> str:
        """An empty file, which can stand for one that only the guest has."""
        path = os.path.join(os.path.dirname(self.work), "empty")
        os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o444))
        return path

    def unbind(self, name: str) -> None:
        """Remove *name* and everything below it, if it exists.

        :raises HostError: a mount or a file is still there
        """
        self._unbind_sockets([each for each in self._sockets if each.startswith(f"{name}/")])
        target = os.path.join(self.work, name)
        for path in mounts_below(target):
            unmount(path)
        _remove_places(target)

    def remove(self) -> None:
        """Remove everything.

        :raises HostError: a mount or a file is still there
        """
        self._unbind_sockets(list(self._sockets))
        for path in (*mounts_below(self.path), *mounts_below(self.work)):
            unmount(path)
        _remove_places(self.path)
        _remove_places(self.work)


_OVERLAY = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOSYMFOLLOW


def _restrict(tree: int, name: str) -> None:
    for wanted in (_SHARED | _NOSYMFOLLOW, _SHARED):
        attributes = struct.pack("QQQQ", wanted, 0, 0, 0)
        flags = _AT_EMPTY_PATH | _AT_RECURSIVE
        result = libc.syscall(_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))
        if not result:
            return
    _check(result, f"restricting the mount of {name}")


def guest_socket(name: str) -> str:
    """The guest's path of a host socket of that name."""
    return f"{GUEST_SOCKETS}/{name}"


def mounts_below(path: str) -> list[str]:
    """Mount points, at *path* or below, the last first (proc_pid_mountinfo(5))."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            point = os.fsdecode(line.split(b" ")[4].decode("unicode_escape").encode("latin-1"))
            if point == path or point.startswith(path + "/"):
                found.append(point)
    return found[::-1]


def _remove_places(path: str) -> None:
    """Remove the empty files and directories that were mount points; never anything with content."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(info.st_mode):
        if os.lstat(os.path.dirname(path)).st_dev == info.st_dev:  # else still a mount point: rmdir fails
            for name in os.listdir(path):
                _remove_places(os.path.join(path, name))
        remove = os.rmdir
    elif stat.S_ISREG(info.st_mode) and info.st_size == 0:
        remove = os.unlink
    else:
        raise HostError(f"{path} is in the way: it was not put there by this program", code="mount")
    try:
        remove(path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="mount", errno=error.errno or 0) from error


def kept_flags(path: str) -> int:
    """The flags of a mount that a remount has to repeat: it fails otherwise where a user namespace has locked them."""
    flags = os.statvfs(path).f_flag
    return flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME)
