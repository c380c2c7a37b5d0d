"""Message ids for tests: UUIDv7 (RFC 9562), as the producers make them."""

import time
from uuid import UUID, uuid4


def message_id(age_s: float = 0.0) -> UUID:
    """An id that was made `age_s` ago."""
    ms = int((time.time() - age_s) * 1000)
    random = uuid4().int
    return UUID(int=(ms << 80) | (7 << 76) | (random & 0xFFF) << 64 | (2 << 62) | (random >> 64 & (1 << 62) - 1))
