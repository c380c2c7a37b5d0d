"""Spans made after the fact: what is worth one, its ids, its bound; exporters that fail hold nobody up."""

import gzip
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from services.broker.producer import Record
from services.broker.sends import Sends, is_sampled
from services.broker.transactor import Fetched
from services.domain.arms import CONSUMER_ARMS
from services.domain.forwarding import Forwarding, forwarded, forwarding_of
from services.domain.messages import Coordinates, Message, decode
from services.payments.dispatch import Source
from services.payments.trail import Trails
from services.telemetry import exporting
from services.telemetry.budget import Budget
from services.telemetry.exporting import Outlet, SpanFile, document
from services.telemetry.tracecontext import continue_trace
from services.telemetry.tracing import Tracer, context_of, new_context, operation_context, traceparent_of
from tests.waiting import comes

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ORDER = b'{"order_id":"o-1","customer_id":"c-1","amount_cents":1,"currency":"EUR"}'


class Collected:
    """A way out that keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def put(self, span: ReadableSpan) -> None:
        self.spans.append(document(span))

    def close(self, _: float) -> None: ...

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.spans if span["name"] == name]


def tracer_of(ways: Collected, per_s: float = 1000.0) -> Tracer:
    return Tracer("arm.at_least_once#0", "a-life", ways=[ways], per_s=per_s)  # type: ignore[list-item]


def source(offset: int, flags: str = "00", life: Forwarding | None = None) -> tuple[Source, Message]:
    """A record of orders.v1 and its message."""
    at = Coordinates("orders.v1", 0, offset)
    headers = [
        ("ce_id", f"0190a1b2-0000-7000-8000-{offset:012d}".encode()),
        ("ce_type", b"lab.order.placed.v1"),
        ("traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode()),
    ]
    record = Fetched(at.topic, 0, offset, 1_000, b"c-1", ORDER, headers)
    life = life or Forwarding(origin=at)
    return Source(record, life), decode(b"c-1", ORDER, headers, at, via=life.via, attempts=life.attempts)  # type: ignore[arg-type]


def begun(ways: Collected, per_s: float = 1000.0, arm: str = "at_least_once") -> Trails:
    return Trails(tracer_of(ways, per_s), CONSUMER_ARMS[arm])


@pytest.mark.parametrize(("ratio", "flag"), [(0.0, "00"), (1.0, "01")])
def test_of_requests_without_a_trace_a_share_is_sampled(ratio: float, flag: str) -> None:
    assert continue_trace("", "", ratio=ratio).traceparent.endswith(flag)


def test_the_share_is_about_what_was_asked_for() -> None:
    sampled = sum(continue_trace("", "", ratio=0.25).sampled for _ in range(4000))
    assert 850 < sampled < 1150


def test_of_that_share_no_more_are_sampled_than_are_granted_and_only_they_are_asked_for() -> None:
    budget = Budget(per_s=1.0, burst=5.0, clock=lambda: 0.0)
    assert not any(continue_trace("", "", ratio=0.0, grant=budget.grant).sampled for _ in range(100))
    assert sum(continue_trace("", "", ratio=1.0, grant=budget.grant).sampled for _ in range(100)) == 5


def test_a_caller_decides_for_itself_and_is_the_parent() -> None:
    context = continue_trace(f"00-{TRACE}-{PARENT}-00", "", ratio=1.0)
    assert not context.sampled
    assert context.parent == f"00-{TRACE}-{PARENT}-00"


def test_an_unsampled_chunk_that_was_plainly_applied_makes_no_span() -> None:
    ways = Collected()
    trail = begun(ways).begin("g")
    pairs = [source(n) for n in range(5)]
    trail.take({one.life.origin: one for one, _ in pairs})
    assert trail.finish([message for _, message in pairs]) == {}
    assert ways.spans == []


def test_of_a_chunk_only_the_sampled_and_the_unplain_have_spans_that_link_to_it() -> None:
    ways = Collected()
    trail = begun(ways).begin("g")
    pairs = [source(0), source(1, "01"), source(2)]
    messages = [message for _, message in pairs]
    trail.take({one.life.origin: one for one, _ in pairs})
    with trail.step("record", messages[:2]):
        pass
    ids = trail.mark(messages[2].at, "deferred", reason="timeout")
    chunk = trail.finish(messages)
    first, second = ways.named("process orders.v1")
    assert [span["attributes"]["messaging.kafka.offset"] for span in (first, second)] == [1, 2]
    assert (second["span_id"], second["trace_id"], second["status"]) == (ids["span_id"], TRACE, "error")
    assert len(ways.named("INSERT records")) == 1
    (poll,) = ways.named("poll orders.v1")
    assert poll["span_id"] == chunk["span_id"] == first["links"][0]["span_id"] == first["attributes"]["link.0.span_id"]
    assert poll["attributes"]["messaging.batch.message_count"] == 3
    (receive, _) = ways.named("receive orders.v1")
    assert receive["parent_id"] == PARENT
    assert first["parent_id"] == receive["span_id"]


def test_spans_are_bounded_and_what_is_refused_has_none() -> None:
    ways = Collected()
    trail = begun(ways, per_s=1.0).begin("g")  # four at once
    pairs = [source(n, "01") for n in range(10)]
    trail.take({one.life.origin: one for one, _ in pairs})
    trail.finish([message for _, message in pairs])
    assert len(ways.named("process orders.v1")) == 4


def test_a_commit_ends_when_it_is_heard_of_and_only_for_what_lies_before_it() -> None:
    ways = Collected()
    trails = begun(ways)
    trail = trails.begin("g")
    pairs = [source(n, "01") for n in range(3)]
    trail.take({one.life.origin: one for one, _ in pairs})
    trail.finish([message for _, message in pairs])
    assert ways.named("commit orders.v1") == []
    trails.committed({"orders.v1/0": 2, "orders.v1/1": 9})
    commits = ways.named("commit orders.v1")
    assert [span["attributes"]["messaging.kafka.offset"] for span in commits] == [0, 1]
    trails.forget(["orders.v1/0"])
    trails.committed({"orders.v1/0": 9})
    assert len(ways.named("commit orders.v1")) == 2


def test_where_the_commit_comes_first_it_is_there_at_once() -> None:
    ways = Collected()
    trails = begun(ways, arm="at_most_once")
    trails.committed({"orders.v1/0": 1})
    trail = trails.begin("g")
    one, message = source(0, "01")
    trail.take({one.life.origin: one})
    trail.finish([message])
    assert len(ways.named("commit orders.v1")) == 1


def test_an_attempt_is_linked_to_the_one_before_and_to_what_brought_it() -> None:
    before = new_context(context_of(f"00-{TRACE}-{PARENT}-01"))
    origin = Coordinates("orders.v1", 0, 7)
    station = Forwarding(origin=origin, via="redrive", attempts=2, operation="redrive.a", span=traceparent_of(before))
    assert forwarding_of(forwarded([], station), origin) == station
    ways = Collected()
    trail = begun(ways).begin("g")
    one, message = source(7, life=station)
    trail.take({origin: one})
    trail.finish([message], special=True)
    (process,) = ways.named("process orders.v1")
    links = {link["attributes"]["delivery.link"]: link["span_id"] for link in process["links"]}
    assert links["attempt"] == f"{before.span_id:016x}"
    assert links["redrive"] == f"{operation_context('redrive.a').span_id:016x}"
    assert process["attributes"]["delivery.attempt"] == 3


def record(flags: str) -> Record:
    return "orders.v1", b"c-1", ORDER, [("ce_id", b""), ("traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())]


@pytest.mark.parametrize(("flags", "expected"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_the_sampled_flag_is_read_as_a_byte(flags: str, expected: bool) -> None:
    assert is_sampled(record(flags)[3]) is expected


def test_a_sampled_record_names_the_span_of_its_publication() -> None:
    ways = Collected()
    sends = Sends(tracer_of(ways), "outbox")
    records = [record("00"), record("01")]
    sends.end(sends.begin(records), {})
    (send,) = ways.named("send orders.v1")
    assert records[0][3][-1][1] == f"00-{TRACE}-{PARENT}-00".encode()
    assert records[1][3][-1][1] == f"00-{TRACE}-{send['span_id']}-01".encode()
    assert send["parent_id"] == PARENT


def test_what_the_catalogue_lacks_cannot_be_said() -> None:
    tracer = tracer_of(Collected())
    with pytest.raises(KeyError):
        tracer.span("unknown", new_context(), start_ns=0, end_ns=1, attributes={})
    with pytest.raises(KeyError):
        tracer.span("poll", new_context(), start_ns=0, end_ns=1, attributes={"customer.name": "x"})


def test_a_budget_is_spent_and_comes_back() -> None:
    now = [0.0]
    budget = Budget(2.0, 3.0, lambda: now[0])
    assert [budget.grant() for _ in range(4)] == [True, True, True, False]
    now[0] = 1.0
    assert [budget.grant() for _ in range(3)] == [True, True, False]


class Stuck:
    """An exporter that never comes back, until it is let go."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def export(self, _: Sequence[ReadableSpan]) -> None:
        self.release.wait()


def a_span() -> ReadableSpan:
    return ReadableSpan("a", new_context(), start_time=1, end_time=2)


def test_an_exporter_that_hangs_holds_nobody_up_and_what_it_does_not_take_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "DELAY_S", 0.001)
    stuck, dropped = Stuck(), [0]

    def count(number: int) -> None:
        dropped[0] += number

    outlet = Outlet("stuck", lambda: stuck, count)
    began = time.monotonic()
    for _ in range(exporting.QUEUE + exporting.BATCH + 100):
        outlet.put(a_span())
    assert time.monotonic() - began < 30
    assert dropped[0] >= 100
    stuck.release.set()
    outlet.close(5)


def test_an_exporter_is_made_before_its_first_span() -> None:
    made = threading.Event()

    def make() -> Stuck:
        made.set()
        return Stuck()

    outlet = Outlet("early", make, lambda _: None)
    assert made.wait(30)
    outlet.close(5)


def test_an_exporter_that_fails_is_tried_again_and_its_spans_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "DELAY_S", 0.001)
    taken: list[int] = []
    dropped: list[int] = []
    away = ConnectionError("away")
    tries = iter([away, None, away, away, away, None])  # two tries at once of a store that answered until then

    class Moody:
        def export(self, spans: Sequence[ReadableSpan]) -> None:
            if (error := next(tries)) is not None:
                raise error
            taken.append(len(spans))

    outlet = Outlet("moody", Moody, dropped.append)
    for seen in ((0, 1), (1, 1), (2, 1), (2, 2)):
        outlet.put(a_span())
        assert comes(lambda seen=seen: (len(dropped), len(taken)) == seen, 30), (dropped, taken)
    outlet.close(30)
    assert next(tries, None) is None


def test_a_span_file_is_renamed_when_it_is_large_and_no_line_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "spans" / "a.jsonl"
    out = SpanFile(file, bound=2_000)
    for _ in range(20):
        out.export([a_span()])
    names = sorted(path.name for path in file.parent.iterdir())
    assert names == ["a.jsonl", "a.jsonl.1"]
    assert all(path.stat().st_size <= 2_000 for path in file.parent.iterdir())
    lines = [msgspec.json.decode(line) for path in file.parent.iterdir() for line in path.read_bytes().splitlines()]
    assert all(line["name"] == "a" for line in lines)


class Receiver(BaseHTTPRequestHandler):
    """An OTLP receiver that keeps the bodies."""

    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def test_spans_go_by_otlp_with_their_links_and_types() -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415  # generated, slow
        ExportTraceServiceRequest,
    )

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        ways = list(exporting.outlets(None, "", f"http://127.0.0.1:{server.server_port}", lambda _: None))
        trails = Trails(Tracer("arm", "a-life", ways=ways, per_s=10.0), CONSUMER_ARMS["at_least_once"])
        trail = trails.begin("g")
        one, message = source(3, "01")
        trail.take({one.life.origin: one})
        trail.finish([message])
        trails.tracer.close(10)
    finally:
        server.shutdown()
        server.server_close()
    (body,) = Receiver.bodies
    request = ExportTraceServiceRequest.FromString(body)
    spans = {span.name: span for scope in request.resource_spans[0].scope_spans for span in scope.spans}
    process = spans["process orders.v1"]
    assert process.links[0].span_id == spans["poll orders.v1"].span_id
    attributes = {attribute.key: attribute.value for attribute in process.attributes}
    assert attributes["messaging.kafka.offset"].int_value == 3
