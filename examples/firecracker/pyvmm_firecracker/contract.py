"""The interface as an OpenAPI 3.0 description, made from the tables of :mod:`.routes` and :mod:`.schema`.

``python -m pyvmm_firecracker.contract`` prints it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pyvmm_firecracker import VERSION
from pyvmm_firecracker.routes import ROUTES
from pyvmm_firecracker.schema import ANSWERS, ANY, BODIES, LONGEST, OPTIONAL, Field
from pyvmm_firecracker.sections import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_TYPES = {str: "string", int: "integer", bool: "boolean", dict: "object", list: "array"}
_FAULT = {"type": "object", "required": ["fault_message"], "properties": {"fault_message": {"type": "string"}}}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _object(fields: Mapping[str, Field]) -> dict[str, Any]:
    if not fields:
        return {"type": "object"}
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: _field(each) for name, each in fields.items()},
        "additionalProperties": False,
    }
    required = [name for name, each in fields.items() if each.required]
    return {**made, "required": required} if required else made


def _field(field: Field) -> dict[str, Any]:
    made: dict[str, Any] = _object(field.fields) if field.kind is dict else {"type": _TYPES[field.kind]}
    if field.kind is list:
        made["items"] = _field(field.items) if field.items is not None else _object(field.fields)
    elif field.kind is int:
        made |= {"minimum": field.low, "maximum": field.high}
    elif field.kind is str:
        made |= {"enum": [*field.choices]} if field.choices else {"maxLength": LONGEST}
    if field.required:
        return made
    if "enum" in made:
        made["enum"].append(None)
    return {**made, "nullable": True}  # a field that is null is one that is not there


def _operation(key: str) -> dict[str, Any]:
    method, _, section = key.partition(" ")
    refused = {"description": "refused", "content": _content(_FAULT)}
    answers: dict[str, Any] = {"400": refused, **({"413": refused} if method in ("PUT", "PATCH") else {})}
    if method == "GET":
        answers["200"] = {"description": "found", "content": _content(_object(ANSWERS[key]) if key in ANSWERS else {})}
    else:
        answers["204"] = {"description": "done"}
    made: dict[str, Any] = {"operationId": key.replace(" ", " /"), "responses": answers}
    if section in NAMES:
        name = {"name": NAMES[section], "in": "path", "required": True, "schema": {"type": "string"}}
        made["parameters"] = [name]
    if key in ANY:
        made["requestBody"] = {"required": True, "content": _content({})}
    if key in BODIES:
        schema = {**_object(BODIES[key]), **({"nullable": True} if key in OPTIONAL else {})}
        made["requestBody"] = {"required": key not in OPTIONAL, "content": _content(schema)}
    return made


def description() -> dict[str, Any]:
    """The whole interface."""
    paths: dict[str, Any] = {}
    for key in ROUTES:
        method, _, section = key.partition(" ")
        path = f"/{section}/{{{NAMES[section]}}}" if section in NAMES else f"/{section}"
        paths.setdefault(path, {})[method.lower()] = _operation(key)
    return {"openapi": "3.0.3", "info": {"title": "pyvmm-firecracker", "version": VERSION}, "paths": paths}


if __name__ == "__main__":
    print(json.dumps(description(), indent=2))
