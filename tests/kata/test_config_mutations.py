"""config.json files of podman, containerd and runc with faults put into them: taken, or refused in one line.

``make test-long`` puts 100,000 faults into them, the default run 2,000.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm_kata.bundle import schema
from pyvmm_kata.bundle.bundle import Bundle, parse_json
from pyvmm_kata.bundle.checks import check_process, check_resources
from pyvmm_kata.bundle.guest_config import guest_config, process_text, resources_text
from pyvmm_kata.bundle.guest_share import Nowhere
from pyvmm_kata.bundle.guest_spec import check, place
from pyvmm_kata.bundle.settings import ANNOTATIONS, Settings
from pyvmm_kata.errors import VmmError
from pyvmm_kata.host import cgroups, hooks
from pyvmm_kata.protocol import protobuf
from pyvmm_kata.protocol.protobuf import wire

CONFIGS = list(json.loads(Path(__file__).with_name("configs.json").read_text()).values())
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64, 1 << 200, 0.5, 1e300,
    float("nan"), float("inf"), "", "a", "0", "1", "-1", "true", "/", "//", "..", "../..", "/proc/self", "/sys",
    "a\0b", "a\nb", "\ud800", "\udcff", "é", "\u2028", "\x1b[2J", "a" * 300, "a" * 5000, "/" * 5000,
    [], {}, [None], [[]], [{}], {"a": None}, {"": ""}, {"a": "b"}, {"\ud800": "x"}, {"a\nb": 1}, {"type": "pid"},
    ["bind"], ["rbind", "ro"], "bind", "overlay", "tmpfs", "proc", "user", "network", "SCMP_ACT_ERRNO",
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a document where something can be put: its container, and its key or index."""
    found: list[tuple[Any, Any]] = []
    below: list[Any] = [value]
    while below:
        holder = below.pop()
        for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
            found.append((holder, key))
            if isinstance(item, dict | list):
                below.append(item)
    return found


def copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return None


def deep(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": [value]}
    return value


def put_fault(document: Any, chosen: random.Random) -> None:
    """Change one thing."""
    choices = places(document)
    if not choices:
        document["a"] = 1
        return
    holder, key = chosen.choice(choices)
    item = holder[key]
    match chosen.randrange(9):
        case 0 | 1:
            holder[key] = copy.deepcopy(chosen.choice(JUNK))
        case 2:
            del holder[key]
        case 3:
            holder[key] = [item]
        case 4:
            if isinstance(item, str):
                holder[key] = len(item)
            else:  # what an earlier fault made may be too deep to be printed
                holder[key] = str(item) if isinstance(item, int | float) else type(item).__name__
        case 5:
            other_holder, other_key = chosen.choice(choices)
            holder[key] = copied(other_holder[other_key])
        case 6:
            if isinstance(holder, dict):
                written = chosen.choice([key.upper(), key.lower(), key.capitalize(), key + "\n", "\ud800"])
                holder[written] = item
                if chosen.random() < 0.5:
                    holder.pop(key, None)
            else:
                holder.insert(key, copied(item))
        case 7:
            holder[key] = deep(chosen.choice([1, 50, 300, 3000]))
        case 8:
            if isinstance(item, str):
                at = chosen.randrange(len(item) + 1)
                holder[key] = (
                    item[:at] + chosen.choice(["\0", "\n", "/", "é", "\ud800", "x" * 300, ""]) + item[at + 1 :]
                )
            else:
                holder[key] = copy.deepcopy(chosen.choice(JUNK))


def write(document: Any, chosen: random.Random) -> bytes:
    """The text, at times with a fault that no document has: keys twice, a byte changed, its end missing."""
    try:
        text = json.dumps(document, ensure_ascii=chosen.random() < 0.5)
    except RecursionError:
        text = '{"a":' * 100_000
    match chosen.randrange(12):
        case 0:
            text = text.replace("{", '{"linux": null, "type": 5, "path": [], ', 3)
        case 1:
            text = text[: chosen.randrange(len(text))]
        case 2:
            at = chosen.randrange(len(text))
            text = text[:at] + chosen.choice('{}[],:"\\0-9e.\n\ufeff') + text[at + 1 :]
        case 3:
            text = text.replace(": 0", ": " + chosen.choice(["1e3", "-0", "0.0", "9" * 5000, "NaN", "-Infinity"]), 1)
    return text.encode("utf-8", "surrogatepass")


def go_all_the_way(folder: Path, content: bytes) -> None:
    """As far as a container's start goes on the host before there is a machine."""
    (folder / "config.json").write_bytes(content)
    bundle = Bundle.load(str(folder))
    hooks.check(bundle.spec)
    chosen = Settings("/k/kernel", "/k/image", annotations=tuple(ANNOTATIONS)).with_annotations(bundle.annotations)
    chosen.size(bundle.spec.get("linux", {}).get("resources", {}))
    cgroups.place(bundle.spec.get("linux", {}).get("cgroupsPath", ""), "c1", systemd=True)
    check(bundle)
    made = guest_config(place(bundle, "c1", Nowhere()))
    assert protobuf.parse(protobuf.message("grpc.Spec"), made.message.SerializeToString()) == made.message
    protobuf.message("grpc.CreateContainerRequest")(config=made.text).SerializeToString()
    json.dumps({"process": bundle.spec["process"], "hooks": bundle.spec.get("hooks")})  # as the state is kept


def one_line(error: VmmError) -> None:
    text = f"{error} {error.hint}"
    assert text.isprintable(), text
    assert len(text) < 2000, text


def try_faults(folder: Path, number: int, faults: int) -> bool:
    """Whether it is taken."""
    chosen = random.Random(number)
    document = copy.deepcopy(chosen.choice(CONFIGS))
    for mount in document["mounts"]:
        if "bind" in mount.get("options", ()):
            mount["source"] = str(folder)
    document["root"]["path"] = str(folder)
    for _ in range(faults):
        put_fault(document, chosen)
    try:
        go_all_the_way(folder, write(document, chosen))
    except VmmError as error:
        one_line(error)
        return False
    return True


def try_parts(number: int) -> None:
    """A file of `exec --process`, and one of `update --resources`."""
    chosen = random.Random(number)
    document = copy.deepcopy(CONFIGS[number % len(CONFIGS)])
    parts: tuple[tuple[Any, Callable[..., None], Callable[[Any], str]], ...] = (
        (document["process"], check_process, process_text),
        (document["linux"]["resources"], check_resources, resources_text),
    )
    for part, check_part, text_of in parts:
        put_fault(part, chosen)
        try:
            value = parse_json(write(part, chosen), "file")
            check_part(value, source="file")
            protobuf.message("grpc.UpdateContainerRequest")(config=text_of(value)).SerializeToString()
        except VmmError as error:
            one_line(error)


@settings(max_examples=1900, deadline=None)
@given(number=st.integers(0, 1 << 60), faults=st.integers(1, 4))
def test_faults(tmp_path_factory: pytest.TempPathFactory, number: int, faults: int) -> None:
    try_faults(tmp_path_factory.getbasetemp(), number, faults)


@settings(max_examples=300, deadline=None)
@given(number=st.integers(0, 1 << 60))
def test_faults_in_parts(number: int) -> None:
    try_parts(number)


@pytest.mark.long
def test_many_faults(tmp_path: Path) -> None:
    taken = sum(try_faults(tmp_path, number, 1 + number % 4) for number in range(100_000))
    assert 5_000 < taken < 80_000, f"{taken} were taken: the faults do not test what they should"


@pytest.mark.long
def test_many_faults_in_parts() -> None:
    for number in range(50_000):
        try_parts(number)


@pytest.mark.parametrize("config", CONFIGS)
def test_they_are_taken_as_they_are(config: dict[str, Any]) -> None:
    spec = copy.deepcopy(config)
    schema.check(spec, schema.CONFIG)
    assert spec == without_nulls(config), "the table lacks a field that is in use"


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def test_the_table_has_what_the_message_has() -> None:
    """Every field that goes to the guest has been checked, and as what it is sent."""
    lacking = compare(protobuf.message("grpc.Spec").DESCRIPTOR, schema.CONFIG, "")
    assert lacking == []


NAMES = {"Version": "ociVersion"}
OTHER = ("Solaris", "Windows")
OURS = 100
"""Numbers from this on are of fields that the host computes: no config.json has them."""


def compare(descriptor: Any, node: dict[str, Any], where: str) -> list[str]:
    found = []
    names = {name.lower(): name for name in node}
    for field in descriptor.fields:
        if field.name in OTHER or field.number >= OURS:
            continue
        name = names.get(NAMES.get(field.name, field.name).lower())
        if name is None:
            found.append(f"{where}{field.name}: not in the table")
            continue
        inner = node[name]
        if field.count == wire.MAP:
            if inner != (str,):
                found.append(f"{where}{name}: no map of strings")
            continue
        if (field.count == wire.REPEATED) != isinstance(inner, list):
            found.append(f"{where}{name}: a list on one side")
            continue
        if isinstance(inner, list):
            inner = inner[0]
        if field.kind == wire.MESSAGE:
            found += compare(protobuf.message(field.detail).DESCRIPTOR, inner, f"{where}{name}.")
        elif field.kind in (wire.STRING, wire.BOOL):
            if inner is not (str if field.kind == wire.STRING else bool) and not isinstance(inner, frozenset):
                found.append(f"{where}{name}: another kind")
        elif not isinstance(inner, range):
            found.append(f"{where}{name}: no number")
    return found
