"""The parts of ctypes that the project needs, from its C module.

The package :mod:`ctypes` makes some forty classes when it is imported, and imports :mod:`os` for one line. Together
that takes a tenth of the instructions of a cold boot. The objects made here are ordinary ctypes objects.
"""

from __future__ import annotations

from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    Structure,
    Union,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
    sizeof,
)

__all__ = ["Structure", "Union", "addressof", "get_errno", "i16", "i32", "libc", "sizeof", "u8", "u16", "u32", "u64"]


TYPE_CHECKING = False
if TYPE_CHECKING:
    _Number = _SimpleCData[int]
else:
    _Number = _SimpleCData


class u8(_Number):
    """``__u8``."""

    _type_ = "B"


class u16(_Number):
    """``__u16``."""

    _type_ = "H"


class i16(_Number):
    """``__s16``."""

    _type_ = "h"


class u32(_Number):
    """``__u32``."""

    _type_ = "I"


class i32(_Number):
    """``__s32``."""

    _type_ = "i"


class u64(_Number):
    """``__u64``, and ``unsigned long``."""

    _type_ = "L"


class pointer(_Number):
    """``void *``; None is NULL."""

    _type_ = "P"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = i32


def libc(name: str) -> _Function:
    """The function *name* of the C library, returning int; errno is kept for :func:`get_errno`."""
    everything = dlopen(None, 0)  # type: ignore[arg-type]
    return _Function(dlsym(everything, name))
