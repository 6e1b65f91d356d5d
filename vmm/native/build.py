"""Feeds the headers to cffi, and makes the programs ``pyvmm-fsd``, ``pyvmm-broker`` and ``pyvmm-warm``.

Sources are found by folder: the common ones here, those of a device in its package in ``vmm/virtio``. setuptools calls
this through ``setup.py``.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from collections.abc import Iterable

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
DEVICES = os.path.join(os.path.dirname(HERE), "virtio")
FASTSTART = os.path.join(os.path.dirname(HERE), "faststart")
"""The warm start has its own folder: its image is made by C of the extension, and used by a program without one."""


def find(*patterns: str, folder: str = HERE) -> list[str]:
    """The files of *folder* with such names, sorted; each pattern must match one."""
    found = [glob.glob(os.path.join(folder, pattern)) for pattern in patterns]
    if missing := [pattern for pattern, paths in zip(patterns, found, strict=True) if not paths]:
        raise SystemExit(f"{folder} has no {', '.join(missing)}")
    return sorted(path for paths in found for path in paths)


SERVER_ONLY = find("fsd/fsd.c", "fsd/fsd_isolate.c", "fsd/fsd_seccomp.c", "dax/dax_remote.c", folder=f"{DEVICES}/fs")
BROKER_ONLY = find("vsock/broker.c", folder=DEVICES)
SOURCES = [
    *find("*/*.c"),
    *(path for path in find("*/*.c", "*/*/*.c", folder=DEVICES) if path not in (*SERVER_ONLY, *BROKER_ONLY)),
    *find("native/warm_save.c", folder=FASTSTART),
]
INCLUDES = (HERE, DEVICES)
"""Where headers are looked for: a folder's name comes first, ``#include "blk/blk.h"``."""
HEADER = os.path.join(HERE, "vmm_native.h")
SURFACE = re.compile(r"^/\* ==== for Python ==== \*/\n(.*?)^/\* ==== end ==== \*/\n", re.M | re.S)
"""What cffi reads of the header of a device; the rest is for C alone."""
WARM = "pyvmm-warm"
"""What starts Python from an image of a started one."""
PROGRAM = "pyvmm-fsd"
"""The server of a share as a process of its own: the same code, without Python."""
PROGRAM_SOURCES = [
    *find("base/guest_access.c", "base/iov.c", "base/out.c", "base/fd_socket.c", "base/seccomp.c"),
    *find("ring/*.c", "dataplane/thread.c", "dataplane/worker.c"),
    *find("fs/*.c", folder=DEVICES),
    *SERVER_ONLY,
]
BROKER = "pyvmm-broker"
"""What a machine in a jail has outside."""
BROKER_SOURCES = [
    *find("base/guest_access.c", "base/iov.c", "base/fd_socket.c", "base/seccomp.c"),
    *find("ring/*.c", "dataplane/thread.c", "dataplane/worker.c", "calls/calls.c"),
    *BROKER_ONLY,
    *find("vsock/vsock_reach.c", folder=DEVICES),
]
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes", "-Wvla")
HARDENING = (
    "-O2",
    "-fstack-protector-strong",
    "-fstack-clash-protection",
    "-fcf-protection",
    "-fno-strict-overflow",
    "-U_FORTIFY_SOURCE",
    "-D_FORTIFY_SOURCE=2",
)


def surfaces() -> dict[str, str]:
    """The declarations of the C code for Python, by header, without comments: common ones first."""
    found = {}
    for path in (HEADER, *find("*/*.h"), *find("*/*.h", "*/*/*.h", folder=DEVICES)):
        with open(path, encoding="utf-8") as header:
            text = header.read()
        if path != HEADER:
            text = "".join(SURFACE.findall(text))
        if text:
            found[path] = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return found


SURFACES = surfaces()
ffibuilder = FFI()
ffibuilder.cdef("struct iovec { void *iov_base; size_t iov_len; };\n" + "".join(SURFACES.values()))
ffibuilder.set_source(
    "vmm.native._native",
    "".join(f'#include "{os.path.relpath(path, ROOT)}"\n' for path in SURFACES if path != HEADER),
    sources=[os.path.relpath(path, ROOT) for path in SOURCES],
    include_dirs=[".", *(os.path.relpath(path, ROOT) for path in INCLUDES)],
    libraries=["uring"],
    extra_compile_args=[
        "-std=gnu11",
        *HARDENING,
        # cffi's generated glue is not ours: it is compiled with the same flags except for what it trips over
        *(w for w in WARNINGS if w not in ("-Wshadow", "-Wstrict-prototypes")),
        "-Wno-unused-parameter",
        "-Wno-missing-field-initializers",
    ],
    extra_link_args=["-Wl,-z,relro,-z,now", "-Wl,--as-needed"],
)


def _build(target: str, sources: Iterable[str], *flags: str, quiet: bool = False) -> bool:
    """Compile a program, in one step, leaving nothing behind on failure."""
    # The compiler that sysconfig names may carry flags that are for extensions
    command = [
        os.environ.get("CC", "cc").split()[0], "-std=gnu11", *WARNINGS, "-fPIE", *flags,
        *(f"-I{path}" for path in INCLUDES), "-o", target + ".new", *sources,
        "-Wl,-z,relro,-z,now,-z,noexecstack", "-s",
    ]  # fmt: skip
    if subprocess.run(command, stderr=subprocess.DEVNULL if quiet else None).returncode:
        return False
    os.replace(target + ".new", target)
    return True


def build_programs(package: str = os.path.dirname(HERE)) -> None:
    """Build the programs, in folders of *package*, which is this one or an installation in progress.

    ``pyvmm-fsd`` and ``pyvmm-broker`` are static where the C library supports it: they start in a millisecond, need
    less memory and no files of the host. ``pyvmm-warm`` has no C library, and so no stack protector, which needs one.
    """
    for folder in ("native", "faststart"):
        os.makedirs(os.path.join(package, folder), exist_ok=True)
    for name, sources in ((PROGRAM, PROGRAM_SOURCES), (BROKER, BROKER_SOURCES)):
        target, hard = os.path.join(package, "native", name), (*HARDENING, "-pthread")
        static = _build(target, sources, *hard, "-static-pie", quiet=True)
        if not static and not _build(target, sources, *hard, "-pie"):
            raise SystemExit(f"{name} does not compile")
    bare = ("-O2", "-fcf-protection", "-ffreestanding", "-fno-stack-protector", "-nostdlib", "-static-pie")
    warm = os.path.join(package, "faststart", WARM)
    if not _build(warm, find("native/warm_main.c", folder=FASTSTART), *bare):
        raise SystemExit(f"{WARM} does not compile")


if __name__ == "__main__":
    ffibuilder.compile(tmpdir=ROOT, verbose="-v" in sys.argv)
    build_programs()
