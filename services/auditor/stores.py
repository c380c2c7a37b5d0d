"""The auditor's own readers of the databases: bounded chunks, read only, in forms that hold a million messages."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from confluent_kafka import KafkaException

from services.auditor.history import Intents, Key, Letter, Letters, Outbox, Redrives, coordinates_of, key_of
from services.domain.arms import ConsumerArm, PublisherArm
from services.domain.messages import Coordinates, Kind
from services.settings import Settings
from services.storage.postgres import connect, statements

_SQL: Final = statements(Path(__file__).parent / "statements.sql")
_CHUNK: Final = 10_000
_WAIT_S: Final = 30.0  # for one chunk


class Unreachable(Exception):
    """A store cannot be read; the message says which, and why."""


@contextmanager
def reaching(store: str) -> Iterator[None]:
    """Turn the ways in which a store may be away into Unreachable."""
    away = (
        OSError,
        TimeoutError,
        asyncio.TimeoutError,
        KafkaException,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,  # shutting down, starting up, our session ended
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.UndefinedTableError,
        asyncpg.InterfaceError,
    )
    try:
        yield
    except away as error:
        what = error.args[0].str() if isinstance(error, KafkaException) else str(error) or type(error).__name__
        raise Unreachable(f"{store} cannot be read: {what}") from error


class Stores(msgspec.Struct, frozen=True):
    """The databases, as they are seen by an audit of one run, or of all (None)."""

    settings: Settings
    run: str | None

    async def intents(self, arm: PublisherArm, kind: Kind) -> Intents:
        """Every intent of the kind."""
        found = Intents()
        async for rows in self._producer(arm, kind, "intents", self.run):
            for row in rows:
                found.add(row[0], row[1])
        return found

    async def traceparents(self, arm: PublisherArm, kind: Kind, messages: Iterable[Key]) -> dict[Key, str]:
        """Which of these messages have an intent of the kind by now, with the trace that made it."""
        wanted = [UUID(bytes=key) for key in messages if isinstance(key, bytes)]
        if not wanted:
            return {}
        chunks = self._producer(arm, kind, "intents_among", wanted, self.run)
        return {row[0]: row[1] async for rows in chunks for row in rows}

    async def outbox(self, arm: PublisherArm) -> Outbox:
        """What has not left the arm's databases, of every run."""
        pending: set[Key] = set()
        set_aside: dict[Key, str] = {}
        for kind in arm.kinds if arm.outbox != "none" else ():
            async for rows in self._producer(arm, kind, arm.outbox):
                pending.update(row[0] for row in rows if row[1] is None)
                set_aside.update((row[0], row[1]) for row in rows if row[1] is not None)
        return Outbox(pending, set_aside)

    async def letters(self, arm: ConsumerArm) -> Letters:
        """The arm's dead letters, of every run."""
        found = Letters()
        async for rows in self._arm(arm, "letters"):
            for topic, partition, offset, key, state, reason in rows:
                found.at[Coordinates(topic, partition, offset)] = letter = Letter(state, reason)
                if key is not None and (key not in found.of or state == "parked"):
                    found.of[key] = letter
        return found

    async def redrives(self, arm: ConsumerArm) -> Redrives:
        """The arm's letters that are on their way to the relay, by the records that they are about."""
        redrives = Redrives()
        async for rows in _chunks(self.settings.postgres, "payments", _SQL["redrives"], arm.name):
            for origin, reason in rows:
                if (at := coordinates_of(origin)) is not None:
                    redrives.add(at, reason)
        return redrives

    async def emails(self, arm: ConsumerArm) -> dict[Key, str]:
        """The arm's emails that are rows and not sent; none for an arm that keeps no such rows."""
        there = [row[0] async for rows in self._arm(arm, "has_emails") for row in rows]
        if not all(there):
            return {}
        return {row[0]: row[1] async for rows in self._arm(arm, "emails") for row in rows}

    async def applications(self, arm: ConsumerArm, effect: str, known: Collection[Key]) -> Counter[Key]:
        """How often the arm applied the effect, by message: to those that are known, or that say the run themselves."""
        found: Counter[Key] = Counter()
        if effect == "record":
            async for rows in self._arm(arm, "records", self.run):
                found.update(row[0] for row in rows if row[1] or row[0] in known)
            return found
        async for rows in self._provider("applications", self.run, arm.name, effect):
            keys = ((key_of(row[0]), row[1]) for row in rows)
            found.update(key for key, ours in keys if ours or key in known)
        return found

    async def applications_among(
        self, arm: ConsumerArm, effect: str, messages: Iterable[Key]
    ) -> list[tuple[Key, Coordinates]]:
        """Every application of the effect to these messages, with the record that it was for."""
        wanted = [UUID(bytes=key) for key in messages if isinstance(key, bytes)]
        found: list[tuple[Key, Coordinates]] = []
        if effect == "record":
            async for rows in self._arm(arm, "records_among", wanted):
                found += [(row[0], Coordinates(*row[1:])) for row in rows]
            return found
        names = [str(message_id) for message_id in wanted]
        async for rows in self._provider("applications_among", arm.name, effect, names):
            found += [(key_of(row[0]), Coordinates(*row[1:])) for row in rows]
        return found

    def _provider(self, statement: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
        return _chunks(self.settings.ledger, "provider", _SQL[statement], *arguments)

    def _producer(
        self, arm: PublisherArm, kind: Kind, statement: str, *arguments: Any
    ) -> AsyncIterator[Sequence[Any]]:  # fmt: skip
        return _chunks(self.settings.postgres, arm.database(kind), _SQL[statement], *arguments)

    def _arm(self, arm: ConsumerArm, statement: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
        # the schema's name comes from the code's own table, never from input
        return _chunks(self.settings.postgres, "payments", _SQL[statement].replace("{schema}", arm.schema), *arguments)


async def _chunks(server: str, database: str, query: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
    with reaching(f"the database {database}"):
        connection = await connect(server, database, name="auditor")
        try:
            async with connection.transaction(readonly=True):
                cursor = await connection.cursor(query, *arguments)
                while rows := await cursor.fetch(_CHUNK, timeout=_WAIT_S):
                    yield rows
        finally:
            await connection.close(timeout=5)
