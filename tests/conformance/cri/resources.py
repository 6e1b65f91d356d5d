"""Limits, changes of them, and figures."""

from __future__ import annotations

from tests.conformance.cri.stage import Box, scene
from tests.conformance.suite import Observation, case, equal, matches

MIB = 1 << 20
GROUP = "cat /sys/fs/cgroup/"


@scene(
    case("cri/resources/memory", "memory_limit_in_bytes is the group's limit", equal("memory.max", str(96 * MIB))),
    case("cri/resources/swap", "memory_swap_limit_in_bytes is the group's", equal("memory.swap.max", "0")),
    case("cri/resources/cpu-quota", "cpu_quota and cpu_period are the group's", equal("cpu.max", "72000 80000")),
    case("cri/resources/cpu-shares", "cpu_shares are the group's weight", equal("cpu.weight", "20")),
    case("cri/resources/cpuset", "cpuset_cpus limits the CPUs", equal("cpus", "0")),
    case("cri/resources/oom-score-adj", "oom_score_adj is the program's", equal("oom", "321")),
    case("cri/resources/unified", "unified sets files of the group", equal("memory.high", str(80 * MIB))),
    case("cri/resources/status", "ContainerStatus says the resources", equal("status", str(96 * MIB))),
    case("cri/resources/update", "UpdateContainerResources changes the limit", equal("updated", str(80 * MIB))),
    case("cri/resources/update-cpu", "and the quota", equal("updated-cpu", "60000 80000")),
    case("cri/resources/update-status", "ContainerStatus says the new ones", equal("updated-status", str(80 * MIB))),
    case("cri/resources/oom", "a program that takes more memory is OOMKilled", equal("oom-killed", "137 OOMKilled")),
    case("cri/resources/pod-lives", "the pod lives on", equal("pod", "ready")),
    case("cri/resources/exec-after", "and its other container", equal("alive", "alive")),
)
def limits(box: Box) -> Observation:
    pod = box.pod()
    resources = {
        "memory_limit_in_bytes": 96 * MIB,
        "memory_swap_limit_in_bytes": 96 * MIB,
        "cpu_quota": 72000,
        "cpu_period": 80000,
        "cpu_shares": 512,
        "cpuset_cpus": "0",
        "oom_score_adj": 321,
        "unified": {"memory.high": str(80 * MIB)},
    }
    program = "cat /proc/self/oom_score_adj; sleep 600"
    made = box.run(pod, program, linux={"resources": resources})
    names = ("memory.max", "memory.swap.max", "cpu.max", "cpu.weight", "memory.high")
    probes = {name: GROUP + name for name in names}
    probes |= {
        "cpus": "grep Cpus_allowed_list /proc/self/status | { read a b; echo $b; }",
    }
    seen = box.probe(made, probes)
    seen["oom"] = box.log_with("stdout F").split(" ")[-1].strip()
    seen["status"] = str(box.status(made).resources.linux.memory_limit_in_bytes)
    changed = {"memory_limit_in_bytes": 80 * MIB, "cpu_quota": 60000, "cpu_period": 80000}
    seen["update"] = box.refused("UpdateContainerResources", container_id=made, linux=changed)
    updated = box.probe(made, {"updated": f"{GROUP}memory.max", "updated-cpu": f"{GROUP}cpu.max"})
    seen |= updated
    seen["updated-status"] = str(box.status(made).resources.linux.memory_limit_in_bytes)
    small = {"memory_limit_in_bytes": 24 * MIB, "memory_swap_limit_in_bytes": 24 * MIB}
    hog = box.run(pod, ["dd", "if=/dev/zero", "of=/dev/null", "bs=100M"], "hog", linux={"resources": small})
    status = box.exited(hog)
    seen["oom-killed"] = f"{status.exit_code} {status.reason}"
    seen["pod"] = box.pod_state(pod)
    seen |= box.probe(made, {"alive": "echo alive"})
    return seen


@scene(
    case("cri/stats/memory", "ContainerStats has memory", equal("memory", "True")),
    case("cri/stats/cpu", "and CPU time, which grows", equal("cpu", "True")),
    case("cri/stats/attributes", "and the container's name and labels", equal("attributes", "c {'l': '1'}")),
    case("cri/stats/writable-layer", "and what it has written", equal("layer", "True")),
    case("cri/stats/list", "ListContainerStats finds it by id, pod and label", equal("list", "1 1 1")),
    case("cri/stats/pod", "PodSandboxStats has memory, processes and network", equal("pod", "True True True")),
    case("cri/stats/pod-list", "ListPodSandboxStats finds the pod", equal("pod-list", "1")),
    case("cri/stats/image-fs", "ImageFsInfo has a file system", matches("image-fs", "[1-9]")),
)
def stats(box: Box) -> Observation:
    pod = box.pod(labels={"pod": "stats"})
    made = box.run(pod, "echo x >/written; while :; do :; done", labels={"l": "1"})

    def figures() -> int:
        return int(box.call("ContainerStats", container_id=made).stats.cpu.usage_core_nano_seconds.value)

    box.until(lambda: figures() > 0)
    first = figures()
    box.until(lambda: figures() > first)
    found = box.call("ContainerStats", container_id=made).stats
    seen = {"cpu": str(found.cpu.usage_core_nano_seconds.value > first)}
    seen["memory"] = str(found.memory.working_set_bytes.value > 0)
    seen["attributes"] = f"{found.attributes.metadata.name} {dict(found.attributes.labels)}"
    # It is looked at every ten seconds
    box.until(lambda: box.call("ContainerStats", container_id=made).stats.writable_layer.used_bytes.value > 0)
    seen["layer"] = str(box.call("ContainerStats", container_id=made).stats.writable_layer.used_bytes.value > 0)
    filters = ({"id": made}, {"pod_sandbox_id": pod}, {"label_selector": {"l": "1"}})
    seen["list"] = " ".join(str(len(box.call("ListContainerStats", filter=one).stats)) for one in filters)
    linux = box.call("PodSandboxStats", pod_sandbox_id=pod).stats.linux
    parts = (
        linux.memory.working_set_bytes.value,
        linux.process.process_count.value,
        linux.network.default_interface.name,
    )
    seen["pod"] = " ".join(str(bool(part)) for part in parts)
    seen["pod-list"] = str(len(box.call("ListPodSandboxStats", filter={"label_selector": {"pod": "stats"}}).stats))
    seen["image-fs"] = str(len(box.call("ImageFsInfo", service="ImageService").image_filesystems))
    return seen
