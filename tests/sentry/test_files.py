"""Calls for files return on the Sentry what they return on Linux, for success and for each error."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from pyvmm_sentry import archive, program
from tests.sentry.conftest import Compile
from tests.sentry.test_programs import BUSYBOX, run

SOURCES = (
    "arguments",
    "async",
    "credentials",
    "descriptors",
    "execs",
    "files",
    "interrupted",
    "limits",
    "pipes",
    "queues",
    "events",
    "ipc",
    "opened",
    "seccomp",
    "sends",
    "sockets",
    "timers",
    "tracers",
    "watches",
)

SECONDS = 240
"""On a busy machine: thousands of calls of many processes take a second on an idle one."""


@pytest.mark.parametrize("name", SOURCES)
def test_calls_return_what_they_return_on_linux(
    platform: Path, compile_static: Compile, folder: str, name: str
) -> None:
    """Each program works in a new folder of a tmpfs, which has the same name natively and inside.

    Natively, queues and the like of System V and POSIX, names of the host and mounts are in namespaces of the program.
    """
    compiled = compile_static(name)
    native = run("unshare", "--ipc", "--uts", "--mount", "--propagation", "private", compiled, folder)
    ours = run(platform, "--", compiled, folder, seconds=SECONDS)
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > 70
    assert rows[1] == rows[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_calls_with_wrong_names_return_what_they_return_on_linux(compile_static: Compile, folder: str) -> None:
    """Each call that has a path, with each kind of wrong path: about 4,400 results, for which ptrace is too slow."""
    compiled = compile_static("names")
    native = run("unshare", "--mount", "--propagation", "private", compiled, folder)
    ours = run(program.trap(), "--", compiled, folder, seconds=SECONDS)
    assert native.returncode == ours.returncode == 42, ours.stderr
    rows = [each.stdout.decode().splitlines() for each in (native, ours)]
    assert len(rows[0]) > 4000
    assert rows[1] == rows[0]


TREE = {"etc/motd": "hello\n", "home/one": "1\n2\n" * 500, "home/deep/er/two": "two\n", "empty/.keep": ""}


def make_root(folder: Path) -> Path:
    """A root with busybox, its applets as links, and a tree."""
    (folder / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin" / "busybox")
    for applet in ("cat", "find", "grep", "ls", "md5sum", "readlink", "sort", "stat", "tar", "wc"):
        (folder / "bin" / applet).symlink_to("busybox")
    for name, text in TREE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    os.mkfifo(folder / "home" / "fifo")
    (folder / "home" / "link").symlink_to("deep/er/two")
    (folder / "home" / "absolute").symlink_to("/etc/motd")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "cat /etc/motd /home/link /home/absolute",
        "grep -rn two /home/deep /home/link",
        "md5sum /home/one",
        "sort -r /home/one",
        "find /home /empty",
        "readlink /home/link",
        "stat -c %n:%a:%s:%F /home/one /home/link /home/fifo",
        "wc /home/one /etc/motd",
    ],
)
def test_programs_of_a_root_behave_as_below_chroot(platform: Path, tmp_path: Path, words: str) -> None:
    """The output of a program whose root was packed, beside that of the same program in the directory itself."""
    root = make_root(tmp_path / "root")
    with open(tmp_path / "archive", "wb") as out:
        archive.pack(root, out)
    command = [f"/bin/{words.split()[0]}", *words.split()[1:]]
    native = run("chroot", root, *command)
    ours = run(platform, "--archive", tmp_path / "archive", "--", *command)
    assert (ours.returncode, ours.stderr) == (native.returncode, native.stderr) == (0, b"")
    assert sorted(ours.stdout.splitlines()) == sorted(native.stdout.splitlines())


@pytest.mark.parametrize("name", ["/home/fifo", "/home", "/dev/null"])
def test_only_a_regular_file_is_started(platform: Path, tmp_path: Path, name: str) -> None:
    """A fifo would wait for its writer, before there is a task that could wait."""
    root = make_root(tmp_path / "root")
    with open(tmp_path / "archive", "wb") as out:
        archive.pack(root, out)
    done = run(platform, "--archive", tmp_path / "archive", "--", name)
    assert (done.returncode, done.stderr.decode()) == (126, f"{name}: not a regular file\n")


@pytest.mark.parametrize("damage", [slice(0, 50), slice(0, 300), slice(100, 2000), slice(0, 0)])
def test_a_damaged_archive_is_refused(platform: Path, tmp_path: Path, damage: slice) -> None:
    root = make_root(tmp_path / "root")
    with open(tmp_path / "whole", "wb") as out:
        archive.pack(root, out)
    (tmp_path / "damaged").write_bytes((tmp_path / "whole").read_bytes()[damage] or b"0" * 200)
    done = run(platform, "--archive", tmp_path / "damaged", "--", "/bin/cat", "/etc/motd")
    assert done.returncode == 126
    assert b"the archive of the root is damaged" in done.stderr


def test_a_later_member_of_an_archive_replaces_an_earlier_one(platform: Path, tmp_path: Path) -> None:
    """An archive may have a name twice, as those that were appended to."""
    archives = []
    for number, text in enumerate(["a long first text\n", "short\n"]):
        root = make_root(tmp_path / f"root{number}")
        (root / "etc" / "motd").write_text(text)
        with open(tmp_path / f"archive{number}", "wb") as out:
            archive.pack(root, out)
        archives.append((tmp_path / f"archive{number}").read_bytes())
    trailer = archives[0].rindex(b"070701", 0, archives[0].rindex(b"TRAILER!!!"))
    (tmp_path / "both").write_bytes(archives[0][:trailer] + archives[1])
    assert run(platform, "--archive", tmp_path / "both", "--", "/bin/cat", "/etc/motd").stdout == b"short\n"


def test_proc_shows_the_process(platform: Path, tmp_path: Path) -> None:
    def cat(*names: str) -> str:
        done = run(platform, "--", BUSYBOX, "cat", *names)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    assert "[stack]\n" in cat("/proc/self/maps")
    assert re.search(r"^Pid:\t1$", cat("/proc/self/status"), re.MULTILINE)
    assert cat("/proc/self/stat").split()[0] == "1"
    assert len(cat("/proc/self/stat").split()) == 52
    assert "proc /proc proc rw" in cat("/proc/mounts")
    assert cat("/proc/sys/kernel/ostype") == "Linux\n"
    assert cat("/proc/self/cmdline") == f"{BUSYBOX}\0cat\0/proc/self/cmdline\0"
    assert run(platform, "--", BUSYBOX, "cat", "/dev/stdin", text=b"through a link").stdout == b"through a link"
