"""The topics as data."""

from typing import Final

import msgspec

from services.domain.messages import KINDS


class Topic(msgspec.Struct, frozen=True):
    """One topic of the lab."""

    name: str
    partitions: int


MAIN_TOPICS: Final = tuple(Topic(kind.topic, kind.partitions) for kind in KINDS)
TOPICS: Final = MAIN_TOPICS
