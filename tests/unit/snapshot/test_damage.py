"""What is wrong with the files of a snapshot is found: damage, links, pipes, and states that would take all memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cbor2
import pytest

from tests.tiny import Console
from tests.unit.snapshot.test_machine_snapshot import change, echo
from tools.where import PYVMM
from vmm import ConfigError, DiskConfig, Machine
from vmm.saving import memory_file, working_set
from vmm.saving import verify as whole
from vmm.saving.manifest import decode_state, read_manifest

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")
MIB = 1 << 20


@pytest.fixture
def diff(tmp_path: Path, console: Console) -> Path:
    """Of a machine with a disk; its base is beside it, with the name ``base``."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"data".ljust(MIB, b"\0"))
    with echo(tmp_path, console, disks=(DiskConfig(str(disk)),)) as machine:
        machine.start()
        assert console.read(1) == b">"
        machine.snapshot(str(tmp_path / "base"))
        machine.memory.write(0x20_0000, b"later")
        machine.snapshot(str(tmp_path / "diff"), base=str(tmp_path / "base"))
    return tmp_path / "diff"


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)


PLACES = [
    ("diff/pages", 3),
    ("diff/disk0", 2),
    ("diff/disk0", MIB - 1),
    ("diff/memory", 0x20_0001),
    ("diff/state", 99),
    ("diff/manifest.json", 40),
    ("base/disk0", 5),
    ("base/memory", 0x100_0000),
    ("base/state", 5),
    ("base/manifest.json", 300),
]


@needs_kvm
def test_damage_is_found_wherever_it_is(diff: Path) -> None:
    """And a merge does not give it a checksum of its own."""
    whole.verify_snapshot(str(diff))
    before = (diff / "manifest.json").read_bytes()
    for name, at in PLACES:
        path = diff.parent / name
        flip(path, at)
        for find in (
            lambda: whole.verify_snapshot(str(diff)),
            lambda: whole.merge(str(diff)),
            lambda: Machine.restore(str(diff), verify=True),
        ):
            with pytest.raises(ConfigError, match=str(path)):
                find()
        flip(path, at)
    assert (diff / "manifest.json").read_bytes() == before
    Machine.restore(str(diff), verify=True).close()
    whole.merge(str(diff))
    whole.verify_snapshot(str(diff))
    assert sorted(os.listdir(diff)) == ["disk0", "manifest.json", "memory", "state"]
    flip(diff / "disk0", 700)
    with pytest.raises(ConfigError, match="disk0: damaged"):
        whole.verify_snapshot(str(diff))


@needs_kvm
def test_damaged_bits_of_a_diff_are_found_without_reading_all(diff: Path) -> None:
    flip(diff / "pages", 3)
    with pytest.raises(ConfigError, match="diff/pages: damaged"):
        Machine.restore(str(diff))


@needs_kvm
def test_no_bit_of_a_manifest_can_change(diff: Path) -> None:
    raw, chance = (diff / "manifest.json").read_bytes(), random.Random(7)
    places = {*chance.sample(range(len(raw)), 60), raw.index(b'"format": 3') + 10}
    for at in places:
        changed = bytearray(raw)
        changed[at] ^= 1 << chance.randrange(8)
        (diff / "manifest.json").write_bytes(changed)
        with pytest.raises(ConfigError, match=r"manifest\.json"):
            read_manifest(str(diff))


def as_older(folder: Path, number: int) -> None:
    """Have it as older versions wrote it."""
    value = json.loads((folder / "manifest.json").read_text())
    del value["checksum"], value["pages_crc32"]
    for disk in value["disks"]:
        del disk["crc32"]
    if number == 1:
        del value["constant"]
    crc32 = memory_file.old_checksum(str(folder / "memory"), value["memory_size"])
    (folder / "manifest.json").write_text(json.dumps({**value, "format": number, "memory_crc32": crc32}))


@needs_kvm
@pytest.mark.parametrize("number", [1, 2])
def test_older_formats_are_read_and_merged(diff: Path, number: int) -> None:
    as_older(diff, number)
    as_older(diff.parent / "base", number)
    whole.verify_snapshot(str(diff))
    with Machine.restore(str(diff), start=False, verify=True) as clone:
        assert clone.memory.read(0x20_0000, 5) == b"later"
    flip(diff.parent / "base" / "memory", 0x100_0000)
    with pytest.raises(ConfigError, match="base/memory: damaged"):
        whole.merge(str(diff))
    flip(diff.parent / "base" / "memory", 0x100_0000)
    whole.merge(str(diff))
    assert read_manifest(str(diff)).format == 3
    whole.verify_snapshot(str(diff))


@needs_kvm
@pytest.mark.parametrize("command", [["restore", "--verify"], ["snapshots", "verify"], ["snapshots", "merge"]])
def test_commands_name_what_is_damaged(diff: Path, command: list[str]) -> None:
    flip(diff / "disk0", 1)
    done = subprocess.run([PYVMM, *command, str(diff)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pyvmm: {diff}/disk0: damaged: its checksum is another\n  hint: ")


# -- files that are none -----------------------------------------------------------------------------------------------


@needs_kvm
@pytest.mark.parametrize("name", ["manifest.json", "state", "memory", "pages", "disk0", "working-set"])
def test_links_and_pipes_are_neither_followed_nor_waited_for(diff: Path, tmp_path: Path, name: str) -> None:
    path = diff / name
    if not path.exists():
        path.write_bytes(bytes(1024))
    path.rename(tmp_path / "real")
    for make in (
        ["ln", "-s", tmp_path / "real"],
        ["ln", "-s", "/dev/zero"],
        ["mkfifo"],
        ["mkdir"],
    ):
        subprocess.run([*make, path], check=True)
        if name == "working-set":
            assert working_set.read(str(diff), 32 * MIB) is None
        else:
            for cow in ("copy", "overlay"):
                with pytest.raises(ConfigError, match=f"diff/{name}: (a link|no regular file)"):
                    Machine.restore(str(diff), cow=cow)
            for look in (whole.verify_snapshot, whole.merge):
                with pytest.raises(ConfigError, match=f"diff/{name}: (a link|no regular file)"):
                    look(str(diff))
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert not [each for each in os.listdir(tmp_path) if "clone" in each]


# -- states ------------------------------------------------------------------------------------------------------------

WRONG = {
    "a tag": (b"\xc0\x61x", "it has a tag"),
    "a large number": (b"\xc2\x49" + bytes(9), "it has a tag"),
    "a tag inside": (cbor2.dumps({"a": [1, {"b": cbor2.CBORTag(28, [])}]}), "it has a tag"),
    "no length": (b"\x9f\x01\xff", "no CBOR"),
    "bytes without a length": (b"\x5f\x41a\xff", "no CBOR"),
    "more than the file": (b"\x9a\xff\xff\xff\xff", "no CBOR"),
    "more than memory": (b"\x5b" + b"\xff" * 8, "no CBOR"),
    "a map of half of that": (b"\xbb" + b"\x80" + bytes(7) + b"x", "no CBOR"),
    "nothing": (b"", "no CBOR"),
    "something behind it": (b"\x01\x02", "no CBOR"),
    "undefined": (b"\xf7", "no CBOR"),
    "a simple value": (b"\xf8\x20", "no CBOR"),
    "reserved": (b"\x1c", "no CBOR"),
    "deep": (b"\x81" * 17 + b"\x01", "nested deeper"),
    "very deep": (b"\x81" * 1000000, "nested deeper"),
    "no text": (b"\x61\xff", "no state"),
}


@pytest.mark.parametrize(("raw", "why"), WRONG.values(), ids=WRONG)
def test_what_is_no_state_is_not_decoded(raw: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        decode_state(raw, "file")


def test_what_a_state_may_have_is_decoded() -> None:
    value = {"a": [0, -1, (1 << 64) - 1, -(1 << 64), 1.5, True, False, None, b"x" * 70000, "é"], "b": {1: {}}, "c": []}
    assert decode_state(cbor2.dumps(value), "file") == value
    deep: object = 1
    for _ in range(16):
        deep = [deep]
    assert decode_state(cbor2.dumps(deep), "file") == deep


def test_whatever_the_bytes_are_they_are_decoded_or_refused() -> None:
    chance = random.Random(3)
    good = cbor2.dumps({"a": [1, b"bytes", {"text": "x" * 30, "more": [None, True, 1.5]}], "b": list(range(300))})
    decoded = 0
    for _ in range(20000):
        raw = bytearray(good if chance.random() < 0.7 else chance.randbytes(chance.randrange(40)))
        for _ in range(chance.randrange(4)):
            if raw:
                raw[chance.randrange(len(raw))] = chance.randrange(256)
        del raw[chance.randrange(len(raw) + 1) if chance.random() < 0.1 else len(raw) :]
        try:
            decode_state(bytes(raw), "file")
            decoded += 1
        except ConfigError:
            pass
    assert decoded > 1000


BOMB = """
import resource, sys
from vmm import Machine, ConfigError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    Machine.restore(sys.argv[1])
except ConfigError as error:
    print(error)
"""


@needs_kvm
@pytest.mark.parametrize("kind", ["items", "size", "endless"])
def test_a_state_takes_no_more_than_its_due(diff: Path, kind: str) -> None:
    """Before: 64 MiB of small values took 4.7 GiB."""
    state = diff / "state"
    state.unlink()
    if kind == "items":
        raw = b"\x9a\x03\xff\xff\xfb" + b"\x80" * (64 * MIB - 5)
        state.write_bytes(raw)
        change(diff, state_sha256=hashlib.sha256(raw).hexdigest())
    elif kind == "size":
        with state.open("wb") as file:
            file.truncate(1 << 40)
    else:
        state.symlink_to("/dev/zero")
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", BOMB, str(diff)], capture_output=True, text=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith(f"{state}: "), done.stderr
    assert ended.ru_utime - begun.ru_utime < 10, "seconds of the CPU"


# -- copies of disks ---------------------------------------------------------------------------------------------------


@needs_kvm
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_a_restore_that_is_ended_leaves_no_copy(tmp_path: Path, console: Console, number: signal.Signals) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        for _ in range(256):
            file.write(b"x" * MIB)
    with echo(tmp_path, console, disks=(DiskConfig(str(disk)),)) as machine:
        machine.start()
        assert console.read(1) == b">"
        machine.snapshot(str(tmp_path / "warm"))
    before = sorted(os.listdir(tmp_path))
    command = [PYVMM, "restore", str(tmp_path / "warm"), "--cow", "copy", "--console", "none"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as restore:
        wait_for_copy(restore.pid, tmp_path)
        restore.send_signal(number)
    assert restore.returncode in (-number, 128 + number)
    assert sorted(os.listdir(tmp_path)) == before


def wait_for_copy(pid: int, folder: Path) -> None:
    """Until the process has a file open for it, with a name or without one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if target.startswith(f"{folder}/") and (".pyvmm-clone-" in target or target.endswith(" (deleted)")):
                return
        time.sleep(0.001)
    raise AssertionError("there is no copy")
