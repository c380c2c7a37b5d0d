"""The share decision: whatever joins, dies and freezes, each shard has one owner at most, and in the end one."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.sharding import SHARDS
from services.relay.ownership import MEMBER_CLASS, SHARD_CLASS, Census, count, decide

ALL = frozenset(range(SHARDS))


class Locks:
    """The advisory locks of one database: a lock that is held cannot be taken, and a dead session's locks are free."""

    def __init__(self) -> None:
        self.owners: dict[int, int] = {}
        self.members: set[int] = set()

    def census(self, me: int) -> Census:
        members = [(MEMBER_CLASS, member, member == me) for member in self.members]
        return count(members + [(SHARD_CLASS, shard, owner == me) for shard, owner in self.owners.items()])

    def carry_out(self, me: int, census: Census) -> None:
        """What a relay does with a census, which may be old by now."""
        change = decide(census)
        for shard in change.release:
            assert self.owners[shard] == me
            del self.owners[shard]
        for shard in change.take:
            self.owners.setdefault(shard, me)  # a try-lock: who comes second gets nothing

    def leave(self, me: int) -> None:
        self.members.discard(me)
        self.owners = {shard: owner for shard, owner in self.owners.items() if owner != me}

    def rounds(self, number: int) -> None:
        for _ in range(number):
            for member in sorted(self.members):
                self.carry_out(member, self.census(member))


RELAYS = st.integers(0, 7)
STEPS = st.lists(st.tuples(st.sampled_from(["join", "leave", "look", "act"]), RELAYS), max_size=80)


@given(STEPS)
def test_every_shard_finds_one_owner_and_nobody_has_more_than_the_fair_share(steps: list[tuple[str, int]]) -> None:
    locks = Locks()
    seen: dict[int, Census] = {}  # what each relay looked at last, and acts on later
    for what, relay in steps:
        if what == "join":
            locks.members.add(relay)
        elif what == "leave":
            locks.leave(relay)
            seen.pop(relay, None)
        elif relay in locks.members and what == "look":
            seen[relay] = locks.census(relay)
        elif relay in seen:
            locks.carry_out(relay, seen.pop(relay))
    locks.members.add(0)
    locks.rounds(3)
    fair = -(-SHARDS // len(locks.members))
    shares = [sum(owner == member for owner in locks.owners.values()) for member in locks.members]
    assert locks.owners.keys() == ALL
    assert max(shares) <= fair
    before = dict(locks.owners)
    locks.rounds(2)
    assert locks.owners == before  # at rest, nothing moves any more


@given(st.sets(st.sampled_from(sorted(ALL))), st.sets(st.sampled_from(sorted(ALL))), st.integers(1, 40))
def test_a_relay_takes_only_what_is_free_and_releases_only_what_is_its_own(
    mine: set[int], free: set[int], members: int
) -> None:
    change = decide(Census(frozenset(mine), frozenset(free - mine), members))
    assert set(change.take) <= free - mine
    assert set(change.release) <= mine
    assert not (change.take and change.release)
    assert len(mine) + len(change.take) - len(change.release) <= max(-(-SHARDS // members), len(mine))


def test_a_relay_that_is_alone_takes_everything_at_once() -> None:
    assert decide(count([(MEMBER_CLASS, 4711, True)])).take == tuple(sorted(ALL))
