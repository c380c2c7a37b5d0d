"""The payments database as an arm sees it: its schema's statements, with retries in place, a chunk a round trip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from services.domain.arms import ConsumerArm
from services.domain.messages import Coordinates, Message
from services.payments.patience import Patience
from services.storage.postgres import statements


class Letter(msgspec.Struct, frozen=True):
    """A record that the arm will never apply."""

    at: Coordinates
    message_id: UUID | None
    reason: str
    detail: str


class Ledger:
    """Statements of one arm. Each raises what `Patience.until_done` raises."""

    def __init__(self, pool: Any, arm: ConsumerArm, life: UUID, patience: Patience) -> None:
        self._pool = pool
        self._life = life
        self._patience = patience
        file = Path(__file__).with_name("statements.sql")
        self._sql = {name: text.replace("{schema}", arm.schema) for name, text in statements(file).items()}

    async def fetch(self, name: str, *arguments: Any) -> list[Any]:
        """Run a named statement until it succeeds; what it is not known to have done, it does again."""
        rows: list[Any] = await self._patience.until_done(name, lambda: self._pool.fetch(self._sql[name], *arguments))
        return rows

    async def insert_records(self, messages: Sequence[Message]) -> None:
        """The effect `record` of a chunk, in one statement: all of them or none."""
        if messages:
            columns = [ids(messages), *descriptions(messages), *places(m.at for m in messages)]
            await self.fetch("insert_records", *columns, self._life)

    async def insert_dead_letters(self, letters: Sequence[Letter]) -> None:
        """Set down what will never be applied, before the offset passes it."""
        if letters:
            await self.fetch(
                "insert_dead_letters",
                *places(letter.at for letter in letters),
                [letter.message_id for letter in letters],
                [letter.reason for letter in letters],
                [letter.detail.replace("\0", "\\0") for letter in letters],  # Postgres's text holds no NUL
                self._life,
            )


def ids(messages: Sequence[Message]) -> list[UUID]:
    """Column of message ids."""
    return [message.id for message in messages]


def places(coordinates: Any) -> tuple[list[str], list[int], list[int]]:
    """Columns topic, partition, offset."""
    at = list(coordinates)
    return [c.topic for c in at], [c.partition for c in at], [c.offset for c in at]


def descriptions(messages: Sequence[Message]) -> tuple[list[Any], ...]:
    """Columns run, type, business id, customer id, amount, currency."""
    payloads = [message.payload for message in messages]
    return (
        [message.run for message in messages],
        [message.kind.type for message in messages],
        [payload.order_id for payload in payloads],
        [payload.customer_id for payload in payloads],
        [payload.amount_cents for payload in payloads],
        [payload.currency for payload in payloads],
    )
