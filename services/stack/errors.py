"""What can go wrong with the stack, as one sentence that says what to do."""

import importlib.util
from pathlib import Path


class StackError(Exception):
    """Shown to the user as it is, without a traceback."""


def package_folder(name: str) -> Path:
    """Where a wheel that carries binaries lies: found, not imported (its Python code is not used).

    Raises StackError when it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise StackError(f"the library {name} is missing: run `make setup`")
    return Path(spec.origin).parent
