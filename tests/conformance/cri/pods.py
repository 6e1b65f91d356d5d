"""Pods: their life, their network, and what is refused."""

from __future__ import annotations

import subprocess
from typing import Any

from tests.conformance.cri.stage import BRIDGE, Box, scene
from tests.conformance.suite import Observation, case, equal, matches, refused, same


@scene(
    case("cri/runtime/version", "Version names the interface's version", equal("version", "v1")),
    case(
        "cri/runtime/status",
        "Status says that runtime and network are ready",
        matches("status", r"\bNetworkReady RuntimeReady$"),
    ),
    case("cri/pod/run", "RunPodSandbox gives a pod that is ready", equal("state", "ready")),
    case("cri/pod/metadata", "its status has the metadata", equal("metadata", "name uid test 0")),
    case(
        "cri/pod/labels", "its status has labels and annotations", equal("labels", "{'l': '1'} {'org.example.a': 'x'}")
    ),
    case("cri/pod/handler", "its status has the runtime's handler", same("handler", "runtime")),
    case("cri/pod/created-at", "its status has the time", equal("created", "True")),
    case("cri/pod/address", "it has an address", matches("address", r"^10\.99\.7\.\d+$")),
    case("cri/pod/list-id", "ListPodSandbox finds it by its id", equal("by-id", "1")),
    case("cri/pod/list-label", "and by a label", equal("by-label", "1")),
    case("cri/pod/list-state", "and by its state", equal("by-state", "1 0")),
    case("cri/pod/again", "another pod of that name is refused", equal("again", "UNKNOWN")),
    case("cri/pod/handler-unknown", "an unknown handler is refused", equal("no-handler", "UNKNOWN")),
    case("cri/pod/stop", "StopPodSandbox makes it not ready", equal("stopped", "not ready")),
    case("cri/pod/stop-again", "StopPodSandbox can be called again", equal("stop-again", "OK")),
    case("cri/pod/stopped-list", "a stopped pod is listed as not ready", equal("stopped-list", "1")),
    case(
        "cri/pod/create-in-stopped",
        "no container is created in a stopped pod",
        matches("create-in-stopped", "UNKNOWN|FAILED|NOT_FOUND"),
    ),
    case("cri/pod/remove", "RemovePodSandbox removes it", equal("removed", "gone")),
    case("cri/pod/remove-again", "RemovePodSandbox can be called again", equal("remove-again", "OK")),
    case("cri/pod/status-unknown", "the status of a pod that is not there is NOT_FOUND", equal("unknown", "NOT_FOUND")),
    case("cri/pod/stop-unknown", "StopPodSandbox of one that is not there succeeds", equal("stop-unknown", "OK")),
)
def pod_life(box: Box) -> Observation:
    call = box.call
    status = call("Status").status
    seen = {
        "version": call("Version").runtime_api_version,
        "status": " ".join(sorted(one.type for one in status.conditions if one.status)),
        "runtime": box.stage.runtime,
    }
    pod = box.pod(labels={"l": "1"}, annotations={"org.example.a": "x"})
    seen["state"] = box.pod_state(pod)
    status = call("PodSandboxStatus", pod_sandbox_id=pod).status
    words = [status.metadata.name, status.metadata.uid, status.metadata.namespace, str(status.metadata.attempt)]
    name = f"{box.name}-p"
    seen["metadata"] = " ".join(words).replace(name, "name", 1).replace(name, "uid", 1)
    seen["labels"] = f"{dict(status.labels)} {dict(status.annotations)}"
    seen["handler"] = status.runtime_handler
    seen["created"] = str(status.created_at > 0)
    seen["address"] = status.network.ip
    seen["by-id"] = str(len(call("ListPodSandbox", filter={"id": pod}).items))
    seen["by-label"] = str(len(call("ListPodSandbox", filter={"label_selector": {"l": "1"}}).items))
    by_state = [len(call("ListPodSandbox", filter={"id": pod, "state": {"state": number}}).items) for number in (0, 1)]
    seen["by-state"] = " ".join(map(str, by_state))
    config = box.pod_config()
    seen["again"] = box.refused("RunPodSandbox", config=config, runtime_handler=box.stage.runtime)
    seen["no-handler"] = box.refused("RunPodSandbox", config=box.pod_config("q"), runtime_handler="nosuch")
    call("StopPodSandbox", pod_sandbox_id=pod)
    seen["stopped"] = box.pod_state(pod)
    seen["stop-again"] = box.refused("StopPodSandbox", pod_sandbox_id=pod)
    seen["stopped-list"] = str(len(call("ListPodSandbox", filter={"id": pod, "state": {"state": 1}}).items))
    seen["create-in-stopped"] = box.attempt(lambda: box.run(pod))
    call("RemovePodSandbox", pod_sandbox_id=pod)
    seen["removed"] = box.pod_state(pod)
    seen["remove-again"] = box.refused("RemovePodSandbox", pod_sandbox_id=pod)
    seen["unknown"] = box.refused("PodSandboxStatus", pod_sandbox_id="not-there")
    seen["stop-unknown"] = box.refused("StopPodSandbox", pod_sandbox_id="not-there")
    return seen


def on_the_bridge() -> int:
    """How many interfaces there are on the pods' bridge."""
    done = subprocess.run(["ip", "-o", "link", "show", "master", BRIDGE], capture_output=True, text=True)
    return len(done.stdout.splitlines())


@scene(
    case("cri/pod/stop-ends-containers", "StopPodSandbox ends its containers", equal("ended", "exited exited")),
    case(
        "cri/pod/remove-running",
        "RemovePodSandbox removes a pod with containers that run",
        equal("removed", "gone gone"),
    ),
    case("cri/pod/two", "two pods at a time do not see each other's processes", equal("processes", "1")),
    case("cri/network/pod-to-pod", "a pod reaches another", equal("reached", "a page")),
    case("cri/network/host-to-pod", "the host reaches a pod", equal("from-host", "a page")),
    case("cri/network/same-in-pod", "containers of a pod share its network", equal("localhost", "a page")),
    case("cri/network/interface", "eth0 has the pod's address", same("eth0", "address")),
    case("cri/network/freed", "after StopPodSandbox nothing of it is on the bridge", equal("links", "0")),
)
def pods_and_networks(box: Box) -> Observation:
    before = on_the_bridge()
    first, second = box.pod("a"), box.pod("b")
    server = box.run(first, "echo a page >/tmp/index.html; exec httpd -f -p 8000 -h /tmp", "server")
    other = box.run(first, name="other")
    client = box.run(second, name="client")
    address = box.call("PodSandboxStatus", pod_sandbox_id=first).status.network.ip
    fetch = "i=0; until wget -q -T 5 -O - http://{}:8000/; do i=$((i+1)); [ $i -gt 20 ] && exit 1; sleep 0.3; done"
    seen = {"address": address}
    seen |= box.probe(other, {"localhost": fetch.format("127.0.0.1")})
    show = "ip -o -4 addr show eth0 | while read a b c d e; do echo ${d%/*}; done"
    seen |= box.probe(client, {"reached": fetch.format(address), "processes": "ps | grep -c '[s]leep 600'"})
    seen |= box.probe(other, {"eth0": show})
    done = subprocess.run(["busybox", "sh", "-c", fetch.format(address)], capture_output=True, text=True, timeout=60)
    seen["from-host"] = done.stdout.strip()
    box.call("StopPodSandbox", pod_sandbox_id=first)
    seen["ended"] = " ".join(box.state(one) for one in (server, other))
    box.call("RemovePodSandbox", pod_sandbox_id=second)
    seen["removed"] = f"{box.pod_state(second)} {box.state(client)}"
    seen["links"] = str(on_the_bridge() - before)
    return seen


@scene(
    case("cri/pod/hostname", "the pod's hostname is that of its containers", equal("hostname", "True")),
    case(
        "cri/pod/dns",
        "dns_config is /etc/resolv.conf",
        matches("resolv", "^search a.test\nnameserver 192.0.2.53\noptions ndots:3$"),
    ),
    case("cri/pod/sysctls", "sysctls of the pod are set", equal("sysctl", "77")),
    case("cri/pod/port-mapping", "a port of the host leads into the pod", equal("mapped", "a page")),
    case("cri/pod/shm", "/dev/shm is the pod's", equal("shm", "shared")),
)
def pod_settings(box: Box) -> Observation:
    pod = box.pod(
        dns_config={"servers": ["192.0.2.53"], "searches": ["a.test"], "options": ["ndots:3"]},
        port_mappings=[{"protocol": 0, "container_port": 8000, "host_port": 8090}],
        linux={"sysctls": {"net.ipv4.ip_default_ttl": "77"}},
    )
    one = box.run(pod, "echo a page >/tmp/index.html; echo shared >/dev/shm/x; exec httpd -f -p 8000 -h /tmp", "one")
    two = box.run(pod, name="two")
    seen = box.probe(
        one,
        {"hostname": "hostname", "resolv": "cat /etc/resolv.conf", "sysctl": "cat /proc/sys/net/ipv4/ip_default_ttl"},
    )
    seen["hostname"] = str(seen["hostname"] == f"{box.name}-p")
    seen |= box.probe(two, {"shm": "cat /dev/shm/x"})
    # By the host's address: what comes from localhost is masqueraded only where the kernel is told to route it
    fetch = (
        "i=0; until wget -q -T 5 -O - http://10.99.7.1:8090/; do i=$((i+1)); [ $i -gt 20 ] && exit 1; sleep 0.3; done"
    )
    done = subprocess.run(["busybox", "sh", "-c", fetch], capture_output=True, text=True, timeout=60)
    seen["mapped"] = done.stdout.strip()
    return seen


@scene(
    *(
        case(f"cri/errors/{name}", f"{words} is refused", refused(name))
        for name, words in (
            ("create-in-unknown-pod", "a container in a pod that is not there"),
            ("unknown-image", "a container of an image that is not there"),
            ("no-metadata", "a pod without metadata"),
            ("start-unknown", "StartContainer of a container that is not there"),
            ("exec-unknown", "ExecSync in one"),
            ("status-unknown", "ContainerStatus of one"),
            ("stats-unknown", "ContainerStats of one"),
            ("update-unknown", "UpdateContainerResources of one"),
            ("reopen-unknown", "ReopenContainerLog of one"),
            ("same-name", "a second container of a name and an attempt"),
            ("negative-user", "a user by a name that is not there"),
        )
    ),
    case(
        "cri/errors/stop-unknown",
        "StopContainer of a container that is not there succeeds",
        equal("stop-unknown", "OK"),
    ),
    case("cri/errors/remove-unknown", "RemoveContainer of one succeeds", equal("remove-unknown", "OK")),
    case("cri/errors/pod-lives", "the pod is ready after all that", equal("pod", "ready")),
    third=True,
)
def refusals(box: Box) -> Observation:
    pod = box.pod()
    none: dict[str, Any] = {"container_id": "not-there"}
    config = box.config("x", "true")
    seen = {
        "create-in-unknown-pod": box.refused(
            "CreateContainer", pod_sandbox_id="not-there", config=config, sandbox_config=box.pod_config()
        ),
        "unknown-image": box.attempt(lambda: box.create(pod, "true", "i", image={"image": "nosuch:latest"})),
        "no-metadata": box.refused("RunPodSandbox", config={}, runtime_handler=box.stage.runtime),
        "start-unknown": box.refused("StartContainer", **none),
        "exec-unknown": box.refused("ExecSync", cmd=["true"], **none),
        "status-unknown": box.refused("ContainerStatus", **none),
        "stats-unknown": box.refused("ContainerStats", **none),
        "update-unknown": box.refused("UpdateContainerResources", linux={"cpu_shares": 100}, **none),
        "reopen-unknown": box.refused("ReopenContainerLog", **none),
        "stop-unknown": box.attempt(lambda: box.call("StopContainer", **none)),
        "remove-unknown": box.refused("RemoveContainer", **none),
    }
    box.create(pod, "true", "same")
    seen["same-name"] = box.attempt(lambda: box.create(pod, "true", "same"))
    user = {"security_context": {"run_as_username": "nobody-of-that-name"}}
    seen["negative-user"] = box.attempt(lambda: box.run(pod, "true", "u", linux=user))
    seen["pod"] = box.pod_state(pod)
    return seen
