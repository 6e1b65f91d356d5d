"""Builds the programs that run the Sentry's core, each once for each state of its sources.

An installation that is not editable has no sources: setup.py has built its programs.

What only a build needs is imported by it: most starts find the programs built.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pyvmm_sentry import installed

HERE = Path(__file__).resolve().parents[1]
CORE, HOST, PTRACE, TRAP, KVM, VDSO = (HERE / name for name in ("core", "host", "ptrace", "trap", "kvm", "vdso"))
LWIP = "net/lwip"
"""In the core: what lwIP needs of its system."""
BUILD = HERE.parents[1] / "build" / "sentry"
FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla")
ZEROED = "-ftrivial-auto-var-init=zero"
CORE_FLAGS = ("-ffreestanding", "-nostdinc", "-mgeneral-regs-only", "-fno-omit-frame-pointer", ZEROED)
"""With frame pointers, for ``debug --stacks`` and panics."""
HARDENED = ("-static", "-fstack-protector-strong")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
COVERED = ("-fcoverage-mapping", "-mllvm", "-runtime-counter-relocation", "-fprofile-update=atomic")
"""Of clang: counters in a file, which is mapped before the program gives up the right to open files."""
KERNEL_FLAGS = (
    *("-mcmodel=kernel", "-mno-red-zone", "-fno-pic", "-fno-pie", "-fcf-protection=none"),
    "-fno-asynchronous-unwind-tables",
    *("-fstack-protector-strong", "-mstack-protector-guard=global"),
)
CHECKED_S = 86400.0
"""How old the last build may be before the next start looks for another lwIP, as :mod:`pyvmm_sentry.source` does."""
VDSO_FLAGS = (
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-nostdinc", "-mgeneral-regs-only", "-fPIC"),
    *("-fno-stack-protector", "-fasynchronous-unwind-tables", "-fcf-protection=none"),
)
VDSO_LINK = (
    *("-shared", "-nostdlib", "-s", "-Wl,-soname=linux-vdso.so.1", "-Wl,--hash-style=both,--eh-frame-hdr,--build-id"),
    *("-Wl,-Bsymbolic,--no-undefined", "-Wl,-z,max-page-size=4096"),
)
KERNEL_LINK = ("-no-pie", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096")


class BuildError(Exception):
    """The program cannot be compiled.

    :ivar hint: what to do, or empty
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _made(name: str, inputs: Sequence[bytes], command: Sequence[str]) -> Path:
    """The file that a command of the C compiler makes, in which OUT stands for its path; *inputs*: what it reads."""
    import hashlib

    digest = hashlib.sha256(repr(command).encode())
    for content in inputs:
        digest.update(content)
    target = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "gcc").split()[0]
    made = f"{target}.{os.getpid()}"
    try:
        words = [compiler, *(made if word == "OUT" else word for word in command)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{compiler} failed\n{done.stderr}")
        with contextlib.suppress(FileExistsError):  # another process was first: who has opened its file keeps it
            os.link(made, target)
        os.unlink(made)
    except FileNotFoundError as error:
        raise BuildError(f"{compiler} is not installed: install gcc and the static C library") from error
    return target


class _Sources:
    """The Sentry's sources and headers, each read once."""

    def __init__(self, core: Path) -> None:
        self._folders = (core, core / LWIP, HOST, KVM)
        self._headers: dict[Path, list[Path]] = {}
        self._contents: dict[Path, bytes] = {}

    def _read(self, path: Path) -> None:
        import re

        content = path.read_bytes()
        found = []
        for name in re.findall(rb'^#include "(.*)"$', content, re.MULTILINE):
            places = (os.path.normpath(folder / os.fsdecode(name)) for folder in (path.parent, *self._folders))
            found += [Path(place) for place in places if os.path.isfile(place)][:1]
        self._headers[path] = found
        self._contents[path] = content

    def content(self, source: Path) -> list[bytes]:
        """That of a source and of the headers that it includes, each once."""
        found = {source: None}
        todo = [source]
        while todo:
            path = todo.pop()
            if path not in self._contents:
                self._read(path)
            new = [header for header in self._headers[path] if header not in found]
            found |= dict.fromkeys(new)
            todo += new
        return [self._contents[path] for path in found]


def _compiled(
    name: str, sources: Sequence[Path], inputs: Callable[[Path], list[bytes]], command: list[str]
) -> list[str]:
    """Compile each source by itself, unless that was done before; the paths of the objects."""
    from concurrent.futures import ThreadPoolExecutor

    def compile_one(source: Path) -> str:
        target = f"objects/{name or source.parent.name}-{source.stem}.o"
        return str(_made(target, inputs(source), [*command, "-c", "-o", "OUT", str(source)]))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(compile_one, sources))


def _objects(sources: Sequence[Path], options: Sequence[str], core: Path = CORE) -> list[str]:
    return _compiled("", sources, _Sources(core).content, [*options, f"-I{core}"])


def includes(core: Path = CORE) -> list[str]:
    """Options of the compiler for headers of lwIP, in sources of the core.

    :raises BuildError: lwIP's source is not available
    """
    from pyvmm_sentry import lwip
    from pyvmm_sentry.source import SourceError

    try:
        source = lwip.source()
    except SourceError as error:
        raise BuildError(str(error), error.hint) from error
    return [f"-I{core / LWIP}", "-isystem", str(source / "src" / "include")]


def vdso() -> Path:
    """The shared object that the core maps into each program.

    :raises BuildError: it cannot be compiled
    """
    script, source = VDSO / "vdso.lds", VDSO / "vdso.c"
    inputs = [script.read_bytes(), *_Sources(CORE).content(source)]
    command = [*VDSO_FLAGS, f"-I{CORE}", *VDSO_LINK, f"-Wl,-T,{script}", "-o", "OUT", str(source)]
    return _made("vdso.so", inputs, command)


@contextlib.contextmanager
def _alone(options: Sequence[str]) -> Iterator[None]:
    """No other process compiles with these options meanwhile: it would compile the same."""
    import fcntl
    import hashlib

    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / f"lock-{hashlib.sha256(repr(options).encode()).hexdigest()[:16]}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _core_objects(options: Sequence[str], core: Path = CORE) -> list[str]:
    """Compile the core, and what it contains of lwIP."""
    from pyvmm_sentry import lwip

    options = [*options, *includes(core)]
    headers = [core / LWIP / name for name in ("lwipopts.h", "hooks.h", "arch/cc.h", "string.h", "stdlib.h", "stdio.h")]
    ours = [header.read_bytes() for header in (*headers, core / "types.h")]
    with _alone(options):
        objects = _objects(_core_sources(core), options, core)
        objects += _objects([VDSO / "image.S"], [*options, f'-DIMAGE="{vdso()}"'], core)
        return objects + _compiled("lwip", lwip.files(), lambda source: [source.read_bytes(), *ours], [*options, "-w"])


def _core_sources(core: Path = CORE) -> list[Path]:
    """
    :raises BuildError: they are not beside this package
    """
    found = sorted(core.rglob("*.c"))
    if not found:
        raise BuildError(f"the core's sources are not in {core}: install the package with pip install --editable")
    return found


def hosted(
    name: str, sources: Sequence[Path], *, sanitized: bool = False, profile: str = "", core: Path = CORE
) -> Path:
    """Compile the core with a platform that is a process of the host; returns the program's path.

    :param sanitized: with the address and undefined behaviour sanitizers
    :param profile: where the program counts which lines run (a pattern of clang's, which must be the compiler: CC)
    :param core: another folder of the core's sources
    :raises BuildError: it cannot be compiled
    """
    options, freestanding = [*FLAGS, *(SANITIZED if sanitized else HARDENED)], list(CORE_FLAGS)
    if profile:
        options += [f"-fprofile-instr-generate={profile}", *COVERED]
        freestanding.remove(ZEROED)  # clang before 16 refuses it
    objects = _core_objects([*options, *freestanding], core)
    objects += _objects(sources, [*options, f"-I{HOST}"], core)
    script = HOST / "image.lds"
    return _made(name, [script.read_bytes()], [*options, "-Wl,--build-id", f"-Wl,-T,{script}", "-o", "OUT", *objects])


def with_host(platform: Path) -> list[Path]:
    """The sources of the platform in the folder *platform*, a process of the host, and those that all such have."""
    return [*sorted(HOST.glob("*.c")), *sorted(platform.glob("*.[cS]"))]


def _status() -> str:
    """The compiler's name, and the status of all files that a program is made from, but those of lwIP.

    To read the files takes 70 ms, and to import a digest another 10.
    """
    found = [os.environ.get("CC", "gcc")]
    folders = [str(folder) for folder in (CORE, HOST, PTRACE, TRAP, KVM, VDSO)] + [os.path.dirname(__file__)]
    while folders:
        folder = folders.pop()
        found.append(folder)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.name.endswith((".c", ".h", ".S", ".lds", ".py")):
                    status = entry.stat()
                    found.append(f"{entry.name} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
                elif "." not in entry.name and entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return "\n".join(found)


@contextlib.contextmanager
def _announced() -> Iterator[None]:
    """Tell whoever sits at a terminal why nothing happens, if it takes longer than two seconds."""
    import threading

    text = "compiling the Sentry, once for each version (some 10 s)"
    timer = threading.Timer(2.0, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _program(name: str, build: Callable[[], Path]) -> Path:
    """The program of an installation; or what *build* makes of the sources, which it reads when one has changed, and
    once a day, since there may be a newer lwIP.

    :raises BuildError: it cannot be compiled
    """
    if ready := installed.program(name):
        return Path(ready)
    known = BUILD / f"{name}.known"
    status = _status()
    with contextlib.suppress(OSError, ValueError):
        made, before = known.read_text().split("\n", 1)
        if before == status and (BUILD / made).exists() and time.time() - known.stat().st_mtime < CHECKED_S:
            return BUILD / made
    with _announced():
        path = build()
    new = known.with_name(f"{known.name}.{os.getpid()}")
    new.write_text(f"{path.name}\n{status}")
    os.replace(new, known)
    return path


def ptrace() -> Path:
    """The program of the ptrace platform.

    :raises BuildError: it cannot be compiled
    """
    return _program("pyvmm-sentry-ptrace", lambda: hosted("pyvmm-sentry-ptrace", with_host(PTRACE)))


def trap() -> Path:
    """The program of the trap platform.

    :raises BuildError: it cannot be compiled
    """
    return _program("pyvmm-sentry-trap", lambda: hosted("pyvmm-sentry-trap", with_host(TRAP)))


def kernel() -> Path:
    """The core as a guest kernel with a PVH entry: the kvm platform.

    :raises BuildError: it cannot be compiled
    """
    return _program("sentry.elf", _build_kernel)


def _build_kernel() -> Path:
    options = [*FLAGS, *CORE_FLAGS, *KERNEL_FLAGS]
    script = KVM / "kernel.lds"
    objects = [*_objects([KVM / "entry.S", *sorted(KVM.glob("*.c"))], options), *_core_objects(options)]
    command = [*KERNEL_LINK, "-nostdlib", f"-Wl,-T,{script}", "-o", "OUT", *objects]
    return _made("sentry.elf", [script.read_bytes()], command)


PROGRAMS = {"pyvmm-sentry-ptrace": ptrace, "pyvmm-sentry-trap": trap, "sentry.elf": kernel}
"""All of them, by the names that an installation gives them."""
