"""A page of registers: the values that the guest reads without Python, and the word in which C sets interrupt bits."""

from __future__ import annotations

import posix

from vmm.memory.memfd import map_memory, sealed_memory
from vmm.native import ffi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SIZE = 4096


class RegisterPage:
    """4096 bytes, page-aligned, all zero.

    :param status_at: the offset of the word with the interrupt bits
    :param shared: another process sets those bits too: the page is in a memfd
    :ivar page: the bytes, valid after :meth:`close`
    :ivar words: the same as 32-bit words, each written by one store
    :ivar status: for ``struct irq`` (cdata ``uint32_t *``)
    :ivar status_place: for another process: descriptor, -1 unless *shared*, and offset
    """

    __slots__ = ("_pin", "page", "status", "status_place", "words")

    def __init__(self, status_at: int, *, shared: bool) -> None:
        fd = sealed_memory("registers", SIZE) if shared else -1
        try:
            self.page = map_memory(fd, SIZE)
        except BaseException:
            if fd >= 0:
                posix.close(fd)
            raise
        self.words = memoryview(self.page).cast("I")
        self._pin: Any = ffi.from_buffer(self.page)
        self.status: Any = ffi.cast("uint32_t *", self._pin + status_at)
        self.status_place = (fd, status_at)

    def close(self) -> None:
        """Let go of the descriptor.  A second call does nothing."""
        fd, at = self.status_place
        self.status_place = (-1, at)
        if fd >= 0:
            posix.close(fd)


class PagesAhead:
    """Those of a machine that is still to be made.

    :param places: of each page where its word with the interrupt bits is, and whether another process sets those bits
    """

    __slots__ = ("_pages",)

    def __init__(self, places: Iterable[tuple[int, bool]] = ()) -> None:
        self._pages: list[tuple[int, bool, RegisterPage]] = []
        try:
            for status_at, shared in places:
                page = RegisterPage(status_at, shared=shared)
                self._pages.append((status_at, shared, page))
                page.words[0] = 0  # it is there now
        except BaseException:
            self.close()
            raise

    def take(self, status_at: int, *, shared: bool) -> RegisterPage:
        """A page with these parameters, owned by the caller from now on; made if there is none."""
        for index, (at, is_shared, page) in enumerate(self._pages):
            if at == status_at and is_shared == shared:
                del self._pages[index]
                return page
        return RegisterPage(status_at, shared=shared)

    def close(self) -> None:
        """Those that nobody wanted.  A second call does nothing."""
        while self._pages:
            self._pages.pop()[2].close()
