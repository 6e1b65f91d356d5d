"""The serial port as a guest sees it: registers, interrupts, input, state; and the ports that end a run."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.unit.devices.conftest import (
    BI,
    CTS,
    DCD,
    DLAB,
    DLL,
    DLM,
    DR,
    DSR,
    DTR,
    FCR,
    IER,
    IIR,
    IIR_LINE,
    IIR_MSI,
    IIR_NONE,
    IIR_RX,
    IIR_THRE,
    LCR,
    LOOP,
    LSR,
    MCR,
    MSI,
    MSR,
    OE,
    OUT1,
    OUT2,
    RBR,
    RDI,
    RI,
    RLSI,
    RTS,
    SCR,
    TEMT,
    THR,
    THRE,
    THRI,
    Guest,
    read_all,
)
from vmm.boot import layout
from vmm.bus import Bus
from vmm.devices import power_devices
from vmm.errors import ConfigError, HostError
from vmm.native import ffi, lib
from vmm.saveable import State


def test_a_driver_finds_a_16550a(guest: Guest) -> None:
    """The probe of Linux's 8250 driver (autoconfig), step by step."""
    guest[IER] = 0
    assert guest[IER] & 0x0F == 0
    guest[IER] = 0xFF
    assert guest[IER] == 0x0F
    guest[IER] = 0
    guest[MCR] = LOOP | OUT2 | RTS
    assert guest[MSR] & 0xF0 == DCD | CTS
    guest[MCR] = 0
    guest[FCR] = 1
    assert guest[IIR] >> 6 == 3, "FIFOs that work"
    guest[FCR] = 0
    assert guest[IIR] >> 6 == 0
    guest[SCR] = 0xA5
    assert guest[SCR] == 0xA5


def test_the_divisor_latch_hides_data_and_interrupt_enable(guest: Guest) -> None:
    guest[IER] = RDI
    guest[LCR] = DLAB | 3
    guest[DLL], guest[DLM] = 0x0C, 0x01
    assert (guest[DLL], guest[DLM]) == (0x0C, 0x01)
    guest[LCR] = 3
    assert guest[IER] == RDI
    assert guest.serial.stats()["tx_bytes"] == 0


def test_an_idle_transmitter_interrupts_when_that_is_enabled(guest: Guest) -> None:
    guest[IER] = THRI
    assert guest.interrupts() == 1
    assert guest.source() == IIR_THRE
    assert guest.source() == IIR_NONE, "reading IIR takes the interrupt"
    guest[IER] = 0
    guest[IER] = THRI
    assert guest.interrupts() == 1, "enabled again, raised again"
    assert guest.source() == IIR_THRE


def test_one_interrupt_follows_each_load_of_the_fifo(guest: Guest) -> None:
    guest[FCR] = 1
    guest[IER] = THRI
    assert guest.source() == IIR_THRE
    guest.interrupts()
    for _ in range(16):
        guest[THR] = ord("x")
    assert guest.interrupts() == 0, "none in the middle of the load"
    assert guest.source() == IIR_NONE, "the handler that sent it can end"
    assert guest.interrupts() == 1
    assert guest.source() == IIR_THRE


def test_the_interrupt_comes_to_a_driver_that_only_waits(guest: Guest) -> None:
    guest[IER] = THRI
    guest.source()
    guest.interrupts()
    guest[THR] = ord("x")
    guest.serve(lambda: guest.interrupts() == 1)
    assert guest.source() == IIR_THRE


def test_a_driver_sends_by_interrupts_alone(guest: Guest) -> None:
    guest.open_port()
    guest.interrupts()
    transmit = bytearray(b"0123456789abcdef" * 256 + b"end")
    guest[IER] = guest[IER] | THRI
    while transmit:
        assert guest.interrupts(), "the driver waits for an interrupt that does not come"
        guest.handle(transmit, bytearray())
    assert guest.serial.stats()["tx_bytes"] == 4099


def test_interrupts_are_told_in_order_of_priority(guest: Guest) -> None:
    guest[MCR] = LOOP
    guest[FCR] = 1
    guest[IER] = RDI | THRI | RLSI | MSI
    guest[MCR] = LOOP | RTS
    for byte in range(17):
        guest[THR] = byte
    assert guest.source() == IIR_LINE
    assert guest[LSR] & (OE | DR) == OE | DR
    assert guest.source() == IIR_RX
    assert [guest[RBR] for _ in range(16)] == list(range(16))
    assert guest.source() == IIR_THRE
    assert guest.source() == IIR_MSI
    assert guest[MSR] & 0x0F
    assert guest.source() == IIR_NONE


def test_an_edge_comes_only_when_the_line_was_low(guest: Guest) -> None:
    guest.open_port()
    guest.interrupts()
    guest.serial.input(b"a")
    guest.serial.input(b"b")
    assert guest.interrupts() == 1
    assert guest[RBR] == ord("a")
    assert guest.interrupts() == 0
    assert guest[RBR] == ord("b")
    guest.serial.input(b"c")
    assert guest.interrupts() == 1


def test_modem_lines_in_loopback_are_the_outputs(guest: Guest) -> None:
    assert guest[MSR] == DCD | DSR | CTS, "a peer that is always there"
    for outputs, lines in ((DTR, DSR), (RTS, CTS), (OUT1, RI), (OUT2, DCD)):
        guest[MCR] = LOOP | outputs
        assert guest[MSR] & 0xF0 == lines
    guest[MCR] = LOOP | OUT1
    guest[MSR]
    guest[MCR] = LOOP
    assert guest[MSR] & 0x0F == 0x04, "the end of a ring is told, its start is not"
    guest[MCR] = LOOP | OUT1
    assert guest[MSR] & 0x0F == 0


def test_loopback_does_not_reach_the_host(guest: Guest) -> None:
    guest[MCR] = LOOP
    guest[THR] = 0x42
    assert guest[LSR] & DR
    assert guest[RBR] == 0x42
    assert guest.serial.stats()["tx_bytes"] == 0


def test_without_the_fifo_one_byte_fits(guest: Guest) -> None:
    guest[MCR] = LOOP
    guest[THR], guest[THR] = 1, 2
    assert guest[LSR] & OE
    assert not guest[LSR] & OE, "told once"
    assert guest[RBR] == 2
    assert not guest[LSR] & DR


def test_a_break_is_a_nul_with_an_error(guest: Guest) -> None:
    guest.open_port()
    guest.interrupts()
    guest.serial.send_break()
    guest.serial.input(b"t")
    assert guest.interrupts() == 1
    assert guest.source() == IIR_LINE
    assert guest[LSR] & (BI | DR) == BI | DR
    assert [guest[RBR], guest[RBR]] == [0, ord("t")]


def test_input_before_the_port_is_opened_is_not_lost(guest: Guest) -> None:
    """A driver empties the FIFO and reads RBR while it opens the port."""
    guest.serial.input(b"first line\n")
    guest[MCR] = LOOP | OUT2 | RTS
    guest[MCR] = 0
    guest[FCR] = 7
    guest[RBR]
    guest.interrupts()
    guest.open_port()
    assert guest.interrupts()
    received = bytearray()
    guest.handle(bytearray(), received)
    assert received == b"first line\n"


def test_flow_control_holds_input_back(guest: Guest) -> None:
    guest.open_port()
    guest[MCR] = OUT2 | DTR
    guest.serial.input(b"x")
    assert not guest[LSR] & DR
    guest.interrupts()
    guest[MCR] = OUT2 | DTR | RTS
    assert guest.interrupts() == 1
    assert guest[RBR] == ord("x")


def test_a_simple_guest_needs_no_modem_control(guest: Guest) -> None:
    guest.serial.input(b"p")
    assert guest[LSR] & DR
    assert guest[RBR] == ord("p")
    guest[MCR] = 0
    guest[IER] = RDI
    guest.interrupts()
    guest.serial.input(b"i")
    assert guest.interrupts() == 1
    assert guest[RBR] == ord("i")


def test_a_paste_loses_nothing(guest: Guest) -> None:
    guest.open_port()
    paste = random.Random(1).randbytes(100_000)
    received = bytearray()
    left = memoryview(paste)

    def type_on() -> None:
        nonlocal left
        while left and (taken := guest.serial.input(left)):
            left = left[taken:]

    guest.serial.space_callback = type_on
    type_on()
    assert len(left) == len(paste) - 4096, "no more than the port can hold"
    while len(received) < len(paste):
        before = len(received)
        while guest.interrupts():
            guest.handle(bytearray(), received)
        assert len(received) - before <= 1024, "the handler has to end now and then"
        if len(received) < len(paste):
            assert guest.loop.run_once(10), "that there is more was not told"
    assert received == paste


def busy_port(guest: Guest) -> None:
    guest.open_port()
    guest[SCR] = 0x5A
    guest[IER] = RDI | RLSI | THRI
    guest.serial.send_break()
    guest.serial.input(b"typed ahead" * 20)


def test_a_restored_port_goes_on_where_it_was(guest: Guest, guests: Callable[..., Guest]) -> None:
    busy_port(guest)
    twin = guests()
    twin.serial.restore(guest.serial.save())
    assert twin.interrupts() == 1, "what was pending is raised again"
    for register in (SCR, IER, LCR, MCR, IIR, LSR, IIR):
        assert twin[register] == guest[register]
    assert twin[RBR] == 0
    received = bytearray()
    twin.handle(bytearray(), received)
    assert received == b"typed ahead" * 20
    assert twin.source() == IIR_NONE


def test_what_was_typed_before_a_restore_is_kept(guest: Guest, guests: Callable[..., Guest]) -> None:
    """On a clone that is made and not started: its user sees the bytes taken."""
    busy_port(guest)
    twin = guests()
    assert twin.serial.input(b" and later") == 10
    twin.serial.restore(guest.serial.save())
    twin.serial.read(0, 1)  # the break
    received = bytearray()
    twin.handle(bytearray(), received)
    assert received == b"typed ahead" * 20 + b" and later"
    twin.serial.input(b"x")
    twin.serial.reset()
    assert twin.serial.save().payload["rx"] == b""


def test_a_state_survives_restore_and_save(guest: Guest, guests: Callable[..., Guest]) -> None:
    chance = random.Random(2)
    twin = guests()
    for _ in range(2000):
        guest.serial.write(chance.randrange(8), 1, chance.randrange(256))
        guest.serial.read(chance.randrange(8), 1)
        guest.serial.input(chance.randbytes(chance.randrange(5)))
    state = guest.serial.save()
    twin.serial.restore(state)
    assert twin.serial.save() == state


@pytest.mark.parametrize(
    "change",
    [
        {"rx": bytes(4097)},
        {"fifo": bytes(17)},
        {"ier": 0x10},
        {"mcr": 0x20},
        {"lsr": THRE | TEMT},
        {"scr": 256},
        {"dll": -1},
        {"dll": "1"},
        {"mode": 1},
    ],
)
def test_a_state_that_cannot_be_is_refused(guest: Guest, change: dict[str, object]) -> None:
    before = guest.serial.save()
    state = State(before.kind, before.version, {**before.payload, **change})
    with pytest.raises(ConfigError) as caught:
        guest.serial.restore(state)
    assert caught.value.code == "restore-mismatch"
    assert guest.serial.save() == before


def test_a_closed_port_says_so(guests: Callable[..., Guest]) -> None:
    guest = guests()
    guest.close()
    with pytest.raises(HostError, match="closed"):
        guest.serial.input(b"x")


# -- what the guest sends, on its way to a descriptor: complete, in order, prompt ------------------------------------


Pipe = tuple[int, int]


@pytest.fixture(params=["non-blocking", "blocking"])
def pipe(request: pytest.FixtureRequest) -> Iterator[Pipe]:
    """A pipe of 8 KiB; its write end blocks or does not, as what a shell passes may."""
    import fcntl

    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 8192)
    os.set_blocking(reader, False)
    os.set_blocking(writer, request.param == "blocking")
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def test_a_line_is_written_when_it_ends(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    for byte in b"hello\n":
        guest[THR] = byte
    assert read_all(pipe[0]) == b"hello\n"
    assert guest.serial.stats()["tx_writes"] == 1


def test_a_prompt_is_written_without_a_newline(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    for byte in b"login: ":
        guest[THR] = byte
    got = b""

    def prompted() -> bool:
        nonlocal got
        got += read_all(pipe[0])
        return got == b"login: "

    guest.serve(prompted)


def test_a_message_of_the_kernel_is_written_when_it_is_done(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    guest.poll_out(b"half a line")
    assert read_all(pipe[0]) == b"half a line"


def test_what_was_sent_is_written_on_close(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    for byte in b"last words":
        guest[THR] = byte
    guest.close()
    assert read_all(pipe[0]) == b"last words"


def fill(guest: Guest, data: bytes) -> int:
    """Send until the port says that it is not empty; how many bytes that were."""
    for count, byte in enumerate(data):
        if not guest[LSR] & THRE:
            return count
        guest[THR] = byte
    raise AssertionError("the port took everything")


def test_a_slow_reader_holds_the_guest_up(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    data = os.urandom(20_000)
    sent = fill(guest, data)
    got = bytearray(read_all(pipe[0]))
    while sent < len(data):
        assert guest[LSR] & THRE, "there is room again"
        sent += fill(guest, data[sent:] + bytes(10_000)) if len(data) - sent > 9000 else len(data) - sent
        got += read_all(pipe[0])
    assert data.startswith(bytes(got))
    assert guest.serial.stats()["tx_dropped"] == 0


def test_a_polling_guest_loses_nothing_to_a_slow_reader(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    data = os.urandom(30_000)
    sender = threading.Thread(target=guest.poll_out, args=(data,))
    sender.start()
    os.set_blocking(pipe[0], True)
    got = b""
    while len(got) < len(data):
        got += os.read(pipe[0], 1000)
    sender.join()
    assert got == data


def test_an_interrupted_guest_loses_nothing_to_a_slow_reader(guests: Callable[..., Guest], pipe: Pipe) -> None:
    """It looks at no register while it waits: the loop writes on, and raises the interrupt."""
    guest = guests(pipe[1])
    data = os.urandom(30_000)
    guest.open_port()
    guest.interrupts()
    transmit, got = bytearray(data), bytearray()
    guest[IER] = guest[IER] | THRI
    while len(got) < len(data):
        while guest.interrupts():
            guest.handle(transmit, bytearray())
        part = read_all(pipe[0])
        got += part
        if not part:
            assert guest.loop.run_once(10), f"stuck after {len(got)} bytes"
    assert got == data


def test_no_empty_interrupt_while_output_waits(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    fill(guest, bytes(20_000))
    guest.interrupts()
    guest[IER] = THRI
    assert guest.interrupts() == 0
    assert guest[IIR] & 1
    while guest.serial.flush():
        read_all(pipe[0])
    assert guest.interrupts() == 1


def test_a_guest_that_ignores_the_status_cannot_stop_the_vcpu(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    for _ in range(20_000):
        guest[THR] = ord("x")
    got = b""
    while guest.serial.flush():
        got += read_all(pipe[0])
    got += read_all(pipe[0])
    stats = guest.serial.stats()
    assert len(got) == stats["tx_bytes"] == 20_000 - stats["tx_dropped"]
    assert stats["tx_dropped"] > 0


def test_a_signal_ends_the_wait_for_the_reader(guests: Callable[..., Guest], pipe: Pipe) -> None:
    """It is what vcpu_kick() sends; without it a string instruction on LSR would take 4096 waits."""
    guest = guests(pipe[1])
    fill(guest, bytes(20_000))
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    done = threading.Event()

    def poll_long() -> None:
        data = ffi.new("uint8_t[4096]")
        for index in range(4096):
            lib.uart_access(guest.serial.native, LSR, data + index, 1, False)
            if done.is_set():
                return

    thread = threading.Thread(target=poll_long)
    try:
        thread.start()
        assert thread.ident is not None
        # Waits go on after a while, so a real kick that came too early is sent again here
        for _ in range(100):
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
            thread.join(0.05)
            if not thread.is_alive():
                break
        assert not thread.is_alive()
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, old)


def test_dropping_never_holds_the_guest_up(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1], drop=True)
    data = bytes(range(256)) * 100
    for byte in data:
        assert guest[LSR] & THRE
        guest[THR] = byte
    assert guest.serial.flush() == 0
    stats = guest.serial.stats()
    assert stats["tx_dropped"] > 0
    assert stats["tx_bytes"] + stats["tx_dropped"] == len(data)
    assert len(read_all(pipe[0])) == stats["tx_bytes"]
    guest.poll_out(b"back\n")
    assert read_all(pipe[0]) == b"back\n"


def test_a_reader_that_left_is_told_once(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    told: list[int] = []
    guest.serial.error_callback = told.append
    os.close(pipe[0])
    guest.poll_out(b"line\n" * 100)
    guest.serve(lambda: bool(told))
    guest.poll_out(b"line\n" * 100)
    guest.serial.flush()
    assert told == [errno.EPIPE]
    assert guest.serial.stats()["tx_dropped"] == 1000


def test_a_full_disk_is_told_and_the_guest_goes_on(guests: Callable[..., Guest]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    guest = guests(full)
    told: list[int] = []
    guest.serial.error_callback = told.append
    guest.poll_out(b"line\n" * 3)
    guest.serve(lambda: bool(told))
    guest.poll_out(b"line\n" * 3)
    guest.serial.flush()
    assert told == [errno.ENOSPC]
    guest.close()
    os.close(full)


def test_a_socket_can_be_the_console(guests: Callable[..., Guest]) -> None:
    left, right = socket.socketpair()
    with left, right:
        guest = guests(left.fileno())
        sender = threading.Thread(target=guest.poll_out, args=(bytes(1_000_000),))
        sender.start()
        got = 0
        while got < 1_000_000:
            got += len(right.recv(65536))
        sender.join()
        guest.close()


def test_closing_does_not_wait_for_ever(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    fill(guest, bytes(20_000))
    guest.close()
    assert read_all(pipe[0])


def test_modem_control_does_not_matter_for_output(guests: Callable[..., Guest], pipe: Pipe) -> None:
    guest = guests(pipe[1])
    for modem in (0, OUT2, RTS):
        guest[MCR] = modem
        guest.poll_out(b"x\n")
    assert read_all(pipe[0]) == b"x\n" * 3


# -- how a guest ends its run -----------------------------------------------------------------------------------------

Ports = tuple[Bus, list[str]]


@pytest.fixture
def ports() -> Ports:
    """The PIO bus of a machine, and the events that its guest caused."""
    events: list[str] = []
    bus = Bus("pio")
    for base, size, device in power_devices(events.append):
        bus.add(base, size, device)
    return bus, events


@pytest.mark.parametrize(
    ("port", "value", "event"),
    [
        (layout.ACPI_SLEEP_CONTROL, layout.ACPI_POWER_OFF, "poweroff"),
        (layout.ACPI_RESET, layout.ACPI_RESET_VALUE, "reboot"),
        (layout.I8042_COMMAND, layout.I8042_RESET, "reboot"),
        (layout.PVPANIC, 1, "panic"),
    ],
)
def test_what_the_tables_tell_the_guest_to_write_works(ports: Ports, port: int, value: int, event: str) -> None:
    bus, events = ports
    bus.write(port, 1, value)
    assert events == [event]


@pytest.mark.parametrize(
    ("port", "value"),
    [
        (layout.ACPI_SLEEP_CONTROL, layout.ACPI_S5_TYPE << 2),  # without SLP_EN
        (layout.ACPI_SLEEP_CONTROL, 1 << 5 | 3 << 2),  # another sleep state
        (layout.ACPI_SLEEP_STATUS, 0x80),  # clears WAK_STS
        (layout.ACPI_RESET, 0),
        (layout.I8042_COMMAND, 0xAA),  # self-test
        (layout.I8042_COMMAND, 0xFF),  # pulses no line
        (layout.PVPANIC, 2),  # a crash kernel goes on
        (layout.PVPANIC, 0),
    ],
)
def test_other_values_do_not_end_the_run(ports: Ports, port: int, value: int) -> None:
    bus, events = ports
    bus.write(port, 1, value)
    assert events == []


def test_a_guest_reads_what_its_drivers_wait_for(ports: Ports) -> None:
    bus, _ = ports
    assert bus.read(layout.I8042_COMMAND, 1) & 0x02 == 0, "ready for the reset command"
    assert bus.read(layout.PVPANIC, 1) == 0x03
    assert bus.read(layout.ACPI_SLEEP_STATUS, 1) == 0


def test_a_wide_write_reaches_each_register(ports: Ports) -> None:
    bus, events = ports
    bus.write(layout.ACPI_SLEEP_CONTROL, 2, 0x8000 | layout.ACPI_POWER_OFF)
    assert events == ["poweroff"]


def test_accesses_over_the_end_of_a_range_do_nothing(ports: Ports) -> None:
    bus, events = ports
    for base, size, _ in bus.ranges():
        for width in (2, 4, 8):
            bus.write(base + size - 1, width, (1 << 8 * width) - 1)
            assert bus.read(base + size - 1, width) == (1 << 8 * width) - 1
    assert events == []
