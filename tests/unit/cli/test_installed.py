"""``pyvmm`` as an ordinary installation has it: started by its own program, from an image of a started Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.installed import install, wait_for_image
from tools.where import ROOT
from vmm.boot.cache import is_settled


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of its ``pyvmm``."""
    return install(tmp_path_factory.mktemp("installed"))


def test_pyvmm_boots_from_its_image(installed: Path, tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for turn in range(3):
        wait_for_image(tmp_path / ".cache" / "pyvmm")
        with subprocess.Popen(
            [installed, "boot", "--kernel", kernel],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                assert child.stdout is not None and child.stdin is not None and child.stderr is not None
                assert child.stdout.readline() == "hello\n"
                assert os.readlink(f"/proc/{child.pid}/exe").endswith("pyvmm-warm") == (turn > 0)
                child.stdin.write("typed\n\x04")
                child.stdin.flush()
                assert child.stdout.read() == "typed\n\x04"
                assert child.wait(60) == 0
                assert child.stderr.read() == ""
            finally:
                child.kill()
    wait_for_image(tmp_path / ".cache" / "pyvmm")
    assert len(list(tmp_path.glob(".cache/pyvmm/warm-pyvmm-*[!k]"))) == 1  # beside its lock


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        ((), 2, "usage: pyvmm COMMAND"),
        (("--version",), 0, "pyvmm"),
        (("boot", "--help"), 0, "exit status"),
        (("boot", "--kernel", "/nonexistent"), 2, "/nonexistent"),
        (("boot", "--kernel", "x", "--memory", "lots"), 2, "--memory"),
    ],
)
def test_all_commands_start_from_it(
    installed: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, text: str
) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    results = [
        subprocess.run([installed, *arguments], env=environment | extra, capture_output=True, text=True)
        for extra in ({"PYVMM_WARM": "0"}, {}, {})
    ]
    assert {(done.returncode, done.stdout, done.stderr) for done in results} == {
        (status, results[0].stdout, results[0].stderr)
    }
    assert text in results[0].stdout + results[0].stderr


def test_closed_standard_streams_are_no_matter(installed: Path, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    for _ in range(2):
        done = subprocess.run(["sh", "-c", '"$0" --version <&- 2>&-', installed], env=environment, capture_output=True)
        assert done.returncode == 0 and done.stdout.startswith(b"pyvmm")
        done = subprocess.run(["sh", "-c", '"$0" --version >&-', installed], env=environment, capture_output=True)
        assert done.stderr == b""


BOOT = """
import sys
from vmm.cli.entry import WARM
for name in WARM:
    __import__(name)
there = set(sys.modules)
from vmm.cli.main import main
status = main(["boot", "--kernel", sys.argv[1], "--disk", sys.argv[2]])
print(*sorted(name for name in sys.modules.keys() - there if name.startswith("vmm.")), file=sys.stderr)
sys.exit(status)
"""


def test_an_image_has_all_that_a_boot_imports(tmp_path: Path) -> None:
    kernel, disk = tiny.make(tmp_path, tiny.say("hello\n"), tiny.POWEROFF), tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", BOOT, str(kernel), str(disk)]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def boot() -> list[str]:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
        return done.stderr.split()

    # A start that finds a kernel whose times may still change parses it and keeps nothing
    state = os.stat(kernel)
    while not is_settled((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)):
        pass
    assert boot() == ["vmm.boot.bzimage", "vmm.boot.elf"]
    assert boot() == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
@pytest.mark.parametrize(
    "left", ["build/lib", "pyvmm.egg-info", "examples/kata/build/lib", "vmm/native/_native.abi3.so"]
)
def test_git_does_not_show_what_an_installation_leaves(left: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", left], cwd=ROOT).returncode == 0
