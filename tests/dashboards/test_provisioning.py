"""Grafana's provisioning and the stores beside it: files that agree with the boards and with docker-compose.yml."""

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from dashboards import generate
from services.settings import Settings
from tests.dashboards.schemas import SCHEMAS
from tests.dashboards.tools import run

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


SOURCES = {source["uid"]: source for source in read("grafana/datasources/lab.yml")["datasources"]}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_source_that_a_board_asks_is_provisioned_under_its_uid_and_type() -> None:
    boards = [json.loads(text) for name, text in generate.files().items() if name.startswith("lab-")]
    asked = {
        (target["datasource"]["uid"], target["datasource"]["type"])
        for board in boards
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    assert asked <= {(uid, source["type"]) for uid, source in SOURCES.items()}


def test_a_source_is_a_container_that_there_is() -> None:
    for source in SOURCES.values():
        host = urlsplit(source["url"]).hostname if "//" in source["url"] else source["url"].partition(":")[0]
        assert host in COMPOSE["services"], source["name"]


def test_sources_link_to_each_other_by_uids_that_there_are() -> None:
    text = (DEPLOY / "grafana/datasources/lab.yml").read_text()
    assert set(re.findall(r"(?:datasourceUid|alertmanagerUid): (\w+)", text)) <= SOURCES.keys()


def test_rate_windows_are_four_of_the_longest_scrape_interval() -> None:
    assert SOURCES["prometheus"]["jsonData"]["timeInterval"] == "5s"


def test_evidence_is_read_by_who_may_only_look_and_no_secret_is_written_down() -> None:
    auditor = SOURCES["auditor"]
    assert (auditor["user"], auditor["jsonData"]["database"]) == ("reader", "auditor")
    assert auditor["secureJsonData"] == {"password": "$__file{/run/lab/password}"}


def test_grafana_finds_boards_provisioning_and_its_home() -> None:
    grafana = COMPOSE["services"]["grafana"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"] if volume.startswith(".")}
    (provider,) = read("grafana/dashboards/lab.yml")["providers"]
    assert mounted[provider["options"]["path"]] == "./dashboards/generated"
    assert mounted[grafana["environment"]["GF_PATHS_PROVISIONING"]] == "./deploy/grafana"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.name in generate.files()
    assert str(home.parent) == provider["options"]["path"]


def test_whoever_looks_may_only_look_and_only_from_this_machine() -> None:
    grafana = COMPOSE["services"]["grafana"]
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/run/lab/password"
    assert grafana["ports"] == ["127.0.0.1:21032:21032"]


def test_the_full_profile_sets_what_there_is_to_set() -> None:
    lines = [line for line in (DEPLOY / "full.env").read_text().splitlines() if not line.startswith("#")]
    given = dict(line.split("=", 1) for line in lines)
    assert given.pop("COMPOSE_PROFILES") == "full"
    assert given.keys() <= {f"LAB_{name.upper()}" for name in Settings.__struct_fields__}
    receiver = read("tempo.yml")["distributor"]["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert given["LAB_OTLP"] == f"http://tempo:{receiver.rpartition(':')[2]}"


def test_the_collector_reads_the_logs_where_the_processes_write_them() -> None:
    collector, relay = COMPOSE["services"]["collector"], COMPOSE["services"]["relay"]
    assert "logs:/logs:ro" in collector["volumes"]
    assert f"logs:{relay['environment']['LAB_HOME']}/logs" in relay["volumes"]
    assert read("collector.yml")["receivers"]["filelog"]["include"] == ["/logs/*.log"]


def test_each_signal_has_one_road() -> None:
    """Metrics are scraped, spans go to Tempo, logs through the collector: a second road would double every sum."""
    assert list(read("collector.yml")["service"]["pipelines"]) == ["logs"]
    assert read("collector.yml")["exporters"]["otlphttp"]["endpoint"].startswith("http://loki:3100")
    assert read("loki.yml")["server"]["http_listen_port"] == 3100


# --- each file as what reads it would read it: by its tool where there is one, else by a schema of the keys that we use

BY_TOOL = {"prometheus.yml": "promtool", "alertmanager.yml": "amtool"}
READ_OTHERWISE = {
    "full.env": "docker compose",
    "log4j2.xml": "kafka",
    "kafka-ready.sh": "bash",
    "native-only.txt": "uv",
}


def test_no_file_of_the_containers_is_left_unchecked() -> None:
    there = {str(file.relative_to(DEPLOY)) for file in DEPLOY.rglob("*") if file.is_file()}
    assert there == SCHEMAS.keys() | BY_TOOL.keys() | READ_OTHERWISE.keys()


def test_prometheus_reads_its_file_with_the_rules_where_it_looks_for_them(tmp_path: Path) -> None:
    """The mounts of the container, with another root."""
    mounts = [volume.split(":") for volume in COMPOSE["services"]["prometheus"]["volumes"]]
    mounted = {inside: ROOT / outside for outside, inside, *_ in mounts if outside.startswith(".")}
    for inside, outside in mounted.items():
        (tmp_path / inside.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(outside, tmp_path / inside.lstrip("/"))
    (command,) = (word for word in COMPOSE["services"]["prometheus"]["command"] if word.startswith("--config.file="))
    said = run("promtool", "check", "config", tmp_path / command.partition("=/")[2])
    rules = yaml.safe_load((ROOT / "dashboards" / "generated" / "rules-demo.yml").read_text())
    assert f"{sum(len(group['rules']) for group in rules['groups'])} rules found" in said


def test_alertmanager_reads_its_file() -> None:
    assert "1 receivers" in run("amtool", "check-config", DEPLOY / "alertmanager.yml")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_without_a_tool_here_says_what_there_is_to_say(name: str) -> None:
    msgspec.convert(read(name), SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_key_that_is_misspelt_anywhere_is_noticed(name: str) -> None:
    wrong = list(misspelt(read(name)))
    assert len(wrong) > 10
    for document in wrong:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(document, SCHEMAS[name])


def misspelt(document: Any) -> Iterator[Any]:
    """The document once for each of its keys, in which that key has a letter too many."""
    for place in (way for way in ways(document) if isinstance(way[-1], str)):
        wrong = holder = copy.deepcopy(document)
        for step in place[:-1]:
            holder = holder[step]
        holder[f"{place[-1]}x"] = holder.pop(place[-1])
        yield wrong


def ways(document: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """How to get to everything in it."""
    steps = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for step, inside in steps:
        yield (*so_far, step)
        yield from ways(inside, (*so_far, step))
