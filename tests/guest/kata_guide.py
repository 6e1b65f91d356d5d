"""The commands that the user's guide of the container runtime shows, run as they are there."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.guest.kata_tools import BIN, PATIENCE, ROOT, write_settings
from tests.netns import Outside, own_network

GUIDE = ROOT / "examples" / "kata" / "README.md"
ANSWER_S = 100.0


def commands(wanted: Callable[[str], bool]) -> list[tuple[str, str]]:
    """(command, output) of those lines ``$ COMMAND`` that are wanted."""
    found: list[tuple[str, list[str]]] = []
    for line in GUIDE.read_text().splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), []))
        elif found and line.startswith("    "):
            found[-1][1].append(line.removeprefix("    "))
    return [(command, "".join(f"{line}\n" for line in lines)) for command, lines in found if wanted(command)]


def environment(folder: Path) -> dict[str, str]:
    """Of a reader of the guide whose settings' file is in *folder*."""
    settings = write_settings(folder / "kata.toml")
    return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYVMM_KATA_CONFIG": str(settings)}


def run_as_shown(command: str, output: str, folder: Path) -> None:
    """Run a command that comes to an end by itself, in *folder*."""
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (0, output), f"{command}\n{done.stderr}"
    assert not list(Path("/run/pyvmm-oci").glob("*"))


def serve_as_shown(command: str, folder: Path, end: signal.Signals) -> tuple[str, int]:
    """Run a web server, ask it from the host, and send it *end* until it ends; the page and the exit status."""
    with own_network():
        other = Outside("192.0.2.2/24", "192.0.2.1/24")  # what a default route leads to
        try:
            with subprocess.Popen(
                f"exec {command}", shell=True, cwd=folder, env=environment(folder),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as server:  # fmt: skip
                return _reach(server, end)
        finally:
            other.close()


def _reach(server: subprocess.Popen[str], end: signal.Signals) -> tuple[str, int]:
    deadline = time.monotonic() + ANSWER_S
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
    while server.poll() is None:
        assert time.monotonic() < deadline, "it does not end"
        server.send_signal(end)
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            pass
    server.communicate(timeout=PATIENCE)
    return page, server.returncode
