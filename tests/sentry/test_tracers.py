"""Debian's strace and gdb trace programs on the Sentry as a guest kernel, on a CPU that QEMU emulates."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_sentry import archive, program
from pyvmm_sentry.boot import Start
from tests.sentry import small_root
from tests.sentry.test_kernel import QEMU, boot, end

SRC = Path(__file__).parent / "src"
TOOLS = ("gdb", "strace")
OPENED = ("gconv/gconv-modules*", "gconv/UTF-32.so", "libthread_db.so.1")
"""What gdb opens of the C library."""
GDB_DATA = "/usr/share/gdb"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/tmp"}
pytestmark = pytest.mark.skipif(not all(map(shutil.which, (QEMU, *TOOLS))), reason="QEMU, gdb or strace is missing")

HARDWARE = ("break main", "run", "watch value", "rwatch other", "hbreak visited", *["continue"] * 6, "info breakpoints")
SOFTWARE = (
    *("set can-use-hw-watchpoints 0", "break visited", "run", "backtrace", "print $_siginfo.si_signo", "stepi", "next"),
    *("print seen", "set var seen = 40", "finish", "print seen + 2", "print $xmm0.v4_int32[0] * 0", "break work"),
    *("continue", "watch value", "continue", "continue", "continue"),
)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with the names of its variables."""
    path = tmp_path_factory.mktemp("watched") / "watched"
    command = ["gcc", "-g", "-O0", "-static", "-pthread", "-o", str(path), str(SRC / "watched.c")]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, watched: Path) -> Iterator[Path]:
    """An archive with the host's gdb and strace, and that program and its source where they are natively."""
    folder = tmp_path_factory.mktemp("tracers")
    made = small_root.make(folder / "root")
    for tool in TOOLS:
        small_root.copy(made, f"/usr/bin/{tool}")
    small_root.add_libraries(made, [made / "usr/bin" / tool for tool in TOOLS])
    for path in OPENED:
        for found in filter(os.path.isfile, glob.glob(f"/usr/lib/*/{path}")):
            small_root.copy(made, found)
    shutil.copytree(GDB_DATA, made / GDB_DATA.lstrip("/"), symlinks=True)
    for path in (str(watched), str(SRC / "watched.c")):
        small_root.copy(made, path)
    with open(folder / "archive", "wb") as out:
        archive.pack(made, out)
    shutil.rmtree(made)
    yield folder / "archive"
    (folder / "archive").unlink()


def compare(root: Path, folder: Path, capfd: pytest.CaptureFixture[str], words: list[str]) -> str:
    """Run a tracer natively and inside; what it printed, without numbers that differ from run to run."""
    native = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=ENVIRONMENT)
    start = Start(words[0], words, ENVIRONMENT, root="/")
    (folder / "initrd").write_bytes(start.record() + root.read_bytes())
    status = end(boot(program.kernel(), folder / "initrd", "", b"\x04", memory=1024))
    ours = capfd.readouterr()
    assert clean(ours.out).splitlines() == clean(native.stdout).splitlines(), ours.err
    assert (status, clean(ours.err)) == (native.returncode, clean(native.stderr))
    return native.stdout + native.stderr


def clean(text: str) -> str:
    """Addresses and process ids become words, and lines of the environment are dropped."""
    text = re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", text)
    text = re.sub(r"^\[pid +\d+\] ", "", text, flags=re.MULTILINE)  # while there are two
    text = re.sub(r"\b(LWP|process|Process|pid) +\d+", r"\1 N", text)
    lines = re.sub(r" +", " ", text).splitlines()
    return "\n".join(line for line in lines if not re.match(r"warning|\[(New )?Thread |.*libthread_db|\s*$", line))


def gdb(commands: tuple[str, ...], watched: Path) -> list[str]:
    words = [word for command in ("set width 0", *commands) for word in ("-ex", command)]
    return ["/usr/bin/gdb", "-batch", "-nx", "-q", *words, str(watched)]


@pytest.mark.long
def test_gdb_uses_breakpoints_of_the_cpu(
    root: Path, watched: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Writes of two threads to a variable, a read of another one, and a function."""
    printed = compare(root, tmp_path, capfd, gdb(HARDWARE, watched))
    assert printed.count("Hardware watchpoint 2: value") == 4
    assert "exited with code 03" in printed


@pytest.mark.long
def test_gdb_steps_and_changes_a_program(
    root: Path, watched: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    printed = compare(root, tmp_path, capfd, gdb(SOFTWARE, watched))
    assert "$3 = 42" in printed


@pytest.mark.parametrize("options", [[], ["--seccomp-bpf"]], ids=["every call", "chosen calls"])
def test_strace_follows_threads(
    root: Path, watched: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """With a filter, only the calls that are traced stop for the tracer."""
    words = ["/usr/bin/strace", "-f", *options, "-qq", "-e", "trace=write,exit_group", str(watched)]
    printed = compare(root, tmp_path, capfd, words)
    assert 'write(1, "value 3\\n", 8' in printed
