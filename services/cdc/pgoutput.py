"""The messages of Postgres's output plug-in `pgoutput`, protocol version 1, columns in their binary form. Pure.

https://www.postgresql.org/docs/18/protocol-logicalrep-message-formats.html
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as QuickUUID  # what asyncpg's rows hold; made and written ten times as fast

BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
INSERT: Final = ord("I")
RELATION: Final = ord("R")

COLUMNS: Final = ("position", "message_id", "key", "type", "payload", "headers", "created_at")
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_JSONB_VERSION: Final = 1
_NEW_TUPLE: Final = 5  # after the kind and the relation's id: 'N', then the number of columns
_FIRST_COLUMN: Final = 8
_BINARY: Final = ord("b")

_length = struct.Struct(">I").unpack_from
_int64 = struct.Struct(">q").unpack_from
_count = struct.Struct(">H").unpack_from
_lsn = struct.Struct(">Q").unpack_from


class UnexpectedMessage(ValueError):
    """What the server sent is not what the publication of the outbox sends."""


class Inserted(NamedTuple):
    """A row that was inserted into the outbox."""

    position: int
    message_id: UUID
    key: bytes
    type: str
    payload: bytes
    headers: bytes
    created_at: datetime


def end_of_transaction(message: bytes) -> int:
    """The position after the transaction that a commit message ends."""
    return int(_lsn(message, 10)[0])


def check_relation(message: bytes) -> None:
    """Raises UnexpectedMessage unless the relation has the outbox's published columns, in their order."""
    fields = message[5:].split(b"\0", 2)  # namespace, name, the rest
    rest = fields[2]
    names, at = [], 3
    for _ in range(_count(rest, 1)[0]):
        end = rest.index(b"\0", at + 1)
        names.append(rest[at + 1 : end].decode())
        at = end + 9
    if tuple(names) != COLUMNS:
        raise UnexpectedMessage(f"{fields[1].decode()} has the columns {', '.join(names)}")


def inserted(message: bytes) -> Inserted:
    """The row of an insert message. Raises UnexpectedMessage for one of another form."""
    if message[_NEW_TUPLE] != ord("N") or _count(message, _NEW_TUPLE + 1)[0] != len(COLUMNS):
        raise UnexpectedMessage(f"an insert of another form: {message[:16]!r}")
    values: list[bytes] = []
    at = _FIRST_COLUMN
    for _ in COLUMNS:
        if message[at] != _BINARY:
            raise UnexpectedMessage(f"column {COLUMNS[len(values)]} is of kind {chr(message[at])!r}")
        begin = at + 5
        at = begin + _length(message, at + 1)[0]
        values.append(message[begin:at])
    position, message_id, key, type_, payload, headers, created_at = values
    if headers[0] != _JSONB_VERSION:
        raise UnexpectedMessage(f"jsonb of version {headers[0]}")
    return Inserted(
        _int64(position)[0],
        QuickUUID(message_id),
        key,
        type_.decode(),
        payload,
        headers[1:],
        _EPOCH + timedelta(microseconds=_int64(created_at)[0]),
    )
