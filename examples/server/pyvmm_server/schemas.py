"""Shapes of bodies, as JSON schemas (https://spec.openapis.org/oas/v3.1.0, 4.8.24)."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
YES: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
TIME: Schema = {"type": "string", "format": "date-time"}
SECONDS: Schema = {"type": "integer", "minimum": 0, "maximum": 366 * 24 * 3600}
NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"}
TAG: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}


def listed(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def fields(required: str = "", **properties: Schema) -> Schema:
    """An object.

    :param required: names, with spaces between
    """
    found: Schema = {"type": "object", "properties": properties}
    return {**found, "required": required.split()} if required else found


def named(name: str) -> Schema:
    """One of :data:`NAMED`."""
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


RULES: Schema = fields(allowOut=listed(TEXT), denyOut=listed(TEXT))
"""Of a network."""
_HEADERS: Schema = {
    "type": "object",
    "additionalProperties": listed(fields(transform=fields(headers=TEXTS))),
}
NAMED: dict[str, Schema] = {
    "Secret": fields(
        "secretID name currentVersion metadata createdAt updatedAt",
        secretID=TEXT,
        name=TEXT,
        currentVersion=WHOLE,
        metadata=TEXTS,
        createdAt=TIME,
        updatedAt=TIME,
    ),
    "Volume": fields("volumeID name token", volumeID=TEXT, name=TEXT, token=TEXT),
    "Error": fields("code message", code=WHOLE, message=TEXT),
    "NewSandbox": fields(
        "templateID",
        templateID={"type": "string", "examples": ["base"]},
        timeout=SECONDS,
        autoPause=YES,
        autoResume=fields(enabled=YES),
        allow_internet_access=YES,
        network=fields(allowOut=listed(TEXT), denyOut=listed(TEXT), rules=_HEADERS),
        metadata=TEXTS,
        envVars=TEXTS,
        volumeMounts=listed(fields("name path", name=NAME, path=TEXT)),
    ),
    "Sandbox": fields(
        "templateID sandboxID clientID envdVersion envdAccessToken domain",
        templateID=TEXT,
        sandboxID=TEXT,
        clientID=TEXT,
        envdVersion=TEXT,
        envdAccessToken=TEXT,
        trafficAccessToken=_or_null(TEXT),
        domain=TEXT,
    ),
    "ListedSandbox": fields(
        "templateID sandboxID startedAt endAt cpuCount memoryMB state metadata",
        templateID=TEXT,
        alias=TEXT,
        sandboxID=TEXT,
        clientID=TEXT,
        startedAt=TIME,
        endAt=TIME,
        cpuCount=WHOLE,
        memoryMB=WHOLE,
        diskSizeMB=WHOLE,
        state={"enum": ["running", "paused"]},
        envdVersion=TEXT,
        metadata=TEXTS,
    ),
    "Metrics": fields(
        "timestamp cpuCount cpuUsedPct memUsed memTotal",
        timestamp=TIME,
        timestampUnix=WHOLE,
        cpuCount=WHOLE,
        cpuUsedPct=NUMBER,
        memUsed=WHOLE,
        memTotal=WHOLE,
        memCache=WHOLE,
        diskUsed=WHOLE,
        diskTotal=WHOLE,
    ),
    "LogEntry": fields("timestamp level message fields", timestamp=TIME, level=TEXT, message=TEXT, fields=TEXTS),
    "Snapshot": fields("snapshotID names", snapshotID=TEXT, names=listed(TEXT)),
    "NewTemplate": fields(
        "name",
        name=TAG,
        tags=listed(TAG),
        cpuCount={"type": "integer", "minimum": 1, "maximum": 64},
        memoryMB={"type": "integer", "minimum": 1, "maximum": 1 << 20},
    ),
    "RequestedTemplate": fields(
        "templateID buildID names tags",
        templateID=TEXT,
        buildID=TEXT,
        public=YES,
        names=listed(TEXT),
        tags=listed(TEXT),
        aliases=listed(TEXT),
    ),
    "Build": fields(
        fromTemplate=TEXT,
        fromImage=TEXT,
        force=YES,
        steps=listed(fields("type", type={"enum": ["RUN", "COPY", "ENV", "USER", "WORKDIR"]}, args=listed(TEXT))),
        startCmd=TEXT,
        readyCmd=TEXT,
    ),
    "BuildStatus": fields(
        "templateID buildID status logEntries",
        templateID=TEXT,
        buildID=TEXT,
        status=TEXT,
        logs=listed(TEXT),
        logEntries=listed(fields("timestamp level message", timestamp=TIME, level=TEXT, message=TEXT, step=TEXT)),
        reason=fields(message=TEXT),
    ),
    "Template": fields(
        "templateID buildID names buildStatus", templateID=TEXT, buildID=TEXT, names=listed(TEXT), buildStatus=TEXT
    ),
}
