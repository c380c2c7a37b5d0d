"""Prometheus: from PATH, else Debian's package unpacked into the cache (nothing is installed, no service starts)."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from services.stack.home import Home
from services.stack.jars import cache_dir
from services.stack.parts import PARTS, SUPERVISOR_PORT

HOW_TO: Final = (
    "Prometheus is not here and could not be unpacked from Debian's packages: charts and alerts are missing, "
    "the verdict is not. Put a `prometheus` binary on PATH (a package or a release of it) and run `lab up` again."
)
SCRAPE_S: Final = 5
SCRAPE_ARMS_S: Final = 1  # of the consumer arms, and of who reports about shared state: alerts go by them
_OFTEN: Final = ("auditor", "probe", "supervisor")
_FAILED: Final = "prometheus-failed"  # in the cache: when unpacking it failed last
_TRY_AGAIN_S: Final = 86_400


def find_binary() -> Path | None:
    """The binary if it is already here: on PATH or in the cache."""
    if on_path := shutil.which("prometheus"):
        return Path(on_path)
    unpacked = cache_dir() / "debian" / "usr" / "bin" / "prometheus"
    return unpacked if unpacked.exists() else None


def can_install() -> bool:
    """Whether this machine has Debian's tools, and trying with them did not fail within the last day."""
    failed = cache_dir() / _FAILED
    tried_today = failed.exists() and time.time() - failed.stat().st_mtime < _TRY_AGAIN_S
    return bool(shutil.which("apt-get") and shutil.which("dpkg-deb")) and not tried_today


def install() -> Path | None:
    """Unpack Debian's package into the cache; None where that fails. Interrupted, it starts anew.

    The caller holds `jars.cache_lock`.
    """
    target = cache_dir() / "debian"
    with tempfile.TemporaryDirectory() as folder:
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        package = _download(folder)
        if package is None or not _quiet(["dpkg-deb", "-x", str(package), str(part)], folder, 60):
            (cache_dir() / _FAILED).touch()
            return None
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    return find_binary()


def _download(folder: str) -> Path | None:
    """The package by the machine's own lists, else by lists fetched for this once (they may be missing or old)."""
    if not _quiet(["apt-get", "download", "prometheus"], folder, 120):
        lists, archives = Path(folder) / "lists" / "partial", Path(folder) / "archives" / "partial"
        lists.mkdir(parents=True)
        archives.mkdir(parents=True)
        private = ["-o", f"Dir::State::lists={lists.parent}", "-o", f"Dir::Cache={folder}"]
        _quiet(["apt-get", *private, "update"], folder, 120)
        _quiet(["apt-get", *private, "download", "prometheus"], folder, 120)
    return next(Path(folder).glob("*.deb"), None)


def _quiet(command: list[str], folder: str, timeout_s: float) -> bool:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def configuration(targets: Mapping[str, str]) -> str:
    """prometheus.yml: targets by address, the process's name as `instance`, in a job for each scrape interval."""
    lines = ["global:", f"  scrape_interval: {SCRAPE_S}s", "  scrape_timeout: 1s", "scrape_configs:"]
    for interval_s in (SCRAPE_ARMS_S, SCRAPE_S):
        lines += [f"  - job_name: lab_{interval_s}s", f"    scrape_interval: {interval_s}s", "    static_configs:"]
        for name, address in targets.items():
            if scraped_every_s(name) == interval_s:
                lines.append(f'      - {{targets: ["{address}"], labels: {_labels(name)}}}')
    return "\n".join(lines) + "\n"


def scraped_every_s(process: str) -> int:
    """How often a process is scraped."""
    part = process.partition("#")[0]
    return SCRAPE_ARMS_S if part in _OFTEN or PARTS[part].consumer else SCRAPE_S


def _labels(process: str) -> str:
    """The supervisor's own series say which part they are about."""
    part = "" if process == "supervisor" else f', part: "{process.partition("#")[0]}"'
    return f'{{instance: "{process}"{part}}}'


def targets(home: Home, names: Collection[str], replicas: Mapping[str, int] | None = None) -> dict[str, str]:
    """The supervisor, and every process with an admin endpoint of the parts `names`, by its name.

    `replicas`: how many a part has, where that is not what the table says.
    """
    many = replicas or {}
    return {"supervisor": f"{home.bind}:{home.port(SUPERVISOR_PORT)}"} | {
        part.instance(n): f"{home.bind}:{home.port(part.admin_port + n)}"
        for part in (PARTS[name] for name in names)
        if part.admin_port
        for n in range(many.get(part.name, part.replicas))
    }


def write_configuration(home: Home, names: Collection[str], replicas: Mapping[str, int] | None = None) -> None:
    """Write what the lab's Prometheus reads when it starts, and at a SIGHUP."""
    (home.run / "prometheus.yml").write_text(configuration(targets(home, names, replicas)))


def command(binary: Path, home: Home) -> list[str]:
    """The server's command line: bound to this machine, data kept for a day and 512 MB at most."""
    return [
        str(binary),
        f"--config.file={home.run / 'prometheus.yml'}",
        f"--storage.tsdb.path={home.data / 'prometheus'}",
        "--storage.tsdb.retention.time=1d",
        "--storage.tsdb.retention.size=512MB",
        f"--web.listen-address={home.bind}:{home.port(PARTS['prometheus'].port)}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
