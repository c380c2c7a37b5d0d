"""The lab of the tests that kill arms and publishers: it needs neither boards nor alerts."""

from collections.abc import Iterator

import pytest

from loadtest.crash.__main__ import parts
from tests.conftest import Lab, free_home, running


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Every arm of both kinds."""
    with running(free_home(tmp_path_factory.mktemp("arms")), "--only", ",".join(parts())) as started:
        yield started
