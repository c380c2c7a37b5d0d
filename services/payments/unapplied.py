"""What a chunk leaves behind that was not applied: never to be, or later."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from services.domain.failure_policy import Failure
from services.domain.messages import Coordinates, Message


class Letter(msgspec.Struct, frozen=True):
    """A record that the arm will never apply."""

    at: Coordinates
    message_id: UUID | None
    reason: str
    detail: str


class Deferred(msgspec.Struct, frozen=True):
    """A message whose call failed in a way that may pass. `attempts`: those that count, this one included."""

    message: Message
    failure: Failure
    attempts: int


class Unapplied(msgspec.Struct, frozen=True):
    """Of one chunk."""

    letters: list[Letter] = []
    deferred: list[Deferred] = []

    def __len__(self) -> int:
        return len(self.letters) + len(self.deferred)

    def __add__(self, other: "Unapplied") -> "Unapplied":
        return Unapplied(self.letters + other.letters, self.deferred + other.deferred)

    @classmethod
    def all_of(cls, messages: Sequence[Message], failure: Failure) -> "Unapplied":
        """All of them failed so, each in a try that counts."""
        if failure.retryable:
            return cls(deferred=[Deferred(m, failure, m.attempts + 1) for m in messages])
        return cls([Letter(m.at, m.id, failure.reason, failure.detail) for m in messages])

    def places(self) -> set[Coordinates]:
        """Where they lie."""
        return {letter.at for letter in self.letters} | {deferred.message.at for deferred in self.deferred}
