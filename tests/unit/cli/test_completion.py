"""Completion scripts: what a shell offers after the user presses Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vmm.cli.commands import COMMANDS
from vmm.cli.main import main
from vmm.virtio.registry import BUILT_IN, BuiltIn

pytest.importorskip("shtab", reason="the package shtab makes the scripts")

ROOT = str(Path(__file__).parents[3])
COMPLETE = """
source "$1"
shift
COMP_LINE="$*"
COMP_POINT=${#COMP_LINE}
COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
$(complete -p pyvmm | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, folder: Path) -> Path:
    """The script for *shell*, as a file."""
    path = folder / f"pyvmm.{shell}"
    code = f"from vmm.cli.main import main; raise SystemExit(main(['completion', {shell!r}]))"
    with open(path, "w") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file, env={**os.environ, "PYTHONPATH": ROOT})
    return path


def offered(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of *words*."""
    command = ["bash", "--norc", "-c", COMPLETE, "bash", str(script("bash", folder)), "pyvmm", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_every_command_is_offered(tmp_path: Path) -> None:
    assert set(COMMANDS) <= set(offered(tmp_path, ""))


def test_flags_of_a_command_are_offered(tmp_path: Path) -> None:
    assert offered(tmp_path, "boot", "--ker") == ["--kernel"]
    assert offered(tmp_path, "doctor", "--js") == ["--json"]


def test_file_names_are_offered_where_a_file_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "vmlinux-1").touch()
    assert offered(tmp_path, "boot", "--kernel", f"{tmp_path}/vml") == [f"{tmp_path}/vmlinux-1"]


@pytest.mark.parametrize("device", BUILT_IN, ids=lambda device: device.flag)
def test_keys_of_each_device_are_offered(tmp_path: Path, device: BuiltIn) -> None:
    keys = {key.name for key in device.syntax().keys}
    before = "x.img," if device.syntax().first else ""
    got = offered(tmp_path, "boot", device.flag, before)
    assert {word.removeprefix(before).partition("=")[0] for word in got} == keys


def test_a_file_stands_first_and_values_last(tmp_path: Path) -> None:
    (tmp_path / "root.img").touch()
    assert offered(tmp_path, "boot", "--disk", f"{tmp_path}/ro") == [f"{tmp_path}/root.img"]
    (tmp_path / "folder").mkdir()
    assert offered(tmp_path, "boot", "--share", f"{tmp_path}/") == [f"{tmp_path}/folder"]
    assert offered(tmp_path, "boot", "--disk", "a.img,ca") == ["a.img,cache=writeback", "a.img,cache=writethrough"]


def test_bash_replaces_only_what_follows_the_last_sign_at_which_it_breaks_words(tmp_path: Path) -> None:
    assert offered(tmp_path, "boot", "--vsock", "cid=3,ud") == ["3,uds="]
    assert offered(tmp_path, "boot", "--net", "user,publish=80:8080,mt") == ["8080,mtu="]


def test_fish_offers_them_too(tmp_path: Path) -> None:
    program = shutil.which("fish")
    if program is None:
        pytest.skip("no fish here")
    line = "source $argv[1]; complete -C 'pyvmm boot --vsock cid=3,ba'"
    command = [program, "--no-config", "-c", line, str(script("fish", tmp_path))]
    got = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [word.split("\t")[0] for word in got] == ["cid=3,backend=unix", "cid=3,backend=vhost"]


def test_shells_are_offered(tmp_path: Path) -> None:
    assert offered(tmp_path, "completion", "z") == ["zsh"]


@pytest.mark.parametrize(("shell", "check"), [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_shell_takes_its_script(tmp_path: Path, shell: str, check: list[str]) -> None:
    path = script(shell, tmp_path)
    assert "--kernel" in path.read_text()
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    assert subprocess.run([program, *check, str(path)], capture_output=True).stderr == b""


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completion", "tcsh"])
    assert caught.value.code == 2
    assert "fish" in capsys.readouterr().err
