"""config-linux.md, Namespaces, User and Time namespaces, Sysctl."""

from __future__ import annotations

import os
from typing import Any

from tests.conformance.oci.box import DROP, Box, scene
from tests.conformance.suite import Observation, case, equal, failed, matches, same, succeeded

KINDS = ("pid", "network", "ipc", "uts", "mount", "cgroup")


def others(*without: str) -> list[dict[str, Any]]:
    """New namespaces of all kinds but these."""
    return [{"type": kind} for kind in KINDS if kind not in without]


@scene(
    case("config-linux/namespaces/pid", "in a new PID namespace the program is process 1", equal("pid", "1")),
    case(
        "config-linux/namespaces/pid-processes",
        "in a new PID namespace no process of others is seen",
        matches("processes", "^[1-5]$"),
    ),
    case("config-linux/namespaces/network", "a new network namespace has lo alone", equal("links", "lo")),
    case("config-linux/namespaces/network-lo-up", "lo is up", matches("lo", "LOOPBACK,UP")),
    case("config-linux/namespaces/uts", "setting the name of the host is inside only", same("host", "host-before")),
    case("config-linux/namespaces/ipc", "in a new IPC namespace no segments of others are seen", equal("ipc", "1")),
    case(
        "config-linux/namespaces/mount",
        "a new mount namespace has the mounts of the container alone",
        equal("root-mounts", "1"),
    ),
    case(
        "config-linux/namespaces/cgroup", "in a new cgroup namespace the own group is the root", equal("cgroup", "0::/")
    ),
    case("config-linux/sysctl/net", "a sysctl of the network is set", equal("net", "5\t7")),
    case("config-linux/sysctl/ipc", "a sysctl of the IPC namespace is set", equal("msgmax", "4321")),
    third=True,
)
def new_namespaces(box: Box) -> Observation:
    before = os.uname().nodename
    seen = box.probe(
        {
            "pid": "exec sh -c 'echo $PPID' | cat >/dev/null; cut -d' ' -f1 /proc/1/stat",
            "processes": "ls -d /proc/[0-9]* | wc -l",
            "links": "ls /sys/class/net | grep -v -e sit -e tun -e gre -e erspan -e ip_vti -e ip6_vti",
            "lo": "ip link show lo",
            "ipc": "wc -l </proc/sysvipc/shm",
            "root-mounts": "awk '$5 == \"/\"' /proc/self/mountinfo | wc -l",
            "cgroup": "cat /proc/self/cgroup",
            "net": "cat /proc/sys/net/ipv4/ping_group_range",
            "msgmax": "cat /proc/sys/kernel/msgmax",
        },
        {
            "hostname": "inside",
            "linux.sysctl": {
                "net.ipv4.ping_group_range": "5 7",
                "kernel.msgmax": "4321",
            },
        },
    )
    seen |= {"host-before": before, "host": os.uname().nodename}
    return seen


@scene(case("config-linux/sysctl/slash", "a sysctl may be named with slashes", equal("forward", "1")))
def sysctl_with_slashes(box: Box) -> Observation:
    return box.probe({"forward": "cat /proc/sys/net/ipv4/ip_forward"}, {"linux.sysctl": {"net/ipv4/ip_forward": "1"}})


@scene(case("config-linux/sysctl/of-the-host", "a sysctl of no namespace is an error", failed()))
def sysctl_of_the_host(box: Box) -> Observation:
    return {"status": box.run("true", {"linux.sysctl": {"kernel.panic": "7"}}).status}


@scene(case("config-linux/sysctl/unknown", "a sysctl that is not there is an error", failed()))
def sysctl_unknown(box: Box) -> Observation:
    return {"status": box.run("true", {"linux.sysctl": {"net.ipv4.not_there": "7"}}).status}


@scene(
    case("config-linux/namespaces/duplicate", "two namespaces of a type are an error", failed("duplicate")),
    case("config-linux/namespaces/unknown", "a type that is none is an error", failed("unknown")),
    case("config-linux/namespaces/path-missing", "a path that is not there is an error", failed("missing")),
    case("config-linux/namespaces/path-wrong-type", "a path of another type is an error", failed("wrong")),
    third=True,
)
def namespaces_invalid(box: Box) -> Observation:
    def status(*more: dict[str, Any], without: tuple[str, ...] = ()) -> str:
        return box.run("true", {"linux.namespaces": [*others(*without), *more]}).status

    return {
        "duplicate": status({"type": "network"}),
        "unknown": status({"type": "nonsense"}),
        "missing": status({"type": "network", "path": "/not/there"}, without=("network",)),
        "wrong": status({"type": "network", "path": "/proc/self/ns/uts"}, without=("network",)),
    }


@scene(
    case(
        "config-linux/namespaces/network-path",
        "the container is in the network namespace of path",
        equal("address", "10.77.0.2/24"),
    ),
    case(
        "config-linux/namespaces/network-path-kept",
        "that namespace is there afterwards, as it was",
        equal("kept", "10.77.0.2/24"),
    ),
)
def network_of_a_path(box: Box) -> Observation:
    name = f"conf-{box.stage.runtime}"
    for words in (
        f"ip netns add {name}",
        f"ip link add {name[:12]} type veth peer name eth0 netns {name}",
        f"ip -n {name} addr add 10.77.0.2/24 dev eth0",
        f"ip -n {name} link set eth0 up",
    ):
        box.host(*words.split())
    return in_network(box, name)


@scene(
    case(
        "config-linux/namespaces/network-two-interfaces",
        "the interfaces of the namespace have their names and addresses, whatever their order",
        equal("address", "10.77.0.2/24"),
    ),
)
def network_with_two_interfaces(box: Box) -> Observation:
    name = f"conf-{box.stage.runtime}"
    for words in (
        f"ip netns add {name}",
        f"ip -n {name} link add eth0 type veth peer name eth1",
        f"ip -n {name} addr add 10.77.0.2/24 dev eth0",
        f"ip -n {name} link set eth0 up",
        f"ip -n {name} link set eth1 up",
    ):
        box.host(*words.split())
    return in_network(box, name)


def in_network(box: Box, name: str) -> Observation:
    """The address of eth0 as a container in a named namespace sees it, and as it is there afterwards; removes that."""
    try:
        spaces = [*others("network"), {"type": "network", "path": f"/run/netns/{name}"}]
        show = "ip -o -4 addr show eth0 | awk '{print $4}'"
        seen = box.probe({"address": show}, {"linux.namespaces": spaces})
        seen["kept"] = box.host("ip", "netns", "exec", name, "sh", "-c", show).out.strip()
        return seen
    finally:
        box.host("ip", "netns", "del", name)


@scene(
    case(
        "config-linux/namespaces/network-none",
        "without a network namespace the network is the host's",
        same("links", "host"),
    ),
)
def network_of_the_host(box: Box) -> Observation:
    # /proc/net shows the namespace of who reads it, whatever /sys is
    seen = box.probe(
        {"links": "tail -n +3 /proc/net/dev | cut -d: -f1 | sort"}, {"linux.namespaces": others("network")}
    )
    seen["links"] = " ".join(seen.get("links", "").split())
    seen["host"] = " ".join(sorted(os.listdir("/sys/class/net")))
    return seen


@scene(
    case(
        "config-linux/namespaces/pid-none",
        "without a PID namespace processes of the host are seen",
        matches("host", "python"),
    ),
)
def pid_of_the_host(box: Box) -> Observation:
    probes = {"pid": "sh -c 'echo $PPID'", "host": f"cat /proc/{os.getpid()}/comm"}
    return box.probe(probes, {"linux.namespaces": others("pid")})


@scene(
    case(
        "config-linux/namespaces/uts-none",
        "without a UTS namespace the name is the host's",
        same("name", "host"),
    ),
)
def uts_of_the_host(box: Box) -> Observation:
    seen = box.probe({"name": "hostname"}, {"linux.namespaces": others("uts"), "hostname": DROP})
    return {**seen, "host": os.uname().nodename}


@scene(
    case(
        "config-linux/namespaces/hostname-without-uts",
        "hostname without a UTS namespace of its own is an error",
        failed(),
    ),
)
def hostname_without_uts(box: Box) -> Observation:
    return {"status": box.run("true", {"linux.namespaces": others("uts"), "hostname": "other"}).status}


@scene(
    case(
        "config-linux/namespaces/pid-path",
        "the container is in the PID namespace of another's process",
        matches("pid", "^sleep 600"),
    ),
    case(
        "config-linux/namespaces/ipc-path",
        "the container is in the IPC namespace of another's process",
        matches("ipc", "^of-the-first$"),
    ),
    case(
        "config-linux/namespaces/uts-path",
        "the container is in the UTS namespace of another's process",
        equal("uts", "the-first"),
    ),
)
def namespaces_of_another(box: Box) -> Observation:
    box.start("touch /dev/mqueue/of-the-first; exec sleep 600", {"hostname": "the-first"}, name="first")
    pid = box.state("first").get("pid")
    shared = ("pid", "ipc", "uts")
    spaces = others(*shared) + [{"type": kind, "path": f"/proc/{pid}/ns/{kind}"} for kind in shared]
    probes = {"pid": "tr '\\0' ' ' </proc/1/cmdline", "ipc": "ls /dev/mqueue", "uts": "hostname"}
    return box.probe(probes, {"linux.namespaces": spaces, "hostname": DROP}, name="second")


MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@scene(
    case(
        "config-linux/user-namespace/mappings",
        "uidMappings and gidMappings are those of the program",
        matches("uid_map", r"^0\s+100000\s+65536$"),
        matches("gid_map", r"^0\s+100000\s+65536$"),
    ),
    case(
        "config-linux/user-namespace/owner",
        "files of the container's root belong to a user of the mapping",
        equal("owner", "100000:100000"),
    ),
    case("config-linux/user-namespace/root-inside", "the program is root inside", equal("id", "0")),
)
def user_namespace(box: Box) -> Observation:
    root = box.own_root()
    box.host("chmod", "755", str(box.folder), str(box.stage.folder), str(box.stage.folder.parent))
    box.host("chown", "-hR", "100000:100000", str(root))
    seen = box.probe(
        {
            "uid_map": "cat /proc/self/uid_map",
            "gid_map": "cat /proc/self/gid_map",
            "id": "id -u",
            "made": "touch /etc/made",
        },
        {
            "root.path": str(root),
            "linux.namespaces+": [{"type": "user"}],
            "linux.uidMappings": MAPPINGS,
            "linux.gidMappings": MAPPINGS,
        },
    )
    made = root / "etc" / "made"
    seen["owner"] = f"{made.stat().st_uid}:{made.stat().st_gid}" if made.exists() else ""
    return seen


@scene(case("config-linux/user-namespace/mappings-without", "mappings without a user namespace are an error", failed()))
def user_mappings_without_namespace(box: Box) -> Observation:
    return {"status": box.run("true", {"linux.uidMappings": MAPPINGS, "linux.gidMappings": MAPPINGS}).status}


@scene(
    case(
        "config-linux/time-namespace/offsets",
        "timeOffsets are set in a new time namespace",
        matches("uptime", r"^8\d{5}$"),
    ),
    case("config-linux/time-namespace/runs", "a time namespace is no error", succeeded()),
)
def time_namespace(box: Box) -> Observation:
    return box.probe(
        {"uptime": "cut -d. -f1 /proc/uptime"},
        {
            "linux.namespaces+": [{"type": "time"}],
            "linux.timeOffsets": {"boottime": {"secs": 864000}, "monotonic": {"secs": 864000}},
        },
    )
