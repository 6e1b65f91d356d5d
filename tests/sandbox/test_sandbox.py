"""The sandbox library, with machines that run their programs here: what a caller sees, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kata.oci_runtime import PATIENCE, needs_namespaces

ROOT = Path(__file__).parents[2]
BEGIN = """
import asyncio, errno, glob, os, signal, sys, time
from pyvmm_kata.pod import sandbox as machines
from pyvmm_sandbox import guest, isolations
from tests.kata import fake_agent, fake_relay
machines.boot_vm = fake_agent.boot_fake
fake_relay.install()
upper_server = os.path.dirname(fake_relay.__file__) + "/../sandbox/upper_server.py"
isolations.choose = lambda wanted: "vm"  # these machines need no KVM
guest.PATH = guest.program()
from pyvmm_sandbox import *
place = sys.argv[1]
where = {"config": place + "/kata.toml", "root": place + "/state"}
rootfs, files = place + "/rootfs", place + "/files"
nap = f"sleep 600.{os.getpid()}"  # of this test alone
def raises(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"no {kind}")
"""
Python = Callable[[str], str]


def start(place: Path, code: str) -> subprocess.Popen[str]:
    paths = [ROOT, ROOT / "examples" / "kata", ROOT / "examples" / "sandbox"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "TMPDIR": str(place)}
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN + textwrap.dedent(code), str(place)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("rootfs", "files"):
        (tmp_path / name).mkdir()
    (tmp_path / "image").write_bytes(b"an image")
    (tmp_path / "kata.toml").write_text(f'image = "{tmp_path}/image"\nmemory = "64M"\n')
    return tmp_path


@pytest.fixture
def python(place: Path) -> Python:
    """Runs a program that uses the library; what it prints."""

    def run(code: str) -> str:
        with start(place, code) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert os.listdir(place / "state") == []
        assert [name for name in os.listdir(place) if name.startswith("pyvmm-")] == []
        return out

    return run


@needs_namespaces
def test_commands_are_values(python: Python) -> None:
    code = """
    with Sandbox(rootfs, env={"A": "from the sandbox"}, **where) as box:
        assert box.run("echo hi; echo err >&2; exit 3") == Result("hi\\n", "err\\n", 3)
        assert box.run(["cat"], stdin="typed").stdout == "typed"
        assert box.run("echo $A $B", env={"B": "b"}).stdout == "from the sandbox b\\n"
        assert box.run(["/none"]).exit_code == 127 and not box.run("false").ok
        assert box.run("kill -9 $$").exit_code == 137
        seen = []
        box.run("echo 1; echo 2 >&2", on_stdout=seen.append, on_stderr=lambda text: seen.append("err " + text))
        assert sorted(seen) == ["1\\n", "err 2\\n"]
        error = raises(CommandFailed, box.run, "echo why >&2; exit 4", check=True)
        assert "why" in str(error) and error.result.exit_code == 4
        big = box.run("head -c 3000000 /dev/zero | tr '\\\\0' x", max_output=1000)
        assert big.truncated and len(big.stdout) == 1000
        assert box.run("printf '\\\\344x\\\\303'").stdout == "\\ufffdx\\ufffd"
        raises(UsageError, box.run, [])
        raises(UsageError, box.run, "a\\0b")
    raises(SandboxGone, box.run, "true")
    box.kill()
    """
    assert python(code) == ""


@needs_namespaces
def test_a_command_that_takes_too_long_is_killed_with_its_children(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        script = f"echo begun; {nap} & setsid {nap} & {nap}"
        error = raises(CommandTimeout, box.run, script, timeout=1)
        assert error.result.stdout == "begun\\n" and isinstance(error, TimeoutError)
        while os.popen(f"pgrep -fx '{nap}'").read():
            time.sleep(0.01)  # the last of them is not reaped yet
        # What a command that ends leaves in the background goes on
        box.run(f"{nap} >/dev/null 2>&1 </dev/null &")
        assert box.run(f"pkill -fx '{nap}'").ok
    """
    python(code)


@needs_namespaces
def test_output_comes_as_it_is_printed_and_waits_for_its_reader(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        with box.popen(["cat"]) as command:
            events = iter(command)
            for word in ("one", "two"):
                command.write(word)
                assert next(events) == Event("stdout", word.encode())
            command.close_stdin()
            assert next(events) == Event("exit", exit_code=0)
        with box.popen("yes") as command:
            time.sleep(0.5)  # it fills all pipes, and waits
            assert next(iter(command)).text.startswith("y\\ny\\n")
        assert box.run("pgrep -x yes").exit_code == 1
        assert box.popen("sleep 0.1; exit 7").wait() == 7
        raises(TimeoutError, box.popen("sleep 60").wait, 0.1)
    """
    python(code)


@needs_namespaces
def test_a_terminal(python: Python) -> None:
    code = """
    def until(events, end):
        seen = ""
        while not seen.endswith(end):
            event = next(events)
            assert event.kind == "stdout"
            seen += event.text
        return seen
    with Sandbox(rootfs, **where) as box:
        script = "stty -echo; stty size; echo $TERM; tty >/dev/null && echo err >&2; trap 'stty size' WINCH; "
        script += "echo ready; until read line; do :; done; echo $line; exec cat"
        with box.popen(script, tty=True, rows=30, cols=100) as command:
            events = iter(command)
            assert until(events, "ready\\r\\n").splitlines() == ["30 100", "xterm-256color", "err", "ready"]
            command.resize(40, 120)
            assert until(events, "\\n") == "40 120\\r\\n"
            command.write("typed\\n")
            assert until(events, "\\n") == "typed\\r\\n"
            command.write(b"\\x04")
            assert list(events) == [Event("exit")]
        with box.popen(["sleep", "600"], tty=True) as command:
            command.write(b"\\x03")  # Ctrl-C
            assert command.wait(10) == 128 + signal.SIGINT
        raises(UsageError, box.popen, "true", tty=True, rows=0)
        raises(UsageError, box.popen("true").resize, 10, 10)
    """
    python(code)


@needs_namespaces
def test_signals(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        script = "trap 'echo usr1' USR1; trap 'exit 3' TERM; echo ready; while :; do read line; done"
        with box.popen(script) as command:
            events = iter(command)
            assert next(events).text == "ready\\n"
            command.send_signal(signal.SIGUSR1)
            assert next(events).text == "usr1\\n"
            command.send_signal(signal.SIGTERM)
            assert list(events) == [Event("exit", exit_code=3)]
        with box.popen(["sleep", "600"]) as command:
            for number in (signal.SIGWINCH, signal.SIGCONT, signal.SIGINT):
                command.send_signal(number)
            assert command.wait(10) == 128 + signal.SIGINT
        with box.popen("echo $$; read line; kill -0 $line && echo there") as command:
            assert next(iter(command)).text == f"{command.pid}\\n"
            command.write(f"{command.pid}\\n")
            assert next(iter(command)).text == "there\\n"
        raises(UsageError, command.send_signal, 64)
        assert box.popen(["/none"]).wait() == 127
    """
    python(code)


@needs_namespaces
def test_files(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        data = os.urandom(3 << 20)
        box.files.write(files + "/new/deep/a.bin", data)
        assert box.files.read(files + "/new/deep/a.bin") == data
        box.files.write(files + "/run", "#!/bin/sh", mode=0o755)
        box.files.write(files + "/run", "#!/bin/sh\\necho ran")
        assert box.run([files + "/run"]).stdout == "ran\\n"
        os.symlink("run", files + "/link")
        box.files.write(files + "/link", "text")
        assert box.files.read_text(files + "/run") == "text" and os.path.islink(files + "/link")
        found = {each.name: each for each in box.files.list(files)}
        assert sorted(found) == ["link", "new", "run"]
        assert (found["link"].type, found["link"].target) == ("link", "run")
        assert (found["run"].type, found["run"].size, found["run"].mode) == ("file", 4, 0o755)
        assert [each.name for each in box.files.list(files, depth=3)] == ["link", "new", "deep", "a.bin", "run"]
        assert box.files.info(files).type == "directory" and not box.files.exists(files + "/none")
        box.files.move(files + "/run", files + "/other/run")
        box.files.remove(files + "/new")
        box.files.mkdir(files + "/other/x/y"), box.files.mkdir(files + "/other/x/y")
        assert sorted(os.listdir(files)) == ["link", "other"]
        for kind, call, *args in (
            (FileNotFoundError, box.files.read, files + "/none"),
            (IsADirectoryError, box.files.read, files),
            (IsADirectoryError, box.files.write, files, "x"),
            (NotADirectoryError, box.files.list, files + "/other/run"),
            (NotADirectoryError, box.files.mkdir, files + "/other/run"),
            (FileNotFoundError, box.files.remove, files + "/none"),
            (OSError, lambda path: box.files.read(path, max_bytes=3), files + "/other/run"),
            (UsageError, box.files.read, "relative"),
            (UsageError, box.files.read, "/a\\0b"),
            (UsageError, box.files.read, "/\\udcff"),
        ):
            raises(kind, call, *args)
        odd = files + "/" + "ä\\n" * 20
        box.files.write(odd, "odd")
        assert [each.path for each in box.files.list(files) if each.type == "file"] == [odd]
        assert box.files.read(odd) == b"odd"
    """
    python(code)


@needs_namespaces
def test_directories_are_copied_both_ways(python: Python, place: Path) -> None:
    tree = place / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "sub" / "data").write_bytes(os.urandom(1 << 20))
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "dir-link").symlink_to("sub")
    os.mkfifo(tree / "fifo")
    code = """
    with Sandbox(rootfs, **where) as box:
        box.files.upload(place + "/tree", files + "/up")
        box.files.download(files + "/up", place + "/down")
        box.files.download(files + "/up", place + "/down")
        raises(FileNotFoundError, box.files.download, files + "/none", place + "/nothing")
        error = raises(OSError, box.files.download, files + "/up", place + "/too-much", max_bytes=1 << 20)
        assert error.errno == errno.EFBIG
        raises(NotADirectoryError, box.files.upload, place + "/tree/run", files + "/up")
        raises(NotADirectoryError, box.files.download, files + "/up/run", place + "/nothing")
    """
    python(code)
    (tree / "fifo").unlink()
    subprocess.run(["diff", "-r", "--no-dereference", str(tree), str(place / "down")], check=True)
    assert os.access(place / "down" / "run", os.X_OK)


HOSTILE = [
    b"f\x00644\x003\x00../outside\x00bad",
    b"f\x00644\x003\x00/outside\x00bad",
    b"l\x00777\x0011\x00way\x00../outside/" + b"f\x00644\x003\x00way/outside\x00bad",
    b"d\x00755\x000\x00\x00",
    b"f\x00644\x00-1\x00x\x00",
    b"f\x00644\x00many\x00x\x00",
    b"x\x00644\x000\x00x\x00",
    b"l\x00777\x0099999\x00x\x00",
    b"f" * 10000,
]


@needs_namespaces
@pytest.mark.parametrize("sent", HOSTILE, ids=range(len(HOSTILE)))
def test_a_sandbox_that_lies_writes_nothing_outside(place: Path, sent: bytes) -> None:
    """Its program for files is replaced by one of an attacker."""
    (place / "outside").mkdir()
    (place / "sent").write_bytes(sent)
    code = """
    with Sandbox(rootfs, **where) as box:
        box.files._start = lambda words: box._start(["exec", "cat", place + "/sent"])
        raises(OSError, box.files.download, "/x", place + "/down")
    """
    with start(place, code) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert os.listdir(place / "outside") == []
    assert not [path for path in place.rglob("outside*") if path != place / "outside"]


@needs_namespaces
def test_large_files_go_through_memory_and_are_whole_or_not_there(place: Path, python: Python) -> None:
    python("""
    from pyvmm_sandbox import window
    with Sandbox(rootfs, **where) as box:
        started = []
        share = box.files._share
        box.files._share = lambda words: started.append(words[0]) or share(words)
        for size in (window.LEAST, window.SLOT, window.SLOT + 1, 4 * window.SLOT, 9 * window.SLOT + 12345):
            data = os.urandom(1 << 16) * (size // (1 << 16) + 1)
            box.files.write(files + "/new/large", data[:size])
            assert box.files.read(files + "/new/large") == data[:size], size
        assert started.count("take") == 5 and started.count("give") == 4  # the least goes through a pipe
        raises(IsADirectoryError, box.files.write, files + "/new", data)
        assert raises(OSError, box.files.read, files + "/new/large", max_bytes=3 << 20).errno == 27
        # Who does not read on takes nothing away from the next ones
        for _ in range(20):
            assert len(next(box.files.stream(files + "/new/large"))) == window.SLOT
        # It does not end, and take its memory with it, before all is read
        with box._start(["give", files + "/new/large", str(window.SLOT)], window=True) as command:
            command.write("x" * 9)  # all but the last part
            told = b""
            while told.count(b"\\0") < 11:
                told += b"".join(event.data for event in command.read(None))
            raises(TimeoutError, command.wait, 0.2)  # nothing may happen
            command.write("x")
            assert command.wait() == 0
        # Without its last words nothing has been written
        with box._start(["take", files + "/cut", "644", str(window.SLOT), "200"], window=True) as command:
            os.pwrite(command.window, data[:100], 0)
            command.write("100\\0")
            command.close_stdin()
            assert command.wait() == errno.EPIPE
        assert sorted(os.listdir(files)) == ["new"] and os.listdir(files + "/new") == ["large"]
    """)


@needs_namespaces
def test_a_sandbox_that_lies_about_a_window_is_an_error(place: Path, python: Python) -> None:
    for number, sent in enumerate([b"4194304\0", b"-1\0", b"many\0", b"7" * 5000, b""]):
        (place / f"sent{number}").write_bytes(sent)
    (place / "large").write_bytes(bytes(2 << 20))
    python("""
    with Sandbox(rootfs, **where) as box:
        for number in range(5):
            box.files._share = lambda words: box._start(["exec", "cat", f"{place}/sent{number}"], window=True)
            assert "something else" in str(raises(OSError, box.files.read, place + "/large"))
    """)


@needs_namespaces
@pytest.mark.parametrize("sent", [b"name\x00f\x00many\x00" + b"0\x00" * 5, b"f" * 10000])
def test_a_sandbox_that_lies_about_its_files_is_an_error(place: Path, sent: bytes) -> None:
    (place / "sent").write_bytes(sent)
    code = """
    with Sandbox(rootfs, **where) as box:
        box.files._start = lambda words: box._start(["exec", "cat", place + "/sent"])
        assert "something else" in str(raises(OSError, box.files.list, "/x"))
    """
    with start(place, code) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err


@needs_namespaces
def test_changes_are_reported(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        with box.files.watch(files, deep=True) as watch:
            changes = iter(watch)
            box.files.write(files + "/new", "1")
            assert next(changes) == Change("create", files + "/new")
            box.files.mkdir(files + "/sub")
            assert next(changes) == Change("create", files + "/sub")
            box.run(["sh", "-c", "echo > " + files + "/sub/file"])
            assert [next(changes).kind for _ in range(2)] == ["create", "write"]
            box.files.remove(files + "/new")
            assert next(changes) == Change("remove", files + "/new")
        raises(FileNotFoundError, box.files.watch, files + "/none")
    """
    python(code)


@needs_namespaces
def test_ports_lead_to_servers_inside(python: Python) -> None:
    code = """
    import socket
    def ask(sock, data):
        sock.sendall(data), sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))
    with Sandbox(rootfs, **where) as box:
        begun = box.popen([sys.executable, upper_server])
        port = int(next(iter(begun)).text)
        with box.ports.connect(port) as sock:
            assert ask(sock, b"one") == b"ONE"
        with box.ports.forward(port) as forward:
            assert forward.url == str(forward) == f"http://127.0.0.1:{forward.port}"
            big = b"x" * (4 << 20)
            socks = [socket.create_connection((forward.host, forward.port)) for _ in range(20)]
            assert ask(socks[3], big) == big.upper() and ask(socks[7], b"two") == b"TWO"
        for sock in socks:
            try:
                assert sock.recv(1) == b""
            except ConnectionResetError:
                pass  # it was not accepted yet
        raises(ConnectionRefusedError, socket.create_connection, (forward.host, forward.port))
        other = box.ports.forward(1, host_port=forward.port)
        assert other.port == forward.port
        sock = socket.create_connection((other.host, other.port))
        raises(ConnectionResetError, sock.recv, 1)  # nothing listens there
        raises(ConnectionRefusedError, box.ports.connect, 1)
        raises(UsageError, box.ports.connect, 0), raises(UsageError, box.ports.forward, 70000)
        raises(OSError, box.ports.forward, port, host_port=other.port)
        begun.close()
    raises(ConnectionRefusedError, socket.create_connection, (other.host, other.port))
    raises(SandboxGone, box.ports.connect, port)
    """
    python(code)


@needs_namespaces
def test_what_it_uses(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        used = box.stats()
        assert (used.memory, used.processes, used.memory_limit, used.sent) == (4096, 2, None, 0)
        async def main():
            assert await AsyncSandbox(box).stats() == used
        asyncio.run(main())
    raises(SandboxGone, box.stats)
    """
    python(code)


@needs_namespaces
def test_a_sandbox_ends_with_its_time(python: Python) -> None:
    code = """
    import socket
    box = Sandbox(rootfs, timeout=1, **where)
    forward = box.ports.forward(80)
    while box.is_running:
        time.sleep(0.05)  # it reports nothing
    raises(ConnectionRefusedError, socket.create_connection, (forward.host, forward.port))
    assert "timeout" in raises(SandboxGone, box.run, "true").hint
    other = Sandbox(rootfs, timeout=1, **where)
    other.set_timeout(None)
    time.sleep(1.5)  # longer than its first limit
    assert other.is_running and other.run("true").ok
    """
    python(code)


@needs_namespaces
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_owner_that_is_killed_leaves_nothing(place: Path, number: signal.Signals) -> None:
    code = "box = Sandbox(rootfs, **where); box.popen('sleep 5'); print('ready', flush=True); signal.pause()"
    with start(place, code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.wait(PATIENCE)
    while os.listdir(place / "state") or any(place.glob("pyvmm-*")):
        signal.sigtimedwait([], 0.05)  # the process that cleans up is not a child of this one


@needs_namespaces
def test_a_detached_sandbox_is_found_again(place: Path, python: Python) -> None:
    made = start(
        place, "Sandbox(rootfs, name='mine', detach=True, timeout=None, **where).run('echo 1 >' + files + '/f')"
    )
    with made as process:
        assert process.wait(PATIENCE) == 0, process.stderr and process.stderr.read()
    code = """
    assert raises(UsageError, Sandbox, rootfs, detach=True, **where).hint
    assert raises(UsageError, Sandbox, rootfs, name="mine", **where).hint
    raises(UsageError, Sandbox, rootfs, name="a/b", detach=True, **where)
    raises(SandboxNotFound, Sandbox.connect, "other", **where)
    with Sandbox.connect("mine", **where) as box:
        assert box.files.read_text(files + "/f") == "1\\n"
    raises(SandboxNotFound, Sandbox.connect, "mine", **where)
    """
    python(code)


@needs_namespaces
def test_a_detached_sandbox_ends_with_its_time_alone(place: Path) -> None:
    """A time limit that was given, then changed by another process."""
    made = "Sandbox(rootfs, name='mine', detach=True, timeout=%s, **where)"
    for timeout, then in ((600, "Sandbox.connect('mine', **where).set_timeout(0.5)"), (0.5, "")):
        for code in filter(None, (made % timeout, then)):
            with start(place, code) as process:
                _, err = process.communicate(timeout=PATIENCE)
                assert process.returncode == 0, err
        while os.listdir(place / "state") or any(place.glob("pyvmm-*")):
            signal.sigtimedwait([], 0.05)  # the process that ends it is not a child of this one


@needs_namespaces
def test_sandboxes_are_listed(place: Path, python: Python) -> None:
    code = """
    import gc
    assert Sandbox.list(root=place + "/none") == []
    began = time.time()
    mine = Sandbox(rootfs, name="mine", detach=True, timeout=600, metadata={"job": "7"}, **where)
    with Sandbox(rootfs, timeout=None, **where) as other:
        mine.pause()
        first, second = Sandbox.list(root=where["root"])
        assert (first.name, first.state, first.image, first.metadata) == ("mine", "paused", rootfs, {"job": "7"})
        assert began <= first.created <= time.time() and 600 <= first.expires - began < 660 and first.detached
        assert (second.name, second.state, second.expires) == (other.name, "running", None) and not second.detached
        assert other.info() == second
        assert "another process" in str(raises(SandboxNotFound, Sandbox.connect, other.name, **where))
        mine.resume()
    del mine
    gc.collect()  # nobody has it
    with Sandbox.connect("mine", timeout=None, **where) as mine:
        assert mine.info().expires == first.expires and mine.run("true").ok
        mine.set_timeout(None)
        (copy,) = mine.fork()
        assert mine.info().expires is None and copy.info().metadata == {"job": "7"}
    raises(SandboxGone, mine.info), raises(SandboxGone, mine.set_timeout, 5)
    raises(UsageError, Sandbox, rootfs, metadata={"a": 1}, **where)
    raises(UsageError, copy.set_timeout, -1)
    async def names():
        return [each.name for each in await AsyncSandbox.list(root=where["root"])]
    assert asyncio.run(names()) == [copy.name]
    """
    python(code)


@needs_namespaces
def test_copies(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        copies = box.fork(2)
        assert len({each.name for each in [box, *copies]}) == 3
        for copy in copies:
            with copy:
                assert copy.run("echo copy").stdout == "copy\\n"
        raises(UsageError, box.fork, 0)
        template = box.snapshot(place + "/saved")
        assert box.run("true").ok
    with Template(place + "/saved").start(**where) as first, template.start(**where) as second:
        assert first.run("echo 1").stdout + second.run("echo 2").stdout == "1\\n2\\n"
    raises(UsageError, Template, place + "/none")
    error = raises(UsageError, Template.build, files, rootfs, **where)
    assert "no template" in str(error) and os.path.isdir(files)
    """
    python(code)


@needs_namespaces
def test_a_suspended_one_continues(python: Python) -> None:
    code = """
    with Sandbox(rootfs, **where) as box:
        name = box.name
        raises(UsageError, box.suspend, files)  # a folder with other files: it continues
        assert box.run("echo here").stdout == "here\\n"
        template = box.suspend(place + "/saved")
        raises(SandboxGone, box.run, "true")
    assert os.listdir(where["root"]) == []
    for _ in range(2):
        with template.start(name=name, detach=True, **where) as again:
            assert again.name == name and again.info().state == "running"
            assert again.run("echo again").stdout == "again\\n"
    with template.start(**where) as first:
        first.pause()
        template = first.suspend(place + "/saved")
    resume = Sandbox.resume
    Sandbox.resume = lambda self: resume(self) or 1 / 0
    raises(ZeroDivisionError, template.start, name=name, detach=True, **where)  # nothing of it is left
    Sandbox.resume = resume
    assert os.listdir(where["root"]) == []
    with template.start(**where) as second:
        assert second.run("echo second").stdout == "second\\n"
    """
    python(code)


@needs_namespaces
def test_a_template_is_built(python: Python) -> None:
    code = """
    build = dict(setup=["touch " + files + "/set-up"], start=f"sleep 0.3; touch {files}/ready; {nap}")
    made = Template.build(place + "/t", rootfs, ready=["test", "-e", files + "/ready"], **build, **where)
    assert os.path.exists(files + "/set-up") and made.record["image"] == rootfs
    os.system(f"pkill -fx '{nap}'")
    raises(CommandFailed, Template.build, place + "/t", rootfs, setup=["false"], **where)
    raises(SandboxError, Template.build, place + "/t", rootfs, ready="false", ready_timeout=0.5, **where)
    assert Template(place + "/t").record == made.record
    touched = lambda: [open(path).read() for path in glob.glob(place + "/t/saved-*/checkpoint/machine-*/working-set")]
    for known in (False, True):
        with made.start(**where) as copy:
            assert bool(touched()) == known
            assert copy.run("true").ok and touched() == ["touched"], "which memory the first copy has touched"
    """
    python(code)


@needs_namespaces
def test_the_async_twin(python: Python) -> None:
    code = """
    async def main():
        async with await AsyncSandbox.create(rootfs, **where) as box:
            results = await asyncio.gather(*(box.run(f"sleep 0.2; echo {n}") for n in range(20)))
            assert [each.stdout for each in results] == [f"{n}\\n" for n in range(20)]
            await box.files.write(files + "/a", "async")
            assert await box.files.read_text(files + "/a") == "async"
            seen = []
            await box.run("echo 1", on_stdout=seen.append)
            assert seen == ["1\\n"]
            async with await box.popen("echo 2; exit 3") as command:
                assert [event async for event in command] == [Event("stdout", b"2\\n"), Event("exit", exit_code=3)]
            running = asyncio.create_task(box.run(nap))
            while not os.popen(f"pgrep -fx '{nap}'").read():
                await asyncio.sleep(0.01)
            running.cancel()
            try:
                await running
            except asyncio.CancelledError:
                pass
            assert (await box.run(f"pgrep -fx '{nap}'")).exit_code == 1
            start, loop = box._sandbox.popen, asyncio.get_running_loop()
            def cancelled_meanwhile(*words, **options):
                command = start(*words, **options)
                loop.call_soon_threadsafe(starting.cancel)
                if again:  # while it waits for the end of what it has started
                    loop.call_soon_threadsafe(lambda: loop.call_soon(starting.cancel))
                return command
            for call, again in ((box.run, False), (box.popen, False), (box.popen, True)):
                box._sandbox.popen = cancelled_meanwhile
                starting = asyncio.create_task(call(nap))
                assert (await asyncio.gather(starting, return_exceptions=True))[0].__class__ is asyncio.CancelledError
                box._sandbox.popen = start
                assert again or (await box.run(f"pgrep -fx '{nap}'")).exit_code == 1
                while not (await box.run(f"pgrep -fx '{nap}'")).exit_code:
                    pass
    asyncio.run(main())
    """
    python(code)


def test_the_twins_have_the_same_names() -> None:
    from pyvmm_sandbox import AsyncSandbox, Command, Sandbox
    from pyvmm_sandbox.aio import AsyncCommand, AsyncFiles, AsyncPorts, AsyncRules
    from pyvmm_sandbox.connecting import Rules
    from pyvmm_sandbox.files import Files
    from pyvmm_sandbox.ports import Ports

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Sandbox) - public(AsyncSandbox) == {"checkpoint"}
    assert public(Files) - public(AsyncFiles) == {"stream"}
    assert public(Ports) == public(AsyncPorts)
    assert public(Rules) == public(AsyncRules)
    assert public(Command) - public(AsyncCommand) == {"await_start", "is_open", "read", "close"}


@needs_namespaces
def test_the_commands_of_pyvmm_see_detached_sandboxes(python: Python) -> None:
    code = """
    import contextlib, io, json
    from pyvmm_kata.machines import logs, ps, rm, stop
    def call(command, *words):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            return command.main(["--root", where["root"], *words]), out.getvalue()
    box = Sandbox(rootfs, name="mine", detach=True, timeout=600, **where)
    (found,) = json.loads(call(ps, "--json")[1])
    assert (found["name"], found["state"], found["image"]) == ("mine", "running", rootfs)
    assert found["expires"] == box.info().expires
    assert call(logs, "mine")[0] == 125 and call(rm, "mine")[0] == 2
    assert call(stop, "mine") == (0, "mine\\n") and not box.is_running
    assert call(rm, "mine") == (0, "mine\\n")
    """
    python(code)


@needs_namespaces
def test_a_forked_process_that_frees_an_object_ends_no_sandbox(python: Python) -> None:
    code = """
    import gc
    box = Sandbox(rootfs, **where)
    forward = box.ports.forward(80)
    child = os.fork()
    if child == 0:
        del box, forward
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert box.run("echo here").stdout == "here\\n"
    """
    python(code)


@needs_namespaces
def test_a_program_that_lives_on_has_no_zombies(python: Python) -> None:
    code = """
    def zombies():
        output = os.popen(f"ps -o stat= --ppid {os.getpid()}").read().split()
        return sum(state.startswith("Z") for state in output)
    for _ in range(4):
        Sandbox(rootfs, **where).kill()
    while zombies() > 1:  # the last of them may be about to end
        Sandbox(rootfs, **where).kill()
        assert zombies() < 4
    """
    python(code)
