"""What the containers need beyond the table: secrets that nobody commits, and the addresses that Prometheus reads.

`python -m services.stack.compose secrets FOLDER` is the first container of `docker compose up`;
`python -m services.stack.compose prometheus` (or `alertmanager`) prints what is committed as deploy/prometheus.yml.
"""

import os
import secrets
import sys
from pathlib import Path
from typing import Final

from services.domain.arms import DEFAULT_PUBLISHER
from services.stack import alertmanager, postgres, prometheus
from services.stack.home import COMPOSE, Home
from services.stack.parts import PARTS, SUPERVISOR_PORT

PORT_BASE: Final = 21000  # a container has its ports for itself, so they are never moved
# The lab as its containers see it; without PUBLISHERS, a scenario wants the profile `publishers`.
HOME: Final = Home(Path("/lab"), PORT_BASE, "0.0.0.0", COMPOSE, Path("/run/lab"))  # noqa: S104
PUBLISHERS: Final = (DEFAULT_PUBLISHER, "dual_write_after_commit")
USAGE: Final = "usage: python -m services.stack.compose secrets FOLDER | prometheus | alertmanager"


def draw_secrets(folder: Path) -> None:
    """Draw the lab's token and the databases' password, once a folder.

    The password is written in the two forms in which it is read:
    `password` for the Postgres image (POSTGRES_PASSWORD_FILE), which has another user id: the volume is what keeps it.
    `pgpass` for every client that speaks libpq's PGPASSFILE, which refuses a file that others may read.
    """
    Home(folder, PORT_BASE, secret_folder=folder).secret("token")
    password = folder / "password"
    if not password.exists():
        _write(password, secrets.token_urlsafe(24), 0o444)
    # Anew each time: an end between the two files is mended by the next start.
    users = (postgres.USER, "reader")
    _write(folder / "pgpass", "".join(f"*:*:*:{user}:{password.read_text()}\n" for user in users), 0o600)


def _write(file: Path, text: str, mode: int) -> None:
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as drawn:
        drawn.write(text)
        drawn.flush()
        os.fsync(drawn.fileno())
    part.chmod(mode)
    part.replace(file)


def at(part: str) -> str:
    """Where a container is, for another one."""
    return HOME.at(part, PARTS[part].port)


def main(arguments: list[str]) -> None:
    """Do what the command line says. Exit code 2 when it says nothing known."""
    match arguments:
        case ["secrets", folder]:
            draw_secrets(Path(folder))
        case ["prometheus"]:
            sys.stdout.write(prometheus.asking(HOME.at("supervisor", SUPERVISOR_PORT), at("alertmanager")))
        case ["alertmanager"]:
            sys.stdout.write(alertmanager.with_console("alertmanager.yml", f"http://{at('console')}"))
        case _:
            sys.stderr.write(f"{USAGE}\n")
            sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
