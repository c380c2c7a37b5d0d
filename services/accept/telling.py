"""What a producer tells of its requests beside their answers: spans, and a log line for a key that was met again."""

import time
from typing import Final

import msgspec

from services.accept.intents import NewIntent
from services.accept.store import Answer
from services.bootstrap import Process
from services.domain.messages import Kind
from services.telemetry.tracing import context_of, log_fields

# What is told of a request that made no intent: status, decision, reason.
UNPLAIN: Final = {
    "replayed": (201, "duplicate", "repeated_request"),
    "mismatch": (422, "conflict", "other_payload"),
    "taken": (409, "conflict", "id_taken"),
    "in_progress": (409, "in_progress", "first_in_progress"),
}


class Body(msgspec.Struct):
    """What is read of a stored answer."""

    message_id: str


class Telling:
    """Of one producer. A plainly accepted request that nobody sampled costs one look at one byte."""

    def __init__(self, process: Process, kind: Kind, arm: str) -> None:
        self._process = process
        self._kind = kind
        self._arm = arm

    def answered(self, new: NewIntent, answer: Answer, start_ns: int) -> None:
        """A request was decided."""
        message_id = str(answer.message_id or "")
        if answer.outcome == "created":
            if new.trace.sampled:
                self._span(new, start_ns, 201, message_id, "first")
            return
        status, decision, reason = UNPLAIN[answer.outcome]
        original = msgspec.json.decode(answer.body, type=Body).message_id if answer.body else ""
        self._process.log.event(
            "dedup.decision",
            hop="accept",
            arm=self._arm,
            decision=decision,
            reason=reason,
            **{"dedup.key": new.key, "message.id": original, "original.message.id": original},
            **log_fields(None, new.trace.traceparent),
        )
        self._unplain(new, start_ns, status, original, decision)

    def failed(self, new: NewIntent, start_ns: int, status: int) -> None:
        """It is not known what became of a request."""
        self._unplain(new, start_ns, status, "", "")

    def _unplain(self, new: NewIntent, start_ns: int, status: int, message_id: str, decision: str) -> None:
        if self._process.tracer.grant():
            self._span(new, start_ns, status, message_id, decision)

    def _span(self, new: NewIntent, start_ns: int, status: int, message_id: str, decision: str) -> None:
        context = context_of(new.trace.traceparent)
        assert context is not None  # noqa: S101  # it is ours
        words = {"messaging.message.id": message_id, "delivery.decision": decision, "delivery.run": new.run}
        self._process.tracer.span(
            "request",
            context,
            parent=context_of(new.trace.parent),
            start_ns=start_ns,
            end_ns=time.time_ns(),
            attributes={
                "http.request.method": "POST",
                "http.route": self._kind.path,
                "http.response.status_code": status,
                "delivery.arm": self._arm,
                **{name: value for name, value in words.items() if value},
            },
            error=str(status) if status >= 500 else "",
        )
