"""The interface as the installed containerd has it: its program contains the descriptor of its messages."""

from __future__ import annotations

import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

PACKAGE = "runtime.v1"
PATIENCE = 120.0
LARGEST = 1 << 18
"""Bytes of a compressed descriptor, at most."""


def find_descriptor(program: Path) -> bytes:
    """The descriptor of the package in a program in Go, where such are compressed.

    :raises LookupError: it has none
    """
    content = program.read_bytes()
    for found in re.finditer(rb"\x1f\x8b\x08", content):
        try:
            text = zlib.decompressobj(31).decompress(content[found.start() : found.start() + LARGEST])
            described = descriptor_pb2.FileDescriptorProto.FromString(text)
        except (zlib.error, DecodeError):
            continue
        if described.package == PACKAGE:
            return text
    raise LookupError(f"{program} has no descriptor of {PACKAGE}")


def descriptor(cache: Path) -> bytes:
    """The same of the installed containerd, kept in a folder: to search takes seconds."""
    program = Path(shutil.which("containerd", path="/usr/local/bin:/usr/bin:/usr/sbin") or "containerd")
    stat = program.stat()
    kept = cache / f"cri-{stat.st_size}-{int(stat.st_mtime)}.binpb"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(find_descriptor(program))
    return kept.read_bytes()


class Client:
    """Calls by name; grpc.RpcError says what was refused."""

    def __init__(self, address: str, cache: Path) -> None:
        described = descriptor_pb2.FileDescriptorProto.FromString(descriptor(cache))
        # Of another package, and only about how Go's code is made
        del described.dependency[:]
        for message in described.message_type:
            clear_options(message)
        described.ClearField("options")
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(described)
        self._channel = grpc.insecure_channel(f"unix://{address}")

    def call(
        self, method: str, /, *, service: str = "RuntimeService", deadline: float = PATIENCE, **fields: Any
    ) -> Any:
        """Call a method with the fields of its request, and wait for so many seconds at most; the response."""
        found = self._pool.FindServiceByName(f"{PACKAGE}.{service}").methods_by_name[method]
        request = message_factory.GetMessageClass(found.input_type)
        response = message_factory.GetMessageClass(found.output_type)
        stub = self._channel.unary_unary(
            f"/{PACKAGE}.{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return stub(request(**fields), timeout=deadline)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def clear_options(message: Any) -> None:
    """Without options of fields, but for those that say what a map is."""
    for field in message.field:
        field.ClearField("options")
    for nested in message.nested_type:
        clear_options(nested)
