"""Binds files of the host for the guest, or only records them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyvmm_kata.host.mounts import GUEST_SHARED, guest_socket

if TYPE_CHECKING:
    from collections.abc import Sequence


class Share(Protocol):
    """The interface for binds and mounts for the guest: :class:`pyvmm_kata.host.mounts.SharedDirectory`."""

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        """Show a file or a directory of the host to the guest; returns its path in the guest."""
        ...

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        """Mount an overlay of directories of the host; returns its path in the guest."""
        ...

    def socket(self, source: str, name: str) -> str:
        """Make a unix socket of the host available to the guest; returns its path in the guest."""
        ...


class Nowhere:
    """A share into which nothing is bound."""

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        return name

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        return name

    def socket(self, source: str, name: str) -> str:
        return name


class Bind(NamedTuple):
    """A file or a directory of the host that the guest will see as *name*."""

    source: str
    name: str
    recursive: bool
    read_only: bool
    follow: bool


class Recorder:
    """A share that records binds, for a process in another mount namespace."""

    def __init__(self) -> None:
        self.binds: list[Bind] = []
        self.overlays: list[tuple[str, list[str], bool]] = []
        self.sockets: list[tuple[str, str]] = []

    def bind(
        self, source: str, name: str, *, recursive: bool = True, read_only: bool = False, follow: bool = False
    ) -> str:
        """See :class:`Share`."""
        self.binds.append(Bind(source, name, recursive, read_only, follow))
        return f"{GUEST_SHARED}/{name}"

    def overlay(self, name: str, options: Sequence[str], *, read_only: bool = False) -> str:
        """See :class:`Share`."""
        self.overlays.append((name, list(options), read_only))
        return f"{GUEST_SHARED}/{name}"

    def socket(self, source: str, name: str) -> str:
        """See :class:`Share`."""
        self.sockets.append((source, name))
        return guest_socket(name)
