"""The control arm is what the documentation shows: compared as syntax trees, with the names of one for the other's."""

import ast
import inspect
import textwrap

import pytest

from services.payments import stock_faust

OURS = {
    "greetings_topic": "orders_topic",
    "greetings": "orders",
    "greeting": "order",
    "greet": "process",
    "'hello-world'": "'payments.stock_faust'",
    "broker='kafka://localhost:9092'": "broker=f'kafka://{settings.kafka}'",
    "app.topic('orders')": "app.topic('orders.v1', 'refunds.v1')",
    "print(order)": "await apply(order)",
    "value_serializer='raw')": "value_serializer='raw', **_surroundings(settings))",
}
# What may be set beside: where it runs. None of it says when something is acknowledged, committed or tried again.
SURROUNDINGS = {"web_enabled", "datadir", "broker_session_timeout", "broker_heartbeat_interval"}


def quoted() -> str:
    """The documentation's code, as the module quotes it."""
    blocks = (stock_faust.__doc__ or "").split("\n\n")
    code = [textwrap.dedent(block) for block in blocks if block.startswith("    ")]
    return ast.unparse(ast.parse("\n".join(code)))


def written(function: object = stock_faust.stock_app) -> str:
    """The arm's code: the function's body without its docstring and its return."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    return "\n".join(ast.unparse(statement) for statement in definition.body[1:-1])


def translated(code: str) -> str:
    for theirs, ours in OURS.items():
        assert theirs in code, theirs
        code = code.replace(theirs, ours)
    return code


def without_blank_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip()]


def test_the_arm_is_what_the_documentation_shows() -> None:
    assert without_blank_lines(written()) == without_blank_lines(translated(quoted()))


def test_nothing_is_set_beside_but_where_it_runs() -> None:
    assert stock_faust._surroundings(stock_faust.Settings()).keys() == SURROUNDINGS


def test_a_loop_with_something_added_is_noticed() -> None:
    def stock_app(settings, apply):  # type: ignore[no-untyped-def]
        """With a net."""
        app = stock_faust.faust.App("payments.stock_faust")

        @app.agent(app.topic("orders.v1"))
        async def process(orders):  # type: ignore[no-untyped-def]
            async for order in orders.noack():
                await apply(order)

        return app

    with pytest.raises(AssertionError):
        assert without_blank_lines(written(stock_app)) == without_blank_lines(translated(quoted()))
