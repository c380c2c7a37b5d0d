"""What a whole audit takes in, where there is no room for it."""

import subprocess
import sys
from pathlib import Path

# No file of the process may grow beyond 8 MiB: as on a disk that is full, for whoever writes.
FILLS = """
import resource, sys
from pathlib import Path
from services.auditor.bulk import Bulk
from services.auditor.stores import Unreachable
resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, 8 << 20))
place = Path(sys.argv[1]) / "place"
place.mkdir()
bulk = Bulk(place, memory_mb=32, threads=1)
try:
    for number in range(10_000_000):
        bulk.take_call("orders.v1", f"{number * 7919 % 10_000_019:032x}")
except Unreachable as error:
    print(number, error)
"""


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLS, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )  # fmt: skip
    number, _, said = done.stdout.partition(" ")
    assert int(number) > 100_000
    assert said.startswith(f"there is no room in {tmp_path} for what the audit reads: ")
    assert "create directory" not in said
