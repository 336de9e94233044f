"""Check that this machine can build, run and test the book; print the fix for what it cannot.

``python run.py check`` calls this inside the book's environment. It also works in an environment
of the reader's own: ``python tools/check_environment.py``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # Started as a script, Python looks in tools only.

OLDEST_PYTHON = (3, 11)
KERNEL_START_SECONDS = 60
# The folder that students unzip holds no site to build and no tests.
SET_UP = (
    f"run `python run.py {'book' if (ROOT / '_toc.yml').is_file() else 'lab'}`; if that does not "
    "help, `python run.py clean --all` before it"
)


class Failed(Exception):
    """A check that did not pass: what is wrong, and the fix."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


class Missed(Failed):
    """Something is not there that reading and running do not need."""


def requirements(root: Path = ROOT) -> Iterator[str]:
    """Yield every requirement of the library, the book and its tests, such as "numpy>=2.0,<3"."""
    with (root / "pyproject.toml").open("rb") as file:
        yield from tomllib.load(file)["project"]["dependencies"]
    for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#-":
            yield line


def check_python() -> str:
    """Python is new enough."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise Failed(f"{found} is too old", "install Python 3.11 or newer and use that one")
    return found


def check_packages(root: Path = ROOT) -> str:
    """Every package is installed in a supported version, and the main ones can be imported."""
    from packaging.requirements import Requirement

    wrong = []
    wanted = [Requirement(line) for line in requirements(root)]
    for requirement in wanted:
        try:
            found = distribution(requirement.name).version
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        raise Failed("; ".join(wrong), SET_UP)
    for name in ("torch", "gymnasium", "minari", "matplotlib", "anywidget", "offline_rl_lib"):
        try:
            import_module(name)
        except Exception as error:  # Whatever an import raises is the finding.
            raise Failed(f"{name} cannot be imported: {error}", SET_UP) from error
    return f"{len(wanted)} in their supported versions"


def check_kernel() -> str:
    """A notebook kernel starts and computes with the Python of this environment."""
    from jupyter_client.manager import start_new_kernel

    try:
        manager, client = start_new_kernel(KERNEL_START_SECONDS, stderr=subprocess.DEVNULL)
    except Exception as error:
        raise Failed(
            f"it did not start within {KERNEL_START_SECONDS} s: {error}",
            "see whether a firewall or virus scanner stops local connections to 127.0.0.1",
        ) from error
    try:
        printed: list[str] = []

        def keep(message: dict[str, dict[str, str]]) -> None:
            printed.append(message["content"].get("text", ""))

        client.execute_interactive("import sys; print(sys.prefix)", output_hook=keep)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    prefix = "".join(printed).strip()
    if not prefix or Path(prefix).resolve() != Path(sys.prefix).resolve():
        raise Failed(
            f"the kernel python3 runs {prefix or 'nothing'}, not this environment",
            "start it with `python run.py lab`, or `python -m ipykernel install --sys-prefix`",
        )
    return "starts"


def check_datasets() -> str:
    """Every shipped dataset loads; loading verifies its hash."""
    from offline_rl_lib.data import load_dataset, shipped_datasets

    names = shipped_datasets()
    fix = "get the files under offline_rl_lib/datasets again, for example with git checkout"
    if not names:
        raise Failed("none is shipped", fix)
    for name in names:
        try:
            load_dataset(name)
        except Exception as error:
            raise Failed(f"{name}: {error}", fix) from error
    return ", ".join(names)


def check_browser() -> str:
    """A Chromium for the browser tests and the handout; reading and running need none."""
    from tools.browsers import HOW_TO_GET_ONE, find_browser

    browser = find_browser()
    if browser is None:
        raise Missed("none found; only the browser tests and the handout need it", HOW_TO_GET_ONE)
    return browser


def check_writing(root: Path = ROOT) -> str:
    """The book's folder can be written to, and the disk has room for a site."""
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise Failed(
            f"{root}: {error.strerror}", "copy the book to a folder of your own"
        ) from error
    free = shutil.disk_usage(root).free / 1e9
    if free < 0.2:
        raise Failed(f"only {free:.1f} GB of disk are free", "free some disk space")
    return f"{root}, {free:.0f} GB free"


CHECKS: dict[str, Callable[[], str]] = {
    "Python": check_python,
    "packages": check_packages,
    "notebook kernel": check_kernel,
    "datasets": check_datasets,
    "writing": check_writing,
}
if (ROOT / "tools" / "browsers.py").is_file():  # Students have neither browser tests nor handout.
    CHECKS["browser for tests and handout"] = check_browser


def report(checks: dict[str, Callable[[], str]]) -> bool:
    """Run every check, print a line for each, the fix where it fails, and a verdict.

    Returns:
        True if the book can be read and run; what only tests need may be missing.
    """
    failed = 0
    for name, check in checks.items():
        try:
            print(f"PASS  {name}: {check()}", flush=True)
            continue
        except Failed as failure:
            problem, fix = re.sub(r"\s+", " ", str(failure)), failure.fix
            word = "NOTE" if isinstance(failure, Missed) else "FAIL"
        except ImportError as error:
            problem, fix, word = str(error), SET_UP, "FAIL"
        failed += word == "FAIL"
        print(f"{word}  {name}: {problem}\n      Fix: {fix}", flush=True)
    if failed:
        print(f"\nNOT READY: {failed} of {len(checks)} checks failed. Do what stands after Fix.")
    else:
        print("\nREADY: this machine can run the book.")
    return failed == 0


if __name__ == "__main__":
    sys.exit(0 if report(CHECKS) else 1)
