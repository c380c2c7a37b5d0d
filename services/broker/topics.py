"""The topics as data."""

from collections.abc import Iterator
from typing import Final

import msgspec

from services.domain.arms import CONSUMER_ARMS, ConsumerArm
from services.domain.messages import KINDS


class Topic(msgspec.Struct, frozen=True):
    """One topic of the lab."""

    name: str
    partitions: int


def topics_of(arm: ConsumerArm) -> Iterator[Topic]:
    """An arm's own topics: retry tiers, redelivery, dead letters, output."""
    names = (*arm.retry_topics, arm.redelivery_topic, arm.dead_letter_topic, arm.output_topic)
    yield from (Topic(name, 1) for name in names if name)


MAIN_TOPICS: Final = tuple(Topic(kind.topic, kind.partitions) for kind in KINDS)
ARM_TOPICS: Final = tuple(topic for arm in CONSUMER_ARMS.values() for topic in topics_of(arm))
TOPICS: Final = MAIN_TOPICS + ARM_TOPICS
