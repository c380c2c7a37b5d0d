"""What is installed is locked: every package by its hashes, and nothing says where it is to come from."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {"runtime": ("dependencies",), "dev": ("dependencies", "dev"), "bootstrap": ("bootstrap",)}


def locked(name: str) -> dict[str, str]:
    """The lines of a lock by package; continued lines are joined."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", "")
    return {line.partition("==")[0]: line for line in text.splitlines() if line.strip()}


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_a_version_with_its_hashes_and_no_address(name: str) -> None:
    for line in locked(name).values():
        assert re.fullmatch(r"[a-z0-9._-]+==[^\s;]+( ; [^-]*)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", line), line


@pytest.mark.parametrize("name", LOCKS)
def test_every_version_that_is_asked_for_is_the_one_that_is_locked(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    inputs = {"dependencies": project["project"]["dependencies"], **project["dependency-groups"]}
    lines = locked(name)
    for asked in (one for group in LOCKS[name] for one in inputs[group]):
        package, _, version = re.sub(r"\[.*?\]", "", asked).partition("==")
        wanted = f"{package}=={version} " if version else f"{package}=="  # a few ask for no version
        assert lines[package].startswith(wanted), asked


def test_the_project_is_built_by_what_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for asked in project["build-system"]["requires"]:
        assert locked("bootstrap")[asked.partition("==")[0]].startswith(f"{asked} ")
