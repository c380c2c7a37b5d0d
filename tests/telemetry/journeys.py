"""Orders whose trace ids the tests choose, and what the trace store says of them."""

import json
import secrets
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from services.stack.parts import PARTS
from tests.conftest import Lab


class Journey(msgspec.Struct, frozen=True):
    """One order on its way."""

    message_id: str
    trace_id: str
    key: str
    body: bytes


class Span(msgspec.Struct, frozen=True):
    """A span as Zipkin gives it."""

    id: str
    traceId: str  # Zipkin's names
    name: str
    tags: dict[str, str]
    parentId: str = ""
    kind: str = ""
    localEndpoint: dict[str, Any] = {}

    @property
    def process(self) -> str:
        return str(self.localEndpoint["serviceName"])

    def links(self, why: str) -> list[tuple[str, str]]:
        """(trace id, span id) of the links of this kind."""
        numbers = [name.split(".")[1] for name, value in self.tags.items() if name.endswith(".why") and value == why]
        return [(self.tags[f"link.{n}.trace_id"], self.tags[f"link.{n}.span_id"]) for n in numbers]


_SPANS = msgspec.json.Decoder(list[Span])


class Traces:
    """The lab's trace store, and orders to look for in it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._zipkin = lab.home.http_url(PARTS["zipkin"])
        self._orders = lab.home.http_url(PARTS["orders"])

    def order(self, *, sampled: bool = True, effects: str = "record,charge,email") -> Journey:
        """Place one order in a trace of its own."""
        body = {"order_id": f"o-{uuid.uuid4()}", "customer_id": "c-1", "amount_cents": 1999, "currency": "EUR"}
        journey = Journey("", secrets.token_hex(16), str(uuid.uuid4()), json.dumps(body).encode())
        for _ in range(4):  # as clients do: who has no connection in time says 503, and the key makes it one order
            status, answer = self.send(journey, sampled=sampled, effects=effects)
            if status != 503:
                break
        assert status == 201, answer
        return msgspec.structs.replace(journey, message_id=answer["message_id"])

    def send(
        self, journey: Journey, *, sampled: bool = True, effects: str = "record,charge,email", body: bytes = b""
    ) -> tuple[int, Any]:  # fmt: skip
        """Send an order, or send it again."""
        headers = {
            "Content-Type": "application/json", "Idempotency-Key": journey.key, "lab-effects": effects,
            "traceparent": f"00-{journey.trace_id}-b7ad6b7169203331-{'01' if sampled else '00'}",
        }  # fmt: skip
        request = urllib.request.Request(f"{self._orders}/orders", body or journey.body, headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own server
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def of(self, trace_id: str) -> list[Span]:
        """All spans of a trace that the store has by now."""
        try:
            with urllib.request.urlopen(f"{self._zipkin}/api/v2/trace/{trace_id}", timeout=10) as answer:  # noqa: S310
                return _SPANS.decode(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise

    def wait_for(self, trace_id: str, name: str, process: str = "", **tags: str) -> Span:
        """The first span of this name; `_` in a tag's name stands for `.`."""
        found: list[Span] = []

        def there() -> bool:
            found[:] = select(self.of(trace_id), name, process, **tags)
            return bool(found)

        self._lab.until(there, f"a span {name} of {process} {tags} in trace {trace_id}")
        return found[0]


def select(spans: Sequence[Span], name: str, process: str = "", **tags: str) -> list[Span]:
    """Spans of this name (the store has lower case only), process and tags."""
    wanted = {tag.replace("_", "."): value for tag, value in tags.items()}
    return [
        span
        for span in spans
        if span.name == name.lower()
        and span.process.startswith(process)
        and wanted.items() <= span.tags.items()
    ]  # fmt: skip


def ancestors(spans: Sequence[Span], span: Span) -> Iterator[str]:
    """The names of the spans above, from the nearest on."""
    by_id = {one.id: one for one in spans}
    while (above := by_id.get(span.parentId)) is not None:
        yield above.name
        span = above
