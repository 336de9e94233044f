"""The classroom folder: what is resolved, fetched and copied, and how it installs."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

import run
from tools import check_environment, classroom
from tools.classroom import NoWheel, Target, Wheel

LINUX, WINDOWS, MACOS = (Target(system, "3.12") for system in ("linux", "windows", "macos"))


def published(folder: Path, name: str, content: bytes = b"a wheel") -> Wheel:
    """Put a file where a wheel can be fetched from."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Wheel((folder / name).as_uri(), digest, len(content))


# ---- Which wheels ------------------------------------------------------------------------------


@pytest.mark.parametrize("system", classroom.SYSTEMS)
def test_each_system_gets_the_tested_versions_as_wheels(system: str) -> None:
    command = classroom.resolve_command(Target(system, "3.12"), Path("needed"), Path("out"))
    text = " ".join(command)
    assert f"--python-platform {classroom.SYSTEMS[system]} --python-version 3.12" in text
    assert "requirements.txt needed -c constraints.txt" in text
    assert "--only-binary :all:" in text
    assert "--no-emit-package offline-rl-lib" in text, "the book itself lies beside the wheels"


def test_linux_students_get_the_cpu_build_from_any_teachers_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for teacher in ("linux", "darwin", "win32"):
        monkeypatch.setattr(sys, "platform", teacher)
        assert classroom.resolve_settings(LINUX, {}, {})["UV_TORCH_BACKEND"] == "cpu"
        assert "UV_TORCH_BACKEND" not in classroom.resolve_settings(WINDOWS, {}, {})
    macos = classroom.resolve_settings(MACOS, {}, {})
    assert macos == {"MACOSX_DEPLOYMENT_TARGET": "14.0"}


def test_the_teachers_own_choice_of_torch_wins() -> None:
    own = classroom.resolve_settings(LINUX, {}, {"UV_TORCH_BACKEND": "cu128"})
    assert "UV_TORCH_BACKEND" not in own
    mirror = classroom.resolve_settings(LINUX, {"find-links": "/wheels"}, {})
    assert mirror == {"UV_FIND_LINKS": "/wheels"}


LOCK = """
lock-version = "1.0"
[[packages]]
name = "tqdm"
version = "4.70.1"
wheels = [{ url = "https://one.example/tqdm-4.70.1-py3-none-any.whl", size = 7, hashes = { sha256 = "aa" } }]
[[packages]]
name = "torch"
version = "2.13.0+cpu"
wheels = [{ url = "https://one.example/torch-2.13.0%2Bcpu-cp311.whl", hashes = { sha256 = "bb" } }]
"""  # noqa: E501


def test_wheels_are_read_from_the_lock() -> None:
    tqdm, torch = classroom.read_wheels(LOCK)
    assert (tqdm.name, tqdm.size, tqdm.sha256) == ("tqdm-4.70.1-py3-none-any.whl", 7, "aa")
    assert (torch.name, torch.size) == ("torch-2.13.0+cpu-cp311.whl", 0)


def test_every_package_without_a_wheel_is_named() -> None:
    sources = "".join(
        f'[[packages]]\nname = "{name}"\nversion = "1"\nsdist = {{ url = "https://x.example" }}\n'
        for name in ("first", "second")
    )
    with pytest.raises(NoWheel, match="no wheel of first 1, second 1"):
        classroom.read_wheels(LOCK + sources)


def test_what_uv_says_of_a_missing_wheel_reaches_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["no-such-thing-xyz"]\n')
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "constraints.txt").touch()
    environment = run.Environment(tmp_path)
    environment.python = Path(sys.executable)
    for name, value in (("UV_OFFLINE", "1"), ("UV_NO_INDEX", "1"), ("UV_FIND_LINKS", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(run, "pip_settings", lambda _: {})
    with pytest.raises(NoWheel, match=r"(?s)windows with Python 3\.12: .*no-such-thing-xyz|uv "):
        classroom.resolve(environment, WINDOWS, tmp_path)


# ---- Fetching ----------------------------------------------------------------------------------


def test_a_wheel_is_fetched_once(tmp_path: Path) -> None:
    wheel = published(tmp_path / "index", "tqdm-1-py3-none-any.whl")
    folder = tmp_path / "wheels"
    assert classroom.fetch_all([wheel], folder) == 7
    (tmp_path / "index" / wheel.name).unlink()
    assert classroom.fetch_all([wheel], folder) == 7, "it is there and needs no network"


def test_wheels_of_an_earlier_collection_go(tmp_path: Path) -> None:
    one, two = (published(tmp_path / "index", f"{name}.whl") for name in ("one", "two"))
    folder = tmp_path / "wheels"
    classroom.fetch_all([one], folder)
    classroom.fetch_all([two], folder)
    assert [path.name for path in folder.iterdir()] == ["two.whl"]


def test_a_damaged_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = published(tmp_path / "index", "torch.whl")
    (tmp_path / "index" / wheel.name).write_bytes(b"cut of")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(OSError, match=r"torch\.whl: it arrived damaged"):
        classroom.fetch_all([wheel], tmp_path / "wheels")
    assert list((tmp_path / "wheels").iterdir()) == []


def test_a_damaged_file_from_before_is_fetched_again(tmp_path: Path) -> None:
    wheel = published(tmp_path / "index", "torch.whl")
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / wheel.name).write_bytes(b"half")
    classroom.fetch_all([wheel], folder)
    assert (folder / wheel.name).read_bytes() == b"a wheel"


# ---- The folder --------------------------------------------------------------------------------


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book with all that must not be handed out."""
    root = tmp_path / "book"
    for name in (
        "run.py", "notebooks/01.ipynb", "offline_rl_lib/datasets/data.hdf5",
        "_build/html/index.html", "_build/.doctrees/x", ".venv/bin/python", ".git/config",
        "notebooks/__pycache__/x.pyc", "mutants/x.py",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


HANDED_OUT = {"run.py", "notebooks/01.ipynb", "offline_rl_lib/datasets/data.hdf5",
              "_build/html/index.html"}  # fmt: skip


def test_the_folder_holds_book_site_wheels_and_nothing_else(tmp_path: Path, book: Path) -> None:
    wheels = {
        LINUX: [
            published(tmp_path / "index", "any.whl"),
            published(tmp_path / "index", "linux.whl"),
        ],
        WINDOWS: [published(tmp_path / "index", "any.whl")],
    }
    folder = book / "_build" / "classroom"
    folder.mkdir()
    for _ in range(2):  # Repeating changes nothing.
        size = classroom.collect(book, list(wheels), folder, wheels.__getitem__)
        assert size == 14, "what several systems share is there once"
        assert files(folder) == HANDED_OUT | {
            "wheels/any.whl", "wheels/linux.whl", "wheels/contents.json"
        }  # fmt: skip
        (folder / "notebooks" / "left-over.ipynb").touch()


def test_all_systems_that_lack_something_are_named_before_anything_is_fetched(
    tmp_path: Path, book: Path
) -> None:
    def resolver(target: Target) -> list[Wheel]:
        raise NoWheel(f"{target}: no wheel of torch 2")

    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(NoWheel) as stopped:
        classroom.collect(book, [LINUX, MACOS], folder, resolver)
    assert str(stopped.value).splitlines() == [
        "linux with Python 3.12: no wheel of torch 2",
        "macos with Python 3.12: no wheel of torch 2",
    ]
    assert files(folder) == set()


def test_the_folder_may_not_lie_in_the_book(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        classroom.main(["--output", str(classroom.ROOT / "stick")])
    assert "may not lie in the folder of the book" in capsys.readouterr().err
    assert not (classroom.ROOT / "stick").exists()


# ---- Set-up from the folder --------------------------------------------------------------------


@pytest.fixture
def handed_out(tmp_path: Path) -> run.Environment:
    """The environment of a book with wheels beside it, on a student's machine."""
    folder = tmp_path / "student"
    (folder / run.WHEELS).mkdir(parents=True)
    contents = {"collected for": [str(LINUX), str(WINDOWS)]}
    (folder / run.WHEELS / run.CONTENTS).write_text(json.dumps(contents))
    return run.Environment(folder)


def test_a_folder_of_wheels_takes_the_place_of_the_network(
    handed_out: run.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def call(*arguments: str, **settings: str) -> bool:
        commands.append([*arguments])
        assert not {"UV_INDEX", "UV_DEFAULT_INDEX", "UV_TORCH_BACKEND"} & set(settings)
        return True

    monkeypatch.setattr(handed_out, "call", call)
    run.install_packages(handed_out, newest=False)
    assert [command[1] for command in commands] == ["pip", "uv"]
    for command in commands:
        assert "--no-index" in command
        wheels = command[command.index("--find-links") + 1]
        assert wheels == str(handed_out.root / run.WHEELS)
        assert "constraints.txt" in command
    assert "--offline" in commands[1]


def test_without_that_folder_the_network_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = run.Environment(tmp_path)
    commands: list[str] = []
    monkeypatch.setattr(environment, "call", lambda *a, **_: commands.extend(a) or True)
    monkeypatch.setattr(run, "pip_settings", lambda _: {})
    run.install_packages(environment, newest=False)
    assert not {"--no-index", "--offline", "--find-links"} & set(commands)


def test_a_machine_that_was_not_thought_of_is_told_what_the_folder_is_for(
    handed_out: run.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handed_out, "call", lambda *_, **__: False)
    with pytest.raises(run.Problem) as stopped:
        run.install_packages(handed_out, newest=False)
    assert "linux with Python 3.12, windows with Python 3.12" in str(stopped.value)
    assert "rename the folder" in str(stopped.value)


@pytest.mark.parametrize(
    ("system", "machine", "largest", "fix"),
    [
        ("darwin", "x86_64", 2**63 - 1, "Python for Apple silicon"),
        ("win32", "AMD64", 2**31 - 1, "64-bit Python"),
        ("darwin", "arm64", 2**63 - 1, None),
        ("linux", "x86_64", 2**63 - 1, None),
        ("win32", "AMD64", 2**63 - 1, None),
    ],
)
def test_a_machine_without_torch_is_told_so_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    system: str,
    machine: str,
    largest: int,
    fix: str | None,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "maxsize", largest)
    monkeypatch.setattr("platform.machine", lambda: machine)
    if fix is None:
        assert run.machine_problem() is None
        return
    for name in ("pyproject.toml", "requirements.txt", "constraints.txt"):
        (tmp_path / name).write_text("[build-system]\n[project]\n" if "toml" in name else "")
    with pytest.raises(run.Problem, match=fix):
        run.Environment(tmp_path).set_up()
    assert not (tmp_path / ".venv").exists()
    assert run.Book(tmp_path).check() == 1
    assert f"Fix: {'install a' if system == 'win32' else 'on a Mac'}" in capsys.readouterr().out


def test_a_missing_browser_does_not_fail_a_student(capsys: pytest.CaptureFixture[str]) -> None:
    def no_browser() -> str:
        raise check_environment.Missed("none found", "install one")

    def broken() -> str:
        raise check_environment.Failed("it is broken", "mend it")

    assert check_environment.report({"Python": lambda: "3.12", "browser": no_browser})
    out = capsys.readouterr().out
    assert "NOTE  browser: none found\n      Fix: install one\n" in out
    assert out.endswith("READY: this machine can run the book.\n")
    assert not check_environment.report({"kernel": broken, "browser": no_browser})
    assert "NOT READY: 1 of 2 checks failed" in capsys.readouterr().out


def test_no_browser_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.browsers.find_browser", lambda: None)
    with pytest.raises(check_environment.Missed, match="only the browser tests and the handout"):
        check_environment.check_browser()
