"""config-linux.md, Control groups: limits as the program meets them, and update."""

from __future__ import annotations

import json

from tests.conformance.oci.box import Box, scene
from tests.conformance.suite import Observation, case, equal, failed, matches, succeeded

MIB = 1 << 20
GROUP = "cat /sys/fs/cgroup/"


@scene(
    case("config-linux/cgroups/memory-limit", "memory.limit is the group's", equal("memory.max", str(96 * MIB))),
    case(
        "config-linux/cgroups/memory-swap",
        "memory.swap less the limit is the group's limit of swap",
        equal("memory.swap.max", str(32 * MIB)),
    ),
    case(
        "config-linux/cgroups/memory-reservation",
        "memory.reservation is the group's low limit",
        equal("memory.low", str(64 * MIB)),
    ),
    case("config-linux/cgroups/cpu-quota", "cpu.quota and cpu.period are the group's", equal("cpu.max", "72000 80000")),
    case("config-linux/cgroups/cpu-shares", "cpu.shares is the group's weight", matches("cpu.weight", r"^\d+$")),
    case("config-linux/cgroups/pids-limit", "pids.limit is the group's", equal("pids.max", "77")),
    case("config-linux/cgroups/unified", "unified sets files of the group", equal("memory.high", str(80 * MIB))),
    case(
        "config-linux/cgroups/readonly",
        "a cgroup mount with ro cannot be written",
        matches("write", "Read-only file system"),
    ),
    case(
        "config-linux/cgroups/mount", "a cgroup mount shows the container's group", matches("procs", r"(^|\n)1(\n|$)")
    ),
    case("command/update/memory", "update --memory changes the limit", equal("memory-after", str(80 * MIB))),
    case("command/update/pids", "update --pids-limit changes the limit", equal("pids-after", "55")),
    case("command/update/cpu", "update --cpu-quota changes the limit", equal("cpu-after", "60000 80000")),
    case(
        "command/update/resources",
        "update --resources FILE takes the resources of the specification",
        equal("pids-last", "44"),
    ),
    case("command/update/unknown", "update of a container that is not there is an error", failed("update-unknown")),
    third=True,
)
def cgroup_limits(box: Box) -> Observation:
    box.start(
        "sleep 600",
        {
            "linux.resources.memory": {"limit": 96 * MIB, "swap": 128 * MIB, "reservation": 64 * MIB},
            "linux.resources.cpu": {"quota": 72000, "period": 80000, "shares": 512},
            "linux.resources.pids": {"limit": 77},
            "linux.resources.unified": {"memory.high": str(80 * MIB)},
        },
    )
    names = ("memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.weight", "pids.max", "memory.high")
    probes = {name: GROUP + name for name in names}
    probes |= {"write": "mkdir /sys/fs/cgroup/new", "procs": GROUP + "cgroup.procs"}
    seen = box.exec(probes)
    options = ("--memory", str(80 * MIB), "--pids-limit", "55", "--cpu-quota", "60000", "--cpu-period", "80000")
    box.call("update", *options, box.id())
    after = box.exec({"memory": GROUP + "memory.max", "pids": GROUP + "pids.max", "cpu": GROUP + "cpu.max"})
    seen |= {f"{name}-after": after.get(name, "") for name in ("memory", "pids", "cpu")}
    (box.folder / "resources").write_text(json.dumps({"pids": {"limit": 44}}))
    box.call("update", "--resources", str(box.folder / "resources"), box.id())
    seen["pids-last"] = box.exec({"pids": GROUP + "pids.max"}).get("pids", "")
    seen["update-unknown"] = box.call("update", "--pids-limit", "5", "not-there").status
    return seen


@scene(
    case("config-linux/cgroups/memory-enforced", "a program that takes more memory is killed", equal("status", "137")),
)
def cgroup_memory(box: Box) -> Observation:
    changes = {"linux.resources.memory": {"limit": 24 * MIB, "swap": 24 * MIB}}
    return {"status": box.run(["tail", "/dev/zero"], changes).status}


@scene(
    case(
        "config-linux/cgroups/pids-enforced",
        "more processes than pids.limit cannot be made",
        matches("fork", "Resource temporarily|[Cc]an't fork"),
    ),
    case("config-linux/cgroups/cpuset", "cpu.cpus limits the CPUs", equal("cpus", "0")),
)
def cgroup_pids(box: Box) -> Observation:
    return box.probe(
        {
            "cpus": "grep Cpus_allowed_list /proc/self/status | cut -f2",
            "fork": "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5 & done; wait",
        },
        {"linux.resources.pids": {"limit": 6}, "linux.resources.cpu": {"cpus": "0"}},
    )


@scene(
    case(
        "config-linux/cgroups/cgroups-path",
        "cgroupsPath names the group on the host, and delete removes it",
        equal("there", "True"),
        equal("gone", "True"),
    ),
)
def cgroup_path(box: Box) -> Observation:
    from pathlib import Path

    group = Path("/sys/fs/cgroup") / f"conformance-{box.stage.runtime}" / "inner"
    box.start("sleep 600", {"linux.cgroupsPath": f"/conformance-{box.stage.runtime}/inner"})
    seen = {"there": str(group.exists())}
    box.call("delete", "--force", box.id())
    box.until(lambda: not group.exists())
    seen["gone"] = str(not group.exists())
    return seen


@scene(
    case("config-linux/cgroups/invalid-limit", "a limit that is no number is an error", failed("word")),
    case("config-linux/cgroups/invalid-cpus", "cpus that are none are an error", failed("cpus")),
    case("config-linux/cgroups/unified-unknown", "a file of unified that is not there is an error", failed("unified")),
)
def cgroup_invalid(box: Box) -> Observation:
    return {
        "word": box.run("true", {"linux.resources.memory": {"limit": "much"}}).status,
        "cpus": box.run("true", {"linux.resources.cpu": {"cpus": "nonsense"}}).status,
        "unified": box.run("true", {"linux.resources.unified": {"memory.nosuch": "1"}}).status,
    }


@scene(
    case(
        "command/events/stats",
        "events --stats prints figures of the container",
        succeeded("stats"),
        equal("is-json", "True"),
    ),
)
def cgroup_stats(box: Box) -> Observation:
    box.start("sleep 600")
    done = box.call("events", "--stats", box.id())
    try:
        found = json.loads(done.out)
    except ValueError:
        found = {}
    return {"stats": done.status, "is-json": str(found.get("data", {}).get("pids", {}).get("current", 0) > 0)}
