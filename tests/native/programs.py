"""Compiles the C test programs; what did not change is not compiled again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SRC = HERE / "src"
VMM = HERE.parents[1] / "vmm"
INCLUDES = tuple(f"-I{VMM / folder}" for folder in ("native", "virtio"))
BUILD = HERE.parents[1] / "build" / "tests-native"
# what there is to test: not the parts that only vcpu.c uses
PARTS = (
    *(f"native/{each}" for each in ("base/*.c", "ring/*.c", "dataplane/*.c", "ram/*.c", "calls/*.c", "uart/*.c")),
    *("native/vcpu/bus.c", "native/vcpu/pci.c"),
    *("virtio/*/*.c", "virtio/fs/dax/dax.c", "virtio/fs/dax/dax_cut.c", "virtio/fs/dax/dax_thread.c"),
)
FLAGS = ("-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-omit-frame-pointer")
SANITIZERS = {
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    # fences are modelled by what surrounds them: it can miss a race, it does not invent one here
    "tsan": ("-fsanitize=thread", "-Wno-tsan"),
    "fuzzer": ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
    "counted": ("-fsanitize=fuzzer", "-fprofile-instr-generate", "-fcoverage-mapping", "-DSANITIZED=1"),
    "counted-test": ("-fprofile-instr-generate", "-fcoverage-mapping", "-DSANITIZED=1"),
}
CLANG = ("fuzzer", "counted", "counted-test")


def compiler(sanitizer: str) -> str | None:
    """The C compiler for that kind of program, None when there is none: libFuzzer comes with clang only."""
    names = ("clang",) if sanitizer in CLANG else (os.environ.get("CC", "gcc"), "gcc", "clang")
    return next((path for name in names if (path := shutil.which(name))), None)


def needed_compiler(sanitizer: str) -> str:
    """The same; FileNotFoundError when there is none."""
    cc = compiler(sanitizer)
    if cc is None:
        raise FileNotFoundError(f"no compiler for {sanitizer} programs: install gcc, and clang for fuzzers")
    return cc


def objects(sanitizer: str, sources: Sequence[Path], name: str) -> Path:
    """The directory with an object file of each of *sources*, for the programs that share them: the *name*.

    :raises CalledProcessError: it does not compile
    """
    options = [*FLAGS, *SANITIZERS[sanitizer], *INCLUDES, f"-I{SRC}"]
    command = [needed_compiler(sanitizer), *options, "-c", *map(str, sources)]
    digest = hashlib.sha256(" ".join(command).encode())
    for path in [*sources, *sorted(SRC.glob("*.h")), *sorted(VMM.rglob("*.h"))]:
        digest.update(path.read_bytes())
    target = BUILD / f"{name}-{sanitizer}-{digest.hexdigest()[:16]}"
    if not target.exists():
        for old in BUILD.glob(f"{name}-{sanitizer}-*"):
            shutil.rmtree(old, ignore_errors=True)
        new = target.with_suffix(f".{os.getpid()}")
        new.mkdir()
        subprocess.run(command, check=True, cwd=new)
        new.rename(target)
    return target


def program(name: str, sanitizer: str, extra: Iterable[str] = ("driver.c", "disk.c")) -> Path:
    """The executable made of ``src/NAME.c``, ``src/NAME_*.c`` and the native code; CalledProcessError if it fails.

    One process at a time makes it: what is out of date is removed before.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _program(name, sanitizer, extra)


def _program(name: str, sanitizer: str, extra: Iterable[str]) -> Path:
    native = [path for part in PARTS for path in sorted(VMM.glob(part)) if "\nint main(" not in path.read_text()]
    shared = objects(sanitizer, [*(SRC / part for part in extra), *native], "parts")
    own = objects(sanitizer, [SRC / f"{name}.c", *sorted(SRC.glob(f"{name}_*.c"))], name)
    target = own / f"with-{shared.name}"
    if not target.exists():
        for old in own.glob("with-*"):
            old.unlink(missing_ok=True)
        new = target.with_suffix(f".{os.getpid()}")
        # calls that a program answers in place of the C library (test_faults.c)
        calls = re.findall(r"^(?:HOST\([^,]+, |int __wrap_)(\w+)", (SRC / f"{name}.c").read_text(), re.MULTILINE)
        wrapped = [f"-Wl,--wrap={call}" for call in dict.fromkeys(calls)]
        parts = [str(path) for folder in (own, shared) for path in sorted(folder.glob("*.o"))]
        command = [needed_compiler(sanitizer), *SANITIZERS[sanitizer], *parts, *wrapped, "-luring", "-lpthread"]
        subprocess.run([*command, "-o", str(new)], check=True)
        new.rename(target)
    return target


def names_of_tests(name: str) -> list[str]:
    """The tests in ``src/NAME.c``, in their order there."""
    text = (SRC / f"{name}.c").read_text(encoding="utf-8")
    return re.findall(r"\bT\((\w+)\)", text[text.index("static const struct test tests[]") :])


# -- the agent of the container runtime's guest ---------------------------------------------------------------------

AGENT_SRC = HERE.parent / "kata" / "src"
AGENT_BUILD = HERE.parents[1] / "build" / "tests-kata"
# Relative: each test has a directory of its own.
PLACES = (
    *('-DAGENT_DIR="agent"', '-DCGROUP_DIR="cgroup"', '-DCRUN="./crun"', '-DPROC_SYS="sysctl"'),
    '-DGENERATION_FILE="generation"',
)
PARSER = ("call.c", "json.c", "loop.c", "oci.c", "oci_linux.c", "oci_guest.c", "policy.c", "ttrpc.c", "util.c")


def _agent_program(name: str, sanitizer: str, parts: list[Path], places: tuple[str, ...] = PLACES) -> Path:
    from image import agent

    cc = needed_compiler(sanitizer)
    digest = hashlib.sha256(" ".join([cc, *FLAGS, *SANITIZERS[sanitizer], *places]).encode())
    for path in [AGENT_SRC / f"{name}.c", *agent.inputs()]:
        digest.update(path.read_bytes())
    folder = AGENT_BUILD / f"{name}-{sanitizer}-{digest.hexdigest()[:16]}"
    target = folder / name
    if not target.exists():
        messages = agent.generate(folder / "messages")
        sources = [AGENT_SRC / f"{name}.c", *parts, *messages]
        options = [*FLAGS, *SANITIZERS[sanitizer], *places, *agent.DEFINES, *agent.includes(folder / "messages")]
        command = [cc, *options, "-o", str(target.with_suffix(".new")), *map(str, sources), agent.LIBRARY]
        subprocess.run(command, check=True)
        target.with_suffix(".new").rename(target)
    return target


def agent_here(places: tuple[str, ...] = PLACES) -> Path:
    """The agent as a program of this machine's, under ASan and UBSan. CalledProcessError if it does not compile.

    :param places: definitions of where its files are; none: where they are in a guest
    """
    from image import agent

    return _agent_program("agent_here", "asan", [path for path in agent.sources() if path.name != "main.c"], places)


def fuzz_agent() -> Path:
    """The fuzzer of the agent's connection; the same."""
    from image import agent

    return _agent_program("fuzz_agent", "fuzzer", [agent.SOURCE / part for part in PARSER])
