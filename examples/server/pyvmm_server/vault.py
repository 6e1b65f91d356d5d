"""Secrets and volumes of clients, in the database, and the folders of volumes."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm_kata.bundle import images

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyvmm_server.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS secrets (
    id TEXT PRIMARY KEY, owner TEXT, name TEXT, value TEXT, version INTEGER, metadata TEXT, created REAL, updated REAL,
    UNIQUE (owner, name)
) STRICT;
CREATE TABLE IF NOT EXISTS volumes (
    id TEXT PRIMARY KEY, owner TEXT, name TEXT, token TEXT, created REAL, UNIQUE (owner, name)
) STRICT;
"""
_GONE = "deleted-"
_ID = re.compile(r"[0-9a-f]{20}")


@dataclass(frozen=True)
class Kept:
    """A secret, whose value is read by :meth:`Vault.value` only.

    :ivar version: the number of its values so far
    """

    id: str
    name: str
    version: int
    metadata: dict[str, str]
    created: float
    updated: float


@dataclass(frozen=True)
class Volume:
    """A folder that sandboxes share.

    :ivar token: opens its files without a sandbox
    """

    id: str
    owner: str
    name: str
    token: str
    created: float


class Vault:
    """
    :param db: with :data:`SCHEMA`
    :param folder: of the volumes
    """

    def __init__(self, db: Database, folder: str) -> None:
        self._db = db
        self._folder = folder

    # -- secrets -----------------------------------------------------------------------------------------------------

    def add_secret(self, owner: str, name: str, value: str, metadata: Mapping[str, str]) -> Kept:
        """
        :raises Duplicate: the key has one of this name
        """
        now = time.time()
        made = Kept(secrets.token_hex(10), name, 1, dict(metadata), now, now)
        values = [made.id, owner, name, value, 1, json.dumps(made.metadata), now, now]
        self._db.execute("INSERT INTO secrets VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
        return made

    def update_secret(self, found: Kept, value: str, metadata: Mapping[str, str] | None) -> Kept:
        """Store a new value.

        :param metadata: None: they stay
        """
        text = json.dumps(dict(found.metadata if metadata is None else metadata))
        self._db.execute(
            "UPDATE secrets SET value = ?, version = version + 1, metadata = ?, updated = ? WHERE id = ?",
            [value, text, time.time(), found.id],
        )
        return next(self._secrets("id = ?", found.id))

    def secret(self, owner: str, name: str) -> Kept | None:
        """By its id or name."""
        by_name = self._secrets("owner = ? AND name = ?", owner, name)
        return next(self._secrets("owner = ? AND id = ?", owner, name), None) or next(by_name, None)

    def value(self, owner: str, name: str) -> str | None:
        """The value of a secret, by its name."""
        row = self._db.execute("SELECT value FROM secrets WHERE owner = ? AND name = ?", [owner, name]).fetchone()
        return None if row is None else str(row[0])

    def secrets(self, owner: str, after: tuple[float, str] | None = None) -> Iterator[Kept]:
        """The newest first.

        :param after: begin behind this creation and id
        """
        moment, last = after or (float("inf"), "")
        return self._secrets("owner = ? AND (created, id) < (?, ?) ORDER BY created DESC, id DESC", owner, moment, last)

    def remove_secret(self, found: Kept) -> None:
        self._db.execute("DELETE FROM secrets WHERE id = ?", [found.id])

    def _secrets(self, where: str, *values: object) -> Iterator[Kept]:
        text = f"SELECT id, name, version, metadata, created, updated FROM secrets WHERE {where}"
        for row in self._db.execute(text, values):
            yield Kept(row[0], row[1], row[2], json.loads(row[3]), row[4], row[5])

    # -- volumes -----------------------------------------------------------------------------------------------------

    def folder(self, volume_id: str) -> str:
        """Where the files of a volume are."""
        return os.path.join(self._folder, volume_id)

    def add_volume(self, owner: str, name: str) -> Volume:
        """
        :raises Duplicate: the key has one of this name
        :raises OSError: its folder cannot be made; there is no volume then
        """
        made = Volume(secrets.token_hex(10), owner, name, secrets.token_hex(32), time.time())
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        folder = self.folder(made.id)
        os.mkdir(folder)
        try:
            os.chmod(folder, 0o777)  # all users of a sandbox; on this host, the folder above is the server's alone
            values = [made.id, owner, name, made.token, made.created]
            self._db.execute("INSERT INTO volumes VALUES (?, ?, ?, ?, ?)", values)
        except BaseException:
            os.rmdir(folder)
            raise
        return made

    def volume(self, owner: str, volume_id: str) -> Volume | None:
        return next(self._volumes("owner = ? AND id = ?", owner, volume_id), None)

    def volume_named(self, owner: str, name: str) -> Volume | None:
        return next(self._volumes("owner = ? AND name = ?", owner, name), None)

    def volumes(self, owner: str) -> list[Volume]:
        return [*self._volumes("owner = ? ORDER BY created, id", owner)]

    def remove_volume(self, volume: Volume) -> str:
        """Remove a volume that no sandbox has; the path of its files, which are still to be removed.

        :raises OSError: it cannot be removed
        """
        gone = os.path.join(self._folder, _GONE + volume.id)
        try:
            os.rename(self.folder(volume.id), gone)
        except FileNotFoundError:
            pass  # somebody has removed it by hand
        self._db.execute("DELETE FROM volumes WHERE id = ?", [volume.id])
        return gone

    def unfinished(self) -> list[str]:
        """Paths of files of volumes whose removal an earlier server has begun.  A folder that merely has no record is
        nobody's to remove: the records may be those that are lost."""
        try:
            names = [each.removeprefix(_GONE) for each in os.listdir(self._folder) if each.startswith(_GONE)]
        except FileNotFoundError:
            return []
        found = [each for each in names if _ID.fullmatch(each)]
        for each in found:
            self._db.execute("DELETE FROM volumes WHERE id = ?", [each])
        return [os.path.join(self._folder, _GONE + each) for each in found]

    def _volumes(self, where: str, *values: object) -> Iterator[Volume]:
        for row in self._db.execute(f"SELECT id, owner, name, token, created FROM volumes WHERE {where}", values):
            yield Volume(*row)


def remove_files(folder: str) -> None:
    """Remove what :meth:`Vault.remove_volume` has left.  Blocks."""
    # A program of its own: folders in folders can be more than this process has descriptors
    subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL)
    images.remove(folder)
