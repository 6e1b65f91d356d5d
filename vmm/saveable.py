"""The saved state of a device: typed, versioned, and checked at the restore.

A device declares by type how it is saved (:attr:`Saveable.saving`): by a :class:`Schema`, as :class:`Stateless`, or
:class:`Unsaved` with the reason why not. A state is a kind, a version and a payload of plain values. A schema checks
all types and sizes, so readers of a payload need not. Nothing in it is code, or names code.
"""

from __future__ import annotations

from vmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeAlias

    Saving: TypeAlias = "Schema | Unsaved"

_LIMITS = {"u8": 1 << 8, "u16": 1 << 16, "u32": 1 << 32, "u64": 1 << 64}
_TYPES: dict[str, type] = {"bool": bool, "text": str, "bytes": bytes}


class State:
    """
    :ivar kind: its kind, as its :class:`Schema` names it
    :ivar version: of the payload's fields
    :ivar payload: plain values by name: bool, int, str, bytes, and lists and dictionaries of these
    """

    # No record: a fork makes dozens of them
    __slots__ = ("kind", "payload", "version")

    def __init__(self, kind: str, version: int, payload: dict[str, Any]) -> None:
        self.kind = kind
        self.version = version
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.plain() == other.plain()

    __hash__ = None  # type: ignore[assignment]

    def plain(self) -> dict[str, Any]:
        """This as a dictionary: for a field of another state, or a file."""
        return {"kind": self.kind, "version": self.version, "payload": self.payload}

    @classmethod
    def from_plain(cls, value: object, where: str) -> State:
        """What :meth:`plain` returned.

        :param where: what an error names
        :raises ConfigError: it is something else
        """
        _check(value, {"kind": "text", "version": "u32", "payload": "any"}, where)
        assert isinstance(value, dict)
        if not isinstance(value["payload"], dict):
            raise mismatch(where, "its payload is no dictionary")
        return cls(value["kind"], value["version"], value["payload"])

    def part(self, field: str, where: str) -> State:
        """The state in a field of the payload, as :meth:`from_plain` returns it."""
        return State.from_plain(self.payload[field], where)


class OwnState(State):
    """One that this process has saved and no other has changed: its payload matches its :class:`Schema`, and is not
    checked again."""

    __slots__ = ()

    @classmethod
    def from_plain(cls, value: object, where: str) -> State:
        """As for any; nothing is checked."""
        assert isinstance(value, dict)
        return cls(value["kind"], value["version"], value["payload"])

    def part(self, field: str, where: str) -> State:
        return OwnState.from_plain(self.payload[field], where)


class Unsaved:
    """It cannot be saved.

    :ivar reason: the reason, as the rest of a sentence that begins with its name
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Schema:
    """The fields of a kind of state.

    :param fields: the type of each, by name: ``u8``, ``u16``, ``u32``, ``u64``, ``bool``, ``text``, ``bytes``,
        ``state`` (what :meth:`State.plain` returns), a list with one type for a list of such, or a dictionary of fields
    """

    __slots__ = ("fields", "kind", "version")

    def __init__(self, kind: str, version: int, fields: Mapping[str, Any]) -> None:
        self.kind = kind
        self.version = version
        self.fields = fields

    def make(self, **payload: Any) -> State:
        """A state of this kind and version."""
        return State(self.kind, self.version, payload)

    def read(self, state: State, name: str) -> dict[str, Any]:
        """The payload, with all fields and no others, each of its type and size.

        :param name: of the device, for errors
        :raises ConfigError: the state has another kind, version or set of fields
        """
        if (state.kind, state.version) != (self.kind, self.version):
            raise mismatch(
                name, f"{state.kind} version {state.version} where {self.kind} version {self.version} is wanted"
            )
        if type(state) is not OwnState:
            _check(state.payload, self.fields, name)
        return state.payload


class Stateless(Schema):
    """For a device that has only its configuration."""

    KIND = "nothing"
    """Of a state without fields."""
    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(self.KIND, 1, {})


class Saveable:
    """The base of what can be saved, or declares that it cannot.

    :cvar saving: how: a schema with the fields of its state, :class:`Stateless`, or :class:`Unsaved`
    """

    name: str = "device"
    """For messages."""
    saving: Saving = Unsaved("its class does not say what its state is")

    def save(self) -> State:
        """Everything that the guest can see of it and that is not in the configuration. Overridden where there is
        something.

        :raises ConfigError: it cannot be saved
        """
        return saveable(self).make()

    def restore(self, state: State) -> None:
        """Restore what :meth:`save` returned; this object is fresh.

        :raises ConfigError: the state belongs to something else
        """
        saveable(self).read(state, self.name)


def saveable(thing: Saveable) -> Schema:
    """How *thing* is saved.

    :raises ConfigError: it cannot be
    """
    saving = thing.saving
    if isinstance(saving, Unsaved):
        raise ConfigError(
            f"{thing.name} cannot be saved: {saving.reason}",
            code="not-saveable",
            hint="make the machine without it, or unplug it first",
        )
    return saving


def _check(value: object, kind: Any, where: str) -> None:
    if (fault := _fault(value, kind)) is not None:
        raise mismatch(where + fault[0], fault[1])


def _fault(value: object, kind: Any) -> tuple[str, str] | None:
    """The place in *value* that does not match *kind*, and why. A path is only built for an error: building one for
    each field takes longer than checking it."""
    if isinstance(kind, str):
        return None if _is(value, kind) else ("", f"{value!r:.60} is no {kind}")
    if isinstance(kind, list):
        if not isinstance(value, list):
            return "", f"{type(value).__name__} is no list"
        for index, each in enumerate(value):
            if (fault := _fault(each, kind[0])) is not None:
                return f"[{index}]{fault[0]}", fault[1]
        return None
    if not isinstance(value, dict) or value.keys() != kind.keys():
        names = ", ".join(sorted(map(str, value))) if isinstance(value, dict) else type(value).__name__
        return "", f"it has {names:.200} where {', '.join(kind)} is wanted"
    for name, each in kind.items():
        field = value[name]
        # Most are numbers that fit, and need no call
        if type(field) is int and type(each) is str and 0 <= field < _LIMITS.get(each, 0):
            continue
        if (fault := _fault(field, each)) is not None:
            return f": {name}{fault[0]}", fault[1]
    return None


def _is(value: object, kind: str) -> bool:
    if kind in _LIMITS:
        # True is an int to Python, and no number to a file
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LIMITS[kind]
    if kind == "state":
        return isinstance(value, dict) and value.keys() == {"kind", "version", "payload"}
    return kind == "any" or isinstance(value, _TYPES[kind])


def mismatch(where: str, what: str) -> ConfigError:
    """The error for a saved state of *where* that does not match: *what* is wrong."""
    return ConfigError(
        f"{where}: the saved state does not fit: {what}",
        code="restore-mismatch",
        hint="restore with the same devices, in the same order and with the same options",
    )
