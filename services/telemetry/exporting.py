"""Where spans go: each exporter behind a bounded queue and a thread of its own, so that none can hold up a service.

What an exporter does not take in time, or refuses, twice, is dropped and counted; it is never waited for.
"""

import contextlib
import http.client
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

DELAY_S: Final = 0.2  # a SIGKILL costs what ended in so long
QUEUE: Final = 2_048  # spans
BATCH: Final = 512
TIMEOUT_S: Final = 2.0  # of a call to a trace store
LONGEST_PAUSE_S: Final = 5.0  # before the next try, while a trace store does not answer
FILE_BOUND: Final = 32 * 1024 * 1024  # bytes of a span file, and of the one before it


class Exporter(Protocol):
    """What takes spans away. Raises whatever it likes when it cannot."""

    def export(self, spans: Sequence[ReadableSpan]) -> Any: ...


class Outlet:
    """One exporter, its queue and its thread. `make` is called in the thread, when it starts: imports are slow, and a
    process that makes its first span after hours shall not grow by them."""

    def __init__(self, name: str, make: Callable[[], Exporter], dropped: Callable[[int], None]) -> None:
        self._make = make
        self._dropped = dropped
        self._queue: deque[ReadableSpan] = deque()
        self._filled = threading.Event()
        self._closed = False
        self._exporter: Exporter | None = None
        self._failures = 0  # in a row
        self._thread = threading.Thread(target=self._run, name=f"spans to {name}", daemon=True)
        self._thread.start()

    def put(self, span: ReadableSpan) -> None:
        """Queue a span; a full queue drops it."""
        if len(self._queue) >= QUEUE:
            self._dropped(1)
            return
        self._queue.append(span)
        self._filled.set()

    def close(self, timeout_s: float) -> None:
        """Send what is queued, as far as it goes in this time."""
        self._closed = True
        self._filled.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # it is made when it is asked for, and what fails is counted then
            self._ready()
        while self._queue or not self._closed:
            self._filled.wait()
            if not self._closed:
                time.sleep(DELAY_S)
            self._filled.clear()
            while self._queue:
                self._export([self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))])

    def _export(self, spans: Sequence[ReadableSpan]) -> None:
        """Of a store that answered until now one silence is no absence: the machine may have stood still."""
        if self._sent(spans) or (self._failures == 1 and self._sent(spans)):
            return
        self._dropped(len(spans))
        if not self._closed:
            time.sleep(min(DELAY_S * 2**self._failures, LONGEST_PAUSE_S))

    def _ready(self) -> Exporter:
        if self._exporter is None:
            self._exporter = self._make()
        return self._exporter

    def _sent(self, spans: Sequence[ReadableSpan]) -> bool:
        try:
            self._ready().export(spans)
        except Exception:  # whatever it is: telemetry never ends a service
            self._failures += 1
            return False
        self._failures = 0
        return True


class SpanFile:
    """JSON lines, the lab's own store: complete, with links and types. Renamed to `….1` when it has grown too large."""

    def __init__(self, file: Path, bound: int = FILE_BOUND) -> None:
        self._file = file
        self._bound = bound
        self._encoder = msgspec.json.Encoder(enc_hook=str)

    def export(self, spans: Sequence[ReadableSpan]) -> None:
        """Append. Raises OSError."""
        data = b"".join(self._encoder.encode(document(span)) + b"\n" for span in spans)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if self._file.exists() and self._file.stat().st_size + len(data) > self._bound:
            self._file.replace(self._file.with_name(f"{self._file.name}.1"))
        # opened each time: another life or command may have renamed it
        descriptor = os.open(self._file, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o640)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def document(span: ReadableSpan) -> dict[str, Any]:
    """A span as a line of the file; times are Unix nanoseconds."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None  # noqa: S101  # every span of ours has one
    return {
        "trace_id": format_trace_id(context.trace_id),
        "span_id": format_span_id(context.span_id),
        "parent_id": format_span_id(parent.span_id) if parent else "",
        "name": span.name,
        "kind": span.kind.name.lower(),
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name.lower(),
        "message": span.status.description or "",
        "resource": dict(span.resource.attributes),
        "attributes": dict(span.attributes or {}),
        "links": [_link(link.context, link.attributes or {}) for link in span.links],
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": dict(event.attributes or {})}
            for event in span.events
        ],
    }


def _link(context: SpanContext, attributes: Any) -> dict[str, Any]:
    ids = {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}
    return {**ids, "attributes": dict(attributes)}


class TraceStore:
    """An exporter of OpenTelemetry's that says by its result whether it could."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> None:
        """Send. Raises ConnectionError when they were not taken."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415  # a slow import, in this thread

        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise ConnectionError("the trace store does not take them")


class _Answer(NamedTuple):
    status_code: int
    text: str


class _Line:
    """What the exporter asks of a `requests` session, on one connection that is kept: five calls a second, in which
    `requests` takes most of what a span costs."""

    def __init__(self, address: str) -> None:
        self.headers: dict[str, str] = {}
        where = urlsplit(address)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(where.netloc, timeout=TIMEOUT_S)

    def post(self, *, url: str, data: str | bytes, timeout: float) -> _Answer:  # the connection's own
        """Raises OSError, HTTPException: the connection is made anew with the next call."""
        try:
            self._connection.request("POST", urlsplit(url).path, body=data, headers=self.headers)
            answer = self._connection.getresponse()
            return _Answer(answer.status, answer.read().decode(errors="replace"))
        except BaseException:
            self._connection.close()
            raise


def zipkin(address: str) -> TraceStore:
    """Zipkin's JSON by HTTP. It has no links: they are attributes, too (`link.0.trace_id`)."""
    from opentelemetry.exporter.zipkin.json import ZipkinExporter  # noqa: PLC0415  # 0.13 s

    line: Any = _Line(address)
    return TraceStore(ZipkinExporter(endpoint=f"{address}/api/v2/spans", timeout=int(TIMEOUT_S), session=line))


def otlp(address: str) -> TraceStore:
    """OTLP over HTTP: to Tempo, a collector, or any other store."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # 0.1 s

    return TraceStore(OTLPSpanExporter(endpoint=f"{address}/v1/traces", timeout=TIMEOUT_S))


def outlets(
    file: Path | None, zipkin_address: str, otlp_address: str, dropped: Callable[[int], None]
) -> Iterator[Outlet]:
    """The outlets that the settings name."""
    if file is not None:
        yield Outlet("file", lambda: SpanFile(file), dropped)
    if zipkin_address:
        yield Outlet("zipkin", lambda: zipkin(zipkin_address.rstrip("/")), dropped)
    if otlp_address:
        yield Outlet("otlp", lambda: otlp(otlp_address.rstrip("/")), dropped)
