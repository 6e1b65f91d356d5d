"""What `pyvmm boot` says about a command line, or a file that it names, that is not right.

None of these needs KVM: what can be found wrong is found before it is touched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.boot.images import MIB, Load, elf, kernel, pvh_note

ROOT = Path(__file__).parents[3]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a good kernel and a good disk in it, where the command runs."""
    (tmp_path / "vmlinux").write_bytes(kernel())
    (tmp_path / "disk.img").write_bytes(bytes(MIB))
    return tmp_path


def boot(folder: Path, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """`pyvmm boot` in *folder*; its own cache, no terminal."""
    code = "import sys; from vmm.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "boot", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")} | options,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def told(folder: Path, *arguments: str) -> tuple[str, str]:
    """The error and the hint of a command that must fail with status 2, in two lines and nothing else."""
    done = boot(folder, *arguments)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("pyvmm: ")
    assert lines[1].startswith("  hint: ")
    return lines[0], lines[1]


def test_missing_kernel(files: Path) -> None:
    error, hint = told(files, "--kernel", "not-there")
    assert "kernel not-there" in error and "No such file" in error
    assert "path" in hint


def test_truncated_kernel(files: Path) -> None:
    code = b"\xf4" * 4000
    whole = elf([Load(16 * MIB, pvh_note(16 * MIB) + code)], entry=16 * MIB)
    (files / "short").write_bytes(whole[:-1000])
    error, hint = told(files, "--kernel", "short")
    assert "kernel short is truncated" in error
    assert str(len(whole)) in error and str(len(whole) - 1000) in error, "how long it is and should be"
    assert "again" in hint


def test_kernel_that_is_a_disk_image(files: Path) -> None:
    image = bytearray(MIB)
    image[0x438:0x43A] = b"\x53\xef"
    (files / "root.ext4").write_bytes(image)
    error, hint = told(files, "--kernel", "root.ext4")
    assert "kernel root.ext4" in error and "disk image" in error
    assert "--rootfs" in hint


def test_kernel_that_does_not_fit_into_memory(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--memory", "8M")
    assert "kernel vmlinux" in error and "8 MiB" in error
    assert "--memory 17M" in hint
    (files / "vmlinux").write_bytes(kernel(paddr=0xC_0000))
    error, hint = told(files, "--kernel", "vmlinux")
    assert "0xc0000" in error and "1 MiB" in hint


def test_initrd_that_does_not_fit(files: Path) -> None:
    (files / "initrd").touch()
    os.truncate(files / "initrd", 100 * MIB)
    error, hint = told(files, "--kernel", "vmlinux", "--initrd", "initrd", "--memory", "64M")
    assert "initrd initrd" in error and str(100 * MIB) in error
    assert "--memory 117M" in hint


def test_missing_initrd(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--initrd", "not-there")
    assert "initrd not-there" in error and "No such file" in error
    assert "path" in hint


def test_command_line_that_is_too_long(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--cmdline", "x" * 3000)
    assert "2047" in error
    over = int(hint.split("make --cmdline ")[1].split()[0])
    done = boot(files, "--kernel", "vmlinux", "--rootfs", "not-there", "--cmdline", "x" * (3000 - over))
    assert "command line" in done.stderr, "the root disk adds words of its own"
    error, _ = told(files, "--kernel", "vmlinux", "--cmdline", "x" * (3000 - over), "--disk", "not-there")
    assert "disk not-there" in error, "as short as the hint said is short enough"


def test_missing_root_disk(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--rootfs", "not-there")
    assert "disk not-there" in error and "No such file" in error
    assert "truncate" in hint


@pytest.mark.parametrize(
    ("share", "words", "way"),
    [
        ("nowhere", "share nowhere: No such file or directory", "name a directory"),
        ("vmlinux", "share vmlinux: Not a directory", "name a directory"),
        (".,cache=some", "cache='some' is not one of none, auto, always", "auto is right"),
        (".,speed=9", "option 'speed=9' is not known", "--share DIR[,tag=TAG][,ro]"),
        (".,map=1:2", "option 'map=1:2' is not known", "map=GUEST:HOST:COUNT"),
        (".,map=0:4294967295:9", "ids are mapped", "map=0:1000:1"),
        (".,tag=" + "x" * 37, "up to 36 printable bytes", "tag=src"),
        (".,cache=none,writeback", "writeback needs a cache", "one of the two"),
        (",ro", "no directory is named", "--share DIR[,tag=TAG][,ro]"),
    ],
)
def test_share(files: Path, share: str, words: str, way: str) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--share", share)
    assert words in error
    assert way in hint


def test_two_shares_with_one_tag(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--share", ".,tag=a", "--share", "/,tag=a")
    assert "two shares have the tag 'a'" in error
    assert ",tag=TAG" in hint


@pytest.mark.parametrize(
    ("size", "told_size", "way"), [(0, "empty", "truncate -s 1G"), (1000, "1000 bytes", "truncate -s %512")]
)
def test_disk_of_a_bad_size(files: Path, size: int, told_size: str, way: str) -> None:
    (files / "odd.img").write_bytes(bytes(size))
    error, hint = told(files, "--kernel", "vmlinux", "--disk", "odd.img")
    assert "disk odd.img" in error and told_size in error
    assert way in hint


def test_one_image_as_two_disks(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--rootfs", "disk.img", "--disk", "./disk.img")
    assert "disk ./disk.img" in error and "in use" in error
    assert ",ro" in hint


def test_unknown_disk_option(files: Path) -> None:
    error, hint = told(files, "--kernel", "vmlinux", "--disk", "disk.img,rw")
    assert "'rw'" in error
    assert "cache=writeback|writethrough" in hint


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--memory", "12Q"], ["--memory", "'12Q'"]),
        (["--memory", "20000001"], ["20000001"]),
        (["--memory", "1M"], ["1024 KiB"]),
        (["--cpus", "two"], ["--cpus", "'two'"]),
        (["--cpus", "33"], ["33", "32"]),
        (["--transport", "isa"], ["isa", "mmio, pci"]),
        (["--virtqueues", "round"], ["round", "split, packed"]),
        (["--console-device", "lpt"], ["console device", "'lpt'", "serial, virtio"]),
        (["--balloon", "yes"], ["--balloon", "'yes'"]),
        (["--balloon", "on", "--huge-pages", "hugetlb"], ["balloon", "hugetlb"]),
        (["--pmem", "disk.img,rw"], ["--pmem", "disk.img,rw"]),
        (["--cpus", "0"], ["--cpus", "'0'"]),
        (["--timeout", "soon"], ["--timeout", "'soon'"]),
        (["--timeout", "-1"], ["--timeout", "'-1'"]),
        (["--entry", "efi"], ["entry", "'efi'"]),
        (["--huge-pages", "1G"], ["huge pages", "'1G'"]),
        (["--console", "tty"], ["--console", "'tty'"]),
        (["--disk", "disk.img,serial=" + "x" * 21], ["serial", "x" * 21]),
        (["--disk", "disk.img,cache=none"], ["cache", "'none'"]),
    ],
    ids=" ".join,
)
def test_bad_values(files: Path, arguments: list[str], names: list[str]) -> None:
    done = boot(files, "--kernel", "vmlinux", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and not done.stdout
    error = done.stderr.splitlines()[0]
    assert error.startswith("pyvmm: ")
    assert all(name in error for name in names), error


def test_what_the_command_line_alone_tells_is_told_before_a_file_is_made(files: Path) -> None:
    for bad in (["--timeout", "soon"], ["--cpus", "33"], ["--memory", "much"], ["--disk", ","]):
        assert boot(files, "--kernel", "vmlinux", "--console", "file:log", *bad).returncode == 2
        assert not (files / "log").exists(), bad


@pytest.mark.parametrize(
    ("arguments", "names"),
    [([], "--kernel"), (["--kernel"], "--kernel"), (["--kernel", "vmlinux", "--bogus"], "--bogus")],
    ids=" ".join,
)
def test_usage(files: Path, arguments: list[str], names: str) -> None:
    done = boot(files, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: pyvmm boot")
    assert names in done.stderr.splitlines()[-1]


def test_the_same_as_json(files: Path) -> None:
    done = boot(files, "--kernel", "vmlinux", "--rootfs", "not-there", "--json")
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    event = json.loads(line)
    assert (event["event"], event["code"], event["status"]) == ("error", "disk-missing", 2)
    assert "not-there" in event["detail"] and "truncate" in event["hint"]


def test_console_file_that_cannot_be_made(files: Path) -> None:
    (files / "link").symlink_to("disk.img")
    for name, reason in (("link", "symbolic link"), ("no-folder/log", "No such file"), ("cache/..", "directory")):
        (files / "cache").mkdir(exist_ok=True)
        done = boot(files, "--kernel", "vmlinux", "--console", f"file:{name}")
        assert done.returncode == 2
        assert f"--console file:{name}" in done.stderr and reason in done.stderr
    assert (files / "disk.img").stat().st_size == MIB


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="a machine is half made by then")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_starts_ends_it_without_a_traceback(files: Path, number: int) -> None:
    """While the machine is made, before it watches for signals: it waits for passt, which does not come."""
    started, tools = files / "started", files / "tools"
    os.mkfifo(started)
    tools.mkdir()
    (tools / "passt").write_text(f"#!/bin/sh\necho started >{started}\nexec sleep 600\n")
    (tools / "passt").chmod(0o755)
    code = "import sys; from vmm.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "boot", "--kernel", "vmlinux", "--net", "user", "--memory", "64M"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}"}
    environment["XDG_CACHE_HOME"] = str(files / "cache")
    with subprocess.Popen(
        command, cwd=files, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert started.read_text() == "started\n"
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
    assert (process.returncode, said) == (128 + number, b"")
