"""Where a process's streams go, from containerd's words: FIFOs by their paths, files by URIs."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.shim.task import StdioPaths
from pyvmm_kata.stdio import Stdio


def open_stdio(paths: StdioPaths) -> Stdio:
    """What the library copies from and to.

    Raises ConfigError for a kind of stream that is not known, HostError for a file that cannot be opened.
    """
    return Stdio(_path(paths.stdin), _output(paths.stdout), _output(paths.stderr), paths.terminal)


def _path(text: str) -> str | None:
    parts = urlsplit(text)
    if parts.scheme not in ("", "fifo"):
        raise ConfigError(f"stdin {text!r}: only a FIFO can be read", code="stdio")
    return unquote(parts.path) if parts.scheme else text or None


def end_input(paths: StdioPaths) -> None:
    """Let stdin end once everything was read that writers of its FIFO have written, or will write before they close it.

    A FIFO ends when its last writer goes (fifo(7)); where there never was one, that is us.
    """
    try:
        os.close(os.open(_path(paths.stdin) or "", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        pass  # there is no stdin, or nobody reads it (any more)


def _output(text: str) -> int | str | None:
    """A FIFO's path, or the descriptor of a file."""
    parts = urlsplit(text)
    if parts.scheme in ("", "fifo"):
        return _path(text)
    if parts.scheme != "file":
        raise ConfigError(
            f"{text!r}: output goes to a FIFO or to file:///PATH",
            code="stdio",
            hint="a log driver of its own is not built",
        )
    path = unquote(parts.path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="stdio", errno=error.errno or 0) from error
