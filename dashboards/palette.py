"""One colour and one gloss an arm, the same on every board; red and amber are kept for what is wrong."""

from typing import Final

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, Promise
from services.domain.failure_policy import TIERS

# Told apart with the common colour blindnesses too: they differ in lightness as well as in hue.
ARM_COLOURS: Final = {
    "at_most_once": "#B877D9",
    "stock_faust": "#9FA7B3",
    "at_least_once": "#5794F2",
    "effectively_once": "#2FA36B",
    "kafka_transactions": "#C8B400",
    "outbox": "#3FB8C8",
    "dual_write_after_commit": "#E58FB1",
    "dual_write_before_commit": "#B5547C",
    "cdc": "#6E8CB0",
    "id_cursor": "#A9855F",
}

# What follows an arm's name tells its series apart: by a line style, since they have one colour.
_SECOND: Final = ("audited", "p99", "failed", "resumed", "deferred", TIERS[0].name)
_THIRD: Final = ("uncertain", "conflict", "returned", TIERS[1].name)
_FOURTH: Final = (TIERS[2].name,)
LINE_STYLES: Final = {
    f"/[ .]({'|'.join(words)})$/": dash
    for words, dash in ((_SECOND, (10, 6)), (_THIRD, (2, 5)), (_FOURTH, (12, 4, 2, 4)))
}  # series -> lengths of dashes and gaps

GOOD: Final = "#37872D"
EXPECTED: Final = "#E0A030"  # damage that nobody promised to keep away
BROKEN: Final = "#E02F44"  # a promise that is broken
NEUTRAL: Final = "#8E98A5"

GLOSSES: Final = {name: CONSUMER_ARMS[name].gloss for name in CONSUMER_ARMS} | {
    name: PUBLISHER_ARMS[name].gloss for name in PUBLISHER_ARMS
}


def promised_series(promise: Promise) -> list[str]:
    """Patterns of the legends of which damage breaks this promise: an arm and effect that it is made of.

    The arm alone, too, where it is made of what the arm is there for: its record, its publication.
    """
    patterns = [f"/^{arm.name}$/" for arm in PUBLISHER_ARMS.values() if promise in arm.promises]
    for arm in CONSUMER_ARMS.values():
        effects = [effect for effect, promises in arm.promises.items() if promise in promises]
        if effects:
            patterns.append(f"/^{arm.name} ({'|'.join(effects)})$/")
        if "record" in effects:
            patterns.append(f"/^{arm.name}$/")
    return patterns
