"""The boards in a Grafana: against a small fake that answers as the published API says."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from typer.testing import CliRunner

from lab.grafana import Grafana, Target, Unavailable, boards, due
from lab.main import application
from services.stack.home import Home
from services.stack.nemesis import Fault
from tests.integration.processes import free_port

TOKEN = "glsa_test"
PASSWORD = "drawn:by-the-lab"
WHO = ("Bearer " + TOKEN, "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode())


class FakeGrafana(ThreadingHTTPServer):
    """Keeps dashboards, folders and annotations; as Grafana, it adds an id and a version to what it stores."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.dashboards: dict[str, dict[str, Any]] = {}
        self.folders: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.sources = ["prometheus", "auditor"]
        self.answers = True  # or it does what it is told, and the connection breaks

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeGrafana

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        if self.headers.get("Authorization") not in WHO:
            return self._answer(401, {"message": "Invalid API key"})
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "null") if length else None
        place = urlsplit(self.path)
        answer = _route(self.server, self.command, place.path, parse_qs(place.query), body)
        if self.server.answers or self.command == "GET":
            return self._answer(*answer)
        self.close_connection = True
        return None

    do_GET = do_POST = do_PUT = _serve

    def _answer(self, status: int, document: Any) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _route(  # noqa: PLR0911  # a route a line
    fake: FakeGrafana, method: str, path: str, query: dict[str, list[str]], body: Any
) -> tuple[int, Any]:  # fmt: skip
    match method, path.removeprefix("/api/").split("/"):
        case "GET", ["datasources"]:
            return 200, [{"uid": uid, "name": uid} for uid in fake.sources]
        case "GET", ["folders"]:
            return 200, fake.folders
        case "POST", ["folders"]:
            fake.folders.append(body)
            return 200, body
        case "POST", ["dashboards", "db"]:
            version = fake.dashboards.get(body["dashboard"]["uid"], {}).get("version", 0) + 1
            fake.dashboards[body["dashboard"]["uid"]] = {**body["dashboard"], "id": 7, "version": version}
            return 200, {"status": "success", "folderUid": body["folderUid"]}
        case "GET", ["dashboards", "uid", uid]:
            found = fake.dashboards.get(uid)
            return (200, {"dashboard": found, "meta": {}}) if found else (404, {"message": "Dashboard not found"})
        case "GET", ["annotations"]:
            return 200, [note for note in fake.annotations if set(query["tags"]) <= set(note["tags"])]
        case "POST", ["annotations"]:
            fake.annotations.append({**body, "id": len(fake.annotations) + 1})
            return 200, {"id": len(fake.annotations), "message": "Annotation added"}
        case "PUT", ["annotations", number]:
            fake.annotations[int(number) - 1] |= body
            return 200, {"message": "Annotation updated"}
    return 404, {"message": "Not found"}


@contextmanager
def serving(port: int = 0) -> Iterator[FakeGrafana]:
    with FakeGrafana(port) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fake() -> Iterator[FakeGrafana]:
    with serving() as server:
        yield server


def lab(*words: str) -> Any:
    return CliRunner().invoke(application(), ["dashboards", *words])


def test_pushed_boards_are_there_and_the_same(fake: FakeGrafana) -> None:
    assert lab("push", "--url", fake.url, "--token", TOKEN).exit_code == 0
    assert set(fake.dashboards) == {board["uid"] for board in boards(Target(fake.url))}
    assert [folder["uid"] for folder in fake.folders] == ["delivery-lab"]
    done = lab("check", "--url", fake.url, "--token", TOKEN, "--json")
    assert done.exit_code == 0
    assert set(json.loads(done.stdout).values()) == {"same"}


def test_pushing_again_makes_no_second_folder(fake: FakeGrafana) -> None:
    for _ in range(2):
        Grafana(Target(fake.url, TOKEN)).push()
    assert len(fake.folders) == 1
    assert {board["version"] for board in fake.dashboards.values()} == {2}


def test_a_board_that_was_edited_by_hand_or_is_missing_is_found(fake: FakeGrafana) -> None:
    Grafana(Target(fake.url, TOKEN)).push()
    fake.dashboards["lab-overview"]["panels"][0]["title"] = "Edited"
    del fake.dashboards["lab-health"]
    done = lab("check", "--url", fake.url, "--token", TOKEN, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["1 · Overview"] == "differs"
    assert found["5 · Lab health"] == "missing"
    assert list(found.values()).count("same") == 3


def test_a_grafana_without_the_data_sources_is_told_apart_from_one_that_calls_them_otherwise(fake: FakeGrafana) -> None:
    fake.sources = ["P1", "auditor"]
    with pytest.raises(Unavailable, match=r"no data source prometheus; it has P1, auditor"):
        Grafana(Target(fake.url, TOKEN)).push()
    Grafana(Target(fake.url, TOKEN, sources={"prometheus": "P1"})).push()
    asked = {target["datasource"]["uid"] for panel in fake.dashboards["lab-overview"]["panels"]
             for target in panel.get("targets", ())}  # fmt: skip
    assert asked == {"P1"}


def test_a_wrong_token_and_a_grafana_that_is_away_are_sentences(fake: FakeGrafana) -> None:
    refused = lab("push", "--url", fake.url, "--token", "wrong")
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    away = lab("check", "--url", "http://127.0.0.1:9", "--token", TOKEN)
    assert away.exit_code == 1
    assert lab("push", "--url", fake.url).exit_code == 2


def fault(number: int, **changed: Any) -> Fault:
    values = {"id": f"f{number}", "fault": "kill", "target": "relay#0", "started": 100.0, "by": "cli", "seed": 1}
    return Fault(**{**values, "details": {}, "ended": None, **changed})


def test_a_fault_is_posted_once_and_its_end_when_it_is_known(fake: FakeGrafana) -> None:
    grafana, still = Grafana(Target(fake.url, TOKEN)), fault(1)
    over, armed = fault(2, ended=104.5, details={"failpoint": "publish.half_batch"}), fault(3, fault="arm")

    def post(*faults: Fault) -> int:
        todo = list(due(faults, grafana.annotated()))
        for one, annotation in todo:
            grafana.annotate(one, annotation)
        return len(todo)

    assert post(still, over, armed) == 2
    assert post(still, over, armed) == 0
    still.ended = 103.0
    assert post(still, over, armed) == 1
    first, second = fake.annotations
    assert (first["time"], first["timeEnd"], first["text"]) == (100_000, 103_000, "kill relay#0")
    assert (second["timeEnd"], second["text"]) == (104_500, "kill relay#0 at publish.half_batch")
    assert "id:f1" in first["tags"]


# --- the annotator of the compose stack: `lab dashboards annotate --follow`


class Follower:
    """The annotator with its pauses filled: at each one, the next step of the test is done; the last one ends it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("LAB_HOME", str(tmp_path))
        monkeypatch.setattr(time, "sleep", self._pause)
        self.pauses: list[float] = []
        self._steps: list[Callable[[], Any]] = []
        self._log = Home(tmp_path, 21000).nemesis_log
        self._log.parent.mkdir()
        self._password = tmp_path / "password"
        self._password.write_text(PASSWORD)

    def strikes(self, *faults: Fault) -> None:
        with self._log.open("ab") as log:
            log.writelines(msgspec.json.encode(one) + b"\n" for one in faults)

    def run(self, port: int, *steps: Callable[[], Any]) -> str:
        """Everything that it says."""
        self._steps = list(steps)
        done = lab(
            "annotate", "--follow", "--url", f"http://127.0.0.1:{port}", "--user", "admin",
            "--password-file", str(self._password),
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert not self._steps
        assert PASSWORD not in done.output
        return str(done.output)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if not self._steps:
            raise KeyboardInterrupt
        self._steps.pop(0)()


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Follower:
    return Follower(monkeypatch, tmp_path)


def test_who_follows_before_grafana_is_there_and_while_it_is_away_posts_each_fault_once(follower: Follower) -> None:
    kept: list[dict[str, Any]] = []  # in Grafana's volume
    seen: list[int] = []
    port, running = free_port(), ExitStack()

    def up() -> None:
        running.enter_context(serving(port)).annotations = kept

    def away() -> None:
        running.close()
        follower.strikes(fault(2, ended=106.0))

    def look() -> None:
        seen.append(len(kept))

    follower.strikes(fault(1, ended=104.0))
    with running:
        said = follower.run(port, look, up, look, away, look, up, look)
    assert seen == [0, 1, 1, 2]
    assert [note["tags"][-1] for note in kept] == ["id:f1", "id:f2"]
    assert said.count("posted:") == 2
    assert "does not answer" in said
    assert follower.pauses[:2] == [4.0, 8.0]  # and never longer than half a minute
    assert max(follower.pauses) <= 30.0


def test_a_post_whose_answer_was_lost_is_not_posted_again_nor_by_an_annotator_that_begins_anew(
    follower: Follower, fake: FakeGrafana
) -> None:
    fake.answers = False
    follower.strikes(fault(1, ended=104.0), fault(2, ended=105.0))
    follower.run(fake.server_port, lambda: None, lambda: setattr(fake, "answers", True), lambda: None)
    follower.run(fake.server_port)
    assert [note["tags"][-1] for note in fake.annotations] == ["id:f1", "id:f2"]


def test_a_password_comes_from_a_file_that_must_be_there(fake: FakeGrafana, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    words = ("push", "--url", fake.url, "--user", "admin", "--password-file")
    assert lab(*words, str(tmp_path / "password")).exit_code == 0
    assert lab(*words, str(tmp_path / "none")).exit_code == 2
