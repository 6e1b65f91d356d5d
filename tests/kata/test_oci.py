"""pyvmm-oci as podman, conmon and containerd call it, with a machine that runs nothing: programs run on the host."""

from __future__ import annotations

import array
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pyvmm_kata import state
from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.errors import HostError
from pyvmm_kata.host import hooks
from pyvmm_kata.oci.container_service import tell_oom
from pyvmm_kata.oci.delete import clear, wait_removed
from pyvmm_kata.protocol import control
from tests.command import links_of, of_threads
from tests.installed import wait_for_image
from tests.kata.oci_runtime import PATIENCE, PROGRAM, WARM, Runtime, eventually, needs_namespaces, running

pytestmark = needs_namespaces


def test_run_is_as_the_program_is(runtime: Runtime) -> None:
    done = runtime.run("run", "--bundle", runtime.bundle("cat; echo more >&2; exit 3"), "c1", input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "typed\n", "more\n")
    done = runtime.run("state", "c1")
    assert (done.returncode, "container does not exist" in done.stderr) == (1, True), "it is still there"
    eventually(lambda: os.listdir(runtime.root) == [], "something of it is left")


def test_its_folder_is_gone_when_run_returns(runtime: Runtime) -> None:
    """As crun's: a program that looks there next finds no container.  The machine's folder ends with that."""
    bundle = runtime.bundle("exit 3")
    for _ in range(5):
        assert runtime.run("run", "-b", bundle, "c1").returncode == 3
        assert [name for name in os.listdir(runtime.root) if not name.startswith("@")] == []
    wait_for_machines(runtime.root)
    assert os.listdir(runtime.root) == []


def wait_for_machines(root: Path) -> None:
    """Until the processes whose folders are there (``@PID-START``) have ended."""
    for name in os.listdir(root):
        try:
            fd = os.pidfd_open(int(name.removeprefix("@").partition("-")[0]))
        except ProcessLookupError:
            continue
        ended = select.poll()
        ended.register(fd, select.POLLIN)
        assert ended.poll(PATIENCE * 1000), f"the machine of {name} does not end"
        os.close(fd)


def test_a_bad_policy_is_one_line_and_nothing_is_made(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "policy").write_text("default ExecProcessRequest := sometimes\n")
    (tmp_path / "kata.toml").write_text('policy = "policy"\n')
    done = runtime.run("--config", str(tmp_path / "kata.toml"), "run", "--bundle", runtime.bundle("true"), "c1")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"policy {tmp_path}/policy, line 1: 'default ExecProcessRequest := sometimes' is no rule" in done.stderr
    assert not runtime.root.exists()


def test_whoever_reads_late_gets_all(runtime: Runtime) -> None:
    """What is written when the program ends fills two pipes, the guest's and this one."""
    command = runtime.command("run", "--bundle", runtime.bundle("head -c 120000 /dev/zero; exit 6"), "one")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.wait(PATIENCE) == 6
        assert process.stdout is not None
        assert len(process.stdout.read()) == 120000


def test_the_monitor_has_given_up_what_it_does_not_need(runtime: Runtime) -> None:
    """And so has every thread of it: capabilities for the host's kernel and clock, new privileges, a core."""
    runtime.started("c1", "sleep 600")
    pid = json.loads((runtime.root / "c1" / "state.json").read_text())["monitor"]
    for text in of_threads("status", pid).values():
        status = dict(line.split(":", 1) for line in text.splitlines())
        for kind in ("CapBnd", "CapEff", "CapPrm"):
            held = int(status[kind], 16)
            assert held & 1 << 21, "CAP_SYS_ADMIN: it mounts"
            for lost in (16, 17, 22, 25, 27, 34):  # modules, raw I/O, reboot, clock, device nodes, the kernel's log
                assert not held & 1 << lost
        assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2"
    for name in ("ipc", "uts", "mnt"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
    assert re.search(r"Max core file size +0 +0", Path(f"/proc/{pid}/limits").read_text())
    runtime.check("delete", "--force", "c1")


def test_a_full_run_refuses_containers_and_takes_none_away(runtime: Runtime) -> None:
    """No space for states: what there is goes on, ends and is deleted; what is to come is refused, and not left."""
    runtime.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(runtime.root)], check=True)
    try:
        runtime.started("c1", "sleep 600")
        with open(runtime.root / "filler", "wb", 0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        refused = runtime.run("run", "--bundle", runtime.bundle("true"), "c2")
        assert refused.returncode == 1 and refused.stderr.count("No space left on device: ") == 1, refused.stderr
        assert str(runtime.root / "c2") in refused.stderr and not (runtime.root / "c2").exists()
        assert runtime.check("exec", "c1", "echo", "works") == "works\n"
        runtime.check("kill", "c1", "KILL")
        runtime.wait("c1", "stopped")
        runtime.check("delete", "c1")
        (runtime.root / "filler").unlink()
        runtime.check("run", "--bundle", runtime.bundle("true"), "c3")
        assert os.listdir(runtime.root) == []
    finally:
        subprocess.run(["umount", "-l", str(runtime.root)], check=True)


def test_a_program_killed_by_a_signal(runtime: Runtime) -> None:
    assert runtime.run("run", "-b", runtime.bundle("kill -KILL $$"), "c1").returncode == 137


def test_a_program_that_is_not_there(runtime: Runtime) -> None:
    path = runtime.bundle("true")
    spec = json.loads(Path(path, "config.json").read_text())
    spec["process"]["args"] = ["/no/such/program"]
    Path(path, "config.json").write_text(json.dumps(spec))
    done = runtime.run("run", "-b", path, "c1")
    assert done.returncode == 1
    assert "executable file `/no/such/program` not found" in done.stderr
    assert os.listdir(runtime.root) == []


def test_a_life_in_steps(runtime: Runtime, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with open(tmp_path / "out", "wb") as out:
        command = runtime.command(
            "create", "--pid-file", str(pid_file), "-b", runtime.bundle("echo on; sleep 600"), "c1"
        )
        assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode == 0
    state = runtime.state("c1")
    assert (state["status"], state["pid"], state["id"]) == ("created", int(pid_file.read_text()), "c1")
    assert (tmp_path / "out").read_text() == ""
    refused = runtime.run("delete", "nobody")
    assert (refused.returncode, "does not exist" in refused.stderr) == (1, True)
    refused = runtime.run("delete", "c1")
    assert refused.returncode == 1 and "cannot delete container c1 that is not stopped: created" in refused.stderr
    assert runtime.state("c1") == state, "the specification: no effect"
    runtime.check("start", "c1")
    assert runtime.state("c1")["status"] == "running"
    assert "that is created" not in runtime.run("start", "c1").stderr
    assert "cannot start a container that is running" in runtime.run("start", "c1").stderr
    assert "not stopped" in runtime.run("delete", "c1").stderr
    eventually(lambda: (tmp_path / "out").read_text() == "on\n", "no output")
    runtime.check("kill", "c1", "TERM")
    runtime.wait("c1", "stopped")
    assert runtime.state("c1")["pid"] == 0
    assert "container not running" in runtime.run("kill", "c1").stderr
    runtime.check("kill", "--all", "c1", "9")
    runtime.check("delete", "c1")
    assert runtime.run("state", "c1").returncode == 1
    assert runtime.run("delete", "--force", "c1").returncode == 0


def test_a_pid_file_that_cannot_be_written(runtime: Runtime) -> None:
    done = runtime.run("create", "--pid-file", "/no/where", "-b", runtime.bundle("sleep 600"), "c1")
    assert (done.returncode, "--pid-file /no/where" in done.stderr) == (1, True)
    assert os.listdir(runtime.root) == []
    eventually(lambda: not processes_of(runtime.root), "processes are left")


def test_the_id_is_taken(runtime: Runtime) -> None:
    runtime.created("c1", "true")
    done = runtime.run("create", "-b", runtime.bundle("true"), "c1")
    assert (done.returncode, "exists already" in done.stderr) == (1, True)
    assert runtime.state("c1")["status"] == "created"


def test_who_adopts_the_monitor_gets_the_status(runtime: Runtime, tmp_path: Path) -> None:
    """As conmon does: a subreaper that waits for the pid of the pid file."""
    program = f"""
import ctypes, os, subprocess
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
command = {runtime.command("create", "--pid-file", str(tmp_path / "pid"), "-b", runtime.bundle("exit 42"), "c1")!r}
subprocess.run(command, check=True)
subprocess.run({runtime.command("start", "c1")!r}, check=True)
pid = int(open({str(tmp_path / "pid")!r}).read())
print("waited", pid == os.waitpid(pid, 0)[0], flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "waited True\n", done.stderr


def test_a_created_container_is_killed(runtime: Runtime) -> None:
    runtime.created("c1", "sleep 600")
    runtime.check("kill", "c1", "KILL")
    runtime.wait("c1", "stopped")


def test_the_pid_of_a_killed_container_ends_before_a_slow_guest(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """podman waits for the pid, and not for long; whoever removes the container waits for its guest."""
    slow = tmp_path / "slow"
    monkeypatch.setenv("PYVMM_FAKE_SLOW", str(slow))
    runtime.started("c1", "sleep 600")
    slow.touch()
    known = json.loads((runtime.root / "c1" / "state.json").read_text())
    runtime.check("kill", "c1", "KILL")
    eventually(lambda: not running(known["pid"]), "its pid lives as long as the guest says nothing")
    assert runtime.state("c1")["status"] == "stopped" and running(known["monitor"])
    with subprocess.Popen(runtime.command("delete", "c1")) as deleting:
        assert running(known["monitor"])
        slow.unlink()
        assert deleting.wait(PATIENCE) == 0
    assert not running(known["monitor"]) and os.listdir(runtime.root) == []


def test_requests_that_are_none(runtime: Runtime) -> None:
    """Whatever is sent, and however many say nothing, the next command is answered."""
    runtime.started("c1", "sleep 600")
    monitor = json.loads((runtime.root / "c1" / "state.json").read_text())["monitor"]
    path = str(runtime.root / "c1" / "control")
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        for text in (
            b"\n",
            b"[" * 100_000 + b"\n",
            b"5\n",
            b'{"op": 5}\n',
            b'{"op": "kill", "signal": []}\n',
            b"\xff\n",
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)  # without a timeout, which makes a full queue an error (unix(7))
                sock.settimeout(PATIENCE)
                sock.sendall(text)
                answer = sock.recv(4096)
                assert b"error" in answer and b"Traceback" not in answer, answer
        assert runtime.check("exec", "c1", "echo", "on") == "on\n"
        before = resource.prlimit(monitor, resource.RLIMIT_NOFILE)
        resource.prlimit(monitor, resource.RLIMIT_NOFILE, (8, before[1]))
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(path)
            late.sendall(b'{"op": "nothing"}\n')
            resource.prlimit(monitor, resource.RLIMIT_NOFILE, before)
            late.settimeout(PATIENCE)
            assert b"no request" in late.recv(4096), "it is served when there are descriptors again"
    assert "Traceback" not in runtime.output("c1")
    runtime.check("delete", "--force", "c1")


def test_a_container_for_which_there_are_too_few_descriptors(runtime: Runtime) -> None:
    """The last line says so, whichever of them is missing, and nothing is left."""
    bundle = runtime.bundle("exit 0")
    for most in (6, 12, 15, 18, 21, 24):
        command = ["prlimit", f"--nofile={most}:{most}", *runtime.command("run", "--bundle", bundle, "c1")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.endswith("Too many open files\n"), done.stderr
        assert os.listdir(runtime.root) == []


def test_who_is_not_seen_is_not_taken_for_dead(runtime: Runtime) -> None:
    """Without descriptors nobody can tell whether a process lives, and what belongs to it stays."""
    runtime.started("c1", "sleep 600")
    code = """
import os, resource, sys
from pyvmm_kata import state
from pyvmm_kata.errors import HostError
known = state.read(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    print(state.is_alive(known["pid"], known["startTime"]))
except HostError as error:
    print(error)
"""
    folder = str(runtime.root / "c1")
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.endswith("/stat: Too many open files\n"), done
    runtime.check("delete", "--force", "c1")


def test_signals_of_the_pid_reach_the_program(runtime: Runtime) -> None:
    runtime.started("c1", "trap 'echo heard; exit 5' TERM; echo ready; while :; do sleep 0.1; done")
    eventually(lambda: "ready" in runtime.output("c1"), "not ready")
    os.kill(runtime.state("c1")["pid"], signal.SIGTERM)
    runtime.wait("c1", "stopped")
    assert runtime.output("c1") == "ready\nheard\n"


def receive_console(listener: socket.socket) -> int:
    """As conmon does: the master of a terminal."""
    connection, _ = listener.accept()
    with connection:
        _, extra, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    return array.array("i", extra[0][2])[0]


def read_until(fd: int, words: bytes) -> bytes:
    seen = b""
    while words not in seen:
        piece = os.read(fd, 4096)
        assert piece, seen
        seen += piece
    return seen


def test_terminals_over_a_socket(runtime: Runtime, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        listener.settimeout(PATIENCE)
        bundle = runtime.bundle("tty; read line; echo got $line", terminal=True)
        create = ("create", "--console-socket", str(tmp_path / "console"), "-b", bundle, "c1")
        runtime.check(*create)
        master = receive_console(listener)
        runtime.check("start", "c1")
        read_until(master, b"/dev/pts/")
        os.write(master, b"hello\r")
        read_until(master, b"got hello\r\n")
        runtime.wait("c1", "stopped")
        os.close(master)


@pytest.mark.parametrize(("terminal", "options"), [(True, ()), (False, ("--console-socket", "/x"))])
def test_a_terminal_and_its_socket_go_together(runtime: Runtime, terminal: bool, options: tuple[str, ...]) -> None:
    done = runtime.run("create", *options, "-b", runtime.bundle("true", terminal=terminal), "c1")
    assert done.returncode == 1
    assert "process.terminal" in done.stderr


def test_statistics_processes_and_limits(runtime: Runtime) -> None:
    runtime.started("c1", "sleep 600")
    event = json.loads(runtime.check("events", "--stats", "c1"))
    assert (event["type"], event["id"], event["data"]["pids"]["current"]) == ("stats", "c1", 2)
    assert json.loads(runtime.check("ps", "--format", "json", "c1")) == [1, 7]
    runtime.check("update", "--memory", "64M", "c1")
    runtime.check("update", "--resources", "-", "c1", input='{"pids": {"limit": 9}}')
    assert "not JSON" in runtime.run("update", "--resources", "-", "c1", input="{").stderr
    assert "nothing to change" in runtime.run("update", "c1").stderr


def test_pause_and_resume(runtime: Runtime) -> None:
    runtime.started("c1", "sleep 600")
    runtime.check("pause", "c1")
    assert runtime.state("c1")["status"] == "paused"
    assert "that is paused" in runtime.run("exec", "c1", "true").stderr
    assert "it is paused" in runtime.run("pause", "c1").stderr
    runtime.check("resume", "c1")
    assert runtime.state("c1")["status"] == "running"


def test_list(runtime: Runtime) -> None:
    assert runtime.check("list", "--format", "json") == "null\n"
    runtime.created("one", "true")
    assert runtime.check("list", "-q") == "one\n"
    found = json.loads(runtime.check("list", "--format=json"))
    assert [(each["id"], each["status"]) for each in found] == [("one", "created")]
    header, row = runtime.check("list").splitlines()
    assert header.split()[:3] == ["ID", "PID", "STATUS"]
    assert row.split()[::2][:2] == ["one", "created"]


def test_hooks_see_the_state(runtime: Runtime, tmp_path: Path) -> None:
    hook = tmp_path / "hook.sh"
    hook.write_text(f'#!/bin/sh\necho "$1 $PWD $(cat)" >>{tmp_path}/log\n')
    hook.chmod(0o755)
    kinds = ("prestart", "createRuntime", "poststart", "poststop")
    hooks = {kind: [{"path": str(hook), "args": ["hook", kind], "env": ["A=b"]}] for kind in kinds}
    runtime.started("c1", "sleep 600", hooks=hooks)
    runtime.check("delete", "--force", "c1")
    lines = (tmp_path / "log").read_text().splitlines()
    states = [json.loads(line.split(" ", 2)[2]) for line in lines]
    assert [line.split()[0] for line in lines] == list(kinds)
    assert {line.split()[1] for line in lines} == {states[0]["bundle"]}, "they do not run where runc's do"
    assert [state["status"] for state in states] == ["created", "created", "running", "stopped"]
    assert states[0]["pid"] == states[2]["pid"] > 1


def test_a_hook_has_its_first_argument(tmp_path: Path) -> None:
    """dockerd names itself as the hook, and decides by ``argv[0]`` that it is one."""
    entry = {"path": "/bin/sh", "args": ["libnetwork-setkey", "-c", f"echo $0 >{tmp_path}/name"]}
    hooks.run({"prestart": [entry]}, "prestart", {"bundle": str(tmp_path)})
    assert (tmp_path / "name").read_text() == "libnetwork-setkey\n"


def test_a_hook_that_fails_ends_it(runtime: Runtime) -> None:
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 9"]}]}
    done = runtime.run("create", "-b", runtime.bundle("true", hooks=hooks), "c1")
    assert done.returncode == 1
    assert "createRuntime hook /bin/sh ended with 9: no" in done.stderr
    assert os.listdir(runtime.root) == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("trap '' TERM; sleep 600 & wait; sleep 600", "did not end in 1 s"),
        ("yes >&2", "did not end in 1 s"),
        ("yes", "did not end in 1 s"),
        ("sleep 600 & echo on >&2; exit 4", "ended with 4: on"),
        ("head -c 40000000 /dev/zero >&2; echo last >&2; exit 3", "last"),
        ("exec <&-; exit 5", "ended with 5"),
        ("yes >&2 & exit 6", "ended with 6"),
    ],
)
def test_a_hook_that_hangs_or_floods(tmp_path: Path, script: str, words: str) -> None:
    """It costs its time and nothing else; what it leaves running is waited for by nobody."""
    script = f"echo $$ >{tmp_path}/pid; {script}"
    entry: dict[str, Any] = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"PATH={os.environ['PATH']}"]}
    entry |= {"timeout": 1} if "1 s" in words else {}
    state = {"bundle": str(tmp_path), "annotations": {"long": "x" * 300_000}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = os.listdir("/proc/self/fd")
    with pytest.raises(HostError, match="createRuntime hook /bin/sh ") as raised:
        hooks.run({"createRuntime": [entry]}, "createRuntime", state)
    assert str(raised.value).endswith(words) or words in str(raised.value)[-600:]
    assert len(str(raised.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10, "KiB"
    assert os.listdir("/proc/self/fd") == files
    group = int((tmp_path / "pid").read_text())
    if "1 s" in words:
        eventually(lambda: not group_lives(group), "a part of it lives")
    elif group_lives(group):
        os.killpg(group, signal.SIGKILL)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_hooks_after_one_that_fails(tmp_path: Path) -> None:
    """Of poststop all run, of the others none."""
    touch = {"path": "/usr/bin/touch", "args": ["touch", str(tmp_path / "ran")]}
    entries = [{"path": "/bin/false", "args": ["false"]}, touch]
    told: list[str] = []
    hooks.run({"poststop": entries}, "poststop", {"bundle": str(tmp_path)}, told.append)
    assert told == ["poststop hook /bin/false ended with 1: "] and (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    with pytest.raises(HostError):
        hooks.run({"prestart": entries}, "prestart", {"bundle": str(tmp_path)})
    assert not (tmp_path / "ran").exists()


def test_hooks_of_the_host_in_the_container_cannot_be(runtime: Runtime) -> None:
    bundle = runtime.bundle("true", hooks={"createContainer": [{"path": "/bin/true"}]})
    assert "hooks.createContainer" in runtime.run("create", "-b", bundle, "c1").stderr
    assert not runtime.root.exists(), "something was made"


def test_what_no_guest_can_have_is_refused_before_anything_is_made(runtime: Runtime) -> None:
    """Not after the machine's boot, and not after the hooks."""
    hooks = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"touch {runtime.folder}/run"]}]}
    mount = {"destination": "/x", "type": "bind", "source": "/dev/kvm", "options": ["bind"]}
    done = runtime.run("create", "-b", runtime.bundle("true", hooks=hooks, mounts=[mount]), "c1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mounts[0].source: /dev/kvm is no file" in done.stderr
    assert not runtime.root.exists()
    assert not (runtime.folder / "run").exists()


def test_errors_are_logged_as_runc_logs_them(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = runtime.run("--log", str(log), "--log-format", "json", "state", "nobody")
    assert done.returncode == 1
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist: nobody")
    runtime.run("--log", str(tmp_path / "text"), "state", "nobody")
    assert re.match(r'time="[^"]+" level=error msg="container does not', (tmp_path / "text").read_text())


def test_debugging_tells_when_things_happened(runtime: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = time.monotonic()
    runtime.check("--debug", "--log", str(log), "--log-format", "json", "run", "-b", runtime.bundle("true"), "c1")
    notes = [json.loads(line) for line in log.read_text().splitlines()]
    assert {note["level"] for note in notes} == {"debug"}
    times = {note["msg"]: note["monotonic"] for note in notes}
    steps = ["command", "monitor", "namespaces", "machine", "connected", "sandbox", "container", "start", "exited"]
    happened = [before, *(times[step] for step in [*steps, "closed", "deleted"]), time.monotonic()]
    assert happened == sorted(happened)
    runtime.check("--debug", "--log", str(tmp_path / "text"), "run", "-b", runtime.bundle("true"), "c1")
    line = (tmp_path / "text").read_text().splitlines()[0]
    assert re.fullmatch(r'time="[^"]+" level=debug msg="command" monotonic=[0-9.]+', line)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "no command 'frobnicate'"),
        (["create", "--frob", "c1"], "option --frob is not known"),
        (["create", "--bundle"], "needs a value"),
        (["state"], "the container's id is missing"),
        (["state", "a", "b"], "'b' is one argument too many"),
        (["state", "../x"], "is not the id of a container"),
        (["kill", "c1", "SIGFROB"], "'SIGFROB' is no signal"),
        (["create", "--preserve-fds", "3", "c1"], "--preserve-fds"),
        (["create", "--preserve-fds", "x", "c1"], "'x' is not a number"),
        (["create", "--bundle", "/nowhere", "c1"], "/nowhere/config.json: No such file"),
        (["events", "--interval", "soon", "c1"], "does not exist"),
        (["list", "--format", "xml"], "neither table nor json"),
    ],
)
def test_a_bad_command_line(runtime: Runtime, arguments: list[str], words: str) -> None:
    done = runtime.run(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hosts_network_cannot_be_had(runtime: Runtime) -> None:
    bundle = runtime.bundle("true")
    path = Path(bundle, "config.json")
    spec = json.loads(path.read_text())
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "network"]
    path.write_text(json.dumps(spec))
    assert "a virtual machine cannot have" in runtime.run("create", "-b", bundle, "c1").stderr


def test_what_callers_ask_first(runtime: Runtime, tmp_path: Path) -> None:
    assert runtime.check("--version").startswith("pyvmm-oci version ")
    features = json.loads(runtime.check("features"))
    assert "rbind" in features["mountOptions"]
    assert "exec" in runtime.check("--help")
    runtime.check("spec", "--bundle", str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["sh"]
    assert "exists already" in runtime.run("spec", "--bundle", str(tmp_path)).stderr


@pytest.mark.parametrize("started", [False, True])
def test_a_monitor_that_was_killed_is_cleared(runtime: Runtime, started: bool) -> None:
    runtime.created("c1", "sleep 600")
    if started:
        runtime.check("start", "c1")
    os.kill(runtime.state("c1")["pid"], signal.SIGKILL)
    runtime.wait("c1", "stopped")
    runtime.check("delete", "c1")


@pytest.mark.parametrize("moved", [False, True], ids=["there", "moved"])
def test_a_monitor_that_is_killed_when_its_container_has_ended(runtime: Runtime, moved: bool) -> None:
    """The container exists no more, and something of it is left."""
    runtime.started("c1", "sleep 600")
    folder = runtime.root / "c1"
    os.kill(json.loads((folder / "state.json").read_text())["monitor"], signal.SIGKILL)
    runtime.wait("c1", "stopped")
    machine = next(runtime.root.glob("@*"))
    if moved:
        assert state.leave(str(folder), str(machine)) == str(machine / "removed-c1")
    else:
        (folder / "state.json").rename(folder / "removed.json")
    assert "container does not exist" in runtime.run("delete", "c1").stderr
    assert runtime.check("list", "--quiet") == ""
    assert runtime.run("run", "-b", runtime.bundle("exit 5"), "c1").returncode == 5
    runtime.started("c1", "sleep 600")


def test_the_next_of_its_name_waits_for_the_machine(tmp_path: Path) -> None:
    """The folder is gone before the control group is, which both would have."""
    (tmp_path / "@1-1" / "removed-c1").mkdir(parents=True)
    (tmp_path / "c1").mkdir()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as monitor:
        known = {"pid": 0, "startTime": 0, "monitor": monitor.pid, "monitorStart": state.start_time(monitor.pid)}
        (tmp_path / "@1-1" / "removed-c1" / "removed.json").write_text(json.dumps({**known, "cgroup": ""}))
        waiting = Thread(target=wait_removed, args=(str(tmp_path / "c1"),))
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        assert monitor.stdin is not None
        monitor.stdin.close()
        waiting.join()
    assert sorted(os.listdir(tmp_path)) == ["@1-1", "c1"] and os.listdir(tmp_path / "@1-1") == []


def test_a_name_is_free_while_its_container_is_removed(tmp_path: Path) -> None:
    """A folder with many files takes a while."""
    folder = tmp_path / "c1"
    for _ in range(3):
        folder.mkdir()
        for number in range(300):
            (folder / f"{number}").touch()
        gone = {"pid": 0, "startTime": 0, "cgroup": "", "shared": True}
        (folder / "removed.json").write_text(json.dumps(gone))
        removing = Thread(target=clear, args=(str(folder), ""))
        removing.start()
        while (folder / "removed.json").exists():
            pass
        wait_removed(str(folder))
        folder.mkdir()  # as `create` does
        removing.join()
        shutil.rmtree(folder, ignore_errors=True)
        assert os.listdir(tmp_path) == []


def test_a_state_that_cannot_be_read_is_cleared(runtime: Runtime) -> None:
    runtime.created("c1", "sleep 600")
    pid = runtime.state("c1")["pid"]
    (runtime.root / "c1" / "state.json").write_text("{")
    done = runtime.run("state", "c1")
    assert (done.returncode, "cannot be read" in done.stderr) == (1, True)
    runtime.check("delete", "--force", "c1")
    assert runtime.run("state", "c1").returncode == 1
    assert not running(pid)
    assert os.listdir(runtime.root) == []


def test_a_state_that_cannot_be_read_of_who_is_gone(runtime: Runtime) -> None:
    runtime.created("c1", "sleep 600")
    known = json.loads((runtime.root / "c1" / "state.json").read_text())
    os.kill(known["monitor"], signal.SIGKILL)
    eventually(lambda: not running(known["monitor"]) and not running(known["pid"]), "it did not end")
    (runtime.root / "c1" / "state.json").write_text("{")
    runtime.check("delete", "--force", "c1")
    assert os.listdir(runtime.root) == []


def processes_of(root: Path) -> list[str]:
    """Who has the root's path on its command line."""
    found = []
    for name in os.listdir("/proc"):
        try:
            line = Path("/proc", name, "cmdline").read_bytes() if name.isdigit() else b""
        except OSError:
            continue
        if os.fsencode(root) in line and name != str(os.getpid()):
            found.append(f"{name} {line!r}")
    return found


def kill_all(runtime: Runtime) -> None:
    """All that runs for the runtime's root, as the host's kernel might for want of memory."""
    for line in processes_of(runtime.root):
        try:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue
    eventually(lambda: not processes_of(runtime.root), "processes are left")


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.4])
def test_whoever_dies_while_it_is_made(runtime: Runtime, delay: float) -> None:
    """``create`` and all that it has started, killed at some moment: what is left is cleared."""
    command = runtime.command("create", "--bundle", runtime.bundle("sleep 600"), "c1")
    with subprocess.Popen(command, stdin=-3, stdout=-3, stderr=-3) as create:
        time.sleep(delay)  # not a wait for something: any moment will do
        create.kill()
    kill_all(runtime)
    runtime.check("delete", "--force", "c1")
    assert runtime.run("state", "c1").returncode == 1
    runtime.started("c1", "true")
    runtime.wait("c1", "stopped")


KILLS = int(os.environ.get("PYVMM_TEST_KILLS", "6"))
COMMANDS = (("start", "c1"), ("exec", "c1", "sleep", "0.3"), ("kill", "c1", "KILL"), ("delete", "--force", "c1"))


def test_whoever_dies_at_random(runtime: Runtime) -> None:
    """A command, and at times the monitor, killed while the command is at work: what is left is cleared."""
    chance = random.Random(3)
    for number in range(KILLS):
        command = COMMANDS[number % len(COMMANDS)]
        runtime.created("c1", "sleep 600")
        if command[0] in ("exec", "kill"):
            runtime.check("start", "c1")
        monitor = json.loads((runtime.root / "c1" / "state.json").read_text())["monitor"]
        delay = chance.uniform(0, 0.8)
        with subprocess.Popen(runtime.command(*command), stdin=-3, stdout=-3, stderr=-3) as victim:
            time.sleep(delay)  # any moment will do
            victim.kill()
        if number % 3 == 0 and running(monitor):
            os.kill(monitor, signal.SIGKILL)
        print(f"{number}: {command[0]} after {delay:.2f} s")
        runtime.check("delete", "--force", "c1")
        eventually(lambda: not processes_of(runtime.root), "processes are left")
        assert os.listdir(runtime.root) == []


def bundle_beside(runtime: Runtime, pid: int, script: str = "sleep 600", *, terminal: bool = False) -> str:
    """Of a container in the machine of another one, whose face is *pid*."""
    path = runtime.bundle(script, terminal=terminal)
    config = Path(path, "config.json")
    spec = json.loads(config.read_text())
    shared = [{"type": kind, "path": f"/proc/{pid}/ns/{kind[:3]}"} for kind in ("network", "ipc", "uts")]
    spec["linux"]["namespaces"] = [*shared, {"type": "pid"}, {"type": "mount"}]
    spec.pop("hostname", None)
    config.write_text(json.dumps(spec))
    return path


@pytest.mark.long
@pytest.mark.parametrize("number", range(KILLS))
def test_deaths_at_random_of_who_share_a_machine(runtime: Runtime, number: int) -> None:
    """kill -9 of a command, the monitor, or the face of one of two containers: what is left is cleared, and where only
    the second one died, the first one goes on and gets another."""
    chance = random.Random(number)
    runtime.started("first", "sleep 600")
    first = json.loads((runtime.root / "first" / "state.json").read_text())
    beside = bundle_beside(runtime, first["pid"])
    commands = {
        "create": ("create", "-b", beside, "second"),
        "run": ("run", "--detach", "-b", beside, "second"),
        "start": ("start", "second"),
        "exec": ("exec", "second", "sleep", "0.3"),
        "delete": ("delete", "--force", "second"),
        "delete first": ("delete", "--force", "first"),
    }
    operation = chance.choice(list(commands))
    if operation not in ("create", "run"):
        made = commands["create" if operation == "start" else "run"]
        subprocess.run(runtime.command(*made), stdin=-3, stdout=-3, stderr=-3, check=True)
    whose, delay = chance.choice(("command", "monitor", "first", "second")), chance.uniform(0, 0.5)
    with subprocess.Popen(runtime.command(*commands[operation]), stdin=-3, stdout=-3, stderr=-3) as command:
        time.sleep(delay)  # any moment will do
        try:
            second = json.loads((runtime.root / "second" / "state.json").read_text())["pid"]
        except OSError:
            second = 0
        pid = {"command": command.pid, "monitor": first["monitor"], "first": first["pid"], "second": second}[whose]
        print(f"{number}: {operation}: {whose} ({pid}) after {delay:.2f} s")
        if pid and running(pid):
            os.kill(pid, signal.SIGKILL)
    runtime.check("delete", "--force", "second")
    if whose in ("command", "second") and operation != "delete first":
        runtime.check("exec", "first", "true")
        again = runtime.command("run", "--detach", "-b", bundle_beside(runtime, first["pid"]), "second")
        subprocess.run(again, stdin=-3, stdout=-3, stderr=-3, check=True)
        runtime.check("delete", "--force", "second")
    runtime.check("delete", "--force", "first")
    eventually(lambda: not processes_of(runtime.root), "processes are left")
    assert os.listdir(runtime.root) == []


def test_many_lives_leave_nothing(runtime: Runtime) -> None:
    for number in range(10):
        # What is left of the one before is taken apart meanwhile
        done = runtime.run("run", "-b", runtime.bundle(f"exit {number}"), f"c{number // 8}")
        assert (done.returncode, done.stderr) == (number, "")
    eventually(lambda: os.listdir(runtime.root) == [], "something of them is left")
    eventually(lambda: not processes_of(runtime.root), "processes are left")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_pod_keeps_nothing_of_containers_that_are_gone(runtime: Runtime, tmp_path: Path, terminal: bool) -> None:
    """One lives on while others come and go: their threads and descriptors go with them."""
    runtime.started("first", "sleep 600")
    first = json.loads((runtime.root / "first" / "state.json").read_text())
    beside = bundle_beside(runtime, first["pid"], "exit 7", terminal=terminal)

    def held() -> tuple[int, int]:
        process = Path("/proc", str(first["monitor"]))
        return len(os.listdir(process / "task")), len(os.listdir(process / "fd"))

    def is_idle() -> bool:
        return any(link.endswith("/pagemap") for link in links_of(first["monitor"]).values())

    eventually(is_idle, "the monitor does not give back memory")
    before = held()
    for number in range(5):
        if terminal:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / f"console{number}"))
                listener.listen()
                listener.settimeout(PATIENCE)
                runtime.check("create", "--console-socket", listener.getsockname(), "-b", beside, f"c{number}")
                os.close(receive_console(listener))
        else:
            create = runtime.command("create", "-b", beside, f"c{number}")
            subprocess.run(create, stdin=-3, stdout=-3, stderr=-3, check=True, timeout=PATIENCE)
        runtime.check("start", f"c{number}")
        runtime.wait(f"c{number}", "stopped")
        runtime.check("delete", f"c{number}")
    eventually(lambda: held() == before, f"the monitor has more threads and descriptors than {before}")


def test_a_monitor_that_ends_after_it_was_reached(tmp_path: Path) -> None:
    """It may, whenever its container does: `delete`, which asks it last, then clears up by itself."""
    folder = os.open(tmp_path, os.O_PATH)
    monitor = control.listen(folder)
    os.close(folder)
    channel = control.connect(str(tmp_path))
    monitor.close()
    with pytest.raises(HostError, match=f"the monitor of container {tmp_path.name} ended before it was asked"):
        channel.request({"op": "released"})
    channel.close()


@contextmanager
def child_of(name: str, folder: Path, *words: str) -> Iterator[int]:
    """The pid of a child of a program of that name."""
    shutil.copy("/bin/sh", folder / name)
    command = [str(folder / name), "-c", "sleep 600 & echo $!; wait", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield child
        finally:
            parent.kill()
            subprocess.run(["kill", "-9", str(child)], check=True)


def test_the_folder_that_conmon_was_given(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with child_of("conmon", tmp_path, "--persist-dir", str(tmp_path / "kept"), "--full-attach") as pid:
        tell_oom(str(tmp_path), pid)
        assert (tmp_path / "kept" / "oom").exists()
        assert not (tmp_path / "oom").exists()


def test_the_bundle_of_an_older_conmon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ctl").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with child_of("conmon", tmp_path, "--persist-dir") as pid:
        tell_oom(str(tmp_path), pid)
    assert (tmp_path / "oom").exists()
    assert not list((tmp_path / "here").iterdir())


def test_whoever_is_no_conmon(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with child_of("other", tmp_path, "--persist-dir", str(tmp_path / "kept")) as pid:
        tell_oom(str(tmp_path), pid)
    assert list((tmp_path / "kept").iterdir()) == []
    assert not (tmp_path / "oom").exists()


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with child_of("conmon", tmp_path, "--persist-dir", str(tmp_path / "gone")) as pid:
        tell_oom(str(tmp_path), pid)
    tell_oom(str(tmp_path), pid)


def said(runtime: Runtime, name: str) -> bool:
    return runtime.output(name) == f"of {name}\n"


def test_a_container_from_an_image(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and the monitor, which is its child, go on from the memory of another process."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / ".cache").mkdir()
    ordinary, monitors = runtime.program, []
    for name in ("c1", "c2"):
        runtime.program = (str(WARM), *ordinary)
        runtime.created(name, f"echo of {name}; sleep 600")
        wait_for_image(tmp_path / ".cache" / "pyvmm")
        runtime.program = ordinary
        runtime.check("start", name)
        eventually(partial(said, runtime, name), f"{name} says nothing")
        monitors.append(json.loads((runtime.root / name / "state.json").read_text())["monitor"])
    programs = [os.readlink(f"/proc/{monitor}/exe") for monitor in monitors]
    assert programs == [os.path.realpath(sys.executable), str(WARM)]
    for name in ("c1", "c2"):
        runtime.check("delete", "--force", name)
    assert not any(running(monitor) for monitor in monitors)


# -- an ordinary user, in the user namespace that podman would make for one -------------------------------------------

USER = 47110
BECOME = ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups")
NAMESPACE = (*BECOME, "unshare", "--user", "--map-root-user", "--mount")


def can_be_a_user() -> bool:
    """Whether an ordinary user may make namespaces here, and read this checkout."""
    if os.geteuid() != 0:
        return False
    probe = [*NAMESPACE, sys.executable, "-c", f"open({str(PROGRAM)!r})"]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False


needs_user = pytest.mark.skipif(not can_be_a_user(), reason="needs root, and user namespaces for ordinary users")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user's, with a bundle."""
    path = Path(tempfile.mkdtemp(prefix="pyvmm-user-"))
    for name in ("run", "bundle/rootfs"):
        (path / name).mkdir(parents=True)
    for each in (path, *path.rglob("*")):
        os.chown(each, USER, USER)
    yield path
    shutil.rmtree(path)


def as_user(home: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the shell's in the user's namespace: ``$OCI`` is the runtime, ``$BUNDLE`` one that echoes."""
    spec = default_spec(["/bin/sh", "-c", "cat; exit 3"], terminal=False)
    (home / "bundle" / "config.json").write_text(json.dumps(spec))
    oci = f"{sys.executable} {PROGRAM}"
    environment = {"PATH": os.environ["PATH"], "OCI": oci, "BUNDLE": str(home / "bundle"), **variables}
    return subprocess.run(
        [*NAMESPACE, "sh", "-c", script], env=environment, input="typed\n", capture_output=True, text=True,
        timeout=PATIENCE, cwd=home,
    )  # fmt: skip


@needs_user
def test_a_container_of_a_users(home: Path) -> None:
    done = as_user(home, "$OCI run -b $BUNDLE c1", XDG_RUNTIME_DIR=str(home / "run"))
    assert (done.returncode, done.stdout, done.stderr) == (3, "typed\n", "")
    root = home / "run" / "pyvmm-oci"
    assert not (root / "c1").exists()
    wait_for_machines(root)
    assert os.listdir(root) == []


@needs_user
def test_where_the_state_of_a_users_is(home: Path) -> None:
    script = "$OCI create -b $BUNDLE c1 >out 2>&1 </dev/null; $OCI state c1; $OCI delete --force c1"
    done = as_user(home, f"ls run; {script}; stat -c %a run/pyvmm-oci", XDG_RUNTIME_DIR=str(home / "run"))
    state, mode = done.stdout.rsplit("\n", 2)[:2]
    assert (json.loads(state)["status"], mode) == ("created", "700"), done.stderr
    assert (home / "run" / "pyvmm-oci").stat().st_uid == USER


@needs_user
def test_a_user_without_a_folder(home: Path) -> None:
    done = as_user(home, "$OCI run -b $BUNDLE c1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "Permission denied (an ordinary user needs XDG_RUNTIME_DIR, or --root DIR)" in done.stderr


@needs_user
def test_the_exec_program_looks_there_too(home: Path) -> None:
    """pyvmm-oci-client, which runs the whole program when there is nothing to connect to, finds the same socket."""
    client = Path(__file__).parents[2] / "examples" / "kata" / "pyvmm_kata" / "pyvmm-oci-client"
    script = f"""
mkdir -p run/pyvmm-oci/c1
{sys.executable} - <<'END' &
import os, socket
sock = socket.socket(socket.AF_UNIX)
sock.bind("run/pyvmm-oci/c1/new")
sock.listen()
os.rename("run/pyvmm-oci/c1/new", "run/pyvmm-oci/c1/control")
peer = sock.accept()[0]
print(peer.recv(100).decode().split(",")[0])
END
while [ ! -S run/pyvmm-oci/c1/control ]; do sleep 0.1; done
{client} "" /bin/true "" -- exec c1 true
wait
"""
    done = as_user(home, script, XDG_RUNTIME_DIR=str(home / "run"))
    assert done.stdout == '{"op": "exec_command"\n', done.stderr


def test_the_launcher_leaves_options_of_the_sentry_to_the_process_image() -> None:
    """A container with them starts as fast as others: by the program that continues from an image, here ``echo``."""
    client = Path(__file__).parents[2] / "examples" / "kata" / "pyvmm_kata" / "pyvmm-oci-client"
    options = ["--isolation", "sentry", "--platform=kvm", "--network", "none", "--strace"]
    for command in ("create", "run"):
        words = ["--root", "/nowhere", *options, command, "c1"]
        done = subprocess.run(
            [client, "/bin/echo", "/bin/false", "script", "--", *words], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.split()) == (0, ["/bin/false", "script", *words])
