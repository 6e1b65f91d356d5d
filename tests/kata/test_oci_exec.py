"""What the small program has the monitor do: ``exec``, ``start`` and ``kill``; and ``exec`` of the whole program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PROGRAM, Runtime, eventually, needs_namespaces, running

CLIENT = Path(__file__).parents[2] / "examples" / "kata" / "pyvmm_kata" / "pyvmm-oci-client"
WHOLE = (sys.executable, str(PROGRAM))
SMALL_OR_WHOLE = (str(CLIENT), "", *WHOLE, "--")
SMALL = (str(CLIENT), "", "/bin/false", "", "--")
"""Whatever it cannot do fails."""
pytestmark = needs_namespaces


@pytest.mark.parametrize("program", [WHOLE, SMALL_OR_WHOLE], ids=["whole", "small"])
def test_exec(runtime: Runtime, tmp_path: Path, program: tuple[str, ...]) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = program
    done = runtime.run("exec", "--env", "A=b", "c1", "/bin/sh", "-c", "cat; echo $A >&2; exit 4", input="x\n")
    assert (done.returncode, done.stdout, done.stderr) == (4, "x\n", "b\n")
    process = {"args": ["/bin/echo", "of a file"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert runtime.check("exec", "--process", str(tmp_path / "process.json"), "c1") == "of a file\n"
    done = runtime.run("exec", "c1", "/no/such")
    assert done.returncode == 1
    assert "not found" in done.stderr
    assert "names no program" in runtime.run("exec", "c1", "").stderr


@pytest.mark.parametrize("program", [WHOLE, SMALL], ids=["whole", "small"])
def test_exec_detached_has_a_pid_of_its_own(runtime: Runtime, tmp_path: Path, program: tuple[str, ...]) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = program
    pid_file = tmp_path / "exec.pid"
    with open(tmp_path / "exec.out", "wb") as out:
        command = runtime.command(
            "exec", "--detach", "--pid-file", str(pid_file), "c1", "/bin/sh", "-c", "echo on; sleep 600"
        )
        assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode == 0
    pid = int(pid_file.read_text())
    eventually(lambda: (tmp_path / "exec.out").read_text() == "on\n", "no output")
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not running(pid), "it goes on")
    runtime.program = WHOLE
    assert runtime.state("c1")["status"] == "running"


def test_the_small_program_does_it_alone(runtime: Runtime, tmp_path: Path) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = SMALL
    pid_file = tmp_path / "pid"
    script = "cat; echo $A $B >&2; pwd; exit 7"
    options = ("--pid-file", str(pid_file), "-e", "A=b", '--env=B=\xe9\n"', "-cwd", "/tmp", "--user", "1:2")
    done = runtime.run("exec", *options, "c1", "/bin/sh", "-c", script, input="x\n")
    # The fake guest runs it where it is itself, and as whom it is
    assert (done.returncode, done.stdout.startswith("x\n/"), done.stderr) == (7, True, 'b \xe9 "\n')
    assert not running(int(pid_file.read_text()))
    process = {"args": ["/bin/echo", "of a file"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert runtime.check("exec", "--process", str(tmp_path / "process.json"), "c1") == "of a file\n"
    assert runtime.run("exec", "c1", "/bin/sh", "-c", "kill -KILL $$").returncode == 137


def test_signals_reach_the_program(runtime: Runtime, tmp_path: Path) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = SMALL
    script = "trap 'echo heard; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    command = runtime.command("exec", "c1", "/bin/sh", "-c", script)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(signal.SIGTERM)
        assert program.stdout.read() == b"heard\n"
        assert program.wait() == 5


def test_who_is_killed_takes_the_program_along(runtime: Runtime, tmp_path: Path) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = SMALL
    command = runtime.command("exec", "c1", "/bin/sh", "-c", "echo $$; exec sleep 600")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        program.kill()
    eventually(lambda: not running(pid), "it goes on")


@pytest.mark.parametrize(
    "words",
    [
        ("state", "c1"),
        ("exec", "nobody", "true"),
        ("exec", "../c1", "true"),
        ("exec", "c1"),
        ("exec", "c1", "/no/such"),
        ("exec", "--tty", "c1", "true"),
        ("exec", "--no-such", "c1", "true"),
        ("exec", "--env"),
        ("exec", "--process", "/no/such", "c1"),
        ("exec", "--pid-file", "/no/such/pid", "c1", "true"),
        ("exec", "--user", "x", "c1", "true"),
    ],
)
def test_what_the_small_program_cannot_do_the_whole_one_is_asked(runtime: Runtime, words: tuple[str, ...]) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = (str(CLIENT), "", "/bin/echo", "whole", "--")
    assert runtime.check(*words) == f"-IS whole --root {runtime.root} {' '.join(words)}\n"


@pytest.mark.parametrize("command", ["create", "run"])
def test_what_makes_a_container_is_started_from_an_image(runtime: Runtime, command: str) -> None:
    runtime.program = (str(CLIENT), "/bin/echo", "python", "script", "--")
    assert runtime.check(command, "c1") == f"python script --root {runtime.root} {command} c1\n"
    runtime.program = (str(CLIENT), "/no/such", "/bin/echo", "script", "--")
    assert runtime.check(command, "c1") == f"-IS script --root {runtime.root} {command} c1\n"


def test_a_terminal_is_for_the_whole_program(runtime: Runtime, tmp_path: Path) -> None:
    runtime.started("c1", "sleep 600")
    runtime.program = (str(CLIENT), "", "/bin/echo", "whole", "--")
    process = {"args": ["/bin/echo"], "cwd": "/", "terminal": True}
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert "whole" in runtime.check("exec", "--process", str(tmp_path / "process.json"), "c1")
    (tmp_path / "process.json").write_text("no JSON")
    assert "whole" in runtime.check("exec", "--process", str(tmp_path / "process.json"), "c1")


@pytest.mark.parametrize("words", [("c1", "TERM"), ("c1", "SIGTERM"), ("c1", "15"), ("c1",)])
def test_start_and_kill(runtime: Runtime, words: tuple[str, ...]) -> None:
    runtime.created("c1", "trap 'echo told; exit 3' TERM; echo started; while :; do sleep 0.1; done")
    whole, runtime.program = runtime.program, SMALL
    runtime.check("start", "c1")
    eventually(lambda: runtime.output("c1") == "started\n", "it does not start")
    runtime.check("kill", *words)
    eventually(lambda: runtime.output("c1") == "started\ntold\n", "it is not told")
    runtime.program = whole
    runtime.wait("c1", "stopped")


def test_kill_everything(runtime: Runtime) -> None:
    runtime.started("c1", "sleep 600 & sleep 600")
    whole, runtime.program = runtime.program, SMALL
    runtime.check("kill", "--all", "c1", "KILL")
    runtime.program = whole
    runtime.wait("c1", "stopped")


def test_the_whole_program_runs_hooks(runtime: Runtime, tmp_path: Path) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat >{tmp_path}/told"]}
    runtime.created("c1", "sleep 600", hooks={"poststart": [hook]})
    runtime.program = SMALL_OR_WHOLE
    runtime.check("start", "c1")
    assert json.loads((tmp_path / "told").read_text())["status"] == "running"


@pytest.mark.parametrize(
    "words",
    [
        ("start", "c1"),
        ("start", "nosuch"),
        ("start",),
        ("kill", "nosuch"),
        ("kill", "c1", "NOSUCH"),
        ("kill", "c1", "65"),
    ],
)
def test_errors_of_start_and_kill_are_those_of_the_whole_program(runtime: Runtime, words: tuple[str, ...]) -> None:
    runtime.started("c1", "sleep 600")
    expected = runtime.run(*words)
    runtime.program = SMALL_OR_WHOLE
    done = runtime.run(*words)
    assert expected.returncode != 0 and expected.stderr
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)
