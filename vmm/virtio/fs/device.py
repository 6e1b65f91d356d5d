"""The file system device (virtio 1.2, 5.11): a directory of the host, served to the guest over FUSE. The server is
``fs.c`` and the files beside it."""

from __future__ import annotations

import errno
import os
import struct

from vmm import report
from vmm.errors import ConfigError, HostError
from vmm.native import ffi, lib
from vmm.saveable import Schema, State, Unsaved, mismatch
from vmm.virtio import spec
from vmm.virtio.device import SharedRegion, VirtioDevice
from vmm.virtio.workers import Workers, forbidden_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm.virtio.device import DeviceContext
    from vmm.virtio.fs import ShareConfig

# 5.11 File System Device
FS_TAG_SIZE = 36
FS_SHMCAP_ID_CACHE = 0
"""Shared memory region of the DAX window."""
FS_CONFIG_FORMAT = "<36sII"
"""For :mod:`struct`: tag, padded with NUL; num_request_queues; notify_buf_size."""

QUEUE_SIZE = 1024
"""A request of 1 MiB has a buffer for each page, in an indirect table or not."""
HIGH_PRIORITY_SIZE = 128
MAX_QUEUES = 4
"""The most request queues by default: one per vCPU up to here."""
MAX_FILES = 65536
"""What the guest can have open, if the host's limit on descriptors allows."""
CACHES = {"none": lib.FS_CACHE_NONE, "auto": lib.FS_CACHE_AUTO, "always": lib.FS_CACHE_ALWAYS}

_OPS = (
    "unknown", "lookup", "forget", "getattr", "setattr", "readlink", "symlink", "-", "mknod",
    "mkdir", "unlink", "rmdir", "rename", "link", "open", "read", "write", "statfs", "release", "-",
    "fsync", "setxattr", "getxattr", "listxattr", "removexattr", "flush", "init", "opendir",
    "readdir", "releasedir", "fsyncdir", "getlk", "setlk", "setlkw", "access", "create",
    "interrupt", "bmap", "destroy", "ioctl", "poll", "notify_reply", "batch_forget", "fallocate",
    "readdirplus", "rename2", "lseek", "copy_file_range", "setupmapping", "removemapping", "syncfs",
    "tmpfile", "statx",
)  # fmt: skip
"""Names of requests by opcode."""


_SCHEMA = Schema("virtio-fs", 2, {"tag": "text", "server": "bytes"})
"""``server``: files that the guest knows and has open, as ``fs_state.c`` writes them."""
_SERVER_MAX = 256 << 20
_NOT_RESTORED = {
    errno.EPROTO: "it was mounted with other options",
    errno.EXDEV: "its guest keeps what it knows of another directory for good (cache=always)",
    errno.ENFILE: "its guest knows or has open more files than it may",
}


class Fs(VirtioDevice):
    """A share. It consists of threads of this process, one for each queue.

    Nodes, open files and locks live until the driver resets the device or unmounts, so a paused guest resumes
    unchanged. A request for a lock that waits while the guest is paused ends with EINTR. A restored share finds its
    files again by name, also in another directory; missing files are ESTALE. Files without a name that the guest has
    open, locks on the host's files, and DAX windows cannot be saved.

    :param tag: its name for the guest
    :param cpus: of the machine; sets the number of queues unless *config* does
    :param marks: False: as on a host whose file system has no file handles to compare
    :param max_fds: the number of descriptors that are kept open for known files
    :param max_nodes: the number of files that the guest can know at a time
    :param node_bytes: memory for these, their names included; beyond it the guest gets ENFILE; 0: 512 MiB
    :raises ConfigError: the directory does not exist, or is not a directory
    :raises HostError: the host is out of memory, or has no /proc
    """

    device_id = spec.ID_FS
    thread_name = "fs-"
    pins_memory = True
    """Its files may be of any file system, and the guest may open them with O_DIRECT."""
    saving: Schema | Unsaved = _SCHEMA

    def __init__(
        self,
        config: ShareConfig,
        tag: str = "",
        *,
        cpus: int = 1,
        marks: bool = True,
        max_fds: int = 0,
        max_nodes: int = 0,
        node_bytes: int = 0,
    ) -> None:
        self.path = config.path
        self.tag = tag or config.tag or "share"
        self.name = f"share {self.tag}"
        if config.dax:
            self.saving = Unsaved("its DAX window has pages of the host's files mapped")
        self.read_only = config.read_only
        self._workers = Workers(self, "share-worker", "see the limit on threads (ulimit -u)")
        self.request_queues = config.queues or min(cpus, MAX_QUEUES)
        self.queue_sizes = (HIGH_PRIORITY_SIZE,) + (QUEUE_SIZE,) * self.request_queues
        self._fs: Any = None
        self._dax: Any = None
        native = self._make_config(config, marks, max_fds, max_nodes, node_bytes)
        try:
            if config.dax:
                self._make_window(config.dax)
                native.dax, native.dax_size = self._dax, config.dax
            self._open(native)
        except BaseException:
            self._free_window()
            raise
        finally:
            if native.root_fd >= 0:
                os.close(native.root_fd)

    def _make_config(self, config: ShareConfig, marks: bool, max_fds: int, max_nodes: int, node_bytes: int) -> Any:
        """The server's configuration (cdata ``struct fs_config *``); its root is open."""
        try:
            root = os.open(config.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as cause:
            raise ConfigError(
                f"share {config.path}: {cause.strerror}", code="share-directory", hint="name a directory of the host"
            ) from cause
        native = ffi.new("struct fs_config *")
        native.root_fd = root
        native.proc_fd = -1
        native.flags = (
            (lib.FS_RO if config.read_only else 0)
            | (lib.FS_WRITEBACK if config.writeback else 0)
            | (lib.FS_ACL if config.acl else 0)
            | (lib.FS_NO_LOCKS if config.locks == "guest" else 0)
            | (lib.FS_OVERRIDE if config.permissions == "guest" else 0)
            | (lib.FS_HANDLES if config.handles else 0)
            | (0 if marks else lib.FS_NO_MARKS)
        )
        native.cache = CACHES[config.cache]
        native.max_fds = max_fds
        native.max_nodes = max_nodes
        native.node_bytes = node_bytes
        native.max_files = _max_files()
        native.sole = config.sole.encode()
        for ids, maps in ((native.users, config.maps), (native.groups, config.group_maps or config.maps)):
            ids.nmaps = len(maps)
            ids.unmapped = config.unmapped
            for index, (guest, host, count) in enumerate(maps):
                ids.map[index].guest, ids.map[index].host, ids.map[index].count = guest, host, count
        return native

    def _make_window(self, size: int) -> None:
        error = ffi.new("int *")
        self._dax = lib.dax_new(size, error)
        if self._dax == ffi.NULL:
            self._dax = None
            raise HostError(
                f"{self.name}: no window of {size >> 20} MiB: {os.strerror(-error[0])}",
                code="share-dax",
                hint="see the limit on address space (ulimit -v)",
                errno=-error[0],
            )
        address = int(ffi.cast("uintptr_t", lib.dax_window(self._dax)))
        self.regions = {FS_SHMCAP_ID_CACHE: SharedRegion(address, size, self._dax)}

    def _free_window(self) -> None:
        if self._dax is not None:
            lib.dax_free(self._dax)
            self._dax = None

    def _open(self, native: Any) -> None:
        """Make the server."""
        error = ffi.new("int *")
        fs = lib.fs_new(native, error)
        if fs == ffi.NULL:
            raise HostError(f"share {self.path}: {os.strerror(-error[0])}", code="share-native", errno=-error[0])
        self._fs = fs

    # -- what the driver sees --------------------------------------------------------------------------------

    def read_config(self) -> bytes:
        return struct.pack(FS_CONFIG_FORMAT, self.tag.encode(), self.request_queues, 0)

    def activate(self, context: DeviceContext) -> None:
        self._watch_window(context.event.fd)
        for queue in context.queues.values():
            self._workers.start(lib.fs_start, self._fs, queue, context.event.fd)

    def check(self) -> None:
        """Find workers that stopped.

        :raises GuestError: the guest broke a ring
        :raises HostError: a worker cannot continue
        """
        self._check_window()
        self._workers.check()

    def stop(self) -> None:
        self._watch_window(-1)
        self._workers.stop()

    def hold(self) -> bool:
        if self._dax is not None:
            return False  # its window does not rest
        self._workers.hold()
        return True

    def go_on(self) -> None:
        self._workers.go_on()

    def reset(self) -> None:
        lib.fs_reset(self._fs)
        self._clear_window()

    def save(self) -> State:
        if isinstance(self.saving, Unsaved):
            return super().save()
        fd = os.memfd_create("share")
        try:
            number, text = self._save_server(fd)
            if number == errno.EBUSY:
                raise ConfigError(
                    f"{self.name} cannot be saved: its guest has {text}",
                    code="share-busy",
                    hint="unmount it in the guest, or end the programs that use these; `,locks=guest` saves locks, too",
                )
            size = os.lseek(fd, 0, os.SEEK_END)
            if number or size > _SERVER_MAX:
                reason = os.strerror(number) if number else f"{size} bytes"
                raise HostError(f"{self.name} cannot be saved: {reason}", code="share-save", errno=number)
            return _SCHEMA.make(tag=self.tag, server=os.pread(fd, size, 0))
        finally:
            os.close(fd)

    def restore(self, state: State) -> None:
        payload = _SCHEMA.read(state, self.name)
        if payload["tag"] != self.tag:
            raise mismatch(self.name, f"it is of the share {payload['tag']!r:.60}")
        fd = os.memfd_create("share")
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(payload["server"])
            number, gone = self._restore_server(fd)
        finally:
            os.close(fd)
        if number:
            raise mismatch(self.name, _NOT_RESTORED.get(number) or os.strerror(number))
        if gone:
            report.warn(__name__, f"{self.name}: {gone} files that its guest knows are not in {self.path}")

    def _save_server(self, fd: int) -> tuple[int, str]:
        """Save the server's state to the file *fd*: returns an errno or 0, and the objects that prevent it."""
        text = ffi.new("char[]", lib.FS_TEXT)
        return -lib.fs_save(self._fs, fd, text), ffi.string(text).decode("utf-8", "replace")

    def _restore_server(self, fd: int) -> tuple[int, int]:
        """Load it from the file *fd*: returns an errno or 0, and the number of missing files."""
        gone = ffi.new("uint32_t *")
        return -lib.fs_restore(self._fs, fd, gone), int(gone[0])

    def stale(self) -> float:
        """For how many seconds the guest may still rely on cached data of a file that the host has changed since
        (``cache=auto``). Later requests get the host's present data.

        :raises HostError: the host is out of memory
        """
        found = int(lib.fs_stale(self._fs))
        if found < 0:
            raise HostError(f"{self.name}: {os.strerror(-found)}", code="share-stale", errno=-found)
        return found / 1e9

    def _watch_window(self, event_fd: int) -> None:
        if self._dax is None:
            return
        lib.dax_watch(self._dax, event_fd)
        error = lib.dax_begin(self._dax) if event_fd >= 0 else 0
        if error:
            raise HostError(f"{self.name}: {os.strerror(-error)}", code="share-dax", errno=-error)

    def _check_window(self) -> None:
        if self._dax is not None and (number := lib.dax_forbidden(self._dax)) >= 0:
            raise forbidden_call(self.name, "pyvmm-dax", number)

    def _clear_window(self) -> None:
        if self._dax is not None:
            lib.dax_clear(self._dax)

    # -- the host's side -------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Counters since the share was opened: kicks, chains, irqs and wakeups of the workers; ``errors``,
        ``read_bytes``, ``write_bytes``; the present ``nodes``, ``files`` and ``fds``; and ``ops``: name of the request
        -> ``count``, ``p50_us``, ``p99_us`` (upper bounds in microseconds), ``latency`` (how many took less than 512
        ns, 512 to 1024 ns, ...).
        """
        native = self._native_stats()
        names = ("errors", "read_bytes", "write_bytes", "nodes", "files", "fds")
        return {
            **{name: int(getattr(native, name)) for name in names},
            **self._worker_stats(),
            **self._window_stats(),
            "ops": {
                _OPS[op]: _latency(int(native.ops[op]), [int(n) for n in native.latency[op]])
                for op in range(len(_OPS))
                if native.ops[op]
            },
        }

    def _window_stats(self) -> dict[str, int]:
        if self._dax is None:
            return {}
        native = ffi.new("struct dax_stats *")
        lib.dax_get_stats(self._dax, native)
        return {f"dax_{name}": int(getattr(native, name)) for name in ("maps", "unmaps", "slots", "cut", "faults")}

    def _native_stats(self) -> Any:
        native = ffi.new("struct fs_stats *")
        if self._fs is not None:
            lib.fs_get_stats(self._fs, native)
        return native

    def _worker_stats(self) -> dict[str, int]:
        return self._workers.stats()

    def close(self) -> None:
        self.stop()
        if self._fs is not None:
            lib.fs_free(self._fs)
            self._fs = None
        self._free_window()


def _max_files() -> int:
    """Half of the process's limit on open files: the rest is for everything else in it."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_FILES if limit == resource.RLIM_INFINITY else max(64, min(MAX_FILES, limit // 2))


def _latency(count: int, buckets: list[int]) -> dict[str, Any]:
    """The histogram of one request, and its 50th and 99th percentiles."""
    row: dict[str, Any] = {"count": count}
    for percent in (50, 99):
        seen = 0
        for index, number in enumerate(buckets):
            seen += number
            if number and seen * 100 >= count * percent:
                row[f"p{percent}_us"] = (512 << index) / 1000
                break
    return {**row, "latency": buckets}
