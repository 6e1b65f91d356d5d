"""No snapshot is lost by another one: what a diff needs stays, and what fails changes nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.tiny import Console
from tests.unit.snapshot.test_machine_snapshot import change, echo, talk
from vmm import ConfigError, HostError, Machine, create_machine
from vmm.faststart.record import replace
from vmm.saving import new_directory
from vmm.saving import verify as whole
from vmm.saving.bases import diffs_of
from vmm.saving.directory import Directory
from vmm.saving.manifest import read_manifest
from vmm.saving.new_directory import NewDirectory

pytestmark = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="no /dev/kvm here")

SIZE = 32 << 20
MARK = 0x20_0000


@pytest.fixture
def machine(tmp_path: Path, console: Console) -> Iterator[Machine]:
    with echo(tmp_path, console) as made:
        made.start()
        assert console.read(1) == b">"
        yield made


def save(machine: Machine, path: Path, text: bytes, base: Path | None = None) -> None:
    machine.memory.write(MARK, text)
    machine.snapshot(str(path), base=None if base is None else str(base))


def mark(path: Path) -> bytes:
    with Machine.restore(str(path), start=False) as clone:
        return clone.memory.read(MARK, 4)


Name = Callable[[Path], str]


@pytest.mark.parametrize(
    "name",
    [str, lambda path: os.path.relpath(path), lambda path: f"{path}/", lambda path: f"{path.parent}/link",
     lambda path: f"{path.parent}/through/{path.name}"],
    ids=["path", "relative", "slash", "link", "linked parent"],
)  # fmt: skip
def test_a_diff_of_itself_is_refused(machine: Machine, console: Console, tmp_path: Path, name: Name) -> None:
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "through").symlink_to(".")
    save(machine, tmp_path / "a", b"full")
    for place, base in ((name(tmp_path / "a"), tmp_path / "a"), (str(tmp_path / "a"), name(tmp_path / "a"))):
        with pytest.raises(ConfigError, match="a diff of itself") as caught:
            machine.snapshot(place, base=str(base))
        assert "new directory" in caught.value.hint
    talk(machine, console, b"goes on")
    assert mark(tmp_path / "a") == b"full"


def test_what_a_diff_needs_is_not_replaced(machine: Machine, tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    save(machine, a, b"full")
    save(machine, b, b"diff", a)
    save(machine, c, b"more", b)
    with pytest.raises(ConfigError, match="is a diff of"):
        save(machine, a, b"lost", b)
    for place in (a, b):
        with pytest.raises(ConfigError, match=r"cannot be replaced: .* is a diff of it") as caught:
            save(machine, place, b"lost")
        assert "pyvmm snapshots merge" in caught.value.hint
    assert [mark(each) for each in (a, b, c)] == [b"full", b"diff", b"more"]
    assert (diffs_of(str(a)), diffs_of(str(b)), diffs_of(str(c))) == ([str(b)], [str(c)], [])
    whole.merge(str(b))  # of which there is a diff: that needs it as before
    whole.verify_snapshot(str(c))
    assert [mark(each) for each in (b, c)] == [b"diff", b"more"]
    save(machine, a, b"new1")
    with pytest.raises(ConfigError, match="cannot be replaced"):
        save(machine, b, b"lost")
    shutil.rmtree(c)
    save(machine, b, b"new2")
    assert [mark(each) for each in (a, b)] == [b"new1", b"new2"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "tiny.elf"]


def test_a_diff_may_be_replaced_and_its_base_then(machine: Machine, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    save(machine, a, b"full")
    save(machine, b, b"diff", a)
    save(machine, b, b"next", a)
    assert mark(b) == b"next"
    assert len(os.listdir(a / "diffs")) == 2
    save(machine, b, b"full")
    save(machine, a, b"new1")
    assert [mark(each) for each in (a, b)] == [b"new1", b"full"]


@pytest.mark.parametrize("how", ["moved", "an older one", "entry without a place", "elsewhere"])
def test_diffs_are_found_where_they_are(machine: Machine, tmp_path: Path, how: str) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    if how == "elsewhere":
        (tmp_path / "there").mkdir()
        b = tmp_path / "there" / "b"
    save(machine, a, b"full")
    save(machine, b, b"diff", a)
    if how == "moved":
        b = b.rename(tmp_path / "moved")
    elif how == "an older one":
        shutil.rmtree(a / "diffs")
    elif how == "entry without a place":
        b.rename(tmp_path / "b.moved")
        for entry in (a / "diffs").iterdir():
            entry.write_text("{}")
    with pytest.raises(ConfigError, match="cannot be replaced"):
        save(machine, a, b"lost")
    assert mark(a) == b"full"


def test_what_is_on_another_file_system_may_be_away(machine: Machine, tmp_path: Path) -> None:
    save(machine, tmp_path / "a", b"full")
    save(machine, tmp_path / "b", b"diff", tmp_path / "a")
    (entry,) = (tmp_path / "a" / "diffs").iterdir()
    shutil.rmtree(tmp_path / "b")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "near": False}))
    with pytest.raises(ConfigError, match="cannot be replaced"):
        save(machine, tmp_path / "a", b"lost")
    entry.unlink()
    save(machine, tmp_path / "a", b"new1")


def test_a_base_is_kept_while_a_diff_is_made(machine: Machine, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    seen: list[int] = []

    def meanwhile(done: int, size: int) -> None:
        if not seen:
            with pytest.raises(ConfigError, match="is a diff of it"):
                NewDirectory(str(a)).__enter__()
            seen.append(done)

    save(machine, a, b"full")
    machine.memory.write(MARK, b"diff")
    machine.snapshot(str(b), base=str(a), progress=meanwhile)
    assert seen and mark(b) == b"diff"


def test_entries_of_diffs_are_not_written_through_a_link(machine: Machine, tmp_path: Path) -> None:
    save(machine, tmp_path / "a", b"full")
    (tmp_path / "there").mkdir()
    (tmp_path / "a" / "diffs").symlink_to("../there")
    with pytest.raises(HostError, match=f"cannot record in {tmp_path}/a that {tmp_path}/b will be a diff of it"):
        save(machine, tmp_path / "b", b"diff", tmp_path / "a")
    assert os.listdir(tmp_path / "there") == []
    assert not (tmp_path / "b").exists()


def test_a_diff_that_failed_needs_nothing(machine: Machine, tmp_path: Path) -> None:
    def fail(done: int, size: int) -> None:
        raise KeyError

    save(machine, tmp_path / "a", b"full")
    with pytest.raises(KeyError):
        machine.snapshot(str(tmp_path / "b"), base=str(tmp_path / "a"), progress=fail)
    assert os.listdir(tmp_path / "a" / "diffs") == []
    save(machine, tmp_path / "a", b"new1")


def test_a_link_stays_one(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    save(machine, tmp_path / "real" / "a", b"full")
    (tmp_path / "latest").symlink_to("real/a")
    save(machine, tmp_path / "latest", b"next")
    save(machine, tmp_path / "b", b"diff", tmp_path / "latest")
    (tmp_path / "to b").symlink_to("b")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "to b").symlink_to("../b")
    assert (tmp_path / "latest").is_symlink()
    assert mark(tmp_path / "real" / "a") == b"next"
    assert [mark(tmp_path / each) for each in ("b", "to b", "deep/to b")] == [b"diff"] * 3
    whole.merge(str(tmp_path / "to b"))
    assert (tmp_path / "to b").is_symlink()
    assert read_manifest(str(tmp_path / "b")).base == ""
    assert os.listdir(tmp_path / "real" / "a" / "diffs") == []


def test_the_same_directory_or_the_same_files_elsewhere(machine: Machine, console: Console, tmp_path: Path) -> None:
    """A bind mount is that directory; hard links to its files are another snapshot."""
    a, b, mounted = tmp_path / "a", tmp_path / "b", tmp_path / "mounted"
    save(machine, a, b"full")
    shutil.copytree(a, b, copy_function=os.link)
    save(machine, b, b"diff", a)
    assert [mark(each) for each in (a, b)] == [b"full", b"diff"]
    mounted.mkdir()
    if subprocess.run(["mount", "--bind", str(a), str(mounted)], capture_output=True).returncode:
        pytest.skip("cannot mount")
    try:
        for place, base in ((mounted, a), (a, mounted)):
            with pytest.raises(ConfigError, match=r"a diff of itself|is a diff of it"):
                save(machine, place, b"lost", base)
        shutil.rmtree(b)
        with pytest.raises(HostError, match="busy") as caught:
            save(machine, mounted, b"lost")
        assert "mounted there" in caught.value.hint
        talk(machine, console, b"goes on")
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert mark(a) == b"full"


def test_files_of_others_are_kept(machine: Machine, tmp_path: Path) -> None:
    save(machine, tmp_path / "a", b"full")
    (tmp_path / "a" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="'notes' is not a file of a snapshot"):
        save(machine, tmp_path / "a", b"lost")
    assert (tmp_path / "a" / "notes").read_text() == "mine"
    with pytest.raises(ConfigError, match="lies in the snapshot"):
        save(machine, tmp_path / "a" / "b", b"lost")


def test_a_missing_base_is_named_with_who_needs_it(machine: Machine, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    save(machine, a, b"full")
    save(machine, b, b"diff", a)
    a.rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match=f"{b} is a diff of the snapshot {a}, which is not there") as caught:
        Machine.restore(str(b))
    assert "move the base back" in caught.value.hint
    shutil.copytree(b, a)
    with pytest.raises(ConfigError, match=f"{b} is a diff of another snapshot"):
        Machine.restore(str(b))


REPLACE = """
import os, sys
from vmm.saving import new_directory as directory
steps = int(sys.argv[2])
def trace(frame, event, argument):
    global steps
    if frame.f_code.co_filename.startswith(os.path.dirname(directory.__file__)):
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), 9)
    return trace
from vmm.saving import new_directory
from vmm.saving import verify as whole
from vmm.saving import bases
sys.settrace(trace)
whole.merge(sys.argv[1])
sys.settrace(None)
"""


def test_killed_in_a_merge_there_is_a_whole_one(machine: Machine, tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    save(machine, a, b"full")
    save(machine, b, b"diff", a)
    save(machine, c, b"more", b)
    steps, status = 40, -signal.SIGKILL
    while status == -signal.SIGKILL:
        status = subprocess.run([sys.executable, "-c", REPLACE, str(b), str(steps)], check=False).returncode
        whole.verify_snapshot(str(c))
        assert diffs_of(str(b)) == [str(c)]
        assert read_manifest(str(b)).base == "" or diffs_of(str(a)) == [str(b)]
        if read_manifest(str(b)).base == "":
            break
        steps += 61
    assert [mark(each) for each in (b, c)] == [b"diff", b"more"]
    whole.merge(str(c))
    save(machine, b, b"new1")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "tiny.elf"]


def test_who_reads_a_snapshot_has_its_files_although_it_is_replaced(machine: Machine, tmp_path: Path) -> None:
    place = tmp_path / "a"
    save(machine, place, b"full")
    number = read_manifest(str(place)).id
    with Directory(str(place)) as first, Directory(str(place)):
        save(machine, place, b"next")
        assert json.loads(first.read("manifest.json", 1 << 20))["id"] == number
        assert len(os.listdir(tmp_path)) == 3
        assert mark(place) == b"next"
    assert sorted(os.listdir(tmp_path)) == ["a", "tiny.elf"]


def test_clones_of_a_snapshot_that_is_replaced_all_the_time(machine: Machine, tmp_path: Path) -> None:
    """A clone is of one or of another, not of parts of both."""
    place = tmp_path / "a"
    save(machine, place, b"0000")
    script = (
        "import sys\nfrom vmm import Machine\n"
        "seen = set()\n"
        "while len(seen) < 4:\n"
        "    with Machine.restore(sys.argv[1], start=False) as clone:\n"
        "        one, two = clone.memory.read(0x200000, 4), clone.memory.read(0x1f00000, 4)\n"
        "        assert one == two or one == b'0000', (one, two)\n"
        "        seen.add(one)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(place)], cwd=os.getcwd()) as reader:
        number = 0
        while reader.poll() is None:
            number += 1
            text = b"%04d" % number
            machine.memory.write(0x1F0_0000, text)
            save(machine, place, text)
    assert reader.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["a", "tiny.elf"]


def test_a_reader_that_comes_before_a_snapshot_is_released_keeps_its_files(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens the directory while the one that makes it still syncs the folder that it is in."""
    place, readers = tmp_path / "a", list[Directory]()
    save(machine, place, b"0001")
    sync = new_directory._sync

    def sync_and_open(path: str) -> None:
        sync(path)
        if path == str(tmp_path) and not readers:
            readers.append(Directory(str(place)))

    monkeypatch.setattr(new_directory, "_sync", sync_and_open)
    save(machine, place, b"0002")
    save(machine, place, b"0003")
    (reader,) = readers
    with reader:
        fd = reader.open("memory")
        assert os.pread(fd, 4, MARK) == b"0002"
        os.close(fd)
    assert mark(place) == b"0003"
    assert sorted(os.listdir(tmp_path)) == ["a", "tiny.elf"]


# -- what fails --------------------------------------------------------------------------------------------------------


class Small:
    """A file system with little room."""

    def __init__(self, place: Path, options: str) -> None:
        place.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True)
        if made.returncode:
            pytest.skip("cannot mount a file system")
        self._place = place

    def __enter__(self) -> Path:
        return self._place

    def __exit__(self, *exc: object) -> None:
        subprocess.run(["umount", str(self._place)], check=True)


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize(
    ("options", "word", "hint"),
    [("size=16k", "No space left", "free some room"), ("ro", "Read-only file system", "read only")],
    ids=["full", "read only"],
)
def test_the_guest_goes_on_when_a_snapshot_fails(
    tmp_path: Path, console: Console, isolation: str, options: str, word: str, hint: str
) -> None:
    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), console=console.config)
    with create_machine(replace(config, isolation=isolation)) as machine, Small(tmp_path / "small", options) as small:
        machine.start()
        assert console.read(1) == b">"
        for stop in (False, True):
            with pytest.raises(HostError, match=word) as caught:
                machine.snapshot(str(small / "warm"), stop=stop)
            assert str(small / "warm") in caught.value.message
            assert hint in caught.value.hint
            assert machine.state == "running"
            talk(machine, console, b"goes on")
        machine.pause()
        with pytest.raises(HostError, match=word):
            machine.snapshot(str(small / "warm"), stop=True)
        assert machine.state == "paused"
        machine.resume()
        talk(machine, console, b"goes on")
        assert os.listdir(small) == []


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("at", ["write_manifest", "_sync"])
def test_the_guest_goes_on_when_the_last_step_fails(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch, isolation: str, at: str
) -> None:
    """Behind the part in which it stands still."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    config = tiny.config(tiny.make(tmp_path, tiny.say(">"), tiny.ECHO), console=console.config)
    with create_machine(replace(config, isolation=isolation)) as machine:
        machine.start()
        assert console.read(1) == b">"
        with monkeypatch.context() as patch:
            patch.setattr(f"vmm.saving.{'snapshot' if at == 'write_manifest' else 'new_directory'}.{at}", fail)
            with pytest.raises(HostError, match=r"warm: Input/output error") as caught:
                machine.snapshot(str(tmp_path / "warm"), stop=True)
        assert "kernel log" in caught.value.hint
        assert machine.state == "running"
        talk(machine, console, b"goes on")
        assert os.listdir(tmp_path) == ["tiny.elf"]
        machine.snapshot(str(tmp_path / "warm"), stop=True)
        end = machine.wait(60)
        assert end is not None and (end.kind, end.detail) == ("stopped", "snapshot")
    whole.verify_snapshot(str(tmp_path / "warm"))


def test_a_place_that_cannot_be_says_so(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"{tmp_path}/no/warm: No such file") as caught:
        machine.snapshot(str(tmp_path / "no" / "warm"))
    assert "make the directory first" in caught.value.hint
    with pytest.raises(ConfigError, match="NUL"):
        machine.snapshot(f"{tmp_path}/no\0")
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="Not a directory"):
        machine.snapshot(str(tmp_path / "file" / "warm"))


def test_an_id_that_is_none_is_not_needed_by_all(machine: Machine, tmp_path: Path) -> None:
    """A diff of another snapshot that was in this place keeps nothing from replacing this one."""
    a, b = tmp_path / "a", tmp_path / "b"
    save(machine, a, b"full")
    save(machine, b, b"diff", a)
    change(b, base_id="0" * 32)
    save(machine, a, b"new1")


def test_a_lock_of_a_reader_does_not_keep_a_snapshot_waiting(machine: Machine, tmp_path: Path) -> None:
    save(machine, tmp_path / "a", b"full")
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert mark(tmp_path / "a") == b"full"
    save(machine, tmp_path / "a", b"next")
    os.close(fd)
    save(machine, tmp_path / "a", b"last")
    assert sorted(os.listdir(tmp_path)) == ["a", "tiny.elf"]
