"""Containers by the agent's calls, with the client of the container runtime, on the platforms without a machine."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pyvmm_kata.bundle.guest_message import process_message, resources_message, spec_message
from pyvmm_kata.bundle.policy import Policy
from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import AgentError, AgentGone
from pyvmm_kata.host.procfs import read_listing
from pyvmm_kata.pod.agent_client import AgentClient
from pyvmm_kata.pod.machine_source import wiring_of
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.pod.sentry_guest import SENTRY
from pyvmm_kata.protocol.protobuf import message
from pyvmm_sentry import program
from tests.sentry.conftest import Compile
from tests.sentry.containers import MOUNTS, SHARED, Sandbox
from vmm import BootConfig, Machine, MachineConfig, MemoryConfig, VsockConfig

SHOW = 'echo "$A"; pwd; hostname; id; ulimit -n; while read -r line; do echo "$line"; done </proc/self/status'


def test_a_container_has_what_its_specification_says(sandbox: Sandbox) -> None:
    """Environment, directory, name, user, limits, rights; and its exit status is reported."""
    sandbox.root("c1")
    names = ["CAP_CHOWN", "CAP_KILL", "CAP_NEW_IN_ANOTHER_LINUX"]
    status, text = sandbox.run(
        "c1",
        *("sh", "-c", f"{SHOW}; exit 3"),
        env=["PATH=/bin", "A=b c"],
        cwd="/made/for/it",
        user={"uid": 1000, "gid": 1001, "additionalGids": [7, 5]},
        capabilities={
            "bounding": names,
            "permitted": names,
            "effective": names,
            "inheritable": names,
            "ambient": names,
        },
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
        noNewPrivileges=True,
        spec={"hostname": "own"},
    )
    assert status == 3
    assert text.splitlines()[:5] == ["b c", "/made/for/it", "own", "uid=1000 gid=1001 groups=5,7", "77"]
    found = dict(line.split(":\t", 1) for line in text.splitlines()[5:] if ":\t" in line)
    assert (found["CapEff"], found["CapBnd"], found["NoNewPrivs"]) == ("0000000000000021", "0000000000000021", "1")


def test_mask_and_rights_of_a_process_and_devices(sandbox: Sandbox) -> None:
    """A process without capabilities in its specification has none. A device has the attributes given."""
    sandbox.root("c1")
    linux = {
        "devices": [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o604, "uid": 3, "gid": 4},
            {"path": "/dev/deep/pipe", "type": "p", "major": 0, "minor": 0},
        ]
    }
    script = (
        "umask; cat /proc/self/oom_score_adj; grep -c 'Cap...:.0000000000000000' /proc/self/status; "
        "stat -c '%F %a %u:%g %t:%T' /dev/mine /dev/deep/pipe; head -c 4 /dev/mine | wc -c"
    )
    user = {"uid": 0, "gid": 0, "umask": 0o27}
    status, text = sandbox.run("c1", "sh", "-c", script, spec={"linux": linux}, user=user, oomScoreAdj=-33)
    mine, pipe = "character special file 604 3:4 1:5", "fifo 666 0:0 0:0"
    assert (status, text.splitlines()) == (0, ["0027", "-33", "5", mine, pipe, "4"])
    sandbox.root("c2")
    limit = {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}
    with pytest.raises(AgentError, match="Invalid argument"):
        sandbox.create("c2", "true", rlimits=[limit, limit])


def test_the_processes_of_a_container_for_tools_of_the_host(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "sleep 1000 & echo up; read line")
    sandbox.agent.start_container("c1")
    assert sandbox.agent.read_stdout("c1", "c1", 100) == b"up\n"
    found: list[bytes] = []
    while found != [b"sh", b"sleep"]:  # after its fork, the second one is still the shell
        listing = read_listing(sandbox.agent.list_files("c1"))
        found = sorted(files["cmdline"].split(b"\0")[0] for files in listing.processes.values())
    assert sorted(listing.top) == ["stat", "uptime"]
    assert all(f"Pid:\t{pid}\n".encode() in files["status"] for pid, files in listing.processes.items())


def test_a_limit_of_descriptors_that_is_larger_than_the_table(sandbox: Sandbox) -> None:
    """Container engines set it to a million. A program can set what it reads."""
    sandbox.root("c1")
    limits = [{"type": "RLIMIT_NOFILE", "soft": 1 << 20, "hard": 1 << 20}]
    script = "ulimit -Sn; ulimit -Hn; ulimit -n $(ulimit -Hn) && ulimit -n"
    assert sandbox.run("c1", "sh", "-c", script, rlimits=limits) == (0, "65536\n65536\n65536\n")


def test_files_are_those_of_the_host_and_stay_inside_the_root(sandbox: Sandbox, tmp_path: Path) -> None:
    """A link in the image leads to the container's own root; hidden and protected paths are so."""
    root = sandbox.root("c1")
    (root / "run").mkdir()
    (root / "out").symlink_to("/run")
    (root / "secret").write_text("secret\n")
    (root / "fixed").mkdir()
    volume = sandbox.shared / "c1" / "volume"
    volume.mkdir()
    (volume / "file").write_text("of the host\n")
    bind = {"destination": "/out/deep", "type": "bind", "source": f"{SHARED}/c1/volume", "options": ["rbind"]}
    fixed = {"destination": "/copy", "type": "bind", "source": f"{SHARED}/c1/volume", "options": ["bind", "ro"]}
    script = (
        "cat /run/deep/file /secret; echo new >/run/deep/new; echo new >/new; "
        "for f in /copy/no /fixed/no; do (echo x >$f) 2>/dev/null || echo $f is read-only; done"
    )
    spec = {"mounts": [*MOUNTS, bind, fixed], "linux": {"maskedPaths": ["/secret"], "readonlyPaths": ["/fixed"]}}
    status, text = sandbox.run("c1", "sh", "-c", script, spec=spec)
    assert (status, text) == (0, "of the host\n/copy/no is read-only\n/fixed/no is read-only\n")
    assert (volume / "new").read_text() == (root / "new").read_text() == "new\n"


def test_what_engines_mask_is_there_and_masked(sandbox: Sandbox) -> None:
    paths = ["/proc/keys", "/proc/timer_list", "/sys/firmware"]
    mounts = [*MOUNTS, {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}]
    script = "cat /proc/timer_list | wc -c; ls /sys/firmware; stat -c '%F %a' /proc/timer_list /proc/keys /sys/firmware"
    for name, masked, expected in (
        ("c1", [], "25\nregular empty file 400\nregular empty file 444\ndirectory 555\n"),
        ("c2", paths, "0\ncharacter special file 666\ncharacter special file 666\ndirectory 1777\n"),
    ):
        sandbox.root(name)
        spec = {"mounts": mounts, "linux": {"maskedPaths": masked}}
        assert sandbox.run(name, "sh", "-c", script, spec=spec) == (0, expected)


def test_files_are_complete_when_output_ends(sandbox: Sandbox, compile_static: Compile) -> None:
    """What nobody in the sandbox has waited for is on the host before a message that it was done."""
    root = sandbox.root("c1")
    shutil.copy(compile_static("creates"), root / "bin" / "creates")
    sandbox.create("c1", "/bin/creates", "/new", "100", "close")
    sandbox.agent.start_container("c1")
    assert sandbox.output("c1") == ""
    status = (root / "new" / "really last").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns) == (0o751, 1_700_000_000_000_000_006)
    sandbox.agent.close_stdin("c1", "c1")
    assert sandbox.agent.wait_process("c1", "c1") == 0


def test_a_name_that_the_host_has_just_made_exists(sandbox: Sandbox) -> None:
    """Nothing is made over it, and errors come in Linux's order, although new names are not looked up."""
    root = sandbox.root("c1")
    (root / "v").mkdir(mode=0o755)
    (root / "v").chmod(0o755)
    script = (
        "cd /v; ls >/dev/null; echo up; read line; set -C; (echo x >file) 2>/dev/null && echo wrong; "
        "for what in 'mkdir folder' 'ln -s x link' 'mkdir folder/' 'ln -s x link/' 'mkfifo file' 'ln file link'; do "
        "$what 2>&1; done; cat file; mkdir a; ln -s x b; echo c >c; ls"
    )
    (root / "bin" / "ln").symlink_to("busybox")
    (root / "bin" / "mkfifo").symlink_to("busybox")
    sandbox.create("c1", "sh", "-c", script)
    sandbox.agent.start_container("c1")
    sandbox.read_until("c1", "up\n")
    (root / "v" / "file").write_text("of the host\n")
    (root / "v" / "folder").mkdir()
    (root / "v" / "link").symlink_to("target")
    sandbox.agent.write_stdin("c1", "c1", b"\n")
    lines = sandbox.output("c1").splitlines()
    assert [line.rpartition(": ")[2] for line in lines[:6]] == ["File exists"] * 6
    assert lines[6:] == ["of the host", "a", "b", "c", "file", "folder", "link"]
    assert os.readlink(root / "v" / "link") == "target"


def test_rights_of_a_directory_are_checked_after_its_names(sandbox: Sandbox) -> None:
    root = sandbox.root("c1")
    (root / "v" / "there").mkdir(parents=True)
    user = {"uid": 1000, "gid": 1000}
    script = "cd /v; mkdir there; mkdir other; ln -s x there/; echo >other; true"
    (root / "bin" / "ln").symlink_to("busybox")
    status, text = sandbox.run("c1", "sh", "-c", f"({script}) 2>&1", user=user)
    errors = [line.rpartition(": ")[2] for line in text.splitlines()]
    assert (status, errors[:2], errors[3]) == (0, ["File exists", "Permission denied"], "Permission denied")


def test_the_host_changes_what_a_container_has_just_written(sandbox: Sandbox) -> None:
    """It appears, too, although the container has the content and the attributes of its own."""
    volume = sandbox.root("c1").parent / "volume"
    volume.mkdir()
    bind = {"destination": "/v", "type": "bind", "source": f"{SHARED}/c1/volume", "options": ["rbind"]}
    script = (
        "cd /v; echo a >written; echo a >timed; touch -d 2020-01-02 timed; echo a >longer; echo b >>longer; "
        'echo up; i=0; until [ "$(cat *)" = "$(printf "x\ny\nx\nx")" ] || [ $i = 500 ]; do i=$((i + 1)); done; cat *'
    )
    sandbox.create("c1", "sh", "-c", script, spec={"mounts": [*MOUNTS, bind]})
    sandbox.agent.start_container("c1")
    sandbox.read_until("c1", "up\n")
    for name, content in (("written", "x\n"), ("timed", "x\n"), ("longer", "x\ny\n")):
        (volume / name).write_text(content)
    assert sandbox.output("c1") == "x\ny\nx\nx\n"


def test_changes_of_the_host_appear_in_a_volume(sandbox: Sandbox) -> None:
    """Content, also of an open file, names that come, go and lead elsewhere: within a second or so, as on Linux."""
    sandbox.root("c1")
    volume = sandbox.shared / "c1" / "volume"
    volume.mkdir()
    for name in ("rewritten", "replaced", "removed", "grown"):
        (volume / name).write_text("old\n")
    bind = {"destination": "/v", "type": "bind", "source": f"{SHARED}/c1/volume", "options": ["rbind"]}
    script = (
        "cd /v; cat * new 2>/dev/null; exec 5<grown; cat <&5; echo up; "
        "until [ \"$(cat rewritten replaced new 2>/dev/null)$(ls removed 2>/dev/null)\" = 'newnewnew' ]; do :; done; "
        "until [ $(stat -c %s grown) -gt 4 ]; do :; done; cat <&5; echo mine >>rewritten; cat rewritten"
    )
    sandbox.create("c1", "sh", "-c", script, spec={"mounts": [*MOUNTS, bind]})
    sandbox.agent.start_container("c1")
    assert sandbox.read_until("c1", "up\n") == "old\n" * 5 + "up\n"
    for name in ("rewritten", "other", "new"):
        (volume / name).write_text("new")
    (volume / "other").rename(volume / "replaced")
    (volume / "removed").unlink()
    with open(volume / "grown", "a") as file:
        file.write("more\n")
    assert (sandbox.output("c1"), sandbox.agent.wait_process("c1", "c1")) == ("more\nnewmine\n", 0)
    assert (volume / "rewritten").read_text() == "newmine\n"


def test_a_read_only_root(sandbox: Sandbox) -> None:
    root = sandbox.root("c1")
    spec = {"root": {"path": f"{SHARED}/c1/rootfs", "readonly": True}}
    status, text = sandbox.run("c1", "sh", "-c", "touch /new || echo >/dev/null refused; exit 5", spec=spec)
    assert (status, text, (root / "new").exists()) == (5, "", False)


def test_a_process_is_added_and_streams_carry_much_data(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "cat")
    sandbox.agent.start_container("c1")
    data = os.urandom(1 << 19).hex().encode()

    def feed() -> None:
        left = data
        while left:
            left = left[sandbox.agent.write_stdin("c1", "c1", left[:100000]) :]
        sandbox.agent.close_stdin("c1", "c1")

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert sandbox.output("c1").encode() == data
    feeder.join()
    assert sandbox.agent.wait_process("c1", "c1") == 0
    with pytest.raises(AgentError, match="does not run"):
        sandbox.exec("c1", "e1", "true")


def test_an_idle_sandbox_uses_no_cpu_time(sandbox: Sandbox) -> None:
    """Also if another CPU than the one that waited for a timer has found that it is over."""
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "sleep 0.1 & sleep 0.2; echo idle; cat")  # two timers at a time
    sandbox.agent.start_container("c1")
    assert sandbox.agent.read_stdout("c1", "c1", 100) == b"idle\n"
    before = cpu_seconds(sandbox.core.pid)
    time.sleep(1)  # nothing is to happen in this time
    assert cpu_seconds(sandbox.core.pid) - before < 0.3


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_errors_of_a_program_and_of_one_that_is_missing(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "echo wrong >&2; read line; exit 2")
    sandbox.agent.start_container("c1")
    with pytest.raises(AgentError, match="exec nothing: No such file"):
        sandbox.exec("c1", "e1", "nothing")
    with pytest.raises(AgentError, match="exec /etc: "):
        sandbox.exec("c1", "e1", "/etc")
    sandbox.exec("c1", "e1", "sh", "-c", "read line; kill -9 $$")
    with pytest.raises(AgentError, match="File exists"):
        sandbox.exec("c1", "e1", "true")
    sandbox.agent.close_stdin("c1", "e1")
    assert sandbox.agent.wait_process("c1", "e1") == 128 + 9
    sandbox.agent.close_stdin("c1", "c1")
    assert (sandbox.output("c1", errors=True), sandbox.agent.wait_process("c1", "c1")) == ("wrong\n", 2)
    sandbox.root("c2")
    for name in ("nothing", "/bin/nothing"):
        with pytest.raises(AgentError, match=f"executable file `{name}` not found"):
            sandbox.create("c2", name)


def test_a_container_is_killed_before_its_start(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "true")
    sandbox.agent.signal_process("c1", "c1", 15)
    assert sandbox.agent.wait_process("c1", "c1") == 128 + 15
    with pytest.raises(AgentError, match="it has ended"):
        sandbox.agent.start_container("c1")


def test_descendants_end_with_the_first_process_and_a_name_is_used_again(sandbox: Sandbox) -> None:
    root = sandbox.root("c1")
    (root / "which").write_text("one\n")
    assert sandbox.run("c1", "sh", "-c", "(sleep 1000; sleep 1000) & sleep 1000 & cat /which") == (0, "one\n")
    sandbox.agent.remove_container("c1", 5)
    with pytest.raises(AgentError, match="no such container"):
        sandbox.agent.list_pids("c1")
    shutil.rmtree(sandbox.shared / "c1")
    (sandbox.root("c1") / "which").write_text("two\n")
    assert sandbox.run("c1", "cat", "/which") == (0, "two\n")


def test_a_signal_to_all_processes(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "trap 'echo got it; exit 4' TERM; sleep 1000 & echo up; wait")
    sandbox.agent.start_container("c1")
    assert sandbox.agent.read_stdout("c1", "c1", 100) == b"up\n"
    sandbox.agent.signal_process("c1", "", 15)
    assert (sandbox.output("c1"), sandbox.agent.wait_process("c1", "c1")) == ("got it\n", 4)


def test_a_terminal_is_resized(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    size = {"height": 11, "width": 22}
    sandbox.create("c1", "sh", "-c", "stty size; read line; stty size; exit 6", terminal=True, consoleSize=size)
    sandbox.agent.start_container("c1")
    assert sandbox.agent.read_stdout("c1", "c1", 100) == b"11 22\r\n"
    sandbox.agent.tty_win_resize("c1", "c1", 33, 44)
    assert sandbox.agent.write_stdin("c1", "c1", b"\r") == 1
    assert (sandbox.output("c1"), sandbox.agent.wait_process("c1", "c1")) == ("\r\n33 44\r\n", 6)
    with pytest.raises(AgentError, match="closed"):
        sandbox.agent.read_stderr("c1", "c1", 1)


def test_a_terminal_without_input(sandbox: Sandbox) -> None:
    """The host may close the input before the start."""
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "echo up; exit 7", terminal=True)
    sandbox.agent.close_stdin("c1", "c1")
    sandbox.agent.start_container("c1")
    assert (sandbox.output("c1"), sandbox.agent.wait_process("c1", "c1")) == ("up\r\n", 7)


def test_containers_outlive_a_connection(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "read line; echo $line")
    sandbox.agent.start_container("c1")
    errors: list[Exception] = []

    def wait() -> None:
        try:
            sandbox.agent.wait_process("c1", "c1")
        except AgentGone as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    sandbox.agent.check()
    sandbox.agent.close("enough")
    waiter.join()
    assert len(errors) == 1
    sandbox.agent = sandbox.client()
    assert sandbox.agent.write_stdin("c1", "c1", b"again\n") == 6
    assert (sandbox.output("c1"), sandbox.agent.wait_process("c1", "c1")) == ("again\n", 0)


GARBAGE = (
    b"\xff" * 100,
    b"\x7f\xff\xff\xff\0\0\0\1\1\0",  # a message of 2 GiB
    b"\0\0\0\5\0\0\0\1\1\0\x0a\xff\xff\xff\x7f",  # a field that is longer than its message
    b"\0\0\0\3\0\0\0\1\1\0\x1a\x80\x80",
    b"\0\0\0\0\0\0\0\1\2\0" * 100,  # answers
)


def test_nonsense_and_too_many_connections_do_no_harm(sandbox: Sandbox) -> None:
    for data in GARBAGE:
        with sandbox.dial() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    opened = []
    try:
        for _ in range(32):
            opened.append(sandbox.dial())
    except ConnectionRefusedError:
        pass
    assert 8 <= len(opened) < 16
    for sock in opened:
        sock.close()
    sandbox.agent.check()
    with pytest.raises(AgentError, match=r"no method /grpc\.AgentService/OnlineCPUMem") as caught:
        sandbox.agent.online_cpus(1)
    assert caught.value.status == "UNIMPLEMENTED"
    sandbox.client().close()


def test_a_policy(platform: Path, tmp_path: Path) -> None:
    """It comes before the sandbox. What it does not allow is refused, and it never changes."""
    sandbox = Sandbox(platform, tmp_path)
    try:
        for text, wrong in (
            ("default X := true\nX := false", "policy p: line 2: no rule like: default ExecProcessRequest := false"),
            ("default X := true\n\n default X = false # again\n", "line 3: a second rule for the same request"),
            ("\n" * 1000 + "default X := true", "line 1001: too many lines"),
        ):
            with pytest.raises(AgentError, match=wrong):
                sandbox.agent.set_policy(Policy("p", text))
        allowed = ("CreateSandbox", "CreateContainer", "StartContainer", "WaitProcess", "ReadStream")
        rules = [f"default {name}Request := true # {name}" for name in allowed]
        text = "\n".join(["package agent_policy", *rules, "default ExecProcessRequest := false", ""])
        sandbox.agent.set_policy(Policy("mine", text))
        sandbox.begin()
        sandbox.root("c1")
        assert sandbox.run("c1", "echo", "works") == (0, "works\n")
        with pytest.raises(AgentError, match="ExecProcessRequest is blocked by the policy mine") as caught:
            sandbox.exec("c1", "e1", "true")
        assert caught.value.status == "PERMISSION_DENIED"
        for refused in (
            lambda: sandbox.agent.stats_container("c1"),
            lambda: sandbox.agent.write_stdin("c1", "c1", b""),
        ):
            with pytest.raises(AgentError, match="Request is blocked by the policy mine"):
                refused()
        with pytest.raises(AgentError, match="SetPolicyRequest is blocked by the policy mine"):
            sandbox.agent.set_policy(Policy("other", text))
        sandbox.agent.check()
    finally:
        sandbox.close()


def test_a_policy_after_the_sandbox_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(AgentError, match="a policy comes before the sandbox"):
        sandbox.agent.set_policy(Policy("late", "default X := true"))


def test_the_sandbox_ends_when_it_is_destroyed(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "while :; do :; done")
    sandbox.agent.start_container("c1")
    sandbox.agent.destroy_sandbox()
    assert sandbox.core.wait(30) == "poweroff"


def test_a_limit_of_tasks(sandbox: Sandbox) -> None:
    sandbox.root("c1")
    script = "sleep 1000 & sleep 1000 & (sleep 1000 & echo more) 2>/dev/null; exit 0"
    spec = {"linux": {"resources": {"pids": {"limit": 3}}}}
    assert sandbox.run("c1", "sh", "-c", script, spec=spec) == (2, "")


ROUNDS = 300
HEADER = struct.Struct(">IIBB")
RESOURCES = {"pids": {"limit": 9}, "memory": {"limit": 32 << 20}, "cpu": {"shares": 512, "cpus": "0"}}
SPEC: dict[str, Any] = {
    "root": {"path": f"{SHARED}/c1/rootfs"},
    "process": {
        "args": ["sleep", "1000"],
        "env": ["PATH=/bin"],
        "cwd": "/x",
        "user": {"uid": 1, "additionalGids": [3]},
    },
    "mounts": [*MOUNTS],
    "linux": {
        "maskedPaths": ["/bin/id"],
        "readonlyPaths": ["/bin"],
        "resources": RESOURCES,
        "devices": [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640}],
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["getppid"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 1, "op": "SCMP_CMP_EQ", "value": 7}],
                }
            ],
        },
    },
}
MESSAGES = [
    (method, message(f"grpc.{'ReadStream' if method == 'ReadStdout' else method}Request")(**fields).SerializeToString())
    for method, fields in (
        ("CreateContainer", {"container_id": "c2", "OCI": spec_message(SPEC)}),
        ("StartContainer", {"container_id": "c2"}),
        ("ExecProcess", {"container_id": "c1", "exec_id": "e", "process": process_message(SPEC["process"])}),
        ("SignalProcess", {"container_id": "c2", "exec_id": "c2", "signal": 10}),
        ("TtyWinResize", {"container_id": "c2", "exec_id": "c2", "row": 5, "column": 6}),
        ("ReadStdout", {"container_id": "c3", "exec_id": "c3", "len": 1 << 20}),
        ("StatsContainer", {"container_id": "c1"}),
        ("UpdateContainer", {"container_id": "c1", "resources": resources_message(RESOURCES)}),
        ("ListProcesses", {"container_id": "c1", "format": "files"}),
        ("RemoveContainer", {"container_id": "c2", "timeout": 1}),
    )
]


def encoded(method: str, payload: bytes) -> bytes:
    """A request of ttrpc."""
    request = message("ttrpc.Request")(service="grpc.AgentService", method=method, payload=payload)
    return bytes(request.SerializeToString())


def framed(number: int, data: bytes) -> bytes:
    """The call of that number on its connection, from 0."""
    return HEADER.pack(len(data), 2 * number + 1, 1, 0) + data


def mutated(message: bytes, random: Random) -> bytes:
    """With some bytes changed, removed or doubled."""
    data = bytearray(message)
    for _ in range(random.randrange(1, 6)):
        at, size = random.randrange(len(data) + 1), random.randrange(1, 9)
        choice = random.randrange(3)
        data[at : at + size] = (
            random.randbytes(size) if choice == 0 else data[at : at + 2 * size] if choice == 1 else b""
        )
    return bytes(data) or b"\0"


def test_damaged_messages_do_no_harm(sandbox: Sandbox) -> None:
    """The core refuses or serves each, and serves the next ones."""
    random = Random(1)
    sandbox.root("c1")
    sandbox.create("c1", "sh", "-c", "read line; exit 8")
    sandbox.agent.start_container("c1")
    with sandbox.dial() as sock, sock.makefile("rb") as answers:
        for number in range(ROUNDS):
            method, payload = random.choice(MESSAGES)
            data = encoded(method, payload)
            data = mutated(data, random) if number % 4 == 0 else data.replace(payload, mutated(payload, random))
            sock.sendall(framed(number, data))
        for _ in range(ROUNDS * 9 // 10):  # some may wait for a stream of c1
            answers.read(HEADER.unpack(answers.read(HEADER.size))[0])
    sandbox.agent.close_stdin("c1", "c1")
    assert sandbox.agent.wait_process("c1", "c1") == 8


def test_a_container_is_removed_while_its_creation_fails(sandbox: Sandbox) -> None:
    """The core forgets it once, so that its place is free for others."""
    sandbox.root("c1")
    missing = {"destination": "/x", "type": "bind", "source": f"{SHARED}/c1/missing", "options": ["rbind"]}
    spec = spec_message({**SPEC, "mounts": [missing]})
    calls = (
        ("CreateContainer", message("grpc.CreateContainerRequest")(container_id="c1", OCI=spec)),
        ("RemoveContainer", message("grpc.RemoveContainerRequest")(container_id="c1", timeout=1)),
    )
    with sandbox.dial() as sock, sock.makefile("rb") as answers:
        requests = [encoded(method, request.SerializeToString()) for method, request in calls]
        sock.sendall(b"".join(framed(number, data) for number, data in enumerate(requests)))  # at once: both are there
        found = {}
        for _ in calls:
            size, stream, _, _ = HEADER.unpack(answers.read(HEADER.size))
            found[stream] = message("ttrpc.Response").FromString(answers.read(size)).status.code
    assert found.pop(1) == 13
    assert found[3] in (0, 5)  # 5: the creation had failed already
    assert sandbox.run("c1", "true") == (0, "")


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
def test_a_machine_with_the_core_as_its_kernel_answers(tmp_path: Path) -> None:
    """By the registers and interrupts of virtio-mmio. A KVM that is itself emulated has no ring 3, so no container."""
    vsock = VsockConfig(77, str(tmp_path / "vsock"))
    boot = BootConfig(str(program.kernel()), None, "quiet sentry.control")
    with Machine(MachineConfig(boot, MemoryConfig(64 << 20), vsock=vsock)) as machine:
        machine.start()
        sock = machine.vsock.connect(1024, timeout=60)
        sock.settimeout(None)
        agent = AgentClient(sock, "test")
        agent.check()
        with pytest.raises(AgentError, match="virtio-fs: No such device"):
            agent.create_sandbox("test", "box", (Storage("virtio-fs", "x", "virtiofs", SHARED),), shared_pids=False)
        agent.destroy_sandbox()
        end = machine.wait()
        agent.close()
    assert end is not None
    assert end.kind == "poweroff"


def start_for_containers(folder: Path, config: MachineConfig) -> int:
    """Start a machine for containers, whose share then gets a mount point; how much memory of the host it has."""
    with Machine(config) as machine:
        machine.start()
        sock = machine.vsock.connect(1024, timeout=60)
        sock.settimeout(None)
        agent = AgentClient(sock, "test")
        storage = Storage("virtio-fs", config.shares[0].tag, "virtiofs", SHARED)
        agent.create_sandbox("test", "box", (storage,), shared_pids=False)
        folder.mkdir()
        assert machine.stale_shares() == 0, "a start waits for that"
        agent.close()
        return os.fstat(machine._memory.fd).st_blocks * 512


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
def test_the_machine_of_a_container_leaves_memory_untouched(tmp_path: Path) -> None:
    """The command line states that it is zeroed, so the core clears none of it at its start."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with open(os.devnull, "wb") as null:
        wiring = wiring_of(str(tmp_path), str(shared), (), null.fileno())
        config = SENTRY.machine(SandboxConfig("test", str(tmp_path), "", "", 256 << 20, 1), wiring)
        used = start_for_containers(shared / "c1", config)
        cmdline = config.boot.cmdline.replace("sentry.zeroed", "")
        other = replace(config, boot=replace(config.boot, cmdline=cmdline))
        assert used < start_for_containers(shared / "c2", other) - (1 << 19)


def test_a_fault_of_a_program_reads_what_is_around_by_one_request(sandbox: Sandbox) -> None:
    around = 64 << 10
    sandbox.begin()
    sandbox.root("c1")
    assert sandbox.run("c1", "true") == (0, "")
    ops: Any = sandbox.core.stats()["ops"]
    assert 0 < ops["read"]["count"] <= -(-os.path.getsize("/bin/busybox") // around)


def test_an_exec_may_have_the_id_of_one_that_has_ended(sandbox: Sandbox) -> None:
    sandbox.begin()
    sandbox.root("c1")
    sandbox.create("c1", "sleep", "1000")
    sandbox.agent.start_container("c1")
    for status in (7, 8):
        sandbox.exec("c1", "e1", "sh", "-c", f"echo {status}; exit {status}")
        assert sandbox.output("c1", "e1") == f"{status}\n"
        assert sandbox.agent.wait_process("c1", "e1") == status
    sandbox.exec("c1", "e1", "sleep", "1000")
    for used in ("e1", "c1"):
        with pytest.raises(AgentError, match="File exists"):
            sandbox.exec("c1", used, "true")
