"""The users of a sandbox: those of its own /etc/passwd.

E2B's default user is ``user``, which may use sudo.  Images that are not made for E2B have neither, so ``user`` is root
there, with the same home directory.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_sandbox import guest
from pyvmm_sandbox.files import Files
from pyvmm_server.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from pyvmm_sandbox import Command, Sandbox

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT, HOME = "user", "/home/user"
_LARGEST = 1 << 20
PASSWD, GROUP = "/etc/passwd", "/etc/group"


class User(NamedTuple):
    """
    :ivar ids: ``UID:GID``
    :ivar workdir: where relative paths begin; empty: in the home directory
    """

    name: str
    ids: str
    home: str
    workdir: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Of all commands."""
        return {"PATH": PATH, "HOME": self.home, "USER": self.name, "LOGNAME": self.name, "E2B_SANDBOX": "true"}

    def path(self, text: str) -> str:
        """An absolute path inside the sandbox; a relative one begins in the working directory.

        :raises ClientError: it has a NUL character
        """
        if "\0" in text:
            raise ClientError(400, "the path has a NUL character")
        begin = self.workdir or self.home
        if text == "~" or text.startswith("~/"):
            begin, text = self.home, text[2:]
        found = posixpath.normpath(posixpath.join(begin, text))
        return "/" + found.lstrip("/")


class Users:
    """Reads the sandbox's user database.  All methods block.

    :param box: the sandbox
    """

    def __init__(self, box: Sandbox) -> None:
        self._box = box
        self._found: dict[str, User] = {}
        self._names: dict[tuple[str, int], str] = {}

    def find(self, name: str) -> User:
        """
        :raises ClientError: there is no such user
        """
        name = name or DEFAULT
        if name not in self._found:
            self._read()
        if name in self._found:
            return self._found[name]
        if name == "root":
            return User(name, "0:0", "/root")
        if name != DEFAULT:
            raise ClientError(401, f"invalid user: {name[:80]!r}", code="unauthenticated")
        self.files(User("root", "0:0", "/root")).mkdir(HOME)
        return self._found.setdefault(name, User("root", "0:0", HOME))

    def files(self, user: User) -> Files:
        """Files, with the rights of a user."""
        return Files(self.starter(user))

    def starter(self, user: User) -> Callable[[list[str]], Command]:
        """Starts the sandbox's program for files, with the rights of a user."""
        return lambda words: self._box.popen([guest.PATH, *words], user=user.ids)

    def name_of(self, kind: str, number: int) -> str:
        """
        :param kind: a file, :data:`PASSWD` or :data:`GROUP`
        """
        if not self._names:
            self._read()
        return self._names.get((kind, number), "root" if number == 0 else str(number))

    def _read(self) -> None:
        for kind in (PASSWD, GROUP):
            try:
                text = self._box.files.read_text(kind, max_bytes=_LARGEST)
            except (OSError, UnicodeDecodeError):
                continue
            for line in text.splitlines():
                fields = line.split(":")
                if len(fields) < 3 or not (fields[2].isascii() and fields[2].isdigit()):
                    continue
                self._names.setdefault((kind, int(fields[2])), fields[0])
                if kind == PASSWD and len(fields) >= 7 and fields[3].isascii() and fields[3].isdigit():
                    self._found[fields[0]] = User(fields[0], f"{fields[2]}:{fields[3]}", fields[5] or "/")


def named(request: Request) -> str:
    """The user that a request names; empty: none.

    :raises ClientError: its header is damaged
    """
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ClientError(401, f"the Authorization header is damaged: {error}") from error
