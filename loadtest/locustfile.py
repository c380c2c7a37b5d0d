"""Locust's side of the load: its options, its page, and one user who carries the plan out.

Runs in a process of its own: importing Locust patches the standard library, so it comes first.
"""

from locust import FastHttpUser, events, task  # isort: skip
from locust.exception import StopUser  # isort: skip

import os
import time
from pathlib import Path
from typing import Any, Final

import gevent
import msgspec

from loadtest.dispatch import Dispatcher
from loadtest.faults import send_and_give_up
from loadtest.ledger import Answer, Ledger, ledger_file
from loadtest.plan import Plan, Request, checked, default_run
from loadtest.shapes import Phase
from loadtest.totals import Totals, snapshot_file, write_snapshot
from services.domain.arms import PUBLISHER_ARMS
from services.domain.messages import EFFECTS_HEADER, ORDERS, RUN_HEADER

_MOST_IN_FLIGHT: Final = 2_000
_LEAST_IN_FLIGHT: Final = 100
_SECONDS_IN_FLIGHT: Final = 10  # an outage of the producers this long is bridged by retries, nothing is left out

OPTIONS: Final = (
    ("rate", float, 50.0, "requests a second"),
    ("duration_s", float, 60.0, "length of the load in seconds"),
    ("seed", int, 1, "seed of the plan"),
    ("run", str, "", "run id; empty: made from the time and the seed"),
    ("effects_share", str, "", "share of messages with charge and email; empty: by the rate"),
    ("refunds_share", float, 0.1, "share of refunds"),
    ("timeout_share", float, 0.01, "share of requests whose client gives up before the answer"),
    ("reset_share", float, 0.01, "share of requests whose client resets the connection"),
    ("customers", int, 500, "how many customers there are"),
    ("skew", float, 2.0, "how much oftener the first customers order; 1: not at all"),
    ("phases", str, "", "JSON: phases of the load, instead of rate and duration"),
    ("in_flight", int, 0, "how many requests may be under way; 0: ten seconds of the rate"),
    ("orders", str, "http://127.0.0.1:21020", "base URL of the orders service; empty: not of this load"),
    ("refunds", str, "http://127.0.0.1:21021", "base URL of the refunds service"),
    ("publishers", str, "", "base URLs of other publisher arms' orders services: arm=URL, with commas"),
)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    """`--rate` or LAB_LOAD_RATE, and so on; Locust's page shows them as fields."""
    for name, type_, default, help_ in OPTIONS:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, env_var=f"LAB_LOAD_{name.upper()}", type=type_, default=default, help=help_)


def plan_of(options: Any, home: Path) -> Plan:
    """The plan that the options name; a run id that has a ledger already (a second start on the page) is made anew.

    Raises ValueError that names the option which is not possible.
    """
    taken = not options.run or ledger_file(home, options.run).exists()
    plan = Plan(
        run=default_run(options.seed) if taken else options.run,
        seed=options.seed,
        rate=options.rate,
        duration_s=options.duration_s,
        effects_share=float(options.effects_share) if options.effects_share else None,
        refunds_share=options.refunds_share,
        timeout_share=options.timeout_share,
        reset_share=options.reset_share,
        customers=options.customers,
        skew=options.skew,
        phases=msgspec.json.decode(options.phases or "[]", type=tuple[Phase, ...]),
    )
    return checked(plan)


def bound_in_flight(asked: int, rate: float) -> int:
    """How many requests may be under way at once."""
    wanted = asked or max(_LEAST_IN_FLIGHT, int(_SECONDS_IN_FLIGHT * rate))
    return max(1, min(_MOST_IN_FLIGHT, wanted))


def of_other_arms(text: str) -> dict[str, str]:
    """The base URLs in `arm=URL,arm=URL`, by the process that they lead to. Raises KeyError for an unknown arm."""
    pairs = (word.partition("=") for word in text.split(",") if word)
    return {PUBLISHER_ARMS[arm].producer(ORDERS): url for arm, _, url in pairs}


class Client(FastHttpUser):  # type: ignore[misc]
    """The one user: it sends the whole plan. How many users the page asks for changes nothing."""

    fixed_count = 1
    host = "from the options"
    network_timeout = 5.0
    connection_timeout = 2.0
    concurrency = _MOST_IN_FLIGHT

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        options = environment.parsed_options
        self._home = Path(os.environ.get("LAB_HOME", ".lab"))
        self._urls = {**of_other_arms(options.publishers), "orders": options.orders, "refunds": options.refunds}
        self._plan = plan_of(options, self._home)
        self._ledger = Ledger(ledger_file(self._home, self._plan.run), self._plan.run)
        self._totals = Totals(self._plan)
        in_flight = bound_in_flight(options.in_flight, self._plan.peak)
        arms = [name for name, arm in PUBLISHER_ARMS.items() if self._urls.get(arm.producer(ORDERS))]
        self._dispatcher = Dispatcher(
            self._plan, self._ledger, self._totals, self._send, arms=arms, in_flight=in_flight
        )  # fmt: skip

    @task  # type: ignore[untyped-decorator]
    def carry_out_the_plan(self) -> None:
        """Everything that this user ever does; the test is over when it is done."""
        reporter = gevent.spawn(self._report_every_second)
        carried_out = False
        try:
            carried_out = self._dispatcher.run()
        finally:
            reporter.kill()
            self._report(carried_out=carried_out)
            self._ledger.close()
        if carried_out:
            self._end_the_test()
        raise StopUser

    def stop(self, force: bool = False) -> bool:
        """Locust's stop: what is in flight gets a moment, the rest of the plan is not sent."""
        self._dispatcher.stop()
        return bool(super().stop(force))

    def _end_the_test(self) -> None:
        self.environment.process_exit_code = 0  # unknown and refused requests are results, not errors of the load
        runner = self.environment.runner
        gevent.spawn(runner.quit if self.environment.parsed_options.headless else runner.stop)

    def _report_every_second(self) -> None:
        while True:
            self._report()
            gevent.sleep(1)

    def _report(self, *, carried_out: bool = False) -> None:
        file = snapshot_file(self._home, self._plan.run)
        write_snapshot(file, self._totals.snapshot(carried_out=carried_out))

    def _send(self, request: Request, arm: str, attempt: int) -> Answer:
        url = self._urls[PUBLISHER_ARMS[arm].producer(request.kind)] + request.kind.path
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": request.key,
            RUN_HEADER: self._plan.run,
            EFFECTS_HEADER: ",".join(request.effects),
        }
        body = msgspec.json.encode(request.payload)
        if attempt == 1 and request.fault != "none":
            return self._give_up(request, url, headers, body)
        with self.client.post(
            url, data=body, headers=headers, name=request.kind.path, catch_response=True, allow_redirects=False
        ) as response:
            if not response.status_code:
                return Answer()
            replayed = response.headers.get("Idempotent-Replayed") == "true"
            return Answer(response.status_code, replayed, "Retry-After" in response.headers)

    def _give_up(self, request: Request, url: str, headers: dict[str, str], body: bytes) -> Answer:
        begun = time.perf_counter()
        seen: Exception = TimeoutError(f"injected: {request.fault}")
        try:
            send_and_give_up(request.fault, url, headers, body)
        except OSError as error:
            seen = error
        self.environment.events.request.fire(
            request_type="POST", name=f"{request.kind.path} ({request.fault})", response_length=0, exception=seen,
            response_time=(time.perf_counter() - begun) * 1000, context={}, url=url,
        )  # fmt: skip
        return Answer()
