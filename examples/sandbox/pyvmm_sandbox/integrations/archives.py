"""Archives and large files of a sandbox in pieces, for frameworks that carry whole directories."""

from __future__ import annotations

import contextlib
import io
import threading
from typing import IO, TYPE_CHECKING

from pyvmm_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyvmm_sandbox import Sandbox
    from pyvmm_sandbox.commands import Command

_ERRORS_MOST = 500
_PIECE = 1 << 20


def head(sandbox: Sandbox, path: str, most: int) -> bytes:
    """At most so many bytes of a file, however large it is."""
    found = bytearray()
    with contextlib.closing(sandbox.files.stream(path)) as pieces:
        for piece in pieces:
            found += piece[: most - len(found)]
            if len(found) == most:
                break
    return bytes(found)


def save(sandbox: Sandbox, words: Sequence[str], archive: IO[bytes]) -> None:
    """Write what a command prints to a file.

    :raises SandboxError: it fails
    """
    with sandbox.popen(words, user="0:0") as command:
        command.close_stdin()
        _read(command, archive)


def load(sandbox: Sandbox, words: Sequence[str], data: io.IOBase) -> None:
    """Run a command whose standard input is a file.

    :raises SandboxError: it fails
    :raises OSError: the file cannot be read
    """
    failures: list[OSError] = []

    def feed() -> None:
        try:
            while piece := data.read(_PIECE):
                command.write(piece)
        except BrokenPipeError:
            pass  # its status has the reason
        except OSError as error:
            failures.append(error)
        finally:
            command.close_stdin()

    with sandbox.popen(words, user="0:0") as command:
        feeding = threading.Thread(target=feed, daemon=True)
        feeding.start()
        _read(command, io.BytesIO())
        feeding.join()
    if failures:
        raise failures[0]


def _read(command: Command, output: IO[bytes]) -> None:
    errors = bytearray()
    for event in command:
        if event.kind == "stdout":
            output.write(event.data)
        errors += event.data if event.kind == "stderr" else b""
        del errors[:-_ERRORS_MOST]
        if event.kind == "exit" and event.exit_code:
            said = errors.decode(errors="replace").strip()
            raise SandboxError(f"the archive failed with status {event.exit_code}: {said}", hint="the image needs tar")
