"""What the small program has the monitor do: ``exec``, ``start`` and ``kill``; ``exec`` of the whole program; and the
figures that are served of all machines."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

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


# -- metrics ---------------------------------------------------------------------------------------------------------

LINE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (-?[0-9.e+-]+)')


def samples(text: str) -> dict[str, str]:
    """What a page of metrics says, each once, below its HELP and its TYPE."""
    found: dict[str, str] = {}
    typed = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            typed = ""
        elif line.startswith("# TYPE "):
            typed, kind = line.split()[2:]
            assert kind in ("counter", "gauge", "untyped") and (kind == "counter") == typed.endswith("_total")
        else:
            match = LINE.fullmatch(line)
            assert match and match[1] == typed and line.rpartition(" ")[0] not in found, line
            found[line.rpartition(" ")[0]] = match[3]
    return found


def test_metrics_of_machines_that_answer_and_of_one_that_does_not(runtime: Runtime, tmp_path: Path) -> None:
    for name in ("c1", "c2"):
        runtime.started(name, "sleep 600")
    runtime.created("c3", "true")
    monitor = json.loads((runtime.root / "c2" / "state.json").read_text())["monitor"]
    os.kill(monitor, signal.SIGSTOP)
    try:
        page = samples(runtime.check("metrics", "--shims", str(tmp_path)))
    finally:
        os.kill(monitor, signal.SIGCONT)
    assert (page["pyvmm_sandboxes"], page["pyvmm_scrape_failures"]) == ("3", "1")
    up = {name: page[f'pyvmm_sandbox_up{{sandbox_id="{name}",kind="oci"}}'] for name in ("c1", "c2", "c3")}
    assert up == {"c1": "1", "c2": "0", "c3": "1"}
    assert page['pyvmm_sandbox_guest_up{sandbox_id="c1"}'] == "1"
    assert page['pyvmm_sandbox_vcpu_events_total{sandbox_id="c1",vcpu="0",event="exits"}'] == "5"
    assert page['pyvmm_sandbox_device_events{sandbox_id="c1",device="0",name="disk",event="reads"}'] == "3"
    assert page['pyvmm_container_memory_usage_bytes{sandbox_id="c1",container_id="c1"}'] == "4096"
    assert page['pyvmm_container_processes{sandbox_id="c1",container_id="c1"}'] == "2"
    assert int(page['pyvmm_sandbox_resident_bytes{sandbox_id="c2"}']) > 1 << 20, "the host knows it without its answer"
    assert not any("words" in name or 'container_id="c2"' in name for name in page)


def test_a_monitor_that_lies_spoils_only_its_own_lines(runtime: Runtime, tmp_path: Path) -> None:
    """Its answers: no JSON, JSON of the wrong kinds, names that would be lines of their own, and no end."""
    runtime.started("c1", "sleep 600")
    bad = {"id": 1, "memory": "x", "vcpus": [], "machine": {"vcpus": {}, "devices": [3, {"name": "a", "x": True}]}}
    evil = 'e"} 1\npyvmm_sandboxes 99\\'
    nets = [{"Name": evil, "RxBytes": 7}, {"Name": evil, "RxBytes": 8}, "none"]
    full = {"containers": {evil: {"cpu": 1, "memory": {"usage": None}, "network_interfaces": nets}}, "answered": 1}
    answers = (
        b"no json\n",
        b"[" * 100000 + b"\n",
        json.dumps(bad).encode() + b"\n",
        json.dumps(full).encode() + b"\n",
        b"",
    )
    for answer in answers:
        with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as short:
            listener.bind(f"{short}/s")
            listener.listen()
            os.replace(f"{short}/s", runtime.root / "c1" / "control")
            peers: list[socket.socket] = []

            def serve(listener: socket.socket = listener, answer: bytes = answer, peers: Any = peers) -> None:
                peers.append(listener.accept()[0])
                peers[0].sendall(answer or b"{")  # the last one never ends

            thread = threading.Thread(target=serve)
            thread.start()
            page = samples(runtime.check("metrics", "--shims", str(tmp_path)))
            thread.join()
            peers[0].close()
        assert page["pyvmm_sandboxes"] == "1"
        assert page['pyvmm_sandbox_up{sandbox_id="c1",kind="oci"}'] == str(int(answer.startswith(b'{"')))


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_metrics_are_served(runtime: Runtime, tmp_path: Path, unix: bool) -> None:
    runtime.started("c1", "sleep 600")
    if unix:
        address = str(tmp_path / "metrics")
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(address)
    else:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = runtime.command("metrics", "--listen", address, "--shims", str(tmp_path))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None

        def ask(path: str) -> tuple[int, str]:
            sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
            sock.settimeout(60)
            sock.connect(address if unix else ("127.0.0.1", int(address.rpartition(":")[2])))
            connection = HTTPConnection("localhost")
            connection.sock = sock
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            connection.close()
            return response.status, body

        def answers() -> bool:
            assert server.poll() is None, server.stderr and server.stderr.read()
            try:
                return ask("/metrics")[0] == 200
            except (ConnectionRefusedError, FileNotFoundError):
                return False

        try:
            eventually(answers, "it does not listen")
            assert not unix or stat.S_IMODE(os.stat(address).st_mode) == 0o600
            silent = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
            silent.connect(address if unix else ("127.0.0.1", int(address.rpartition(":")[2])))
            status, text = ask("/metrics")
            silent.close()
            assert (status, samples(text)["pyvmm_sandboxes"]) == (200, "1")
            assert ask("/other")[0] == 404
            refused = runtime.run("metrics", "--listen", address)
            assert refused.returncode == 1 and f"--listen {address}: Address already in use" in refused.stderr
        finally:
            server.terminate()
        assert server.wait(60) == 0, server.stderr.read()
        assert server.stderr.read() == ""
    assert not unix or not os.path.exists(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9090", ":9090", "9090", "localhost:http", "127.0.0.1:99999", "/no/such/x"]
)
def test_metrics_are_not_served_to_others(runtime: Runtime, address: str) -> None:
    done = runtime.run("metrics", "--listen", address)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and address in done.stderr
