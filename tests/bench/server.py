"""The server of sandboxes: its memory with idle sandboxes, requests a second, and what HTTP adds to a start.

It runs on this machine itself, with the fake machines of the tests: their programs are processes here.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.row import Row
from tests.server.conftest import Server, running

CONNECTIONS = 8


def measure(sandboxes: int, seconds: float) -> dict[str, Any]:
    """
    :param sandboxes: idle ones
    :param seconds: of requests
    """
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as server:
        with httpx.Client(base_url=server.url, headers={"X-API-Key": "e2b_0"}, timeout=60) as client:
            _create(client)  # the first one imports what the others find
            started, computed = _start_seconds(client), _cpu(server)
            took = [_create(client) for _ in range(sandboxes - 1)]
            inside = (_start_seconds(client) - started) / (sandboxes - 1)
            computed = (_cpu(server) - computed) / (sandboxes - 1)
            figures: dict[str, Any] = {
                "sandboxes": sandboxes,
                "memory": _memory(server),
                "few_per_s": asyncio.run(_requests(server, "/v2/sandboxes?limit=1", seconds)),
                "all_per_s": asyncio.run(_requests(server, "/v2/sandboxes", seconds)),
                "create_s": took,
                "create_cpu_s": computed,
                "start_s": inside,
            }
            for each in client.get("/v2/sandboxes").json():
                client.delete(f"/sandboxes/{each['sandboxID']}")
    words = f"{figures['memory'] >> 20} MiB, {figures['few_per_s']:.0f} and {figures['all_per_s']:.0f} requests/s"
    os.write(2, f"    {sandboxes} sandboxes: {words}\n".encode())
    return figures


def _create(client: httpx.Client) -> float:
    began = time.perf_counter()
    client.post("/v2/sandboxes", json={"templateID": "base", "timeout": 3600}).raise_for_status()
    return time.perf_counter() - began


def _start_seconds(client: httpx.Client) -> float:
    """Of all sandboxes, in the library."""
    name, phase = "pyvmm_server_create_seconds_sum", {"phase": "start"}
    families = text_string_to_metric_families(client.get("/metrics").text)
    return next(each.value for of in families for each in of.samples if each.name == name and each.labels == phase)


def _memory(server: Server) -> int:
    """Of the server's process, in bytes; its pages that the machines' processes share with it count, too."""
    assert server.process is not None
    found = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(found.partition("\nVmRSS:")[2].split()[0]) << 10


def _cpu(server: Server) -> float:
    """Seconds that the server has computed."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _requests(server: Server, path: str, seconds: float) -> float:
    """How many are answered in a second of the server's CPU time, on connections that stay.  The server has one thread
    for them: that is the rate where nobody else needs its CPU.
    """
    before = _cpu(server)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: e2b_0\r\n\r\n".encode()
    until = time.monotonic() + seconds

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20)
        count = 0
        while time.monotonic() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            count += 1
        writer.close()
        return count

    count = sum(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))
    return count / (_cpu(server) - before)


def rows(figures: dict[str, Any]) -> list[Row]:
    """The lines of the table."""
    count = figures["sandboxes"]
    added = (statistics.mean(figures["create_s"]) - figures["start_s"]) * 1e3
    return [
        Row(f"server: memory, {count} idle sandboxes", figures["memory"] / 1e6, "MB", must=100, ratio=False),
        Row(
            "server: GET /v2/sandboxes, one in the answer",
            figures["few_per_s"],
            "1/s",
            must=1000,
            at_least=True,
            ratio=False,
        ),
        Row(
            f"server: GET /v2/sandboxes, {count} in the answer",
            figures["all_per_s"],
            "1/s",
            must=1000,
            at_least=True,
            ratio=False,
        ),
        Row("server: CPU time of a create, with the library's start", figures["create_cpu_s"] * 1e3, "ms", ratio=False),
        Row("server: create, beside the library's start", added, "ms", must=15, ratio=False),
    ]
