"""A network of a test's own: namespaces of the host's kernel, which leave nothing behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and those that it starts, are in a new network namespace meanwhile; the test is skipped where that
    is not possible."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not os.path.exists("/dev/net/tun") or shutil.which("ip", path=_path()) is None:
            pytest.skip("no /dev/net/tun, or no ip")
        try:
            _call("unshare", CLONE_NEWNET)
        except OSError as error:
            pytest.skip(f"no network namespace: {error}")
        try:
            ip("link set lo up")
            yield
        finally:
            _call("setns", before, CLONE_NEWNET)
    finally:
        os.close(before)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def ip(arguments: str) -> str:
    """Run ``ip``, which must succeed, in this thread's network; several commands are separated by ``;``."""
    output = ""
    for command in arguments.split(";"):
        done = subprocess.run(
            ["ip", *command.split()], env=os.environ | {"PATH": _path()}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"ip {command}: {done.stderr}"
        output += done.stdout
    return output


class Outside:
    """Another machine: a network namespace at the other end of a cable, whose interface here is ``out``."""

    has_names = False
    """It answers for the host's resolver."""

    def __init__(self, here: str, there: str, *more: str) -> None:
        """Addresses with their prefix lengths; *more* are further ones of the other machine."""
        command = ["unshare", "--net", sys.executable, "-c", "import sys; print(); sys.stdin.read()"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self._programs: list[subprocess.Popen[bytes]] = []
        ip(f"link add out type veth peer name in netns {self._holder.pid}")
        ip(f"addr add {here} dev out; link set out up; route add default via {there.split('/')[0]}")
        for command_line in (
            "link set lo up",
            *(f"addr add {address} dev in" for address in (there, *more)),
            "link set in up",
        ):
            subprocess.run([*self._enter(), "ip", *command_line.split()], check=True)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def serve(self, program: str, *arguments: str) -> None:
        """Run a Python program there that prints a line when it is ready."""
        command = [*self._enter(), sys.executable, "-c", program, *arguments]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._programs.append(server)
        assert server.stdout is not None
        assert server.stdout.readline(), "the program ended at once"

    def close(self) -> None:
        for program in (*self._programs, self._holder):
            program.kill()
            program.wait()
            for pipe in (program.stdin, program.stdout):
                if pipe is not None:
                    pipe.close()
