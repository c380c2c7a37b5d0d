"""`lab trace`: a message's spans as a tree, and the attempts of which no span is left."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from lab.output import Exit, answer_json, fail, home, out, say
from lab.stack import Json, readable
from services.stack.home import Home
from services.storage.postgres import AWAY
from services.story.attempts import Attempt
from services.story.telling import Servers, Story, tell
from services.story.tree import Node, grow

FATES: Final = {
    "killed": "[red](attempt killed, span lost)[/]",
    "not_sampled": "[dim](not sampled: no span)[/]",
    "in_hand": "[yellow](in hand)[/]",
    "unknown": "[yellow](no span, and no log line says what became of it)[/]",
}
_WIDTH: Final = 160  # a line is whole, whatever the terminal makes of it
_SHOWN: Final = {
    "delivery.outcome": "", "delivery.decision": "", "delivery.reason": "", "delivery.attempt": "attempt ",
    "delivery.tier": "tier ", "delivery.via": "via ", "http.response.status_code": "",
}  # fmt: skip

MessageId = Annotated[str, typer.Argument(help="A message id, as answers, ledgers and `ce_id` have it.")]


def trace(message_id: MessageId, as_json: Json = False) -> None:
    """Show a message's whole life: its spans from the lab's own files, and the attempts that lost theirs."""
    place = home()
    story = story_of(place, message_id)
    if as_json:
        answer_json(_document(story))
        return
    out.print(f"[bold]message {story.message_id}[/]{_of_intent(story)}")
    wide = Console(highlight=False, width=max(out.width, _WIDTH))
    for root in grow([span for span in story.spans if _is_of(span, story)]):
        tree = Tree(_line(root, story))
        _grow(tree, root, story)
        wide.print(tree)
    for attempt in story.attempts:
        out.print(_attempt(attempt), soft_wrap=True)
    if not story.spans:
        out.print("[dim]no span: the message was not sampled, and nothing but its plain application is known[/]")


def show_lines(message_id: str, *, as_json: bool) -> None:
    """`lab logs --message`."""
    lines = list(story_of(home(), message_id).lines())
    if as_json:
        answer_json({"message_id": message_id, "lines": lines})
        return
    for line in lines:
        name = f"{line['service.name']:<26}"
        out.print(f"[dim]{escape(name)}[/] {readable(json.dumps(line))}", soft_wrap=True)
    if not lines:
        out.print("no log line names it, and no chunk that is still in the logs held it")


def story_of(place: Home, text: str) -> Story:
    """The story of the message that a word of the command line names; ends with a sentence when there is none."""
    try:
        message_id = UUID(text)
    except ValueError:
        fail(Exit.USAGE, f"{text!r} is no message id: say a UUID, as the answer to a request has it")
    is_up = place.read_state() is not None
    addresses = place.addresses() if is_up else {}
    try:
        servers = Servers(addresses["LAB_POSTGRES"], addresses["LAB_LEDGER"]) if is_up else None
        story = tell(place.path, message_id, servers)
    except AWAY as error:
        say(f"the ledgers do not answer ({type(error).__name__}): from the files alone")
        story = tell(place.path, message_id, None)
    if story.empty and not is_up:
        fail(Exit.NOT_UP, f"no span and no log line names {message_id}, and the lab is not up to be asked: `lab up`")
    if story.empty:
        fail(Exit.FAILED, f"no intent, effect, span or log line of this lab has the message id {message_id}")
    return story


def _is_of(span: Mapping[str, Any], story: Story) -> bool:
    return bool(span["attributes"].get("messaging.message.id") == story.message_id)


def _of_intent(story: Story) -> str:
    return "".join(
        f"  [dim]{escape(one.business_id)}, {one.publisher}, run {one.run or '-'}[/]" for one in story.intents
    )


def _grow(tree: Tree, node: Node, story: Story) -> None:
    for below in node.below:
        _grow(tree.add(_line(below, story)), below, story)


def _line(node: Node, story: Story) -> str:
    span = node.span
    colour = "red" if span["status"] == "error" else "green"
    took_ms = (span["end_ns"] - span["start_ns"]) / 1e6
    began = datetime.fromtimestamp(span["start_ns"] / 1e9, UTC).strftime("%H:%M:%S.%f")[:-3]
    words = [f"{prefix}{span['attributes'][name]}" for name, prefix in _SHOWN.items() if name in span["attributes"]]
    return (
        f"[{colour}]{escape(span['name'])}[/] [dim]{began} {took_ms:.1f} ms[/] "
        f"{escape(span['resource']['service.name'])} {escape(' · '.join(words))}{_links(span, story)}"
    ).rstrip()


def _links(span: Mapping[str, Any], story: Story) -> str:
    by_id = {one["span_id"]: one for one in story.spans}
    texts = []
    for link in span["links"]:
        to, why = by_id.get(link["span_id"]), link["attributes"].get("delivery.link", "")
        count = to["attributes"].get("messaging.batch.message_count") if to else None
        of = f" of {count}" if count else ""
        texts.append(f"{why}{of} {link['span_id'][:8]}")
    return f" [dim]→ {escape(', '.join(texts))}[/]" if texts else ""


def _attempt(attempt: Attempt) -> str:
    at = datetime.fromtimestamp(attempt.time_s, UTC).strftime("%H:%M:%S.%f")[:-3]
    effects = f" did {', '.join(attempt.effects)}" if attempt.effects else ""
    return (
        f"[bold]process[/] [dim]{at}[/] {escape(attempt.process)} [dim]life {attempt.life[:8]}[/] "
        f"{escape(attempt.at)}{effects} {FATES[attempt.fate]}"
    )


def _document(story: Story) -> dict[str, Any]:
    own = [span for span in story.spans if _is_of(span, story)]
    return {
        "message_id": story.message_id,
        "trace_ids": sorted({span["trace_id"] for span in own}),
        "intents": story.intents,
        "tree": [_node(root) for root in grow(own)],
        "linked": [span for span in story.spans if not _is_of(span, story)],
        "without_span": [{**_fields(attempt), "text": _plain(attempt)} for attempt in story.attempts],
        "effects": story.rows,
    }


def _node(node: Node) -> dict[str, Any]:
    return {**node.span, "children": [_node(below) for below in node.below]}


def _fields(attempt: Attempt) -> dict[str, Any]:
    return {name: getattr(attempt, name) for name in attempt.__struct_fields__}


def _plain(attempt: Attempt) -> str:
    return "attempt killed, span lost" if attempt.fate == "killed" else attempt.fate.replace("_", " ")
