"""Dedup of one chunk: nothing is lost, nothing is there twice, and the order of two processes is the same."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.domain.dedup import split
from services.domain.messages import ORDERS, Coordinates, Message, digest
from services.domain.orders import Order


def message(number: int, offset: int, value: bytes = b"a") -> Message:
    order = Order("o", "c", 1, "EUR")
    at = Coordinates("orders.v1", 0, offset)
    return Message(UUID(int=number), ORDERS, "c", order, digest(ORDERS.type, value), ("record",), "", at)


chunks = st.lists(st.tuples(st.integers(0, 8), st.sampled_from([b"a", b"b"])), max_size=30).map(
    lambda drawn: [message(number, offset, value) for offset, (number, value) in enumerate(drawn)]
)


@given(chunks)
def test_every_record_is_a_first_or_a_repeat_and_never_both(chunk: list[Message]) -> None:
    parts = split(chunk)
    assert sorted(m.at for m in parts.firsts + parts.repeats) == [m.at for m in chunk]


@given(chunks)
def test_the_first_of_an_id_is_the_one_with_the_lowest_place(chunk: list[Message]) -> None:
    parts = split(chunk)
    firsts = {m.id: m.at for m in parts.firsts}
    assert set(firsts) == {m.id for m in chunk}
    for m in chunk:
        assert firsts[m.id] <= m.at


@given(chunks)
def test_repeats_keep_their_order_and_their_digests(chunk: list[Message]) -> None:
    parts = split(chunk)
    assert parts.repeats == sorted(parts.repeats, key=lambda m: m.at)
    assert all(any(m is same for same in chunk) for m in parts.repeats)


@given(chunks, st.randoms(use_true_random=False))
def test_firsts_come_in_the_same_order_whatever_the_chunk_s_order(chunk: list[Message], random: object) -> None:
    shuffled = list(chunk)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [m.id for m in split(shuffled).firsts] == sorted({m.id for m in chunk})
