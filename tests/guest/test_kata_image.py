"""A Debian with Python, apt and a C compiler in a container: what the user's guide shows of it, run as it is there."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.guest.kata_tools import commands, run_as_shown, serve_as_shown

IMAGE = "debian.erofs"
PROGRAM = """
#include <stdio.h>

int main(void)
{
	return puts("hello from C") < 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the guide's reader is."""
    image = os.environ.get("PYVMM_GUEST_CONTAINER")
    if not image:
        pytest.skip("the container's Debian is made by `make test` or `make test-guest`, run as root")
    made = tmp_path_factory.mktemp("debian")
    (made / IMAGE).symlink_to(image)
    shutil.copy(Path(image).with_name("hello.deb"), made)
    (made / "hello.c").write_text(PROGRAM)
    (made / "site").mkdir()
    (made / "site" / "index.html").write_text("a page\n")
    return made


@pytest.mark.parametrize("tool", ["python3 -c", "gcc", "apt-get"])
def test_one_liners(folder: Path, tool: str) -> None:
    shown = commands(lambda command: command.startswith("pyvmm run --network none") and IMAGE in command)
    ((command, output),) = [each for each in shown if tool in each[0]]
    run_as_shown(command, output, folder)


@pytest.mark.skipif(not os.path.exists("/usr/bin/passt"), reason="passt is not installed")
def test_a_web_server_reached_from_the_host(folder: Path) -> None:
    ((command, _),) = commands(lambda command: command.startswith("pyvmm run -p") and IMAGE in command)
    assert serve_as_shown(command, folder, signal.SIGINT) == ("a page\n", 0)
