"""Which arms a lab has: those whose processes are among its parts. All of the tables where that is not known."""

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS
from services.stack.client import NotUp, status
from services.stack.drain import ALL_ARMS, Arms
from services.stack.home import Home


def arms_of(home: Home) -> Arms:
    """The arms of a lab; of a publisher arm, a producer must be there."""
    try:
        parts = status(home).get("parts")
    except NotUp:
        return ALL_ARMS
    if not parts:
        return ALL_ARMS
    publishers = (arm for arm in PUBLISHER_ARMS.values() if any(arm.producer(kind) in parts for kind in arm.kinds))
    consumers = (arm for arm in CONSUMER_ARMS.values() if f"arm.{arm.name}" in parts)
    return Arms(tuple(publishers), tuple(consumers))
