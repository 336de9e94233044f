"""The two archives of the site: everything a student needs, and everything a teacher needs.

Each holds one folder that works by itself after unpacking: notebooks, the library with its data,
the stored results that chapters read, and the script that sets up and opens JupyterLab.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxRole

from book.extensions.cards import Chapter
from book.extensions.grading import CODE_STUB, TEXT_STUB, Notebook, OpenQuestion, assignment
from book.extensions.stored_values import written_out

FOLDER = "downloads"
STUDENT, TEACHER = "offline-rl-book-student", "offline-rl-book-teacher"
WHOLE_FOLDERS = ("offline_rl_lib", "book/results")
SINGLE_FILES = (
    *("run.py", "tools/check_environment.py", "pyproject.toml", "constraints.txt"),
    *("LICENSE", "LICENSE-TEXT"),
)
RUNNING, GRADING = "# Running the notebooks", "# Collecting and grading the work of a class"
"""Sections of requirements.txt."""
THE_FIRST_MOMENT = (1980, 1, 1, 0, 0, 0)
"""The oldest time that a zip can hold: two builds of the same files give the same archive."""

Files = dict[str, bytes]


def student_files(
    root: Path, notebooks: Mapping[str, Notebook], chapters: Mapping[str, Chapter],
    questions: Mapping[str, list[OpenQuestion]],
) -> Files:  # fmt: skip
    """Return what students get, by path: no answers, no outputs.

    Args:
        root: the book's folder.
        notebooks: the chapters as they are stored, by stem.
        chapters: what each exercise is worth, by stem.
        questions: the open questions, by stem.
    """
    files = {
        f"notebooks/{stem}.ipynb": notebook_bytes(
            assignment(
                *(written_out(root, notebook), chapters[stem], questions.get(stem, [])),
                answers=False,
            )
        )
        for stem, notebook in notebooks.items()
    }
    return files | common_files(root, RUNNING) | {"README.md": STUDENT_README.encode()}


def teacher_files(
    root: Path, notebooks: Mapping[str, Notebook], chapters: Mapping[str, Chapter],
    questions: Mapping[str, list[OpenQuestion]],
) -> Files:  # fmt: skip
    """Return what teachers get, by path: the chapters with answers and outputs, and a course.

    The arguments are those of :func:`student_files`. The course is a folder as nbgrader wants it,
    with one assignment for each chapter.
    """
    files = {f"notebooks/{stem}.ipynb": notebook_bytes(nb) for stem, nb in notebooks.items()}
    for stem, notebook in notebooks.items():
        source = assignment(
            *(written_out(root, notebook), chapters[stem], questions.get(stem, [])), answers=True
        )
        files[f"course/source/{stem}/{stem}.ipynb"] = notebook_bytes(source)
    files["course/nbgrader_config.py"] = NBGRADER_CONFIG.encode()
    return files | common_files(root, RUNNING, GRADING) | {"README.md": TEACHER_README.encode()}


def common_files(root: Path, *sections: str) -> Files:
    """Return what makes a folder work: library, data, results, script, list of packages."""
    paths = [*_whole_folders(root), *(root / name for name in SINGLE_FILES)]
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    text = (root / "requirements.txt").read_text(encoding="utf-8")
    return files | {"requirements.txt": only_sections(text, sections).encode()}


def _whole_folders(root: Path) -> Iterator[Path]:
    for name in WHOLE_FOLDERS:
        for path in (root / name).rglob("*"):
            inner = path.relative_to(root).parts
            if path.is_file() and not any(p == "__pycache__" or p[0] == "." for p in inner):
                yield path


def only_sections(requirements: str, sections: tuple[str, ...]) -> str:
    """Return the first section of a requirements.txt, and those with the given first lines."""
    first, *others = requirements.strip().split("\n\n")
    kept = [block for block in others if block.splitlines()[0] in sections]
    return "\n\n".join([first, *kept]) + "\n"


def notebook_bytes(notebook: Notebook) -> bytes:
    """Return a notebook as it is stored."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def write_zip(path: Path, files: Files) -> None:
    """Write an archive with one folder, named like the archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{path.stem}/{name}", THE_FIRST_MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever the book is built
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])


class BundleRole(SphinxRole):
    """Link to an archive: `{bundle}` with "student" or "teacher"."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link."""
        names = {"student": STUDENT, "teacher": TEACHER}
        if self.text not in names:
            message = f"no bundle {self.text!r}; there are {', '.join(names)}"
            problem = self.inliner.reporter.error(message, line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, problem)], [problem]
        file = f"{names[self.text]}.zip"
        uri = "../" * self.env.docname.count("/") + f"{FOLDER}/{file}"
        return [nodes.reference("", file, internal=True, refuri=uri)], []


NBGRADER_CONFIG = f'''"""Settings of nbgrader for this course; all others are nbgrader's own."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "offline-rl-book"
# What stands in the place of an answer. The notebooks that students download hold the same.
c.ClearSolutions.code_stub = {{"python": {json.dumps(CODE_STUB)}}}
c.ClearSolutions.text_stub = {json.dumps(TEXT_STUB)}
# A few chapters train an agent in one cell.
c.Execute.timeout = 600
'''

_RUN = """## To begin

You need Python 3.11, 3.12 or 3.13, about 2 GB of disk, and a network for the first set-up.
In this folder:

    python3 run.py lab

On Windows write `py` instead of `python3`.
The command makes an isolated environment in the folder `.venv`, installs the packages in it, and
opens JupyterLab with the notebooks. After the first time it needs no network.

    python3 run.py check

checks this machine, says READY, or prints for each problem what to do.

## Without a network

Your class may have a folder named `wheels`, with all packages for your kind of computer.
Copy it into this folder. The command above finds it there and uses nothing else.

## In an environment that you have

    pip install -r requirements.txt -c constraints.txt

from this folder. The library then runs from here: keep the folder.
"""

STUDENT_README = f"""# Conservative Q-Learning (CQL), step by step: for students

The chapters of the book as notebooks, without solutions and without outputs, and all they need:
the library `offline_rl_lib` with its datasets, and the stored results of the long runs.

{_RUN}
## Exercises

Each exercise has two cells. The first is yours: replace the dots. The second checks your answer,
names the likely mistake, and says how many points it has earned; leave that cell as it is.
Before an exercise run the first code cell of its chapter, or all cells of the chapter.
The book numbers exercises by chapter and place: exercise 6.3 is exercise 3 of the notebook whose
name begins with 06.
Some chapters end with a question for your own words. Write your answer where it says so.
A notebook with empty exercises still runs to its end.
Hand in the notebook as your teacher says, under the name it has.
"""

TEACHER_README = f"""# Conservative Q-Learning (CQL), step by step: for teachers

- `notebooks`: the chapters with solutions and outputs.
- `course`: a course for nbgrader with one assignment for each chapter. Its notebooks hold the
  answers between nbgrader's marks, and model answers to the open questions.
- `offline_rl_lib`: the library with its datasets; `book/results`: the results of the long runs.

The page *Marking* of the book says what each answer earns, and how to grade with nbgrader.

{_RUN}
## To grade

In the folder `course`, with the environment above active:

    nbgrader generate_assignment 06_logsumexp_penalty
    nbgrader autograde 06_logsumexp_penalty
    nbgrader generate_feedback 06_logsumexp_penalty
"""
