"""What is in a snapshot: its directory, written whole or not at all, its records of state, its file of memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmm.errors import ConfigError, HostError
from vmm.faststart.record import dataclass
from vmm.memory import GuestMemory
from vmm.memory.layout import PAGE
from vmm.saving import memory_file
from vmm.saving.manifest import decode_state, encode_state
from vmm.saving.new_directory import NewDirectory
from vmm.saving.records import KIND, made, plain
from vmm.saving.regular_files import MANIFEST
from vmm.virtio.fs import ShareConfig


def write(place: Path, text: str) -> None:
    with NewDirectory(str(place)) as new:
        Path(new.file(MANIFEST)).write_text(text)


def test_it_is_there_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    with NewDirectory(str(place)) as new:
        Path(new.file(MANIFEST)).write_text("1")
        assert not place.exists()
    assert (place / MANIFEST).read_text() == "1"
    assert os.listdir(tmp_path) == ["warm"]


def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    write(place, "old")

    def fail() -> None:
        with NewDirectory(str(place)) as new:
            Path(new.file(MANIFEST)).write_text("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (place / MANIFEST).read_text() == "old"
    assert os.listdir(tmp_path) == ["warm"]


def test_it_replaces_a_snapshot(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    write(place, "old")
    (place / "disk0").write_text("more")
    write(place, "new")
    assert os.listdir(place) == [MANIFEST]
    assert (place / MANIFEST).read_text() == "new"
    assert os.listdir(tmp_path) == ["warm"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_snapshot_is_not_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "warm"
    if kind == "file":
        place.write_text("mine")
    elif kind == "link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
        (place / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="no snapshot"):
        write(place, "new")
    assert os.path.lexists(place)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot write"):
        write(tmp_path / "missing" / "warm", "new")


KILLED = """
import os, signal, sys
from vmm.saving import new_directory as directory
steps = int(sys.argv[2])
def trace(frame, event, argument):
    global steps
    if frame.f_code.co_filename == directory.__file__:
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
with directory.NewDirectory(sys.argv[1]) as new:
    for name in ("memory", "state", "manifest.json"):
        open(new.file(name), "w").write("new")
sys.settrace(None)
"""


def test_killed_at_any_line_there_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "warm"
    write(place, "old")
    seen, steps, status = set(), 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        status = subprocess.run([sys.executable, "-c", KILLED, str(place), str(steps)], check=False).returncode
        found = {name: (place / name).read_text() for name in os.listdir(place)}
        assert found in ({MANIFEST: "old"}, {"memory": "new", "state": "new", MANIFEST: "new"})
        seen.add(found[MANIFEST])
        if found[MANIFEST] == "new":
            write(place, "old")
        steps += 4
    assert status == 0
    assert seen == {"old", "new"}
    # The next one clears away what the killed ones left
    write(place, "old")
    assert os.listdir(tmp_path) == ["warm"]


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


@settings(deadline=None)
@given(values)
def test_no_plain_value_is_more_than_an_error(value: object) -> None:
    with pytest.raises(ConfigError):
        made(value, "Tree", KINDS, "tree")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_more_than_an_error(raw: bytes) -> None:
    with pytest.raises(ConfigError):
        made(decode_state(raw, "file"), "Tree", KINDS, "tree")


@settings(deadline=None)
@given(st.data())
def test_a_state_with_changed_bytes_is_another_or_an_error(data: st.DataObject) -> None:
    raw = bytearray(encode_state(TREE))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        made(decode_state(bytes(raw), "file"), "Tree", KINDS, "tree")
    except ConfigError:
        pass


SIZE = 64 * PAGE


def full(memory: GuestMemory) -> bytes:
    return memory.read(0, memory.size)


def save(memory: GuestMemory, folder: Path, base: Path | None = None) -> int:
    folder.mkdir()
    than = None if base is None else str(base / "memory")
    return memory_file.write_new(memory, str(folder / "memory"), than=than)


def load(*folders: Path, shared: bool = False) -> GuestMemory:
    paths = [str(folder / "memory") for folder in folders]
    return memory_file.open_ram(SIZE, paths, huge_pages="auto", shared=shared, prefault=False)


@pytest.mark.parametrize("shared", [False, True])
def test_a_diff_holds_what_is_another_now(tmp_path: Path, shared: bool) -> None:
    memory = GuestMemory(SIZE, shared=shared)
    memory.write(0, b"a" * PAGE * 4)
    assert save(memory, tmp_path / "base") == 4 * PAGE
    memory.write(PAGE, b"b")
    memory.write(3 * PAGE, bytes(PAGE))  # zero now
    memory.write(9 * PAGE, b"c")
    memory.write(0, b"a")  # written, and the same
    assert save(memory, tmp_path / "diff", tmp_path / "base") == 3 * PAGE
    again = load(tmp_path / "base", tmp_path / "diff", shared=shared)
    assert full(again) == full(memory)
    again.close()
    memory.close()


def test_a_diff_leaves_its_base_as_small_as_it_was() -> None:
    """A file in the host's memory gets a page where a hole of it is read through a mapping."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        base, diff = Path(folder, "base"), Path(folder, "diff")
        memory = GuestMemory(SIZE)
        memory.write(0, b"a" * PAGE)
        save(memory, base)
        before = (base / "memory").stat().st_blocks
        memory.write(9 * PAGE, b"c")
        assert save(memory, diff, base) == PAGE
        assert (base / "memory").stat().st_blocks == before
        memory.close()


writes = st.lists(st.tuples(st.integers(0, 63), st.sampled_from([b"\0", b"x", b"yy"])), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(writes, min_size=1, max_size=4), st.booleans())
def test_any_chain_of_diffs_gives_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[tuple[int, bytes]]], clones: bool
) -> None:
    """Whether one machine is saved again and again, or each diff is of a clone of the one before."""
    place = tmp_path_factory.mktemp("chain")
    memory = GuestMemory(SIZE)
    folders: list[Path] = []
    for number, round_ in enumerate(rounds):
        for page, data in round_:
            memory.write(page * PAGE, data * (PAGE // len(data)))
        folder = place / str(number)
        merged = place / f"{number}-merged"
        if folders:
            merged.mkdir()
            memory_file.merge_ram(SIZE, [str(each / "memory") for each in folders], str(merged / "memory"))
        save(memory, folder, merged if folders else None)
        folders.append(folder)
        again = load(*folders)
        assert full(again) == full(memory)
        if clones:
            memory, again = again, memory
        again.close()
    memory.close()


def test_a_clone_never_changes_its_template(tmp_path: Path) -> None:
    memory = GuestMemory(SIZE)
    memory.write(0, b"template" * 512)
    save(memory, tmp_path / "base")
    before = (tmp_path / "base" / "memory").read_bytes()
    clones = [load(tmp_path / "base") for _ in range(3)]
    for number, clone in enumerate(clones):
        clone.write(0, bytes([number]) * SIZE)
    assert (tmp_path / "base" / "memory").read_bytes() == before
    assert [clone.read(5, 1)[0] for clone in clones] == [0, 1, 2]
    for each in (memory, *clones):
        each.close()


def test_bits_of_another_size_are_refused(tmp_path: Path) -> None:
    memory = GuestMemory(SIZE)
    save(memory, tmp_path / "base")
    save(memory, tmp_path / "diff", tmp_path / "base")
    (tmp_path / "diff" / "pages").write_bytes(b"x")
    with pytest.raises(ConfigError, match="another size"):
        load(tmp_path / "base", tmp_path / "diff")


@pytest.mark.parametrize("checksum", [memory_file.checksum, memory_file.old_checksum])
def test_a_checksum_tells_of_a_changed_byte_and_not_of_holes(
    tmp_path: Path, checksum: Callable[[str, int], int]
) -> None:
    memory = GuestMemory(SIZE)
    memory.write(7 * PAGE, b"data")
    save(memory, tmp_path / "base")
    path = tmp_path / "base" / "memory"
    value = checksum(str(path), SIZE)
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())  # the same without holes
    assert checksum(str(copy), SIZE) == value
    changed = bytearray(copy.read_bytes())
    changed[8 * PAGE] = 1
    copy.write_bytes(changed)
    assert checksum(str(copy), SIZE) != value


def test_a_checksum_is_crc32c_of_offsets_and_pages(tmp_path: Path) -> None:
    """Of no page, of a part of one, and of a hole between two, as a few lines of Python compute it."""

    def crc32c(data: bytes) -> int:
        value = 0xFFFFFFFF
        for byte in data:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value ^ 0xFFFFFFFF

    assert crc32c(b"123456789") == 0xE3069283
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert memory_file.checksum(str(path), 0) == crc32c(b"")
    first, last = os.urandom(PAGE), os.urandom(13)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), first, PAGE)
        os.pwrite(file.fileno(), last, 900 * PAGE)
    expected = crc32c(PAGE.to_bytes(8, "little") + first + (900 * PAGE).to_bytes(8, "little") + last)
    assert memory_file.checksum(str(path), 900 * PAGE + 13) == expected
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="ends early"):
        memory_file.checksum(str(path), 5001)


def test_a_share_keeps_its_maps() -> None:
    """A machine in a jail, too, gets its configuration as plain values."""
    share = ShareConfig("/srv", maps=((0, 1000, 1), (1, 100000, 10)), group_maps=((0, 5, 1),), unmapped=0xFFFFFFFF)
    kinds = {"ShareConfig": ShareConfig}
    assert made(plain(share), "ShareConfig", kinds, "share") == share
    with pytest.raises(ConfigError, match=r"maps\[0\]"):
        made({**plain(share), "maps": [[0, 1000]]}, "ShareConfig", kinds, "share")
