"""What an agent answers of processes (examples/kata/agent/container.h), made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Made(NamedTuple):
    """A process: the numbers that it has, from the guest's namespace inwards, and its parent's in the guest's."""

    numbers: Sequence[int]
    parent: int = 0
    name: str = "sh"
    cmdline: bytes = b"sh\0-c\0sleep 3600\0"


def files_of(made: Made) -> dict[str, bytes]:
    """As the kernel writes them, as far as tools read them."""
    pid, parent, name = made.numbers[0], made.parent, made.name.encode()
    inner = "\t".join(map(str, made.numbers)).encode()
    pairs = {b"Umask": b"0022", b"State": b"S (sleeping)", b"Tgid": b"%d" % pid, b"Pid": b"%d" % pid}
    pairs |= {b"PPid": b"%d" % parent, b"TracerPid": b"0", b"Uid": b"0\t0\t0\t0"}
    pairs |= dict.fromkeys((b"NStgid", b"NSpid", b"NSpgid", b"NSsid"), inner)
    status = b"Name:\t%s\n" % name.replace(b"\n", b"\\n") + b"".join(b"%s:\t%s\n" % pair for pair in pairs.items())
    stat = b"%d (%s) S %d %d %d 34816 %d 4194560 90 0 0 0 1 2 0 0 20 0 1 0 250\n" % (pid, name, parent, pid, pid, pid)
    return {"status": status, "stat": stat, "cmdline": made.cmdline}


def record(name: str, content: bytes) -> bytes:
    return f"{name} {len(content)}\n".encode() + content


def listing(processes: Sequence[Made], top: Mapping[str, bytes] | None = None) -> bytes:
    """The first one is the container's."""
    text = f"first {processes[0].numbers[0]}\n".encode()
    for name, content in (top or {"uptime": b"12.00 3.00\n", "stat": b"cpu 1 2\nbtime 1700000000\n"}).items():
        text += record(name, content)
    for made in processes:
        for name, content in files_of(made).items():
            text += record(f"{made.numbers[0]}/{name}", content)
    return text + b"end\n"
