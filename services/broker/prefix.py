"""The committable prefix of each partition: pure bookkeeping of what was delivered, in order, and what is finished.

Computed over the delivered objects, never over offsets: after a rebalance the same offsets are delivered again as new
objects, and a late acknowledgement of the old ones must not make the new ones committable.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Delivery(Protocol):
    """A delivered chunk: the offset of its last record, and whether all its records are finished."""

    offset: int
    acked: bool


Partition = TypeVar("Partition")


class Prefix(Generic[Partition]):
    """What a group member may commit. Bounded by what the caller has in flight: chunks that nobody has finished."""

    def __init__(self) -> None:
        self._delivered: defaultdict[Partition, deque[Delivery]] = defaultdict(deque)
        self._finished: dict[Partition, int] = {}  # next offset to read, of what is finished and not yet committed

    def deliver(self, partition: Partition, delivery: Delivery) -> None:
        """Note a delivery; those of one partition come in the order of their offsets."""
        self._delivered[partition].append(delivery)

    def committable(self) -> dict[Partition, int]:
        """Positions (next offset to read) up to which everything delivered is finished, and that are not committed."""
        for partition, deliveries in self._delivered.items():
            while deliveries and deliveries[0].acked:
                self._finished[partition] = deliveries.popleft().offset + 1
        return dict(self._finished)

    def committed(self, positions: dict[Partition, int]) -> None:
        """The broker confirmed these positions. What was not confirmed stays committable."""
        for partition, position in positions.items():
            if self._finished.get(partition) == position:
                del self._finished[partition]

    def forget(self, partitions: Iterable[Partition] | None = None) -> None:
        """Partitions were revoked, or all were rewound: what was delivered will be delivered again, as new objects."""
        for partition in list(self._delivered) if partitions is None else list(partitions):
            self._delivered.pop(partition, None)
            self._finished.pop(partition, None)
