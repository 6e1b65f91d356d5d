"""A server inside a sandbox whose answer never ends, or never begins: ``silent_server.py PORT FOLDER LINE...``.

Its notes in FOLDER are files.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

folder = Path(sys.argv[2])
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    (folder / "listens").touch()
    client, _ = listener.accept()
    with client:
        client.recv(1 << 16)
        (folder / "asked").touch()
        client.sendall("".join(f"{line}\r\n" for line in sys.argv[3:]).encode())
        while client.recv(1 << 16):
            pass
        (folder / "left").touch()
