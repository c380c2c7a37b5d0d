"""The compose file against the table of parts and the native stack's settings; each check is tried on a wrong file.

What is checked is data: nothing here needs Docker. docs/compose.md says what was run with an engine.
"""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
import yaml

from loadtest.plan import Plan
from loadtest.run import WEB_PORT, _command, _environment
from loadtest.scenario import read
from services.domain.arms import DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.messages import ORDERS
from services.settings import Settings
from services.stack import compose, kafka, postgres, prometheus, zipkin
from services.stack.home import SUPERVISOR, Home
from services.stack.keeper import KEEPER_MB
from services.stack.launch import PASSED_ON, Launch, launch
from services.stack.parts import GUESTS, PARTS, SUPERVISOR_PORT

ROOT = Path(__file__).parent.parent.parent
FULL = {  # the profile `full`, with the published ports
    "grafana": 21032, "tempo": 0, "loki": 0, "collector": 0, "annotator": 0, "locust": compose.PORT_BASE + WEB_PORT
}  # fmt: skip
UNPROBED = {"tempo", "loki", "collector", "annotator"}  # no shell to probe with, or nothing that could be asked
MANY_CORES = {"postgres", "ledger", "kafka", "lab"}
HELPERS = {"secrets", "lab", *FULL}  # containers that are no process of the table
KEEPER_S = 2  # what a keeper needs to end, beyond its process
SERVICES = [part for part in PARTS.values() if part.kind in ("service", "task")]
Service = dict[str, Any]


class Files(msgspec.Struct):
    """What `docker compose up` reads."""

    services: dict[str, Service]
    images: dict[str, str]  # .env
    text: str  # docker-compose.yml as it is written


@pytest.fixture(scope="module")
def files() -> Files:
    text = (ROOT / "docker-compose.yml").read_text()
    lines = [line for line in (ROOT / ".env").read_text().splitlines() if line and not line.startswith("#")]
    return Files(yaml.safe_load(text)["services"], dict(line.split("=", 1) for line in lines), text)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launch]:
    """How the native stack starts the same processes, on the ports of the design."""
    home = Home(tmp_path_factory.mktemp("home"), compose.PORT_BASE)
    home.create()
    return {part.name: launch(part, 0, home, faults=True) for part in PARTS.values()}


def options(words: list[str]) -> dict[str, str]:
    """The `-c name=value` of a Postgres command line, written apart or together."""
    joined = "\0".join(words).replace("\0-c\0", "\0-c")
    return dict(word[2:].split("=", 1) for word in joined.split("\0") if word.startswith("-c"))


def healthy_or_done(part: str) -> str:
    return "service_completed_successfully" if PARTS[part].kind == "task" else "service_healthy"


# --- the checks: each raises AssertionError for a file that says something else than the table


def same_processes(files: Files, native: dict[str, Launch]) -> None:
    assert files.services.keys() == PARTS.keys() | HELPERS
    others = {name for name, part in PARTS.items() if part.publisher not in ("", *compose.PUBLISHERS)}
    in_one = {name: service["profiles"] for name, service in files.services.items() if "profiles" in service}
    assert in_one == {name: ["full"] if name in FULL else ["publishers"] for name in others | FULL.keys()}


def same_commands(files: Files, native: dict[str, Launch]) -> None:
    """The first process is a keeper, which starts what the native stack does: both ask the table."""
    for part in SERVICES:
        assert files.services[part.name]["command"] == ["python", "-m", "services.stack.keeper", part.name]
    assert files.services["lab"]["command"] == ["python", "-m", SUPERVISOR]
    assert not any("entrypoint" in service for service in files.services.values())


def kept_and_struck_from_inside(files: Files, native: dict[str, Launch]) -> None:
    """The supervisor is there before who asks it for failpoints; a folder is shared, by the lab's own image alone."""
    shared = {"lab:/lab", "logs:/lab/logs"}
    for name, service in files.services.items():
        volumes = {volume for volume in service.get("volumes", []) if volume.startswith(("lab:", "logs:"))}
        if name == "annotator":
            assert volumes == {"lab:/lab:ro"}  # it reads what was struck
        elif service["image"] == "${LAB_IMAGE}" and name != "secrets":
            assert volumes == shared, name
        else:
            assert volumes == ({"logs:/logs:ro"} if name == "collector" else set()), name
        if name == "collector" or (name in PARTS and PARTS[name].kind == "service"):
            assert service["depends_on"]["lab"] == {"condition": "service_healthy"}, name
    assert files.services["lab"]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}


def a_gentle_load_from_the_start(files: Files, native: dict[str, Launch]) -> None:
    """Of the supervisor's own container, which has room for it beside a scenario's load and audit."""
    lab = files.services["lab"]
    assert lab["environment"]["LAB_GUESTS"].split(",") == ["load"]
    assert GUESTS["load"].after == ("orders",)
    assert int(lab["mem_limit"].removesuffix("m")) >= GUESTS["load"].resident_bound_mb + PARTS["auditor"].memory_mb
    assert "profiles" not in lab


def annotator_reads_the_password_from_a_file(files: Files, native: dict[str, Launch]) -> None:
    annotator = files.services["annotator"]
    assert annotator["command"] == [
        "lab", "dashboards", "annotate", "--follow", f"--url=http://grafana:{FULL['grafana']}", "--user=admin",
        "--password-file=" + files.services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"],
    ]  # fmt: skip
    assert annotator["depends_on"] == {"grafana": {"condition": "service_started"}}
    assert "secrets:/run/lab:ro" in annotator["volumes"]


def locust_waits_on_its_page(files: Files, native: dict[str, Launch]) -> None:
    """As `lab load --web`, but that nothing is sent before somebody starts a load on the page."""
    locust = files.services["locust"]
    command = _command(compose.HOME, web=True)
    command.remove("--autostart")
    in_image = {sys.executable: "python", str(ROOT / "loadtest/locustfile.py"): "/app/loadtest/locustfile.py"}
    assert locust["command"] == [in_image.get(word, word) for word in command]
    urls = {name: compose.HOME.http_url(PARTS[name]) for name in ("orders", "refunds", *OTHER_PRODUCERS)}
    given = _environment(compose.HOME, Plan(run="x"), urls)
    addresses = {f"LAB_LOAD_{name}": given[f"LAB_LOAD_{name}"] for name in ("ORDERS", "REFUNDS", "PUBLISHERS")}
    assert locust["environment"] == {**files.services["orders"]["environment"], **addresses}
    assert locust["depends_on"] == {name: {"condition": "service_healthy"} for name in urls}
    assert f":{FULL['locust']}/" in locust["healthcheck"]["test"][-1]


def readable_by_compose(files: Files, native: dict[str, Launch]) -> None:
    """Compose 5.6.0 confuses the merges of `orders.cdc` and `orders`, and calls it a cycle, unless one is a list's."""
    prefixes = {name for name in files.services for other in files.services if other.startswith(f"{name}.")}
    assert prefixes == {"orders"}
    for name in prefixes:
        assert f"\n  {name}:\n    <<: [" in files.text, name


def same_ports(files: Files, native: dict[str, Launch]) -> None:
    """Published are the table's ports, on this machine alone; the admin ports stay inside."""
    for name, service in files.services.items():
        port = compose.PORT_BASE + PARTS[name].port if name in PARTS and PARTS[name].port else FULL.get(name, 0)
        assert service.get("ports", []) == ([f"127.0.0.1:{port}:{port}"] if port else []), name
        assert service.get("network_mode") == ("none" if name == "secrets" else None), name


def same_order(files: Files, native: dict[str, Launch]) -> None:
    for part in PARTS.values():
        given = files.services[part.name].get("depends_on", {})
        expected = {name: {"condition": healthy_or_done(name)} for name in part.after}
        assert {name: needs for name, needs in given.items() if name not in HELPERS} == expected, part.name
    for name in ("postgres", "ledger"):
        assert files.services[name]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}


def same_bounds(files: Files, native: dict[str, Launch]) -> None:
    """Memory, and the time that each is given to end."""
    for part in PARTS.values():
        service, kept = files.services[part.name], part in SERVICES
        assert service["mem_limit"] == f"{part.resident_bound_mb + kept * KEEPER_MB}m", part.name
        assert service["stop_grace_period"] == f"{native[part.name].stop_timeout_s + kept * KEEPER_S:g}s", part.name
        assert service.get("stop_signal", "SIGTERM") == native[part.name].stop_signal.name, part.name
    for name, service in files.services.items():
        assert re.fullmatch(r"\d+m", service["mem_limit"]), name
        assert service["cpus"] == (2 if name in MANY_CORES else 1), name


def same_settings(files: Files, native: dict[str, Launch]) -> None:
    """One environment for all; what a keeper makes of it is what the native stack sets, with other addresses."""
    for part in SERVICES:
        given = dict(files.services[part.name]["environment"])
        assert given.pop("LAB_PUBLISHERS") == f"${{LAB_PUBLISHERS:-{','.join(compose.PUBLISHERS)}}}", part.name
        assert {name for name, value in given.items() if value is None} == {*PASSED_ON} - {"LAB_PUBLISHERS"}, part.name
        given = {name: value for name, value in given.items() if value is not None}
        assert given.keys() == HOME | {"LAB_FAULTS", "PGPASSFILE", "PYTHONUNBUFFERED", "MALLOC_ARENA_MAX", "TZ"}
        assert given["LAB_FAULTS"] == "1", part.name
        assert given["PGPASSFILE"] == "/run/lab/pgpass", part.name
        with mock.patch.dict(os.environ, given, clear=True):
            home = Home.from_environment()
            assert home == compose.HOME
            kept = launch(part, 0, msgspec.structs.replace(home, secret_folder=native_secrets(native)), faults=True)
        made, expected = dict(kept.environment), dict(native[part.name].environment)
        for address in ("LAB_KAFKA", "LAB_POSTGRES", "LAB_LEDGER", "LAB_PROVIDER", "LAB_PROMETHEUS", "LAB_ZIPKIN"):
            assert made.pop(address) == address_in_compose(address), part.name
            del expected[address]
        assert made["LAB_SUPERVISOR"] == f"http://lab:{compose.PORT_BASE + SUPERVISOR_PORT}"
        differing = {*HOME, "LAB_SUPERVISOR", "LAB_LOG_FILE", "LAB_SPAN_FILE", "LAB_TOKEN", "PGPASSFILE"}
        of_this_shell = {"PATH", "HOME", "LANG", "TMPDIR", "XDG_CACHE_HOME", "LAB_CACHE"}
        left_out = differing | of_this_shell | set(PASSED_ON)
        assert {n: v for n, v in made.items() if n not in left_out} == {
            n: v for n, v in expected.items() if n not in left_out
        }, part.name
        assert made["LAB_LOG_FILE"] == f"/lab/logs/{part.instance(0)}.log"
        known = {"LAB_" + field.upper() for field in Settings.__struct_fields__}
        assert {name for name in made if name.startswith("LAB_")} <= known | HOME, part.name
    ours = {"LAB_GUESTS": "load", "LAB_SEED": "${LAB_SEED:-1}", "LAB_FAILPOINTS": "${LAB_FAILPOINTS:-}"}
    assert files.services["lab"]["environment"] == {**files.services["orders"]["environment"], **ours}


HOME = {"LAB_HOME", "LAB_PORT_BASE", "LAB_BIND", "LAB_HOSTS", "LAB_SECRETS"}  # what a Home is made of


def native_secrets(native: dict[str, Launch]) -> Path:
    return Path(native["orders"].environment["LAB_HOME"]) / "run"


def address_in_compose(setting: str) -> str:
    def at(part: str) -> str:
        return f"{part}:{compose.PORT_BASE + PARTS[part].port}"

    return {
        "LAB_KAFKA": "kafka:9092",
        "LAB_POSTGRES": f"postgresql://{postgres.USER}@{at('postgres')}",
        "LAB_LEDGER": f"postgresql://{postgres.USER}@{at('ledger')}",
        "LAB_PROVIDER": f"http://{at('provider')}",
        "LAB_PROMETHEUS": f"http://{at('prometheus')}",
        "LAB_ZIPKIN": f"http://{at('zipkin')}",
    }[setting]


def same_postgres(files: Files, native: dict[str, Launch]) -> None:
    for name in ("postgres", "ledger"):
        service = files.services[name]
        given, expected = options(service["command"]), options(native[name].command)
        assert service["command"][0] == "postgres"
        assert service["environment"]["PGPORT"] == expected.pop("port")
        assert given.pop("listen_addresses") == "*"
        assert expected.pop("listen_addresses") == "127.0.0.1"
        assert given.pop("unix_socket_directories") == "/var/run/postgresql"
        assert expected.pop("unix_socket_directories") == ""
        assert given == expected
        assert service["environment"]["POSTGRES_USER"] == postgres.USER
        assert service["environment"]["POSTGRES_INITDB_ARGS"] == "--auth=scram-sha-256 --encoding=UTF8 --locale=C"


def same_kafka(files: Files, native: dict[str, Launch]) -> None:
    """The image makes `min.insync.replicas` of KAFKA_MIN_INSYNC_REPLICAS; the JVM's options go other ways."""
    part, environment = PARTS["kafka"], dict(files.services["kafka"]["environment"])
    jvm = f"{environment.pop('KAFKA_HEAP_OPTS')} {environment.pop('KAFKA_JVM_PERFORMANCE_OPTS')}".split()
    of_paths = ("-Dlog4j2", f"{kafka.java()}", "-cp", "-XX:AOTCache=")
    words = [word for word in native["kafka"].command[:-4] if not word.startswith(of_paths)]
    assert sorted(jvm) == sorted(words)
    assert environment.pop("KAFKA_LOG4J_OPTS") == "-Dlog4j2.configurationFile=/etc/lab/log4j2.xml"
    given = {name[6:].lower().replace("_", "."): v for name, v in environment.items() if name.startswith("KAFKA_")}
    port, controller = compose.PORT_BASE + part.port, compose.PORT_BASE + part.second_port
    expected = kafka.properties(Path("/var/lib/kafka/data"), "127.0.0.1", port, controller)
    assert expected.pop("controller.quorum.bootstrap.servers") == f"127.0.0.1:{controller}"
    inside, outside, quorum = "PLAINTEXT", "HOST", f"CONTROLLER://127.0.0.1:{controller}"
    assert given == {
        **expected,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listeners": f"{inside}://0.0.0.0:9092,{outside}://0.0.0.0:{port},{quorum}",
        "advertised.listeners": f"{inside}://kafka:9092,{outside}://127.0.0.1:{port},{quorum}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT",
    }


def same_servers_of_metrics_and_alerts(files: Files, native: dict[str, Launch]) -> None:
    own = (  # Tempo writes its exemplars under the profile `full`
        "--config.file=", "--storage.tsdb.path=", "--storage.path=", "--web.listen-address=",
        "--web.enable-remote-write-receiver",
    )  # fmt: skip
    for name in ("prometheus", "alertmanager"):
        command = files.services[name]["command"]
        assert [word for word in command if not word.startswith(own)] == [
            word for word in native[name].command if word.startswith("--") and not word.startswith((*own, "--chdir="))
        ]
        assert f"--web.listen-address=0.0.0.0:{compose.PORT_BASE + PARTS[name].port}" in command
    assert files.services["prometheus"]["environment"] == {**prometheus.ENVIRONMENT, "TZ": "UTC"}


def same_zipkin(files: Files, native: dict[str, Launch]) -> None:
    environment = dict(files.services["zipkin"]["environment"])
    assert environment.pop("JAVA_OPTS").split() == zipkin.command(Path("jar"))[1:-2]
    expected = zipkin.environment("0.0.0.0", compose.PORT_BASE + PARTS["zipkin"].port)  # noqa: S104
    assert environment == {**expected, "TZ": "UTC"}


def pinned_images(files: Files, native: dict[str, Launch]) -> None:
    """Every image comes from .env and has a version there; the Dockerfile's default is the same."""
    for name, service in files.services.items():
        variable = re.fullmatch(r"\$\{(\w+)\}", service["image"])
        assert variable, name
        assert variable[1] in files.images, name
    for image in files.images.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", image), image
    assert f"ARG PYTHON_IMAGE={files.images['PYTHON_IMAGE']}\n" in (ROOT / "Dockerfile").read_text()


def contained(files: Files, native: dict[str, Launch]) -> None:
    """Nobody is root or can become it, writes outside its volumes, or logs without a bound."""
    for name, service in files.services.items():
        assert str(service["user"]).split(":")[0] not in ("root", "0", ""), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"}, name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name


def probed_and_restarted(files: Files, native: dict[str, Launch]) -> None:
    """What runs on is probed and restarted; what runs once is not probed, and begun again only when it failed."""
    for name, service in files.services.items():
        once = name == "secrets" or (name in PARTS and PARTS[name].kind == "task")
        assert service["restart"] == ("on-failure:5" if once else "unless-stopped"), name
        if once or name in UNPROBED:
            assert service["healthcheck"] == {"disable": True}, name
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys(), name
        if name in PARTS and PARTS[name].admin_port:
            assert f":{compose.PORT_BASE + SUPERVISOR_PORT}/readyz" in service["healthcheck"]["test"][-1], name
    assert f":{compose.PORT_BASE + SUPERVISOR_PORT}/status" in files.services["lab"]["healthcheck"]["test"][-1]


def no_secret_in_the_files(files: Files, native: dict[str, Launch]) -> None:
    """The password is read from the volume; an address without one makes every client look into PGPASSFILE."""
    assert not re.search(r"://[^\s/@]*:[^\s/@]*@", files.text)
    written = [str(value) for value in files.images.values()]
    for service in files.services.values():
        environment = service.get("environment", {})
        secret = {name for name in environment if re.search("PASSWORD|SECRET|TOKEN", name)}
        assert secret <= {"POSTGRES_PASSWORD_FILE", "GF_SECURITY_ADMIN_PASSWORD__FILE", "LAB_SECRETS"}  # files
        written += [str(value) for value in environment.values()] + list(service.get("command", ()))
    assert all("password" not in re.sub("(--password-file=)?/run/lab/password", "", value) for value in written)
    for part in PARTS.values():
        volumes = files.services[part.name].get("volumes", [])
        assert ("secrets:/run/lab:ro" in volumes) is (
            part.kind not in ("kafka", "prometheus", "alertmanager", "zipkin")
        ), part.name
    assert "secrets:/run/lab:ro" in files.services["lab"]["volumes"]


CHECKS: list[Callable[[Files, dict[str, Launch]], None]] = [
    same_processes,
    same_commands,
    kept_and_struck_from_inside,
    annotator_reads_the_password_from_a_file,
    locust_waits_on_its_page,
    readable_by_compose,
    a_gentle_load_from_the_start,
    same_ports,
    same_order,
    same_bounds,
    same_settings,
    same_postgres,
    same_kafka,
    same_servers_of_metrics_and_alerts,
    same_zipkin,
    pinned_images,
    contained,
    probed_and_restarted,
    no_secret_in_the_files,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_compose_file_says_the_same_as_the_native_stack(
    check: Callable[[Files, dict[str, Launch]], None], files: Files, native: dict[str, Launch]
) -> None:
    check(files, native)


OTHER_PRODUCERS = [PUBLISHER_ARMS[arm].producer(ORDERS) for arm in compose.PUBLISHERS if arm != DEFAULT_PUBLISHER]
KEPT_BY = ("python", "-m", "services.stack.keeper")


def wrongs() -> Iterator[tuple[Callable[[Files, dict[str, Launch]], None], str, str, Any]]:
    """(the check that must notice, service, path of keys, wrong value; None takes the key away)."""
    yield same_processes, "refunds", "", None
    yield same_processes, "orders.dual_write_after_commit", "profiles", ["publishers"]
    yield same_processes, "lab", "", None
    yield same_processes, "annotator", "", None
    yield same_processes, "annotator", "profiles", None
    yield same_processes, "locust", "", None
    yield same_processes, "locust", "profiles", ["core"]
    yield same_commands, "refunds", "command", ["python", "-m", "services.refunds"]
    yield same_commands, "arm.at_least_once", "command", [*KEPT_BY, "arm.effectively_once"]
    yield same_commands, "lab", "command", ["python", "-m", "services.console"]
    yield same_commands, "orders", "entrypoint", ["sh", "-c", "true"]
    yield kept_and_struck_from_inside, "relay", "depends_on/lab", None
    yield kept_and_struck_from_inside, "relay", "depends_on/lab/condition", "service_started"
    yield kept_and_struck_from_inside, "relay", "volumes", ["secrets:/run/lab:ro", "lab:/lab"]
    yield kept_and_struck_from_inside, "postgres", "volumes", ["lab:/lab"]
    yield kept_and_struck_from_inside, "collector", "volumes", ["logs:/logs"]
    yield kept_and_struck_from_inside, "collector", "depends_on/lab", None
    yield kept_and_struck_from_inside, "lab", "depends_on/orders", {"condition": "service_healthy"}
    yield kept_and_struck_from_inside, "annotator", "volumes", ["secrets:/run/lab:ro", "lab:/lab"]
    yield annotator_reads_the_password_from_a_file, "annotator", "command/5", "--user=admin:lab"
    yield annotator_reads_the_password_from_a_file, "annotator", "command/4", "--url=http://127.0.0.1:21032"
    yield annotator_reads_the_password_from_a_file, "annotator", "volumes", ["lab:/lab:ro"]
    yield annotator_reads_the_password_from_a_file, "annotator", "depends_on", None
    yield locust_waits_on_its_page, "locust", "command/4", "/app/loadtest/gentle.py"
    yield locust_waits_on_its_page, "locust", "command/8", "8089"
    yield locust_waits_on_its_page, "locust", "command/15", "--autostart"
    yield locust_waits_on_its_page, "locust", "environment/LAB_LOAD_ORDERS", None
    yield locust_waits_on_its_page, "locust", "environment/LAB_LOAD_REFUNDS", "http://127.0.0.1:21021"
    yield locust_waits_on_its_page, "locust", "environment/LAB_LOAD_PUBLISHERS", ""
    yield locust_waits_on_its_page, "locust", "environment/LAB_HOME", "/app"
    yield a_gentle_load_from_the_start, "lab", "environment/LAB_GUESTS", None
    yield a_gentle_load_from_the_start, "lab", "profiles", ["load"]
    yield a_gentle_load_from_the_start, "lab", "mem_limit", "500m"
    yield same_settings, "lab", "environment/LAB_FAILPOINTS", None
    yield same_settings, "orders", "environment/LAB_FAILPOINTS", "${LAB_FAILPOINTS:-}"
    yield same_settings, "orders", "environment/LAB_TOKEN", "x"
    yield same_settings, "orders", "environment/LAB_HOSTS", None
    yield same_settings, "orders", "environment/LAB_SECRETS", "/lab/run"
    yield same_settings, "orders", "environment/LAB_PUBLISHERS", "${LAB_PUBLISHERS:-outbox}"
    yield same_ports, "orders", "ports", ["127.0.0.1:21020:21021"]
    yield same_ports, "orders", "ports", ["21020:21020"]
    yield same_ports, "ledger", "ports", ["0.0.0.0:21004:21004"]
    yield same_ports, "relay", "ports", ["127.0.0.1:21110:21110"]
    yield same_ports, "relay", "network_mode", "host"
    yield same_ports, "locust", "ports", ["21031:21031"]
    yield same_order, "arm.at_least_once", "depends_on/provider", None
    yield same_order, "provision", "depends_on/kafka/condition", "service_started"
    yield same_order, "ledger", "depends_on", None
    yield same_bounds, "kafka", "mem_limit", "768m"
    yield same_bounds, "relay", "mem_limit", None
    yield same_bounds, "tempo", "mem_limit", None
    yield same_bounds, "relay", "cpus", None
    yield same_bounds, "relay", "cpus", 4
    yield same_bounds, "loki", "cpus", None
    yield same_bounds, "kafka", "cpus", 1
    yield same_bounds, "postgres", "stop_signal", "SIGTERM"
    yield same_bounds, "kafka", "stop_grace_period", "10s"
    yield same_settings, "relay", "environment/LAB_PROCESS", "relay"
    yield same_settings, "orders", "environment/LAB_PORT_BASE", "22000"
    yield same_settings, "orders", "environment/LAB_CHUNK", "7"
    yield same_settings, "orders", "environment/LAB_CHUNKS", "7"
    yield same_settings, "orders", "environment/LAB_FAULTS", "0"
    yield same_settings, "orders", "environment/LAB_LEDGER", "postgresql://lab@postgres:21001"
    yield same_settings, "orders", "environment/MALLOC_ARENA_MAX", None
    yield same_postgres, "ledger", "command", ["postgres", "-csynchronous_commit=off"]
    yield same_postgres, "ledger", "environment/PGPORT", "5432"
    yield same_postgres, "postgres", "environment/POSTGRES_INITDB_ARGS", "--auth=trust"
    yield same_kafka, "kafka", "environment/KAFKA_LOG_RETENTION_MS", "604800000"
    yield same_kafka, "kafka", "environment/KAFKA_NUM_PARTITIONS", "3"
    yield same_kafka, "kafka", "environment/KAFKA_AUTO_CREATE_TOPICS_ENABLE", None
    yield same_kafka, "kafka", "environment/KAFKA_HEAP_OPTS", "-Xmx1g -Xms256m"
    yield same_servers_of_metrics_and_alerts, "prometheus", "command", ["--storage.tsdb.retention.time=15d"]
    yield same_servers_of_metrics_and_alerts, "alertmanager", "command", ["--data.retention=120h"]
    yield same_zipkin, "zipkin", "environment/MEM_MAX_SPANS", "1000000"
    yield pinned_images, "kafka", "image", "apache/kafka:4.3.1"
    yield pinned_images, "kafka", "image", "${NO_SUCH_IMAGE}"
    yield contained, "kafka", "user", "0:0"
    yield contained, "orders", "user", "root"
    yield contained, "orders", "privileged", True
    yield contained, "orders", "cap_add", ["SYS_ADMIN"]
    yield contained, "postgres", "read_only", False
    yield contained, "prometheus", "volumes", ["/var/run/docker.sock:/var/run/docker.sock"]
    yield contained, "relay", "logging/options/max-size", None
    yield probed_and_restarted, "kafka", "healthcheck", {"disable": True}
    yield probed_and_restarted, "orders", "healthcheck/test", ["CMD", "true"]
    yield probed_and_restarted, "lab", "healthcheck/test", ["CMD", "true"]
    yield probed_and_restarted, "provision", "restart", "unless-stopped"
    yield probed_and_restarted, "relay", "restart", "no"
    yield no_secret_in_the_files, "postgres", "environment/POSTGRES_PASSWORD", "lab"
    yield no_secret_in_the_files, "orders", "environment/PGPASSWORD", "lab"
    yield no_secret_in_the_files, "annotator", "command", ["lab", "--user=admin:password"]
    yield no_secret_in_the_files, "kafka", "volumes", ["secrets:/run/lab:ro"]


@pytest.mark.parametrize(("check", "service", "path", "value"), list(wrongs()))
def test_a_compose_file_that_says_something_else_is_noticed(
    check: Callable[[Files, dict[str, Launch]], None],
    service: str,
    path: str,
    value: Any,
    files: Files,
    native: dict[str, Launch],
) -> None:
    wrong = copy.deepcopy(files)
    place: Any = wrong.services
    *way, last = [service, *(int(key) if key.isdecimal() else key for key in path.split("/") if key)]
    for key in way:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises((AssertionError, KeyError)):
        check(wrong, native)


@pytest.mark.parametrize("image", ["postgres", "postgres:latest", "postgres:alpine", "postgres:18"])
def test_an_image_without_a_version_is_noticed(image: str, files: Files, native: dict[str, Launch]) -> None:
    with pytest.raises(AssertionError):
        pinned_images(Files(files.services, {**files.images, "POSTGRES_IMAGE": image}, files.text), native)


def test_a_password_in_an_address_is_noticed(files: Files, native: dict[str, Launch]) -> None:
    with pytest.raises(AssertionError):
        no_secret_in_the_files(Files(files.services, files.images, "postgresql://lab:lab@postgres:21001"), native)


def test_a_merge_that_compose_takes_for_a_cycle_is_noticed(files: Files, native: dict[str, Launch]) -> None:
    with pytest.raises(AssertionError):
        readable_by_compose(msgspec.structs.replace(files, text=files.text.replace("<<: [*lab]", "<<: *lab")), native)


# --- what Compose itself makes of the file, and what the page says of it

PROFILES = {
    "": (), "core": ("--profile", "core"), "full": ("--profile", "full"), "publishers": ("--profile", "publishers"),
    "full.env": ("--env-file", ".env", "--env-file", "deploy/full.env"),
}  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_reads_the_file_and_starts_what_the_profile_says(profile: str, files: Files) -> None:
    made = composed(*PROFILES[profile], "config", "--format", "json")
    services = json.loads(made)["services"]
    also = profile.removesuffix(".env")
    assert services.keys() == {name for name, s in files.services.items() if s.get("profiles", [also]) == [also]}
    spans_to = "http://tempo:4318" if profile == "full.env" else None
    assert services["relay"]["environment"]["LAB_OTLP"] == spans_to
    assert all(service["cpus"] and int(service["mem_limit"]) for service in services.values())


def composed(*words: str) -> str:
    """What `docker compose` says; without an engine, and skipped where there is no such command."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )  # fmt: skip

    if not shutil.which("docker") or ask("version").returncode:
        pytest.skip("no docker with its plugin `compose` on PATH: `docker compose config` was not asked")
    done = ask(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_says_what_the_bounds_add_up_to(files: Files) -> None:
    """Of what runs on: `secrets` and `provision` have ended by then."""
    page = " ".join((ROOT / "docs" / "compose.md").read_text().split())
    running = {name: s for name, s in files.services.items() if s["restart"] == "unless-stopped"}
    for profile in ("core", "full", "publishers"):
        bounds = [int(s["mem_limit"][:-1]) for s in running.values() if s.get("profiles", [profile]) == [profile]]
        said = re.findall(rf"\| `{profile}`[^|]*\|[^|]*\|[^|]*\| (\S+) GiB \|", page)
        assert said == [f"{sum(bounds) / 1024:.1f}"], profile
    kept = [name for name in running if name in PARTS and PARTS[name].kind == "service"]
    default = [name for name in kept if "profiles" not in running[name]]
    assert f"adds 47 MB to each of {len(default)} containers" in page


# --- the files that the containers mount or are built from


def test_prometheus_is_told_of_the_processes_of_the_native_stack_under_the_same_names() -> None:
    home = Home(Path("/nowhere"), compose.PORT_BASE)
    targets, native = prometheus.targets(compose.HOME, PARTS), prometheus.targets(home, PARTS)
    assert targets.keys() == native.keys()
    for process, address in targets.items():
        container, port = address.split(":")
        assert process == (PARTS[container].instance(0) if container in PARTS else "supervisor")
        assert port == native[process].split(":")[1]
    assert targets["supervisor"] == "lab:21100"


def test_a_prometheus_that_asks_scrapes_whom_and_as_often_as_one_that_was_told(files: Files) -> None:
    targets = prometheus.targets(compose.HOME, PARTS, {"relay": 2})
    told = yaml.safe_load(prometheus.configuration(targets, compose.at("alertmanager")))
    asking = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    assert files.services["prometheus"]["volumes"][1].startswith("./deploy/prometheus.yml:")
    for job, same in zip(asking["scrape_configs"], told["scrape_configs"], strict=True):
        (source,) = job.pop("http_sd_configs")
        every = job["scrape_interval"].removesuffix("s")
        assert source == {"url": f"http://lab:21100/targets?every={every}", "refresh_interval": "5s"}
        assert same.pop("static_configs") == prometheus.answer(targets, int(every))
    assert asking == told
    assert sum(len(prometheus.answer(targets, every)) for every in (1, 5)) == len(targets)


def test_the_committed_files_of_prometheus_and_alertmanager_are_what_the_code_would_print(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("prometheus", "alertmanager"):
        compose.main([name])
        said = f"out of date: python -m services.stack.compose {name} > deploy/{name}.yml"
        assert (ROOT / "deploy" / f"{name}.yml").read_text() == capsys.readouterr().out, said


def test_what_runs_without_a_profile_is_what_the_tour_needs() -> None:
    assert set(read("tour").arms.publishers) == set(compose.PUBLISHERS)


def test_the_brokers_log_is_set_up_as_in_the_native_stack() -> None:
    assert (ROOT / "deploy" / "log4j2.xml").read_text() == kafka._LOGGING


def test_every_file_that_a_container_mounts_is_there(files: Files) -> None:
    mounted = [v for s in files.services.values() for v in s.get("volumes", []) if v.startswith(".")]
    assert mounted
    for volume in mounted:
        source, _, mode = volume.split(":")
        assert (ROOT / source).exists(), volume
        assert mode == "ro", volume


def test_every_folder_that_a_volume_of_the_lab_is_mounted_at_belongs_to_its_user(files: Files) -> None:
    (line,) = re.findall(r"install -d -o lab -g lab -m 0755 (.*)", (ROOT / "Dockerfile").read_text())
    ours = [service for service in files.services.values() if service["image"] == "${LAB_IMAGE}"]
    assert {volume.split(":")[1] for service in ours for volume in service["volumes"]} == set(line.split())


def test_the_final_stage_holds_no_build_tool_and_is_not_root() -> None:
    final = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert "uv " not in final
    assert "pip " not in final
    assert "apt" not in final
    assert final.rstrip().endswith("USER 10001:10001")


def test_the_image_holds_the_packages_that_its_processes_import() -> None:
    text, let_in = (ROOT / "Dockerfile").read_text(), (ROOT / ".dockerignore").read_text().splitlines()
    assert let_in[0] == "*"
    for package in ("services", "dashboards", "loadtest", "lab"):
        assert f"COPY {package} /app/{package}\n" in text
        assert f"!{package}" in let_in
    assert "PYTHONPATH=/app" in text


def test_lab_is_a_command_of_the_image(tmp_path: Path) -> None:
    """The script that the Dockerfile writes, where nothing else says what `lab` is."""
    (line,) = re.findall(r"printf '(.*)' > /opt/lab/bin/lab", (ROOT / "Dockerfile").read_text())
    script = tmp_path / "lab"
    script.write_text(line.replace("\\n", "\n").replace("/opt/lab/bin/python", sys.executable))
    script.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["lab", "scenarios"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tour" in done.stdout


def test_what_an_image_leaves_out_no_process_in_a_container_imports() -> None:
    """All modules, in a fresh interpreter in which neither the native stack's libraries nor the tests' can be found."""
    lines = (ROOT / "deploy" / "native-only.txt").read_text().splitlines()
    left_out = [line for line in lines if line[0] != "#"]
    assert "locust" not in left_out  # the load is sent from a container
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    away = {name.partition("==")[0].replace("-", "_") for name in (*left_out, *groups["dev"])} | {"yaml"}
    modules = {part.module for part in (*SERVICES, GUESTS["load"])}
    modules |= {"services.stack.compose", "services.stack.keeper", SUPERVISOR, "lab.main", "loadtest.play"}
    run = sorted(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module for module in modules)
    nothing = dict.fromkeys(away)
    code = f"import importlib, sys; sys.modules.update({nothing!r}); list(map(importlib.import_module, {run!r}))"
    code += "; sys.modules['lab.main'].application()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the secrets


def test_the_password_is_drawn_once_and_written_for_both_readers(tmp_path: Path) -> None:
    compose.draw_secrets(tmp_path)
    password = (tmp_path / "password").read_text()
    compose.draw_secrets(tmp_path)
    assert (tmp_path / "password").read_text() == password
    assert len(password) >= 32
    assert not set(password) & set(":\\\n")  # libpq's separators
    assert (tmp_path / "pgpass").read_text() == f"*:*:*:{postgres.USER}:{password}\n*:*:*:reader:{password}\n"
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o444  # the image's user is another
    assert (tmp_path / "pgpass").stat().st_mode & 0o777 == 0o600  # libpq and asyncpg refuse it otherwise
    assert sorted(file.name for file in tmp_path.iterdir()) == ["password", "pgpass", "token.secret"]
    assert (tmp_path / "token.secret").stat().st_mode & 0o777 == 0o600  # of the lab's own user


def test_two_labs_draw_two_passwords(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        compose.draw_secrets(tmp_path / name)
    assert (tmp_path / "a" / "password").read_text() != (tmp_path / "b" / "password").read_text()


def test_a_start_that_died_between_the_two_files_is_mended_by_the_next(tmp_path: Path) -> None:
    compose.draw_secrets(tmp_path)
    (tmp_path / "pgpass").unlink()
    (tmp_path / "pgpass.part").write_text("half")
    token = (tmp_path / "token.secret").read_text()
    compose.draw_secrets(tmp_path)
    password = (tmp_path / "password").read_text()
    assert (tmp_path / "pgpass").read_text() == f"*:*:*:{postgres.USER}:{password}\n*:*:*:reader:{password}\n"
    assert (tmp_path / "token.secret").read_text() == token  # the running lab knows no other


def test_an_unknown_command_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compose.main(["secret"])
    assert ended.value.code == 2
    assert "secrets FOLDER | prometheus | alertmanager" in capsys.readouterr().err
