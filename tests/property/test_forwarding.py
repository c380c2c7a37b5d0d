"""What a record carries from station to station: nothing of the original is touched, nothing of the life is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.forwarding import Forwarding, forwarded, forwarding_of, original
from services.domain.messages import Coordinates, Undecodable

coordinates = st.builds(
    Coordinates,
    st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**63 - 1),
)
counts = st.integers(0, 2**53)
stations = st.builds(
    Forwarding,
    origin=coordinates,
    via=st.sampled_from(["", "retry", "redrive", "replay"]),
    attempts=st.integers(0, 1000),
    due_ms=counts,
    first_failure_ms=counts,
    last_failure_ms=counts,
    reason=st.text(max_size=30),
    operation=st.text(max_size=30),
)
names = st.text(max_size=20).filter(lambda name: not name.startswith("lab-"))
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=40)), max_size=10)


@given(headers, stations, stations, coordinates)
def test_the_last_station_is_read_back_and_the_original_headers_are_as_they_were(
    given_headers: list[tuple[str, bytes | None]], first: Forwarding, second: Forwarding, at: Coordinates
) -> None:
    there = forwarded(forwarded(given_headers, first), second)
    assert forwarding_of(there, at) == second
    assert original(there) == given_headers


@given(headers, coordinates)
def test_a_record_that_was_never_sent_on_is_at_its_origin(
    given_headers: list[tuple[str, bytes | None]], at: Coordinates
) -> None:
    assert forwarding_of(given_headers, at) == Forwarding(origin=at)


@pytest.mark.parametrize("bad", [("lab-origin", b"x"), ("lab-origin", b"t/1/x"), ("lab-origin", b"\xff/\xff/\xff")])
def test_what_cannot_be_read_is_undecodable(bad: tuple[str, bytes]) -> None:
    with pytest.raises(Undecodable, match="own headers"):
        forwarding_of([bad], Coordinates("t", 0, 0))
