"""Compiles the agent of the container runtime's guest for this machine, with sanitizers."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from image import agent
from tests.native.programs import FLAGS, SANITIZERS, needed_compiler

HERE = Path(__file__).resolve().parent
SRC = HERE / "src"
BUILD = HERE.parents[1] / "build" / "tests-kata"
# Relative: each test has a directory of its own.
PLACES = ('-DAGENT_DIR="agent"', '-DCGROUP_DIR="cgroup"', '-DCRUN="./crun"', '-DPROC_SYS="sysctl"')
PARSER = ("call.c", "json.c", "loop.c", "oci.c", "oci_linux.c", "oci_guest.c", "policy.c", "ttrpc.c", "util.c")


def _program(name: str, sanitizer: str, parts: list[Path], places: tuple[str, ...] = PLACES) -> Path:
    cc = needed_compiler(sanitizer)
    digest = hashlib.sha256(" ".join([cc, *FLAGS, *SANITIZERS[sanitizer], *places]).encode())
    for path in [SRC / f"{name}.c", *agent.inputs()]:
        digest.update(path.read_bytes())
    folder = BUILD / f"{name}-{sanitizer}-{digest.hexdigest()[:16]}"
    target = folder / name
    if not target.exists():
        messages = agent.generate(folder / "messages")
        sources = [SRC / f"{name}.c", *parts, *messages]
        options = [*FLAGS, *SANITIZERS[sanitizer], *places, *agent.DEFINES, *agent.includes(folder / "messages")]
        command = [cc, *options, "-o", str(target.with_suffix(".new")), *map(str, sources), agent.LIBRARY]
        subprocess.run(command, check=True)
        target.with_suffix(".new").rename(target)
    return target


def agent_here(places: tuple[str, ...] = PLACES) -> Path:
    """The agent as a program of this machine's, under ASan and UBSan. CalledProcessError if it does not compile.

    :param places: definitions of where its files are; none: where they are in a guest
    """
    return _program("agent_here", "asan", [path for path in agent.sources() if path.name != "main.c"], places)


def fuzz_agent() -> Path:
    """The fuzzer of the agent's connection; the same."""
    return _program("fuzz_agent", "fuzzer", [agent.SOURCE / part for part in PARSER])
