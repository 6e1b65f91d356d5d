"""What dockerd's users do with a runtime of ours: on this host with the Sentry, and in the lab with machines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kata.docker import IMAGE, NAME, PATIENCE, Dockerd

_COMPOSE = f"""\
services:
  first:
    image: {IMAGE}
    runtime: {NAME}
    network_mode: none
    command: ["/bin/sleep", "1000"]
    environment: {{COLOUR: red}}
"""


def test_the_command_line(docker: Dockerd, tmp_path: Path) -> None:
    own = ("--network", "none", "--runtime", NAME)
    kernel = docker.check("run", "--rm", *own, IMAGE, "/bin/uname", "-r").strip()
    assert kernel and kernel != os.uname().release, "it has the host's kernel"
    (tmp_path / "shared").write_text("from the host")
    mount = f"{tmp_path}/shared:/shared:ro"
    assert docker.check("run", "--rm", *own, "--volume", mount, IMAGE, "/bin/cat", "/shared") == "from the host"
    assert docker.run("run", "--rm", *own, IMAGE, "/bin/sh", "-c", "exit 7").returncode == 7
    docker.check("run", "--detach", "--name", "one", *own, IMAGE, "/bin/sh", "-c", "echo begun; exec sleep 1000")
    assert docker.check("exec", "--env", "COLOUR=red", "one", "/bin/sh", "-c", "echo $COLOUR") == "red\n"
    assert docker.check("logs", "one") == "begun\n"
    docker.check("rm", "--force", "one")
    assert docker.check("ps", "--all", "--quiet") == ""


def test_the_python_library(docker: Dockerd) -> None:
    module: Any = pytest.importorskip("docker")
    client = module.DockerClient(base_url=docker.host, timeout=PATIENCE)
    try:
        container = client.containers.run(
            IMAGE, ["/bin/sleep", "1000"], runtime=NAME, network_mode="none", detach=True, mem_limit="128m"
        )
        assert container.exec_run(["/bin/sh", "-c", "echo here; exit 3"]) == (3, b"here\n")
        container.put_archive("/", _archive("note", b"hello"))
        assert container.exec_run(["/bin/cat", "/note"]).output == b"hello"
        container.remove(force=True)
    finally:
        client.close()


def _archive(name: str, content: bytes) -> bytes:
    import io
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def test_compose(docker: Dockerd, tmp_path: Path) -> None:
    if docker.run("compose", "version").returncode:
        pytest.skip("no docker compose")
    file = tmp_path / "compose.yaml"
    file.write_text(_COMPOSE)
    compose = ("compose", "--project-name", "test", "--file", str(file))
    docker.check(*compose, "up", "--detach", "--pull", "never")
    assert docker.check(*compose, "exec", "-T", "first", "/bin/sh", "-c", "echo $COLOUR") == "red\n"
    docker.check(*compose, "down", "--timeout", "1")
    assert docker.check("ps", "--all", "--quiet") == ""


def test_testcontainers(docker: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("testcontainers")
    monkeypatch.setenv("DOCKER_HOST", docker.host)
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")  # Its image is not here
    from testcontainers.core.container import DockerContainer

    made: Any = DockerContainer(IMAGE).with_command("/bin/sleep 1000")
    with made.with_kwargs(runtime=NAME, network_mode="none") as container:
        assert container.exec(["/bin/echo", "here"]).output == b"here\n"
    assert docker.check("ps", "--all", "--quiet") == ""


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that have the folder in them."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [each for each in lines if str(folder) in each]
