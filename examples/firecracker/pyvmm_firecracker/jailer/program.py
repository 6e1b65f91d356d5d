"""``pyvmm-jailer``: the command line of Firecracker's jailer."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING

from pyvmm_firecracker import VERSION
from pyvmm_firecracker.jailer import calls
from pyvmm_firecracker.jailer.groups import GroupError, Groups
from pyvmm_firecracker.jailer.root import Root

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = "/srv/jailer"
FILES = 2048
FAILED = 1
_LIMITS = {"fsize": resource.RLIMIT_FSIZE, "no-file": resource.RLIMIT_NOFILE}


def parser() -> argparse.ArgumentParser:
    """The options of the jailer of Firecracker 1.17."""
    made = argparse.ArgumentParser(
        prog="pyvmm-jailer",
        description="Start pyvmm-firecracker in a jail: a root directory, control groups and namespaces of its own, "
        "as a user without rights. Needs root.",
        epilog="Options behind -- are the program's.",
    )
    made.add_argument("--id", required=True, type=_identity, help="name of the machine: letters, digits and -")
    made.add_argument(
        "--exec-file", required=True, type=_program, metavar="PATH", help="the program, with firecracker in its name"
    )
    made.add_argument("--uid", required=True, type=_number, help="the user that it runs as")
    made.add_argument("--gid", required=True, type=_number, help="the group that it runs as")
    made.add_argument("--chroot-base-dir", default=BASE, metavar="PATH", help=f"where jails are (default: {BASE})")
    made.add_argument("--netns", metavar="PATH", help="a network namespace to join")
    made.add_argument("--daemonize", action="store_true", help="leave the terminal: a session of its own")
    made.add_argument("--new-pid-ns", action="store_true", help="a namespace of processes of its own")
    made.add_argument("--cgroup-version", type=int, choices=(1, 2), default=1, help="of --cgroup (default: 1)")
    made.add_argument(
        "--cgroup", action="append", default=[], type=_pair, metavar="FILE=VALUE", help="may be repeated"
    )  # fmt: skip
    made.add_argument("--parent-cgroup", type=_relative, metavar="PATH", help="default: the name of the program")
    made.add_argument(
        "--resource-limit", action="append", default=[], type=_limit, metavar="fsize|no-file=N", help="may be repeated"
    )
    made.add_argument("--version", action="version", version=f"Jailer v{VERSION}")
    return made


def _identity(text: str) -> str:
    if not 1 <= len(text) <= 64 or not all(each.isascii() and (each.isalnum() or each == "-") for each in text):
        raise argparse.ArgumentTypeError("1 to 64 letters, digits and - are expected")
    return text


def _program(text: str) -> str:
    path = os.path.realpath(text)
    if not os.path.isfile(path):
        raise argparse.ArgumentTypeError(f"{text} is no file")
    if "firecracker" not in os.path.basename(text):
        raise argparse.ArgumentTypeError(f"{text}: the name of the program must contain firecracker")
    return text


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= (1 << 32) - 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of a user or group")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    name, equal, value = text.partition("=")
    if not equal or not value or not text.isascii() or "." not in name or "/" in name or name.startswith("."):
        raise argparse.ArgumentTypeError(f"{text}: FILE=VALUE is expected, such as cpuset.cpus=0")
    return name, value


def _relative(text: str) -> str:
    if not text or text.startswith("/") or any(part in ("", ".", "..") for part in text.split("/")):
        raise argparse.ArgumentTypeError(f"{text}: a relative path without .. is expected")
    return text


def _limit(text: str) -> tuple[int, int]:
    name, _, value = text.partition("=")
    if name not in _LIMITS or not value.isascii() or not value.isdigit() or int(value) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text}: fsize=BYTES or no-file=COUNT is expected")
    return _LIMITS[name], int(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program in a jail; returns only if that fails, or as the parent of the program."""
    words = [*(sys.argv[1:] if argv is None else argv)]
    cut = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:cut])
    if os.geteuid() != 0:
        print("pyvmm-jailer: it must be started by root", file=sys.stderr)
        return FAILED
    try:
        return _run(options, words[cut + 1 :])
    except (OSError, GroupError) as error:
        print(f"pyvmm-jailer: {_words(error)}", file=sys.stderr)
        return FAILED


def _words(error: OSError | GroupError) -> str:
    if isinstance(error, GroupError) or not error.strerror:
        return str(error)
    return error.strerror + (f": {error.filename}" if error.filename else "")


def _run(options: argparse.Namespace, words: list[str]) -> int:
    begun, cpu = time.monotonic_ns() // 1000, time.process_time_ns() // 1000
    os.closerange(3, max(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024))
    os.umask(0o022)
    name = os.path.basename(options.exec_file)
    root = Root(options.chroot_base_dir, name, options.id)
    root.copy_program(options.exec_file, name)
    network = os.open(options.netns, os.O_RDONLY | os.O_CLOEXEC) if options.netns else -1
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    _set_limits(options.resource_limit)
    if options.cgroup or options.parent_cgroup:
        with open("/proc/mounts", encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read()
        parent = options.parent_cgroup or name
        Groups(options.cgroup_version, options.cgroup, parent, options.id, mounts).join(os.getpid())
    _enter(root, options.uid, options.gid)
    if network >= 0:
        calls.setns(network, calls.CLONE_NEWNET)
        os.close(network)
    own = time.process_time_ns() // 1000 - cpu  # a child has used none
    if options.daemonize:
        _leave_terminal(null)
    if options.new_pid_ns:
        calls.unshare(calls.CLONE_NEWPID)
        pid = os.fork()
        if pid:
            try:
                root.write_pid(f"{name}.pid", pid, options.uid, options.gid)
            except BaseException:
                os.kill(pid, signal.SIGKILL)  # nobody could find it
                os.waitpid(pid, 0)
                raise
            return 0
    else:
        root.write_pid(f"{name}.pid", os.getpid(), options.uid, options.gid)
    root.mount_processes()
    root.close()
    _become(options.uid, options.gid)
    times = [f"--start-time-us={begun}", f"--start-time-cpu-us={own}"]
    os.execve(f"/{name}", [f"/{name}", f"--id={options.id}", *times, *words], {})
    raise AssertionError("execve() does not return")


def _become(user: int, group: int) -> None:
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _set_limits(limits: list[tuple[int, int]]) -> None:
    for kind, value in [(resource.RLIMIT_NOFILE, FILES), *limits]:
        try:
            resource.setrlimit(kind, (value, value))
        except ValueError as error:
            raise OSError(f"a resource limit of {value} cannot be set: {error}") from error


def _enter(root: Root, user: int, group: int) -> None:
    calls.unshare(calls.CLONE_NEWNS)
    calls.mount("", "/", "", calls.MS_REC | calls.MS_PRIVATE)
    calls.mount(root.path, root.path, "", calls.MS_BIND)
    root.reopen()
    root.fill(user, group)
    root.enter()


def _leave_terminal(null: int) -> None:
    try:
        os.setsid()
    except PermissionError:  # the leader of a group of processes: a child is none
        if os.fork():
            os._exit(0)
        os.setsid()
    for fd in range(3):
        os.dup2(null, fd)


if __name__ == "__main__":
    sys.exit(main())
