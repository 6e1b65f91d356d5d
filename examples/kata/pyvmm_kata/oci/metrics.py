"""``pyvmm-oci metrics [--listen ADDRESS]``: the counters of all machines and the node, in Prometheus's format.

The machines are those of the containers below ``--root``, and those of containerd's shims. A thread queries each, and
none is waited for longer than :data:`SCRAPE_S`: its holder may hang, and lie.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pyvmm_kata import state
from pyvmm_kata.errors import ConfigError, HostError, VmmError
from pyvmm_kata.oci.options import VALUE, parse
from pyvmm_kata.protocol import control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyvmm_kata.oci.context import Context
    from pyvmm_kata.state import Json

SHIMS = "/run/pyvmm/shim"
ANSWER_S = 3.0
SCRAPE_S = 4.0
AGAIN_S = 1.0
"""Seconds for which scrapes get the same answer."""
CLIENT_S = 10.0
MAX_ANSWER = 1 << 20
MAX_ROWS = 256
"""Devices, interfaces or counters of a machine, containers of a pod."""
MAX_LABEL = 256
TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE, UNTYPED = "counter", "gauge", "untyped"

METRICS = {
    "pyvmm_sandboxes": (GAUGE, "Virtual machines with containers."),
    "pyvmm_scrape_failures": (GAUGE, "Of these, how many did not answer this scrape."),
    "pyvmm_scrape_duration_seconds": (GAUGE, "How long this scrape took."),
    "pyvmm_node_memory_total_bytes": (GAUGE, "Memory of the node."),
    "pyvmm_node_memory_available_bytes": (GAUGE, "Memory of the node that can be used without swapping."),
    "pyvmm_sandbox_up": (GAUGE, "1: the process that holds the machine has answered."),
    "pyvmm_sandbox_guest_up": (GAUGE, "1: the agent in the guest has told the figures of all containers."),
    "pyvmm_sandbox_memory_size_bytes": (GAUGE, "Memory that the guest has."),
    "pyvmm_sandbox_vcpus": (GAUGE, "Virtual CPUs."),
    "pyvmm_sandbox_cpu_seconds_total": (COUNTER, "CPU time of the machine's processes on the host, guest included."),
    "pyvmm_sandbox_resident_bytes": (GAUGE, "Memory of these, guest included; what two of them share counts twice."),
    "pyvmm_sandbox_threads": (GAUGE, "Threads of these."),
    "pyvmm_sandbox_vcpu_events_total": (COUNTER, "What KVM counts of a vCPU; c, python: exits that those answered."),
    "pyvmm_sandbox_device_events": (UNTYPED, "What a virtio device counts."),
    "pyvmm_sandbox_network_bytes_total": (COUNTER, "Bytes of a network interface of the guest's."),
    "pyvmm_sandbox_network_packets_total": (COUNTER, "Packets of a network interface of the guest's."),
    "pyvmm_sandbox_network_errors_total": (COUNTER, "Errors of a network interface of the guest's."),
    "pyvmm_sandbox_network_dropped_total": (COUNTER, "Packets that a network interface of the guest's has dropped."),
    "pyvmm_container_cpu_seconds_total": (COUNTER, "CPU time of a container's processes, as the guest counts it."),
    "pyvmm_container_cpu_throttled_seconds_total": (COUNTER, "Time for which a container's CPU limit has stopped it."),
    "pyvmm_container_memory_usage_bytes": (GAUGE, "Memory of a container, with its page cache."),
    "pyvmm_container_memory_max_usage_bytes": (GAUGE, "The most that it was."),
    "pyvmm_container_memory_limit_bytes": (GAUGE, "Its limit, where there is one."),
    "pyvmm_container_oom_kills_total": (COUNTER, "Processes that were killed because a container's memory ran out."),
    "pyvmm_container_processes": (GAUGE, "Processes and threads of a container."),
}
"""Of each its type and its help, in the order of the text."""


class Asked(NamedTuple):
    """A machine that is asked.

    :ivar sandbox_id: its id, known without its answer
    :ivar kind: ``oci`` or ``containerd``
    :ivar pid: of the process that holds it
    :ivar ask: takes seconds, returns what :func:`pyvmm_kata.pod.statistics.collect` made
    """

    sandbox_id: str
    kind: str
    pid: int
    ask: Callable[[float], Json]


def main(context: Context, arguments: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    options, rest = parse(arguments, {"listen": VALUE, "shims": VALUE}, {}, "metrics")
    if rest:
        raise ConfigError(f"metrics: {rest[0]!r} is one argument too many", code="oci-usage")
    shims = options["shims"] or SHIMS
    if options["listen"]:
        _serve(options["listen"], lambda: scrape(context, shims))
        return 0
    sys.stdout.write(scrape(context, shims))
    return 0


def scrape(context: Context, shims: str) -> str:
    """The text of all metrics, after :data:`SCRAPE_S` at the latest."""
    began = time.monotonic()
    machines = [*_of_runtime(context), *_of_shims(shims)]
    answers: dict[int, Json] = {}

    def ask(number: int) -> None:
        try:
            answers[number] = machines[number].ask(ANSWER_S)
        except (VmmError, OSError, ValueError, RecursionError):
            pass  # it is not up

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(machines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + SCRAPE_S - time.monotonic()))
    page = Page()
    good = 0
    for number, machine in enumerate(machines):
        good += _write_machine(page, machine, answers.get(number))
    page.add("pyvmm_sandboxes", len(machines))
    page.add("pyvmm_scrape_failures", len(machines) - good)
    for name, field in (("total", "MemTotal"), ("available", "MemAvailable")):
        page.add(f"pyvmm_node_memory_{name}_bytes", state.number_in("/proc/meminfo", field, 1024))
    page.add("pyvmm_scrape_duration_seconds", round(time.monotonic() - began, 6))
    return page.text()


# -- who is asked ----------------------------------------------------------------------------------------------------


def _of_runtime(context: Context) -> list[Asked]:
    """The machines of containers of ``pyvmm-oci``: containers with the same monitor share one."""
    found: dict[int, tuple[str, str, str]] = {}
    for name in os.listdir(context.root) if os.path.isdir(context.root) else ():
        try:
            known = state.read(os.path.join(context.root, name)) if not name.startswith("@") else {}
        except (ConfigError, KeyError, TypeError):
            continue  # it is being made, or removed, or is no container
        if known.get("status") in ("created", "running", "paused") and "monitor" in known:
            entry = str(known.get("created", "")), name, os.path.join(context.root, name)
            found[known["monitor"]] = min(entry, found.get(known["monitor"], entry))

    def asker(folder: str) -> Callable[[float], Json]:
        return lambda timeout: control.call(folder, "figures", timeout)

    return [Asked(name, "oci", pid, asker(folder)) for pid, (_, name, folder) in found.items()]


def _of_shims(root: str) -> Iterator[Asked]:
    for name in os.listdir(root) if os.path.isdir(root) else ():
        folder = os.path.join(root, name)
        try:
            with open(os.path.join(folder, "pid")) as file:
                pid, began = (int(word) for word in file.read().split())
        except (OSError, ValueError):
            continue
        if state.is_alive(pid, began):
            yield Asked(_id_of_shim(pid) or name, "containerd", pid, _shim_asker(os.path.join(folder, "shim.sock")))


def _id_of_shim(pid: int) -> str:
    """The container that containerd named on its command line: the pod's first one, whose id is the pod's."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        return os.fsdecode(words[words.index(b"-id") + 1])
    except (OSError, ValueError, IndexError):
        return ""


def _shim_asker(path: str) -> Callable[[float], Json]:
    def ask(timeout: float) -> Json:
        from pyvmm_kata.protocol import protobuf, ttrpc

        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
            sock.settimeout(None)
        except OSError:
            sock.close()
            raise
        client = ttrpc.Client(sock, "the shim")
        try:
            request = protobuf.message("google.protobuf.Empty")()
            answer = json.loads(client.call("pyvmm.Monitor", "Figures", request, timeout, MAX_ANSWER).json)
        except (ttrpc.RpcError, ttrpc.ConnectionLost) as error:
            raise HostError(f"{path}: {error}", code="metrics") from error
        finally:
            client.close()
        return answer if isinstance(answer, dict) else {}

    return ask


# -- what is written -------------------------------------------------------------------------------------------------


class Page:
    """The text, in Prometheus's format: the lines of a metric stand together."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, str]] = {name: {} for name in METRICS}

    def add(self, metric: str, value: object, /, **labels: object) -> None:
        """A line, if the value is a number; the labels are not trusted, and the first of equal ones counts."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        line = f"{metric}{{{pairs}}} {value}" if pairs else f"{metric} {value}"
        self._lines[metric].setdefault(pairs, line)

    def text(self) -> str:
        """All of it."""
        made = ""
        for name, lines in self._lines.items():
            if lines:
                kind, words = METRICS[name]
                made += f"# HELP {name} {words}\n# TYPE {name} {kind}\n" + "".join(
                    f"{line}\n" for line in lines.values()
                )
        return made


def _escape(text: object) -> str:
    shown = str(text)[:MAX_LABEL].encode(errors="replace").decode()
    return shown.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _write_machine(page: Page, machine: Asked, answer: Json | None) -> bool:
    """The lines of one machine; and whether it has answered."""
    labels = {"sandbox_id": machine.sandbox_id, "kind": machine.kind}
    page.add("pyvmm_sandbox_up", int(answer is not None), **labels)
    mine = {"sandbox_id": machine.sandbox_id}
    # The machine itself, the server of its share, the faces
    pids = state.descendants(machine.pid, MAX_ROWS)
    for mode, seconds in _cpu_seconds(pids).items():
        page.add("pyvmm_sandbox_cpu_seconds_total", seconds, **mine, mode=mode)
    for name, field, unit in (("resident_bytes", "VmRSS", 1024), ("threads", "Threads", 1)):
        page.add(
            f"pyvmm_sandbox_{name}",
            sum(state.number_in(f"/proc/{pid}/status", field, unit) or 0 for pid in pids),
            **mine,
        )
    if answer is None:
        return False
    page.add("pyvmm_sandbox_guest_up", int(answer.get("answered") is True), **mine)
    page.add("pyvmm_sandbox_memory_size_bytes", answer.get("memory"), **mine)
    page.add("pyvmm_sandbox_vcpus", answer.get("vcpus"), **mine)
    counted = _object(answer.get("machine"))
    for index, vcpu in enumerate(_rows(counted.get("vcpus"))):
        for event, value in list(vcpu.items())[:MAX_ROWS]:
            page.add("pyvmm_sandbox_vcpu_events_total", value, **mine, vcpu=index, event=event)
    for index, device in enumerate(_rows(counted.get("devices"))):
        for event, value in list(device.items())[:MAX_ROWS]:
            name = device.get("name", "")
            page.add("pyvmm_sandbox_device_events", value, **mine, device=index, name=name, event=event)
    containers = list(_object(answer.get("containers")).items())[:MAX_ROWS]
    for number, (container_id, figures) in enumerate(containers):
        _write_container(page, mine, container_id, _object(figures))
        if not number:  # they are the same for all of them
            _write_network(page, mine, _object(figures).get("network_interfaces"))
    return True


def _write_container(page: Page, mine: Json, container_id: str, figures: Json) -> None:
    labels = {**mine, "container_id": container_id}
    cpu, memory = _object(figures.get("cpu")), _object(figures.get("memory"))
    used = _object(cpu.get("usage"))
    for mode, field in (("user", "user"), ("system", "kernel")):
        page.add("pyvmm_container_cpu_seconds_total", _seconds(used.get(field)), **labels, mode=mode)
    stopped = _object(cpu.get("throttling")).get("throttledTime")
    page.add("pyvmm_container_cpu_throttled_seconds_total", _seconds(stopped), **labels)
    usage = _object(memory.get("usage"))
    page.add("pyvmm_container_memory_usage_bytes", usage.get("usage"), **labels)
    page.add("pyvmm_container_memory_max_usage_bytes", usage.get("max"), **labels)
    limit = usage.get("limit")
    page.add("pyvmm_container_memory_limit_bytes", None if limit in (0, (1 << 64) - 1) else limit, **labels)
    page.add("pyvmm_container_oom_kills_total", _object(memory.get("raw")).get("events.oom_kill"), **labels)
    page.add("pyvmm_container_processes", _object(figures.get("pids")).get("current"), **labels)


def _write_network(page: Page, mine: Json, interfaces: object) -> None:
    for net in _rows(interfaces):
        for kind in ("Bytes", "Packets", "Errors", "Dropped"):
            for way, prefix in (("receive", "Rx"), ("transmit", "Tx")):
                labels = {**mine, "interface": net.get("Name", ""), "direction": way}
                page.add(f"pyvmm_sandbox_network_{kind.lower()}_total", net.get(prefix + kind), **labels)


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _rows(value: object) -> list[Json]:
    return [_object(row) for row in value[:MAX_ROWS]] if isinstance(value, list) else []


def _seconds(nanoseconds: object) -> float | None:
    return nanoseconds / 1e9 if isinstance(nanoseconds, int) else None


def _cpu_seconds(pids: Sequence[int]) -> dict[str, float]:
    """Of all threads of processes, and of their children that have ended (proc_pid_stat(5))."""
    user = system = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        user += int(fields[11]) + int(fields[13])
        system += int(fields[12]) + int(fields[14])
    tick = os.sysconf("SC_CLK_TCK")
    return {"user": user / tick, "system": system / tick}


# -- who asks --------------------------------------------------------------------------------------------------------


def _serve(address: str, make: Callable[[], str]) -> None:
    """Answer GET /metrics until SIGTERM or SIGINT."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    lock = threading.Lock()
    last: list[tuple[float, bytes]] = [(-AGAIN_S, b"")]

    def page() -> bytes:
        with lock:
            if time.monotonic() - last[0][0] >= AGAIN_S:
                last[0] = time.monotonic(), make().encode()
            return last[0][1]

    class Server(ThreadingHTTPServer):
        """On a socket of ours."""

        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore it: the client has closed the connection."""

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        timeout = CLIENT_S

        def do_GET(self) -> None:
            """Answer it."""
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "there is /metrics")
                return
            body = page()
            self.send_response(200)
            self.send_header("Content-Type", TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            """A unix socket has none."""
            return "client"

        def log_message(self, format: str, *words: object) -> None:
            """Log nothing: a scrape comes every few seconds."""

    listener = _listener(address)
    server = Server(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
    try:
        server.serve_forever()
    finally:
        listener.close()
        if "/" in address:
            os.unlink(address)


def _listener(address: str) -> socket.socket:
    """A listening socket: a path contains a slash; otherwise it is HOST:PORT, on this host only.

    :raises ConfigError: it is not such an address
    :raises HostError: it cannot be had
    """
    host, colon, port = address.rpartition(":")
    try:
        if "/" in address:
            return _unix_listener(address)
        if host not in ("127.0.0.1", "localhost", "[::1]") or not (port.isascii() and port.isdigit() and colon):
            raise ConfigError(
                f"metrics: --listen {address!r:.120} is neither 127.0.0.1:PORT nor a path",
                code="oci-usage",
                hint="it has no password: a proxy can, and lead to others",
            )
        family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=64)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise HostError(f"metrics: --listen {address}: {reason}", code="oci-listen") from error


def _unix_listener(path: str) -> socket.socket:
    """A socket that only its owner may connect to, replacing one without a listener."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        finally:
            probe.close()
        before = os.umask(0o177)
        try:
            made.bind(path)
        finally:
            os.umask(before)
        made.listen(64)
    except OSError:
        made.close()
        raise
    return made
