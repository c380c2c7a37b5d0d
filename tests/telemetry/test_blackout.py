"""The trace store and Prometheus away under load, in short; `make blackout` is the long form."""

import sys

from loadtest.blackout import black_out
from tests.conftest import Lab


async def test_without_trace_store_and_prometheus_nothing_is_slower_or_grows_and_data_comes_again(lab: Lab) -> None:
    lab.until(lambda: all(process["ready"] for process in lab.status().values()), "every process to be ready")
    seen = await black_out(
        lab.home, rate=20, calm_s=6, dark_s=10, recovery_s=180, say=lambda text: print(text, file=sys.stderr)
    )
    # so short, a machine that is slow for some seconds weighs; who waits for an exporter would come near nothing
    assert seen.holds(slower=0.2), seen
