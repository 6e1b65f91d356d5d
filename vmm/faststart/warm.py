"""The image of a started Python from which ``pyvmm-warm`` starts the next one.

Python's own start and the imports of a command take longer than all the rest that is done before a guest runs.  So
``pyvmm-warm`` has it done once, in a process of its own, which writes its memory into a file of the user's cache; it
then maps that file and goes on from there, with the arguments, the environment and the streams that it was given.

The image is good for a day, until the next boot of the host, and for as long as neither the interpreter nor a library
nor a module has changed; ``pyvmm-warm`` sees to that, and does without it where anything is unusual.  Nothing that goes
wrong here is an error.  See docs/decisions/start.md.
"""

from __future__ import annotations

import gc
import posix
import sys
import time
from errno import EAGAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SECRETIVE = ("random", "ssl")
"""Modules that draw random numbers for themselves, which must not be the same in every process."""
_OLD = 2 * 24 * 3600
"""Seconds; pyvmm-warm takes images of the last day."""


def warm_start(modules: Iterable[str]) -> None:
    """For programs that ``pyvmm-warm PYTHON SCRIPT [ARGUMENT]...`` starts: their scripts call this first.

    Where ``pyvmm-warm`` asks for an image (``-X pyvmm_warm=PATH``) *modules* are imported and the image is written, and
    the process ends; this returns in each process that starts from it, with its own arguments, environment and streams.
    Else it returns at once.

    :param modules: what most starts import; none that draws random numbers, starts threads or opens files
    """
    if "pyvmm_warm" in sys._xoptions:
        save(str(sys._xoptions["pyvmm_warm"]), modules)


def save(path: str, modules: Iterable[str]) -> None:
    """Import *modules*, write an image of this process to *path*, and end.

    Returns in each process that starts from the image: there it goes on.
    """
    for module in modules:
        __import__(module)
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
        if result == -EAGAIN:
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


def _remove_old(folder: str) -> None:
    """Remove images that are of no use any more: of installations that are gone, and what was left half written."""
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
    """What is free in the interpreter's pools of small objects: sizes of blocks in bytes, and how many.

    The interpreter fills them before it takes new memory: the objects of a process would lie on as many pages of the
    image, and each be copied for one of them.  They are not for anybody, then.
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


def _make_immortal() -> None:
    """Have nobody count references to what there is: a process that starts from the image, or a fork of it, would else
    write to each page that has an object which it uses, and so have a copy of the page for itself.

    The count is that of CPython's own constants, which are never freed (PEP 683, from 3.12 on).  What an object is
    given when it is first used, it is given here: a string its hash, a class the version of its attributes.
    """
    from vmm.native import ffi

    count = ffi.cast("uint32_t *", id(None))[0]
    if sys.version_info < (3, 12) or sys.getrefcount(None) != count:
        return  # another layout of objects, as without the lock of the interpreter
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
