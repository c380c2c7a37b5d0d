"""Alertmanager: the committed configuration with this lab's console as the receiver."""

from pathlib import Path
from typing import Final

from services.stack.debian import ALERTMANAGER
from services.stack.home import Home
from services.stack.parts import PARTS

GENERATED: Final = Path(__file__).parents[2] / "dashboards" / "generated"
CONSOLE: Final = "http://127.0.0.1:21030"  # where the committed files say that the console is


def with_console(file: str, url: str) -> str:
    """A committed file with another address of the console."""
    return (GENERATED / file).read_text().replace(CONSOLE, url)


def write_configuration(home: Home) -> None:
    """Write what the lab's Alertmanager reads when it starts."""
    url = home.http_url(PARTS["console"])
    (home.run / "alertmanager.yml").write_text(with_console("alertmanager.yml", url))


def command(home: Home) -> list[str]:
    """The server's command line: bound to this machine, alone (no cluster)."""
    return [
        *ALERTMANAGER.command(),
        f"--config.file={home.run / 'alertmanager.yml'}",
        f"--storage.path={home.data / 'alertmanager'}",
        f"--web.listen-address={home.bind}:{home.port(PARTS['alertmanager'].port)}",
        "--cluster.listen-address=",
        "--data.retention=24h",
        "--log.level=warn",
    ]
