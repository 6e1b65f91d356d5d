"""Templates that clients have built, in the database: their builds, and the tags that name them."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyvmm_server.database import Database

WAITING, BUILDING, READY, FAILED = "waiting", "building", "ready", "error"
DEFAULT = "default"
"""The tag of a name without one."""
_JSON = ("tags", "envs")
_MOST_OLD = 100
"""Builds of a key that no tag names, and whose results clients can still read."""
_LONGEST_WAIT_S = 2 * 3600
"""Of a build for its files."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS builds (
    id TEXT PRIMARY KEY, template TEXT, owner TEXT, name TEXT, tags TEXT, state TEXT, created REAL, cpus REAL,
    memory INTEGER, internet INTEGER, envs TEXT, context TEXT, "user" TEXT, workdir TEXT, reason TEXT, step TEXT,
    node TEXT DEFAULT ''
) STRICT;
CREATE INDEX IF NOT EXISTS builds_of_owner ON builds (owner, name);
CREATE TABLE IF NOT EXISTS tags (
    owner TEXT, name TEXT, tag TEXT, build TEXT, created REAL, PRIMARY KEY (owner, name, tag)
) STRICT;
"""


@dataclass(frozen=True)
class Build:
    """A build of a template; see also :class:`~pyvmm_server.store.Record`.

    :ivar template: the id of the template, which all builds of a name have
    :ivar tags: that name it when it is ready
    :ivar state: ``waiting``, ``building``, ``ready`` or ``error``
    :ivar envs: variables of its sandboxes
    :ivar user: of its sandboxes' commands; empty: the usual one
    :ivar workdir: where they start; empty: the home directory
    :ivar reason: why it has failed
    :ivar step: that has failed: ``base``, a number or ``finalize``
    :ivar node: that has saved it; empty: this one
    """

    id: str
    template: str
    owner: str
    name: str
    tags: list[str]
    state: str
    created: float
    cpus: float
    memory: int
    internet: bool = True
    envs: dict[str, str] = field(default_factory=dict)
    context: str = ""
    user: str = ""
    workdir: str = ""
    reason: str = ""
    step: str = ""
    node: str = ""


class BuildRecords:
    """The tables.

    :param db: with :data:`SCHEMA`
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    # -- builds ------------------------------------------------------------------------------------------------------

    def add(self, build: Build) -> None:
        """Add a build, and forget the oldest ones that no tag names."""
        values = _row(asdict(build))
        names, places = ", ".join(f'"{name}"' for name in values), ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO builds ({names}) VALUES ({places})", list(values.values()))
        self._db.execute(
            """DELETE FROM builds WHERE id IN (
                SELECT id FROM builds WHERE owner = ? AND state IN ('ready', 'error')
                AND id NOT IN (SELECT build FROM tags) ORDER BY created DESC LIMIT 1000000 OFFSET ?)""",
            [build.owner, _MOST_OLD],
        )

    def change(self, build: str, **values: Any) -> None:
        """Change fields of a build, if there is one."""
        changes = ", ".join(f'"{name}" = ?' for name in values)
        self._db.execute(f"UPDATE builds SET {changes} WHERE id = ?", [*_row(values).values(), build])

    def fail_unfinished(self) -> None:
        """Record that a server that has ended had builds."""
        self._db.execute(
            "UPDATE builds SET state = 'error', reason = 'the server ended during the build' WHERE state = 'building'"
        )

    def get(self, owner: str, template: str, build: str) -> Build | None:
        return next(self._where("owner = ? AND template = ? AND id = ?", owner, template, build), None)

    def of_template(self, template: str) -> Build | None:
        """Any build of a template with this id."""
        return next(self._where("template = ?", template), None)

    def of_name(self, owner: str, name: str) -> Build | None:
        """Any build of a template with this name."""
        return next(self._where("owner = ? AND name = ?", owner, name), None)

    def unfinished(self, owner: str) -> list[Build]:
        """Those that wait or run; one that has waited for too long has failed."""
        self._db.execute(
            "UPDATE builds SET state = 'error', reason = 'the build was not started' "
            "WHERE state = 'waiting' AND created < ?",
            [time.time() - _LONGEST_WAIT_S],
        )
        return [*self._where("owner = ? AND state IN ('waiting', 'building')", owner)]

    # -- tags --------------------------------------------------------------------------------------------------------

    def find(self, owner: str, name: str, *, any_tag: bool = False) -> Build | None:
        """The build that ``NAME[:TAG]`` means; NAME can be the template's id, and TAG that of a build with a tag.

        :param any_tag: a name without a tag means any build that has one
        """
        plain, colon, tag = name.partition(":")
        found = self._where(
            """(name = ? OR template = ?) AND owner = ? AND id IN (
                SELECT build FROM tags WHERE owner = ? AND name = builds.name AND (tag = ? OR build = ? OR ? = 1))""",
            *(plain, plain, owner, owner, tag or DEFAULT, tag, any_tag and not colon),
        )
        return next(found, None)

    def tags(self, owner: str, name: str) -> list[tuple[str, str, float]]:
        """Each tag of a name, its build, and when it was assigned."""
        text = "SELECT tag, build, created FROM tags WHERE owner = ? AND name = ? ORDER BY created, tag"
        return [(row[0], row[1], row[2]) for row in self._db.execute(text, [owner, name])]

    def count(self, owner: str) -> int:
        """Of all tags of a key."""
        return int(self._db.execute("SELECT count(*) FROM tags WHERE owner = ?", [owner]).fetchone()[0])

    def named(self, owner: str | None = None) -> list[Build]:
        """Builds with a tag, the newest first.

        :param owner: None: of all keys
        """
        text = "id IN (SELECT build FROM tags)"
        return [*(self._where(text) if owner is None else self._where(f"owner = ? AND {text}", owner))]

    def finish(self, build: Build, **values: Any) -> list[str]:
        """Record that a build is ready, and assign its tags, both or none; the builds that no tag names any more."""
        with self._replacing(build.owner, build.name) as replaced:
            self.change(build.id, state=READY, **values)
            self._tag(build, build.tags)
        return replaced

    def assign(self, build: Build, tags: Iterable[str]) -> list[str]:
        """Assign tags to a build that is ready; the builds that no tag names any more."""
        with self._replacing(build.owner, build.name) as replaced:
            self._tag(build, tags)
        return replaced

    def untag(self, owner: str, name: str, tags: Iterable[str]) -> list[str]:
        """Remove tags; the builds that no tag names any more."""
        with self._replacing(owner, name) as replaced:
            for tag in tags:
                self._db.execute("DELETE FROM tags WHERE owner = ? AND name = ? AND tag = ?", [owner, name, tag])
        return replaced

    def _tag(self, build: Build, tags: Iterable[str]) -> None:
        for tag in tags:
            row = [build.owner, build.name, tag, build.id, time.time()]
            text = "INSERT INTO tags VALUES (?, ?, ?, ?, ?) ON CONFLICT (owner, name, tag) DO UPDATE"
            self._db.execute(f"{text} SET build = excluded.build, created = excluded.created", row)

    @contextlib.contextmanager
    def _replacing(self, owner: str, name: str) -> Iterator[list[str]]:
        """A transaction, and the builds that no tag names after it."""
        replaced: list[str] = []
        with self._db.transaction():
            before = {build for _, build, _ in self.tags(owner, name)}
            yield replaced
            replaced += before - {build for _, build, _ in self.tags(owner, name)}

    def _where(self, text: str, *values: Any) -> Iterator[Build]:
        rows = self._db.execute(f"SELECT * FROM builds WHERE {text} ORDER BY created DESC, id", values).fetchall()
        return map(_build, rows)


def _row(values: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON else value for name, value in values.items()}


def _build(row: Any) -> Build:
    values = {each.name: row[each.name] for each in fields(Build)}
    values.update({name: json.loads(values[name]) for name in _JSON}, internet=bool(values["internet"]))
    return Build(**values)
