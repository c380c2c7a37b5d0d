"""Messages of the plug-in pgoutput, as a server writes them."""

import struct
from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.cdc.pgoutput import COLUMNS, Inserted, UnexpectedMessage, check_relation, end_of_transaction, inserted

ID = UUID("01938d6e-7f2a-7c3b-8a4d-5e6f70819203")
ROW = Inserted(
    7, ID, b"c-1", "lab.order.placed.v1", b'{"a":1}', b'{"lab-run":"r"}', datetime(2026, 11, 24, 6, 0, 0, 5, tzinfo=UTC)
)


def column(data: bytes, kind: bytes = b"b") -> bytes:
    return kind + struct.pack(">I", len(data)) + data


def insert(*columns: bytes) -> bytes:
    return b"I" + struct.pack(">I", 16_400) + b"N" + struct.pack(">H", len(columns)) + b"".join(columns)


def columns() -> list[bytes]:
    microseconds = int((ROW.created_at - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    values = [
        struct.pack(">q", ROW.position), ID.bytes, ROW.key, ROW.type.encode(), ROW.payload, b"\x01" + ROW.headers,
        struct.pack(">q", microseconds),
    ]  # fmt: skip
    return [column(value) for value in values]


def relation(names: tuple[str, ...]) -> bytes:
    described = (b"\0" + name.encode() + b"\0" + struct.pack(">Ii", 20, -1) for name in names)
    head = b"R" + struct.pack(">I", 16_400) + b"public\0outbox\0d"
    return head + struct.pack(">H", len(names)) + b"".join(described)


def test_an_insert_is_the_row_that_was_written() -> None:
    assert inserted(insert(*columns())) == ROW


def test_values_may_be_empty_or_long() -> None:
    given = columns()
    given[2], given[4] = column(b""), column(b"x" * 70_000)
    assert inserted(insert(*given)) == ROW._replace(key=b"", payload=b"x" * 70_000)


def test_the_end_of_a_transaction_is_after_its_commit_record() -> None:
    assert end_of_transaction(b"C\0" + struct.pack(">QQq", 0x1_0000_0010, 0x1_0000_0040, 0)) == 0x1_0000_0040


@pytest.mark.parametrize("kind", [b"t", b"n", b"u"])
def test_a_column_that_is_not_in_its_binary_form_is_refused(kind: bytes) -> None:
    given = columns()
    given[1] = column(ID.bytes, kind)
    with pytest.raises(UnexpectedMessage, match="message_id"):
        inserted(insert(*given))


@pytest.mark.parametrize("count", [0, len(COLUMNS) - 1, len(COLUMNS) + 1])
def test_an_insert_with_another_number_of_columns_is_refused(count: int) -> None:
    with pytest.raises(UnexpectedMessage):
        inserted(insert(*(columns() * 2)[:count]))


def test_jsonb_of_another_version_is_refused() -> None:
    given = columns()
    given[5] = column(b"\x02{}")
    with pytest.raises(UnexpectedMessage, match="jsonb"):
        inserted(insert(*given))


def test_a_table_with_other_columns_is_refused_before_its_first_row() -> None:
    check_relation(relation(COLUMNS))
    for other in (COLUMNS[:-1], (*COLUMNS, "xid"), COLUMNS[::-1]):
        with pytest.raises(UnexpectedMessage, match="outbox has the columns"):
            check_relation(relation(other))
