"""What the small program has the monitor do: ``exec``, ``start`` and ``kill``; ``exec`` of the whole program; the
figures that are served of all machines; and checkpoints, of machines that begin their programs anew."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle import policy
from pyvmm_kata.errors import ConfigError
from pyvmm_kata.oci.main import main
from tests.kata.oci_runtime import CLIENT, PATIENCE, PROGRAM, Runtime, eventually, needs_namespaces, running

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
        ("state", "nobody"),
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


def test_state(runtime: Runtime) -> None:
    runtime.created("c1", "sleep 600", annotations={"long": "\u00e4" * 5000})
    whole = runtime.program
    for status in ("created", "running"):
        said = runtime.check("state", "c1")
        assert json.loads(said)["status"] == status
        runtime.program = SMALL
        assert runtime.check("state", "c1") == said
        runtime.program = whole
        if status == "created":
            runtime.check("start", "c1")
    monitor = json.loads((runtime.root / "c1" / "state.json").read_text())["monitor"]
    runtime.program = SMALL_OR_WHOLE
    os.kill(monitor, signal.SIGSTOP)
    try:
        assert runtime.check("state", "c1") == said, "it waits for a monitor that does not answer"
    finally:
        os.kill(monitor, signal.SIGCONT)
    runtime.check("kill", "c1", "KILL")
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


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def keeping(runtime: Runtime, tmp_path: Path) -> Runtime:
    """With an image of the guest, which a checkpoint names."""
    (tmp_path / "image").write_bytes(b"an image")
    (tmp_path / "kata.toml").write_text(f'image = "{tmp_path}/image"\nmemory = "64M"\n')
    runtime.program = (*runtime.program, "--config", str(tmp_path / "kata.toml"))
    return runtime


def restored(runtime: Runtime, container_id: str, bundle: str, *options: str) -> int:
    """Restore it in the background, with a file for its output; the exit status."""
    with open(runtime.folder / f"{container_id}.out", "wb") as out:
        command = runtime.command("restore", "--detach", "--bundle", bundle, *options, container_id)
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=PATIENCE).returncode


def refused(runtime: Runtime, *arguments: str) -> str:
    """What it says, in one line."""
    done = runtime.run(*arguments)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and not done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def criu_stats(path: Path) -> dict[int, dict[int, int]]:
    """What podman reads for --print-stats: a message with a message of numbers (CRIU's stats.proto)."""

    def varint(at: int) -> tuple[int, int]:
        end = at
        while data[end] & 0x80:
            end += 1
        return sum((byte & 0x7F) << 7 * n for n, byte in enumerate(data[at : end + 1])), end + 1

    data = path.read_bytes()
    assert struct.unpack("<3I", data[:12]) == (0x55105940, 0x57093306, len(data) - 12)
    key, at = varint(12)
    size, at = varint(at)
    assert key & 7 == 2 and at + size == len(data)
    found = {}
    while at < len(data):
        number, at = varint(at)
        found[number >> 3], at = varint(at)
    return {key >> 3: found}


def test_a_checkpoint_and_what_goes_on_from_it(keeping: Runtime, tmp_path: Path) -> None:
    runtime, image, pid_file = keeping, tmp_path / "checkpoint", tmp_path / "pid"
    runtime.started("c1", "echo began; sleep 600")
    bundle = runtime.state("c1")["bundle"]
    for name in runtime.command("checkpoint", "--help"), runtime.command("restore", "--help"):
        assert subprocess.run(name, capture_output=True, timeout=PATIENCE).returncode == 0, "podman asks so"
    kept = ("--tcp-established", "--shell-job", "--ext-unix-sk", "--file-locks", "--manage-cgroups-mode", "soft")
    runtime.check("checkpoint", "--leave-running", *kept, "--work-path", str(tmp_path), "c1", cwd=tmp_path)
    stats = criu_stats(tmp_path / "stats-dump")
    assert list(stats[1]) == [1, 2, 3, 4, 5, 6, 7], "all that CRIU's format demands"
    first = set(os.listdir(image))
    assert runtime.state("c1")["status"] == "running"
    assert runtime.check("exec", "c1", "echo", "works") == "works\n", "it is not frozen"
    runtime.check("checkpoint", "--image-path", str(image), "c1")
    assert "does not exist" in refused(runtime, "state", "c1")
    assert len(first) == len(os.listdir(image)) == 3 and first != set(os.listdir(image)), "the old one is replaced"
    assert restored(runtime, "c2", bundle, "--image-path", str(image), "--pid-file", str(pid_file)) == 0
    state = runtime.state("c2")
    assert (state["status"], state["pid"]) == ("running", int(pid_file.read_text()))
    eventually(lambda: runtime.output("c2") == "began\n", "its output is not that of the restore")
    assert "exists already" in refused(runtime, "restore", "--bundle", bundle, "--image-path", str(image), "c2")
    runtime.check("pause", "c2")
    runtime.check("checkpoint", "--leave-running", "--image-path", str(image), "c2")
    assert runtime.state("c2")["status"] == "paused"
    runtime.check("delete", "--force", "c2")
    assert restored(runtime, "c3", bundle, "--image-path", str(image), "--work-path", str(tmp_path)) == 0
    stats = criu_stats(tmp_path / "stats-restore")
    assert list(stats[2]) == [1, 2, 3, 4] and stats[2][4] > 0
    assert runtime.state("c3")["status"] == "paused", "as it was"
    runtime.check("delete", "--force", "c3")
    assert os.listdir(runtime.root) == []


def test_restore_waits_for_the_end(keeping: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping.started("c1", "read word || sleep 600; echo $word; exit 7")
    bundle = keeping.state("c1")["bundle"]
    keeping.check("checkpoint", "--leave-running", "--image-path", str(tmp_path / "i"), "c1")
    done = keeping.run("restore", "--image-path", str(tmp_path / "i"), "--bundle", bundle, "c2", input="typed\n")
    assert (done.returncode, done.stdout) == (7, "typed\n"), done.stderr
    monkeypatch.setenv("PYVMM_FAKE_NO_SEED", "1")
    message = refused(keeping, "restore", "--image-path", str(tmp_path / "i"), "--bundle", bundle, "c2")
    assert "did not accept its new identity: ReseedRandomDev: no entropy taken" in message
    keeping.check("delete", "--force", "c1")
    assert os.listdir(keeping.root) == []


def test_what_cannot_be_checkpointed_is_named(
    keeping: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = keeping
    runtime.created("c1", "sleep 600")
    assert "c1 cannot be checkpointed: it is created" in refused(runtime, "checkpoint", "c1")
    runtime.check("start", "c1")
    refusals = (["--pre-dump"], ["--parent-path", "x"], ["--lazy-pages"], ["--page-server", "h:1"], ["--status-fd=3"])
    for words in refusals:
        for command in ("checkpoint", "restore"):
            assert main(["--root", str(runtime.root), command, *words, "c1"]) == 1
            assert f"{command}: {words[0].partition('=')[0]} cannot be done" in capsys.readouterr().err
    assert main(["--root", str(runtime.root), "checkpoint", "--manage-cgroups-mode", "half", "c1"]) == 1
    assert "soft, full, strict, ignore" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(runtime, "checkpoint", "--image-path", str(tmp_path / "file" / "x"), "c1")
    assert "there is no checkpoint" in refused(runtime, "restore", "--image-path", str(tmp_path), "c2")
    # A container in the same machine
    spaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    spaces.append({"type": "network", "path": f"/proc/{runtime.state('c1')['pid']}/ns/net"})
    config = json.loads(Path(runtime.state("c1")["bundle"], "config.json").read_text())
    runtime.started("c2", "sleep 600", linux={**config["linux"], "namespaces": spaces})
    assert "the containers c1, c2 share a virtual machine" in refused(runtime, "checkpoint", "c1")
    assert "the containers c1, c2 share a virtual machine" in refused(runtime, "fork", "c1", "c3")
    for name in ("c2", "c1"):
        runtime.check("delete", "--force", name)


def test_a_checkpoint_that_is_interrupted_changes_nothing(
    keeping: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed in the middle of one leaves the old one, and a container that runs."""
    image = tmp_path / "image-path"
    hold = tmp_path / "hold"
    monkeypatch.setenv("PYVMM_FAKE_HOLD", str(hold))
    keeping.started("c1", "while :; do echo x; sleep 0.02; done")
    bundle = keeping.state("c1")["bundle"]
    keeping.check("checkpoint", "--leave-running", "--image-path", str(image), "c1")
    old = (image / "container.json").read_bytes()
    hold.touch()
    with subprocess.Popen(keeping.command("checkpoint", "--image-path", str(image), "c1")) as process:
        eventually(Path(f"{hold}-reached").exists, "nothing is frozen")
        assert keeping.run("exec", "c1", "true").returncode
        assert "another checkpoint is being made" in refused(keeping, "checkpoint", "--image-path", str(image), "c1")
        other = str(tmp_path / "other")
        assert "c1 is being checkpointed" in refused(keeping, "checkpoint", "--image-path", other, "c1")
        assert "c1 is being checkpointed" in refused(keeping, "resume", "c1")
        process.kill()
    hold.unlink()
    eventually(lambda: keeping.run("exec", "c1", "true").returncode == 0, "it stays frozen")
    assert (image / "container.json").read_bytes() == old
    keeping.check("delete", "--force", "c1")
    assert restored(keeping, "c2", bundle, "--image-path", str(image)) == 0
    keeping.check("delete", "--force", "c2")


def test_a_changed_bundle_is_named(keeping: Runtime, tmp_path: Path) -> None:
    keeping.started("c1", "sleep 600")
    config = Path(keeping.state("c1")["bundle"], "config.json")
    spec, image = json.loads(config.read_text()), str(tmp_path / "i")
    keeping.check("checkpoint", "--image-path", image, "c1")
    volume = {"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind"]}
    for words, change in (
        ("process.args: is not what it was", {"process": {**spec["process"], "args": ["/bin/true"]}}),
        ("root.readonly: is not what it was", {"root": {**spec["root"], "readonly": not spec["root"].get("readonly")}}),
        (f"mounts[{len(spec['mounts'])}]: there is /data (bind), and", {"mounts": [*spec["mounts"], volume]}),
        ("and the container that was checkpointed had /proc (proc)", {"mounts": spec["mounts"][1:]}),
    ):
        config.write_text(json.dumps({**spec, **change}))
        assert words in refused(keeping, "restore", "--image-path", image, "--bundle", str(config.parent), "c2")
    config.write_text(json.dumps({**spec, "mounts": spec["mounts"][::-1]}))
    assert restored(keeping, "c3", str(config.parent), "--image-path", image) == 0, "their order is not theirs to keep"
    keeping.check("delete", "--force", "c3")
    settings, rules = tmp_path / "kata.toml", "package agent_policy\ndefault ExecProcessRequest := true\n"
    rules += "".join(f"default {name}Request := true\n" for name in policy.SERVED if name != "ExecProcess")
    (tmp_path / "policy").write_text(rules)
    text = settings.read_text()
    settings.write_text(f'{text}policy = "policy"\n')
    message = refused(keeping, "restore", "--image-path", image, "--bundle", str(config.parent), "c2")
    assert "another policy of the agent" in message
    settings.write_text(text)
    (tmp_path / "image").write_bytes(b"another image")
    message = refused(keeping, "restore", "--image-path", image, "--bundle", str(config.parent), "c2")
    assert "another image of the guest" in message
    assert os.listdir(keeping.root) == []


def test_the_guest_of_a_checkpoint(keeping: Runtime, tmp_path: Path) -> None:
    """The record names it, and restore chooses it. Another one is refused, and so is a Sentry's without a machine."""
    keeping.started("c1", "sleep 600")
    bundle, image = keeping.state("c1")["bundle"], tmp_path / "i"
    keeping.check("checkpoint", "--image-path", str(image), "c1")
    words = ("restore", "--image-path", str(image), "--bundle", bundle, "c2")
    assert "of the kind linux, not sentry" in refused(keeping, "--isolation", "sentry", *words)
    record = image / "container.json"
    known = json.loads(record.read_text())
    record.write_text(json.dumps({**known, "guest": "sentry", "image": "", "image_file": []}))
    assert "of the kind sentry, not linux" in refused(keeping, "--isolation", "vm", *words)
    record.write_text(json.dumps({key: value for key, value in known.items() if key != "guest"}))
    assert restored(keeping, "c3", bundle, "--image-path", str(image)) == 0, "it is of an earlier version"
    keeping.check("delete", "--force", "c3")
    assert os.listdir(keeping.root) == []


def test_a_hostile_image_is_refused(keeping: Runtime, tmp_path: Path) -> None:
    """Whatever is in it: an error of one line, and nothing is made."""
    from pyvmm_kata.pod import checkpoint_folder

    keeping.started("c1", "sleep 600")
    bundle, image = keeping.state("c1")["bundle"], tmp_path / "i"
    keeping.check("checkpoint", "--image-path", str(image), "c1")
    record = image / "container.json"
    whole = record.read_bytes()
    known = json.loads(whole)
    machine = image / known["machine"]
    assert checkpoint_folder.read(str(image)).machine == str(machine)

    def read() -> None:
        with pytest.raises(ConfigError) as caught:
            checkpoint_folder.read(str(image))
        assert str(image) in str(caught.value) and "\n" not in str(caught.value)

    # Two are held against the settings, by the next step; the last two only save reading files that are what they were
    ignored = {"pyvmm", "taken", "image", "policy", "image_file", "files"}
    values: list[Any] = [None, -1, 1 << 70, 1.5, "", "../..", "/etc", [], {}, [[]], [["a"]], [1], True, "x" * 5000]
    for name in known.keys() - ignored:
        for value in values:
            if value == known[name] or (name in ("execs", "nets", "layout", "order") and value == []):
                continue
            if name == "made_of" and value == {}:
                continue
            record.write_text(json.dumps({**known, name: value}))
            read()
        record.write_text(json.dumps({key: value for key, value in known.items() if key != name}))
        # Those that were written before machines grew, or there were other roots and guests, have none
        if name in {"more_memory", "added", "more_cpus", "root", "guest"}:
            assert checkpoint_folder.read(str(image)).machine == str(machine)
        else:
            read()
    for name, value in itertools.product(("image_file", "files"), values):
        record.write_text(json.dumps({**known, name: value}))
        assert checkpoint_folder.read(str(image)).machine == str(machine)
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        record.write_bytes(whole[:size])
        read()
    record.write_text("[" * 100000)
    read()
    record.write_bytes(whole)
    manifest = (machine / "manifest.json").read_bytes()
    for change in ({"base": "../other"}, {"memory_size": 1 << 20}, {"disks": [{"path": "/etc/shadow"}]}):
        # With a record that fits it, as whoever makes one could
        (machine / "manifest.json").write_text(json.dumps({**json.loads(manifest), **change}))
        digest = hashlib.sha256((machine / "manifest.json").read_bytes()).hexdigest()
        record.write_text(json.dumps({**known, "manifest": digest}))
        read()
    (machine / "manifest.json").write_bytes(manifest)
    record.write_bytes(whole)
    for name in ("state", "memory", "manifest.json"):
        good = machine / f"{name}.good"
        (machine / name).rename(good)
        read()
        (machine / name).symlink_to(good)
        read()
        (machine / name).unlink()
        (machine / name).write_bytes(good.read_bytes()[:-4097] if name == "memory" else b"other")
        read()
        os.mkfifo(machine / f"{name}.fifo")
        (machine / f"{name}.fifo").rename(machine / name)
        read()
        good.replace(machine / name)
    with open(machine / "manifest.json", "r+b") as file:
        file.truncate(1 << 40)  # nobody reads all of that
    read()
    (machine / "manifest.json").write_bytes(manifest)
    machine.rename(tmp_path / "elsewhere")
    machine.symlink_to(tmp_path / "elsewhere")
    read()
    machine.unlink()
    (tmp_path / "elsewhere").rename(machine)
    with open(machine / "memory", "r+b") as memory:
        os.pwrite(memory.fileno(), b"x", 8192)
    message = refused(keeping, "restore", "--image-path", str(image), "--bundle", bundle, "c2")
    assert "its checksum is another" in message
    assert os.listdir(keeping.root) == []


@pytest.mark.parametrize("name", ["container.json.new", "inventory.img"])
def test_a_hostile_place_does_not_hold_a_checkpoint_up(keeping: Runtime, tmp_path: Path, name: str) -> None:
    """A pipe where a file is to be: an error, and the container goes on."""
    (tmp_path / "i").mkdir()
    os.mkfifo(tmp_path / "i" / name)
    keeping.started("c1", "sleep 600")
    refused(keeping, "checkpoint", "--image-path", str(tmp_path / "i"), "c1")
    assert os.listdir(tmp_path / "i") in ([name], ["inventory.img", name], [name, "inventory.img"])
    assert keeping.check("exec", "c1", "echo", "on") == "on\n"
    keeping.check("delete", "--force", "c1")


def test_copies_have_files_of_their_own(keeping: Runtime, tmp_path: Path) -> None:
    runtime, place = keeping, tmp_path / "copies"
    place.mkdir()
    runtime.started("c1", "echo began; sleep 600")
    source = Path(runtime.state("c1")["bundle"])
    (source / "rootfs" / "file").write_text("content")
    with open(runtime.folder / "out", "wb") as out:
        command = runtime.command("fork", "--bundles", str(place), "--image-path", str(tmp_path), "c1", "c2", "c3")
        assert subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out).returncode == 0
    for name in ("c1", "c2", "c3"):
        assert runtime.state(name)["status"] == "running"
    eventually(lambda: (runtime.folder / "out").read_text() == "began\n" * 2, "both begin")
    (place / "c2" / "rootfs" / "file").write_text("changed")
    assert (source / "rootfs" / "file").read_text() == (place / "c3" / "rootfs" / "file").read_text() == "content"
    assert not list(tmp_path.glob("pyvmm-fork-*"))
    assert "exists already" in refused(runtime, "fork", "c1", "c2")
    assert "two copies have one id" in refused(runtime, "fork", "c1", "c4", "c4")
    assert "the ids of the copies are missing" in refused(runtime, "fork", "c1")
    (place / "c5").mkdir()
    assert f"{place}/c5: File exists" in refused(runtime, "fork", "--bundles", str(place), "c1", "c4", "c5")
    assert not (place / "c4").exists(), "all or none"
    for name in ("c1", "c2", "c3"):
        runtime.check("delete", "--force", name)
    assert os.listdir(runtime.root) == []
