"""Spans and log lines in the lab's own files (JSON lines), read by DuckDB: 200,000 lines in half a second."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from services.domain.messages import Coordinates

# Lines as they are: a half one, or one of another form, hides no other one.
_READ: Final = (
    "SELECT line FROM (SELECT line FROM read_csv(?, columns = {'line': 'VARCHAR'}, header = false, "
    "auto_detect = false, delim = '\\x1f', quote = '', escape = '', max_line_size = 1000000, ignore_errors = true, "
    "strict_mode = false) WHERE starts_with(line, '{') AND contains(line, ?)) WHERE json_valid(line) AND "
)
_CHUNK_EVENTS: Final = ("offset.received", "offset.applied")
_COMMIT_EVENTS: Final = ("offset.committed", "transaction.aborted", "offset.rewound")
_LIFE_EVENTS: Final = ("process.started", "process.stopping")
_ID_FIELDS: Final = ("message.id", "original.message.id")

_ABOUT: Final = (
    f"((json_extract_string(line, '$.event') IN {_CHUNK_EVENTS} AND json_extract_string(line, '$.topic') = ? "
    "AND TRY_CAST(json_extract_string(line, '$.partition') AS BIGINT) = ? "
    "AND ? BETWEEN TRY_CAST(json_extract_string(line, '$.first_offset') AS BIGINT) "
    "AND TRY_CAST(json_extract_string(line, '$.last_offset') AS BIGINT)) "
    f"OR (json_extract_string(line, '$.event') IN {_COMMIT_EVENTS} AND contains(line, ?)))"
)


class Files:
    """The span and log files of one lab, as they are now. What is no JSON in them (a server's own log) is left out."""

    def __init__(self, home: Path) -> None:
        import duckdb  # noqa: PLC0415  # 0.1 s that other commands need not pay

        self._database = duckdb.connect(":memory:")
        self._database.execute("SET threads = 2; SET memory_limit = '400MB'")
        self._spans = [str(file) for file in sorted((home / "spans").glob("*.jsonl*"))]
        self._logs = [str(file) for file in sorted((home / "logs").glob("*.log*"))]

    def spans_of(self, message_id: str) -> list[dict[str, Any]]:
        """The message's spans, in the order of their starts."""
        where = "json_extract_string(line, '$.attributes.\"messaging.message.id\"') = ?"
        return sorted(self._lines(self._spans, where, message_id, [message_id]), key=lambda span: span["start_ns"])

    def spans_named(self, span_ids: Collection[str]) -> list[dict[str, Any]]:
        """The spans with these ids."""
        ids = sorted(span_ids)
        return list(self._lines(self._spans, "json_extract_string(line, '$.span_id') IN (SELECT unnest(?))", "", [ids]))

    def events_of(self, message_id: str) -> list[dict[str, Any]]:
        """The log lines that name the message, in the order of time."""
        fields = " OR ".join(f"json_extract_string(line, '$.\"{field}\"') = ?" for field in _ID_FIELDS)
        found = self._lines(self._logs, f"({fields})", message_id, [message_id] * len(_ID_FIELDS))
        return sorted(found, key=lambda event: event["time"])

    def chunks_over(self, places: Sequence[Coordinates]) -> list[dict[str, Any]]:
        """The log lines about chunks that hold one of these records: received, applied; of commits the first behind it.

        Each has the place that it is about in `covers`.
        """
        return [found for place in places for found in _covering(self._about(place), place)]

    def _about(self, place: Coordinates) -> list[dict[str, Any]]:
        """Lines about chunks with the record at this place, and about commits of its partition, by time."""
        arguments = [place.topic, place.partition, place.offset, f'"{place.topic}/{place.partition}":']
        return sorted(self._lines(self._logs, _ABOUT, place.topic, arguments), key=lambda event: event["time"])

    def lives(self) -> list[dict[str, Any]]:
        """When each life of each process began, and which were asked to end."""
        names = "', '".join(_LIFE_EVENTS)
        every = self._lines(self._logs, f"json_extract_string(line, '$.event') IN ('{names}')", "", [])
        return sorted(every, key=lambda event: event["time"])

    def _lines(
        self, files: Sequence[str], where: str, word: str, arguments: Sequence[Any]
    ) -> Iterator[dict[str, Any]]:  # fmt: skip
        """The lines of which `where` is true; those without `word` are not parsed."""
        if not files:
            return
        query = _READ + where  # made of this module's own words; what a user says is an argument
        for (line,) in self._database.execute(query, [list(files), word, *arguments]).fetchall():
            found: dict[str, Any] = json.loads(line)
            yield found


def _covering(events: Sequence[dict[str, Any]], place: Coordinates) -> Iterator[dict[str, Any]]:
    """Of each life: its chunks with this record, and the commit behind it: the first after them, or, of an arm that
    commits first, the last before them."""
    name, waiting = f"{place.topic}/{place.partition}", set()
    last: dict[str, dict[str, Any]] = {}  # commits that are behind it already, by life
    for event in events:
        life = event.get("life", "")
        if event["event"] in _CHUNK_EVENTS:
            same = (event.get("topic"), event.get("partition")) == (place.topic, place.partition)
            if same and event.get("first_offset", 0) <= place.offset <= event.get("last_offset", -1):
                yield {**event, "covers": str(place)}
                if life in last:
                    yield {**last.pop(life), "covers": str(place)}
                elif event["event"] == "offset.received":
                    waiting.add(life)
        elif event["event"] in _COMMIT_EVENTS and name in event.get("positions", {}):
            behind = event["event"] != "offset.committed" or event["positions"][name] > place.offset
            if behind and life in waiting:
                waiting.discard(life)
                yield {**event, "covers": str(place)}
            elif behind and event["event"] == "offset.committed":
                last[life] = event
