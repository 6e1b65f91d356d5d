"""Where the server's records are: a file of SQLite, or PostgreSQL for servers on more than one host.

Both have the same tables and the same statements, with ``?`` for a value.  Only one server at a time uses a database,
so that what it has read and written is all there is: a lock says which.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGE_LOG = 2 << 20
"""Bytes after which it is moved into the database."""
_MOST_LOG = 16384
"""Pages after which a change does that itself."""


class Duplicate(Exception):
    """A row with these unique values is there."""


class Rows(Protocol):
    """The result of a statement.  A row has its values by their numbers and names."""

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Database(Protocol):
    """A change is kept when its call returns."""

    def execute(self, text: str, values: Sequence[Any] = ()) -> Rows:
        """
        :raises Duplicate: a row with these unique values is there
        :raises ClientError: the database does not answer; the change may have been made all the same
        """

    def create(self, schema: str) -> None:
        """Make tables and indices that are not there."""

    def add_columns(self, table: str, columns: dict[str, str]) -> None:
        """Add columns of text, with the default of each, that the table of an older server lacks."""

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """All statements of the block, or none."""

    def confirm(self) -> None:
        """Check that this server is still the one that uses the database.

        :raises ClientError: it is not, or the database does not answer
        """

    def tidy(self) -> None:
        """What takes long, for a thread."""

    def close(self) -> None: ...


class Sqlite:
    """
    :param folder: of the file ``server.db``; made if need be
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
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_MOST_LOG}")  # see tidy()
        self._db.execute("PRAGMA secure_delete = ON")  # overwrites the values of secrets

    def execute(self, text: str, values: Sequence[Any] = ()) -> Rows:
        try:
            return self._db.execute(text, values)
        except sqlite3.IntegrityError as error:
            raise Duplicate(str(error)) from error

    def create(self, schema: str) -> None:
        self._db.executescript(schema)

    def add_columns(self, table: str, columns: dict[str, str]) -> None:
        known = {row["name"] for row in self._db.execute(f"PRAGMA table_info({table})")}
        for name in sorted(set(columns) - known):
            self._db.execute(f'ALTER TABLE {table} ADD COLUMN "{name}" TEXT DEFAULT {columns[name]}')

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def confirm(self) -> None:
        pass

    def tidy(self) -> None:
        if os.path.getsize(self._path + "-wal") >= _LARGE_LOG:
            with contextlib.closing(sqlite3.connect(self._path)) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        self._db.close()
        self._lock.close()


def open_database(folder: str, url: str, reload: Callable[[], None]) -> Database:
    """
    :param url: of PostgreSQL; empty: SQLite in the folder
    :param reload: called when the database answers again, since what it has may be more or less than was thought
    :raises OSError: it cannot be used
    """
    if not url:
        return Sqlite(folder)
    from pyvmm_server.postgres import Postgres

    return Postgres(url, reload)
