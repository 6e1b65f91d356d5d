"""Feeds the headers to cffi, and makes the programs ``pyvmm-fsd`` and ``pyvmm-warm``.

setuptools calls it through ``setup.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SOURCES = (
    *("mem.c", "irq.c", "bus.c", "pci.c", "vcpu.c", "uart.c", "uart_out.c", "uart_host.c"),
    *("iov.c", "ring.c", "ring_split.c", "ring_packed.c", "ring_packed_log.c", "ring_adopt.c", "worker.c"),
    *("blk.c", "blk_queue.c", "blk_req.c", "blk_sync.c", "blk_uring.c"),
    *("fs.c", "fs_op.c", "fs_init.c", "fs_inode.c", "fs_use.c", "fs_node.c", "fs_named.c", "fs_same.c", "fs_path.c"),
    *("fs_handle.c", "fs_cred.c", "fs_attr.c", "fs_make.c", "fs_open.c", "fs_file.c"),
    *("fs_dir.c", "fs_xattr.c", "fs_lock.c", "fs_dax.c"),
    *("vsock.c", "vsock_conn.c", "vsock_pkt.c", "vsock_rx.c", "vsock_stash.c", "vsock_host.c", "vsock_out.c"),
    *("dax.c", "dax_cut.c", "dax_thread.c", "fsd_spawn.c", "fsd_wire.c"),
    *("limit.c", "net.c", "net_tx.c", "net_rx.c", "net_stream.c"),
    *("out.c", "balloon.c", "console.c", "console_host.c", "pmem.c"),
    *("warm_save.c", "warm_memory.c"),
)
HEADERS = ("vmm_native.h", "vmm_devices.h")
WARM = "pyvmm-warm"
"""What starts Python from an image of a started one."""
PROGRAM = "pyvmm-fsd"
"""The server of a share as a process of its own: the same code, without Python."""
PROGRAM_SOURCES = (
    *("mem.c", "irq.c", "iov.c", "ring.c", "ring_split.c", "ring_packed.c", "ring_packed_log.c"),
    *("ring_adopt.c", "worker.c"),
    *(name for name in SOURCES if name == "fs.c" or name.startswith("fs_")),
    *("fsd.c", "fsd_wire.c", "fsd_isolate.c", "fsd_seccomp.c", "dax_remote.c"),
)
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


def cdef() -> str:
    """The headers as cffi's parser takes them."""
    text = ""
    for name in HEADERS:
        with open(os.path.join(HERE, name), encoding="utf-8") as header:
            text += header.read()
    return "struct iovec { void *iov_base; size_t iov_len; };\n" + re.sub(r"/\*.*?\*/", "", text, flags=re.S)


ffibuilder = FFI()
ffibuilder.cdef(cdef())
ffibuilder.set_source(
    "vmm.native._native",
    '#include "native.h"\n',
    sources=[os.path.relpath(os.path.join(HERE, name), ROOT) for name in SOURCES],
    include_dirs=[os.path.relpath(HERE, ROOT)],
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
    """Compile a program, in one step and without a trace when it fails."""
    # The compiler that sysconfig names may carry flags that are for extensions
    command = [
        os.environ.get("CC", "cc").split()[0], "-std=gnu11", *WARNINGS, "-fPIE", f"-I{HERE}", *flags,
        "-o", target + ".new", *(os.path.join(HERE, name) for name in sources),
        "-Wl,-z,relro,-z,now,-z,noexecstack", "-s",
    ]  # fmt: skip
    if subprocess.run(command, stderr=subprocess.DEVNULL if quiet else None).returncode:
        return False
    os.replace(target + ".new", target)
    return True


def build_programs(folder: str = HERE) -> None:
    """Make the programs in *folder*.

    ``pyvmm-fsd`` is static where the C library can be had so: it starts in a millisecond, needs less memory and nothing
    of the host's files.  ``pyvmm-warm`` has no C library, which the stack protector would need.
    """
    os.makedirs(folder, exist_ok=True)
    server, hard = os.path.join(folder, PROGRAM), (*HARDENING, "-pthread")
    static = _build(server, PROGRAM_SOURCES, *hard, "-static-pie", quiet=True)
    if not static and not _build(server, PROGRAM_SOURCES, *hard, "-pie"):
        raise SystemExit(f"{PROGRAM} does not compile")
    bare = ("-O2", "-fcf-protection", "-ffreestanding", "-fno-stack-protector", "-nostdlib", "-static-pie")
    if not _build(os.path.join(folder, WARM), ("warm_main.c",), *bare):
        raise SystemExit(f"{WARM} does not compile")


if __name__ == "__main__":
    ffibuilder.compile(tmpdir=ROOT, verbose="-v" in sys.argv)
    build_programs()
