"""The paths of E2B's control interface."""

from __future__ import annotations

from pyvmm_server import build_calls, control, lists, sandbox_logs, secret_calls, snapshots, volume_calls

ROUTES = {
    ("POST", "/sandboxes"): control.create,
    ("GET", "/sandboxes"): lists.running,
    ("GET", "/sandboxes/{sandbox}"): control.detail,
    ("DELETE", "/sandboxes/{sandbox}"): control.kill,
    ("POST", "/sandboxes/{sandbox}/timeout"): control.set_timeout,
    ("PUT", "/sandboxes/{sandbox}/network"): control.set_network,
    ("POST", "/sandboxes/{sandbox}/refreshes"): control.refresh,
    ("POST", "/sandboxes/{sandbox}/connect"): control.connect,
    ("POST", "/sandboxes/{sandbox}/resume"): control.resume,
    ("POST", "/sandboxes/{sandbox}/pause"): control.pause,
    ("POST", "/sandboxes/{sandbox}/fork"): control.fork,
    ("POST", "/sandboxes/{sandbox}/snapshots"): snapshots.create,
    ("GET", "/sandboxes/{sandbox}/metrics"): control.metrics,
    ("GET", "/sandboxes/{sandbox}/logs"): sandbox_logs.lines,
    ("GET", "/v2/sandboxes/{sandbox}/logs"): sandbox_logs.entries,
    ("POST", "/v2/sandboxes"): control.create,
    ("GET", "/v2/sandboxes"): lists.pages,
    ("POST", "/v2/sandboxes/{sandbox}/connect"): control.connect,
    ("GET", "/snapshots"): snapshots.pages,
    ("POST", "/v3/templates"): build_calls.request,
    ("POST", "/v2/templates/{template}/builds/{build}"): build_calls.begin,
    ("GET", "/templates"): build_calls.listed,
    ("GET", "/templates/aliases/{alias:path}"): build_calls.alias,
    ("GET", "/templates/{template}/builds/{build}/status"): build_calls.status,
    ("GET", "/templates/{template}/files/{hash}"): build_calls.files,
    ("GET", "/templates/{template}/tags"): build_calls.tags,
    ("POST", "/templates/tags"): build_calls.assign,
    ("DELETE", "/templates/tags"): build_calls.untag,
    ("DELETE", "/templates/{template:path}"): build_calls.remove,
    ("POST", "/secrets"): secret_calls.create,
    ("GET", "/secrets"): secret_calls.pages,
    ("GET", "/secrets/{secret:path}"): secret_calls.detail,
    ("POST", "/secrets/{secret:path}"): secret_calls.update,
    ("DELETE", "/secrets/{secret:path}"): secret_calls.remove,
    ("POST", "/volumes"): volume_calls.create,
    ("GET", "/volumes"): volume_calls.listed,
    ("GET", "/volumes/{volume}"): volume_calls.detail,
    ("DELETE", "/volumes/{volume}"): volume_calls.remove,
}
UPLOAD = "/templates/{template}/files/{hash}"
"""Needs no key: the client's URL is signed."""
MISSING = (
    "/sandboxes/metrics",
    "/templates",
    "/templates/{rest:path}",
    "/v2/templates",
    "/v2/templates/{rest:path}",
    "/volumecontent/{rest:path}",
)
"""Paths of E2B that this server does not have."""
