"""The socket at which network cards of the machine reach the metadata service."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import tempfile
import threading

from pyvmm_firecracker.mmds.endpoint import HEADER, Endpoint
from pyvmm_firecracker.mmds.store import Mmds

LARGEST = HEADER + 14 + 65535 + 4
"""Bytes of a message: a frame whose segmentation is left to the card."""
FRAMES_SIZE = 1 << 18
"""Bytes of answers that wait for the guest; more are dropped, and repeated later."""


class Service:
    """Serves the cards that connect, each in a thread.  A context manager.

    :param address: IPv4
    :raises OSError: the socket cannot be made
    :ivar path: of the socket, in a directory of its own
    """

    def __init__(self, mmds: Mmds, address: str) -> None:
        self._mmds, self._address = mmds, socket.inet_aton(address)
        self._folder = tempfile.mkdtemp(prefix="pyvmm-mmds-")
        self.path = f"{self._folder}/socket"
        self._cards: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(self.path)
            self._listener.listen()
        except OSError:
            self.close()
            raise
        threading.Thread(target=self._accept, name="fc_mmds", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                card, _ = self._listener.accept()
                card.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FRAMES_SIZE)
                self._cards.append(card)
                threading.Thread(target=self._serve, args=(card,), name="fc_mmds", daemon=True).start()

    def _serve(self, card: socket.socket) -> None:
        def send(message: bytes) -> None:
            with contextlib.suppress(BlockingIOError):
                card.send(message, socket.MSG_DONTWAIT)

        endpoint = Endpoint(self._mmds, self._address, send)
        waiter = select.poll()
        waiter.register(card, select.POLLIN)
        with contextlib.suppress(OSError), card:
            while True:
                left = endpoint.tick()
                if not waiter.poll(None if left is None else left * 1000 + 1):
                    continue
                message = card.recv(LARGEST)
                if not message:
                    return  # the machine has ended
                endpoint.receive(message)

    def hide(self) -> None:
        """Remove the socket's name: all cards are connected."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Serve nobody any more."""
        self.hide()
        for each in (self._listener, *self._cards):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
