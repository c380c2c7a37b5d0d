"""One colour and one gloss an arm, the same on every board; red and amber are kept for what is wrong."""

from typing import Final

from services.domain.arms import CONSUMER_ARMS, PUBLISHER_ARMS, Promise

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

GOOD: Final = "#37872D"
EXPECTED: Final = "#E0A030"  # damage that nobody promised to keep away
BROKEN: Final = "#E02F44"  # a promise that is broken
NEUTRAL: Final = "#8E98A5"

GLOSSES: Final = {name: CONSUMER_ARMS[name].gloss for name in CONSUMER_ARMS} | {
    name: PUBLISHER_ARMS[name].gloss for name in PUBLISHER_ARMS
}


def promising(promise: Promise) -> list[str]:
    """The arms that make this promise, of any effect."""
    consumers = [arm.name for arm in CONSUMER_ARMS.values() if any(promise in p for p in arm.promises.values())]
    return consumers + [arm.name for arm in PUBLISHER_ARMS.values() if promise in arm.promises]
