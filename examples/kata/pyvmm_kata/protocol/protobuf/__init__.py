"""Message classes of the .proto files in examples/kata/proto, by their full names.

The files are compiled into one table when the package is built (proto/compile.py); classes are made from it at their
first use.
"""

from __future__ import annotations

import functools
import marshal
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyvmm_kata.protocol.protobuf.messages import Message as Made

PATH = os.path.join(os.path.dirname(__file__), "messages.bin")

Message = Any
"""An instance of a message class. Classes are made at run time, so that type checkers do not know their fields."""


@functools.cache
def _table() -> dict[str, bytes]:
    """Full name -> fields of a message, methods of a service, values of an enum; each still encoded."""
    try:
        with open(PATH, "rb") as file:
            table: dict[str, bytes] = marshal.load(file)
    except FileNotFoundError:
        raise RuntimeError(
            f"{PATH} is missing: build the package with `python3 tools/deps.py` or `pip install ./examples/kata`"
        ) from None
    return table


@functools.cache
def message(name: str) -> type[Any]:
    """The class of a message, as in `message("grpc.CreateContainerRequest")`. Raises KeyError for an unknown name."""
    from pyvmm_kata.protocol.protobuf import messages

    descriptor = messages.Descriptor(name, marshal.loads(_table()[name]), message)
    made: type[Made] = type(descriptor.name, (messages.Message,), {"DESCRIPTOR": descriptor, "__slots__": ()})
    return made


@functools.cache
def methods(service: str) -> dict[str, tuple[type[Any], type[Any]]]:
    """A service's methods: name -> (class of the request, class of the response). Raises KeyError."""
    found: dict[str, tuple[str, str]] = marshal.loads(_table()[service])
    return {name: (message(request), message(response)) for name, (request, response) in found.items()}


def enum_value(enum: str, name: str) -> int:
    """The number of a value, as in `enum_value("containerd.v1.types.Status", "RUNNING")`. Raises KeyError."""
    number: int = marshal.loads(_table()[enum])[name]
    return number


def pack(content: Message) -> Message:
    """A google.protobuf.Any of a message; its type URL is the bare full name, as containerd writes it."""
    return message("google.protobuf.Any")(type_url=content.DESCRIPTOR.full_name, value=content.SerializeToString())


def parse(made: type[Any], payload: bytes, most: int = 1 << 20) -> Message:
    """Decode `payload` as a message with at most that many elements. Raises ValueError if it is invalid."""
    try:
        return made.FromString(payload, most)
    except ValueError as error:
        raise ValueError(f"not a {made.DESCRIPTOR.full_name}: {error}") from None
