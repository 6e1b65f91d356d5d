"""Guest RAM: what lies where, and that nothing outside can be reached."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.command import descriptors, python_is_for_all
from tools.where import ROOT
from vmm.errors import ConfigError, GuestError, HostError
from vmm.memory import GuestMemory
from vmm.memory.layout import HOLE_END, HOLE_START, regions
from vmm.native import ffi, lib

GIB = 1 << 30


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(1 << 20)


def resident(memory: GuestMemory) -> int:
    """Bytes of host memory that guest RAM takes."""
    with open("/proc/self/smaps") as maps:
        inside, total = False, 0
        for line in maps:
            first = line.split()[0]
            if "-" in first:
                start, end = (int(part, 16) for part in first.split("-"))
                inside = start < memory.host_address + memory.size and memory.host_address < end
            elif inside and first == "Rss:":
                total += int(line.split()[1]) * 1024
        return total


def page_frame(address: int) -> int:
    """What tells the host's page at *address* from every other."""
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(address // 4096 * 8)
        return int.from_bytes(pages.read(8), "little") & (1 << 55) - 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4096, [(0, 4096, 0)]),
        (3 * GIB, [(0, 3 * GIB, 0)]),
        (3 * GIB + 4096, [(0, 3 * GIB, 0), (4 * GIB, 4096, 3 * GIB)]),
        (300 * GIB, [(0, 3 * GIB, 0), (4 * GIB, 297 * GIB, 3 * GIB)]),
    ],
)
def test_ram_lies_around_the_hole(size: int, expected: list[tuple[int, int, int]]) -> None:
    assert [(r.gpa, r.size, r.offset) for r in regions(size)] == expected


@pytest.mark.parametrize("shared", [False, True])
def test_hundreds_of_gib_are_mapped_and_cost_only_what_is_touched(shared: bool) -> None:
    with_hole = GuestMemory(300 * GIB, shared=shared)
    with_hole.write(300 * GIB + GIB - 8, b"the end.")
    assert with_hole.read(300 * GIB + GIB - 8, 8) == b"the end."
    assert resident(with_hole) <= 2 << 20
    with_hole.close()


@pytest.mark.parametrize("size", [0, -4096, 100, 4097])
def test_a_size_that_is_no_number_of_pages_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=str(size)):
        GuestMemory(size)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode", ["auto", "none", "thp"])
def test_prefaulted_memory_is_there_at_once(mode: str, shared: bool) -> None:
    memory = GuestMemory(4 << 20, huge_pages=mode, prefault=True, shared=shared)
    assert resident(memory) >= 4 << 20
    assert memory.read(0, 4 << 20) == bytes(4 << 20)
    memory.close()


def test_another_process_sees_shared_memory() -> None:
    memory = GuestMemory(4 << 20, shared=True)
    child = os.fork()
    if not child:
        with mmap.mmap(memory.fd, memory.size) as ram:
            ram[0x1000:0x1005] = b"child"
        os._exit(0)
    os.waitpid(child, 0)
    assert memory.read(0x1000, 5) == b"child"
    memory.close()


def test_a_fork_leaves_the_guest_the_pages_it_has() -> None:
    memory = GuestMemory(1 << 20)
    memory.write(0, b"before")
    here = page_frame(memory.host_address)
    if not here:
        pytest.skip("only root sees page frames")
    child = os.fork()
    if not child:
        signal.pause()
    memory.write(0, b"after!")
    now = page_frame(memory.host_address)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert here == now
    memory.close()


def test_memory_for_huge_pages_begins_where_one_can_begin() -> None:
    memory = GuestMemory(6 << 20, huge_pages="thp")
    assert memory.host_address % (2 << 20) == 0
    memory.write(0, b"first")
    memory.write((6 << 20) - 4, b"last")
    assert (memory.read(0, 5), memory.read((6 << 20) - 4, 4)) == (b"first", b"last")
    memory.close()


def test_pieces_that_are_made_huge_keep_what_they_have() -> None:
    with contextlib.closing(GuestMemory(16 << 20, shared=True)) as memory:
        memory.write((6 << 20) - 4, b"last")
        memory.write(10 << 20, b"next")
        memory.make_huge([(4 << 20, 6 << 20), (8 << 20, 10 << 20)])
        memory.write(4 << 20, b"first")
        assert os.pread(memory.fd, 5, 4 << 20) == b"first"
        assert memory.read((6 << 20) - 4, 4) == os.pread(memory.fd, 4, (6 << 20) - 4) == b"last"
        assert memory.read(8 << 20, 2 << 20) == bytes(2 << 20)
        assert memory.read(10 << 20, 4) == b"next"
        assert resident(memory) <= (4 << 20) + 64 * 4096
        memory.clear()
        assert memory.read(0, memory.size) == bytes(memory.size)


def test_hugetlb_pages_that_are_not_reserved_are_an_error_with_a_hint() -> None:
    with open("/proc/meminfo") as info:
        free = int(next(line for line in info if line.startswith("HugePages_Free")).split()[1])
    size = (free + 8) * (2 << 20)
    with pytest.raises(Exception, match="guest memory") as caught:
        GuestMemory(size, huge_pages="hugetlb", prefault=True)
    assert "nr_hugepages" in caught.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("gpa", "length"),
    [
        (0, (1 << 20) + 1),
        (1 << 20, 1),
        (1 << 20, 0),
        ((1 << 20) - 1, 2),
        (1 << 63, 8),
        ((1 << 64) - 1, 2),
        (-1, 1),
        (0, -1),
    ],
)
def test_no_access_outside_ram(memory: GuestMemory, gpa: int, length: int) -> None:
    with pytest.raises(GuestError):
        memory.read(gpa, length)
    with pytest.raises(GuestError):
        memory.view(gpa, length)
    if length >= 0:
        with pytest.raises(GuestError):
            memory.write(gpa, bytes(length))


def test_no_access_over_the_hole() -> None:
    memory = GuestMemory(3 * GIB + 4096)
    for gpa, length in ((HOLE_START - 1, 2), (HOLE_START, 1), (HOLE_END - 1, 2), (HOLE_START - 8, HOLE_END)):
        with pytest.raises(GuestError):
            memory.read(gpa, length)
        assert lib.mem_ptr(memory.native, gpa, length) == ffi.NULL
    memory.write(HOLE_END, b"high")
    assert bytes(ffi.buffer(lib.mem_ptr(memory.native, HOLE_END, 4), 4)) == b"high"
    memory.close()


@pytest.mark.parametrize("gpa,length", [(1 << 20, 1), (0, (1 << 20) + 1), (4096, (1 << 64) - 1), ((1 << 64) - 1, 1)])
def test_c_agrees_about_what_is_outside(memory: GuestMemory, gpa: int, length: int) -> None:
    assert lib.mem_ptr(memory.native, gpa, length) == ffi.NULL


def test_a_view_is_the_memory_itself(memory: GuestMemory) -> None:
    view = memory.view(0x1000, 4)
    memory.write(0x1000, b"abcd")
    assert bytes(view) == b"abcd"
    view[0:2] = b"XY"
    assert memory.read(0x1000, 4) == b"XYcd"


def test_memory_with_a_view_out_is_not_unmapped_under_it(memory: GuestMemory) -> None:
    view = memory.view(0, 16)
    with pytest.raises(BufferError):
        memory.close()
    view[0] = 7
    assert memory.read(0, 1) == b"\x07"
    view.release()
    memory.close()
    memory.close()


def test_integers_are_little_endian_and_cut(memory: GuestMemory) -> None:
    memory.write_int(0, 2, 0x12345)
    assert memory.read(0, 2) == b"\x45\x23"
    assert memory.read_int(0, 2) == 0x2345


@pytest.mark.parametrize("shared", [False, True])
def test_cleared_memory_is_as_new(shared: bool) -> None:
    with contextlib.closing(GuestMemory(8 << 20, shared=shared)) as memory:
        memory.write(0, b"first")
        memory.write((8 << 20) - 4, b"last")
        memory.clear()
        assert memory.read(0, (8 << 20)) == bytes(8 << 20)
        memory.write(4096, b"again")
        assert memory.read(4096, 5) == b"again"


# -- RAM in a file ----------------------------------------------------------------------------------------------------


def written(path: os.PathLike[str], memory: GuestMemory, what: int) -> int:
    """Save all of *memory* as a file of its size; bytes written."""
    pages = os.open("/proc/self/pagemap", os.O_RDONLY)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    file = ffi.new("struct ram_file *", {"fd": fd, "pagemap": pages, "what": what})
    try:
        os.ftruncate(fd, memory.size)
        total: int = lib.ram_save(file, ffi.cast("void *", memory.host_address), 0, memory.size)
    finally:
        os.close(fd)
        os.close(pages)
    return total


def over(path: os.PathLike[str], size: int, *, shared: bool = False) -> GuestMemory:
    fd = os.open(path, os.O_RDONLY)
    try:
        return GuestMemory(size, file=fd, shared=shared)
    finally:
        os.close(fd)


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_of_ram_has_what_was_written_and_no_more(tmp_path: Path, shared: bool) -> None:
    size = 64 << 20
    memory = GuestMemory(size, shared=shared, huge_pages="none")
    memory.write(0x5000, b"first")
    memory.write(0x9000, bytes(4096))
    memory.write(size - 3, b"end")
    assert written(tmp_path / "memory", memory, lib.RAM_ALL if shared else lib.RAM_TOUCHED) == 2 * 4096
    assert os.stat(tmp_path / "memory").st_blocks * 512 <= 16 * 4096
    again = over(tmp_path / "memory", size, shared=shared)
    assert again.read(0x5000, 5) == b"first"
    assert again.read(size - 3, 3) == b"end"
    assert not any(again.read(0x9000, 4096))
    assert (again.fd >= 0) == shared
    again.close()
    memory.close()


def test_ram_over_a_file_never_changes_it(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"template" + bytes((1 << 20) - 8))
    before = (tmp_path / "memory").read_bytes()
    memory = over(tmp_path / "memory", 1 << 20)
    memory.write(0, b"clone")
    memory.write(0x3000, b"new")
    assert memory.read(0, 8) == b"cloneate"
    assert (tmp_path / "memory").read_bytes() == before
    memory.close()


def test_cleared_ram_over_a_file_is_zero_and_not_the_files(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"template" * (1 << 17))
    memory = over(tmp_path / "memory", 1 << 20)
    memory.write(0, b"clone")
    memory.clear()
    assert not any(memory.read(0, 1 << 20))
    memory.write(0, b"again")
    memory.clear()
    assert not any(memory.read(0, 1 << 20))


def test_pages_of_its_own_are_told_from_the_files(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"\xaa" * (1 << 20))
    memory = over(tmp_path / "memory", 1 << 20)
    memory.read(0x4000, 4096)  # looked at, not written
    memory.write(0x2000, b"x")
    memory.write(0x7000, bytes(4096))  # zeros count: the file has other bytes there
    assert written(tmp_path / "diff", memory, lib.RAM_OWN) == 2 * 4096
    diff = (tmp_path / "diff").read_bytes()
    assert diff[0x2000:0x2002] == b"x\xaa"
    assert not any(diff[0x7000:0x8000])
    assert not any(diff[0x4000:0x5000])
    memory.close()


def test_a_file_that_ends_early_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 4096)
    with pytest.raises(HostError, match="ends early"):
        GuestMemory(1 << 20, shared=True, file=fd)
    with pytest.raises(HostError, match="ends early"):
        GuestMemory(1 << 20, file=fd)
    os.close(fd)


# -- filled from a template when it is touched -------------------------------------------------------------------------

PAGE = 4096
SIZE = 8 << 20
ON_DEMAND = """
import os, sys
from vmm.saving.memory_file import open_ram

path, size, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if how == "nobody":
    os.setgid(65534)
    os.setuid(65534)
if how == "no memory":
    import ctypes, struct
    from tests.record_calls import NR_SECCOMP, SET_MODE_FILTER
    # The number is that of ioctl, its second argument UFFDIO_COPY: ENOMEM; else: as ever (linux/filter.h)
    lines = [(0x20, 0, 0, 0), (0x15, 0, 3, 16), (0x20, 0, 0, 24), (0x15, 0, 1, 0xC028AA03)]
    lines += [(6, 0, 0, 0x5000C), (6, 0, 0, 0x7FFF0000)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    head = struct.pack("<HxxxxxxQ", len(lines), ctypes.addressof(program))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    assert libc.syscall(NR_SECCOMP, SET_MODE_FILTER, 0, head) == 0
memory = open_ram(size, [path], huge_pages="auto", shared=True, prefault=False, on_demand=True)
print(memory.on_demand, flush=True)
with open(path, "rb") as file:
    content = file.read(size)
if how == "cut":
    os.truncate(path, 0)
print(memory.read(0, size) == content, flush=True)
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Data in one part, a hole, and data again at the end."""
    path = tmp_path / "memory"
    with path.open("wb") as file:
        file.write(os.urandom(SIZE // 4))
        file.seek(SIZE - 3 * PAGE)
        file.write(os.urandom(3 * PAGE))
    return path


def test_what_is_touched_is_all_that_is_filled_exactly(template: Path) -> None:
    for exactly, filled in ((True, 0b10), (False, 0b11)):
        with template.open("rb") as file:
            memory = GuestMemory(SIZE, shared=True)
            assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")], exactly=exactly)
        assert memory.read(PAGE, 1) == template.read_bytes()[PAGE : PAGE + 1]
        assert memory.fill.filled()[0] == filled and not any(memory.fill.filled()[1:])
        memory.close()


def test_memory_is_filled_where_it_is_touched(template: Path) -> None:
    before = descriptors()
    with template.open("rb") as file:
        memory = GuestMemory(SIZE, shared=True)
        assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")])
    content = template.read_bytes()
    for at in (0, SIZE // 4 - 2, SIZE // 2, SIZE - 3 * PAGE - 1, SIZE - 1):
        assert memory.read(at, 1) == content[at : at + 1]
    assert os.fstat(memory.fd).st_blocks * 512 < SIZE // 8
    memory.write(5, b"own")
    memory.complete()
    content = content[:5] + b"own" + content[8:]
    assert memory.read(0, SIZE) == content
    memory.clear()
    assert memory.read(0, SIZE) == bytes(SIZE)
    memory.close()
    assert descriptors() <= before


def test_pages_can_be_filled_beforehand(template: Path) -> None:
    """Those that are asked for, whether the template has them or not: who touches one has no fault to be answered."""
    content = template.read_bytes()
    last, in_the_hole = SIZE // PAGE - 1, SIZE // 2 // PAGE
    bits = bytearray(SIZE // PAGE // 8)
    for page in (0, 1, 7, 8, in_the_hole, last):
        bits[page // 8] |= 1 << page % 8
    with template.open("rb") as file, contextlib.closing(GuestMemory(SIZE, shared=True)) as memory:
        assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")], bytes(bits))
        assert os.fstat(memory.fd).st_blocks * 512 == 6 * PAGE
        for page in (0, 1, 7, 8, in_the_hole, last):
            assert memory.read(page * PAGE, PAGE) == content[page * PAGE : (page + 1) * PAGE]
        assert memory.fill_stats() == {"faults": 0, "filled": 5 * PAGE}
        assert memory.fill.filled() == bytes(bits)
        assert mapped(template) == 0
        assert memory.read(0, SIZE) == content


def test_what_the_guest_only_reads_is_the_templates(template: Path) -> None:
    """No copy is made of it, unless the guest writes it; and the template stays what it is."""
    content = template.read_bytes()
    first, last = 8 * PAGE, 40 * PAGE
    with template.open("rb") as file, contextlib.closing(GuestMemory(SIZE, shared=True)) as memory:
        bits = b"\xff" * 8 + bytes(SIZE // PAGE // 8 - 8)
        assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")], bits, constant=[(first, last)])
        assert memory.fill.filled() == bits
        assert os.fstat(memory.fd).st_blocks * 512 == 64 * PAGE - (last - first)
        assert memory.read(0, SIZE // 4) == content[: SIZE // 4]
        memory.write(first + 5, b"own")
        memory.write(first - 2, b"over")
        expected = content[: first - 2] + b"over" + content[first + 2 : first + 5] + b"own" + content[first + 8 :]
        # Another process, which sees what was there when it first looked
        with mmap.mmap(memory.fd, SIZE) as own:
            uffd = lib.fill_uffd(-1)
            client = memory.admit(uffd)
            memory.mapped_by(client, int(ffi.cast("uintptr_t", ffi.from_buffer(own))))
            for page in (0, first // PAGE, first // PAGE + 1, last // PAGE - 1, last // PAGE):
                assert own[page * PAGE : (page + 1) * PAGE] == expected[page * PAGE : (page + 1) * PAGE]
            memory.dismiss(client)
            os.close(uffd)
        assert not memory.release(last - PAGE, 2 * PAGE)
        expected = expected[: last - PAGE] + bytes(2 * PAGE) + expected[last + PAGE :]
        memory.forks.prepare()
        assert memory.read(0, SIZE) == expected
        memory.complete()
        assert memory.read(0, SIZE) == expected
        assert os.pread(memory.fd, SIZE, 0) == expected
        memory.write(first, b"shared")
        assert os.pread(memory.fd, 6, first) == b"shared"
    assert template.read_bytes() == content


def mapped(path: Path) -> int:
    """Bytes of the file that this process has in its memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    places = [number for number, line in enumerate(lines) if line.endswith(f" {path}")]
    sizes = [next(line for line in lines[number:] if line.startswith("Rss:")) for number in places]
    assert sizes
    return sum(int(line.split()[1]) << 10 for line in sizes)


def test_pieces_that_are_filled_for_the_most_part_may_be_huge(template: Path) -> None:
    content = template.read_bytes()
    bits = b"\xff" * 40 + bytes(24) + bytes(SIZE // PAGE // 8 - 64)  # 320 of the first 512 pages
    with template.open("rb") as file, contextlib.closing(GuestMemory(SIZE, shared=True)) as memory:
        assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")], bits)
        assert memory.read(0, 320 * PAGE) == content[: 320 * PAGE]
        assert memory.fill_stats()["faults"] == 0
        assert memory.fill.filled() in (bits, b"\xff" * 64 + bits[64:])
        memory.write(511 * PAGE, b"own")
        assert memory.read(0, SIZE) == content[: 511 * PAGE] + b"own" + content[511 * PAGE + 3 :]


def test_a_host_without_room_for_what_is_filled_beforehand_has_it_filled_later(template: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = template.read_bytes()
    with template.open("rb") as file, contextlib.closing(GuestMemory(SIZE, shared=True)) as memory:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * PAGE // 2, limit[1]))  # in the middle of a page
        try:
            assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")], b"\xff" * (SIZE // PAGE // 8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert memory.fill.filled() == bytes(SIZE // PAGE // 8)
        assert memory.read(0, SIZE) == content


def test_after_a_reset_the_template_is_gone(template: Path) -> None:
    with template.open("rb") as file:
        memory = GuestMemory(SIZE, shared=True)
        assert memory.fill.start([(file.fileno(), ((0, SIZE),), b"")])
    memory.write(3 * PAGE, b"own")
    memory.clear()
    assert memory.read(0, SIZE) == bytes(SIZE)
    memory.close()


@pytest.mark.parametrize(
    "how",
    [
        "whole",
        "cut",
        "no memory",
        pytest.param("nobody", marks=pytest.mark.skipif(not python_is_for_all(), reason="no Python for others")),
    ],
)
def test_templates_that_are_cut_hosts_without_memory_and_users_without_the_right(how: str) -> None:
    """The first two end the process, as they do where a file is mapped; for the others memory is copied."""
    if how == "nobody" and os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        template = Path(folder) / "memory"
        template.write_bytes(os.urandom(SIZE))
        command = [sys.executable, "-c", ON_DEMAND, str(template), str(SIZE), how]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if how in ("cut", "no memory"):
        assert (done.returncode, done.stdout) == (1, "True\n"), done.stderr
        number = f"(errno {errno.ENOMEM})" if how == "no memory" else ""
        assert f"page 0 of guest memory cannot be brought from its template {number}" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, f"{how == 'whole'}\nTrue\n"), done.stderr


LIAR = """
import ctypes, mmap, os, sys, threading
from vmm.native import lib
from vmm.saving.memory_file import open_ram

path, size = sys.argv[1], int(sys.argv[2])
memory = open_ram(size, [path], huge_pages="auto", shared=True, prefault=False, on_demand=True)
client = memory.admit(lib.fill_uffd(lib.fill_device()))
for address in (1, 4095, 1 << 47, (1 << 64) - 4096):
    try:
        memory.mapped_by(client, address)
        print("taken", address)
    except OSError:
        pass
own = mmap.mmap(-1, size)
address = ctypes.addressof(ctypes.c_char.from_buffer(own))
memory.mapped_by(client, address)
look = ctypes.CDLL(None).memchr
threading.Thread(target=lambda: look(ctypes.c_void_p(address), 1, 1), daemon=True).start()
with open(path, "rb") as file:
    print(memory.read(0, size) == file.read(size), flush=True)
memory.close()
os._exit(0)
"""


def test_who_lies_about_where_it_has_mapped_memory_harms_itself(template: Path) -> None:
    """Addresses that nothing is at are refused; at others it waits itself, and for everybody else memory comes."""
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        pytest.skip("no /dev/userfaultfd here")
    command = [sys.executable, "-c", LIAR, str(template), str(SIZE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
