"""Clients that do not behave: each answer is an error with a sentence, and the server goes on."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from pyvmm_server import command
from tests.kata.oci_runtime import needs_namespaces
from tests.server.conftest import Server, running

pytestmark = needs_namespaces


@pytest.fixture(scope="module")
def box(server: Server) -> Iterator[Sandbox]:
    with Sandbox.create(**server.client()) as made:
        yield made


CONTROL: list[tuple[str, str, Any, int]] = [
    ("POST", "/v2/sandboxes", b"{", 400),
    ("POST", "/v2/sandboxes", b"[]", 400),
    ("POST", "/v2/sandboxes", b"\xff\xfe", 400),
    ("POST", "/v2/sandboxes", b"[" * 100_000, 400),
    ("POST", "/v2/sandboxes", {}, 400),
    ("POST", "/v2/sandboxes", {"templateID": 7}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": -1}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": True}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 10**30}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "timeout": 1.5}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "metadata": {"a": 1}}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "metadata": {"a": "x" * 100_000}}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "envVars": ["a"]}, 400),
    ("POST", "/v2/sandboxes", {"templateID": "base", "network": {"allowPublicTraffic": False}}, 501),
    ("POST", "/v2/sandboxes", {"templateID": "../../etc"}, 404),
    ("POST", "/v2/sandboxes", {"templateID": "/etc"}, 404),
    ("POST", "/v2/sandboxes", {"templateID": "oci:/etc"}, 404),
    ("POST", "/v2/sandboxes", {"templateID": ""}, 404),
    ("POST", "/v2/sandboxes", {"templateID": "a\0b"}, 404),
    ("POST", "/v2/sandboxes", b"x" * (2 << 20), 413),
    ("GET", "/v2/sandboxes?limit=0", None, 400),
    ("GET", "/v2/sandboxes?limit=-5", None, 400),
    ("GET", "/v2/sandboxes?nextToken=x", None, 400),
    ("GET", "/v2/sandboxes?nextToken=%FF", None, 400),
    ("GET", "/v2/sandboxes?state=ending", None, 400),
    ("GET", "/v2/sandboxes?order=up", None, 400),
    ("GET", "/v2/sandboxes?startedAfter=now", None, 400),
    ("GET", "/sandboxes/none", None, 404),
    ("GET", "/sandboxes/..%2f..%2fetc", None, 404),
    ("DELETE", "/templates/base", None, 404),
    ("DELETE", "/templates/..%2f..%2fetc", None, 404),
    ("GET", "/none", None, 404),
    ("PATCH", "/v2/sandboxes", None, 405),
    ("POST", "/v3/templates", {}, 400),
    ("POST", "/v3/templates", {"name": "../x"}, 400),
    ("POST", "/v3/templates", {"name": "base"}, 409),
    ("POST", "/v3/templates", {"name": "x", "tags": [1]}, 400),
    ("POST", "/v3/templates", {"name": "x", "tags": ["a/b"]}, 400),
    ("POST", "/v3/templates", {"name": "x", "cpuCount": 0}, 400),
    ("POST", "/v3/templates", {"name": "x", "memoryMB": 10**30}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromTemplate": "base"}, 404),
    ("POST", "/v2/templates/x/builds/x", {}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromTemplate": "base", "fromImage": "x"}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "fromImageRegistry": {"type": "aws"}}, 501),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "steps": [7]}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "steps": [{"type": "MOUNT"}]}, 501),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "steps": [{"type": "RUN", "args": [7]}]}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "steps": [{"type": "RUN", "args": ["a\0b"]}]}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "steps": [{"type": "ENV", "args": ["a"]}]}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "steps": [{"type": "COPY", "args": ["a", "b"]}]}, 400),
    ("POST", "/v2/templates/x/builds/x", {"fromImage": "x", "startCmd": "a\0b"}, 400),
    ("GET", "/templates/x/builds/x/status", None, 404),
    ("GET", "/templates/x/files/" + "0" * 64, None, 404),
    ("PUT", "/templates/x/files/" + "0" * 64, b"x", 403),
    ("PUT", "/templates/x/files/x?expires=9999999999&signature=%FF", b"x", 403),
    ("GET", "/templates/aliases/..%2fx", None, 404),
    ("GET", "/templates/x/tags", None, 404),
    ("POST", "/templates/tags", {"target": "x:y", "tags": ["z"]}, 404),
    ("DELETE", "/templates/tags", {"name": "x", "tags": ["z"]}, 404),
    ("PATCH", "/templates/x", {}, 501),
    ("GET", "/volumecontent/x/path", None, 501),
    ("GET", "/sandboxes/x/logs", None, 404),
    ("GET", "/volumes/x", None, 404),
]


@pytest.mark.parametrize("method, path, body, status", CONTROL)
def test_control_requests(server: Server, method: str, path: str, body: Any, status: int) -> None:
    content = body if isinstance(body, bytes | None) else json.dumps(body)
    answer = server.http(method, path, content=content)
    assert answer.status_code == status
    assert answer.json()["code"] == status and answer.json()["message"]


def _to(box: Sandbox, **headers: str) -> dict[str, str]:
    token = str(box._envd_access_token)
    return {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": token, **headers}


def _envelope(message: Any, flags: int = 0, size: int | None = None) -> bytes:
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data) if size is None else size) + data


STREAMS: list[tuple[str, bytes, str]] = [
    ("process.Process/Start", b"", "invalid_argument"),
    ("process.Process/Start", b"\0\0", "invalid_argument"),
    ("process.Process/Start", _envelope(b"{"), "invalid_argument"),
    ("process.Process/Start", _envelope({}), "invalid_argument"),
    ("process.Process/Start", _envelope({"process": {"cmd": "a\0b"}}), "invalid_argument"),
    ("process.Process/Start", _envelope({"process": {"cmd": "sh", "args": [1]}}), "invalid_argument"),
    ("process.Process/Start", _envelope({"process": {"cmd": "sh", "cwd": "/a\0b"}}), "invalid_argument"),
    ("process.Process/Start", _envelope({"process": {"cmd": "sh", "envs": {"A": None}}}), "invalid_argument"),
    ("process.Process/Start", _envelope({"process": {"cmd": "sh"}, "pty": {"size": {"rows": 0}}}), "invalid_argument"),
    ("process.Process/Start", _envelope({"process": {"cmd": "sh"}}, flags=1), "unimplemented"),
    ("process.Process/Start", _envelope(b"{}", size=1 << 31), "resource_exhausted"),
    ("process.Process/Connect", _envelope({"process": {"pid": 1}}), "not_found"),
    ("process.Process/Connect", _envelope({"process": {"pid": {}}}), "not_found"),
    ("process.Process/StreamInput", _envelope({"data": {"input": {"stdin": "eA=="}}}), "invalid_argument"),
    ("filesystem.Filesystem/WatchDir", _envelope({"path": "/none"}), "not_found"),
]


@pytest.mark.parametrize("name, body, code", STREAMS)
def test_streams(box: Sandbox, server: Server, name: str, body: bytes, code: str) -> None:
    headers = _to(box, **{"Content-Type": "application/connect+json"})
    answer = httpx.post(f"{server.url}/{name}", headers=headers, content=body)
    assert answer.status_code == 200
    flags, size = struct.unpack_from(">BI", answer.content)
    assert flags == 2 and size == len(answer.content) - 5
    assert json.loads(answer.content[5:])["error"]["code"] == code


CALLS: list[tuple[str, Any, int]] = [
    ("process.Process/None", {}, 501),
    ("process.Process/SendInput", {}, 400),
    ("process.Process/SendInput", {"process": {"pid": 1}, "input": {"stdin": "?"}}, 404),
    ("process.Process/SendSignal", {"process": {"pid": True}, "signal": 9}, 404),
    ("process.Process/Update", {"process": {"pid": 1}}, 400),
    ("filesystem.Filesystem/Stat", {"path": 1}, 400),
    ("filesystem.Filesystem/Stat", {"path": "/a\0"}, 400),
    ("filesystem.Filesystem/Stat", {"path": "/" + "x" * 5000}, 400),
    ("filesystem.Filesystem/Stat", {"path": "/\udcff"}, 400),
    ("filesystem.Filesystem/ListDir", {"path": "/", "depth": 10**9}, 400),
    ("filesystem.Filesystem/GetWatcherEvents", {"watcherId": "x"}, 404),
    ("filesystem.Filesystem/CreateWatcher", {"path": "/none"}, 404),
]


@pytest.mark.parametrize("name, body, status", CALLS)
def test_calls(box: Sandbox, server: Server, name: str, body: Any, status: int) -> None:
    headers = _to(box, **{"Content-Type": "application/json"})
    answer = httpx.post(f"{server.url}/{name}", headers=headers, content=json.dumps(body))
    assert answer.status_code == status and answer.json()["message"]


def test_uploads(box: Sandbox, server: Server) -> None:
    octets = _to(box, **{"Content-Type": "application/octet-stream"})
    url = f"{server.url}/files"
    bomb = gzip.compress(bytes(3 << 20))
    for path, headers, body, status in (
        ("/x", {"Content-Encoding": "gzip"}, b"no gzip", 400),
        ("/x", {"Content-Encoding": "gzip"}, bomb[:-10], 400),
        ("/x", {"Content-Encoding": "br"}, b"", 415),
        ("/a\0b", {}, b"", 400),
        ("", {}, b"", 400),
        ("/x", {"X-Metadata-A": "b"}, b"", 501),
        ("/x", {"Content-Type": "text/html"}, b"", 415),
        ("/x", {"Content-Type": "multipart/form-data; boundary=x"}, b"--y", 400),
        ("/x", {"Content-Type": "multipart/form-data"}, b"--y", 400),
        ("/x", {"Connect-Timeout-Ms": "?", "Authorization": "Basic ?"}, b"", 401),
    ):
        answer = httpx.post(url, params={"path": path}, headers={**octets, **headers}, content=body)
        assert (answer.status_code, bool(answer.json()["message"])) == (status, True), (path, headers)
    files = [("file", (f"{server.place}/files/{name}", b"1")) for name in "ab"]
    assert httpx.post(url, params={"path": "/x"}, headers=_to(box), files=files).status_code == 400


def test_limits_and_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# keys of the team\ne2b_0\ne2b_1\n")
    with running(tmp_path, "--max-upload", "1", "--max-sandboxes", "1", "--keys", str(keys)) as server:
        _check_keys(server)
        _check_limits(server)


def _check_keys(server: Server) -> None:
    for key in ("e2b_2", "", "# keys of the team"):
        answer = server.http("GET", "/v2/sandboxes", key)
        assert answer.status_code == 401 and answer.json()["code"] == 401
    assert server.http("GET", "/v2/sandboxes", "e2b_0").status_code == 200
    bearer = httpx.get(f"{server.url}/sandboxes", headers={"Authorization": "Bearer e2b_1"})
    assert bearer.status_code == 200


def _check_limits(server: Server) -> None:
    with Sandbox.create(**server.client()) as box:
        for headers in (
            {"Content-Type": "application/octet-stream"},
            {"Content-Type": "multipart/form-data; boundary=x"},
        ):
            answer = httpx.post(
                f"{server.url}/files",
                params={"path": f"{server.place}/files/x"},
                headers=_to(box, **headers),
                content=b"--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n" + bytes(2 << 20),
            )
            assert answer.status_code == 413
        assert not box.files.exists(f"{server.place}/files/x")
        answer = server.http("POST", "/v2/sandboxes", json={"templateID": "base"})
        assert answer.status_code == 429 and "limit" in answer.json()["message"]
        fork = server.http("POST", f"/sandboxes/{box.sandbox_id}/fork", json={"count": 2})
        assert [each["error"]["code"] for each in fork.json()] == [429, 429]
        names = ("kept", "kept", "other")
        saved = [
            server.http("POST", f"/sandboxes/{box.sandbox_id}/snapshots", json={"name": name}).status_code
            for name in names
        ]
        assert saved == [201, 201, 429]
        assert len(server.http("GET", "/snapshots").json()) == 1
        assert server.http("POST", "/v2/sandboxes", "e2b_1", json={"templateID": "base"}).status_code == 201


def test_tokens_of_sandboxes(box: Sandbox, server: Server) -> None:
    with Sandbox.create(**server.client("e2b_1")) as other:
        for token in ("", "x", str(other._envd_access_token)):
            headers = _to(box, **{"X-Access-Token": token})
            for method, path in (("GET", "/files?path=/etc/passwd"), ("POST", "/filesystem.Filesystem/Stat")):
                assert httpx.request(method, server.url + path, headers=headers).status_code == 401
    missing = httpx.get(f"{server.url}/health", headers={"E2b-Sandbox-Id": "none"})
    assert missing.status_code == 502 and "was not found" in missing.json()["message"]
    for port in ("0", "70000", "x", "-1"):
        assert (
            httpx.get(server.url, headers={"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": port}).status_code
            == 400
        )


def test_a_client_that_sends_nothing_does_not_stop_others(box: Sandbox, server: Server) -> None:
    begun = b"POST /v2/sandboxes HTTP/1.1\r\nHost: localhost\r\nX-API-Key: e2b_0\r\nContent-Length: 100\r\n\r\n{"
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for each in silent:
        each.sendall(begun)
    assert box.commands.run("echo on").stdout == "on\n"
    for each in silent:
        each.close()


def test_the_same_request_makes_one_sandbox(server: Server) -> None:
    options: dict[str, Any] = {
        "json": {"templateID": "base"},
        "headers": {"Idempotency-Key": base64.b64encode(b"1").decode()},
    }
    first, second = (server.http("POST", "/v2/sandboxes", **options).json()["sandboxID"] for _ in range(2))
    assert first == second
    other = server.http("POST", "/v2/sandboxes", "e2b_1", **options).json()["sandboxID"]
    assert other != first
    for name, key in ((first, "e2b_0"), (other, "e2b_1")):  # other tests list those of a key
        assert server.http("DELETE", f"/sandboxes/{name}", key).status_code == 204


def test_two_servers_do_not_share_their_records(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--state", str(server.place / "server")]) == 2
    assert "another server uses it" in capsys.readouterr().err


def test_the_command_line_refuses_what_is_not_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "keys"
    empty.write_text("# nothing\n")
    for options, words in (
        (["--host", "0.0.0.0"], "any key is accepted"),
        (["--keys", str(empty)], "has no key"),
        (["--keys", str(tmp_path / "none")], "No such file"),
        (["--template", "base"], "NAME=IMAGE"),
        (["--template", f"base={tmp_path}"], "is no template"),
    ):
        assert command.main(options) == 2
        assert words in capsys.readouterr().err
