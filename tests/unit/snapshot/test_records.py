"""Records as plain values and back: nothing of another type comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.errors import ConfigError
from vmm.faststart.record import dataclass
from vmm.snapshot.manifest import decode_state, encode_state
from vmm.snapshot.records import KIND, made, plain


@dataclass(frozen=True)
class Leaf:
    number: int
    name: str = "x"


@dataclass(frozen=True)
class Longer(Leaf):
    more: bytes = b""


@dataclass(frozen=True)
class Other:
    flag: bool = False


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    either: Leaf | Other | None = None
    table: dict[int, int] = {}  # noqa: RUF012
    text: str | None = None
    share: float = 0.0


KINDS: dict[str, type] = {each.__name__: each for each in (Leaf, Longer, Other, Tree)}
TREE = Tree((Leaf(1), Longer(2, "y", b"z")), Other(True), {1: 2}, None, 0.5)


def test_what_was_made_plain_comes_back() -> None:
    assert made(plain(TREE), "Tree", KINDS, "tree") == TREE


def test_it_comes_back_from_cbor() -> None:
    assert made(decode_state(encode_state(TREE), "file"), "Tree", KINDS, "tree") == TREE


@pytest.mark.parametrize(
    "change",
    [
        {"leaves": None},
        {"leaves": [1]},
        {"leaves": [{KIND: "Leaf"}]},
        {"leaves": [{KIND: "Leaf", "number": True}]},
        {"leaves": [{KIND: "Leaf", "number": 1.5}]},
        {"leaves": [{KIND: "Leaf", "number": 1, "unknown": 1}]},
        {"leaves": [{KIND: "Other"}]},
        {"leaves": [{KIND: "Path", "number": 1}]},
        {"leaves": [{KIND: ["Leaf"], "number": 1}]},
        {"either": 3},
        {"either": {KIND: "Tree", "leaves": []}},
        {"either": {}},
        {"table": {"1": 2}},
        {"table": {1: "2"}},
        {"table": []},
        {"text": 5},
        {"text": b"bytes"},
        {"share": "much"},
        {KIND: "Leaf"},
    ],
)
def test_anything_else_is_an_error_that_names_the_place(change: dict[str, object]) -> None:
    value = {**plain(TREE), **change}
    with pytest.raises(ConfigError, match="tree"):
        made(value, "Tree", KINDS, "tree")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_no_plain_value_is_more_than_an_error(value: object) -> None:
    with pytest.raises(ConfigError):
        made(value, "Tree", KINDS, "tree")


@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_an_error(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        made(decode_state(raw, "file"), "Tree", KINDS, "tree")


@given(st.data())
def test_a_state_with_changed_bytes_is_another_or_an_error(data: st.DataObject) -> None:
    raw = bytearray(encode_state(TREE))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        made(decode_state(bytes(raw), "file"), "Tree", KINDS, "tree")
    except ConfigError:
        pass
