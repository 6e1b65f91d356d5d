"""Protocol buffers on the wire (protobuf.dev, "Encoding"): numbers, strings, and the kinds of fields."""

from __future__ import annotations

import struct
from typing import Any

# google/protobuf/descriptor.proto, FieldDescriptorProto.Type
DOUBLE, FLOAT, INT64, UINT64, INT32, BOOL, STRING, MESSAGE, BYTES, UINT32, ENUM = 1, 2, 3, 4, 5, 8, 9, 11, 12, 13, 14
SINGLE, OPTIONAL, REPEATED, MAP = range(4)
"""How often a field is there; an OPTIONAL one is encoded when it was set, a SINGLE one when it is not zero."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""
WIRE = {DOUBLE: FIXED64, FLOAT: FIXED32, STRING: LENGTH, MESSAGE: LENGTH, BYTES: LENGTH}
_RANGES = {
    INT64: (-(1 << 63), 1 << 63),
    UINT64: (0, 1 << 64),
    INT32: (-(1 << 31), 1 << 31),
    UINT32: (0, 1 << 32),
    ENUM: (-(1 << 31), 1 << 31),
}
DEFAULTS = {DOUBLE: 0.0, FLOAT: 0.0, BOOL: False, STRING: "", BYTES: b""}
_FIXED = {DOUBLE: struct.Struct("<d"), FLOAT: struct.Struct("<f")}
_ALL = (1 << 64) - 1


def checked(kind: int, value: Any) -> Any:
    """The stored form of a value that a user gives for a field.

    :raises TypeError: it is of another kind
    :raises ValueError: it is a number that does not fit
    """
    if kind == STRING:
        if isinstance(value, str):
            value.encode()  # ValueError for what is no text
            return value
    elif kind == BYTES:
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
    elif kind in (DOUBLE, FLOAT):
        if isinstance(value, int | float):
            return float(value)
    elif isinstance(value, int):
        if kind == BOOL:
            return bool(value)
        low, high = _RANGES[kind]
        if not low <= value < high:
            raise ValueError(f"{value} is out of range")
        return int(value)
    raise TypeError(f"a value of type {type(value).__name__}")


# -- encoding --------------------------------------------------------------------------------------------------------


def put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_bytes(out: bytearray, number: int, data: bytes | bytearray) -> None:
    put_varint(out, number << 3 | LENGTH)
    put_varint(out, len(data))
    out += data


def put(out: bytearray, kind: int, value: Any) -> None:
    """The value alone, without the field's number."""
    if kind in (STRING, BYTES):
        data = value.encode() if kind == STRING else value
        put_varint(out, len(data))
        out += data
    elif kind in _FIXED:
        out += _FIXED[kind].pack(value)
    else:
        put_varint(out, value & _ALL)


# -- decoding --------------------------------------------------------------------------------------------------------


def read_varint(data: memoryview, at: int, longest: int = 10) -> tuple[int, int]:
    """A number of at most that many bytes, and its end."""
    value = shift = 0
    for at in range(at, min(len(data), at + longest)):  # noqa: B020
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _ALL, at + 1
        shift += 7
    raise ValueError("a number without an end")


def read_tag(data: memoryview, at: int) -> tuple[int, int]:
    """The tag of a field, 32 bits: its number and its wire type; and its end."""
    return read_varint(data, at, 5)


def read_field(data: memoryview, at: int, tag: int) -> tuple[int, Any, int]:
    """For the field with this tag: the wire type, the content, and its end."""
    wire = tag & 7
    if not 8 <= tag < 1 << 32:
        raise ValueError("a field without a number")
    if wire == VARINT:
        value, at = read_varint(data, at)
        return wire, value, at
    if wire == LENGTH:
        size, at = read_varint(data, at, 5)
    elif wire in (FIXED64, FIXED32):
        size = 8 if wire == FIXED64 else 4
    else:
        raise ValueError(f"wire type {wire}")
    if size > len(data) - at:
        raise ValueError("a field longer than its message")
    return wire, data[at : at + size], at + size


def to_value(kind: int, raw: Any) -> Any:
    """The content of the field: *raw* is a number or the bytes."""
    if kind == STRING:
        return str(raw, "utf-8")
    if kind == BYTES:
        return bytes(raw)
    if kind in _FIXED:
        return _FIXED[kind].unpack(raw)[0]
    if kind == BOOL:
        return raw != 0
    if kind == UINT64:
        return raw
    if kind == UINT32:
        return raw & 0xFFFFFFFF
    bits = 64 if kind == INT64 else 32
    raw &= (1 << bits) - 1
    return raw - (1 << bits) if raw >> (bits - 1) else raw
