"""Sizes as people write them: ``512M``, ``2G``, or a number of bytes."""

from __future__ import annotations

from pyvmm_kata.errors import ConfigError

UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}
"""Powers of two."""


def parse_size(text: str, what: str, code: str) -> int:
    """Bytes.

    :param what: begins the message
    :param code: of the error
    :raises ConfigError: it is no size
    """
    unit = text[-1:].upper()
    digits = text[:-1] if unit in UNITS else text
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise ConfigError(f"{what} {text!r:.60} is no size", code=code, hint='for example "512M"')
    return int(digits) << UNITS.get(unit, 0)
