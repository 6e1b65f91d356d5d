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

pytest.importorskip("shtab", reason="the package shtab makes the scripts")

ROOT = str(Path(__file__).parents[3])
COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
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
