"""How a letter travels through the outbox of `payments`: its record, byte for byte, where a producer's row has columns.

The row's `type` is the arm's name, its `payload` the value, its `key` the record's key as text, for people and the
shard; everything else, and what text cannot hold, is the document in `headers`.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

NO_ID: Final = UUID(int=0)  # RFC 9562's nil: the row's message id when the record carries none


class Redriven(msgspec.Struct, frozen=True, kw_only=True):
    """The document in an outbox row's `headers`; bytes are base64 in it."""

    origin: str  # topic/partition/offset of the record as the arm first met it
    key: bytes | None
    null: bool = False  # the value is null, which the column cannot be
    headers: Sequence[tuple[str, bytes | None]]


_DECODER: Final = msgspec.json.Decoder(Redriven)


def parse_redriven(text: str) -> Redriven:
    """Raises msgspec.DecodeError when `text` is no such document."""
    return _DECODER.decode(text)


def key_as_text(key: bytes | None) -> str:
    """A key as the outbox's text column takes it: what is not UTF-8, and NUL, is written out."""
    return (key or b"").decode("utf-8", "backslashreplace").replace("\0", "\\x00")
