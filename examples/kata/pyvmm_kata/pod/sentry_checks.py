"""Rejects containers with features that the Sentry lacks, before any part of them is created."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from pyvmm_kata.bundle.guest_settings import dotted
from pyvmm_kata.bundle.user_namespace import id_maps
from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from pyvmm_kata.state import Json

NAMESPACES = {"time": "time namespace"}


PLATFORMS = ("auto", "kvm", "trap")
PLATFORM, STRACE = "sentry.platform=", "sentry.strace"
"""Words of the kernel's command line; they also configure a Sentry that runs as a process without a machine."""


def command_line(platform: str, *, strace: bool) -> str:
    """The words of the command line for these options.

    :raises ConfigError: the platform is unknown
    """
    if platform and platform not in PLATFORMS:
        raise ConfigError(f"--platform: {platform!r:.60} is not one of {', '.join(PLATFORMS)}", code="oci-usage")
    return " ".join([*([f"{PLATFORM}{platform}"] if platform else []), *([STRACE] if strace else [])])


def platform_of(cmdline: str) -> str:
    """The platform that a command line names, ``auto`` by default.

    :raises ConfigError: the platform is unknown
    """
    named = [word.removeprefix(PLATFORM) for word in cmdline.split() if word.startswith(PLATFORM)]
    command_line(*named[-1:] or ("auto",), strace=False)
    return named[-1] if named else "auto"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


UNIFIED = {
    "memory.max": ("memory", "limit"),
    "memory.high": ("memory", "high"),
    "memory.low": ("memory", "reservation"),
    "pids.max": ("pids", "limit"),
    "cpu.weight": ("cpu", "shares"),
}
"""Files of a cgroup, by the limits of ``linux.resources`` that are the same."""
WITHOUT_EFFECT = ("memory.oom.group", "memory.min", "memory.swap.max", "cpu.idle", "io.weight", "io.max")


_NUMBER = re.compile(r"max|[0-9]{1,18}")
_CPU_MAX = re.compile(r"(max|[0-9]{1,18})(?: ([1-9][0-9]{0,17}))?")


def _shares(weight: int) -> int:
    """The least shares that a guest takes for this weight: 1 to 10,000 for 2 to 262,144."""
    return 2 + -(-(min(max(weight, 1), 10_000) - 1) * 262_142 // 9_999)


def with_unified(resources: Json) -> Json:
    """``linux.resources`` with the limits of ``unified`` in their own fields.

    :raises ConfigError: a file in ``unified`` is none of a Sentry's, or its value no number
    """
    made = dict(resources)
    for name, text in (made.pop("unified", None) or {}).items():
        if name in UNIFIED and _NUMBER.fullmatch(text):
            group, field = UNIFIED[name]
            value = -1 if text == "max" else int(text)
            made[group] = {**(made.get(group) or {}), field: _shares(value) if field == "shares" else value}
        elif name == "cpu.max" and (found := _CPU_MAX.fullmatch(text)):
            quota = -1 if found[1] == "max" else int(found[1])
            made["cpu"] = {**(made.get("cpu") or {}), "quota": quota, "period": int(found[2] or 100_000)}
        elif name not in WITHOUT_EFFECT:
            raise ConfigError(
                f"linux.resources.unified: {name} = {text!r:.60}: a Sentry has no such limit",
                code="guest-kind",
                hint=f"there are {', '.join(UNIFIED)}, cpu.max; or use --isolation vm",
            )
    return made


SYSCTLS = frozenset(
    f"{group}.{name}"
    for group, names in (
        ("fs.mqueue", "msg_default msg_max msgsize_default msgsize_max queues_max"),
        ("kernel", "domainname msgmax msgmnb msgmni sem shmall shmmax shmmni"),
        ("net.core", "somaxconn"),
        ("net.ipv4", "ip_default_ttl ip_forward ip_local_port_range ip_unprivileged_port_start ping_group_range"),
        ("net.ipv4", "tcp_keepalive_intvl tcp_keepalive_probes tcp_keepalive_time"),
    )
    for name in names.split()
)
"""Kernel parameters that a container can set: those of ``core/sysctl.c``, and the domain name."""


def _check_sysctls(linux: Json) -> None:
    """
    :raises ConfigError: a Sentry has no such kernel parameter
    """
    if unknown := sorted({dotted(key) for key in linux.get("sysctl") or ()} - SYSCTLS):
        raise ConfigError(
            f"linux.sysctl: a Sentry has no {unknown[0]!r:.60}",
            code="guest-kind",
            hint="/proc/sys of a container shows those that exist; or use --isolation vm",
        )


def check(spec: Json) -> None:
    """
    :param spec: a config.json
    :raises ConfigError: the Sentry lacks something that it asks for, and would run it with another meaning
    """
    linux = spec.get("linux") or {}
    missing = [NAMESPACES[each["type"]] for each in linux.get("namespaces") or () if each["type"] in NAMESPACES]
    id_maps(spec)
    if (spec.get("hooks") or {}).get("startContainer"):
        missing.append("hook startContainer")
    with_unified(linux.get("resources") or {})
    _check_sysctls(linux)
    if (linux.get("personality") or {}).get("domain", "LINUX") != "LINUX":
        missing.append("personality but LINUX")
    if any(_is_socket(mount.get("source") or "") for mount in spec.get("mounts") or ()):
        missing.append("way to a unix socket of the host")
    if missing:
        raise ConfigError(
            f"a Sentry has no {' and no '.join(dict.fromkeys(missing))}", code="guest-kind", hint="use --isolation vm"
        )
