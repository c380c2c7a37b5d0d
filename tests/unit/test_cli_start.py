"""Every command of the lab starts as fast as its imports: what only one command needs is not imported by all."""

import subprocess
import sys

HEAVY = ("aiohttp", "faust", "duckdb", "locust", "opentelemetry", "requests", "starlette")


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, lab.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
