"""What the server has promised, in SQLite: it outlives the server."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import sqlite3
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pyvmm_server import build_records, places, vault
from pyvmm_server.build_records import BuildRecords
from pyvmm_server.index import Index
from pyvmm_server.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Phase = tuple[str, float, float]
"""Of a start: its name, its begin and its end, in seconds of CLOCK_MONOTONIC, as the steps of the sandbox library."""
CREATING, RUNNING, PAUSED, ENDING, LOST = "creating", "running", "paused", "ending", "lost"
_JSON = ("metadata", "envs", "phases", "volumes")
_LARGE_LOG = 2 << 20
"""Bytes after which it is moved into the database."""
_MOST_LOG = 16384
"""Pages after which a change does that itself."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sandboxes (
    id TEXT PRIMARY KEY, owner TEXT, template TEXT, state TEXT, token TEXT, started REAL, ends REAL, metadata TEXT,
    envs TEXT, cpus REAL, memory INTEGER, internet INTEGER, auto_pause INTEGER, auto_resume INTEGER, request TEXT,
    context TEXT, user TEXT DEFAULT '', workdir TEXT DEFAULT '', parent TEXT DEFAULT '',
    phases TEXT DEFAULT '[]', node TEXT DEFAULT '', volumes TEXT DEFAULT '[]', saved TEXT DEFAULT '',
    holder TEXT DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS by_owner ON sandboxes (owner, started, id);
CREATE UNIQUE INDEX IF NOT EXISTS by_request ON sandboxes (owner, request) WHERE request <> '';
CREATE TABLE IF NOT EXISTS snapshots (
    id TEXT PRIMARY KEY, owner TEXT, sandbox TEXT, name TEXT, created REAL, cpus REAL, memory INTEGER, internet INTEGER,
    envs TEXT, context TEXT, user TEXT DEFAULT '', workdir TEXT DEFAULT '', node TEXT DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS by_name ON snapshots (owner, name) WHERE name <> '';
"""


@dataclass(frozen=True)
class Record:
    """A sandbox.

    :ivar owner: whose key made it
    :ivar state: ``creating``, ``running``, ``paused``, ``ending`` or ``lost`` (with its node)
    :ivar token: opens its files and commands
    :ivar ends: when its time is over; None: never, while it is paused
    :ivar memory: in MiB
    :ivar request: the idempotency key that made it
    :ivar context: of the code interpreter, for clients that name none
    :ivar user: of commands and files, for clients that name none; empty: the usual one
    :ivar workdir: where commands start; empty: the home directory
    :ivar parent: the id of the sandbox of which it is a fork
    :ivar phases: of its start
    :ivar node: where it is; empty: on the server's own
    :ivar volumes: that it has: the id, the name and the path of each
    :ivar saved: the name of its memory on a node's disk, see :mod:`pyvmm_server.moving`; empty: it has none
    :ivar holder: the node that has saved it; empty: unknown
    """

    id: str
    owner: str
    template: str
    state: str
    token: str
    started: float
    ends: float | None
    metadata: dict[str, str] = field(default_factory=dict)
    envs: dict[str, str] = field(default_factory=dict)
    cpus: float = 1
    memory: int = 512
    internet: bool = True
    auto_pause: bool = False
    auto_resume: bool = False
    request: str = ""
    context: str = ""
    user: str = ""
    workdir: str = ""
    parent: str = ""
    phases: list[Phase] = field(default_factory=list)
    node: str = ""
    volumes: list[dict[str, str]] = field(default_factory=list)
    saved: str = ""
    holder: str = ""

    @property
    def is_on_disk(self) -> bool:
        """Whether it is in no node's memory, but saved."""
        return bool(self.saved) and not self.node

    @property
    def name(self) -> str:
        """Of the detached sandbox."""
        return f"e2b-{self.id}"

    @functools.cached_property
    def kept(self) -> dict[str, bytes]:
        """What others have made of this record and keep with it: a change makes another record."""
        return {}


@dataclass(frozen=True)
class Snapshot:
    """A saved sandbox; see :class:`Record`.

    :ivar sandbox: the id of that which was saved
    :ivar name: empty: it has none
    :ivar node: that has saved it; empty: this one
    """

    id: str
    owner: str
    sandbox: str
    name: str
    created: float
    cpus: float
    memory: int
    internet: bool
    envs: dict[str, str] = field(default_factory=dict)
    context: str = ""
    user: str = ""
    workdir: str = ""
    node: str = ""


class Store:
    """The tables.  A change is in the file when its call returns, so that it outlives the server's process.

    :ivar builds: those of builds of templates
    :ivar vault: secrets and volumes
    :ivar places: the nodes of the sandboxes
    :param folder: where the file is; made if need be
    :raises OSError: it cannot be made, or another server uses it
    :raises sqlite3.Error: the file is damaged
    """

    def __init__(self, folder: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # A lock of a process, which those that it forks do not have: the machines outlive the server.
        self._lock = open(os.path.join(folder, "lock"), "wb")  # noqa: SIM115
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(error.errno, "another server uses it", folder) from error
        self._path = os.path.join(folder, "server.db")
        self._db = sqlite3.connect(self._path, isolation_level=None)
        os.chmod(self._path, 0o600)  # it has the values of secrets; the log's file gets the same rights
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a machine that loses power loses its sandboxes, too
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_MOST_LOG}")  # see checkpoint()
        self._db.executescript(_SCHEMA + build_records.SCHEMA + vault.SCHEMA)
        self._add_columns()
        self._db.execute(places.INDEX)
        self.builds = BuildRecords(self._db)
        self.vault = vault.Vault(self._db, os.path.join(folder, "volumes"))
        self._watchers: set[asyncio.Event] = set()
        self._index = Index(map(_record, self._db.execute("SELECT * FROM sandboxes")))
        self.places = Places(self._db, self._index, self._tell)

    def _add_columns(self) -> None:
        """Those that the tables of older servers lack."""
        newer, nodes = {"user": "''", "workdir": "''"}, {"node": "''", "saved": "''"}
        for table, columns in (
            ("sandboxes", {**newer, "parent": "''", "phases": "'[]'", "volumes": "'[]'", **nodes, "holder": "''"}),
            ("snapshots", {**newer, "node": "''"}),
            ("builds", {"node": "''"}),
        ):
            known = {row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")}
            for name in sorted(set(columns) - known):
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {name} TEXT DEFAULT {columns[name]}")

    @contextlib.contextmanager
    def watched(self, changed: asyncio.Event) -> Iterator[None]:
        """Set *changed* after each change of a sandbox or snapshot."""
        self._watchers.add(changed)
        try:
            yield
        finally:
            self._watchers.discard(changed)

    def _tell(self) -> None:
        for each in self._watchers:
            each.set()

    def add(self, record: Record | Snapshot) -> None:
        """
        :raises sqlite3.IntegrityError: one for the same request, or of the same name, is there
        """
        values = _row({name: getattr(record, name) for name in _NAMES[type(record)]})
        names, places = ", ".join(values), ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {_table(record)} ({names}) VALUES ({places})", list(values.values()))
        if isinstance(record, Record):
            self._index.put(record)
        self._tell()

    def replace(self, snapshot: Snapshot) -> list[str]:
        """Add a snapshot in the place of that with its name, both or none; the ids of those that it replaces."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            of_name = "FROM snapshots WHERE owner = ? AND name = ? AND name <> ''"
            mine = [snapshot.owner, snapshot.name]
            older = [row[0] for row in self._db.execute(f"SELECT id {of_name}", mine)]
            self._db.execute(f"DELETE {of_name}", mine)
            self.add(snapshot)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
        return older

    def change(self, sandbox_id: str, **values: Any) -> None:
        """Change fields of a sandbox, if there is one."""
        record = self._index.get(sandbox_id)
        if record is None:
            return
        changes = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE sandboxes SET {changes} WHERE id = ?", [*_row(values).values(), sandbox_id])
        self._index.put(replace(record, **values))
        self._tell()

    def remove(self, record: Record | Snapshot) -> None:
        self._db.execute(f"DELETE FROM {_table(record)} WHERE id = ?", [record.id])
        if isinstance(record, Record):
            self._index.drop(record.id)
        self._tell()

    def get(self, sandbox_id: str) -> Record | None:
        return self._index.get(sandbox_id)

    def of_request(self, owner: str, request: str) -> Record | None:
        """The sandbox that an idempotency key has made."""
        return self._index.of_request(owner, request)

    def in_states(self, *states: str, owner: str | None = None) -> list[Record]:
        """All in one of these states, in the order of their start."""
        return self._index.in_states(states, owner)

    def count(self, owner: str) -> int:
        """How many of a key are being started, run or are paused."""
        return self._index.count(owner, (CREATING, RUNNING, PAUSED))

    def with_volume(self, owner: str, volume_id: str) -> list[Record]:
        """Sandboxes of a key that have a volume, in any state: a lost one may still run."""
        found = self._index.in_states((CREATING, RUNNING, PAUSED, ENDING, LOST), owner)
        return [each for each in found if any(mount["id"] == volume_id for mount in each.volumes)]

    def due(self, now: float) -> list[Record]:
        """Running ones whose time is over."""
        return self._index.due(now)

    def next_end(self) -> float | None:
        """When the first running one's time is over."""
        return self._index.next_end()

    def counts(self) -> tuple[dict[str, int], list[int]]:
        """How many there are in each state, and how many each key has that run or are paused."""
        return self._index.states(), self._index.owners((RUNNING, PAUSED))

    def walk(
        self, owner: str, states: Sequence[str], after: tuple[float, str] | None, *, newest_first: bool
    ) -> Iterator[Record]:
        """Those of a key, in the order of their start.

        :param after: begin behind this start and id
        """
        return iter(self._index.walk(owner, states, after, newest_first=newest_first))

    def snapshots(self, owner: str, after: tuple[float, str] | None = None) -> Iterator[Snapshot]:
        """The newest first; see :meth:`walk`."""
        behind = "" if after is None else "AND (created, id) < (?, ?)"
        text = f"SELECT * FROM snapshots WHERE owner = ? {behind} ORDER BY created DESC, id DESC"
        return map(_snapshot, self._db.execute(text, [owner, *(after or ())]))

    def snapshot_ids(self) -> set[str]:
        """Of all keys."""
        return {row[0] for row in self._db.execute("SELECT id FROM snapshots")}

    def saved(self) -> set[str]:
        """The names of what nodes have saved of paused sandboxes."""
        return {row[0] for row in self._db.execute("SELECT saved FROM sandboxes WHERE saved <> ''")}

    def checkpoint(self) -> None:
        """Move what the log has into the database.  It waits for the disk: for a thread, so that no request does."""
        if os.path.getsize(self._path + "-wal") >= _LARGE_LOG:
            with contextlib.closing(sqlite3.connect(self._path)) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        self._db.close()
        self._lock.close()


def _table(record: Record | Snapshot) -> str:
    return "sandboxes" if isinstance(record, Record) else "snapshots"


def _row(values: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON else value for name, value in values.items()}


_FLAGS = ("internet", "auto_pause", "auto_resume")
_NAMES = {kind: [each.name for each in fields(kind)] for kind in (Record, Snapshot)}


def _read(row: sqlite3.Row, kind: type[Record | Snapshot]) -> dict[str, Any]:
    values = {name: row[name] for name in _NAMES[kind]}
    for name in _JSON:
        if name in values:
            values[name] = json.loads(values[name]) if values[name] != "{}" else {}
    for name in _FLAGS:
        if name in values:
            values[name] = bool(values[name])
    return values


def _record(row: sqlite3.Row) -> Record:
    return Record(**_read(row, Record))


def _snapshot(row: sqlite3.Row) -> Snapshot:
    return Snapshot(**_read(row, Snapshot))
