"""Everything the book has stored from long runs, and the one command that makes it again.

``python -m offline_rl_lib.results`` makes what is missing; ``--list`` shows what there is. Name an
experiment to make it alone: ``quick`` is the one to start with.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offline_rl_lib import failure, map, post_run, silent_bugs, watching
from offline_rl_lib.dynamic_programming import store_ground_truth, store_reference_returns
from offline_rl_lib.experiments import (
    COMPARISON,
    RESULTS,
    Experiment,
    Run,
    final_scores,
    run_experiment,
    run_seeds,
    stored_runs,
    write_summary,
)

OWN_RESULTS = Path("results")
"""Where runs go that are not the book's own, below the folder that the command is given in."""


@dataclass(frozen=True)
class Grid:
    """An experiment with how its runs are made and summed up.

    Attributes:
        experiment: datasets x methods x seeds.
        shows: what it is for, in a few words.
        run: makes the runs of one job.
        summarise: writes the summary.
        directory: where its files lie.
    """

    experiment: Experiment
    shows: str
    run: Run = run_seeds
    summarise: Callable[[Experiment, Path], None] = write_summary
    directory: Path = RESULTS


@dataclass(frozen=True)
class Computation:
    """A result that is one computation and no grid of runs.

    Attributes:
        files: what it writes into ``book/results``.
        shows: what it is for, in a few words.
        make: writes the files; does nothing if they are there and up to date.
    """

    files: tuple[str, ...]
    shows: str
    make: Callable[[], object]


GRIDS = {
    grid.experiment.name: grid
    for grid in (
        Grid(COMPARISON, "four methods on two datasets, and every start's return"),
        Grid(
            failure.FAILURE,
            "what critics promise and what is true, on the way",
            failure.run_failure,
            failure.write_failure_summary,
        ),
        Grid(
            map.MAP,
            "every dataset against every algorithm",
            map.run_map,
            map.write_map_summary,
        ),
        Grid(
            map.PROPOSALS,
            "few and many proposals per source",
            map.run_map,
            map.write_map_summary,
        ),
        Grid(
            post_run.POST_RUN,
            "the run of the original post, as posted and corrected",
            post_run.run_post_run,
            map.write_map_summary,
        ),
        Grid(
            silent_bugs.SILENT_BUGS,
            "what real bugs do to the return and to the critics",
            map.run_map,
            map.write_map_summary,
        ),
        Grid(
            map.QUICK,
            "a corner of the map for a first run of your own",
            map.run_map,
            map.write_map_summary,
            OWN_RESULTS,
        ),
    )
}

COMPUTATIONS = {
    "references": Computation(
        ("reference_returns.json",),
        "returns of random, zero and hand-written torques and of the optimum",
        lambda: store_reference_returns(RESULTS / "reference_returns.json"),
    ),
    "ground-truth": Computation(
        ("ground_truth.json", "optimal_value.npz"),
        "dynamic programming, on grids of several sizes",
        lambda: store_ground_truth(RESULTS),
    ),
    "landscapes": Computation(
        ("landscapes.json",),
        "critics' values over torque at a grid of states",
        failure.make_landscapes,
    ),
    "watched-policies": Computation(
        ("watched_policies.json",),
        "networks of the policies that the reader can watch",
        lambda: watching.store_watched_policies(RESULTS / "watched_policies.json"),
    ),
}


def make(names: Sequence[str], jobs: int, backend: str) -> None:
    """Make what is missing of some results.

    Args:
        names: of grids and computations.
        jobs: processes; -1 uses every core.
        backend: of joblib, see :func:`offline_rl_lib.experiments.run_experiment`.
    """
    for name in names:
        if name in COMPUTATIONS:
            COMPUTATIONS[name].make()
            continue
        grid = GRIDS[name]
        grid.directory.mkdir(parents=True, exist_ok=True)
        run_experiment(
            grid.experiment,
            grid.directory,
            jobs,
            backend=backend,
            run=grid.run,
            summarise=grid.summarise,
        )
        print(as_table(grid))


def check(grid: Grid) -> str:
    """Make the first job of an experiment again and compare it with what is stored.

    Returns:
        What was found, in a sentence.

    Raises:
        ValueError: nothing is stored, or the scores of today are not those of the stored runs.
    """
    experiment = grid.experiment
    dataset, method = experiment.datasets[0], next(iter(experiment.methods))
    seeds = experiment.group_of(experiment.seeds[0])
    cell = [
        run
        for run in stored_runs(experiment, grid.directory)
        if (run["dataset"], run["method"]) == (dataset, method)
    ]
    if len(cell) < 2:
        raise ValueError(f"{experiment.name}: no runs of {method} on {dataset} are stored yet.")
    again = grid.run(experiment, dataset, method, seeds)
    before = {run["seed"]: run for run in cell}
    if all(_without_origin(run) == _without_origin(before[run["seed"]]) for run in again):
        return f"{experiment.name}: {len(again)} runs of {method} on {dataset}: the same bits"
    stored, today = scores_of(cell), scores_of(again)
    # Rounding differs between machines and grows in training, so a run may end elsewhere in the
    # range of its seeds. Beyond that range by half of its width it is no longer the same result.
    margin = 0.5 * (stored.max() - stored.min()) + 1.0
    if (today < stored.min() - margin).any() or (today > stored.max() + margin).any():
        raise ValueError(
            f"{experiment.name}: {method} on {dataset} scores {np.round(today, 1).tolist()} today; "
            f"the {len(cell)} stored runs lie between {stored.min():.1f} and {stored.max():.1f}. "
            "The library, a package or the data have changed the result."
        )
    return (
        f"{experiment.name}: {len(again)} runs of {method} on {dataset}: other bits, and scores "
        f"{today.min():.1f} to {today.max():.1f} within those of the stored seeds"
    )


def scores_of(runs: Sequence[dict[str, Any]]) -> Any:
    """The last score of each run, shape ``(runs,)``, whatever kind of run it is."""
    if "points" in runs[0]:
        return np.array([run["points"]["returns"][-1] for run in runs])
    return final_scores(runs)


def as_table(grid: Grid) -> str:
    """Say in plain text how each dataset and method scored."""
    runs = stored_runs(grid.experiment, grid.directory)
    lines = [f"{'dataset':<26}{'method':<20}{'runs':>5}{'mean':>9}{'worst':>9}{'best':>9}"]
    for dataset in grid.experiment.datasets:
        for method in grid.experiment.methods:
            cell = [run for run in runs if (run["dataset"], run["method"]) == (dataset, method)]
            if cell:
                scores = scores_of(cell)
                lines.append(
                    f"{dataset:<26}{method:<20}{len(cell):>5}{scores.mean():>9.0f}"
                    f"{scores.min():>9.0f}{scores.max():>9.0f}"
                )
    return "\n".join(lines)


def listing() -> str:
    """Say what there is: name, how much of it is stored, what it shows."""
    lines = []
    for name, computation in COMPUTATIONS.items():
        there = sum((RESULTS / file).exists() for file in computation.files)
        stored = f"{there} of {len(computation.files)} files"
        lines.append(f"{name:<18}{stored:<20}{computation.shows}")
    for name, grid in GRIDS.items():
        experiment = grid.experiment
        planned = len(experiment.datasets) * len(experiment.methods) * len(experiment.seeds)
        stored = f"{len(stored_runs(experiment, grid.directory))} of {planned} runs"
        lines.append(f"{name:<18}{stored:<20}{grid.shows}")
    return "\n".join(lines)


@contextmanager
def connected(backend: str, address: str | None) -> Iterator[None]:
    """Connect to the engine that runs the jobs, and let go of it at the end.

    Args:
        backend: ``"loky"`` needs nothing; ``"dask"`` needs the package ``distributed``.
        address: of a Dask scheduler; a cluster on this machine is started if left out.
    """
    if backend == "loky":
        # Each update fills fresh buffers of megabytes. Without this the allocator gives them back
        # and faults them in again every time, which costs a third of the processor time.
        for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
            os.environ.setdefault(name, "1000000000")
        yield
        return
    from distributed import Client

    how = {"threads_per_worker": 1} if address is None else {"address": address}
    with Client(**how) as client:  # type: ignore[no-untyped-call]
        print(f"Dask: {len(client.scheduler_info()['workers'])} workers, {client.dashboard_link}")
        yield


def _without_origin(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in ("seconds", "versions")}


def main(arguments: list[str] | None = None) -> int:
    """Make, list or check the stored results."""
    known = [*COMPUTATIONS, *GRIDS]
    shipped = [*COMPUTATIONS, *(name for name, grid in GRIDS.items() if grid.directory == RESULTS)]
    parser = argparse.ArgumentParser(
        prog="python -m offline_rl_lib.results",
        description="Make the book's stored results: what is missing is computed, run by run. "
        "Safe to interrupt and to repeat.",
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="show what is stored")
    parser.add_argument(
        "--check", action="store_true", help="make one cell of each grid again and compare"
    )
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1 uses every core")
    parser.add_argument("--backend", choices=("loky", "dask"), default="loky")
    parser.add_argument("--address", help="of a Dask scheduler, such as tcp://host:8786")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}. There are: {', '.join(known)}.")
    if chosen.list:
        print(listing())
        return 0
    names = chosen.names or shipped
    try:
        if chosen.check:
            for name in names:
                if name in GRIDS:
                    print(check(GRIDS[name]))
            return 0
        with connected(chosen.backend, chosen.address):
            make(names, chosen.jobs, chosen.backend)
    except KeyboardInterrupt:
        print("\nStopped. The same command makes what is still missing.", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
