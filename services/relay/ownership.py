"""Which relay owns which shard: a pure decision of each relay for itself, from what it sees of the others' locks."""

from collections.abc import Iterable
from typing import Final

import msgspec

from services.domain.sharding import SHARDS

# First keys of the advisory locks; the second is the backend's pid (members) or the shard's number.
MEMBER_CLASS: Final = 7001
SHARD_CLASS: Final = 7002


class Census(msgspec.Struct, frozen=True):
    """What one relay sees: its own shards, those that nobody owns, and how many relays there are (itself included)."""

    mine: frozenset[int]
    free: frozenset[int]
    members: int


class Change(msgspec.Struct, frozen=True):
    """What a relay does to come nearer to its fair share; at most one of the two is not empty."""

    take: tuple[int, ...] = ()
    release: tuple[int, ...] = ()


def count(locks: Iterable[tuple[int, int, bool]]) -> Census:
    """The census from rows of (lock class, number, whether it is this session's)."""
    members, mine, owned = 0, set(), set()
    for class_, number, is_mine in locks:
        if class_ == MEMBER_CLASS:
            members += 1
        else:
            owned.add(number)
            if is_mine:
                mine.add(number)
    return Census(frozenset(mine), frozenset(range(SHARDS)) - owned, max(members, 1))


def decide(census: Census) -> Change:
    """Release what is above the fair share, or take free shards up to it; the shares of all relays hold every shard."""
    fair = -(-SHARDS // census.members)
    missing = fair - len(census.mine)
    if missing < 0:
        return Change(release=tuple(sorted(census.mine)[missing:]))
    return Change(take=tuple(sorted(census.free)[:missing]))
