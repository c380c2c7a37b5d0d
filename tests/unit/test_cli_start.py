"""Every command of the lab starts as fast as its imports: what only one command needs is not imported by all."""

import subprocess
import sys

import pytest

HEAVY = ("aiohttp", "faust", "duckdb", "locust", "opentelemetry", "requests", "starlette")


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, lab.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("library", ["typer", "asyncpg", "confluent_kafka", "psutil"])
def test_a_missing_library_is_said_in_one_sentence(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import lab.main"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"the library {library} is missing in {sys.prefix}: run `make setup`\n"
