"""Mounts and their propagation, the security context, and namespaces."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.conformance.cri.stage import BIDIRECTIONAL, CONTAINER, HOST_TO_CONTAINER, NODE, TARGET, Box, scene
from tests.conformance.suite import Observation, case, differs, equal, matches, refused, same


def bind(box: Box, what: str, place: str, **more: Any) -> dict[str, Any]:
    """A mount of something in the scene's folder."""
    return {"host_path": str(box.folder / what), "container_path": place, **more}


@scene(
    case("cri/mounts/read", "a mount shows the host's folder", equal("read", "content")),
    case("cri/mounts/write", "what is written there is on the host", equal("host", "inside\n")),
    case("cri/mounts/file", "a file can be mounted", equal("file", "a file")),
    case("cri/mounts/read-only", "readonly cannot be written", matches("ro", "Read-only file system")),
    case("cri/mounts/beside", "a mount stays when a file is made beside it", equal("beside", "content")),
    case("cri/mounts/token", "so does one where service accounts' tokens are", equal("token", "content")),
    case("cri/mounts/nested", "one can lie in another", equal("nested", "a file")),
    case("cri/mounts/shared", "two containers share a volume", equal("shared", "of the first")),
    case("cri/mounts/link", "a source may be a link", equal("link", "content")),
    case("cri/mounts/sub-path", "a folder in a volume can be mounted elsewhere", equal("sub", "of the first")),
    case("cri/mounts/status", "the status lists the mounts", matches("status", "/data:False .*/ro:True")),
    case("cri/mounts/etc-hosts", "a file over /etc/hosts", equal("hosts", "a file")),
    case("cri/mounts/source-made", "a source that is not there is made, a folder", equal("made-on-host", "True")),
    case(
        "cri/mounts/termination-log", "a file at /dev/termination-log is written", equal("termination", "last words\n")
    ),
)
def mounts(box: Box) -> Observation:
    (box.folder / "empty" / "sub").mkdir(parents=True)
    (box.folder / "link").symlink_to("data")
    (box.folder / "termination").write_text("")
    (box.folder / "hosts").write_text("a file")
    pod = box.pod()
    first = box.run(
        pod,
        name="first",
        mounts=[
            bind(box, "data", "/data"),
            bind(box, "data", "/ro", readonly=True),
            bind(box, "file", "/etc/of-host"),
            bind(box, "data", "/var/lib/d"),
            bind(box, "data", "/var/run/secrets/kubernetes.io/serviceaccount", readonly=True),
            bind(box, "empty", "/cache"),
            bind(box, "file", "/cache/file"),
            bind(box, "link", "/linked"),
            bind(box, "hosts", "/etc/hosts"),
            bind(box, "termination", "/dev/termination-log"),
            bind(box, "not-there", "/made"),
        ],
    )
    second = box.run(
        pod, name="second", mounts=[bind(box, "empty", "/mine"), bind(box, "empty/sub", "/sub", readonly=True)]
    )
    seen = box.probe(
        first,
        {
            "read": "cat /data/file",
            "write": "echo inside >/data/made",
            "ro": "touch /ro/x",
            "file": "cat /etc/of-host",
            "beside": "mkdir -p /var/lib /var/run; touch /var/lib/other; cat /var/lib/d/file",
            "token": "touch /var/run/secrets/x; cat /var/run/secrets/kubernetes.io/serviceaccount/file",
            "nested": "touch /cache/x; cat /cache/file",
            "link": "cat /linked/file",
            "hosts": "touch /etc/x; cat /etc/hosts",
            "words": "echo last words >/dev/termination-log",
            "made": "echo x >/made/x",
            "give": "echo of the first >/cache/sub/given",
        },
    )
    seen |= box.probe(second, {"shared": "cat /mine/sub/given", "sub": "cat /sub/given"})
    made = box.folder / "data" / "made"
    seen["host"] = made.read_text() if made.exists() else ""
    seen["made-on-host"] = str((box.folder / "not-there" / "x").exists())
    seen["termination"] = (box.folder / "termination").read_text()
    seen["status"] = " ".join(f"{one.container_path}:{one.readonly}" for one in box.status(first).mounts)
    return seen


def shared_source(box: Box, *folders: str) -> list[str]:
    """A file system at the scene's `source`, whose mounts spread, with folders; what runs a command where it is."""
    source = box.folder / "source"
    box.mount("-t", "tmpfs", "tmpfs", str(source))
    box.mount("--make-shared", str(source))
    enter = ["nsenter", "-t", str(box.stage.daemon.pid), "-m"]
    subprocess.run([*enter, "mkdir", *(str(source / folder) for folder in folders)], check=True)
    return enter


@scene(
    case(
        "cri/propagation/private",
        "what the host mounts later is not seen with private",
        matches("private", "No such file"),
    ),
    case("cri/propagation/host-to-container", "it is seen with host-to-container", equal("slave", "later")),
)
def propagation(box: Box) -> Observation:
    enter = shared_source(box, "later")
    made = box.run(
        box.pod(),
        mounts=[bind(box, "source", "/private"), bind(box, "source", "/slave", propagation=HOST_TO_CONTAINER)],
    )
    later = box.folder / "source" / "later"
    box.mount("-t", "tmpfs", "tmpfs", str(later))
    subprocess.run([*enter, "sh", "-c", f"echo later >{later}/file"], check=True)
    return box.probe(made, {"private": "cat /private/later/file", "slave": "cat /slave/later/file"})


@scene(
    case(
        "cri/propagation/bidirectional",
        "what a privileged container mounts is seen on the host with bidirectional",
        equal("host", "inside"),
    ),
)
def propagation_to_the_host(box: Box) -> Observation:
    enter = shared_source(box, "inner")
    privileged = {"security_context": {"privileged": True}}
    both = bind(box, "source", "/both", propagation=BIDIRECTIONAL)
    made = box.run(box.pod(linux=privileged), mounts=[both], linux=privileged)
    box.probe(made, {"both": "mount -t tmpfs tmpfs /both/inner && echo inside >/both/inner/file"})
    inner = box.folder / "source" / "inner" / "file"
    done = subprocess.run([*enter, "cat", str(inner)], capture_output=True, text=True)
    return {"host": done.stdout.strip()}


@scene(
    case("cri/security/run-as-user", "run_as_user and run_as_group are the program's", equal("ids", "1234 56")),
    case("cri/security/supplemental-groups", "supplemental_groups are added", matches("groups", r"\b77\b")),
    case("cri/security/read-only-root", "readonly_rootfs cannot be written", matches("write", "Read-only file system")),
    case("cri/security/no-new-privs", "no_new_privs is set", equal("nnp", "1")),
    case("cri/security/capabilities-drop", "capabilities can be dropped all", equal("no-caps", "0000000000000000")),
    case("cri/security/capabilities-add", "and added", equal("net-admin", "True")),
    case(
        "cri/security/capabilities-default",
        "the default ones are containerd's",
        equal("default-caps", "00000000a80425fb"),
    ),
    case("cri/security/seccomp-default", "seccomp RuntimeDefault is in force", equal("seccomp", "2")),
    case("cri/security/seccomp-unconfined", "Unconfined is not", equal("unconfined", "0")),
    case("cri/security/masked-paths", "masked_paths are masked", equal("masked", "0")),
    case("cri/security/readonly-paths", "readonly_paths cannot be written", matches("readonly", "Read-only")),
    case("cri/security/user-of-status", "ContainerStatus says the user", lambda seen: "user" in seen),
)
def security(box: Box) -> Observation:
    pod = box.pod()

    def run(name: str, **context: Any) -> str:
        return box.run(pod, name=name, linux={"security_context": context})

    user = run(
        "user",
        run_as_user={"value": 1234},
        run_as_group={"value": 56},
        supplemental_groups=[77],
        readonly_rootfs=True,
        no_new_privs=True,
        capabilities={"drop_capabilities": ["ALL"]},
        seccomp={"profile_type": 0},
    )
    seen = box.probe(
        user,
        {
            "ids": "echo $(id -u) $(id -g)",
            "groups": "id -G",
            "write": "echo x >/new",
            "nnp": "grep NoNewPrivs /proc/self/status | { read a b; echo $b; }",
            "no-caps": "grep CapBnd /proc/self/status | { read a b; echo $b; }",
            "seccomp": "grep ^Seccomp: /proc/self/status | { read a b; echo $b; }",
        },
    )
    plain = run("plain", masked_paths=["/proc/timer_list"], readonly_paths=["/proc/sys"], seccomp={"profile_type": 1})
    seen |= box.probe(
        plain,
        {
            "default-caps": "grep CapBnd /proc/self/status | { read a b; echo $b; }",
            "unconfined": "grep ^Seccomp: /proc/self/status | { read a b; echo $b; }",
            "masked": "cat /proc/timer_list | wc -c",
            "readonly": "echo 1 >/proc/sys/kernel/panic",
        },
    )
    added = run("added", capabilities={"add_capabilities": ["NET_ADMIN"]})
    bits = box.probe(added, {"caps": "grep CapBnd /proc/self/status | { read a b; echo $b; }"})["caps"]
    seen["net-admin"] = str(bool(int(bits or "0", 16) >> 12 & 1))
    seen["user"] = str(box.status(user).user.linux.uid)
    return seen


@scene(
    case("cri/privileged/runs", "a privileged container runs in a privileged pod", equal("state", "running")),
    case("cri/privileged/capabilities", "it has all capabilities", equal("caps", "000001ffffffffff")),
    case("cri/privileged/mounts", "it may mount", equal("mount?", "0")),
    case("cri/privileged/sys", "/proc/sys can be written", equal("sys?", "0")),
    case(
        "cri/privileged/in-a-plain-pod",
        "in a pod that is not it is refused",
        refused("plain"),
    ),
)
def privileged(box: Box) -> Observation:
    context = {"security_context": {"privileged": True}}
    plain = box.pod("plain")
    seen = {"plain": box.attempt(lambda: box.run(plain, linux=context))}
    made = box.run(box.pod(linux=context), linux=context)
    seen["state"] = box.state(made)
    probes = {
        "caps": "grep CapBnd /proc/self/status | { read a b; echo $b; }",
        "mount": "mkdir -p /m && mount -t tmpfs tmpfs /m",
        "sys": "cat /proc/sys/kernel/panic_on_oops >/proc/sys/kernel/panic_on_oops",
    }
    return {**seen, **box.probe(made, probes)}


def namespaces(**modes: int) -> dict[str, Any]:
    """A security context with modes of namespaces."""
    return {"security_context": {"namespace_options": modes}}


@scene(
    case(
        "cri/namespaces/pid-pod", "with PID namespace POD containers see each other's processes", equal("pod-pid", "1")
    ),
    case("cri/namespaces/pid-pod-init", "and the pod's own process is 1", matches("pod-init", "sleep 100000|pause")),
    case("cri/namespaces/pid-container", "with CONTAINER each program is process 1", equal("own-pid", "1")),
    case("cri/namespaces/pid-container-alone", "and sees no other's", equal("own-others", "0")),
    case("cri/namespaces/pid-target", "with TARGET it sees those of the target", equal("target", "1")),
    case(
        "cri/namespaces/ipc-pod", "the IPC namespace is the pod's", same("ipc-one", "ipc-two"), differs("ipc-one", "")
    ),
    case("cri/namespaces/uts-pod", "the name is the pod's", same("host-one", "host-two"), differs("host-one", "")),
)
def pod_namespaces(box: Box) -> Observation:
    shared = box.pod("shared", linux=namespaces(pid=0))
    one = box.run(shared, "sleep 611", "one", linux=namespaces(pid=0))
    two = box.run(shared, "sleep 622", "two", linux=namespaces(pid=0))
    seen = box.probe(two, {"pod-pid": "ps | grep -c '[s]leep 611'", "pod-init": "ps | grep '^ *1 '"})
    ipc = {"ipc": "ls -l /proc/self/ns/ipc | { read a; echo ${a##* }; }", "host": "hostname"}
    for name, made in (("one", one), ("two", two)):
        seen |= {f"{key}-{name}": value for key, value in box.probe(made, ipc).items() if not key.endswith("?")}
    own = box.pod("own", linux=namespaces(pid=CONTAINER))
    target = box.run(own, "sleep 633", "target", linux=namespaces(pid=CONTAINER))
    alone = box.run(own, "sleep 644", "alone", linux=namespaces(pid=CONTAINER))
    seen |= box.probe(
        alone, {"own-pid": "ps | grep -c '^ *1 .*[s]leep 644'", "own-others": "ps | grep -c '[s]leep 633'"}
    )

    def run_in_target() -> None:
        options = {"pid": TARGET, "target_id": target}
        guest = box.run(own, "sleep 655", "debug", linux={"security_context": {"namespace_options": options}})
        seen.update(box.probe(guest, {"target": "ps | grep -c '[s]leep 633'"}))

    seen["target-refused"] = box.attempt(run_in_target)
    return seen


@scene(
    case("cri/namespaces/network-node", "with network NODE the interfaces are the host's", equal("network", "True")),
)
def node_network(box: Box) -> Observation:
    pod = box.pod(hostname="", linux=namespaces(network=NODE))
    made = box.run(pod, linux=namespaces(network=NODE))
    seen = box.probe(made, {"links": "ls /sys/class/net"})
    host = [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    seen["network"] = str(sorted(seen["links"].split()) == sorted(host))
    return seen


@scene(
    case(
        "cri/namespaces/pid-node",
        "with PID namespace NODE processes of the host are seen",
        matches("processes", "containerd"),
    ),
)
def node_pid(box: Box) -> Observation:
    made = box.run(box.pod(linux=namespaces(pid=NODE)), linux=namespaces(pid=NODE))
    return box.probe(made, {"processes": "ps"})


@scene(
    case(
        "cri/namespaces/ipc-node",
        "with IPC namespace NODE a queue of the host's is seen",
        matches("queues", "of-the-host"),
    ),
)
def node_ipc(box: Box) -> Observation:
    # A System V queue: it is there until it is removed
    subprocess.run(["ipcmk", "-Q"], check=True, capture_output=True)
    try:
        made = box.run(box.pod(linux=namespaces(ipc=NODE)), linux=namespaces(ipc=NODE))
        seen = box.probe(
            made, {"queues": "while read a; do echo of-the-host $a; done </proc/sysvipc/msg | grep -v perms"}
        )
    finally:
        subprocess.run(["ipcrm", "--all=msg"], capture_output=True)
    return seen


@scene(
    case(
        "cri/namespaces/user",
        "with a user namespace root is another user on the host",
        matches("map", r"^0 +100000 +65536$"),
    ),
    case("cri/namespaces/user-root", "and root inside", equal("id", "0")),
)
def user_namespace(box: Box) -> Observation:
    ids = [{"host_id": 100000, "container_id": 0, "length": 65536}]
    options = {"userns_options": {"mode": 0, "uids": ids, "gids": ids}, "pid": CONTAINER}
    context = {"security_context": {"namespace_options": options}}
    made = box.run(box.pod(linux=context), linux=context)
    seen = box.probe(made, {"map": "cat /proc/self/uid_map", "id": "id -u"})
    seen["map"] = " ".join(seen["map"].split())
    return seen
