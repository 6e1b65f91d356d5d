"""The description of the control interface, at ``/openapi.json``: of each entry of the table of routes."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_server import routes
from pyvmm_server.schemas import NAME, NAMED, RULES, SECONDS, TAG, TEXT, TEXTS, TIME, YES, Schema, fields, listed, named

if TYPE_CHECKING:
    from collections.abc import Mapping


class About(NamedTuple):
    """What a route does.

    :ivar statuses: of its success, with the shapes of their bodies; None: they have none
    :ivar body: the shape of the request's
    :ivar query: parameters
    :ivar open: needs no key
    """

    summary: str
    statuses: Mapping[int, Schema | None]
    body: Schema | None = None
    query: Mapping[str, Schema] = {}
    open: bool = False


_LIMIT: Schema = {"type": "integer", "minimum": 1, "maximum": 99_999}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999}
_PAGE: dict[str, Schema] = {"limit": _LIMIT, "nextToken": TEXT}
_FILTER: dict[str, Schema] = {"metadata": TEXT, "template": TEXT, "startedAfter": TIME}
_SANDBOX, _CREATED = named("Sandbox"), {201: named("Sandbox")}
_NONE: dict[int, Schema | None] = {204: None}
_CONNECT = About("Connect, and resume it if it is paused", {200: _SANDBOX, 201: _SANDBOX}, fields(timeout=SECONDS))
_CREATE = About("Start a sandbox", _CREATED, named("NewSandbox"))
ABOUT: dict[tuple[str, str], About] = {
    ("POST", "/sandboxes"): _CREATE,
    ("GET", "/sandboxes"): About("Running sandboxes", {200: listed(named("ListedSandbox"))}, query=_FILTER),
    ("GET", "/sandboxes/{sandbox}"): About("A sandbox", {200: named("ListedSandbox")}),
    ("DELETE", "/sandboxes/{sandbox}"): About("End it", _NONE),
    ("POST", "/sandboxes/{sandbox}/timeout"): About("Set its end, from now", _NONE, fields(timeout=SECONDS)),
    ("POST", "/sandboxes/{sandbox}/refreshes"): About("Move its end away", _NONE, fields(duration=SECONDS)),
    ("POST", "/sandboxes/{sandbox}/connect"): _CONNECT,
    ("POST", "/sandboxes/{sandbox}/resume"): About("Resume it", _CREATED, fields(timeout=SECONDS)),
    ("POST", "/sandboxes/{sandbox}/pause"): About("Pause it", _NONE, fields(memory=YES)),
    ("PUT", "/sandboxes/{sandbox}/network"): About("Replace the rules of its network", _NONE, RULES),
    ("POST", "/sandboxes/{sandbox}/fork"): About(
        "Start copies of it, with its memory and files",
        {201: listed(fields(sandbox=_SANDBOX, error=named("Error")))},
        fields(count={"type": "integer", "minimum": 1, "maximum": 100}, timeout=SECONDS),
    ),
    ("POST", "/sandboxes/{sandbox}/snapshots"): About("Save it", {201: named("Snapshot")}, fields(name=TAG)),
    ("GET", "/sandboxes/{sandbox}/metrics"): About("What it uses now", {200: listed(named("Metrics"))}),
    ("GET", "/sandboxes/{sandbox}/logs"): About(
        "Its log, as lines",
        {200: fields("logs logEntries", logs=listed(fields("timestamp line", timestamp=TIME, line=TEXT)))},
        query={"start": _COUNT, "limit": _COUNT},
    ),
    ("GET", "/v2/sandboxes/{sandbox}/logs"): About(
        "Its log",
        {200: fields("logs", logs=listed(named("LogEntry")))},
        query={
            "cursor": _COUNT,
            "limit": _COUNT,
            "direction": {"enum": ["forward", "backward"]},
            "level": {"enum": ["debug", "info", "warn", "error"]},
            "search": TEXT,
        },
    ),
    ("POST", "/v2/sandboxes"): _CREATE,
    ("GET", "/v2/sandboxes"): About(
        "Sandboxes, in pages",
        {200: listed(named("ListedSandbox"))},
        query={**_PAGE, **_FILTER, "state": {"enum": ["running", "paused"]}, "order": {"enum": ["asc", "desc"]}},
    ),
    ("POST", "/v2/sandboxes/{sandbox}/connect"): _CONNECT,
    ("POST", "/secrets"): About(
        "Keep a secret", {201: named("Secret")}, fields("name value", name=TEXT, value=TEXT, metadata=TEXTS)
    ),
    ("GET", "/secrets"): About("Secrets without their values", {200: listed(named("Secret"))}, query=_PAGE),
    ("GET", "/secrets/{secret}"): About("A secret without its value", {200: named("Secret")}),
    ("POST", "/secrets/{secret}"): About(
        "Replace its value", {200: named("Secret")}, fields("value", value=TEXT, metadata=TEXTS)
    ),
    ("DELETE", "/secrets/{secret}"): About("Remove it", _NONE),
    ("POST", "/volumes"): About("Make a volume", {201: named("Volume")}, fields("name", name=NAME)),
    ("GET", "/volumes"): About("Volumes", {200: listed(fields("volumeID name", volumeID=TEXT, name=TEXT))}),
    ("GET", "/volumes/{volume}"): About("A volume", {200: named("Volume")}),
    ("DELETE", "/volumes/{volume}"): About("Remove a volume that no sandbox has, with its files", _NONE),
    ("GET", "/snapshots"): About(
        "Snapshots, in pages", {200: listed(named("Snapshot"))}, query={**_PAGE, "name": TEXT, "sandboxID": TEXT}
    ),
    ("POST", "/v3/templates"): About("Request a template", {202: named("RequestedTemplate")}, named("NewTemplate")),
    ("POST", "/v2/templates/{template}/builds/{build}"): About("Begin its build", {202: None}, named("Build")),
    ("GET", "/templates"): About("Templates that this key has built", {200: listed(named("Template"))}),
    ("GET", "/templates/aliases/{alias}"): About(
        "The template of a name", {200: fields("templateID public", templateID=TEXT, public=YES)}
    ),
    ("GET", "/templates/{template}/builds/{build}/status"): About(
        "The state of a build, and its log",
        {200: named("BuildStatus")},
        query={
            "logsOffset": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            "limit": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
        },
    ),
    ("GET", "/templates/{template}/files/{hash}"): About(
        "Where an archive of files is uploaded", {201: fields("present url", present=YES, url=TEXT)}
    ),
    ("GET", "/templates/{template}/tags"): About(
        "The tags of a template", {200: listed(fields("tag buildID", tag=TEXT, buildID=TEXT, createdAt=TIME))}
    ),
    ("POST", "/templates/tags"): About(
        "Set tags of a build",
        {201: fields("tags buildID", tags=listed(TEXT), buildID=TEXT)},
        fields("target tags", target=TEXT, tags=listed(TAG)),
    ),
    ("DELETE", "/templates/tags"): About("Remove tags", _NONE, fields("name tags", name=TEXT, tags=listed(TAG))),
    ("DELETE", "/templates/{template}"): About("Remove a template or a snapshot", _NONE),
}
_OTHERS: dict[tuple[str, str], About] = {
    ("PUT", routes.UPLOAD): About("Upload an archive; the signature of the URL is the key", {200: None}, open=True),
    ("GET", "/health"): About("Whether the server answers", _NONE, open=True),
}


@functools.cache
def document() -> dict[str, Any]:
    """The description.

    :raises KeyError: a route has none
    """
    paths: dict[str, dict[str, Any]] = {}
    for method, path in routes.ROUTES:
        plain = path.replace(":path}", "}")
        paths.setdefault(plain, {})[method.lower()] = _operation(method, plain, ABOUT[method, plain])
    for (method, path), about in _OTHERS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, about)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyvmm serve",
            "version": "1",
            "description": "The control interface. Requests to sandboxes are those of E2B's daemon and interpreter.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": NAMED,
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(method: str, path: str, about: About) -> dict[str, Any]:
    words = re.findall(r"[A-Za-z0-9]+", path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in about.query.items()]
    answers = {str(status): _answer("Done", schema) for status, schema in about.statuses.items()}
    made: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *words]),
        "summary": about.summary,
        "responses": {**answers, "default": _answer("A sentence with the reason", named("Error"))},
    }
    if parameters:
        made["parameters"] = parameters
    if about.body is not None:
        made["requestBody"] = {"required": bool(about.body.get("required")), "content": _json(about.body)}
    if about.open:
        made["security"] = []
    return made


def _answer(words: str, schema: Schema | None) -> dict[str, Any]:
    return {"description": words, **({} if schema is None else {"content": _json(schema)})}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
