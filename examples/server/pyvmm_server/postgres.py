"""The server's records in PostgreSQL, which servers on several hosts reach.

One of them has a lock of the database's (``pg_advisory_lock``) on the connection by which it reads and writes.  The
others wait for it.  PostgreSQL releases the lock with the connection, so no server can write that another one has
followed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from pyvmm_server.database import Duplicate
from pyvmm_server.errors import ClientError, Unstored
from vmm import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger("pyvmm_server")
_LOCK = 0x7079_766D_6D
_WAIT_S = 0.5
_AFTER_ERROR_S = 5.0
"""How long a server that waits leaves a database that has answered again to the one that used it."""
_AGAIN_S = 1.0
"""Between two tries to connect: each can block all requests for _CONNECT_S."""
_CONNECT_S = 2
_OPTIONS = {
    "connect_timeout": _CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "pyvmm serve",
    "options": "-c statement_timeout=5000 -c lock_timeout=4000 -c synchronous_commit=on -c client_min_messages=warning",
}
_TYPES = ((") STRICT", ")"), (" REAL", " DOUBLE PRECISION"), (" INTEGER", " BIGINT"))


class _Row(tuple[Any, ...]):
    """By numbers and names."""

    names: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names[key] if isinstance(key, str) else key)


def _row_factory(cursor: Any) -> Callable[[Sequence[Any]], _Row]:
    names = {column.name: number for number, column in enumerate(cursor.description or ())}
    kind = type("Row", (_Row,), {"names": names})
    return lambda values: kind(values)


class Postgres:
    """Waits until no other server uses the database.

    :param url: ``postgresql://USER@HOST/NAME``, or other words of libpq
    :param reload: called after each connection but the first
    :raises ConfigError: psycopg is not installed, or the database refuses
    """

    def __init__(self, url: str, reload: Callable[[], None]) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigError("psycopg is not installed", hint="pip install 'pyvmm-server[postgres]'") from error
        self._library: Any = psycopg
        self._url, self._reload = url, reload
        self._db: Any = None
        self._next_try = 0.0
        self._is_over = False
        try:
            self._db = self._connected()
            self._wait()
        except psycopg.Error as error:
            hint = "start it, and name a database that this user can change"
            raise ConfigError(f"the database: {' '.join(str(error).split())}", hint=hint) from error

    def _connected(self) -> Any:
        found = self._library.connect(self._url, autocommit=True, row_factory=_row_factory, **_OPTIONS)
        found.prepare_threshold = 2
        return found

    def _lock(self) -> bool:
        return bool(self._db.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone()[0])

    def _wait(self) -> None:
        has_said = False
        while True:
            try:
                if self._db is None:
                    self._db = self._connected()
                if self._lock():
                    return
            except self._library.OperationalError as error:
                log.warning("the database: %s", " ".join(str(error).split()))
                self._drop()
                time.sleep(_AFTER_ERROR_S)
            if not has_said:
                log.warning("another server uses the database: waiting for its end")
                has_said = True
            time.sleep(_WAIT_S)  # PostgreSQL would wait itself, but not tell a dead network from a long wait

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    # -- of a database -------------------------------------------------------------------------------------------------

    def execute(self, text: str, values: Sequence[Any] = ()) -> Any:
        self._be_connected()
        return self._run(text.replace("?", "%s"), [int(each) if isinstance(each, bool) else each for each in values])

    def _run(self, text: str, values: Sequence[Any] | None = None) -> Any:
        errors = self._library.errors
        try:
            return self._db.execute(text, values)
        except errors.UniqueViolation as error:
            raise Duplicate(str(error)) from error
        except self._library.DataError as error:
            raise ClientError(400, f"the database refuses a value: {' '.join(str(error).split())[:200]}") from error
        except self._library.OperationalError as error:
            if self._db.closed or self._db.broken or not isinstance(error, errors.QueryCanceled):
                self._drop()
            raise Unstored(error) from error

    def _be_connected(self) -> None:
        """
        :raises Unstored: it does not answer, or another server uses it
        """
        if self._is_over:
            raise Unstored("another server uses it now")
        if self._db is not None:
            return
        if time.monotonic() < self._next_try:
            raise Unstored("it has not answered a moment ago")
        try:
            self._db = self._connected()
            is_mine = self._lock()
        except self._library.OperationalError as error:
            self._drop()
            self._next_try = time.monotonic() + _AGAIN_S
            raise Unstored(error) from error
        if not is_mine:
            self._end()
        log.warning("the database answers again")
        try:
            self._reload()
        except BaseException:
            self._drop()  # what is known of it is old, still
            raise

    def _end(self) -> None:
        """Another server has taken over, and would not see what this one does."""
        self._is_over = True
        self._drop()
        log.error("another server uses the database now: this one ends")
        os.kill(os.getpid(), signal.SIGTERM)
        raise Unstored("another server uses it now")

    def create(self, schema: str) -> None:
        for old, new in _TYPES:
            schema = schema.replace(old, new)
        self._run(schema)

    def add_columns(self, table: str, columns: dict[str, str]) -> None:
        for name, default in columns.items():
            self._run(f'ALTER TABLE {table} ADD COLUMN IF NOT EXISTS "{name}" TEXT DEFAULT {default}')

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(ClientError):
                if self._db is not None:  # a new connection has no transaction
                    self._run("ROLLBACK")
            raise
        if self._db is None:
            raise Unstored("the transaction has ended with its connection")
        self._run("COMMIT")

    def confirm(self) -> None:
        self.execute("SELECT 1")

    def tidy(self) -> None:
        """PostgreSQL tidies up itself."""

    def close(self) -> None:
        self._drop()
