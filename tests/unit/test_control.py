"""The control socket: what is asked, what is answered, and what is no request."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import tiny
from vmm import (
    BootConfig,
    ConfigError,
    DiskConfig,
    HostError,
    HotplugMemoryConfig,
    Machine,
    MachineConfig,
    NetConfig,
    Publish,
    VsockConfig,
)
from vmm.control.client import ask
from vmm.control.requests import REQUESTS, Request
from vmm.control.server import CONNECTIONS_MAX, LINE_MAX, ControlServer
from vmm.faststart.record import replace
from vmm.memory.memfd import open_memory
from vmm.processes import jail_server
from vmm.processes.jailed import Jailed
from vmm.virtio.image import Below

if TYPE_CHECKING:
    from vmm.control.requests import Server, Tell

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
PATIENCE = 60.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    config = replace(tiny.config(tiny.make(tmp_path)), hotplug_memory=HotplugMemoryConfig(128 << 20), max_cpus=2)
    with Machine(config) as made:
        made.start()
        yield made


@pytest.fixture
def path(tmp_path: Path, machine: Machine) -> Iterator[str]:
    place = tmp_path / "control.sock"
    with ControlServer(machine, str(place)):
        yield str(place)
    assert not place.exists()


def talk(path: str, *lines: bytes) -> list[dict[str, object]]:
    """Send *lines*, and everything that is answered until the other end has closed, or all are answered."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        try:
            connection.sendall(b"".join(lines))
            connection.shutdown(socket.SHUT_WR)
        except BrokenPipeError:
            pass
        with connection.makefile("rb") as answers:
            try:
                return [json.loads(line) for line in answers]
            except ConnectionResetError:
                return []


def test_it_is_only_for_its_user(path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_what_the_machine_is_and_does(path: str, machine: Machine) -> None:
    status = ask(path, "status")
    assert (status["state"], status["cpus"], status["memory"]) == ("running", 1, 32 << 20)
    ask(path, "pause")
    assert machine.state == ask(path, "status")["state"] == "paused"
    with pytest.raises(ConfigError, match="cannot pause a machine that is paused"):
        ask(path, "pause")
    ask(path, "resume")
    assert machine.state == "running"
    ask(path, "resize-memory", size=96 << 20)
    assert machine.hotplug_memory.stats()["requested"] == 64 << 20
    with pytest.raises(ConfigError, match="not 0 to"):
        ask(path, "resize-memory", size=16 << 20)
    ask(path, "resize-cpus", count=2)
    status = ask(path, "status")
    assert (status["cpus"], status["max_cpus"], machine.cpus) == (2, 2, 2)
    with pytest.raises(ConfigError, match="not 1 to 2"):
        ask(path, "resize-cpus", count=3)
    ask(path, "stop")
    assert machine.wait(PATIENCE) is not None


def test_a_snapshot_by_the_socket(path: str, tmp_path: Path) -> None:
    told = []
    ask(path, "snapshot", lambda done, size: told.append((done, size)), path=str(tmp_path / "warm"))
    assert told[-1] == (160 << 20, 160 << 20), "of RAM, and of what may be plugged in"
    with Machine.restore(str(tmp_path / "warm")) as clone:
        assert clone.state == "running"
    with pytest.raises(ConfigError, match="no snapshot"):
        ask(path, "snapshot", path=str(tmp_path))
    with pytest.raises(HostError, match="cannot write"):
        ask(path, "snapshot", path=str(tmp_path / "missing" / "warm"))
    assert ask(path, "status")["state"] == "running"


def test_what_was_asked_is_answered_while_the_socket_closes(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `stop`, which ends the machine and so the socket."""
    server = ControlServer(machine, str(tmp_path / "vm.sock"))
    closing = threading.Thread(target=server.close)

    def end(_server: Server, _arguments: dict[str, Any], _tell: Tell) -> dict[str, Any]:
        closing.start()
        closing.join(0.2)  # it waits for us
        return {"answered": True}

    monkeypatch.setitem(REQUESTS, "end", Request("end", [], "", end))
    assert ask(server.path, "end") == {"answered": True}
    closing.join()


def test_who_reads_no_answers_does_not_hold_the_end_up(tmp_path: Path, machine: Machine) -> None:
    server = ControlServer(machine, str(tmp_path / "vm.sock"))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.path)
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.sendall(b'{"command": "status"}\n' * 1_000_000)
        server.close()


def test_a_child_of_a_fork_has_sockets_of_its_own_and_publishes_no_ports() -> None:
    nets = (NetConfig("user", publish=(Publish(8080, 80),)), NetConfig("user"))
    config = MachineConfig(BootConfig("k"), nets=nets, vsock=VsockConfig(uds="/run/vm"), rootfs=DiskConfig("d"))
    assert config.own_devices(3) == {"nets": (nets[1], nets[1]), "vsock": VsockConfig(uds="/run/vm.3")}
    assert MachineConfig(BootConfig("k"), vsock=VsockConfig(backend="vhost")).own_devices(3) == {}


def test_a_fork_by_the_socket(tmp_path: Path) -> None:
    vsock = VsockConfig(uds=str(tmp_path / "vsock"))
    config = replace(tiny.config(tiny.make(tmp_path, tiny.SPIN)), vsock=vsock)
    place = str(tmp_path / "vm.sock")
    with Machine(config) as machine, ControlServer(machine, place):
        machine.start()
        done = subprocess.run(
            [sys.executable, "-c", "from vmm.cli.main import main; main()", "fork", place, "-n", "2"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == [f"{place}.1", f"{place}.2"]
        (third,) = ask(f"{place}.2", "fork")["children"]
        assert third == {"control": f"{place}.2.1", "vsock": f"{vsock.uds}.2.1"}
        for path in (place, f"{place}.1", f"{place}.2", f"{place}.2.1"):
            assert ask(path, "status")["state"] == "running"
        ask(f"{place}.1", "stop")
        deadline = time.monotonic() + PATIENCE
        while os.path.exists(f"{place}.1") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert ask(place, "fork")["children"] == [{"control": f"{place}.3", "vsock": f"{vsock.uds}.3"}]
        os.mkdir(f"{place}.5")
        with pytest.raises(ConfigError, match=r"vm\.sock\.5"):
            ask(place, "fork", n=2)
        assert ask(place, "status")["state"] == "running"
        with pytest.raises(ConfigError, match="0 children"):
            ask(place, "fork", n=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.elf", "vm.sock.5"]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"path": 5}, {"path": "x", "base": 1}, {"path": "x", "stop": 1}, {"path": "x", "more": 1}],
)
def test_wrong_arguments_are_errors(path: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="snapshot: "):
        ask(path, "snapshot", None, **arguments)
    assert ask(path, "status")["state"] == "running"


@pytest.mark.parametrize(
    "line",
    [b"\n", b"5\n", b"[]\n", b"{}\n", b"{", b'{"command": 5}\n', b"\xff\n", b"[" * 9000 + b"\n", b"x" * 2 * LINE_MAX],
)
def test_what_is_no_request_ends_the_connection(path: str, line: bytes) -> None:
    answers = talk(path, line, b'{"command": "status"}\n')
    assert all(answer.get("code") == "control-request" for answer in answers)
    assert len(answers) <= 1
    assert ask(path, "status")["state"] == "running"


def test_no_request_of_a_jailed_machine_outlives_its_server(machine: Machine) -> None:
    """A thread that the interpreter finds at its end opens a file (Python before 3.14), which ends a jailed process."""
    for _ in range(5):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        requests = jail_server.Requests(theirs)
        requests.hand_over(machine)
        requests.start()
        answers, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        files = [open_memory("memory", machine.config.all_memory()), open_memory("state", 0)]
        socket.send_fds(ours, [b'{"command": "save", "stop": false, "diff": false}'], [mine.fileno(), *files])
        assert b"progress" in answers.recv(1000)
        requests.close()
        running = [frame for thread, frame in sys._current_frames().items() if thread != threading.get_ident()]
        for frame, _ in (each for lowest in running for each in traceback.walk_stack(lowest)):
            assert frame.f_code.co_filename != jail_server.__file__
        for each in (ours, answers, mine):
            each.close()
        for fd in files:
            os.close(fd)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its traceback, for stderr
def test_a_fault_in_the_process_of_a_jailed_machine_is_reported_to_who_asks(machine: Machine) -> None:
    """It is no end of the machine, which answers the next request."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    requests = jail_server.Requests(theirs)
    requests.hand_over(machine)
    requests.start()
    pidfd = os.pidfd_open(os.getpid())
    jailed = Jailed(ours, pidfd, machine.config)
    try:
        with pytest.raises(HostError, match=r"^set-mac: IndexError: ") as caught:
            jailed.ask("set-mac", net=7, mac="02" * 6)
        assert caught.value.code == "control-failed" and "report it" in caught.value.hint
        assert jailed.ask("status")["state"] == "running"
    finally:
        requests.close()
        ours.close()
        os.close(pidfd)


def test_an_unknown_command_is_told_what_there_is(path: str) -> None:
    answers = talk(path, b'{"command": "fly"}\n', b'{"command": "status"}\n')
    assert "snapshot" in str(answers[0]["hint"])
    assert "ok" in answers[1]


@pytest.mark.parametrize("sent", [b"", b'{"command"', b'{"command": "status"}\n'], ids=["nothing", "half", "idle"])
def test_connections_without_a_request_give_way_to_others(path: str, sent: bytes) -> None:
    """Ten times as many as it serves; none of them keeps the others out."""
    held = []
    for _ in range(10 * CONNECTIONS_MAX):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(path)
        held[-1].sendall(sent)
        if sent.endswith(b"\n"):
            assert held[-1].recv(10)
    assert ask(path, "status")["state"] == "running"
    assert held[-1].send(b"x"), "the last one is still there"
    for connection in held:
        connection.close()


def test_as_many_requests_as_it_serves_are_served_and_one_more_is_told(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def wait(_server: Server, _arguments: dict[str, Any], _tell: Tell) -> None:
        begun.release()
        assert go_on.wait(60)

    monkeypatch.setitem(REQUESTS, "wait", Request("wait", [], "", wait))
    answers: list[dict[str, object]] = []
    clients = [threading.Thread(target=lambda: answers.append(ask(path, "wait"))) for _ in range(CONNECTIONS_MAX)]
    for client in clients:
        client.start()
        assert begun.acquire(timeout=60)
    with pytest.raises(HostError, match=f"{CONNECTIONS_MAX} requests are being served") as caught:
        ask(path, "status")
    assert caught.value.code == "control-busy"
    go_on.set()
    for client in clients:
        client.join()
    assert answers == [{}] * CONNECTIONS_MAX
    assert ask(path, "status")["state"] == "running"


@pytest.mark.parametrize("path_in", ["a\0b", "\0", "\ud800", "/tmp/\udfff\0"])
@pytest.mark.parametrize(
    "command", [("snapshot", "path"), ("add-disk", "disk"), ("remove-disk", "path"), ("resize-disk", "path")]
)
def test_a_path_that_cannot_be_is_answered(path: str, command: tuple[str, str], path_in: str) -> None:
    request = json.dumps({"command": command[0], command[1]: path_in}).encode() + b"\n"
    answers = talk(path, request, b'{"command": "status"}\n')
    assert answers[0]["code"] == "control-argument" and "no path can have" in str(answers[0]["error"])
    assert "ok" in answers[1], "the connection goes on"


def test_a_command_that_fails_is_answered(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_server: Server, _arguments: dict[str, Any], _tell: Tell) -> None:
        raise OverflowError("too much")

    monkeypatch.setitem(REQUESTS, "fail", Request("fail", [], "", fail))
    answers = talk(path, b'{"command": "fail"}\n', b'{"command": "status"}\n')
    assert answers[0]["error"] == "fail: OverflowError: too much" and "ok" in answers[1]


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="control"):
        ask(str(tmp_path / "control.sock"), "status")


def test_a_client_that_leaves_meanwhile_harms_nobody(path: str, tmp_path: Path) -> None:
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(json.dumps({"command": "snapshot", "path": str(tmp_path / "warm")}).encode() + b"\n")
    deadline = time.monotonic() + PATIENCE
    while (state := ask(path, "status")["state"]) == "paused" and time.monotonic() < deadline:
        time.sleep(0.01)  # the last snapshots are still being taken
    assert state == "running"


def test_two_clients_plug_in_the_same_disk_once(tmp_path: Path) -> None:
    disks = tmp_path / "disks"
    disks.mkdir()
    image = disks / "a.img"
    image.write_bytes(bytes(1 << 20))
    config = replace(tiny.config(tiny.make(tmp_path, tiny.SPIN)), transport="pci")
    with contextlib.closing(Below([str(disks)], "disk")) as below, Machine(config) as machine:
        machine.start()
        with ControlServer(machine, str(tmp_path / "vm.sock"), below) as server:
            answers: list[str] = []

            def add() -> None:
                try:
                    ask(server.path, "add-disk", disk=str(image))
                    answers.append("added")
                except ConfigError as error:
                    answers.append(error.code)

            clients = [threading.Thread(target=add) for _ in range(4)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            assert sorted(answers) == ["added", *["already-attached"] * 3]
            assert len(machine.disks) == 1
