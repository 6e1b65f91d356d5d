"""E2B's control interface: lists, in pages."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote

from starlette.responses import Response

from pyvmm_server import store
from pyvmm_server.calls import listed
from pyvmm_server.errors import ClientError
from pyvmm_server.store import Record, Snapshot
from pyvmm_server.vault import Kept

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyvmm_server.calls import Call

PAGE = 100
Item = TypeVar("Item", Record, Snapshot, Kept)


def after(call: Call) -> tuple[float, str] | None:
    """The time and the id of the last item of the page before; None: this is the first one.

    :raises ClientError: the token is none of this server
    """
    text = call.request.query_params.get("nextToken", "")
    try:
        moment, _, last = base64.urlsafe_b64decode(text).decode("ascii").partition(" ")
        return (float(moment), last) if text else None
    except (binascii.Error, ValueError) as error:
        raise ClientError(400, "nextToken is not one of this server") from error


def page(call: Call, items: Iterator[Item]) -> tuple[list[Item], dict[str, str]]:
    """A page, and the header with the token of the next one.

    :raises ClientError: the limit is none
    """
    text = call.request.query_params.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text)):
        raise ClientError(400, f"limit {text[:80]!r} is not a positive number")
    found = list(islice(items, min(int(text), PAGE)))
    if next(items, None) is None:
        return found, {}
    last = found[-1]
    moment = last.started if isinstance(last, Record) else last.created
    return found, {"x-next-token": base64.urlsafe_b64encode(f"{moment!r} {last.id}".encode()).decode()}


def _filter(call: Call, found: Iterator[Record]) -> Iterator[Record]:
    query = call.request.query_params
    wanted = {unquote(name): unquote(value) for name, value in parse_qsl(query.get("metadata", ""))}
    template = query.get("template", "")
    begin = _started_after(query.get("startedAfter", ""))
    if not (wanted or template or begin):
        return found
    return (
        each
        for each in found
        if wanted.items() <= each.metadata.items()
        and template in ("", each.template)
        and (begin is None or each.started > begin)
    )


def _started_after(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError) as error:
        raise ClientError(400, f"startedAfter {text[:80]!r} is not a time") from error


async def pages(call: Call) -> Response:
    """``GET /v2/sandboxes``."""
    query = call.request.query_params
    states = [state for each in query.getlist("state") for state in each.split(",")] or [store.RUNNING, store.PAUSED]
    if set(states) - {store.RUNNING, store.PAUSED, store.LOST}:
        raise ClientError(400, "state is not one of running, paused, lost")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ClientError(400, f"order {order[:80]!r} is not asc or desc")
    all_of_key = call.sandboxes.store.walk(call.owner, states, after(call), newest_first=order == "desc")
    items, headers = page(call, _filter(call, all_of_key))
    return _answer(items, headers)


async def running(call: Call) -> Response:
    """``GET /sandboxes``."""
    all_of_key = call.sandboxes.store.walk(call.owner, [store.RUNNING], None, newest_first=False)
    return _answer(_filter(call, all_of_key))


def _answer(items: Iterable[Record], headers: dict[str, str] | None = None) -> Response:
    return Response(b"[%s]" % b",".join(map(_row, items)), media_type="application/json", headers=headers)


def _row(record: Record) -> bytes:
    """The JSON of a sandbox, which is made once for each change of its record."""
    if (found := record.kept.get("listed")) is None:
        found = record.kept["listed"] = json.dumps(listed(record), separators=(",", ":")).encode()
    return found
