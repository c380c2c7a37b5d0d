"""From offsets to lag. Pure."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

Partition = tuple[str, int]
Offsets = Mapping[Partition, int]
Place = tuple[str, int, int]  # topic, partition, offset


class Topics(msgspec.Struct, frozen=True):
    """Of each partition: the first offset that is still there, and the one after the last."""

    firsts: Offsets
    ends: Offsets

    def end_of(self, topic: str) -> int:
        """The sum of a topic's end offsets."""
        return sum(end for (name, _), end in self.ends.items() if name == topic)


class Lag(msgspec.Struct, frozen=True):
    """How far a group is behind on one partition; `first` is the offset of the first record that it has not done."""

    topic: str
    partition: int
    first: int
    messages: int

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.first


def lags(topics: Topics, names: Iterable[str], committed: Offsets) -> Iterator[Lag]:
    """The lag of a group on every partition of the topics `names`. Without a commit it starts at the log's start.

    An offset committed after the ends were read may lie beyond them: that is no lag.
    """
    wanted = set(names)
    for (topic, partition), end in topics.ends.items():
        if topic in wanted:
            position = max(committed.get((topic, partition), 0), topics.firsts[topic, partition])
            yield Lag(topic, partition, position, max(0, end - position))


def rounds(places: Iterable[Place]) -> list[dict[Partition, int]]:
    """The places in rounds of one a partition, because a reader is at one place of a partition at a time."""
    found: list[dict[Partition, int]] = []
    for topic, partition, offset in sorted(set(places)):
        free = next((one for one in found if (topic, partition) not in one), None)
        if free is None:
            found.append(free := {})
        free[topic, partition] = offset
    return found
