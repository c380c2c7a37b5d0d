"""Where a message waits for its next attempt, and when it has none left."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain import failure_policy as policy
from services.domain.failure_policy import Failure


@given(st.integers(0, 20), st.floats(0, 1), st.floats(0, 400))
def test_a_retry_waits_in_the_first_tier_that_is_long_enough(attempts: int, draw: float, asked_s: float) -> None:
    place = policy.next_place(Failure("timeout", True, retry_after_s=asked_s), attempts=attempts, draw=draw)
    if attempts >= policy.ATTEMPTS:
        assert place == policy.DeadLetter("attempts")
        return
    assert isinstance(place, policy.Later)
    assert place.delay_s >= asked_s
    assert place.delay_s <= max(asked_s, policy.TIERS[-1].delay_s)
    shorter = [tier for tier in policy.TIERS if tier.delay_s < place.tier.delay_s]
    assert all(tier.delay_s < place.delay_s for tier in shorter), "a shorter tier would have done"
    assert place.tier.delay_s >= place.delay_s or place.tier == policy.TIERS[-1]


@given(st.integers(0, 20), st.floats(0, 1))
def test_what_cannot_be_repaired_by_waiting_goes_to_the_dead_letters_at_once(attempts: int, draw: float) -> None:
    refused = Failure("refused", False)
    assert policy.next_place(refused, attempts=attempts, draw=draw) == policy.DeadLetter("refused")


def test_the_delays_grow_from_attempt_to_attempt() -> None:
    places = [policy.next_place(Failure("timeout", True), attempts=n, draw=0.0) for n in range(1, policy.ATTEMPTS)]
    delays = [place.delay_s for place in places if isinstance(place, policy.Later)]
    assert delays == sorted(delays)
    assert len(delays) == policy.ATTEMPTS - 1
