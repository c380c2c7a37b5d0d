"""From a chunk to its effects: decode once, set aside what cannot be decoded, let the arm apply the rest, say so."""

from collections.abc import Sequence
from typing import Any

from services.broker.delivery import Chunk
from services.domain.messages import Coordinates, Message, Undecodable, decode, message_id_of
from services.payments.arms.base import Arm, Tools
from services.payments.ledger import Letter


class Handler:
    """Handles the chunks of one arm. When `handle` returns, every record of the chunk has its destination."""

    def __init__(self, tools: Tools, arm: Arm) -> None:
        self._tools = tools
        self._arm = arm

    async def handle(self, chunk: Chunk) -> None:
        """Apply a chunk. Raises what ends the process: the chunk is then delivered again."""
        tools = self._tools
        where = _where(chunk)
        tools.log.event("offset.received", **where)
        tools.metrics.add(
            "messaging.client.consumed.messages", len(chunk.records), arm=tools.arm.name, topic=chunk.topic
        )
        messages, letters = _decode_all(chunk)
        await tools.failpoints.hit("process.after_read")
        await self._set_down(letters)
        if messages:
            await self._set_down(await self._arm.apply(messages))
        tools.log.event("offset.applied", **where)

    async def _set_down(self, letters: Sequence[Letter]) -> None:
        await self._tools.ledger.insert_dead_letters(letters)
        for letter in letters:
            self._tools.metrics.add("delivery.dead_letters", 1, arm=self._tools.arm.name, reason=letter.reason)
            self._tools.log.event(
                "dead_letter", "warning", at=str(letter.at), reason=letter.reason, detail=letter.detail,
                **{"message.id": str(letter.message_id or "")},
            )  # fmt: skip


def _decode_all(chunk: Chunk) -> tuple[list[Message], list[Letter]]:
    messages, letters = [], []
    for record in chunk.records:
        at = Coordinates(record.topic, record.partition, record.offset)
        try:
            messages.append(decode(record.key, record.value, record.headers, at))
        except Undecodable as error:
            letters.append(Letter(at, message_id_of(record.headers), error.reason, error.detail))
    return messages, letters


def _where(chunk: Chunk) -> dict[str, Any]:
    first, last = chunk.records[0], chunk.records[-1]
    return {
        "topic": chunk.topic,
        "partition": chunk.partition,
        "first_offset": first.offset,
        "last_offset": last.offset,
        "count": len(chunk.records),
    }
