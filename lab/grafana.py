"""A Grafana somewhere: boards pushed and compared, fault windows posted as annotations, by its published API."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
import requests
from grafana_api.grafana_api import GrafanaException
from grafana_api.grafana_face import GrafanaFace

from services.stack.nemesis import Fault

GENERATED: Final = Path(__file__).parents[1] / "dashboards" / "generated"
CONSOLE: Final = "http://127.0.0.1:21030"  # where the committed boards say that runbooks are
FOLDER: Final = "delivery-lab"
TAGS: Final = ("delivery-lab", "fault")
SOURCES: Final = ("prometheus", "auditor")
MOST: Final = 5_000  # annotations read at once

Board = dict[str, Any]
State = Literal["same", "differs", "missing"]


class Unavailable(Exception):
    """Grafana did not answer, or refused; the message says what."""


class Target(msgspec.Struct, frozen=True):
    """A Grafana: where it is, who asks, and under which uid it has the two data sources of the boards."""

    url: str
    token: str = ""
    user: str = ""  # user:password, where there is no token
    console: str = CONSOLE
    sources: Mapping[str, str] = {}


def boards(target: Target) -> Iterator[Board]:
    """The committed boards as this Grafana shall have them."""
    for file in sorted(GENERATED.glob("lab-*.json")):
        text = file.read_text().replace(CONSOLE, target.console.rstrip("/"))
        board: Board = json.loads(text)
        for holder in [board, *board["panels"]]:
            for asked in holder.get("targets", ()):
                source = asked["datasource"]
                source["uid"] = target.sources.get(source["uid"], source["uid"])
        yield board


class Grafana:
    """Calls to one Grafana. Every method raises Unavailable."""

    def __init__(self, target: Target) -> None:
        place = urlsplit(target.url)
        if place.scheme not in ("http", "https") or not place.hostname:
            raise Unavailable(f"{target.url!r} is no address of a Grafana: say http://HOST:PORT")
        name, _, password = target.user.partition(":")
        prefix = place.path.strip("/")
        self._target = target
        self._api = GrafanaFace(
            auth=target.token or (name, password),
            host=place.hostname,
            port=place.port,
            protocol=place.scheme,
            url_path_prefix=f"{prefix}/" if prefix else "",
        )

    def push(self) -> list[str]:
        """Make or replace the boards, in their folder; returns their titles."""
        self._require_sources()
        folder = self._folder()
        pushed = []
        for board in boards(self._target):
            document = {"dashboard": board, "folderUid": folder, "overwrite": True, "message": "lab dashboards push"}
            self._call(lambda document=document: self._api.dashboard.update_dashboard(document))
            pushed.append(board["title"])
        return pushed

    def check(self) -> dict[str, State]:
        """Of each board, by title: whether this Grafana has what is committed."""
        return {board["title"]: self._state(board) for board in boards(self._target)}

    def annotated(self) -> dict[str, tuple[int, bool]]:
        """Of each fault that is posted, by its id: the annotation's id, and whether its end is known."""
        found = self._call(lambda: self._api.annotations.get_annotation(tags=list(TAGS), limit=MOST))
        known = {}
        for note in found:
            for tag in note["tags"]:
                if tag.startswith("id:"):
                    known[tag.removeprefix("id:")] = (note["id"], note.get("timeEnd", 0) > note["time"])
        return known

    def annotate(self, fault: Fault, annotation: int | None = None) -> int:
        """Post a fault's window, or tell an annotation its end; returns the annotation's id."""
        began = round(1000 * fault.started)
        ended = round(1000 * (fault.ended or fault.started))
        point = fault.details.get("failpoint")
        text = f"{fault.fault} {fault.target}" + (f" at {point}" if point else "")
        said = {"time_from": began, "time_to": ended, "tags": [*TAGS, fault.fault, f"id:{fault.id}"], "text": text}
        if annotation is not None:
            self._call(lambda: self._api.annotations.update_annotation(annotation, **said))
            return annotation
        made: int = self._call(lambda: self._api.annotations.add_annotation(**said))["id"]
        return made

    def _state(self, board: Board) -> State:
        try:
            found = self._api.dashboard.get_dashboard(board["uid"])["dashboard"]
        except GrafanaException as error:
            if error.status_code == 404:
                return "missing"
            raise Unavailable(str(error)) from error
        except requests.RequestException as error:
            raise Unavailable(str(error)) from error
        own = {key: value for key, value in found.items() if key not in ("id", "version")}
        return "same" if own == board else "differs"

    def _require_sources(self) -> None:
        there = {source["uid"] for source in self._call(self._api.datasource.list_datasources)}
        wanted = {self._target.sources.get(name, name): name for name in SOURCES}
        if lacking := [name for uid, name in wanted.items() if uid not in there]:
            raise Unavailable(
                f"this Grafana has no data source {', '.join(lacking)}; it has {', '.join(sorted(there)) or 'none'}: "
                "say which is which with --sources prometheus=UID,auditor=UID"
            )

    def _folder(self) -> str:
        folders = self._call(self._api.folder.get_all_folders)
        if not any(folder["uid"] == FOLDER for folder in folders):
            self._call(lambda: self._api.folder.create_folder("Delivery Lab", FOLDER))
        return FOLDER

    @staticmethod
    def _call(call: Any) -> Any:
        try:
            return call()
        except GrafanaException as error:
            raise Unavailable(f"Grafana refuses: {error.message}") from error
        except requests.RequestException as error:
            raise Unavailable(f"Grafana does not answer: {type(error).__name__}") from error


def due(faults: Iterable[Fault], known: Mapping[str, tuple[int, bool]]) -> Iterator[tuple[Fault, int | None]]:
    """Which faults are to be posted, or to be told their end, with the annotation that they have."""
    for fault in faults:
        if fault.fault == "arm":  # armed is not struck
            continue
        annotation, told = known.get(fault.id, (None, False))
        lasted = fault.ended is not None and fault.ended > fault.started
        if annotation is None or (lasted and not told):
            yield fault, annotation
