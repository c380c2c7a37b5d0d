"""The header `Idempotency-Key` (IETF httpapi draft), as producers and provider read it."""

import re
from typing import Final

from services.http.problem import Problem

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replayed": "true"}

_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")


def check_key(text: str) -> str:
    """The key itself. Raises Problem `invalid` unless it has 1 to 255 printable ASCII characters."""
    if not _KEY.fullmatch(text):
        raise Problem("invalid", f"{HEADER} must have 1 to 255 printable ASCII characters", field=HEADER)
    return text
