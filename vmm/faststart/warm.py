"""The process image from which ``pyvmm-warm`` starts the next Python.

Python's own start and the imports of a command take longer than everything else before a guest runs. So ``pyvmm-warm``
does them once, in a separate process that writes its memory into a file of the user's cache. Later it maps that file
and continues from there, with its own arguments, environment and streams.

The image is valid for a day, until the next boot of the host, and while the interpreter, libraries and modules are
unchanged. ``pyvmm-warm`` checks that, and starts Python in any unusual case. No failure here is an error. See
docs/decisions/start.md.
"""

from __future__ import annotations

import gc
import posix
import sys
import time
from errno import EAGAIN, EDQUOT, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SECRETIVE = ("random", "ssl")
"""Modules that draw random numbers for themselves, which must not be the same in every process."""
_OLD = 2 * 24 * 3600
"""Seconds; pyvmm-warm takes images of the last day."""
_PASSING = (EAGAIN, EDQUOT, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC)
"""Errors that the next start need not have: a file has just changed or been replaced, a disk is full."""
_CODE_AREA = 16 << 20
"""Bytes; what is not used of them is no memory."""
_OF_FUNCTIONS = 3
"""CO_OPTIMIZED and CO_NEWLOCALS: no body of a module or a class, which runs once."""
_ALIGNMENT = 16
"""Of what the interpreter allocates."""


def warm_start(modules: Iterable[str]) -> None:
    """For programs that ``pyvmm-warm PYTHON SCRIPT [ARGUMENT]...`` starts: their scripts call this first.

    When ``pyvmm-warm`` requests an image (``-X pyvmm_warm=PATH``), *modules* are imported, the image is written, and
    the process ends. The call returns in each process that starts from the image, with its own arguments, environment
    and streams. Else it returns at once.

    :param modules: what most starts import; no module that draws random numbers, starts threads or opens files
    """
    if "pyvmm_warm" in sys._xoptions:
        save(str(sys._xoptions["pyvmm_warm"]), modules)


def save(path: str, modules: Iterable[str]) -> None:
    """Import *modules*, write an image of this process to *path*, and end.

    Returns in each process that starts from the image, which continues there.
    """
    gathering = _Gathering()
    for module in modules:
        __import__(module)
    gathering.end()
    temporary = f"{path}.{posix.getpid()}"
    try:
        fd = posix.open(temporary, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    except OSError:
        posix._exit(1)
    result = _save(fd)
    if result > 0:
        _adopt()
        return
    try:
        if -result in _PASSING:
            posix.unlink(temporary)
            posix._exit(0)
        if result < 0:
            posix.ftruncate(fd, 0)
            posix.replace(temporary, f"{path}.none")  # which says: it cannot be made, do not try at each start
        else:
            posix.replace(temporary, path)
        _remove_old(path.rpartition("/")[0])
    except OSError:
        pass
    posix._exit(0)


class _Gathering:
    """From now on until :meth:`end`, move the code of functions of imported modules into separate memory.

    The interpreter writes counters and inline caches into the code that it runs. So a process gets a private copy of
    each page with a function that it has called once. If such pages contain nothing else, they can be reset to the
    image's, see :func:`forget_code`.
    """

    def __init__(self) -> None:
        import _frozen_importlib_external as importing

        from vmm.native import lib

        self._loader = vars(importing)["SourceFileLoader"]
        self._at = self._end = 0
        if _immortal_count():
            self._at = int(lib.warm_code_area(_CODE_AREA))
            self._end = self._at + _CODE_AREA
        if self._at:
            load = self._loader.get_code

            def get_code(loader: Any, name: str) -> Any:
                code = load(loader, name)
                if code is not None:
                    self._take(code.co_consts)
                return code

            self._loader.get_code = get_code

    def end(self) -> None:
        """Import as usual."""
        if self._at:
            del self._loader.get_code

    def _take(self, constants: tuple[Any, ...]) -> None:
        """Move the code of functions among *constants*, and nested code.

        No other reference to it may exist: references are not counted here, and its old place is freed.
        """
        from _ctypes import PyObj_FromPtr

        from vmm.native import ffi, lib

        places = ffi.cast("uintptr_t *", id(constants) + tuple.__basicsize__)
        for index in range(len(constants)):
            address = int(places[index])
            code: Any = PyObj_FromPtr(address)
            if type(code) is not type(forget_code.__code__):
                continue
            self._take(code.co_consts)
            size, wanted = code.__sizeof__(), code.co_flags & _OF_FUNCTIONS == _OF_FUNCTIONS
            del code
            if not wanted or ffi.cast("uint32_t *", address)[0] != 1 or self._at + size > self._end:
                continue
            ffi.memmove(ffi.cast("void *", self._at), ffi.cast("void *", address), size)
            ffi.cast("uint32_t *", self._at)[0] = _immortal_count()
            places[index] = self._at
            lib.warm_free(ffi.cast("void *", address))
            self._at += -(-size // _ALIGNMENT) * _ALIGNMENT


def forget_code() -> None:
    """Reset inline caches and counters in the code of a start's image, for a process that has started and waits: the
    pages are the image's again. Has no effect in other processes, or where a debugger may have changed code."""
    from vmm.native import lib

    watched = sys.version_info >= (3, 12) and any(map(sys.monitoring.get_tool, range(6)))
    if not watched and sys.gettrace() is None and sys.getprofile() is None:
        lib.warm_forget_code()


def _remove_old(folder: str) -> None:
    """Remove obsolete images: those of removed installations, and half-written ones."""
    for name in posix.listdir(folder):
        if name.startswith("warm-") and time.time() - posix.stat(f"{folder}/{name}").st_mtime > _OLD:
            posix.unlink(f"{folder}/{name}")


def _save(fd: int) -> int:
    """What ``warm_save`` returns: twice, in two processes."""
    from vmm.native import ffi, lib

    if any(name in sys.modules for name in _SECRETIVE):
        return -1
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    names = [sys.executable, sys.argv[0], *sorted(filter(None, files)), ""]
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    sources = ffi.from_buffer("".join([name + "\0" for name in names]).encode(encoding, errors))
    gc.collect()  # what imports have left behind
    _make_immortal()
    gc.freeze()
    for size, blocks in _free_blocks():
        lib.warm_fill_pools(size, blocks)
    return lib.warm_save(fd, sources)


def _free_blocks() -> list[tuple[int, int]]:
    """Free blocks in the interpreter's pools of small objects: sizes in bytes, and counts.

    The interpreter fills them before it takes new memory. So the objects of a process would be spread over many pages
    of the image, and each page would be copied. They belong to no object then.
    """
    # No function tells, only a table for readers on the error stream
    table, errors = posix.memfd_create("pools"), posix.dup(2)
    posix.dup2(table, 2)
    sys._debugmallocstats()
    posix.dup2(errors, 2)
    rows = [line.split() for line in posix.pread(table, 1 << 16, 0).splitlines()]
    posix.close(table)
    posix.close(errors)
    return [(int(row[1]), int(row[4])) for row in rows if len(row) == 5 and all(map(bytes.isdigit, row))]


def _immortal_count() -> int:
    """The reference count of an object that is never freed; 0 if there is none, or objects have another layout, as in a
    free-threaded build."""
    from vmm.native import ffi

    count = int(ffi.cast("uint32_t *", id(None))[0])
    return count if sys.version_info >= (3, 12) and sys.getrefcount(None) == count else 0


def _make_immortal() -> None:
    """Make all existing objects immortal. Otherwise a process that starts from the image, or a fork of it, would write
    to each page with an object that it uses, and so get a private copy.

    The count is that of CPython's own constants, which are never freed (PEP 683, from 3.12 on). Values that objects
    compute at first use are computed here: hashes of strings, version tags of classes.
    """
    from vmm.native import ffi

    count = _immortal_count()
    if not count:
        return
    objects = gc.get_objects()
    for each in objects:
        ffi.cast("uint32_t *", id(each))[0] = count
        if issubclass(type(each), type):  # and no proxy of one
            _look_up(each)
    while objects:  # those that the garbage collector does not follow
        for each in _referents(objects.pop()):
            if sys.getrefcount(each) != count:
                ffi.cast("uint32_t *", id(each))[0] = count
                objects.append(each)
                if isinstance(each, (str, bytes)):
                    hash(each)


def _look_up(cls: type) -> None:
    try:
        type.__getattribute__(cls, "no such name")
    except AttributeError:
        pass


def _referents(whose: Any) -> list[Any]:
    found = gc.get_referents(whose)
    if type(whose) is type(_referents.__code__):
        found += [whose.co_consts, whose.co_names]
    return found


def _words(pointers: Any) -> list[bytes]:
    """The strings of a C array that ends with NULL."""
    from vmm.native import ffi

    words: list[bytes] = []
    while pointers[len(words)]:
        words.append(ffi.string(pointers[len(words)]))
    return words


def _adopt() -> None:
    """Restore what the image does not contain: the arguments, environment and streams of this process."""
    from vmm.native import lib

    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    sys.argv[:] = [word.decode(encoding, errors) for word in _words(lib.warm_arguments())]
    sys.orig_argv[3:] = sys.argv[1:]
    posix.environ.clear()  # which os.environ is a view of
    for variable in _words(lib.warm_environment()):
        name, equals, value = variable.partition(b"=")
        if equals:
            posix.environ[name] = value
    # The objects know nothing else of what is at their descriptor
    out: Any = sys.stdout
    out.reconfigure(line_buffering=posix.isatty(1))
