"""What can go wrong with the stack, as one sentence that says what to do."""

import importlib.util
from pathlib import Path


class StackError(Exception):
    """Shown to the user as it is, without a traceback."""


class NotAllowed(Exception):
    """The lab was started without faults."""

    def __init__(self) -> None:
        super().__init__("this lab was started without faults; `lab down` and `lab up --faults` allow them")


class NotKept(Exception):
    """What was to be struck runs in a container in which nobody of the lab could do it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} runs in a container of its own image, without a keeper of the lab: its faults are for the native "
            f"stack (`lab up --faults`), or for `docker compose kill {name}` and `docker compose up -d`"
        )


def package_folder(name: str) -> Path:
    """Where a wheel that carries binaries lies: found, not imported (its Python code is not used).

    Raises StackError when it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"the library {name} is missing: run `make setup`")
    return Path(spec.origin).parent
