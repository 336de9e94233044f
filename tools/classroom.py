"""Collect the book with all its packages into one folder that installs without a network.

``python run.py classroom`` builds the site and calls this. uv resolves the tested versions for each
system and Python version; each wheel is fetched once and its SHA-256 compared. `run.py` in the
new folder finds the folder `wheels` beside it and installs from there alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # Started as a script, Python looks in tools only.

import run  # noqa: E402

SYSTEMS = {
    "linux": "x86_64-manylinux_2_28",
    "windows": "x86_64-pc-windows-msvc",
    "macos": "aarch64-apple-darwin",
}
"""What the teacher types, and the platform as uv calls it: x86-64 twice, Apple silicon."""

PYTHONS = ("3.11", "3.12", "3.13")
FOLDER = "cql-step-by-step"
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".ipynb_checkpoints", ".DS_Store")
NOT_COPIED_FROM_ROOT = {"_build", "build", "datasets", "dist", "mutants", run.WHEELS}


class NoWheel(Exception):
    """A package cannot be had for a student's system; the message says which and why."""


@dataclass(frozen=True)
class Target:
    """A system and a Python version that students have."""

    system: str
    python: str

    def __str__(self) -> str:
        return f"{self.system} with Python {self.python}"


@dataclass(frozen=True)
class Wheel:
    """A file to fetch: its address, and the digest and size in bytes (0: not told) to expect."""

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The file's name, which says for which systems it is."""
        return unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]


def resolve_command(target: Target, needed: Path, output: Path) -> list[str]:
    """Return the command line that writes the list of wheels for one target to `output`.

    `needed` names what the set-up takes beyond requirements.txt: uv itself and the build system.
    """
    return [
        *("-m", "uv", "pip", "compile", "requirements.txt", str(needed), "-c", "constraints.txt"),
        *("--python-platform", SYSTEMS[target.system], "--python-version", target.python),
        *("--only-binary", ":all:", "--no-emit-package", "offline-rl-lib"),
        *("--format", "pylock.toml", "--output-file", str(output), "--quiet"),
    ]


def resolve_settings(
    target: Target, pip: dict[str, str], variables: Mapping[str, str]
) -> dict[str, str]:
    """Return uv's variables: on Linux the CPU build of torch, whatever system collects."""
    settings = run.uv_settings(pip, variables)
    settings.pop("UV_TORCH_BACKEND", None)
    wheels_named = "UV_FIND_LINKS" in {*settings, *variables}
    if target.system == "linux" and not wheels_named and "UV_TORCH_BACKEND" not in variables:
        settings["UV_TORCH_BACKEND"] = "cpu"
    if target.system == "macos":
        settings["MACOSX_DEPLOYMENT_TARGET"] = "14.0"  # The oldest that torch is built for.
    return settings


def read_wheels(lock: str) -> list[Wheel]:
    """Return the wheels of a pylock.toml, one a package.

    Raises:
        NoWheel: Some packages have none.
    """
    packages = tomllib.loads(lock)["packages"]
    without = [f"{package['name']} {package['version']}" for package in packages
               if not package.get("wheels")]  # fmt: skip
    if without:
        raise NoWheel(f"no wheel of {', '.join(without)}")
    found = [package["wheels"][0] for package in packages]
    return [Wheel(one["url"], one["hashes"]["sha256"], one.get("size", 0)) for one in found]


def resolve(environment: run.Environment, target: Target, folder: Path) -> list[Wheel]:
    """Ask uv for the wheels of one target.

    Raises:
        NoWheel: With uv's own words, which name the package and what there is of it.
    """
    with (environment.root / "pyproject.toml").open("rb") as file:
        build = tomllib.load(file)["build-system"]["requires"]
    needed, output = folder / "needed.txt", folder / "pylock.toml"
    needed.write_text("\n".join(["uv", *build]) + "\n", encoding="utf-8")
    output.unlink(missing_ok=True)  # uv would keep old choices.
    settings = resolve_settings(target, run.pip_settings(environment), os.environ)
    done = subprocess.run(
        [str(environment.python), *resolve_command(target, needed, output)],
        cwd=environment.root,
        env={**environment.variables(), **settings},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise NoWheel(f"{target}: {done.stderr.strip()}")
    try:
        return read_wheels(output.read_text(encoding="utf-8"))
    except NoWheel as error:
        raise NoWheel(f"{target}: {error}") from error


def is_whole(path: Path, wheel: Wheel) -> bool:
    """Whether the file is there and is what was published."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


def fetch(wheel: Wheel, folder: Path, tries: int = 3) -> int:
    """Download one wheel, unless it is there already; return its size in bytes.

    Raises:
        OSError: It cannot be had, or arrives damaged every time.
    """
    path = folder / wheel.name
    unfinished = path.with_name(f".{path.name}.unfinished")
    for attempt in range(1, tries + 1):
        if is_whole(path, wheel):
            break
        try:
            with (
                urllib.request.urlopen(wheel.url, timeout=60) as source,
                unfinished.open("wb") as f,
            ):
                shutil.copyfileobj(source, f)
            if not is_whole(unfinished, wheel):
                raise OSError("it arrived damaged")
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            if attempt == tries:
                raise OSError(f"{wheel.name}: {error}") from error
            time.sleep(attempt)
    return path.stat().st_size


def fetch_all(wheels: Iterable[Wheel], folder: Path) -> int:
    """Download all wheels, remove those of an earlier collection; return the bytes of all."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {wheel.name: wheel for wheel in wheels}
    for stale in (path for path in folder.iterdir() if path.name not in wanted):
        stale.unlink()
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda wheel: fetch(wheel, folder), wanted.values()))


def copy_book(root: Path, destination: Path) -> None:
    """Copy the book and its built site, without what belongs to this machine."""

    def leave_out(folder: str, names: list[str]) -> set[str]:
        left = NOT_COPIED(folder, names)
        if Path(folder) == root:
            left |= {name for name in names if name[0] == "." or name in NOT_COPIED_FROM_ROOT}
        return left

    for old in destination.iterdir():
        if old.name != run.WHEELS:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(root, destination, ignore=leave_out, dirs_exist_ok=True)
    site = Path("_build", "html")
    shutil.copytree(root / site, destination / site)


def collect(
    root: Path,
    targets: Sequence[Target],
    folder: Path,
    resolver: Callable[[Target], list[Wheel]],
) -> int:
    """Fill the folder for all targets; return the bytes of its wheels.

    Raises:
        NoWheel: Naming every target that lacks a package.
        OSError: A file cannot be had or written.
    """
    found: dict[str, Wheel] = {}
    problems = []
    for target in targets:
        try:
            wheels = resolver(target)
        except NoWheel as error:
            problems.append(str(error))
            continue
        found |= {wheel.name: wheel for wheel in wheels}
        told = sum(wheel.size for wheel in wheels)
        run.say(f"{target}: {len(wheels)} packages, at least {told / 1e6:.0f} MB")
    if problems:
        raise NoWheel("\n".join(problems))
    run.say(f"Fetching {len(found)} files ...")
    copy_book(root, folder)
    size = fetch_all(found.values(), folder / run.WHEELS)
    contents = json.dumps({"collected for": [str(target) for target in targets]}, indent=1)
    (folder / run.WHEELS / run.CONTENTS).write_text(contents + "\n", encoding="utf-8")
    return size


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(
        prog=f"{run.THIS} classroom",
        description="Collect the book and all packages into a folder that installs offline.",
    )
    names = ", ".join(SYSTEMS)
    add = top.add_argument
    add("--platforms", nargs="+", choices=SYSTEMS, default=[*SYSTEMS], metavar="SYSTEM",
        help=f"systems of the students (all): {names}")  # fmt: skip
    add("--python", nargs="+", choices=PYTHONS, default=[*PYTHONS], metavar="VERSION",
        dest="pythons", help=f"their Python versions (all): {', '.join(PYTHONS)}")  # fmt: skip
    add("--output", type=Path, default=ROOT / "_build" / "classroom", metavar="FOLDER",
        help=f"where to put the folder {FOLDER} (_build/classroom)")  # fmt: skip
    return top


WHAT_NOW = """A package without a wheel: leave that system or Python version out.
A file that cannot be had: repeat the command; what is there is kept."""


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Collect, and say what to hand out."""
    options = parser().parse_args(arguments)
    environment = run.Environment(root)
    targets = [Target(system, python) for system in options.platforms for python in options.pythons]
    folder = options.output.resolve() / FOLDER
    if folder.is_relative_to(root) and not folder.is_relative_to(root / "_build"):
        parser().error("the output may not lie in the folder of the book itself")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    def resolver(target: Target) -> list[Wheel]:
        return resolve(environment, target, folder.parent)

    try:
        size = collect(root, targets, folder, resolver)
    except (NoWheel, OSError) as error:
        print(f"\nThe folder is not complete.\n{error}\n\n{WHAT_NOW}", file=sys.stderr)
        return 1
    everything = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    seconds = time.perf_counter() - started
    print(
        f"\n{folder}\n  {everything / 1e6:.0f} MB, of which wheels {size / 1e6:.0f} MB; "
        f"{seconds:.0f} s.\nCopy this folder to the students' machines. There, without a network:\n"
        "  python3 run.py book     (Windows: py run.py book)\n  python3 run.py check"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
