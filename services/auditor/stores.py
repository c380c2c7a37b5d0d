"""The auditor's own readers of the databases: bounded chunks, read only, in forms that hold a million messages."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
from confluent_kafka import KafkaException

from services.auditor.facts import facts, owners
from services.auditor.history import Intents, Key, Letter, Letters, Outbox, Redrives, coordinates_of, key_of
from services.domain.arms import ConsumerArm, PublisherArm
from services.domain.messages import Coordinates, Kind
from services.settings import Settings
from services.storage.postgres import connect, statements

SQL: Final = statements(Path(__file__).parent / "statements.sql")
_CALLS: Final = {"charge": "charges", "email": "emails_sent"}  # statements, by effect
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


class Seen(NamedTuple):
    """One application, or one publication, with its time."""

    at: float  # Unix seconds
    where: Coordinates  # the record that it was for; of a publication its own place
    life: str = ""


class Application(NamedTuple):
    """One application of an effect, as its store keeps it."""

    key: Key
    ours: bool  # it says itself that it is of the run
    at: Coordinates  # the record that it was for
    life: str
    facts: bytes


def _ids(messages: Iterable[Key]) -> list[UUID]:
    return [UUID(bytes=key) for key in messages if isinstance(key, bytes)]


def application(row: Sequence[Any]) -> Application:
    """A row of an effect's store: id, ours, topic, partition, offset, life, and the fields that are kept."""
    key, ours, topic, partition, offset, life, *kept = row
    found = key if isinstance(key, bytes) else key_of(key)
    return Application(found, ours, Coordinates(topic, partition, offset), life, facts(kept))


class Stores(msgspec.Struct, frozen=True):
    """The databases, as they are seen by an audit of one run, or of all (None)."""

    settings: Settings
    run: str | None
    kept: "Connections | None" = None  # for who asks again and again

    async def intents(self, arm: PublisherArm, kind: Kind) -> AsyncIterator[Intents]:
        """Every intent of the kind, some at a time."""
        async for rows in self._producer(arm, kind, "intents", self.run):
            some = Intents()
            for row in rows:
                some.add(*row)
            yield some

    async def many_intents(self, arm: PublisherArm, kind: Kind) -> int:
        """How many intents of the kind there are, of every run."""
        return sum([row[0] async for rows in self._producer(arm, kind, "intents_count") for row in rows])

    async def traceparents(self, arm: PublisherArm, kind: Kind, messages: Iterable[Key]) -> dict[Key, str]:
        """Which of these messages have an intent of the kind by now, with the trace that made it."""
        wanted = _ids(messages)
        return await self._pairs(self._producer(arm, kind, "intents_among", wanted, self.run)) if wanted else {}

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
        async for rows in self._chunks(self.settings.postgres, "payments", SQL["redrives"], arm.name):
            for origin, reason in rows:
                if (at := coordinates_of(origin)) is not None:
                    redrives.add(at, reason)
        return redrives

    async def emails(self, arm: ConsumerArm) -> dict[Key, str]:
        """The arm's emails that are rows and not sent; none for an arm that keeps no such rows."""
        return await self._pairs(self._arm(arm, "emails")) if await self._has_emails(arm) else {}

    async def _has_emails(self, arm: ConsumerArm) -> bool:
        return all([row[0] async for rows in self._arm(arm, "has_emails") for row in rows])

    async def applications(self, arm: ConsumerArm, effect: str) -> AsyncIterator[Application]:
        """Every application of the effect by the arm."""
        if effect == "record":
            found = self._arm(arm, "records", self.run)
        else:
            found = self._provider(_CALLS[effect], self.run, arm.name)
        async for rows in found:
            for row in rows:
                yield application(row)

    async def applications_among(
        self, arm: ConsumerArm, effect: str, messages: Iterable[Key]
    ) -> AsyncIterator[Application]:  # fmt: skip
        """Every application of the effect to these messages."""
        wanted = _ids(messages)
        if effect == "record":
            found = self._arm(arm, "records_among", wanted)
        else:
            found = self._provider(f"{_CALLS[effect]}_among", arm.name, [str(message_id) for message_id in wanted])
        async for rows in found:
            for row in rows:
                yield application(row)

    async def made(self, arm: PublisherArm, kind: Kind, messages: Iterable[Key]) -> dict[Key, float]:
        """When these intents were made."""
        return await self._pairs(self._producer(arm, kind, "intents_made", _ids(messages)))

    async def positions(self, arm: PublisherArm, kind: Kind, messages: Iterable[Key]) -> dict[Key, int]:
        """Which of these messages lie in the arm's outbox."""
        return await self._pairs(self._producer(arm, kind, "outbox_rows", _ids(messages)))

    async def seen(self, arm: ConsumerArm, effect: str, messages: Iterable[Key]) -> dict[Key, list[Seen]]:
        """When the effect was applied to these messages, and by whom."""
        if effect == "record":
            chunks = self._arm(arm, "records_seen", _ids(messages))
        else:
            chunks = self._provider("calls_seen", arm.name, effect, [str(message_id) for message_id in _ids(messages)])
        found: dict[Key, list[Seen]] = {}
        async for rows in chunks:
            for key, at, topic, partition, offset, life in rows:
                seen = Seen(at, Coordinates(topic, partition, offset), life)
                found.setdefault(key if isinstance(key, bytes) else key_of(key), []).append(seen)
        return found

    async def tried(self, arm: ConsumerArm, messages: Iterable[Key]) -> dict[Key, tuple[int, str]]:
        """Of letters about these messages: calls in vain, and what the last one got."""
        return await self._pairs(self._arm(arm, "letters_seen", _ids(messages)))

    async def claimed(self, arm: ConsumerArm, messages: Iterable[Key]) -> dict[Key, tuple[float, str]]:
        """When and by which life the emails of these messages were claimed."""
        wanted = _ids(messages)
        return await self._pairs(self._arm(arm, "emails_claimed", wanted)) if await self._has_emails(arm) else {}

    async def _pairs(self, chunks: AsyncIterator[Sequence[Any]]) -> dict[Key, Any]:
        """By the first column: the second, or the others together."""
        return {row[0]: row[1] if len(row) == 2 else tuple(row[1:]) async for rows in chunks for row in rows}

    async def lives(self, arms: Iterable[ConsumerArm]) -> dict[str, str]:
        """By life the arm whose process it is."""
        of_arms = [rows async for rows in self._provider("lives")]
        for arm in arms:
            of_arms += [rows async for rows in self._arm(arm, "lives_of_records", arm.name)]
        return owners(row for rows in of_arms for row in rows)

    def _provider(self, statement: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
        return self._chunks(self.settings.ledger, "provider", SQL[statement], *arguments)

    def _producer(
        self, arm: PublisherArm, kind: Kind, statement: str, *arguments: Any
    ) -> AsyncIterator[Sequence[Any]]:  # fmt: skip
        return self._chunks(self.settings.postgres, arm.database(kind), SQL[statement], *arguments)

    def _arm(self, arm: ConsumerArm, statement: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
        # the schema's name comes from the code's own table, never from input
        query = SQL[statement].replace("{schema}", arm.schema)
        return self._chunks(self.settings.postgres, "payments", query, *arguments)

    async def _chunks(self, server: str, database: str, query: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
        if self.kept is not None:
            yield await self.kept.fetch(server, database, query, *arguments)
            return
        async for rows in _chunks(server, database, query, *arguments):
            yield rows


class Connections:
    """One connection a database, kept, for small queries one after another."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}
        self._turn = asyncio.Lock()  # a connection does one thing at a time

    async def fetch(self, server: str, database: str, query: str, *arguments: Any) -> list[Any]:
        """All rows of a query. Raises Unreachable; the connection is made anew at the next one."""
        with reaching(f"the database {database}"):
            async with self._turn:
                return await self._ask(server, database, query, *arguments)

    async def _ask(self, server: str, database: str, query: str, *arguments: Any) -> list[Any]:
        try:
            if database not in self._open:
                self._open[database] = await connect(server, database, name="auditor")
            rows: list[Any] = await self._open[database].fetch(query, *arguments, timeout=_WAIT_S)
        except BaseException:
            if (broken := self._open.pop(database, None)) is not None:
                broken.terminate()
            raise
        return rows

    async def close(self) -> None:
        """Let go of all."""
        while self._open:
            _, connection = self._open.popitem()
            connection.terminate()


async def _chunks(server: str, database: str, query: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
    with reaching(f"the database {database}"):
        # between two chunks what was read is put away, which may take a while
        connection = await connect(server, database, name="auditor", idle_in_transaction_session_timeout="60000")
        try:
            async with connection.transaction(readonly=True):
                cursor = await connection.cursor(query, *arguments)
                while rows := await cursor.fetch(_CHUNK, timeout=_WAIT_S):
                    yield rows
        finally:
            await connection.close(timeout=5)
