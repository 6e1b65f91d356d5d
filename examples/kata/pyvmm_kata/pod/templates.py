"""Templates: machines that have booted to their agent, which containers' machines are clones of.

A template is a snapshot in ``$XDG_CACHE_HOME/pyvmm/templates`` (or below ``~/.cache``), named after everything that it
was made from. It is used only while we own it, and its files are those that were verified when it was made: the same
inodes, sizes and times. Anything unusual makes it invalid: the machine boots, and another template is built.

Builders exclude each other by a lock, which ends with them; a template is moved to its place by one rename(2).
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import stat
import sys
import time
from _blake2 import blake2b
from typing import TYPE_CHECKING, NamedTuple

import vmm
from pyvmm_kata.bundle.settings import cache_folder
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.pod.working_set import WORKING_SET
from pyvmm_kata.state import descendants, remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = 2
SEAL = "template.json"
FILES = ("manifest.json", "state", "memory", WORKING_SET)
_LOCK, _NEW, _FAILED = "lock", "new-", ".failed"
MOST = 8
"""So many are kept, those that were used last."""
DELAY_S = 0.5
"""Until one is made that was asked for: even a process that is idle gets slices of the CPU at its beginning, which
would come out of a container's start."""
HURRY_S = 5.0
"""After so long its maker is no longer idle: on a host whose CPUs are never idle it would not end, and all machines
would boot meanwhile."""
RETRY_S = 3600.0
"""Where one could not be made, another try is made after so long."""
MAX_CHILDREN, MAX_NETS = 64, 8
_NICEST = 19


class Kind(NamedTuple):
    """The properties of a template.

    :ivar cmdline: the whole part of the kernel's command line that the sandbox sets
    :ivar nets: number of its network devices
    :ivar more_memory: bytes of RAM that it may get while it runs
    :ivar more_cpus: how many CPUs, too
    :ivar guest: the name of the guest's kind
    """

    kernel: str
    image: str
    cmdline: str
    memory: int
    vcpus: int
    transport: str
    nets: int
    more_memory: int = 0
    more_cpus: int = 0
    guest: str = "linux"

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Of what :func:`request` has written.

        :raises ConfigError: it is not that
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"template: no JSON: {error}", code="template-kind") from error
        like = cls("", "", "", 0, 0, "", 0)
        if not isinstance(values, list) or [type(value) for value in values] != [type(value) for value in like]:
            raise ConfigError(f"template: {text!r:.60} is no kind", code="template-kind")
        return cls(*values)

    def key(self) -> str:
        """The name of its template, which changes with everything that it was made from.

        :raises OSError: the kernel or the image is missing
        """
        parts = [FORMAT, os.uname().release, *self]
        for path in (self.kernel, self.image, str(vmm.__file__), __file__):
            parts += [os.path.realpath(path), *identity(os.stat(path))]
        # Of hashlib, which loads OpenSSL, only this is needed
        return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def mac_of(number: int) -> str:
    """The MAC address of a template's network device of that number: no driver uses it before a clone gets another."""
    return f"02:70:79:76:6d:{number:02x}"


def identity(status: os.stat_result) -> list[int]:
    """The identity of a file and its last change: while both are the same, its content need not be read."""
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


# -- the folder ------------------------------------------------------------------------------------------------------


def folder() -> str:
    """Where they are.

    :raises HostError: there is no such place
    """
    where = cache_folder()
    if not where:
        raise HostError("templates need a folder: neither XDG_CACHE_HOME nor HOME is set", code="template-folder")
    return f"{where}/templates"


def _is_ours(status: os.stat_result) -> bool:
    """A writer there would decide what containers run on, and a reader would learn their secrets."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def find(key: str, *, touch: bool = True) -> str:
    """The folder of the template with that name.

    :param touch: it is used
    :raises HostError: there is no valid one; the message has the reason
    """
    where = folder()
    path = f"{where}/{key}"
    try:
        for each in (where, path):
            status = os.lstat(each)
            if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
                raise HostError(f"{each} is not a folder of this user's alone", code="template-damaged")
        with open(f"{path}/{SEAL}", "rb") as file:
            seal = json.loads(file.read(1 << 16))
        if seal != _seal(path):
            raise HostError(f"{path} is not what was verified", code="template-damaged")
        if touch:
            os.utime(path)
    except FileNotFoundError as error:
        raise HostError(f"there is no template {key}", code="template-none") from error
    except (OSError, ValueError, RecursionError) as error:
        raise HostError(f"{path}: {error}", code="template-damaged") from error
    return path


def _seal(path: str) -> object:
    """The identities of files that :func:`find` compares."""
    found = {}
    for name in FILES:
        status = os.lstat(f"{path}/{name}")
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
            raise HostError(f"{path}/{name} is not a file of this user's alone", code="template-damaged")
        found[name] = identity(status)
    return {"format": FORMAT, "files": found}


def forget(path: str) -> None:
    """Make the template in that folder unusable. Running clones keep their memory of it."""
    doomed = f"{os.path.dirname(path)}/{_NEW}{os.getpid()}-{os.path.basename(path)}"
    try:
        os.rename(path, doomed)
    except OSError:
        return
    remove_tree(doomed)


def names() -> list[str]:
    """The existing ones, valid or not, the last used first."""
    where = folder()
    found = [name for name in (os.listdir(where) if os.path.isdir(where) else ()) if _is_name(name)]
    return sorted(found, key=lambda name: -_used(f"{where}/{name}"))


def size_of(name: str) -> int:
    """Bytes that it takes on the disk."""
    total = 0
    for each in FILES:
        try:
            total += os.lstat(f"{folder()}/{name}/{each}").st_blocks * 512
        except OSError:
            pass
    return total


def _is_name(name: str) -> bool:
    return len(name) == 32 and all(letter in "0123456789abcdef" for letter in name)


def _used(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


# -- making ----------------------------------------------------------------------------------------------------------


def has_failed(key: str) -> bool:
    """Whether building it has failed recently."""
    try:
        return time.time() - _used(f"{folder()}/{key}{_FAILED}") < RETRY_S
    except HostError:
        return True  # there is no folder


def request(kind: Kind, cgroup: str = "") -> int:
    """Start a background process that builds a template, with idle priority; returns its pid, 0 if there is none.

    :param cgroup: the cgroup for that process, empty: that of this one
    """
    words = ["template", "build", "--background", "--kind", json.dumps(kind)]
    if cgroup:
        words += ["--cgroup", cgroup]
    # Whoever waits for end of file on a descriptor of ours would wait for this process
    code = (
        f"import os, time; os.closerange(3, 1 << 20); time.sleep({DELAY_S}); "
        "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
        "from pyvmm_kata.oci.main import main; sys.exit(main(sys.argv[1:]))"
    )
    flags = "-IS" if sys.flags.no_site else "-I"
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, flags, "-c", code, json.dumps(sys.path), *words],
            os.environ,
            file_actions=quiet,
            setsid=True,
        )
    except OSError:
        return 0  # no more processes are allowed: a later start tries again


def become_idle(cgroup: str) -> None:
    """Run at idle priority, see sched(7)."""
    try:
        if cgroup:
            with open(f"{cgroup}/cgroup.procs", "w") as file:
                file.write("0")
    except OSError:
        pass
    become_nice()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def become_nice() -> None:
    """Yield CPUs to others almost completely: an idle process might never end on a busy host."""
    try:
        with open("/proc/self/autogroup", "w") as file:
            file.write(str(_NICEST))  # our session's
    except OSError:
        pass
    os.setpriority(os.PRIO_PROCESS, 0, _NICEST)


def promote(pid: int) -> None:
    """Restore the normal priority of a process and its children, after :func:`become_idle` or :func:`become_nice`. No
    effect where this process may not, without CAP_SYS_NICE."""
    try:
        for process in descendants(pid, MAX_CHILDREN):
            for thread in map(int, os.listdir(f"/proc/{process}/task")):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, 0)
        with open(f"/proc/{pid}/autogroup", "w") as file:
            file.write("0")
    except OSError:
        pass  # it has just ended, or the kernel has no groups of sessions


def promote_later(after: float = HURRY_S) -> None:
    """Promote this process after that many seconds, if it still runs then. It has no other threads yet.

    Another process does that, which nobody has to wait for: this one soon loses CAP_SYS_NICE.
    """
    pid = os.getpid()
    ended, ours = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        try:
            os.close(ours)
            if not os.fork() and not select.select([ended], [], [], after)[0]:
                promote(pid)
        finally:
            os._exit(0)
    os.close(ended)  # the other end is open as long as this process is
    os.waitpid(child, 0)


def build(kind: Kind, boot: Callable[[Kind, str], str], *, wait: bool = True) -> str:
    """Build a template, unless there is a valid one; returns its name.

    :param boot: boots the machine in the given folder, and saves it in one below, which it returns
    :param wait: wait for other builders; otherwise nothing is built then
    :raises VmmError: it cannot be built; nothing is left
    """
    key = _key(kind)
    where = folder()
    try:
        os.makedirs(where, mode=0o700, exist_ok=True)
        lock = os.open(f"{where}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError(f"{where}: {error.strerror}", code="template-folder", errno=error.errno or 0) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise HostError("another template is made just now", code="template-busy") from error
        _sweep(where)
        try:
            find(key)
        except HostError:
            _make_in(where, key, kind, boot)
    finally:
        os.close(lock)
    return key


def _key(kind: Kind) -> str:
    try:
        return kind.key()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}", code="template-source") from error


def _sweep(where: str) -> None:
    """Remove the remains of killed builders: the holder of the lock is the only one."""
    for name in os.listdir(where):
        if name.startswith(_NEW):
            remove_tree(f"{where}/{name}")


def _make_in(where: str, key: str, kind: Kind, boot: Callable[[Kind, str], str]) -> None:
    new = f"{where}/{_NEW}{os.getpid()}"
    try:
        os.mkdir(new, 0o700)
        made = boot(kind, new)
        for name in FILES:
            os.chmod(f"{made}/{name}", 0o400)
        with open(f"{made}/{SEAL}", "x") as file:
            json.dump(_seal(made), file)
        if os.path.lexists(f"{where}/{key}"):
            os.rename(f"{where}/{key}", f"{new}/old")
        os.rename(made, f"{where}/{key}")
        if os.path.lexists(f"{where}/{key}{_FAILED}"):
            os.unlink(f"{where}/{key}{_FAILED}")
        _keep_some(where)
    except OSError as error:
        raise HostError(f"a template in {where}: {error}", code="template-folder", errno=error.errno or 0) from error
    except VmmError:
        with open(f"{where}/{key}{_FAILED}", "w"):
            pass
        raise
    finally:
        remove_tree(new)


def _keep_some(where: str) -> None:
    for name in names()[MOST:]:
        remove_tree(f"{where}/{name}")
    for name in os.listdir(where):
        if name.endswith(_FAILED) and time.time() - _used(f"{where}/{name}") > RETRY_S:
            os.unlink(f"{where}/{name}")
