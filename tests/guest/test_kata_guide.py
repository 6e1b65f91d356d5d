"""What the user's guide of the container runtime shows, run as it is there: of a folder with a root file system, and of
a Debian with Python, apt and a C compiler.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.guest.kata_tools import commands, make_rootfs, run_as_shown, serve_as_shown

IMAGE = "debian.erofs"
PROGRAM = """
#include <stdio.h>

int main(void)
{
	return puts("hello from C") < 0;
}
"""


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


# The C compiler is a program of the image as Python is
@pytest.mark.parametrize("tool", ["python3 -c", pytest.param("gcc", marks=pytest.mark.long), "apt-get"])
def test_one_liners_in_debian(debian: Path, tool: str) -> None:
    shown = commands(lambda command: command.startswith("pyvmm run --network none") and IMAGE in command)
    ((command, output),) = [each for each in shown if tool in each[0]]
    run_as_shown(command, output, debian)


@pytest.mark.skipif(not os.path.exists("/usr/bin/passt"), reason="passt is not installed")
def test_a_web_server_of_debians_reached_from_the_host(debian: Path) -> None:
    ((command, _),) = commands(lambda command: command.startswith("pyvmm run -p") and IMAGE in command)
    assert serve_as_shown(command, debian, signal.SIGINT) == ("a page\n", 0)


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
@pytest.mark.long  # half a minute; Debian's comes before
def test_a_web_server_reached_from_the_host(folder: Path) -> None:
    ((command, _),) = commands(lambda command: command.startswith("pyvmm run -p") and "./rootfs" in command)
    # httpd has no handler, so as a first process it hears nothing of one signal; the second ends the machine
    assert serve_as_shown(command, folder, signal.SIGTERM) == ("a page\n", 128 + signal.SIGKILL)
