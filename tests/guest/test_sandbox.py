"""The sandbox library with real machines: what tests/sandbox cannot see without a guest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.image_store.store import ImageStore
from pyvmm_kata.protocol import control
from pyvmm_sandbox import Command, CommandTimeout, Sandbox, SandboxGone, Template
from tests.guest.kata_tools import PATIENCE, Oci, eventually, members
from tests.process_memory import pss
from tests.sandbox.journal_schedules import Schedule
from tests.scripts import WAIT
from tools import guest as recipes


@pytest.fixture(scope="module")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oci]:
    made = Oci(tmp_path_factory.mktemp("sandbox"))
    yield made
    made.close()


def test_commands_and_files_of_a_machine(oci: Oci, tmp_path: Path) -> None:
    """Its root is an erofs file, which all machines map."""
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    store = ImageStore(str(tmp_path / "store"))
    image = store.add(str(oci.rootfs), "box")
    with Sandbox(image.path, memory="96M", env={"A": "from the sandbox"}, timeout=None, **where) as box:
        done = box.run("echo $A; pwd; id -u; exit 3", cwd="/root", user="7")
        assert (done.stdout, done.exit_code) == ("from the sandbox\n/root\n7\n", 3)
        with pytest.raises(CommandTimeout):
            box.run("sleep 600 & setsid sleep 600 & sleep 600", timeout=2)
        assert "sleep 600" not in box.run("ps").stdout
        data = bytes(range(256)) * (5 << 12) + b"the end"
        box.files.write("/new/data", data)
        assert box.files.read("/new/data") == data
        box.files.upload(Path(__file__).parent / "programs", "/up")
        box.files.download("/up", tmp_path / "down")
        assert {each.name for each in (tmp_path / "down").iterdir()} >= {
            each.name for each in box.files.list("/up") if each.type == "file"
        }
        with box.files.watch("/new") as watch:
            box.run("echo >/new/file")
            assert next(iter(watch)).path == "/new/file"
        with box.popen("read line; echo got $line; cat") as command:
            command.write("one\n")
            assert next(iter(command)).text == "got one\n"
        # A copy has all that was written, also what no file system has written back
        box.run("echo written >/etc/written; rm /bin/wc; ln -s /etc/written /new/link")
        with box.fork()[0] as copy:
            assert copy.files.read("/new/data") == data
            copy.files.write("/new/data", data[1:])  # by memory that the copy has for itself
            assert copy.files.read("/new/data") == data[1:]
            assert copy.run("cat /new/link; ls /bin/wc; echo copy >/etc/written").stdout == "written\n"
        assert box.files.read("/etc/written") == b"written\n"
        made = box.snapshot(tmp_path / "template")
        assert store.prune(unused=True)[0] == []  # the machine uses it
    with pytest.raises(SandboxGone):
        box.run("true")
    assert store.prune(unused=True)[0] == [image]
    with made.start(**where) as first, made.start(**where) as second:
        assert first.run("cat /new/link; echo first >/etc/written").stdout == "written\n"
        assert second.files.read("/new/data") == data and not second.files.exists("/bin/wc")
        assert second.files.read("/etc/written") == b"written\n"
        assert second.run(["cat", "/bin/busybox"], max_output=100).ok  # pages of the image, not read before
    eventually(lambda: os.listdir(oci.folder / "state") == [], "something is left")


def test_copies_of_a_machine_continue_alone(oci: Oci, tmp_path: Path) -> None:
    """Each has a copy of its files: the root is a folder."""
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    count = "i=0; while :; do i=$((i + 1)); echo $i >/count.new; mv /count.new /count; sleep 0.1; done"
    made = Template.build(
        tmp_path / "template",
        str(oci.rootfs),
        setup=["echo set up >/file"],
        start=count,
        ready="test -e /count",
        memory="96M",
        **where,
    )
    with made.start(**where) as first, made.start(**where) as second:
        for box, word in ((first, "one"), (second, "two")):
            assert box.run("cat /file").stdout == "set up\n"
            (recorded,) = tmp_path.glob("template/saved-*/checkpoint/machine-*/working-set")
            assert any(recorded.read_bytes())
            box.run(f"echo {word} >/file; sync")
        before = int(first.files.read("/count"))
        eventually(lambda: int(first.files.read("/count")) > before, "its program does not continue")
        (copy,) = first.fork()
        with copy:
            assert copy.run("cat /file; echo copy >/file").stdout == "one\n"
            assert first.files.read("/file") == b"one\n"
            before = int(copy.files.read("/count"))
            eventually(lambda: int(copy.files.read("/count")) > before, "the copy's program does not continue")
        assert second.files.read("/file") == b"two\n"
    with made.start(**where) as third:  # it has what the first one has touched from its start
        assert third.run("cat /file; cat /count").stdout.startswith("set up\n")
    eventually(lambda: os.listdir(oci.folder / "state") == [], "something is left")


@pytest.mark.long  # a minute; test_copies_of_a_machine_continue_alone has copies
@pytest.mark.parametrize("isolation", ["vm", "sentry"])
def test_copies_of_copies_outlive_their_source(oci: Oci, tmp_path: Path, isolation: str) -> None:
    """The machines are copied in memory: a copy needs nothing of its source."""
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    files = set(os.listdir("/var/tmp"))
    with contextlib.ExitStack() as boxes:
        source = Sandbox(str(oci.rootfs), memory="96M", timeout=None, isolation=isolation, **where)
        boxes.enter_context(source)
        source.run("echo 0 >/tmp/generation; sleep 600 >/dev/null 2>&1 &", check=True)
        seen = []
        for generation in range(1, 4):
            copies = source.fork(2)
            for number, each in enumerate(copies):
                boxes.enter_context(each)
                next_one = f"cat /tmp/generation; echo {generation} >/tmp/generation"
                done = each.run(f"{next_one}; pidof sleep | wc -w", check=True)
                assert done.stdout == f"{generation - 1}\n1\n"
                seen.append(each.run("cat /proc/sys/kernel/random/uuid").stdout)
                assert each.run(f"echo {number}").stdout == f"{number}\n"
            assert source.files.read("/tmp/generation") == f"{generation - 1}\n".encode()
            source.kill()
            source = copies[0]
        assert len(set(seen)) == 6
        assert set(os.listdir("/var/tmp")) <= files, "no memory is written to a disk"
        with source.suspend(tmp_path / "suspended").start(**where) as last:
            assert last.isolation == isolation
            assert last.run("cat /tmp/generation; pidof sleep | wc -w").stdout == "3\n1\n"
    eventually(lambda: os.listdir(oci.folder / "state") == [], "something is left")


def test_a_sandbox_without_room_for_a_copy_in_memory_is_copied_by_a_file(oci: Oci) -> None:
    """Its limit on the host would end its machine.  The lab has no disk: the file would count, too."""
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    with Sandbox(str(oci.rootfs), memory="96M", timeout=None, **where) as box:
        box.run("echo here >/tmp/file", check=True)
        folder = oci.folder / "state" / box.name
        group = Path(json.loads((folder / "state.json").read_text())["cgroup"])
        limit, used = (group / "memory.max").read_text(), int((group / "memory.current").read_text())
        (group / "memory.max").write_text(str(used + (16 << 20)))
        channel = control.connect(str(folder))
        channel.request({"op": "fork", "count": 1})
        assert channel.answer() == {"machine": None}, "nothing was frozen or copied"
        channel.close()
        (group / "memory.max").write_text(limit)
        with box.fork()[0] as copy:
            assert copy.run("cat /tmp/file").stdout == box.run("cat /tmp/file").stdout == "here\n"
        assert "oom_kill 0" in (group / "memory.events").read_text()


@pytest.mark.long  # a minute; test_memory.py has a machine's
@pytest.mark.parametrize("copied", [pytest.param(False, marks=pytest.mark.long), True], ids=["booted", "copied"])
def test_memory_that_a_program_has_freed_returns_to_the_host(oci: Oci, tmp_path: Path, copied: bool) -> None:
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(tmp_path / "state")}
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(Sandbox(str(oci.rootfs), memory="256M", timeout=None, **where))
        if copied:
            (copy,) = box.fork()
            stack.enter_context(copy)
            box.kill()
            box = copy
        eventually(lambda: len(members(tmp_path / "state")["machine"]) == 1, "the machine of the original stays")
        before = _resident(tmp_path)
        assert box.run("dd if=/dev/zero of=/dev/null bs=128M count=1").ok
        eventually(lambda: _resident(tmp_path) - before < 40 << 20, "the host does not get the memory")
        assert box.run("cat /proc/version").ok


def _resident(folder: Path) -> int:
    """Bytes of memory that the machine's process has."""
    (pid,) = members(folder / "state")["machine"]
    return pss(pid)


def test_terminals_signals_and_ports_of_a_machine(oci: Oci) -> None:
    """The ports without a network, and in a copy."""
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    with Sandbox(str(oci.rootfs), memory="96M", timeout=None, **where) as box:
        resized = 'until [ "$(stty size)" = "40 120" ]; do sleep 0.1; done'
        script = f"stty size; read line; {resized}; echo got $line; exec sleep 600"
        with box.popen(script, tty=True, rows=30, cols=100) as command:
            assert _until(command, "100\r\n") == "30 100\r\n"
            command.resize(40, 120)
            command.write("typed\n")
            assert _until(command, "got typed\r\n").startswith("typed\r\n")
            command.write(b"\x03")  # Ctrl-C
            assert command.wait(60) == 128 + signal.SIGINT
        with box.popen(f"trap 'exit 3' TERM; echo ready; {WAIT}") as command:
            assert next(iter(command)).text == "ready\n"
            assert box.run(["cat", f"/proc/{command.pid}/comm"]).stdout == "sh\n"
            command.send_signal(signal.SIGTERM)
            assert command.wait(60) == 3
        with pytest.raises(ConnectionRefusedError):
            box.ports.connect(7777)
        box.run("nc -ll -p 7777 -e cat >/dev/null 2>&1 </dev/null &")
        eventually(lambda: _echo(box, b"x"), "its server does not listen")
        with box.ports.forward(7777) as forward:
            with socket.create_connection((forward.host, forward.port)) as sock:
                assert _send(sock, b"forwarded" * 1000) == b"forwarded" * 1000
        (copy,) = box.fork()
        with copy:
            assert _echo(copy, b"of the copy") and _echo(box, b"of the original")


def _until(command: Command, end: str) -> str:
    seen = ""
    while not seen.endswith(end):
        seen += next(iter(command)).text
    return seen


def _echo(box: Sandbox, data: bytes) -> bool:
    try:
        with box.ports.connect(7777) as sock:
            return _send(sock, data) == data
    except ConnectionRefusedError:
        return False


def _send(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


# Of a folder it needs loop devices, which the lab does not always have
@pytest.mark.parametrize("kind", ["image", pytest.param("folder", marks=pytest.mark.long)])
def test_a_full_disk_is_an_error_inside(oci: Oci, tmp_path: Path, kind: str) -> None:
    """The layer of an image is in the machine's memory, and that of a folder on the host."""
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    image = str(oci.rootfs)
    if kind == "image":
        image = ImageStore(str(tmp_path / "store")).add(str(oci.rootfs), "box").path
    with Sandbox(image, memory="96M", disk="16M", isolation="vm", timeout=None, **where) as box:
        script = "dd if=/dev/zero of=/full bs=64k count=480; echo $?; wc -c </full; rm /full; echo small >/small"
        done = box.run(script, timeout=PATIENCE)
        assert "No space left" in done.stderr and done.stdout.split()[0] != "0"
        assert 8 << 20 <= int(done.stdout.split()[1]) <= 16 << 20
        assert box.files.read("/small") == b"small\n"
    assert not (oci.rootfs / "small").exists()


@pytest.mark.long  # the lab needs minutes to import IPython
def test_code_in_a_machine(oci: Oci) -> None:
    """A kernel of IPython keeps its state. The packages are those of the tests."""
    packages = f"{sysconfig.get_path('purelib')}:/packages:ro"
    where: dict[str, Any] = {"config": str(oci.settings), "root": str(oci.folder / "state")}
    with Sandbox(
        recipes.container(), volumes=[packages], env={"PYTHONPATH": "/packages"}, memory="256M", timeout=None, **where
    ) as box:
        assert box.run_code("x = 6 * 7; x", timeout=PATIENCE).text == "42"
        done = box.run_code("print(x + 1); 1 / 0", timeout=PATIENCE)
        assert done.stdout == "43\n" and done.error is not None and done.error.name == "ZeroDivisionError"


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(1), marks=pytest.mark.long),  # a minute
        *(pytest.param(range(at, at + 2), marks=pytest.mark.long) for at in range(100, 200, 2)),
    ],
    ids=str,
)
def test_acknowledged_records_survive(oci: Oci, tmp_path: Path, seeds: range) -> None:
    """Through pauses, copies, snapshots, and kills of programs and of the machine: of fsync(2) in the guest."""
    options = {"config": str(oci.settings), "root": str(oci.folder / "state"), "memory": "96M"}
    rootfs = tmp_path / "rootfs"
    shutil.copytree(oci.rootfs, rootfs, symlinks=True)
    for seed in seeds:
        assert len(Schedule(seed, str(rootfs), tmp_path, options).run(6)) == 6
    eventually(lambda: os.listdir(oci.folder / "state") == [], "something is left")
