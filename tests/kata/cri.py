"""Kubernetes' container runtime interface of a containerd, called as kubelet does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.kata.containerd import IMAGE

HERE = Path(__file__).resolve().parent
PATIENCE = 240.0
SERVICE = "runtime.v1.RuntimeService"


def section(folder: Path, handler: str, runtime: str, annotations: str = "") -> str:
    """The CRI plugin's part of containerd's configuration: one runtime, a bridge, and no need of a network.

    :param annotations: which ones of pods reach the runtime
    """
    conf = folder / "cni"
    conf.mkdir()
    subnet = "10.88.7.0/24"
    bridge = {
        "type": "bridge",
        "bridge": "pyvmmbr0",
        "isGateway": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(folder / "ipam"),
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    listed = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}
    (conf / "10-bridge.conflist").write_text(json.dumps(listed))
    return f"""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "{handler}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{handler}]
    runtime_type = "{runtime}"
    pod_annotations = ["{annotations}"]
"""


class Cri:
    """A client. Every method is a call of the interface; grpc.RpcError says what was refused."""

    def __init__(self, address: str, work: Path) -> None:
        from grpc_tools import protoc

        output = work / "cri.binpb"
        assert protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={output}", "cri.proto"]) == 0
        self._pool = descriptor_pool.DescriptorPool()
        for one in descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes()).file:
            self._pool.Add(one)
        self._channel = grpc.insecure_channel(f"unix://{address}")

    def call(self, method: str, **fields: Any) -> Any:
        """Call a method with the fields of its request; the response."""
        found = self._pool.FindServiceByName(SERVICE).methods_by_name[method]
        request = message_factory.GetMessageClass(found.input_type)
        response = message_factory.GetMessageClass(found.output_type)
        stub = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return stub(request(**fields), timeout=PATIENCE)

    def is_ready(self) -> bool:
        """Whether containerd has found again what it has, and answers."""
        try:
            self.call("PodSandboxStatus", pod_sandbox_id="none")
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.NOT_FOUND)
        return False

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


POD, CONTAINER = 0, 1


class CriPod:
    """A pod with containers of the test's image."""

    def __init__(
        self, cri: Cri, handler: str, name: str, logs: Path, *, privileged: bool = False, **annotations: str
    ) -> None:
        self._cri = cri
        self._config = {
            "metadata": {"name": name, "uid": name, "namespace": "test"},
            "hostname": name,
            "log_directory": str(logs),
            "annotations": annotations,
            "dns_config": {"servers": ["192.0.2.53"]},
            "linux": {"cgroup_parent": f"/pods/of-{name}", "security_context": {"privileged": privileged}},
        }
        answer = cri.call("RunPodSandbox", config=self._config, runtime_handler=handler)
        self.id = str(answer.pod_sandbox_id)
        self.containers: dict[str, str] = {}

    def use(self, cri: Cri) -> None:
        """Call another client: containerd was started again."""
        self._cri = cri

    def run(
        self,
        name: str,
        *program: str,
        mounts: tuple[dict[str, object], ...] = (),
        pid: int = CONTAINER,
        **security: bool,
    ) -> str:
        """Start a container; its id.

        :param pid: whose processes it sees: POD or CONTAINER
        """
        context = {**security, "namespace_options": {"pid": pid}}
        config = {
            "metadata": {"name": name},
            "image": {"image": IMAGE},
            "command": list(program),
            "mounts": list(mounts),
            "log_path": f"{name}.log",
            "linux": {"security_context": context},
        }
        made = self._cri.call(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self._config
        ).container_id
        self.containers[name] = str(made)
        self._cri.call("StartContainer", container_id=made)
        return str(made)

    def exec(self, name: str, *program: str) -> tuple[str, int]:
        """What a program printed in a container, and its exit status."""
        done = self._cri.call("ExecSync", container_id=self.containers[name], cmd=list(program), timeout=120)
        return done.stdout.decode() + done.stderr.decode(), done.exit_code

    def status(self, name: str) -> Any:
        """A container's ContainerStatus."""
        return self._cri.call("ContainerStatus", container_id=self.containers[name]).status

    def update(self, name: str, **resources: int) -> None:
        """Give a container other limits: fields of LinuxContainerResources."""
        self._cri.call("UpdateContainerResources", container_id=self.containers[name], linux=resources)

    @property
    def address(self) -> str:
        """The pod's IP address."""
        return str(self._cri.call("PodSandboxStatus", pod_sandbox_id=self.id).status.network.ip)

    def reopen_log(self, name: str) -> None:
        """Have a container's log written to a new file: the kubelet has renamed the old one."""
        self._cri.call("ReopenContainerLog", container_id=self.containers[name])

    def stop_container(self, name: str) -> None:
        """End a container with SIGKILL."""
        self._cri.call("StopContainer", container_id=self.containers[name], timeout=0)

    def remove(self) -> None:
        """End all of it, and remove it."""
        self._cri.call("StopPodSandbox", pod_sandbox_id=self.id)
        for container in self.containers.values():
            self._cri.call("RemoveContainer", container_id=container)
        self._cri.call("RemovePodSandbox", pod_sandbox_id=self.id)
