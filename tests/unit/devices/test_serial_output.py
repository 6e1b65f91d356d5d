"""What the guest sends, on its way to a descriptor: complete, in order, prompt."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.unit.devices.uart_guest import IER, IIR, LSR, MCR, OUT2, RTS, THR, THRE, THRI, Guest, read_all
from vmm.native import ffi, lib

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
