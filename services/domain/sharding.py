"""Outbox shards: a key always falls into the same one, so that one relay at a time publishes a key's messages."""

import zlib
from typing import Final

SHARDS: Final = 16


def shard_of(key: str) -> int:
    """The shard of a key, 0 to 15 (CRC-32: the same in every process and version)."""
    return zlib.crc32(key.encode()) % SHARDS
