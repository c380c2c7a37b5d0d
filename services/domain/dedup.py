"""Deduplication of one chunk, before the database is asked: which record is the first of its message id.

Sorted by id, because two processes that insert the same ids in different orders would wait for each other for ever.
"""

from collections.abc import Iterable

import msgspec

from services.domain.messages import Message


class Split(msgspec.Struct, frozen=True):
    """A chunk without repetitions, and the repetitions. Nothing is in both, nothing is left out."""

    firsts: list[Message]  # one an id, the one with the lowest place in the chunk; sorted by id
    repeats: list[Message]  # later records of ids in `firsts`, in chunk order: copies, or conflicts


def split(chunk: Iterable[Message]) -> Split:
    """Split a chunk by message id. Whether a repeat is a copy or a conflict is told by its digest, by the inbox."""
    firsts: dict[bytes, Message] = {}
    repeats = [message for message in chunk if firsts.setdefault(message.id.bytes, message) is not message]
    return Split([firsts[key] for key in sorted(firsts)], repeats)
