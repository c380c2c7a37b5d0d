"""One message's story, put together from files and ledgers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from services.domain.messages import Coordinates
from services.story.attempts import Attempt, places_of, without_spans
from services.story.files import Files
from services.story.ledgers import Intent, Known, Row, look_up


class Servers(msgspec.Struct, frozen=True):
    """Where the ledgers are."""

    postgres: str
    ledger: str


class Story(msgspec.Struct, frozen=True):
    """All of it."""

    message_id: str
    intents: list[Intent]
    rows: list[Row]
    spans: list[dict[str, Any]]  # of the message, and those that they link to
    events: list[dict[str, Any]]  # log lines that name it
    chunks: list[dict[str, Any]]  # log lines about chunks that its records were in
    attempts: list[Attempt]  # without spans
    places: list[Coordinates]

    @property
    def empty(self) -> bool:
        return not (self.intents or self.rows or self.spans or self.events)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The log lines that name the message, and those about chunks that it was in, by time."""
        seen = set()
        for line in sorted((*self.events, *self.chunks), key=lambda line: (line["time"], line["event"])):
            key = (line["time"], line["event"], line["life"], line.get("covers"))
            if key not in seen:
                seen.add(key)
                yield line


def tell(home: Path, message_id: UUID, servers: Servers | None) -> Story:
    """The story of a message; without `servers` from the files alone. Raises what asyncpg raises."""
    known = asyncio.run(look_up(servers.postgres, servers.ledger, message_id)) if servers else Known([], [])
    files = Files(home)
    spans, events = files.spans_of(str(message_id)), files.events_of(str(message_id))
    places = places_of(spans, events, known.rows)
    chunks = files.chunks_over(places)
    linked = {link["span_id"] for span in spans for link in span["links"]} - {span["span_id"] for span in spans}
    return Story(
        message_id=str(message_id),
        intents=known.intents,
        rows=known.rows,
        spans=spans + (files.spans_named(linked) if linked else []),
        events=events,
        chunks=chunks,
        attempts=without_spans(spans, chunks, files.lives(), known.rows),
        places=places,
    )
