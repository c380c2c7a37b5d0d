"""One grammar for what is armed, in the environment, over HTTP and in scenarios.

    kill | pause:SECONDS | error:KIND | delay:MS    then, separated by blanks:    p=0..1  nth=N  count=N  arm=NAME

In the environment, `LAB_FAILPOINTS` names several: `NAME=ACTION; NAME=ACTION`.
`p` is the chance at each pass, `nth` the pass at which it first acts (counted from 1), `count` how often at most,
`arm` the one owner whose passes count, an arm (`at_least_once`) or one of its processes (`retry.at_least_once`); in the
provider, the account whose calls count.
"""

from typing import Final, Literal

import msgspec

from services.failpoints.names import FAILPOINTS, Failpoint

Action = Literal["kill", "pause", "error", "delay"]
_ACTIONS: Final = "kill, pause:SECONDS, error:KIND, delay:MS"


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

    def __str__(self) -> str:
        """What `parse` reads, without the failpoint."""
        argument = self.kind or (f"{self.amount:.10g}" if self.action in ("pause", "delay") else "")
        options = {"p": self.p, "nth": self.nth, "count": self.count, "arm": self.arm}
        words = [f"{name}={value}" for name, value in options.items() if value != _DEFAULTS[name]]
        return " ".join([f"{self.action}:{argument}" if argument else self.action, *words])


_DEFAULTS: Final[dict[str, object]] = {"p": 1.0, "nth": 1, "count": None, "arm": ""}


class FailpointError(ValueError):
    """What was asked for cannot be armed; the message names the part that is wrong and what would do."""


def check_name(failpoint: str) -> Failpoint:
    """The failpoint of this name. Raises FailpointError that lists them all."""
    if failpoint not in FAILPOINTS:
        raise FailpointError(f"unknown failpoint {failpoint!r}; the failpoints are: {', '.join(sorted(FAILPOINTS))}")
    return FAILPOINTS[failpoint]


def parse(failpoint: str, text: str) -> Armed:
    """Parse `text` for a failpoint, strictly.

    Raises FailpointError for an unknown failpoint, action, error kind, option or owner, and for values out of range.
    """
    point = check_name(failpoint)
    words = text.split()
    if not words:
        raise FailpointError(f"an action is missing; the actions are {_ACTIONS}")
    action, amount, kind = _action(point, words[0])
    options = _options(words[1:])
    arm = options.get("arm", "")
    if "arm" in options and arm not in point.arms:
        raise FailpointError(f"arm={arm}: {failpoint} is passed for {', '.join(point.arms)} only")
    return Armed(
        failpoint=failpoint,
        action=action,
        amount=amount,
        kind=kind,
        p=_number("p", options["p"], 0.0, 1.0) if "p" in options else 1.0,
        nth=_whole("nth", options["nth"]) if "nth" in options else 1,
        count=_whole("count", options["count"]) if "count" in options else None,
        arm=arm,
    )


def parse_all(text: str) -> tuple[Armed, ...]:
    """Parse `NAME=ACTION; NAME=ACTION`, as LAB_FAILPOINTS has it; empty for nothing.

    Raises FailpointError as `parse` does, and for a failpoint that is armed twice for the same arm.
    """
    found: dict[tuple[str, str], Armed] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        name, equals, action = entry.partition("=")
        if not equals:
            raise FailpointError(f"{entry!r} is not of the form NAME=ACTION; with several, a semicolon between")
        armed = parse(name.strip(), action)
        if (armed.failpoint, armed.arm) in found:
            whose = f" arm={armed.arm}" if armed.arm else ""
            raise FailpointError(f"{armed.failpoint}{whose} is armed twice")
        found[armed.failpoint, armed.arm] = armed
    return tuple(found.values())


def _action(point: Failpoint, word: str) -> tuple[Action, float, str]:
    """The action, its seconds or milliseconds, its error kind."""
    action, colon, argument = word.partition(":")
    match action:
        case "kill" if not colon:
            return "kill", 0.0, ""
        case "kill":
            raise FailpointError(f"kill takes no argument ({word!r})")
        case "pause" | "delay":
            return action, _number(action, argument, 0.0, 3_600_000.0), ""
        case "error" if argument in point.errors:
            return "error", 0.0, argument
        case "error":
            kinds = ", ".join(point.errors) or "none"
            raise FailpointError(f"unknown error kind {argument!r}; the kinds at {point.name} are {kinds}")
    raise FailpointError(f"unknown action {action!r}; the actions are {_ACTIONS}")


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _DEFAULTS or not equals or name in options:
            raise FailpointError(f"{word!r} is not one of p=, nth=, count=, arm=, each at most once")
        options[name] = value
    return options


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
