"""RAM in files: full ones, diffs, and both put together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmm.errors import ConfigError
from vmm.memory import PAGE, GuestMemory
from vmm.snapshot import memory_file

SIZE = 64 * PAGE


def full(memory: GuestMemory) -> bytes:
    return memory.read(0, memory.size)


def save(memory: GuestMemory, folder: Path, base: Path | None = None) -> int:
    folder.mkdir()
    than = None if base is None else str(base / "memory")
    return memory_file.write_ram(memory, str(folder / "memory"), than=than)


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
    assert full(load(tmp_path / "base", tmp_path / "diff", shared=shared)) == full(memory)


writes = st.lists(st.tuples(st.integers(0, 63), st.sampled_from([b"\0", b"x", b"yy"])), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            memory = again


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


def test_bits_of_another_size_are_refused(tmp_path: Path) -> None:
    memory = GuestMemory(SIZE)
    save(memory, tmp_path / "base")
    save(memory, tmp_path / "diff", tmp_path / "base")
    (tmp_path / "diff" / "pages").write_bytes(b"x")
    with pytest.raises(ConfigError, match="another size"):
        load(tmp_path / "base", tmp_path / "diff")


def test_a_checksum_tells_of_a_changed_byte_and_not_of_holes(tmp_path: Path) -> None:
    memory = GuestMemory(SIZE)
    memory.write(7 * PAGE, b"data")
    save(memory, tmp_path / "base")
    path = tmp_path / "base" / "memory"
    value = memory_file.checksum(str(path), SIZE)
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())  # the same without holes
    assert memory_file.checksum(str(copy), SIZE) == value
    changed = bytearray(copy.read_bytes())
    changed[8 * PAGE] = 1
    copy.write_bytes(changed)
    assert memory_file.checksum(str(copy), SIZE) != value
