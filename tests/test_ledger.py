"""The proof ledger: what it reads, what it refuses, and that the stored one is complete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, merge_ledger, two_digits
from small_site import SmallSite

from book.extensions.claims import Claim, UnreadableClaimError, scan_tests
from book.extensions.proof_ledger import read_ledger
from book.extensions.stored_values import (
    UnknownValueError,
    find_source,
    format_value,
    look_up,
)

pytest_plugins = ["pytester"]


def test_stored_ledger_holds_exactly_what_the_tests_claim() -> None:
    claimed = {(claim.label, claim.test) for claim in scan_tests(ROOT / "tests")}
    assert set(read_ledger(ROOT)) == claimed, "run the proof tests with --write-ledger"


def test_stored_ledger_keeps_every_tolerance() -> None:
    methods = {(claim.label, claim.test): claim.method for claim in scan_tests(ROOT / "tests")}
    for key, row in read_ledger(ROOT).items():
        assert 0 <= row["measured"] <= row["tolerance"] * 1.05, key  # stored to two digits
        assert row["method"] == methods[key], key


def write_test(folder: Path, source: str) -> Path:
    path = folder / "test_example.py"
    path.write_text("import pytest\n" + source, encoding="utf-8")
    return folder


def test_scan_reads_functions_classes_and_parameters(tmp_path: Path) -> None:
    source = """
METHOD = "quadrature"
@pytest.mark.proves("eq-a", method="loop")
@pytest.mark.proves("eq-b", method=METHOD)
def test_one(): ...
@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.proves("eq-c", method="m"))])
def test_two(n): ...
@pytest.mark.proves("eq-d", method=f"{METHOD}, twice")
class TestThree:
    def test_inside(self): ...
    def helper(self): ...
def test_nothing(): ...
"""
    assert scan_tests(write_test(tmp_path, source)) == [
        Claim("eq-a", "test_example.py::test_one", "loop"),
        Claim("eq-b", "test_example.py::test_one", "quadrature"),
        Claim("eq-c", "test_example.py::test_two", "m"),
        Claim("eq-d", "test_example.py::TestThree::test_inside", "quadrature, twice"),
    ]


@pytest.mark.parametrize("mark", ["proves(LABEL, method='m')", "proves('eq-a')", "proves()"])
def test_scan_refuses_marks_that_it_cannot_read(tmp_path: Path, mark: str) -> None:
    folder = write_test(tmp_path, f"@pytest.mark.{mark}\ndef test_one(): ...\n")
    with pytest.raises(UnreadableClaimError, match=r"test_example.py:2: write proves"):
        scan_tests(folder)


def test_merge_replaces_measured_keeps_claimed_and_drops_the_rest() -> None:
    def row(test: str, measured: float) -> dict[str, object]:
        return {"test": test, "method": "m", "measured": measured, "tolerance": 1.0}

    stored = {"eq-a": [row("t1", 0.5), row("t2", 0.25)], "eq-gone": [row("t3", 0.5)]}
    merged = merge_ledger(
        stored, {("eq-a", "t1"): row("t1", 0.12345)}, {("eq-a", "t1"), ("eq-a", "t2")}
    )
    assert merged == {"eq-a": [row("t1", 0.13), row("t2", 0.25)]}


@pytest.mark.parametrize(
    ("value", "rounded"), [(0, 0), (1.234e-15, 1.3e-15), (0.1, 0.1), (99.9, 100), (2.0, 2)]
)
def test_measurements_are_rounded_up_to_two_digits(value: float, rounded: float) -> None:
    assert two_digits(value) == pytest.approx(rounded, rel=1e-12)


# ---- The fixture, in a pytest of its own ------------------------------------------------------


EXAMPLE = """
@pytest.mark.parametrize("x", [1e-9, 3e-9, 2e-9])
@pytest.mark.proves("eq-a", method="loop")
def test_worst_of_several(x, deviation):
    deviation(x, 1e-8)

@pytest.mark.proves("eq-b", method="m")
def test_too_far(deviation):
    deviation(2.0, 1.0)

@pytest.mark.proves("eq-c", method="m")
def test_nan(deviation):
    deviation(float("nan"), 1.0)

@pytest.mark.proves("eq-d", method="m")
def test_negative(deviation):
    deviation(-1.0, 1.0)

@pytest.mark.proves("eq-e", method="m")
def test_foreign_label(deviation):
    deviation(0.5, 1.0, label="eq-a")

@pytest.mark.proves("eq-f", method="m")
def test_silent(deviation):
    pass
"""


@pytest.fixture
def example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the start is seconds shorter
    (pytester.path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", pytester.path / "tests")
    extensions = pytester.path / "book" / "extensions"
    extensions.mkdir(parents=True)
    shutil.copy(ROOT / "book" / "extensions" / "claims.py", extensions)
    return pytester


def run_example(example: pytest.Pytester, body: str) -> pytest.RunResult:
    write_test(example.path / "tests", body)
    return example.runpytest_subprocess("--write-ledger", "-p", "no:cacheprovider", "tests")


def test_the_worst_is_stored_and_a_proof_that_proves_nothing_fails(
    example: pytest.Pytester,
) -> None:
    result = run_example(example, EXAMPLE)
    result.assert_outcomes(passed=3, failed=5)
    for complaint in (
        "deviation 2 exceeds 1",
        "this one is nan",
        "a deviation is a distance",
        "none of this test's",
        "was never called",
    ):
        result.stdout.fnmatch_lines([f"*{complaint}*"])
    row = {
        "test": "test_example.py::test_worst_of_several",
        "method": "loop",
        "measured": 3e-09,
        "tolerance": 1e-08,
    }
    stored = (example.path / "book/results/ledger.json").read_text(encoding="utf-8")
    assert json.loads(stored) == {"eq-a": [row]}


def test_a_proof_without_the_fixture_is_refused(example: pytest.Pytester) -> None:
    result = run_example(example, '@pytest.mark.proves("eq-a", method="m")\ndef test_one(): ...\n')
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*measures nothing*"])


# ---- The extension, in a small book of its own -------------------------------------------------

PAGE = """# A page

$$ x = y $$ (eq-first)

```{prf:observation} A claim
:label: claim-second

It holds.
```

The stored value is {value}`numbers:outer.inner:.2f`.

```{proof-ledger}
```
"""
TESTS = """import pytest
@pytest.mark.proves("eq-first", method="loop")
@pytest.mark.proves("claim-second", method="sum")
def test_both(deviation):
    deviation(0.0, 1.0)
"""


class SmallBook(SmallSite):
    """A one-page book with the extensions under test."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        extensions = [
            *("myst_parser", "sphinx_proof", "book.extensions.proof_ledger"),
            *("book.extensions.stored_values", "book.extensions.fresh_after_failure"),
        ]
        settings = "myst_enable_extensions = ['dollarmath']\nhtml_theme = 'basic'\n"
        self.write("conf.py", f"extensions = {extensions}\n{settings}")
        self.write("index.md", PAGE)
        self.write("tests/test_small.py", TESTS)
        row = {"test": "test_small.py::test_both", "method": "loop", "measured": 0, "tolerance": 1}
        self.ledger = {"eq-first": [row], "claim-second": [row]}
        self.write("book/results/ledger.json", json.dumps(self.ledger))
        self.write("book/results/numbers.json", json.dumps({"outer": {"inner": 1.2345}}))

    def page(self) -> str:
        return self.html("index")


@pytest.fixture
def small_book(tmp_path: Path) -> SmallBook:
    return SmallBook(tmp_path)


def test_a_complete_book_builds_and_lists_its_proofs(small_book: SmallBook) -> None:
    status, complaints = small_book.build()
    assert (status, complaints) == (0, "")
    page = small_book.page()
    assert 'The stored value is <span class="stored-value">1.23</span>' in page
    assert 'href="#equation-eq-first"' in page
    assert 'href="#claim-second"' in page
    assert page.count("test_small.py::test_both") == 2


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("index.md", PAGE + "\n$$ a $$ (eq-third)\n", "no test proves equation 'eq-third'"),
        ("index.md", PAGE + "\n$$ a $$ (third)\n", "a label that begins with eq-"),
        ("index.md", PAGE + "\n```{prf:lemma}\nIt.\n```\n", "a lemma needs a label"),
        ("index.md", PAGE.replace("(eq-first)", ""), "'eq-first', a label that no page"),
        ("tests/test_small.py", TESTS.replace('"loop"', "LOOP"), "with plain strings"),
        ("book/results/ledger.json", "{}", "was never measured"),
        ("book/results/numbers.json", "{}", "holds no key 'outer.inner'"),
        ("index.md", PAGE.replace("numbers:", "digits:"), "no stored values named 'digits'"),
    ],
)
def test_what_is_missing_stops_the_build_until_it_is_there(
    small_book: SmallBook, name: str, text: str, complaint: str
) -> None:
    assert small_book.build()[0] == 0
    before = (small_book.root / name).read_text(encoding="utf-8")
    small_book.write(name, text)
    for _ in range(2):  # a second build must not forget the fault
        status, complaints = small_book.build()
        assert status == 1
        assert complaint in complaints
    small_book.write(name, before)
    assert small_book.build() == (0, "")


# ---- Stored values ----------------------------------------------------------------------------


def test_values_are_found_by_dotted_keys_positions_and_glue(tmp_path: Path) -> None:
    results = tmp_path / "book" / "results"
    results.mkdir(parents=True)
    (results / "runs.json").write_text('{"a.b": {"c": [1, 2.5]}}', encoding="utf-8")
    glued = {"output_type": "display_data", "metadata": {"scrapbook": {"name": "task-x"}}}
    output = {**glued, "data": {"text/plain": ["'0.5000'"]}}
    notebook = {"cells": [{"cell_type": "code", "outputs": [output]}]}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    assert look_up(find_source(tmp_path, "runs"), "a.b.c.1") == 2.5
    assert look_up(find_source(tmp_path, "01_x"), "task-x") == "0.5000"
    assert format_value("0.5000", ".1f") == "0.5"
    assert format_value("0.5000", "") == "0.5000"
    for source, key in (("runs", "a.b.c.2"), ("runs", "a.x"), ("01_x", "task-y")):
        with pytest.raises(UnknownValueError, match="holds no key"):
            look_up(find_source(tmp_path, source), key)
    with pytest.raises(UnknownValueError, match="no stored values named 'none'"):
        find_source(tmp_path, "none")
