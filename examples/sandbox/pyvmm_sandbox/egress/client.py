"""The library's side of a gateway: its start and end, and ``box.network``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyvmm_sandbox.egress import folders
from pyvmm_sandbox.egress.credentials import Credential
from pyvmm_sandbox.egress.gateway import CERTIFICATES, CONTROL
from pyvmm_sandbox.egress.rules import Network
from pyvmm_sandbox.errors import SandboxError

GUEST_CERTIFICATES = "/.pyvmm/certificates.pem"
VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)
"""By which programs inside find the authorities that they trust."""
_START_S = 60.0
_ANSWER_S = 30.0


class Started:
    """A gateway that was started, and does not belong to a sandbox yet.

    :param owner: begins the name of its folder
    :raises SandboxError: it cannot be started
    :ivar folder: with its files
    :ivar namespace: the path of the network namespace of its sandbox
    """

    def __init__(self, rules: Network, credentials: Sequence[Credential], owner: str) -> None:
        folders.sweep()
        self._folder = folders.Folder(owner)
        self.folder = self._folder.path
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                _spawn(theirs, self._folder)
            self._folder.give()
            wanted = {"rules": asdict(rules), "credentials": [each.as_json() for each in credentials]}
            answer = _exchange(self._connection, wanted, _START_S)
            self.namespace = f"/proc/{answer['pid']}/fd/{answer['namespace']}"
        except BaseException:
            self.close()
            raise

    @property
    def certificates(self) -> str:
        """The file with the authorities that the sandbox trusts; empty: the image's."""
        path = os.path.join(self.folder, CERTIFICATES)
        return path if os.path.exists(path) else ""

    def follow(self, pid: int) -> None:
        """From now on it ends with that process, and :func:`remove` removes its files.

        :raises SandboxError: it has ended
        """
        _exchange(self._connection, {"follow": pid}, _ANSWER_S)
        self._connection.close()
        self._folder.release()

    def close(self) -> None:
        """End it, if it belongs to no container yet, and wait for that."""
        with contextlib.suppress(OSError), self._connection as connection:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(_ANSWER_S)
            while connection.recv(1 << 16):
                pass
        self._folder.remove()


def _spawn(connection: socket.socket, folder: folders.Folder) -> None:
    code = "from pyvmm_sandbox.egress.gateway import main; main()"
    subprocess.run(  # of its child, which is nobody's here: it can live longer than this process
        [sys.executable, "-c", code, str(connection.fileno()), folder.path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=[connection.fileno(), folder.lock],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


def remove(folder: str) -> None:
    """Remove the files of a gateway whose sandbox has ended, and wait for its end."""
    with contextlib.suppress(OSError), _connect(folder) as connection:
        connection.settimeout(_ANSWER_S)
        connection.recv(1)  # it sends nothing unasked: this is its end
    shutil.rmtree(folder, ignore_errors=True)


def _connect(folder: str) -> socket.socket:
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(f"/proc/self/fd/{place}/{CONTROL}")
    except OSError:
        made.close()
        raise
    finally:
        os.close(place)
    return made


def _exchange(connection: socket.socket, wanted: dict[str, Any], limit: float) -> dict[str, Any]:
    """
    :raises SandboxError: the gateway refuses, or has ended
    """
    connection.settimeout(limit)
    try:
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
    except OSError as error:
        raise SandboxError(f"the sandbox's gateway does not answer: {error}") from error
    if not line:
        raise SandboxError("the sandbox's gateway has ended", hint="without it, the sandbox has no network")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise SandboxError(f"the sandbox's gateway: {answer['error']}", hint=answer.get("hint") or "")
    return answer


@dataclass(frozen=True)
class Refusal:
    """Something that the rules have not allowed.

    :ivar time: seconds since 1970
    :ivar target: ``HOST:PORT``, or a name that was looked up
    :ivar reason: why
    """

    time: float
    target: str
    reason: str


@dataclass(frozen=True)
class Traffic:
    """What a sandbox with rules has done in its network.

    :ivar connections: that were allowed
    :ivar refused: connections and names
    :ivar sent: bytes
    :ivar received: likewise
    """

    connections: int
    refused: int
    sent: int
    received: int


def ask(folder: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Send the gateway of a sandbox a message.

    :raises SandboxError: it has ended
    """
    try:
        connection = _connect(folder)
    except OSError as error:
        raise SandboxError(
            "the gateway of the sandbox has ended", hint="the sandbox has no network without it"
        ) from error
    with connection:
        return _exchange(connection, wanted, _ANSWER_S)
