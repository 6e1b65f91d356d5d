"""A cluster for tests: the API, and the objects that an administrator makes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes

from tests.kata.oci_runtime import PATIENCE

EXTENSIONS, VERSION = "extensions.agents.x-k8s.io", "v1beta1"
GROUPS = {"sandboxes": "agents.x-k8s.io"}
KINDS = {
    "sandboxes": "Sandbox",
    "sandboxclaims": "SandboxClaim",
    "sandboxtemplates": "SandboxTemplate",
    "sandboxwarmpools": "SandboxWarmPool",
}
_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: test, user: {}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: pyvmm}}]
current-context: test
"""


class Cluster:
    """
    :ivar kubeconfig: a file that names the API server
    """

    def __init__(self, folder: Path) -> None:
        program = Path(__file__).with_name("kubernetes_api.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(_KUBECONFIG % port)
        configuration: Any = kubernetes.client.Configuration(host=f"http://127.0.0.1:{port}")
        self.client: Any = kubernetes.client.ApiClient(configuration)
        self._objects: Any = kubernetes.client.CustomObjectsApi(self.client)

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)

    def create(self, plural: str, name: str, spec: dict[str, Any]) -> None:
        body = {
            "apiVersion": f"{GROUPS.get(plural, EXTENSIONS)}/{VERSION}",
            "kind": KINDS[plural],
            "metadata": {"name": name},
            "spec": spec,
        }
        self._objects.create_namespaced_custom_object(*self._where(plural), body)

    def create_pool(self, name: str, replicas: int, **template: Any) -> None:
        """A pool with a template of the same name, whose image is the server's template ``base``."""
        containers = [{"name": "main", "image": template.pop("image", "base"), **template.pop("container", {})}]
        spec = {"podTemplate": {"spec": {"containers": containers, **template.pop("pod", {})}}, **template}
        self.create("sandboxtemplates", name, spec)
        self.create("sandboxwarmpools", name, {"replicas": replicas, "sandboxTemplateRef": {"name": name}})

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._objects.get_namespaced_custom_object(*self._where(plural), name)
        except kubernetes.client.exceptions.NotFoundException:
            return None
        return found

    def all(self, plural: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._objects.list_namespaced_custom_object(*self._where(plural))["items"]
        return found

    def patch(self, plural: str, name: str, change: dict[str, Any]) -> None:
        self._objects.patch_namespaced_custom_object(*self._where(plural), name, change)

    def delete(self, plural: str, name: str) -> None:
        """Begin its end, unless it has ended."""
        with contextlib.suppress(kubernetes.client.exceptions.NotFoundException):
            self._objects.delete_namespaced_custom_object(*self._where(plural), name)

    def ready(self, plural: str, name: str) -> tuple[str, str]:
        """The status and the reason of the condition Ready; empty: there is none."""
        status = (self.get(plural, name) or {}).get("status") or {}
        for each in status.get("conditions", []):
            if each["type"] == "Ready":
                return each["status"], each["reason"]
        return "", ""

    @staticmethod
    def _where(plural: str) -> tuple[str, str, str, str]:
        return GROUPS.get(plural, EXTENSIONS), VERSION, "default", plural
