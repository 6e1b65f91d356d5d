"""Writes a guest's console output into files of bounded size, since they are on a tmpfs."""

from __future__ import annotations

import os
import re
import threading

from pyvmm_kata import timeline

LIMIT = 1 << 20
"""Bytes after which the file becomes ``console.log.1``, in place of an older one."""
_PIECE = 64 << 10
_END_S = 1.0
NAME = "console.log"
_LAST = 64 << 10
_WORDS = 300
_DEATHS = re.compile(
    rb"BUG: [^\r\n]*|Oops: [^\r\n]*|kernel BUG at[^\r\n]*|general protection fault[^\r\n]*|"
    rb"RIP: [^\r\n]*|Kernel panic - not syncing: [^\r\n]*"
)
"""The messages of Linux when it panics."""


class ConsoleLog:
    """The files, and the thread that writes them.

    :param folder: a descriptor of their directory; the caller still owns it
    """

    def __init__(self, folder: int) -> None:
        self._folder = os.dup(folder)
        reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._copy, args=(reader,), name="console", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """The descriptor that the machine writes to."""
        return self._writer

    def _copy(self, reader: int) -> None:
        file, size = self._open(), 0
        try:
            while data := os.read(reader, _PIECE):
                try:
                    os.write(file, data)
                except OSError:
                    continue  # the tmpfs is full: this piece is lost
                size += len(data)
                if size >= LIMIT:
                    os.rename(NAME, f"{NAME}.1", src_dir_fd=self._folder, dst_dir_fd=self._folder)
                    os.close(file)
                    file, size = self._open(), 0
        finally:
            os.close(file)
            os.close(reader)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(NAME, flags, 0o600, dir_fd=self._folder)

    def last_words(self) -> str:
        """The last words of the guest's kernel when it crashed; empty: none. A guest can print such a line too: it is
        one line of limited length, without control characters."""
        try:
            file = os.open(NAME, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        except OSError:
            return ""
        try:
            text = os.pread(file, _LAST, max(0, os.fstat(file).st_size - _LAST))
        finally:
            os.close(file)
        found = [match.decode("ascii", "replace") for match in dict.fromkeys(_DEATHS.findall(text))]
        return "".join(each if each.isprintable() else "?" for each in "; ".join(found))[:_WORDS]

    def note(self) -> None:
        """Record what the files have, for ``--debug``."""
        with open(
            NAME, errors="replace", opener=lambda path, flags: os.open(path, flags, dir_fd=self._folder)
        ) as lines:
            for line in lines:
                timeline.note(f"guest: {line.rstrip()}")

    def close(self) -> None:
        """Call it when the machine has ended: write the rest to the files, and close them."""
        os.close(self._writer)
        self._thread.join(_END_S)
        if timeline.is_told():
            self.note()
        folder, self._folder = self._folder, -1
        os.close(folder)
