"""Tries in place: every message is given up after its last attempt, none before, and what is done is forgotten."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.domain.failure_policy import ATTEMPTS, Failure
from services.domain.messages import ORDERS, Coordinates, Message
from services.domain.orders import Order
from services.payments.tries import Tries
from services.payments.unapplied import Deferred, Letter, Unapplied

PASSING = Failure("timeout", True)
batches = st.lists(st.tuples(st.sets(st.integers(0, 4), min_size=1), st.booleans()), max_size=60)


def message(number: int) -> Message:
    payload = Order(f"order-{number}", "customer", 1, "EUR")
    at = Coordinates("orders.v1", 0, number)
    return Message(UUID(int=number), ORDERS, "customer", payload, b"", ("record",), "", at)


def failed(*numbers: int, counts: bool = True) -> Unapplied:
    return Unapplied(deferred=[Deferred(message(number), PASSING, int(counts)) for number in numbers])


@given(batches)
def test_a_message_is_given_up_when_it_failed_as_often_as_is_allowed(batches: list[tuple[set[int], bool]]) -> None:
    """Tries that count as no attempt, as when nobody answers at the provider's address, use none up."""
    tries, counts = Tries(), dict.fromkeys(range(5), 0)
    for batch, counted in batches:
        tries.note(failed(*batch, counts=counted))
        for number in batch:
            counts[number] += counted
        given_up = {one.message.at.offset: one.attempts for one in tries.given_up(map(message, counts)).deferred}
        assert given_up == {number: count for number, count in counts.items() if count >= ATTEMPTS}


def test_what_is_refused_is_given_up_at_once_and_is_one_letter_however_often_it_failed_before() -> None:
    tries = Tries()
    for _ in range(ATTEMPTS):
        tries.note(failed(1))
    letter = Letter(message(1).at, message(1).id, "refused", "")
    tries.note(Unapplied([letter]))
    assert tries.given_up([message(1), message(2)]) == Unapplied([letter])


def test_what_is_done_begins_anew() -> None:
    tries = Tries()
    for _ in range(ATTEMPTS):
        tries.note(failed(1, 2))
    tries.forget([message(1)])
    assert [one.message.at.offset for one in tries.given_up([message(1), message(2)]).deferred] == [2]
