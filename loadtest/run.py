"""Starting a load and watching it: Locust as a child process against a running lab."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from loadtest.ledger import ledger_file
from loadtest.plan import Plan, checked, default_run
from loadtest.totals import Snapshot, read_snapshot, snapshot_file, start_of
from services.domain.arms import DEFAULT_PUBLISHER, PUBLISHER_ARMS
from services.domain.messages import ORDERS, REFUNDS
from services.stack.client import NotUp, status
from services.stack.home import Home
from services.stack.spawn import child_setup

WEB_PORT: Final = 31  # offset from LAB_PORT_BASE
_STOP_TIMEOUT_S: Final = 60.0  # killed earlier, on a machine that stands still, it would leave no last totals
_LOCUSTFILE: Final = Path(__file__).parent / "locustfile.py"


class Load:
    """A load under way."""

    def __init__(self, process: subprocess.Popen[bytes], plan: Plan, home: Home) -> None:
        self.plan = plan
        self._process = process
        self._file = snapshot_file(home.path, plan.run)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Locust's exit code, or None while it runs."""
        return self._process.poll()

    def snapshot(self) -> Snapshot:
        """The totals, at most a second old; the last ones when it has ended."""
        return read_snapshot(self._file) or start_of(self.plan)

    def wait(self, timeout_s: float | None = None) -> Snapshot:
        """Wait until Locust has ended. Raises subprocess.TimeoutExpired."""
        self._process.wait(timeout_s)
        return self.snapshot()

    def stop(self) -> Snapshot:
        """End the load: what is in flight gets a moment. Nothing happens when it has ended."""
        self._process.terminate()
        try:
            return self.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self.wait()


def plan_for(
    home: Home, *, rate: float, duration_s: float, seed: int | None = None, run: str | None = None
) -> Plan:  # fmt: skip
    """The plan of a new run; a seed and a run id that are not given are drawn.

    Raises ValueError when a value is not possible, or when the run has a ledger already.
    """
    chosen = secrets.randbelow(10**6) if seed is None else seed
    plan = checked(Plan(run=run or default_run(chosen), seed=chosen, rate=rate, duration_s=duration_s))
    if ledger_file(home.path, plan.run).exists():
        raise ValueError(f"the run {plan.run} has a ledger already: name another")
    return plan


def start(
    home: Home, rate: float, duration_s: float, seed: int | None = None, run: str | None = None, *, web: bool = False
) -> Load:
    """Start a load against the running lab. It ends with the thread that started it.

    Raises ValueError as `plan_for` does, NotUp when the lab is not up.
    """
    plan = plan_for(home, rate=rate, duration_s=duration_s, seed=seed, run=run)
    urls = status(home)["urls"]
    if not any(arm.producer(ORDERS) in urls for arm in PUBLISHER_ARMS.values()):
        raise NotUp("the lab is not up, or without its producers: start it with `lab up`")
    if REFUNDS.name not in urls:
        plan = msgspec.structs.replace(plan, refunds_share=0.0)
    return start_plan(home, plan, urls, web=web)


def start_plan(home: Home, plan: Plan, urls: Mapping[str, str], *, web: bool = False) -> Load:
    """Start a load of this plan against the producers at these base URLs (`orders`, `refunds`, `orders.cdc`...)."""
    home.create()
    with (home.logs / "load.log").open("ab") as log:
        process = subprocess.Popen(
            _command(home, web=web),
            env=_environment(home, plan, urls),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=child_setup(signal.SIGTERM),  # noqa: PLW1509  # takes no lock, imports nothing
        )
    return Load(process, plan, home)


def _command(home: Home, *, web: bool) -> list[str]:
    page = ["--autostart", "--web-host", home.bind, "--web-port", str(home.port(WEB_PORT))]
    settings = ["--users", "1", "--spawn-rate", "1", "--stop-timeout", "5", "--only-summary", "--loglevel", "WARNING"]
    return [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), *(page if web else ["--headless"]), *settings]


def _environment(home: Home, plan: Plan, urls: Mapping[str, str]) -> dict[str, str]:
    others = {name: url for name, arm in PUBLISHER_ARMS.items() if (url := urls.get(arm.producer(ORDERS)))}
    others.pop(DEFAULT_PUBLISHER, None)
    values = {
        **msgspec.structs.asdict(plan),
        "phases": msgspec.json.encode(plan.phases).decode() if plan.phases else "",
        "orders": urls.get(ORDERS.name, ""),
        "refunds": urls.get(REFUNDS.name, ""),
        "publishers": ",".join(f"{name}={url}" for name, url in others.items()),
    }
    options = {f"LAB_LOAD_{name.upper()}": str(value) for name, value in values.items() if value is not None}
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "LAB_HOME": str(home.path), **options}
