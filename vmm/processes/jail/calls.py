"""What the jails of several kinds of processes do by the native library."""

from __future__ import annotations

import posix

from vmm.errors import HostError
from vmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def check(result: int) -> None:
    """
    :param result: of a function of the native library: 0, or an error number below 0
    :raises HostError: it failed
    """
    if result:
        raise HostError(f"jail: {posix.strerror(-result)}", code="jail", errno=-result)


class Folders:
    """Folders that a process can use in its jail, if the host's kernel has Landlock.  Those that cannot be opened are
    left out."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._fds: list[int] = []
        try:
            for path in paths:
                try:
                    self._fds.append(posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC))
                except OSError:
                    pass
        except BaseException:
            self.close()
            raise

    def keep(self, *, writable: bool) -> None:
        """From now on, for good, the calling thread and those that it starts reach no files but those in the folders.

        :param writable: they make and remove files there; False: they only read
        """
        lib.jail_keep_folders(ffi.new("int[]", self._fds), len(self._fds), writable)

    def close(self) -> None:
        """A second call does nothing."""
        while self._fds:
            posix.close(self._fds.pop())
