"""Commands of ``pyvmm``: each runs what its name promises, and other packages bring more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.where import ROOT
from vmm.cli import plugins
from vmm.cli.commands import COMMANDS
from vmm.cli.main import main

BROUGHT = """
import argparse
SUMMARY = "say what it was given"
def parser():
    made = argparse.ArgumentParser(prog="pyvmm greet")
    made.add_argument("--loudly", action="store_true")
    return made
def main(argv):
    print("brought", *argv)
    return 7
"""
CHECKS = """
from vmm.cli.doctor import Capability
def capabilities():
    return [Capability("greeting", False, "nobody is here", "come in")]
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with an installed package that brings the commands `greet`, `broken` and `boot`, and checks."""
    (tmp_path / "greeting-1.0.dist-info").mkdir()
    (tmp_path / "greeting-1.0.dist-info" / "entry_points.txt").write_text(
        "[console_scripts]\ngreet = other:main\n\n"
        "[pyvmm.commands]\n# comment = x\ngreet = greeting_command\nbroken = greeting_broken\nboot = greeting_command\n"
        "[pyvmm.doctor]\nboot = greeting_checks\nbroken = greeting_broken\n"
    )
    (tmp_path / "greeting_checks.py").write_text(CHECKS)
    (tmp_path / "greeting_command.py").write_text(BROUGHT)
    (tmp_path / "greeting_broken.py").write_text("import greeting_needs_this\n")
    return tmp_path


def pyvmm(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process that finds the packages of that folder."""
    code = "import sys; from vmm.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": f"{site}:{ROOT}"}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_the_one_of_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main([name, "--help"]))
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: pyvmm {name}")


def test_a_command_in_the_table_alone_runs_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "forgotten", "a command that nobody has written")
    with pytest.raises(ModuleNotFoundError, match=r"vmm\.cli\.forgotten"):
        main(["forgotten", "bash"])


def test_a_package_brings_a_command(site: Path) -> None:
    done = pyvmm(site, "greet", "a", "--b")
    assert (done.returncode, done.stdout, done.stderr) == (7, "brought a --b\n", "")


def test_help_lists_what_packages_bring(site: Path) -> None:
    done = pyvmm(site, "--help")
    assert "  greet       say what it was given\n" in done.stdout
    assert done.stderr == "pyvmm: the command broken cannot be loaded: No module named 'greeting_needs_this'\n"


def test_completion_offers_what_packages_bring(site: Path) -> None:
    pytest.importorskip("shtab", reason="the package shtab makes the scripts")
    script = pyvmm(site, "completion", "bash").stdout
    assert "greet" in script
    assert "--loudly" in script


def test_a_package_that_cannot_be_imported_is_an_error(site: Path) -> None:
    done = pyvmm(site, "broken")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pyvmm: the command broken cannot be loaded: No module named 'greeting_needs_this'\n"


def test_no_package_replaces_a_command_of_pyvmm(site: Path) -> None:
    assert pyvmm(site, "boot", "--help").stdout.startswith("usage: pyvmm boot")
    assert set(plugins.entry_points([str(site)])) == {"greet", "broken"}


def test_a_package_adds_to_the_report_of_doctor(site: Path) -> None:
    """Also under the name of a command."""
    done = pyvmm(site, "doctor")
    assert "no   greeting" in done.stdout
    assert "come in" in done.stdout
    assert "pyvmm: the check broken cannot be loaded: No module named 'greeting_needs_this'\n" in done.stderr


def test_the_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [ROOT])
    assert main(["run", "image"]) == 2


def test_a_boot_looks_for_no_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from vmm.cli.main import main\n"
        "try: main(['boot', '--kernel', '/nonexistent'])\n"
        "finally: print([name for name in ('vmm.cli.plugins', 'importlib.metadata') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n"
