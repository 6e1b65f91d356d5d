"""Times of the steps of a container's start and end, which ``--debug`` writes into the log, and those of a pod's start,
which ``traces`` in ``kata.toml`` sends to an OpenTelemetry collector.

The monitor of a container keeps the steps of its start, too, and writes them into the container's state.

Without any, nothing is recorded. A separate process sends a trace (``python -m pyvmm_kata.timeline URL``). It waits
until the pod has started, and imports its modules only then, so the pod does not wait for it. The machine's process has
no network of the host.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PACKAGES = "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http"
SEND_S = 5.0
"""Seconds for a collector to answer."""
MOST = 1 << 20
"""Bytes of a trace."""

MOST_KEPT = 64
"""Steps of a start."""

_tell: Callable[[str, float], None] | None = None
_trace: Trace | None = None
_kept: list[tuple[str, float]] | None = None


def tell(teller: Callable[[str, float], None]) -> None:
    """Call *teller* with each event and its time, in seconds of CLOCK_MONOTONIC; in children of this process, too."""
    global _tell
    _tell = teller


def is_told() -> bool:
    """Whether events are recorded."""
    return _tell is not None


def note(what: str, at: float = 0.0) -> None:
    """Record an event, which happened at *at*, by default now."""
    if _tell is not None:
        _tell(what, at or time.monotonic())
    if _kept is not None and len(_kept) < MOST_KEPT:
        _kept.append((what, at or time.monotonic()))
    if _trace is not None:
        _trace.steps.append((what, time.time_ns() - (time.monotonic_ns() - int(at * 1e9) if at else 0)))


def keep() -> None:
    """From now on, keep what is recorded for :func:`kept`."""
    global _kept
    _kept = []


def kept() -> list[tuple[str, float]]:
    """The recorded steps, and when each ended, in seconds of CLOCK_MONOTONIC."""
    return list(_kept or ())


# -- a pod's start, for a collector ----------------------------------------------------------------------------------


class Trace(NamedTuple):
    """
    :ivar fd: of a pipe to the sending process
    :ivar began: nanoseconds of CLOCK_REALTIME
    :ivar steps: the steps and their times: each began at the end of the one before
    """

    fd: int
    began: int
    steps: list[tuple[str, int]]


def start_sender(url: str) -> int:
    """A process that sends one trace to a collector; returns the descriptor of a pipe to it."""
    import subprocess
    import threading

    command = [sys.executable, "-m", "pyvmm_kata.timeline", url]
    path = os.pathsep.join(sys.path)
    sender = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert sender.stdin is not None
    fd = os.dup(sender.stdin.fileno())
    sender.stdin.close()
    threading.Thread(target=sender.wait, name="traces", daemon=True).start()
    return fd


def begin(fd: int, began: int = 0) -> None:
    """From now on, or from *began* on, recorded events are steps of a trace, until :func:`finish`.

    :param fd: of :func:`start_sender`, which is taken over
    """
    global _trace
    _trace = Trace(fd, began or time.time_ns(), [])


def finish(attributes: Mapping[str, str], error: str = "") -> None:
    """Send the trace, if there is one: the start is over.

    :param attributes: of the pod, by OpenTelemetry's names
    :param error: why it has failed
    """
    global _trace
    trace, _trace = _trace, None
    if trace is None:
        return
    told = {**trace._asdict(), "ended": time.time_ns(), "attributes": attributes, "error": error}
    try:
        with open(trace.fd, "w") as file:
            json.dump(told, file)
    except OSError:
        pass  # the sender has died, and the pod is none the worse


# -- the process that sends it ---------------------------------------------------------------------------------------


def send(url: str, trace: Mapping[str, Any]) -> None:
    """Send a trace with OTLP over HTTP (https://opentelemetry.io/docs/specs/otlp/): a span for the pod's start, and one
    below it for each step.

    :raises ImportError: OpenTelemetry's packages are missing
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    provider = TracerProvider(resource=Resource.create({"service.name": "containerd-shim-pyvmm-v2"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=SEND_S)))
    tracer = provider.get_tracer("pyvmm_kata")
    root = tracer.start_span("pod start", start_time=trace["began"], attributes=trace["attributes"])
    inside, since = set_span_in_context(root), trace["began"]
    for what, at in trace["steps"]:
        tracer.start_span(what, inside, start_time=since).end(at)
        since = at
    if trace["error"]:
        root.set_status(Status(StatusCode.ERROR, trace["error"]))
    root.end(trace["ended"])
    provider.shutdown()


def main(arguments: Sequence[str]) -> int:
    """Send the trace that comes on standard input to the collector at a URL; without one, end."""
    text = sys.stdin.buffer.read(MOST)
    if not text:
        return 0
    try:
        send(arguments[0], json.loads(text))
    except ImportError as error:
        sys.stderr.write(f"traces: {error}: install {PACKAGES} for {sys.executable}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
