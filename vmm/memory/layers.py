"""Layers: the files that RAM is filled from, one over the other."""

from __future__ import annotations

import posix

from vmm.faststart.thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Layer = tuple[int, Sequence[tuple[int, int]], bytes]
    """Of what RAM is filled from: a file as long as RAM; between which offsets its data counts; and a bit for each page
    that it has, always if there are no offsets."""


class Layers:
    """The layers of one machine's RAM, the last one on top.

    :ivar files: the layers, with descriptors owned by this; change them under :attr:`lock`
    :ivar lock: held while layers are replaced or closed
    :ivar unsealed: the top one can still be written
    """

    def __init__(self) -> None:
        self.files: list[Layer] = []
        self.lock = allocate_lock()
        self.unsealed = False

    def __len__(self) -> int:
        return len(self.files)

    def add(self, layer: Layer) -> list[Layer]:
        """Put a layer on top, whose descriptor is owned by this from now on; returns :func:`duplicates` of all."""
        with self.lock:
            self.files.append(layer)
            return duplicates(self.files)

    def copies(self) -> list[Layer]:
        """The layers with descriptors owned by the caller; empty: there are none, or the top one may still be
        written."""
        with self.lock:
            return [] if self.unsealed else duplicates(self.files)

    def close(self) -> None:
        """RAM is no longer filled from them."""
        self.unsealed = False
        while self.files:
            posix.close(self.files.pop()[0])


def duplicates(layers: Sequence[Layer]) -> list[Layer]:
    """The same with duplicate descriptors, owned by the caller."""
    made: list[Layer] = []
    try:
        for file, pieces, bits in layers:
            made.append((posix.dup(file), pieces, bits))
    except BaseException:
        close_all(made)
        raise
    return made


def close_all(layers: Sequence[Layer]) -> None:
    """Close the descriptors."""
    for file, _, _ in layers:
        posix.close(file)
