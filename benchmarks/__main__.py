"""The command: measure, print, store."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import (
    ROOT,
    BenchmarkError,
    alternate,
    as_text,
    contestants,
    summarise,
)
from benchmarks.parts import (
    GROWTH,
    data_and_evaluation,
    growth,
    large_dataset,
    time_to_policy,
)

RESULTS = ROOT / "book" / "results" / "benchmark.json"
ENVIRONMENT = ROOT / ".benchmark-env"
D3RLPY = "2.8.1"
PARTS = ("update", "growth", "data", "large", "policy")


def d3rlpy_python(folder: Path = ENVIRONMENT) -> Path | None:
    """Make d3rlpy's environment once and return its Python; ``None``, with a line, without it."""
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / ("python.exe" if sys.platform == "win32" else "python")
    finished = folder / "finished"
    if finished.exists():
        return python
    uv = [sys.executable, "-m", "uv"]
    print(f"Making an environment for d3rlpy {D3RLPY} in {folder.name} (1 GB of disk) ...")
    steps = [
        [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [
            *uv,
            "pip",
            "install",
            "--quiet",
            "--python",
            str(python),
            f"d3rlpy=={D3RLPY}",
            f"torch=={torch.__version__.split('+')[0]}",
        ],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            print(f"Left out: d3rlpy {D3RLPY} could not be installed ({reason[0].strip()}).")
            print("It needs a network once; everything else is measured without it.")
            return None
    finished.touch()
    return python


def machine() -> dict[str, Any]:
    """Describe the machine that measured."""
    model = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        lines = described.read_text(encoding="utf-8").splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": load,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def measure_update(options: argparse.Namespace) -> dict[str, Any]:
    """Compare the contestants."""
    python = None if options.without_d3rlpy else d3rlpy_python()
    rounds, updates = (2, 1) if options.tiny else (options.rounds, options.updates)
    blocks, versions = alternate(contestants({}, python), rounds, updates)
    table = summarise(blocks)
    print(as_text(table))
    return {
        "rounds": rounds,
        "updates_per_block": updates,
        "versions": versions,
        "contestants": table,
    }


def measure_growth(options: argparse.Namespace) -> Any:
    """Vary one size of the work at a time."""
    if options.tiny:
        sizes = {name: values[:2] for name, values in GROWTH.items() if name != "seeds"}
        return growth({**sizes, "seeds": (1, 2)}, blocks=1, updates=1)
    return growth()


def measure_data(options: argparse.Namespace) -> Any:
    """Load what is shipped and evaluate."""
    return data_and_evaluation()


def measure_large(options: argparse.Namespace) -> Any:
    """Load and sample a million transitions."""
    return large_dataset(2000, 5) if options.tiny else large_dataset()


def measure_policy(options: argparse.Namespace) -> Any:
    """Train and watch the return against the time."""
    if options.tiny:
        return time_to_policy(1, updates=2, every=2, starts=2)
    return time_to_policy(options.seeds)


MEASURE: dict[str, Callable[[argparse.Namespace], Any]] = {
    "update": measure_update,
    "growth": measure_growth,
    "data": measure_data,
    "large": measure_large,
    "policy": measure_policy,
}


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    made = argparse.ArgumentParser(prog="run.py benchmark", description=__doc__)
    made.add_argument(
        "parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none"
    )
    made.add_argument("--rounds", type=int, default=15, help="blocks of each contestant")
    made.add_argument("--updates", type=int, default=10, help="updates a block")
    made.add_argument("--seeds", type=int, default=10, help="seeds of the part 'policy'")
    made.add_argument("--without-d3rlpy", action="store_true", help="make no environment for it")
    made.add_argument("--tiny", action="store_true", help="a trial in seconds; stores nothing")
    made.add_argument("--output", type=Path, help="where to store the results, as JSON")
    return made


def stored(path: Path) -> dict[str, Any]:
    """Read earlier results; parts that are not measured now stay as they are."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(
            f"{path} holds no results of a benchmark ({error}). Remove it or name another."
        ) from error
    if not isinstance(found, dict) or not set(found) <= set(PARTS):
        raise BenchmarkError(f"{path} holds something else. Name another file with --output.")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = parser().parse_args(arguments)
    parts = options.parts or list(PARTS)
    path = options.output or (None if options.tiny else RESULTS)
    try:
        if unknown := set(parts) - set(PARTS):
            raise BenchmarkError(
                f"No part {', '.join(sorted(unknown))}. There are: {', '.join(PARTS)}."
            )
        if options.seeds < 1:
            raise BenchmarkError(f"At least one seed is needed; got {options.seeds}.")
        results = stored(path) if path else {}
        torch.set_num_threads(1)
        for part in parts:
            print(f"\n=== {part} ===", flush=True)
            found = MEASURE[part](options)
            if part != "update":
                print(json.dumps(found, indent=1))
            results[part] = {"machine": machine(), "torch": torch.__version__, "measured": found}
            if path:
                text = json.dumps(results, indent=1, sort_keys=True) + "\n"
                path.write_text(text, encoding="utf-8")
        print(json.dumps(machine()))
    except BenchmarkError as error:
        print(f"\nrun.py benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
