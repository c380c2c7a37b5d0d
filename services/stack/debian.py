"""Programs that no wheel or jar has: from PATH, else Debian's package unpacked into the cache.

Nothing is installed, no service starts.
"""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from services.stack.jars import cache_dir

_TRY_AGAIN_S: Final = 600  # a machine without the package's index is not asked at each start


class Package(msgspec.Struct, frozen=True):
    """A package of Debian and Ubuntu, and the program in it."""

    name: str
    programs: tuple[str, ...]  # what the program is called on PATH
    folder: str  # of the cache, where it is unpacked
    megabytes: int
    without: str  # what is missing without it
    own_files: str = ""  # the folder that the program was built to read, which is only there when it is installed

    @property
    def how_to(self) -> str:
        """What to do when it cannot be had."""
        return (
            f"{self.name} is not here and could not be unpacked from Debian's packages: {self.without}. "
            f"Put a `{self.programs[0]}` binary on PATH (a package or a release of it) and run `lab up` again."
        )

    def find(self, program: str = "") -> Path | None:
        """The program, or another one of its package, if it is already here: on PATH or in the cache."""
        for name in (program,) if program else self.programs:
            if on_path := shutil.which(name):
                return Path(on_path)
            unpacked = cache_dir() / self.folder / "usr" / "bin" / name
            if unpacked.exists():
                return unpacked
        return None

    def command(self) -> list[str]:
        """How the program is started; by its upstream name on PATH where it is nowhere, which fails with a sentence."""
        found = self.find() or Path(self.programs[0])
        files = cache_dir() / self.folder / self.own_files.lstrip("/")
        unpacked = self.own_files and found.is_relative_to(cache_dir())
        return ["env", f"--chdir={files}", str(found)] if unpacked else [str(found)]

    def can_install(self) -> bool:
        """Whether this machine has Debian's tools, and trying with them did not fail a few minutes ago."""
        just_tried = self._failed.exists() and time.time() - self._failed.stat().st_mtime < _TRY_AGAIN_S
        return bool(shutil.which("apt-get") and shutil.which("dpkg-deb")) and not just_tried

    def install(self) -> Path | None:
        """Unpack the package into the cache; None where that fails. Interrupted, it starts anew.

        The caller holds `jars.cache_lock`.
        """
        target = cache_dir() / self.folder
        with tempfile.TemporaryDirectory() as folder:
            part = target.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            package = self._download(folder)
            if package is None or not _quiet(["dpkg-deb", "-x", str(package), str(part)], folder, 60):
                self._failed.touch()
                return None
            if self.own_files:
                self._read_from_working_directory(part)
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
        return self.find()

    def _read_from_working_directory(self, unpacked: Path) -> None:
        """Debian's build has the absolute folder of its files in the binary; here it reads `.` instead, padded."""
        program = next(path for name in self.programs if (path := unpacked / "usr" / "bin" / name).exists())
        built_in = self.own_files.encode()
        program.write_bytes(program.read_bytes().replace(built_in, b".".ljust(len(built_in), b"/")))

    @property
    def _failed(self) -> Path:
        """In the cache: when unpacking it failed last."""
        return cache_dir() / f"{self.name}-failed"

    def _download(self, folder: str) -> Path | None:
        """The package by the machine's own lists, else by lists fetched for this once (they may be missing or old)."""
        if not _quiet(["apt-get", "download", self.name], folder, 120):
            lists, archives = Path(folder) / "lists" / "partial", Path(folder) / "archives" / "partial"
            lists.mkdir(parents=True)
            archives.mkdir(parents=True)
            private = ["-o", f"Dir::State::lists={lists.parent}", "-o", f"Dir::Cache={folder}"]
            _quiet(["apt-get", *private, "update"], folder, 120)
            _quiet(["apt-get", *private, "download", self.name], folder, 120)
        return next(Path(folder).glob("*.deb"), None)


PROMETHEUS: Final = Package(
    "prometheus", ("prometheus",), "debian", 19, "charts and alerts are missing, the verdict is not"
)
ALERTMANAGER: Final = Package(
    "prometheus-alertmanager",
    ("alertmanager", "prometheus-alertmanager"),
    "debian-alertmanager",
    10,
    "alerts fire on the boards, but nobody is paged",
    "/usr/share/prometheus/alertmanager",
)
PACKAGES: Final = (PROMETHEUS, ALERTMANAGER)


def _quiet(command: list[str], folder: str, timeout_s: float) -> bool:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
