"""What the user's guide of the container runtime shows, run as it is there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.guest.kata_tools import BIN, PATIENCE, ROOT, make_rootfs, write_settings
from tests.netns import Outside, own_network

GUIDE = ROOT / "examples" / "kata" / "README.md"


def examples() -> list[tuple[str, str]]:
    """(command, output) of the lines ``$ pyvmm run`` with ``--network none``: those that come to an end."""
    found: list[tuple[str, list[str]]] = []
    for line in GUIDE.read_text().splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), []))
        elif found and line.startswith("    "):
            found[-1][1].append(line.removeprefix("    "))
    return [
        (command, "".join(f"{line}\n" for line in lines))
        for command, lines in found
        if command.startswith("pyvmm run --network none")
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the guide's reader is."""
    made = tmp_path_factory.mktemp("guide")
    make_rootfs(made / "rootfs")
    for name in ("data", "site"):
        (made / name).mkdir()
    (made / "data" / "file").write_text("content\n")
    (made / "site" / "index.html").write_text("a page\n")
    return made


def environment(folder: Path) -> dict[str, str]:
    settings = write_settings(folder / "kata.toml")
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYVMM_KATA_CONFIG": str(settings)}


def test_one_liners(folder: Path) -> None:
    shown = examples()
    assert len(shown) >= 2
    for command, output in shown:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout) == (0, output), f"{command}\n{done.stderr}"
    assert not list(Path("/run/pyvmm-oci").glob("*"))


@pytest.mark.skipif(not os.path.exists("/usr/bin/passt"), reason="passt is not installed")
def test_a_web_server_reached_from_the_host(folder: Path) -> None:
    with own_network():
        other = Outside("192.0.2.2/24", "192.0.2.1/24")  # what a default route leads to
        try:
            reach_web_server(folder)
        finally:
            other.close()


def reach_web_server(folder: Path) -> None:
    """The guide's server, asked from the host, and ended."""
    (command,) = re.findall(r"^    \$ (pyvmm run -p 8080:80 .*)$", GUIDE.read_text(), re.MULTILINE)
    with subprocess.Popen(
        f"exec {command}", shell=True, cwd=folder, env=environment(folder), stdin=-3, stdout=-1, stderr=-2, text=True
    ) as server:
        deadline = time.monotonic() + 100
        page = ""
        while not page:
            try:
                with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=10) as answer:
                    page = answer.read().decode()
            except (OSError, urllib.error.URLError):
                assert server.poll() is None, server.communicate()[0]
                if time.monotonic() > deadline:
                    server.kill()
                    pytest.fail("nobody answers")
                time.sleep(0.2)
        # httpd has no handler, so as a first process it hears nothing of one signal; the second ends the machine
        while server.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(1)
            except subprocess.TimeoutExpired:
                pass
        output, _ = server.communicate(timeout=PATIENCE)
    assert page == "a page\n"
    assert server.returncode == 128 + signal.SIGKILL, output
