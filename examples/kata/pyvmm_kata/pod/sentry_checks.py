"""What a container on the Sentry cannot have: refused before anything of it is made."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from pyvmm_kata.state import Json

NAMESPACES = {"user": "user namespace", "time": "time namespace"}


PLATFORMS = ("auto", "kvm", "trap")
PLATFORM, STRACE = "sentry.platform=", "sentry.strace"
"""Words of the kernel's command line, which also say what a process instead of a machine is to be."""


def command_line(platform: str, *, strace: bool) -> str:
    """The words for these options.

    :raises ConfigError: there is no such platform
    """
    if platform and platform not in PLATFORMS:
        raise ConfigError(f"--platform: {platform!r:.60} is not one of {', '.join(PLATFORMS)}", code="oci-usage")
    return " ".join([*([f"{PLATFORM}{platform}"] if platform else []), *([STRACE] if strace else [])])


def platform_of(cmdline: str) -> str:
    """The platform that a command line names; ``auto``: none.

    :raises ConfigError: there is no such platform
    """
    named = [word.removeprefix(PLATFORM) for word in cmdline.split() if word.startswith(PLATFORM)]
    command_line(*named[-1:] or ("auto",), strace=False)
    return named[-1] if named else "auto"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def check(spec: Json) -> None:
    """
    :param spec: a config.json
    :raises ConfigError: the Sentry lacks something that it asks for, and would run it with another meaning
    """
    linux = spec.get("linux") or {}
    missing = [NAMESPACES[each["type"]] for each in linux.get("namespaces") or () if each["type"] in NAMESPACES]
    if linux.get("uidMappings") or linux.get("gidMappings"):
        missing.append("mapping of users")
    if (spec.get("hooks") or {}).get("startContainer"):
        missing.append("hook startContainer")
    if (linux.get("resources") or {}).get("unified"):
        missing.append("linux.resources.unified")
    if (linux.get("personality") or {}).get("domain", "LINUX") != "LINUX":
        missing.append("personality but LINUX")
    if any(_is_socket(mount.get("source") or "") for mount in spec.get("mounts") or ()):
        missing.append("way to a unix socket of the host")
    if missing:
        raise ConfigError(
            f"a Sentry has no {' and no '.join(dict.fromkeys(missing))}", code="guest-kind", hint="use --isolation vm"
        )
