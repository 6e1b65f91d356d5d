"""The permitted content of config.json: one table of the OCI runtime specification 1.2 (config.md, config-linux.md),
and the function that checks a value against it.

The table is a literal, so that loading it takes no time and no library. Its nodes:

- ``str``, ``bool``: a string without a zero byte, true or false;
- a ``range``: a whole number in it;
- a ``frozenset``: one of these strings;
- ``[node]``: a list; ``(node,)``: an object whose keys are chosen by the user;
- a ``dict``: an object with these fields; ``""`` has the names of the required ones;
- ``ANY``: settings of other operating systems.

``null`` counts as absent, and names that are not spelled as here are compared without case, as Go's decoder does both
for runc. Unlike in runc, an entry of a list must not be null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

U16, U32, U64 = range(1 << 16), range(1 << 32), range(1 << 64)
I32, I64 = range(-(1 << 31), 1 << 31), range(-(1 << 63), 1 << 63)
ANY = None
_TEXTS = [str]

_IDS = [{"containerID": U32, "hostID": U32, "size": U32, "": ("containerID", "hostID", "size")}]
_WEIGHT = {"major": I64, "minor": I64, "weight": U16, "leafWeight": U16, "": ("major", "minor")}
_THROTTLE = [{"major": I64, "minor": I64, "rate": U64, "": ("major", "minor", "rate")}]
_HOOKS = [{"path": str, "args": _TEXTS, "env": _TEXTS, "timeout": range(1, 1 << 31), "": ("path",)}]
_ACTION = frozenset(
    "SCMP_ACT_" + name
    for name in ("KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG", "NOTIFY")
)
_ARCHITECTURE = frozenset(
    "SCMP_ARCH_" + name
    for name in (
        "NATIVE", "X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64",
        "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64", "LOONGARCH64",
        "M68K", "SH", "SHEB",
    )
)  # fmt: skip
_COMPARISON = frozenset("SCMP_CMP_" + name for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
_FILTER_FLAG = frozenset("SECCOMP_FILTER_FLAG_" + name for name in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))
_RLIMIT = frozenset(
    "RLIMIT_" + name
    for name in (
        "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS",
        "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
    )
)  # fmt: skip
_NAMESPACE = frozenset(("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"))
_PROPAGATION = frozenset(
    ("shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable", "")
)
_POLICY = frozenset("SCHED_" + name for name in ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"))
_SCHEDULER_FLAG = frozenset(
    "SCHED_FLAG_" + name
    for name in (
        "RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX",
    )
)  # fmt: skip

PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": {"height": U64, "width": U64, "": ("height", "width")},
    "user": {"uid": U32, "gid": U32, "umask": U32, "additionalGids": [U32], "username": str},
    "args": _TEXTS,
    "commandLine": str,
    "env": _TEXTS,
    "cwd": str,
    "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _TEXTS),
    "rlimits": [{"type": _RLIMIT, "hard": U64, "soft": U64, "": ("type", "hard", "soft")}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "oomScoreAdj": range(-1000, 1001),
    "scheduler": {
        "policy": _POLICY,
        "nice": I32,
        "priority": I32,
        "flags": [_SCHEDULER_FLAG],
        "runtime": U64,
        "deadline": U64,
        "period": U64,
        "": ("policy",),
    },
    "selinuxLabel": str,
    "ioPriority": {
        "class": frozenset(("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")),
        "priority": I64,
        "": ("class",),
    },
    "execCPUAffinity": {"initial": str, "final": str},
    "": ("args", "cwd"),
}
"""``process`` of a config.json, and a file of ``exec --process``."""

RESOURCES: dict[str, Any] = {
    "devices": [
        {
            "allow": bool,
            "type": frozenset(("a", "c", "b", "")),
            "major": I64,
            "minor": I64,
            "access": frozenset(("", "r", "w", "m", "rw", "rm", "wr", "wm", "mr", "mw")).union(
                ("rwm", "rmw", "wrm", "wmr", "mrw", "mwr")
            ),
        }
    ],
    "memory": {
        "limit": I64,
        "reservation": I64,
        "swap": I64,
        "kernel": I64,
        "kernelTCP": I64,
        "swappiness": U64,
        "disableOOMKiller": bool,
        "useHierarchy": bool,
        "checkBeforeUpdate": bool,
    },
    "cpu": {
        "shares": U64,
        "quota": I64,
        "burst": U64,
        "period": U64,
        "realtimeRuntime": I64,
        "realtimePeriod": U64,
        "cpus": str,
        "mems": str,
        "idle": I64,
    },
    "pids": {"limit": I64},
    "blockIO": {
        "weight": U16,
        "leafWeight": U16,
        "weightDevice": [_WEIGHT],
        "throttleReadBpsDevice": _THROTTLE,
        "throttleWriteBpsDevice": _THROTTLE,
        "throttleReadIOPSDevice": _THROTTLE,
        "throttleWriteIOPSDevice": _THROTTLE,
    },
    "hugepageLimits": [{"pageSize": str, "limit": U64, "": ("pageSize", "limit")}],
    "network": {"classID": U32, "priorities": [{"name": str, "priority": U32, "": ("name", "priority")}]},
    "rdma": ({"hcaHandles": U32, "hcaObjects": U32},),
    "unified": (str,),
}
"""``linux.resources``, and what ``update --resources`` reads."""

SECCOMP: dict[str, Any] = {
    "defaultAction": _ACTION,
    "defaultErrnoRet": U32,
    "architectures": [_ARCHITECTURE],
    "flags": [_FILTER_FLAG],
    "listenerPath": str,
    "listenerMetadata": str,
    "syscalls": [
        {
            "names": _TEXTS,
            "action": _ACTION,
            "errnoRet": U32,
            "args": [
                {"index": range(6), "value": U64, "valueTwo": U64, "op": _COMPARISON, "": ("index", "value", "op")}
            ],
            "": ("names", "action"),
        }
    ],
    "": ("defaultAction",),
}

LINUX: dict[str, Any] = {
    "uidMappings": _IDS,
    "gidMappings": _IDS,
    "sysctl": (str,),
    "resources": RESOURCES,
    "cgroupsPath": str,
    "namespaces": [{"type": _NAMESPACE, "path": str, "": ("type",)}],
    "devices": [
        {
            "path": str,
            "type": frozenset("cbup"),
            "major": I64,
            "minor": I64,
            "fileMode": U32,
            "uid": U32,
            "gid": U32,
            "": ("path", "type"),
        }
    ],
    "netDevices": ({"name": str},),
    "seccomp": SECCOMP,
    "rootfsPropagation": _PROPAGATION,
    "maskedPaths": _TEXTS,
    "readonlyPaths": _TEXTS,
    "mountLabel": str,
    "intelRdt": {
        "closID": str,
        "schemata": _TEXTS,
        "l3CacheSchema": str,
        "memBwSchema": str,
        "enableCMT": bool,
        "enableMBM": bool,
        "enableMonitoring": bool,
    },
    "memoryPolicy": {"mode": str, "nodes": str, "flags": _TEXTS},
    "personality": {"domain": frozenset(("LINUX", "LINUX32")), "flags": _TEXTS, "": ("domain",)},
    "timeOffsets": ({"secs": I64, "nanosecs": U32},),
}

CONFIG: dict[str, Any] = {
    "ociVersion": str,
    "process": PROCESS,
    "root": {"path": str, "readonly": bool, "": ("path",)},
    "hostname": str,
    "domainname": str,
    "mounts": [
        {
            "destination": str,
            "type": str,
            "source": str,
            "options": _TEXTS,
            "uidMappings": _IDS,
            "gidMappings": _IDS,
            "": ("destination",),
        }
    ],
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS
    ),
    "annotations": (str,),
    "linux": LINUX,
    "solaris": ANY,
    "windows": ANY,
    "vm": ANY,
    "zos": ANY,
    "": ("ociVersion", "process", "root"),
}

_WORDS = {
    str: "a string", int: "a number", bool: "true or false", list: "a list", dict: "an object",
    float: "a number with a fraction", type(None): "null",
}  # fmt: skip
_WANTED: dict[Any, Any] = {range: int, frozenset: str, list: list, tuple: dict, dict: dict}
_SHOWN = 60


class Wrong(Exception):
    """A value does not match the table.

    :ivar where: its path
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(problem)
        self.where = where


def check(value: Any, node: Any, where: str = "") -> None:
    """Check *value* against a node of the table; removes what is null or unknown.

    :param where: the path of *value*
    :raises Wrong: it is something else
    """
    kind = type(value)
    if kind is not _WANTED.get(type(node), node):
        raise _other_kind(kind, node, where)
    _CHECKS[kind](value, node, where)


def _other_kind(kind: type, node: Any, where: str) -> Wrong:
    wanted = _WANTED.get(type(node), node)
    article = "a whole number" if kind is float and wanted is int else _WORDS[wanted]
    return Wrong(where, f"{_WORDS.get(kind, 'a value')} where {article} is wanted")


def _check_object(value: dict[str, Any], node: Any, where: str) -> None:
    if type(node) is tuple:
        _check_map(value, node[0], where)
        return
    dropped = []
    for key, item in value.items():
        inner = node.get(key) if key else None
        if item is None or inner is None:
            dropped.append(key)
            continue
        kind = type(item)
        path = f"{where}.{key}" if where else key
        if kind is not _WANTED.get(type(inner), inner):
            raise _other_kind(kind, inner, path)
        _CHECKS[kind](item, inner, path)
    for key in dropped:
        _drop(value, key, node, where)
    for key in node.get("", ()):
        if key not in value:
            raise Wrong(f"{where}.{key}" if where else key, "is missing")


def _drop(value: dict[str, Any], key: str, node: Any, where: str) -> None:
    """Remove a field that is null or unknown; one that differs only in case is renamed."""
    item = value.pop(key)
    if item is None or key in node:
        return
    lower = key.lower()
    for name in node:
        if name and name.lower() == lower:
            path = f"{where}.{name}" if where else name
            if name in value:
                raise Wrong(path, f"is there twice, as {key!r} too")
            check(item, node[name], path)
            value[name] = item
            return


def _check_map(value: dict[str, Any], inner: Any, where: str) -> None:
    for key, item in list(value.items()):
        if item is None:
            del value[key]
            continue
        path = f"{where}[{key!r:.{_SHOWN}}]"
        _check_text(key, str, path)
        check(item, inner, path)


def _check_list(value: list[Any], node: Any, where: str) -> None:
    inner = node[0]
    if inner is str and all(type(item) is str for item in value):
        text = "".join(value)
        if text.isascii() and "\0" not in text:
            return
    for index, item in enumerate(value):
        check(item, inner, f"{where}[{index}]")


def _check_text(value: str, node: Any, where: str) -> None:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Wrong(where, f"{value!r:.{_SHOWN}} is no text") from None
    if "\0" in value:
        raise Wrong(where, "a string with a zero byte")
    if node is not str and value not in node:
        some = sorted(node)
        choice = f"one of {', '.join(some)}" if len(some) <= 10 else f"one such as {', '.join(some[:3])}"
        raise Wrong(where, f"{value!r:.{_SHOWN}} is not {choice}")


def _check_number(value: int, node: Any, where: str) -> None:
    if value not in node:
        raise Wrong(where, f"not {node[0]} to {node[-1]}")


def _nothing(_value: Any, _node: Any, _where: str) -> None:
    pass


_CHECKS: dict[type, Callable[[Any, Any, str], None]] = {
    dict: _check_object,
    list: _check_list,
    str: _check_text,
    int: _check_number,
    bool: _nothing,
}
