"""What must not come back: see `GroupOffsets`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = {"services/replay/plan.py", "services/stack/provision.py"}  # run once, and are run again when they die


def test_nobody_who_outlives_a_broker_asks_for_committed_offsets_by_the_admin_client() -> None:
    files = [file for folder in ("services", "lab", "loadtest") for file in (ROOT / folder).rglob("*.py")]
    asking = {str(file.relative_to(ROOT)) for file in files if "list_consumer_group_offsets" in file.read_text()}
    assert asking == COMMANDS
