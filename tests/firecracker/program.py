"""Starts ``pyvmm-firecracker`` as a process and sends requests to its API socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.where import ROOT

PATIENCE = 60.0


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


class Program:
    """A running ``pyvmm-firecracker`` with a client connection to its API."""

    def __init__(self, folder: Path, *flags: str, directory: Path | None = None) -> None:
        self.socket = folder / "api.sock"
        command = [sys.executable, "-m", "pyvmm_firecracker.program", "--api-sock", str(self.socket)]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "examples" / "firecracker")])
        self.process = subprocess.Popen(
            [*command, "--log-path", str(folder / "log"), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            cwd=directory,
        )
        self._connection = Connection(self.socket)

    def wait_for_socket(self) -> None:
        while not self.socket.exists():
            assert self.process.poll() is None, self.process.communicate()
            try:
                self.process.wait(0.02)
            except subprocess.TimeoutExpired:
                pass

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self._connection.request(method, path, None if body is None else json.dumps(body))
        with self._connection.getresponse() as answer:
            data = answer.read()
        return answer.status, json.loads(data) if data else None

    def put(self, path: str, **body: Any) -> None:
        status, answer = self.request("PUT", path, body)
        assert status == 204, answer

    def fault(self, method: str, path: str, body: Any = None) -> str:
        status, answer = self.request(method, path, body)
        assert status == 400, answer
        return str(answer["fault_message"])

    def read(self, size: int) -> bytes:
        """Read exactly *size* bytes of the guest's console."""
        assert self.process.stdout
        data = b""
        while len(data) < size:
            more = os.read(self.process.stdout.fileno(), size - len(data))
            assert more, "the program has ended"
            data += more
        return data

    def type(self, data: bytes) -> None:
        assert self.process.stdin
        os.write(self.process.stdin.fileno(), data)

    def close(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.communicate()
