"""What is settled and old, on disk: the auditor's memory must not grow with the lab's age."""

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec

from services.auditor.history import Key
from services.domain.messages import Coordinates

_TABLE: Final = "CREATE TABLE kept (owner TEXT, key BLOB, state BLOB, PRIMARY KEY (owner, key)) WITHOUT ROWID"


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """All that is known of a message: of its records, of its intent, and how often which effects were applied."""

    copies: list[Coordinates] = []
    facts: list[bytes] = []  # of the copies
    wanted: list[str] = []  # effects, besides those that every message wants
    kind: str = ""  # of the intent; none: there is no intent
    promised: bytes = b""
    counts: int = 0  # packed
    many: dict[int, int] = {}  # counts that are too large to be packed, by their place
    records: dict[str, list[tuple[Coordinates, int]]] = {}  # by arm and effect


class Intended(msgspec.Struct, frozen=True, array_like=True):
    """The intents of one Idempotency-Key, and whether the hop accept was settled."""

    message_ids: list[bytes]
    settled: bool


class Shelf:
    """A table in a file without a name: SQLite makes it in SQLITE_TMPDIR, and it is gone when the process is."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute(_TABLE)
        self._messages = msgspec.msgpack.Decoder(Settled).decode
        self._intents = msgspec.msgpack.Decoder(Intended).decode

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is put within goes to the file at its end."""
        self._file.execute("BEGIN")
        try:
            yield
        finally:
            self._file.execute("COMMIT")

    def put(self, publisher: str, key: bytes, settled: Settled) -> None:
        """Keep a message of a publisher arm."""
        self._put(publisher, key, settled)

    def take(self, publisher: str, key: Key) -> Settled | None:
        """Take a message off the shelf; None: it does not lie here."""
        state = self._take(publisher, key) if isinstance(key, bytes) else None
        return None if state is None else self._messages(state)

    def put_name(self, publisher: str, kind: str, name: str, intended: Intended) -> None:
        """Keep an Idempotency-Key."""
        self._put(f"{publisher}/{kind}", name.encode(errors="surrogatepass"), intended)

    def take_name(self, publisher: str, kind: str, name: str) -> Intended | None:
        """Take an Idempotency-Key off the shelf; None: it does not lie here."""
        state = self._take(f"{publisher}/{kind}", name.encode(errors="surrogatepass"))
        return None if state is None else self._intents(state)

    def close(self) -> None:
        """Let go of all."""
        self._file.close()

    def _put(self, owner: str, key: bytes, state: msgspec.Struct) -> None:
        self._file.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (owner, key, msgspec.msgpack.encode(state)))

    def _take(self, owner: str, key: bytes) -> bytes | None:
        found = self._file.execute("SELECT state FROM kept WHERE owner = ? AND key = ?", (owner, key)).fetchone()
        if found is None:
            return None
        self._file.execute("DELETE FROM kept WHERE owner = ? AND key = ?", (owner, key))
        return bytes(found[0])
