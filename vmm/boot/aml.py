"""A tiny encoder for AML, the byte code of ACPI's DSDT: just the terms that our tables use.

Section numbers are those of the ACPI specification 6.5: chapter 20 (AML) and 6.4 (resource descriptors).
"""

from __future__ import annotations

import struct

_ZERO, _ONE, _NAME = b"\x00", b"\x01", b"\x08"


def package_length(body: int) -> bytes:
    """PkgLength (20.2.4) for *body* bytes that follow it; the length counts itself.

    :raises OverflowError: 2**28 bytes or more
    """
    if body + 1 < 1 << 6:
        return bytes((body + 1,))
    for extra in (1, 2, 3):
        total = body + 1 + extra
        if total < 1 << (4 + 8 * extra):
            return bytes((extra << 6 | total & 0xF,)) + (total >> 4).to_bytes(extra, "little")
    raise OverflowError(f"AML package of {body} bytes")


def integer(value: int) -> bytes:
    """ComputationalData (20.2.3): the shortest constant for an unsigned *value* of up to 64 bits."""
    if value < 2:
        return _ONE if value else _ZERO
    if value < 1 << 8:
        return b"\x0a" + value.to_bytes(1, "little")
    if value < 1 << 16:
        return b"\x0b" + value.to_bytes(2, "little")
    if value < 1 << 32:
        return b"\x0c" + value.to_bytes(4, "little")
    return b"\x0e" + value.to_bytes(8, "little")


def string(text: str) -> bytes:
    """String (20.2.3): ASCII, without NUL."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """EISAID (19.6.36): three letters and four hex digits, as a 32-bit constant.

    >>> eisa_id("PNP0501").hex()
    '0c41d00501'
    """
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    return b"\x0c" + (a << 26 | b << 21 | c << 16 | int(text[3:], 16)).to_bytes(4, "big")


def package(*elements: bytes) -> bytes:
    """DefPackage (20.2.5.4)."""
    body = bytes((len(elements),)) + b"".join(elements)
    return b"\x12" + package_length(len(body)) + body


def buffer(data: bytes) -> bytes:
    """DefBuffer (20.2.5.4) that holds *data*."""
    body = integer(len(data)) + data
    return b"\x11" + package_length(len(body)) + body


def name(path: bytes, value: bytes) -> bytes:
    """DefName (20.2.5.1): *path* is a NameString, four characters or those after a backslash."""
    return _NAME + path + value


def scope(path: bytes, *terms: bytes) -> bytes:
    """DefScope (20.2.5.1)."""
    body = path + b"".join(terms)
    return b"\x10" + package_length(len(body)) + body


def device(path: bytes, *terms: bytes) -> bytes:
    """DefDevice (20.2.5.2)."""
    body = path + b"".join(terms)
    return b"\x5b\x82" + package_length(len(body)) + body


def method(path: bytes, arguments: int, *terms: bytes) -> bytes:
    """DefMethod (20.2.5.2), serialized, with so many *arguments*."""
    body = path + bytes((arguments | 1 << 3,)) + b"".join(terms)
    return b"\x14" + package_length(len(body)) + body


def notify(path: bytes, value: int) -> bytes:
    """DefNotify (20.2.5.3): notify the driver of the object *path* with *value*."""
    return b"\x86" + path + integer(value)


def resources(*descriptors: bytes) -> bytes:
    """A resource template: the buffer of a _CRS, with its end tag (6.4.2.9; checksum 0 means "not checked")."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def io(port: int, size: int) -> bytes:
    """I/O port descriptor (6.4.2.5): *size* ports at *port*, 16 bits decoded."""
    return struct.pack("<BBHHBB", 0x47, 1, port, port, 1, size)


def memory(base: int, size: int) -> bytes:
    """32-bit fixed memory range descriptor (6.4.3.4): read and write."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def interrupt(gsi: int) -> bytes:
    """Extended interrupt descriptor (6.4.3.6): consumer, edge-triggered, active high, exclusive."""
    return struct.pack("<BHBBI", 0x89, 6, 0b0011, 1, gsi)


def bus_numbers(first: int, last: int) -> bytes:
    """Word address space descriptor (6.4.3.5.3) of a host bridge: the PCI buses behind it."""
    return struct.pack("<BHBBBHHHHH", 0x88, 13, 2, 0b1100, 0, 0, first, last, 0, last - first + 1)


def memory_window(base: int, size: int) -> bytes:
    """DWord address space descriptor (6.4.3.5.2) of a host bridge: the forwarded window; not cacheable, read and
    write."""
    return struct.pack("<BHBBBIIIII", 0x87, 23, 0, 0b1100, 1, 0, base, base + size - 1, 0, size)


def memory_window64(base: int, size: int) -> bytes:
    """QWord address space descriptor (6.4.3.5.1) of a host bridge: the same for prefetchable memory above 4 GiB."""
    return struct.pack("<BHBBBQQQQQ", 0x8A, 43, 0, 0b1100, 0b111, 0, base, base + size - 1, 0, size)


LOCAL0, LOCAL1 = b"\x60", b"\x61"
"""Variables of a method (20.2.6.2)."""


def ports(path: bytes, base: int, *fields: bytes) -> bytes:
    """DefOpRegion and DefField (20.2.5.2): *fields*, of 32 bits each, at I/O port *base*; written as a whole."""
    region = b"\x5b\x80" + path + b"\x01" + integer(base) + integer(4 * len(fields))
    body = path + b"\x03" + b"".join([name + bytes((32,)) for name in fields])
    return region + b"\x5b\x81" + package_length(len(body)) + body


def store(value: bytes, target: bytes) -> bytes:
    """DefStore (20.2.5.4)."""
    return b"\x70" + value + target


def if_bit(value: bytes, bit: int, *terms: bytes) -> bytes:
    """DefIfElse (20.2.5.3): *terms*, if that bit of *value* is set."""
    body = b"\x7b" + value + integer(1 << bit) + b"\x00" + b"".join(terms)
    return b"\xa0" + package_length(len(body)) + body


def path_up(levels: int, first: bytes, second: bytes) -> bytes:
    """NameString (20.2.2) of *first*.*second*, from so many levels up."""
    return b"^" * levels + b"\x2e" + first + second
