"""config.json as messages of the agent's protocol (``proto/oci.proto``), for guests that read no JSON.

A field of a message has the name of its key in config.json, but for the case of letters.  What has no field is left
out.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.protobuf.wire import MAP, MESSAGE, REPEATED

if TYPE_CHECKING:
    from pyvmm_kata.protocol.protobuf.messages import Field
    from pyvmm_kata.state import Json


def spec_message(spec: Json) -> Any:
    """A ``grpc.Spec``."""
    return _message("grpc.Spec", spec)


def process_message(process: Json) -> Any:
    """A ``grpc.Process``."""
    return _message("grpc.Process", process)


def resources_message(resources: Json) -> Any:
    """A ``grpc.LinuxResources``."""
    return _message("grpc.LinuxResources", resources)


@functools.cache
def _fields(name: str) -> dict[str, Field]:
    """Those of a message, by their names in lower case."""
    return {field.name.lower(): field for field in protobuf.message(name).DESCRIPTOR.fields}


def _message(name: str, value: Json) -> Any:
    kind, by_name = protobuf.message(name), _fields(name)
    found = {}
    for key, entry in value.items():
        field = by_name.get(key.lower())
        if field is None or entry is None:
            continue
        if field.kind != MESSAGE or field.count == MAP:
            found[field.name] = entry
        elif field.count == REPEATED:
            found[field.name] = [_message(field.detail, each) for each in entry]
        else:
            found[field.name] = _message(field.detail, entry)
    return kind(**found)
