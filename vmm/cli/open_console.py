"""Where ``pyvmm boot`` puts the guest's console: this terminal, a pseudo-terminal, a file, or nowhere.

``stdio`` On a terminal, see :mod:`vmm.cli.terminal`. Otherwise every byte of standard input goes to the guest, as fast
    as the guest reads it; after its end the guest continues. A slow reader of standard output delays the guest; when it
    exits (``pyvmm boot | head``), the run ends. ``pty`` A new pseudo-terminal, whose path is printed. Unread output is
    dropped when the kernel's buffer for it is full. Readers may come and go. ``file:PATH`` Output is appended to the
    regular file PATH, created with mode 0600; symbolic links are not followed. No input. ``none`` Output is thrown
    away. No input.
"""

from __future__ import annotations

import errno
import posix

from vmm.cli.console import Console, Pty
from vmm.errors import ConfigError, HostError
from vmm.faststart.builtin import stat

KINDS = "stdio, pty, file:PATH or none"


def _open_output(fd: int) -> int:
    """A descriptor for the output of *fd*, non-blocking if that does not change *fd* for other processes."""
    try:
        mode = posix.fstat(fd).st_mode
    except OSError:  # closed
        return -1
    if stat.S_ISFIFO(mode) or posix.isatty(fd):
        try:
            return posix.open(
                f"/proc/self/fd/{fd}", posix.O_WRONLY | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC
            )
        except OSError:  # another user's terminal, no /proc, or no reader
            pass
    return posix.dup(fd)


def _open_file(path: str) -> int:
    flags = (
        posix.O_WRONLY
        | posix.O_CREAT
        | posix.O_APPEND
        | posix.O_NOFOLLOW
        | posix.O_NONBLOCK
        | posix.O_NOCTTY
        | posix.O_CLOEXEC
    )
    try:
        fd = posix.open(path, flags, 0o600)
    except OSError as error:
        link = error.errno == errno.ELOOP
        reason = "it is a symbolic link, which is not followed" if link else error.strerror
        raise ConfigError(f"--console file:{path}: {reason}", code="console-file") from error
    if not stat.S_ISREG(posix.fstat(fd).st_mode):
        posix.close(fd)
        raise ConfigError(f"--console file:{path}: not a regular file", code="console-file")
    return fd


def open_console(spec: str, stdin: int = 0, stdout: int = 1) -> Console:
    """The console that *spec* describes (see this module).

    :param stdin: the descriptor that ``stdio`` reads
    :param stdout: the descriptor that it writes
    :raises ConfigError: not a console, or its file cannot be written
    :raises HostError: there is no free pseudo-terminal
    """
    if spec == "stdio":
        out_fd = _open_output(stdout)
        try:
            in_fd = posix.dup(stdin)
        except OSError:  # closed
            in_fd = -1
        if in_fd < 0 or not posix.isatty(in_fd):
            return Console(in_fd, out_fd)
        from vmm.cli.terminal import Terminal

        return Terminal(in_fd, out_fd)
    if spec == "pty":
        try:
            return Pty()
        except OSError as error:
            raise HostError(
                f"cannot make a pseudo-terminal: {error.strerror}", code="pty", errno=error.errno or 0
            ) from error
    if spec == "none":
        return Console()
    if spec.startswith("file:") and len(spec) > 5:
        return Console(out_fd=_open_file(spec[5:]))
    raise ConfigError(f"--console {spec!r}: not {KINDS}", code="console")
