"""A server inside a sandbox: ``web_server.py PORT FOLDER``. WebSockets and events, which end in notes in FOLDER."""

from __future__ import annotations

import http
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

FLOOD = 1 << 20, 64
"""The size and the number of messages."""


def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    path = connection.request.path
    if path == "/flood":
        for _ in range(FLOOD[1]):
            connection.send(bytes(FLOOD[0]))
    elif path == "/close":
        connection.close(4001, "enough")
    else:
        ours = [name for name in connection.request.headers if name.lower().startswith(("e2b-", "x-access"))]
        connection.send(f"{path} {connection.request.headers['X-Of']} {ours}")
        try:
            for message in connection:
                connection.send(message)
        except ConnectionClosed:
            pass
        Path(sys.argv[2], "closed").write_text(f"{connection.close_code} {connection.close_reason}")


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(http.HTTPStatus.FORBIDDEN, "not you") if request.path == "/refused" else None


def choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("two") if "two" in offered else None


if __name__ == "__main__":
    options: dict[str, Any] = {"process_request": refuse, "select_subprotocol": choose, "max_size": None}
    with serve(handle, "127.0.0.1", int(sys.argv[1]), **options) as server:
        server.serve_forever()
