"""The command `pyvmm-runsc`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_sentry import boot, command, platforms
from tests import tiny
from tools.where import ROOT
from vmm import HostError

BUSYBOX = "/bin/busybox"
PYTHONPATH = f"{ROOT / 'examples' / 'sentry'}:{ROOT}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}
"""That of the command: Python finds its modules in this checkout."""


def command_line(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run it, by its module."""
    command = [sys.executable, "-m", "pyvmm_sentry", *arguments]
    return subprocess.run(command, input=b"", capture_output=True, timeout=60, env=ENVIRONMENT)


def do(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program on the platform that is a process without KVM."""
    return command_line("do", "--platform", "trap", *arguments)


def test_it_exits_as_the_program() -> None:
    assert do("--", BUSYBOX, "sh", "-c", "exit 7").returncode == 7
    assert do(BUSYBOX, "sh", "-c", "kill -6 $$").returncode == -signal.SIGABRT


def test_options_of_the_program_are_not_its_own() -> None:
    assert do("busybox", "echo", "--strace", "--", "x").stdout == b"--strace -- x\n"
    assert do("--", "busybox", "echo", "--strace").stdout == b"--strace\n"


def test_it_reports_a_file_that_it_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    missing = do("no-such-program")
    assert (missing.returncode, missing.stderr) == (127, b"pyvmm-runsc: no-such-program: not found in /\n")
    alone = do("--root", "none", "no-such-program")
    assert (alone.returncode, alone.stderr) == (127, b"pyvmm-runsc: no-such-program: not found\n")
    assert do(str(tmp_path / "text")).returncode == 126
    (tmp_path / "text").write_text("#!/no/interpreter\n")
    assert do(str(tmp_path / "text")).returncode == 126


SCRIPT = """#!/bin/sh
pwd; read name </proc/$$/comm; echo "$0 $1 $name"; cat script; echo new >script; echo new >new; ls
"""


def test_a_program_has_the_hosts_files_and_the_current_directory(tmp_path: Path) -> None:
    """The program can be a script, and what it changes is gone at its end."""
    (tmp_path / "script").write_text(SCRIPT)
    (tmp_path / "script").chmod(0o755)
    words = [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "trap", "--", "./script", "one"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=ENVIRONMENT, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}\n./script one script\n{SCRIPT}new\nscript\n"
    assert [path.name for path in tmp_path.iterdir()] == ["script"]
    assert (tmp_path / "script").read_text() == SCRIPT


def test_other_files_of_tmp_are_hidden() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyvmm_sentry", "do", "--platform", "trap", "ls", "-A", "/tmp"],
        capture_output=True,
        timeout=60,
        env=ENVIRONMENT,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_directory_that_was_removed_is_an_error(tmp_path: Path) -> None:
    words = f"rmdir {tmp_path}; exec {sys.executable} -m pyvmm_sentry do --platform trap true"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (125, "pyvmm-runsc: the current directory has been removed\n")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--memory", "1"), "--memory 1: not from 16 to 65536 MiB"),
        (("--pids", "0"), "--pids 0: not from 1 to 32768"),
        (("--cpus", "65"), "--cpus 65: not from 1 to 64"),
    ],
)
def test_it_reports_what_it_cannot_do(options: tuple[str, ...], reason: str) -> None:
    done = command_line("do", *options, BUSYBOX, "true")
    assert done.returncode == 125
    assert done.stderr.decode().startswith(f"pyvmm-runsc: {reason}")


@pytest.mark.parametrize(
    ("words", "works", "platform"),
    [
        ([BUSYBOX, "true"], ("kvm", "trap", "ptrace"), "kvm"),
        ([BUSYBOX, "true"], ("ptrace",), "ptrace"),
        ([BUSYBOX, "true"], ("trap", "ptrace"), "trap"),
        (["--platform", "ptrace", BUSYBOX, "true"], ("kvm", "trap", "ptrace"), "ptrace"),
    ],
)
def test_it_chooses_a_platform_that_works(
    monkeypatch: pytest.MonkeyPatch, words: list[str], works: tuple[str, ...], platform: str
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: True)
    for name in platforms.NAMES:
        found = platforms.Platform(name, name in works, "")
        monkeypatch.setattr(platforms, name, lambda found=found: found)
    monkeypatch.setattr(command, "run_on_kvm", lambda *_: platforms.NAMES.index("kvm"))
    monkeypatch.setattr(command, "run_on_host", lambda name, *_: platforms.NAMES.index(name))
    assert command.main(["do", *words]) == platforms.NAMES.index(platform)


def test_a_machine_that_does_not_power_off_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="triple-fault"):
        boot.run(Path(tiny.make(tmp_path, tiny.TRIPLE_FAULT)), boot.Start(BUSYBOX, ["busybox"], {}, 32))


@pytest.fixture
def last_stream() -> Iterator[tuple[int, int]]:
    """A pipe: its reader, and its writer by the last number that a record can name."""
    number = 255
    kept = os.dup(number) if os.path.exists(f"/proc/self/fd/{number}") else -1  # this process can have so many open
    reader, writer = os.pipe()
    os.dup2(writer, number)
    os.close(writer)
    yield reader, number
    os.dup2(kept, number) if kept >= 0 else os.close(number)
    os.close(reader)


def test_a_kernel_writes_to_no_other_descriptor(
    capfd: pytest.CaptureFixture[str], last_stream: tuple[int, int]
) -> None:
    reader, writer = last_stream
    output = boot.Output()
    for stream, data in ((writer, b"bad"), (1, b"out"), (2, b"err"), (3, b"?"), (3, b"\7\0")):
        os.write(output.writer, bytes((1, stream, len(data), 0)) + data)
    output.close()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    assert (output.status, output.kernel, *capfd.readouterr()) == (7, b"bad?", "out", "err")


def test_help_lists_system_calls() -> None:
    every = command_line("help", "syscalls").stdout.decode().splitlines()
    assert len(every) > 300
    assert "tier 1  openat(directory, path, flags, mode)  answered" in "\n".join(every)
    one = command_line("help", "syscalls", "io_setup", "close").stdout.decode()
    assert one == "  3  tier 1  close(fd)  answered\n206  tier 3  io_setup(count, context)  ENOSYS\n"
    assert command_line("help", "syscalls", "clsoe").returncode == 2


def test_platforms_that_work_are_listed_also_by_doctor() -> None:
    done = command_line("platforms")
    lines = {line.split()[1]: line.split()[0] for line in done.stdout.decode().splitlines() if "do:" not in line}
    assert lines == {"kvm": lines["kvm"], "trap": "yes", "ptrace": "yes"}
    doctor = subprocess.run([ROOT / ".venv" / "bin" / "pyvmm", "doctor"], capture_output=True, text=True)
    assert "yes  Sentry on ptrace" in doctor.stdout
    assert "yes  Sentry on trap" in doctor.stdout
