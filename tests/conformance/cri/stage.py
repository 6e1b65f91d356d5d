"""A containerd with its CRI plugin and one runtime, and pods on it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from tests.conformance import runtimes
from tests.conformance.cri.interface import Client
from tests.conformance.suite import Observation, Script
from tests.guest.kata_tools import BIN, write_settings
from tests.kata.containerd import IMAGE, Containerd, write_image
from tests.scripts import WAIT
from tools.where import ROOT

SCRIPT = Script()
scene = SCRIPT.scene
"""Where the modules of this suite put their scenes."""
READY, CREATED, RUNNING, EXITED = 0, 0, 1, 2
PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2
POD, CONTAINER, NODE, TARGET = 0, 1, 2, 3
LOOP = f"trap 'echo got TERM; exit 9' TERM; echo ready; {WAIT}"
PATIENCE = 25.0
BRIDGE = "conformance0"
SHIMS = (runtimes.OURS, runtimes.SENTRY)
"""Runtimes with a shim of ours."""


def section(folder: Path, runtime: str) -> str:
    """The CRI plugin's part of containerd's configuration."""
    conf = folder / "cni"
    conf.mkdir()
    ranges = [[{"subnet": "10.99.7.0/24"}]]
    ipam = {"type": "host-local", "dataDir": str(folder / "ipam"), "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    listed = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}
    (conf / "10-bridge.conflist").write_text(json.dumps(listed))
    kind, options = "io.containerd.runc.v2", f'BinaryName = "{shutil.which(runtime) or runtime}"'
    if runtime in SHIMS:
        kind, options = "io.containerd.pyvmm.v2", ""
    plugin = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""
[{plugin}]
  sandbox_image = "{IMAGE}"
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  enable_unprivileged_ports = true
  restrict_oom_score_adj = true
  [{plugin}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{conf}"
  [{plugin}.containerd]
    default_runtime_name = "{runtime}"
  [{plugin}.containerd.runtimes.{runtime}]
    runtime_type = "{kind}"
    privileged_without_host_devices = {"true" if runtime in SHIMS else "false"}
    pod_annotations = ["org.example.*"]
    [{plugin}.containerd.runtimes.{runtime}.options]
      {options}
"""


class Stage:
    """One runtime."""

    def __init__(self, runtime: str, folder: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "kata.toml"
        if runtime == runtimes.SENTRY:
            settings.write_text('guest = "sentry"\n')
        else:
            write_settings(settings)
        os.environ["PYVMM_KATA_CONFIG"] = str(settings)
        shim = "io.containerd.pyvmm.v2" if runtime in SHIMS else "io.containerd.runc.v2"
        self.daemon = Containerd(folder, shim, str(BIN), section(folder, runtime))
        self.daemon.start()
        image = folder / "image.tar"
        write_image(image)
        self.daemon.import_image("k8s.io")
        self.cri = Client(self.daemon.address, ROOT / "build")
        self._scenes = 0

    def play(self, play: Callable[[Any], Observation]) -> Observation:
        """Play a scene, and remove its pods."""
        self._scenes += 1
        folder = self.folder / f"s{self._scenes}"
        folder.mkdir()
        box = Box(self, folder, f"s{self._scenes}")
        try:
            seen = play(box)
            seen["errors"] = "\n".join(box.errors)
            return seen
        finally:
            box.close()
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """End containerd, and what it has left."""
        self.cri.close()
        self.daemon.stop()
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)
        with open("/proc/self/mountinfo") as file:
            mounts = [line.split()[4] for line in file if str(self.folder) in line]
        for mount in reversed(mounts):
            subprocess.run(["umount", "-l", mount], capture_output=True)


class Box:
    """What a scene works with."""

    def __init__(self, stage: Stage, folder: Path, name: str) -> None:
        self.stage = stage
        self.folder = folder
        self.name = name
        self.errors: list[str] = []
        self.call = stage.cri.call
        self._pods: list[str] = []
        self._configs: dict[str, dict[str, Any]] = {}
        self._mounts: list[str] = []
        (folder / "data").mkdir()
        (folder / "data" / "file").write_text("content\n")
        (folder / "file").write_text("a file\n")

    # -- pods

    def pod_config(self, name: str = "p", **more: Any) -> dict[str, Any]:
        """The configuration of a pod; `linux` is added to."""
        logs = self.folder / f"logs-{name}"
        logs.mkdir(exist_ok=True)
        own = f"{self.name}-{name}"
        config: dict[str, Any] = {
            "metadata": {"name": own, "uid": own, "namespace": "test", "attempt": 0},
            "hostname": own,
            "log_directory": str(logs),
            "linux": {"cgroup_parent": f"/pods/{own}", **more.pop("linux", {})},
        }
        return {**config, **more}

    def pod(self, name: str = "p", **more: Any) -> str:
        """Run a pod; its id."""
        config = self.pod_config(name, **more)
        made = str(self.call("RunPodSandbox", config=config, runtime_handler=self.stage.runtime).pod_sandbox_id)
        self._pods.append(made)
        self._configs[made] = config
        return made

    def pod_state(self, pod: str) -> str:
        """ready or not; gone when there is no such pod."""
        try:
            state = self.call("PodSandboxStatus", pod_sandbox_id=pod).status.state
        except grpc.RpcError:
            return "gone"
        return "ready" if state == READY else "not ready"

    # -- containers

    def config(self, name: str, program: str | list[str], **more: Any) -> dict[str, Any]:
        """The configuration of a container that runs a script of the shell's, or a command line."""
        return {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": IMAGE},
            "command": ["sh", "-c", program] if isinstance(program, str) else program,
            "log_path": f"{name}.log",
            **more,
        }

    def create(self, pod: str, program: str | list[str], name: str = "c", **more: Any) -> str:
        """Create a container; its id."""
        config = self.config(name, program, **more)
        answer = self.call("CreateContainer", pod_sandbox_id=pod, config=config, sandbox_config=self._configs[pod])
        return str(answer.container_id)

    def run(self, pod: str, program: str | list[str] = "sleep 600", name: str = "c", **more: Any) -> str:
        """Create and start a container; its id."""
        made = self.create(pod, program, name, **more)
        self.call("StartContainer", container_id=made)
        return made

    def status(self, container: str) -> Any:
        """A container's ContainerStatus."""
        return self.call("ContainerStatus", container_id=container).status

    def state(self, container: str) -> str:
        """A container's state as a word; gone when there is no such container."""
        try:
            return {CREATED: "created", RUNNING: "running", EXITED: "exited"}.get(
                self.status(container).state, "unknown"
            )
        except grpc.RpcError:
            return "gone"

    def exited(self, container: str) -> Any:
        """The status once the container has ended, or what it is in the end."""
        self.until(lambda: self.status(container).state == EXITED)
        return self.status(container)

    def exec(self, container: str, program: str, timeout: int = 60) -> Any:
        """ExecSync of a script."""
        return self.call("ExecSync", container_id=container, cmd=["sh", "-c", program], timeout=timeout)

    def probe(self, container: str, probes: dict[str, str]) -> Observation:
        """What each of some scripts prints in a container, without space around it; `NAME?` is the status."""
        seen: Observation = {}
        for name, program in probes.items():
            done = self.exec(container, program)
            seen[name] = (done.stdout + done.stderr).decode(errors="replace").strip()
            seen[f"{name}?"] = str(done.exit_code)
        return seen

    def refused(self, method: str, /, **fields: Any) -> str:
        """The code of what a call is refused with, OK when it is not refused."""
        try:
            self.call(method, **fields)
        except grpc.RpcError as error:
            self.errors.append(str(error.details()))
            return str(error.code().name)
        return "OK"

    def attempt(self, what: Callable[[], object]) -> str:
        """The same of a function that calls."""
        try:
            what()
        except grpc.RpcError as error:
            self.errors.append(str(error.details()))
            return str(error.code().name)
        return "OK"

    def log(self, name: str = "c", pod: str = "p") -> str:
        """A container's log as it is in the file."""
        path = self.folder / f"logs-{pod}" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def log_with(self, pattern: str, name: str = "c", pod: str = "p") -> str:
        """The same once it has the pattern, or what there is in the end."""
        self.until(lambda: re.search(pattern, self.log(name, pod), re.MULTILINE) is not None)
        return self.log(name, pod)

    # -- the host

    def until(self, condition: Callable[[], bool], limit: float = PATIENCE) -> bool:
        """Wait for a condition; whether it came."""
        deadline = time.monotonic() + limit
        while not (true := condition()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return true

    def mount(self, *words: str) -> None:
        """mount(8) in containerd's mount namespace; the last word is the place."""
        subprocess.run(["mkdir", "-p", words[-1]], check=True)
        enter = ["nsenter", "-t", str(self.stage.daemon.pid), "-m", "mount", *words]
        subprocess.run(enter, check=True, capture_output=True)
        self._mounts.append(words[-1])

    def close(self) -> None:
        """Stop and remove the pods."""
        for pod in self._pods:
            for method in ("StopPodSandbox", "RemovePodSandbox"):
                try:
                    self.call(method, pod_sandbox_id=pod, deadline=60)
                except grpc.RpcError as error:
                    print(f"    {method}: {error.details()}", file=sys.stderr)
        for place in reversed(self._mounts):
            enter = ["nsenter", "-t", str(self.stage.daemon.pid), "-m", "umount", "-l", place]
            subprocess.run(enter, capture_output=True)
