"""The destinations of a process's streams, from containerd's request: FIFOs by their paths, files by URIs."""

from __future__ import annotations

import errno
import os
import time
from urllib.parse import unquote, urlsplit

from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.pod.stdio import Stdio
from pyvmm_kata.shim.task import StdioPaths

READER_S = 10.0


def open_stdio(paths: StdioPaths) -> Stdio:
    """The streams in the library's form.

    Raises ConfigError for an unknown kind of stream, HostError for one that cannot be opened.
    """
    stdin = _path(paths.stdin)
    stdout = _output(paths.stdout)
    try:
        return Stdio(stdin, stdout, _output(paths.stderr), paths.terminal)
    except BaseException:
        if stdout is not None:
            os.close(stdout)
        raise


def _path(text: str) -> str | None:
    parts = urlsplit(text)
    if parts.scheme not in ("", "fifo"):
        raise ConfigError(f"stdin {text!r}: only a FIFO can be read", code="stdio")
    return unquote(parts.path) if parts.scheme else text or None


def end_input(paths: StdioPaths) -> None:
    """End stdin once everything was read that writers of its FIFO have written, or will write before they close it.

    A FIFO ends when its last writer goes (fifo(7)); if there never was one, that is us.
    """
    try:
        os.close(os.open(_path(paths.stdin) or "", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        pass  # there is no stdin, or nobody reads it (any more)


def _output(text: str) -> int | None:
    """The descriptor to write to."""
    parts = urlsplit(text)
    if parts.scheme in ("", "fifo"):
        path = _path(text)
        return None if path is None else _open_fifo(path)
    if parts.scheme != "file":
        raise ConfigError(
            f"{text!r}: output goes to a FIFO or to file:///PATH",
            code="stdio",
            hint="log drivers that are programs (binary://) are not built",
        )
    path = unquote(parts.path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", code="stdio", errno=error.errno or 0) from error


def _open_fifo(path: str) -> int:
    """A FIFO for writing, once it has a reader: otherwise data would be lost if the shim closes it before they are
    read.

    It is opened for reading as well, so that nothing is lost when a reader closes it, as a restarted containerd does:
    the next reader gets what is written meanwhile.
    """
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    deadline = time.monotonic() + READER_S
    while True:
        try:
            reader_is_there = os.open(path, os.O_WRONLY | flags)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                words = "nobody reads it" if error.errno == errno.ENXIO else error.strerror
                raise HostError(f"{path}: {words}", code="stdio", errno=error.errno or 0) from error
        time.sleep(0.002)
    try:
        return os.open(path, os.O_RDWR | flags)
    finally:
        os.close(reader_is_there)
