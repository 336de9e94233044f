"""Policies to watch: small trained networks in a file that a web page can carry and run.

``python -m offline_rl_lib.watching`` trains what is missing and stores it, with the optimum of the
dynamic programme and the torques of the data, in ``book/results/watched_policies.json``. Weights
are rounded to 32 bits, as they were trained; everything here computes with them in 64 bits, and so
does the page, which makes the two comparable.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offline_rl_lib.agent import Agent, AgentSettings
from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.data import OfflineDataset, load_dataset
from offline_rl_lib.dynamic_programming import ActionValues, Grid, optimal_q
from offline_rl_lib.evaluation import EVALUATION_SEEDS, Policy
from offline_rl_lib.experiments import PENDULUM_CQL, RESULTS
from offline_rl_lib.failure import Support, backups_seen
from offline_rl_lib.networks import LOG_STD_MAX, LOG_STD_MIN
from offline_rl_lib.pendulum import (
    EPISODE_STEPS,
    SwingUpController,
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
Layer = tuple[FloatArray, FloatArray]
"""Weight (..., inputs, outputs) and bias (..., outputs)."""

WATCHED_FILE = RESULTS / "watched_policies.json"
FORMAT = "watched policies, 1"
SEED, UPDATES = 0, 5_000
STORED_STATES = 2_000
OPTIMUM_GRID = Grid(angles=150, velocities=151, torques=41)
REACH_STEPS = 80
"""Steps after which 5,000 updates have carried nothing back: the share is below 1e-9."""

_SMALL = replace(PENDULUM_CQL, policy_hidden_sizes=(64,), critic_hidden_sizes=(64, 64), seed=SEED)
_CLONE = BCSettings(policy_hidden_sizes=(64,), seed=SEED)
NARROW, REPLAY = "pendulum/narrow-v0", "pendulum/replay-v0"


def _cql(weight: float) -> CQLSettings:
    return replace(_SMALL, penalty_weight=weight)


TRAINED: dict[str, tuple[str, type[Agent], AgentSettings]] = {
    "BC, narrow data": (NARROW, BC, _CLONE),
    "penalty off, narrow data": (NARROW, CQL, _cql(0.0)),
    "CQL, narrow data": (NARROW, CQL, _cql(0.25)),
    "CQL, weight 5, narrow data": (NARROW, CQL, _cql(5.0)),
    "penalty off, replay data": (REPLAY, CQL, _cql(0.0)),
    "CQL, replay data": (REPLAY, CQL, _cql(0.25)),
}
"""Dataset, class and settings of each trained policy; the comparison's, with smaller networks."""

CONTROLLER, OPTIMUM = "hand-written controller", "optimum"
NAMES = (*TRAINED, CONTROLLER, OPTIMUM)


# ---- A policy without torch ---------------------------------------------------------------------


def forward(layers: Sequence[Layer], inputs: FloatArray) -> FloatArray:
    """Linear layers with a ReLU between them; weights may carry an axis for twin networks.

    Args:
        layers: weights (inputs, outputs) or (2, inputs, outputs), biases alike.
        inputs: (B, inputs).

    Returns:
        (B, outputs), or (2, B, outputs) for twins.
    """
    values = inputs
    for number, (weight, bias) in enumerate(layers):
        values = np.maximum(values, 0) if number else values
        values = values @ weight + bias[..., None, :]
    return values


@dataclass(frozen=True, eq=False)
class NetworkPolicy:
    """A trained policy and its critics, if it has any, as plain arrays in float64.

    Attributes:
        dataset: name of the data that it was trained on.
        policy: two layers, 3 inputs, 2 outputs: mean and log standard deviation before the tanh.
        critics: twin layers, 4 inputs (observation, torque), 1 output; empty for cloning.
        low: N m, lower bound of the torque.
        high: N m, upper bound.
        record: settings, versions and returns that were stored with it.
    """

    dataset: str
    policy: tuple[Layer, ...]
    critics: tuple[Layer, ...]
    low: float
    high: float
    record: Record

    def distribution(self, observation: npt.NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation before the tanh, each (B, 1), of observations (B, 3)."""
        outputs = forward(self.policy, np.asarray(observation, np.float64))
        return outputs[:, :1], np.exp(outputs[:, 1:].clip(LOG_STD_MIN, LOG_STD_MAX))

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """Deterministic torques (B, 1) for observations (B, 3), or (1,) for one (3,).

        Raises:
            ValueError: a sample is asked for; use :class:`Sampled`.
        """
        if not deterministic:
            raise ValueError("This policy has no random numbers; wrap it: Sampled(policy, seed).")
        observations = np.atleast_2d(np.asarray(observation, np.float64))
        torque = self._squashed(self.distribution(observations)[0])
        return torque if np.ndim(observation) == 2 else torque[0]

    def q(self, angle: FloatArray, velocity: FloatArray, torque: FloatArray) -> FloatArray:
        """The smaller of both critics' values, scaled reward; the arguments broadcast.

        Raises:
            ValueError: cloning has no critics.
        """
        if not self.critics:
            raise ValueError("This policy was cloned from data; it has no critics to ask.")
        angle, velocity, torque = np.broadcast_arrays(angle, velocity, torque)
        inputs = np.stack((np.cos(angle), np.sin(angle), velocity, torque), axis=-1)
        values = forward(self.critics, inputs.reshape(-1, 4)).min(axis=0)
        return values.reshape(torque.shape)

    def _squashed(self, before: FloatArray) -> FloatArray:
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        squashed: FloatArray = middle + half * np.tanh(before)
        return squashed


class Sampled:
    """The same policy, drawing its torques instead of taking the middle of its distribution.

    Args:
        policy: a network policy.
        seed: of the draws.
    """

    def __init__(self, policy: NetworkPolicy, seed: int) -> None:
        self.policy, self.random = policy, np.random.default_rng(seed)

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = False
    ) -> npt.NDArray[np.floating]:
        """Drawn torques (B, 1) for observations (B, 3); `deterministic` has no effect."""
        mean, std = self.policy.distribution(observation)
        return self.policy._squashed(mean + std * self.random.standard_normal(mean.shape))


# ---- Watching -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Swing:
    """One episode per start, arrays (steps, n) in float64, at the states before each step.

    Attributes:
        angle: rad, not wrapped: it counts whole turns.
        velocity: rad/s.
        torque: N m.
        reward: of the step taken.
    """

    angle: FloatArray
    velocity: FloatArray
    torque: FloatArray
    reward: FloatArray


def swing(
    policy: Policy, angle: npt.ArrayLike, velocity: npt.ArrayLike, steps: int = EPISODE_STEPS
) -> Swing:
    """Play a policy from chosen starts, with observations in 64 bits.

    Args:
        policy: maps observations (n, 3) to torques (n, 1).
        angle: (n,) rad.
        velocity: (n,) rad/s.
        steps: length of the episodes.
    """
    theta = torch.tensor(np.atleast_1d(angle), dtype=torch.float64)
    speed = torch.tensor(np.atleast_1d(velocity), dtype=torch.float64)
    rows = []
    for _ in range(steps):
        observation = observation_of(theta, speed).numpy()
        torque = torch.as_tensor(policy.act(observation), dtype=torch.float64)[:, 0]
        next_theta, next_speed, reward = step(theta, speed, torque)
        rows.append([x.numpy() for x in (theta, speed, torque, reward)])
        theta, speed = next_theta, next_speed
    return Swing(*np.array(rows).swapaxes(0, 1))


@dataclass(frozen=True, eq=False)
class Watched:
    """What the file holds.

    Attributes:
        policies: by name, in the order of ``NAMES``.
        data: for each dataset some of its states and torques, (n, 3): angle, velocity, torque.
        optimum: the best values of the endless discounted task, environment's units.
        reach: (steps,), share of the critics that looks at least t steps ahead.
        text: the file itself, for the page.
    """

    policies: dict[str, Policy]
    data: dict[str, FloatArray]
    optimum: ActionValues
    reach: FloatArray
    text: str

    def network(self, name: str) -> NetworkPolicy:
        """A trained policy.

        Raises:
            KeyError: there is none of this name.
        """
        policy = self.policies.get(name)
        if not isinstance(policy, NetworkPolicy):
            raise KeyError(f"No trained policy is called {name!r}; there are {list(TRAINED)}.")
        return policy

    def kept(self, reward: FloatArray) -> FloatArray:
        """Scaled discounted reward of episodes, as far as the trained critics can see.

        Args:
            reward: (steps, n), environment's units, from the state in question on.

        Returns:
            (n,): the reward of step t counts discount^t times the share that looks so far ahead.
        """
        earned = (reward[: len(self.reach)] + _SMALL.reward_shift) * _SMALL.reward_scale
        weight = self.reach[: len(earned)] * _SMALL.discount ** np.arange(len(earned))
        kept: FloatArray = weight @ earned
        return kept

    def cost(self, swung: Swing) -> FloatArray:
        """Return that each torque of an episode costs, if the optimum took over after it.

        Returns:
            (steps, n), max over torques of the optimum's Q minus that of the torque taken: never
            negative but for torques between those of the grid.
        """
        angle, velocity, torque = map(torch.from_numpy, (swung.angle, swung.velocity, swung.torque))
        values = self.optimum.q(angle[..., None], velocity[..., None], self.torques)
        cost: FloatArray = (values.amax(dim=-1) - self.optimum.q(angle, velocity, torque)).numpy()
        return cost

    @property
    def torques(self) -> torch.Tensor:
        """The optimum's choice of torques, N m."""
        return self.optimum.grid.torque_values()

    def landscape(
        self, name: str, angle: float, velocity: float, torque: FloatArray
    ) -> dict[str, FloatArray]:
        """Q over torque in one state.

        Args:
            name: of a policy.
            angle: rad.
            velocity: rad/s.
            torque: (K,) N m.

        Returns:
            (K,) each: ``promised`` by the policy's critics, if it has any; ``kept``, by taking
            the torque and then following the policy, as far as critics can see; both in scaled
            reward. ``best``, if the optimum takes over, in the environment's units.
        """
        policy = self.policies[name]
        here, speed = (torch.tensor(x, dtype=torch.float64) for x in (angle, velocity))
        next_angle, next_velocity, reward = step(here, speed, torch.from_numpy(torque))
        after = swing(policy, next_angle.numpy(), next_velocity.numpy(), len(self.reach))
        values = {"kept": self.kept(np.concatenate((reward.numpy()[None], after.reward)))}
        if isinstance(policy, NetworkPolicy) and policy.critics:
            values["promised"] = policy.q(np.array(angle), np.array(velocity), torque)
        return values | {"best": self.optimum.q(here, speed, torch.from_numpy(torque)).numpy()}


# ---- The file -----------------------------------------------------------------------------------


def plan(name: str) -> Record:
    """What has to agree for a stored policy to stand for this one."""
    dataset, agent_class, settings = TRAINED[name]
    return {
        "dataset": dataset,
        "dataset_hash": _hash_of(dataset),
        "agent": agent_class.__name__,
        "settings": json.loads(json.dumps(asdict(settings))),
        "updates": UPDATES,
    }


@cache
def _hash_of(dataset: str) -> str:
    return str(load_dataset(dataset).card["sha256"])


def store_watched_policies(path: str | Path = WATCHED_FILE) -> None:
    """Train the policies that are missing and store them all.

    A policy that is stored with the same settings and the same data stays as it is. The file is
    replaced after each training, so that an interruption loses one policy at most.

    Args:
        path: JSON file; it is made or completed.
    """
    target = Path(path)
    stored = _stored(target)
    policies: Record = stored.get("policies", {})
    for name in TRAINED:
        key = plan(name)
        if all(policies.get(name, {}).get(item) == value for item, value in key.items()):
            continue
        policies[name] = key | _trained(name)
        _write(target, stored | {"format": FORMAT, "policies": policies})
        stored = _stored(target)
    complete = {name: policies[name] for name in TRAINED}
    if not _is_surrounded(stored) or list(policies) != list(TRAINED):
        _write(target, {"format": FORMAT, "policies": complete} | _surroundings())


def load_watched_policies(path: str | Path = WATCHED_FILE) -> Watched:
    """Read the stored policies.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, incomplete, of another format, or was made from other
            data or with other settings than this library's.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(
            f"There are no stored policies at {path}; make them: run.py results."
        )
    text = source.read_text(encoding="utf-8")
    try:
        stored = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. {_AGAIN}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f"{path} holds no {FORMAT!r}; it is another file, or another version's.")
    missing = [name for name in TRAINED if name not in stored.get("policies", {})]
    if missing:
        raise ValueError(f"{path} is incomplete: {', '.join(missing)} missing. {_AGAIN}")
    for name in TRAINED:
        for item, value in plan(name).items():
            found = stored["policies"][name].get(item)
            if found != value:
                raise ValueError(
                    f"{path}: {name} was stored with {item} {found}, here it is {value}. {_AGAIN}"
                )
    try:
        return _read(stored, text)
    except (LookupError, TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"{path} is damaged: {error!r}. {_AGAIN}") from error


_AGAIN = "Delete it and make it again: run.py results."


def _read(stored: Record, text: str) -> Watched:
    policies: dict[str, Policy] = {
        name: NetworkPolicy(
            dataset=record["dataset"],
            policy=_layers(record["policy"], (3, 64, 2)),
            critics=_layers(record["critics"], (4, 64, 64, 1)) if record["critics"] else (),
            low=float(record["low"]),
            high=float(record["high"]),
            record=record,
        )
        for name, record in stored["policies"].items()
    }
    grid = Grid(**stored["optimum"]["grid"])
    half = torch.from_numpy(_decoded(stored["optimum"]["half_state_value"]))
    # The pendulum and its mirror image are worth the same; half of the circle is stored.
    value = torch.cat((half, half[1:-1].flip(0, 1)))
    if value.shape != (grid.angles, grid.velocities):
        raise ValueError(f"a table of {tuple(value.shape)} values for {grid}")
    optimum = ActionValues(grid, float(stored["optimum"]["discount"]), value)
    data = {name: _decoded(table["states"]) for name, table in stored["data"].items()}
    policies |= {CONTROLLER: SwingUpController(), OPTIMUM: optimum}
    return Watched(policies, data, optimum, np.array(stored["reach"], np.float64), text)


def _stored(path: Path) -> Record:
    """What a file holds, if this module wrote it; nothing if there is no such file."""
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. {_AGAIN}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ValueError(f"{path} was not written here, so it is not replaced. Move it away.")
    return stored


def _write(path: Path, stored: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _trained(name: str) -> Record:
    """Train one policy; its weights, its returns from the paired starts, and versions."""
    dataset_name, agent_class, settings = TRAINED[name]
    dataset = load_dataset(dataset_name)
    agent = agent_class.from_dataset(dataset, settings)
    train(agent, dataset, UPDATES, seed=settings.seed)
    returns = simulate(agent, *evaluation_starts())
    weights = {key: value.double().numpy() for key, value in agent.policy.state_dict().items()}
    policy = [
        (weights["body.0.weight"].T, weights["body.0.bias"]),
        (weights["mean_and_log_std.weight"].T, weights["mean_and_log_std.bias"]),
    ]
    return {
        "policy": _stored_layers(policy),
        "critics": _stored_layers(critic_layers(agent)) if isinstance(agent, SAC) else [],
        "temperature": float(agent.temperature) if isinstance(agent, SAC) else None,
        "low": float(agent.low),
        "high": float(agent.high),
        "returns": {"mean": round(float(returns.mean()), 1), "starts": len(EVALUATION_SEEDS)},
        "versions": {"python": platform.python_version()}
        | {package: version(package).split("+")[0] for package in ("torch", "numpy")},
    }


def critic_layers(agent: SAC) -> list[Layer]:
    """Both critics of an agent as layers: weights (2, inputs, outputs), biases (2, outputs)."""
    weights = {key: value.double().numpy() for key, value in agent.critic.state_dict().items()}
    first = np.concatenate((weights["from_observation.weight"], weights["from_action"]), axis=1)
    layers = [(first, weights["from_observation.bias"][:, 0])]
    for number in range(len(agent.critic.layers)):
        name = f"layers.{number}"
        layers.append((weights[f"{name}.weight"], weights[f"{name}.bias"][:, 0]))
    return layers


def _is_surrounded(stored: Record) -> bool:
    """Whether a file has the optimum of this grid and the torques of these datasets."""
    hashes = {name: _hash_of(name) for name in (NARROW, REPLAY)}
    found = {name: table["hash"] for name, table in stored.get("data", {}).items()}
    grid = stored.get("optimum", {}).get("grid")
    return "reach" in stored and grid == asdict(OPTIMUM_GRID) and found == hashes


def _surroundings() -> Record:
    """What the policies are compared with: optimum, data, and how far critics can see."""
    optimum = optimal_q(OPTIMUM_GRID)
    half = optimum.state_value[: OPTIMUM_GRID.angles // 2 + 1].numpy()
    return {
        "optimum": {
            "grid": asdict(OPTIMUM_GRID),
            "discount": optimum.discount,
            "half_state_value": _encoded(half.round(3)),
        },
        "data": {name: _table(load_dataset(name)) for name in (NARROW, REPLAY)},
        "reach": [
            float(f"{share:.12g}")
            for share in backups_seen(UPDATES, _SMALL.target_update_rate, REACH_STEPS)
        ],
    }


def _table(dataset: OfflineDataset) -> Record:
    """Evenly picked states and torques of a dataset, and the scale in which states are compared."""
    every = max(1, len(dataset) // STORED_STATES)
    angle, velocity = state_of(dataset.observation[::every].numpy())
    torque = dataset.action[::every, 0].double()
    return {
        "hash": dataset.card["sha256"],
        "every": every,
        "states": _encoded(torch.stack((angle, velocity, torque), dim=1).numpy()),
        "scale": [float(f"{scale:.8g}") for scale in Support(dataset).scale],
    }


def _stored_layers(layers: Sequence[Layer]) -> list[Record]:
    return [{"weight": _encoded(weight), "bias": _encoded(bias)} for weight, bias in layers]


def _layers(stored: Sequence[Record], widths: Sequence[int]) -> tuple[Layer, ...]:
    layers = tuple((_decoded(layer["weight"]), _decoded(layer["bias"])) for layer in stored)
    shapes = [weight.shape[-2:] for weight, _ in layers]
    if shapes != list(pairwise(widths)):
        raise ValueError(f"layers of shapes {shapes} for widths {tuple(widths)}")
    if not all(np.isfinite(array).all() for layer in layers for array in layer):
        raise ValueError("a weight is not a number")
    return layers


def _encoded(array: FloatArray) -> Record:
    """An array as text: its shape, and its values as little-endian 32-bit floats in base64."""
    data = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(data).decode("ascii")}


def _decoded(stored: Record) -> FloatArray:
    data = base64.b64decode(stored["float32"], validate=True)
    values: FloatArray = np.frombuffer(data, dtype="<f4").astype(np.float64)
    if values.size != math.prod(stored["shape"]):
        raise ValueError(f"{values.size} values for the shape {stored['shape']}")
    return values.reshape(stored["shape"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    store_watched_policies()
