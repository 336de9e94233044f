"""Pendulum-v1 taken apart: its dynamics, a hand-written controller, and the best return there is.

Angle 0 is upright, positive angles turn anticlockwise. The best return comes from dynamic
programming over the whole episode on a grid of angles, velocities and torques, independent of
every learning algorithm in this package.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from offline_rl_lib.evaluation import (
    EVALUATION_SEEDS,
    ConstantPolicy,
    EvaluationResult,
    Policy,
    RandomPolicy,
    evaluate,
)

ENV_ID = "Pendulum-v1"
EPISODE_STEPS = 200
MAX_TORQUE = 2.0  # N m
MAX_SPEED = 8.0  # rad/s
TIME_STEP = 0.05  # s
GRAVITY_GAIN = 15.0  # rad/s^2: 3 g / (2 l) with g = 10 m/s^2, l = 1 m
TORQUE_GAIN = 3.0  # rad/s^2 per N m: 3 / (m l^2) with m = 1 kg


def step(angle: Tensor, velocity: Tensor, torque: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One time step of Pendulum-v1 for any batch of states and torques.

    Args:
        angle: rad, 0 is upright, any multiple of 2 pi may be added.
        velocity: rad/s.
        torque: N m, clipped to [-2, 2] as the environment does. All three broadcast together.

    Returns:
        Next angle (not wrapped), next velocity, and the reward of the step taken. The reward is
        minus (wrapped angle)^2 + 0.1 velocity^2 + 0.001 torque^2, at the state before the step.
    """
    torque = torque.clamp(-MAX_TORQUE, MAX_TORQUE)
    reward = -(wrap(angle) ** 2 + 0.1 * velocity**2 + 0.001 * torque**2)
    acceleration = GRAVITY_GAIN * torch.sin(angle) + TORQUE_GAIN * torque
    next_velocity = (velocity + TIME_STEP * acceleration).clamp(-MAX_SPEED, MAX_SPEED)
    next_angle = angle + TIME_STEP * next_velocity
    return next_angle, next_velocity, reward


def wrap(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def observation_of(angle: Tensor, velocity: Tensor) -> Tensor:
    """The environment's observation of a state: (cos angle, sin angle, velocity), (..., 3)."""
    return torch.stack((torch.cos(angle), torch.sin(angle), velocity), dim=-1)


def state_of(observation: npt.NDArray[np.floating]) -> tuple[Tensor, Tensor]:
    """Angle in (-pi, pi] and velocity, float64, of observations (..., 3).

    Raises:
        ValueError: the last dimension is not 3.
    """
    array = np.asarray(observation)
    if array.ndim == 0 or array.shape[-1] != 3:
        raise ValueError(
            "A Pendulum observation is (cos angle, sin angle, velocity), so the last dimension "
            f"must be 3; got shape {array.shape}."
        )
    cosine, sine, velocity = torch.as_tensor(array, dtype=torch.float64).unbind(-1)
    return torch.atan2(sine, cosine), velocity


@dataclass(frozen=True)
class SwingUpController:
    """Swing up by pumping energy, then balance with a proportional-derivative law.

    Without torque, energy = velocity^2 / 2 + 15 cos(angle) is conserved; a torque changes it at
    the rate 3 torque velocity. Far from upright the controller pushes along the velocity until the
    energy is that of the upright rest position, 15. Close to upright it balances.

    Attributes:
        balance_angle: rad, closer than this to upright the controller balances.
        balance_velocity: rad/s, and only if slower than this.
        stiffness: N m per rad while balancing.
        damping: N m s per rad while balancing.
        pump_gain: N m per unit of missing energy and of velocity.
    """

    balance_angle: float = 1.0
    balance_velocity: float = 6.0
    stiffness: float = 11.0
    damping: float = 3.0
    pump_gain: float = 0.1

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """Torques (B, 1) for observations (B, 3), or (1,) for one observation (3,)."""
        angle, velocity = state_of(observation)
        energy = velocity**2 / 2 + GRAVITY_GAIN * torch.cos(angle)
        pump = self.pump_gain * (GRAVITY_GAIN - energy) * velocity
        # Hanging at rest there is no velocity to push along: push somewhere.
        pump = torch.where(velocity.abs() < 1e-3, torch.full_like(pump, MAX_TORQUE), pump)
        balance = -self.stiffness * angle - self.damping * velocity
        near = (angle.abs() < self.balance_angle) & (velocity.abs() < self.balance_velocity)
        return _action(torch.where(near, balance, pump))


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


@dataclass(frozen=True, eq=False)
class OptimalPolicy:
    """The greedy policy of the dynamic programme.

    The same policy serves every time step: it looks one step ahead and values what follows as if a
    whole episode were left. Near the end of an episode that is not exactly optimal; the loss is
    below the error of the grid, because by then the pendulum stands upright.

    Attributes:
        grid: resolution.
        value: (angles, velocities), the best undiscounted return of a 200-step episode from each
            grid point, float64.
    """

    grid: Grid
    value: Tensor

    def values(self, angle: Tensor, velocity: Tensor) -> Tensor:
        """Best undiscounted 200-step return from each state (...), interpolated."""
        index, weight = self.grid.corners(angle, velocity)
        return (self.value.flatten()[index] * weight).sum(dim=-1)

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """Torques (B, 1) for observations (B, 3), or (1,) for one observation (3,)."""
        angle, velocity = state_of(observation)
        torques = self.grid.torque_values()
        next_angle, next_velocity, reward = step(angle[..., None], velocity[..., None], torques)
        best = (reward + self.values(next_angle, next_velocity)).argmax(dim=-1)
        return _action(torques[best])


def optimal_policy(grid: Grid = QUICK_GRID, steps: int = EPISODE_STEPS) -> OptimalPolicy:
    """Best policy of a ``steps``-step episode, undiscounted, by backward induction.

    V_0 = 0 and V_{k+1}(s) = max over torques of r(s, torque) + V_k(next state), where V_k between
    grid points is interpolated bilinearly. Interpolation is linear in V_k, so one sparse matrix
    with four entries a row looks up every next state of every torque at once.

    Raises:
        ValueError: a grid with fewer than 3 angles, 2 velocities or 2 torques, or steps < 1.
    """
    if grid.angles < 3 or grid.velocities < 2 or grid.torques < 2:
        raise ValueError(f"A grid needs at least 3 angles, 2 velocities and 2 torques; got {grid}.")
    if steps < 1:
        raise ValueError(f"An episode has at least one step; got steps={steps}.")
    angle, velocity = grid.states()
    next_angle, next_velocity, reward = step(angle, velocity, grid.torque_values()[:, None, None])
    index, weight = grid.corners(next_angle, next_velocity)  # (torques, angles, velocities, 4)
    rows, states = reward.numel(), angle.numel() * velocity.numel()
    next_value = scipy.sparse.csr_matrix(
        (weight.flatten().numpy(), index.flatten().numpy(), np.arange(0, 4 * rows + 1, 4)),
        shape=(rows, states),
    )
    reward_per_torque = reward.reshape(grid.torques, states).numpy()
    value = np.zeros(states)
    for _ in range(steps):
        value = (reward_per_torque + (next_value @ value).reshape(grid.torques, states)).max(axis=0)
    return OptimalPolicy(grid, torch.from_numpy(value.reshape(grid.angles, grid.velocities)))


def simulate(policy: Policy, angle: Tensor, velocity: Tensor, steps: int = EPISODE_STEPS) -> Tensor:
    """Undiscounted returns (n,) of a policy from chosen starts, angle and velocity (n,), float64.

    The same numbers as the environment gives, for thousands of starts at once.
    """
    total = torch.zeros_like(angle)
    for _ in range(steps):
        observation = observation_of(angle, velocity).float().numpy()
        torque = torch.as_tensor(policy.act(observation), dtype=torch.float64).squeeze(-1)
        angle, velocity, reward = step(angle, velocity, torque)
        total += reward
    return total


def start_states(points: int = 50) -> tuple[Tensor, Tensor]:
    """A regular sample of the environment's starts.

    Starts are uniform: the angle on the circle, the velocity in [-1, 1].

    Returns:
        Angle and velocity (points * points,), float64: midpoints, so that a mean over them is an
        integral over the starts without sampling noise.
    """
    middle = (torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 - 1
    angle, velocity = torch.meshgrid(math.pi * middle, middle, indexing="ij")
    return angle.flatten(), velocity.flatten()


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
        promised = float(optimum.values(*starts).mean())
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


def _action(torque: Tensor) -> npt.NDArray[np.floating]:
    return torque.clamp(-MAX_TORQUE, MAX_TORQUE).unsqueeze(-1).numpy().astype(np.float32)


def _summary(result: EvaluationResult) -> dict[str, Any]:
    returns = result.returns.tolist()
    return {"mean": result.mean, "standard_error": result.standard_error, "returns": returns}
