"""Where an audit puts its files: gone with the audit, and what a killed one left goes with the next."""

import signal
import subprocess
import sys
from pathlib import Path

from services.auditor.workplace import workplace

HOLDS = """
import signal, sys
from pathlib import Path
from services.auditor.workplace import workplace
with workplace(Path(sys.argv[1])) as place:
    (place / "beyond").write_bytes(b"1")
    print(place.name, flush=True)
    signal.pause()
"""


def folders(home: Path) -> set[str]:
    return {place.name for place in home.iterdir() if place.is_dir()}


def test_an_audit_leaves_nothing_behind(tmp_path: Path) -> None:
    with workplace(tmp_path / "home") as place:
        (place / "beyond").write_bytes(b"1")
        assert folders(tmp_path / "home") == {place.name}
    assert folders(tmp_path / "home") == set()


def test_what_a_killed_audit_left_is_removed_and_what_another_uses_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        with workplace(tmp_path) as place:
            assert folders(tmp_path) == {name, place.name}
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert folders(tmp_path) == {name, place.name}
            with workplace(tmp_path) as later:
                assert folders(tmp_path) == {place.name, later.name}
