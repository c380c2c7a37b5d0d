"""The payments database as an arm sees it: its schema's statements, with retries in place, a chunk a round trip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from services.domain.arms import ConsumerArm
from services.domain.messages import Message, RawHeaders
from services.payments.patience import Patience
from services.payments.unapplied import Letter
from services.storage.postgres import in_doubt, statements
from services.telemetry.metrics import Metrics

# Statements that, done again, do not say what their first time did.
_WRITE_FIRST: Final = frozenset({"insert_records", "reserve", "complete", "insert_dead_letters"})


class FiledLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A letter with all that is needed to send its record again. Times are Unix milliseconds."""

    letter: Letter
    run: str = ""
    attempts: int = 0
    key: bytes | None = None
    value: bytes | None = None  # null: not at hand, or larger than the broker takes; it lies at its coordinates
    headers: RawHeaders = ()  # the original ones
    first_failure_ms: int = 0
    last_failure_ms: int = 0


class Ledger:
    """Statements of one arm. Each raises what `Patience.until_done` raises."""

    def __init__(self, pool: Any, arm: ConsumerArm, life: UUID, patience: Patience, metrics: Metrics) -> None:
        self._pool = pool
        self._arm = arm
        self._metrics = metrics
        self._life = life
        self._patience = patience
        file = Path(__file__).with_name("statements.sql")
        self._sql = {name: text.replace("{schema}", arm.schema) for name, text in statements(file).items()}

    async def fetch(self, name: str, *arguments: Any) -> list[Any]:
        """Run a named statement until it succeeds; what it is not known to have done, it does again."""
        return await self._patience.until_done(name, lambda: self._run(name, *arguments))

    async def insert_records(self, messages: Sequence[Message]) -> None:
        """The effect `record` of a chunk, in one statement: all of them or none."""
        if messages:
            await self.fetch("insert_records", *self._records(messages))

    async def try_to_insert_records(self, messages: Sequence[Message]) -> None:
        """The same in one try: after an error it may be done, and it is not done again. Raises what asyncpg raises."""
        if messages:
            await self._run("insert_records", *self._records(messages))

    async def _run(self, name: str, *arguments: Any) -> list[Any]:
        """One try. Rows of which it is not known whether they were written are counted as uncertain effects."""
        try:
            rows: list[Any] = await self._pool.fetch(self._sql[name], *arguments)
        except BaseException as error:  # a lane that is revoked cancels what it has in hand
            if name in _WRITE_FIRST and in_doubt(error):
                labels = {"arm": self._arm.name, "effect": "record", "outcome": "uncertain"}
                self._metrics.add("delivery.effects", _length(arguments), **labels)
            raise
        return rows

    def _records(self, messages: Sequence[Message]) -> list[Any]:
        return [ids(messages), *descriptions(messages), *places(m.at for m in messages), self._life]

    async def insert_dead_letters(self, filed: Sequence[FiledLetter]) -> list[str]:
        """Set down what will never be applied, before the offset passes it. Two of one origin are one letter.

        Returns the reasons of those that were not parked already.
        """
        letters = list({one.letter.at: one for one in filed}.values())
        if not letters:
            return []
        rows = await self.fetch(
            "insert_dead_letters",
            *places(one.letter.at for one in letters),
            [one.letter.message_id for one in letters],
            [one.run for one in letters],
            [one.letter.reason for one in letters],
            [one.letter.detail.replace("\0", "\\0") for one in letters],  # Postgres's text holds no NUL
            [one.attempts for one in letters],
            [one.key for one in letters],
            [one.value for one in letters],
            [_as_json(one.headers) for one in letters],
            [one.first_failure_ms / 1000 for one in letters],
            [one.last_failure_ms / 1000 for one in letters],
            self._life,
        )
        return [row["reason"] for row in rows]


def _length(columns: Sequence[Any]) -> int:
    """How many rows a statement is given, column by column."""
    return max((len(column) for column in columns if isinstance(column, list)), default=0)


def _as_json(headers: RawHeaders) -> str:
    """[[name, base64 or null], ...]: a header's value is bytes, whatever they are."""
    return msgspec.json.encode([[name, value] for name, value in headers]).decode()  # bytes become base64


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
