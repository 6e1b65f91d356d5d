"""One file with the byte code of every module that ``pyvmm boot`` imports.

Finding and reading fifty modules one by one takes more instructions than running their code. So the first start stores
its imports in ``__pycache__``, beside Python's own files there. Later starts load each module from that file while its
source has the same size and time of change. No failure here is an error: the modules are imported as usual.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType

    Entry = tuple[CodeType, str, bool, int, int]
    """Code, path of the source, is it a package, time of last change (seconds), size (bytes)."""

_HEADER = 16
"""Bytes before the code in a ``.pyc`` (PEP 552): magic, flags, time, size."""
_LEFT_OUT = ("vmm.boot.elf",)
"""Needed once for each kernel."""
_entries: dict[str, Entry] = {}
_used: set[str] = set()
_stale = False
_installed = False


def _path() -> str:
    folder = __file__.rpartition("/")[0]
    return f"{folder}/__pycache__/bundle.{sys.implementation.cache_tag}.bin"


class _Finder:
    """A finder and loader in one (PEP 451)."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        global _stale
        entry = _entries.get(name)
        if entry is None:
            return None
        _, source, package, mtime, size = entry
        try:
            state = posix.stat(source)
        except OSError:
            return None
        if (int(state.st_mtime), state.st_size) != (mtime, size):
            _stale = True
            return None
        spec = ModuleSpec(name, _Finder, origin=source, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(source.rpartition("/")[0])
        return spec

    @staticmethod
    def create_module(_spec: ModuleSpec) -> ModuleType | None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        _used.add(module.__name__)
        exec(_entries[module.__name__][0], module.__dict__)


def install() -> None:
    """Import from the file from now on, if it is there."""
    global _installed
    _installed = True
    try:
        fd = posix.open(_path(), posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            data = posix.read(fd, posix.fstat(fd).st_size)
        finally:
            posix.close(fd)
        if data.startswith(MAGIC_NUMBER):
            _entries.update(marshal.loads(data[len(MAGIC_NUMBER) :]))
            sys.meta_path.insert(0, _Finder)
    except (OSError, ValueError, EOFError, TypeError):
        pass


def _entry(module: ModuleType) -> Entry | None:
    """The stored form of *module*, which was imported as usual."""
    spec = module.__spec__
    if spec is None or not spec.origin or not spec.origin.endswith(".py") or not spec.cached:
        return None
    with open(spec.cached, "rb") as file:
        data = file.read()
    state = posix.stat(spec.origin)
    mtime, size = (int.from_bytes(data[at : at + 4], "little") for at in (8, 12))
    if (
        data[: len(MAGIC_NUMBER)] != MAGIC_NUMBER
        or any(data[4:8])
        or (int(state.st_mtime), state.st_size) != (mtime, size)
    ):
        return None
    package = spec.submodule_search_locations is not None
    return marshal.loads(data[_HEADER:]), spec.origin, package, mtime, size


def keep() -> None:
    """Write the file with all modules of the package that are imported now, unless it is up to date."""
    if not _installed or (_entries and not _stale) or sys.dont_write_bytecode or sys.pycache_prefix:
        return
    target = _path()
    temporary = f"{target}.{posix.getpid()}"
    try:
        kept = {}
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "vmm" and name not in (*_LEFT_OUT, "vmm", __name__):
                entry = _entries[name] if name in _used else _entry(module)
                if entry is not None:
                    kept[name] = entry
        with open(temporary, "wb") as file:
            file.write(MAGIC_NUMBER + marshal.dumps(kept))
        posix.replace(temporary, target)
    except (OSError, ValueError, EOFError, TypeError):
        try:
            posix.unlink(temporary)
        except OSError:
            pass
