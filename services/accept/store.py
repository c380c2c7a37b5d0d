"""Intents in the database: written once a key, found by their business id."""

import time
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from services.accept.intents import NewIntent
from services.http.database import Database, Transaction
from services.storage.postgres import statements
from services.telemetry.tracing import Tracer, context_of, new_context

Outcome = Literal["created", "replayed", "mismatch", "in_progress", "taken"]

_SQL: Final = statements(Path(__file__).parent / "statements.sql")


class Answer(msgspec.Struct, frozen=True):
    """What came of a request; `body` is the stored answer, empty when it was refused."""

    outcome: Outcome
    body: str
    message_id: UUID | None = None  # of an intent that was made just now


class Intent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A committed intent, as GET shows it."""

    id: str
    message_id: UUID
    customer_id: str
    amount_cents: int
    currency: str
    effects: list[str]
    created_at: datetime
    reason: str | None = None


class Intents:
    """The intents of one producer."""

    def __init__(self, database: Database, arm: str, tracer: Tracer) -> None:
        self._database = database
        self._arm = arm
        self._tracer = tracer

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction for `accept`."""
        return self._database.transaction()

    async def accept(self, new: NewIntent, within: Transaction | None = None) -> Answer:
        """Write the intent and its outbox row, or find what was answered under its key. Commits unless it is `within`.

        Raises Problem `unavailable` when it is not known whether that happened; the same key tells.
        """
        payload, start_ns = new.payload, time.time_ns()
        row = await (within or self._database).row(
            _SQL["accept"],
            new.key,
            new.request_digest,
            new.digest,
            payload.order_id,
            payload.customer_id,
            payload.amount_cents,
            payload.currency,
            getattr(payload, "reason", None),
            new.effects,
            new.run,
            new.kind.type,
            new.value,
            new.shard,
            new.headers(),
        )
        answer = Answer(row["outcome"], row["body"] or "", row["message_id"])
        if new.trace.sampled and answer.message_id is not None:
            self._span(new, answer.message_id, start_ns)
        return answer

    def _span(self, new: NewIntent, message_id: UUID, start_ns: int) -> None:
        parent = context_of(new.trace.traceparent)
        place = {"db.system.name": "postgresql", "db.namespace": new.kind.name, "db.operation.name": "INSERT"}
        self._tracer.span(
            "insert", new_context(parent), parent=parent, start_ns=start_ns, end_ns=time.time_ns(),
            attributes={
                **place, "db.collection.name": "intents", "messaging.message.id": str(message_id),
                "delivery.arm": self._arm,
            },
        )  # fmt: skip

    async def find(self, business_id: str) -> Intent | None:
        """The intent of a business id, if there is one."""
        row: Any = await self._database.row(_SQL["find"], business_id)
        return row and Intent(
            id=row["business_id"],
            message_id=row["message_id"],
            customer_id=row["customer_id"],
            amount_cents=row["amount_cents"],
            currency=row["currency"],
            effects=row["effects"],
            created_at=row["created_at"],
            reason=row["reason"],
        )
