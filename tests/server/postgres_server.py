"""Debian's PostgreSQL, for one test."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.kata.oci_runtime import PATIENCE, eventually

PROGRAMS = max(glob.glob("/usr/lib/postgresql/*/bin"), default="")
USER = "postgres"


class PostgresServer:
    """
    :ivar url: for ``--state``
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp()  # sockets need short paths, and this user has none of pytest's
        shutil.chown(self.folder, USER)
        self.url = f"postgresql://{USER}@/postgres?host={self.folder}"
        self._data = f"{self.folder}/data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "--no-sync", "--auth=trust", "-D", self._data)
        self.start()

    def _run(self, program: str, *words: str) -> bool:
        done = subprocess.run(
            [f"{PROGRAMS}/{program}", *words],
            user=USER,
            group=USER,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        return done.returncode == 0

    def start(self) -> None:
        command = [f"{PROGRAMS}/postgres", "-D", self._data, "-k", self.folder, "-h", ""]
        with open(f"{self.folder}/log", "ab") as log:
            self._process = subprocess.Popen(command, user=USER, group=USER, cwd="/", stdout=log, stderr=log)
        ready = ["-q", "-h", self.folder]
        eventually(lambda: self._run("pg_isready", *ready), "PostgreSQL does not start")

    def kill(self) -> None:
        """kill -9 of all of its processes."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [pid, *map(int, children)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._process.wait()
        eventually(lambda: not any(map(_lives, children)), "a process of PostgreSQL does not end")

    def close(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(PATIENCE)
        shutil.rmtree(self.folder)


def _lives(pid: str) -> bool:
    try:
        return b" Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
