"""Log files: bounded while they are written, and read from their end."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOG_BOUND: Final = 50 * 1024 * 1024  # of a file and of the one before it
_BLOCK: Final = 64 * 1024


def keep_bounded(file: Path, bound: int = LOG_BOUND) -> None:
    """When `file` has grown over `bound` bytes, move what it holds to `file.1`.

    Copied and emptied, not renamed: its writers keep it open (with O_APPEND, so they go on at its new end). A line
    written in the instant between the two is lost. Does nothing without the file.
    """
    try:
        if file.stat().st_size <= bound:
            return
    except FileNotFoundError:
        return
    try:
        with file.open("rb") as source, file.with_name(f"{file.name}.1").open("wb") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
    finally:
        with file.open("ab") as emptied:  # on a full disk, too: the bound holds above all
            emptied.truncate(0)


def tail(file: Path, lines: int, *, follow: bool = False) -> Iterator[str]:
    """The last `lines` lines; with `follow`, then each one as it comes, also after the file was emptied."""
    with file.open("rb") as stream:
        end = stream.seek(0, 2)
        yield from _last_lines(end, lines, file)
        stream.seek(end)
        rest = b""
        while follow:
            if stream.tell() > file.stat().st_size:
                stream.seek(0)
            if not (read := stream.read(_BLOCK)):
                time.sleep(0.2)
            *whole, rest = (rest + read).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)


def _last_lines(end: int, lines: int, file: Path) -> list[str]:
    data = b""
    with file.open("rb") as stream:
        while end > 0 and data.count(b"\n") <= lines:
            start = max(0, end - _BLOCK)
            stream.seek(start)
            data = stream.read(end - start) + data
            end = start
    return [line.decode(errors="replace") for line in data.splitlines()[-lines:]]
