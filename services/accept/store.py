"""Intents in the database: written once a key, found by their business id."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from services.accept.intents import NewIntent
from services.http.database import Database, Transaction
from services.storage.postgres import statements

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

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction for `accept`."""
        return self._database.transaction()

    async def accept(self, new: NewIntent, within: Transaction | None = None) -> Answer:
        """Write the intent and its outbox row, or find what was answered under its key. Commits unless it is `within`.

        Raises Problem `unavailable` when it is not known whether that happened; the same key tells.
        """
        payload = new.payload
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
        return Answer(row["outcome"], row["body"] or "", row["message_id"])

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
