"""Claims of agent-sandbox, with the project's own client and a fake Kubernetes API."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kmock")
pytest.importorskip("lightkube")
agents = pytest.importorskip("k8s_agent_sandbox")

from k8s_agent_sandbox.exceptions import (  # noqa: E402
    SandboxClaimFailedError,
    SandboxRequestError,
    SandboxTemplateNotFoundError,
    SandboxWarmPoolNotFoundError,
)
from k8s_agent_sandbox.models import SandboxDirectConnectionConfig  # noqa: E402

from pyvmm_server.kubernetes import blueprint, objects  # noqa: E402
from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces  # noqa: E402
from tests.server.conftest import Server  # noqa: E402
from tests.server.kubernetes_cluster import Cluster  # noqa: E402

pytestmark = needs_namespaces


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that serves the claims of the cluster."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("PYVMM_NODE_NAME", "node-a")
    (tmp_path / "a").mkdir()
    server = Server(tmp_path / "a")
    server.start("--engine", "kubernetes")
    try:
        yield server
        for kind in ("sandboxclaims", "sandboxwarmpools", "sandboxes"):
            for each in cluster.all(kind):
                cluster.delete(kind, each["metadata"]["name"])
        eventually(lambda: cluster.all("sandboxes") == [], "a Sandbox is left")
        server.end()
    finally:
        if server.process is not None:
            server.process.kill()
            server.process.wait()
        server.kernels.cleanup()


def client(cluster: Cluster, server: Server, **options: Any) -> Any:
    where = SandboxDirectConnectionConfig(api_url=server.url, **options)
    return agents.SandboxClient(connection_config=where, api_client=cluster.client)


def test_a_claim_is_served(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0, container={"env": [{"name": "COLOUR", "value": "red"}]})
    sandboxes = client(cluster, node)
    box = sandboxes.create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    assert box.status() == ("SandboxReady", "the sandbox is running")
    result = box.commands.run("echo $COLOUR; echo oh >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("red\n", "oh\n", 3)
    box.files.write("folder/note", "hello")
    assert box.files.read("folder/note") == b"hello"
    assert box.commands.run("cat folder/note").stdout == "hello"
    sandboxes.delete_sandbox(box.claim_name)
    eventually(
        lambda: cluster.all("sandboxclaims") == [] and node.machines == set(), "the claim or its machine is left"
    )


def test_a_claim_adopts_a_warm_sandbox(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 1)
    eventually(
        lambda: (cluster.get("sandboxwarmpools", "python") or {}).get("status", {}).get("readyReplicas") == 1, ""
    )
    (warm,) = cluster.all("sandboxes")
    (machine,) = node.machines
    box = client(cluster, node).create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    assert box.sandbox_id == warm["metadata"]["name"] != box.claim_name
    assert machine in node.machines
    eventually(lambda: len(node.machines) == 2, "the pool is not filled again")
    cluster.patch("sandboxwarmpools", "python", {"spec": {"replicas": 0}})
    eventually(lambda: node.machines == {machine}, "the pool does not shrink, or a claim's sandbox is ended")
    assert box.commands.run("echo still").stdout == "still\n"


def test_the_reason_of_a_failure_reaches_the_client(cluster: Cluster, node: Server) -> None:
    sandboxes = client(cluster, node)
    with pytest.raises(SandboxWarmPoolNotFoundError, match="nothing"):
        sandboxes.create_sandbox("nothing", sandbox_ready_timeout=PATIENCE)
    cluster.create("sandboxwarmpools", "bare", {"replicas": 0, "sandboxTemplateRef": {"name": "gone"}})
    with pytest.raises(SandboxTemplateNotFoundError, match="gone"):
        sandboxes.create_sandbox("bare", sandbox_ready_timeout=PATIENCE)
    cluster.create_pool("unknown", 0, image="not-here:1")
    with pytest.raises(SandboxClaimFailedError, match=r"InvalidConfiguration: .*not-here:1"):
        sandboxes.create_sandbox("unknown", sandbox_ready_timeout=PATIENCE)
    cluster.create_pool("volumes", 0, pod={"volumes": [{"name": "data", "emptyDir": {}}]})
    with pytest.raises(SandboxClaimFailedError, match="volumes: not available"):
        sandboxes.create_sandbox("volumes", sandbox_ready_timeout=PATIENCE)
    cluster.create_pool("closed", 0)
    with pytest.raises(SandboxClaimFailedError, match="EnvVarsInjectionRejected"):
        sandboxes.create_sandbox("closed", env={"A": "b"}, sandbox_ready_timeout=PATIENCE)
    eventually(lambda: cluster.all("sandboxclaims") == [], "the client's claims are left")


def test_malformed_objects_stop_no_others(cluster: Cluster, node: Server) -> None:
    """The schema says nothing about pods."""
    cluster.create("sandboxes", "bad", {"podTemplate": {"spec": {"containers": ["no object"]}}})
    cluster.patch("sandboxes", "bad", {"metadata": {"annotations": {objects.NODE: "node-a"}}})
    cluster.create_pool("volumes", 1000, pod={"volumes": [{"name": "data", "emptyDir": {}}]})
    cluster.create_pool("python", 0)
    box = client(cluster, node).create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    assert box.commands.run("echo here").stdout == "here\n"
    eventually(lambda: cluster.ready("sandboxes", "bad") == ("False", "InvalidConfiguration"), "it has no reason")
    names = {each["metadata"]["name"] for each in cluster.all("sandboxes")}
    assert len(names - {"bad", box.sandbox_id}) == 1  # of those that cannot be started, one has the reason


@pytest.mark.parametrize(
    "container",
    [
        "text",
        {"image": 1},
        {"image": "a", "resources": {"limits": {"memory": "-64Gi"}}},
        {"image": "a", "resources": {"limits": {"memory": "1e18Ei"}}},
        {"image": "a", "resources": {"limits": {"cpu": "many"}}},
        {"image": "a", "resources": ["limits"]},
        {"image": "a", "env": [{"value": "1"}]},
        {"image": "a", "env": "A=1"},
    ],
)
def test_a_pod_that_no_sandbox_can_be_is_invalid(container: object) -> None:
    with pytest.raises(blueprint.Invalid):
        blueprint.read({"podTemplate": {"spec": {"containers": [container]}}})


def test_pages_of_others_reach_no_sandbox(cluster: Cluster, node: Server) -> None:
    """Where any key is accepted, a page whose name leads here by DNS could run commands."""
    headers = {"Host": "evil.example", "X-Sandbox-ID": "python"}
    assert node.http("POST", "/execute", headers=headers, json={"command": "true"}).status_code == 421


def test_variables_of_a_claim(cluster: Cluster, node: Server) -> None:
    env = [{"name": "COLOUR", "value": "red"}]
    cluster.create_pool("python", 1, container={"env": env}, envVarsInjectionPolicy="Overrides")
    eventually(lambda: len(node.machines) == 1, "the pool is empty")
    box = client(cluster, node).create_sandbox("python", env={"COLOUR": "blue"}, sandbox_ready_timeout=PATIENCE)
    assert box.sandbox_id == box.claim_name  # a warm one would not have the variable
    assert box.commands.run("echo $COLOUR").stdout == "blue\n"


def test_files(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0)
    box = client(cluster, node).create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    content = bytes(range(256)) * 1024
    box.files.write("large", io.BytesIO(content))
    copy = io.BytesIO()
    assert box.files.read_to("large", copy) == len(content)
    assert copy.getvalue() == content
    box.commands.run("mkdir -p folder")
    listed = {each.name: (each.type, each.size) for each in box.files.list("")}
    assert listed["large"] == ("file", len(content))
    assert listed["folder"][0] == "directory"
    assert box.files.exists("folder") and not box.files.exists("nothing")
    with pytest.raises(SandboxRequestError) as found:
        box.files.read("nothing")
    assert found.value.status_code == 404


def test_a_command_has_an_end(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0)
    box = client(cluster, node).create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    result = box.commands.run("echo before; sleep 1000", command_timeout=1, timeout=PATIENCE)
    assert (result.stdout, result.exit_code, result.timed_out) == ("before\n", 124, True)
    body = b'{"command": "echo on", "timeout_seconds": 1%s}' % (b"0" * 400)  # more than a float can be
    found = node.http("POST", "/execute", headers={"X-Sandbox-ID": box.sandbox_id}, content=body)
    assert (found.status_code, found.json()["stdout"]) == (200, "on\n")


def test_a_claim_expires(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0)
    sandboxes = client(cluster, node)
    box = sandboxes.create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    spec = {"lifecycle": {"shutdownTime": "2020-01-01T00:00:00Z", "shutdownPolicy": "Retain"}}
    cluster.patch("sandboxclaims", box.claim_name, {"spec": spec})
    eventually(lambda: node.machines == set(), "the machine is left")
    eventually(lambda: cluster.ready("sandboxclaims", box.claim_name) == ("False", "ClaimExpired"), "it has no reason")
    deleted = sandboxes.create_sandbox("python", sandbox_ready_timeout=PATIENCE, shutdown_after_seconds=3600)
    spec["lifecycle"]["shutdownPolicy"] = "Delete"
    cluster.patch("sandboxclaims", deleted.claim_name, {"spec": spec})
    eventually(lambda: cluster.get("sandboxclaims", deleted.claim_name) is None, "the claim is left")


def test_a_sandbox_is_suspended(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0)
    box = client(cluster, node).create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    box.files.write("kept", "here")
    cluster.patch("sandboxes", box.sandbox_id, {"spec": {"operatingMode": "Suspended"}})
    eventually(lambda: cluster.ready("sandboxes", box.sandbox_id) == ("False", "SandboxSuspended"), "it runs")
    with pytest.raises(SandboxRequestError) as found:
        box.commands.run("true")
    assert found.value.status_code == 503
    cluster.patch("sandboxes", box.sandbox_id, {"spec": {"operatingMode": "Running"}})
    eventually(lambda: cluster.ready("sandboxes", box.sandbox_id)[0] == "True", "it is not resumed")
    assert box.files.read("kept") == b"here"


def test_a_restarted_server_finds_its_sandboxes(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0)
    sandboxes = client(cluster, node)
    box = sandboxes.create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    other = sandboxes.create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    before = node.machines
    node.stop()
    cluster.delete("sandboxclaims", other.claim_name)
    node.start()
    assert box.commands.run("echo here").stdout == "here\n"
    eventually(lambda: len(node.machines) == 1, "what was deleted meanwhile is left")
    assert node.machines < before


def test_a_machine_that_ends_by_itself_is_reported(cluster: Cluster, node: Server) -> None:
    cluster.create_pool("python", 0)
    box = client(cluster, node).create_sandbox("python", sandbox_ready_timeout=PATIENCE)
    (machine,) = node.machines
    assert node.http("DELETE", f"/sandboxes/{machine}").status_code == 404  # no key has it
    from pyvmm_sandbox import Sandbox

    Sandbox.connect(f"e2b-{machine}", config=f"{node.place}/kata.toml", root=f"{node.place}/state").kill()
    eventually(lambda: cluster.ready("sandboxclaims", box.claim_name) == ("False", "PodFailed"), "nothing is reported")
    assert len(cluster.all("sandboxes")) == 1  # no empty one takes its place


@pytest.mark.long
def test_a_lost_node_and_one_that_goes_on(
    cluster: Cluster, node: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either node answers for both. What a node had is reported when it is lost; what it still has, when it is back."""
    (tmp_path / "b").mkdir()
    other = Server(tmp_path / "b")
    other.port, other.url = node.port, f"http://127.0.0.2:{node.port}"
    (tmp_path / "keys").write_text("e2b_0\ne2b_1\n")
    monkeypatch.setenv("PYVMM_NODE_NAME", "node-b")
    monkeypatch.setenv("PYVMM_POD_IP", "127.0.0.2")
    other.start("--engine", "kubernetes", "--host", "127.0.0.2", "--keys", str(tmp_path / "keys"))
    try:
        cluster.create_pool("python", 0)
        with pytest.raises(SandboxRequestError) as found:
            client(cluster, other).create_sandbox("python", sandbox_ready_timeout=PATIENCE).commands.run("true")
        assert found.value.status_code == 401
        sandboxes = client(cluster, node, extra_headers={"X-API-Key": "e2b_0"})
        boxes: dict[str, Any] = {}
        while len(boxes) < 2:  # each node is chosen at some time: the freer one is
            box = sandboxes.create_sandbox("python", sandbox_ready_timeout=PATIENCE)
            boxes[cluster.get("sandboxes", box.sandbox_id)["status"]["nodeName"]] = box  # type: ignore[index]
        assert boxes["node-b"].commands.run("echo here").stdout == "here\n"
        other.stop(signal.SIGKILL)
        name = boxes["node-b"].claim_name
        eventually(lambda: cluster.ready("sandboxclaims", name) == ("False", "NodeLost"), "nothing is reported")
        assert boxes["node-a"].commands.run("echo here").stdout == "here\n"
        other.start()
        eventually(lambda: cluster.ready("sandboxclaims", name)[0] == "True", "it is not found again")
        assert boxes["node-b"].commands.run("echo back").stdout == "back\n"
        for each in cluster.all("sandboxclaims"):
            cluster.delete("sandboxclaims", each["metadata"]["name"])
        eventually(lambda: cluster.all("sandboxes") == [], "a Sandbox is left")
        other.end()
    finally:
        if other.process is not None:
            other.process.kill()
            other.process.wait()
        other.kernels.cleanup()
