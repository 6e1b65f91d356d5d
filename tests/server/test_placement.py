"""Placement and bookkeeping without an engine: what is chosen, what is lost, and a simulation of a large cluster."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_server.engine import Node
from pyvmm_server.placement import LOST_AFTER_S, Membership, choose
from pyvmm_server.store import CREATING, ENDING, LOST, PAUSED, RUNNING, Record, Store

MIB = 512


def _record(number: int, node: str, state: str = RUNNING) -> Record:
    return Record(f"box{number}", "owner", "base", state, "token", float(number), None, memory=MIB, node=node)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path / "state"))
    yield made
    made.close()


def test_the_freest_of_three_is_chosen_and_none_that_is_full() -> None:
    nodes = [Node("a", 1000), Node("b", 4000), Node("c", 2000)]
    used = {"a": 0, "b": 3500, "c": 500}
    rng = random.Random(1)
    found = choose(nodes, used.__getitem__, 512, rng)
    assert found is not None and found.id == "c"
    assert choose(nodes, used.__getitem__, 1501, rng) is None
    assert choose([], used.__getitem__, 1, rng) is None


def test_room_is_found_on_the_only_node_that_has_some() -> None:
    nodes = [Node(str(number), 1000) for number in range(100)]
    found = [choose(nodes, lambda node: 0 if node == "57" else 900, 512, random.Random(each)) for each in range(20)]
    assert {each.id for each in found if each} == {"57"} and None not in found


def test_a_silent_node_is_lost_once_and_fenced_when_it_answers_again() -> None:
    members, node = Membership(), Node("a", 1000)
    ready = {"a": node}
    assert members.observe(0, [], ready).lost == [] and members.ready == ready
    assert members.observe(2, ["a"], {}).lost == [] and members.ready == {}  # its actor restarts
    assert [members.observe(2 * each, [], {}).lost for each in range(2, 8)] == [[], [], [], [], ["a"], []]
    found = members.observe(100, [], ready)
    assert found.fence == ["a"] and members.ready == {}
    members.readmit("a")
    assert members.observe(102, [], ready).fence == [] and members.ready == ready


def test_a_server_that_was_stopped_does_not_lose_its_nodes() -> None:
    members, ready = Membership(), {"a": Node("a", 1000)}
    members.observe(0, [], ready)
    assert members.observe(1, [], {}).lost == []
    assert members.observe(1000, [], {}).lost == []
    assert members.observe(1001, [], ready).lost == [] and members.ready == ready


def test_a_node_of_an_earlier_server_that_never_answers_is_lost() -> None:
    members = Membership()
    members.expect(["gone"])
    lost = [members.observe(now, [], {}).lost for now in (0.0, 4.0, LOST_AFTER_S)]
    assert lost == [[], [], ["gone"]]


def test_the_sandboxes_of_a_lost_node_are_lost_and_hold_no_memory(store: Store) -> None:
    for number, state in enumerate((CREATING, RUNNING, PAUSED, ENDING)):
        store.add(_record(number, "a", state))
    store.add(_record(9, "b"))
    store.add(_record(10, ""))
    assert (store.places.used("a"), store.places.used("b"), store.places.used("")) == (4 * MIB, MIB, 0)
    assert sorted(store.places.lose("a")) == ["box0", "box1", "box2"]
    assert store.places.lose("a") == []
    assert store.places.lose("") == []
    assert store.places.used("a") == 0 and store.places.nodes() == {"b"}
    assert [each.id for each in store.in_states(LOST)] == ["box0", "box1", "box2"] and store.get("box3") is None
    assert store.get("box9") == _record(9, "b")
