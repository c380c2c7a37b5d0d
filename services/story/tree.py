"""Spans as a tree: each below its parent, roots where a parent is missing. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

Span = Mapping[str, Any]


class Node(msgspec.Struct):
    """A span and those below it, in the order of their starts."""

    span: Span
    below: list["Node"]

    def walk(self) -> Iterator[Span]:
        """This span and all below it."""
        yield self.span
        for node in self.below:
            yield from node.walk()


def grow(spans: Sequence[Span]) -> list[Node]:
    """The roots. A span that is there twice (two files, a rename between) counts once."""
    nodes = {
        span["span_id"]: Node(span, []) for span in sorted(spans, key=lambda span: (span["start_ns"], -span["end_ns"]))
    }
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.span["parent_id"])
        (parent.below if parent is not None and parent is not node else roots).append(node)
    return roots
