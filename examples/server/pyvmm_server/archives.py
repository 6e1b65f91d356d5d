"""Files that clients upload for their builds: archives, which are unpacked inside sandboxes only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
import time
from collections import Counter
from typing import TYPE_CHECKING

from pyvmm_server import bodies, threads
from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyvmm_server.settings import Settings

_HASH = re.compile(r"[0-9a-f]{64}")
_VALID_S = 3600
_MOST_UPLOADS = 16
"""Of a key at the same time."""
_MOST_ARCHIVES = 2
"""Times the size of the largest, for all of a key."""


class Archives:
    """Each key has archives of its own, by the hash that its client has chosen."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = secrets.token_bytes(32)
        self._folder = os.path.join(settings.state, "files")
        self._parts = os.path.join(settings.state, "uploads")
        self._uploads: Counter[str] = Counter()
        shutil.rmtree(self._parts, ignore_errors=True)

    def find(self, owner: str, name: str) -> str:
        """The path of an archive; empty: there is none."""
        path = self._path(owner, name)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # it is among the last that are removed
            return path
        return ""

    def query(self, template: str, name: str) -> str:
        """The query of an URL that its client may upload to without a key."""
        expires = str(int(time.time()) + _VALID_S)
        return f"expires={expires}&signature={self._sign(template, name, expires)}"

    def check(self, request: Request, template: str, name: str) -> None:
        """
        :raises ClientError: the URL is not signed, or its time is over
        """
        expires, sent = (request.query_params.get(each, "") for each in ("expires", "signature"))
        good = hmac.compare_digest(self._sign(template, name, expires).encode(), sent.encode(errors="replace"))
        if not good or int(expires) < time.time():
            raise ClientError(403, "the URL of the upload is not valid (any more)")

    async def receive(self, owner: str, name: str, request: Request) -> None:
        """Keep what a request has; the oldest archives of a key make room.

        :raises ClientError: it is too large, or there are too many at the same time
        """
        if self._uploads[owner] >= _MOST_UPLOADS:
            raise ClientError(429, f"this key has {_MOST_UPLOADS} uploads at the same time, its limit")
        final = self._path(owner, name)
        for folder in (self._parts, os.path.dirname(final)):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        self._uploads[owner] += 1
        part_fd, part_path = tempfile.mkstemp(dir=self._parts)
        try:
            with open(part_fd, "wb") as file:
                async for part in bodies.stream(request, self._settings.most_upload):
                    await threads.call(file.write, part)
                if not file.tell():
                    raise ClientError(400, "the archive is empty")
            os.rename(part_path, final)
        finally:
            self._uploads[owner] -= 1
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part_path)
        await threads.call(self._make_room, os.path.dirname(final))

    def _make_room(self, folder: str) -> None:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda each: each.stat().st_mtime, reverse=True)
        left = _MOST_ARCHIVES * self._settings.most_upload
        for each in found:
            left -= each.stat().st_size
            if left < 0:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(each.path)

    def _path(self, owner: str, name: str) -> str:
        if not _HASH.fullmatch(name):
            raise ClientError(400, "the hash of the files is not 64 hexadecimal digits")
        return os.path.join(self._folder, owner, name)

    def _sign(self, template: str, name: str, expires: str) -> str:
        text = f"{template}:{name}:{expires}".encode(errors="replace")
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()
