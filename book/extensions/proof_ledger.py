"""The proof ledger: every labelled equation and every claim has a test that carries its label.

An equation or claim without a test, a test for a label that no page holds, and a proof that was
never measured are warnings, which stop the build under `-W`. The directive `{proof-ledger}`
shows the whole list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.math import MathDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from book.extensions.claims import Claim, UnreadableClaimError, scan_tests
from book.extensions.pages import data_table, page_link, page_title, reading_order

TESTS = Path("tests")
LEDGER = Path("book", "results", "ledger.json")
# These kinds assert something, so they need a label and a test even if nothing refers to them.
# A definition, an algorithm or a remark is checked only if it carries a label.
ASSERTING = {
    *("theorem", "lemma", "corollary", "proposition", "property"),
    *("observation", "conjecture", "criterion"),
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a label stands in the book."""

    label: str
    kind: str
    number: str
    docname: str
    anchor: str


class proof_ledger(nodes.General, nodes.Element):  # type: ignore[misc]
    """Placeholder that becomes the table when the whole book is known."""


class ProofLedgerDirective(SphinxDirective):
    """Show every label with its test, its method and the deviation measured."""

    def run(self) -> list[nodes.Node]:
        """Leave a placeholder; tests and results change without any page changing."""
        self.env.note_reread()
        return [proof_ledger()]


def find_places(env: BuildEnvironment) -> list[Place]:
    """Collect the labelled equations and claims of the book, in reading order."""
    math = cast(MathDomain, env.get_domain("math"))
    places = [_equation(env, label, *entry) for label, entry in math.equations.items()]
    for label, proof in getattr(env, "proof_list", {}).items():
        kind, docname = proof["realtype"], proof["docname"]
        if _was_labelled_by_author(label, kind) or kind in ASSERTING:
            numbers = env.toc_fignumbers.get(docname, {}).get(proof["countertype"], {})
            number = ".".join(map(str, numbers.get(proof["ids"][0], ())))
            places.append(Place(label, kind, number, docname, proof["ids"][0]))
    order = {docname: position for position, docname in enumerate(reading_order(env))}
    return sorted(places, key=lambda place: order.get(place.docname, len(order)))


def _equation(env: BuildEnvironment, label: str, docname: str, running_number: int) -> Place:
    anchor = nodes.make_id(f"equation-{label}")
    parts: tuple[int, ...] = (running_number,)
    if env.config.math_numfig and env.config.numfig:
        parts = env.toc_fignumbers.get(docname, {}).get("displaymath", {}).get(anchor, ())
    return Place(label, "equation", ".".join(map(str, parts)), docname, anchor)


def _was_labelled_by_author(label: str, kind: str) -> bool:
    # sphinx-proof names an unlabelled node after its kind and a running number.
    return not (label.startswith(f"{kind}-") and label.removeprefix(f"{kind}-").isdigit())


def check_ledger(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn about every label without a test, test without a label, proof without a measurement."""
    root = Path(app.srcdir)
    try:
        claims = scan_tests(root / TESTS)
    except UnreadableClaimError as error:
        _warn(str(error), f"{TESTS}:")
        return
    places = find_places(env)
    claimed = {claim.label for claim in claims}
    for place in places:
        if problem := _problem(place, claimed):
            _warn(problem, place.docname)
    known = {place.label for place in places}
    measured = read_ledger(root)
    for claim in claims:
        if claim.label not in known:
            problem = f"the test proves {claim.label!r}, a label that no page of the book holds"
            _warn(problem, TESTS / claim.test)
        elif (claim.label, claim.test) not in measured:
            problem = f"the deviation of {claim.label!r} was never measured"
            _warn(f"{problem}; run the tests with --write-ledger", TESTS / claim.test)


def _problem(place: Place, claimed: set[str]) -> str | None:
    if place.kind == "equation" and not place.label.startswith("eq-"):
        return (
            "a numbered equation needs a label that begins with eq-; "
            "write $$ ... $$ (eq-name), or a starred environment for no number"
        )
    if place.kind != "equation" and not _was_labelled_by_author(place.label, place.kind):
        return f"a {place.kind} needs a label (:label: claim-name) and a test that proves it"
    if place.label not in claimed:
        mark = f'@pytest.mark.proves("{place.label}", method="...")'
        return f"no test proves {place.kind} {place.label!r}; mark one with {mark}"
    return None


def _warn(problem: str, where: Path | str) -> None:
    logger.warning("proof ledger: %s", problem, location=str(where), type="ledger")


def read_ledger(root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the stored measurements by (label, test)."""
    path = root / LEDGER
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {(label, row["test"]): row for label, rows in stored.items() for row in rows}


def fill_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the placeholders by the table."""
    placeholders = list(doctree.findall(proof_ledger))
    if not placeholders:
        return
    places = find_places(app.env)
    try:
        claims = scan_tests(Path(app.srcdir, TESTS))
    except UnreadableClaimError:
        claims = []
    for placeholder in placeholders:
        placeholder.replace_self(_table(app, docname, places, claims))


# The figures stand before the long names: on a narrow page the right end of the table scrolls.
HEADINGS = ("Label", "Independent method", "Deviation", "Tolerance", "Test", "Chapter")


def _table(app: Sphinx, docname: str, places: Iterable[Place], claims: list[Claim]) -> nodes.Node:
    measured = read_ledger(Path(app.srcdir))
    rows: list[list[nodes.Node]] = []
    for place in places:
        for claim in (claim for claim in claims if claim.label == place.label):
            result = measured.get((claim.label, claim.test), {})
            rows.append(
                [
                    page_link(app, docname, place.docname, _name(place), place.anchor),
                    nodes.Text(claim.method),
                    nodes.Text(_number(result.get("measured"))),
                    nodes.Text(_number(result.get("tolerance"))),
                    nodes.literal("", claim.test),
                    page_link(app, docname, place.docname, page_title(app.env, place.docname)),
                ]
            )
    if not rows:
        return nodes.paragraph("", "No equation or claim of the book is proved yet.")
    return data_table(f"The {len(rows)} proofs of this book", HEADINGS, rows)


def _name(place: Place) -> str:
    number = f"({place.number})" if place.kind == "equation" else place.number
    return f"{place.kind.capitalize()} {number}: {place.label}"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2g}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register directive, node and events."""
    app.add_node(proof_ledger)
    app.add_directive("proof-ledger", ProofLedgerDirective)
    app.connect("env-check-consistency", check_ledger)
    app.connect("doctree-resolved", fill_in)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
