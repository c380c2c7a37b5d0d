"""Which arms a lab has: those whose processes are among its parts. All of the tables where that is not known."""

from collections.abc import Collection

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.stack.client import NotUp, status
from services.stack.home import Home


def parts_of(home: Home) -> Collection[str]:
    """The lab's parts, as its supervisor says; none when it says nothing."""
    try:
        return frozenset(status(home).get("parts", ()))
    except NotUp:
        return ()


def consumer_arms(parts: Collection[str]) -> tuple[ConsumerArm, ...]:
    """The consumer arms whose process is a part."""
    return tuple(arm for arm in CONSUMER_ARMS.values() if not parts or f"arm.{arm.name}" in parts)


def publisher_arms(parts: Collection[str]) -> tuple[PublisherArm, ...]:
    """The publisher arms of which a producer is a part."""
    return tuple(
        arm
        for arm in PUBLISHER_ARMS.values()
        if not parts or any(arm.producer(kind) in parts for kind in arm.kinds)
    )  # fmt: skip
