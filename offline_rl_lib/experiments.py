"""Grids of long runs: datasets x methods x seeds, made on all cores, stored run by run.

Each finished run is one line of a file, stored at once. A run that is already there with the same
settings and the same dataset is not repeated, so a command can be interrupted and started again.
:mod:`offline_rl_lib.results` lists the book's experiments and makes them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from offline_rl_lib.agent import Agent, AgentSettings
from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.data import load_dataset
from offline_rl_lib.evaluation import EVALUATION_SEEDS, evaluate
from offline_rl_lib.intervals import interquartile_mean, stratified_bootstrap_interval
from offline_rl_lib.progress import progress
from offline_rl_lib.together import train_together
from offline_rl_lib.training import train

Record = dict[str, Any]

RESULTS = Path(__file__).parents[1] / "book" / "results"

PENDULUM_CQL = CQLSettings(
    actor_learning_rate=1e-3, critic_learning_rate=1e-3, reward_shift=8.0, reward_scale=1 / 8
)
"""CQL on Pendulum, with the rewards of the original post, ``(r + 8) / 8``."""


@dataclass(frozen=True)
class Experiment:
    """A grid of runs.

    Attributes:
        name: names the files of results.
        datasets: names for :func:`offline_rl_lib.data.load_dataset`.
        methods: for each name the agent's class and settings; each run replaces the seed.
        seeds: one training run per dataset, method and seed.
        updates: gradient updates per run.
        evaluate_every: updates between two evaluations on the paired starts.
        seeds_together: seeds trained side by side in one job (:mod:`offline_rl_lib.together`).
            They share random numbers, so the group is part of what a run is.
        batch_size: transitions per update.
    """

    name: str
    datasets: tuple[str, ...]
    methods: dict[str, tuple[type[Agent], AgentSettings]]
    seeds: tuple[int, ...]
    updates: int
    evaluate_every: int
    seeds_together: int = 1
    batch_size: int = 64

    def group_of(self, seed: int) -> tuple[int, ...]:
        """The seeds that are trained in one job with this one, itself included."""
        size, place = self.seeds_together, self.seeds.index(seed)
        return self.seeds[place // size * size :][:size]


Run = Callable[[Experiment, str, str, tuple[int, ...]], list[Record]]
"""Makes the runs of one job from dataset, method and seeds; returns what JSON can hold."""

COMPARISON = Experiment(
    name="comparison",
    datasets=("pendulum/replay-v0", "pendulum/narrow-v0"),
    methods={
        "BC": (BC, BCSettings()),
        "penalty off": (CQL, replace(PENDULUM_CQL, penalty_weight=0.0)),
        "CQL": (CQL, replace(PENDULUM_CQL, penalty_weight=0.25)),
        "CQL, weight 5": (CQL, replace(PENDULUM_CQL, penalty_weight=5.0)),
    },
    seeds=tuple(range(10)),
    updates=5_000,
    evaluate_every=1_000,
)
"""The comparison of the chapter *CQL end to end*."""


def run_seeds(
    experiment: Experiment, dataset_name: str, method: str, seeds: tuple[int, ...]
) -> list[Record]:
    """Train and evaluate the agents of one job, and return a record of each run.

    Returns:
        The run's key and settings, and for every evaluation point the number of updates, the
        undiscounted returns on ``EVALUATION_SEEDS``, and the mean of each logged metric over the
        updates before it.
    """
    evaluations: list[list[list[float]]] = [[] for _ in seeds]

    def look(agents: Sequence[Agent]) -> None:
        for agent, points in zip(agents, evaluations, strict=True):
            points.append(np.round(evaluate(agent, "Pendulum-v1").returns, 2).tolist())

    _, records = train_job(experiment, dataset_name, method, seeds, look)
    for record, points in zip(records, evaluations, strict=True):
        record["returns"] = points
    return records


def train_job(
    experiment: Experiment,
    dataset_name: str,
    method: str,
    seeds: tuple[int, ...],
    look: Callable[[Sequence[Agent]], None],
) -> tuple[list[Agent], list[Record]]:
    """Train the agents of one job.

    Args:
        experiment: the grid of runs.
        dataset_name: one of its datasets.
        method: one of its methods.
        seeds: one agent each.
        look: called with the agents at every evaluation point.

    Returns:
        The trained agents, and for each the record of its run, without what ``look`` found.
    """
    torch.set_num_threads(1)
    agent_class, settings = experiment.methods[method]
    dataset = load_dataset(dataset_name)
    agents = [agent_class.from_dataset(dataset, replace(settings, seed=seed)) for seed in seeds]
    started = time.perf_counter()
    how: dict[str, Any] = {
        "log_every": experiment.evaluate_every,
        "on_log": lambda _: look(agents),
    }
    size = experiment.batch_size
    if len(agents) == 1:
        history = train(agents[0], dataset, experiment.updates, size, seeds[0], **how)
        history = {name: values[..., None] for name, values in history.items()}
    else:
        history = train_together(agents, dataset, experiment.updates, size, **how)
    updates = history.pop("updates").ravel().astype(int).tolist()
    seconds = round((time.perf_counter() - started) / len(agents), 1)
    records = [
        run_key(experiment, dataset_name, method, seed)
        | {
            "seconds": seconds,
            "versions": versions(),
            "updates": updates,
            "metrics": {
                name: np.round(values[:, member], 4).tolist() for name, values in history.items()
            },
        }
        for member, seed in enumerate(seeds)
    ]
    return agents, records


def run_key(experiment: Experiment, dataset_name: str, method: str, seed: int) -> Record:
    """What has to agree for a stored run to stand for this one."""
    agent_class, settings = experiment.methods[method]
    return {
        "dataset": dataset_name,
        "dataset_hash": dataset_hash(dataset_name),
        "method": method,
        "seed": seed,
        "agent": agent_class.__name__,
        "settings": json.loads(json.dumps(asdict(replace(settings, seed=seed)))),
        "planned_updates": experiment.updates,
        "evaluate_every": experiment.evaluate_every,
        "batch_size": experiment.batch_size,
        "group": list(experiment.group_of(seed)),
    }


@cache
def dataset_hash(name: str) -> str:
    """Hash of a stored dataset, verified once: a grid has hundreds of runs on it."""
    return str(load_dataset(name).card["sha256"])


def versions() -> dict[str, str]:
    """Versions of what decides the numbers of a run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "gymnasium": gymnasium.__version__,
        "numpy": np.__version__,
        "offline-rl-lib": version("offline-rl-lib"),
    }


def load_runs(path: Path) -> list[Record]:
    """Read stored runs, one JSON object a line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a whole JSON object, with the line's number.
    """
    if not path.exists():
        raise FileNotFoundError(f"There are no stored runs at {path}; make them: run.py results.")
    runs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            runs.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}, is not a whole run: {error}. Delete the line; the runs "
                "that are missing are made again by: run.py results."
            ) from error
    return runs


def run_experiment(
    experiment: Experiment,
    directory: Path = RESULTS,
    jobs: int = -1,
    *,
    backend: str = "loky",
    run: Run | None = None,
    summarise: Callable[[Experiment, Path], None] | None = None,
) -> None:
    """Make every run of an experiment that is not stored yet, then write the summary.

    A run that fails is reported and does not lose the others.

    Args:
        experiment: the grid of runs.
        directory: where its files lie.
        jobs: processes; -1 uses every core, or every worker of a cluster.
        backend: of joblib: ``"loky"`` for this machine, ``"dask"`` or ``"ray"`` for a cluster
            that the caller has connected to.
        run: makes the runs of a job from experiment, dataset, method and seeds;
            :func:`run_seeds` if left out.
        summarise: writes the summary; :func:`write_summary` if left out.

    Raises:
        ValueError: the file of results holds runs of other settings or other data.
        RuntimeError: a worker process died, or a run could not be stored. What was finished
            before is stored.
    """
    path = directory / f"{experiment.name}.jsonl"
    stored = {_place(found) for found in stored_runs(experiment, directory)}
    missing = [
        (dataset, method, group)
        # Seeds first: an interrupted grid is an even one.
        for group in dict.fromkeys(map(experiment.group_of, experiment.seeds))
        for method in experiment.methods
        for dataset in experiment.datasets
        if any((dataset, method, seed) not in stored for seed in group)
    ]
    with parallel_config(backend=backend, n_jobs=jobs):
        finished = Parallel(return_as="generator_unordered")(
            delayed(_run_or_report)(run or run_seeds, experiment, *job) for job in missing
        )
        try:
            for records in progress(finished, total=len(missing), description=experiment.name):
                new = [record for record in records if _place(record) not in stored]
                append_runs(path, new)
        except TerminatedWorkerError as error:
            raise RuntimeError(
                "A worker process died, perhaps for lack of memory. Every run that was finished "
                f"before is in {path}; the same command makes the others. With --jobs 1 they run "
                "one after the other."
            ) from error
    (summarise or write_summary)(experiment, directory)


def stored_runs(experiment: Experiment, directory: Path = RESULTS) -> list[Record]:
    """Read the stored runs of an experiment, whole or not; none if there is no file yet.

    Raises:
        ValueError: a line is damaged, or a run was made with other settings or another dataset
            than the experiment has today.
    """
    path = directory / f"{experiment.name}.jsonl"
    stored = load_runs(path) if path.exists() else []
    keys = {
        (dataset, method, seed): run_key(experiment, dataset, method, seed)
        for dataset in experiment.datasets
        for method in experiment.methods
        for seed in experiment.seeds
    }
    for number, run in enumerate(stored, start=1):
        key = keys.get(_place(run))
        differences = (
            ["dataset, method and seed are not in it"]
            if key is None
            else [
                f"{name} {run.get(name)} in the file, {value} today"
                for name, value in key.items()
                if run.get(name) != value
            ]
        )
        if differences:
            raise ValueError(
                f"{path}, line {number}, is not a run of today's experiment {experiment.name!r}: "
                f"{'; '.join(differences)}. Move the file away, or delete such lines; the same "
                "command then makes these runs again."
            )
    return stored


def append_runs(path: Path, runs: Sequence[Record]) -> None:
    """Add runs to a file, all of them or none: it is written beside and moved into place.

    Raises:
        RuntimeError: the disk is full or not writable. The file is as it was.
    """
    lines = "".join(json.dumps(run) + "\n" for run in runs)
    unfinished = path.with_name(path.name + ".part")
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        unfinished.write_text(before + lines, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RuntimeError(
            f"{len(runs)} finished runs could not be stored in {path}: {error}. What was stored "
            "before is untouched. Make room and give the same command again."
        ) from error


def write_summary(experiment: Experiment, directory: Path = RESULTS) -> None:
    """Write per dataset and method the last score's interquartile mean and its interval.

    A run's score is the mean return over the paired starts after its *last* update; no best
    checkpoint is chosen by looking at returns.
    """
    runs = load_runs(directory / f"{experiment.name}.jsonl")
    scores: dict[str, Record] = {}
    for dataset in experiment.datasets:
        scores[dataset.split("/")[1].split("-")[0]] = {
            _slug(method): _score(
                [run for run in runs if (run["dataset"], run["method"]) == (dataset, method)]
            )
            for method in experiment.methods
        }
    summary = {
        "scores": scores,
        "seeds": len(experiment.seeds),
        "updates": experiment.updates,
        "starts": len(EVALUATION_SEEDS),
        "versions": versions(),
    }
    unfinished = directory / f"{experiment.name}.json.part"
    unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(directory / f"{experiment.name}.json")


def final_scores(runs: Sequence[Record]) -> npt.NDArray[np.float64]:
    """Mean return over the starts after the last update, one number per run, shape ``(runs,)``."""
    return np.array([np.mean(run["returns"][-1]) for run in runs])


def _score(runs: Sequence[Record]) -> Record:
    scores = final_scores(runs)
    low, high = stratified_bootstrap_interval(scores)
    return {
        "iqm": round(float(interquartile_mean(scores)), 1),
        "interval": [round(float(low), 1), round(float(high), 1)],
        "worst": round(float(scores.min()), 1),
        "best": round(float(scores.max()), 1),
        "runs": len(scores),
    }


def _slug(method: str) -> str:
    return method.lower().replace(",", "").replace(" ", "-")


def _place(run: Record) -> tuple[str, str, int]:
    return run["dataset"], run["method"], run["seed"]


def _run_or_report(
    run: Run, experiment: Experiment, dataset: str, method: str, seeds: tuple[int, ...]
) -> list[Record]:
    try:
        with _without_bars():
            return run(experiment, dataset, method, seeds)
    except Exception:
        print(f"The run {dataset}, {method}, seed {_listed(seeds)} failed:", file=sys.stderr)
        traceback.print_exc()
        return []


def _listed(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds))


@contextmanager
def _without_bars() -> Iterator[None]:
    """The one bar that counts the jobs is enough."""
    before = os.environ.get("OFFLINE_RL_PROGRESS", "1")
    os.environ["OFFLINE_RL_PROGRESS"] = "0"
    try:
        yield
    finally:
        os.environ["OFFLINE_RL_PROGRESS"] = before
