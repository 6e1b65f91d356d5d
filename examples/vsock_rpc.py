"""A host-guest RPC over vsock: the host runs commands in a guest, with their output and exit status, without a console.

python examples/vsock_rpc.py VMLINUX ROOTFS COMMAND...

The agent, vsock_agent.c, is compiled and passed on a second disk, as a tar archive; it reports by a connection of its
own that it is ready.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile

from vmm import BootConfig, DiskConfig, Machine, MachineConfig, VsockConfig

CALL_PORT, READY_PORT = 5000, 5001
START = "pyvmm.quiet pyvmm.run64=" + base64.b64encode(b"tar xf /dev/vdb -C /tmp && /tmp/vsock_agent").decode()


def make_agent_disk(directory: str) -> str:
    """Compile the agent; returns the path of a disk image with it."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vsock_agent.c")
    program, disk = os.path.join(directory, "vsock_agent"), os.path.join(directory, "agent.tar")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    with tarfile.open(disk, "w") as archive:
        archive.add(program, "vsock_agent")
    return disk


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise ConnectionError("the agent has gone")
        data += piece
    return data


def call(machine: Machine, command: str) -> tuple[int, str]:
    """Run *command* in the guest; returns its exit status and its output."""
    code = command.encode()
    with machine.vsock.connect(CALL_PORT, timeout=60) as sock:
        sock.sendall(struct.pack("=I", len(code)) + code)
        status, length = struct.unpack("=II", receive(sock, 8))
        return status, receive(sock, length).decode(errors="replace")


def main(kernel: str, rootfs: str, *commands: str) -> int:
    with tempfile.TemporaryDirectory() as directory:
        config = MachineConfig(
            boot=BootConfig(kernel, cmdline=START),
            rootfs=DiskConfig(rootfs),
            disks=(DiskConfig(make_agent_disk(directory), read_only=True),),
            vsock=VsockConfig(cid=3, uds=os.path.join(directory, "vm.sock")),
        )
        with Machine(config) as machine, machine.vsock.listen(READY_PORT) as listener:
            machine.start()
            listener.settimeout(120)
            listener.accept()[0].close()
            for command in commands:
                status, text = call(machine, command)
                print(f"{command!r} -> {status}: {text.rstrip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
