"""What of a blackout holds and what does not."""

import msgspec
import pytest

from loadtest.blackout import Blackout, Phase
from loadtest.soak import Growth

CALM = Phase(accepted_per_s=19.9, applied_per_s=99.5, arms=5)
SEEN = Blackout(CALM, CALM, CALM, dropped_spans=7, growths=[], traces_again=True, metrics_again=True)


def test_the_same_pace_holds() -> None:
    assert SEEN.holds()


def test_what_waited_before_the_calm_sets_no_pace() -> None:
    caught_up = msgspec.structs.replace(CALM, applied_per_s=160.6)  # as seen, after a test that left a backlog
    assert msgspec.structs.replace(SEEN, calm=caught_up).holds()


@pytest.mark.parametrize(
    "worse",
    [
        {"dark": msgspec.structs.replace(CALM, applied_per_s=80.0)},
        {"dark": msgspec.structs.replace(CALM, accepted_per_s=15.0)},
        {"growths": [Growth("orders#0", first=100 << 20, last=140 << 20)]},
        {"traces_again": False},
        {"metrics_again": False},
    ],
)
def test_slower_larger_or_for_ever_dark_does_not_hold(worse: dict[str, object]) -> None:
    assert not msgspec.structs.replace(SEEN, **worse).holds()
