"""The C data plane: :data:`lib` and :data:`ffi` of the cffi extension made from ``vmm_native.h`` and the
headers of devices."""

from vmm.native._native import ffi, lib

__all__ = ["ffi", "lib"]
