"""Starts from an image of a started Python: as good as any other start, and not used where it might not be."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vmm
from tests import tiny
from tests.installed import SITE, wait_for_image
from tools.where import ROOT

PROGRAM = Path(ROOT) / "vmm/faststart/pyvmm-warm"

HEAD = """
import sys
sys.path[:0] = [{folder!r}, {root!r}, {site!r}]
if "pyvmm_warm" in sys._xoptions:
    {before}
    from vmm.faststart import warm
    warm.save(sys._xoptions["pyvmm_warm"], ["json", "os", "beside", "subprocess", "threading", "ctypes"])
import json, os, subprocess, threading
import beside
os.readlink("/proc/self/exe").endswith("pyvmm-warm") or sys.stderr.write("cold\\n")
"""
TELL = """
print(json.dumps(dict(
    argv=sys.argv[1:], orig=sys.orig_argv[3:], env=dict(os.environ), getenv=subprocess.getoutput("echo $FRUIT"),
    cwd=os.getcwd(), pid=os.getpid(), tid=threading.get_native_id(), stdin=sys.stdin.read(),
    value=beside.VALUE, encoding=sys.getfilesystemencoding(), threads=threading.active_count(),
)))
"""

MAP_AND_REPLACE = (
    "import ctypes, os; fd = os.open({library!r}, 0); "
    "ctypes.CDLL(None).mmap(None, ctypes.c_long(4096), 1, 2, fd, ctypes.c_long(0)); os.close(fd); "
    "os.path.exists({newer!r}) and os.rename({newer!r}, {library!r})"
)


class Starts:
    """A script of a user's, and starts of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.beside = folder / "beside.py"
        self.write(self.beside, "VALUE = 1\n")
        self.script = folder / "script"
        self.environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        self.program(TELL)

    def program(self, code: str, before: str = "pass") -> None:
        """What a start does; *before* is done before the image is made."""
        head = HEAD.format(folder=str(self.folder), root=str(ROOT), site=str(SITE), before=before)
        self.write(self.script, head + code)

    def write(self, path: Path, text: str, age: float = 60) -> None:
        """Write a file that seems to be *age* seconds old: what is quite new may have changed since it was read."""
        path.write_text(text)
        os.utime(path, (time.time() - age, time.time() - age))

    @property
    def command(self) -> list[str]:
        return [str(PROGRAM), sys.executable, str(self.script)]

    @property
    def images(self) -> list[Path]:
        return sorted(path for path in self.home.glob(".cache/pyvmm/warm-*") if path.suffix != ".lock")

    def settle(self) -> None:
        """Wait until nothing of a start is under way: what makes the next image in the background has ended."""
        wait_for_image(self.home / ".cache" / "pyvmm")
        deadline = time.monotonic() + 60
        while any(self._is_maker(pid) for pid in os.listdir("/proc") if pid.isdigit()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _is_maker(self, pid: str) -> bool:
        try:
            return os.fsencode(self.folder) in Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            return False

    @property
    def image(self) -> Path:
        (image,) = self.images
        return image

    def run(self, *arguments: str, wrap: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
        stdin = {} if "input" in options else {"stdin": subprocess.DEVNULL}
        settings: dict[str, Any] = {"env": self.environment, "timeout": 60, "text": True} | stdin | options
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*wrap, *self.command, *arguments], capture_output=True, **settings
        )
        self.settle()
        return done

    def is_warm(self, **options: Any) -> bool:
        """Start it: it does what it should; was it from the image?"""
        done = self.run("x", **options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["argv"] == ["x"]
        assert done.stderr in ("", "cold\n")
        return done.stderr == ""


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(tmp_path)


@pytest.fixture
def made(starts: Starts) -> Starts:
    """With an image, which the first start has had made."""
    assert not starts.is_warm()
    assert starts.image.stat().st_size > 0
    return starts


def same_image(starts: Starts) -> Callable[[], bool]:
    before = starts.image.stat()
    return lambda: (now := starts.image.stat()).st_ino == before.st_ino and now.st_mtime_ns == before.st_mtime_ns


def test_restores_and_containers_on_the_sentry_have_images_of_their_own(made: Starts) -> None:
    kinds = {"-": ("x",), "-restore-": ("restore",), "-sentry-": ("run", "--isolation=sentry")}
    for words in (*kinds.values(), ("--root", "x", "--isolation", "sentry", "run")):
        made.run(*words)
    names = [image.name.rpartition("-")[0] + "-" for image in made.images]
    assert names == sorted(f"warm-script{kind}" for kind in kinds)
    assert made.run("--isolation", "sentry").stderr == made.run("restore").stderr == ""
    assert made.run("--isolation", "vm").stderr == made.run("sentry", "--isolation").stderr == ""
    assert len(made.images) == len(kinds)


# -- what a process has of its own -----------------------------------------------------------------------------------


def test_a_start_has_its_own_arguments_environment_folder_and_input(made: Starts, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for fruit in ("apple", "pear"):
        environment = made.environment | {"FRUIT": fruit, "EMPTY": ""}
        done = made.run("a", "", "ü", cwd=other, env=environment, input=f"eat {fruit}")
        assert done.stderr == ""
        told = json.loads(done.stdout)
        assert told["argv"] == told["orig"] == ["a", "", "ü"]
        assert told["env"].items() >= environment.items() and told["getenv"] == fruit
        assert told["cwd"] == str(other) and told["stdin"] == f"eat {fruit}"
        assert told["pid"] == told["tid"] and told["threads"] == 1
    assert "FRUIT" not in json.loads(made.run().stdout)["env"]


def test_nothing_of_the_first_start_is_in_the_image(starts: Starts) -> None:
    secret = "kW3-of-one-user"
    done = starts.run(secret, env=starts.environment | {"TOKEN": secret}, input=secret)
    assert secret in done.stdout and done.stderr == "cold\n"
    assert secret.encode() not in starts.image.read_bytes()
    assert starts.image.stat().st_mode & 0o777 == 0o600


def test_exit_status_and_error_output_are_its_own(made: Starts) -> None:
    # The script stays the same file with the same times: what it does comes with the arguments
    made.program("exec(sys.argv[1])")
    made.run("pass")
    done = made.run("print('out'); sys.stderr.write('err'); sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err")
    done = made.run("raise ValueError('oh')")
    assert done.returncode == 1 and "ValueError: oh" in done.stderr and "cold" not in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "x = [bytearray(100) for _ in range(1_000_000)]",  # the heap grows
        "x = bytearray(300 << 20); x[-1] = 1",
        "t = [threading.Thread(target=lambda: beside.__dict__.update(a=1)) for _ in range(20)]\n"
        "[each.start() for each in t]; [each.join() for each in t]",
        "assert subprocess.check_output(['echo', 'hi']) == b'hi\\n'",
        "pid = os.fork()\nif not pid: os._exit(3)\nassert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3",
        "import time; a = time.monotonic(); time.sleep(0.01); assert a < time.monotonic() and time.time() > 1e9",
        "import ctypes; assert ctypes.CDLL(None).getpid() == os.getpid()",
        "import decimal, sqlite3, zlib, ssl; assert zlib.crc32(b'a') == 3904355907",  # libraries that are loaded now
        "import gc; gc.enable(); gc.collect()",
        "try: json.loads('[' * 100000)\nexcept RecursionError: pass\nelse: raise AssertionError",
        "import signal; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0)); os.kill(os.getpid(), 10); assert False",
        "import signal; assert signal.getsignal(2) is signal.default_int_handler",
        "import ctypes; assert ctypes.CDLL(None).sched_getcpu() in range(os.cpu_count())",
        "assert open('/proc/self/comm').read() == 'script\\n'",
        "assert b'script' in open('/proc/self/cmdline', 'rb').read().split(b'\\0')[0]",
        "assert 'FRUIT=fig' in open('/proc/self/environ').read().split('\\0')",
    ],
)
def test_everything_works_in_it(starts: Starts, code: str) -> None:
    starts.program("exec(sys.argv[1])")
    starts.run("pass")
    done = starts.run(code, env=starts.environment | {"FRUIT": "fig"})
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_interrupts_it(starts: Starts) -> None:
    # Python may have looked for signals for the last time just before it sleeps: no single long sleep
    starts.program("import time; print('here', flush=True); [time.sleep(0.1) for _ in range(600)]")
    for index in range(2):
        with subprocess.Popen(
            starts.command, env=starts.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None and child.stderr is not None
            assert child.stdout.readline() == "here\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == -signal.SIGINT
            errors = child.stderr.read()
            assert "KeyboardInterrupt" in errors and ("cold" in errors) == (index == 0)
        starts.settle()


def test_output_to_a_terminal_comes_line_by_line(made: Starts) -> None:
    made.program("import time; print('here'); time.sleep(60)")
    for index in range(2):
        master, slave = os.openpty()
        with subprocess.Popen(made.command, env=made.environment, stdout=slave, stderr=slave) as child:
            os.close(slave)
            shown = b""
            while b"here\r\n" not in shown:
                shown += os.read(master, 100)
            assert shown == (b"cold\r\nhere\r\n" if index == 0 else b"here\r\n")
            child.kill()
        os.close(master)
        made.settle()


# -- when it is not used ---------------------------------------------------------------------------------------------


def test_a_changed_module_counts_at_once(made: Starts) -> None:
    made.write(made.beside, "VALUE = 22\n")
    for output in ("cold\n", ""):
        done = made.run()
        assert done.stderr == output and json.loads(done.stdout)["value"] == 22


def test_no_image_has_a_module_that_just_changed(made: Starts) -> None:
    for value in (3, 44, 555):  # of different sizes: byte code is kept by size and whole seconds
        made.write(made.beside, f"VALUE = {value}\n", age=0)
        written = time.monotonic()
        for _ in range(2):
            done = made.run()
            assert json.loads(done.stdout)["value"] == value
            # After three seconds it has not just changed any more
            assert done.stderr == "cold\n" or time.monotonic() - written > 2
    made.write(made.beside, "VALUE = 9\n")
    for output in ("cold\n", ""):
        done = made.run()
        assert done.stderr == output and json.loads(done.stdout)["value"] == 9
    assert len(made.images) == 1


def test_a_changed_script_counts_at_once(made: Starts) -> None:
    made.program("print('other')")
    for output in ("cold\n", ""):
        done = made.run()
        assert (done.stdout, done.stderr) == ("other\n", output)


def test_another_locale_has_another_image(made: Starts) -> None:
    for value in ("C", "C.UTF-8", "C"):
        environment = made.environment | {"LC_ALL": value}
        for output in ("cold\n", ""):
            done = made.run(env=environment)
            assert done.stderr == output and json.loads(done.stdout)["env"]["LC_ALL"] == value
    bare = {"HOME": str(made.home), "PATH": made.environment["PATH"]}
    assert not made.is_warm(env=bare)
    assert made.is_warm(env=bare)


@pytest.mark.parametrize(
    "variable", ["LD_PRELOAD=", "LD_LIBRARY_PATH=/", "GLIBC_TUNABLES=", "MALLOC_ARENA_MAX=1", "PYVMM_WARM=0"]
)
def test_where_libraries_start_otherwise_no_image_is_used_or_made(starts: Starts, variable: str) -> None:
    name, _, value = variable.partition("=")
    assert not starts.is_warm(env=starts.environment | {name: value})
    assert starts.images == []
    assert not starts.is_warm() and starts.is_warm()
    unchanged = same_image(starts)
    assert not starts.is_warm(env=starts.environment | {name: value}) and unchanged()


def test_a_signal_that_the_parent_ignores_stays_ignored(made: Starts) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    made.program("import signal; print(signal.getsignal(2) == signal.SIG_IGN)")
    assert made.run().stdout == "False\n"
    done = made.run(preexec_fn=ignore)
    assert (done.stdout, done.stderr) == ("True\n", "cold\n")


@pytest.mark.parametrize(
    "damage", ["empty, old", "short", "noise", "cut", "of everybody", "a link", "a folder", "a fifo"]
)
def test_what_is_not_such_an_image_is_not_used(made: Starts, damage: str) -> None:
    image = made.image
    good = image.read_bytes()
    image.unlink()
    elsewhere = made.folder / "elsewhere"
    elsewhere.write_bytes(good)
    if damage == "a link":
        image.symlink_to(elsewhere)
    elif damage == "a folder":
        image.mkdir()
    elif damage == "a fifo":
        os.mkfifo(image, 0o600)
    else:
        contents = {"empty, old": b"", "short": good[:100], "noise": bytes(range(256)) * 1000, "cut": good[:-4096]}
        image.write_bytes(contents.get(damage, good))
        image.chmod(0o666 if damage == "of everybody" else 0o600)
        os.utime(image, (1e9, 1e9))
    assert not made.is_warm()
    assert elsewhere.read_bytes() == good
    assert made.is_warm() and len(made.images) == 1
    assert image.is_file() and not image.is_symlink() and image.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_an_image_of_somebody_else_is_not_used(made: Starts) -> None:
    os.chown(made.image, 12345, 12345)
    unchanged = same_image(made)
    assert not made.is_warm() and not unchanged() and made.image.stat().st_uid == 0
    assert made.is_warm()


@pytest.mark.parametrize("what", ["the boot", "the day"])
def test_an_image_of_another_boot_or_day_is_made_anew(made: Starts, what: str) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    data = bytearray(made.image.read_bytes())
    at = data.index(boot)
    if what == "the boot":
        data[at] ^= 1
    else:
        made_at = int.from_bytes(data[at - 8 : at], "little")
        assert abs(made_at - time.time()) < 3600
        data[at - 8 : at] = (made_at - 25 * 3600).to_bytes(8, "little")
    made.image.write_bytes(data)
    unchanged = same_image(made)
    assert not made.is_warm() and not unchanged()
    assert made.is_warm()


def test_where_addresses_are_taken_it_starts_as_usual(starts: Starts) -> None:
    # Without randomization this program lies where the image has its libraries
    wrap = ("setarch", "-R")
    for _ in range(2):
        done = starts.run("x", wrap=wrap)
        assert done.returncode == 0 and json.loads(done.stdout)["argv"] == ["x"]
    assert starts.is_warm()


def test_limits_of_the_stack_and_of_memory_are_kept(made: Starts) -> None:
    for kind, limit in ((resource.RLIMIT_STACK, 256 << 10), (resource.RLIMIT_STACK, resource.RLIM_INFINITY)):

        def lower(kind: int = kind, limit: int = limit) -> None:
            resource.setrlimit(kind, (limit, limit))

        assert made.is_warm(preexec_fn=lower)
    done = made.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20)))
    assert done.returncode != 0
    made.is_warm()
    assert made.is_warm()


def test_images_that_nobody_uses_any_more_are_removed(starts: Starts) -> None:
    folder = starts.home / ".cache/pyvmm"
    folder.mkdir(parents=True)
    for name in ("warm-other-0123", "warm-script-0123.999", "kernels", "warm-recent-0123"):
        (folder / name).write_text("")
        os.utime(folder / name, None if "recent" in name else (1e9, 1e9))
    assert not starts.is_warm() and starts.is_warm()
    assert [path.name for path in starts.images] == ["warm-recent-0123", max(starts.images).name]
    assert (folder / "kernels").exists()


# -- when it cannot be made ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", "relative", "/proc/nowhere", "/dev/null", "/nonexistent/folder"])
def test_without_a_place_for_it_nothing_is_made(starts: Starts, home: str) -> None:
    for _ in range(2):
        assert not starts.is_warm(env=starts.environment | {"HOME": home, "XDG_CACHE_HOME": "relative"}, cwd="/proc")
    assert starts.images == [] and not Path("/nonexistent").exists()


@pytest.mark.parametrize(
    "before",
    [
        "file = open('/dev/null')",
        "import threading; threading.Thread(target=lambda: __import__('time').sleep(5), daemon=True).start()",
        "import signal; signal.pthread_sigmask(0, [10])",
        "import mmap; shared = mmap.mmap(-1, 4096)",
        "import random",
    ],
)
def test_a_process_that_is_more_than_memory_makes_none_and_is_not_asked_again(starts: Starts, before: str) -> None:
    starts.program(TELL, before)
    assert not starts.is_warm()
    assert starts.image.suffix == ".none" and starts.image.stat().st_size == 0
    unchanged = same_image(starts)
    assert not starts.is_warm() and unchanged()


def test_a_library_that_was_just_replaced_delays_the_image_by_one_start(starts: Starts) -> None:
    """The process that would be saved has mapped a file that is gone, as after an upgrade beside it."""
    library = starts.folder / "library"
    starts.write(library, "older")
    starts.write(starts.folder / "newer", "newer")
    starts.program(TELL, MAP_AND_REPLACE.format(library=str(library), newer=str(starts.folder / "newer")))
    assert not starts.is_warm() and starts.images == []
    assert not starts.is_warm() and starts.image.stat().st_size > 0
    assert starts.is_warm()


def test_a_start_that_fails_while_it_is_made_fails_as_usual(starts: Starts) -> None:
    starts.write(starts.beside, "raise ValueError('broken')\n")
    for _ in range(2):
        done = starts.run()
        assert done.returncode == 1 and "broken" in done.stderr and done.stdout == ""
    assert starts.images == []


def test_many_first_starts_at_once_leave_one_image(starts: Starts) -> None:
    children = [
        subprocess.Popen(
            starts.command, env=starts.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for child in children:
        output, _ = child.communicate(timeout=120)
        assert child.returncode == 0 and json.loads(output)["value"] == 1
    starts.settle()
    assert len(starts.images) == 1 and starts.is_warm()


OWN = """
def in_image():
    kilobytes, ours = {}, False
    for line in open("/proc/self/smaps"):
        name, _, value = line.partition(":")
        if line[0] in "0123456789abcdef":
            ours = "warm-" in line
        elif ours and value.endswith(" kB\\n"):
            kilobytes[name] = kilobytes.get(name, 0) + int(value.split()[0])
    return kilobytes
"""
HOLD = (
    OWN
    + """
import gc
held = []
for module in list(sys.modules.values()):
    for value in list(vars(module).values()):
        held += [value, *(vars(value).values() if isinstance(value, type) else ())]
held = [[each for each in held] for _ in range(3)]
kilobytes = in_image()
print(len(held[0]), kilobytes["Rss"], kilobytes["Anonymous"])
"""
)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python counts all references")
def test_a_process_that_uses_what_is_in_the_image_has_no_pages_of_its_own_for_that(starts: Starts) -> None:
    starts.program(HOLD)
    starts.run()
    done = starts.run()
    assert done.stderr == ""
    objects, there, own = map(int, done.stdout.split())
    assert objects > 3_000
    assert own < there / 3


HOLES = "kept = [bytes(n % 1500) for n in range(40_000)]; del kept[::2]"
FILL = (
    OWN
    + """
before = in_image()["Anonymous"]
new = [bytes(n % 1500) for n in range(4_000)]
print(in_image()["Anonymous"] - before)
"""
)


def test_what_a_process_makes_does_not_lie_between_what_the_image_has(starts: Starts) -> None:
    """Each page of the image in which an object is made is the process's own from then on."""
    starts.program(FILL, before=HOLES)
    starts.run()
    done = starts.run()
    assert done.stderr == ""
    assert int(done.stdout) < 1_000


FUNCTIONS = """
import time
VALUE = 1
class Base:
    field = 5
    def method(self, number):
        self.number = number
        return sum(self.steps(number)) + self.field
    def steps(self, number):
        yield number
        inner = lambda extra: extra + number + VALUE
        for each in range(3):
            yield inner(each)
def waits(number):
    found = 0
    for each in range(100):
        time.sleep(0.001)
        found += Base().method(number + each)
    return found
def calls():
    return [globals()[f"f{number}"](number) for number in range(3000)]
""" + "".join(
    f"""
def f{number}(value, more=[{number}]):
    try:
        text = f"{{value}} {number}" + "".join(str(each) for each in more)
        return len(text), value / (value % 3), Base().method(value)
    except ZeroDivisionError as error:
        return str(error), {{name: number for name, number in zip("abc", range({number}, {number} + 3))}}
"""
    for number in range(3000)
)
SETTLE = """
from vmm.faststart.warm import forget_code
def own():
    pages = {id(vars(beside)[f"f{number}"].__code__) >> 12 for number in range(3000)}
    with open("/proc/self/pagemap", "rb", 0) as table:  # bit 61: a page of a file
        entries = [os.pread(table.fileno(), 8, 8 * page) for page in pages]
    return sum(entry[7] >> 7 and not entry[7] >> 5 & 1 for entry in entries)
steps = beside.Base().steps(7)
found = [next(steps)]
first = beside.calls()
for _ in range(20):
    assert beside.calls() == first
results = []
threads = [threading.Thread(target=lambda: results.append(beside.waits(3))) for _ in range(4)]
for each in threads:
    each.start()
before = own()
if sys.argv[1:] == ["traced"]:
    sys.settrace(lambda *_: None)
forget_code()
sys.settrace(None)
settled = own()
for _ in range(20):
    forget_code()
    assert beside.calls() == first
found += steps
for each in threads:
    each.join()
assert found == [7, 8, 9, 10] and results == [beside.waits(3)] * 4
print(before, settled)
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python counts all references")
@pytest.mark.parametrize("how", ["", "traced"])
def test_code_that_a_process_has_run_is_the_images_again_when_it_has_settled(starts: Starts, how: str) -> None:
    """Whatever runs meanwhile; a debugger's changes stay."""
    starts.write(starts.beside, FUNCTIONS)
    starts.program(SETTLE)
    starts.run(how)  # which keeps the module's byte code
    starts.run(how)
    done = starts.run(how)
    assert done.stderr == ""
    before, settled = map(int, done.stdout.split())
    assert before > 500, "pages"
    assert settled == before if how else settled < 10  # those of what the threads run


DATA = "ROWS = [[str(row), [row]] for row in range(60000)]\nVALUE = 1\n"
TRIM = """
from vmm.processes.trim_memory import warm_settle
def mapped():
    found = 0
    for line in open("/proc/self/smaps"):
        words = line.split()
        if not words[0].endswith(":"):
            image = "/warm-" in line and "(deleted)" in line
        elif image and words[0] in ("Rss:", "Anonymous:"):
            found += int(words[1]) * (1 if words[0] == "Rss:" else -1)
    return found
def is_right(extra):
    return all(row[0] == str(at) and row[1] == [at] + [at] * extra for at, row in enumerate(beside.ROWS))
assert is_right(0)
before = mapped()
ended, counts = threading.Event(), [0] * 4
def change(number):
    while not ended.is_set():
        for row in beside.ROWS[number::len(counts) * 600]:
            row[1].append(row[1][0])
            row[1].pop()
            counts[number] += 1
        time.sleep(0.0001)
threads = [threading.Thread(target=change, args=(number,)) for number in range(len(counts))]
for each in threads:
    each.start()
for _ in range(50):
    warm_settle()
    assert is_right(0)
for row in beside.ROWS[::7]:
    row[1].append(row[1][0])
warm_settle()
ended.set()
for each in threads:
    each.join()
assert all(row[1] == [at] * (1 + (at % 7 == 0)) for at, row in enumerate(beside.ROWS)) and all(counts)
child = os.fork()
if not child:
    for row in beside.ROWS[1::7]:
        row[1].append(row[1][0])
    warm_settle()
    os._exit(not all(row[1] == [at] * (1 + (at % 7 < 2)) for at, row in enumerate(beside.ROWS)))
assert os.waitpid(child, 0)[1] == 0
for _ in range(2):
    warm_settle()
print(before, mapped())
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python counts all references")
def test_the_image_is_unmapped_where_a_process_that_waits_has_not_changed_it(starts: Starts) -> None:
    """Nothing is lost, whatever other threads change meanwhile, and in a fork."""
    starts.write(starts.beside, DATA)
    starts.program("import time\n" + TRIM)
    starts.run()
    done = starts.run()
    assert done.stderr == "", "from an image"
    before, idle = map(int, done.stdout.split())
    assert before > 10000 and idle < before // 3, "KiB"


# -- one image serves one start --------------------------------------------------------------------------------------

SECRETS = """
import ctypes
libc = ctypes.CDLL(None)
def draw():
    buffer = ctypes.create_string_buffer(16)
    assert libc.getrandom(buffer, 16, 0) == 16
    libc.arc4random.restype = ctypes.c_uint32
    return [buffer.raw.hex(), libc.arc4random(), os.urandom(8).hex()]
def tell():
    # arch_prctl(ARCH_GET_FS); glibc has the stack's canary 40 bytes behind what %fs points to (x86-64 ABI)
    base = ctypes.c_uint64()
    assert libc.syscall(158, 0x1003, ctypes.byref(base)) == 0
    canary = ctypes.string_at(base.value + 0x28, 8).hex()
    own = [line.split()[0] for line in open("/proc/self/maps") if "libc" in line or "heap" in line]
    return dict(random=draw(), seed=hash("a"), canary=canary, addresses=own)
first = tell()
child = os.fork()
if not child:
    print(json.dumps(draw()), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps(draw()))
print(json.dumps(first))
"""


def test_no_two_processes_have_the_same_secrets(starts: Starts) -> None:
    """Random bytes of each kind, also of a forked child, the seed of hashes, the stack's canary, and addresses."""
    starts.program(SECRETS)
    starts.run()
    random, seeds, canaries, places = [], [], [], []
    for _ in range(3):
        done = starts.run()
        assert done.stderr == ""
        child, parent, told = map(json.loads, done.stdout.splitlines())
        random += [each for drawn in (child, parent, told["random"]) for each in drawn]
        seeds.append(told["seed"])
        canaries.append(told["canary"])
        places.append(told["addresses"])
    assert len(set(random)) == len(random) == 27
    assert len(set(seeds)) == 3
    assert len(set(canaries)) == 3 and "0" * 16 not in canaries
    assert not set(places[0]) & set(places[1]) and not set(places[1]) & set(places[2])


def test_starts_at_once_share_no_image(made: Starts) -> None:
    """Those that find none are ordinary starts."""
    made.program("print(hash('a'), *(line.split()[0] for line in open('/proc/self/maps') if 'libc' in line))")
    made.run()
    children = [
        subprocess.Popen(
            made.command, env=made.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0] * 6
    assert any(errors == "" for _, errors in outputs)
    words = [word for shown, _ in outputs for word in shown.split()]
    assert len(words) == len(set(words)) >= 12
    made.settle()


def test_what_makes_the_next_image_keeps_nothing_of_the_start(starts: Starts) -> None:
    """Whoever waits for the end of a pipe that a start has inherited does not wait for the image."""
    ours, its = os.pipe()
    done = subprocess.run(
        starts.command, env=starts.environment, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=(its,)
    )
    os.close(its)
    began = any(starts._is_maker(pid) for pid in os.listdir("/proc") if pid.isdigit())
    assert os.read(ours, 1) == b"" and done.returncode == 0
    os.close(ours)
    assert began or starts.images
    starts.settle()


def test_what_makes_the_next_image_takes_no_cpu_from_others(starts: Starts) -> None:
    """It is idle, and so is its session, where the scheduler groups processes by sessions; but not for ever, since on
    some hosts the CPUs never are."""
    gate = starts.folder / "gate"
    os.mkfifo(gate)
    starts.program(TELL, before=f"open({str(gate)!r}).read()")
    with subprocess.Popen(starts.command, env=starts.environment, stdin=subprocess.PIPE) as child:
        with gate.open("w"):  # the maker reads it to its end
            found = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and starts._is_maker(pid)]
            (maker,) = {pid for pid in found if os.getsid(pid) == pid} - {child.pid}
            assert maker != os.getsid(child.pid)
            (watcher,) = Path(f"/proc/{maker}/task/{maker}/children").read_text().split()
            deadline = time.monotonic() + 60
            while b"-promote" not in Path(f"/proc/{watcher}/cmdline").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert os.listdir(f"/proc/{watcher}/fd") == [] and os.readlink(f"/proc/{watcher}/cwd") == "/"
            assert Path(f"/proc/{watcher}/environ").read_bytes() == b"", "nothing of the start"
            assert os.sched_getscheduler(maker) == os.SCHED_IDLE
            group = Path(f"/proc/{maker}/autogroup")
            assert not group.exists() or group.read_text().endswith(" nice 19\n")
            deadline = time.monotonic() + 60
            while os.sched_getscheduler(maker) == os.SCHED_IDLE:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert os.getpriority(os.PRIO_PROCESS, maker) == 0
            while group.exists() and not group.read_text().endswith(" nice 0\n"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    assert child.returncode == 0
    starts.settle()


# -- the file that a start's modules come from: it is used, and never believed over the sources ----------------------


class Copy:
    """A copy of the package, and starts from it."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "vmm"
        shutil.copytree(Path(vmm.__file__).parent, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.kernel = tiny.make(folder, tiny.say("hello\n"), tiny.POWEROFF)
        self.folder = folder

    @property
    def kept(self) -> Path:
        return self.package / "faststart" / "__pycache__" / f"bundle.{sys.implementation.cache_tag}.bin"

    def boot(self, before: str = "") -> tuple[str, list[str]]:
        """Boot with it: the output, and the modules that came from the file."""
        code = (
            f"import sys; sys.path[:0] = [{str(self.folder)!r}]; sys.path.append({str(SITE)!r})\n{before}\n"
            "from vmm.faststart import bundle; bundle.install()\n"
            "from vmm.cli.main import main\n"
            f"status = main(['boot', '--kernel', {self.kernel!r}])\n"
            "loader = lambda module: getattr(module, '__loader__', None)\n"
            "sys.stderr.write(' '.join(n for n, m in sys.modules.items() if loader(m) is bundle._Finder))\n"
            "sys.exit(status)"
        )
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        run = subprocess.run(
            [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment
        )
        assert run.returncode == 0, run.stderr
        return run.stdout, run.stderr.split()


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_the_second_start_takes_its_modules_from_the_file(copy: Copy) -> None:
    assert copy.boot() == ("hello\n", [])
    output, modules = copy.boot()
    assert output == "hello\n"
    assert {"vmm.cli.boot", "vmm.machine.machine", "vmm.kvm.vm"} <= set(modules)


def test_a_changed_source_counts_at_once_and_is_kept_anew(copy: Copy) -> None:
    copy.boot()
    source = copy.package / "machine" / "machine.py"
    source.write_text(source.read_text() + "\nprint('changed', flush=True)\n")
    output, modules = copy.boot()
    assert output == "changed\nhello\n"
    assert "vmm.machine.machine" not in modules and "vmm.memory" in modules
    output, modules = copy.boot()
    assert output == "changed\nhello\n"
    assert "vmm.machine.machine" in modules


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_file_that_is_none_is_made_anew(copy: Copy, damage: bytes | None) -> None:
    copy.boot()
    good = copy.kept.read_bytes()
    copy.kept.write_bytes(good[:5000] if damage is None else damage)
    assert copy.boot() == ("hello\n", [])
    assert copy.boot()[1]


def test_nothing_is_written_where_byte_code_is_not(copy: Copy) -> None:
    copy.boot("sys.dont_write_bytecode = True")
    assert not copy.kept.exists()
    # Python makes a missing /elsewhere in the working directory
    elsewhere = copy.folder / "elsewhere" / "bytes"
    assert copy.boot(f"sys.pycache_prefix = {str(elsewhere)!r}") == ("hello\n", [])
    assert elsewhere.exists() and not copy.kept.exists()
