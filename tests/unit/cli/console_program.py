"""A guest that echoes lines on the console, as a program of its own: what happens to its terminal is tested.

usage: python console_program.py {wait|raise|exit}

It prints ``ready``, then for every byte typed ``<hex>``; ``wait`` ends on SIGTERM, SIGHUP, Ctrl-A x; the other two on
the first byte, by an exception and by sys.exit(3).
"""

from __future__ import annotations

import signal
import sys
import threading

from tests.unit.devices.conftest import Guest
from vmm.cli.open_console import open_console


def main(how: str) -> None:
    """Run until told to end."""
    done = threading.Event()
    typed = bytearray()
    with open_console("stdio") as console:
        guest = Guest(console.out_fd, drop=console.drop)

        def interrupted(_events: int) -> None:
            guest.interrupts()
            received = bytearray()
            guest.handle(bytearray(), received)
            typed.extend(received)
            for byte in received:
                guest.poll_out(b"<%02x>\n" % byte)
            if received and how != "wait":
                done.set()

        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: done.set())
        guest.open_port()
        guest.loop.add(guest.irq.fd, interrupted)
        console.connect(guest.loop, guest.serial, done.set)
        thread = threading.Thread(target=guest.loop.run, daemon=True)
        thread.start()
        guest.poll_out(b"ready\n")
        while not done.wait(0.1):  # a signal that comes just before a wait for ever would not wake it
            pass
        if how == "raise":
            raise RuntimeError("a bug")
        if how == "exit":
            sys.exit(3)
        console.restore()
        guest.loop.stop()
        thread.join()
        guest.close()


if __name__ == "__main__":
    main(sys.argv[1])
