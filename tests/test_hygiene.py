"""What the repository must not hold, and what must agree between its files."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import run
from tools.check_environment import requirements

ROOT = Path(run.__file__).parent
BINARY = {".gif", ".h5", ".hdf5", ".ico", ".jpg", ".npz", ".pdf", ".png", ".pt", ".woff", ".woff2"}


def text_files() -> dict[str, str]:
    """Every text file that belongs to the repository, committed or about to be."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listing.stdout.split("\0")
    if listing.returncode:  # A downloaded archive has no git.
        skipped = {".venv", "_build", "mutants", ".git"}
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [path.as_posix() for path in found if not skipped & set(path.parts)]
    paths = [Path(name) for name in names if name and "vendor" not in Path(name).parts]
    return {
        path.as_posix(): (ROOT / path).read_text(encoding="utf-8")
        for path in paths
        if (ROOT / path).is_file()
        and path.suffix not in BINARY
        and not {".venv", "__pycache__"} & set(path.parts)
    }


FILES = text_files()
COMMANDS = next(
    set(action.choices)
    for action in run.parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)


def found_in(pattern: str, *, but_not_in: Collection[str] = ()) -> list[str]:
    """Places where a pattern occurs, as "file: text"."""
    return [
        f"{name}: {match.group()}"
        for name, text in FILES.items()
        if name not in but_not_in
        for match in re.finditer(pattern, text)
    ]


def project() -> dict[str, Any]:
    return tomllib.loads(FILES["pyproject.toml"])["project"]


# ---- What must not be there -------------------------------------------------------------------


def test_the_files_are_found() -> None:
    assert {"run.py", "README.md", "offline_rl_lib/__init__.py"} <= FILES.keys()
    assert not found_in("x" * 200)


def test_no_path_of_a_machine() -> None:
    known = [re.escape(str(path)) + r"[/\\]" for path in (ROOT, Path.home())]
    usual = [r"(?<![\w.:/])/(?:home|Users|root)/\w+", r"\b[A-Z]:\\{1,2}Users\b"]
    searching = {"tests/test_hygiene.py", "tests/test_notebooks.py"}  # They name what they seek.
    assert found_in("|".join(known + usual), but_not_in=searching) == []


def test_no_address_of_a_package_index() -> None:
    hosts = [("pypi", "org"), ("files", "pythonhosted"), ("registry", "npmjs"), ("whl", "cpu")]
    assert found_in("|".join("[./]".join(host) for host in hosts)) == []


def test_own_sources_load_nothing_from_a_content_network() -> None:
    names = "cdn|jsdelivr|unpkg|googleapis|gstatic|skypack|esm[.]sh"
    scripts = {name for name in FILES if name.endswith((".js", ".css", ".html"))}
    assert scripts
    assert found_in(rf"https?://[^\s/\"']*(?:{names})") == []


def test_own_scripts_and_styles_load_nothing_from_elsewhere() -> None:
    loads = r"(?:\bimport\b[^;\n]*|url\(|\bsrc=|fetch\()\s*[\"'(]*(?:https?:)?//"
    assert [hit for hit in found_in(loads) if hit.split(":")[0].endswith((".js", ".css"))] == []


# ---- What must agree --------------------------------------------------------------------------


def pins() -> dict[str, str]:
    lines = [line for line in FILES["constraints.txt"].splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines if line]
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("line", list(requirements()))
def test_every_requirement_has_a_range_and_a_tested_version_in_it(line: str) -> None:
    requirement = Requirement(line)
    assert requirement.specifier, "a supported range"
    assert requirement.specifier.contains(pins()[normal(requirement.name)])
    assert not requirement.url


def test_tested_versions_exist_for_every_system() -> None:
    # "+cpu" and the like exist only as files of one system; CUDA packages only for Linux.
    assert [pin for pin in pins().items() if "+" in pin[1] or pin[0].startswith("nvidia")] == []
    assert "uv" in pins(), "the set-up installs uv under the same constraints"


def test_versions_agree() -> None:
    version = project()["version"]
    citation = yaml.safe_load(FILES["CITATION.cff"])
    released = re.search(r"^## \[(\d[^]]*)\] - (\S+)$", FILES["CHANGELOG.md"], re.MULTILINE)
    assert released
    assert released.groups() == (version, citation["date-released"])
    assert citation["version"] == version


def test_the_title_is_the_same_everywhere() -> None:
    title = yaml.safe_load(FILES["_config.yml"])["title"]
    assert yaml.safe_load(FILES["CITATION.cff"])["title"] == title
    assert FILES["README.md"].startswith(f"# {title}\n")
    assert title in project()["description"]


def test_licences_are_there() -> None:
    assert FILES["LICENSE"].startswith("MIT License")
    assert FILES["LICENSE-TEXT"].startswith("Attribution 4.0 International")


def test_the_readme_names_every_command_and_no_other() -> None:
    table = re.findall(r"^\| `python3 run.py (\w+)`", FILES["README.md"], re.MULTILINE)
    assert sorted(table) == sorted(COMMANDS)
    pages = {name: text for name, text in FILES.items() if name.endswith((".md", ".yml", ".toml"))}
    named = {
        command
        for text in pages.values()
        for command in re.findall(r"(?:python3?|py) (?:\S*/)?run\.py (\w+)", text)
    }
    assert named
    assert named <= COMMANDS


def test_commands_are_methods() -> None:
    assert all(callable(getattr(run.Book, command)) for command in COMMANDS)


def test_make_targets_are_the_commands() -> None:
    listed = re.search(r"^COMMANDS = (.*)$", FILES["Makefile"], re.MULTILINE)
    assert listed
    assert set(listed.group(1).split()) == COMMANDS
    named = re.findall(r"`make (?!-)(\w+)`", "".join(FILES[n] for n in FILES if n.endswith(".md")))
    assert set(named) <= COMMANDS


def test_the_test_machine_runs_the_readmes_command() -> None:
    script = FILES[".ci/run"]
    assert script.splitlines()[-1] == 'exec python3 run.py "$@" test'
    assert "export CI=true" in script
    assert os.name == "nt" or os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("name", ["test.yml", "scheduled.yml"])
def test_workflows_run_the_same_commands(name: str) -> None:
    workflow = yaml.safe_load(FILES[f".github/workflows/{name}"])
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    assert commands
    for command in commands:
        assert re.fullmatch(r"[.]ci/run( --newest)?|python run[.]py \w+", command)
    assert "secrets." not in FILES[f".github/workflows/{name}"]


def test_library_and_datasets_are_packaged() -> None:
    data = tomllib.loads(FILES["pyproject.toml"])["tool"]["setuptools"]["package-data"]
    library = ROOT / "offline_rl_lib"
    packaged = {path for pattern in data["offline_rl_lib"] for path in library.glob(pattern)}
    others = {
        ROOT / name
        for name in FILES
        if name.startswith("offline_rl_lib/") and not name.endswith(".py")
    }
    assert others
    assert others <= packaged
