"""Servers inside a sandbox: WebSockets and streams of events, through the proxy."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from pyvmm_server import tunnels
from tests.kata.oci_runtime import PATIENCE, eventually, needs_namespaces
from tests.server.conftest import Server, free_port
from tests.server.web_server import FLOOD

pytestmark = needs_namespaces
HERE = Path(__file__).parent


class Web:
    """A server in a sandbox of its own.

    :ivar folder: for its notes
    """

    def __init__(self, server: Server, box: Sandbox, program: str) -> None:
        self.port = free_port()
        self.server = server
        self.box = box
        self.folder = server.place / "files" / f"web-{box.sandbox_id}"
        self.folder.mkdir()
        box.commands.run(f"{sys.executable} {HERE / program} {self.port} {self.folder}", background=True, timeout=0)
        eventually(self._listens, "the server does not start")

    def _listens(self) -> bool:
        return httpx.get(f"{self.server.url}/listens", headers=self.headers).status_code != 502

    @property
    def headers(self) -> dict[str, str]:
        """Lead to it."""
        return {"E2b-Sandbox-Id": self.box.sandbox_id, "E2b-Sandbox-Port": str(self.port)}

    def connect(self, path: str = "/", **options: Any) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.server.port}{path}"
        options = {"max_size": None, "open_timeout": PATIENCE, "proxy": None, **options}
        made: ClientConnection = connect(url, additional_headers={**self.headers, "X-Of": "the client"}, **options)
        return made


@pytest.fixture
def web(server: Server) -> Iterator[Web]:
    with Sandbox.create(**server.client()) as box:
        yield Web(server, box, "web_server.py")


def test_websockets(web: Web) -> None:
    with web.connect("/a%20b?c=d", subprotocols=[Subprotocol("one"), Subprotocol("two")]) as client:
        assert client.recv() == "/a%20b?c=d the client []"
        assert client.subprotocol == "two"
        big = bytes(range(256)) * 12_000
        for message in ("text ä", b"bytes", big, "x" * 100_000):
            client.send(message)
            assert client.recv() == message
        assert client.ping().wait(PATIENCE)
        client.close(4002, "done")
    eventually(lambda: (web.folder / "closed").exists(), "the server inside does not see the end")
    assert (web.folder / "closed").read_text() == "4002 done"
    with web.connect("/close") as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv()
        assert closed.value.rcvd is not None and (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")


def test_websockets_by_their_host_name(web: Web) -> None:
    """The client leaves without a word; the server inside sees that."""
    sock = socket.create_connection(("127.0.0.1", web.server.port))
    url = f"ws://{web.box.get_host(web.port)}/"
    with connect(url, sock=sock, proxy=None, additional_headers={"X-Of": "the client"}) as client:
        assert client.recv() == "/ the client []"
        sock.shutdown(socket.SHUT_RDWR)
    eventually(lambda: (web.folder / "closed").exists(), "the server inside does not see the end")
    assert (web.folder / "closed").read_text().startswith("1006")


def test_websockets_end_with_the_sandbox(web: Web) -> None:
    with web.connect() as client:
        client.recv()
        web.box.kill()
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)


def test_a_client_that_does_not_read_takes_no_memory(web: Web) -> None:
    before = _peak(web.server)
    with web.connect("/flood", max_queue=1) as client:
        assert web.box.commands.run("echo others go on").stdout == "others go on\n"
        assert sum(len(client.recv()) for _ in range(FLOOD[1])) == FLOOD[0] * FLOOD[1]
    assert _peak(web.server) - before < 16 << 20


def _peak(server: Server) -> int:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_websockets_that_are_refused(web: Web) -> None:
    with pytest.raises(InvalidStatus) as error:
        web.connect("/refused")
    assert (error.value.response.status_code, bytes(error.value.response.body)) == (403, b"not you")
    web_headers = web.headers
    for change, status, words in (
        ({"E2b-Sandbox-Id": "none"}, 502, b"was not found"),
        ({"E2b-Sandbox-Port": "x"}, 400, b"is no port"),
        ({"E2b-Sandbox-Port": "49983"}, 400, b"has no WebSockets"),
        ({"E2b-Sandbox-Port": "49999"}, 400, b"has no WebSockets"),
        ({"E2b-Sandbox-Port": "1"}, 502, b"the port is not open"),
    ):
        with pytest.raises(InvalidStatus) as error:
            connect(f"ws://127.0.0.1:{web.server.port}/", proxy=None, additional_headers={**web_headers, **change})
        assert error.value.response.status_code == status and words in bytes(error.value.response.body)
    with pytest.raises(InvalidStatus):
        connect(f"ws://127.0.0.1:{web.server.port}/v2/sandboxes", proxy=None)


def test_a_sandbox_has_a_number_of_websockets(web: Web) -> None:
    request = "\r\n".join(
        [
            "GET / HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==",
            *(f"{name}: {value}" for name, value in web.headers.items()),
            "X-Of: x\r\n\r\n",
        ]
    ).encode()
    clients = []
    for number in range(tunnels.MOST + 1):
        clients.append(socket.create_connection(("127.0.0.1", web.server.port)))
        clients[-1].sendall(request)
        answer = clients[-1].recv(1 << 10)
        assert b" 503 " in answer if number == tunnels.MOST else b" 101 " in answer
    for each in clients:
        each.close()
    eventually(lambda: _works(web), "no place becomes free")


def _works(web: Web) -> bool:
    try:
        with web.connect():
            return True
    except InvalidStatus:
        return False


def test_a_server_that_ends_ends_its_websockets(own_server: Server) -> None:
    with Sandbox.create(**own_server.client()) as box:
        web = Web(own_server, box, "web_server.py")
        with web.connect() as client:
            client.recv()
            own_server.stop()
            with pytest.raises(ConnectionClosed):
                client.recv(PATIENCE)
        own_server.start()
        with web.connect() as client:
            assert client.recv() == "/ the client []"  # it is there after a restart


def test_events_come_as_they_are_sent(server: Server) -> None:
    with Sandbox.create(**server.client()) as box:
        web = Web(server, box, "events_server.py")
        with httpx.stream("GET", f"{server.url}/", headers=web.headers, timeout=PATIENCE) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            lines = (line for line in answer.iter_lines() if line.startswith("data"))
            for number in range(2):
                assert next(lines) == f"data: {number}"
                (web.folder / f"go{number}").touch()
            assert next(lines) == "data: 2"
        eventually(lambda: (web.folder / "left").exists(), "the server inside does not see that the client has left")


@pytest.mark.parametrize("upgrade", ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n"])
def test_a_request_ends_when_its_client_leaves(server: Server, upgrade: str) -> None:
    """Otherwise each client that does not wait costs the server a connection until the sandbox ends."""
    with Sandbox.create(**server.client()) as box:
        folder = server.place / "files" / f"silent-{box.sandbox_id}"
        folder.mkdir()
        command = f"{sys.executable} {HERE / 'silent_server.py'} 8000 {folder}"
        if upgrade:  # which is refused by an answer without an end
            command += " 'HTTP/1.1 200 OK' ''"
        box.commands.run(command, background=True, timeout=0)
        eventually((folder / "listens").exists, "the server does not start")
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(f"GET / HTTP/1.1\r\nHost: 8000-{box.sandbox_id}.x\r\n{upgrade}\r\n".encode())
            eventually((folder / "asked").exists, "the request does not arrive")
            if upgrade:
                client.settimeout(PATIENCE)
                assert client.recv(12) == b"HTTP/1.1 200"
        eventually((folder / "left").exists, "the server inside does not see that the client has left")
