"""Connections to the lab's Postgres servers, with the time-outs that keep a frozen process from holding others up."""

from pathlib import Path
from typing import Any, Final

import asyncpg

# A frozen process keeps its sockets and locks; below the consumers' session time-out (6 s), the server lets go of them.
GUARDS: Final = {
    "idle_in_transaction_session_timeout": "4000",
    "lock_timeout": "4000",
}

# Whatever a server answers or does not. InternalClientError: what asyncpg makes of one that ended between two queries.
AWAY: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def in_doubt(error: BaseException) -> bool:
    """Whether a statement that ended so may have been committed all the same: its answer did not come."""
    return not isinstance(error, asyncpg.PostgresError) or (error.sqlstate or "").startswith(("08", "57"))


def dsn(server: str, database: str) -> str:
    """The address of one database on a server that was given without one (`postgresql://user:password@host:port`)."""
    return f"{server.rstrip('/')}/{database}"


async def connect(server: str, database: str, *, name: str, **settings: str) -> Any:
    """One connection; `name` is what pg_stat_activity shows. Times out after 5 s."""
    return await asyncpg.connect(
        dsn(server, database), timeout=5, server_settings={"application_name": name, **GUARDS, **settings}
    )


async def _keep_session(_: Any) -> None:
    """Nothing to reset: no session state is ever set, and the default reset costs one round trip a use."""


async def pool(server: str, database: str, *, name: str, size: int, **settings: str) -> Any:
    """A pool of `size` connections at most, opened one by one as they are needed; statements time out after 30 s."""
    return await asyncpg.create_pool(
        dsn(server, database),
        min_size=1,
        max_size=size,
        timeout=5,
        command_timeout=30,
        reset=_keep_session,
        server_settings={"application_name": name, **GUARDS, **settings},
    )


def statements(file: Path) -> dict[str, str]:
    """Read a file of named statements: each begins with a line `-- name: purpose`.

    Raises ValueError when text stands before the first name or a name comes twice.
    """
    found: dict[str, str] = {}
    name = ""
    for line in file.read_text().splitlines():
        if line.startswith("-- ") and ":" in line and line[3 : line.index(":")].isidentifier():
            name = line[3 : line.index(":")]
            if name in found:
                raise ValueError(f"{file.name}: the statement {name} is there twice")
            found[name] = ""
        elif name:
            found[name] += line + "\n"
        elif line.strip() and not line.startswith("--"):
            raise ValueError(f"{file.name}: a statement without a name: {line[:60]}")
    return {name: text.strip().rstrip(";") for name, text in found.items()}
