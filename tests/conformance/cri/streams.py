"""exec, attach and port-forward, whose streams go over a websocket as the URL that containerd answers takes it."""

from __future__ import annotations

import json
import time
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.conformance.cri.stage import Box, scene
from tests.conformance.suite import Observation, case, equal, matches

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


@scene(
    case("cri/exec/streams", "the streams are apart", equal("out", "out\n"), equal("err", "err\n")),
    case("cri/exec/status", "the status is told", equal("status", "5")),
    case("cri/exec/success", "so is success", equal("success", "0")),
    case("cri/exec/stdin", "standard input reaches the program", equal("echo", "typed\n")),
    case("cri/exec/tty", "tty gives a terminal", matches("tty", "/dev/pts/\\d")),
    case("cri/exec/resize", "which has the size told", matches("size", "33 77")),
    case("cri/exec/missing", "a program that is not there is told", matches("missing", "nosuch")),
    case("cri/attach/output", "attach shows what is printed from now on", matches("attach", "^tick$")),
    case("cri/attach/stdin", "attach gives standard input", matches("attach-in", "got typed")),
    case("cri/attach/once", "with stdin_once the end of attach's input is the program's", equal("once", "exited")),
)
def exec_and_attach(box: Box) -> Observation:
    pod = box.pod()
    made = box.run(pod, "while :; do echo tick; sleep 0.2; done")

    def exec_url(*cmd: str, **more: bool) -> str:
        wanted: dict[str, Any] = {"stdout": True, "stderr": not more.get("tty", False), **more}
        return str(box.call("Exec", container_id=made, cmd=list(cmd), **wanted).url)

    seen: Observation = {}
    streams = Streams(exec_url("sh", "-c", "echo out; echo err >&2; exit 5"))
    output = streams.rest()
    seen |= {
        "out": output.get(STDOUT, b"").decode(),
        "err": output.get(STDERR, b"").decode(),
        "status": streams.status(),
    }
    streams = Streams(exec_url("sh", "-c", "true"))
    streams.rest()
    seen["success"] = streams.status()
    streams = Streams(exec_url("sh", "-c", "read a; echo $a", stdin=True))
    streams.send(STDIN, b"typed\n")
    seen["echo"] = streams.until(STDOUT, b"\n").decode()
    streams.close()
    streams = Streams(exec_url("sh", "-c", "tty; while read a; do stty size; done", stdin=True, tty=True))
    streams.resize(33, 77)
    streams.until(STDOUT, b"/dev/pts")
    for _ in range(20):
        streams.send(STDIN, b"\n")
        if b"33 77" in streams.until(STDOUT, b"\n"):
            break
        box.until(lambda: False, 0.2)
    streams.until(STDOUT, b"33 77")
    seen["tty"] = seen["size"] = streams.output.get(STDOUT, b"").decode()
    streams.close()
    streams = Streams(exec_url("nosuch"))
    streams.rest()
    seen["missing"] = streams.status()
    streams = Streams(str(box.call("Attach", container_id=made, stdout=True, stderr=True).url))
    seen["attach"] = streams.until(STDOUT, b"tick\n").decode()
    streams.close()
    reader = box.run(pod, "while read a; do echo got $a; done", "reader", stdin=True, stdin_once=True)
    streams = Streams(str(box.call("Attach", container_id=reader, stdin=True, stdout=True, stderr=True).url))
    streams.send(STDIN, b"typed\n")
    seen["attach-in"] = streams.until(STDOUT, b"got typed").decode()
    streams.close()
    box.until(lambda: box.state(reader) == "exited")
    seen["once"] = box.state(reader)
    return seen


@scene(
    case("cri/port-forward/served", "what connects to the port reaches the pod's server", matches("served", "a page")),
    case(
        "cri/port-forward/closed",
        "a port that nobody listens on is an error",
        matches("closed", "refused|connect|failed"),
    ),
)
def port_forward(box: Box) -> Observation:
    pod = box.pod()
    box.run(pod, "echo a page >/tmp/index.html; exec httpd -f -p 8000 -h /tmp", "server")
    ready = box.run(pod, name="other")
    box.until(lambda: box.exec(ready, "wget -q -O - http://127.0.0.1:8000/").exit_code == 0)
    data, error = 0, 1
    streams = Streams(str(box.call("PortForward", pod_sandbox_id=pod, port=[8000]).url))
    # The first message of each channel is the port
    streams.send(data, b"GET / HTTP/1.0\r\n\r\n")
    seen = {"served": streams.until(data, b"a page").decode(errors="replace")}
    streams.close()
    streams = Streams(str(box.call("PortForward", pod_sandbox_id=pod, port=[8001]).url))
    streams.send(data, b"x")
    seen["closed"] = streams.until(error, b"8001").decode(errors="replace")
    streams.close()
    return seen
