"""What may be committed, over random lives of a group member: nothing unfinished is passed, nothing is forgotten."""

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.broker.prefix import Prefix

PARTITIONS = ("orders.v1/0", "orders.v1/1")


class Chunk:
    """A delivered chunk: the records `first` to `offset`, in one generation."""

    def __init__(self, first: int, offset: int, generation: int) -> None:
        self.first, self.offset, self.generation = first, offset, generation
        self.acked = False

    def __repr__(self) -> str:
        return f"{self.first}-{self.offset} of generation {self.generation}, {'acked' if self.acked else 'open'}"


class GroupMember(RuleBasedStateMachine):
    """A member's life: deliveries, acknowledgements in any order, failed commits, revocations, seeks."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix: Prefix[str] = Prefix()
        self.generation = 0
        self.position = dict.fromkeys(PARTITIONS, 0)  # the next record that is fetched
        self.group = dict.fromkeys(PARTITIONS, 0)  # what the broker holds
        self.chunks: dict[str, list[Chunk]] = defaultdict(list)  # all that were ever delivered, old generations too

    @rule(partition=st.sampled_from(PARTITIONS), size=st.integers(1, 5), gap=st.integers(0, 2))
    def deliver(self, partition: str, size: int, gap: int) -> None:
        """The next chunk, of any size (so that old boundaries do not come again), after a gap or none."""
        first = self.position[partition] + gap
        chunk = Chunk(first, first + size - 1, self.generation)
        self.position[partition] = chunk.offset + 1
        self.chunks[partition].append(chunk)
        self.prefix.deliver(partition, chunk)

    @precondition(lambda self: any(not c.acked for chunks in self.chunks.values() for c in chunks))
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """Any open chunk, of this generation or an older one."""
        chunk = data.draw(st.sampled_from([c for chunks in self.chunks.values() for c in chunks if not c.acked]))
        chunk.acked = True

    @rule()
    def commit(self) -> None:
        positions = self.prefix.committable()
        self.group.update(positions)
        self.prefix.committed(positions)
        assert self.prefix.committable() == {}

    @rule(data=st.data())
    def commit_that_the_broker_confirms_in_part(self, data: st.DataObject) -> None:
        before = self.prefix.committable()
        kept = data.draw(st.sets(st.sampled_from(PARTITIONS)))
        confirmed = {p: position for p, position in before.items() if p in kept}
        self.group.update(confirmed)
        self.prefix.committed(confirmed)
        missing = {p: position for p, position in before.items() if p not in kept}
        assert missing.items() <= self.prefix.committable().items(), "a failed commit was forgotten"

    @rule(partitions=st.sets(st.sampled_from(PARTITIONS), min_size=1))
    def revoke_and_get_back(self, partitions: set[str]) -> None:
        self.generation += 1
        self.prefix.forget(partitions)
        self._fetch_again(partitions)

    @rule()
    def rewind(self) -> None:
        self.generation += 1
        self.prefix.forget()
        self._fetch_again(PARTITIONS)

    def _fetch_again(self, partitions: object) -> None:
        for partition in PARTITIONS:
            if partition in partitions:  # type: ignore[operator]
                self.position[partition] = self.group[partition]
                for chunk in self.chunks[partition]:
                    if chunk.generation < self.generation:
                        chunk.generation = -1  # of a delivery that is over

    @invariant()
    def only_what_is_finished_now_is_committable(self) -> None:
        for partition, position in self.prefix.committable().items():
            assert position > self.group[partition], "the group would go back or stand still"
            for chunk in self.chunks[partition]:
                if chunk.generation != -1 and chunk.first < position:
                    assert chunk.acked, f"{position} passes {chunk}"

    @invariant()
    def what_is_finished_is_committable(self) -> None:
        for partition in PARTITIONS:
            reachable = self.group[partition]
            for chunk in self.chunks[partition]:
                if chunk.generation == -1:
                    continue
                if not chunk.acked:
                    break
                reachable = max(reachable, chunk.offset + 1)
            assert self.prefix.committable().get(partition, self.group[partition]) == reachable


GroupMember.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestGroupMember = GroupMember.TestCase


class ByOffset:
    """The prefix as it is often written: finished offsets of a partition, whoever delivered them."""

    def __init__(self) -> None:
        self._delivered: list[int] = []
        self._finished: set[int] = set()

    def deliver(self, _: str, delivery: Chunk) -> None:
        self._delivered.append(delivery.offset)

    def ack(self, delivery: Chunk) -> None:
        delivery.acked = True
        self._finished.add(delivery.offset)

    def forget(self) -> None:
        self._delivered.clear()
        self._finished.clear()

    def committable(self) -> dict[str, int]:
        position = {}
        while self._delivered and self._delivered[0] in self._finished:
            position["orders.v1/0"] = self._delivered.pop(0) + 1
        return position


class ByObject(Prefix[str]):
    """The real one, with the same face."""

    def ack(self, delivery: Chunk) -> None:
        delivery.acked = True


@pytest.mark.parametrize(("kind", "passes_unfinished_records"), [(ByOffset, True), (ByObject, False)])
def test_a_late_acknowledgement_of_an_old_delivery_makes_nothing_committable(
    kind: type[ByOffset | ByObject], passes_unfinished_records: bool
) -> None:
    prefix = kind()
    old = Chunk(0, 499, generation=1)
    prefix.deliver("orders.v1/0", old)
    prefix.forget()
    prefix.deliver("orders.v1/0", Chunk(0, 499, generation=2))  # the same records, not finished
    prefix.ack(old)
    assert (prefix.committable() == {"orders.v1/0": 500}) is passes_unfinished_records


def test_a_late_acknowledgement_in_other_boundaries_makes_nothing_committable_either() -> None:
    prefix = ByObject()
    old = Chunk(0, 499, generation=1)
    prefix.deliver("orders.v1/0", old)
    prefix.forget({"orders.v1/0"})
    new = [Chunk(0, 99, 2), Chunk(100, 499, 2)]
    for chunk in new:
        prefix.deliver("orders.v1/0", chunk)
    prefix.ack(old)
    prefix.ack(new[0])
    assert prefix.committable() == {"orders.v1/0": 100}
