"""The long runs behind *Why offline learning fails*: what critics promise, and what is true.

Every run is looked at several times while it learns: the return it earns, the value its critics
promise, the true value of the same policy by two independent methods, and whether the torques it
asks its critics about are in the data. Values are soft (SAC's entropy bonus counts) and in the
agent's scaled reward.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from scipy.spatial import KDTree
from torch import Tensor

from offline_rl_lib.agent import Agent
from offline_rl_lib.cql import CQL
from offline_rl_lib.data import OfflineDataset, load_dataset
from offline_rl_lib.dynamic_programming import (
    QUICK_GRID,
    ActionValues,
    Grid,
    in_agent_units,
    optimal_q,
    policy_q,
    torque_lottery,
)
from offline_rl_lib.experiments import (
    PENDULUM_CQL,
    RESULTS,
    Experiment,
    load_runs,
    run_key,
    train_job,
)
from offline_rl_lib.intervals import interquartile_mean, stratified_bootstrap_interval
from offline_rl_lib.pendulum import (
    evaluation_starts,
    observation_of,
    simulate,
    state_of,
    step,
)
from offline_rl_lib.sac import SAC
from offline_rl_lib.training import train

FloatArray = npt.NDArray[np.float64]
Record = dict[str, Any]

FAILURE = Experiment(
    name="failure",
    datasets=("pendulum/narrow-v0",),
    methods={
        "penalty off": (CQL, replace(PENDULUM_CQL, penalty_weight=0.0)),
        "CQL": (CQL, replace(PENDULUM_CQL, penalty_weight=0.25)),
    },
    seeds=tuple(range(10)),
    updates=5_000,
    evaluate_every=250,
)
"""The comparison's training runs on narrow data, looked at more often and more closely."""


def is_measured(update: int) -> bool:
    """Whether a run is measured after this many updates: early, then every thousand."""
    return update in (250, 500) or update % 1_000 == 0


# ---- What the data know -----------------------------------------------------------------------


class Support:
    """Which torques the data have tried near a state.

    The *gap* of a torque is its distance to the closest torque among the data at the nearest data
    states. States are compared as observations, each component in units of its standard deviation
    in the data. A torque is *outside* if its gap exceeds 95 % of the gaps of the data's own
    torques, each measured without its own transition.

    Args:
        dataset: transitions with one action dimension.
        neighbours: how many data states count as near.

    Attributes:
        limit: N m, the 95 % quantile of the data's own gaps.
        own_gaps: (n,) N m, gap of each transition of the data.
    """

    def __init__(self, dataset: OfflineDataset, neighbours: int = 20) -> None:
        self.neighbours = neighbours
        self.scale = dataset.observation.double().std(dim=0).numpy()
        self.torque = dataset.action[:, 0].double().numpy()
        points = dataset.observation.double().numpy() / self.scale
        self.tree = KDTree(points)
        _, nearest = self.tree.query(points, neighbours + 1)
        distance = np.abs(self.torque[nearest] - self.torque[:, None])
        distance[nearest == np.arange(len(points))[:, None]] = np.inf  # not its own transition
        self.own_gaps: FloatArray = distance.min(axis=1)
        self.limit = float(np.quantile(self.own_gaps, 0.95))

    def near(self, observation: npt.NDArray[np.floating]) -> FloatArray:
        """Torques of the data at the nearest data states, (B, neighbours), of states (B, 3)."""
        _, nearest = self.tree.query(
            np.asarray(observation, np.float64) / self.scale, self.neighbours
        )
        near: FloatArray = self.torque[nearest]
        return near

    def gap(
        self, observation: npt.NDArray[np.floating], torque: npt.NDArray[np.floating]
    ) -> FloatArray:
        """Gaps in N m of torques (B,) or (B, K) at states (B, 3)."""
        near = self.near(observation).reshape(len(observation), *[1] * (torque.ndim - 1), -1)
        gaps: FloatArray = np.abs(near - torque[..., None]).min(axis=-1)
        return gaps

    def outside(
        self, observation: npt.NDArray[np.floating], torque: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.bool_]:
        """Whether torques (B,) or (B, K) at states (B, 3) are outside the data."""
        return self.gap(observation, torque) > self.limit


# ---- What is promised and what is true ---------------------------------------------------------


@torch.no_grad()
def predicted_q(agent: SAC, angle: Tensor, velocity: Tensor, torque: Tensor) -> Tensor:
    """The smaller of both critics' values, in scaled reward, float64.

    Args:
        agent: SAC or CQL for Pendulum.
        angle: (...), rad.
        velocity: (...), rad/s.
        torque: (..., K), N m.

    Returns:
        (..., K).
    """
    observation = observation_of(angle, velocity).float().reshape(-1, 3)
    q_values = agent.critic(observation, torque.float().reshape(len(observation), -1, 1))
    return q_values.amin(dim=0).reshape(torque.shape).double()


def true_q(agent: SAC, grid: Grid = QUICK_GRID, nodes: int = 12) -> ActionValues:
    """Soft Q of the agent's stochastic policy by dynamic programming, environment's units."""
    lottery = torque_lottery(agent, grid, nodes)
    return policy_q(lottery, grid, agent.settings.discount, tolerance=0.01)


def backups_seen(updates: int, rate: float, steps: int) -> FloatArray:
    """Share of a critic that looks at least t steps ahead, for t = 0 ... steps - 1.

    A critic that fits its target after every update, for a fixed policy, holds a mixture of
    returns over N + 1 steps; N is binomial with ``updates`` trials of probability ``rate``,
    because a target critic takes on that share of a further backup each time.

    Returns:
        P(N >= t), shape (steps,).
    """
    shares: FloatArray = stats.binom.sf(np.arange(steps) - 1, updates, rate)
    return shares


@torch.no_grad()
def simulated_values(
    agent: SAC,
    angle: Tensor,
    velocity: Tensor,
    repeats: int = 4,
    steps: int = 1_000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Monte-Carlo estimate of the soft Q of the policy's own actions, by playing on.

    Args:
        agent: SAC or CQL for Pendulum; its own random numbers are not touched.
        angle: (n,) rad, where the episodes start.
        velocity: (n,) rad/s.
        repeats: episodes per start.
        steps: length of an episode; what comes later is worth less than discount^steps.
        seed: of the actions.

    Returns:
        Per start, (n,) float64, in scaled reward: the whole value, and the part of it that a
        critic can have seen after the agent's number of updates (:func:`backups_seen`).
    """
    settings, generator = agent.settings, torch.Generator().manual_seed(seed)
    seen = backups_seen(agent.updates, settings.target_update_rate, steps)
    alpha = agent.temperature.double()
    angle, velocity = angle.repeat(repeats), velocity.repeat(repeats)
    whole, part = torch.zeros_like(angle), torch.zeros_like(angle)
    for t in range(steps):
        policy = agent.policy(observation_of(angle, velocity).float())
        action, log_prob = policy.rsample_with_log_prob((), generator)
        angle, velocity, reward = step(angle, velocity, action[:, 0].double())
        earned = (reward + settings.reward_shift) * settings.reward_scale
        # The bonus belongs to the backup that leads to a state; the first has none.
        bonus = -alpha * log_prob.double() * (t > 0)
        whole += settings.discount**t * (earned + bonus)
        part += settings.discount**t * (seen[t] * earned + seen[max(t - 1, 0)] * bonus)
    return whole.view(repeats, -1).mean(dim=0), part.view(repeats, -1).mean(dim=0)


def measure(agent: SAC, support: Support, dataset: OfflineDataset) -> Record:
    """Look at an agent without changing it.

    Returns:
        Means over the paired starts: ``returns``, undiscounted, of the deterministic policy in
        the environment's units; ``predicted``, the critics' value of the policy's own torques;
        ``programmed`` and ``simulated``, their true value by dynamic programming and by playing;
        ``reachable``, the part of it that the critics can have seen. Means over the states of the
        data: ``outside``, share of the policy's torques outside the data; ``gap``, N m, their
        distance to the data's; ``predicted_gain`` and ``true_gain``, value of the policy's torque
        minus value of the torque in the data, according to the critics and in truth.
    """
    angle, velocity = evaluation_starts()
    returns = simulate(agent, angle, velocity)
    simulated, reachable = simulated_values(agent, angle, velocity)
    truth = true_q(agent)
    torque, probability = own_torques(agent, angle, velocity)
    predicted = predicted_q(agent, angle, velocity, torque)
    programmed = scaled(agent, truth.q(angle[:, None], velocity[:, None], torque))
    return {
        "returns": float(returns.mean()),
        "predicted": _mean(predicted, probability),
        "programmed": _mean(programmed, probability),
        "simulated": float(simulated.mean()),
        "reachable": float(reachable.mean()),
        "temperature": float(agent.temperature),
    } | _against_the_data(agent, truth, support, dataset)


def _against_the_data(
    agent: SAC, truth: ActionValues, support: Support, dataset: OfflineDataset
) -> Record:
    observation = dataset.observation.numpy()
    angle, velocity = state_of(observation)
    torque, probability = own_torques(agent, angle, velocity)
    gap = torch.from_numpy(support.gap(observation, torque.numpy()))
    # The data's torque comes last, so that both are valued in one call.
    both = torch.cat((torque, dataset.action.double()), dim=-1)
    predicted = predicted_q(agent, angle, velocity, both)
    true = scaled(agent, truth.q(angle[:, None], velocity[:, None], both))
    return {
        "outside": _mean((gap > support.limit).double(), probability),
        "gap": _mean(gap, probability),
        "predicted_gain": _mean(predicted[:, :-1] - predicted[:, -1:], probability),
        "true_gain": _mean(true[:, :-1] - true[:, -1:], probability),
    }


@torch.no_grad()
def own_torques(
    agent: SAC, angle: Tensor, velocity: Tensor, nodes: int = 12
) -> tuple[Tensor, Tensor]:
    """Torques of a policy and their probabilities: Gauss-Hermite nodes of its tanh-normal.

    Args:
        agent: SAC or CQL for Pendulum.
        angle: (n,) rad.
        velocity: (n,) rad/s.
        nodes: K.

    Returns:
        Torques (n, K) in N m and probabilities (n, K), float64.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    policy = agent.policy(observation_of(angle, velocity).float())
    pre_tanh = policy.mean.double() + policy.std.double() * torch.from_numpy(points)
    torque = policy.mid.double() + policy.half.double() * torch.tanh(pre_tanh)
    return torque, torch.from_numpy(weights / weights.sum()).expand_as(torque)


def scaled(agent: SAC, value: Tensor) -> Tensor:
    """A value in the environment's units of reward, in those of the agent."""
    settings = agent.settings
    return in_agent_units(value, settings.reward_shift, settings.reward_scale, settings.discount)


def _mean(values: Tensor, probability: Tensor) -> float:
    return float((values * probability).sum(dim=-1).mean())


# ---- The runs -----------------------------------------------------------------------------------


def run_failure(
    experiment: Experiment, dataset_name: str, method: str, seeds: tuple[int, ...]
) -> list[Record]:
    """Train the agent of a seed and measure it on the way.

    Returns:
        The run's key and settings; under ``points`` what :func:`measure` found after each of the
        ``measured`` numbers of updates; and ``data_q``, the critics' mean Q on the data in every
        stretch of 250 updates.
    """
    (seed,) = seeds
    dataset = load_dataset(dataset_name)
    support = Support(dataset)
    points: dict[int, Record] = {}

    def look(agents: Sequence[Agent]) -> None:
        (agent,) = agents
        assert isinstance(agent, SAC)
        if is_measured(agent.updates):
            points[agent.updates] = measure(agent, support, dataset)

    _, (trained,) = train_job(experiment, dataset_name, method, seeds, look)
    data_q = np.array(trained["metrics"]["data_q"])
    return [record(run_key(experiment, dataset_name, method, seed), points, data_q)]


def record(key: Record, points: Mapping[int, Record], data_q: FloatArray) -> Record:
    """What is stored of a run: its key, and its measurements by name, rounded."""
    last = points[max(points)]
    return key | {
        "measured": list(points),
        "points": {name: [round(at[name], 4) for at in points.values()] for name in last},
        "data_q": np.round(data_q, 4).tolist(),
    }


def curve(runs: Sequence[Record], method: str, name: str) -> FloatArray:
    """What was measured in the runs of a method, (seeds, points), in the order of seeds."""
    found = sorted((run for run in runs if run["method"] == method), key=lambda run: run["seed"])
    return np.array([run["points"][name] for run in found])


def write_failure_summary(experiment: Experiment, directory: Path = RESULTS) -> None:
    """Write for each method and quantity the interquartile mean at the end, and its interval."""
    runs = load_runs(directory / f"{experiment.name}.jsonl")
    summary: Record = {
        "seeds": len(experiment.seeds),
        "updates": experiment.updates,
        "measured": runs[0]["measured"],
        "limit": round(Support(load_dataset(experiment.datasets[0])).limit, 3),
        "final": {
            method.replace(" ", "-").lower(): {
                name: _summary(curve(runs, method, name)[:, -1]) for name in runs[0]["points"]
            }
            for method in experiment.methods
        },
    }
    target = directory / f"{experiment.name}.json"
    target.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _summary(values: FloatArray) -> Record:
    low, high = stratified_bootstrap_interval(values)
    return {
        "iqm": round(float(interquartile_mean(values)), 3),
        "interval": [round(low, 3), round(high, 3)],
    }


# ---- The landscapes -----------------------------------------------------------------------------

LANDSCAPE_ANGLES, LANDSCAPE_TORQUES = 25, 41
LANDSCAPE_VELOCITIES = (-4.0, -2.0, 0.0, 2.0, 4.0)


def store_landscapes(
    path: Path, agents: Mapping[str, SAC], dataset: OfflineDataset, runs: Mapping[str, Record]
) -> None:
    """Store Q over torque at a grid of states, predicted and true, in scaled reward.

    The file holds the axes ``angle`` (25,), ``velocity`` (5,) and ``torque`` (41,); the torques of
    the 20 nearest data states of each state, ``data`` (25, 5, 20), with the ``limit`` of
    :class:`Support`; and Q as (25, 5, 41): of the ``optimum``, and for each agent its critics'
    ``predicted``, the ``true`` soft Q of its policy, and its deterministic ``torque`` (25, 5).

    Args:
        path: JSON file to write.
        agents: trained agents by name.
        dataset: what they were trained on.
        runs: their keys, stored under ``runs``.
    """
    angle, velocity, torque = torch.meshgrid(
        torch.linspace(-torch.pi, torch.pi, LANDSCAPE_ANGLES, dtype=torch.float64),
        torch.tensor(LANDSCAPE_VELOCITIES, dtype=torch.float64),
        torch.linspace(-2.0, 2.0, LANDSCAPE_TORQUES, dtype=torch.float64),
        indexing="ij",
    )
    observation = observation_of(angle[..., 0], velocity[..., 0]).numpy()
    support = Support(dataset)
    optimum = optimal_q(Grid()).q(angle, velocity, torque)
    some_agent = next(iter(agents.values()))
    stored: Record = {
        "runs": dict(runs),
        "angle": _digits(angle[:, 0, 0]),
        "velocity": list(LANDSCAPE_VELOCITIES),
        "torque": _digits(torque[0, 0]),
        "limit": round(support.limit, 4),
        "data": _digits(np.sort(support.near(observation.reshape(-1, 3))).reshape(25, 5, -1)),
        "optimum": _digits(scaled(some_agent, optimum)),
    }
    for name, agent in agents.items():
        stored[name] = {
            "predicted": _digits(predicted_q(agent, angle[..., 0], velocity[..., 0], torque)),
            "true": _digits(scaled(agent, true_q(agent).q(angle, velocity, torque))),
            "torque": _digits(agent.act(observation.reshape(-1, 3)).reshape(25, 5)),
        }
    path.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")


def _digits(values: Tensor | npt.NDArray[np.floating]) -> Any:
    """Nested lists with five significant digits."""
    array = np.asarray(values, dtype=np.float64)
    rounded = [float(f"{value:.5g}") for value in array.ravel()]
    return np.array(rounded).reshape(array.shape).tolist()


def make_landscapes(path: Path = RESULTS / "landscapes.json") -> None:
    """Train the agents of seed 0 again and store their landscapes, unless they are there."""
    name, seed = FAILURE.datasets[0], FAILURE.seeds[0]
    keys = {method: run_key(FAILURE, name, method, seed) for method in FAILURE.methods}
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["runs"] == keys:
        return
    dataset, agents = load_dataset(name), dict[str, SAC]()
    for method, (agent_class, settings) in FAILURE.methods.items():
        agent = agent_class.from_dataset(dataset, replace(settings, seed=seed))
        assert isinstance(agent, SAC)
        train(agent, dataset, FAILURE.updates, seed=seed)
        agents[method] = agent
    store_landscapes(path, agents, dataset, keys)
