"""Sizes as users type them."""

from __future__ import annotations

from vmm.errors import ConfigError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_UNITS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}


def parse_size(text: str, what: str = "size") -> int:
    """Parse ``256M``, ``4G``, ``512K``, ``1073741824`` as bytes; units are powers of 1024, ``iB`` may follow.

    :raises ConfigError: not such a number
    """
    number = text.strip().upper().removesuffix("IB") if text.strip().upper().endswith("IB") else text.strip().upper()
    unit = number[-1:] if number[-1:].isalpha() else ""
    digits = number[: len(number) - len(unit)]
    if not digits.isascii() or not digits.isdigit() or unit not in _UNITS or len(digits) > 20:
        raise ConfigError(f"{what} {text!r} is not a size", code="size-syntax", hint="for example 256M, 2G, 512K")
    return int(digits) * _UNITS[unit]
