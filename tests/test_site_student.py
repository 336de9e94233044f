"""What students and teachers download: complete, working by itself, for students without answers.

An answer here is any statement of a solution's code, any sentence of its text, and any sentence
of a model answer or a marking scheme. None of them occurs in any file of the student's archive,
with two exceptions: what a chapter shows anyway, outside of its solutions, and the few statements
that a checker needs as well (`IN_THE_CHECKERS`). Checkers compute what is right, so the archive
holds the formulas; the page on marking says so.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book.extensions.bundles import only_sections, write_zip
from book.extensions.cards import read_chapters
from book.extensions.grading import read_questions
from book.extensions.stored_values import find_source, look_up, written_out

CHAPTERS = list(read_chapters(ROOT))
SHORTEST = 16
"""Signs without spaces; below, a statement such as `x = 1` says nothing."""
IN_THE_CHECKERS = {
    "t=np.arange(len(rewards))",
    "policy=agent.policy(observation)",
    "action,log_prob=policy.rsample_with_log_prob((),agent.generator)",
    "factor=1-rate*(1-discount)",
    "exact=math.log((1-share)/discount)/math.log(factor)",
    "td_loss=(data_q-target.detach()).square().mean(dim=-1)",
    "difference=first-second",
    "returnfloat(low),float(high)",
    "(w1,b1),(w2,b2)=layers",
}
ARCHIVES = ("student", "teacher")
Cell = dict[str, Any]


def stored(stem: str) -> list[Cell]:
    path = ROOT / "notebooks" / f"{stem}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@cache
def unpacked(archive: Path) -> dict[str, bytes]:
    """Files of an archive by path below its one folder."""
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        names = packed.namelist()
        assert {name.split("/")[0] for name in names} == {archive.stem}
        return {name.split("/", 1)[1]: packed.read(name) for name in names}


@pytest.fixture(params=ARCHIVES)
def archive(request: pytest.FixtureRequest, site: Path) -> Path:
    return site / "downloads" / f"offline-rl-book-{request.param}.zip"


@pytest.fixture
def student(site: Path) -> dict[str, bytes]:
    return unpacked(site / "downloads" / "offline-rl-book-student.zip")


@pytest.fixture
def teacher(site: Path) -> dict[str, bytes]:
    return unpacked(site / "downloads" / "offline-rl-book-teacher.zip")


# ---- No answer ----------------------------------------------------------------------------------


def statements(code: str) -> Iterator[str]:
    """Every simple statement, however deep, without calls of the checker and docstrings."""
    for statement in ast.walk(ast.parse(code)):
        if isinstance(statement, ast.stmt) and not hasattr(statement, "body"):
            text = ast.get_source_segment(code, statement) or ""
            if not text.startswith(("check(", '"""')):
                yield text


def sentences(text: str) -> list[str]:
    prose = re.sub(r"^(```.*|:class:.*)$", "", text, flags=re.M)
    return re.split(r"(?<=[.:?!])\s+|\n", prose)


def pieces(cell: Cell) -> list[str]:
    parts = statements(source(cell)) if cell["cell_type"] == "code" else sentences(source(cell))
    return [piece for piece in map(squeezed, parts) if len(piece) >= SHORTEST]


def is_solution(cell: Cell) -> bool:
    return "solution" in cell["metadata"].get("tags", [])


@cache
def shown() -> str:
    """Everything that the chapters say outside of their solutions."""
    cells = [cell for stem in CHAPTERS for cell in stored(stem) if not is_solution(cell)]
    return squeezed("\n".join(map(source, cells)))


def readable(name: str, content: bytes) -> str:
    if name.endswith(".ipynb"):
        return "\n".join(map(source, json.loads(content)["cells"]))
    return content.decode("utf-8", errors="ignore")


@pytest.fixture(scope="module")
def everything(site: Path) -> str:
    files = unpacked(site / "downloads" / "offline-rl-book-student.zip")
    return "\n".join(squeezed(readable(name, content)) for name, content in files.items())


@pytest.mark.parametrize("stem", CHAPTERS)
def test_no_solution_is_in_the_students_archive(everything: str, stem: str) -> None:
    solutions = [piece for cell in stored(stem) if is_solution(cell) for piece in pieces(cell)]
    own = [piece for piece in solutions if piece not in shown() and piece not in IN_THE_CHECKERS]
    assert len(own) >= 5, "a chapter's solutions say something of their own"
    assert [piece for piece in own if piece in everything] == []


@pytest.mark.parametrize("stem", CHAPTERS)
def test_no_marking_scheme_is_in_the_students_archive(everything: str, stem: str) -> None:
    for question in read_questions(ROOT)[stem]:
        texts = [question.answer, *(criterion.what for criterion in question.earns)]
        texts += [text for half in question.half_right for text in (half.answer, half.why)]
        found = [squeezed(piece) for text in texts for piece in sentences(text)]
        own = [piece for piece in found if len(piece) >= SHORTEST and piece not in shown()]
        assert own
        assert [piece for piece in own if piece in everything] == []
        assert squeezed(question.question) in everything, "the question itself is"


def test_the_exceptions_are_in_the_checkers_and_needed(student: dict[str, bytes]) -> None:
    checkers = squeezed(
        "\n".join(t.decode() for name, t in student.items() if "/exercise_checks/" in name)
    )
    solutions = {
        piece
        for stem in CHAPTERS
        for cell in stored(stem)
        if is_solution(cell) and cell["cell_type"] == "code"
        for piece in pieces(cell)
    }
    assert solutions >= IN_THE_CHECKERS
    assert all(statement in checkers for statement in IN_THE_CHECKERS)


def test_students_get_no_outputs_and_no_marks_of_answers(student: dict[str, bytes]) -> None:
    for name, content in student.items():
        if name.endswith(".ipynb"):
            cells = json.loads(content)["cells"]
            assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert not [name for name, content in student.items() if b"### BEGIN SOLUTION" in content]
    assert not [name for name in student if "marking" in name or "quiz" in name]


# ---- Complete -----------------------------------------------------------------------------------


def test_every_chapter_is_in_both_archives(
    student: dict[str, bytes], teacher: dict[str, bytes], site: Path
) -> None:
    wanted = {f"notebooks/{stem}.ipynb" for stem in CHAPTERS}
    for files in (student, teacher):
        assert {name for name in files if name.startswith("notebooks/")} == wanted
    for name in wanted:
        assert student[name] == (site / "student" / Path(name).name).read_bytes()
        assert json.loads(teacher[name]) == json.loads((ROOT / name).read_text(encoding="utf-8"))
    sources = {f"course/source/{stem}/{stem}.ipynb" for stem in CHAPTERS}
    assert {name for name in teacher if name.startswith("course/")} == {
        *sources,
        "course/nbgrader_config.py",
    }


@pytest.mark.parametrize("stem", CHAPTERS)
def test_each_chapter_links_to_its_student_notebook(site: Path, stem: str) -> None:
    page = (site / "notebooks" / f"{stem}.html").read_text(encoding="utf-8")
    soup = BeautifulSoup(page, "html.parser")
    assert soup.select(f'article a[href="../student/{stem}.ipynb"]')


def test_the_text_holds_the_numbers_that_jupyterlab_does_not_look_up(
    student: dict[str, bytes], teacher: dict[str, bytes]
) -> None:
    for files, folder in ((student, "notebooks/"), (teacher, "course/source/")):
        for name in (name for name in files if name.startswith(folder) and name[-6:] == ".ipynb"):
            text = readable(name, files[name])
            assert not re.findall(r"\{(?:value|glue:\w+)\}`[^`]*`", text), name
    [mixed] = [
        source(cell)
        for cell in json.loads(student["notebooks/01_task_and_data.ipynb"])["cells"]
        if ":label: claim-mixed-data" in source(cell)
    ]
    early, late, together = (
        look_up(find_source(ROOT, "01_task_and_data"), f"task-{key}")
        for key in ("early", "late", "all")
    )
    assert f"average {early}, the last fifty {late}, and all 100 together {together}." in mixed


def test_a_number_that_is_not_stored_stays_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "results" / "runs.json").write_text('{"a": {"b": 2.25}}')
    glued = {"name": "x-one", "mime_prefix": ""}
    output = {"metadata": {"scrapbook": glued}, "data": {"text/plain": "'1.50'"}}
    text = (
        "{value}`runs:a.b:.1f` {value}`runs:a.b` {glue:text}`x-one` {glue:text}`x-one:.1f` "
        "{value}`runs:a.c` {value}`walks:a` {glue:text}`x-two` {doc}`x-one`"
    )
    cells = [
        {"cell_type": "code", "source": "{glue:text}`x-one`", "outputs": [output]},
        {"cell_type": "markdown", "source": [text]},
    ]
    made = written_out(tmp_path, {"cells": cells, "metadata": {}})
    assert made["cells"][0] == cells[0]
    assert made["cells"][1]["source"] == (
        "2.2 2.25 1.50 1.5 {value}`runs:a.c` {value}`walks:a` {glue:text}`x-two` {doc}`x-one`"
    )


def test_the_teachers_archive_is_offered_to_teachers_only(site: Path) -> None:
    offered: dict[str, set[str]] = {name: set() for name in ARCHIVES}
    for page in (site / "book").rglob("*.html"):
        for name in ARCHIVES:
            if f"downloads/offline-rl-book-{name}.zip" in page.read_text(encoding="utf-8"):
                offered[name].add(page.relative_to(site / "book").with_suffix("").as_posix())
    assert {"setup", "teaching/index", "teaching/plan_90", "teaching/hosting"} < offered["student"]
    assert offered["teacher"] == {"teaching/index", "teaching/marking"}


# ---- Working by themselves ----------------------------------------------------------------------

PROGRAM = """
from pathlib import Path
import json, sys
import offline_rl_lib
from offline_rl_lib.data import load_dataset, shipped_datasets
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.teaching import check

here = Path(sys.argv[1])
assert Path(offline_rl_lib.__file__).is_relative_to(here), offline_rl_lib.__file__
print(len([load_dataset(name) for name in shipped_datasets()]))
assert RESULTS.is_relative_to(here)
print(len(load_runs(RESULTS / "comparison.jsonl")))
print(check("ex-e2e-weight", ("fall", "rise"), points=2))
"""


def test_the_folder_works_by_itself(archive: Path, tmp_path: Path) -> None:
    folder = in_a_folder(archive, tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=folder / "notebooks",
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    datasets, runs, *_, points = ran.stdout.splitlines()
    assert int(datasets) >= 2
    assert int(runs) >= 80
    assert float(points) == 2


def imported(code: str) -> set[str]:
    """First parts of the names of the modules that a cell imports, those of Python aside."""
    names = set()
    for statement in ast.walk(ast.parse(code)):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            names.add(statement.module or "")
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


def installed_by(requirements: Iterable[str]) -> set[str]:
    """Names of the packages that an installer brings: those named, and what they need."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += map(Requirement, metadata.requires(name) or [])
    return found


def test_every_module_that_a_chapter_imports_is_installed(archive: Path) -> None:
    files = unpacked(archive)
    listed = [
        line for line in files["requirements.txt"].decode().splitlines() if line[:1].isalpha()
    ]
    library = tomllib.loads(files["pyproject.toml"].decode())["project"]["dependencies"]
    packages = installed_by([*listed, *library])
    providers = metadata.packages_distributions()
    chapters = [json.loads(files[name])["cells"] for name in files if name.startswith("notebooks/")]
    codes = [source(c) for cells in chapters for c in cells if c["cell_type"] == "code"]
    wanted = set().union(*map(imported, codes))
    assert {"torch", "matplotlib"} < wanted
    missing = {
        name
        for name in wanted - {"offline_rl_lib"}
        if not packages & {canonicalize_name(provider) for provider in providers.get(name, [])}
    }
    assert missing == set()


def test_the_folder_is_ready_on_a_machine_that_has_its_packages(
    archive: Path, tmp_path: Path
) -> None:
    folder = in_a_folder(archive, tmp_path)
    checked = run_in(folder, "tools/check_environment.py")
    assert checked.stdout.splitlines()[-1].startswith("READY"), checked.stdout
    assert "FAIL" not in checked.stdout
    # Who is told to type what builds the site hears what to type here.
    told = run_in(folder, "run.py", "book")
    assert told.returncode == 1
    assert "run.py lab" in told.stdout + told.stderr
    assert "Traceback" not in told.stderr
    assert not (folder / ".venv").exists()


def in_a_folder(archive: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    return tmp_path / archive.stem


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_the_folder_installs_is_there(archive: Path) -> None:
    files = unpacked(archive)
    needed = {"README.md", "LICENSE", "pyproject.toml", "constraints.txt", "run.py"}
    assert needed < set(files)
    library = {
        path.relative_to(ROOT).as_posix()
        for kind in ("*.py", "*.js", "*.hdf5", "py.typed")
        for path in (ROOT / "offline_rl_lib").rglob(kind)
    }
    assert library <= set(files)
    listed = files["requirements.txt"].decode().splitlines()
    assert "-e ." in listed
    assert any(line.startswith("jupyterlab>") for line in listed)
    assert any(line.startswith("nbgrader") for line in listed) == ("teacher" in archive.stem)
    assert not any(line.startswith(("jupyter-book", "playwright")) for line in listed)
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]


def test_the_teachers_settings_are_python(teacher: dict[str, bytes]) -> None:
    ast.parse(teacher["course/nbgrader_config.py"])


# ---- Archives -----------------------------------------------------------------------------------


def test_the_archives_hold_no_time_and_no_chance(archive: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr for entry in entries} == {0o644 << 16}


def test_the_same_files_give_the_same_archive(tmp_path: Path) -> None:
    files = {"b/two": b"2" * 1000, "a": b"1"}
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        write_zip(tmp_path / folder / "x.zip", files)
        files = dict(reversed(files.items()))
    first, second = ((tmp_path / folder / "x.zip").read_bytes() for folder in ("one", "other"))
    assert first == second
    assert unpacked(tmp_path / "one" / "x.zip") == files


def test_sections_of_the_requirements_are_chosen_by_their_headings() -> None:
    text = "# All\n-e .\n\n# The book\nbook>1\n\n# Running\nlab>1\nkernel>1\n"
    assert only_sections(text, ("# Running",)) == "# All\n-e .\n\n# Running\nlab>1\nkernel>1\n"
    headings = {block.splitlines()[0] for block in REQUIREMENTS.split("\n\n")}
    assert {"# Running the notebooks", "# Collecting and grading the work of a class"} < headings


REQUIREMENTS = (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_points_and_parts_stand_on_the_page(site: Path) -> None:
    page = (site / "book" / "teaching" / "marking.html").read_text(encoding="utf-8")
    soup = BeautifulSoup(page, "html.parser")
    shown_points = [row.select("td") for row in soup.select("article table tbody tr")]
    chapters = yaml.safe_load((ROOT / "book/teaching/chapters.yml").read_text(encoding="utf-8"))
    wanted = [
        points for chapter in chapters.values() for points in chapter["exercise_points"].values()
    ]
    found = [int(row[1].text) for row in shown_points if row[0].select('a[href*="#ex-"]')]
    assert found == wanted
    assert len(soup.select("article section[id^=marking-0], article section[id^=marking-1]")) == (
        len(chapters)
    )
