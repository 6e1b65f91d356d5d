"""Protocol buffers: messages as Python objects, and their encoding (protobuf.dev, "Encoding").

It has the interface of Google's package, as far as this one needs it, and replaces it in a container's start: importing
that one takes more instructions than a start of Python, and eight megabytes.  Two things are left out: unknown fields
are not kept, and groups are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

from pyvmm_kata.protocol.protobuf.wire import (
    DEFAULTS,
    LENGTH,
    MAP,
    MESSAGE,
    OPTIONAL,
    REPEATED,
    VARINT,
    WIRE,
    checked,
    put,
    put_bytes,
    put_varint,
    read_field,
    read_tag,
    to_value,
)

_MAX_DEPTH = 100
MAX_ELEMENTS = 1 << 20
"""Fields, and members of lists, of a message and all within it: two bytes can stand for an object of a hundred."""


class Budget:
    """How many more elements may follow."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self) -> None:
        """
        :raises ValueError: none is left
        """
        self.left -= 1
        if self.left < 0:
            raise ValueError("of too many elements")


class Field:
    """A field of a message.

    :ivar detail: a MESSAGE's name; a MAP's kind of keys, kind of values, and the values' message
    """

    __slots__ = ("count", "detail", "kind", "name", "number", "wire")

    def __init__(self, name: str, number: int, kind: int, count: int, detail: Any) -> None:
        self.name = name
        self.number = number
        self.kind = kind
        self.count = count
        self.detail = detail
        self.wire = WIRE.get(kind, VARINT)


class Descriptor:
    """What a message has."""

    def __init__(self, full_name: str, fields: Iterable[tuple[Any, ...]], find: Callable[[str], type[Message]]) -> None:
        self.full_name = full_name
        self.name = full_name.rpartition(".")[2]
        self.fields = [Field(*field) for field in fields]
        self.by_name = {field.name: field for field in self.fields}
        self.by_number = {field.number: field for field in self.fields}
        self.find = find


class Message:
    """A message.  Each kind is a class of its own: see :func:`pyvmm_kata.protocol.protobuf.message`.

    :param fields: a message is given as such, or as a dictionary of its fields; None: it is absent
    :raises TypeError: a value has another type
    :raises ValueError: a number does not fit, or there is no such field
    """

    DESCRIPTOR: Descriptor
    __slots__ = ("_given", "_values")
    _values: dict[str, Any]
    _given: bool
    """Part of the message around it even when it is empty."""

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "_values", {})
        object.__setattr__(self, "_given", False)
        for name, value in fields.items():
            if value is not None:
                self._take(self._field(name), value)

    def _field(self, name: str) -> Field:
        field = self.DESCRIPTOR.by_name.get(name)
        if field is None:
            raise ValueError(f"{self.DESCRIPTOR.full_name} has no field {name!r}")
        return field

    def _take(self, field: Field, value: Any) -> None:
        if field.count == REPEATED:
            getattr(self, field.name).extend(value)
        elif field.count == MAP:
            getattr(self, field.name).update(value)
        elif field.kind == MESSAGE:
            self._values[field.name] = _message(self.DESCRIPTOR.find(field.detail), value)
        else:
            self._values[field.name] = checked(field.kind, value)

    def __getattr__(self, name: str) -> Any:
        values = self._values
        if name in values:
            return values[name]
        field = self.DESCRIPTOR.by_name.get(name)
        if field is None:
            raise AttributeError(f"{self.DESCRIPTOR.full_name} has no field {name!r}")
        if field.count == MAP:
            made: Any = Map(field, self.DESCRIPTOR.find)
        elif field.kind == MESSAGE:
            kind = self.DESCRIPTOR.find(field.detail)
            made = Messages(kind) if field.count == REPEATED else kind()
        elif field.count == REPEATED:
            made = Values(field.kind)
        else:
            return DEFAULTS.get(field.kind, 0)
        values[name] = made
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        field = self._field(name)
        if field.kind == MESSAGE or field.count in (REPEATED, MAP):
            raise AttributeError(f"{self.DESCRIPTOR.full_name}.{name} is changed, not set")
        self._values[name] = checked(field.kind, value)
        object.__setattr__(self, "_given", True)

    def SetInParent(self) -> None:
        """Mark it as present in the message around it, even when it is empty."""
        object.__setattr__(self, "_given", True)

    def HasField(self, name: str) -> bool:
        """Is it there?  For fields that are messages, and optional ones."""
        value = self._values.get(name)
        return value._is_there() if isinstance(value, Message) else value is not None

    def _is_there(self) -> bool:
        return self._given or any(
            value._is_there() if isinstance(value, Message) else value not in ([], {})
            for value in self._values.values()
        )

    def SerializeToString(self) -> bytes:
        """Encode it."""
        out = bytearray()
        values = self._values
        for field in self.DESCRIPTOR.fields if values else ():
            value = values.get(field.name)
            if value is None:
                continue
            if field.count == REPEATED:
                _put_list(out, field, value)
            elif field.count == MAP:
                _put_map(out, field, value)
            elif field.kind == MESSAGE:
                if value._is_there():
                    put_bytes(out, field.number, value.SerializeToString())
            elif value or field.count == OPTIONAL:
                put_varint(out, field.number << 3 | field.wire)
                put(out, field.kind, value)
        return bytes(out)

    def ByteSize(self) -> int:
        """Bytes of its encoding."""
        return len(self.SerializeToString())

    def ParseFromString(self, data: bytes, most: int = MAX_ELEMENTS) -> None:
        """Add what *data* encodes.

        :param most: elements, see :data:`MAX_ELEMENTS`
        :raises ValueError: it encodes no such message
        """
        self._parse(memoryview(data), 0, Budget(most))

    @classmethod
    def FromString(cls, data: bytes, most: int = MAX_ELEMENTS) -> Message:
        """As :meth:`ParseFromString`."""
        made = cls()
        made.ParseFromString(data, most)
        return made

    def _parse(self, data: memoryview, depth: int, budget: Budget) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("messages within messages, too many")
        object.__setattr__(self, "_given", True)
        at, end, by_number = 0, len(data), self.DESCRIPTOR.by_number
        while at < end:
            budget.spend()
            tag, at = read_tag(data, at)
            wire, value, at = read_field(data, at, tag)
            field = by_number.get(tag >> 3)
            if field is None:
                continue
            if field.count == MAP and wire == LENGTH:
                getattr(self, field.name).parse_entry(value, depth, budget)
            elif field.count == REPEATED and wire == LENGTH and field.wire != LENGTH:
                getattr(self, field.name).parse_packed(value, budget)
            elif wire != field.wire or field.count == MAP:
                continue
            elif field.kind == MESSAGE:
                made = getattr(self, field.name)
                (made.add() if field.count == REPEATED else made)._parse(value, depth + 1, budget)
            elif field.count == REPEATED:
                list.append(getattr(self, field.name), to_value(field.kind, value))
            else:
                self._values[field.name] = to_value(field.kind, value)

    def _content(self) -> dict[str, Any]:
        """What would be encoded."""
        return {
            field.name: value
            for field in self.DESCRIPTOR.fields
            if (value := self._values.get(field.name)) is not None
            and (value._is_there() if isinstance(value, Message) else value or field.count == OPTIONAL)
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and type(self) is type(other) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._content().items())
        return f"{self.DESCRIPTOR.full_name}({shown})"


class Values(list[Any]):
    """A field that is a list of numbers or strings."""

    def __init__(self, kind: int) -> None:
        self._kind = kind

    def append(self, value: Any) -> None:
        super().append(checked(self._kind, value))

    def extend(self, values: Iterable[Any]) -> None:
        super().extend([checked(self._kind, value) for value in values])

    def parse_packed(self, data: memoryview, budget: Budget) -> None:
        """Add the numbers of an encoded list."""
        at, wire = 0, WIRE.get(self._kind, VARINT)
        while at < len(data):
            budget.spend()
            _, value, at = read_field(data, at, 1 << 3 | wire)
            super().append(to_value(self._kind, value))


class Messages(list[Message]):
    """A field that is a list of messages."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind

    def add(self, **fields: Any) -> Any:
        """Append a new one."""
        super().append(self._kind(**fields))
        return self[-1]

    def extend(self, values: Iterable[Any]) -> None:
        super().extend([_message(self._kind, value) for value in values])


class Map(dict[Any, Any]):
    """A field that is a map."""

    def __init__(self, field: Field, find: Callable[[str], type[Message]]) -> None:
        self.key_kind, self.value_kind, message = field.detail
        self._make = find(message) if self.value_kind == MESSAGE else None

    def __setitem__(self, key: Any, value: Any) -> None:
        made = checked(self.value_kind, value) if self._make is None else _message(self._make, value)
        super().__setitem__(checked(self.key_kind, key), made)

    def __missing__(self, key: Any) -> Any:
        if self._make is None:
            raise KeyError(key)
        self[key] = {}
        return self[key]

    def update(self, values: Mapping[Any, Any]) -> None:  # type: ignore[override]
        for key, value in values.items():
            self[key] = value

    def parse_entry(self, data: memoryview, depth: int, budget: Budget) -> None:
        """Add an encoded entry: a message whose fields are the key, 1, and the value, 2."""
        found: dict[int, Any] = {1: DEFAULTS.get(self.key_kind, 0)}
        found[2] = DEFAULTS.get(self.value_kind, 0) if self._make is None else self._make()
        kinds, at = {1: self.key_kind, 2: self.value_kind}, 0
        while at < len(data):
            budget.spend()
            tag, at = read_tag(data, at)
            wire, value, at = read_field(data, at, tag)
            kind = kinds.get(tag >> 3)
            if kind is None or wire != WIRE.get(kind, VARINT):
                continue
            if kind == MESSAGE:
                found[2]._parse(value, depth + 1, budget)
            else:
                found[tag >> 3] = to_value(kind, value)
        super().__setitem__(found[1], found[2])


def _message(kind: type[Message], value: Any) -> Message:
    """A value that a user gives for a message."""
    made = value if isinstance(value, kind) else kind(**value) if isinstance(value, dict) else None
    if made is None:
        raise TypeError(f"{type(value).__name__} where a {kind.DESCRIPTOR.full_name} is wanted")
    made.SetInParent()
    return made


def _put_list(out: bytearray, field: Field, values: list[Any]) -> None:
    if field.kind == MESSAGE:
        for value in values:
            put_bytes(out, field.number, value.SerializeToString())
    elif field.wire == LENGTH:
        for value in values:
            put_varint(out, field.number << 3 | LENGTH)
            put(out, field.kind, value)
    elif values:  # numbers are packed
        packed = bytearray()
        for value in values:
            put(packed, field.kind, value)
        put_bytes(out, field.number, packed)


def _put_map(out: bytearray, field: Field, values: Map) -> None:
    for key, value in values.items():
        entry = bytearray()
        put_varint(entry, 1 << 3 | WIRE.get(values.key_kind, VARINT))
        put(entry, values.key_kind, key)
        if isinstance(value, Message):
            put_bytes(entry, 2, value.SerializeToString())
        else:
            put_varint(entry, 2 << 3 | WIRE.get(values.value_kind, VARINT))
            put(entry, values.value_kind, value)
        put_bytes(out, field.number, entry)
