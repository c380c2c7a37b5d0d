"""docs/storms.md, made from the results."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from loadtest.storms.proof import Finding, Proof, Result
from loadtest.storms.table import PROOFS

FILE: Final = Path(__file__).parents[2] / "docs" / "storms.md"


def page(results: Mapping[str, Result]) -> str:
    """The whole page."""
    return "\n".join(_lines(results)) + "\n"


def write(results: Mapping[str, Result]) -> None:
    """Replace the page."""
    FILE.write_text(page(results))


def _lines(results: Mapping[str, Result]) -> Iterator[str]:
    yield "# Storms"
    yield ""
    yield (
        "Proofs that take too long for the test suite. `make storms` runs what has not been seen to hold yet, each on "
        "a lab of its arms; `.venv/bin/python -m loadtest.storms NAME` runs one again. This page is made from the "
        "results (docs/storms.json): what was seen last. A finding without a mark promises nothing; ✗ is a broken "
        "promise."
    )
    yield ""
    yield "| proof | last seen | requests | struck |"
    yield "| --- | --- | ---: | ---: |"
    for proof in PROOFS:
        yield _summary(proof, results.get(proof.name))
    for proof in PROOFS:
        yield from _proof(proof, results.get(proof.name))


def _summary(proof: Proof, result: Result | None) -> str:
    link = f"[{proof.name}](#{proof.name.replace('.', '')})"
    if result is None:
        return f"| {link} | not run yet | | |"
    return f"| {link} | {'holds' if result.holds else '**broken**'} | {result.requests:,} | {result.faults} |"


def _proof(proof: Proof, result: Result | None) -> Iterator[str]:
    yield ""
    yield f"## {proof.name}"
    yield ""
    yield f"{proof.promise} Arms: {', '.join(f'`{arm}`' for arm in (*proof.publishers, *proof.consumers))}."
    yield ""
    if result is None:
        yield "Not run yet."
        return
    verdict = "holds" if result.holds else "**does not hold**"
    yield (
        f"{result.at} UTC, commit {result.commit}, seed {result.seed}: {verdict}; {result.requests:,} requests "
        f"acknowledged, {result.faults} times a process was struck, {result.took_s:.0f} s."
    )
    yield ""
    if result.stopped:
        yield f"It stopped: {_cell(result.stopped)}"
        yield ""
    if not result.found:
        return
    yield "| what | seen | |"
    yield "| --- | --- | --- |"
    for finding in result.found:
        yield f"| {_cell(finding.what)} | {_cell(finding.seen)} | {_mark(finding)} |"


def _mark(finding: Finding) -> str:
    return "" if finding.holds is None else "✓" if finding.holds else "✗"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
