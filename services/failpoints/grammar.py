"""One grammar for what is armed, in the environment, over HTTP and in scenarios.

    kill | pause:SECONDS | error:KIND | delay:MS    then, separated by blanks:    p=0..1  nth=N  count=N  arm=NAME

`p` is the chance at each pass, `nth` the pass at which it first acts (counted from 1), `count` how often at most,
`arm` the one owner (`at_least_once`, `relay`) whose passes count.
"""

from typing import Final, Literal, get_args

import msgspec

from services.failpoints.names import FAILPOINTS

Action = Literal["kill", "pause", "error", "delay"]
ERROR_KINDS: Final = ("timeout", "connection", "database", "invalid")


class Armed(msgspec.Struct, frozen=True):
    """What is armed at a failpoint. `amount`: seconds of a pause, milliseconds of a delay."""

    failpoint: str
    action: Action
    amount: float = 0.0
    kind: str = ""
    p: float = 1.0
    nth: int = 1
    count: int | None = None
    arm: str = ""


class FailpointError(ValueError):
    """What was asked for cannot be armed; the message names the part that is wrong and what would do."""


def parse(failpoint: str, text: str) -> Armed:
    """Parse `text` for a failpoint, strictly.

    Raises FailpointError for an unknown failpoint, action, error kind, option or owner, and for values out of range.
    """
    if failpoint not in FAILPOINTS:
        raise FailpointError(f"unknown failpoint {failpoint!r}; the failpoints are: {', '.join(sorted(FAILPOINTS))}")
    words = text.split()
    if not words:
        raise FailpointError("an action is missing: kill, pause:SECONDS, error:KIND or delay:MS")
    action, colon, argument = words[0].partition(":")
    if action not in get_args(Action):
        raise FailpointError(f"unknown action {action!r}; the actions are kill, pause:SECONDS, error:KIND, delay:MS")
    amount, kind = 0.0, ""
    if action in ("pause", "delay"):
        amount = _number(action, argument, 0.0, 3_600_000.0)
    elif action == "error":
        if argument not in ERROR_KINDS:
            raise FailpointError(f"unknown error kind {argument!r}; the kinds are {', '.join(ERROR_KINDS)}")
        kind = argument
    elif colon:
        raise FailpointError(f"kill takes no argument ({words[0]!r})")
    options: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if name not in ("p", "nth", "count", "arm") or not equals or name in options:
            raise FailpointError(f"{word!r} is not one of p=, nth=, count=, arm=, each at most once")
        options[name] = value
    arm = options.get("arm", "")
    owners = FAILPOINTS[failpoint].owners
    if arm and arm not in {owner.removeprefix("arm.") for owner in owners}:
        raise FailpointError(f"arm={arm}: {failpoint} is passed by {', '.join(owners)} only")
    return Armed(
        failpoint=failpoint,
        action=action,  # type: ignore[arg-type]  # checked against Action above
        amount=amount,
        kind=kind,
        p=_number("p", options["p"], 0.0, 1.0) if "p" in options else 1.0,
        nth=_whole("nth", options["nth"]) if "nth" in options else 1,
        count=_whole("count", options["count"]) if "count" in options else None,
        arm=arm,
    )


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise FailpointError(f"{name} wants a number, not {text!r}") from None
    if not low <= value <= high:
        raise FailpointError(f"{name} must lie between {low:g} and {high:g}, not {text}")
    return value


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise FailpointError(f"{name} wants a whole number from 1, not {text!r}")
    return int(text)
