"""A guest of the container runtime with nothing but its agent: what the host's side builds on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from pyvmm_kata.protocol import protobuf, ttrpc
from tests.guest.vmfixture import RUN_TIMEOUT
from tools import guest as recipes
from vmm import BootConfig, ConsoleConfig, Machine, MachineConfig, MemoryConfig, PmemConfig, ShareConfig, VsockConfig

AGENT = "grpc.AgentService"
PORT = 1024
PATIENCE = RUN_TIMEOUT
SHARED = "/run/kata-containers/shared/containers"
CMDLINE = "quiet root=/dev/pmem0 rootfstype=erofs rootflags=dax ro"
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_MKNOD"]
APPLETS = (
    *("sh", "cat", "date", "dd", "echo", "env", "head", "hostname", "id", "ip", "ls", "mkdir", "mknod", "nc", "ps"),
    *("readlink", "sleep", "stty", "wc"),
)


def make_root(folder: Path) -> None:
    """A root file system with busybox, in a directory that is not there yet."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (folder / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", folder / "bin" / "busybox")
    for applet in APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")


class Pod:
    """A machine with the agent, and a root file system with busybox that its containers share.

    :param folder: a directory of its own, on tmpfs where it should be quick
    """

    def __init__(self, folder: Path, **more: Any) -> None:
        self.shared = folder / "shared"
        make_root(self.shared / "box" / "rootfs")
        self._console = (folder / "console").open("w+b")
        self.machine = Machine(
            MachineConfig(
                boot=BootConfig(recipes.kernel(), None, CMDLINE),
                memory=MemoryConfig(256 << 20),
                shares=(ShareConfig(str(self.shared), tag="kataShared", isolation="thread"),),
                pmems=(PmemConfig(recipes.kata_image(), read_only=True),),
                vsock=VsockConfig(3, str(folder / "vsock")),
                console=ConsoleConfig("fd", self._console.fileno()),
                **more,
            )
        )
        self.machine.start()
        self._client = ttrpc.Client(self._connect(), "the agent")

    def _connect(self) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.machine.vsock.connect(PORT, timeout=PATIENCE)
            except ConnectionRefusedError:
                if self.machine.end is not None or time.monotonic() > deadline:
                    raise AssertionError(f"no agent: {self.machine.end}\n{self.console()}") from None
                time.sleep(0.01)

    def console(self) -> str:
        """What the guest has printed."""
        self._console.seek(0)
        return self._console.read().decode(errors="replace")

    def close(self) -> None:
        """End the machine."""
        self._client.close()
        self.machine.close()
        self._console.close()

    def call(self, method: str, *, service: str = AGENT, timeout: float = PATIENCE, **fields: Any) -> Any:
        """Call the agent. Raises RpcError when it answers with an error."""
        request = protobuf.methods(service)[method][0](**fields)
        return self._client.call(service, method, request, timeout, ttrpc.MAX_DATA)

    def create_sandbox(self, **fields: Any) -> None:
        """The first call."""
        share = {"driver": "virtio-fs", "source": "kataShared", "fstype": "virtiofs", "mount_point": SHARED}
        self.call("CreateSandbox", sandbox_id="s1", hostname="pod", storages=[share], **fields)

    def create(self, name: str, *args: str, spec: dict[str, Any] | None = None, **fields: Any) -> None:
        """A container, not started."""
        self.call("CreateContainer", container_id=name, exec_id=name, OCI=spec or container_spec(*args), **fields)

    def run(self, name: str, *args: str, spec: dict[str, Any] | None = None, **fields: Any) -> None:
        """A container, started."""
        self.create(name, *args, spec=spec, **fields)
        self.call("StartContainer", container_id=name)

    def read(self, name: str, exec_id: str = "", method: str = "ReadStdout") -> str:
        """All of a stream, to its end."""
        text = b""
        while True:
            try:
                text += self.call(method, container_id=name, exec_id=exec_id, len=1 << 16).data
            except ttrpc.RpcError as error:
                if error.code != "OUT_OF_RANGE":
                    raise
                return text.decode()

    def wait(self, name: str, exec_id: str = "") -> int:
        """The exit status of a process."""
        return int(self.call("WaitProcess", container_id=name, exec_id=exec_id).status)

    def output(self, name: str, *args: str, **fields: Any) -> str:
        """What a container prints that ends with status 0; it is removed."""
        self.run(name, *args, **fields)
        try:
            text, errors = self.read(name), self.read(name, method="ReadStderr")
            assert self.wait(name) == 0, text + errors
        finally:
            self.call("RemoveContainer", container_id=name)
        return text


def process(*args: str, terminal: bool = False, **fields: Any) -> dict[str, Any]:
    """A process of the OCI specification, as the message has it."""
    sets = dict.fromkeys(("Bounding", "Effective", "Permitted"), CAPABILITIES)
    return {
        "Args": args,
        "Env": ["PATH=/bin", "TERM=dumb"],
        "Cwd": "/",
        "Terminal": terminal,
        "Capabilities": sets,
        "NoNewPrivileges": True,
        **fields,
    }


def container_spec(
    *args: str, terminal: bool = False, root: str = f"{SHARED}/box/rootfs", **resources: Any
) -> dict[str, Any]:
    """What a container engine asks for; `resources` are Memory, CPU, Pids."""
    safe = ["nosuid", "noexec", "nodev"]
    return {
        "Version": "1.0.2",
        "Process": process(*args, terminal=terminal),
        "Root": {"Path": root},
        "Mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*safe, "ro"]},
        ],
        "Linux": {
            "Namespaces": [{"Type": kind} for kind in ("pid", "mount", "uts", "ipc", "network", "cgroup")],
            "Resources": {"Devices": [{"Allow": False, "Access": "rwm"}], **resources},
            "MaskedPaths": ["/proc/kcore"],
            "ReadonlyPaths": ["/proc/sys"],
        },
    }
