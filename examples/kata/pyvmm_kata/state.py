"""The record of a container beside its processes: ``state.json``, in the form of ``runc state``, and more; and the file
that ``--pid-file`` names.

It is written completely or not at all, so it survives a crash of any command.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from pyvmm_kata.errors import ConfigError, HostError

Json = dict[str, Any]
OCI_VERSION = "1.2.0"
_ALL_IDS = 0xFFFF_FFFF
FILE, CGROUP, REMOVED = "state.json", "cgroup", "removed.json"
_LEFT = "removed-"


def remove_tree(path: str) -> None:
    """Remove a folder and its contents, following no links; what cannot be removed stays.

    Like shutil.rmtree(), whose module adds half a MiB of others to each process with a machine.
    """
    try:
        for _, folders, files, fd in os.fwalk(path, topdown=False):
            for name in files + folders:
                _remove(name, fd)
        os.rmdir(path)
    except OSError:
        pass


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError:
            pass
    except OSError:
        pass


def write(folder: str, state: Json) -> None:
    """Replace the state in *folder*.

    :raises OSError: it cannot be written, and is unchanged
    """
    path = os.path.join(folder, FILE)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(json.dumps(state))  # json.dump() does not encode in C
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    os.rename(f"{path}.new", path)


def read(folder: str) -> Json:
    """The state in *folder*; its ``status`` is the present one.

    :raises ConfigError: there is none, or it cannot be read
    """
    container_id = os.path.basename(folder)
    try:
        with open(os.path.join(folder, FILE)) as file:
            state = json.load(file)
    except FileNotFoundError as error:
        raise missing(container_id) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"container {container_id}: its state cannot be read: {error}",
            code="container-state",
            hint=f"pyvmm-oci delete --force {container_id} clears it",
        ) from error
    if state["status"] != "stopped" and not is_alive(state["pid"], state["startTime"]):
        state["status"] = "stopped"
    return dict(state)


def leave(folder: str, machine: str) -> str:
    """Remove the container for all commands, and its folder from its visible place. It has ended; its remains are in
    the folder of its machine until the monitor has removed that. Returns where.

    :raises OSError: there is no state
    """
    os.rename(os.path.join(folder, FILE), os.path.join(folder, REMOVED))
    place = left_in(machine, os.path.basename(folder))
    try:
        os.rename(folder, place)
    except OSError:
        return folder
    return place


def left_in(machine: str, container_id: str) -> str:
    """The place of a container's remains, in the folder of its machine or of the process that removes it."""
    return os.path.join(machine, _LEFT + container_id)


def all_left_in(machine: str) -> list[str]:
    """The folders of all containers that are being removed there."""
    try:
        return [os.path.join(machine, name) for name in os.listdir(machine) if name.startswith(_LEFT)]
    except OSError:
        return []


def left_cgroup(place: str) -> str:
    """The cgroup of a container with remains; empty: it has none, or that is removed already."""
    try:
        with open(os.path.join(place, REMOVED)) as file:
            return str(json.load(file).get("cgroup", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def write_cgroup(folder: str, path: str) -> None:
    """Record a cgroup that is made before there is a state.

    :raises OSError: it cannot be written
    """
    note = os.path.join(folder, CGROUP)
    try:
        with open(note, "wb") as file:
            file.write(os.fsencode(path))
    except OSError as error:
        raise OSError(error.errno, error.strerror, note) from error


def noted_cgroup(folder: str) -> str:
    """The record of :func:`write_cgroup`; empty for none.

    :raises OSError: it cannot be read
    """
    try:
        with open(os.path.join(folder, CGROUP), "rb") as file:
            return os.fsdecode(file.read())
    except FileNotFoundError:
        return ""


def read_cgroup(folder: str) -> str:
    """The cgroup of a container, with or without a state; empty for none."""
    try:
        return str(read(folder).get("cgroup", ""))
    except ConfigError:
        pass
    try:
        return noted_cgroup(folder)
    except OSError:
        return ""


def missing(container_id: str) -> ConfigError:
    """The error for a missing container, in runc's words, which others look for."""
    return ConfigError(f"container does not exist: {container_id}", code="container-missing")


def start_time(pid: int) -> int:
    """A process's start time, in ticks since the host's start, which identifies it together with its pid; 0: there is
    no such process, or it is a zombie (proc_pid_stat(5)).

    :raises HostError: the host has no descriptor or memory to check: a running process must not be treated as dead
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    except OSError as error:
        raise HostError(f"/proc/{pid}/stat: {error.strerror}", code="host-limit", errno=error.errno or 0) from error
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def descendants(pid: int, most: int) -> list[int]:
    """A process, its children and theirs, limited to about *most* in all (proc_pid_children(5))."""
    found = [pid]
    for each in found:
        try:
            for thread in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{thread}/children") as file:
                    found += [int(word) for word in file.read().split() if len(found) < most]
        except OSError:
            pass  # it has just ended
    return found


def number_in(path: str, field: str, unit: int) -> int | None:
    """The number after *field* in a file of lines like those of /proc/meminfo, times *unit*; None: it is missing."""
    try:
        with open(path) as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                if name == field:
                    return int(rest.split()[0]) * unit
    except (OSError, ValueError, IndexError):
        pass
    return None


def is_alive(pid: int, began: int) -> bool:
    """Whether the same process still runs.

    :raises HostError: see :func:`start_time`
    """
    return pid > 0 and began > 0 and start_time(pid) == began


def now() -> str:
    """The time, as runc writes it (RFC 3339)."""
    seconds = time.time()  # not datetime, whose import takes longer than all the rest here
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06}Z"


PUBLIC = ("ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner")


def public(state: Json) -> Json:
    """The output of ``state``, which hooks receive too."""
    shown = {key: state[key] for key in PUBLIC}
    if shown["status"] == "stopped":
        shown["pid"] = 0
    return shown


def text(state: Json) -> str:
    """What the command ``state`` prints."""
    return json.dumps(public(state), indent=2) + "\n"


def write_pid(path: str, pid: int) -> None:
    """Write a pid file, completely or not at all, without following a link of another user."""
    temporary = f"{path}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(temporary, "w", opener=lambda name, _: os.open(name, flags, 0o644)) as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise HostError(f"--pid-file {path}: {error.strerror}", code="oci-pid-file") from error


def is_of_a_user() -> bool:
    """Whether the caller is an ordinary user on the host. In the user namespace that podman makes for one, this process
    is root, and the id map differs from that of the initial user namespace (user_namespaces(7))."""
    if os.geteuid():
        return True
    try:
        with open("/proc/self/uid_map", "rb") as file:
            words = file.read().split()
    except OSError:
        return False  # a kernel without user namespaces
    # As runc does, it looks at $USER: root of a container with a whole system has a /run of its own
    return words != [b"0", b"0", b"%d" % _ALL_IDS] and os.environ.get("USER", "") != "root"
