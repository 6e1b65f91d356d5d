"""Message classes of the .proto files in examples/kata/proto, by their full names.

The files are compiled into one descriptor set when the package is built (proto/compile.py); classes are made of it when
they are first asked for.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

PATH = os.path.join(os.path.dirname(__file__), "messages.binpb")

Message = Any
"""An instance of a message class. Classes are made at run time, so that type checkers do not know their fields."""


_loading = threading.Lock()


def _pool() -> Any:
    """Every message and service of the descriptor set: one pool, whichever thread asks first."""
    with _loading:
        return _load()


@functools.cache
def _load() -> Any:
    # Imported here, since it takes 20 ms, longer than Python's own start.
    from google.protobuf import descriptor_pb2, descriptor_pool

    try:
        with open(PATH, "rb") as file:
            files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    except FileNotFoundError:
        raise RuntimeError(
            f"{PATH} is missing: build the package with `python3 tools/deps.py` or `pip install ./examples/kata`"
        ) from None
    pool = descriptor_pool.DescriptorPool()
    for one in files.file:
        pool.Add(one)
    return pool


@functools.cache
def message(name: str) -> type[Any]:
    """The class of a message, as in `message("grpc.CreateContainerRequest")`. Raises KeyError for an unknown name."""
    from google.protobuf import message_factory

    made: type[Any] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))
    return made


@functools.cache
def methods(service: str) -> dict[str, tuple[type[Any], type[Any]]]:
    """A service's methods: name -> (class of the request, class of the response). Raises KeyError."""
    found = _pool().FindServiceByName(service).methods
    return {one.name: (message(one.input_type.full_name), message(one.output_type.full_name)) for one in found}


def enum_value(enum: str, name: str) -> int:
    """The number of a value, as in `enum_value("containerd.v1.types.Status", "RUNNING")`. Raises KeyError."""
    number: int = _pool().FindEnumTypeByName(enum).values_by_name[name].number
    return number


def pack(content: Message) -> Message:
    """A google.protobuf.Any of a message; its type URL is the bare full name, as containerd writes it."""
    return message("google.protobuf.Any")(type_url=content.DESCRIPTOR.full_name, value=content.SerializeToString())


def parse(made: type[Any], payload: bytes) -> Message:
    """The message that `payload` encodes. Raises ValueError when it is none."""
    from google.protobuf.message import DecodeError

    parsed = made()
    try:
        parsed.ParseFromString(payload)
    except DecodeError as error:
        raise ValueError(f"not a {made.DESCRIPTOR.full_name}: {error}") from None
    return parsed
