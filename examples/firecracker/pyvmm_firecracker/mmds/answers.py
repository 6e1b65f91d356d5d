"""What the guest's HTTP requests get from the metadata service."""

from __future__ import annotations

from typing import NamedTuple

import h11

from pyvmm_firecracker.mmds.store import Mmds, NotFoundError, UnsupportedError

TOKEN_PATH = "/latest/api/token"
HEADERS = 4096
"""Bytes of a request's head."""
BODY = 8192
"""Bytes of a request's body, which nobody reads."""
ANSWERS = 1 << 16
"""Bytes that wait for a client; a pipelined request behind so many answers ends the connection."""
_TTL = (b"x-metadata-token-ttl-seconds", b"x-aws-ec2-metadata-token-ttl-seconds")
_TOKEN = (b"x-metadata-token", b"x-aws-ec2-metadata-token")
_FORWARDED = b"x-forwarded-for"


class Answer(NamedTuple):
    """Status, text, and whether that is JSON."""

    status: int
    text: str
    is_json: bool = False


def answer(mmds: Mmds, method: str, target: str, headers: dict[bytes, bytes]) -> Answer:
    """One request.

    :param headers: by their names in small letters
    """
    path = _path(target)
    if not path:
        return Answer(400, "Invalid URI.")
    if method == "PUT":
        return _put(mmds, path, headers)
    if method != "GET":
        return Answer(405, "Not allowed HTTP method.")
    if mmds.version == 2:
        token = next((headers[name] for name in _TOKEN if name in headers), None)
        if token is None:
            return Answer(
                401, "No MMDS token provided. Use `X-metadata-token` header to specify the session token."
            )  # fmt: skip
        if not mmds.is_valid(token.decode("latin-1")):
            return Answer(401, "MMDS token not valid.")
    return _get(mmds, path, headers)


def _path(target: str) -> str:
    if target.startswith("http://"):
        _, slash, rest = target.removeprefix("http://").partition("/")
        target = slash + rest
    return target.partition("?")[0] if target.startswith("/") else ""


def _get(mmds: Mmds, path: str, headers: dict[bytes, bytes]) -> Answer:
    as_json = not mmds.is_imds and headers.get(b"accept", b"").strip().lower() == b"application/json"
    try:
        return Answer(200, mmds.find(path, as_json=as_json), as_json)
    except NotFoundError:
        return Answer(404, f"Resource not found: {path}.")
    except UnsupportedError:
        return Answer(501, "Cannot retrieve value. The value has an unsupported type.")


def _put(mmds: Mmds, path: str, headers: dict[bytes, bytes]) -> Answer:
    if _FORWARDED in headers:
        return Answer(400, "Invalid header. Reason: Unsupported header name. Key: X-Forwarded-For")
    if "/" + "/".join(part for part in path.split("/") if part) != TOKEN_PATH or path.endswith("/"):
        return Answer(404, f"Resource not found: {path}.")
    found = next((headers[name] for name in _TTL if name in headers), None)
    if found is None:
        return Answer(
            400,
            "Token time to live value not found. Use `X-metadata-token-ttl-seconds` header to specify the token's "
            "lifetime.",
        )
    if not found.isdigit() or len(found) > 9:
        return Answer(400, f"Invalid header. Reason: Invalid value. Value:{found[:40].decode('latin-1')}")
    try:
        return Answer(200, mmds.new_token(int(found)))
    except ValueError as error:
        return Answer(400, str(error))


class Session:
    """The HTTP of one connection."""

    def __init__(self, mmds: Mmds) -> None:
        self._mmds = mmds
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADERS)
        self._request: h11.Request | None = None
        self._body = 0

    def serve(self, data: bytes) -> tuple[bytes, bool]:
        """Bytes of the client, none: its end. What to answer, and whether to end the connection."""
        try:
            self._http.receive_data(data)
            return self._answers()
        except h11.RemoteProtocolError as error:
            return self._refuse(error.error_status_hint, f"Invalid request: {error}."), True

    def _answers(self) -> tuple[bytes, bool]:
        sent = b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return sent, False
            if isinstance(event, h11.ConnectionClosed):
                return sent, True
            if isinstance(event, h11.Request):
                self._request, self._body = event, 0
                if self._http.they_are_waiting_for_100_continue:
                    sent += self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            elif isinstance(event, h11.Data):
                self._body += len(event.data)
                if self._body > BODY:
                    return sent + self._refuse(413, f"The body is larger than {BODY} bytes."), True
            elif isinstance(event, h11.EndOfMessage):
                sent += self._respond(is_last=len(sent) > ANSWERS)
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return sent, True
                self._http.start_next_cycle()
                self._request = None

    def _respond(self, *, is_last: bool) -> bytes:
        assert self._request is not None
        headers: dict[bytes, bytes] = {}
        for name, value in self._request.headers:
            headers.setdefault(name, value)
        method, target = self._request.method.decode("latin-1"), self._request.target.decode("latin-1")
        return self._send(answer(self._mmds, method, target, headers), is_last=is_last)

    def _refuse(self, status: int, text: str) -> bytes:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        return self._send(Answer(status, text))

    def _send(self, made: Answer, *, is_last: bool = False) -> bytes:
        is_head = self._request is not None and self._request.method == b"HEAD"
        data = made.text.encode()
        headers = [
            ("Server", "Firecracker API"),
            ("Content-Type", "application/json" if made.is_json else "text/plain"),
            ("Content-Length", str(len(data))),
        ]
        if made.status == 405:
            headers.append(("Allow", "GET, PUT"))
        if is_last:
            headers.append(("Connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=made.status, headers=headers)]
        if not is_head:
            events.append(h11.Data(data=data))
        events.append(h11.EndOfMessage())
        return b"".join(self._http.send(each) or b"" for each in events)
