"""Containers on a core without a machine, by the agent's calls."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

from pyvmm_kata.bundle.guest_config import GuestConfig
from pyvmm_kata.bundle.guest_message import process_message, spec_message
from pyvmm_kata.bundle.storage import Storage
from pyvmm_kata.errors import AgentError
from pyvmm_kata.pod.agent_client import AgentClient
from pyvmm_sentry.controlled import Controlled
from vmm import ShareConfig, VsockConfig

SHARED = "/run/kata-containers/shared/containers"
APPLETS = (
    *("sh", "cat", "echo", "id", "hostname", "stty", "sleep", "ls", "mkdir", "touch", "true", "head", "wc", "seq"),
    *("stat", "grep", "tail", "dd", "rm"),
)
MOUNTS = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
)


class Sandbox:
    """A core, a directory that it shares, and a client.

    :param options: of the share
    """

    def __init__(self, platform: Path, folder: Path, **options: Any) -> None:
        self.shared = folder / "share"
        self.shared.mkdir()
        share = ShareConfig(str(self.shared), tag="kataShared", queues=1, locks="guest", **options)
        self.core = Controlled(str(platform), 128 << 20, share, VsockConfig(3, str(folder / "vsock"), connections=32))
        self.agent = self.client()

    def dial(self) -> socket.socket:
        sock = self.core.connect(1024, 30)
        sock.settimeout(None)
        return sock

    def client(self) -> AgentClient:
        return AgentClient(self.dial(), "test")

    def begin(self) -> None:
        storage = Storage("virtio-fs", "kataShared", "virtiofs", SHARED)
        self.agent.create_sandbox("test", "box", (storage,), shared_pids=False)

    def root(self, name: str) -> Path:
        """A new root directory with busybox."""
        root = self.shared / name / "rootfs"
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin" / "busybox")
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        return root

    def create(self, name: str, *args: str, spec: Any = None, **process: Any) -> None:
        """A container whose root is there."""
        whole = {
            "root": {"path": f"{SHARED}/{name}/rootfs"},
            "process": {"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, **process},
            "mounts": [*MOUNTS],
            **(spec or {}),
        }
        self.agent.create_container(name, GuestConfig("", "", spec_message(whole), len(whole["mounts"])))

    def exec(self, name: str, exec_id: str, *args: str, **process: Any) -> None:
        whole = {"args": args, "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, **process}
        self.agent.exec_process(name, exec_id, process_message(whole), "")

    def output(self, name: str, exec_id: str = "", *, errors: bool = False) -> str:
        """Everything that a process writes until its streams are closed."""
        read = self.agent.read_stderr if errors else self.agent.read_stdout
        data = b""
        try:
            while True:
                data += read(name, exec_id or name, 65536)
        except AgentError as error:
            if error.status != "OUT_OF_RANGE":
                raise
        return data.decode()

    def read_until(self, name: str, end: str) -> str:
        """What the first process of a container writes, to this end."""
        data = b""
        while not data.endswith(end.encode()):
            data += self.agent.read_stdout(name, name, 4096)
        return data.decode()

    def run(self, name: str, *args: str, spec: Any = None, **process: Any) -> tuple[int, str]:
        """Status and output of a new container."""
        self.create(name, *args, spec=spec, **process)
        self.agent.start_container(name)
        text = self.output(name)
        return self.agent.wait_process(name, name), text

    def close(self) -> None:
        self.agent.close()
        self.core.close()
