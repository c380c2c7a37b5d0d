"""The effects that an intent promises, and how a message says which of them it wants."""

from functools import lru_cache
from typing import Final, Literal, get_args

Effect = Literal["record", "charge", "email"]
EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)

ALL: Final = ",".join(EFFECTS)


@lru_cache(maxsize=64)  # once a record on the arms' hot path, and there are few spellings
def parse_effects(text: str) -> tuple[Effect, ...]:
    """Parse `record,charge,email`, the value of the `lab-effects` header of requests and records.

    Every message has a record, so `record` must be among them; order and repetition do not matter.
    Raises ValueError that names what was wrong.
    """
    asked = {part.strip() for part in text.split(",")}
    unknown = sorted(asked - set(EFFECTS))
    if unknown:
        raise ValueError(f"unknown effect {unknown[0]!r}; effects are {ALL}")
    if "record" not in asked:
        raise ValueError("every message has a record: the effects must name it")
    return tuple(effect for effect in EFFECTS if effect in asked)
