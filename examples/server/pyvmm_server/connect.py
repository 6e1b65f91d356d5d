"""The Connect protocol with JSON messages: https://connectrpc.com/docs/protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import JSONResponse, Response, StreamingResponse

from pyvmm_server import bodies
from pyvmm_server.errors import CODES, ClientError, describe
from pyvmm_server.settings import MOST_INPUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator

    from starlette.requests import Request

Part = TypeVar("Part")
UNARY, STREAM = "application/json", "application/connect+json"
_HEAD = struct.Struct(">BI")
_COMPRESSED, _END = 1, 2
_open: set[asyncio.Task[Any]] = set()
"""Tasks that send streams."""


def failure(error: ClientError) -> Response:
    """The answer to a call without streams."""
    return JSONResponse({"code": error.code, "message": error.message}, CODES.get(error.code, error.status))


def timeout_of(request: Request) -> float | None:
    """The client's deadline, in seconds from now; None: there is none.

    :raises ClientError: it is no number
    """
    text = request.headers.get("connect-timeout-ms", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ClientError(400, "Connect-Timeout-Ms is not a number of at most 10 digits")
    return int(text) / 1000 or None


class Waits:
    """How long a client waits for the next part of a stream, and for its end."""

    def __init__(self, request: Request) -> None:
        text = request.headers.get("keepalive-ping-interval", "")
        number = text.isascii() and text.isdigit() and len(text) <= 10
        self._ping = min(max(float(text), 1.0), 3600.0) if number else 90.0
        limit = timeout_of(request)
        self._ends = None if limit is None else time.monotonic() + limit

    async def next(self, part: Coroutine[Any, Any, Part]) -> Part | None:
        """The next part; None: the client wants a sign of life.

        :raises ClientError: the client's time is over
        """
        left = self._ping if self._ends is None else min(self._ping, self._ends - time.monotonic())
        try:
            return await asyncio.wait_for(part, left)
        except TimeoutError:
            if self._ends is not None and time.monotonic() >= self._ends:
                raise ClientError(504, "the time of the request is over") from None
            return None


async def messages(request: Request, most: int) -> AsyncIterator[dict[str, Any]]:
    """The messages of a request.

    :param most: bytes of all of them
    :raises ClientError: it is no such request
    """
    buffer = bytearray()
    async for part in bodies.stream(request, most):
        buffer += part
        while len(buffer) >= _HEAD.size:
            flags, size = _HEAD.unpack_from(buffer)
            if flags & _COMPRESSED:
                raise ClientError(501, "compressed messages are not supported")
            if size > MOST_INPUT:
                raise ClientError(413, f"a message is larger than {MOST_INPUT} bytes", code="resource_exhausted")
            if len(buffer) < _HEAD.size + size:
                break
            data = bytes(buffer[_HEAD.size : _HEAD.size + size])
            del buffer[: _HEAD.size + size]
            if not flags & _END:
                yield bodies.parse(data)
    if buffer:
        raise ClientError(400, "the last message is not complete")


def check_type(request: Request, wanted: str) -> None:
    """
    :raises ClientError: the body has another type
    """
    found = request.headers.get("content-type", "").partition(";")[0].strip()
    if found != wanted:
        raise ClientError(415, f"the content type is {found[:80]!r}, and not {wanted}", code="invalid_argument")


async def unary(request: Request, most: int) -> dict[str, Any]:
    """The message of a call without streams.

    :raises ClientError: there is none
    """
    return bodies.parse(await bodies.read(request, most))


async def only_message(request: Request) -> dict[str, Any]:
    """The message of a request for a stream.

    :raises ClientError: there is none
    """
    async for message in messages(request, MOST_INPUT):
        return message
    raise ClientError(400, "the request has no message")


async def failing(error: Exception) -> AsyncGenerator[dict[str, Any]]:
    """A stream that is only an error."""
    raise error
    yield {}


async def only(answer: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """A stream of one message."""
    yield answer


def streamed(answers: AsyncGenerator[dict[str, Any]]) -> Response:
    """An answer with a stream; its errors are part of it."""
    return StreamingResponse(_envelopes(answers), media_type=STREAM)


async def _envelopes(answers: AsyncGenerator[dict[str, Any]]) -> AsyncIterator[bytes]:
    end: dict[str, Any] = {}
    task = asyncio.current_task()
    assert task is not None
    _open.add(task)
    try:
        async with contextlib.aclosing(answers) as each:
            async for answer in each:
                yield _envelope(0, answer)
    except Exception as error:
        found = describe(error)
        end = {"error": {"code": found.code, "message": found.message}}
    except asyncio.CancelledError:
        if task in _open:
            raise  # the client has left
        task.uncancel()
        end = {"error": {"code": "unavailable", "message": "the server ends; its sandboxes go on"}}
    finally:
        _open.discard(task)
    yield _envelope(_END, end)


@contextlib.contextmanager
def until_exit() -> Iterator[None]:
    """A stream without an end of its own, in a task of its own: the block ends when the server does."""
    task = asyncio.current_task()
    assert task is not None
    _open.add(task)
    try:
        yield
    except asyncio.CancelledError:
        if task in _open:
            raise  # the client has left
        task.uncancel()
    finally:
        _open.discard(task)


def end_all() -> None:
    """End all streams: the server ends."""
    while _open:
        _open.pop().cancel()


def _envelope(flags: int, message: dict[str, Any]) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(flags, len(data)) + data
