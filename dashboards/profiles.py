"""Thresholds of the alerts: seconds for the lab, minutes for production, which is scraped every 15 seconds.

Everything else is the same. Windows hold four scrapes, and an age that is too old is that of four.
"""

from typing import Final

import msgspec


class Window(msgspec.Struct, frozen=True):
    """A pair of burn-rate windows and how many times faster than allowed the budget burns."""

    long: str
    short: str
    factor: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Names end in the unit; a `for_` is how long a condition must hold, in Prometheus's words."""

    name: str
    rise: str  # how long a rise of a counter fires
    burn: tuple[Window, ...]
    hits_window: str
    hits_lately: str
    hits_for: str
    inflow_for: str
    backlog_for: str
    lag_s: int
    lag_without_commits_s: int
    lag_before: str  # grown since then: longer than from one scrape to the next, or it is compared with itself
    lag_for: str
    commits_window: str
    storm_window: str
    storm_for: str
    outbox_age_s: int
    outbox_for: str
    slot_bytes: int
    audit_age_s: int
    audit_for: str
    gap_for: str
    down_for: str


DEMO: Final = Profile(
    name="demo",
    rise="10s",
    burn=(Window("5m", "1m", 14.4),),
    hits_window="1m",
    hits_lately="15s",
    hits_for="30s",
    inflow_for="0s",
    backlog_for="1m",
    lag_s=10,
    lag_without_commits_s=5,
    lag_before="10s",
    lag_for="15s",
    commits_window="15s",
    storm_window="1m",
    storm_for="30s",
    outbox_age_s=5,
    outbox_for="0s",
    slot_bytes=32 * 2**20,
    audit_age_s=10,
    audit_for="0s",
    gap_for="0s",
    down_for="3s",
)
PRODUCTION: Final = Profile(
    name="production",
    rise="5m",
    burn=(Window("1h", "5m", 14.4), Window("6h", "30m", 6)),
    hits_window="5m",
    hits_lately="1m",
    hits_for="2m",
    inflow_for="2m",
    backlog_for="1h",
    lag_s=60,
    lag_without_commits_s=60,
    lag_before="1m",
    lag_for="5m",
    commits_window="5m",
    storm_window="5m",
    storm_for="5m",
    outbox_age_s=60,
    outbox_for="2m",
    slot_bytes=256 * 2**20,
    audit_age_s=60,
    audit_for="2m",
    gap_for="2m",
    down_for="1m",
)
PROFILES: Final = (DEMO, PRODUCTION)
