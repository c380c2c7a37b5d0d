"""The topics as data."""

from collections.abc import Iterator
from typing import Final

import msgspec

from services.domain.arms import CONSUMER_ARMS, DEFAULT_PUBLISHER, PUBLISHER_ARMS, ConsumerArm
from services.domain.messages import KINDS


class Topic(msgspec.Struct, frozen=True):
    """One topic of the lab."""

    name: str
    partitions: int


def topics_of(arm: ConsumerArm) -> Iterator[Topic]:
    """An arm's own topics: retry tiers, redelivery, dead letters, output."""
    names = (*arm.retry_topics, arm.redelivery_topic, arm.dead_letter_topic, arm.output_topic)
    yield from (Topic(name, 1) for name in names if name)


def subscriptions() -> Iterator[tuple[str, tuple[Topic, ...]]]:
    """Every consumer group, and what it reads. An arm without a lane listens to its redelivery topic itself."""
    for arm in CONSUMER_ARMS.values():
        own = {topic.name: topic for topic in topics_of(arm)}
        redelivery = tuple(own[name] for name in (arm.redelivery_topic,) if name)
        if arm.retries:
            yield arm.group, MAIN_TOPICS
            yield arm.lane_group, tuple(own[name] for name in arm.retry_topics) + redelivery
        else:
            yield arm.group, MAIN_TOPICS + redelivery


MAIN_TOPICS: Final = tuple(Topic(kind.topic, kind.partitions) for kind in KINDS)
ARM_TOPICS: Final = tuple(topic for arm in CONSUMER_ARMS.values() for topic in topics_of(arm))
PUBLISHER_TOPICS: Final = tuple(
    Topic(arm.topic(kind), 1) for arm in PUBLISHER_ARMS.values() if arm.name != DEFAULT_PUBLISHER for kind in arm.kinds
)
TOPICS: Final = MAIN_TOPICS + ARM_TOPICS + PUBLISHER_TOPICS
