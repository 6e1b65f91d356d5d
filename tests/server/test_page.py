"""The page's files and its own calls, by plain HTTP; test_page_browser.py opens it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from pyvmm_server.page.files import STATIC
from tests.kata.oci_runtime import PATIENCE
from tests.server.conftest import Server

KEY = {"X-API-Key": "e2b_0"}


def events(server: Server, key: str = "e2b_0") -> Iterator[tuple[str, Any]]:
    """The events of a stream, as they come; usage, which comes by time, is left out."""
    headers = {"X-API-Key": key}
    with httpx.stream("GET", f"{server.url}/pyvmm/events", headers=headers, timeout=PATIENCE) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name != "usage":
                yield name, json.loads(line.removeprefix("data: "))


def test_the_page_allows_nothing_inline_and_nothing_from_elsewhere(server: Server) -> None:
    answer = httpx.get(server.url + "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<style|<script>| style=| on[a-z]+=|javascript:|https?:", answer.text)


def test_each_file_that_the_page_names_is_served(server: Server) -> None:
    known, new = set(), {"/"}
    while new:
        path = new.pop()
        known.add(path)
        answer = httpx.get(server.url + path)
        assert (path, answer.status_code) == (path, 200)
        assert answer.headers["x-content-type-options"] == "nosniff"
        names = re.findall(r'(?:src|href)="(page/[^"]+)"|from "\./([^"]+)"', answer.text)
        new |= {f"/{here}" if here else f"/page/{there}" for here, there in names} - known
    assert {"/page/main.js", "/page/style.css", "/page/tree.js"} <= known


def test_no_file_of_ours_makes_markup_of_text() -> None:
    bad = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://(?!www\.w3\.org)"
    )
    for path in STATIC.glob("*.*"):
        assert not bad.search(path.read_text()), path.name


@pytest.mark.parametrize("name", ["nothing.js", "../routes.py", "%2e%2e/routes.py", "..%2froutes.py", "/etc/passwd"])
def test_other_files_are_not_served(server: Server, name: str) -> None:
    with httpx.Client(base_url=server.url) as client:
        answer = client.send(httpx.Request("GET", httpx.URL(server.url).copy_with(raw_path=f"/page/{name}".encode())))
    assert answer.status_code == 404
    assert answer.json()["message"]


def test_a_file_that_has_not_changed_is_not_sent_again(server: Server) -> None:
    tag = httpx.get(server.url + "/page/main.js").headers["etag"]
    again = httpx.get(server.url + "/page/main.js", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_events_need_the_key(server: Server) -> None:
    answer = httpx.get(server.url + "/pyvmm/events")
    assert (answer.status_code, answer.json()["message"]) == (401, "the API key is wrong or missing")


def test_events_tell_of_each_change_of_the_keys_own_sandboxes(server: Server) -> None:
    before = Sandbox.create(metadata={"name": "before"}, **server.client())
    other = Sandbox.create(**server.client("e2b_1"))
    stream = events(server)
    name, data = next(stream)
    assert name == "all"
    assert data["sandboxes"][before.sandbox_id]["metadata"] == {"name": "before"}
    assert other.sandbox_id not in data["sandboxes"]
    other.kill()

    def next_of(wanted: str) -> Any:
        for name, data in stream:
            assert name == "change" and other.sandbox_id not in data.get("sandboxes", {})
            if wanted in data.get("sandboxes", {}):
                return data["sandboxes"][wanted]
        raise AssertionError("the stream has ended")

    (fork,) = before.fork(count=1)
    assert isinstance(fork, Sandbox)
    made = next_of(fork.sandbox_id)
    assert (made["state"], made["parent"], made["metadata"]) == ("running", before.sandbox_id, {"name": "before"})
    fork.pause()
    assert next_of(fork.sandbox_id)["state"] == "paused"
    before.kill()
    assert next_of(before.sandbox_id) is None
    fork.kill()
    assert next_of(fork.sandbox_id) is None
    stream.close()  # type: ignore[attr-defined]


def test_the_server_ends_although_a_page_is_open(own_server: Server) -> None:
    first, ended = threading.Event(), threading.Event()

    def follow() -> None:
        for _ in events(own_server):
            first.set()
        ended.set()

    own_server_thread = threading.Thread(target=follow)
    own_server_thread.start()
    assert first.wait(PATIENCE)
    own_server.stop()
    assert ended.wait(PATIENCE)
    own_server_thread.join(PATIENCE)


def test_the_start_of_a_fork_has_its_phases(server: Server) -> None:
    box = Sandbox.create(**server.client())
    (fork,) = box.fork(count=1)
    assert isinstance(fork, Sandbox)
    phases = server.http("GET", f"/pyvmm/sandboxes/{fork.sandbox_id}/start").json()["phases"]
    assert [each["name"] for each in phases if not each["depth"]] == [
        "save the parent",
        "find the template",
        "start the sandbox",
    ]
    inside = [each for each in phases if each["depth"]]
    assert [each["name"] for each in inside][:2] == ["monitor", "namespaces"]
    assert {"machine", "connected"} <= {each["name"] for each in inside}
    for before, after in pairwise(inside):
        assert before["from"] <= before["to"] == after["from"]
    assert (phases[0]["from"], inside[0]["from"], inside[-1]["to"]) == (0, phases[2]["from"], phases[2]["to"])
    other = server.http("GET", f"/pyvmm/sandboxes/{fork.sandbox_id}/start", key="e2b_1")
    assert other.status_code == 404
    for each in (box, fork):
        each.kill()


def test_phases_outlive_the_server(own_server: Server) -> None:
    box = Sandbox.create(**own_server.client())
    path = f"/pyvmm/sandboxes/{box.sandbox_id}/start"
    before = own_server.http("GET", path).json()
    own_server.stop()
    own_server.start()
    assert own_server.http("GET", path).json() == before
    assert len(before["phases"]) > 3
