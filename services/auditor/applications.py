"""Whether applications of an effect are as their records asked, and what they come to by message. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from services.auditor.facts import against_records
from services.auditor.history import Applied, Key, Published
from services.auditor.stores import Application
from services.domain.arms import ConsumerArm
from services.domain.messages import Coordinates


class Known(msgspec.Struct, frozen=True):
    """What the reading of effects needs to know from before."""

    published: Published
    lives: Mapping[str, str]  # whose process a life is of
    firsts: Mapping[tuple[str, int], int] = {}  # the first offset that is still there, of each partition

    def dropped(self, key: Key, at: Coordinates) -> bool:
        """Whether the record that an application was for may have been one that the broker has dropped."""
        return not self.published.copies[key] and at.offset < self.firsts.get((at.topic, at.partition), 0)


def wrong(arm: str, effect: str, known: Known, found: Application) -> str:
    """What is wrong with an application; nothing of one of a message that is not known."""
    if fields := against_records(effect, known.published.facts[found.key], found.facts):
        return f"not as its record asked: {fields}"
    return made_by_another(arm, known.lives, found.life)


def made_by_another(arm: str, lives: Mapping[str, str], life: str) -> str:
    """Says whose process it was, if it was another arm's."""
    owner = lives.get(life, arm)
    return f"made by a process of the arm {owner}" if owner != arm else ""


def taken(arm: ConsumerArm, effect: str, known: Known, found: Iterable[Application]) -> Applied:
    """What applications come to: how often which message, and which of them are wrong."""
    applied, several = Applied({}, {}, {}), known.published.copies.repeated() if arm.per_record else ()
    for one in found:
        if known.dropped(one.key, one.at):
            continue
        if why := wrong(arm.name, effect, known, one):
            applied.wrong.setdefault(one.key, why)
            continue
        applied.of[one.key] = applied.of.get(one.key, 0) + 1
        if one.key in several:
            applied.at[one.at] = applied.at.get(one.at, 0) + 1
    return applied
