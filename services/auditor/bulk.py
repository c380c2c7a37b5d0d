"""What a whole audit has taken in, on disk, so that ten million messages fit; SQL puts aside all that is plain.

A message is plain on a hop when what was asked for was done exactly once, as it was asked, and nothing holds it: those
are counted by SQL, in parts by the hash of the id, so that no part's join outgrows the memory. All others go, some
thousands at a time, to the same checkers that judge everything else: what they mean is said once.
"""

import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec

from services.auditor.facts import columns
from services.auditor.history import Answers, Copy, Intents, Key, Outcome, Published
from services.auditor.stores import Application, Unreachable
from services.broker.reader import Partition
from services.domain.effects import EFFECTS
from services.domain.messages import Coordinates

PART: Final = 600_000  # messages of which SQL judges together: what fits into the memory at twice that does not
_AT_ONCE: Final = 20_000  # messages that are not plain, judged together
_BATCH: Final = 10_000  # rows on their way to a table, or to the parts of one together
_BATCH_OF_A_PART: Final = 1_000  # at least
_EVERY: Final = 1  # the bit of the effects that every record wants
# An id is a UUID; `log` numbers a partition, and `place` is the offset in it. Tables whose rows are of a message, or of
# an Idempotency-Key, are in parts by the hash of that, their column `id`.
_IN_PARTS: Final = {
    "said": {"topic": "VARCHAR", "id": "VARCHAR", "line": "UBIGINT", "outcome": "VARCHAR"},  # outcome '': a call
    "keys": {"topic": "VARCHAR", "id": "VARCHAR", "message": "UUID", "promise": "BLOB"},
    "intents": {"topic": "VARCHAR", "id": "UUID", "promise": "BLOB"},
    "records": {
        "id": "UUID", "log": "UINTEGER", "place": "BIGINT", "wants": "UTINYINT", "injected": "BOOLEAN",
        "ours": "BOOLEAN", "facts": "BLOB",
    },
    "applied": {
        "id": "UUID", "ours": "BOOLEAN", "log": "UINTEGER", "place": "BIGINT", "life": "VARCHAR", "facts": "BLOB",
    },
    "held": {"id": "UUID"},
}  # fmt: skip
_WHOLE: Final = {
    "outputs": {"log": "UINTEGER", "place": "BIGINT"},
    "held_at": {"log": "UINTEGER", "place": "BIGINT"},
    "committed": {"log": "UINTEGER", "upto": "BIGINT"},
    "firsts": {"log": "UINTEGER", "first": "BIGINT"},
}
# In the statements a table in parts is written as its first part, `records_0`; `_do` puts the part's number there.
_ACCEPT: Final = """
SELECT coalesce(s.id, i.id) AS id, coalesce(s.acknowledged AND i.many = 1, false) AS plain
  FROM (SELECT id, bool_or(outcome = 'acknowledged') AS acknowledged FROM said_0 WHERE topic = $topic GROUP BY id) s
  FULL JOIN (SELECT id, count(*) AS many, bool_or(list_contains($runs, promise[9:12])) AS ours FROM keys_0
              WHERE topic = $topic GROUP BY id) i ON i.id = s.id
 WHERE s.id IS NOT NULL OR i.ours
"""
_PUBLISH: Final = """
SELECT coalesce(i.id, r.id) AS id,
       coalesce(r.copies = 1 AND NOT r.injected AND h.id IS NULL AND r.facts[-8:] = i.promise[1:8]
                AND octet_length(r.facts) = 32 AND r.facts[21:24] = i.promise[9:12], false) AS plain
  FROM (SELECT id, promise FROM intents_0 WHERE topic = $topic) i
  FULL JOIN (SELECT id, count(*) AS copies, bool_or(injected) AS injected, any_value(facts) AS facts FROM records_0
              WHERE list_contains($logs, log) GROUP BY id) r ON r.id = i.id
  LEFT JOIN (SELECT DISTINCT id FROM held_0) h ON h.id = coalesce(i.id, r.id)
"""
_PROCESS: Final = """
SELECT coalesce(r.id, a.id) AS id,
       coalesce(r.wanted AND r.copies = 1 AND r.passed AND a.many = 1 AND NOT a.strange AND h.id IS NULL
                AND a.facts = r.facts[$first:$last], false) AS plain
  FROM (SELECT id, count(*) AS copies, bool_or((wants & $wanted) > 0) AS wanted, any_value(facts) AS facts,
               bool_and(place < coalesce(upto, 0)) AS passed
          FROM records_0 LEFT JOIN committed USING (log) WHERE list_contains($logs, log) GROUP BY id) r
  FULL JOIN (SELECT id, count(*) AS many, any_value(facts) AS facts, bool_or(list_contains($others, life)) AS strange,
                    bool_and(place < coalesce(first, 0)) AS dropped
               FROM applied_0 LEFT JOIN firsts USING (log) GROUP BY id) a ON a.id = r.id
  LEFT JOIN (SELECT DISTINCT id FROM held_0) h ON h.id = coalesce(r.id, a.id)
 WHERE r.wanted OR (r.id IS NOT NULL AND a.id IS NOT NULL) OR (r.id IS NULL AND NOT a.dropped)
"""
_FIRST_PARTS: Final = re.compile(rf"\b({'|'.join(_IN_PARTS)})_0\b")
_OTHERS: Final = """
CREATE OR REPLACE TEMP TABLE others AS
SELECT id, (row_number() OVER (ORDER BY id) - 1) // $at_once AS chunk FROM found WHERE NOT plain
"""


class Accepted(NamedTuple):
    """Some Idempotency-Keys: how many are plain, and what is known of others."""

    plain: int
    answers: Answers
    intents: Intents


class Publications(NamedTuple):
    """Some messages of one topic: how many are plain, and of others which have an intent, and their records."""

    plain: int
    ids: set[Key]
    published: Published


class Processed(NamedTuple):
    """Some messages of one arm and effect: how many are plain, and the records and applications of others."""

    plain: int
    published: Published
    found: list[Application]


class Bulk:
    """What an audit of a run (None: of all) takes in, in memory and, beyond that, in files of the folder.

    `parts`: so many that each holds PART messages at most. All methods raise Unreachable where there is no room.
    """

    def __init__(
        self, folder: Path, run: str | None = None, *, parts: int = 1, memory_mb: int = 512, threads: int = 2
    ) -> None:  # fmt: skip
        self.database = _Database(folder, memory_mb, threads)
        self.parts = range(parts)
        self.firsts: Mapping[Partition, int] = {}  # as they were said last
        self._run = run
        some = max(_BATCH // parts, _BATCH_OF_A_PART)
        self._in_parts = {
            name: [_Table(self.database, f"{name}_{part}", columns, some) for part in self.parts]
            for name, columns in _IN_PARTS.items()
        }
        self._whole = {name: _Table(self.database, name, columns, _BATCH) for name, columns in _WHOLE.items()}
        self._lines = 0
        self._odd: dict[bytes, Key] = {}  # messages whose key is no UUID, by one that stands for it
        self._numbers: dict[Partition, int] = {}
        self._logs: list[Partition] = []

    def close(self) -> None:
        """Let go of all that was taken in."""
        self.database.close()

    def take_call(self, topic: str, name: str) -> None:
        """A client was about to call under an Idempotency-Key, for a message of the topic."""
        self._say(topic, name, "")

    def take_answer(self, topic: str, name: str, outcome: Outcome) -> None:
        """A call came to an end."""
        self._say(topic, name, outcome)

    def _say(self, topic: str, name: str, outcome: str) -> None:
        self._lines += 1
        self._add("said", name, (topic, name, self._lines, outcome))

    def take_intents(self, topic: str, intents: Intents) -> None:
        """Intents whose records belong on the topic."""
        promised = intents.promised
        for name in intents.by_key.keys():  # noqa: SIM118  # no dict
            for message_id in intents.by_key[name]:
                id_, promise = message_id.hex(), promised[message_id].hex()
                self._add("keys", name, (topic, name, id_, promise))
                self._add("intents", id_, (topic, id_, promise))

    def take_record(self, copy: Copy) -> None:
        """A record of a publisher's topic."""
        ours = self._run in (None, copy.run)
        wants = sum(map(_wanted, copy.wants)) | _EVERY
        id_, log = self._id(copy.key), self.number_of(copy.at.topic, copy.at.partition)
        self._add("records", id_, (id_, log, copy.at.offset, wants, copy.injected, ours, copy.facts.hex()))

    def drop_records_of_others(self, topics: Collection[str]) -> None:
        """Let go of the topics' records that are not of the run, and of no intent of the run."""
        for part in self.parts if self._run is not None else ():
            self._do(
                "DELETE FROM records_0 WHERE NOT ours AND list_contains($logs, log) AND NOT EXISTS "
                "(FROM intents_0 WHERE intents_0.id = records_0.id AND list_contains($topics, topic))",
                part, logs=self._logs_of(topics), topics=list(topics),
            )  # fmt: skip

    def begin_effect(self) -> None:
        """Let go of the applications of the effect before."""
        for table in self._in_parts["applied"]:
            table.clear()

    def take_application(self, found: Application) -> None:
        """An application of the effect that is read now."""
        at, id_ = found.at, self._id(found.key)
        log = self.number_of(at.topic, at.partition)
        self._add("applied", id_, (id_, found.ours, log, at.offset, found.life, found.facts.hex()))

    def drop_applications_of_others(self, topics: Collection[str]) -> None:
        """Let go of applications that name no run and are of messages that the run does not know."""
        for part in self.parts if self._run is not None else ():
            self._do(
                "DELETE FROM applied_0 WHERE NOT ours "
                "AND NOT EXISTS (FROM records_0 WHERE records_0.id = applied_0.id AND list_contains($logs, log)) "
                "AND NOT EXISTS (FROM intents_0 WHERE intents_0.id = applied_0.id)",
                part, logs=self._logs_of(topics),
            )  # fmt: skip

    def take_output(self, origin: Coordinates) -> None:
        """An output, by the record that it came from."""
        self._whole["outputs"].add((self.number_of(origin.topic, origin.partition), origin.offset))

    def trace_outputs(self, topics: Collection[str]) -> None:
        """Make applications of the outputs, of the topics' records; one of no record is known by its own place."""
        logs = self._logs_of(topics)
        for part in self.parts:
            self._do(
                "INSERT INTO applied_0 SELECT r.id, true, log, place, '', ''::BLOB "
                "FROM outputs JOIN (FROM records_0 WHERE list_contains($logs, log)) r USING (log, place)",
                part, logs=logs,
            )  # fmt: skip
            self._do(
                "CREATE OR REPLACE TABLE outputs AS "
                "FROM outputs ANTI JOIN (FROM records_0 WHERE list_contains($logs, log)) r USING (log, place)",
                part, logs=logs,
            )  # fmt: skip
        # of those before the first offset that is there, the records may have been dropped: nothing is said of them
        left = "SELECT log, place FROM outputs LEFT JOIN firsts USING (log) WHERE place >= coalesce(first, 0)"
        for log, place in self._do(left):
            at = self._at(log, place)
            self.take_application(Application(at, True, at, "", b""))
        self._whole["outputs"].clear()

    def hold(self, messages: Iterable[Key], places: Iterable[Coordinates] = ()) -> None:
        """These messages, and those with a record at these places, are to be looked at closely, and no others."""
        for table in (*self._in_parts["held"], self._whole["held_at"]):
            table.clear()
        for key in messages:
            id_ = self._id(key)
            self._add("held", id_, (id_,))
        for at in places:
            self._whole["held_at"].add((self.number_of(at.topic, at.partition), at.offset))
        for part in self.parts:
            self._do("INSERT INTO held_0 SELECT id FROM records_0 SEMI JOIN held_at USING (log, place)", part)

    def set_committed(self, committed: Mapping[Partition, int], firsts: Mapping[Partition, int]) -> None:
        """Where the arm's group stands, and the first offset of each partition that is still there."""
        self.firsts = firsts
        for name, offsets in (("committed", committed), ("firsts", firsts)):
            self._whole[name].clear()
            for partition, offset in offsets.items():
                self._whole[name].add((self.number_of(*partition), offset))

    def accepted(self, topic: str, runs: Collection[bytes]) -> Iterator[Accepted]:
        """The Idempotency-Keys of the topic's messages; `runs`: of which every key must have been called."""
        for plain, chunk in self._sift(_ACCEPT, ("said", "keys"), topic=topic, runs=list(runs)):
            answers, intents = Answers(), Intents()
            if chunk is not None:
                self._answer(answers, (row for row in self._of_others("said", chunk) if row[0] == topic))
                for of, name, message_id, promise, _ in self._of_others("keys", chunk):
                    if of == topic:
                        intents.add_promise(message_id.bytes, name, promise)
            yield Accepted(plain, answers, intents)

    def answers(self, topic: str, names: Collection[str]) -> Answers:
        """What clients were told about some Idempotency-Keys, by now."""
        answers = Answers()
        for part, some in self._by_part(names):
            said = self._do(
                "SELECT s.* FROM said_0 s SEMI JOIN (SELECT unnest($names::VARCHAR[]) AS id) w USING (id) "
                "WHERE topic = $topic ORDER BY line",
                part, topic=topic, names=some,
            )  # fmt: skip
            self._answer(answers, said)
        return answers

    def _answer(self, answers: Answers, said: Iterable[Any]) -> None:
        for _, name, _, outcome, *_ in said:
            if outcome:
                answers.answered(name, outcome)
            else:
                answers.called(name)

    def promised(self, messages: Collection[Key], topics: Collection[str]) -> dict[Key, bytes]:
        """What the intents of some messages of these topics say of their records."""
        found = dict[Key, bytes]()
        for part, ids in self._by_part([self._id(key) for key in messages]):
            rows = self._do(
                "SELECT id, promise FROM intents_0 SEMI JOIN (SELECT unnest($ids::VARCHAR[])::UUID AS id) w USING (id) "
                "WHERE list_contains($topics, topic)",
                part, ids=ids, topics=list(topics),
            )  # fmt: skip
            found |= {message_id.bytes: promise for message_id, promise in rows}
        return found

    def uncalled(self, topic: str) -> int:
        """How many intents there are under keys that nobody called, by now."""
        many = 0
        for part in self.parts:
            ((count,),) = self._do(
                "SELECT count(*) FROM (FROM keys_0 WHERE topic = $topic) k "
                "ANTI JOIN (FROM said_0 WHERE topic = $topic) s USING (id)",
                part, topic=topic,
            )  # fmt: skip
            many += count
        return many

    def publications(self, topic: str, topics: Collection[str]) -> Iterator[Publications]:
        """The messages of one topic of a publisher arm, which has these topics."""
        logs = self._logs_of(topics)
        for plain, chunk in self._sift(_PUBLISH, ("intents", "records"), topic=topic, logs=self._logs_of([topic])):
            ids, published = set[Key](), Published()
            if chunk is not None:
                promised = dict[Key, bytes]()
                for of, message_id, promise, _ in self._of_others("intents", chunk):
                    if of in topics:
                        promised.setdefault(message_id.bytes, promise)
                    if of == topic:
                        ids.add(message_id.bytes)
                published = self._published(chunk, logs, promised)
            yield Publications(plain, ids, published)

    def processed(self, effect: str, topics: Collection[str], others: Collection[str]) -> Iterator[Processed]:
        """What the topics ask for of one effect, and its applications; `others`: lives of other arms' processes."""
        logs, (first, last) = self._logs_of(topics), columns(effect)
        asked = {"wanted": _wanted(effect), "first": first, "last": last, "others": list(others), "logs": logs}
        for plain, chunk in self._sift(_PROCESS, ("records", "applied"), **asked):
            published, found = Published(), list[Application]()
            if chunk is not None:
                published = self._published(chunk, logs, {})
                found = [self._application(row) for row in self._of_others("applied", chunk)]
            yield Processed(plain, published, found)

    def applications(self, messages: Collection[Key]) -> list[Application]:
        """Those of some messages, by now."""
        found = list[Application]()
        for part, ids in self._by_part([self._id(key) for key in messages]):
            rows = self._do(
                "SELECT a.* FROM applied_0 a SEMI JOIN (SELECT unnest($ids::VARCHAR[])::UUID AS id) w USING (id)",
                part, ids=ids,
            )  # fmt: skip
            found += [self._application(row) for row in rows]
        return found

    def number_of(self, topic: str, partition: int) -> int:
        """The number that stands for a partition in all tables."""
        place = (topic, partition)
        if place not in self._numbers:
            self._numbers[place] = len(self._logs)
            self._logs.append(place)
        return self._numbers[place]

    def _sift(self, query: str, tables: tuple[str, str], **parameters: Any) -> Iterator[tuple[int, int | None]]:
        """Of each part how many are plain; then, chunk by chunk, the others, of which each table's rows are drawn."""
        for part in self.parts:
            self._do(f"CREATE OR REPLACE TEMP TABLE found AS {query}", part, **parameters)
            ((many, plain),) = self._do("SELECT count(*), count(*) FILTER (plain) FROM found")
            yield plain, None
            if many == plain:
                continue
            self._do(_OTHERS, at_once=_AT_ONCE)
            for table in tables:
                self._do(
                    f"CREATE OR REPLACE TEMP TABLE others_{table} AS "  # noqa: S608  # our own names
                    f"SELECT t.*, o.chunk FROM {table}_0 t JOIN others o USING (id)",
                    part,
                )
            for chunk in range(-(-(many - plain) // _AT_ONCE)):
                yield 0, chunk

    def _of_others(self, table: str, chunk: int) -> list[Any]:
        order = "line" if table == "said" else "ALL"
        return self._do(f"SELECT * FROM others_{table} WHERE chunk = $chunk ORDER BY {order}", chunk=chunk)  # noqa: S608

    def _published(self, chunk: int, logs: list[int], promised: Mapping[Key, bytes]) -> Published:
        published = Published(None, promised)
        rows = self._do(
            "SELECT * FROM others_records WHERE chunk = $chunk AND list_contains($logs, log) ORDER BY log, place",
            chunk=chunk, logs=logs,
        )  # fmt: skip
        for message_id, log, place, wants, injected, _, facts, _ in rows:
            effects = [effect for effect in EFFECTS if wants & ~_EVERY & _wanted(effect)]
            at = self._at(log, place)
            published.take(Copy(self._key(message_id), at, "", facts, effects, injected))
        return published

    def _application(self, row: Any) -> Application:
        message_id, ours, log, place, life, facts, *_ = row
        return Application(self._key(message_id), ours, self._at(log, place), life, facts)

    def _add(self, table: str, id_: str, row: tuple[Any, ...]) -> None:
        self._in_parts[table][self._part(id_)].add(row)

    def _part(self, id_: str) -> int:
        return crc32(id_.encode()) % len(self.parts)

    def _by_part(self, ids: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        found: dict[int, list[str]] = {}
        for id_ in ids:
            found.setdefault(self._part(id_), []).append(id_)
        yield from found.items()

    def _do(self, query: str, part: int = 0, /, **parameters: Any) -> list[Any]:
        """All rows of a statement, of one part of the tables that are in parts."""
        for table in chain(self._whole.values(), *self._in_parts.values()):
            table.flush()
        return self.database.execute(_FIRST_PARTS.sub(rf"\1_{part}", query), parameters)

    def _id(self, key: Key) -> str:
        if isinstance(key, bytes):
            return key.hex()
        stands_for = blake2b(repr(key).encode(), digest_size=16)
        self._odd[stands_for.digest()] = key
        return stands_for.hexdigest()

    def _key(self, message_id: UUID) -> Key:
        return self._odd.get(message_id.bytes, message_id.bytes)

    def _at(self, log: int, place: int) -> Coordinates:
        topic, partition = self._logs[log]
        return Coordinates(topic, partition, place)

    def _logs_of(self, topics: Collection[str]) -> list[int]:
        return [number for number, (topic, _) in enumerate(self._logs) if topic in topics]


class _Database:
    """DuckDB, which lays into files of the folder what does not fit into its memory. They are gone with it.

    No file of its own: whatever is replaced is then given back at once, and nothing is flushed to the disk.
    """

    def __init__(self, folder: Path, memory_mb: int, threads: int) -> None:
        import duckdb  # noqa: PLC0415  # takes a quarter of a second, which whoever judges no whole need not wait

        self._folder, self._no_room = folder, (duckdb.OperationalError, duckdb.FatalException)
        self._turn = threading.Lock()  # an audit that is interrupted closes it while a thread may be at work
        settings = {
            "memory_limit": f"{memory_mb}MB", "threads": threads, "temp_directory": str(folder / "beyond"),
            "preserve_insertion_order": "false",
        }  # fmt: skip
        self._connection: Any = duckdb.connect(":memory:", config=settings)

    def execute(self, query: str, parameters: Any = None) -> list[Any]:
        """All rows of a statement. Raises Unreachable where there is no room for it."""
        try:
            with self._turn:
                rows: list[Any] = self._connection.execute(query, parameters).fetchall()
        except self._no_room as error:
            said = str(error).partition("\n")[0]
            raise Unreachable(f"there is no room in {self._folder.parent} for what the audit reads: {said}") from error
        return rows

    def close(self) -> None:
        """Let go of all."""
        with self._turn:
            self._connection.close()


class _Table:
    """Rows on their way to a table, which get there some thousands at a time, as one text of JSON: taking in a list of
    Python's values costs DuckDB twice as much.
    """

    def __init__(self, database: _Database, name: str, columns: Mapping[str, str], batch: int) -> None:
        described = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        self._make = f"CREATE OR REPLACE TABLE {name} ({described})"
        values = ", ".join(_value(number, kind) for number, kind in enumerate(columns.values(), 1))
        self._insert = (
            f"INSERT INTO {name} SELECT {values} FROM (SELECT unnest(from_json($1, '[[\"VARCHAR\"]]')) AS row)"  # noqa: S608  # our own names
        )
        self._database, self._batch, self._rows = database, batch, list[tuple[Any, ...]]()
        self.clear()

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) >= self._batch:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._database.execute(self._insert, [msgspec.json.encode(self._rows).decode()])
            self._rows.clear()

    def clear(self) -> None:
        self._rows.clear()
        self._database.execute(self._make)


def _value(number: int, kind: str) -> str:
    """A column's value of a row; bytes travel as hexadecimal text."""
    return f"unhex(row[{number}])" if kind == "BLOB" else f"row[{number}]::{kind}"


def _wanted(effect: str) -> int:
    """An effect's bit; every record wants the first, and an output."""
    return 1 << EFFECTS.index(effect) if effect in EFFECTS else _EVERY
