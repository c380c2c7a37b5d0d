"""`python -m dashboards.generate` writes generated/ anew; a test fails when it is out of date."""

import json
from pathlib import Path
from typing import Final

import yaml

from dashboards import rules
from dashboards.alertmanager import CONFIGURATION
from dashboards.boards import BOARDS
from dashboards.profiles import PROFILES

GENERATED: Final = Path(__file__).parent / "generated"


def files() -> dict[str, str]:
    """What generated/ holds: text by file name."""
    boards = [make() for make in BOARDS]
    return {
        **{f"{board['uid']}.json": json.dumps(board, indent=1, sort_keys=True) + "\n" for board in boards},
        **{f"rules-{profile.name}.yml": _yaml(rules.group(profile)) for profile in PROFILES},
        "alertmanager.yml": _yaml(CONFIGURATION),
    }


def _yaml(document: object) -> str:
    head = "# Made by `make boards` from dashboards/*.py.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=1000, allow_unicode=True)


def main() -> None:
    """Write the files, and remove what is no longer made."""
    made = files()
    for stale in GENERATED.iterdir():
        if stale.name not in made:
            stale.unlink()
    for name, text in made.items():
        (GENERATED / name).write_text(text)


if __name__ == "__main__":
    main()
