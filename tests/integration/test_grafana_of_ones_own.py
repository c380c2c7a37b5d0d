"""`LAB_GRAFANA`: a stand-in for Grafana's binary, since none can be had here, is started as the real one would be."""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import generate
from services.stack import control, grafana
from services.stack.errors import StackError
from services.stack.launch import order_of_start
from services.stack.parts import PARTS, UnknownPart
from tests.conftest import Lab, free_home, say
from tests.waiting import comes

# Answers as Grafana does to a health check, and with what it was started with.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        told = {{"arguments": sys.argv[1:], **{{k: v for k, v in os.environ.items() if k.startswith("GF_")}}}}
        body = json.dumps(told if self.path == "/told" else {{"database": "ok"}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer((os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"])), Answer).serve_forever()
"""


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as Grafana's archive has it."""
    file = tmp_path / "grafana" / "bin" / "grafana"
    file.parent.mkdir(parents=True)
    file.write_text(STAND_IN)
    file.chmod(0o755)
    defaults = tmp_path / "grafana" / "conf" / "defaults.ini"
    defaults.parent.mkdir()
    defaults.touch()
    monkeypatch.setenv(grafana.SETTING, str(file))
    return file


def asked(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  # our own
        return json.load(answer)


def test_lab_up_starts_it_with_this_labs_sources_and_lab_down_ends_it(tmp_path: Path, binary: Path) -> None:
    home = free_home(tmp_path / "lab")
    control.up(home, faults=False, seed=1, only=("ledger",), guests=grafana.wanted(), say=say)
    try:
        lab = Lab(home)
        assert lab.status()["grafana"]["ready"]
        url = home.urls()["grafana"]
        told = asked(f"{url}/told")
    finally:
        control.down(home, say)
    assert not comes(lambda: _answers(url), 0)
    data = f"cfg:paths.data={home.data}/grafana"
    assert told["arguments"] == ["server", "--homepath", str(binary.parents[1]), data]
    assert told["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    secret = Path(told["GF_SECURITY_ADMIN_PASSWORD__FILE"])
    assert len(secret.read_text()) >= 24
    assert secret.stat().st_mode & 0o077 == 0
    provisioning = Path(told["GF_PATHS_PROVISIONING"])
    sources = {one["uid"]: one for one in read(provisioning / "datasources" / "lab.yml")["datasources"]}
    assert {uid: source["url"] for uid, source in sources.items()} == {
        "prometheus": home.http_url(PARTS["prometheus"]),
        "alertmanager": home.http_url(PARTS["alertmanager"]),
        "auditor": home.at("ledger", PARTS["ledger"].port),
        "zipkin": home.http_url(PARTS["zipkin"]),
    }
    password = sources["auditor"]["secureJsonData"]["password"]
    assert Path(password.removeprefix("$__file{").removesuffix("}")).read_text() == home.secret("postgres")
    (provider,) = read(provisioning / "dashboards" / "lab.yml")["providers"]
    boards = {file.name for file in Path(provider["options"]["path"]).glob("lab-*.json")}
    assert boards == {name for name in generate.files() if name.startswith("lab-")}
    assert Path(told["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).name in boards


def _answers(url: str) -> bool:
    try:
        return bool(asked(f"{url}/api/health"))
    except OSError:
        return False


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def test_the_container_is_told_the_same() -> None:
    compose = read(Path(__file__).parents[2] / "docker-compose.yml")["services"]["grafana"]["environment"]
    assert grafana.ENVIRONMENT.items() <= compose.items()


def test_without_the_setting_there_is_none_and_a_wrong_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(grafana.SETTING, raising=False)
    assert grafana.find() is None
    monkeypatch.setenv(grafana.SETTING, str(tmp_path / "no" / "grafana"))
    lab = Lab(free_home(tmp_path / "lab"))
    for command in ("up", "doctor"):
        done = lab.run(command)
        assert done.returncode == 1
        assert f"LAB_GRAFANA={tmp_path}/no/grafana is no program" in done.stderr + done.stdout
    with pytest.raises(StackError):
        grafana.wanted()
    assert lab.home.read_state() is None


def test_a_lab_that_is_up_without_it_says_so_and_it_is_no_part(tmp_path: Path, binary: Path) -> None:
    home, said = free_home(tmp_path / "lab"), list[str]()
    control.up(home, faults=False, seed=1, only=("ledger",), say=say)
    try:
        control.up(home, faults=False, seed=1, only=("ledger",), guests=grafana.wanted(), say=said.append)
        assert any("it is up without grafana" in text for text in said)
    finally:
        control.down(home, say)
    with pytest.raises(UnknownPart, match="beside a lab"):
        order_of_start(("grafana",))
