"""The audit while the lab runs: what is new is taken in, what is settled is a number, the rest is judged each pass.

No I/O besides the shelf, on which lies what is settled and old; the time is given. A message is settled when it was
applied, every copy of it lies below the group's offset and nothing else holds it; whatever happens to it later opens
it again. So a pass costs as much as is under way, and the memory does not grow with the lab's age.

Lost and unexpected must be so in two passes a grace apart, because the stores are not read at one moment; until then
the message counts as waiting. The grace is from what one pass saw to where another begins to read: a pass may take
longer than that. Both can be taken back.
"""

from collections import ChainMap, Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import msgspec

from services.auditor.applications import Known, wrong
from services.auditor.history import (
    Answers,
    Applied,
    Holdings,
    Intents,
    Key,
    Outbox,
    ProcessLook,
    Published,
    key_of_record,
)
from services.auditor.judge import acknowledged_and_absent, extra, judge_process, seem_lost
from services.auditor.shelf import Intended, Settled, Shelf
from services.auditor.stores import Application
from services.broker.reader import Record
from services.domain.arms import DEFAULT_PUBLISHER, ConsumerArm, PublisherArm
from services.domain.audit import AuditRow, State
from services.domain.messages import INJECTED_HEADER, Coordinates, Kind

GRACE_S: Final = 6.0  # longer than the provider's time-out and the commit's interval together
_BITS: Final = 4  # of a packed count
_FULL: Final = (1 << _BITS) - 1

K = TypeVar("K")


class Found(NamedTuple):
    """What a pass found of one message: lost, duplicated or unexpected; or that it is so no more (`many` is 0)."""

    row: str
    state: State
    key: Key
    many: int  # extra applications; 1 for the others


class Pass(NamedTuple):
    """One pass over everything."""

    rows: list[AuditRow]
    found: list[Found]


class When(NamedTuple):
    """When a pass began to read, and when it had read everything."""

    began: float
    over: float


class _Row:
    """One hop, arm and effect (and kind): what is settled as counts, what is open as keys."""

    def __init__(self, hop: str, arm: str, effect: str) -> None:
        self.settled = AuditRow(hop=hop, arm=arm, effect=effect)
        self.open: set[Key] = set()
        self.orphans: dict[Key, float] = {}  # there, and not asked for: since when
        self._missing: dict[Key, float] = {}  # nowhere: since when
        self._surplus: dict[Key, float] = {}  # applied more often than there are records of it: since when
        self._bad: dict[tuple[State, Key], int] = {}  # what was said last

    def row(self) -> AuditRow:
        """A new row with what is settled."""
        return msgspec.structs.replace(self.settled)

    def ripe(self, nowhere: Collection[Key], when: When) -> set[Key]:
        """Those that have been nowhere for the grace, and in two passes."""
        self._missing = {key: self._missing.get(key, when.over) for key in nowhere}
        return {key for key, since in self._missing.items() if when.began - since >= GRACE_S}

    def removed(self, key: Key) -> None:
        """It was seen, and is there no more."""
        self._missing[key] = 0.0

    def unripe(self, surplus: Collection[Key], when: When) -> set[Key]:
        """Those that have been applied too often for less than the grace."""
        self._surplus = {key: self._surplus.get(key, when.over) for key in surplus}
        return {key for key, since in self._surplus.items() if when.began - since < GRACE_S}

    def unexpected(self, when: When) -> list[Key]:
        """What has not been asked for, for the grace."""
        return [key for key, since in self.orphans.items() if when.began - since >= GRACE_S]

    def news(self, bad: dict[tuple[State, Key], int]) -> list[Found]:
        """What is bad now and was not said, or with another count; and what is so no more."""
        name = self.settled.name
        # a double that is settled stays what it was: it cannot be taken back
        gone = [place for place in self._bad if place not in bad and place[0] != "duplicated"]
        for place in gone:
            del self._bad[place]
        return [Found(name, *place, 0) for place in gone] + self.said(bad)

    def said(self, bad: dict[tuple[State, Key], int]) -> list[Found]:
        """Some more that is bad."""
        fresh = {place: many for place, many in bad.items() if self._bad.get(place) != many}
        self._bad |= fresh
        return [Found(self.settled.name, *place, many) for place, many in fresh.items()]

    def standing(self) -> list[Found]:
        """What was said last to be lost or unexpected."""
        name = self.settled.name
        return [Found(name, *place, many) for place, many in self._bad.items() if place[0] != "duplicated"]

    def settle(self, key: Key, many: int, allowed: int) -> dict[tuple[State, Key], int]:
        """Count an applied message and let go of it."""
        self.open.discard(key)
        return _count(self.settled, key, many, allowed, 1)

    def reopen(self, key: Key, many: int, allowed: int) -> None:
        """Something happened to a settled message."""
        _count(self.settled, key, many, allowed, -1)
        self.open.add(key)


def _count(row: AuditRow, key: Key, many: int, allowed: int, sign: int) -> dict[tuple[State, Key], int]:
    above = extra(many, allowed)
    row.expected += sign
    row.inherited += sign * (min(many, allowed) - 1)
    row.extra_applications += sign * above
    if above:
        row.duplicated += sign
        return {("duplicated", key): above}
    row.applied_once += sign
    return {}


class _Cell(_Row):
    """One effect of one consumer arm."""

    def __init__(self, arm: ConsumerArm, effect: str, number: int) -> None:
        super().__init__("process", arm.name, effect)
        self.arm, self.effect, self.shift = arm, effect, _BITS * number
        self.early: dict[Key, list[Application]] = {}  # applied before their records were seen
        self.wrong: dict[Key, str] = {}
        self.records: dict[
            Key, Counter[Coordinates]
        ] = {}  # of messages with several, where the arm promises per record


class _Some:
    """A part of what was published, as the checkers ask for it."""

    def __init__(self, published: Published, keys: Set[Key]) -> None:
        self._keys = keys
        self.copies = published.copies

    def wanting(self, _: str) -> Set[Key]:
        return self._keys


class _Publisher:
    """One publisher arm and kind."""

    def __init__(self, arm: PublisherArm, kind: Kind) -> None:
        self.arm, self.kind, self.topic = arm, kind, arm.topic(kind)
        self.intents = Intents()
        self.accept = _Row("accept", arm.name, "intent")
        self.publish = _Row("publish", arm.name, "publication")
        self.accepted: set[str] = set()  # keys that are settled on the hop accept
        self.answered: set[str] = set()  # acknowledged keys of which the answers are no longer kept


class Live:
    """Everything that was taken in, and the judgement of it."""

    def __init__(self, publishers: Collection[PublisherArm], consumers: Collection[ConsumerArm]) -> None:
        self._publishers = [_Publisher(arm, kind) for arm in publishers for kind in arm.kinds]
        self.published = {arm.name: Published(None, self._promised(arm)) for arm in publishers}
        numbered = enumerate((arm, effect) for arm in consumers for effect in arm.effects)
        self._cells = {(arm.name, effect): _Cell(arm, effect, number) for number, (arm, effect) in numbered}
        self._counts: dict[Key, int] = {}
        self._many: dict[tuple[int, Key], int] = {}  # counts that are too large to be packed
        self._main = self.published.get(DEFAULT_PUBLISHER, Published())
        self._known = Known(self._main, {})
        self.heads: Mapping[tuple[str, int], int] = {}  # the first offset that is still there, of each partition
        self._shelf = Shelf()
        self._floors = dict.fromkeys(self.published, b"")  # by publisher: the newest id that ever lay on the shelf

    def _promised(self, arm: PublisherArm) -> ChainMap[Key, bytes]:
        return ChainMap(*(place.intents.promised for place in self._publishers if place.arm is arm))

    @property
    def undecodable(self) -> int:
        """Records without a message id."""
        return sum(published.undecodable for published in self.published.values())

    def __len__(self) -> int:
        return sum(len(published.copies.keys()) for published in self.published.values())

    def close(self) -> None:
        """Let go of the shelf."""
        self._shelf.close()

    def forget(self, keep: int, answers: Mapping[tuple[str, str], Answers]) -> None:
        """Put the oldest messages that are settled everywhere on the shelf, until so many are left of each publisher.

        They stay counted, and whatever happens to one of them takes it off the shelf again.
        """
        with self._shelf.writing():
            for arm, published in self.published.items():
                for key in _oldest(published.copies.keys(), keep):
                    if isinstance(key, bytes) and not self._is_open(key):
                        self._put(arm, key)
            for place in self._publishers:
                said = answers[place.arm.name, place.kind.name]
                for name in _oldest(place.intents.by_key.keys(), keep):
                    if name not in place.accept.open:
                        self._put_name(place, name)
                        said.forget(name)

    def _put(self, arm: str, key: bytes) -> None:
        published, is_main = self.published[arm], arm == DEFAULT_PUBLISHER
        copies, facts = published.copies[key], published.facts[key]
        owner = next((p for p in self._publishers if p.arm.name == arm and key in p.intents.promised), None)
        cells = self._cells.items() if is_main else ()
        settled = Settled(
            list(copies),
            list(facts),
            published.forget(key),
            owner.kind.name if owner else "",
            owner.intents.promised.pop(key) if owner else b"",
            self._counts.pop(key, 0) if is_main else 0,
            {cell.shift: self._many.pop((cell.shift, key)) for _, cell in cells if (cell.shift, key) in self._many},
            {"/".join(name): list(cell.records.pop(key).items()) for name, cell in cells if key in cell.records},
        )
        self._shelf.put(arm, key, settled)
        self._floors[arm] = max(self._floors[arm], key)

    def _recall(self, arm: str, key: Key) -> None:
        """Take a message off the shelf, if it lies there. Ids are of their time: a new one is not looked for."""
        if not isinstance(key, bytes) or key > self._floors.get(arm, b"") or self.published[arm].copies[key]:
            return
        settled = self._shelf.take(arm, key)
        if settled is None:
            return
        self.published[arm].restore(key, settled.copies, settled.facts, settled.wanted)
        if settled.kind:
            self._publisher(arm, settled.kind).intents.promised[key] = settled.promised
        if settled.counts:
            self._counts[key] = settled.counts
        self._many |= {(shift, key): many for shift, many in settled.many.items()}
        for name, records in settled.records.items():
            place, _, effect = name.partition("/")
            self._cells[place, effect].records[key] = Counter(dict(records))

    def _put_name(self, place: _Publisher, name: str) -> None:
        intended = Intended(list(place.intents.by_key[name]), name in place.accepted)
        place.intents.by_key.drop(name)
        place.accepted.discard(name)
        place.answered.discard(name)
        self._shelf.put_name(place.arm.name, place.kind.name, name, intended)

    def _recall_name(self, place: _Publisher, name: str) -> None:
        """Take an Idempotency-Key off the shelf, if it lies there."""
        if place.intents.by_key[name] or name in place.accept.open:
            return  # it is here, or it is new and was looked for when its client called
        intended = self._shelf.take_name(place.arm.name, place.kind.name, name)
        if intended is None:
            return
        for message_id in intended.message_ids:
            place.intents.by_key.add(name, message_id)
        if intended.settled:
            place.accepted.add(name)
            place.answered.add(name)

    def _is_open(self, key: Key) -> bool:
        rows = (*self._cells.values(), *(place.publish for place in self._publishers))
        return any(key in row.open or key in row.orphans for row in rows)

    def take_intent(self, arm: str, kind: str, message_id: bytes, key: str, digest: bytes, run: str) -> None:
        """An intent."""
        place = self._publisher(arm, kind)
        self._recall(arm, message_id)
        self._recall_name(place, key)
        if key in place.accepted:
            place.accepted.discard(key)
            place.accept.reopen(key, len(place.intents.by_key[key]), 1)
        place.intents.add(message_id, key, digest, run)
        place.publish.open.add(message_id)
        place.publish.orphans.pop(message_id, None)

    def take_answers(self, arm: str, kind: str, touched: Collection[str]) -> None:
        """The client called under these keys, or was answered."""
        place = self._publisher(arm, kind)
        for key in touched:
            self._recall_name(place, key)
            if key not in place.accepted:
                place.accept.open.add(key)

    def take_record(self, arm: str, record: Record, now: float) -> None:
        """A record of a publisher's topic."""
        published = self.published[arm]
        key = key_of_record(record.at, record.headers)
        self._recall(arm, key)
        place = next(p for p in self._publishers if p.arm.name == arm and p.topic == record.at.topic)
        before = published.count(key, place.topic)
        if arm == DEFAULT_PUBLISHER:
            self._reopen(key)
        published.add(record.at, record.headers, record.value)
        if key in place.intents.promised:
            if key not in place.publish.open:
                place.publish.reopen(key, before, 1)
        elif INJECTED_HEADER not in dict(record.headers):
            place.publish.orphans.setdefault(key, now)
        if arm == DEFAULT_PUBLISHER:
            self._wanted(key)

    def take_application(self, arm: str, effect: str, found: Application, now: float) -> None:
        """An effect was applied."""
        cell, at = self._cells[arm, effect], found.at
        self._recall(DEFAULT_PUBLISHER, found.key)
        if not self._main.copies[found.key] and at.offset < self.heads.get((at.topic, at.partition), 0):
            return  # its record may be one that the broker has dropped
        if found.key not in self._main.wanting(effect):
            cell.early.setdefault(found.key, []).append(found)
            cell.orphans.setdefault(found.key, now)
            return
        if what := wrong(arm, effect, self._known, found):
            cell.wrong[found.key] = what
            cell.orphans.setdefault(found.key, now)
            return
        if found.key not in cell.open:
            cell.reopen(found.key, self._count(cell, found.key), self._allowed(cell, found.key))
        self._add(cell, found)

    def take_back(self, arm: str, effect: str, found: Application) -> bool:
        """An application that was taken in is there no more. False: it cannot be told what is left, read all again.

        So it is with what belongs to no message, and with a message of which the store was asked for which records it
        was applied: before or after? Nothing takes an application out and puts it elsewhere: what is nowhere now need
        not wait for the grace.
        """
        cell, key = self._cells[arm, effect], found.key
        self._recall(DEFAULT_PUBLISHER, key)
        many = self._count(cell, key)
        if not many or key in cell.orphans or key in cell.records:
            return False
        if key not in cell.open:
            cell.reopen(key, many, self._allowed(cell, key))
        self._set(cell, key, many - 1)
        cell.removed(key)
        return True

    def lacking(self) -> dict[tuple[str, str], list[Key]]:
        """Of which messages it must be looked up for which records they were applied."""
        repeated = self._main.copies.repeated()
        lacking = {
            place: [key for key in repeated if key in cell.open and self._lacks(cell, key)]
            for place, cell in self._cells.items()
            if cell.arm.per_record
        }
        return {place: keys for place, keys in lacking.items() if keys}

    def take_records_applied(self, arm: str, effect: str, key: Key, places: Iterable[Coordinates]) -> None:
        """For which of its records a message was applied: all there is by now."""
        cell = self._cells[arm, effect]
        cell.records[key] = Counter(places)
        self._set(cell, key, cell.records[key].total())

    def standing(self) -> list[Found]:
        """What is lost and unexpected by the last pass."""
        rows = (*self._cells.values(), *(r for p in self._publishers for r in (p.accept, p.publish)))
        return [one for row in rows for one in row.standing()]

    def places_of(self, arm: str, key: Key) -> list[Coordinates]:
        """Where the copies of a message lie that the arm publishes, or reads."""
        self._recall(arm if arm in self.published else DEFAULT_PUBLISHER, key)
        return list(self.published.get(arm, self._main).copies[key])

    def settle(self, held: "Held") -> list[Found]:
        """Let go of what is applied; returns what of it is doubled. While not everything is read, that much is sure."""
        found: list[Found] = []
        for place in self._publishers:
            answers, outbox = held.answers[place.arm.name, place.kind.name], held.outboxes[place.arm.name]
            for key in list(place.accept.open):
                if self._is_accepted(place, key, answers):
                    self._accepted(place, key)
            for key in list(place.publish.open):
                if (many := self._published(place, key)) and _has_left(outbox, key):
                    found += place.publish.said(place.publish.settle(key, many, 1))
        for cell in self._cells.values():
            holdings = held.holdings[cell.arm.name]
            for key in list(cell.open):
                many, copies = self._count(cell, key), self._main.copies[key]
                sure = many and not self._surplus(cell, key)
                if sure and not holdings.ahead(copies) and self._is_free(cell, key, copies, holdings):
                    found += cell.said(cell.settle(key, many, self._allowed(cell, key)))
        return found

    def _is_accepted(self, place: _Publisher, key: Key, answers: Answers) -> bool:
        """Acknowledged, and one intent."""
        if len(place.intents.by_key[str(key)]) != 1:
            return False
        return key in place.answered or answers.outcome(str(key)) == "acknowledged"

    def _accepted(self, place: _Publisher, key: Key) -> None:
        place.accept.settle(key, 1, 1)
        place.accepted.add(str(key))

    def _published(self, place: _Publisher, key: Key) -> int:
        return self.published[place.arm.name].count(key, place.topic)

    def judge(self, held: "Held", when: When) -> Pass:
        """One pass: what was taken in, against what holds the rest."""
        rows: dict[str, AuditRow] = {}
        found: list[Found] = []
        judged = [self._accept(place, held, when) for place in self._publishers]
        judged += [self._publish(place, held, when) for place in self._publishers]
        judged += [self._process(cell, held, when) for cell in self._cells.values() if cell.arm.name in held.holdings]
        for part, row, bad in judged:
            rows.setdefault(row.name, AuditRow(hop=row.hop, arm=row.arm, effect=row.effect)).add(row)
            found += part.news(bad)
        return Pass(list(rows.values()), found)

    def _accept(self, place: _Publisher, held: "Held", when: When) -> "_Judged":
        made, part, bad = place.intents.by_key, place.accept, _Bad()
        answers = held.answers[place.arm.name, place.kind.name]
        nowhere, row = [], part.row()
        for key in list(part.open):
            outcome = "acknowledged" if key in place.answered else answers.outcome(str(key))
            many = len(made[str(key)])
            if outcome == "acknowledged" and many == 1:
                self._accepted(place, key)
                _count(row, key, 1, 1, 1)
            elif outcome == "refused":
                if many:
                    bad["unexpected", key] = 1
                else:
                    part.open.discard(key)
            elif many:
                bad |= _count(row, key, many, 1, 1)
            elif acknowledged_and_absent(outcome, made[str(key)]):
                nowhere.append(key)
            else:
                row.expected += 1
                row.uncertain += 1
        row.unexpected = len(bad.of("unexpected"))
        return part, row, _lost_or_waiting(part, row, bad, nowhere, when)

    def _publish(self, place: _Publisher, held: "Held", when: When) -> "_Judged":
        published, part, bad = self.published[place.arm.name], place.publish, _Bad()
        outbox, row = held.outboxes[place.arm.name], part.row()
        nowhere = []
        for key in list(part.open):
            many, waits = published.count(key, place.topic), key in outbox.pending
            if many and _has_left(outbox, key):
                bad |= part.settle(key, many, 1)
                _count(row, key, many, 1, 1)
            elif many:
                bad |= _count(row, key, many, 1, 1)
                row.also_held += 1
            elif waits or key in outbox.set_aside:
                row.expected += 1
                row.waiting += waits
                row.dead_lettered += not waits
            elif place.topic in held.truncated:
                row.expected += 1
                row.uncertain += 1
            else:
                nowhere.append(key)
        ghosts = dict.fromkeys(part.unexpected(when), 1)
        ghosts |= {key: 1 for topic, key in published.wrong if topic == place.topic}
        row.unexpected = len(ghosts)
        bad |= {("unexpected", key): 1 for key in ghosts}
        return part, row, _lost_or_waiting(part, row, bad, nowhere, when)

    def _process(self, cell: _Cell, held: "Held", when: When) -> "_Judged":
        holdings, row, bad = held.holdings[cell.arm.name], cell.row(), _Bad()
        rest: dict[Key, int] = {}
        surplus = [key for key in cell.open if self._surplus(cell, key)] if cell.arm.per_record else ()
        unsure = cell.unripe(surplus, when)
        for key in list(cell.open):
            many, copies = self._count(cell, key), self._main.copies[key]
            ahead = holdings.ahead(copies)
            if not many and ahead:
                row.expected += 1
                row.waiting += 1
            elif many and not ahead and key not in unsure and self._is_free(cell, key, copies, holdings):
                bad |= cell.settle(key, many, self._allowed(cell, key))
                _count(row, key, many, self._allowed(cell, key), 1)
            else:
                rest[key] = many
        looks = self._look(cell, rest, holdings)
        seem = seem_lost(cell.effect, cell.arm, _Some(self._main, rest.keys()), looks[0])  # type: ignore[arg-type]
        # It asks of every message with copies, and the look knows only of the rest; one that was never applied is not
        # lost while another copy of it is held.
        nowhere = {key for key in seem & rest.keys() if rest[key] or holdings.gone(key, self._main.copies[key])}
        lost = cell.ripe(nowhere, when)
        some = _Some(self._main, rest.keys() - (nowhere - lost))
        judged = judge_process(AuditRow(hop="", arm="", effect=cell.effect), cell.arm, some, looks, lost)  # type: ignore[arg-type]
        row.add(judged.row)
        row.expected += len(nowhere - lost)
        row.waiting += len(nowhere - lost)
        bad |= {("lost", key): 1 for key in lost}
        for key in some.wanting("") - lost - unsure:
            if above := extra(rest[key], self._allowed(cell, key)):
                bad["duplicated", key] = above
        ghosts = cell.unexpected(when)
        row.unexpected = len(ghosts)
        bad |= {("unexpected", key): 1 for key in ghosts}
        return cell, row, bad

    def _look(self, cell: _Cell, rest: Mapping[Key, int], holdings: Holdings) -> tuple[ProcessLook, ProcessLook]:
        at = {place: many for key in rest for place, many in cell.records.get(key, {}).items()}
        look = ProcessLook(holdings, Applied({key: many for key, many in rest.items() if many}, at))
        return look, look

    def _is_free(self, cell: _Cell, key: Key, copies: Sequence[Coordinates], holdings: Holdings) -> bool:
        """Whether an applied message is held by nothing besides, and owes no record an application of its own."""
        if cell.effect == "email" and key in holdings.emails:
            return False
        if self._lacks(cell, key) or (
            cell.arm.per_record and len(copies) > 1 and self._allowed(cell, key) < len(copies)
        ):
            return False
        return not (holdings.letters.at or holdings.letters.of) or holdings.letter(key, copies) is None

    def _wanted(self, key: Key) -> None:
        """A record asks for effects: some may be there already."""
        for cell in self._cells.values():
            if key not in self._main.wanting(cell.effect):
                continue
            cell.open.add(key)
            cell.orphans.pop(key, None)
            for found in cell.early.pop(key, ()):
                if what := wrong(cell.arm.name, cell.effect, self._known, found):
                    cell.wrong[key] = what
                    cell.orphans[key] = 0.0
                else:
                    self._add(cell, found)

    def _reopen(self, key: Key) -> None:
        """One copy more of a message is about to be taken in: what was settled is open again."""
        if not self._main.copies[key]:
            return
        for cell in self._cells.values():
            if key not in cell.open and key in self._main.wanting(cell.effect):
                cell.reopen(key, self._count(cell, key), self._allowed(cell, key))

    def _add(self, cell: _Cell, found: Application) -> None:
        if cell.effect == "output":  # its topic keeps no index to look it up by
            cell.records.setdefault(found.key, Counter())
        if found.key in cell.records:
            cell.records[found.key][found.at] += 1
        self._set(cell, found.key, self._count(cell, found.key) + 1)

    def _count(self, cell: _Cell, key: Key) -> int:
        packed = self._counts.get(key, 0) >> cell.shift & _FULL
        return packed if packed < _FULL else self._many[cell.shift, key]

    def _set(self, cell: _Cell, key: Key, many: int) -> None:
        packed = min(many, _FULL)
        if packed == _FULL:
            self._many[cell.shift, key] = many
        self._counts[key] = self._counts.get(key, 0) & ~(_FULL << cell.shift) | packed << cell.shift

    def _allowed(self, cell: _Cell, key: Key) -> int:
        """How many applications count as one: one for each record, where the arm promises per record."""
        records = cell.records.get(key)
        return max(1, len(records)) if records and cell.arm.per_record else 1

    def _surplus(self, cell: _Cell, key: Key) -> bool:
        """Whether there are more applications than records, where records count: one may lie on the topic, unread."""
        return cell.arm.per_record and self._count(cell, key) > len(self._main.copies[key])

    def _lacks(self, cell: _Cell, key: Key) -> bool:
        several = cell.arm.per_record and len(self._main.copies[key]) > 1
        return several and self._count(cell, key) > 0 and key not in cell.records

    def _publisher(self, arm: str, kind: str) -> _Publisher:
        return next(p for p in self._publishers if (p.arm.name, p.kind.name) == (arm, kind))


def _has_left(outbox: Outbox, key: Key) -> bool:
    return key not in outbox.pending and key not in outbox.set_aside


def _oldest(keys: Collection[K], keep: int) -> list[K]:
    return list(islice(keys, max(0, len(keys) - keep)))


class Held(msgspec.Struct, frozen=True):
    """What holds messages by now: by publisher arm, by consumer arm; and what the clients were told."""

    outboxes: Mapping[str, Outbox]
    holdings: Mapping[str, Holdings]
    answers: Mapping[tuple[str, str], Answers]
    truncated: Collection[str] = ()  # topics whose first records the broker has dropped


class _Bad(dict[tuple[State, Key], int]):
    """The messages of one row that people ask about."""

    def of(self, state: State) -> list[Key]:
        return [key for named, key in self if named == state]


_Judged = tuple[_Row, AuditRow, dict[tuple[State, Key], int]]


def _lost_or_waiting(
    part: _Row, row: AuditRow, bad: dict[tuple[State, Key], int], nowhere: Collection[Key], when: When
) -> dict[tuple[State, Key], int]:
    """What is nowhere is lost once it has been so for the grace; until then it may be between two reads."""
    lost = part.ripe(nowhere, when)
    row.expected += len(nowhere)
    row.lost += len(lost)
    row.waiting += len(nowhere) - len(lost)
    return bad | {("lost", key): 1 for key in lost}
