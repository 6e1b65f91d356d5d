"""E2B's rules for a sandbox's network (``network=``), as those of the library."""

from __future__ import annotations

from typing import Any

from pyvmm_sandbox import Network, UsageError
from pyvmm_sandbox.egress.rules import Rule
from pyvmm_server import bodies
from pyvmm_server.errors import ClientError, not_there

_MISSING = ("dnsServers", "egressProxy", "maskRequestHost")
_EVERYTHING = "0.0.0.0/0"


def rules_of(body: dict[str, Any], *, internet: bool | None = None) -> Network:
    """What *allowOut* and *denyOut* mean: the first has priority, and what neither names is reached.

    :param internet: False: as *denyOut* with 0.0.0.0/0
    :raises ClientError: a rule cannot be read, names the host's own networks, or needs what is not there
    """
    for name in _MISSING:
        if body.get(name):
            raise not_there(f"network: {name}")
    if not bodies.take(body, "allowPublicTraffic", bool, True):
        raise not_there("network: allowPublicTraffic = false")
    allow, deny = (_texts(body, name) for name in ("allowOut", "denyOut"))
    if internet is False:
        deny.append(_EVERYTHING)
    try:
        for text in deny:
            if Rule.parse(text).block is None:
                raise ClientError(400, f"denyOut: {text[:80]!r} is neither an address nor a CIDR block")
        for text in allow:
            if Rule.parse(text).opens_local:
                raise ClientError(400, f"allowOut: {text[:80]!r} is not an address of the Internet")
        return Network(allow, deny, "allow")
    except UsageError as error:
        raise ClientError(400, str(error)) from error


def has_rules(body: dict[str, Any]) -> bool:
    """Whether a sandbox is to have rules, and not the whole network of the server."""
    return any(body.get(name) for name in ("allowOut", "denyOut", "rules"))


def _texts(body: dict[str, Any], name: str) -> list[str]:
    found = bodies.take(body, name, list, [])
    if not all(isinstance(text, str) for text in found):
        raise ClientError(400, f"{name} is not a list of texts")
    return list(found)
