"""Streams of exec, attach and port-forward, over a websocket as the URL that containerd answers takes it."""

from __future__ import annotations

import json
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
PROTOCOL = Subprotocol("v4.channel.k8s.io")
PATIENCE = 40.0


class Streams:
    """A connection; each message is of a channel, the number of which is its first byte."""

    def __init__(self, url: str) -> None:
        self._socket = connect(
            url.replace("http://", "ws://", 1), subprotocols=[PROTOCOL], open_timeout=PATIENCE, proxy=None
        )
        self.output: dict[int, bytes] = {}

    def send(self, channel: int, data: bytes) -> None:
        """Give a channel data."""
        self._socket.send(bytes([channel]) + data)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size."""
        self.send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def until(self, channel: int, text: bytes) -> bytes:
        """What has come on a channel once the text is in it, or until the end or for as long as one waits."""
        deadline = time.monotonic() + PATIENCE
        try:
            while text not in self.output.get(channel, b"") or not text:
                message = self._socket.recv(timeout=max(0.0, deadline - time.monotonic()))
                data = message if isinstance(message, bytes) else message.encode()
                if data:
                    self.output[data[0]] = self.output.get(data[0], b"") + data[1:]
        except (ConnectionClosed, TimeoutError):
            pass
        return self.output.get(channel, b"")

    def rest(self) -> dict[int, bytes]:
        """All that has come, at the end of the connection."""
        self.until(-1, b"")
        return self.output

    def status(self) -> str:
        """How the program ended: its status, as the channel of errors says."""
        text = self.output.get(ERROR, b"")
        try:
            told = json.loads(text or b"{}")
        except ValueError:
            return text.decode(errors="replace")
        if told.get("status") == "Success":
            return "0"
        causes = (told.get("details") or {}).get("causes") or []
        return str(causes[0].get("message")) if causes else str(told.get("message"))

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
