"""The server's records, in a file that a server before this one has made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from pyvmm_server.store import RUNNING, Store

OLDER = """
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY, owner TEXT, template TEXT, state TEXT, token TEXT, started REAL, ends REAL, metadata TEXT,
    envs TEXT, cpus REAL, memory INTEGER, internet INTEGER, auto_pause INTEGER, auto_resume INTEGER, request TEXT,
    context TEXT
) STRICT;
CREATE TABLE snapshots (
    id TEXT PRIMARY KEY, owner TEXT, sandbox TEXT, name TEXT, created REAL, cpus REAL, memory INTEGER, internet INTEGER,
    envs TEXT, context TEXT
) STRICT;
INSERT INTO sandboxes VALUES
    ('a', 'someone', 'base', 'running', 'token', 1.0, 2.0, '{"name": "old"}', '{}', 1.0, 512, 1, 0, 0, '', '');
INSERT INTO snapshots VALUES ('s', 'someone', 'a', 'saved', 1.5, 1.0, 512, 1, '{}', '');
"""


def test_records_of_an_older_server_are_read(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "server.db")) as older:
        older.executescript(OLDER)
    for _ in range(2):  # the second time, the columns are there
        with closing(Store(str(tmp_path))) as store:
            (found,) = store.in_states(RUNNING, owner="someone")
            assert (found.id, found.metadata, found.parent, found.phases) == ("a", {"name": "old"}, "", [])
            (snapshot,) = store.snapshots("someone")
            assert (snapshot.id, snapshot.user) == ("s", "")
