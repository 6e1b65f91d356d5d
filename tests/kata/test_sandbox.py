"""A sandbox without a guest: what it promises, and an agent that lies, floods, or says nothing."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata.bundle.bundle import Bundle
from pyvmm_kata.bundle.default_spec import default_spec
from pyvmm_kata.bundle.mount_plan import Placed
from pyvmm_kata.errors import AgentGone, AgentTimeout, ConfigError, GuestError, VmmError
from pyvmm_kata.host import mounts
from pyvmm_kata.host.mounts import TAG
from pyvmm_kata.pod import agent_client as agent_module
from pyvmm_kata.pod import machine_size, process, sandbox
from pyvmm_kata.pod.events import SandboxEvent
from pyvmm_kata.pod.process import LOST
from pyvmm_kata.pod.sandbox import Sandbox
from pyvmm_kata.pod.sandbox_config import SandboxConfig
from pyvmm_kata.pod.stdio import Stdio
from pyvmm_kata.pod.virtual_machine import PyvmmVm
from pyvmm_kata.protocol import control, protobuf, ttrpc
from tests import tiny
from tests.command import of_threads
from tests.kata.fake_agent import FakeAgent, FakeVm

PATIENCE = 60.0
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0,
    reason="needs the right to mount",
)


class Bench:
    """A sandbox, its fake machine, and the events that it told."""

    def __init__(self, folder: Path, *, more_memory: int = 0, more_cpus: int = 0, **replace: ttrpc.Handler) -> None:
        self.folder = folder
        self.agent = FakeAgent(replace)
        self.vm = FakeVm(self.agent)
        state = folder / "sandbox"
        state.mkdir()
        config = SandboxConfig("s1", str(state), "kernel", "image", more_memory=more_memory, more_cpus=more_cpus)
        self.vm.memory = config.memory
        self.sandbox = Sandbox(config, lambda *_: self.vm)
        self.events: list[SandboxEvent] = []
        self.sandbox.listen(self.events.append)

    def bundle(self, script: str = "true", **changes: Any) -> Bundle:
        (self.folder / "bundle" / "rootfs").mkdir(parents=True, exist_ok=True)
        spec = {**default_spec(["/bin/sh", "-c", script], terminal=False), **changes}
        return Bundle(str(self.folder / "bundle"), spec)

    def run(self, script: str, **streams: Any) -> Any:
        container = self.sandbox.create_container("c1", self.bundle(script), Stdio(**streams))
        container.start()
        return container


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*, start: bool = True, more_memory: int = 0, more_cpus: int = 0, **replace: ttrpc.Handler) -> Bench:
        bench = Bench(tmp_path, more_memory=more_memory, more_cpus=more_cpus, **replace)
        made.append(bench)
        if start:
            bench.sandbox.start()
        return bench

    yield make
    for each in made:
        each.sandbox.stop()
        assert each.vm.closed or each.sandbox._vm is None
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "mounts were left"


Make = Callable[..., Bench]


def eventually(what: Callable[[], Any], words: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.01)


def never(request: Any, call: ttrpc.Call) -> Any:
    call.gone.wait()
    raise ttrpc.RpcError("CANCELLED", "gone")


def test_output_and_status(bench: Make, tmp_path: Path) -> None:
    made = bench()
    for name in ("o", "e"):
        (tmp_path / name).touch()
    container = made.run("echo out; echo err >&2; exit 9", stdout=str(tmp_path / "o"), stderr=str(tmp_path / "e"))
    status = container.wait(PATIENCE)
    assert (status.code, status.reason) == (9, "")
    assert ((tmp_path / "o").read_text(), (tmp_path / "e").read_text()) == ("out\n", "err\n")
    eventually(lambda: made.events, "no event")
    assert [(event.kind, event.container_id, event.exec_id) for event in made.events] == [("exit", "c1", "c1")]


def test_streams_over_fifos(bench: Make, tmp_path: Path) -> None:
    made = bench()
    for name in ("in", "out", "err"):
        os.mkfifo(tmp_path / name)
    container = made.run(
        "cat; echo done >&2", stdin=str(tmp_path / "in"), stdout=str(tmp_path / "out"), stderr=str(tmp_path / "err")
    )
    payload = bytes(range(256)) * 1024

    def write() -> None:
        (tmp_path / "in").write_bytes(payload)

    writer = threading.Thread(target=write)
    readers = [
        subprocess.Popen(["head", "-c", str(n), tmp_path / name], stdout=-1)
        for name, n in (("out", len(payload)), ("err", 5))
    ]
    writer.start()
    assert readers[0].communicate(timeout=PATIENCE)[0] == payload
    assert readers[1].communicate(timeout=PATIENCE)[0] == b"done\n"
    writer.join(PATIENCE)
    assert container.wait(PATIENCE).code == 0


def test_a_reader_that_left_does_not_stop_the_program(bench: Make) -> None:
    read, write = os.pipe()
    os.close(read)
    made = bench()
    container = made.run("i=0; while [ $i -lt 2000 ]; do echo line; i=$((i+1)); done; exit 6", stdout=write)
    assert container.wait(PATIENCE).code == 6


def test_calls_in_the_wrong_state(bench: Make) -> None:
    made = bench()
    container = made.sandbox.create_container("c1", made.bundle("sleep 600"), Stdio())
    with pytest.raises(ConfigError, match="cannot exec in container c1: it is created"):
        container.exec("e1", made.bundle().spec["process"], Stdio())
    with pytest.raises(ConfigError, match="exists already"):
        made.sandbox.create_container("c1", made.bundle(), Stdio())
    container.start()
    with pytest.raises(ConfigError, match="cannot start"):
        container.start()
    with pytest.raises(ConfigError, match="cannot delete"):
        container.delete()
    container.exec("e1", {**made.bundle("exit 3").spec["process"]}, Stdio())
    read, write = os.pipe()
    with pytest.raises(ConfigError, match="has a process e1 already"):
        container.exec("e1", made.bundle().spec["process"], Stdio(None, write))
    assert os.read(read, 1) == b"", "who is refused does not keep what it was given"
    os.close(read)
    assert container.processes["e1"].wait(PATIENCE) is not None
    container.forget("e1")
    container.exec("e1", made.bundle().spec["process"], Stdio())
    container.delete(force=True)
    assert made.sandbox.containers == {}


def test_a_guest_sees_what_the_host_wrote_before_start_and_exec(bench: Make) -> None:
    made = bench()
    container = made.sandbox.create_container("c1", made.bundle("sleep 600"), Stdio())
    assert made.vm.refreshed == []
    container.start()
    container.exec("e1", made.bundle().spec["process"], Stdio())
    assert [("StartContainer" in calls, "ExecProcess" in calls) for calls in made.vm.refreshed] == [
        (False, False),
        (True, False),
    ]
    container.delete(force=True)


def test_1000_volumes_are_handed_over(bench: Make, tmp_path: Path) -> None:
    """By the process that sees them to the one with the machine; one message carries 253 descriptors."""
    (tmp_path / "volumes").mkdir()
    made, volumes = bench(), []
    for number in range(1000):
        source = tmp_path / "volumes" / str(number)
        source.write_text(str(number))
        volumes.append({"destination": f"/v/{number}", "type": "bind", "source": str(source), "options": ["rbind"]})
    bundle = made.bundle("sleep 600", mounts=volumes)
    ours, its = (control.Channel(end, "the other end") for end in socket.socketpair())
    placed = Placed.of(bundle, "c1", ())
    sender = threading.Thread(target=ours.send, args=({"placed": placed.to_json()}, placed.trees))
    sender.start()
    request = its.receive()
    sender.join()
    placed.close()
    assert request is not None
    came, its.fds = Placed.from_json(request["placed"], its.fds), []
    for channel in (ours, its):
        channel.close()
    made.sandbox.create_container("c1", bundle, Stdio(), placed=came)
    came.close()
    shared = Path(made.sandbox.config.state_dir, "shared", "c1")
    assert [(shared / f"{number}-{number}").read_text() for number in range(1000)] == [str(n) for n in range(1000)]
    made.sandbox.containers["c1"].delete(force=True)


@pytest.mark.parametrize("lives", [30, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_pod_has_many_lives(bench: Make, tmp_path: Path, lives: int) -> None:
    """Of a container with seven volumes, as one that crashes all the time; nothing grows."""
    made, volumes = bench(), []
    for number in range(7):
        (tmp_path / f"volume{number}").mkdir()
        source = str(tmp_path / f"volume{number}")
        volumes.append({"destination": f"/v/{number}", "type": "bind", "source": source, "options": ["rbind"]})
    bundle = made.bundle("exit 3", mounts=volumes)

    def used() -> tuple[int, int, int, int]:
        mounted = Path("/proc/self/mountinfo").read_text().count(str(tmp_path))
        shared = sum(len(folders) + len(others) for _, folders, others in os.walk(made.sandbox.config.state_dir))
        open_files = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        files = [name for name in open_files if not name.startswith("pipe")]  # the fake programs keep theirs
        return len(files), threading.active_count(), mounted, shared

    before = None
    for number in range(lives):
        container = made.sandbox.create_container(f"c{number % 3}", bundle, Stdio())
        container.start()
        status = container.wait(PATIENCE)
        assert status is not None
        assert status.code == 3
        container.delete()
        if number == 2:
            eventually(lambda: threading.active_count() <= 20, "threads do not end")
            before = used()
    assert before is not None
    eventually(lambda: all(now <= then for now, then in zip(used(), before, strict=True)), f"{before} {used()}")
    assert not made.sandbox._containers.on_host


def test_the_guest_is_told_what_is_its_own(bench: Make, tmp_path: Path) -> None:
    made = bench()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    bundle = made.bundle(
        mounts=[
            {"destination": "/data", "type": "bind", "source": str(tmp_path / "data"), "options": ["rbind", "ro"]},
            {"destination": "/f", "type": "bind", "source": str(tmp_path / "data" / "file"), "options": ["bind"]},
            {"destination": "/dev/shm", "type": "bind", "source": str(tmp_path / "data"), "options": ["bind"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        ],
        hooks={"poststop": [{"path": "/bin/true"}], "startContainer": [{"path": "/bin/hook"}]},
    )
    made.sandbox.create_container("c1", bundle, Stdio())
    spec = made.agent.specs["c1"]
    shared = Path(made.sandbox.config.state_dir, "shared")
    assert spec["root"]["path"] == f"{mounts.GUEST_SHARED}/c1/rootfs"
    data, file, dev, shm, tmp = spec["mounts"]
    assert dev["destination"] == "/dev", "the root is no place for devices"
    assert (data["source"], data["options"]) == (f"{mounts.GUEST_SHARED}/c1/0-data", ["rbind", "ro"])
    assert (shared / "c1" / "0-data" / "file").read_text() == "content"
    assert (shared / "c1" / Path(file["source"]).name).read_text() == "content"
    assert tmp["type"] == "tmpfs"
    (storage,) = made.agent.requests["CreateContainer"].storages
    assert (shm["type"], shm["source"]) == ("bind", storage.mount_point)
    assert (storage.driver, "mode=1777" in storage.options) == ("ephemeral", True)
    assert spec["hooks"] == {"startContainer": [{"path": "/bin/hook"}]}
    assert "network" not in [namespace["type"] for namespace in spec["linux"]["namespaces"]]
    with pytest.raises(OSError, match="Read-only"):
        (shared / "c1" / "0-data" / "new").write_text("")
    with pytest.raises(OSError, match="Read-only"):
        (shared / "new").write_text("")
    (shared / "c1" / "rootfs" / "new").write_text("")
    assert (tmp_path / "bundle" / "rootfs" / "new").exists()
    made.sandbox.containers["c1"].delete(force=True)
    assert os.listdir(shared) == []
    assert (tmp_path / "data" / "file").read_text() == "content"


def test_what_the_host_mounts_later(bench: Make, tmp_path: Path) -> None:
    """Below a volume: as mount_namespaces(7) has it, only what follows the host's mounts sees it."""
    volume = tmp_path / "volume"
    volume.mkdir()
    mounts.mount("host", str(volume), "tmpfs", 0)
    try:
        mounts.mount("", str(volume), "", mounts.MS_SHARED)
        (volume / "sub").mkdir()
        made = bench()
        kinds = ("rprivate", "rslave", "slave", "nosuid")
        bundle = made.bundle(
            mounts=[
                {"destination": f"/{kind}", "type": "bind", "source": str(volume), "options": ["rbind", kind]}
                for kind in kinds
            ]
        )
        made.sandbox.create_container("c1", bundle, Stdio())
        mounts.mount("later", str(volume / "sub"), "tmpfs", 0)
        (volume / "sub" / "file").write_text("")
        shared = Path(made.sandbox.config.state_dir, "shared", "c1")
        seen = [(shared / f"{index}-{kind}" / "sub" / "file").exists() for index, kind in enumerate(kinds)]
        assert seen == [False, True, True, False]
        made.sandbox.containers["c1"].delete(force=True)
        assert (volume / "sub" / "file").exists(), "a mount of the host's has gone with the container"
    finally:
        mounts.unmount(str(volume))


@pytest.mark.parametrize("late", [False, True])
def test_a_socket_is_where_the_device_looks(bench: Make, tmp_path: Path, late: bool) -> None:
    """`-v /x.sock:/x`, also of a container whose files another process sees: the guest's port is the host's socket."""
    made = bench()
    os.symlink(tmp_path, link := f"/tmp/pyvmm-sandbox-{os.getpid()}")
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{link}/s")
            server.listen()
            os.chmod(tmp_path / "s", 0o660)
            os.chown(tmp_path / "s", 7, 8)
            bundle = made.bundle(mounts=[{"destination": "/x", "type": "bind", "source": str(tmp_path / "s")}])
            placed = Placed.of(bundle, "c1", []) if late else None
            if placed is not None:
                placed = Placed.from_json(json.loads(json.dumps(placed.to_json())), placed.trees)
            made.sandbox.create_container("c1", bundle, Stdio(), placed=placed)
            (told,) = made.agent.requests["CreateContainer"].storages
            assert told.driver == "unix-socket"
            assert list(told.driver_options) == ["port=65536", "mode=0660", "uid=7", "gid=8"]
            assert made.agent.specs["c1"]["mounts"][0]["source"] == told.mount_point
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{link}/sandbox/vm_65536")
                server.accept()[0].close()
            if placed is not None:
                placed.close()
        made.sandbox.containers["c1"].delete(force=True)
        assert not [name for name in os.listdir(tmp_path / "sandbox") if name.startswith("vm_")]
        assert (tmp_path / "s").is_socket()
    finally:
        os.unlink(link)


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"type": "ext4", "source": "/dev/sda"}, "mounts[0].type: the guest cannot mount 'ext4'"),
        ({"type": "bind", "source": "/no/where"}, "mounts[0].source: /no/where: No such file"),
        ({"type": "bind", "source": "/dev/kvm"}, "no file, directory or socket"),
    ],
)
def test_a_volume_that_cannot_be(bench: Make, mount: dict[str, Any], words: str) -> None:
    made = bench()
    with pytest.raises(ConfigError) as error:
        made.sandbox.create_container("c1", made.bundle(mounts=[{"destination": "/x", **mount}]), Stdio())
    assert words in str(error.value)
    assert os.listdir(Path(made.sandbox.config.state_dir, "shared")) == []


def test_an_overlay_is_mounted_on_the_host(bench: Make, tmp_path: Path) -> None:
    """`podman run -v DIR:/x:O`, and `--mount type=image`."""
    made = bench()
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("below")
    layers = [f"{kind}dir={tmp_path / kind}" for kind in ("lower", "upper", "work")]
    overlay = {"destination": "/x", "type": "overlay", "source": "overlay"}
    bundle = made.bundle(
        mounts=[
            {**overlay, "options": [*layers, "private", "nosuid"]},
            {**overlay, "options": [f"lowerdir={tmp_path / 'lower'}:{tmp_path / 'upper'}", "ro"]},
        ]
    )
    made.sandbox.create_container("c1", bundle, Stdio())
    seen, read_only = (
        Path(made.sandbox.config.state_dir, "shared", "c1", Path(mount["source"]).name)
        for mount in made.agent.specs["c1"]["mounts"][:2]
    )
    assert [mount["type"] for mount in made.agent.specs["c1"]["mounts"]] == ["bind", "bind", "tmpfs"]
    assert made.agent.specs["c1"]["mounts"][0]["options"] == ["rbind", "private", "nosuid"]
    assert (seen / "file").read_text() == "below"
    (seen / "file").write_text("changed")
    assert (tmp_path / "lower" / "file").read_text() == "below"
    assert (tmp_path / "upper" / "file").read_text() == "changed"
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "new").write_text("")
    made.sandbox.containers["c1"].delete(force=True)
    assert os.listdir(tmp_path / "sandbox" / "shared") == []


def test_who_has_other_ids_gets_to_its_files(bench: Make, tmp_path: Path) -> None:
    """In the guest the root of a user namespace is nobody's root outside of it; on the host nobody gets so far."""
    made = bench()
    umask = os.umask(0o077)
    try:
        made.sandbox.create_container("c1", made.bundle(), Stdio())
    finally:
        os.umask(umask)
    path = Path(made.sandbox.config.state_dir, "shared")
    for folder in (path, path / "c1"):
        assert folder.stat().st_mode & 0o777 == 0o755


# -- the guest is the attacker ---------------------------------------------------------------------------------------


def test_nobody_answers_at_the_start(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "CREATE_S", 0.2)
    made = bench(start=False, CreateSandbox=never)
    with pytest.raises(AgentTimeout, match=r"the agent of sandbox s1 did not answer CreateSandbox within 0\.2 s"):
        made.sandbox.start()
    assert made.vm.closed


def test_a_container_with_many_volumes_has_more_time(
    bench: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(CreateContainer=never)
    monkeypatch.setattr(agent_module, "CREATE_S", 0.2)
    monkeypatch.setattr(agent_module, "MOUNT_S", 0.001)
    (tmp_path / "file").touch()
    volumes = [
        {"destination": f"/v/{number}", "type": "bind", "source": str(tmp_path / "file"), "options": ["rbind"]}
        for number in range(300)
    ]
    with pytest.raises(AgentTimeout, match=r"did not answer CreateContainer within 0\.5\d* s"):
        made.sandbox.create_container("c1", made.bundle("sleep 600", mounts=volumes), Stdio())


def test_an_agent_that_hangs_later_ends_the_machine(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CHECK_EVERY_S", 0.1)
    monkeypatch.setattr(sandbox, "CHECK_S", 0.2)
    made = bench(Check=never)
    container = made.run("sleep 600")
    status = container.wait(PATIENCE)
    assert status.code == LOST
    assert "did not answer Check" in status.reason
    eventually(lambda: made.vm.closed, "it runs on")
    eventually(lambda: any(event.kind == "end" for event in made.events), "nobody was told")


def test_a_machine_that_ends(bench: Make) -> None:
    made = bench()
    container = made.run("sleep 600")
    made.vm.die("panic")
    status = container.wait(PATIENCE)
    assert (status.code, status.reason) == (LOST, "the virtual machine ended: panic")
    with pytest.raises(VmmError):
        container.kill(9)
    assert made.sandbox.wait(PATIENCE)


@pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_machine_ends_with_the_server_of_its_share(tmp_path: Path, isolation: str) -> None:
    """A machine of pyvmm's, whose guest does no more than to use the share."""
    for name in ("shared", "state"):
        (tmp_path / name).mkdir()
    image = tmp_path / "image"
    image.write_bytes(bytes(2 << 20))
    kernel = tiny.make(tmp_path, tiny.drive(0), tiny.say("driven"), tiny.SPIN)
    wanted = SandboxConfig("s1", str(tmp_path / "state"), kernel, str(image), memory=32 << 20, isolation=isolation)
    vm = PyvmmVm(wanted, str(tmp_path / "state"), str(tmp_path / "shared"))
    try:
        told: queue.SimpleQueue[str] = queue.SimpleQueue()
        vm.watch(told.put)
        log = tmp_path / "state" / "console.log"
        eventually(lambda: "driven" in log.read_text(), "it does not use the share")
        holder = os.getpid()
        if isolation == "process":
            (holder,) = (pid for pid in children_of(os.getpid()) if comm(pid) == "pyvmm-machine")
        (server,) = (pid for pid in children_of(holder) if comm(pid) == "pyvmm-fsd")
        os.kill(server, signal.SIGKILL)
        reason = told.get(timeout=PATIENCE)
        assert reason == f"error share {TAG}: its server was killed by signal 9"
    finally:
        vm.close()


def children_of(pid: int) -> list[int]:
    return [int(child) for text in of_threads("children", pid).values() for child in text.split()]


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.mark.parametrize("status", [-1, 256, 1 << 30])
def test_a_status_that_no_process_has(bench: Make, status: int) -> None:
    made = bench(WaitProcess=lambda *_: protobuf.message("grpc.WaitProcessResponse")(status=status))
    end = made.run("true").wait(PATIENCE)
    assert (end.code, "makes no sense" in end.reason) == (LOST, True)


def test_more_output_than_was_asked_for(bench: Make, tmp_path: Path) -> None:
    made = bench(
        ReadStdout=lambda request, _: protobuf.message("grpc.ReadStreamResponse")(data=b"x" * (request.len + 1))
    )
    (tmp_path / "out").write_bytes(b"")
    assert made.run("true", stdout=str(tmp_path / "out")).wait(PATIENCE).code == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_output_without_end(bench: Make) -> None:
    """A guest that sends for ever keeps one thread busy, and nothing waits for it longer than it should."""
    made = bench(ReadStdout=lambda request, _: protobuf.message("grpc.ReadStreamResponse")(data=b"x" * request.len))
    assert made.run("true", stdout=os.open("/dev/null", os.O_WRONLY)).wait(PATIENCE).code == 0


@pytest.mark.parametrize("taken", [0, 1 << 20])
def test_input_that_was_not_taken(bench: Make, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    monkeypatch.setattr(process, "DRAIN_FIRST_S", 0.2)  # this guest's output does not end
    asked = threading.Event()

    def write(_request: Any, _call: ttrpc.Call) -> Any:
        asked.set()
        return protobuf.message("grpc.WriteStreamResponse")(len=taken)

    made = bench(WriteStdin=write)
    read, feed = os.pipe()
    container = made.run("sleep 600", stdin=read)
    os.write(feed, b"typed")
    assert asked.wait(PATIENCE)
    container.kill(9)
    assert container.wait(PATIENCE).code == 137
    os.close(feed)


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}", b'["1"]', b"[true]", b"[1.5]", b"[" + b"1," * 70_000 + b"1]", b"[" * 200_000]
)
def test_a_list_of_processes_that_is_none(bench: Make, content: bytes) -> None:
    made = bench(ListProcesses=lambda *_: protobuf.message("grpc.ListProcessesResponse")(process_list=content))
    container = made.run("sleep 600")
    with pytest.raises(GuestError, match="the agent's list of processes"):
        container.pids()


def test_files_of_processes_that_are_too_many_or_do_not_come(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "LISTING_S", 0.2)
    answers = [b"x" * ((1 << 20) + 1)]

    def say(_request: Any, call: ttrpc.Call) -> Any:
        if not answers:
            call.gone.wait()
        return protobuf.message("grpc.ListProcessesResponse")(process_list=answers.pop() if answers else b"")

    container = bench(ListProcesses=say).run("sleep 600")
    with pytest.raises(GuestError, match="1048577 bytes"):
        container.process_files()
    with pytest.raises(AgentTimeout, match="ListProcesses"):
        container.process_files()


def test_containers_that_run_out_of_memory_and_those_that_do_not_exist(bench: Make) -> None:
    answers = ["nobody", "../x", "c1"]

    def oom(_request: Any, call: ttrpc.Call) -> Any:
        if not answers:
            call.gone.wait()
        return protobuf.message("grpc.OOMEvent")(container_id=answers.pop(0) if answers else "")

    waiting = threading.Event()

    def first(request: Any, call: ttrpc.Call) -> Any:
        waiting.wait(PATIENCE)
        return oom(request, call)

    made = bench(GetOOMEvent=first)
    made.run("sleep 600")
    waiting.set()
    eventually(lambda: any(event.kind == "oom" for event in made.events), "nobody was told")
    assert [event.container_id for event in made.events if event.kind == "oom"] == ["c1"]


def test_an_agent_that_refuses_everything(bench: Make) -> None:
    def refuse(_request: Any, call: ttrpc.Call) -> Any:
        raise ttrpc.RpcError("INTERNAL", f"no {call.method}")

    made = bench(CreateContainer=refuse)
    with pytest.raises(GuestError, match="no CreateContainer"):
        made.run("true")
    assert os.listdir(Path(made.sandbox.config.state_dir, "shared")) == []
    made.sandbox.stop()
    with pytest.raises(AgentGone):
        made.sandbox.agent.check()


def _take(_request: Any, _call: ttrpc.Call) -> Any:
    return protobuf.message("google.protobuf.Empty")()


@pytest.mark.parametrize("method", ["ReseedRandomDev", "SetGuestDateTime"])
def test_a_clone_that_takes_no_identity_of_its_own_is_no_sandbox(bench: Make, tmp_path: Path, method: str) -> None:
    def refuse(_request: Any, _call: ttrpc.Call) -> Any:
        raise ttrpc.RpcError("INTERNAL", "no")

    template = tmp_path / "templates" / "name"
    template.mkdir(parents=True)
    taken: dict[str, ttrpc.Handler] = {"ReseedRandomDev": _take, method: refuse}
    made = bench(start=False, **taken)
    made.vm.template = str(template)
    with pytest.raises(GuestError, match=f"did not accept its new identity: {method}: no"):
        made.sandbox.start()
    assert made.vm.closed
    assert not template.exists(), "it would be used again"


def test_a_clone_is_told_who_it_is_before_anything_else(bench: Make, tmp_path: Path) -> None:
    told: list[tuple[str, Any]] = []

    def note(request: Any, call: ttrpc.Call) -> Any:
        told.append((call.method, request))
        return protobuf.message("google.protobuf.Empty")()

    names = ("ReseedRandomDev", "SetGuestDateTime", "CreateSandbox")
    made = bench(start=False, **dict.fromkeys(names, note))
    made.vm.template = str(tmp_path / "name")
    made.sandbox.start()
    assert [name for name, _ in told] == list(names)
    assert len(told[0][1].data) >= 32
    assert abs(told[1][1].Sec - time.time()) < 60


def test_without_a_kernel_or_an_image_it_says_how_to_make_them(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").touch()
    for kernel, image, words in (("none", "none", "kernel none"), (str(tmp_path / "vmlinux"), "none", "image none")):
        config = SandboxConfig("s1", str(tmp_path), kernel, image)
        with pytest.raises(ConfigError, match=f"the guest's {words} does not exist") as caught:
            PyvmmVm(config, str(tmp_path), str(tmp_path))
        assert "make guest-kernel kata-image" in caught.value.hint


# -- memory ----------------------------------------------------------------------------------------------------------

MIB = 1 << 20


def limit(size: int) -> dict[str, Any]:
    return {"memory": {"limit": size * MIB}}


def test_a_machine_grows_for_a_limit_and_shrinks_again(bench: Make) -> None:
    """It has 512 MiB, of which 96 are not for containers, and may get 1 GiB more."""
    made = bench(more_memory=1024 * MIB)
    bounds: list[int] = []
    made.sandbox.size.bound = bounds.append
    made.run("sleep 600")
    changes = [(100, 512), (416, 512), (417, 514), (800, 896), (4096, 1536), (700, 796), (-1, 512), (100, 512)]
    for size, memory in changes:
        made.sandbox.size.update("c1", limit(size))
        assert made.sandbox.size.memory == memory * MIB
        assert json.loads(made.agent.requests["UpdateContainer"].config) == limit(size)
    made.sandbox.size.update("c1", {"pids": {"limit": 9}})
    assert made.vm.sizes == [size * MIB for size in (514, 896, 1536, 796, 512)]
    assert bounds == [size * MIB for size in (514, 896, 1536)]


def test_containers_of_a_pod_have_room_beside_each_other(bench: Make) -> None:
    made = bench(more_memory=1024 * MIB)
    for name in ("c1", "c2"):
        bundle = made.bundle("sleep 600")
        bundle.spec["linux"]["resources"] = limit(200)
        made.sandbox.create_container(name, bundle, Stdio()).start()
    made.sandbox.size.update("c1", limit(216))
    assert made.vm.sizes == []
    made.sandbox.size.update("c1", limit(300))
    made.sandbox.size.update("c2", limit(400))
    assert made.vm.sizes == [596 * MIB, 796 * MIB]


def test_a_machine_without_more_keeps_its_memory(bench: Make) -> None:
    made = bench()
    made.run("sleep 600")
    made.sandbox.size.update("c1", limit(4096))
    assert made.vm.sizes == [] and made.sandbox.size.memory == 512 * MIB


def test_a_guest_that_takes_no_memory_has_the_old_limit(bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_size, "GROW_S", 0.05)
    made = bench(more_memory=1024 * MIB)
    made.run("sleep 600")
    made.vm.plugs = False
    with pytest.raises(GuestError, match="has taken 512 of 896 MiB"):
        made.sandbox.size.update("c1", limit(800))
    assert made.vm.sizes == [896 * MIB, 512 * MIB] and "UpdateContainer" not in made.agent.calls
    assert made.sandbox.size.memory == 512 * MIB


def test_a_limit_that_the_guest_refuses_takes_no_memory(bench: Make) -> None:
    def refuse(request: Any, call: ttrpc.Call) -> Any:
        raise ttrpc.RpcError("INVALID_ARGUMENT", "no")

    made = bench(more_memory=1024 * MIB, UpdateContainer=refuse)
    made.run("sleep 600")
    with pytest.raises(VmmError, match="no"):
        made.sandbox.size.update("c1", limit(800))
    assert made.vm.sizes == [896 * MIB, 512 * MIB] and made.sandbox.size.memory == 512 * MIB
    with pytest.raises(ConfigError, match="no container"):
        made.sandbox.size.update("other", limit(800))


def share(cpus: float, period: int = 100_000) -> dict[str, Any]:
    return {"cpu": {"quota": int(cpus * period), "period": period}}


def test_a_machine_gets_cpus_for_a_quota_and_gives_them_back(bench: Make) -> None:
    """It has 1, and may get 3 more.  What the guest has been told of them comes after theirs, or before they go."""
    made = bench(more_cpus=3)
    bounds: list[Any] = []
    made.sandbox.size.bound_cpu = bounds.append
    made.run("sleep 600")
    for cpus, wanted in ((0.5, 1), (1.01, 2), (2, 2), (2.5, 3), (9, 4), (1.5, 2), (-1, 1)):
        made.sandbox.size.update("c1", share(cpus))
        assert made.sandbox.size.cpus == made.vm.cpus == wanted
        assert json.loads(made.agent.requests["UpdateContainer"].config) == share(cpus)
        assert bounds[-1] == share(cpus)["cpu"]
    assert made.vm.counts == [(2, 1), (3, 2), (4, 3), (2, 2), (1, 1)]
    made.sandbox.size.update("c1", share(2, 10_000))
    made.sandbox.size.update("c1", {"cpu": {"period": 5_000}})
    assert made.sandbox.size.cpus == 4 and bounds[-1] == {"quota": 20_000, "period": 5_000}
    made.sandbox.size.update("c1", {"cpu": {"shares": 100}})
    assert made.sandbox.size.cpus == 4 and bounds[-1] == {"quota": 20_000, "period": 5_000, "shares": 100}


def test_containers_of_a_pod_have_cpus_beside_each_other(bench: Make) -> None:
    made = bench(more_cpus=7)
    bounds: list[Any] = []
    made.sandbox.size.bound_cpu = bounds.append
    for name in ("c1", "c2"):
        bundle = made.bundle("sleep 600")
        bundle.spec["linux"]["resources"] = share(1.2) if name == "c1" else {}
        made.sandbox.create_container(name, bundle, Stdio()).start()
    made.sandbox.size.update("c1", share(1.6))
    assert made.sandbox.size.cpus == 2 and bounds == [{"quota": -1, "period": 100_000}]
    made.sandbox.size.update("c2", share(1.6))
    assert made.sandbox.size.cpus == 4 and bounds[-1] == {"quota": 320_000, "period": 100_000}


def test_a_machine_without_more_keeps_its_cpus(bench: Make) -> None:
    made = bench()
    made.run("sleep 600")
    made.sandbox.size.update("c1", share(4))
    assert made.vm.counts == [] and made.sandbox.size.cpus == 1 and "OnlineCPUMem" not in made.agent.calls


@pytest.mark.parametrize("method", ["OnlineCPUMem", "UpdateContainer"])
def test_a_guest_that_refuses_has_the_cpus_that_it_had(bench: Make, method: str) -> None:
    def refuse(request: Any, call: ttrpc.Call) -> Any:
        raise ttrpc.RpcError("PERMISSION_DENIED", "no")

    made = bench(more_cpus=3, **{method: refuse})
    bounds: list[Any] = []
    made.sandbox.size.bound_cpu = bounds.append
    made.run("sleep 600")
    before = (made.bundle().spec["linux"].get("resources") or {}).get("cpu") or {}
    with pytest.raises(VmmError, match="no"):
        made.sandbox.size.update("c1", share(2))
    assert made.sandbox.size.cpus == made.vm.cpus == 1 and bounds == [share(2)["cpu"], before]
