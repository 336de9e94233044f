#!/usr/bin/env python3
"""Set up, build, test and run the book: one script for Linux, macOS and Windows.

It needs Python and nothing else, works from any current directory and may be repeated at any time.
Everything it installs goes into the folder .venv beside it; what it builds goes into _build.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
WINDOWS = sys.platform == "win32"
THIS = "py run.py" if WINDOWS else "python3 run.py"


class Problem(Exception):
    """Something the reader can mend; the message says what, where and how."""


class Environment:
    """The folder .venv: made once, renewed when the list of packages changes.

    Two files in it keep the record. The stamp is written last and says what the environment was
    made from. The marker is written first and removed at the end, so a killed set-up leaves it
    behind, and the next command starts again from nothing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.stamp = self.folder / "book-setup.json"
        self.marker = self.folder / "book-setup-unfinished"
        self.programs = self.folder / ("Scripts" if WINDOWS else "bin")
        self.python = self.programs / ("python.exe" if WINDOWS else "python")

    def fingerprint(self, newest: bool = False) -> str:
        """Digest of all that decides what is installed and where.

        Editable installs and scripts hold absolute paths, so a moved folder needs a new set-up.
        """
        import tomllib  # Not at the top: older Pythons must get as far as the version message.

        with (self.root / "pyproject.toml").open("rb") as file:
            project = tomllib.load(file)
        parts = [
            str(self.root),
            (self.root / "requirements.txt").read_text(encoding="utf-8"),
            "" if newest else (self.root / "constraints.txt").read_text(encoding="utf-8"),
            json.dumps([project["build-system"], project["project"]], sort_keys=True),
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def python_version(self) -> str | None:
        """Version of the Python inside, such as "3.11"; None if there is none that starts."""
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            answer = subprocess.run(
                [str(self.python), "-c", code], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    def is_ready(self, newest: bool = False) -> bool:
        """Whether the environment is finished and made from the present list of packages."""
        if self.marker.exists():
            return False
        try:
            record = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        wanted = {"fingerprint": self.fingerprint(newest), "python": self.python_version()}
        return bool(record == wanted)

    def set_up(self, newest: bool = False) -> None:
        """Create or renew the environment; return at once if nothing has changed."""
        if self.is_ready(newest):
            return
        problem = machine_problem()
        if problem:
            raise Problem(problem)
        with self._lock():
            if self.is_ready(newest):  # Another command has just made it.
                return
            started = time.perf_counter()
            created = self._create()
            try:
                install_packages(self, newest)
            except Problem:
                if not created:  # The old packages still stand: next time only renew them.
                    self.marker.unlink()
                raise
            record = {
                "fingerprint": self.fingerprint(newest),
                "python": self.python_version(),
            }
            self.stamp.write_text(json.dumps(record), encoding="utf-8")
            self.marker.unlink()
            say(f"Set-up finished in {time.perf_counter() - started:.0f} s.")

    def _create(self) -> bool:
        """Leave a working, marked environment behind; return whether it is a new one."""
        version = self.python_version()
        ours = self.stamp.exists() or self.marker.exists()
        if ours and (version is None or self.marker.exists() or self._other_python(version)):
            say("The environment in .venv is unfinished or out of date: making it anew.")
            remove(self.folder)
            version = None
        elif self.folder.exists() and any(self.folder.iterdir()) and not is_supported(version):
            raise Problem(
                f"{self.folder} exists, was not made by this script and holds "
                f"{'Python ' + version if version else 'no Python that starts'}.\n"
                "Rename or delete that folder, then repeat the command."
            )
        try:
            self.folder.mkdir(exist_ok=True)
            self.marker.touch()
        except OSError as error:
            raise Problem(
                f"Cannot write in {self.root} ({error.strerror}).\n"
                "Copy the book to a folder of your own and run it there."
            ) from error
        if version is not None:
            say("Bringing the packages in .venv up to date ...")
            return False
        say("Setting up .venv (about a minute the first time, 2 GB of disk) ...")
        if importlib.util.find_spec("ensurepip") is None:
            raise Problem(
                f"This Python ({sys.executable}) cannot make virtual environments.\n"
                "On Debian or Ubuntu: apt-get install python3-venv, then repeat the command."
            )
        if not call([base_python(), "-m", "venv", self.folder]):
            raise Problem(
                f"No virtual environment could be made in {self.folder} (reason above).\n"
                "On Debian or Ubuntu: apt-get install python3-venv, then repeat the command."
            )
        return True

    def _other_python(self, version: str) -> bool:
        """Whether the environment's Python is no longer the one that its packages are for."""
        try:
            recorded = json.loads(self.stamp.read_text(encoding="utf-8"))["python"]
        except (OSError, ValueError, KeyError, TypeError):
            return True
        return bool(recorded != version)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one set-up run at a time; the system frees the lock of a killed one.

        The programs it started inherit the lock, so that a new set-up also waits for those that
        outlive a killed one and still write into the folder.
        """
        try:
            file = (self.root / ".setup.lock").open("a")
        except OSError as error:
            raise Problem(
                f"Cannot write in {self.root} ({error.strerror}).\n"
                "Copy the book to a folder of your own and run it there."
            ) from error
        with file:
            if sys.platform == "win32":
                import msvcrt

                while True:
                    with contextlib.suppress(OSError):  # It gives up after ten seconds.
                        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                        break
            else:
                import fcntl

                os.set_inheritable(file.fileno(), True)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    say("Another set-up is at work: waiting for it ...")
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def variables(self) -> dict[str, str]:
        """Environment variables for everything that runs inside."""
        variables = dict(os.environ)
        for name in ("PYTHONHOME", "PYTHONPATH", "MPLBACKEND"):  # They would change what runs.
            variables.pop(name, None)
        variables["VIRTUAL_ENV"] = str(self.folder)
        variables["PATH"] = os.pathsep.join([str(self.programs), variables.get("PATH", "")])
        variables["PYTHONUTF8"] = "1"
        variables["PYTHONNOUSERSITE"] = "1"
        variables["JUPYTER_PREFER_ENV_PATH"] = "1"  # This kernel, not one of the same name at home.
        return variables

    def call(self, *arguments: str | Path, **extra: str) -> bool:
        """Run a Python command line inside; `extra` holds further environment variables."""
        return call([self.python, *arguments], {**self.variables(), **extra})


WHEELS = "wheels"
CONTENTS = "contents.json"


def install_packages(environment: Environment, newest: bool) -> None:
    """Install requirements.txt with uv, which takes seconds where pip takes minutes.

    A folder `wheels` in the book, as `run.py classroom` makes it, takes the place of the network.
    """
    limits = [] if newest else ["-c", "constraints.txt"]
    wheels = environment.root / WHEELS
    local = ["--no-index", "--find-links", str(wheels)] if wheels.is_dir() else []
    failed = offline_failed(wheels) if local else INSTALL_FAILED
    pip = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    if not environment.call(*pip, "uv", *limits, *local):
        raise Problem(failed)
    settings = {} if local else uv_settings(pip_settings(environment), os.environ)
    settings["UV_COMPILE_BYTECODE_TIMEOUT"] = "600"  # A busy machine is slow, not broken.
    uv = ["-m", "uv", "pip", "install", "--compile-bytecode", "-r", "requirements.txt", *limits]
    uv += [*local, "--offline"] if local else []
    if newest:
        uv.append("--upgrade")
    if environment.call(*uv, **settings):
        return
    if "UV_TORCH_BACKEND" in settings:
        say("The CPU build of torch could not be had; taking the default build.")
        del settings["UV_TORCH_BACKEND"]
        if environment.call(*uv, **settings):
            return
    raise Problem(failed)


INSTALL_FAILED = f"""The packages could not be installed; the reason is printed above.
 - No network? The first set-up needs one, later commands do not.
 - Behind a proxy? Set HTTPS_PROXY. With a mirror? `pip config set global.index-url ...` counts.
 - Python {sys.version_info[0]}.{sys.version_info[1]} too new for a package? Use 3.11, 3.12 or 3.13.
Then repeat the command: it goes on from a clean state."""


def offline_failed(wheels: Path) -> str:
    """What to say when the folder of wheels lacks something for this machine."""
    try:
        told = json.loads((wheels / CONTENTS).read_text(encoding="utf-8"))["collected for"]
    except (OSError, ValueError, KeyError):
        told = ["unknown systems"]
    version = "{}.{}".format(*sys.version_info[:2])
    return (
        f"The packages could not be installed from {wheels}; the reason is printed above.\n"
        f"They were collected for: {', '.join(told)}.\n"
        f"This is {sys.platform} with Python {version}.\n"
        " - Is one of those Pythons on this machine? Start run.py with it.\n"
        f" - Else collect again (`{THIS} classroom`), or rename the folder to use the network.\n"
        "Then repeat the command: it goes on from a clean state."
    )


def pip_settings(environment: Environment) -> dict[str, str]:
    """Pip's own settings (files and PIP_* variables), which uv does not read."""
    answer = subprocess.run(
        [str(environment.python), "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        env=environment.variables(),
        check=False,
    )
    return parse_pip_settings(answer.stdout)


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Read `pip config list`: variables win over [install], which wins over [global]."""
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):
        for line in listing.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section + "."):
                with contextlib.suppress(SyntaxError, ValueError):
                    settings[name[len(section) + 1 :]] = str(ast.literal_eval(value))
    return settings


def uv_settings(pip: dict[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Translate pip's settings to uv's variables, leaving alone what the reader has set for uv.

    On Linux the default build of torch brings gigabytes of CUDA. The book needs none, so the CPU
    build is chosen, unless the reader names a folder of wheels or sets UV_TORCH_BACKEND.
    """
    settings = {}
    if "index-url" in pip:
        settings["UV_DEFAULT_INDEX"] = pip["index-url"]
    if "extra-index-url" in pip:
        settings["UV_INDEX"] = " ".join(pip["extra-index-url"].split())
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # As pip does: all indexes are equal.
    if "find-links" in pip:
        settings["UV_FIND_LINKS"] = ",".join(pip["find-links"].split())
    if "cert" in pip:
        settings["SSL_CERT_FILE"] = pip["cert"]
    settings = {name: value for name, value in settings.items() if name not in variables}
    wheels = "UV_FIND_LINKS" in settings or "UV_FIND_LINKS" in variables
    if sys.platform == "linux" and not wheels and "UV_TORCH_BACKEND" not in variables:
        settings["UV_TORCH_BACKEND"] = "cpu"
    return settings


class Book:
    """The commands, each a method; they run in the environment and return the exit status."""

    def __init__(self, root: Path, newest: bool = False) -> None:
        self.root = root
        self.newest = newest
        self.environment = Environment(root)
        self.site = root / "_build" / "html"

    def book(self) -> int:
        """Set up, build the site and say where it is."""
        if not (self.root / "_toc.yml").is_file():
            raise Problem(f"This folder holds notebooks and no pages. Open them: `{THIS} lab`.")
        self.environment.set_up(self.newest)
        if not self.build():
            raise Problem(
                "The site is not complete: see the messages above. Warnings count as errors.\n"
                f"Mend the page they name, then repeat `{THIS} book`."
            )
        page = self.site / "index.html"
        say(f"\nThe book is built. Open this in a browser:\n  {page}\n  {page.as_uri()}")
        return 0

    def build(self) -> bool:
        """Build the site; True only if every page of the table of contents is there."""
        contents = self.root / "_toc.yml"
        index = self.site / "index.html"
        if index.exists() and index.stat().st_mtime < contents.stat().st_mtime:
            remove(self.root / "_build")  # Pages that left the table of contents must go.
        jupyter_book = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
        built = self.environment.call(
            "-c", jupyter_book, "build", ".", "-n", "-W", "--keep-going", OFFLINE_RL_PROGRESS="0"
        )
        pages = expected_pages(contents.read_text(encoding="utf-8"))
        missing = [page for page in pages if not is_whole(self.site / page)]
        for page in missing:
            say(f"Missing or cut off: {self.site / page}")
        return built and index.is_file() and bool(pages) and not missing

    def test(self, stages: Sequence[str]) -> int:
        """Set up, then run the stages (all if none is named) and print their times."""
        known: dict[str, Callable[[], bool]] = {
            "lint": self._lint,
            "unit": self._unit,
            "notebooks": self._notebooks,
            "site": self._site,
        }
        unknown = [stage for stage in stages if stage not in known]
        if unknown:
            raise Problem(f"No test stage {', '.join(unknown)}. There are: {', '.join(known)}.")
        started = time.perf_counter()
        self.environment.set_up(self.newest)
        rows = [("set-up", True, time.perf_counter() - started)]
        for stage in stages or known:
            say(f"\n=== {stage} ===")
            started = time.perf_counter()
            rows.append((stage, known[stage](), time.perf_counter() - started))
        say("")
        for stage, passed, seconds in rows:
            say(f"{stage:<10} {'passed' if passed else 'FAILED':<7} {seconds:7.1f} s")
        return 0 if all(passed for _, passed, _ in rows) else 1

    def _lint(self) -> bool:
        inside = self.environment.call
        return all(
            [  # A list, not a generator: every check runs.
                inside("-m", "ruff", "check", "."),
                inside("-m", "ruff", "format", "--check", "."),
                inside("-m", "mypy"),
                inside("-m", "codespell_lib", "."),
            ]
        )

    def _unit(self) -> bool:
        others = [f"--ignore-glob=*{pattern}" for pattern in SITE_TESTS]
        return self._pytest("tests", *others)

    def _notebooks(self) -> bool:
        return self._pytest(
            *("--nbval", "--nbval-current-env", "--nbval-cell-timeout=300", "--timeout=400"),
            "--dist=loadscope",  # The cells of a notebook share one kernel, so they stay together.
            *("--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "-W", "default", "notebooks"),
        )

    def _site(self) -> bool:
        tests = sorted(
            path for pattern in SITE_TESTS for path in self.root.glob(f"tests/{pattern}")
        )
        # Without tests named, pytest would run all of them.
        return self.build() and bool(tests) and self._pytest(*tests)

    def _pytest(self, *arguments: str | Path) -> bool:
        # One process per core and one thread per process. What is named last wins.
        spread = ("--numprocesses=auto", "--dist=worksteal")
        return self.environment.call(
            *("-m", "pytest", *spread, *arguments), OFFLINE_RL_PROGRESS="0", OMP_NUM_THREADS="1"
        )

    def lab(self, extra: Sequence[str]) -> int:
        """Open the notebooks in JupyterLab; further arguments go to it."""
        start = "--LabApp.default_url=/lab/tree/notebooks"
        return self._inside("-m", "jupyterlab", start, *extra)

    def notebooks(self, stems: Sequence[str]) -> int:
        """Execute notebooks (all if none is named) and store their outputs."""
        return self._inside(Path("tools", "execute_notebooks.py"), *stems)

    def check(self) -> int:
        """Say whether this machine can run the book, and what to do if not."""
        # The folder that students unzip holds the notebooks and no site to build.
        set_up = "book" if (self.root / "_toc.yml").is_file() else "lab"
        problem = machine_problem()
        if problem:
            say(f"FAIL  machine: {problem}")
            return 1
        if not self.environment.python.exists():
            say(f"FAIL  set-up: there is no environment in {self.environment.folder}")
            say(f"      Fix: run `{THIS} {set_up}`")
            return 1
        ready = any(self.environment.is_ready(newest) for newest in (False, True))
        say(f"{'PASS' if ready else 'FAIL'}  set-up: {self.environment.folder}")
        if not ready:
            say(f"      Unfinished, or older than requirements.txt. Fix: run `{THIS} {set_up}`")
        tool = Path("tools", "check_environment.py")
        return 0 if self.environment.call(tool) and ready else 1

    def data(self, extra: Sequence[str]) -> int:
        """Make the datasets again; a killed run goes on where it stopped."""
        return self._inside("-m", "offline_rl_lib.collecting", *extra)

    def results(self, extra: Sequence[str]) -> int:
        """Make the stored results of the long runs again."""
        return self._inside("-m", "offline_rl_lib.results", *extra)

    def ledger(self) -> int:
        """Run the tests that prove equations and claims, and store what they measured."""
        self.environment.set_up(self.newest)
        return 0 if self._pytest("tests", "-q", "-m", "proves", "--write-ledger") else 1

    def mutants(self, names: Sequence[str]) -> int:
        """Change the library's mathematics in small ways and count what the tests notice.

        The settings stand in pyproject.toml. An interrupted run goes on where it stopped.
        """
        if WINDOWS:
            raise Problem("Mutation testing needs fork, which Windows lacks. Use WSL.")
        self.environment.set_up(self.newest)
        variables = {"OMP_NUM_THREADS": "1", "OFFLINE_RL_PROGRESS": "0"}
        ran = self.environment.call("-m", "mutmut", "run", *names, **variables)
        self.environment.call("-m", "mutmut", "results")
        counted = self.environment.call("-m", "mutmut", "export-cicd-stats")
        if not ran or not counted:
            return 1
        stored = self.root / "mutants" / "mutmut-cicd-stats.json"
        counts = json.loads(stored.read_text(encoding="utf-8"))
        say(f"{counts['killed']} of {counts['total']} changes noticed, {counts['survived']} not.")
        return 0

    def handout(self, chapters: Sequence[str]) -> int:
        """Build the site and print it, or chapters of it, as one PDF for students."""
        self.environment.set_up(self.newest)
        return self._inside(Path("tools", "handout.py"), *chapters) if self.build() else 1

    def classroom(self, extra: Sequence[str]) -> int:
        """Collect the book, its site and all packages into a folder that installs offline."""
        if not {"-h", "--help"} & set(extra):
            self.environment.set_up(self.newest)
            if not self.build():
                return 1
        return self._inside(Path("tools", "classroom.py"), *extra)

    def benchmark(self, extra: Sequence[str]) -> int:
        """Measure what an update costs, beside other programs; d3rlpy gets its own environment."""
        self.environment.set_up(self.newest)
        settings = uv_settings(pip_settings(self.environment), os.environ)
        settings["OMP_NUM_THREADS"] = "1"
        return 0 if self.environment.call("-m", "benchmarks", *extra, **settings) else 1

    def clean(self, everything: bool) -> int:
        """Remove what was built and cached; with `everything` the environment too."""
        names = ["_build", "mutants", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis"]
        if everything:
            names += [".venv", ".benchmark-env"]
        for name in names:
            remove(self.root / name)
        for folder in [
            path for path in self.root.rglob("__pycache__") if ".venv" not in path.parts
        ]:
            remove(folder)
        return 0

    def _inside(self, *arguments: str | Path) -> int:
        self.environment.set_up(self.newest)
        return 0 if self.environment.call(*arguments) else 1


SITE_TESTS = ("test_site*.py", "test_browser*.py")


def expected_pages(contents: str) -> list[str]:
    """HTML files that the table of contents (_toc.yml) promises."""
    names = re.findall(r"^[ \t-]*(?:root|file):[ \t]*[\"']?([^\s\"'#]+)", contents, re.MULTILINE)
    return [re.sub(r"[.](md|ipynb)$", "", name) + ".html" for name in names]


def is_whole(page: Path) -> bool:
    """Whether a page exists and was written to its end."""
    return page.is_file() and page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def is_supported(version: str | None) -> bool:
    """Whether a version such as "3.11" is new enough."""
    return version is not None and tuple(map(int, version.split("."))) >= OLDEST_PYTHON


def machine_problem() -> str | None:
    """What keeps PyTorch, and so the book, off this machine; None if nothing is known to."""
    if sys.maxsize < 2**32:
        return (
            "this is a 32-bit Python, and there is no PyTorch for it.\n"
            "      Fix: install a 64-bit Python and start run.py with it."
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return (
            "this is a Python for Intel Macs, and there is no newer PyTorch for them.\n"
            "      Fix: on a Mac with Apple silicon install Python for Apple silicon;\n"
            "      on an Intel Mac read the built site, or share a machine."
        )
    return None


def base_python() -> str:
    """The Python that makes the environment, never the one inside it."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def call(command: Sequence[str | Path], variables: dict[str, str] | None = None) -> bool:
    """Run a command in the book's folder; True if it succeeded."""
    sys.stdout.flush()
    parts = [str(part) for part in command]
    done = subprocess.run(parts, cwd=ROOT, env=variables, check=False, close_fds=False)
    return done.returncode == 0


def remove(folder: Path) -> None:
    """Delete a folder, or only the link if it is one."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise Problem(
                f"Cannot delete {error.filename or folder} ({error.strerror}).\n"
                "Close the programs that use it, JupyterLab for example, and repeat the command."
            ) from error


def say(text: str) -> None:
    """Print at once, in order with the output of the programs started in between."""
    print(text, flush=True)


TAKE_MORE = ("benchmark", "lab", "data", "results", "classroom")
"""Commands that pass what else is typed to the program that they start."""


def parser() -> argparse.ArgumentParser:
    """Build the command line: one subcommand for each method of `Book`."""
    top = argparse.ArgumentParser(prog=THIS, description="Build, test and run the book.")
    top.add_argument(
        "--newest", action="store_true", help="newest allowed packages, not the tested ones"
    )
    commands = top.add_subparsers(dest="command", metavar="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    add("book", "set up and build the site; prints the page to open")
    stages = add("test", "set up and run the tests: lint, unit, notebooks, site")
    stages.add_argument("stages", nargs="*", metavar="stage")
    add("lab", "open the notebooks in JupyterLab")
    stems = add("notebooks", "execute the notebooks and store their outputs")
    stems.add_argument("stems", nargs="*", metavar="name")
    add("check", "check this machine and print what to mend")
    add("data", "make the datasets again")
    add("results", "make the stored results again")
    add("ledger", "run the proof tests and store what they measured")
    names = add("mutants", "change the library in small ways and count what the tests notice")
    names.add_argument("names", nargs="*", metavar="name")
    chapters = add("handout", "print the book, or chapters of it, as one PDF for students")
    chapters.add_argument("chapters", nargs="*", metavar="chapter", help="such as 11 or glossary")
    # Its options are those of tools/classroom.py, its help too.
    classroom = "collect the book and all packages into a folder that installs offline"
    commands.add_parser("classroom", help=classroom, add_help=False)
    add("benchmark", "measure what an update of CQL costs, beside other programs")
    clean = add("clean", "remove what was built")
    clean.add_argument("--all", action="store_true", dest="everything", help=".venv as well")
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    options, extra = parser().parse_known_args(arguments)
    if extra and options.command not in TAKE_MORE:
        parser().error(f"{options.command} does not take {' '.join(extra)}")
    values = dict(vars(options))
    book = Book(ROOT, values.pop("newest"))
    command = getattr(book, values.pop("command"))
    if options.command in TAKE_MORE:
        values["extra"] = extra
    try:
        return int(command(**values))
    except Problem as problem:
        print(f"\n{THIS} {options.command}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Repeat the command to go on.", file=sys.stderr)
        return 130


def version_message(version: tuple[int, ...]) -> str | None:
    """What to say to a Python that is too old; None if it is new enough."""
    if version[:2] >= OLDEST_PYTHON:
        return None
    return (
        "The book needs Python {}.{} or newer; this is {}.{} ({}).\n".format(
            *OLDEST_PYTHON, version[0], version[1], sys.executable
        )
        + "Install a newer one and name it, for example: python3.12 run.py book"
    )


if __name__ == "__main__":
    too_old = version_message(sys.version_info[:3])
    if too_old:
        sys.exit(too_old)
    sys.exit(main(sys.argv[1:]))
