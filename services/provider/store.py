"""The third party's own books: every application is a row; keys are remembered for their lifetime."""

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from services.http.database import Database
from services.provider.calls import Caller, Charge, Email
from services.storage.postgres import statements

Outcome = Literal["applied", "replayed", "mismatch", "in_progress", "too_late"]

_SQL: Final = statements(Path(__file__).parent / "statements.sql")


class Answer(msgspec.Struct, frozen=True):
    """What came of a charge; `body` is the first success's, empty when it was refused."""

    outcome: Outcome
    body: str


class Account(msgspec.Struct, frozen=True):
    """How often an effect was applied for an account."""

    account: str
    effect: str
    applications: int


class Books:
    """Applications and keys. All methods raise Problem `unavailable` when the database does not answer."""

    def __init__(self, database: Database, key_lifetime_s: float) -> None:
        self._database = database
        self._key_lifetime_s = key_lifetime_s

    async def charge(self, call: Charge, caller: Caller, key: str | None, not_after_s: float | None) -> Answer:
        """Apply a charge and remember its key in one transaction, or answer what the key knows."""
        record = caller.record
        row = await self._database.row(
            _SQL["charge"],
            call.account,
            key,
            hashlib.sha256(msgspec.json.encode(call)).digest(),
            call.message_id,
            call.customer_id,
            call.amount_cents,
            call.currency,
            record.topic,
            record.partition,
            record.offset,
            caller.life,
            not_after_s,
            self._key_lifetime_s,
        )
        return Answer(row["outcome"], row["body"] or "")

    async def email(self, call: Email, caller: Caller) -> str:
        """Apply an email; returns the answer's body."""
        at = caller.record
        row = await self._database.row(
            _SQL["email"],
            call.account,
            call.message_id,
            call.customer_id,
            at.topic,
            at.partition,
            at.offset,
            caller.life,
        )
        return str(row["body"])

    async def find(self, account: str, key: str) -> str | None:
        """What was answered under a key, if it is still remembered."""
        row: Any = await self._database.row(_SQL["find"], account, key)
        return row and str(row["body"])

    async def accounts(self) -> list[Account]:
        """Applications of every account and effect, for people: it reads the whole table."""
        return [Account(**row) for row in await self._database.rows(_SQL["accounts"])]
