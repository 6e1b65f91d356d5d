"""What the user's guide of the container runtime shows of a folder with a root file system, run as it is there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.guest.kata_tools import commands, make_rootfs, run_as_shown, serve_as_shown


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


def test_one_liners(folder: Path) -> None:
    shown = commands(lambda command: command.startswith("pyvmm run --network none") and "./rootfs" in command)
    assert len(shown) >= 2
    for command, output in shown:
        run_as_shown(command, output, folder)


@pytest.mark.skipif(not os.path.exists("/usr/bin/passt"), reason="passt is not installed")
def test_a_web_server_reached_from_the_host(folder: Path) -> None:
    ((command, _),) = commands(lambda command: command.startswith("pyvmm run -p") and "./rootfs" in command)
    # httpd has no handler, so as a first process it hears nothing of one signal; the second ends the machine
    assert serve_as_shown(command, folder, signal.SIGTERM) == ("a page\n", 128 + signal.SIGKILL)
