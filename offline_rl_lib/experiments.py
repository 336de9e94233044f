"""The long runs behind the book's figures: datasets x methods x seeds, stored run by run.

``python -m offline_rl_lib.experiments`` re-makes ``book/results/comparison.jsonl``, its summary
``comparison.json``, ``reference_returns.json``, the ground truth, and the runs of
:mod:`offline_rl_lib.failure`. Each finished run is one line, written at once; a run that is already
there with the same settings and the same dataset is not repeated, so the command can be interrupted
and started again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from joblib import Parallel, delayed

from offline_rl_lib.agent import Agent, AgentSettings
from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.data import load_dataset
from offline_rl_lib.dynamic_programming import store_ground_truth, store_reference_returns
from offline_rl_lib.evaluation import EVALUATION_SEEDS, evaluate
from offline_rl_lib.intervals import interquartile_mean, stratified_bootstrap_interval
from offline_rl_lib.progress import progress
from offline_rl_lib.training import train

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
    """

    name: str
    datasets: tuple[str, ...]
    methods: dict[str, tuple[type[Agent], AgentSettings]]
    seeds: tuple[int, ...]
    updates: int
    evaluate_every: int


Run = Callable[[Experiment, str, str, int], dict[str, Any]]
"""Makes one run of an experiment from dataset, method and seed; returns what JSON can hold."""

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


def run_once(experiment: Experiment, dataset_name: str, method: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one agent, and return a record that JSON can hold.

    Returns:
        The run's key and settings, and for every evaluation point the number of updates, the
        undiscounted returns on ``EVALUATION_SEEDS``, and the critics' mean Q on the data over the
        updates before it (agents without critics leave it out), in scaled reward.
    """
    torch.set_num_threads(1)
    agent_class, settings = experiment.methods[method]
    dataset = load_dataset(dataset_name)
    agent = agent_class.from_dataset(dataset, replace(settings, seed=seed))
    evaluations: list[npt.NDArray[np.float64]] = []
    started = time.perf_counter()
    history = train(
        agent,
        dataset,
        experiment.updates,
        seed=seed,
        log_every=experiment.evaluate_every,
        on_log=lambda _: evaluations.append(evaluate(agent, "Pendulum-v1").returns),
    )
    return run_key(experiment, dataset_name, method, seed) | {
        "seconds": round(time.perf_counter() - started, 1),
        "updates": history.pop("updates").astype(int).tolist(),
        "returns": [np.round(returns, 2).tolist() for returns in evaluations],
        "metrics": {name: np.round(values, 4).tolist() for name, values in history.items()},
    }


def run_key(experiment: Experiment, dataset_name: str, method: str, seed: int) -> dict[str, Any]:
    """What has to agree for a stored run to stand for this one."""
    agent_class, settings = experiment.methods[method]
    return {
        "dataset": dataset_name,
        "dataset_hash": load_dataset(dataset_name).card["sha256"],
        "method": method,
        "seed": seed,
        "agent": agent_class.__name__,
        "settings": json.loads(json.dumps(asdict(replace(settings, seed=seed)))),
        "planned_updates": experiment.updates,
        "evaluate_every": experiment.evaluate_every,
    }


def load_runs(path: Path) -> list[dict[str, Any]]:
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
    run: Run | None = None,
    summarise: Callable[[Experiment, Path], None] | None = None,
) -> None:
    """Make every run of an experiment that is not stored yet, then write the summary.

    A run that fails is reported and does not lose the others.

    Args:
        experiment: the grid of runs.
        directory: where its files lie.
        jobs: processes; -1 uses every core.
        run: makes one run from experiment, dataset, method and seed; :func:`run_once` if left out.
        summarise: writes the summary; :func:`write_summary` if left out.
    """
    path = directory / f"{experiment.name}.jsonl"
    stored = load_runs(path) if path.exists() else []
    keys = [
        (dataset, method, seed)
        for seed in experiment.seeds
        for dataset in experiment.datasets
        for method in experiment.methods
    ]
    missing = [key for key in keys if not _is_stored(run_key(experiment, *key), stored)]
    # One thread per process: the cores are shared by the runs, not by the threads of one run.
    os.environ["OFFLINE_RL_PROGRESS"], bars = "0", os.environ.get("OFFLINE_RL_PROGRESS", "1")
    runs = Parallel(n_jobs=jobs, return_as="generator_unordered")(
        delayed(_run_or_report)(run or run_once, experiment, *key) for key in missing
    )
    os.environ["OFFLINE_RL_PROGRESS"] = bars
    for finished in progress(runs, total=len(missing), description=experiment.name):
        if finished is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finished) + "\n")
    (summarise or write_summary)(experiment, directory)


def write_summary(experiment: Experiment, directory: Path = RESULTS) -> None:
    """Write per dataset and method the last score's interquartile mean and its interval.

    A run's score is the mean return over the paired starts after its *last* update; no best
    checkpoint is chosen by looking at returns.
    """
    runs = load_runs(directory / f"{experiment.name}.jsonl")
    scores: dict[str, dict[str, Any]] = {}
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
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "gymnasium": gymnasium.__version__,
            "numpy": np.__version__,
            "offline-rl-lib": version("offline-rl-lib"),
        },
    }
    unfinished = directory / f"{experiment.name}.json.part"
    unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(directory / f"{experiment.name}.json")


def final_scores(runs: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Mean return over the starts after the last update, one number per run, shape ``(runs,)``."""
    return np.array([np.mean(run["returns"][-1]) for run in runs])


def _score(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
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


def _is_stored(key: dict[str, Any], stored: Sequence[dict[str, Any]]) -> bool:
    return any(all(run.get(name) == value for name, value in key.items()) for run in stored)


def _run_or_report(
    run: Run, experiment: Experiment, dataset: str, method: str, seed: int
) -> dict[str, Any] | None:
    try:
        return run(experiment, dataset, method, seed)
    except Exception:
        print(f"The run {dataset}, {method}, seed {seed} failed:", file=sys.stderr)
        traceback.print_exc()
        return None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1 uses every core")
    jobs = parser.parse_args().jobs
    store_reference_returns(RESULTS / "reference_returns.json")
    store_ground_truth(RESULTS)
    run_experiment(COMPARISON, jobs=jobs)
    from offline_rl_lib import failure  # It imports this module, so it cannot come first.

    failure.make_results(jobs=jobs)
