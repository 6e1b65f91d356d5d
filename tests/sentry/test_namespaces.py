"""Namespaces of containers in one sandbox: processes, IPC objects, host names."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm_kata.errors import AgentError
from pyvmm_kata.host.procfs import read_listing
from tests.sentry.containers import Sandbox

if TYPE_CHECKING:
    from tests.sentry.conftest import Compile

OWN = ("pid", "ipc", "uts")
COUNT = itertools.count()


def spaces(*, of: str = "", kinds: tuple[str, ...] = OWN, **more: Any) -> dict[str, Any]:
    """A specification with namespaces of its own, or with those of another container."""
    path = {"path": f"container:{of}"} if of else {}
    return {"linux": {"namespaces": [{"type": kind, **path} for kind in kinds]}, **more}


def started(sandbox: Sandbox, name: str, script: str, spec: dict[str, Any]) -> None:
    """A container whose shell has printed a line."""
    root = sandbox.root(name)
    (root / "etc").mkdir()
    for applet in ("ps", "kill", "readlink", "xargs"):
        (root / "bin" / applet).symlink_to("busybox")
    sandbox.create(name, "sh", "-c", script, spec=spec)
    sandbox.agent.start_container(name)
    assert sandbox.agent.read_stdout(name, name, 100) == b"up\n"


def executed(sandbox: Sandbox, name: str, script: str) -> str:
    """Output of a shell that is added to a container."""
    exec_id = f"e{next(COUNT)}"
    sandbox.exec(name, exec_id, "sh", "-c", script)
    return sandbox.output(name, exec_id)


def test_a_container_is_removed_although_its_orphans_have_a_parent_in_another(sandbox: Sandbox) -> None:
    """The first program of a pod adopts them, and need not wait for its children. None of them stays."""
    started(sandbox, "c1", "echo up; exec sleep 100000", spaces())
    for name in ("c2", "c3"):
        started(sandbox, name, "sleep 100001 & sleep 100002 & echo up; wait", spaces(of="c1", kinds=("pid",)))
        sandbox.agent.signal_process(name, name, 9)
        assert sandbox.agent.wait_process(name, name) == 137
        sandbox.agent.remove_container(name, 20)
        assert executed(sandbox, "c1", "grep -l 'State:.*Z' /proc/[0-9]*/status") == ""
    sandbox.root("c4")
    assert sandbox.run("c4", "true", spec=spaces(of="c1", kinds=("pid",))) == (0, "")


def test_containers_do_not_see_each_others_processes(sandbox: Sandbox) -> None:
    """Each has its own process 1. /proc, ps and kill know those of the same namespace alone."""
    started(sandbox, "c1", "sleep 1001 & echo up; read line", spaces())
    started(sandbox, "c2", "sleep 1002 & echo up; read line", spaces())
    listed = executed(sandbox, "c2", "echo $$; echo /proc/[0-9]*; ps; kill -0 -1 && echo some")
    assert listed.splitlines()[:2] == ["3", "/proc/1 /proc/2 /proc/3"]
    assert "sleep 1002" in listed and "sleep 1001" not in listed
    found = executed(sandbox, "c1", "cat /proc/2/cmdline; readlink /proc/self; kill -9 77 || echo none")
    assert found.split("\0") == ["sleep", "1001", "5\nnone\n"]
    left = executed(sandbox, "c2", "kill -9 -1; while grep -q sleep /proc/2/cmdline 2>/dev/null; do :; done; ps")
    assert "read line" in left and "1002" not in left.replace("sleep 1002 & echo", "")
    assert sandbox.agent.list_pids("c1") == [1, 2]
    listing = read_listing(sandbox.agent.list_files("c1"))
    assert sorted(files["cmdline"].split(b"\0")[0] for files in listing.processes.values()) == [b"sh", b"sleep"]
    links = "readlink /proc/self/ns/pid; readlink /proc/1/ns/ipc; readlink /proc/1/ns/uts; readlink /proc/1/ns/net"
    first, second = (executed(sandbox, name, links).split() for name in ("c1", "c2"))
    assert [one == other for one, other in zip(first, second, strict=True)] == [False, False, False, True]


def test_priorities_of_a_user_are_those_of_the_namespace(sandbox: Sandbox) -> None:
    """Root of one container is the same user as root of another one, whose processes keep their priority."""
    for name in ("c1", "c2"):
        started(sandbox, name, "echo root:x:0:0::/:/bin/sh >/etc/passwd; echo up; read line", spaces())
    show = "busybox cut -d' ' -f19 /proc/1/stat"
    assert executed(sandbox, "c1", f"busybox renice -n 7 -u root; {show}").split() == ["7"]
    assert executed(sandbox, "c2", show).split() == ["0"]


def test_a_shared_namespace_of_processes(sandbox: Sandbox) -> None:
    """All see each other, orphans go to process 1, and its end ends all."""
    reap = "trap : CHLD; trap 'echo gone; exit 5' TERM; echo up; while :; do read line; done"
    started(sandbox, "pause", reap, spaces())
    started(sandbox, "c1", "echo $$ >/pid; sleep 1001 & echo up; read line", spaces(of="pause", kinds=("pid",)))
    listed = executed(sandbox, "pause", "ps")
    assert "sleep 1001" in listed and (sandbox.shared / "c1" / "rootfs" / "pid").read_text() == "2\n"
    orphan = executed(
        sandbox, "c1", "(sh -c 'sleep 1003 >/dev/null 2>&1 & echo $!') | xargs -I N grep PPid /proc/N/status"
    )
    assert orphan == "PPid:\t1\n"
    executed(sandbox, "pause", "kill 1")
    assert sandbox.agent.wait_process("pause", "pause") == 5
    assert sandbox.agent.wait_process("c1", "c1") == 128 + 9
    sandbox.root("late")
    with pytest.raises(AgentError, match="process 1 of the pid namespace has ended"):
        sandbox.create("late", "true", spec=spaces(of="pause"))
    sandbox.agent.remove_container("c1", 5)
    sandbox.agent.remove_container("pause", 5)


def test_signals_to_process_1(sandbox: Sandbox) -> None:
    """Those for which it has no handler reach it from outside only, and then SIGKILL alone; a fault ends it."""
    started(sandbox, "c1", "echo up; exec sleep 1000", spaces())
    wait = "while ! grep -q sleep /proc/1/comm; do :; done"
    kept = f"{wait}; kill -9 1; kill -15 1; kill -2 1; kill -STOP 1; cat /proc/1/comm"
    assert executed(sandbox, "c1", kept) == "sleep\n"
    sandbox.agent.signal_process("c1", "", 15)
    assert executed(sandbox, "c1", "cat /proc/1/comm") == "sleep\n"
    sandbox.agent.signal_process("c1", "", 9)
    assert sandbox.agent.wait_process("c1", "c1") == 128 + 9


def test_a_tracer_stops_process_1(sandbox: Sandbox, compile_static: Compile) -> None:
    started(sandbox, "c1", "echo up; exec sleep 1000", spaces())
    shutil.copy(compile_static("spaces"), sandbox.shared / "c1" / "rootfs" / "bin" / "spaces")
    assert executed(sandbox, "c1", "spaces trace; cat /proc/1/comm") == "stopped 19\nsleep\n"


def test_terminals_of_other_containers(sandbox: Sandbox) -> None:
    """Each has its own: nobody reads what is typed into the shell of another container."""
    started(sandbox, "c1", "echo up; read line", spaces())
    started(sandbox, "c2", "echo up; read line", spaces())
    sandbox.exec("c1", "shell", "sh", "-c", "echo ready; read line; echo got $line; ls -1 /dev/pts", terminal=True)
    assert sandbox.agent.read_stdout("c1", "shell", 100) == b"ready\r\n"
    others = "ls /dev/pts; (for n in 0 1 2 3; do echo x >/dev/pts/$n; done) 2>/dev/null; echo done"
    assert executed(sandbox, "c2", others) == "ptmx\ndone\n"
    sandbox.agent.write_stdin("c1", "shell", b"line\n")
    lines = sandbox.output("c1", "shell").split("\r\n")
    assert lines[1] == "got line" and lines[3:] == ["ptmx", ""]


def test_host_names(sandbox: Sandbox) -> None:
    started(sandbox, "c1", "echo up; read line", spaces(hostname="one"))
    started(sandbox, "c2", "echo up; read line", spaces(hostname="two"))
    started(sandbox, "c3", "echo up; read line", spaces(of="c1", kinds=("uts",)))
    show = "hostname; cat /proc/sys/kernel/hostname"
    found = [executed(sandbox, name, show).split() for name in ("c1", "c2", "c3")]
    assert found == [["one", "one"], ["two", "two"], ["one", "one"]]


def test_ipc_objects_and_their_end(sandbox: Sandbox, compile_static: Compile) -> None:
    """Objects of System V and POSIX message queues are those of a namespace, and end with its last container."""
    program = compile_static("spaces")

    def container(name: str, spec: dict[str, Any], what: str) -> str:
        root = sandbox.root(name)
        shutil.copy(program, root / "bin" / "spaces")
        count = "cat /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | wc -l"
        sandbox.create(name, "sh", "-c", f"echo $(spaces {what}; {count}); read line", spec=spec)
        sandbox.agent.start_container(name)
        return sandbox.agent.read_stdout(name, name, 100).decode()

    def free() -> int:
        """Of the sandbox, in MiB; programs that it keeps are smaller than the segment."""
        return int(executed(sandbox, "watch", "grep MemFree /proc/meminfo").split()[1]) >> 10

    started(sandbox, "watch", "echo up; read line", spaces())
    before = free()
    assert container("c1", spaces(), "make") == "42 1 1 1 6\n"
    assert container("c2", spaces(), "look") == "-1 0 0 0 3\n"
    assert container("c3", spaces(of="c1", kinds=("ipc",)), "look") == "42 1 1 1 6\n"
    for name in ("c1", "c2"):
        sandbox.agent.remove_container(name, 5)
    assert free() < before - 15, "the segment is in use"
    sandbox.agent.remove_container("c3", 5)
    assert free() > before - 8


@pytest.mark.parametrize(("spec", "seen"), [(spaces(), "0 0"), (spaces(of="c1"), "2 2")], ids=["own", "shared"])
def test_the_number_of_a_peer(sandbox: Sandbox, compile_static: Compile, spec: dict[str, Any], seen: str) -> None:
    """A unix socket's peer of another namespace has the number 0."""
    program = compile_static("spaces")
    for name in ("c1", "c2"):
        shutil.copy(program, sandbox.root(name) / "bin" / "spaces")
    sandbox.create("c1", "spaces", "serve", spec=spaces())
    sandbox.agent.start_container("c1")
    assert sandbox.agent.read_stdout("c1", "c1", 100) == b"up\n"
    sandbox.create("c2", "spaces", "use", spec=spec)
    sandbox.agent.start_container("c2")
    assert sandbox.output("c1") == f"{seen}\n"


def test_a_namespace_that_no_container_has(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    for path in ("container:nobody", "container:", "/proc/1/ns/pid"):
        spec = {"linux": {"namespaces": [{"type": "pid", "path": path}]}}
        with pytest.raises(AgentError, match="no container has the pid namespace"):
            sandbox.create("c1", "true", spec=spec)
    assert sandbox.run("c1", "sh", "-c", "echo $$", spec=spaces()) == (0, "1\n")
