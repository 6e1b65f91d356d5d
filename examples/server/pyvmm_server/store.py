"""What the server has promised, in a database: it outlives the server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import secrets
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pyvmm_server import build_records, places, vault
from pyvmm_server.build_records import BuildRecords
from pyvmm_server.database import open_database
from pyvmm_server.index import Index
from pyvmm_server.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Phase = tuple[str, float, float]
"""Of a start: its name, its begin and its end, in seconds of CLOCK_MONOTONIC, as the steps of the sandbox library."""
CREATING, RUNNING, PAUSED, ENDING, LOST = "creating", "running", "paused", "ending", "lost"
_JSON = ("metadata", "envs", "phases", "volumes")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sandboxes (
    id TEXT PRIMARY KEY, owner TEXT, template TEXT, state TEXT, token TEXT, started REAL, ends REAL, metadata TEXT,
    envs TEXT, cpus REAL, memory INTEGER, internet INTEGER, auto_pause INTEGER, auto_resume INTEGER, request TEXT,
    context TEXT, "user" TEXT DEFAULT '', workdir TEXT DEFAULT '', parent TEXT DEFAULT '',
    phases TEXT DEFAULT '[]', node TEXT DEFAULT '', volumes TEXT DEFAULT '[]', saved TEXT DEFAULT '',
    holder TEXT DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS by_owner ON sandboxes (owner, started, id);
CREATE UNIQUE INDEX IF NOT EXISTS by_request ON sandboxes (owner, request) WHERE request <> '';
CREATE TABLE IF NOT EXISTS snapshots (
    id TEXT PRIMARY KEY, owner TEXT, sandbox TEXT, name TEXT, created REAL, cpus REAL, memory INTEGER, internet INTEGER,
    envs TEXT, context TEXT, "user" TEXT DEFAULT '', workdir TEXT DEFAULT '', node TEXT DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS by_name ON snapshots (owner, name) WHERE name <> '';
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT) STRICT;
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
    :param folder: of the file, and of volumes; made if need be
    :param url: of PostgreSQL, which has no file then
    :raises OSError: the file cannot be made, or another server uses it
    :raises sqlite3.Error: the file is damaged
    :raises ConfigError: PostgreSQL cannot be used
    """

    def __init__(self, folder: str, url: str = "") -> None:
        self._watchers: set[asyncio.Event] = set()
        self._index = Index([])
        self._db = open_database(folder, url, self._reload)
        self._db.create(_SCHEMA + build_records.SCHEMA + vault.SCHEMA)
        self._add_columns()
        self._db.create(places.INDEX)
        self._reload()
        self.builds = BuildRecords(self._db)
        self.vault = vault.Vault(self._db, os.path.join(folder, "volumes"))
        self.places = Places(self._db, self._index, self._tell)

    def _add_columns(self) -> None:
        """Those that the tables of older servers lack."""
        newer, nodes = {"user": "''", "workdir": "''"}, {"node": "''", "saved": "''"}
        for table, columns in (
            ("sandboxes", {**newer, "parent": "''", "phases": "'[]'", "volumes": "'[]'", **nodes, "holder": "''"}),
            ("snapshots", {**newer, "node": "''"}),
            ("builds", {"node": "''"}),
        ):
            self._db.add_columns(table, columns)

    def _reload(self) -> None:
        """Read the sandboxes again: whether the database kept a change whose answer was lost is unknown."""
        found = {row["id"]: _record(row) for row in self._db.execute("SELECT * FROM sandboxes")}
        for record in self._index.all():
            if record.id not in found:
                self._index.drop(record.id)
        for record in found.values():
            if record != self._index.get(record.id):
                self._index.put(record)
        self._tell()

    def name(self) -> str:
        """What names the servers of this database, one after the other."""
        self._db.execute("INSERT INTO about VALUES ('name', ?) ON CONFLICT DO NOTHING", [secrets.token_hex(8)])
        return str(self._db.execute("SELECT value FROM about WHERE name = 'name'").fetchone()[0])

    def confirm(self) -> None:
        """Check that no other server has taken over.

        :raises ClientError: one has, or the database does not answer
        """
        self._db.confirm()

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
        :raises Duplicate: one for the same request, or of the same name, is there
        """
        values = _row({name: getattr(record, name) for name in _NAMES[type(record)]})
        names, places = ", ".join(f'"{name}"' for name in values), ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {_table(record)} ({names}) VALUES ({places})", list(values.values()))
        if isinstance(record, Record):
            self._index.put(record)
        self._tell()

    def replace(self, snapshot: Snapshot) -> list[str]:
        """Add a snapshot in the place of that with its name, both or none; the ids of those that it replaces."""
        with self._db.transaction():
            of_name = "FROM snapshots WHERE owner = ? AND name = ? AND name <> ''"
            mine = [snapshot.owner, snapshot.name]
            older = [row[0] for row in self._db.execute(f"SELECT id {of_name}", mine)]
            self._db.execute(f"DELETE {of_name}", mine)
            self.add(snapshot)
        return older

    def change(self, sandbox_id: str, **values: Any) -> None:
        """Change fields of a sandbox, if there is one."""
        record = self._index.get(sandbox_id)
        if record is None:
            return
        changes = ", ".join(f'"{name}" = ?' for name in values)
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

    def tidy(self) -> None:
        """What takes long, for a thread, so that no request waits for it."""
        self._db.tidy()

    def close(self) -> None:
        self._db.close()


def _table(record: Record | Snapshot) -> str:
    return "sandboxes" if isinstance(record, Record) else "snapshots"


def _row(values: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON else value for name, value in values.items()}


_FLAGS = ("internet", "auto_pause", "auto_resume")
_NAMES = {kind: [each.name for each in fields(kind)] for kind in (Record, Snapshot)}


def _read(row: Any, kind: type[Record | Snapshot]) -> dict[str, Any]:
    values = {name: row[name] for name in _NAMES[kind]}
    for name in _JSON:
        if name in values:
            values[name] = json.loads(values[name]) if values[name] != "{}" else {}
    for name in _FLAGS:
        if name in values:
            values[name] = bool(values[name])
    return values


def _record(row: Any) -> Record:
    return Record(**_read(row, Record))


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(**_read(row, Snapshot))
