"""Traces of requests, by OpenTelemetry: sent with OTLP over HTTP where the environment names a receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from pyvmm_server import threads
from vmm import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger("pyvmm_server")
VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_MOST = 4096
"""Spans that wait; newer ones replace the oldest."""
_EVERY_S = 2.0
_BATCH = 512
_tracer: Tracer | None = None
_exporter: SpanExporter | None = None
_ended: deque[ReadableSpan] = deque(maxlen=_MOST)


def is_wanted() -> bool:
    """Whether the environment names a receiver."""
    return any(os.environ.get(name) for name in VARIABLES)


def is_on() -> bool:
    """Whether spans are noted."""
    return _tracer is not None


def set_up() -> None:
    """Begin to note spans.

    :raises ConfigError: the packages are missing
    """
    global _tracer, _exporter
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError as error:
        hint = "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http, or unset it"
        raise ConfigError(f"{VARIABLES[0]} needs packages that are missing: {error}", hint=hint) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "pyvmm-server"}), shutdown_on_exit=False)
    _add_processor(provider)
    _tracer = provider.get_tracer("pyvmm_server")
    _exporter = OTLPSpanExporter()


def _add_processor(provider: TracerProvider) -> None:
    """The one of the SDK has a thread, which it would start in each forked process, too: in those of machines."""
    from opentelemetry.sdk.trace import SpanProcessor

    class Waiting(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            _ended.append(span)

    provider.add_span_processor(Waiting())


async def send() -> None:
    """Send spans that have ended, until cancelled; then the last ones."""
    assert _exporter is not None
    try:
        while True:
            await asyncio.sleep(_EVERY_S)
            await _send(_exporter)
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_send(_exporter), _EVERY_S)
        raise


async def _send(exporter: SpanExporter) -> None:

    while _ended:
        batch = [_ended.popleft() for _ in range(min(len(_ended), _BATCH))]
        try:
            await threads.call(exporter.export, batch)
        except Exception as error:
            log.warning("traces cannot be sent: %s", error)


@contextlib.contextmanager
def span(name: str, **attributes: Any) -> Iterator[Span | None]:
    """A part of what is done for a request; an error is noted in it."""
    if _tracer is None:
        yield None
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as found:
        yield found


@contextlib.contextmanager
def request(headers: Mapping[str, str]) -> Iterator[Span | None]:
    """A request, as a part of its client's trace if it names one (https://www.w3.org/TR/trace-context/)."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(headers)
    with _tracer.start_as_current_span("request", context, SpanKind.SERVER) as found:
        yield found


def name_request(found: Span | None, method: str, route: str, status: int, sandbox: str) -> str:
    """Complete a request's span; its trace's id, or nothing."""
    if found is None:
        return ""
    from opentelemetry.trace import Status, StatusCode

    found.update_name(f"{method} {route}")
    found.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if sandbox:
        found.set_attribute("pyvmm.sandbox", sandbox)
    if status >= 500:
        found.set_status(Status(StatusCode.ERROR))
    return format(found.get_span_context().trace_id, "032x")
