"""Feeds ``vmm_native.h`` to cffi.  setuptools calls it through ``cffi_modules``."""

from __future__ import annotations

import os
import re
import sys

from cffi import FFI

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SOURCES = (
    *("mem.c", "irq.c", "bus.c", "vcpu.c", "uart.c", "uart_out.c", "uart_host.c"),
    *("iov.c", "ring.c", "worker.c", "blk.c", "blk_req.c", "blk_sync.c", "blk_uring.c"),
    *("fs.c", "fs_op.c", "fs_init.c", "fs_inode.c", "fs_node.c", "fs_named.c", "fs_path.c", "fs_handle.c", "fs_cred.c"),
    *("fs_attr.c", "fs_make.c", "fs_open.c", "fs_file.c", "fs_dir.c", "fs_xattr.c", "fs_lock.c"),
    *("vsock.c", "vsock_conn.c", "vsock_pkt.c", "vsock_rx.c", "vsock_host.c"),
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
    """The header as cffi's parser takes it."""
    with open(os.path.join(HERE, "vmm_native.h"), encoding="utf-8") as header:
        text = header.read()
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

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=ROOT, verbose="-v" in sys.argv)
