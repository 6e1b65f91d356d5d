"""The C data plane: :data:`lib` and :data:`ffi` of the cffi extension made from ``vmm_native.h`` and
``vmm_devices.h``."""

from vmm.native._native import ffi, lib

__all__ = ["ffi", "lib"]
