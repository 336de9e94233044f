"""What all tests share: the proof marker with its ledger, and a browser for the built site."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the site's extensions are part of the repository, not installed

LEDGER = ROOT / "book" / "results" / "ledger.json"
SITE = ROOT / "_build" / "html"

Row = dict[str, Any]
Ledger = dict[str, list[Row]]


# ---- The proof ledger -------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-ledger",
        action="store_true",
        help="store the deviations that the proof tests measure in book/results/ledger.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "proves(label, method): the test that backs the labelled equation or claim, and its "
        "independent method",
    )
    config.pluginmanager.register(LedgerWriter(config), "ledger-writer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.get_closest_marker("proves") and "deviation" not in fixtures:
            raise pytest.UsageError(
                f"{item.nodeid} claims to prove something but measures nothing: "
                "take the fixture `deviation` and call it"
            )


def proof_name(nodeid: str) -> str:
    """Return `file.py::test` of a test, the same for every value of its parameters."""
    return nodeid.split("[")[0].rsplit("/", 1)[-1]


@pytest.fixture
def deviation(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that asserts `measured <= tolerance` and records both for the ledger.

    `deviation(measured, tolerance, label=None)`: the label says which of the test's several
    labels the number belongs to; without it, it belongs to all of them.
    """
    marks = list(request.node.iter_markers("proves"))

    def record(measured: float, tolerance: float, label: str | None = None) -> None:
        known = [mark.args[0] for mark in marks]
        assert label is None or label in known, f"{label!r} is none of this test's {known}"
        measured, tolerance = float(measured), float(tolerance)
        assert measured >= 0, f"a deviation is a distance; this one is {measured}"
        for mark in marks:
            if label in (None, mark.args[0]):
                row = {
                    "test": proof_name(request.node.nodeid),
                    "method": mark.kwargs["method"],
                    "measured": measured,
                    "tolerance": tolerance,
                }
                request.node.user_properties.append(("proof", (mark.args[0], row)))
        assert measured <= tolerance, f"deviation {measured:.3g} exceeds {tolerance:.3g}"

    return record


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a proof that passed without measuring anything for one of its labels."""
    report = yield
    if report.when == "call" and report.passed:
        measured = {label for _, (label, _) in _proofs(report)}
        missing = {mark.args[0] for mark in item.iter_markers("proves")} - measured
        if missing:
            report.outcome = "failed"
            report.longrepr = f"deviation(...) was never called for {sorted(missing)}"
    return report


def _proofs(report: pytest.TestReport) -> Iterator[tuple[str, tuple[str, Row]]]:
    return (entry for entry in report.user_properties if entry[0] == "proof")  # type: ignore[misc]


class LedgerWriter:
    """Collects what passed proofs measured and, if asked to, merges it into the stored ledger."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.measured: dict[tuple[str, str], Row] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" or not report.passed:
            return
        for _, (label, row) in _proofs(report):
            key = (label, row["test"])
            if key not in self.measured or tightness(row) > tightness(self.measured[key]):
                self.measured[key] = row

    def pytest_sessionfinish(self) -> None:
        # Workers of a distributed run report to the one process that writes.
        if self.config.getoption("--write-ledger") and not hasattr(self.config, "workerinput"):
            from book.extensions.claims import scan_tests

            claimed = {(claim.label, claim.test) for claim in scan_tests(ROOT / "tests")}
            stored = json.loads(LEDGER.read_text(encoding="utf-8")) if LEDGER.is_file() else {}
            merged = merge_ledger(stored, self.measured, claimed)
            LEDGER.parent.mkdir(exist_ok=True)
            text = json.dumps(merged, indent=1, ensure_ascii=False)
            LEDGER.write_text(text + "\n", encoding="utf-8")


def tightness(row: Row) -> float:
    """Return how much of its tolerance a measurement uses, from 0 to 1."""
    return row["measured"] / row["tolerance"] if row["tolerance"] else 0.0


def merge_ledger(
    stored: Ledger, measured: dict[tuple[str, str], Row], claimed: set[tuple[str, str]]
) -> Ledger:
    """Return the ledger of all claimed proofs: new measurements first, else the stored ones."""
    rows = {(label, row["test"]): row for label, entries in stored.items() for row in entries}
    rows |= {
        key: {**row, "measured": two_digits(row["measured"]), "tolerance": row["tolerance"]}
        for key, row in measured.items()
    }
    ledger: Ledger = {}
    for label, test in sorted(set(rows) & claimed):
        ledger.setdefault(label, []).append(rows[label, test])
    return ledger


def two_digits(value: float) -> float:
    """Round up to two significant digits, so that the stored ledger changes rarely."""
    if value == 0:
        return 0.0
    digits = 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:.1e}")


# ---- The built site and a browser -------------------------------------------------------------


@pytest.fixture(scope="session")
def site() -> Path:
    """Return the folder of the built site; build it if it is not there."""
    if not (SITE / "index.html").is_file():
        built = subprocess.run([sys.executable, "run.py", "book"], cwd=ROOT, check=False)
        assert built.returncode == 0, "the site does not build; see the messages above"
    return SITE


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a running Chromium. Without one: skip, but fail where CI is set."""
    from playwright.sync_api import sync_playwright

    from tools.browsers import FLAGS, HOW_TO_GET_ONE, find_browser

    program = find_browser()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"no Chromium found: {HOW_TO_GET_ONE}"
        )
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield running
        running.close()


class OpenPage:
    """A page of the site opened over file:// while the browser is offline."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(offline=True, **settings)
        self.context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("requestfailed", lambda request: self.problems.append(f"load: {request.url}"))
        self.page.on(
            "console",
            lambda message: (
                self.problems.append(f"console: {message.text}")
                if message.type in ("error", "warning")
                else None
            ),
        )
        self.page.goto(path.as_uri())
        if settings.get("java_script_enabled") is False:
            return
        # MathJax says when it has finished; pages without mathematics do not load it.
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        if self.page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count():
            self.page.wait_for_selector(".live-figure", state="attached")


@pytest.fixture
def open_page(browser: Any, site: Path) -> Iterator[Any]:
    opened: list[OpenPage] = []

    def open_one(name: str, **settings: Any) -> OpenPage:
        opened.append(OpenPage(browser, site / f"{name}.html", **settings))
        return opened[-1]

    yield open_one
    for one in opened:
        one.context.close()
