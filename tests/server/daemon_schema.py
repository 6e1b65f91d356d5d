"""OpenAPI descriptions of what E2B's clients send to a sandbox, and of the page's calls, for schemathesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
PATH: Schema = {
    "anyOf": [TEXT, {"enum": ["/", "/tmp", "/tmp/file", "/etc/passwd", "/proc/self", "/dev/null", "/tmp/a b"]}]
}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}


def _map(required: str = "", **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": required.split()}


INPUT = _map(stdin={"type": "string", "format": "byte"}, pty={"type": "string", "format": "byte"})
PTY = _map(size=_map(rows=NUMBER, cols=NUMBER))
SIGNAL: Schema = {"enum": ["SIGNAL_SIGTERM", "SIGNAL_UNSPECIFIED"]}
_PROCESS, _FILES = "/process.Process/", "/filesystem.Filesystem/"


def calls(pids: Sequence[int]) -> dict[str, Schema]:
    """Those with one message and one answer.

    :param pids: of commands that run
    """
    process = _map(pid={"anyOf": [NUMBER, {"enum": [*pids]}]}, tag=TEXT)
    return {
        _PROCESS + "List": _map(),
        _PROCESS + "SendInput": _map("process input", process=process, input=INPUT),
        _PROCESS + "SendSignal": _map("process signal", process=process, signal=SIGNAL),
        _PROCESS + "CloseStdin": _map("process", process=process),
        _PROCESS + "Update": _map("process pty", process=process, pty=PTY),
        _FILES + "Stat": _map("path", path=PATH),
        _FILES + "MakeDir": _map("path", path=PATH),
        _FILES + "Move": _map("source destination", source=PATH, destination=PATH),
        _FILES + "ListDir": _map("path", path=PATH, depth=NUMBER),
        _FILES + "Remove": _map("path", path=PATH),
        _FILES + "CreateWatcher": _map("path", path=PATH, recursive=FLAG),
        _FILES + "GetWatcherEvents": _map("watcherId", watcherId=TEXT),
        _FILES + "RemoveWatcher": _map("watcherId", watcherId=TEXT),
    }


STREAMS = [_PROCESS + "Start", _PROCESS + "Connect", _PROCESS + "StreamInput", _FILES + "WatchDir"]
_BYTES: Schema = {"type": "string", "format": "binary"}


def _content(kind: str, schema: Schema) -> Schema:
    return {"required": True, "content": {kind: {"schema": schema}}}


def _operation(body: Schema | None = None, **query: Schema) -> Schema:
    made: Schema = {"responses": {"default": {"description": "any"}}}
    if query:
        made["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in query.items()]
    return {**made, **({"requestBody": body} if body else {})}


def _document(paths: Schema) -> Schema:
    return {"openapi": "3.0.3", "info": {"title": "tests", "version": "1"}, "paths": paths}


def daemon(pids: Sequence[int]) -> Schema:
    """E2B's daemon in a sandbox."""
    paths: Schema = {
        path: {"post": _operation(_content("application/json", body))} for path, body in calls(pids).items()
    }
    paths |= {path: {"post": _operation(_content("application/connect+json", _BYTES))} for path in STREAMS}
    file = _map("file", file=_BYTES)
    query = {"path": PATH, "username": TEXT}
    paths["/files"] = {"get": _operation(**query), "post": _operation(_content("multipart/form-data", file), **query)}
    for path in ("/health", "/envs", "/metrics"):
        paths[path] = {"get": _operation()}
    for path in ("/files/compose", "/init"):
        paths[path] = {"post": _operation(_content("application/json", _map()))}
    return _document(paths)


def interpreter() -> Schema:
    """E2B's code interpreter."""
    code = _map("code", code=TEXT, context_id=TEXT, language=TEXT, env_vars=TEXTS)
    name = [{"name": "id", "in": "path", "required": True, "schema": TEXT}]
    context = _content("application/json", _map(cwd=PATH, language=TEXT))
    return _document(
        {
            "/execute": {"post": _operation(_content("application/json", code))},
            "/contexts": {"get": _operation(), "post": _operation(context)},
            "/contexts/{id}": {"delete": {**_operation(), "parameters": name}},
            "/contexts/{id}/restart": {"post": {**_operation(), "parameters": name}},
        }
    )


def page(sandbox_id: str) -> Schema:
    """The calls of the page, but for the stream of events, which does not end."""
    of = f"/pyvmm/sandboxes/{sandbox_id}"
    differences = _operation(**{"with": {"anyOf": [TEXT, {"enum": [sandbox_id]}]}, "path": PATH})
    name = [{"name": "name", "in": "path", "required": True, "schema": TEXT}]
    return _document(
        {
            **{f"{of}/{what}": {"get": _operation()} for what in ("console", "processes", "start")},
            f"{of}/differences": {"get": differences},
            "/pyvmm/sandboxes/{name}/console": {"get": {**_operation(), "parameters": name}},
            "/page/{name}": {"get": {**_operation(), "parameters": name}},
            "/": {"get": _operation()},
            "/metrics": {"get": _operation()},
        }
    )
