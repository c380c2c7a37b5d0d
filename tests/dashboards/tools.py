"""Prometheus's and Alertmanager's own tools, from the packages that the lab unpacks."""

import subprocess
from pathlib import Path

import pytest

from services.stack import jars
from services.stack.debian import ALERTMANAGER, PROMETHEUS, Package


def tool(name: str) -> Path:
    """`promtool` or `amtool`; the test is skipped where there is no such package."""
    package = PROMETHEUS if name == "promtool" else ALERTMANAGER
    found = package.find(name) or _install(package, name)
    if found is None:
        pytest.skip(package.how_to)
    return found


def _install(package: Package, name: str) -> Path | None:
    with jars.cache_lock(lambda _: None):
        if package.find(name) is None and package.can_install():
            package.install()
    return package.find(name)


def run(name: str, *arguments: str | Path) -> str:
    """What the tool says; fails the test with it when it is not content."""
    command = [str(tool(name)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
