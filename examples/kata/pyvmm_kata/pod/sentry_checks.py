"""What a container on the Sentry cannot have: refused before anything of it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from pyvmm_kata.state import Json

NAMESPACES = {"user": "user namespace", "time": "time namespace"}


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
    if missing:
        raise ConfigError(
            f"a Sentry has no {' and no '.join(dict.fromkeys(missing))}", code="guest-kind", hint="use --isolation vm"
        )
