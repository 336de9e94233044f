"""Binder and Colab: their files make the environment of the book, as far as offline can tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / ".binder"
CELL = (ROOT / "book" / "teaching" / "colab_cell.py").read_text(encoding="utf-8")


def test_binder_has_a_python_that_the_book_supports() -> None:
    version = (BINDER / "runtime.txt").read_text(encoding="utf-8").strip()
    assert re.fullmatch(r"python-3\.(11|12|13)", version)


def test_binders_first_step_takes_the_tested_installer() -> None:
    lines = (BINDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert wanted == ["-c ../constraints.txt", "uv"]


@pytest.mark.skipif(sys.platform == "win32", reason="Binder is a Linux machine")
@pytest.mark.parametrize("own", [None, "auto"])
def test_binders_last_step_installs_the_tested_versions_and_checks_them(
    tmp_path: Path, own: str | None
) -> None:
    record = tmp_path / "record"
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\necho "$UV_TORCH_BACKEND" "$@" >> "{record}"\n')
    python.chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    variables.pop("UV_TORCH_BACKEND", None)
    if own:
        variables["UV_TORCH_BACKEND"] = own
    subprocess.run([BINDER / "postBuild"], cwd=ROOT, env=variables, check=True)
    install, check = record.read_text(encoding="utf-8").splitlines()
    assert install == (
        f"{own or 'cpu'} -m uv pip install --no-cache --python {python} "
        "-r requirements.txt -c constraints.txt"
    )
    assert check.endswith("tools/check_environment.py")


RUN_ON_COLAB = """
import os, pathlib, subprocess, sys
ran, really = [], subprocess.run
def instead(command, *more, **settings):
    if command[0] not in ("git", sys.executable):
        return really(command, *more, **settings)
    ran.append([str(part) for part in command])
    if command[0] == "git":
        pathlib.Path(command[-1]).symlink_to({root!r}, target_is_directory=True)
subprocess.run = instead
start = os.getcwd()
for again in (False, True):  # A cell may be run twice.
    os.chdir(start)
    exec({cell!r})
    assert pathlib.Path.cwd().name == "notebooks", pathlib.Path.cwd()
from offline_rl_lib.experiments import RESULTS
assert (RESULTS / "comparison.json").is_file()
print(ran)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is a Linux machine")
def test_the_colab_cell_finds_library_data_and_results(tmp_path: Path) -> None:
    program = RUN_ON_COLAB.format(root=str(ROOT), cell=CELL)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, ran = done.stdout.splitlines()
    assert first == second == "Ready: 20,000 transitions to learn from."
    assert ran.count("'clone'") == 1, "the second time the book is there"
    assert ran.count("'--editable'") == 2


def test_the_books_address_stands_in_one_place() -> None:
    assert len(re.findall(r"https?://", CELL)) == 1
    page = (ROOT / "book" / "teaching" / "hosting.md").read_text(encoding="utf-8")
    assert "example.org" not in page
    assert "{literalinclude} colab_cell.py" in page
