"""The script run.py and its tools: set-up survives a kill, a failing notebook is not stored."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

import run
from tools import check_environment, execute_notebooks

ROOT = Path(run.__file__).parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the three files that decide what is installed."""
    (tmp_path / "pyproject.toml").write_text('[build-system]\n[project]\nname = "x"\n')
    (tmp_path / "requirements.txt").write_text("numpy>=2\n")
    (tmp_path / "constraints.txt").write_text("numpy==2.0.0\n")
    return tmp_path


class SetUp:
    """A set-up whose slow steps (making the environment, installing) are only counted."""

    def __init__(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.environment = run.Environment(project)
        self.created = 0
        self.installed = 0
        self.failing: Exception | None = None
        self.version = "3.11"
        monkeypatch.setattr(run, "call", self._make)
        monkeypatch.setattr(run, "install_packages", self._install)
        monkeypatch.setattr(run.Environment, "python_version", lambda _: self._python_version())

    def _python_version(self) -> str | None:
        return self.version if self.environment.python.exists() else None

    def _make(self, command: list[object], variables: object = None) -> bool:
        self.environment.programs.mkdir(parents=True)
        self.environment.python.touch()
        self.created += 1
        return True

    def _install(self, environment: run.Environment, newest: bool) -> None:
        assert environment.marker.exists(), "a kill while installing would leave no trace"
        if self.failing:
            raise self.failing
        self.installed += 1

    @property
    def counts(self) -> tuple[int, int]:
        return self.created, self.installed


@pytest.fixture
def setup(project: Path, monkeypatch: pytest.MonkeyPatch) -> SetUp:
    return SetUp(project, monkeypatch)


# ---- The command line -------------------------------------------------------------------------


def test_works_on_its_own_folder_from_any_other(tmp_path: Path) -> None:
    book, elsewhere = tmp_path / "the book", tmp_path / "elsewhere"
    for folder in (book, elsewhere):
        (folder / "_build").mkdir(parents=True)
    shutil.copy(ROOT / "run.py", book)
    subprocess.run([sys.executable, book / "run.py", "clean"], cwd=elsewhere, check=True)
    assert not (book / "_build").exists()
    assert (elsewhere / "_build").exists()


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run.main(["bok"])
    assert stop.value.code == 2
    assert "'book'" in capsys.readouterr().err


def test_an_unknown_test_stage_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["test", "unit", "lnt"]) == 1
    message = capsys.readouterr().err
    assert "lnt" in message
    assert "lint, unit, notebooks, site" in message


def test_an_old_python_is_told_so() -> None:
    assert run.version_message((3, 11, 0)) is None
    assert run.version_message((4, 0, 0)) is None
    message = run.version_message((3, 10, 13))
    assert message is not None
    assert "3.11 or newer; this is 3.10" in message


def test_an_old_python_can_read_the_script_as_far_as_the_message() -> None:
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    assert "tomllib" not in names, "Python 3.10 has no tomllib"


# ---- Set-up -----------------------------------------------------------------------------------


def test_set_up_happens_once(setup: SetUp) -> None:
    setup.environment.set_up()
    assert setup.environment.is_ready()
    setup.environment.set_up()
    assert setup.counts == (1, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "numpy>=2\nscipy>=1\n"),
        ("constraints.txt", "numpy==2.1.0\n"),
        ("pyproject.toml", '[build-system]\n[project]\nname = "x"\ndependencies = ["tqdm"]\n'),
    ],
)
def test_a_changed_list_of_packages_renews_them(setup: SetUp, name: str, text: str) -> None:
    setup.environment.set_up()
    (setup.environment.root / name).write_text(text)
    setup.environment.set_up()
    assert setup.counts == (1, 2)


def test_settings_of_other_tools_do_not_renew_packages(setup: SetUp) -> None:
    setup.environment.set_up()
    with (setup.environment.root / "pyproject.toml").open("a") as file:
        file.write("[tool.ruff]\nline-length = 100\n")
    setup.environment.set_up()
    assert setup.counts == (1, 1)


def test_newest_packages_are_not_taken_for_the_tested_ones(setup: SetUp) -> None:
    setup.environment.set_up(newest=True)
    assert setup.environment.is_ready(newest=True)
    assert not setup.environment.is_ready()


def test_a_moved_folder_is_set_up_anew(setup: SetUp, tmp_path: Path) -> None:
    setup.environment.set_up()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "constraints.txt", ".venv"):
        (tmp_path / name).rename(moved / name)
    setup.environment = run.Environment(moved)
    assert not setup.environment.is_ready()


@pytest.mark.parametrize("kill", [KeyboardInterrupt(), SystemExit()])
def test_a_killed_set_up_starts_again_from_nothing(setup: SetUp, kill: Exception) -> None:
    setup.failing = kill
    with pytest.raises(type(kill)):
        setup.environment.set_up()
    assert not setup.environment.is_ready()
    half_installed = setup.environment.folder / "half-installed"
    half_installed.touch()
    setup.failing = None
    setup.environment.set_up()
    assert setup.environment.is_ready()
    assert setup.counts == (2, 1)
    assert not half_installed.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows itself keeps files in use")
def test_programs_that_outlive_a_killed_set_up_are_waited_for(project: Path) -> None:
    program = "import time; time.sleep(2)"
    starter = (
        f"import run, sys, pathlib; environment = run.Environment(pathlib.Path({str(project)!r}))\n"
        f"with environment._lock(): print('locked', flush=True); "
        f"run.call([sys.executable, '-c', {program!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        time.sleep(0.5)
        first.kill()
        killed = time.perf_counter()
        with run.Environment(project)._lock():
            assert time.perf_counter() - killed > 0.5


def test_a_failed_renewal_keeps_the_environment(setup: SetUp) -> None:
    setup.environment.set_up()
    (setup.environment.root / "requirements.txt").write_text("numpy>=3\n")
    setup.failing = run.Problem("no network")
    with pytest.raises(run.Problem, match="no network"):
        setup.environment.set_up()
    assert not setup.environment.is_ready()
    setup.failing = None
    setup.environment.set_up()
    assert setup.counts == (1, 2)


def test_a_replaced_python_is_noticed(setup: SetUp) -> None:
    setup.environment.set_up()
    setup.version = "3.13"
    setup.environment.set_up()
    assert setup.counts == (2, 2)


def test_a_damaged_stamp_is_a_reason_to_start_again(setup: SetUp) -> None:
    setup.environment.set_up()
    setup.environment.stamp.write_text("{")
    setup.environment.set_up()
    assert setup.counts == (2, 2)


def test_an_environment_of_the_readers_own_is_used_not_deleted(setup: SetUp) -> None:
    setup._make([])
    own = setup.environment.folder / "own-file"
    own.touch()
    setup.environment.set_up()
    assert setup.counts == (1, 1)
    assert own.exists()


def test_a_folder_that_is_no_environment_is_left_alone(setup: SetUp) -> None:
    setup.environment.folder.mkdir()
    own = setup.environment.folder / "own-file"
    own.touch()
    with pytest.raises(run.Problem, match="Rename or delete that folder"):
        setup.environment.set_up()
    assert own.exists()
    assert setup.counts == (0, 0)


def test_debian_without_venv_is_told_the_package(
    setup: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(run.Problem, match="apt-get install python3-venv"):
        setup.environment.set_up()


def test_the_version_is_asked_of_the_python_itself(project: Path) -> None:
    environment = run.Environment(project)
    assert environment.python_version() is None
    environment.python = Path(sys.executable)
    assert environment.python_version() == "{}.{}".format(*sys.version_info)


# ---- Where packages come from -----------------------------------------------------------------


def test_pip_settings_are_read_with_pips_precedence() -> None:
    listing = (
        ":env:.find-links='/from/variable'\n"
        "global.find-links='/from/file'\n"
        "global.index-url='https://one.example/simple'\n"
        "install.index-url='https://two.example/simple'\n"
        "not a setting\n"
    )
    assert run.parse_pip_settings(listing) == {
        "find-links": "/from/variable",
        "index-url": "https://two.example/simple",
    }


def test_pip_settings_become_uv_settings() -> None:
    pip = {
        "find-links": "/a /b",
        "index-url": "https://one.example",
        "extra-index-url": "\nhttps://two.example\nhttps://three.example",
        "cert": "/ca.pem",
    }
    assert run.uv_settings(pip, {}) == {
        "UV_FIND_LINKS": "/a,/b",
        "UV_DEFAULT_INDEX": "https://one.example",
        "UV_INDEX": "https://two.example https://three.example",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "SSL_CERT_FILE": "/ca.pem",
    }


def test_what_the_reader_set_for_uv_wins() -> None:
    assert run.uv_settings({"find-links": "/a"}, {"UV_FIND_LINKS": "/b"}) == {}


@pytest.mark.parametrize(("system", "expected"), [("linux", "cpu"), ("darwin", None)])
def test_linux_takes_the_cpu_build_of_torch(
    system: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert run.uv_settings({}, {}).get("UV_TORCH_BACKEND") == expected
    assert run.uv_settings({}, {"UV_TORCH_BACKEND": "auto"}) == {}


def test_without_the_cpu_index_the_default_build_is_taken(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = run.Environment(project)
    backends: list[str | None] = []

    def call(*arguments: str, **extra: str) -> bool:
        if "uv" not in arguments[:2]:
            return True
        backends.append(extra.get("UV_TORCH_BACKEND"))
        return backends[-1] is None

    monkeypatch.setattr(environment, "call", call)
    monkeypatch.setattr(run, "pip_settings", lambda _: {})
    monkeypatch.setattr(run, "uv_settings", lambda *_: {"UV_TORCH_BACKEND": "cpu"})
    run.install_packages(environment, newest=False)
    assert backends == ["cpu", None]


def test_failing_installs_say_what_to_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = run.Environment(project)
    monkeypatch.setattr(environment, "call", lambda *_, **__: False)
    with pytest.raises(run.Problem, match="No network"):
        run.install_packages(environment, newest=False)


# ---- Build and test ---------------------------------------------------------------------------


@pytest.fixture
def book(project: Path, monkeypatch: pytest.MonkeyPatch) -> run.Book:
    (project / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n  - chapters:\n"
        "      - file: notebooks/01_a.ipynb\n      - file: 'book/end'  # last\n"
    )
    made = run.Book(project)
    monkeypatch.setattr(made.environment, "set_up", lambda newest: None)
    return made


PAGES = ("index.html", "book/intro.html", "notebooks/01_a.html", "book/end.html")


def builder(book: run.Book, pages: tuple[str, ...], text: str = "</html>\n") -> Callable[..., bool]:
    """A site builder that writes the given pages and reports success."""

    def call(*_: object, **__: str) -> bool:
        for page in pages:
            (book.site / page).parent.mkdir(parents=True, exist_ok=True)
            (book.site / page).write_text(text)
        return True

    return call


def test_a_whole_site_is_reported_with_its_address(
    book: run.Book, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(book.environment, "call", builder(book, PAGES))
    assert book.book() == 0
    assert capsys.readouterr().out.endswith((book.site / "index.html").as_uri() + "\n")


@pytest.mark.parametrize("missing", PAGES)
def test_a_partial_site_is_a_failure(
    book: run.Book, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = tuple(page for page in PAGES if page != missing)
    monkeypatch.setattr(book.environment, "call", builder(book, pages))
    with pytest.raises(run.Problem, match="not complete"):
        book.book()


def test_a_page_cut_off_in_the_middle_is_a_failure(
    book: run.Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book.environment, "call", builder(book, PAGES, "<html><p>and th"))
    assert not book.build()


def test_a_warning_of_the_builder_is_a_failure(
    book: run.Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = builder(book, PAGES)
    monkeypatch.setattr(book.environment, "call", lambda *a, **k: not write(*a, **k))
    assert not book.build()


def test_the_books_own_contents_are_understood() -> None:
    pages = run.expected_pages((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    sources = {Path(page).with_suffix("") for page in pages}
    stored = {path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("notebooks/*.ipynb")}
    assert stored
    assert stored <= sources
    for page in sources:
        assert list(ROOT.glob(f"{page.as_posix()}.*")), f"{page} has no source"


def test_stages_after_a_failed_one_still_run(
    book: run.Book, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def pytest_call(*arguments: object) -> bool:
        ran.append(str(arguments[0]))
        return arguments[0] != "tests"

    monkeypatch.setattr(book, "_pytest", pytest_call)
    assert book.test(["unit", "notebooks"]) == 1
    assert ran == ["tests", "--nbval"]
    summary = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[:2] for line in summary] == [
        ["set-up", "passed"],
        ["unit", "FAILED"],
        ["notebooks", "passed"],
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="mutation testing needs fork")
@pytest.mark.parametrize("ends_well", [True, False])
def test_mutants_are_counted_when_the_run_ends_well(
    book: run.Book,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends_well: bool,
) -> None:
    def call(*arguments: str, **_: str) -> bool:
        if arguments[2] == "export-cicd-stats":
            (book.root / "mutants").mkdir()
            counts = {"total": 20, "killed": 19, "survived": 1}
            stored = book.root / "mutants" / "mutmut-cicd-stats.json"
            stored.write_text(json.dumps(counts), encoding="utf-8")
        return ends_well or arguments[2] != "run"

    monkeypatch.setattr(book.environment, "call", call)
    assert book.mutants([]) == (0 if ends_well else 1)
    assert ("19 of 20 changes noticed, 1 not." in capsys.readouterr().out) is ends_well


def test_every_lint_tool_runs_though_the_first_finds_something(
    book: run.Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools: list[str] = []

    def call(*arguments: str, **_: str) -> bool:
        tools.append(arguments[1])
        return False

    monkeypatch.setattr(book.environment, "call", call)
    assert book.test(["lint"]) == 1
    assert tools == ["ruff", "ruff", "mypy", "codespell_lib"]


def test_a_site_stage_without_tests_is_a_failure(
    book: run.Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book.environment, "call", builder(book, PAGES))
    assert book.test(["site"]) == 1


# ---- Storing notebooks ------------------------------------------------------------------------


def notebook_file(root: Path, name: str, *cells: str) -> Path:
    """Write a notebook with these code cells, and metadata that an editor might leave."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    for cell in notebook.cells:
        cell.metadata = {"tags": ["kept"], "collapsed": True, "vscode": {"languageId": "python"}}
    notebook.metadata = {"author": "somebody", "kernelspec": {"name": "my own kernel"}}
    path = root / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; print('careful', file=sys.stderr)", "writes to the error stream"),
        ("import os; print(os.path.expanduser('~'))", "prints a path of this machine"),
    ],
)
def test_a_notebook_that_fails_stays_as_it_was(
    tmp_path: Path, cell: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = notebook_file(tmp_path, "01_bad", "print(1)", cell)
    before = path.read_bytes()
    assert execute_notebooks.main([], root=tmp_path) == 1
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert reason in capsys.readouterr().err


def test_stored_notebooks_hold_outputs_and_nothing_of_the_editor(tmp_path: Path) -> None:
    path = notebook_file(tmp_path, "02_good", "import time; time.sleep(0.2)", "print(6 * 7)")
    assert execute_notebooks.main(["02"], root=tmp_path) == 0
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert [cell["execution_count"] for cell in stored["cells"]] == [1, 2]
    assert stored["cells"][1]["outputs"][0]["text"] == ["42\n"]
    assert {json.dumps(cell["metadata"]) for cell in stored["cells"]} == {'{"tags": ["kept"]}'}
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    assert stored["metadata"]["language_info"] == {"name": "python"}
    assert "author" not in stored["metadata"]
    results = tmp_path / "book" / "results"
    times = json.loads((results / "chapter_times.json").read_text())["02_good"]
    assert 0.2 <= times["slowest_cell_seconds"] <= times["seconds"] < 30
    assert {"Python", "torch", "processor cores"} <= json.loads(
        (results / "environment.json").read_text()
    ).keys()


def test_a_wrong_notebook_name_lists_the_known_ones(tmp_path: Path) -> None:
    notebook_file(tmp_path, "02_good")
    with pytest.raises(SystemExit, match="02_good"):
        execute_notebooks.main(["03"], root=tmp_path)


def test_widget_names_repeat_from_run_to_run() -> None:
    texts = []
    for model in ("a" * 32, "b" * 32):
        notebook = nbformat.v4.new_notebook()
        state = {model: {"state": {"layout": f"IPY_MODEL_{model}"}}}
        view = {"application/vnd.jupyter.widget-state+json": {"state": state}}
        notebook.metadata["widgets"] = view
        texts.append(execute_notebooks.as_text(notebook, "02"))
    assert texts[0] == texts[1]
    assert "aaaa" not in texts[0]


# ---- The check of the reader's machine ---------------------------------------------------------


def test_the_check_prints_the_fix_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def bad() -> str:
        raise check_environment.Failed("it is broken", "mend it")

    def absent() -> str:
        raise ImportError("No module named 'torch'")

    checks = {"one": bad, "two": absent, "three": lambda: "fine"}
    assert not check_environment.report(checks)
    out = capsys.readouterr().out
    assert "FAIL  one: it is broken\n      Fix: mend it\n" in out
    assert "FAIL  two: No module named 'torch'\n      Fix: run" in out
    assert "PASS  three: fine\n" in out


@pytest.mark.parametrize(
    ("line", "finding"),
    [("numpy>=99", "is not >=99"), ("no-such-package-here>=1", "is missing")],
)
def test_the_check_finds_packages_out_of_range(project: Path, line: str, finding: str) -> None:
    with (project / "pyproject.toml").open("a") as file:
        file.write("dependencies = []\n")
    (project / "requirements.txt").write_text(f"# a comment\n-e .\n{line}\n")
    with pytest.raises(check_environment.Failed, match=finding):
        check_environment.check_packages(project)


def test_this_machine_passes_the_checks_that_tests_need() -> None:
    assert check_environment.check_packages()
    assert check_environment.check_kernel() == "starts"
    assert check_environment.check_writing()
