"""What the metadata service serves: a JSON document, and the tokens of version 2."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from pyvmm_firecracker.fault import Fault

LIMIT = 51200
"""Bytes of the document, unless ``--mmds-size-limit`` is given."""
ADDRESS = "169.254.169.254"
LEAST_TTL, MOST_TTL = 1, 21600
"""Seconds that a token is valid."""
_SIGNATURE = 32


class NotFoundError(Exception):
    """The document has no such value."""


class UnsupportedError(Exception):
    """A value of a type that text cannot show."""


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396: *target* as *patch* changes it; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merge(made.get(name), value)
    return made


def compact(value: Any) -> str:
    """JSON without white space, names in their order.

    :raises ValueError: it has numbers or text that JSON has not
    """
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


class Mmds:
    """The document.  Any thread.

    :param name: of the instance
    :param limit: bytes of the document
    :param clock: of seconds
    :ivar version: 1 or 2
    :ivar counts: of frames and connections, under Firecracker's names
    :ivar is_imds: answers are text, whatever the client accepts
    """

    def __init__(self, name: str, limit: int = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name.encode(), clock
        self.limit = limit
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._data: Any = None
        self.version = 1
        self.counts = dict.fromkeys(
            ("rx_count", "rx_accepted", "tx_frames", "tx_bytes", "connections_created", "connections_destroyed"), 0
        )
        self.is_imds = False

    # -- for the API ---------------------------------------------------------------------------------------------------

    def put(self, value: Any) -> None:
        """Replace the document.

        :raises Fault: it is too large
        """
        self._check(value)
        with self._lock:
            self._data = value

    def patch(self, value: Any) -> None:
        """Change the document (RFC 7396).

        :raises Fault: there is none, or it would become too large
        """
        with self._lock:
            if self._data is None:
                raise Fault("The MMDS data store is not initialized.")
            merged = merge(self._data, value)
            self._check(merged)
            self._data = merged

    def _check(self, value: Any) -> None:
        try:
            size = len(compact(value).encode())
        except ValueError as error:
            raise Fault(f"An error occurred when deserializing the json body of a request: {error}.") from error
        if size > self.limit:
            raise Fault(f"The MMDS patch request doesn't fit: {size} bytes of at most {self.limit}.", 413)

    def get(self) -> Any:
        """The document; an empty one if there is none."""
        with self._lock:
            return {} if self._data is None else self._data

    # -- for the guest -------------------------------------------------------------------------------------------------

    def find(self, path: str, *, as_json: bool) -> str:
        """The value at a path (RFC 6901), as JSON or as text: a map as the names in it, those of maps with a ``/``.

        :raises NotFoundError: there is none
        :raises UnsupportedError: it is neither a map nor text
        """
        value = self._at(re.sub("/+", "/", path).removesuffix("/"))
        if as_json:
            return compact(value)
        if isinstance(value, dict):
            return "\n".join(f"{name}/" if isinstance(value[name], dict) else name for name in sorted(value))
        if isinstance(value, str):
            return value
        raise UnsupportedError

    def _at(self, path: str) -> Any:
        with self._lock:
            value = self._data
        if value is None:
            raise NotFoundError
        for part in path.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,8}", name) and int(name) < len(value):
                value = value[int(name)]
            else:
                raise NotFoundError
        return value

    def new_token(self, seconds: int) -> str:
        """A token that is valid so long.

        :raises ValueError: not 1 to 21600 seconds
        """
        if not LEAST_TTL <= seconds <= MOST_TTL:
            raise ValueError(
                f"Invalid time to live value provided for token: {seconds}. "
                f"Please provide a value between {LEAST_TTL} and {MOST_TTL}."
            )
        end = int((self._clock() + seconds) * 1000).to_bytes(8, "big") + secrets.token_bytes(8)
        return (end + self._sign(end)).hex()

    def _sign(self, end: bytes) -> bytes:
        return hmac.digest(self._key, self._name + b"\0" + end, hashlib.sha256)

    def is_valid(self, token: str) -> bool:
        """Whether this instance has made it, and it has not expired."""
        try:
            raw = bytes.fromhex(token) if token.isascii() and len(token) == 2 * (16 + _SIGNATURE) else b""
        except ValueError:
            return False
        if not raw or not hmac.compare_digest(self._sign(raw[:16]), raw[16:]):
            return False
        return int.from_bytes(raw[:8], "big") > self._clock() * 1000
