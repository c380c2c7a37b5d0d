"""Grafana's provisioning and the stores beside it: files that agree with the boards and with docker-compose.yml."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from dashboards import generate
from services.settings import Settings

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
