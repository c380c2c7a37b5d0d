"""How the CLI speaks: answers on stdout, everything else on stderr; colours that honour NO_COLOR; exit codes."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import msgspec
from rich.console import Console
from rich.markup import escape

from services.failpoints.grammar import FailpointError
from services.stack.client import NotUp, Refused
from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.parts import UnknownPart

out = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """Exit codes (design: section 10)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_UP = 3
    INTERRUPTED = 130


_WRONG_WORDS = (400, 403, 404, 413)


def say(text: str) -> None:
    """A line of progress."""
    err.print(text, markup=False, soft_wrap=True)


def fail(code: Exit, text: str) -> NoReturn:
    """End with a sentence on stderr."""
    err.print(f"[red]lab:[/red] {escape(text)}", soft_wrap=not err.is_terminal)  # whole lines for who reads them
    sys.exit(code)


def answer_json(document: Any) -> None:
    """One JSON document on stdout, and nothing else there."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def home() -> Home:
    """The lab of the environment; ends with a sentence when its settings do not fit."""
    try:
        return Home.from_environment()
    except ValueError as error:
        fail(Exit.USAGE, str(error))


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what the stack raises into a sentence and an exit code."""
    try:
        yield
    except NotUp as error:
        fail(Exit.NOT_UP, str(error))
    except (UnknownPart, FailpointError) as error:
        fail(Exit.USAGE, str(error))
    except Refused as error:
        # a wrong name or argument is usage; the right words at the wrong time have failed
        fail(Exit.USAGE if error.status in _WRONG_WORDS else Exit.FAILED, str(error))
    except StackError as error:
        fail(Exit.FAILED, str(error))
    except OSError as error:
        fail(Exit.FAILED, _of_the_machine(error))


def _of_the_machine(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}: make room, or choose other folders with LAB_HOME and LAB_CACHE"
    return f"{error.strerror or error}{place}: `lab doctor` looks at this machine"


def seconds(text: str) -> float:
    """Parse `500ms`, `60s`, `2m` or a bare number of seconds.

    Raises ValueError that says what would do.
    """
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(suffix):
            number = text.removesuffix(suffix) if suffix else text
            try:
                value = float(number) * factor
            except ValueError:
                break
            if 0 < value < 1e7:
                return value
            break
    raise ValueError(f"{text!r} is no duration: say 500ms, 60s, 10m or 2h")
