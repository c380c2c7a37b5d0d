"""What must not come back: see `GroupOffsets`."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nobody_asks_for_committed_offsets_by_the_admin_client() -> None:
    files = [file for folder in ("services", "lab", "loadtest") for file in (ROOT / folder).rglob("*.py")]
    asking = [file for file in files if "list_consumer_group_offsets" in file.read_text()]
    assert not asking
