"""What was read, in forms that hold a million messages: multisets of message ids, and where each was seen."""

from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from services.auditor.facts import against_promise, of_record, promise
from services.domain.effects import Effect, parse_effects
from services.domain.forwarding import ORIGIN
from services.domain.messages import EFFECTS_HEADER, INJECTED_HEADER, RUN_HEADER, Coordinates, Headers, message_id_of

# A message: the 16 bytes of its id, or the coordinates of a record that carries none. What a provider was told is no
# message id may be any text.
Key = bytes | Coordinates | str

_CONFLICT: Final = "conflict"  # a letter's reason: the message's id with another payload


def key_of(text: str) -> Key:
    """The message that a caller named to the provider; the text itself when it is no id."""
    try:
        return UUID(text).bytes
    except ValueError:
        return text


K = TypeVar("K")
V = TypeVar("V")


class Multimap(Generic[K, V]):
    """Several values a key. Nearly every key has one, so only the others pay for a list."""

    def __init__(self) -> None:
        self._first: dict[K, V] = {}
        self._more: dict[K, list[V]] = {}

    def add(self, key: K, value: V) -> None:
        """Add one value more."""
        if key in self._first:
            self._more.setdefault(key, []).append(value)
        else:
            self._first[key] = value

    def __getitem__(self, key: K) -> Sequence[V]:
        """All values of the key in the order they came; none of an unknown one."""
        if key not in self._first:
            return ()
        first, more = self._first[key], self._more.get(key)
        return (first, *more) if more else (first,)

    def drop(self, key: K) -> None:
        """Forget a key."""
        self._first.pop(key, None)
        self._more.pop(key, None)

    def keys(self) -> KeysView[K]:
        """The distinct keys, in the order in which they came."""
        return self._first.keys()

    def repeated(self) -> KeysView[K]:
        """The keys that have several values."""
        return self._more.keys()


class Copy(NamedTuple):
    """What is kept of one record of a publisher's topic."""

    key: Key
    at: Coordinates
    run: str
    facts: bytes
    wants: Sequence[str]  # effects, besides those that every message wants
    injected: bool  # no publisher arm owes or made it


def copy_of(at: Coordinates, headers: Headers, value: bytes | None = None) -> Copy:
    """What is kept of a record; one without a message id wants what every message wants."""
    fields = dict(headers)
    run = fields.get(RUN_HEADER, b"").decode(errors="replace")
    key = key_of_record(at, headers)
    found = of_record(value, fields.get("ce_type", b"").decode(errors="replace"), run)
    wants = () if key is at else _wanted(fields.get(EFFECTS_HEADER, b"record"))
    return Copy(key, at, run, found, wants, INJECTED_HEADER in fields)


class Published:
    """The records that were read from the topics, by message. `promised`: what the intents say of theirs."""

    def __init__(self, run: str | None = None, promised: Mapping[Key, bytes] = MappingProxyType({})) -> None:
        self.run = run
        self.copies: Multimap[Key, Coordinates] = Multimap()
        self.facts: Multimap[Key, bytes] = Multimap()  # of the copies, in their order
        self.wrong: dict[
            tuple[str, Key], str
        ] = {}  # by topic and message: why a record is not what its intent promised
        self._promised = promised
        self._no_publication: set[Coordinates] = set()  # injected: no publisher arm owes or made them; and the wrong
        self.undecodable = 0  # records without a message id
        self._wanted: dict[str, set[Key]] = {}

    def add(self, at: Coordinates, headers: Headers, value: bytes | None = None) -> None:
        """Take in one record, if it is of the run, or of an intent of the run."""
        self.take(copy_of(at, headers, value))

    def take(self, copy: Copy) -> None:
        """As `add`, of a record that was read before."""
        key, at = copy.key, copy.at
        promised = self._promised.get(key)
        if promised is None and self.run not in (None, copy.run):
            return
        self.undecodable += key is at
        self.copies.add(key, at)
        self.facts.add(key, copy.facts)
        if copy.injected:
            self._no_publication.add(at)
        elif promised is not None and (what := against_promise(promised, copy.facts)):
            self._no_publication.add(at)
            self.wrong[at.topic, key] = f"another {what} than its intent"
        for effect in copy.wants:
            self._wanted.setdefault(effect, set()).add(key)

    def is_promised(self, key: Key) -> bool:
        """Whether there is an intent."""
        return key in self._promised

    def forget(self, key: Key) -> list[str]:
        """Let go of a message; returns which effects it wanted, besides those that every message wants."""
        self.copies.drop(key)
        self.facts.drop(key)
        wanted = [effect for effect, wanting in self._wanted.items() if key in wanting]
        for effect in wanted:
            self._wanted[effect].discard(key)
        return wanted

    def restore(self, key: Key, copies: Sequence[Coordinates], found: Sequence[bytes], wanted: Sequence[str]) -> None:
        """Take a message in again that was let go of; `found`: the facts of its copies."""
        for at, facts in zip(copies, found, strict=True):
            self.copies.add(key, at)
            self.facts.add(key, facts)
        for effect in wanted:
            self._wanted.setdefault(effect, set()).add(key)

    def wanting(self, effect: str) -> Set[Key]:
        """The distinct messages that want the effect; a record and an output are every message's."""
        return self.copies.keys() if effect in ("record", "output") else self._wanted.get(effect, set())

    def count(self, key: Key, topic: str) -> int:
        """How many copies of the message were published to the topic, as it was promised."""
        copies = self.copies[key]
        if self._no_publication:
            copies = [at for at in copies if at not in self._no_publication]
        return [at.topic for at in copies].count(topic)

    def places(self) -> dict[Coordinates, Key]:
        """Which message lies where. As large as the topics: made for who asks, and not kept."""
        return {at: key for key in self.copies.keys() for at in self.copies[key]}  # noqa: SIM118  # no dict


def key_of_record(at: Coordinates, headers: Headers) -> Key:
    """The message of a record: its own place, when it carries no id."""
    message_id = message_id_of(headers)
    return at if message_id is None else message_id.bytes


@lru_cache(maxsize=64)
def _wanted(header: bytes) -> tuple[Effect, ...]:
    try:
        return tuple(effect for effect in parse_effects(header.decode()) if effect != "record")
    except ValueError:  # no arm can apply it; it still owes its record
        return ()


Outcome = Literal["acknowledged", "refused", "unknown"]

_ACKNOWLEDGED, _UNKNOWN, _OPEN = 1, 2, 4  # two flags, and a count of attempts without an answer above them


class Answers:
    """What the clients of one kind were told, by Idempotency-Key; one small number a key."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self.touched: set[str] | None = None  # by whom something was said since it was last emptied; None: not kept

    def called(self, key: str) -> None:
        """An attempt is about to be sent."""
        self._of[key] = self._of.get(key, 0) + _OPEN
        if self.touched is not None:
            self.touched.add(key)

    def answered(self, key: str, outcome: Outcome) -> None:
        """An attempt came to an end."""
        seen = self._of.get(key, 0)
        if seen >= _OPEN:  # else its call was on a line that a SIGKILL cut
            seen -= _OPEN
        flags = {"acknowledged": _ACKNOWLEDGED, "unknown": _UNKNOWN, "refused": 0}
        self._of[key] = seen | flags[outcome]
        if self.touched is not None:
            self.touched.add(key)

    def forget(self, key: str) -> None:
        """Let go of a key."""
        self._of.pop(key, None)

    def outcome(self, key: str) -> Outcome:
        """Acknowledged if any attempt was, else unknown if any was or has no answer, else refused."""
        seen = self._of[key]
        if seen & _ACKNOWLEDGED:
            return "acknowledged"
        return "unknown" if seen else "refused"

    def keys(self) -> KeysView[str]:
        """Every key that was ever called."""
        return self._of.keys()


class Intents:
    """The intents of one kind: message ids, and which of them each Idempotency-Key made."""

    def __init__(self) -> None:
        self.promised: dict[Key, bytes] = {}  # what each says of its record
        self.by_key: Multimap[str, bytes] = Multimap()

    def add(self, message_id: bytes, key: str, digest: bytes = b"", run: str = "") -> None:
        """Take in one intent; `digest` is that of the record that it promises."""
        self.add_promise(message_id, key, promise(digest, run))

    def add_promise(self, message_id: bytes, key: str, promised: bytes) -> None:
        """As `add`, of an intent that was read before."""
        self.promised[message_id] = promised
        self.by_key.add(key, message_id)


class Outbox(msgspec.Struct, frozen=True):
    """What has not left a producer's database."""

    pending: Set[Key] = frozenset()
    set_aside: Mapping[Key, str] = {}  # with the reason


class PublishLook(msgspec.Struct, frozen=True):
    """One look at the hop publish: first the outbox, then the topics."""

    outbox: Outbox
    published: Published

    def absent(self, topic: str, ids: Iterable[Key]) -> set[Key]:
        """Those of the ids that were in neither place."""
        pending, set_aside, count = self.outbox.pending, self.outbox.set_aside, self.published.count
        return {key for key in ids if not count(key, topic) and key not in pending and key not in set_aside}


LetterState = Literal["parked", "redriven", "discarded"]


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: a redriven one holds nothing any more, what it became is in another place."""

    state: LetterState
    reason: str


class Letters(msgspec.Struct, frozen=True):
    """Dead letters of one arm, by the record that they are about, and by the message that they name."""

    at: dict[Coordinates, Letter] = {}
    of: dict[Key, Letter] = {}

    def about(self, key: Key, copies: Sequence[Coordinates]) -> Sequence[Letter]:
        """The letters that hold the message. A record in conflict with the others of its id holds itself alone."""
        found = [self.at.get(at) for at in copies]
        if any(found):
            own = [letter for letter in found if letter is None or letter.reason != _CONFLICT]
            return [letter for letter in own or found if letter is not None]
        named = self.of.get(key)
        return () if named is None or named.reason == _CONFLICT else (named,)


class Redrives(msgspec.Struct, frozen=True):
    """Letters of one arm that are in the outbox, by the records that they are about."""

    queued: set[Coordinates] = set()
    refused: dict[Coordinates, str] = {}  # set aside by the relay, with the reason

    def add(self, at: Coordinates, reason: str | None) -> None:
        """Take in one row."""
        if reason is None:
            self.queued.add(at)
        else:
            self.refused[at] = reason


class Holdings(msgspec.Struct, frozen=True):
    """What one arm has not applied, as its groups' offsets, its topics and its tables say."""

    committed: Mapping[tuple[str, int], int] = {}
    letters: Letters = Letters()
    emails: Mapping[Key, str] = {}  # pending, claimed, uncertain, refused: rows that are not sent
    sent_on: Set[Coordinates] = frozenset()  # records that wait in a retry tier, for redelivery, or for the relay
    vanished: Set[Coordinates] = frozenset()  # records with a dead letter on its topic and none in the table

    def ahead(self, copies: Sequence[Coordinates]) -> bool:
        """Whether a copy is still before the arm. A group without a commit starts at the log's start."""
        for at in copies:
            if at.offset >= self.committed.get((at.topic, at.partition), 0):
                return True
            if self.sent_on and at in self.sent_on:
                return True
        return False

    def letter(self, key: Key, copies: Sequence[Coordinates], state: LetterState = "parked") -> str | None:
        """Why the message, or a copy of it, is a dead letter in this state."""
        for letter in self.letters.about(key, copies) if self.letters.at or self.letters.of else ():
            if letter.state == state:
                return letter.reason
        return None

    def gone(self, key: Key, copies: Sequence[Coordinates]) -> bool:
        """Whether the committed offset is above every copy, and none waits in another place or is a letter."""
        passed = all(at.offset < self.committed.get((at.topic, at.partition), 0) for at in copies)
        if not passed or not self.sent_on.isdisjoint(copies):
            return False
        return all(letter.state == "redriven" for letter in self.letters.about(key, copies))


class Applied(msgspec.Struct, frozen=True):
    """How often one effect of one arm was applied."""

    of: dict[Key, int]
    at: dict[Coordinates, int] = {}  # by record, where a message has several and the arm promises per record
    wrong: dict[Key, str] = {}  # applications that are not what a record asked for, and why; they are not in `of`

    def records(self, copies: Iterable[Coordinates]) -> int:
        """How many of the records were applied at all."""
        return sum(at in self.at for at in copies)


class ProcessLook(msgspec.Struct, frozen=True):
    """One look at an arm and effect: first what it holds, then what it did."""

    holdings: Holdings
    applied: Applied


def origin_of(headers: Headers) -> Coordinates | None:
    """Where the arm first met a record that was sent on, as its headers say."""
    for name, value in headers:
        if name == ORIGIN:
            return coordinates_of(value.decode(errors="replace"))
    return None


def coordinates_of(text: str) -> Coordinates | None:
    """Parse topic/partition/offset; None for anything else."""
    topic, *numbers = text.rsplit("/", 2)
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        return None
    return Coordinates(topic, int(numbers[0]), int(numbers[1]))
