"""Debian's podman and conmon with pyvmm-oci as their runtime; their state is on tmpfs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.kata_tools import BIN, PATIENCE, leftovers, make_rootfs, write_settings

pytestmark = pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")


class Podman:
    """podman with everything in *folder*, and busybox as the image ``box``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = write_settings(folder / "kata.toml")
        # Not by --runtime-flag: podman's own clean-up, which conmon starts, does not pass it on
        runtime = folder / "pyvmm-oci"
        runtime.write_text(f'#!/bin/sh\nexec {BIN}/pyvmm-oci --config {settings} --root {folder}/state "$@"\n')
        runtime.chmod(0o755)
        policy = folder / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self._command = [
            "podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
            "--runtime", str(runtime),
        ]  # fmt: skip
        archive = folder / "box.tar"
        subprocess.run(["tar", "-C", str(make_rootfs(folder / "rootfs")), "-cf", str(archive), "."], check=True)
        self.check("import", "--signature-policy", str(policy), str(archive), "box")

    def command(self, *arguments: str) -> list[str]:
        return [*self._command, *arguments]

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def check(self, *arguments: str, text: str = "") -> str:
        done = self.run(*arguments, text=text)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    made = Podman(tmp_path_factory.mktemp("podman"))
    yield made
    made.run("rm", "--all", "--force", "--time", "1")
    deadline = time.monotonic() + PATIENCE  # podman clears up behind its back
    while left := [each for each in leftovers(made.folder) if "pyvmm" in each or f"{made.folder}/state" in each]:
        assert time.monotonic() < deadline, left + notes(made.folder)
        time.sleep(0.2)


def notes(folder: Path) -> list[str]:
    """What is known of containers whose state is still there."""
    return [f"{path}: {path.read_text(errors='replace')}" for path in folder.glob("state/*/*") if path.is_file()]


def test_run(podman: Podman) -> None:
    script = "cat; echo to stderr >&2; exit 7"
    done = podman.run("run", "-i", "--network", "none", "--name", "one", "box", "sh", "-c", script, text="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n", "to stderr\n")
    logged = podman.run("logs", "one")
    assert (logged.stdout, logged.stderr) == ("typed\n", "to stderr\n")
    assert podman.check("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one") == "exited 7\n"
    podman.check("rm", "one")
    done = podman.run("run", "--rm", "--network", "none", "box", "nosuch")
    assert done.returncode == 127


def test_a_container_in_the_background(podman: Podman) -> None:
    (podman.folder / "data").mkdir()
    options = ["--network", "none", "-v", f"{podman.folder}/data:/data", "-m", "100m", "-e", "NAME=value"]
    program = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"
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
