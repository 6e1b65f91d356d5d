"""A server inside a sandbox that sends events: ``events_server.py PORT FOLDER``. Each waits for a file in FOLDER."""

from __future__ import annotations

import http.server
import sys
import time
from pathlib import Path

FOLDER = Path(sys.argv[2])


class Events(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for number in range(3 if self.path == "/" else 0):
                self.wfile.write(f"data: {number}\n\n".encode())
                while not (FOLDER / f"go{number}").exists():
                    self.wfile.write(b": waiting\n\n")  # fails when the client has left
                    time.sleep(0.02)
        except OSError:
            (FOLDER / "left").touch()


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Events).serve_forever()
