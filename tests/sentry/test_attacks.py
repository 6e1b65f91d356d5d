"""What a hostile file or program can give the core."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm_sentry import program
from tests.sentry.conftest import SRC

PAGE = 4096
CODE = bytes.fromhex("b83c000000 bf07000000 0f05")  # exit(7)
TOP = 0x7FFF_FFC0_0000


def segment(address: int, size: int, *, offset: int = 0, file_size: int | None = None, kind: int = 1) -> bytes:
    """An entry of the table of segments."""
    in_file = min(size, PAGE) if file_size is None else file_size
    return struct.pack("<IIQQQQQQ", kind, 7, offset, address, 0, in_file, size, PAGE)


def elf(*segments: bytes, count: int | None = None, table: int = 64, entry: int = 0x400800, machine: int = 62) -> bytes:
    """A program of these segments; its code is at 0x800 of the file."""
    number = len(segments) if count is None else count
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, machine, 1, entry, table, 0, 0, 64, 56, number, 0, 0, 0
    )
    return (head + b"".join(segments)).ljust(0x800, b"\0") + CODE.ljust(0x800, b"\0")


GOOD = segment(0x400000, PAGE)
MOST = 2**64 - 1
BAD = {
    "not an ELF program": [b"", b"\x7fEL", elf(GOOD)[:63]],
    "a script whose interpreter cannot be started": [b"#!/bin/sh\n" * 100, b"#!", b"#!\n", b"#!" + b"/" * 1000],
    "not a program for x86-64": [elf(GOOD, machine=3), b"\x7fELF\1\1\1" + elf(GOOD)[7:]],
    "an ELF file, but not a program": [elf(GOOD)[:16] + b"\1" + elf(GOOD)[17:]],
    "a bad table of segments": [elf(count=0), elf(GOOD, count=65), elf(GOOD, count=0xFFFF)],
    "truncated: the table": [elf(GOOD, table=PAGE), elf(GOOD, table=MOST), elf(GOOD, table=MOST - 55), elf(GOOD)[:100]],
    "truncated: a segment": [
        elf(segment(0x400000, 2 * PAGE, file_size=2 * PAGE)),
        elf(segment(0x400800, PAGE, offset=0x800)),
        elf(segment(0x400000, MOST, file_size=MOST)),
        elf(segment(0x400000, PAGE, offset=MOST - PAGE + 1)),
        elf(segment(0x400000, PAGE, offset=2 * PAGE)),
    ],
    "a segment is larger in the file": [elf(segment(0x400000, 16, file_size=32))],
    "a segment is outside": [
        elf(segment(0, PAGE)),
        elf(segment(0xF000, PAGE)),
        elf(segment(0x10000, PAGE)),
        elf(segment(TOP, PAGE)),
        elf(segment(TOP - PAGE, 2 * PAGE)),
        elf(segment(MOST - PAGE + 1, PAGE)),
        elf(segment(0x400000, MOST, file_size=PAGE)),
        elf(segment(0x400000, MOST - 0x400000 + 1, file_size=PAGE)),
        elf(segment(0xFFFF_8000_0000_0000, PAGE)),
    ],
    "a segment is not aligned": [elf(segment(0x400010, PAGE))],
    "segments overlap": [
        elf(GOOD, GOOD),
        elf(segment(0x401000, PAGE), GOOD),
        elf(segment(0x400000, PAGE + 1), segment(0x401000, PAGE)),
    ],
    "the name of the interpreter is bad": [
        elf(GOOD, segment(0, 0, kind=3)),
        elf(GOOD, segment(0, 0, file_size=MOST, kind=3)),
    ],
    "no segment to load": [elf(segment(0x400000, PAGE, kind=2)), elf(segment(0x400000, 0, file_size=0))],
    "the entry is outside": [elf(GOOD, entry=TOP), elf(GOOD, entry=MOST)],
    "a segment is where the stack must be": [elf(GOOD, segment(TOP - PAGE, PAGE))],
}


def files() -> Iterator[tuple[str, bytes]]:
    """Each bad file, and why it is refused."""
    for reason, contents in BAD.items():
        for content in contents:
            yield reason, content


def start(platform: Path, folder: Path, content: bytes) -> subprocess.CompletedProcess[str]:
    """Run a file of that content."""
    path = folder / "program"
    path.write_bytes(content)
    path.chmod(0o755)
    return subprocess.run([platform, "--", path], capture_output=True, text=True, timeout=60)


def test_the_program_without_damage_runs(platform: Path, tmp_path: Path) -> None:
    assert start(platform, tmp_path, elf(GOOD)).returncode == 7
    beyond = elf(GOOD, segment(0x600000, 1 << 40, file_size=0))
    assert start(platform, tmp_path, beyond).returncode == 7  # nobody touches it


def test_bad_files_are_refused_with_a_reason(platform: Path, tmp_path: Path) -> None:
    wrong = []
    for reason, content in files():
        done = start(platform, tmp_path, content)
        if done.returncode != 126 or not done.stderr.startswith(f"{tmp_path / 'program'}: {reason}"):
            wrong.append((reason, done.returncode, done.stderr))
    assert wrong == []


def test_a_program_may_not_be_larger_than_the_sandbox(platform: Path, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(elf(segment(0x400000, 20 << 20, file_size=20 << 20)).ljust(20 << 20, b"\0"))
    path.chmod(0o755)
    done = subprocess.run([platform, "--memory", "16", "--", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 126
    assert "larger than the memory of the sandbox" in done.stderr


@pytest.mark.parametrize(
    ("first", "count"), [(0, 300), (1_000_000, 300), pytest.param(2_000_000, 6000, marks=pytest.mark.long)]
)
def test_random_files_and_calls_find_nothing(first: int, count: int) -> None:
    """Under the address and undefined behaviour sanitizers; a page of RAM is never shown twice."""
    attack = program.hosted("attack", [SRC / "attack.c"], sanitized=True)
    done = subprocess.run([attack, str(first), str(count)], capture_output=True, text=True, timeout=200 + count / 10)
    assert done.returncode == 0, done.stderr
    started, answered = (int(words.split()[0]) for words in done.stdout.split(", ")[:2])
    assert started > count // 6
    assert answered > count * 6


def test_the_core_includes_nothing_of_the_host() -> None:
    """-nostdinc would refuse it; this checks every file, whoever compiles it. lwIP's own headers are no host's."""
    own = {path for folder in (program.CORE, program.KVM) for path in folder.rglob("*.[chS]")}
    headers = {path.name for path in own if path.suffix == ".h"}
    lines = {line for path in own for line in path.read_text().splitlines() if line.startswith("#include")}
    included = {line for line in lines if not line.startswith(('#include "lwip/', '#include "netif/'))}
    assert {line for line in included if re.sub(r'#include "(.*/)?([^/]*)"', r"\2", line) not in headers} == set()
