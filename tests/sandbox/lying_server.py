"""A TCP server that answers each connection with the next of some bytes.  Arguments: its port, a file with a list."""

from __future__ import annotations

import ast
import socket
import sys
from pathlib import Path

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
for data, times in ast.literal_eval(Path(sys.argv[2]).read_text()):
    with listener.accept()[0] as client:
        try:
            for _ in range(times):
                client.sendall(data)
        except OSError:
            pass  # the client has had enough
