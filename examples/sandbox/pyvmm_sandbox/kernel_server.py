"""Runs inside a sandbox: a server of Jupyter kernels on a port of its loopback interface.

The library starts it with ``python3 -c`` and the text of this file, which therefore imports nothing of the package. It
and its kernels are processes of the sandbox: copies and templates have them with their state.

A connection has one request, a line of JSON, and its answers, lines of JSON. A client that goes interrupts its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import signal
import socket
import sys
import tempfile
import uuid
from typing import Any

BUSY, MISSING = 98, 3
"""Exit statuses: the port is in use; a package is missing."""
START_S = 180.0
INTERRUPT_S = 5.0
"""Seconds for code to end after an interrupt, until its kernel is restarted."""
LOOK_S = 0.5
"""Seconds without a message until the kernel is checked."""
REQUEST_MOST = 64 << 20
PIECE = 64 << 10
RESULT_MOST = 16 << 20
DEFAULT = "default"
RESULTS = ("execute_result", "display_data", "update_display_data")


class Kernel:
    """A kernel with its state: a context."""

    def __init__(self, name: str, cwd: str, env: dict[str, str]) -> None:
        self.name, self.cwd, self.env = name, cwd, env
        self.lock = asyncio.Lock()
        self.manager: Any = None
        self.client: Any = None

    async def start(self) -> None:
        import zmq.asyncio
        from jupyter_client.manager import AsyncKernelManager

        await self.stop()
        context = zmq.asyncio.Context()
        context.rcvhwm = 0  # a kernel drops output that is not read fast enough
        file = os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], f"{self.name}.json")
        # Abstract unix sockets: not every file system has sockets, and names of sockets are short
        address = f"@pyvmm-{os.getpid()}-{self.name}"
        self.manager = AsyncKernelManager(transport="ipc", ip=address, connection_file=file, context=context)
        await self.manager.start_kernel(cwd=self.cwd or os.getcwd(), env={**os.environ, **self.env})
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=START_S)

    async def stop(self) -> None:
        if self.client is not None:
            self.client.stop_channels()
            self.client = None
        if self.manager is not None:
            await self.manager.shutdown_kernel(now=True)
            self.manager = None

    def signal(self, number: int) -> None:
        """Send a signal to the kernel and the programs that it has started."""
        if self.manager is not None and self.manager.provisioner is not None:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self.manager.provisioner.pid, number)

    async def run(self, code: str, send: Any) -> None:
        """Run code to its end, and send what it does."""
        if self.client is None:
            await self.start()
        client, code_id = self.client, self.client.execute(code, allow_stdin=False)
        count = 0
        while True:
            try:
                message = await client.get_iopub_msg(timeout=LOOK_S)
            except queue.Empty:
                if await self.manager.is_alive():
                    continue
                await self.stop()
                await send({"error": {"name": "KernelDied", "value": "the kernel has ended", "traceback": ""}})
                break
            if message["parent_header"].get("msg_id") != code_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind == "execute_input":
                count = content["execution_count"]
            else:
                await self.report(kind, content, send)
        if self.client is not None:
            with contextlib.suppress(queue.Empty):
                await self.client.get_shell_msg(timeout=LOOK_S)  # repeats the status
        await send({"done": count})

    async def report(self, kind: str, content: dict[str, Any], send: Any) -> None:
        if kind == "stream":
            text = content["text"]
            for at in range(0, len(text), PIECE):
                await send({content["name"]: text[at : at + PIECE]})
        elif kind in RESULTS:
            size = len(json.dumps(content["data"]))
            if size > RESULT_MOST:
                await send({"stderr": f"a result of {size} bytes is too large, and was dropped\n"})
            else:
                await send({"result": content["data"], "main": kind == "execute_result"})
        elif kind == "error":
            lines = "\n".join(content["traceback"])
            await send({"error": {"name": content["ename"], "value": content["evalue"], "traceback": lines}})

    async def interrupt(self, running: asyncio.Task[None]) -> None:
        """End code whose client has gone; its state stays, unless it ignores the interrupt."""
        self.signal(signal.SIGINT)
        _, late = await asyncio.wait([running], timeout=INTERRUPT_S)
        if late:
            running.cancel()
            await asyncio.wait([running])
            await self.stop()

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "cwd": self.cwd}


class Server:
    def __init__(self) -> None:
        self.kernels: dict[str, Kernel] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(event: dict[str, Any]) -> None:
            with contextlib.suppress(ConnectionError):  # the client has gone, which ends do_run()
                writer.write(json.dumps(event).encode() + b"\n")
                await writer.drain()

        try:
            request = json.loads(await reader.readline())
            await getattr(self, "do_" + request.pop("op"))(reader, send, **request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        except Exception as error:
            await send({"failed": f"{type(error).__name__}: {error}"})
        finally:
            writer.close()

    def find(self, name: str) -> Kernel:
        if name == DEFAULT and name not in self.kernels:
            self.kernels[name] = Kernel(name, "", {})
        return self.kernels[name]

    async def do_run(self, reader: asyncio.StreamReader, send: Any, context: str, code: str) -> None:
        if context != DEFAULT and context not in self.kernels:
            await send({"unknown": context})
            return
        kernel = self.find(context)
        async with kernel.lock:
            gone = asyncio.ensure_future(reader.read(1))
            running = asyncio.ensure_future(kernel.run(code, send))
            await asyncio.wait([gone, running], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                gone.cancel()
            else:
                await kernel.interrupt(running)
        if not running.cancelled():
            running.result()

    async def do_create(self, reader: asyncio.StreamReader, send: Any, cwd: str, env: dict[str, str]) -> None:
        kernel = Kernel(uuid.uuid4().hex[:12], cwd, env)
        await kernel.start()
        self.kernels[kernel.name] = kernel
        await send({"context": kernel.describe()})

    async def do_list(self, reader: asyncio.StreamReader, send: Any) -> None:
        await send({"contexts": [kernel.describe() for kernel in self.kernels.values()]})

    async def do_restart(self, reader: asyncio.StreamReader, send: Any, context: str) -> None:
        if context not in self.kernels:
            await send({"unknown": context})
            return
        kernel = self.kernels[context]
        kernel.signal(signal.SIGKILL)  # ends code that runs
        async with kernel.lock:
            await kernel.start()
        await send({"context": kernel.describe()})

    async def do_remove(self, reader: asyncio.StreamReader, send: Any, context: str) -> None:
        if context not in self.kernels:
            await send({"unknown": context})
            return
        kernel = self.kernels.pop(context)
        kernel.signal(signal.SIGKILL)
        async with kernel.lock:
            await kernel.stop()
        await send({"context": kernel.describe()})


async def serve_forever(listener: socket.socket) -> None:
    server = await asyncio.start_server(Server().serve, sock=listener, limit=REQUEST_MOST)
    async with server:
        await server.serve_forever()


def main(port: int) -> None:
    try:
        import ipykernel  # noqa: F401
        import jupyter_client  # noqa: F401
        import zmq.asyncio  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(MISSING)
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        sys.exit(BUSY if error.errno == BUSY else f"port {port}: {error}")
    if os.fork():
        os._exit(0)  # it listens
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.environ["JUPYTER_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="kernels-")
    asyncio.run(serve_forever(listener))


if __name__ == "__main__":
    main(int(sys.argv[1]))
