"""A TCP server that sends back all that a client has sent, in capitals.  It prints its port,
which its argument can choose."""

from __future__ import annotations

import socket
import sys
import threading


def serve(client: socket.socket) -> None:
    with client:
        data = b"".join(iter(lambda: client.recv(1 << 16), b""))  # until the client has sent all
        client.sendall(data.upper())


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1]).start()
