"""Prometheus: whom it scrapes, which rules it evaluates, and to whom it sends alerts."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from services.stack import alertmanager
from services.stack.debian import PROMETHEUS
from services.stack.home import Home
from services.stack.parts import PARTS, SUPERVISOR_PORT

RULES: Final = "rules.yml"  # beside prometheus.yml
SCRAPE_S: Final = 5
SCRAPE_ARMS_S: Final = 1  # of the consumer arms, and of who reports about shared state: alerts go by them
_OFTEN: Final = ("auditor", "probe", "supervisor")


def configuration(targets: Mapping[str, str], alertmanager_address: str) -> str:
    """prometheus.yml: targets by address, the process's name as `instance`, in a job for each scrape interval."""

    def found(interval_s: int) -> list[str]:
        lines = ["    static_configs:"]
        for name, address in targets.items():
            if scraped_every_s(name) == interval_s:
                labels = ", ".join(f'{label}: "{value}"' for label, value in _labels(name).items())
                lines.append(f'      - {{targets: ["{address}"], labels: {{{labels}}}}}')
        return lines

    return _document(alertmanager_address, found)


def asking(supervisor: str, alertmanager_address: str) -> str:
    """The same for a Prometheus that asks the supervisor whom to scrape (GET /targets), every five seconds."""

    def found(interval_s: int) -> list[str]:
        url = f"http://{supervisor}/targets?every={interval_s}"
        return ["    http_sd_configs:", f'      - {{url: "{url}", refresh_interval: 5s}}']

    return _document(alertmanager_address, found)


def _document(alertmanager_address: str, found: Callable[[int], list[str]]) -> str:
    lines = ["global:", f"  scrape_interval: {SCRAPE_S}s", "  scrape_timeout: 1s", f"rule_files: [{RULES}]"]
    lines += ["alerting:", f'  alertmanagers: [{{static_configs: [{{targets: ["{alertmanager_address}"]}}]}}]']
    lines += ["scrape_configs:"]
    for interval_s in (SCRAPE_ARMS_S, SCRAPE_S):
        lines += [f"  - job_name: lab_{interval_s}s", f"    scrape_interval: {interval_s}s", *found(interval_s)]
    return "\n".join(lines) + "\n"


def answer(targets: Mapping[str, str], every_s: int) -> list[dict[str, Any]]:
    """What Prometheus is told of those scraped so often, in the form of its HTTP service discovery."""
    return [
        {"targets": [address], "labels": _labels(name)}
        for name, address in targets.items()
        if scraped_every_s(name) == every_s
    ]


def scraped_every_s(process: str) -> int:
    """How often a process is scraped."""
    part = process.partition("#")[0]
    return SCRAPE_ARMS_S if part in _OFTEN or PARTS[part].consumer else SCRAPE_S


def _labels(process: str) -> dict[str, str]:
    """The supervisor's own series say which part they are about."""
    part = {} if process == "supervisor" else {"part": process.partition("#")[0]}
    return {"instance": process, **part}


def targets(home: Home, names: Collection[str], replicas: Mapping[str, int] | None = None) -> dict[str, str]:
    """The supervisor, and every process with an admin endpoint of the parts `names`, by its name.

    `replicas`: how many a part has, where that is not what the table says.
    """
    many = replicas or {}
    return {"supervisor": home.at("supervisor", SUPERVISOR_PORT)} | {
        part.instance(n): home.at(part.name, part.admin_port + n)
        for part in (PARTS[name] for name in names)
        if part.admin_port
        for n in range(many.get(part.name, part.replicas))
    }


def write_configuration(home: Home, names: Collection[str], replicas: Mapping[str, int] | None = None) -> None:
    """Write what the lab's Prometheus reads when it starts, and at a SIGHUP."""
    receiver = home.at("alertmanager", PARTS["alertmanager"].port)
    (home.run / "prometheus.yml").write_text(configuration(targets(home, names, replicas), receiver))
    rules = alertmanager.with_console("rules-demo.yml", home.http_url(PARTS["console"]))
    (home.run / RULES).write_text(rules)


# Its heap is one fixed size from the first minutes on, and collected when that is full, not when it has doubled: what
# it keeps of the last hours grows within that. Twice what a lab with everything needed after three quarters of an hour
# (go_memstats_heap_alloc_bytes: 62 MB).
ENVIRONMENT: Final = {"GOGC": "off", "GOMEMLIMIT": "128MiB"}


def command(home: Home) -> list[str]:
    """The server's command line: bound to this machine, data kept for a day and 512 MB at most."""
    return [
        *PROMETHEUS.command(),
        f"--config.file={home.run / 'prometheus.yml'}",
        f"--storage.tsdb.path={home.data / 'prometheus'}",
        "--storage.tsdb.retention.time=1d",
        "--storage.tsdb.retention.size=512MB",
        f"--web.listen-address={home.bind}:{home.port(PARTS['prometheus'].port)}",
        "--enable-feature=exemplar-storage",
        "--rules.alert.resend-delay=2s",  # an Alertmanager that is just away gets it within its window, not a minute on
        "--log.level=warn",
    ]
