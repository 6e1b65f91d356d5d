"""Compiles the .proto files beside it into one table, which pyvmm_kata.protocol.protobuf makes message classes of.

The table is plain data, marshalled: name -> a message's fields, a service's methods or an enum's values, each of them
marshalled again, so that only what is used is read.
usage: compile.py [OUTPUT]; needs grpcio-tools, which brings protoc and the well-known types.
"""

from __future__ import annotations

import ast
import marshal
import os
import sys
from collections.abc import Iterator
from importlib import resources
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SAME = {"containerd.task.v3.": "containerd.task.v2."}
"""Packages that have the same messages and services under another name."""
OUTPUT = os.path.join(os.path.dirname(HERE), "pyvmm_kata", "protocol", "protobuf", "messages.bin")
FORMAT = 2
"""Of marshal: every Python that there is reads it."""
KINDS = {1, 2, 3, 4, 5, 8, 9, 11, 12, 13, 14}
"""Kinds of fields that pyvmm_kata.protocol.protobuf.wire knows."""
SINGLE, OPTIONAL, REPEATED, MAP = range(4)


def descriptor_set(output: str) -> Any:
    """The FileDescriptorSet of all .proto files, written to `output`. Raises RuntimeError if protoc finds a mistake."""
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    sources = sorted(name for name in os.listdir(HERE) if name.endswith(".proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    command = ["protoc", f"-I{HERE}", f"-I{well_known}", "--include_imports", f"--descriptor_set_out={output}"]
    if status := protoc.main([*command, *sources]):
        raise RuntimeError(f"protoc failed with status {status} for {', '.join(sources)} in {HERE}")
    with open(output, "rb") as file:
        return descriptor_pb2.FileDescriptorSet.FromString(file.read())


def _fields(message: Any) -> tuple[Any, ...]:
    """Each as :class:`pyvmm_kata.protocol.protobuf.messages.Field` takes it, by their numbers."""
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    found = []
    for field in sorted(message.field, key=lambda field: field.number):
        if field.type not in KINDS:
            raise RuntimeError(
                f"{message.name}.{field.name}: its type is not known to pyvmm_kata.protocol.protobuf.wire"
            )
        entry = entries.get(field.type_name.rpartition(".")[2]) if field.type == field.TYPE_MESSAGE else None
        if entry is not None:
            key, value = entry.field
            found.append((field.name, field.number, field.type, MAP, (key.type, value.type, value.type_name[1:])))
            continue
        optional = field.HasField("oneof_index") or field.proto3_optional
        count = REPEATED if field.label == field.LABEL_REPEATED else OPTIONAL if optional else SINGLE
        found.append((field.name, field.number, field.type, count, field.type_name[1:]))
    return tuple(found)


def _entries(messages: Any, package: str) -> Iterator[tuple[str, Any]]:
    for message in messages:
        name = f"{package}.{message.name}"
        yield name, _fields(message)
        yield from _entries(message.nested_type, name)
        for enum in message.enum_type:
            yield f"{name}.{enum.name}", {value.name: value.number for value in enum.value}


def _renamed(table: dict[str, Any], package: str, other: str) -> dict[str, Any]:
    """The entries of a package under the name of another one."""
    return {
        name.replace(package, other): ast.literal_eval(repr(entry).replace(package, other))
        for name, entry in table.items()
        if name.startswith(package)
    }


def compile_messages(output: str = OUTPUT) -> None:
    """Write the table of all .proto files to `output`. Raises RuntimeError if there is a mistake in one."""
    table: dict[str, Any] = {}
    try:
        for file in descriptor_set(f"{output}.new").file:
            table.update(_entries(file.message_type, file.package))
            for enum in file.enum_type:
                table[f"{file.package}.{enum.name}"] = {value.name: value.number for value in enum.value}
            for service in file.service:
                found = {one.name: (one.input_type[1:], one.output_type[1:]) for one in service.method}
                table[f"{file.package}.{service.name}"] = found
        for package, other in SAME.items():
            table |= _renamed(table, package, other)
        with open(f"{output}.new", "wb") as target:
            marshal.dump({name: marshal.dumps(entry, FORMAT) for name, entry in table.items()}, target, FORMAT)
        os.replace(f"{output}.new", output)
    finally:
        if os.path.exists(f"{output}.new"):
            os.remove(f"{output}.new")


if __name__ == "__main__":
    compile_messages(*sys.argv[1:2])
