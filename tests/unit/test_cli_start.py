"""Every command of the lab starts as fast as its imports: what only one command needs is not imported by all."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lab.main import COMMANDS, GROUPS, application

HEAVY = ("aiohttp", "faust", "duckdb", "locust", "opentelemetry", "requests", "starlette")


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, lab.main; lab.main.application(); print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [*COMMANDS, *GROUPS])
def test_a_command_or_group_is_there_by_its_own_word(path: str) -> None:
    word = path.rpartition(".")[2]
    done = CliRunner().invoke(application(word), [word, "--help"])
    assert done.exit_code == 0, done.output
    assert f"Usage: lab {word} " in done.stdout


def test_a_command_does_not_wait_for_the_imports_of_others() -> None:
    code = "import sys, lab.main; lab.main.application('kill')"
    code += "; print('lab.stack' in sys.modules, 'lab.run' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("library", ["typer", "asyncpg", "confluent_kafka", "psutil"])
def test_a_missing_library_is_said_in_one_sentence(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import lab.main; lab.main.run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"the library {library} is missing in {sys.prefix}: run `make setup`\n"
