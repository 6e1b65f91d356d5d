"""Builds the program that runs the Sentry's core on a platform; once for each state of its sources."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
CORE, PTRACE = HERE / "core", HERE / "ptrace"
BUILD = HERE.parents[1] / "build" / "sentry"
FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla")
CORE_FLAGS = ("-ffreestanding", "-nostdinc", "-mgeneral-regs-only", "-ftrivial-auto-var-init=zero")
HARDENED = ("-fstack-protector-strong",)
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


class BuildError(Exception):
    """The program cannot be compiled."""


def build(name: str, sources: list[Path], *, sanitized: bool = False) -> Path:
    """Compile the core with *sources*, unless that is done already; returns the program's path.

    :param sanitized: with the address and undefined behaviour sanitizers; otherwise static
    :raises BuildError: it cannot be compiled
    """
    core = sorted(CORE.glob("*.c"))
    digest = hashlib.sha256(repr((FLAGS, CORE_FLAGS, HARDENED, SANITIZED, sanitized)).encode())
    for path in sorted([*core, *sources, *CORE.glob("*.h"), *PTRACE.glob("*.h")]):
        digest.update(path.read_bytes())
    target = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if not target.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        _compile(target, core, sources, SANITIZED if sanitized else (*HARDENED, "-static"))
    return target


def _compile(target: Path, core: list[Path], sources: list[Path], options: tuple[str, ...]) -> None:
    compiler = os.environ.get("CC", "gcc").split()[0]
    ours = f"{target}.{os.getpid()}"
    objects = f"{ours}.o"
    compile_core = [compiler, *FLAGS, *CORE_FLAGS, *options, "-r", "-nostdlib", "-o", objects, *map(str, core)]
    link = [compiler, *FLAGS, *options, f"-I{CORE}", f"-I{PTRACE}", "-o", ours, *map(str, sources), objects]
    try:
        for command in (compile_core, link):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise BuildError(f"{compiler} failed\n{done.stderr}")
        os.replace(ours, target)
    except FileNotFoundError as error:
        raise BuildError(f"{compiler} is not installed: install gcc and the static C library") from error
    finally:
        if os.path.exists(objects):
            os.unlink(objects)


def ptrace() -> Path:
    """The program of the ptrace platform.

    :raises BuildError: it cannot be compiled
    """
    return build("pyvmm-sentry-ptrace", sorted(PTRACE.glob("*.c")))
