"""Debian's podman and conmon with pyvmm-oci as their runtime; their state is on tmpfs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest.kata_podman import Podman
from tests.guest.kata_tools import PATIENCE, eventually
from tests.scripts import WAIT

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")


def test_the_storage_is_what_podman_takes_by_itself(podman: Podman) -> None:
    assert (podman.storage / "root" / "overlay-images" / "images.json").exists()


def test_run(podman: Podman) -> None:
    script = "cat; echo to stderr >&2; exit 7"
    done = podman.run("run", "-i", "--network", "none", "--name", "one", "box", "sh", "-c", script, text="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n", "to stderr\n")
    logged = podman.run("logs", "one")
    assert (logged.stdout, logged.stderr) == ("typed\n", "to stderr\n")
    inspect = ("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one")
    # "stopped" until its cleanup has run, which `podman wait --condition exited` does not wait for
    eventually(lambda: podman.check(*inspect) == "exited 7\n", "it does not end with its status")
    podman.check("rm", "one")
    done = podman.run("run", "--rm", "--network", "none", "box", "nosuch")
    assert done.returncode == 127


def test_a_container_in_the_background(podman: Podman) -> None:
    (podman.folder / "data").mkdir()
    options = ["--network", "none", "-v", f"{podman.folder}/data:/data", "-m", "100m", "-e", "NAME=value"]
    program = f"trap 'exit 3' TERM; echo ready; {WAIT}"
    podman.check("run", "--detach", "--name", "two", *options, "box", "sh", "-c", program)
    done = podman.run("exec", "two", "sh", "-c", "echo $NAME >/data/made; hostname; exit 5")
    assert done.returncode == 5
    assert (podman.folder / "data" / "made").read_text() == "value\n"
    assert podman.check("exec", "-i", "two", "cat", text="piped\n") == "piped\n"
    assert podman.check("inspect", "--format", "{{.State.Status}}", "two") == "running\n"
    podman.check("stop", "--time", "60", "two")
    assert podman.check("inspect", "--format", "{{.State.ExitCode}}", "two") == "3\n"
    assert podman.check("logs", "two") == "ready\n"
    podman.check("rm", "two")
    assert podman.check("ps", "--all", "--quiet") == ""


def test_limits(podman: Podman) -> None:
    """Half a CPU, and too little memory."""
    done = podman.run(
        "run", "--name", "slow", "--network", "none", "--cpus", "0.5", "box", "cat", "/sys/fs/cgroup/cpu.max"
    )
    assert (done.returncode, done.stdout) == (0, "50000 100000\n"), done.stderr
    podman.check("rm", "slow")
    limits = ("-m", "24m", "--memory-swap", "24m")
    done = podman.run("run", "--name", "small", "--network", "none", *limits, "box", "tail", "/dev/zero")
    assert done.returncode == 137, done.stderr
    assert podman.check("inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "small") == "true 137\n"
    podman.check("rm", "small")


def test_an_update_of_the_limits_resizes_the_machine(podman: Podman) -> None:
    settings = podman.folder / "kata.toml"
    kept = settings.read_text()
    settings.write_text(f'{kept}memory = "192M"\nmore_memory = "256M"\nmore_cpus = 1\n')

    def machine() -> tuple[int, int]:
        """CPUs; MiB of memory."""
        said = podman.check("exec", "grows", "sh", "-c", "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo").split()
        return int(said[0]), int(said[1]) >> 10

    try:
        limits = ("--cpus", "0.5", "-m", "100m")
        podman.check("run", "--detach", "--name", "grows", "--network", "none", *limits, "box", "sleep", "600")
    finally:
        settings.write_text(kept)
    cpus, memory = machine()
    assert cpus == 1
    podman.check("update", "--cpus", "2", "--memory", "384m", "grows")
    assert machine()[0] == 2 and machine()[1] >= memory + 128
    podman.check("update", "--cpus", "1", "grows")
    assert machine()[0] == 1
    written = podman.check("exec", "grows", "cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/memory.max")
    assert written == f"100000 100000\n{384 << 20}\n"
    podman.check("rm", "--force", "--time", "1", "grows")


def test_a_web_server_on_a_bridge(podman: Podman) -> None:
    """podman makes the network, and leads a port of the host into it."""
    serve = "echo a page >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
    podman.check("run", "--detach", "--name", "web", "-p", "8081:80", "box", "sh", "-c", serve)
    address = podman.check("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web").strip()
    assert address
    assert f"inet {address}/" in podman.check("exec", "web", "ip", "addr", "show", "eth0")
    deadline = time.monotonic() + PATIENCE
    while True:
        command = ["busybox", "wget", "-q", "-T", "10", "-O", "-", f"http://{address}/index.html"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.stdout == "a page\n":
            break
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    podman.check("rm", "--force", "--time", "1", "web")


@pytest.mark.long  # minutes in the lab
def test_a_container_that_runs_is_removed_at_once(podman: Podman) -> None:
    """podman gives up when the process does not die within a while."""
    for number in range(30):
        podman.check("run", "--detach", "--name", "gone", "--network", "none", "box", "sleep", "100000")
        done = podman.run("rm", "--force", "--time", "0", "gone")
        assert (done.returncode, done.stdout, done.stderr) == (0, "gone\n", ""), f"round {number}"
    assert podman.check("ps", "--all", "--quiet") == ""


def write_criu(path: Path) -> None:
    """A program that is to podman what Debian's criu is: podman asks it for its version alone, by a socket whose number
    it is given.  The answer is a CriuResp of its rpc.proto: of type VERSION, success, 4.1."""
    answer = b"\x08\x0a\x10\x01\x52\x04\x08\x04\x10\x01"
    path.write_text(
        f"#!{sys.executable}\nimport os, sys\nfd = int(sys.argv[2])\nos.read(fd, 4096)\nos.write(fd, {answer!r})\n"
    )
    path.chmod(0o755)


@pytest.mark.long
def test_checkpoints(podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container goes on after one that leaves it running and is exported, and from one that ends it."""
    if shutil.which("criu") is None:
        write_criu(tmp_path / "criu")
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    count = "n=0; while :; do n=$((n + 1)); echo $n; echo $n >/count; sleep 0.2; done"
    podman.check("run", "--detach", "--network", "none", "--name", "one", "box", "sh", "-c", count)

    def logged(name: str) -> list[int]:
        return [int(line) for line in podman.check("logs", name).split()]

    eventually(lambda: len(logged("one")) > 3, "it does not count")
    archive = str(tmp_path / "one.tar")
    done = podman.run("container", "checkpoint", "--leave-running", "--print-stats", "--export", archive, "one")
    assert done.returncode == 0 and done.stderr == "", "podman packs what CRIU would have written"
    assert "frozen_time" in done.stdout
    podman.check("container", "checkpoint", "one")
    last = logged("one")[-1]
    assert podman.check("inspect", "--format", "{{.State.Status}} {{.State.Checkpointed}}", "one") == "exited true\n"
    podman.check("container", "restore", "one")
    eventually(lambda: len(logged("one")) > last + 3, "it does not go on")
    told = logged("one")
    assert told == list(range(1, len(told) + 1)), "each number once"
    podman.check("rm", "--force", "--time", "1", "one")
