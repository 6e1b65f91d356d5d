"""Compiles the guest's agent, a static C program, and generates the C code of its messages."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SOURCE = HERE / "agent"
PROTO = HERE.parent / "proto"
MESSAGES = ("agent", "oci", "types")
WELL_KNOWN = Path("/usr/include/google/protobuf/empty.proto")
NANOPB = Path("/usr/include/nanopb")
# As Debian compiles its library: messages with pointers are laid out by it.
DEFINES = ("-D_GNU_SOURCE", "-DPB_ENABLE_MALLOC=1")
FLAGS = ("-std=gnu11", "-Os", "-ffunction-sections", "-fdata-sections", "-Wall", "-Wextra", "-Werror")
LIBRARY = "-lprotobuf-nanopb"
TOOLS = {"gcc": "gcc", "strip": "binutils", "nanopb_generator": "nanopb"}
NEEDED = {WELL_KNOWN: "libprotobuf-dev", NANOPB / "pb.h": "libnanopb-dev"}


def sources() -> list[Path]:
    """The agent's C files."""
    return sorted(SOURCE.glob("*.c"))


def inputs() -> list[Path]:
    """Everything in this checkout from which the program is built."""
    protos = [PROTO / f"{name}.proto" for name in MESSAGES]
    return [*sources(), *sorted(SOURCE.glob("*.h")), SOURCE / "nanopb.options", *protos, Path(__file__)]


def generate(output: Path) -> list[Path]:
    """Write the messages' C code into the directory `output`; returns the C files. CalledProcessError if it fails."""
    output.mkdir(parents=True, exist_ok=True)
    include = [f"-I{PROTO}", f"-I{WELL_KNOWN.parents[2]}", "-x", "google/protobuf/empty.proto"]
    command = ["nanopb_generator", "-q", "-T", f"-D{output}", *include, "-f", str(SOURCE / "nanopb.options")]
    subprocess.run([*command, *(f"{name}.proto" for name in MESSAGES)], check=True, cwd=PROTO)
    return [output / f"{name}.pb.c" for name in MESSAGES]


def includes(generated: Path) -> list[str]:
    """The compiler's options that find all headers; others' code causes no warnings."""
    return [f"-I{SOURCE}", f"-isystem{generated}", f"-isystem{NANOPB}"]


def compile_agent(work: Path) -> Path:
    """The agent's program, made in the directory `work`. CalledProcessError if the compiler finds an error."""
    generated = work / "messages"
    files = [*generate(generated), *sources()]
    program = work / "agent"
    # The program's bytes must not name the directory it was made in.
    flags = [*FLAGS, f"-ffile-prefix-map={work}=.", "-static", "-Wl,--gc-sections"]
    command = [os.environ.get("CC", "gcc"), *flags, *DEFINES, *includes(generated)]
    subprocess.run([*command, "-o", str(program), *map(str, files), LIBRARY], check=True)
    subprocess.run(["strip", "--strip-all", str(program)], check=True)
    return program
