"""What was read, in forms that hold a million messages: multisets of message ids, and where each was seen."""

from collections import Counter
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from functools import lru_cache
from typing import Generic, Literal, TypeVar
from uuid import UUID

import msgspec

from services.domain.effects import Effect, parse_effects
from services.domain.messages import EFFECTS_HEADER, RUN_HEADER, Coordinates, Headers, message_id_of

# A message: the 16 bytes of its id, or the coordinates of a record that carries none. What a provider was told is no
# message id may be any text.
Key = bytes | Coordinates | str


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

    def keys(self) -> KeysView[K]:
        """The distinct keys."""
        return self._first.keys()


class Published:
    """The records that were read from the topics, by message."""

    def __init__(self, run: str | None = None) -> None:
        self.run = run
        self.copies: Multimap[Key, Coordinates] = Multimap()
        self.undecodable = 0  # records without a message id
        self._wanted: dict[str, set[Key]] = {}

    def add(self, at: Coordinates, headers: Headers) -> None:
        """Take in one record, if it is of the run."""
        fields = dict(headers)
        if self.run is not None and fields.get(RUN_HEADER, b"").decode(errors="replace") != self.run:
            return
        message_id = message_id_of(headers)
        self.undecodable += message_id is None
        key = at if message_id is None else message_id.bytes
        self.copies.add(key, at)
        if message_id is None:
            return
        for effect in _wanted(fields.get(EFFECTS_HEADER, b"record")):
            if effect != "record":
                self._wanted.setdefault(effect, set()).add(key)

    def wanting(self, effect: str) -> Set[Key]:
        """The distinct messages that want the effect; every message has a record."""
        return self.copies.keys() if effect == "record" else self._wanted.get(effect, set())

    def count(self, key: Key, topic: str) -> int:
        """How many copies of the message lie on the topic."""
        return [at.topic for at in self.copies[key]].count(topic)


@lru_cache(maxsize=64)
def _wanted(header: bytes) -> tuple[Effect, ...]:
    try:
        return parse_effects(header.decode())
    except ValueError:  # no arm can apply it; it still owes its record
        return ("record",)


Outcome = Literal["acknowledged", "refused", "unknown"]

_ACKNOWLEDGED, _UNKNOWN, _OPEN = 1, 2, 4  # two flags, and a count of attempts without an answer above them


class Answers:
    """What the clients of one kind were told, by Idempotency-Key; one small number a key."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def called(self, key: str) -> None:
        """An attempt is about to be sent."""
        self._of[key] = self._of.get(key, 0) + _OPEN

    def answered(self, key: str, outcome: Outcome) -> None:
        """An attempt came to an end."""
        seen = self._of.get(key, 0)
        if seen >= _OPEN:  # else its call was on a line that a SIGKILL cut
            seen -= _OPEN
        flags = {"acknowledged": _ACKNOWLEDGED, "unknown": _UNKNOWN, "refused": 0}
        self._of[key] = seen | flags[outcome]

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
        self.ids: set[Key] = set()
        self.by_key: Multimap[str, bytes] = Multimap()

    def add(self, message_id: bytes, key: str) -> None:
        """Take in one intent."""
        self.ids.add(message_id)
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


class Letters(msgspec.Struct, frozen=True):
    """Dead letters of one arm, with their reasons."""

    at: Mapping[Coordinates, str] = {}
    of: Mapping[Key, str] = {}


class Holdings(msgspec.Struct, frozen=True):
    """What one arm has not applied, as its group's offsets and its tables say."""

    committed: Mapping[tuple[str, int], int] = {}
    letters: Letters = Letters()
    emails: Mapping[Key, str] = {}  # pending, claimed, uncertain: rows that are not sent

    def ahead(self, copies: Sequence[Coordinates]) -> bool:
        """Whether the group has a copy still before it. Without a commit it starts at the log's start."""
        for at in copies:  # noqa: SIM110  # a generator costs as much again, and a million messages ask
            if at.offset >= self.committed.get((at.topic, at.partition), 0):
                return True
        return False

    def passed(self, copies: Sequence[Coordinates]) -> bool:
        """Whether the group's committed offset is above every copy."""
        return all(at.offset < self.committed.get((at.topic, at.partition), 0) for at in copies)

    def letter(self, key: Key, copies: Sequence[Coordinates]) -> str | None:
        """Why the message, or a copy of it, is a dead letter."""
        if key in self.letters.of:
            return self.letters.of[key]
        for at in copies if self.letters.at else ():
            if at in self.letters.at:
                return self.letters.at[at]
        return None


Applications = Counter[Key]
