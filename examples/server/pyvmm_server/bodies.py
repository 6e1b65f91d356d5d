"""Bodies of requests: bounded, and checked for their types."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

from pyvmm_server.errors import ClientError
from pyvmm_server.settings import MOST_JSON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request

Kind = TypeVar("Kind")
_MISSING: Any = object()


async def read(request: Request, most: int = MOST_JSON) -> bytes:
    """
    :raises ClientError: it is larger
    """
    parts = [part async for part in stream(request, most)]
    return b"".join(parts)


async def stream(request: Request, most: int) -> AsyncIterator[bytes]:
    """The same in pieces."""
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise ClientError(413, f"the request is larger than {most} bytes", code="resource_exhausted")
        yield part


async def unzipped(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """The content of a gzip stream.

    :raises ClientError: it is damaged, or larger
    """
    size = 0
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        async for part in parts:
            while part:
                got = inflate.decompress(part, 1 << 20)
                part = inflate.unconsumed_tail
                size += len(got)
                if size > most:
                    raise ClientError(413, f"the content is larger than {most} bytes", code="resource_exhausted")
                yield got
    except zlib.error as error:
        raise ClientError(400, f"the body is not gzip: {error}") from error
    if not inflate.eof:
        raise ClientError(400, "the gzip body is not complete")


async def read_json(request: Request) -> dict[str, Any]:
    """An object; an empty body is an empty one.

    :raises ClientError: it is none
    """
    return parse(await read(request))


def parse(data: bytes) -> dict[str, Any]:
    """
    :raises ClientError: it is no JSON object
    """
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError) as error:
        raise ClientError(400, f"the body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ClientError(400, "the body is not a JSON object")
    return found


def take(body: Mapping[str, Any], name: str, kind: type[Kind], default: Kind = _MISSING) -> Kind:
    """A field.

    :param default: for a field that is missing or null
    :raises ClientError: it has another type, or is missing without a default
    """
    value = body.get(name)
    if value is None:
        if default is _MISSING:
            raise ClientError(400, f"{name} is missing")
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ClientError(400, f"{name} is not of type {kind.__name__}")
    return value


def texts(body: Mapping[str, Any], name: str) -> dict[str, str]:
    """A field that maps strings to strings.

    :raises ClientError: it is something else
    """
    found = take(body, name, dict, {})
    if not all(isinstance(value, str) for value in found.values()):
        raise ClientError(400, f"{name} has values that are not strings")
    return found
