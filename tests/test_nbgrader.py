"""nbgrader itself makes, grades and returns one assignment: a right, a half-right, an empty one."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from book.extensions.bundles import NBGRADER_CONFIG, notebook_bytes
from book.extensions.cards import read_chapters
from book.extensions.grading import CODE_STUB, TEXT_STUB, assignment, read_questions

STEM = "06_logsumexp_penalty"
RIGHT = {
    "ex-logsumexp-volume": "soft_maximum_by_hand = 1.5 + 2 * math.log(12)",
    "ex-logsumexp-mixture": (
        "def mixture_log_density(log_densities):\n"
        "    return log_densities.logsumexp(dim=0) - math.log(len(log_densities))"
    ),
    "ex-logsumexp-gradient": (
        "def penalty_gradient(proposal_q, log_density, temperature):\n"
        "    batch = len(proposal_q)\n"
        "    weight = torch.softmax(proposal_q / temperature - log_density, dim=1)\n"
        "    return weight / batch, torch.full((batch,), -1 / batch)"
    ),
    "ex-logsumexp-broadcast": (
        'answers = {"shape": (64, 64), "value_changes": False, "gradient_changes": False, '
        '"clipping_changes": True}'
    ),
    "open-logsumexp-subtract": "Drawing often and dividing by the density cancel.",
}
HALF_RIGHT = {
    # Whatever else is called check: the locked cell calls the library's.
    "ex-logsumexp-volume": "soft_maximum_by_hand = 1.5\ncheck = lambda *_, points: points",
    "ex-logsumexp-mixture": (
        "def mixture_log_density(log_densities):\n"
        '    import warnings; warnings.warn("a warning is no failure")\n'
        "    return log_densities.exp().mean(dim=0).log()"
    ),
    "ex-logsumexp-gradient": RIGHT["ex-logsumexp-gradient"].replace("-1 /", "1 /"),
    "ex-logsumexp-broadcast": RIGHT["ex-logsumexp-broadcast"].replace("(64, 64)", "(64,)"),
}
EXPECTED = {
    "right": {"volume": 2, "mixture": 6, "gradient": 4, "broadcast": 4, "open": None},
    "half": {"volume": 0, "mixture": 3, "gradient": 2, "broadcast": 3, "open": 0},
    "empty": {"volume": 0, "mixture": 0, "gradient": 0, "broadcast": 0, "open": 0},
}
TOTALS = {"right": 16 + 3, "half": 8, "empty": 0}
"""With the 3 points that a person gives for the open answer."""


def trimmed_chapter() -> dict[str, Any]:
    """The chapter's first code cell and all from its exercises on; they need no other cell."""
    chapter = json.loads((ROOT / "notebooks" / f"{STEM}.ipynb").read_text(encoding="utf-8"))
    cells = chapter["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    start = next(i for i, c in enumerate(cells) if "".join(c["source"]).startswith("## Exercises"))
    return {**chapter, "cells": [first, *cells[start:]]}


def filled(released: dict[str, Any], answers: dict[str, str]) -> dict[str, Any]:
    submission = copy.deepcopy(released)
    for cell in submission["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if name in answers:
            cell["source"] = answers[name]
    return submission


def take_step(course: Path, step: str, *students: str) -> str:
    variables = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        # nbgrader starts alembic, which is beside this Python, activated or not.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    program = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "nbgrader_course.py")]
    ran = subprocess.run(
        [*program, str(course), step, STEM, *students],
        cwd=course,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the assignment that nbgrader has made from its source with answers."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "nbgrader_config.py").write_text(NBGRADER_CONFIG, encoding="utf-8")
    put(folder / "source" / STEM, as_assignment(answers=True))
    take_step(folder, "generate")
    return folder


def as_assignment(*, answers: bool) -> dict[str, Any]:
    chapter, questions = read_chapters(ROOT)[STEM], read_questions(ROOT)[STEM]
    return assignment(trimmed_chapter(), chapter, questions, answers=answers)


def put(folder: Path, notebook: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / f"{STEM}.ipynb").write_bytes(notebook_bytes(notebook))


def released(course: Path) -> dict[str, Any]:
    return json.loads((course / "release" / STEM / f"{STEM}.ipynb").read_text(encoding="utf-8"))


def test_what_nbgrader_releases_is_what_students_download(course: Path) -> None:
    made = released(course)
    for cell in made["cells"]:
        # Two fields that nbgrader adds for itself.
        for field in ("checksum", "cell_type"):
            cell["metadata"].get("nbgrader", {}).pop(field, None)
    assert made == as_assignment(answers=False)
    text = json.dumps(made)
    assert CODE_STUB in text
    assert TEXT_STUB in text


@pytest.mark.timeout(900)  # three kernels, one after the other; half a minute on a quiet machine
def test_points_are_exact(course: Path) -> None:
    blank = released(course)
    for student, answers in (("right", RIGHT), ("half", HALF_RIGHT), ("empty", {})):
        put(course / "submitted" / student / STEM, filled(blank, answers))
    found = json.loads(take_step(course, "grade", *EXPECTED).splitlines()[-1])
    points = {
        student: {re.sub(r"^check-ex-logsumexp-|-.*", "", name): got for name, got in row.items()}
        for student, row in found["points"].items()
    }
    assert points == EXPECTED
    assert found["totals"] == TOTALS
    for student, total in TOTALS.items():
        page = (course / "feedback" / student / STEM / f"{STEM}.html").read_text(encoding="utf-8")
        assert f"(Score: {total:.1f} / 20.0)" in page
        assert ("passed." in page) == (student == "right")
        assert ("not right yet." in page) == (student == "half")
        assert ("not done yet." in page) == (student == "empty")
