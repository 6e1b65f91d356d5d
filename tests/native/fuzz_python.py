"""``python -m tests.native.fuzz_python``: fuzzes what is in Python and guests reach, or files of users.

The first byte of an input says what it is for: PCI configuration space and BARs, the ports of power and hot-plug, the
header of a disk's overlay, ACPI tables, or what the process of a machine in a jail answers that a guest has taken over,
and who asks for its forks.  It is called as programs of libFuzzer are, with those of their options that ``fuzz.py``
gives; an input that reaches a line that no other has reached is kept.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import random
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from zlib import crc32

from tests import tiny
from tests.pci_driver import ECAM, MESSAGE, WINDOW, PciGuest
from tests.sample_devices import Shared
from vmm.boot import acpi, acpi_pci, aml, layout
from vmm.bus import Bus
from vmm.devices import pci_hotplug, power
from vmm.errors import ConfigError, VmmError
from vmm.events import EventFd
from vmm.faststart.record import replace
from vmm.native import ffi, lib
from vmm.pci import bus as pci_bus
from vmm.pci import config as pci_config
from vmm.pci import msix, spec
from vmm.pci.bus import Function
from vmm.pci.config import ConfigSpace
from vmm.processes import answers, forks, jailed
from vmm.virtio import image, pci
from vmm.virtio import spec as vspec
from vmm.virtio.blk import DiskConfig
from vmm.virtio.pci_layout import BAR_SIZE

MODULES = (acpi, acpi_pci, aml, pci_bus, pci_config, msix, pci, pci_hotplug, power, image, jailed)
SIZES = (1, 2, 4, 8)
STEPS = 48
LONGEST = 100
"""How many of each part are kept."""
VMM = Path(acpi.__file__).resolve().parents[1]


class Input:
    """Bytes, and zeros behind them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        return found.ljust(count, b"\0")

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.bytes(size), "little")


def require(what: object, said: str) -> None:
    """A promise that is broken ends the run, with `python -O` as well."""
    if not what:
        raise AssertionError(said)


# -- PCI -------------------------------------------------------------------------------------------------------------


class Neighbour(Function):
    """A function that does nothing, with a BAR of each kind."""

    def __init__(self) -> None:
        self.config = ConfigSpace(0x1AF4, 0x1110, spec.CLASS_OTHERS, bar_size=4096, window_size=1 << 20)
        self.config.add_capability(spec.CAP_ID_VNDR, b"\x08abcde", b"\0\xff\0\0\0\0")


class Watched(PciGuest):
    """Keeps what decodes."""

    def _map(self, function: Function, number: int, address: int) -> None:
        require((function, number) not in self.maps, "a BAR is mapped twice")
        self.maps[function, number] = address
        if number == 0 and isinstance(function, pci.PciRegisters):
            self.mmio.add(address, BAR_SIZE, function)

    def _unmap(self, function: Function, number: int, address: int) -> None:
        require(self.maps.pop((function, number), None) == address, "a BAR that is not there is unmapped")
        if number == 0 and isinstance(function, pci.PciRegisters):
            self.mmio.remove(function)

    maps: dict[tuple[Function, int], int]

    def make_registers(self) -> pci.PciRegisters:
        self.maps = {}
        return super().make_registers()


_FIXED = ((spec.VENDOR_ID, 4), (spec.REVISION_ID, 4), (spec.HEADER_TYPE, 1), (spec.SUBSYSTEM_VENDOR_ID, 4), (0x34, 1))


def _check_bus(guest: Watched) -> None:
    places = []
    for (function, number), address in guest.maps.items():
        size = function.config.bars[number]
        require(function in guest.bus.functions.values(), "a function that has gone decodes")
        require(function.config.bar(number) == address, "a BAR decodes where it does not lie")
        windows = guest.bus.windows if number else [WINDOW]
        require(any(at <= address and address + size <= at + room for at, room in windows), "outside of the windows")
        places.append((address, address + size))
    places.sort()
    require(all(a[1] <= b[0] for a, b in pairwise(places)), "BARs that overlap decode")
    require(all(at >> 20 == MESSAGE >> 20 for at, _ in guest.wires.connected.values()), "a message to elsewhere")
    require(set(guest.wires.connected) <= {e.fd for e in guest.registers.msix.events}, "a vector that is not there")


def fuzz_pci(data: Input) -> None:
    """Accesses of any kind; the host resets, saves and restores the bus, and takes functions off it."""
    device = Shared()
    with Watched(device, msix=bool(data.number() & 1)) as guest:
        neighbour = guest.bus.add(Neighbour(), 0x3_0000_0000)
        fixed = {
            (slot, at): guest.mmio.read(ECAM + (slot << spec.ECAM_SHIFT) + at, size)
            for slot in guest.bus.functions
            for at, size in _FIXED
        }
        for _ in range(STEPS):
            if not data:
                break
            what, size = data.number(), SIZES[data.number() % 4]
            slot = (0, guest.slot, neighbour, what >> 4)[what >> 2 & 3]
            at = data.number(2)
            register = at % (spec.CONFIG_SIZE + 8) if at & 0x8000 else at % 0xC0
            address = ECAM + (slot << spec.ECAM_SHIFT) + register
            match what & 3:
                case 0:
                    guest.mmio.write(address, size, data.number(size))
                case 1:
                    require(0 <= guest.mmio.read(address, size) < 1 << 8 * size, "a value of another size")
                case 2:
                    base = guest.maps.get((guest.registers, 0), WINDOW[0])
                    guest.mmio.write(base + at % (BAR_SIZE + 8), size, data.number(size))
                    read = guest.mmio.read(base + at % (BAR_SIZE + 8), size)
                    require(0 <= read < 1 << 8 * size, "a value of another size")
                case _ if at & 1:
                    _host(guest, neighbour, at >> 1)
                case _:
                    _driver(guest, neighbour, at >> 1, data)
            _check_bus(guest)
        require(
            all(
                guest.mmio.read(ECAM + (slot << spec.ECAM_SHIFT) + at, size) == fixed[slot, at]
                for slot in guest.bus.functions
                for at, size in _FIXED
            ),
            "what the guest may not write has changed",
        )
        guest.bus.reset()
        require(not guest.maps, "a BAR decodes after a reset")
        guest.find()
        guest.start()
        with guest.scratch():
            room = guest.room(4)
            guest.queues[0].send(guest.data(b"ping"), room)
            require(guest.content(room) == b"ping", "it does not work after a reset")


def _driver(guest: Watched, neighbour: int, what: int, data: Input) -> None:
    """What takes several accesses: as Linux does it, or not quite."""
    vector, flags = what >> 3 & 3, what >> 5
    with suppress(KeyError):
        match what & 7:
            case 0 if not flags & 7:
                guest.bus.reset()
                guest.find()
                guest.start()
            case 0 | 1:
                guest.set_msix((what >> 3 & 3) << 14)
            case 2:
                guest.write_vector(vector, data=flags, mask=bool(flags & 1), address=MESSAGE + (flags & 6) * 0x7FFFF)
            case 3:
                guest.registers.msix.events[vector % guest.registers.msix.count].signal()
                pending = guest.bar_read(guest.pba & ~7, SIZES[flags % 4])
                require(0 <= pending < 1 << 8 * SIZES[flags % 4], "a value of another size")
            case 4:
                at = guest.virtio[vspec.PCI_CAP_PCI_CFG].at
                guest.config_write(at + vspec.PCI_CFG_OFFSET, 4, data.number(2))
                guest.config_write(at + vspec.PCI_CFG_LENGTH, 4, SIZES[vector])
                guest.config_write(at + vspec.PCI_CFG_DATA, 4, data.number(4))
                guest.config_read(at + vspec.PCI_CFG_DATA, 4)
            case 5:
                guest.common(vspec.PCI_COMMON_Q_SELECT, 2, vector)
                guest.common(vspec.PCI_COMMON_Q_MSIX, 2, flags & 7)
            case 6:  # two BARs near each other, or not in the window
                function = ECAM + ((guest.slot, neighbour)[vector & 1] << spec.ECAM_SHIFT)
                guest.mmio.write(function + spec.BASE_ADDRESS_0, 4, WINDOW[0] + (flags & 7) * 0x800 - (flags & 8))
                guest.mmio.write(function + spec.COMMAND, 2, spec.COMMAND_MEMORY)
            case _:
                guest.find()


def _host(guest: Watched, neighbour: int, what: int) -> None:
    match what % 6:
        case 0:
            guest.bus.reset()
        case 5:
            state = guest.registers.save()
            if not guest.status & vspec.DRIVER_OK:  # a machine is restored before its devices run
                guest.registers.restore(state)
                guest.bus.look_again()
        case 1:
            before = dict(guest.maps)
            guest.bus.restore(guest.bus.save())
            require(guest.maps == before, "other BARs decode after a restore")
        case 2:
            guest.bus.remove(neighbour)
        case 3:
            guest.device.config_changed()
        case _:
            if neighbour not in guest.bus.functions:
                require(guest.bus.add(Neighbour()) == neighbour, "another place")
                guest.bus.windows.pop()


# -- ports and tables ------------------------------------------------------------------------------------------------


def fuzz_ports(data: Input) -> None:
    """Accesses to the ports of power and hot-plug, beside a model of what they do."""
    said: list[str] = []
    expected: list[str] = []
    gone: list[int] = []
    bits = {pci_hotplug.CAME: 0, pci_hotplug.LEAVE: 0}
    irq = EventFd()
    hotplug = pci_hotplug.PciHotplug(irq, gone.append)
    ports = Bus("pio")
    for port, count, device in power.power_devices(said.append):
        ports.add(port, count, device)
    ports.add(layout.PCI_HOTPLUG, pci_hotplug.PciHotplug.SIZE, hotplug)
    around = (0x64, layout.ACPI_SLEEP_CONTROL, layout.PVPANIC, layout.PCI_HOTPLUG)
    for _ in range(STEPS):
        if not data:
            break
        what, where, size = data.number(), data.number(), SIZES[data.number() % 3]
        port = around[where & 3]
        if where & 0x80:  # anywhere near
            port += (where >> 2) % 14 - 1
        elif port == layout.PCI_HOTPLUG:  # its registers
            port, size = port + (where >> 2) % 3 * 4, 4
        else:
            port += (where >> 2) % 3
        found = ports.find(port, size)
        offset = port - layout.PCI_HOTPLUG
        if what % 4 == 0:
            slot = where % 32
            hotplug.announce(slot) if what & 4 else hotplug.ask_to_leave(slot)
            bits[pci_hotplug.CAME if what & 4 else pci_hotplug.LEAVE] |= 1 << slot
            require(irq.clear(), "the guest is not told")
        elif what % 4 == 1:
            value = ports.read(port, size)
            if found and found[0] is hotplug:
                require(value == (bits.get(offset, 0) if size == 4 else 0), "other bits")
                if size == 4 and offset in bits:
                    bits[offset] = 0
            require(0 <= value < 1 << 8 * size, "a value of another size")
        elif what == 2:
            state = hotplug.save()
            hotplug.reset()
            hotplug.restore(state)
            irq.clear()
        else:
            value = data.number(size)
            before = len(gone)
            ports.write(port, size, value)
            if found and found[0] is hotplug:
                slots = [slot for slot in range(32) if value >> slot & 1] if (offset, size) == (8, 4) else []
                require(gone[before:] == slots, "other devices go")
            elif found:
                expected += _model(port, size, value)
        require(said == expected, f"{said} instead of {expected}")
    irq.close()


def _model(port: int, size: int, value: int) -> Iterable[str]:
    for at, byte in enumerate(value.to_bytes(size, "little"), start=port):
        if at == layout.ACPI_SLEEP_CONTROL and byte & 0x20 and byte >> 2 & 7 == layout.ACPI_S5_TYPE:
            yield "poweroff"
        elif (at == layout.ACPI_RESET and byte == layout.ACPI_RESET_VALUE) or (
            at == 0x64 and byte >= 0xF0 and not byte & 1
        ):
            yield "reboot"
        elif at == layout.PVPANIC and byte & 1:
            yield "panic"


def fuzz_tables(data: Input) -> None:
    """Tables of any machine are whole, and lie where there is room."""
    cpus, slots, room = data.number(2) % 300, data.number() % (layout.MMIO_SLOTS + 1), data.number(2) * 4 or 1 << 20
    windows = [(data.number(6) << 12, 1 << data.number() % 40) for _ in range(data.number() % 4)]
    has_pci = data.number() & 1
    terms, more = (acpi_pci.terms(windows), [acpi_pci.mcfg()]) if has_pci else (b"", [])
    try:
        blob = acpi.tables(range(cpus), range(slots), room=room, terms=terms, more=more)
    except ConfigError as error:
        require(str(room) in str(error), "the error does not say how much room there is")
        return
    require(len(blob) <= room and sum(blob[:36]) % 256 == 0, "no root")
    (root,) = struct.unpack_from("<Q", blob, 24)
    todo, names = [root], []
    while todo:
        at = todo.pop() - layout.ACPI
        (length,) = struct.unpack_from("<I", blob, at + 4)
        whole = blob[at : at + length]
        require(len(whole) == length >= 36 and sum(whole) % 256 == 0, "a table is not whole")
        names.append(whole[:4])
        if whole[:4] == b"XSDT":
            todo += [each for (each,) in struct.iter_unpack("<Q", whole[36:])]
        elif whole[:4] == b"FACP":
            todo += struct.unpack_from("<Q", whole, 140)
        elif whole[:4] == b"DSDT":
            require(whole.count(b"LNRO0005") == slots, "other devices")
            require(_terms(whole, 36) == len(whole), "terms that do not end where the table does")
    require(sorted(names) == [b"APIC", b"DSDT", b"FACP", *([b"MCFG"] if has_pci else []), b"XSDT"], "other tables")


def _terms(code: bytes, at: int) -> int:
    """The end of the terms of a DSDT, at its highest level: names of packages, and scopes (ACPI 6.5, 20.2)."""
    while at < len(code):
        if code[at] == 0x08:  # Name, of four letters
            require(code[at + 5] == 0x12, "no package")
            at += 6
        else:
            require(code[at] == 0x10, f"no scope: {code[at]:#x}")
            at += 1
        more = code[at] >> 6
        length = code[at] & 0x3F if not more else code[at] & 0xF
        for index in range(more):
            length |= code[at + 1 + index] << 4 + 8 * index
        at += length
    return at


# -- overlays --------------------------------------------------------------------------------------------------------

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
_SECTORS = 40
_HEADER = 52
"""Bytes, with the checksum."""


def fuzz_overlay(data: Input) -> None:
    """Any file in the place of an overlay is taken, or an error says what is wrong, and nothing of it has changed."""
    base_path, path = Path(_FOLDER.name, "base"), Path(_FOLDER.name, "overlay")
    base_path.write_bytes(bytes(_SECTORS * 512))
    base = image.Image(str(base_path))
    kind = data.number()
    path.unlink(missing_ok=True)
    image.Overlay(str(path), base).close()
    good = path.read_bytes()[:_HEADER]
    whole = bytearray(path.read_bytes() if kind & 1 else b"")
    for _ in range(data.number() % 8):
        at, some = data.number(), data.bytes(data.number() % 9)
        whole[at : at + len(some)] = some
    if kind & 2 and len(whole) >= _HEADER:
        whole[_HEADER - 4 : _HEADER] = struct.pack("<I", crc32(whole[: _HEADER - 4]))
    if kind & 4:
        del whole[data.number(2) :]
    if kind & 8:
        whole[4096:4104] = data.bytes(8)[: max(0, len(whole) - 4096)]
    path.write_bytes(whole)
    try:
        for _ in range(2):  # the second time after an error, or beside nobody
            try:
                overlay = image.Overlay(str(path), base)
            except ConfigError as error:
                require(str(path) in str(error), "the error does not name the file")
                require(path.read_bytes() == whole, "what is no overlay has changed")
                continue
            require(whole[:_HEADER] in (b"", good), "another header was taken")
            _take(overlay, path, bytes(whole))
            whole = bytearray(path.read_bytes())
    finally:
        base.close()
    require(base_path.read_bytes() == bytes(_SECTORS * 512), "the image has changed")


def _take(overlay: image.Overlay, path: Path, before: bytes) -> None:
    after = path.read_bytes()
    require(not before or after[: len(before)] == before, "what an overlay has has changed")
    require(len(after) == overlay.data_at + overlay.size, "another size")
    failed = ffi.new("int *")
    made = lib.blk_overlay_new(overlay.fd, image.OVERLAY_BITS, overlay.data_at, overlay.size, failed)
    require(made, f"errno {failed[0]}")
    lib.blk_overlay_free(made)
    with suppress(ConfigError):
        image.Overlay(str(path), overlay._base).close()
        require(False, "it was open twice")
    overlay.close()


# -- answers of a machine in a jail ------------------------------------------------------------------------------------

_NAMES = (
    *("ok", "error", "code", "hint", "config", "progress", "of", "end", "detail", "kind", "space"),
    *("state", "devices", "cpus", "number", "gone", "disks", "cpuid", "memory_bytes", "areas", "walls", "missing"),
)
_DISKS = tuple(os.path.join(_FOLDER.name, name) for name in ("disk", "read"))
_MACHINE = replace(
    tiny.config("/nowhere", disks=(DiskConfig(_DISKS[0]), DiskConfig(_DISKS[1], read_only=True))), transport="pci"
)
_SELF = os.pidfd_open(os.getpid())


def _value(data: Input, depth: int) -> object:
    """What JSON can have, as an answer has it or not quite."""
    kind = data.number()
    match kind % (8 if depth else 5):
        case 0:
            return data.number(kind >> 5) - (kind >> 4 & 1)
        case 1:
            return data.bytes(kind >> 4).decode("latin-1")
        case 2:
            return (None, True, False, 1.5, 1 << 70, "0" * 64, "poweroff", -(1 << 63))[kind >> 5]
        case 3:
            return "x" * (data.number(2) * 2)
        case 4:
            return [1 << 20, data.number(kind >> 5)]
        case 5:
            return [_value(data, depth - 1) for _ in range(kind >> 5)]
        case 6:
            return [[_value(data, 0), _value(data, 0)]] * (data.number() + (kind >> 5))
        case _:
            return {_NAMES[data.number() % len(_NAMES)]: _value(data, depth - 1) for _ in range(kind >> 5)}


def _good() -> dict[str, object]:
    """What an honest machine answers to anything."""
    disks = [[status.st_size, status.st_mtime_ns] for status in map(os.stat, _DISKS)]
    saved = {"devices": [["virtio-blk", 1]], "cpuid": "0" * 64, "disks": disks}
    return {"state": "running", "cpus": 1, "number": 3, "gone": True, "memory_bytes": 4096, "areas": None, **saved}


class _TakenOver:
    """In the place of the socket on which a machine's process takes requests: answers at once, and does something to
    the files that come with a request.  Without more input it is honest."""

    def __init__(self, data: Input) -> None:
        self._data = data

    def sendmsg(self, buffers: list[bytes], rights: list[tuple[int, int, Any]], flags: int) -> None:
        data, (where, *fds) = self._data, rights[0][2]
        require(len(json.loads(buffers[0])) >= 1, "a request that is none")
        with socket.socket(fileno=os.dup(where)) as answer:
            for _ in range(data.number() % 4):
                self._harm(fds, data)
            for _ in range((data.number() + 1) % 5):
                with suppress(BlockingIOError):
                    answer.send(self._answer(data), socket.MSG_DONTWAIT)

    def _answer(self, data: Input) -> bytes:
        kind = data.number()
        if kind % 8 == 7:
            return data.bytes(kind >> 3) or b"["
        if kind % 8 == 1:
            return b"[" * 60000
        answer: object = {"ok": _good()}
        if kind % 8 == 2:
            answer = {"progress": _value(data, 0), "of": 7}
        elif kind % 8 == 3:
            answer = {"error": _value(data, 1), "code": "c", "hint": _value(data, 0), "config": bool(kind & 8)}
        elif kind % 8 == 4:
            answer = _value(data, 3)
        elif kind % 8:
            answer = {"ok": {**_good(), _NAMES[data.number() % len(_NAMES)]: _value(data, 2)}}
        return json.dumps(answer).encode()[:60000]

    def _harm(self, fds: list[int], data: Input) -> None:
        if not fds:
            return
        fd = fds[data.number() % len(fds)]
        with suppress(OSError, ValueError):
            match data.number() % 5:
                case 0:
                    os.ftruncate(fd, data.number(2))
                case 1:
                    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, data.number() & 31)
                case 2:
                    mmap.mmap(fd, 4096).close()
                case 3:
                    self.kept = mmap.mmap(fd, 4096)
                case _:
                    os.pwrite(fd, b"harm", data.number(2))


def fuzz_answers(data: Input) -> None:
    """Whatever a machine's process answers, whoever asks it gets what it asked for, in bounds, or an error of ours;
    nothing is left open.  The same of who asks for forks."""
    for path in _DISKS:
        Path(path).write_bytes(bytes(4096))
    before = len(os.listdir("/proc/self/fd")), sorted(os.listdir(_FOLDER.name))
    taken_over: Any = _TakenOver(data)
    machine = jailed.Jailed(taken_over, os.dup(_SELF), _MACHINE)
    for _ in range(4):
        with suppress(VmmError):
            _ask(machine, data)
        if not data:
            break
    taken_over.kept = None
    machine.close_base()
    os.close(machine._process)
    left = len(os.listdir("/proc/self/fd")), sorted(os.listdir(_FOLDER.name))
    require(left == before, "descriptors or files are left")


def _ask(machine: jailed.Jailed, data: Input) -> None:
    match data.number() % 8:
        case 0:
            require(machine.state.isprintable() and len(machine.state) <= 512, "what a terminal may not be shown")
        case 1:
            require(all(each.name.isprintable() for each in machine.devices[:256]), "the same of names")
            require(0 <= machine.cpus < 1 << 63, "no number")
        case 2 | 3:
            _fork(machine, 1 + data.number() % 3)
        case 4:
            plugged = machine.plug(_MACHINE.disks[0])
            plugged.resize()
            if not machine.unplug(plugged, 0):
                plugged.wait_gone(0)
        case 5:
            for each in (machine.pause, machine.resume, machine.press_power_button):
                each()
            machine.resize_memory(1)
            machine.resize_cpus(1)
            machine.resize_disk(0)
            folder = os.path.join(_FOLDER.name, "warm")
            machine.snapshot(folder, progress=lambda done, size: require(done >= 0 and size >= 0, "no progress"))
            require(json.loads(Path(folder, "manifest.json").read_text()), "no snapshot")
            shutil.rmtree(folder)
        case 6:
            n, first = forks.fork_request(data.bytes(data.number() % 64).rstrip(b"\0"))
            require(type(n) is type(first) is int and n >= 0 and first >= 0, "no numbers")
        case _:
            error = answers.error_of(_value(data, 2))
            require(error is None or len(str(error)) <= 64 * 4097, "an error that is too long")


def _fork(machine: jailed.Jailed, n: int) -> None:
    point = machine.fork_point(n)
    try:
        for _ in range(n):
            handed = point.child({})
            try:
                memory, state, pages = handed.fds[:3]
                for fd in (memory, state, pages):
                    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
                    require(seals & fcntl.F_SEAL_WRITE, "memory of a child that somebody else can write")
                require(os.fstat(memory).st_size == _MACHINE.all_memory(), "memory of another size")
                require(json.dumps(handed.about), "no JSON")
            finally:
                handed.close()
    finally:
        point.close()


# -- the fuzzer ------------------------------------------------------------------------------------------------------

TARGETS: tuple[Callable[[Input], None], ...] = (fuzz_pci, fuzz_ports, fuzz_overlay, fuzz_tables, fuzz_answers)


def run(data: bytes) -> None:
    """One input."""
    TARGETS[data[0] % len(TARGETS) if data else 0](Input(data[1:]))


def _codes(of: CodeType) -> Iterable[CodeType]:
    yield of
    for each in of.co_consts:
        if isinstance(each, CodeType):
            yield from _codes(each)


def _code(module: ModuleType) -> CodeType:
    source = Path(str(module.__file__))
    return compile(source.read_text(), str(source), "exec")


class Reached:
    """The lines of the modules that were reached, by file."""

    def __init__(self) -> None:
        self._monitoring: Any = getattr(sys, "monitoring", None)
        if self._monitoring is None:
            raise SystemExit("fuzz_python: needs Python 3.12, which tells what lines are run")
        self.files = {str(module.__file__): module for module in MODULES}
        self.lines: set[tuple[str, int]] = set()
        self._monitoring.use_tool_id(self._monitoring.COVERAGE_ID, "fuzz")
        self._monitoring.register_callback(self._monitoring.COVERAGE_ID, self._monitoring.events.LINE, self._on_line)
        self._monitoring.set_events(self._monitoring.COVERAGE_ID, self._monitoring.events.LINE)

    def _on_line(self, code: CodeType, line: int) -> object:
        if code.co_filename in self.files:
            self.lines.add((code.co_filename, line))
        return self._monitoring.DISABLE

    def of(self, data: bytes) -> set[tuple[str, int]]:
        """Which lines an input reaches, whichever others did."""
        before, self.lines = self.lines, set()
        self._monitoring.restart_events()
        run(data)
        found, self.lines = self.lines, before
        return found

    def counted(self) -> dict[str, tuple[int, int]]:
        """Of each file the lines in functions that were reached, and those that there are."""
        table = {}
        for name, module in self.files.items():
            inside = {
                line
                for code in _codes(_code(module))
                if code.co_flags & 2  # CO_NEWLOCALS: a function's
                for _, _, line in code.co_lines()
                if line is not None and line != code.co_firstlineno
            }
            reached = {line for file, line in self.lines if file == name}
            table[str(Path(name).relative_to(VMM))] = len(inside & reached), len(inside)
        return table


def change(data: bytes, other: bytes, dice: random.Random) -> bytes:
    """Another input, like *data*."""
    new = bytearray(data or b"\0")
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(new) or 1)
        new = new or bytearray(1)
        match dice.randrange(6):
            case 0:
                new[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            case 1:
                new[at] ^= 1 << dice.randrange(8)
            case 2:
                new[at:at] = dice.randbytes(dice.choice((1, 2, 4, 8, 12)))
            case 3:
                del new[at : at + dice.choice((1, 2, 4, 8, 12))]
            case 4:
                new[at:] = other[dice.randrange(len(other) + 1) :]
            case _:
                new[at : at + 4] = dice.choice((0x10, 0x14, 4, 0xFFFF_FFFF, 0xC000_0000)).to_bytes(4, "little")
    return bytes(new[:2048])


def fuzz(seconds: float, folders: list[Path], artifacts: str) -> int:
    """Until the time is over, or an input breaks something; the first folder gets what reaches more."""
    dice = random.Random()
    reached = Reached()
    known = [
        b"\0",
        b"\1",
        b"\2",
        b"\3",
        b"\4",
        *(path.read_bytes() for folder in folders for path in sorted(folder.iterdir())),
    ]
    end, runs = time.monotonic() + seconds, 0
    todo = list(known)
    while todo or time.monotonic() < end:
        data = todo.pop() if todo else change(dice.choice(known), dice.choice(known), dice)
        before = len(reached.lines)
        try:
            run(data)
        except BaseException:
            place = Path(f"{artifacts}crash-{hashlib.sha1(data).hexdigest()}")
            place.write_bytes(data)
            print(f"it is left in {place}", file=sys.stderr)
            raise
        runs += 1
        # A few that reach no new line reach new states, and lead further
        if data not in known and (len(reached.lines) > before or dice.random() < 0.002):
            known.append(data)
            (folders[0] / hashlib.sha1(data).hexdigest()).write_bytes(data)
    print(f"stat::number_of_executed_units: {runs}", file=sys.stderr)
    return 0


def merge(target: Path, folders: list[Path]) -> int:
    """As few inputs as reach what all of them reach, the shortest first; and the longest of each part, in which most
    happens."""
    reached, seen = Reached(), set[tuple[str, int]]()
    inputs = sorted(
        {path.read_bytes() for folder in folders for path in folder.iterdir()}, key=lambda each: (len(each), each)
    )
    kept = set()
    for data in inputs:
        lines = reached.of(data)
        if lines - seen:
            seen |= lines
            kept.add(data)
    for part in range(len(TARGETS)):
        kept.update([data for data in inputs if data and data[0] % len(TARGETS) == part][-LONGEST:])
    for data in kept:
        (target / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return 0


def coverage(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each file the lines that the inputs of *folder* reach, and those that there are."""
    reached = Reached()
    for path in folder.iterdir():
        run(path.read_bytes())
    return reached.counted()


def main(argv: list[str]) -> int:
    """As a program of libFuzzer."""
    options = dict(word[1:].split("=", 1) for word in argv if word.startswith("-"))
    folders = [Path(word) for word in argv if not word.startswith("-")]
    if options.get("merge") == "1":
        return merge(folders[0], folders[1:])
    if options.get("runs") == "0":
        for path in (path for folder in folders for path in sorted(folder.iterdir())):
            run(path.read_bytes())
        return 0
    return fuzz(float(options.get("max_total_time", "30")), folders, options.get("artifact_prefix", ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
