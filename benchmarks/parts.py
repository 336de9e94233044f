"""What else takes time: growth with the size of the work, data, evaluation, the way to a policy."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.spaces import Box

from benchmarks.blocks import peak_memory, resident_memory
from benchmarks.compare import ROOT, spread
from benchmarks.contestants import Work, seconds_per_update
from offline_rl_lib.collecting import REPLAY, store_dataset
from offline_rl_lib.cql import CQL
from offline_rl_lib.data import COLUMNS, OfflineDataset, load_dataset
from offline_rl_lib.evaluation import EVALUATION_SEEDS, evaluate
from offline_rl_lib.experiments import PENDULUM_CQL
from offline_rl_lib.fast_cql import FastCQL
from offline_rl_lib.pendulum import ENV_ID, SwingUpController
from offline_rl_lib.progress import progress

GROWTH: dict[str, tuple[int, ...]] = {
    "batch_size": (16, 64, 256),
    "proposals": (1, 5, 10),
    "action_size": (1, 6, 17),
    "width": (32, 128, 256),
    "seeds": (1, 3, 10),
}
EPISODE = 200
RANDOM = "pendulum/random-v0"


def growth(
    sizes: dict[str, tuple[int, ...]] = GROWTH, blocks: int = 5, updates: int = 4
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Measure the processor time of an update in ms per seed, one size varied at a time.

    Returns:
        ``[size][value][contestant]``. Many seeds in one batch are the plain update's.
    """
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name, values in sizes.items():
        works = [replace(Work(), **{name: value}) for value in values]
        found[name] = {str(value): {} for value in values}
        for contestant in ("CQL",) if name == "seeds" else ("CQL", "FastCQL"):
            costs = seconds_per_update(contestant, works, blocks, updates)
            for value, seconds in zip(values, costs, strict=True):
                found[name][str(value)][contestant] = spread([1e3 * one for one in seconds])
    return found


def timed(action: Callable[[], Any], repeats: int = 3) -> dict[str, dict[str, float]]:
    """Wall and processor time of an action in seconds, over some repeats."""
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"wall_s": spread(walls), "cpu_s": spread(processors)}


def generated_dataset(transitions: int) -> OfflineDataset:
    """Build a dataset in Pendulum's spaces, in episodes of 200 steps, from random numbers.

    Args:
        transitions: a multiple of 200.
    """
    if transitions < EPISODE or transitions % EPISODE:
        raise ValueError(
            f"transitions must be a positive multiple of {EPISODE}; got {transitions}."
        )
    source = torch.Generator().manual_seed(0)
    observation = torch.rand((transitions + 1, 3), generator=source) * 2 - 1
    step = torch.arange(transitions)
    last = step % EPISODE == EPISODE - 1
    following = observation[1:].clone()
    following[last] = torch.rand((int(last.sum()), 3), generator=source) * 2 - 1
    return OfflineDataset(
        observation=observation[:-1].clone(),
        action=torch.rand((transitions, 1), generator=source) * 4 - 2,
        reward=-16 * torch.rand(transitions, generator=source),
        next_observation=following,
        terminated=torch.zeros(transitions, dtype=torch.bool),
        truncated=last,
        episode=step // EPISODE,
        observation_space=Box(-1, 1, (3,)),
        action_space=Box(-2, 2, (1,)),
        name="generated/random-v0",
    )


def large_dataset(transitions: int = 1_000_000, draws: int = 200) -> dict[str, Any]:
    """Store a large dataset, load it and sample from it.

    Returns:
        Seconds to load, the size of its tensors, how far the peak of memory rose above what was
        resident before, in MB and as a multiple of the tensors, and ms per minibatch of 64 beside
        those of the shipped data.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "random-v0"
        store_dataset(generated_dataset(transitions), place, ENV_ID, {"how": "random numbers"})
        loading = _in_new_process(place)
        large = load_dataset(place)
    sampling = {
        name: timed(partial(_draw, dataset, draws))["cpu_s"]["median"] * 1e3 / draws
        for name, dataset in (("large", large), ("shipped", load_dataset(REPLAY)))
    }
    tensors = sum(getattr(large, key).nbytes for key in COLUMNS) / 2**20
    rise = loading["rise_mb"]
    return {
        "transitions": transitions,
        "load_wall_s": loading["wall_s"],
        "load_cpu_s": loading["cpu_s"],
        "tensors_mb": tensors,
        "peak_rise_mb": rise,
        "peak_rise_in_tensors": None if rise is None else rise / tensors,
        "sample_ms": sampling,
    }


def load_once(place: str) -> dict[str, Any]:
    """Load a dataset; return seconds, and the peak of memory above what was resident before."""
    load_dataset(REPLAY)  # What every program needs once: the reader of the files.
    before = resident_memory()
    took = timed(lambda: load_dataset(place), repeats=1)
    after = peak_memory()
    return {
        "wall_s": took["wall_s"]["median"],
        "cpu_s": took["cpu_s"]["median"],
        "rise_mb": None if before is None or after is None else after - before,
    }


def data_and_evaluation() -> dict[str, Any]:
    """Load the shipped data, and run 100 episodes of the swing-up controller and of a network."""
    agent = CQL.from_dataset(load_dataset(REPLAY), PENDULUM_CQL)
    return {
        "load_shipped": timed(lambda: load_dataset(REPLAY)),
        "evaluate_100_network": timed(lambda: evaluate(agent, ENV_ID)),
        "evaluate_100_controller": timed(lambda: evaluate(SwingUpController(), ENV_ID)),
    }


def time_to_policy(
    seeds: int = 1, updates: int = 6000, every: int = 1000, starts: int = 100
) -> list[dict[str, Any]]:
    """Train on the dataset and with the setting that did best in the book's map of both.

    That is the random policy's data and CQL with a penalty weight of 0.25. The time counts from
    loading the data and includes every evaluation on the paired starts.

    Returns:
        One record a seed: after each stretch of updates their number, the mean return, and the
        seconds of wall and processor time so far; at the end the return from each start.
    """
    records = []
    for seed in progress(range(seeds), description="seeds"):
        wall, processor = time.perf_counter(), time.process_time()
        dataset = load_dataset(RANDOM)
        settings = replace(
            PENDULUM_CQL,
            penalty_weight=0.25,
            policy_hidden_sizes=(64,),
            critic_hidden_sizes=(64, 64),
            seed=seed,
        )
        agent = FastCQL.from_dataset(dataset, settings)
        record: dict[str, Any] = {
            "seed": seed,
            "updates": [],
            "mean_return": [],
            "wall_s": [],
            "cpu_s": [],
        }
        generator = torch.Generator().manual_seed(seed)
        while agent.updates < updates:
            agent.update(dataset.sample(32, generator))
            if agent.updates % every == 0 or agent.updates == updates:
                result = evaluate(agent, ENV_ID, EVALUATION_SEEDS[:starts])
                record["mean_return"].append(result.mean)
                record["last_returns"] = [round(float(value), 1) for value in result.returns]
                record["updates"].append(agent.updates)
                record["wall_s"].append(time.perf_counter() - wall)
                record["cpu_s"].append(time.process_time() - processor)
        records.append(record)
    return records


def _draw(dataset: OfflineDataset, draws: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        dataset.sample(64, generator)


def _in_new_process(place: Path) -> dict[str, Any]:
    """Load in a process that has seen no other large data, so that its peak tells."""
    code = "import json, sys; from benchmarks.parts import load_once; "
    code += "print(json.dumps(load_once(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
