"""How often the messages of an arm failed that tries again in place, and which of them it gives up. Pure."""

from collections.abc import Iterable

from services.domain.failure_policy import ATTEMPTS
from services.domain.messages import Coordinates, Message
from services.payments.unapplied import Deferred, Letter, Unapplied


class Tries:
    """Of the messages that are tried again; what is done or gone is forgotten, so that it stays small."""

    def __init__(self) -> None:
        self._deferred: dict[Coordinates, Deferred] = {}
        self._letters: dict[Coordinates, Letter] = {}

    def note(self, failed: Unapplied) -> None:
        """A try failed for these messages; of some it counts as no attempt."""
        for letter in failed.letters:
            self._letters[letter.at] = letter
        for one in failed.deferred:
            at = one.message.at
            before = self._deferred.get(at)
            attempts = one.attempts + (before.attempts - one.message.attempts if before else 0)
            self._deferred[at] = Deferred(one.message, one.failure, attempts)

    def given_up(self, messages: Iterable[Message]) -> Unapplied:
        """Which of these are not tried again: refused for ever, or tried as often as is allowed."""
        places = [message.at for message in messages]
        spent = [self._deferred[at] for at in places if at in self._deferred and at not in self._letters]
        return Unapplied(
            [self._letters[at] for at in places if at in self._letters],
            [one for one in spent if one.attempts >= ATTEMPTS],
        )

    def forget(self, messages: Iterable[Message]) -> None:
        """These are done."""
        for message in messages:
            self._deferred.pop(message.at, None)
            self._letters.pop(message.at, None)
