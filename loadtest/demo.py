"""The demo's script as data: which failpoints are armed when, and what is promised to break.

Both consumers die at `after record before commit`, so that the duplicates of the arm without dedup do not depend on
luck; the relay dies with a batch published and not yet removed; at_most_once dies with a chunk committed and not done.
"""

from typing import Final

import msgspec

# One that loses, one that doubles, one that does neither: five at this rate would want a bigger machine than two cores.
DEMO_ARMS: Final = ("at_most_once", "at_least_once", "effectively_once")


class Strike(msgspec.Struct, frozen=True):
    """One failpoint armed at a share of the load's duration; `action` in the failpoints' grammar."""

    at: float
    failpoint: str
    action: str


DEMO: Final = (
    Strike(0.15, "process.after_record_before_commit", "kill count=1 arm=at_least_once"),
    Strike(0.20, "process.after_record_before_commit", "kill count=1 arm=effectively_once"),
    Strike(0.30, "process.after_commit_before_effect", "kill count=1 arm=at_most_once"),
    Strike(0.40, "publish.after_produce_before_delete", "kill count=1"),
    Strike(0.60, "process.after_record_before_commit", "kill count=1 arm=at_least_once"),
    Strike(0.65, "process.after_record_before_commit", "kill count=1 arm=effectively_once"),
)
