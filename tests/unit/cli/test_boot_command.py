"""`pyvmm boot` as a user or a script sees it: exit statuses, messages, signals, consoles.

The guests are a few instructions long, so any KVM can run them; Linux is in tests/guest.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import PATIENCE, SIGNAL_STATUS, Command, Terminal
from tests.unit.boot.images import MIB, Load, elf, kernel, pvh_note
from tools.where import PYVMM

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `pyvmm boot` with a kernel that runs the given code: `start(code, *arguments)`."""
    commands: list[Command] = []

    def start_one(code: bytes, *arguments: str, **options: Any) -> Command:
        kernel = tiny.make(tmp_path, code)
        commands.append(Command(tmp_path, "--kernel", kernel, "--memory", "32M", *arguments, **options))
        return commands[-1]

    yield start_one
    for command in commands:
        command.close()
        assert not command.leftovers()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


ENDS = {
    "poweroff": (tiny.POWEROFF, 0, ""),
    "reboot": (tiny.ACPI_RESET, 16, "reboot"),
    "panic": (tiny.PANIC, 17, "panicked"),
    "triple-fault": (tiny.TRIPLE_FAULT, 18, "triple fault"),
    "error": (tiny.NOWHERE, 19, "rip 0xd8000000"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_every_end_has_its_exit_status_and_message(start: Start, kind: str) -> None:
    code, status, message = ENDS[kind]
    command = start(tiny.say("hello\n") + code)
    assert command.wait() == status
    assert command.output == b"hello\n"
    assert "Traceback" not in command.errors
    assert message in command.errors
    assert bool(command.errors) == (kind != "poweroff")


@pytest.mark.parametrize("kind", ENDS)
def test_every_end_is_one_json_object(start: Start, kind: str) -> None:
    code, status, message = ENDS[kind]
    command = start(tiny.say("hello\n") + code, "--json")
    assert command.wait() == status
    assert command.output == b"hello\n", "the console stays on stdout"
    (line,) = command.errors.splitlines()
    event = json.loads(line)
    assert (event["event"], event["status"]) == (kind, status)
    assert message in event.get("detail", "")


@pytest.mark.parametrize("code", [tiny.SPIN, tiny.HALT, tiny.forever(tiny.say("x"))], ids=["spin", "halt", "print"])
def test_timeout_ends_any_guest(start: Start, code: bytes) -> None:
    command = start(tiny.say("hello\n") + code, "--timeout", "0.5", "--json")
    assert command.wait() == 124
    assert command.output.startswith(b"hello\n")
    event = json.loads(command.errors)
    assert (event["event"], event["status"]) == ("timeout", 124)
    assert "0.5" in event["detail"]


@pytest.mark.parametrize("number", SIGNAL_STATUS, ids=lambda number: number.name)
@pytest.mark.parametrize("code", [tiny.SPIN, tiny.HALT], ids=["spin", "halt"])
def test_signals_end_the_run_with_their_status(start: Start, number: signal.Signals, code: bytes) -> None:
    command = start(tiny.say("hello\n") + code, "--cpus", "2", "--json")
    command.expect("hello")
    command.process.send_signal(number)
    assert command.wait() == SIGNAL_STATUS[number]
    event = json.loads(command.errors)
    assert (event["event"], event["status"]) == ("stopped", SIGNAL_STATUS[number])
    assert number.name in event["detail"]


def test_statistics_tell_who_answered_the_exits(start: Start) -> None:
    code = tiny.repeat(tiny.say("x"), 500) + tiny.repeat(tiny.outb(0x80, 0), 100) + tiny.POWEROFF
    command = start(code, "--stats", "--json")
    assert command.wait() == 0
    stats = json.loads(command.errors)["stats"]
    exits = stats["exits"]
    assert exits["by_reason"]["io"]["c"] >= 600, "the serial port and the unclaimed one"
    assert exits["by_reason"]["io"]["python"] == 1, "the power register"
    assert exits["unclaimed"] >= 100
    assert (exits["c"], exits["python"]) == tuple(
        sum(row[who] for row in exits["by_reason"].values()) for who in ("c", "python")
    )
    assert stats["serial"]["tx_bytes"] == 500 == len(command.output)
    order = ["entered", "made", "memory", "kvm", "devices", "kernel", "first-run", "ended"]
    assert [name for name in stats["phases"] if name in order] == order
    assert list(stats["phases"].values()) == sorted(stats["phases"].values())


def test_statistics_as_a_table(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("x"), 500) + tiny.POWEROFF, "--stats")
    assert command.wait() == 0
    rows = {line.split()[0]: line.split()[1:] for line in command.errors.splitlines()}
    assert rows["exits"] == ["kernel", "C", "Python"]
    assert int(rows["io"][-2]) >= 500 and rows["io"][-1] == "1"
    assert rows["all"][-1] == "1"
    assert rows["serial"][:2] == ["tx_bytes", "500"]
    assert rows["phases"][0] == "(ms)"
    assert rows["vcpu0"]


def test_input_from_a_pipe_reaches_the_guest_whole(start: Start) -> None:
    sent = bytes(range(5, 256)) * 40
    command = start(tiny.ECHO)
    thread = threading.Thread(target=lambda: command.type(sent + b"\4"))
    thread.start()
    assert command.wait() == 0
    thread.join()
    assert command.output == sent + b"\4"


def test_end_of_input_does_not_end_the_guest(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("x"), 5_000) + tiny.POWEROFF, stdin=subprocess.DEVNULL)
    assert command.wait() == 0
    assert command.output == b"x" * 5_000


def test_late_reader_gets_everything(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("0123456789"), 10_000) + tiny.POWEROFF)
    assert command.process.stdout is not None
    # More than the pipe takes. Not longer: a guest that does not look whether there is room is held up for a second
    with open(f"/proc/self/fd/{command.process.stdout.fileno()}", "wb", buffering=0) as pipe:
        deadline = time.monotonic() + PATIENCE
        while select.select([], [pipe], [], 0)[1]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert command.process.poll() is None
    assert command.wait() == 0
    assert command.output == b"0123456789" * 10_000


def test_a_reader_that_leaves_ends_the_run(start: Start) -> None:
    command = start(tiny.forever(tiny.say("line\n")), "--json")
    with subprocess.Popen(["head", "-1"], stdin=command.process.stdout, stdout=subprocess.PIPE) as head:
        assert command.process.stdout is not None
        command.process.stdout.close()
        command.process.stdout = None
        assert head.communicate()[0] == b"line\n"
    assert command.wait() == 141
    assert "Traceback" not in command.errors


def test_console_file_is_appended_to(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    for _ in range(2):
        command = start(tiny.say("hello\n") + tiny.POWEROFF, "--console", f"file:{log}")
        assert command.wait() == 0
        assert command.output == b""
    assert log.read_text() == "hello\nhello\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_console_none_throws_away(start: Start) -> None:
    command = start(tiny.repeat(tiny.say("x"), 10_000) + tiny.POWEROFF, "--console", "none", stdin=subprocess.DEVNULL)
    assert command.wait() == 0
    assert command.output == b""


def test_console_pty_is_a_terminal_of_its_own(start: Start) -> None:
    command = start(tiny.say("lost?\n") + tiny.ECHO, "--console", "pty", "--json")
    while not (lines := command.errors.splitlines()):
        assert command.process.poll() is None
        time.sleep(0.05)
    where = json.loads(lines[0])
    assert where["event"] == "console"
    fd = os.open(where["where"], os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(fd, b"typed")
        seen = b""
        while b"typed" not in seen:
            seen += os.read(fd, 100)
        os.write(fd, b"\4")
        assert command.wait() == 0
    finally:
        os.close(fd)
    assert command.output == b"", "the console is not on stdout"
    assert json.loads(command.errors.splitlines()[-1])["event"] == "poweroff"


def test_escape_key_ends_the_run_and_gives_the_terminal_back(start: Start, terminal: Terminal) -> None:
    command = start(tiny.say("hello\n") + tiny.ECHO, terminal=terminal)
    terminal.expect("hello")
    assert not terminal.settings()[3] & (termios.ECHO | termios.ICANON | termios.ISIG)  # type: ignore[operator]
    terminal.type(b"\3typed")
    terminal.expect("\3typed")  # Ctrl-C is the guest's
    terminal.type(b"\1")
    terminal.type(b"x")
    assert command.wait() == 20
    assert terminal.settings() == terminal.before
    assert "console" in command.errors


@pytest.mark.parametrize("number", SIGNAL_STATUS, ids=lambda number: number.name)
def test_signals_give_the_terminal_back(start: Start, terminal: Terminal, number: signal.Signals) -> None:
    command = start(tiny.say("hello\n") + tiny.SPIN, terminal=terminal)
    terminal.expect("hello")
    assert terminal.settings() != terminal.before
    command.process.send_signal(number)
    assert command.wait() == SIGNAL_STATUS[number]
    assert terminal.settings() == terminal.before


@pytest.mark.parametrize("kind", ["poweroff", "triple-fault", "error"])
def test_the_guests_end_gives_the_terminal_back(start: Start, terminal: Terminal, kind: str) -> None:
    code, status, _ = ENDS[kind]
    command = start(tiny.say("hello\n") + code, terminal=terminal)
    assert command.wait() == status
    assert terminal.settings() == terminal.before
    terminal.expect("hello")


def test_two_writers_of_one_image_are_refused(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    first = start(tiny.say("hello\n") + tiny.HALT, "--disk", str(image))
    first.expect("hello")
    second = start(tiny.POWEROFF, "--disk", str(image))
    assert second.wait() == 2
    assert str(image) in second.errors and "in use" in second.errors
    assert f"process {first.process.pid}" in second.errors
    third = start(tiny.POWEROFF, "--disk", f"{image},ro")
    assert third.wait() == 2, "nor may anybody read what the first writes"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert start(tiny.POWEROFF, "--disk", str(image)).wait() == 0, "a killed one leaves no lock"


def test_several_readers_of_one_image(start: Start, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    first = start(tiny.say("hello\n") + tiny.HALT, "--disk", f"{image},ro")
    first.expect("hello")
    assert start(tiny.POWEROFF, "--disk", f"{image},ro").wait() == 0


def test_no_terminal_and_closed_descriptors(tmp_path: Path) -> None:
    for code, status in ((tiny.POWEROFF, 0), (tiny.PANIC, 17)):
        kernel = tiny.make(tmp_path, tiny.say("hello\n") + code)
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", PYVMM, "boot", "--kernel", kernel, "--memory", "32M"],
            start_new_session=True,
            timeout=PATIENCE,
        )
        assert done.returncode == status


# -- what a monitor keeps of its start while its guest runs ----------------------------------------------------------


def programs_kib(pid: int) -> int:
    """How much process *pid* has mapped of text and constants (proc(5), smaps)."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    found = re.findall(r"^\S+ r-[-x]p \S+ \S+ \S+ +/.*\n(?:\S+:.*\n)*?Rss: +(\d+) kB$", smaps, re.MULTILINE)
    return sum(map(int, found))


def test_programs_that_only_the_start_needed_are_unmapped(tmp_path: Path) -> None:
    kernel = tiny.make(tmp_path, tiny.say("hello\n"), tiny.ECHO)
    command = Command(tmp_path, "--kernel", kernel)
    try:
        command.expect("hello\n")
        started = programs_kib(command.process.pid)
        assert started > 1024, "or nothing is seen here"
        deadline = time.monotonic() + PATIENCE
        while programs_kib(command.process.pid) > started / 6:
            assert time.monotonic() < deadline, f"{programs_kib(command.process.pid)} of {started} KiB"
            time.sleep(0.1)
        command.type(b"typed\n\4")
        assert command.wait() == 0
        assert command.text == "hello\ntyped\n\4"
    finally:
        command.close()


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


def test_no_kernel(files: Path) -> None:
    error, hint = told(files)
    assert "no --kernel" in error and "pyvmm-guest" in error
    assert "dist pyvmm-guest" in hint


def test_the_kernel_of_a_package(files: Path) -> None:
    """An editable installation of pyvmm-guest contains none, so the error names the file that would be booted."""
    done = boot(files, PYTHONPATH=f"{ROOT}:{ROOT}/examples/guest")
    first, second, *_ = done.stderr.splitlines()
    kernel = f"{ROOT}/examples/guest/pyvmm_guest/files/vmlinux"
    assert "pyvmm-guest" in first and first.endswith(kernel)
    assert kernel in second and "No such file" in second and done.returncode == 2


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
        (["--max-cpus", "some"], ["--max-cpus", "'some'"]),
        (["--cpus", "4", "--max-cpus", "2"], ["at most 2", "not 4"]),
        (["--transport", "isa"], ["isa", "mmio, pci"]),
        (["--virtqueues", "round"], ["round", "split, packed"]),
        (["--console-device", "lpt"], ["console device", "'lpt'", "serial, virtio"]),
        (["--balloon", "yes"], ["--balloon", "'yes'"]),
        (["--balloon", "on", "--huge-pages", "hugetlb"], ["balloon", "hugetlb"]),
        (["--hotplug-memory", "block=2M"], ["--hotplug-memory", "no size"]),
        (["--hotplug-memory", "size=100M"], ["not a multiple of 128 MiB"]),
        (["--hotplug-memory", "size=128M,block=1M"], ["blocks of 1048576", "2 MiB"]),
        (["--hotplug-memory", "size=128M", "--huge-pages", "hugetlb"], ["added", "hugetlb"]),
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
    [(["--kernel"], "--kernel"), (["--kernel", "vmlinux", "--bogus"], "--bogus")],
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
