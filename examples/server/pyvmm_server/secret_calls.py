"""E2B's control interface: secrets.  A client writes their values, and never reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from pyvmm_sandbox import Secret, UsageError
from pyvmm_server import bodies
from pyvmm_server.calls import time_of
from pyvmm_server.database import Duplicate
from pyvmm_server.errors import ClientError, not_there
from pyvmm_server.lists import after, page

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm_server.calls import Call
    from pyvmm_server.vault import Kept

_NAME = re.compile(r"[^{}\x00-\x1f\x7f-\x9f]{1,128}")
_REFERENCE = re.compile(r"\$\{e2b\.secrets\.([^{}]+)\}")
_OTHER_REFERENCE = "${e2b."
_MOST_METADATA = 32, 128, 1024, 8192
"""Entries; bytes of a name, of a value, and of all."""
_MOST_RULES = 256
_LONGEST_HEADER = 16 << 10


def _shown(found: Kept) -> dict[str, Any]:
    return {
        "secretID": found.id,
        "name": found.name,
        "currentVersion": found.version,
        "metadata": found.metadata,
        "createdAt": time_of(found.created),
        "updatedAt": time_of(found.updated),
    }


def _metadata(body: dict[str, Any]) -> dict[str, str]:
    found = bodies.texts(body, "metadata")
    entries, longest_name, longest_value, most = _MOST_METADATA
    sizes = [(len(name.encode()), len(value.encode())) for name, value in found.items()]
    if len(sizes) > entries or any(name > longest_name or value > longest_value for name, value in sizes):
        raise ClientError(400, f"metadata has more than {entries} entries, or one that is too long")
    if sum(map(sum, sizes)) > most:
        raise ClientError(400, f"metadata is larger than {most} bytes")
    return found


def _value(body: dict[str, Any]) -> str:
    value = bodies.take(body, "value", str)
    try:
        Secret(value, ["any.example"])
    except UsageError as error:
        raise ClientError(400, str(error)) from error
    return value


def _found(call: Call) -> Kept:
    name = call.request.path_params["secret"]
    found = call.sandboxes.store.vault.secret(call.owner, name)
    if found is None:
        raise ClientError(404, f"secret {name[:80]!r} does not exist")
    return found


async def create(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    name, value, metadata = bodies.take(body, "name", str), _value(body), _metadata(body)
    if not _NAME.fullmatch(name):
        raise ClientError(400, "name is not 1 to 128 characters without '{', '}' and control characters")
    vault, most = call.sandboxes.store.vault, call.settings.most_sandboxes
    if sum(1 for _ in vault.secrets(call.owner)) >= most:
        raise ClientError(429, f"this key has {most} secrets, its limit")
    try:
        return JSONResponse(_shown(vault.add_secret(call.owner, name, value, metadata)), 201)
    except Duplicate:
        raise ClientError(409, f"a secret of this key is named {name[:80]!r}") from None


async def update(call: Call) -> Response:
    body = await bodies.read_json(call.request)
    metadata = _metadata(body) if body.get("metadata") is not None else None
    return JSONResponse(_shown(call.sandboxes.store.vault.update_secret(_found(call), _value(body), metadata)))


async def detail(call: Call) -> Response:
    return JSONResponse(_shown(_found(call)))


async def pages(call: Call) -> Response:
    items, headers = page(call, call.sandboxes.store.vault.secrets(call.owner, after(call)))
    return JSONResponse([_shown(each) for each in items], headers=headers)


async def remove(call: Call) -> Response:
    call.sandboxes.store.vault.remove_secret(_found(call))
    return Response(status_code=204)


def of_rules(network: dict[str, Any], value_of: Callable[[str], str | None]) -> dict[str, Secret]:
    """What *rules* of a network add to requests: headers for hosts, whose texts name secrets.

    :param value_of: a secret's value by its name
    :raises ClientError: a rule cannot be read, or names a secret that is not there
    """
    found: dict[tuple[str, str], Secret] = {}
    for host, rules in bodies.take(network, "rules", dict, {}).items():
        if not isinstance(rules, list) or not all(isinstance(each, dict) for each in rules):
            raise ClientError(400, f"rules of {host[:80]!r} are not a list of objects")
        for rule in rules:
            for name, text in bodies.texts(bodies.take(rule, "transform", dict, {}), "headers").items():
                try:
                    found[host, name.lower()] = Secret(_filled(text, value_of), [host], header=name)
                except UsageError as error:
                    raise ClientError(400, f"rules of {host[:80]!r}: {error}") from error
    if len(found) > _MOST_RULES:
        raise ClientError(400, f"rules have more than {_MOST_RULES} headers")
    return {f"header{number}": each for number, each in enumerate(found.values())}


def _filled(text: str, value_of: Callable[[str], str | None]) -> str:
    def value(match: re.Match[str]) -> str:
        found = value_of(match[1])
        if found is None:
            raise ClientError(400, f"secret {match[1][:80]!r} does not exist")
        return found

    if len(text) > _LONGEST_HEADER:  # each name in it becomes a value that can be much longer
        raise ClientError(400, f"a header has more than {_LONGEST_HEADER} characters")
    if _OTHER_REFERENCE in _REFERENCE.sub("", text):
        raise not_there("a header with something else of E2B's than a secret")
    return _REFERENCE.sub(value, text)
