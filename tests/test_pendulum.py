"""Pendulum taken apart: its dynamics, simulation and controller against the real environment."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from offline_rl_lib.evaluation import ConstantPolicy, evaluate
from offline_rl_lib.pendulum import (
    ENV_ID,
    SwingUpController,
    observation_of,
    simulate,
    start_states,
    state_of,
    step,
    wrap,
)


def test_dynamics_and_reward_are_those_of_the_environment() -> None:
    env = gym.make(ENV_ID, max_episode_steps=10_000)
    generator = np.random.default_rng(0)
    env.reset(seed=0)
    state = env.unwrapped.state  # type: ignore[attr-defined]
    fastest = 0.0
    for _ in range(2_000):
        # Torques beyond the bounds are clipped, by both.
        torque = generator.uniform(-3, 3) + 2 * np.sign(state[1])
        angle, velocity, reward = step(*torch.tensor([*state, torque], dtype=torch.float64))
        observation, env_reward, *_ = env.step(np.array([torque], dtype=np.float32))
        state = env.unwrapped.state  # type: ignore[attr-defined]
        # The environment rounds the torque to float32.
        np.testing.assert_allclose([angle, velocity], state, rtol=0, atol=1e-7)
        assert float(reward) == pytest.approx(float(env_reward), abs=1e-7)
        np.testing.assert_allclose(observation_of(angle, velocity), observation, atol=1e-6)
        fastest = max(fastest, abs(float(velocity)))
    assert fastest == 8.0
    assert abs(float(angle)) > 2 * math.pi


def test_states_come_back_from_observations() -> None:
    angle, velocity = start_states(20)
    observation = observation_of(angle, velocity)
    again = state_of(observation.numpy())
    torch.testing.assert_close(again[0], angle)
    torch.testing.assert_close(again[1], velocity)
    torch.testing.assert_close(wrap(angle + 4 * math.pi), angle)
    with pytest.raises(ValueError, match=r"last dimension must be 3; got shape \(5, 4\)"):
        state_of(np.zeros((5, 4)))


def test_simulation_gives_the_returns_of_the_environment() -> None:
    env = gym.make(ENV_ID)
    states = []
    for seed in range(10):
        env.reset(seed=seed)
        states.append(env.unwrapped.state)  # type: ignore[attr-defined]
    angle, velocity = torch.tensor(np.array(states)).unbind(-1)
    simulated = simulate(SwingUpController(), angle, velocity)
    real = evaluate(SwingUpController(), ENV_ID, range(10)).returns
    np.testing.assert_allclose(simulated, real, atol=1e-2)


def test_simulation_discounts() -> None:
    # Upright at rest nothing is lost; hanging at rest pi squared a step.
    angle, velocity = torch.tensor([0.0, math.pi]).double(), torch.zeros(2).double()
    discounted = simulate(ConstantPolicy([0.0]), angle, velocity, steps=50, discount=0.9)
    expected = -(math.pi**2) * (1 - 0.9**50) / (1 - 0.9)
    np.testing.assert_allclose(discounted, [0.0, expected], atol=1e-6)


def test_the_controller_acts_on_one_and_on_many_inside_the_bounds() -> None:
    observations = observation_of(*start_states(10)).numpy()
    many = SwingUpController().act(observations)
    assert many.shape == (100, 1)
    assert np.abs(many).max() <= 2
    assert SwingUpController().act(observations[3]) == many[3]


def test_the_controller_balances_and_swings_up() -> None:
    upright = torch.tensor([0.3, math.pi]), torch.tensor([0.0, 0.0])
    near, hanging = simulate(SwingUpController(), *(start.double() for start in upright))
    assert near > -5
    assert hanging > -500
