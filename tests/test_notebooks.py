"""The chapters' notebooks: one anatomy, stored executed, clean, and made of short cells."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from offline_rl_lib.widgets import live_figure

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIXED_HEADINGS = [
    "The idea in one picture",
    "Symbols, code, shapes",
    "Proof by numbers",
    "The same from the library",
    "What goes wrong",
    "Summary",
    "Exercises",
    "References",
]
# A chapter that has a quiz asks its questions right before its exercises.
QUIZ_HEADING, QUIZ_BEFORE = "Check yourself", "Exercises"
# Sections of a chapter's own stand between these two.
FREE_AFTER, FREE_BEFORE = "Symbols, code, shapes", "Proof by numbers"
LONGEST_CELL = 25
MEDIAN_CELL = 10
CELL_METADATA = {"tags", "mystnb", "slideshow"}
NOTEBOOK_METADATA = {"kernelspec", "language_info", "widgets"}
MACHINE_PATH = re.compile(r"(/home/|/Users/|/root/|/tmp/|/usr/lib/|site-packages|[A-Z]:\\\\?Users)")
OBJECT_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}|\bobject at 0x", re.IGNORECASE)
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\r|\d+it/s|it/s\]")
HAND_MADE_BAR = re.compile(r"\btqdm\s*\(|['\"]\\r\b|end=['\"]\\r|clear_output")
Cell = dict[str, Any]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def tags(cell: Cell) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def headings(cells: list[Cell]) -> list[tuple[int, str]]:
    """Return (level, text) of every Markdown heading outside fenced blocks."""
    found = []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"^(`{3,}|:{3,}).*?^\1", "", source(cell), flags=re.M | re.S)
            found += [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#+) (.+)$", text, re.M)]
    return found


def output_text(output: dict[str, Any]) -> str:
    """Return everything readable in an output; pictures are left out."""
    if output["output_type"] == "stream":
        return "".join(output["text"])
    readable = {
        kind: content
        for kind, content in output.get("data", {}).items()
        if not kind.startswith("image/") and "widget-view" not in kind
    }
    return json.dumps(readable, ensure_ascii=False)


class Notebook:
    """One stored notebook."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = json.loads(path.read_text(encoding="utf-8"))
        self.cells: list[Cell] = self.content["cells"]
        self.code = [cell for cell in self.cells if cell["cell_type"] == "code"]

    def outputs(self) -> list[tuple[Cell, dict[str, Any]]]:
        return [(cell, output) for cell in self.code for output in cell["outputs"]]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> Notebook:
    return Notebook(request.param)


def test_the_book_has_its_chapters() -> None:
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS]
    assert numbers == list(range(1, len(NOTEBOOKS) + 1))
    assert len(NOTEBOOKS) >= 19


# ---- Anatomy ----------------------------------------------------------------------------------


def test_fixed_headings_stand_in_their_order(notebook: Notebook) -> None:
    found = headings(notebook.cells)
    assert [level for level, _ in found].count(1) == 1
    assert found[0][0] == 1, "the title comes first"
    sections = [text for level, text in found if level == 2]
    fixed = list(FIXED_HEADINGS)
    if has_quiz(notebook):
        fixed.insert(fixed.index(QUIZ_BEFORE), QUIZ_HEADING)
    assert [text for text in sections if text in {*FIXED_HEADINGS, QUIZ_HEADING}] == fixed
    free = [n for n, text in enumerate(sections) if text not in fixed]
    first, last = sections.index(FREE_AFTER), sections.index(FREE_BEFORE)
    assert all(first < n < last for n in free), f"own sections belong after {FREE_AFTER!r}"
    assert free, "a chapter explains something between its symbols and its proof"


def has_quiz(notebook: Notebook) -> bool:
    return (ROOT / "book" / "quizzes" / f"{notebook.path.stem}.yml").is_file()


def test_a_chapter_shows_its_own_quiz_and_says_where_to_answer(notebook: Notebook) -> None:
    cells = [cell for cell in notebook.cells if re.search(r"^`{3,}\{quiz\}", source(cell), re.M)]
    assert len(cells) == has_quiz(notebook)
    for cell in cells:
        text = source(cell)
        assert text.startswith(f"## {QUIZ_HEADING}\n")
        assert text.endswith(f"```{{quiz}} {notebook.path.stem}\n```")
        assert "on this chapter's page of the book" in text, "JupyterLab cannot show the questions"


def test_the_card_tells_what_to_expect(notebook: Notebook) -> None:
    top = source(notebook.cells[0])
    title, _, rest = top.partition("\n")
    assert title.startswith("# ")
    assert rest.lstrip().startswith("```{admonition} At a glance\n:class: tip\n")
    for word in ("**You will**", "**You will learn**", "**You need**", "**Time**"):
        assert word in rest, f"the card lacks {word}"
    assert f"{{value}}`chapter_times:{notebook.path.stem}.seconds" in rest


def test_code_cells_are_short(notebook: Notebook) -> None:
    lengths = [len(source(cell).strip().splitlines()) for cell in notebook.code]
    for cell, length in zip(notebook.code, lengths, strict=True):
        assert length <= LONGEST_CELL, f"the cell that begins {source(cell).splitlines()[0]!r}"
    assert statistics.median(lengths) < MEDIAN_CELL
    assert min(lengths) > 0, "an empty code cell"


def test_prose_comes_before_each_code_cell(notebook: Notebook) -> None:
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell["cell_type"] == "code" and "solution" not in tags(cell) & tags(before):
            assert before["cell_type"] == "markdown", (
                f"no prose before the cell that begins {source(cell).splitlines()[0]!r}"
            )
    assert notebook.cells[0]["cell_type"] == "markdown"


# ---- Exercises --------------------------------------------------------------------------------


def test_every_exercise_has_stub_hint_and_solution(notebook: Notebook) -> None:
    labels = []
    for start, cell in enumerate(notebook.cells):
        text = source(cell)
        if cell["cell_type"] != "markdown" or not re.search(r"^`{3,}\{exercise\}", text, re.M):
            continue
        label = re.search(r"^:label: (ex-[a-z0-9-]+)$", text, re.M)
        assert label, f"an exercise without a label: {text[:60]}"
        name = label[1]
        labels.append(name)
        stub, hint, opening, *rest = notebook.cells[start + 1 :]
        assert stub["cell_type"] == "code", name
        assert "exercise" in tags(stub), f"{name}: the stub needs the tag exercise"
        assert "..." in source(stub), f"{name}: the stub returns the dots"
        assert checks(stub, name), f"{name}: the stub ends with check({name!r}, ...)"
        assert "not done yet" in printed(stub).lower(), f"{name}: {printed(stub)!r}"
        assert source(hint).startswith("```{hint}\n:class: dropdown\n"), name
        assert source(opening).startswith(f"```{{solution-start}} {name}\n:class: dropdown"), name
        closing = next(n for n, c in enumerate(rest) if "{solution-end}" in source(c))
        answers = rest[:closing]
        assert answers, f"{name}: an empty solution"
        for part in (opening, *rest[: closing + 1]):
            assert "solution" in tags(part), f"{name}: every solution cell carries the tag"
        # Cells after the checked one may look further at the answer.
        checked = [part for part in answers if part["cell_type"] == "code" and checks(part, name)]
        assert checked, f"{name}: the solution ends with the same check"
        assert "passed" in printed(checked[-1]), f"{name}: {printed(checked[-1])!r}"
    assert len(labels) >= 3, "a chapter has at least three exercises"
    assert len(labels) == len(set(labels))
    tagged = [cell for cell in notebook.code if "exercise" in tags(cell)]
    assert len(tagged) == len(labels)


def checks(cell: Cell, name: str) -> bool:
    """Return whether a cell ends with a call of `check` on the exercise."""
    return bool(re.search(rf'^check\(\s*"{name}",(?s:.*)\)\s*\Z', source(cell), re.M))


def printed(cell: Cell) -> str:
    return "".join(output_text(output) for output in cell["outputs"])


def test_no_solution_stands_outside_an_exercise(notebook: Notebook) -> None:
    inside = False
    for cell in notebook.cells:
        text = source(cell) if cell["cell_type"] == "markdown" else ""
        inside = inside or "{solution-start}" in text
        assert inside == ("solution" in tags(cell)), source(cell)[:60]
        inside = inside and "{solution-end}" not in text


# ---- Stored outputs ---------------------------------------------------------------------------


def test_cells_were_executed_once_and_in_order(notebook: Notebook) -> None:
    counts = [cell["execution_count"] for cell in notebook.code]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_hold_no_error_and_nothing_of_one_machine(notebook: Notebook) -> None:
    for cell, output in notebook.outputs():
        where = f"output of the cell that begins {source(cell).splitlines()[0]!r}"
        assert output["output_type"] != "error" or "raises-exception" in tags(cell), where
        assert output.get("name") != "stderr", where
        text = output_text(output)
        for what in (MACHINE_PATH, OBJECT_ADDRESS, PROGRESS_BAR):
            assert not what.search(text), f"{where}: {what.search(text)}"


def test_metadata_is_about_the_text_only(notebook: Notebook) -> None:
    assert set(notebook.content["metadata"]) <= NOTEBOOK_METADATA
    assert notebook.content["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook.cells:
        assert set(cell["metadata"]) <= CELL_METADATA, source(cell)[:60]


def test_sources_hold_no_machine_path_and_no_hand_made_progress_bar(notebook: Notebook) -> None:
    for cell in notebook.cells:
        assert not MACHINE_PATH.search(source(cell)), source(cell)[:60]
    for cell in notebook.code:
        assert not HAND_MADE_BAR.search(source(cell)), source(cell)[:60]


def test_every_figure_is_described_captioned_and_alone(notebook: Notebook) -> None:
    names = []
    for cell in notebook.code:
        pictures = [o for o in cell["outputs"] if any(k.startswith("image/") for k in kinds(o))]
        if not pictures:
            continue
        where = f"the cell that begins {source(cell).splitlines()[0]!r}"
        settings = cell["metadata"].get("mystnb", {})
        alt = settings.get("image", {}).get("alt", "")
        assert len(alt) >= 20, f"{where} needs an alt text"
        assert not re.match(r"(a |the )?(plot|figure|image|picture) of", alt, re.I), alt
        figure = settings.get("figure", {})
        assert figure.get("name", "").startswith("fig-"), f"{where} needs a name fig-..."
        assert len(figure.get("caption", "")) >= 20, f"{where} needs a caption"
        names.append(figure["name"])
        visible = [output for output in cell["outputs"] if not is_glue(output)]
        assert visible == pictures, f"{where} shows something beside its picture"
        assert len(pictures) == 1, f"{where} shows several pictures"
    assert names, "a chapter has at least one figure"
    assert len(names) == len(set(names))


def kinds(output: dict[str, Any]) -> list[str]:
    return list(output.get("data", {}))


def is_glue(output: dict[str, Any]) -> bool:
    return "scrapbook" in output.get("metadata", {})


def test_every_stored_widget_view_has_its_state(notebook: Notebook) -> None:
    stored = notebook.content["metadata"].get("widgets", {})
    states = stored.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    views = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for _, output in notebook.outputs()
        if "application/vnd.jupyter.widget-view+json" in kinds(output)
    ]
    assert [view for view in views if view not in states] == [], "execute with run.py notebooks"


# ---- The rules themselves ---------------------------------------------------------------------


def test_sanitising_rules_match_what_they_say() -> None:
    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text(encoding="utf-8")
    rules = re.findall(r"^regex: (.*)$\n^replace: (.*)$", text, re.M)
    assert len(rules) == 1
    [(pattern, replacement)] = rules
    assert re.sub(pattern, replacement, "training took 12.3 s.") == "training took TIME."
    assert re.sub(pattern, replacement, "return -12.3") == "return -12.3"


def test_headings_inside_fences_do_not_count() -> None:
    cell = {"cell_type": "markdown", "source": "# A\n\n```python\n# no\n```\n\n## B\n"}
    assert headings([cell]) == [(1, "A"), (2, "B")]


def test_every_stored_live_figure_carries_the_librarys_source(notebook: Notebook) -> None:
    stored = notebook.content["metadata"].get("widgets", {})
    states = stored.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    figures = {path.stem for path in live_figure.FOLDER.glob("*.js")} - {"live_figure"}
    current = {live_figure.source(figure) for figure in figures}
    for state in states.values():
        if "_esm" in state["state"]:
            assert state["state"]["_esm"] in current, "store the chapter again: run.py notebooks"
