"""Contents of files: ``GET`` and ``POST /files``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import mmap
import tempfile
import time
from typing import IO, TYPE_CHECKING, Any, cast

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse, Response, StreamingResponse

from pyvmm_server import bodies, threads
from pyvmm_server.errors import ClientError, not_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from pyvmm_sandbox.files import Files
    from pyvmm_server.session import Session

_SPOOL = 1 << 20
MOST_FILES = 1000


def signature(path: str, operation: str, user: str, token: str, expiration: str) -> str:
    """Of an URL that is used without the sandbox's token."""
    parts = [path, operation, user, token, *([expiration] if expiration else [])]
    digest = hashlib.sha256(":".join(parts).encode(errors="replace")).digest()
    return "v1_" + base64.b64encode(digest).rstrip(b"=").decode()


def is_signed(request: Request, token: str) -> bool:
    """Whether the URL has a signature of the sandbox with this token, which has not expired."""
    query = request.query_params
    expiration = query.get("signature_expiration", "")
    if expiration and not (expiration.isascii() and expiration.isdigit() and len(expiration) <= 15):
        return False
    if expiration and int(expiration) < time.time():
        return False
    operation = "read" if request.method == "GET" else "write"
    wanted = signature(query.get("path", ""), operation, query.get("username", ""), token, expiration)
    return hmac.compare_digest(wanted.encode(), query.get("signature", "").encode(errors="replace"))


async def download(session: Session, request: Request) -> Response:
    """The content of a file."""
    user = await session.user(request.query_params.get("username", ""))
    path = user.path(request.query_params.get("path", ""))
    return await content(session.users.files(user), path)


async def content(files: Files, path: str) -> Response:
    """
    :raises OSError: it cannot be read
    """
    parts = files.stream(path)
    first = await threads.call(next, parts, b"")
    return StreamingResponse(_parts(first, parts), media_type="application/octet-stream")


async def _parts(first: bytes, parts: Any) -> AsyncIterator[bytes]:
    try:
        yield first
        async for part in threads.each(parts):
            yield part
    finally:
        await threads.call(parts.close)


async def upload(session: Session, request: Request) -> Response:
    """Write files: each as a whole, or not at all."""
    if any(name.startswith("x-metadata-") for name in request.headers):
        raise not_there("metadata of files")
    user = await session.user(request.query_params.get("username", ""))
    files = session.users.files(user)
    path = request.query_params.get("path", "")
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    written: list[str] = []
    if kind == "multipart/form-data":
        async for name, file in _form(request, path, session.settings.most_upload):
            written.append(user.path(name))
            await threads.call(_write, files, written[-1], file)
    elif kind in ("application/octet-stream", ""):
        if not path:
            raise ClientError(400, "path is missing")
        with tempfile.TemporaryFile() as file:
            async for part in _content(request, session.settings.most_upload):
                await threads.call(file.write, part)
            written.append(user.path(path))
            await threads.call(_write, files, written[-1], file)
    else:
        raise ClientError(415, f"the content type {kind[:80]!r} is not one of files")
    found = [{"name": each.rpartition("/")[2], "type": "file", "path": each} for each in written]
    return JSONResponse(found)


def _content(request: Request, most: int) -> AsyncIterator[bytes]:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding not in ("gzip", "identity"):
        raise ClientError(415, f"the content encoding {encoding[:80]!r} is not gzip")
    parts = bodies.stream(request, most)
    return bodies.unzipped(parts, most) if encoding == "gzip" else parts


async def _form(request: Request, path: str, most: int) -> AsyncIterator[tuple[str, IO[bytes]]]:
    """The name and the content of each file; *path* is the name of the only one."""
    receive = request.receive
    size = 0

    async def bounded() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise ClientError(413, f"the request is larger than {most} bytes", code="resource_exhausted")
        return message

    request._receive = bounded
    try:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FILES) as form:
            uploads = [each for _, each in form.multi_items() if isinstance(each, UploadFile)]
            if not uploads:
                raise ClientError(400, "the form has no file")
            if path and len(uploads) > 1:
                raise ClientError(400, "path names one file, but there are several")
            for each in uploads:
                if not (path or each.filename):
                    raise ClientError(400, "a file has no name")
                yield path or each.filename or "", each.file
    except MultiPartException as error:
        raise ClientError(400, error.message) from error


def _write(files: Files, path: str, file: IO[bytes]) -> None:
    file.flush()
    file.seek(0, 2)
    size = file.tell()
    if size <= _SPOOL:
        file.seek(0)
        files.write(path, file.read())
        return
    # The library reads any buffer. Pages of a file can be dropped, unlike a copy of it.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        files.write(path, cast(bytes, memoryview(content)))
