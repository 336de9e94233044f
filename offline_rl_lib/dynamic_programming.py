"""What every state and torque of Pendulum is worth, without learning: dynamic programming.

Values live on a grid of angles and velocities and are interpolated in between. Rewards and values
are in the environment's units; :func:`in_agent_units` converts. Nothing is learnt here, so it can
judge what is. One thing is shared with the agents: the density in the bonus of
:func:`torque_lottery`, which has tests of its own.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from offline_rl_lib.densities import LOG_SQRT_2PI, log_tanh_jacobian
from offline_rl_lib.evaluation import (
    EVALUATION_SEEDS,
    ConstantPolicy,
    EvaluationResult,
    Policy,
    RandomPolicy,
    evaluate,
)
from offline_rl_lib.pendulum import (
    ENV_ID,
    EPISODE_STEPS,
    MAX_SPEED,
    MAX_TORQUE,
    SwingUpController,
    as_action,
    observation_of,
    simulate,
    start_states,
    state_of,
    step,
)

if TYPE_CHECKING:
    from offline_rl_lib.sac import SAC

ENDLESS_STEPS = 1_000
"""At a discount of 0.99 all that comes later weighs less than 0.0001 of a whole return."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Resolution of the dynamic programme: numbers of angles, velocities and torques.

    Velocities and torques include both ends of their range; angles go once round the circle.
    """

    angles: int = 301
    velocities: int = 301
    torques: int = 41

    def states(self) -> tuple[Tensor, Tensor]:
        """Angle (angles, 1) and velocity (1, velocities) of the grid points, float64."""
        angle = (
            torch.arange(self.angles, dtype=torch.float64) * (2 * math.pi / self.angles) - math.pi
        )
        velocity = torch.linspace(-MAX_SPEED, MAX_SPEED, self.velocities, dtype=torch.float64)
        return angle[:, None], velocity[None, :]

    def torque_values(self) -> Tensor:
        """Torques (torques,), float64."""
        return torch.linspace(-MAX_TORQUE, MAX_TORQUE, self.torques, dtype=torch.float64)

    def corners(self, angle: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        """The four grid points around each state, for bilinear interpolation.

        Args:
            angle: rad.
            velocity: rad/s, within [-8, 8]. The two broadcast to shape (...).

        Returns:
            Index (..., 4) into the flattened grid and weight (..., 4); the weights sum to 1.
        """
        column = (angle + math.pi) * (self.angles / (2 * math.pi))
        row = (velocity + MAX_SPEED) * ((self.velocities - 1) / (2 * MAX_SPEED))
        left = column.floor()
        below = row.floor().clamp(0, self.velocities - 2)
        right_share, upper_share = column - left, row - below
        start = left.long().remainder(self.angles) * self.velocities
        next_start = (left.long() + 1).remainder(self.angles) * self.velocities
        low = below.long()
        index = torch.stack(
            (start + low, start + low + 1, next_start + low, next_start + low + 1), dim=-1
        )
        weight = torch.stack(
            (
                (1 - right_share) * (1 - upper_share),
                (1 - right_share) * upper_share,
                right_share * (1 - upper_share),
                right_share * upper_share,
            ),
            dim=-1,
        )
        return index, weight


QUICK_GRID = Grid(angles=151, velocities=151, torques=21)
"""Solved in about a second, within two units of return of the fine grid."""

FINE_GRID = Grid(angles=300, velocities=301, torques=41)
"""The resolution of the stored optimum. An even number of angles puts upright on the grid."""


@dataclass(frozen=True, eq=False)
class ActionValues:
    """Values of states and torques under one way to go on.

    Only the value of the states is stored. The value of a torque follows from it by one exact
    step of the dynamics, so torques are not interpolated.

    Attributes:
        grid: resolution.
        discount: gamma, per step.
        state_value: (angles, velocities), the value of each grid point, float64, in the
            environment's units of reward.
    """

    grid: Grid
    discount: float
    state_value: Tensor

    def value(self, angle: Tensor, velocity: Tensor) -> Tensor:
        """V of states (...), interpolated bilinearly."""
        index, weight = self.grid.corners(angle, velocity)
        return (self.state_value.flatten()[index] * weight).sum(dim=-1)

    def q(self, angle: Tensor, velocity: Tensor, torque: Tensor) -> Tensor:
        """Q = reward + discount * V(next state); the three arguments broadcast to (...)."""
        next_angle, next_velocity, reward = step(angle, velocity, torque)
        return reward + self.discount * self.value(next_angle, next_velocity)

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """The greedy torques (B, 1) for observations (B, 3), or (1,) for one observation (3,)."""
        angle, velocity = state_of(observation)
        torques = self.grid.torque_values()
        return as_action(torques[self.q(angle[..., None], velocity[..., None], torques).argmax(-1)])


@dataclass(frozen=True, eq=False)
class TorqueLottery:
    """A stochastic policy on the grid: in each state one of K torques, drawn by its probability.

    Attributes:
        torque: (angles, velocities, K), N m.
        probability: (angles, velocities, K), sums to 1 over K.
        bonus: (angles, velocities), paid on arrival in a state beside the rewards, in their
            units. The entropy bonus of SAC, temperature times entropy, goes here.
    """

    torque: Tensor
    probability: Tensor
    bonus: Tensor


def optimal_policy(grid: Grid = QUICK_GRID, steps: int = EPISODE_STEPS) -> ActionValues:
    """Best values and policy of a ``steps``-step episode, undiscounted, by backward induction.

    V_0 = 0 and V_{k+1}(s) = max over torques of r(s, torque) + V_k(next state).

    The result serves as one policy for every time step: it looks one step ahead and values what
    follows as if a whole episode were left. Near the end of an episode that is not exactly
    optimal; the loss is below the error of the grid, because by then the pendulum stands upright.

    Raises:
        ValueError: a grid with fewer than 3 angles, 2 velocities or 2 torques, or steps < 1.
    """
    if steps < 1:
        raise ValueError(f"An episode has at least one step; got steps={steps}.")
    reward, next_value = _all_torques(grid)
    value = np.zeros(reward.shape[1])
    for _ in range(steps):
        value = (reward + (next_value @ value).reshape(reward.shape)).max(axis=0)
    return _on_grid(grid, 1.0, value)


def optimal_q(
    grid: Grid = QUICK_GRID, discount: float = 0.99, tolerance: float = 1e-5
) -> ActionValues:
    """Best values of the discounted task that never ends, by modified policy iteration.

    Each round takes the best torque of every grid state (one sweep of value iteration), then
    follows these torques for 100 cheap sweeps that need no maximum (Puterman and Shin 1978). The
    fixed point is that of value iteration, V(s) = max over torques of r + discount * V(next).

    Args:
        grid: resolution.
        discount: gamma, below 1.
        tolerance: bound on the distance of every value to the grid's fixed point.

    Raises:
        ValueError: the grid is too small, or the discount is not in [0, 1).
    """
    _check_discount(discount)
    reward, next_value = _all_torques(grid)
    states = np.arange(reward.shape[1])
    value = np.zeros(len(states))
    while True:
        q_values = reward + discount * (next_value @ value).reshape(reward.shape)
        best = q_values.argmax(axis=0)
        change = np.abs(q_values[best, states] - value).max()
        value = q_values[best, states]
        if _error_bound(change, discount) <= tolerance:
            return _on_grid(grid, discount, value)
        followed, earned = next_value[best * len(states) + states], reward[best, states]
        for _ in range(100):
            value = earned + discount * (followed @ value)


def policy_q(
    policy: Policy | TorqueLottery,
    grid: Grid = QUICK_GRID,
    discount: float = 0.99,
    tolerance: float = 1e-5,
) -> ActionValues:
    """Values of a given policy in the discounted task that never ends: one linear system.

    V(s) = mean over the policy's torques of r(s, torque) + discount * V(next state), plus the
    bonus of the state. Q(s, torque) takes the torque once and follows the policy afterwards, so
    with an entropy bonus it is SAC's soft Q.

    Args:
        policy: its deterministic ``act`` is followed, or a :class:`TorqueLottery` for the same
            grid. :func:`torque_lottery` makes one from an agent's stochastic policy.
        grid: resolution; its torques are not used.
        discount: gamma, below 1.
        tolerance: bound on the distance of every value to the grid's fixed point.

    Raises:
        ValueError: the discount is not in [0, 1), or a lottery's shapes do not fit the grid or
            its probabilities do not sum to 1.
    """
    _check_discount(discount)
    if not isinstance(policy, TorqueLottery):
        policy = _deterministic(policy, grid)
    _check_lottery(policy, grid)
    reward, transition = _followed(policy, grid)
    # V solves (1 - discount * transition) V = reward. BiCGSTAB needs a fifth of the time of plain
    # sweeps, but promises nothing; the sweeps that follow end with a proven bound.
    system = scipy.sparse.identity(len(reward), format="csr") - discount * transition
    value, _ = scipy.sparse.linalg.bicgstab(system, reward, rtol=1e-10)
    while True:
        updated = reward + discount * (transition @ value)
        change = np.abs(updated - value).max()
        value = updated
        if _error_bound(change, discount) <= tolerance:
            return _on_grid(grid, discount, value)


def torque_lottery(
    agent: SAC, grid: Grid = QUICK_GRID, nodes: int = 24, entropy: bool = True
) -> TorqueLottery:
    """The agent's stochastic policy on the grid, its tanh-normal replaced by Gauss-Hermite nodes.

    Args:
        agent: SAC or CQL with one action dimension and Pendulum's observations.
        grid: resolution.
        nodes: K, torques per state.
        entropy: pay the bonus temperature * entropy, in the environment's units of reward (the
            agent's temperature is in scaled reward). Then :func:`policy_q` gives the agent's
            *soft* Q; without it the plain Q of the same policy.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    probability = torch.from_numpy(weights / weights.sum())
    with torch.no_grad():
        policy = agent.policy(observation_of(*torch.broadcast_tensors(*grid.states())).float())
        mean, std = policy.mean.double(), policy.std.double()  # (angles, velocities, 1)
        pre_tanh = mean + std * torch.from_numpy(points)  # (angles, velocities, nodes)
        # Entropy of the normal in closed form; what the tanh and the units add is averaged.
        entropies = (
            std.log().squeeze(-1)
            + (0.5 + LOG_SQRT_2PI + float(policy.half.log()))
            + (log_tanh_jacobian(pre_tanh) * probability).sum(dim=-1)
        )
        torque = policy.mid.double() + policy.half.double() * torch.tanh(pre_tanh)
    weight = float(agent.temperature) / agent.settings.reward_scale if entropy else 0.0
    return TorqueLottery(torque, probability.expand_as(torque), weight * entropies)


def in_agent_units(
    value: Tensor, reward_shift: float = 8.0, reward_scale: float = 1 / 8, discount: float = 0.99
) -> Tensor:
    """What a value of the endless task becomes when rewards become (r + shift) * scale.

    Every step earns ``shift`` more, for ever: scale * (value + shift / (1 - discount)). With the
    book's settings, Pendulum's values from -1,600 to 0 become Q / 8 + 100, from about -100 to 100.
    """
    _check_discount(discount)
    return reward_scale * (value + reward_shift / (1 - discount))


def store_ground_truth(
    directory: str | Path, grid: Grid = FINE_GRID, points: int = 50
) -> dict[str, Any]:
    """Solve the discounted task on ever finer grids; store the finest and how they converge.

    Writes ``optimal_value.npz``, for :func:`load_optimal_q`, and ``ground_truth.json``. A row of
    the latter holds for one grid, over the starts, what a policy is worth by dynamic programming
    (``promised``), in simulation (``achieved``), and the mean distance of the two, start by start.
    It does so for the optimum and the controller of the discounted task, and for the optimum of
    the undiscounted 200-step ``episode``. ``seconds`` is the processor time of the optimum.

    Args:
        directory: made if missing.
        grid: the finest grid, with an even number of angles. Grids of an eighth, a quarter and
            half the resolution are solved before it.
        points: the means are over ``start_states(points)``.

    Returns:
        What was written to ``ground_truth.json``.

    Raises:
        ValueError: an odd number of angles.
    """
    if grid.angles % 2:
        raise ValueError(f"Half of the circle is stored; {grid.angles} angles have no half.")
    starts = start_states(points)
    controller = SwingUpController()
    returns = simulate(controller, *starts, ENDLESS_STEPS, discount=0.99)
    rows = []
    for divisor in (8, 4, 2, 1):
        coarse = Grid(
            round(grid.angles / divisor / 2) * 2, (grid.velocities - 1) // divisor + 1, grid.torques
        )
        began = time.process_time()
        optimum = optimal_q(coarse)
        seconds = time.process_time() - began
        endless = simulate(optimum, *starts, ENDLESS_STEPS, discount=0.99)
        episode = optimal_policy(coarse)
        rows.append(
            asdict(coarse)
            | {
                "seconds": round(seconds, 1),
                "optimum": _kept_promise(optimum.value(*starts), endless),
                "controller": _kept_promise(policy_q(controller, coarse).value(*starts), returns),
                "episode": _kept_promise(episode.value(*starts), simulate(episode, *starts)),
            }
        )
    stored = {
        "env_id": ENV_ID,
        "discount": 0.99,
        "starts": len(returns),
        "convergence": rows,
        "versions": {name: version(name) for name in ("numpy", "scipy", "torch")},
    }
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    text = json.dumps(stored, indent=1) + "\n"
    (target / "ground_truth.json").write_text(text, encoding="utf-8")
    half = optimum.state_value[: grid.angles // 2 + 1]
    np.savez_compressed(
        target / "optimal_value.npz",
        half_state_value=half.numpy().round(3).astype(np.float32),
        torques=np.array(grid.torques),
        discount=np.array(optimum.discount),
    )
    return stored


def load_optimal_q(path: str | Path) -> ActionValues:
    """Read the optimum that :func:`store_ground_truth` stored, rounded to 0.001.

    Half of the circle is stored. The mirror image of the pendulum is the same pendulum, so
    V(-angle, -velocity) = V(angle, velocity) gives the other half.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no stored optimum at {path}; make it: run.py results.")
    with np.load(path) as stored:
        half = torch.from_numpy(stored["half_state_value"]).double()  # angles -pi to 0
        torques, discount = int(stored["torques"]), float(stored["discount"])
    value = torch.cat((half, half[1:-1].flip(0, 1)))
    angles, velocities = value.shape
    return ActionValues(Grid(angles, velocities, torques), discount, value)


def store_reference_returns(path: str | Path, grid: Grid | None = None) -> dict[str, Any]:
    """Evaluate the reference policies on ``EVALUATION_SEEDS`` and store the returns as JSON.

    The policies: uniform random torque, no torque, the hand-written controller, and the optimum of
    the dynamic programme. Beside them the convergence of the optimum with the grid: what the
    programme promises on average over all starts, and what its policy then achieves.

    Args:
        path: file to write; its folder is made if missing.
        grid: resolution of the optimum; ``Grid()`` if left out. Two coarser ones are solved too.

    Returns:
        What was stored: ``policies`` maps a name to mean, standard_error and returns (100 floats).
    """
    finest = grid or Grid()
    starts = start_states()
    convergence = []
    for divisor in (4, 2, 1):
        coarse = Grid(
            **{key: (points - 1) // divisor + 1 for key, points in asdict(finest).items()}
        )
        optimum = optimal_policy(coarse)
        promised = float(optimum.value(*starts).mean())
        achieved = float(simulate(optimum, *starts).mean())
        convergence.append({**asdict(coarse), "promised": promised, "achieved": achieved})
    action_space = gym.make(ENV_ID).action_space
    assert isinstance(action_space, gym.spaces.Box)
    policies: dict[str, Policy] = {
        "random": RandomPolicy(action_space, seed=0),
        "zero_torque": ConstantPolicy([0.0]),
        "controller": SwingUpController(),
        "optimum": optimum,
    }
    stored = {
        "env_id": ENV_ID,
        "seeds": list(EVALUATION_SEEDS),
        "grid": asdict(finest),
        "policies": {name: _summary(evaluate(policy, ENV_ID)) for name, policy in policies.items()},
        "convergence": convergence,
        "versions": {name: version(name) for name in ("gymnasium", "numpy", "scipy", "torch")},
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return stored


def _check_discount(discount: float) -> None:
    if not 0 <= discount < 1:
        raise ValueError(
            f"An endless task needs a discount of at least 0 and below 1; got {discount}."
        )


def _check_lottery(lottery: TorqueLottery, grid: Grid) -> None:
    shape = (grid.angles, grid.velocities)
    shapes = (lottery.torque.shape[:-1], lottery.probability.shape[:-1], lottery.bonus.shape)
    if any(found != shape for found in shapes):
        raise ValueError(
            f"On this grid a lottery's torques and probabilities have shape ({shape[0]}, "
            f"{shape[1]}, K) and its bonus {shape}; got {tuple(lottery.torque.shape)}, "
            f"{tuple(lottery.probability.shape)} and {tuple(lottery.bonus.shape)}."
        )
    total = lottery.probability.sum(dim=-1)
    if not ((total - 1).abs() < 1e-6).all():
        raise ValueError(
            "The probabilities of a lottery must sum to 1 in every state; the sums go from "
            f"{total.min():.4g} to {total.max():.4g}."
        )


def _error_bound(change: float, discount: float) -> float:
    """Distance to the fixed point after a sweep that moved every value by ``change`` or less.

    A sweep shrinks distances by the discount; the changes still to come sum to a geometric series.
    """
    return change * discount / (1 - discount)


def _all_torques(grid: Grid) -> tuple[FloatArray, scipy.sparse.csr_matrix]:
    """Rewards (torques, states) and the matrix (torques * states, states) that looks ahead.

    Interpolation is linear in the values, so one sparse matrix with four entries a row looks up
    every next state of every torque at once.
    """
    if grid.angles < 3 or grid.velocities < 2 or grid.torques < 2:
        raise ValueError(f"A grid needs at least 3 angles, 2 velocities and 2 torques; got {grid}.")
    angle, velocity = grid.states()
    next_angle, next_velocity, reward = step(angle, velocity, grid.torque_values()[:, None, None])
    index, weight = grid.corners(next_angle, next_velocity)  # (torques, angles, velocities, 4)
    rows, states = reward.numel(), angle.numel() * velocity.numel()
    next_value = scipy.sparse.csr_matrix(
        (weight.flatten().numpy(), index.flatten().numpy(), np.arange(0, 4 * rows + 1, 4)),
        shape=(rows, states),
    )
    return reward.reshape(grid.torques, states).numpy(), next_value


def _followed(policy: TorqueLottery, grid: Grid) -> tuple[FloatArray, scipy.sparse.csr_matrix]:
    """Mean reward plus bonus (states,) and transition matrix (states, states) of a policy."""
    angle, velocity = (x.unsqueeze(-1) for x in grid.states())
    next_angle, next_velocity, reward = step(angle, velocity, policy.torque)
    index, weight = grid.corners(next_angle, next_velocity)  # (angles, velocities, K, 4)
    weight = weight * policy.probability.unsqueeze(-1)
    states, entries = grid.angles * grid.velocities, 4 * policy.torque.shape[-1]
    transition = scipy.sparse.csr_matrix(
        (
            weight.flatten().numpy(),
            index.flatten().numpy(),
            np.arange(0, states * entries + 1, entries),
        ),
        shape=(states, states),
    )
    transition.sum_duplicates()
    earned = (reward * policy.probability).sum(dim=-1) + policy.bonus
    return earned.flatten().numpy(), transition


def _deterministic(policy: Policy, grid: Grid) -> TorqueLottery:
    angle, velocity = torch.broadcast_tensors(*grid.states())
    observation = observation_of(angle, velocity).reshape(-1, 3).float().numpy()
    torque = torch.as_tensor(policy.act(observation), dtype=torch.float64).reshape(*angle.shape, 1)
    return TorqueLottery(torque, torch.ones_like(torque), torch.zeros_like(angle))


def _on_grid(grid: Grid, discount: float, value: FloatArray) -> ActionValues:
    return ActionValues(
        grid, discount, torch.from_numpy(value.reshape(grid.angles, grid.velocities))
    )


def _kept_promise(promised: Tensor, achieved: Tensor) -> dict[str, float]:
    return {
        "promised": float(promised.mean()),
        "achieved": float(achieved.mean()),
        "distance": float((promised - achieved).abs().mean()),
    }


def _summary(result: EvaluationResult) -> dict[str, Any]:
    returns = result.returns.tolist()
    return {"mean": result.mean, "standard_error": result.standard_error, "returns": returns}
