"""What the administrator has chosen."""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVD_VERSION = "0.6.1"
"""Chooses what clients use: newer ones than 0.6.1 keep metadata of files, which this server does not."""
MOST_JSON = 1 << 20
MOST_INPUT = 8 << 20
"""Bytes of a call's body, in Base64 as far as it has data."""


@dataclass(frozen=True)
class Settings:
    """The options of ``pyvmm serve``.

    :ivar state: the folder with the server's records and snapshots
    :ivar database: the URL of PostgreSQL, which has the records then
    :ivar templates: names for clients, and what each means: an image's name, or the absolute path of a template or of a
        root file system
    :ivar keys: hashes of the API keys; empty: any key is accepted, and each has sandboxes of its own
    :ivar admins: hashes of the administrator's keys, which read figures of all
    :ivar domain: of the sandboxes' own services: ``PORT-ID.DOMAIN``
    :ivar hosts: more names under which clients address the server itself
    :ivar suspend_paused: paused sandboxes are on disk, and not in memory
    :ivar memory: in MiB
    :ivar most_sandboxes: of a key; it may have as many snapshots, builds and tags of templates
    :ivar most_upload: bytes of a request with files
    :ivar most_build: seconds of the steps of a template
    :ivar config: ``kata.toml``
    :ivar root: where the states of containers are
    :ivar cluster: names this server to the nodes of its cluster
    """

    state: str
    templates: Mapping[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    admins: frozenset[str] = frozenset()
    domain: str = "localhost"
    hosts: tuple[str, ...] = ()
    suspend_paused: bool = False
    cpus: float = 1
    memory: int = 512
    network: str = "user"
    most_sandboxes: int = 1000
    most_upload: int = 4 << 30
    most_build: float = 3600
    config: str = ""
    root: str = ""
    log_requests: bool = False
    cluster: str = ""
    database: str = ""

    @property
    def bundles(self) -> str:
        """The folder with the files of sandboxes from templates."""
        return os.path.join(self.state, "bundles")

    def owner_of(self, key: str) -> str | None:
        """The name under which a key's sandboxes are recorded; None: the key is wrong."""
        if not key:
            return None
        found = hash_of(key)
        return found if not self.keys or _is_in(found, self.keys) else None

    def is_admin(self, key: str) -> bool:
        """Whether it is a key of the administrator.  Without any, all who use the server are, if any key is accepted:
        it listens on a loopback address then."""
        return _is_in(hash_of(key), self.admins) if self.admins else not self.keys


def _is_in(found: str, known: frozenset[str]) -> bool:
    found_in = [hmac.compare_digest(found, each) for each in known]  # all of them, so that the time reveals nothing
    return any(found_in)


def hash_of(key: str) -> str:
    """What the server keeps of an API key."""
    return hashlib.sha256(b"pyvmm-server:" + key.encode(errors="replace")).hexdigest()
