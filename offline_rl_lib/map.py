"""The map behind *When does conservatism help?*: every dataset against every algorithm.

Ten seeds of a cell are trained side by side. Each run is looked at five times: the return it earns
and, for agents with critics, the value that the critics promise for the policy's own actions. At
the end the promise is compared with what the same policy earns when it plays on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl_lib.agent import Agent, AgentSettings
from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.behaviours import RECORDED, SELECTED
from offline_rl_lib.best_bc import BestBC
from offline_rl_lib.collecting import REPLAY
from offline_rl_lib.cql import CQL
from offline_rl_lib.cql_lagrange import CQLLagrange
from offline_rl_lib.critic_agent import CriticAgent
from offline_rl_lib.data import load_dataset
from offline_rl_lib.experiments import (
    PENDULUM_CQL,
    RESULTS,
    Experiment,
    Record,
    stored_runs,
    train_job,
    versions,
)
from offline_rl_lib.failure import predicted_q, simulated_values
from offline_rl_lib.intervals import interquartile_mean, stratified_bootstrap_interval
from offline_rl_lib.iql import IQL
from offline_rl_lib.pendulum import evaluation_starts, observation_of, simulate
from offline_rl_lib.pendulum_settings import (
    PENDULUM_BEST_BC,
    PENDULUM_CQL_LAGRANGE,
    PENDULUM_IQL,
    PENDULUM_TD3BC,
)
from offline_rl_lib.sac import SAC
from offline_rl_lib.td3_bc import TD3BC

FloatArray = npt.NDArray[np.float64]

WIDTHS: dict[str, Any] = {"policy_hidden_sizes": (64,), "critic_hidden_sizes": (64, 64)}
SMALL_CQL = replace(PENDULUM_CQL, **WIDTHS)
"""CQL on Pendulum with networks half as wide as in the chapters before.

The map has many cells, so its minibatches are half as large too.
"""

WEIGHTS = (0.25, 1.0, 5.0, 20.0)
"""Penalty weights of the sweep; a weight of 0 is the method ``"penalty off"``."""

# In the order in which they are made: an interrupted map is one of fewer methods.
METHODS: dict[str, tuple[type[Agent], AgentSettings]] = {
    "BC": (BC, BCSettings(policy_hidden_sizes=(64,))),
    "best BC": (BestBC, replace(PENDULUM_BEST_BC, policy_hidden_sizes=(64,))),
    "penalty off": (CQL, replace(SMALL_CQL, penalty_weight=0.0)),
    "TD3+BC": (TD3BC, replace(PENDULUM_TD3BC, **WIDTHS)),
    "IQL": (IQL, replace(PENDULUM_IQL, **WIDTHS, value_hidden_sizes=(64, 64))),
    **{
        f"CQL, weight {weight:g}": (CQL, replace(SMALL_CQL, penalty_weight=weight))
        for weight in (0.25, 5.0, 1.0, 20.0)
    },
    "CQL, Lagrange": (CQLLagrange, replace(PENDULUM_CQL_LAGRANGE, **WIDTHS)),
}

MAP = Experiment(
    name="map",
    datasets=(REPLAY, *RECORDED, *SELECTED),
    methods=METHODS,
    seeds=tuple(range(10)),
    updates=5_000,
    evaluate_every=1_000,
    seeds_together=10,
    batch_size=32,
)
"""The map of *When does conservatism help?*"""

PROPOSALS = replace(
    MAP,
    name="proposals",
    datasets=("pendulum/narrow-v0",),
    methods={
        f"N = {number}": (CQL, replace(SMALL_CQL, penalty_weight=0.25, num_proposals=number))
        for number in (1, 5, 20)
    },
)
"""CQL with few and with many proposals per source."""

QUICK = replace(
    MAP,
    name="quick",
    datasets=("pendulum/narrow-v0", "pendulum/expert-small-v0"),
    methods={name: METHODS[name] for name in ("BC", "penalty off", "CQL, weight 0.25")},
    seeds=tuple(range(4)),
    updates=2_000,
    evaluate_every=500,
    seeds_together=4,
)
"""A corner of the map that a student makes in a few minutes."""


def run_map(
    experiment: Experiment, dataset_name: str, method: str, seeds: tuple[int, ...]
) -> list[Record]:
    """Train the agents of one cell side by side and look at them on the way.

    Returns:
        Per run its key and settings, and per evaluation point: ``returns``, the mean undiscounted
        return of the deterministic policy over the paired starts; and for agents with critics
        ``promised``, their mean value of the policy's own actions at the starts. At the end
        ``earned``: the mean discounted return of that policy, in the same scaled reward, over
        1,000 steps from the same starts. For SAC and CQL both count the entropy bonus.
    """
    returns: list[list[float]] = [[] for _ in seeds]
    promised: list[list[float]] = [[] for _ in seeds]

    def look(agents: Sequence[Agent]) -> None:
        for agent, earned, values in zip(agents, returns, promised, strict=True):
            angle, velocity = evaluation_starts()
            earned.append(round(float(simulate(agent, angle, velocity).mean()), 2))
            if _has_critics(agent):
                values.append(round(promised_value(agent), 4))

    agents, records = train_job(experiment, dataset_name, method, seeds, look)
    for agent, record, earned, values in zip(agents, records, returns, promised, strict=True):
        record["returns"] = earned
        if values:
            record |= {"promised": values, "earned": round(earned_value(agent), 4)}
    return records


def promised_value(agent: Any) -> float:
    """Mean over the paired starts of the smaller critic's value of the policy's own action.

    Args:
        agent: with critics. SAC and CQL are asked about a sample of the policy, the others about
            its deterministic action.
    """
    angle, velocity = evaluation_starts()
    action = agent.act(observation_of(angle, velocity).float().numpy(), not isinstance(agent, SAC))
    return float(predicted_q(agent, angle, velocity, torch.from_numpy(action).double()).mean())


def earned_value(agent: Any, steps: int = 1_000) -> float:
    """Mean discounted return over the paired starts, in the agent's scaled reward.

    Args:
        agent: with critics.
        steps: length of the episodes; what comes later is worth less than 0.005 of it.
    """
    angle, velocity = evaluation_starts()
    if isinstance(agent, SAC):
        return float(simulated_values(agent, angle, velocity, steps=steps)[0].mean())
    settings = agent.settings
    weights: Tensor = settings.discount ** torch.arange(steps, dtype=torch.float64)
    raw = simulate(agent, angle, velocity, steps=steps, discount=settings.discount).mean()
    return float((raw + settings.reward_shift * weights.sum()) * settings.reward_scale)


def _has_critics(agent: Agent) -> bool:
    return isinstance(agent, SAC | CriticAgent)


# ---- Stored results as arrays --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cells:
    """The stored runs of the map as arrays; what is not stored is NaN.

    Attributes:
        datasets: their names, the first axis.
        methods: their names, the second axis.
        returns: (datasets, methods, seeds, points), mean return over the paired starts.
        promised: (datasets, methods, seeds, points), scaled reward.
        earned: (datasets, methods, seeds), scaled reward, at the last point.
        updates: (points,).
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    returns: FloatArray
    promised: FloatArray
    earned: FloatArray
    updates: npt.NDArray[np.int64]

    def of(self, dataset: str, method: str) -> tuple[int, int]:
        """Position of a cell.

        Raises:
            ValueError: no such dataset or method, with the names that there are.
        """
        for wanted, names in ((dataset, self.datasets), (method, self.methods)):
            if wanted not in names:
                raise ValueError(f"{wanted!r} is not among {', '.join(names)}.")
        return self.datasets.index(dataset), self.methods.index(method)


def load_cells(experiment: Experiment = MAP, directory: Path = RESULTS) -> Cells:
    """Read the stored runs of the map, or of a part of it, as arrays."""
    points = experiment.updates // experiment.evaluate_every
    shape = (len(experiment.datasets), len(experiment.methods), len(experiment.seeds))
    cells = Cells(
        experiment.datasets,
        tuple(experiment.methods),
        returns=np.full((*shape, points), np.nan),
        promised=np.full((*shape, points), np.nan),
        earned=np.full(shape, np.nan),
        updates=np.arange(1, points + 1) * experiment.evaluate_every,
    )
    for run in stored_runs(experiment, directory):
        place = (*cells.of(run["dataset"], run["method"]), experiment.seeds.index(run["seed"]))
        cells.returns[place] = run["returns"]
        cells.promised[place] = run.get("promised", np.nan)
        cells.earned[place] = run.get("earned", np.nan)
    return cells


def last_metric(name: str, experiment: Experiment = MAP, directory: Path = RESULTS) -> FloatArray:
    """A logged metric, averaged over the last stretch of updates of each stored run.

    Args:
        name: such as ``"td_loss"``; unknown names are NaN everywhere, as for agents without it.
        experiment: the map, or a part of it.
        directory: where its files lie.

    Returns:
        (datasets, methods, seeds); NaN where the agent does not log it, or nothing is stored.
    """
    datasets, methods = experiment.datasets, tuple(experiment.methods)
    values = np.full((len(datasets), len(methods), len(experiment.seeds)), np.nan)
    for run in stored_runs(experiment, directory):
        place = datasets.index(run["dataset"]), methods.index(run["method"])
        series = run["metrics"].get(name, [np.nan])
        values[(*place, experiment.seeds.index(run["seed"]))] = series[-1]
    return values


def weight_sweep(cells: Cells) -> Record:
    """Score, promise and truth of every weight on every dataset, for the live figure.

    Returns:
        ``weights``; and ``datasets``: per short name the ``behaviour``'s score, and of each weight
        ``[middle, low, high]`` of the last ``score`` (normalised), of what the critics
        ``promised`` and of what the policy ``earned`` (both in scaled reward).
    """
    methods = weight_methods()
    sweep: Record = {}
    for d, dataset in enumerate(cells.datasets):
        entry: Record = {name: [] for name in ("score", "promised", "earned")}
        for m in (cells.methods.index(method) for method in methods):
            for name, values in (
                ("score", normalised(cells.returns[d, m, :, -1])),
                ("promised", cells.promised[d, m, :, -1]),
                ("earned", cells.earned[d, m]),
            ):
                ends = stratified_bootstrap_interval(values)
                middle = float(interquartile_mean(values))
                entry[name].append([_rounded(value) for value in (middle, *ends)])
        behaviour = float(load_dataset(dataset).episode_returns().mean())
        sweep[short_name(dataset)] = entry | {"behaviour": _rounded(float(normalised(behaviour)))}
    return {"weights": [0.0, *WEIGHTS], "datasets": sweep}


def weight_methods() -> tuple[str, ...]:
    """The methods of the sweep, from the weight 0 to the largest."""
    return ("penalty off", *(f"CQL, weight {weight:g}" for weight in WEIGHTS))


@cache
def reference_returns() -> dict[str, float]:
    """Mean returns over the paired starts of ``random`` torques and of the ``optimum``."""
    stored = json.loads((RESULTS / "reference_returns.json").read_text(encoding="utf-8"))
    return {name: float(stored["policies"][name]["mean"]) for name in ("random", "optimum")}


def normalised(returns: npt.ArrayLike) -> FloatArray:
    """Returns on the scale on which random torques have 0 and the optimum has 100."""
    ends = reference_returns()
    return 100 * (np.asarray(returns) - ends["random"]) / (ends["optimum"] - ends["random"])


def write_map_summary(experiment: Experiment, directory: Path = RESULTS) -> None:
    """Write per dataset and method the last score, the best one, promise and truth.

    ``last`` is the score after the last update and what the book reports. ``best`` is the highest
    score of the evaluation points, which nobody can pick without an environment.
    """
    cells = load_cells(experiment, directory)
    scores: Record = {}
    for d, dataset in enumerate(cells.datasets):
        scores[short_name(dataset)] = {
            "behaviour": _rounded(float(load_dataset(dataset).episode_returns().mean()))
        }
        for m, method in enumerate(cells.methods):
            returns = cells.returns[d, m]
            made = ~np.isnan(returns[:, -1])
            if made.sum() < 2:
                continue
            entry = {
                "runs": int(made.sum()),
                "last": _summary(returns[made, -1]),
                "best": _summary(returns[made].max(axis=-1)),
            }
            if not np.isnan(cells.earned[d, m, made]).any():
                entry["promised"] = _summary(cells.promised[d, m, made, -1])
                entry["earned"] = _summary(cells.earned[d, m, made])
            scores[short_name(dataset)][slug(method)] = entry
    summary = {
        "scores": scores,
        "seeds": len(experiment.seeds),
        "updates": experiment.updates,
        "starts": len(evaluation_starts()[0]),
        "versions": versions(),
    }
    unfinished = directory / f"{experiment.name}.json.part"
    unfinished.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(directory / f"{experiment.name}.json")


def short_name(dataset: str) -> str:
    """``narrow`` for ``pendulum/narrow-v0``."""
    return dataset.split("/")[1].removesuffix("-v0")


def slug(method: str) -> str:
    """``cql-weight-0_25`` for ``CQL, weight 0.25``."""
    return method.lower().replace(",", "").replace(" ", "-").replace(".", "_").replace("+", "-")


def _summary(scores: FloatArray) -> Record:
    low, high = stratified_bootstrap_interval(scores)
    return {
        "iqm": _rounded(float(interquartile_mean(scores))),
        "interval": [_rounded(low), _rounded(high)],
        "worst": _rounded(float(scores.min())),
        "best": _rounded(float(scores.max())),
    }


def _rounded(value: float) -> float:
    return round(value, 2)
