"""Python decides system calls, sees them, and serves files, in a sandbox on trap; tests/guest does the same on kvm."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyvmm_sentry import Event, SentrySandbox, events, hooks
from tests.sentry.conftest import Compile
from tests.sentry.test_programs import BUSYBOX
from vmm import ConfigError, HostError

APPLETS = ("sh", "cat", "echo", "ls", "mkdir", "nc", "rm", "sleep", "true")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with busybox and two files."""
    place = tmp_path / "root"
    for name in ("bin", "dev", "proc", "good", "bad"):
        (place / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "bin" / "busybox")
    for applet in APPLETS:
        (place / "bin" / applet).symlink_to("busybox")
    (place / "good" / "file").write_text("good\n")
    (place / "bad" / "file").write_text("bad\n")
    return place


@pytest.fixture
def host() -> str:
    """The platform of the sandboxes."""
    return "trap"


def shell(root: Path, script: str, host: str, timeout: float = 10.0) -> SentrySandbox:
    return SentrySandbox(root, ["sh", "-c", script], platform=host, timeout=timeout, env={"PATH": "/bin"})


def refuse_bad(event: Event) -> int | None:
    return errno.EACCES if event.path.startswith("/bad") else None


def test_a_program_is_refused(root: Path, host: str) -> None:
    """By its own name, whatever link leads to it; a hook sees the arguments."""
    (root / "bin" / "tool").symlink_to("/bad/tool")
    shutil.copy(BUSYBOX, root / "bad" / "tool")
    seen = []
    with shell(root, "/bin/tool true; echo $?; cat /good/file", host) as sandbox:

        @sandbox.on("execve")
        def decide(event: Event) -> int | None:
            seen.append((event.call, event.path, event.real_path, event.argv, event.program, event.result))
            return errno.EPERM if event.real_path == "/bad/tool" else None

        result = sandbox.run(60)
    assert result.stdout == b"126\ngood\n"
    assert b"Operation not permitted" in result.stderr
    assert seen[0] == ("execve", "/bin/tool", "/bad/tool", ["/bin/tool", "true"], "sh", None)
    assert [(real, argv) for _, _, real, argv, _, _ in seen[1:]] == [("/bin/busybox", ["cat", "/good/file"])]


def test_a_program_is_refused_on_ptrace(root: Path) -> None:
    test_a_program_is_refused(root, "ptrace")


def test_only_what_is_subscribed_costs_an_exchange(root: Path, host: str) -> None:
    script = "cat /good/file /bad/file; echo x >/good/new; rm /good/new; rm /good/none; cd /good; ls >/dev/null"
    with shell(root, script, host) as sandbox:
        sandbox.on("unlink")(lambda event: None)
        sandbox.run(60)
        assert sandbox.exchanges == 1  # rm asks about what is not there first
    with shell(root, script, host) as sandbox:
        sandbox.run(60)
        assert sandbox.exchanges == 0


def test_a_path_is_seen_from_its_directory(root: Path, host: str) -> None:
    seen: list[tuple[str, str]] = []
    with shell(root, "cd /good; cat file ../bad/file ./new; mkdir new; cat <none", host) as sandbox:

        @sandbox.on("open", "mkdir")
        def decide(event: Event) -> None:
            seen.append((event.call, event.path))
            if event.path == "/bad/file":
                event.rewrite(path="/good/file")

        result = sandbox.run(60)
    assert result.stdout == b"good\ngood\n"
    assert [path for call, path in seen if path.startswith(("/good", "/bad"))] == [
        *("/good/file", "/bad/file", "/good/new", "/good/new", "/good/none")
    ]


def test_what_was_decided_is_what_is_done(root: Path, host: str, compile_static: Compile) -> None:
    """Although other threads and processes change the name, the directory and the descriptor meanwhile."""
    for place in ("good", "bad"):
        shutil.copy(compile_static("racing_names"), root / place / "run")
    shutil.copy(compile_static("racing_names"), root / "bin" / "racing")
    asked = []
    with SentrySandbox(root, ["/bin/racing"], platform=host) as sandbox:

        @sandbox.on("open", "execve")
        def decide(event: Event) -> int | None:
            asked.append(event.path)
            is_bad = event.path.startswith("/bad/") or any(word.startswith("/bad") for word in event.argv)
            return errno.EACCES if is_bad else None

        result = sandbox.run(60)
    assert result.stdout == b"good 1, bad 0\n"
    assert {"/good/file", "/bad/file", "/bad/run"} <= set(asked)


def test_a_hook_that_fails_or_hangs_refuses(root: Path, host: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Others decide meanwhile."""
    hangs = threading.Event()
    with shell(root, "cat /good/file; cat /bad/file; true; cat /bin/none", host, timeout=0.3) as sandbox:

        @sandbox.on("open")
        def decide(event: Event) -> None:
            if event.path == "/good/file":
                hangs.wait()
            if event.path == "/bad/file":
                raise KeyError("what this hook does not know")

        sandbox.on("execve")(lambda event: None)
        result = sandbox.run(60)
        hangs.set()
    assert result.stdout == b""
    assert result.stderr.count(b"Operation not permitted") == 2
    assert b"/bin/none': No such file" in result.stderr
    assert "KeyError" in capfd.readouterr().err


def test_addresses_of_sockets(root: Path, host: str) -> None:
    seen = []
    script = "nc 127.0.0.1 4242; nc ::1 80; nc local:/good/socket; nc -l -p 99 -w 1 </dev/null; echo done"
    with shell(root, script, host) as sandbox:

        @sandbox.on("connect", "bind")
        def decide(event: Event) -> int:
            seen.append((event.call, event.address))
            return errno.EHOSTDOWN

        result = sandbox.run(60)
    assert ("connect", ("127.0.0.1", 4242)) in seen
    assert ("connect", ("::1", 80)) in seen
    assert any(call == "bind" for call, _ in seen)
    assert b"Host is down" in result.stderr


def test_events_are_seen_with_their_results(root: Path, host: str) -> None:
    with shell(root, "cat /good/file /bad/file; exit 4", host) as sandbox:
        sandbox.on("open")(refuse_bad)
        found = sandbox.events("open", "execve", "exit_group")
        sandbox.start()
        seen = list(found)
        assert sandbox.wait(60).status == 4
    assert sandbox.dropped == 0
    assert [event.time for event in seen] == sorted(event.time for event in seen)
    calls = [(event.call, event.path, event.result) for event in seen]
    assert any(call == "execve" and result == 0 for call, _, result in calls)
    assert ("openat", "/good/file", 3) in calls
    assert ("openat", "/bad/file", -errno.EACCES) in calls
    assert (seen[-1].call, seen[-1].arguments) == ("exit_group", {"status": 4})


FLOOD = "i=0; while [ $i -lt 8000 ]; do i=$((i + 1)); [ -e / ]; done"


def test_a_flood_of_events_is_bounded_and_counted(root: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes them until the sandbox is closed, so that no more arrive meanwhile."""
    monkeypatch.setattr("pyvmm_sentry.sandbox.EVENTS_MOST", 1 << 19)
    with shell(root, FLOOD, host) as sandbox:
        found = sandbox.events("stat", "newfstatat", "lstat", "access", "faccessat", "faccessat2")
        sandbox.run(60)
    records = sum(1 for _ in found)
    assert 100 < records <= (1 << 19) // events.RECORD.size
    assert records + sandbox.dropped >= 8000


def test_a_file_that_python_serves(root: Path, host: str) -> None:
    """Its content is made at each open; nobody can change it."""
    numbers = iter(range(9))

    def broken() -> bytes:
        raise OSError(errno.ENXIO, "no token today")

    script = "cat /run/token /run/token /run/large/file; echo x >/run/token; cat /run/broken; ls /run"
    with shell(root, script, host) as sandbox:
        sandbox.files["/run/token"] = lambda: b"token %d\n" % next(numbers)
        sandbox.files["/run/large/file"] = lambda: b"x" * 300_000 + b"\n"
        sandbox.files["/run/broken"] = broken
        result = sandbox.run(60)
    assert result.stdout == b"token 0\ntoken 1\n" + b"x" * 300_000 + b"\nbroken\nlarge\ntoken\n"
    assert b"can't create /run/token: Read-only file system" in result.stderr
    assert b"/run/broken': No such device or address" in result.stderr
    assert not (root / "run").exists()


def test_processes_and_stats(root: Path, host: str) -> None:
    with shell(root, "sleep 1000 & cat /good/file; wait", host) as sandbox:
        reached = threading.Event()

        @sandbox.on("open")
        def decide(event: Event) -> None:
            if event.path == "/good/file":
                reached.set()

        sandbox.start()
        assert reached.wait(60)
        found = {process.pid: process for process in sandbox.processes()}
        stats = sandbox.stats()
        assert (found[1].name, found[1].parent, found[1].threads) == ("sh", 0, 1)
        assert [process.parent for process in found.values()].count(1) >= 1
        assert 0 < stats["memory_used"] < stats["memory_limit"] <= 256 << 20
        assert stats["processes"] >= 2
        assert stats["exchanges"] >= 1
    with pytest.raises(HostError, match="has ended"):
        sandbox.processes()


KILLED = """
import sys
from pyvmm_sentry import SentrySandbox
with SentrySandbox(sys.argv[1], ["sh", "-c", sys.argv[2]], platform="trap", env={"PATH": "/bin"}) as sandbox:
    sandbox.on("open")(lambda event: event.path == "/good/file" and print(sandbox._process.pid, flush=True))
    sandbox.run()
"""


@pytest.mark.parametrize("script", ["cat /good/file; while :; do :; done", "cat /good/file; sleep 1000"])
def test_the_sandbox_ends_with_python(root: Path, script: str) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(root), script], stdout=subprocess.PIPE) as python:
        assert python.stdout
        ended = os.pidfd_open(int(python.stdout.readline()))
        try:
            python.send_signal(signal.SIGKILL)
            assert select.select([ended], [], [], 30)[0]
        finally:
            os.close(ended)


def connection() -> tuple[hooks.Connection, socket.socket, threading.Event]:
    """With a hook that hangs; its core's end; and whether it has ended."""
    ours, core = socket.socketpair()
    ended = threading.Event()
    hangs = threading.Event()

    def decide(event: Event) -> tuple[int, bytes]:
        hangs.wait()
        return 0, b""

    return hooks.Connection(ours, decide, lambda number: b"", lambda data: None, ended.set), core, ended


def record(kind: int, *, data: bytes = b"", number: int = 59, args: tuple[int, ...] = (0,) * 6) -> bytes:
    made = events.RECORD.pack(1, 2, kind, number, 3, 4, 0, *args, 1 << 63, (1 << 63) + 5, b"x" * 16) + data
    return len(made).to_bytes(4, "little") + made


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, b"\x03\0\0\0abc", record(events.DECIDE) * 5000],
    ids=["a message of 4 GiB", "a short record", "questions without end"],
)
def test_a_core_that_lies_is_left(data: bytes) -> None:
    _, core, ended = connection()
    with core:
        with contextlib.suppress(OSError):
            core.sendall(data)
        assert ended.wait(30)


def test_pointers_of_a_core_that_lies() -> None:
    """They lead nowhere, or to bytes of the record."""
    for value in (0, 5, 1 << 63, (1 << 63) + 119, (1 << 63) + 128, (1 << 64) - 1):
        for number in (*events.CALLS, 400, 1 << 31):
            event = events.Event(record(events.DECIDE, data=b"abc", number=number, args=(value,) * 6)[4:])
            assert isinstance(event.path + event.real_path + repr(event), str)
            assert isinstance(event.argv, list)
            assert not isinstance(event.address, int)


def test_what_cannot_be_is_refused(root: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="not found in"):
        SentrySandbox(root, ["nothing"])
    with pytest.raises(ConfigError, match="not a directory"):
        SentrySandbox(root / "none", ["sh"])
    with pytest.raises(ConfigError, match="platform 'x'"):
        SentrySandbox(root, ["sh"], platform="x")
    with shell(root, "true", host) as sandbox:
        with pytest.raises(ConfigError, match="no such system call"):
            sandbox.on("opne")
        with pytest.raises(ConfigError, match="not an absolute path"):
            sandbox.files["run/x"] = bytes
        sandbox.files["/bin"] = bytes
        with pytest.raises(ConfigError, match=r"/bin.*exists"):
            sandbox.start()
