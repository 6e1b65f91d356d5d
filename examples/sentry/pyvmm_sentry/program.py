"""Builds the programs that run the Sentry's core, each once for each state of its sources."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
CORE, PTRACE, KVM = (HERE / name for name in ("core", "ptrace", "kvm"))
BUILD = HERE.parents[1] / "build" / "sentry"
FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wvla")
CORE_FLAGS = ("-ffreestanding", "-nostdinc", "-mgeneral-regs-only", "-ftrivial-auto-var-init=zero")
HARDENED = ("-static", "-fstack-protector-strong")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
KERNEL_FLAGS = (
    *("-mcmodel=kernel", "-mno-red-zone", "-fno-pic", "-fno-pie", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-fno-omit-frame-pointer"),
    *("-fstack-protector-strong", "-mstack-protector-guard=global"),
)
KERNEL_LINK = ("-no-pie", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096")


class BuildError(Exception):
    """The program cannot be compiled."""


def _made(name: str, sources: Sequence[Path], commands: Sequence[Sequence[str]]) -> Path:
    """The result of commands of the C compiler in which OUT is the program and OBJECT a file on the way to it."""
    digest = hashlib.sha256(repr(commands).encode())
    for path in sources:
        digest.update(path.read_bytes())
    target = BUILD / f"{name}-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "gcc").split()[0]
    names = {"OUT": f"{target}.{os.getpid()}", "OBJECT": f"{target}.{os.getpid()}.o"}
    try:
        for command in commands:
            words = [compiler, *(names.get(word, word) for word in command)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise BuildError(f"{compiler} failed\n{done.stderr}")
        os.replace(names["OUT"], target)
    except FileNotFoundError as error:
        raise BuildError(f"{compiler} is not installed: install gcc and the static C library") from error
    finally:
        Path(names["OBJECT"]).unlink(missing_ok=True)
    return target


def hosted(name: str, sources: Sequence[Path], *, sanitized: bool = False) -> Path:
    """Compile the core with a platform that is a process of the host; returns the program's path.

    :param sanitized: with the address and undefined behaviour sanitizers
    :raises BuildError: it cannot be compiled
    """
    core = sorted(CORE.rglob("*.c"))
    options = SANITIZED if sanitized else HARDENED
    to_object = [*FLAGS, *CORE_FLAGS, *options, f"-I{CORE}", "-r", "-nostdlib", "-o", "OBJECT", *map(str, core)]
    link = [*FLAGS, *options, f"-I{CORE}", f"-I{PTRACE}", "-o", "OUT", *map(str, sources), "OBJECT"]
    return _made(name, [*core, *sources, *sorted(CORE.rglob("*.h")), *sorted(PTRACE.glob("*.h"))], [to_object, link])


def ptrace() -> Path:
    """The program of the ptrace platform.

    :raises BuildError: it cannot be compiled
    """
    return hosted("pyvmm-sentry-ptrace", sorted(PTRACE.glob("*.c")))


def kernel() -> Path:
    """The core as a guest kernel with a PVH entry: the kvm platform.

    :raises BuildError: it cannot be compiled
    """
    sources = [KVM / "entry.S", *sorted(KVM.glob("*.c")), *sorted(CORE.rglob("*.c"))]
    script = KVM / "kernel.lds"
    options = [*FLAGS, *CORE_FLAGS, *KERNEL_FLAGS, *KERNEL_LINK, f"-I{CORE}", "-nostdlib", f"-Wl,-T,{script}"]
    command = [*options, "-o", "OUT", *map(str, sources)]
    return _made("sentry.elf", [*sources, script, *sorted(CORE.rglob("*.h")), *sorted(KVM.glob("*.h"))], [command])
