"""What a request asks for, checked; no I/O."""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from services.domain import effects, messages
from services.domain.effects import Effect
from services.domain.messages import Kind, Payload
from services.domain.sharding import shard_of
from services.http.bodies import decode_body
from services.http.keys import HEADER, check_key
from services.http.problem import Problem
from services.telemetry.tracecontext import TraceContext, continue_trace

_RUN: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")


class NewIntent(msgspec.Struct, frozen=True):
    """A request that was found in order, not yet written."""

    key: str  # the client's Idempotency-Key
    kind: Kind
    payload: Payload
    value: bytes  # the payload as the relay will publish it
    effects: tuple[Effect, ...]
    run: str
    trace: TraceContext

    @property
    def digest(self) -> bytes:
        """The payload's identity, as consumers compute it."""
        return messages.digest(self.kind.type, self.value)

    @property
    def request_digest(self) -> bytes:
        """The request's identity under its key: the same payload with other effects is another request."""
        return hashlib.sha256(self._effects.encode() + b"\0" + self.digest).digest()

    @property
    def shard(self) -> int:
        """Which part of the outbox the message waits in."""
        return shard_of(self.payload.customer_id)

    def headers(self) -> str:
        """What the record's headers will say besides the envelope, as JSON."""
        headers = {messages.EFFECTS_HEADER: self._effects, messages.RUN_HEADER: self.run}
        if self.trace.tracestate:
            headers["tracestate"] = self.trace.tracestate
        headers["traceparent"] = self.trace.traceparent  # the last one, as Postgres keeps it
        return msgspec.json.encode(headers).decode()

    @property
    def _effects(self) -> str:
        return ",".join(self.effects)


class Reader:
    """Reads the requests of one kind. Of new traces `trace_ratio` are sampled, and no more than are granted: each is
    worth spans in every process behind this one."""

    def __init__(self, kind: Kind, *, trace_ratio: float = 0.0, grant: Callable[[], bool] = lambda: True) -> None:
        self._kind = kind
        self._ratio = trace_ratio
        self._grant = grant
        self._decoder = msgspec.json.Decoder(kind.payload)
        self._encoder = msgspec.json.Encoder()

    def read(self, headers: Mapping[str, str], body: bytes) -> NewIntent:
        """Check headers and body. Raises Problem that names the header or field at fault."""
        key = check_key(headers.get(HEADER, ""))
        asked, run = _effects_of(headers), _run_of(headers)
        payload = decode_body(self._decoder, body)
        return NewIntent(
            key=key,
            kind=self._kind,
            payload=payload,
            value=self._encoder.encode(payload),
            effects=asked,
            run=run,
            trace=self.trace(headers),
        )

    def trace(self, headers: Mapping[str, str]) -> TraceContext:
        """The context of the request's span: the caller's trace goes on, or a new one begins."""
        given = headers.get("traceparent", ""), headers.get("tracestate", "")
        return continue_trace(*given, ratio=self._ratio, grant=self._grant)


def _effects_of(headers: Mapping[str, str]) -> tuple[Effect, ...]:
    try:
        return effects.parse_effects(headers.get(messages.EFFECTS_HEADER, effects.ALL))
    except ValueError as error:
        detail = f"{messages.EFFECTS_HEADER}: {error}"
        raise Problem("invalid", detail, field=messages.EFFECTS_HEADER) from None


def _run_of(headers: Mapping[str, str]) -> str:
    run = headers.get(messages.RUN_HEADER, "")
    if not _RUN.fullmatch(run):
        detail = f"{messages.RUN_HEADER} must match {_RUN.pattern}"
        raise Problem("invalid", detail, field=messages.RUN_HEADER)
    return run
