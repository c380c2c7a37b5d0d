"""`docs/semantics.md`: what each arm does, from the code, and the questions of the subject with their answers.

`python -m lab.semantics` writes it; a test compares the file with what this module would write.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from loadtest.proof import Proved, proved
from loadtest.scenario import names, read
from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, ConsumerArm, PublisherArm
from services.domain.failure_policy import ATTEMPTS, TIERS
from services.failpoints.names import FAILPOINTS, arm_of
from services.settings import Settings

FILE: Final = Path(__file__).parent.parent / "docs" / "semantics.md"
_PROMISES: Final = {"no_loss": "no loss", "no_duplicate": "no duplicate"}


class Question(msgspec.Struct, frozen=True):
    """One question, its answer, and the scenario that shows it."""

    asked: str
    answer: str
    scenario: str


RULES: Final = (
    (
        "At most once",
        "when the newest value replaces all before it and a lost one costs nothing: a gauge, a cache hint, a presence "
        "ping. Never where money or a customer's trust hangs on one message.",
    ),
    (
        "At least once",
        "when the effect is idempotent by nature (set a state, upsert by key) or somebody behind you dedups. It is the "
        "only honest default of a log: a producer that retries and a consumer that commits after its work.",
    ),
    (
        "At least once with idempotency (effectively once)",
        "when the effect adds up: charges, stock, counters. A stable id made where the intent is made, an inbox or a "
        "unique constraint in the transaction of the effect, and a key for what lies beyond your database.",
    ),
    (
        "Exactly once by the broker (Kafka transactions)",
        "when input, output and offsets are all in the same Kafka cluster, and nobody else is told. A database row or "
        "a call inside the loop is outside the transaction.",
    ),
    (
        "Do not say exactly once",
        "of a system whose effects leave it: an email, a payment at a third party, another team's topic. Say what is "
        "promised of which effect, for how long ids and keys are remembered, and where what is uncertain is listed.",
    ),
)

TRAPS: Final = (
    Question(
        "We commit the offset after processing. Is that exactly once?",
        "No, at least once: a crash between the effect and the commit brings the record again. `at_least_once` does "
        "just this, and the run counts how often it applied a message twice.",
        "crash-storm",
    ),
    Question(
        "We lose messages now and then. Do retries repair at most once?",
        "No. What was committed before it was done is not there to be retried: the offset has passed it, and no error "
        "was raised, because the process was dead. Move the commit, do not add retries.",
        "crash-storm",
    ),
    Question(
        "Does exactly once make idempotency unnecessary?",
        "No. Kafka's exactly once covers offsets and topics of one cluster. `kafka_transactions` has each output once, "
        "and the charges and rows that it makes inside its transactions twice. And two records with one id are two "
        "records to the broker: it does not know message ids.",
        "crash-storm",
    ),
    Question(
        "We use Kafka, so we are exactly once?",
        "No. Kafka's default is at least once if you configure it well, and less if you do not: `stock_faust`, the "
        "tutorial's loop, promises nothing, commits on a timer, and acknowledges what raised an exception.",
        "database-restart",
    ),
    Question(
        "We publish right after the commit, and that has always worked. Why an outbox?",
        "It has always worked because nothing died in between. Between two writes without a transaction around both "
        "there is a gap; publish last and orders vanish, publish first and orders are made up.",
        "dual-write",
    ),
    Question(
        "Our relay remembers the highest id that it has published. What can go wrong?",
        "Ids are drawn before commits. A transaction that draws 41 and commits after 42 is never seen: the cursor has "
        "passed it. Remove rows when they are confirmed, or read the log of commits.",
        "id-gap",
    ),
    Question(
        "The consumer was killed; it is dead. Can it still do harm?",
        "Killed, no; frozen, yes. A process that sleeps longer than its session wakes up in the middle of its work and "
        "goes on, beside the one that took over. Only what the store or the provider refuses is safe.",
        "zombie",
    ),
    Question(
        "The call timed out. Did it fail?",
        "Nobody knows. It may have been applied and the answer lost. Repeat it under the same key, or ask; never "
        "repeat it under none.",
        "ambiguous-timeout",
    ),
    Question(
        "We dedup by message id. Is that enough?",
        "Only if the payload is compared, too: the same id with another amount is a conflict, not a repeat. And only "
        "while the id is remembered.",
        "same-id-other-payload",
    ),
    Question(
        "For how long is effectively once once?",
        "As long as the inbox remembers ids and the provider remembers keys. Beyond that nothing is repeated: it is "
        "set aside, counted, and shown to a person.",
        "provider-key-expired",
    ),
    Question(
        "All tests are green and no message was lost. Are we safe?",
        "Not if nothing happened to them: a promise that had no chance to break has shown nothing. Here such a run is "
        "INCONCLUSIVE.",
        "calm",
    ),
)

FAILURES: Final = (
    Question(
        "Delivered once is not applied once",
        "The broker hands a record over once, the effect fails or happens twice. Count effects where they happen, not "
        "deliveries.",
        "ambiguous-timeout",
    ),
    Question(
        "Commit before the effect",
        "The offset is past, the work is not done, the process dies: lost, and nobody is told.",
        "crash-storm",
    ),
    Question(
        "Retrying what is not idempotent",
        "Each retry of a call that had been applied is a second charge. A key in the call makes it the same one.",
        "ambiguous-timeout",
    ),
    Question(
        "A poison message",
        "Bytes that can never be read. Retried, they block the partition for ever; skipped, they are lost. They go to "
        "the dead letters at once, and the partition goes on.",
        "poison",
    ),
    Question(
        "A dead letter nobody reads",
        "It is not lost and not done: it waits for a person. Redriven through the outbox it is applied once, however "
        "often it is sent.",
        "redrive",
    ),
    Question(
        "Offsets that are gone",
        "Deleted, expired or reset, they bring back everything that the topic still has.",
        "offsets-deleted",
    ),
)

CHECKLIST: Final = (
    "A stable id, made where the intent is made and the same through every retry, copy and redrive.",
    "The commit point written down, and which side of the effects it is on.",
    "A dedup store or a unique constraint in the same transaction as the effect, and how long it remembers.",
    "What is retried, how often, and where it waits meanwhile; what goes to the dead letters at once.",
    "What happens to a call whose answer never came.",
    "Who notices: lag, age of the oldest outbox row, dead letters, duplicates, and an audit that counts effects.",
)


def semantics(results: dict[str, Proved]) -> str:
    """The whole page."""
    return "\n".join(_sections(results)) + "\n"


def _sections(results: dict[str, Proved]) -> Iterator[str]:
    yield "# Delivery semantics, as this code has them"
    yield ""
    yield "Made from the code by `make docs`; a test fails when it is out of date. Each answer names the scenario that"
    yield "shows it (`lab run NAME`) and what that came out as when `make proof` last played it."
    yield from _table("## The checklist", ("what to ask of any pipeline",), ((text,) for text in CHECKLIST))
    yield from _table(
        "## Consumers",
        ("arm", "message id", "commits", "remembers", "when a call fails", "never applied", "promises"),
        (_consumer(arm) for arm in CONSUMER_ARMS.values()),
    )
    yield from _table(
        "## Publishers",
        ("arm", "how", "what is not published yet is in", "promises"),
        (_publisher(arm) for arm in PUBLISHER_ARMS.values()),
    )
    yield from _table("## Where each can die", ("arm", "has happened", "has not", "failpoint"), _gaps())
    yield from _table("## Which one?", ("semantics", "take it"), ((f"**{name}**", when) for name, when in RULES))
    yield from _questions("## Trap questions", TRAPS, results)
    yield from _questions("## How it fails", FAILURES, results)
    yield from _table(
        "## What was played",
        (
            "scenario",
            "teaches",
            "came out as",
            "seed",
            "requests",
            "kills",
            "damage that had to be",
            "alerts that fired, as it says",
        ),
        _played(results),
    )


def _consumer(arm: ConsumerArm) -> tuple[str, ...]:
    counted = "topic, partition and offset of the record" if arm.per_record else "`ce_id` (UUIDv7 of the intent)"
    return (
        f"`{arm.name}`",
        f"{counted}{'' if arm.dedups else ', not looked at'}" if not arm.per_record else f"counts by {counted}",
        _commits(arm),
        _remembers(arm),
        _when_it_fails(arm),
        f"`{arm.dead_letter_topic}`" if arm.dead_letters else "dropped",
        _promised(arm),
    )


def _commits(arm: ConsumerArm) -> str:
    if arm.commits_first:
        return "the offset before the effects"
    if "output" in arm.promises:
        return "offset and output in one Kafka transaction"
    return "after the effects" if arm.dead_letters else "on a timer, whatever is acknowledged or not"


def _remembers(arm: ConsumerArm) -> str:
    if not arm.dedups:
        return "nothing"
    settings = Settings()
    window, lifetime = settings.dedup_window_s / 86_400, settings.key_lifetime_s / 3_600
    return (
        f"inbox row (id and digest) in the transaction of the effects, {window:g} days; the provider the "
        f"Idempotency-Key, {lifetime:g} hours"
    )


def _when_it_fails(arm: ConsumerArm) -> str:
    if arm.retries:
        tiers = ", ".join(tier.name for tier in TIERS)
        return f"retry topics {tiers}; {ATTEMPTS} attempts, then the dead letters"
    if arm.commits_first:
        return "not tried again: the offset has passed it"
    return "the transaction is aborted and tried again" if "output" in arm.promises else "acknowledged all the same"


def _promised(arm: ConsumerArm) -> str:
    made = {effect: " and ".join(_PROMISES[p] for p in sorted(promises)) for effect, promises in arm.promises.items()}
    return "; ".join(f"{effect}: {words}" for effect, words in made.items() if words) or "nothing"


_HELD: Final = {
    "none": "nothing: between commit and publish nobody holds it",
    "until_confirmed": "its outbox row, removed when the broker has confirmed",
    "cursor": "every row above the highest position seen",
    "snapshot": "the write-ahead log, above the confirmed position",
}


def _publisher(arm: PublisherArm) -> tuple[str, ...]:
    made = " and ".join(_PROMISES[promise] for promise in sorted(arm.promises)) or "nothing"
    return f"`{arm.name}`", arm.gloss, _HELD[arm.outbox], made


def _gaps() -> Iterator[tuple[str, ...]]:
    for point in FAILPOINTS.values():
        arms = list(dict.fromkeys(arm_of(owner) for owner in point.owners))
        yield ", ".join(f"`{arm}`" for arm in arms), point.happened, point.not_yet, f"`{point.name}`"


def _questions(title: str, questions: Iterable[Question], results: dict[str, Proved]) -> Iterator[str]:
    yield ""
    yield title
    for question in questions:
        yield ""
        shown = f"Shown by `lab run {question.scenario}`: {_came_out(question.scenario, results)}."
        yield f"**{question.asked}** {question.answer} *{shown}*"


def _came_out(name: str, results: dict[str, Proved]) -> str:
    found = results.get(name)
    if found is None:
        return "not played yet"
    damage = ", ".join(f"{what} {many:,}" for what, many in found.damage.items() if many)
    return f"{found.verdict} ({found.at} UTC{f'; {damage}' if damage else ''})"


def _played(results: dict[str, Proved]) -> Iterator[tuple[str, ...]]:
    for name in names():
        found, scenario = results.get(name), read(name)
        if found is None:
            why = "long, not part of `make proof`" if scenario.long else "not played yet"
            yield f"`{name}`", scenario.teaches, why, "", "", "", "", ""
            continue
        damage = ", ".join(f"{what} {many:,}" for what, many in found.damage.items())
        as_expected = "" if found.verdict == found.expected else f", expected {found.expected}"
        alerts = ", ".join(name for name in found.alerts if name != "Watchdog")
        if found.alerts_wrong:
            alerts += f"; **no**: {', '.join(found.alerts_wrong)}"
        yield (
            f"`{name}`", scenario.teaches, f"{found.verdict}{as_expected}", str(found.seed), f"{found.requests:,}",
            str(found.kills), damage, alerts,
        )  # fmt: skip


def _table(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield ""
    yield title
    yield ""
    yield f"| {' | '.join(headings)} |"
    yield "|" + " --- |" * len(headings)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    FILE.write_text(semantics(proved()))
