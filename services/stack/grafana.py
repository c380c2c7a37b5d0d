"""A Grafana of one's own: where LAB_GRAFANA names its binary, `lab up` starts it with the provisioning of compose.

The sources are those of the committed file with this lab's addresses. Tempo and Loki are of the compose stack alone:
here traces lie in Zipkin, and logs in files.
"""

import os
from pathlib import Path
from typing import Final

from services.stack.errors import StackError
from services.stack.home import Home
from services.stack.parts import GUESTS, PARTS

ROOT: Final = Path(__file__).parents[2]
BOARDS: Final = ROOT / "dashboards" / "generated"
PROVISIONING: Final = ROOT / "deploy" / "grafana"
SETTING: Final = "LAB_GRAFANA"
# What the container is told, too. A test holds both to it.
ENVIRONMENT: Final = {
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_USERS_ALLOW_SIGN_UP": "false",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_DASHBOARDS_MIN_REFRESH_INTERVAL": "1s",
    "GF_UNIFIED_ALERTING_ENABLED": "true",
}
_HOME_BOARD: Final = "lab-overview.json"
_ONLY_IN_COMPOSE: Final = "  - name: Tempo\n"  # and what follows
_ZIPKIN: Final = """  - name: Zipkin
    uid: zipkin
    type: zipkin
    access: proxy
    url: {url}
"""
_PACKAGED: Final = Path("/usr/share/grafana")


def find() -> Path | None:
    """The binary that LAB_GRAFANA names, if it names one. Raises StackError when there is none."""
    named = os.environ.get(SETTING, "")
    if not named:
        return None
    binary = Path(named).resolve()
    if not binary.is_file() or not os.access(binary, os.X_OK):
        raise StackError(f"{SETTING}={named} is no program: name Grafana's binary (bin/grafana), or unset it")
    return binary


def wanted() -> tuple[str, ...]:
    """The guest to start with a lab, if there is one. Raises StackError like `find`."""
    return ("grafana",) if find() is not None else ()


def write_configuration(home: Home) -> None:
    """Write what this lab's Grafana is provisioned from."""
    folder = _folder(home)
    for name in ("datasources", "dashboards"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        text = (PROVISIONING / name / "lab.yml").read_text()
        for said_to_the_container, here in _here(home).items():
            text = text.replace(said_to_the_container, here)
        (folder / name / "lab.yml").write_text(text)


def _here(home: Home) -> dict[str, str]:
    """What the committed files say, and what this lab's must say instead. Traces are the last of the sources."""
    ledger, zipkin = PARTS["ledger"], home.http_url(PARTS["zipkin"])
    home.secret("postgres")  # drawn, if it is not yet
    committed = (PROVISIONING / "datasources" / "lab.yml").read_text()
    return {
        committed[committed.index(_ONLY_IN_COMPOSE) :]: _ZIPKIN.format(url=zipkin),
        "datasourceUid: tempo": "datasourceUid: zipkin",
        "http://prometheus:21010": home.http_url(PARTS["prometheus"]),
        "http://alertmanager:21011": home.http_url(PARTS["alertmanager"]),
        "ledger:21004": home.at(ledger.name, ledger.port),
        "/run/lab/password": str(home.run / "postgres.secret"),
        "/etc/lab/boards": str(BOARDS),
    }


def command(home: Home, binary: Path) -> list[str]:
    """The server's command line; its own files lie beside the binary, or where packages put them.

    The data folder stands there, too, so that what a killed supervisor left behind is known by it.
    """
    beside = binary.parent.parent
    own = beside if (beside / "conf" / "defaults.ini").exists() else _PACKAGED
    return [str(binary), "server", "--homepath", str(own), f"cfg:paths.data={_data(home)}"]


def environment(home: Home) -> dict[str, str]:
    """Its settings: on this machine alone, for looking; the admin's password is drawn (run/grafana.secret)."""
    home.secret("grafana")
    port = home.port(GUESTS["grafana"].port)
    return {
        **ENVIRONMENT,
        "GF_SERVER_HTTP_ADDR": home.bind,
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_SERVER_ROOT_URL": f"http://{home.bind}:{port}",
        "GF_SECURITY_ADMIN_PASSWORD__FILE": str(home.run / "grafana.secret"),
        "GF_PATHS_LOGS": str(_data(home) / "log"),
        "GF_PATHS_PLUGINS": str(_data(home) / "plugins"),
        "GF_PATHS_PROVISIONING": str(_folder(home)),
        "GF_LOG_MODE": "console",
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": str(BOARDS / _HOME_BOARD),
    }


def _data(home: Home) -> Path:
    return home.data / "grafana"


def _folder(home: Home) -> Path:
    return home.run / "grafana"
