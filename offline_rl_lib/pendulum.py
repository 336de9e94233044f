"""Pendulum-v1 taken apart: its dynamics, its starts and a hand-written controller.

Angle 0 is upright, positive angles turn anticlockwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl_lib.evaluation import EVALUATION_SEEDS, Policy

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
        return as_action(torch.where(near, balance, pump))


def simulate(
    policy: Policy,
    angle: Tensor,
    velocity: Tensor,
    steps: int = EPISODE_STEPS,
    discount: float = 1.0,
    deterministic: bool = True,
) -> Tensor:
    """Returns (n,) of a policy from chosen starts, angle and velocity (n,), float64.

    The same numbers as the environment gives, for thousands of starts at once.

    Args:
        policy: maps observations (n, 3) to torques (n, 1).
        angle: rad.
        velocity: rad/s.
        steps: length of the episode. With a discount of 0.99 what comes after 2,000 steps weighs
            less than 1e-8.
        discount: the reward of step t counts discount**t.
        deterministic: passed on to the policy.
    """
    total = torch.zeros_like(angle)
    for time in range(steps):
        observation = observation_of(angle, velocity).float().numpy()
        torque = torch.as_tensor(policy.act(observation, deterministic), dtype=torch.float64)
        angle, velocity, reward = step(angle, velocity, torque.squeeze(-1))
        total += discount**time * reward
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


def evaluation_starts() -> tuple[Tensor, Tensor]:
    """Angle and velocity (100,), float64, of the paired starts of every evaluation."""
    environment = gym.make(ENV_ID)
    observations = [environment.reset(seed=seed)[0] for seed in EVALUATION_SEEDS]
    return state_of(np.array(observations))


def as_action(torque: Tensor) -> npt.NDArray[np.floating]:
    """Torques (...) as the environment takes them: clipped to [-2, 2], float32, shape (..., 1)."""
    return torque.clamp(-MAX_TORQUE, MAX_TORQUE).unsqueeze(-1).numpy().astype(np.float32)
