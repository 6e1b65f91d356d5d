"""gdb's remote serial protocol: a command comes in, a reply goes out ("Debugging with GDB", appendix E).

Every input gets an answer: empty for an unknown command, ``Exx`` for an invalid one.
"""

from __future__ import annotations

from vmm.debug import packet, registers
from vmm.errors import GuestError, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.debug.target import Stop, Target

_BAD, _NO_MEMORY = b"E01", b"E14"
_SIGINT, _SIGTRAP = 2, 5
_NEED_A_STILL_GUEST = (*(bytes((letter,)) for letter in b"gGpPmMXcsCSZz"), b"vCont;")
_REASONS = {"int3": "swbreak:", "swbreak": "swbreak:", "hwbreak": "hwbreak:"}


class Bad(Exception):
    """The packet is invalid."""


def _number(text: bytes) -> int:
    if not text or len(text) > 16 or not all(byte in b"0123456789abcdefABCDEF" for byte in text):
        raise Bad
    return int(text, 16)


def _bytes(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        raise Bad from None


def _pair(text: bytes) -> tuple[int, int]:
    first, comma, second = text.partition(b",")
    if not comma:
        raise Bad
    return _number(first), _number(second)


class Stub:
    """One debugger's session, without its connection."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._xml = registers.target_xml()
        self._selected = 0  # the vCPU that registers and memory are of
        self._to_continue = -1
        self._interrupted = False
        self.ack = True
        """Packets are acknowledged."""
        self.over = False
        """The debugger has left."""
        self._commands: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"?": lambda _: self._stop_reply(None),
            b"g": lambda _: registers.pack(self._registers()).hex().encode(),
            b"G": self._write_registers,
            b"p": self._read_register,
            b"P": self._write_register,
            b"m": self._read_memory,
            b"M": self._write_memory,
            b"X": self._write_binary,
            b"H": self._select,
            b"T": lambda text: b"OK" if self._vcpu(_number(text)) >= 0 else _BAD,
            b"c": lambda text: self._go(text, step=False),
            b"s": lambda text: self._go(text, step=True),
            b"C": lambda text: self._go(text.partition(b";")[2], step=False),
            b"S": lambda text: self._go(text.partition(b";")[2], step=True),
            b"Z": lambda text: self._breakpoint(text, self._target.set_breakpoint),
            b"z": lambda text: self._breakpoint(text, self._target.clear_breakpoint),
            b"D": self._detach,
            b"k": self._detach,
            b"q": self._query,
            b"Q": self._set,
            b"v": self._long,
        }

    def handle(self, data: bytes) -> bytes | None:
        """The reply to a command, or None if there is none yet because the guest runs."""
        command = self._commands.get(data[:1])
        if command is None:
            return b""
        try:
            if data.startswith(b"qPyvmm."):
                return self._look(data[7:])
            # Only now: who looks at memory alone does not stop the guest
            self._target.attach()
            if self._target.ended and data[:1] not in b"?qQDkvH":
                return _BAD
            if not self._target.held and not self._target.ended and data.startswith(_NEED_A_STILL_GUEST):
                return _BAD  # KVM would block until the vCPU exits by itself, which may be never
            return command(data[1:])
        except Bad:
            return _BAD
        except VmmError:
            return _NO_MEMORY if data[:1] in b"mMXZz" else _BAD

    def interrupt(self) -> bytes | None:
        """Ctrl-C: the reply to the command that resumed the guest."""
        if self._target.held or not self._target.attached:
            return None
        self._target.hold()
        return self._stop_reply(None, _SIGINT)

    def stopped(self) -> bytes | None:
        """A vCPU has stopped by itself: the reply, or None if the guest continues."""
        was_running = not self._target.held
        stop = self._target.next_stop()
        if stop is None or not was_running:
            return None
        self._selected = stop.vcpu
        return self._stop_reply(stop)

    def end_reply(self) -> bytes:
        """The run is over: reported as a program that exited, or that was aborted."""
        return b"W00" if self._target.ended_well else b"X06"

    def _stop_reply(self, stop: Stop | None, signal: int = _SIGTRAP) -> bytes:
        if self._target.ended:
            return self.end_reply()
        reason = ""
        if stop is not None:
            reason = _REASONS.get(stop.kind, "")
            if stop.kind in ("watch", "awatch"):
                reason = f"{stop.kind}:{stop.address:x}"
        return f"T{signal:02x}thread:{self._selected + 1:x};{reason and reason + ';'}".encode()

    # -- threads: number n is vCPU n - 1 -----------------------------------------------------------------------------

    def _vcpu(self, thread: int) -> int:
        return thread - 1 if 0 < thread <= len(self._target.vcpus) else -1

    def _select(self, text: bytes) -> bytes:
        what, number = text[:1], text[1:]
        if what not in (b"g", b"c") or not number:
            raise Bad
        any_ = number in (b"0", b"-1")
        index = -1 if any_ else self._vcpu(_number(number))
        if index < 0 and not any_:
            return _BAD
        if what == b"g":
            self._selected = max(index, 0) if not any_ else self._selected
        else:
            self._to_continue = index
        return b"OK"

    # -- registers ---------------------------------------------------------------------------------------------------

    def _registers(self) -> dict[str, int]:
        return registers.read_all(self._target.vcpus[self._selected])

    def _write_registers(self, text: bytes) -> bytes:
        values = registers.unpack(_bytes(text))
        return b"OK" if values and not registers.write(self._target.vcpus[self._selected], values) else _BAD

    def _read_register(self, text: bytes) -> bytes:
        number = _number(text)
        if number >= len(registers.LAYOUT):
            return _BAD
        _, name, size, _ = registers.LAYOUT[number]
        return (self._registers()[name] & (1 << 8 * size) - 1).to_bytes(size, "little").hex().encode()

    def _write_register(self, text: bytes) -> bytes:
        number, equals, value = text.partition(b"=")
        row = registers.LAYOUT[_number(number)] if _number(number) < len(registers.LAYOUT) else None
        data = _bytes(value)
        if row is None or not equals or len(data) != row[2]:
            raise Bad
        changes = {row[1]: int.from_bytes(data, "little")}
        return _BAD if registers.write(self._target.vcpus[self._selected], changes) else b"OK"

    # -- memory ------------------------------------------------------------------------------------------------------

    def _read_memory(self, text: bytes) -> bytes:
        address, length = _pair(text)
        data = self._target.read_memory(self._selected, address, min(length, packet.MAX_PACKET // 2 - 8))
        return data.hex().encode() if data or not length else _NO_MEMORY

    def _write(self, place: bytes, data: bytes) -> bytes:
        address, length = _pair(place)
        if length != len(data):
            raise Bad
        return b"OK" if self._target.write_memory(self._selected, address, data) else _NO_MEMORY

    def _write_memory(self, text: bytes) -> bytes:
        place, _, data = text.partition(b":")
        return self._write(place, _bytes(data))

    def _write_binary(self, text: bytes) -> bytes:
        place, _, data = text.partition(b":")
        return self._write(place, packet.unescape(data))

    # -- running -----------------------------------------------------------------------------------------------------

    def _go(self, text: bytes, *, step: bool) -> None:
        index = self._to_continue if self._to_continue >= 0 else self._selected
        if text:
            registers.write(self._target.vcpus[index], {"rip": _number(text)})
        self._target.go(index if step else -1)

    def _continue(self, text: bytes) -> bytes | None:
        """``vCont;action[:thread]...``: the first action that names a vCPU, or all, applies to it."""
        chosen: dict[int, bytes] = {}
        for part in text.split(b";"):
            action, colon, thread = part.partition(b":")
            if action[:1] not in (b"c", b"s", b"C", b"S"):
                raise Bad
            everyone = not colon or thread == b"-1"
            indexes = range(len(self._target.vcpus)) if everyone else (self._vcpu(_number(thread)),)
            for index in indexes:
                if index < 0:
                    raise Bad
                chosen.setdefault(index, action[:1].lower())
        if not chosen:
            raise Bad
        step = next((index for index, action in chosen.items() if action == b"s"), -1)
        self._target.go(step, only=step >= 0 and len(chosen) == 1)
        return None

    def _breakpoint(self, text: bytes, do: Callable[[int, int, int, int], bool]) -> bytes:
        kind, address, length = ([*text.split(b";")[0].split(b","), b"", b""])[:3]
        if kind not in (b"0", b"1", b"2", b"3", b"4"):
            raise Bad
        if kind == b"3":
            return b""  # x86 has no watchpoint for reads alone
        return b"OK" if do(self._selected, int(kind), _number(address), _number(length)) else _NO_MEMORY

    def _detach(self, _text: bytes) -> bytes:
        self._target.detach()
        self.over = True
        return b"OK"

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _query(self, text: bytes) -> bytes:
        name, _, rest = text.partition(b":")
        if name == b"Supported":
            words = "QStartNoAckMode+;qXfer:features:read+;vContSupported+;swbreak+;hwbreak+"
            return f"PacketSize={packet.MAX_PACKET:x};{words}".encode()
        if name == b"Xfer":
            return self._transfer(rest)
        if name == b"fThreadInfo":
            return b"m" + b",".join(b"%x" % (index + 1) for index in range(len(self._target.vcpus)))
        if name == b"sThreadInfo":
            return b"l"
        if name == b"C":
            return b"QC%x" % (self._selected + 1)
        if name == b"Attached":
            return b"1"
        if name.startswith(b"ThreadExtraInfo,"):
            index = self._vcpu(_number(name.partition(b",")[2]))
            return _BAD if index < 0 else f"vCPU {index}".encode().hex().encode()
        return b""

    def _transfer(self, text: bytes) -> bytes:
        parts = text.split(b":")
        if parts[:3] != [b"features", b"read", b"target.xml"] or len(parts) != 4:
            return b"E00" if parts[:2] == [b"features", b"read"] else b""
        offset, length = _pair(parts[3])
        piece = self._xml[offset : offset + min(length, packet.MAX_PACKET // 2)]
        more = b"m" if offset + len(piece) < len(self._xml) else b"l"
        return more + packet.escape(piece)

    def _look(self, text: bytes) -> bytes:
        """Packets of our own: RAM by physical address, of a running or stopped guest."""
        if text == b"Regions":
            return b";".join(b"%x,%x" % (region.gpa, region.size) for region in self._target.memory.regions)
        if text.startswith(b"Physical:"):
            address, length = _pair(text[9:])
            length = min(length, packet.MAX_PACKET // 2 - 8)
            try:
                return self._target.read_physical(address, length).hex().encode()
            except GuestError:
                return _NO_MEMORY
        return b""

    def _set(self, text: bytes) -> bytes:
        if text == b"StartNoAckMode":
            self.ack = False
            return b"OK"
        return b""

    def _long(self, text: bytes) -> bytes | None:
        if text == b"Cont?":
            return b"vCont;c;C;s;S"
        if text.startswith(b"Cont;"):
            if self._target.ended:
                return _BAD
            return self._continue(text[5:])
        return b""
