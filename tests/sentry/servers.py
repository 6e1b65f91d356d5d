"""Servers for containers: Debian's nginx, and one in Python that holds memory."""

from __future__ import annotations

from pathlib import Path

PORT = 8000
HELD = 64 << 20
"""Bytes."""
NGINX = ("/usr/sbin/nginx", "-c", "/etc/nginx.conf")
CONFIGURATION = f"""
daemon off;
worker_processes 1;
pid /tmp/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
	access_log off;
	client_body_temp_path /tmp/body;
	proxy_temp_path /tmp/proxy;
	fastcgi_temp_path /tmp/fastcgi;
	uwsgi_temp_path /tmp/uwsgi;
	scgi_temp_path /tmp/scgi;
	server {{
		listen {PORT};
		root /www;
	}}
}}
"""
PAGE = "served by nginx\n"

SERVER = f"""
import hashlib, http.server, os
held, count = os.urandom(1 << 20) * {HELD >> 20}, 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        text = hashlib.sha256(held[::4096]).hexdigest() if self.path == "/sum" else len(held)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d %s" % (count, str(text).encode()))
    def log_message(self, *words):
        pass
http.server.HTTPServer(("0.0.0.0", {PORT}), Handler).serve_forever()
"""
"""Answers how often it was asked, and the size of what it holds, or the sum of a byte of each page."""
PYTHON = ("/usr/bin/python3", "-IS", "-c", SERVER)


def prepare_nginx(root: Path) -> None:
    """Its files, in the root of a container."""
    for name in ("etc", "tmp", "www"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc/nginx.conf").write_text(CONFIGURATION)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nnobody:x:65534:65534::/:/\n")
    (root / "etc/group").write_text("root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")
    (root / "www/index.html").write_text(PAGE)


ECHO = f"""
import hashlib, socket, sys
server = socket.create_server(("", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rwb") as stream:
        kind, size, piece = stream.readline().split()
        if kind == b"sum":
            done = hashlib.sha256()
            for at in range(0, int(size), int(piece)):
                done.update(stream.read(min(int(piece), int(size) - at)))
            stream.write(done.hexdigest().encode())
        else:
            text = b"".join(b"%d\\n" % number for number in range(int(size) // 2 + 1))[: int(size)]
            for at in range(0, int(size), int(piece)):
                connection.sendall(text[at : at + int(piece)])
"""
"""Answers `sum SIZE PIECE` with the SHA-256 of so many bytes that follow, and `text SIZE PIECE` with numbers."""
STREAMS = ("/usr/bin/python3", "-IS", "-c", ECHO)
