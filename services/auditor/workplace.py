"""A folder for one audit's files. What an audit left behind that was killed is removed by the next one."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from services.auditor.stores import Unreachable

_PREFIX: Final = "audit-"
_LOCK: Final = "lock"


@contextmanager
def workplace(home: Path) -> Iterator[Path]:
    """A new folder in the lab's home, gone at the end. Raises Unreachable when it cannot be made."""
    try:
        folder, lock = _made(home)
    except OSError as error:
        raise Unreachable(f"there is no room in {home} for what the audit reads: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _made(home: Path) -> tuple[Path, TextIO]:
    """The folder, and the lock by which others see that it is in use."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "audit.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for left in home.glob(f"{_PREFIX}*/"):
            if not _in_use(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
        lock = (folder / _LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _in_use(folder: Path) -> bool:
    """Whether an audit holds the lock: a process that ends lets go of it, however it ends."""
    try:
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # gone meanwhile
        return False
    return False
