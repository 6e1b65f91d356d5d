"""The containerd shim as containerd uses it: its service over a real socket, with a guest that is none."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pyvmm_kata import protobuf, ttrpc
from pyvmm_kata.host.face import Face, Shown
from pyvmm_kata.host.mounts import SharedDirectory
from pyvmm_kata.protobuf import Message
from pyvmm_kata.sandbox.bundle import Bundle
from pyvmm_kata.sandbox.sandbox import Sandbox, SandboxConfig, SandboxEvent
from pyvmm_kata.shim.pod import Pod
from pyvmm_kata.shim.tasks import TaskService
from tests.kata.fake_guest import PATIENCE, FakeGuest

PID = 4242


class PlainDirectory(SharedDirectory):
    """A share without mounts, which not everybody may make."""

    def make(self) -> None:
        os.makedirs(self.path, exist_ok=True)

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        os.makedirs(os.path.join(self.path, name), exist_ok=True)
        return f"/guest/{name}"

    def unbind(self, name: str) -> None:
        pass

    def remove(self) -> None:
        pass


class FakeFace:
    """A face without a process, which not everybody may make."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = threading.Event()

    def show(self, root: Shown | None, volumes: Sequence[Shown]) -> None:
        pass

    def watch(self, on_signal: Callable[[int], None], processes: Callable[[], bytes]) -> None:
        self._ended.wait()

    def end(self, status: int) -> None:
        self._ended.set()

    close = reap = lambda self: self._ended.set()


class Shim:
    """A pod, its service on a socket, and the events that it sent."""

    def __init__(self, folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pyvmm_kata.sandbox.sandbox.SharedDirectory", PlainDirectory)
        self.folder = folder
        self.package = package
        self.events: list[Message] = []
        self.published = threading.Condition()
        self.guests: list[FakeGuest] = []
        self.ended = threading.Event()
        self.pod = Pod(self._sandbox, self._publish, lambda bundle, others: FakeFace(PID))  # type: ignore[arg-type, return-value]
        self.service = TaskService(package, self.pod, "2", self.ended.set)
        self.server = ttrpc.Server({self.service.name: self.service.handlers()})
        ours, theirs = socket.socketpair()
        self.server.serve_connection(theirs)
        self.client = ttrpc.Client(ours, "the shim")

    def _sandbox(
        self, bundle: Bundle, _face: Face, options: Message | None, listener: Callable[[SandboxEvent], None]
    ) -> Sandbox:
        def boot(config: SandboxConfig, folder: str, shared: str) -> FakeGuest:
            self.guests.append(FakeGuest(config, folder, shared))
            return self.guests[-1]

        made = Sandbox(
            SandboxConfig("pod", str(self.folder), "kernel", "image", more_disks=bundle.disk is not None), boot
        )
        made.listen(listener)
        made.start()
        return made

    def _publish(self, content: Message) -> None:
        with self.published:
            self.events.append(content)
            self.published.notify_all()

    @property
    def guest(self) -> FakeGuest:
        return self.guests[-1]

    def bundle(self, task_id: str, args: list[str], **process: Any) -> str:
        path = self.folder / f"bundle-{task_id}"
        (path / "rootfs").mkdir(parents=True)
        spec = {
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"args": args, "cwd": "/", **process},
            "linux": {},
        }
        (path / "config.json").write_text(json.dumps(spec))
        return str(path)

    def call(self, method: str, kind: str, **fields: Any) -> Message:
        message = protobuf.message(f"{self.package}.{kind}")(**fields)
        return self.client.call(self.service.name, method, message, PATIENCE)

    def create(self, task_id: str, *args: str, **fields: Any) -> Message:
        bundle = self.bundle(task_id, list(args), terminal=fields.get("terminal", False))
        return self.call("Create", "CreateTaskRequest", id=task_id, bundle=bundle, **fields)

    def run(self, task_id: str, *args: str, **fields: Any) -> None:
        self.create(task_id, *args, **fields)
        self.call("Start", "StartRequest", id=task_id)

    def exec(self, task_id: str, exec_id: str, *args: str, **fields: Any) -> None:
        process = json.dumps({"args": list(args), "cwd": "/"}).encode()
        spec = protobuf.message("google.protobuf.Any")(type_url="x/Process", value=process)
        self.call("Exec", "ExecProcessRequest", id=task_id, exec_id=exec_id, spec=spec, **fields)

    def wait(self, task_id: str, exec_id: str = "") -> int:
        return int(self.call("Wait", "WaitRequest", id=task_id, exec_id=exec_id).exit_status)

    def delete(self, task_id: str, exec_id: str = "") -> Message:
        return self.call("Delete", "DeleteRequest", id=task_id, exec_id=exec_id)

    def state(self, task_id: str, exec_id: str = "") -> str:
        number = self.call("State", "StateRequest", id=task_id, exec_id=exec_id).status
        names = ("CREATED", "RUNNING", "STOPPED", "PAUSED")
        return {protobuf.enum_value("containerd.v1.types.Status", name): name for name in names}[number]

    def wait_for_events(self, count: int) -> list[str]:
        with self.published:
            assert self.published.wait_for(lambda: len(self.events) >= count, PATIENCE), self.names()
        return self.names()

    def names(self) -> list[str]:
        return [event.DESCRIPTOR.name for event in self.events]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ttrpc.RpcError) as caught:
        call()
    return caught.value.code
