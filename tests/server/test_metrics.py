"""What the server reports of itself: figures, a log of requests, traces."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from pyvmm_server.settings import hash_of
from tests.kata.oci_runtime import eventually, needs_namespaces
from tests.server.conftest import Server, running

pytestmark = needs_namespaces
Labels = frozenset[tuple[str, str]]


def _figures(server: Server, key: str = "e2b_0") -> dict[tuple[str, Labels], float]:
    answer = server.http("GET", "/metrics", key)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def _figure(found: dict[tuple[str, Labels], float], name: str, **labels: str) -> float:
    return found.get((f"pyvmm_server_{name}", frozenset(labels.items())), 0)


def test_figures(own_server: Server) -> None:
    server = own_server
    boxes = [Sandbox.create(**server.client()) for _ in range(3)]
    boxes.append(Sandbox.create(**server.client("e2b_1")))
    boxes[0].pause()
    boxes[1].commands.run("true")
    assert server.http("POST", "/v2/sandboxes", json={"templateID": "none"}).status_code == 404
    assert server.http("GET", "/an/unknown/path").status_code == 404
    assert server.http("GET", "/", headers={"Host": f"1-{boxes[1].sandbox_id}.x"}).status_code == 502
    found = _figures(server)
    created = {"route": "/v2/sandboxes", "method": "POST"}
    assert _figure(found, "requests_total", **created, status="201") == 4
    assert _figure(found, "requests_total", **created, status="404") == 1
    assert _figure(found, "requests_total", route="none", method="GET", status="404") == 1
    assert _figure(found, "requests_total", route="proxy", method="GET", status="502") == 1
    command = {"route": "sandbox:/process.Process/Start", "method": "POST", "status": "200"}
    assert _figure(found, "requests_total", **command) == 1
    assert _figure(found, "request_seconds_count", route="/v2/sandboxes") == 5
    assert _figure(found, "sandboxes", state="running") == 3 and _figure(found, "sandboxes", state="paused") == 1
    assert _figure(found, "sandboxes_per_key_bucket", le="1") == 1  # keys with at most so many sandboxes
    assert _figure(found, "sandboxes_per_key_bucket", le="5") == 2
    assert _figure(found, "create_seconds_count", phase="start") == 4
    assert _figure(found, "create_seconds_count", phase="find") == 5
    text = server.http("GET", "/metrics").text
    assert not any(word in text for word in ("e2b_0", hash_of("e2b_0"), *(box.sandbox_id for box in boxes)))


def test_machines_that_fail_are_counted(own_server: Server) -> None:
    box = Sandbox.create(**own_server.client())
    known = json.loads((own_server.place / "state" / f"e2b-{box.sandbox_id}" / "state.json").read_text())
    os.kill(known["monitor"], signal.SIGKILL)
    os.kill(known["pid"], signal.SIGKILL)
    eventually(
        lambda: _figure(_figures(own_server), "machine_failures_total", during="ended") == 1, "it is not counted"
    )


def test_figures_are_for_the_administrator(tmp_path: Path) -> None:
    for name, key in (("keys", "e2b_0"), ("admins", "e2b_ad")):
        (tmp_path / name).write_text(f"{key}\n")
    with running(tmp_path, "--keys", str(tmp_path / "keys")) as server:
        assert server.http("GET", "/metrics").status_code == 403  # there is no administrator
        server.stop()
        server.start("--keys", str(tmp_path / "keys"), "--admin-keys", str(tmp_path / "admins"))
        for key in ("e2b_0", "", "e2b_1"):
            answer = server.http("GET", "/metrics", key)
            assert answer.status_code == 403 and "--admin-keys" in answer.json()["message"]
        assert _figures(server, "e2b_ad")
        bearer = server.http("GET", "/metrics", "", headers={"Authorization": "Bearer e2b_ad"})
        assert bearer.status_code == 200  # as Prometheus sends it
        assert server.http("GET", "/v2/sandboxes", "e2b_ad").status_code == 401
        (tmp_path / "keys").write_text("e2b_0\ne2b_1\n")  # which the fixture uses
        server.stop()


def test_a_log_of_requests(tmp_path: Path) -> None:
    with running(tmp_path, "--log-requests") as server:
        with Sandbox.create(**server.client()) as box:
            box.commands.run("true")
        lines = [json.loads(line) for line in server.log.splitlines()]
        found = [line for line in lines if line["message"] == "request"]
        start = next(line for line in found if line["route"] == "sandbox:/process.Process/Start")
        assert (start["sandbox"], start["status"], start["method"]) == (box.sandbox_id, 200, "POST")
        assert start["seconds"] > 0 and start["level"] == "info" and start["time"]
        assert "e2b_0" not in server.log


class Receiver(http.server.BaseHTTPRequestHandler):
    """Of OTLP over HTTP."""

    spans: list[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            sent = ExportTraceServiceRequest.FromString(body)
            self.spans += [span for of in sent.resource_spans for scope in of.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The spans that it has received."""
    spans: list[Any] = []
    handler = type("Noting", (Receiver,), {"spans": spans})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{found.server_port}")
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield spans
        found.shutdown()


def test_traces(receiver: list[Any], tmp_path: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    with running(tmp_path) as server:
        parent = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        made = server.http("POST", "/v2/sandboxes", json={"templateID": "base"}, headers=parent).json()
        server.http("POST", "/v2/sandboxes", json={"templateID": "none"})
        eventually(lambda: any(span.name == "create: start" for span in receiver), "no trace is sent")
        Sandbox.kill(made["sandboxID"], **server.client())
    # The last ones are sent when the server ends
    request = next(span for span in receiver if span.trace_id.hex() == trace and span.name == "POST /v2/sandboxes")
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    parts = {span.name for span in receiver if span.parent_span_id == request.span_id}
    assert parts == {"create: find", "create: start"}
    values = {each.key: each.value for each in request.attributes}
    assert values["http.response.status_code"].int_value == 201
    killed = next(span for span in receiver if span.name == "DELETE /sandboxes/{sandbox}")
    assert {each.key: each.value.string_value for each in killed.attributes}["pyvmm.sandbox"] == made["sandboxID"]
    assert "e2b_0" not in str(receiver)


def test_a_receiver_that_is_not_there_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with running(tmp_path) as server, Sandbox.create(**server.client()) as box:
        assert box.commands.run("echo on").stdout == "on\n"
