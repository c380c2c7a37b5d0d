"""Kafka's jars: a checked-in list of coordinates with SHA-256, fetched by jgo into a cache outside the clone.

`python -m services.stack.jars lock` resolves the list anew (development only).
"""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import msgspec

from services.stack.errors import StackError

LOCK: Final = Path(__file__).with_name("jars.lock")
KAFKA: Final = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka's own slf4j is 1.7: without this binding it logs nothing. Resolved alone: beside Kafka it drags in old clients.
LOG_BINDING: Final = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"

Progress = Callable[[int, int], None]  # called with what is done and the total


def _untold(done: int, total: int) -> None:
    """Of a download that is over at once."""


class Jar(msgspec.Struct, frozen=True):
    """One line of the lock: `group:artifact:version sha256`."""

    group: str
    artifact: str
    version: str
    sha256: str
    classifier: str = ""

    @property
    def file_name(self) -> str:
        return "-".join(filter(None, (self.artifact, self.version, self.classifier))) + ".jar"


def cache_dir() -> Path:
    """Where downloads are kept, outside any clone: `$LAB_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("LAB_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "delivery-lab"


@contextmanager
def cache_lock(say: Callable[[str], None]) -> Iterator[None]:
    """Hold the cache for oneself: two labs that start at once do not download into each other's files.

    Raises StackError when the cache cannot be written.
    """
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        file = (cache_dir() / "lock").open("ab")
    except OSError as error:
        raise StackError(
            f"cannot write to {cache_dir()} ({error.strerror}): choose another cache folder with LAB_CACHE"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another lab is filling the same cache: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def locked() -> list[Jar]:
    """The jars of the lock file."""
    jars = []
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return jars


def missing(folder: Path) -> list[Jar]:
    """Jars that are not yet in `folder`. A file there was checked before it got its name."""
    return [jar for jar in locked() if not (folder / jar.file_name).exists()]


def install(progress: Progress) -> None:
    """Bring every jar into the cache, checked. Interrupted, it goes on with the jar at which it stopped.

    `progress(done, total)` is called after each jar. The caller holds `cache_lock`.
    Raises StackError when offline or when a checksum is wrong.
    """
    folder, downloads = cache_dir() / "jars", cache_dir() / "maven"
    folder.mkdir(exist_ok=True)
    shutil.rmtree(downloads, ignore_errors=True)  # half a jar of an interrupted run would be taken for the jar
    todo = missing(folder)
    total = len(locked())
    workers = ThreadPoolExecutor(4)
    try:
        for number, _ in enumerate(workers.map(lambda jar: _fetch(jar, downloads, folder, _untold), todo), 1):
            progress(total - len(todo) + number, total)
    finally:
        workers.shutdown(cancel_futures=True)  # interrupted or offline: only what is under way is waited for
        shutil.rmtree(downloads, ignore_errors=True)


def install_one(jar: Jar, folder: Path, progress: Progress = _untold) -> Path:
    """Bring one jar into a folder of its own in the cache, checked. The caller holds `cache_lock`.

    `progress(done, total)`, in bytes, is called after each quarter. Raises StackError when offline or when the checksum
    is wrong.
    """
    downloads = cache_dir() / "maven"
    folder.mkdir(exist_ok=True)
    shutil.rmtree(downloads, ignore_errors=True)
    try:
        _fetch(jar, downloads, folder, progress)
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    return folder / jar.file_name


def _fetch(jar: Jar, downloads: Path, folder: Path, progress: Progress) -> None:
    source = _download(jar, downloads, progress)
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise StackError(
            f"{jar.file_name} came with the SHA-256 {found}, {LOCK.name} wants {jar.sha256}: "
            "something between this machine and Maven Central changes files; it was not kept"
        )
    source.rename(folder / jar.file_name)


def _download(jar: Jar, downloads: Path, progress: Progress) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a folder that jgo's own command line would use
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415  # a second's import, needed once a machine
    try:
        resolver = PythonResolver(progress_callback=lambda _, total: nullcontext(_by_quarters(total, progress)))
        context = MavenContext(resolver, repo_cache=downloads, timeout=60)
        project = context.project(jar.group, jar.artifact)
        return Path(project.at_version(jar.version).artifact(classifier=jar.classifier).resolve())
    except Exception as error:
        if _is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(downloads)) from error
        raise StackError(
            f"could not download {jar.group}:{jar.artifact}:{jar.version} ({type(error).__name__}): "
            "connect to the network and run the command again: what has come whole is kept"
        ) from error


def _by_quarters(total: int, progress: Progress) -> Callable[[int], None]:
    """What is called with the size of each piece as it comes."""
    done = 0

    def came(size: int) -> None:
        nonlocal done
        quarters, done = 4 * done // total, done + size
        if 4 * done // total > quarters:
            progress(done, total)

    return came


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk that is full is the cause."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _resolve() -> Iterator[Jar]:
    import jgo  # noqa: PLC0415  # development only

    seen: dict[str, str] = {}
    for endpoint in (KAFKA, LOG_BINDING):
        for dependency in jgo.build(endpoint).lockfile.dependencies:
            name = f"{dependency.groupId}:{dependency.artifactId}"
            if name not in seen:
                seen[name] = dependency.version
                yield Jar(dependency.groupId, dependency.artifactId, dependency.version, dependency.sha256)


def main() -> None:
    """Write the lock file anew."""
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m services.stack.jars lock")
    jars = sorted(_resolve(), key=lambda jar: (jar.group, jar.artifact))
    head = f"# {KAFKA} and {LOG_BINDING}, with all that they need; made by `python -m services.stack.jars lock`\n"
    LOCK.write_text(head + "".join(f"{j.group}:{j.artifact}:{j.version} {j.sha256}\n" for j in jars))


if __name__ == "__main__":
    main()
