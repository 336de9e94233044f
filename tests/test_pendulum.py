"""Pendulum taken apart: dynamics against the real environment, the optimum against its grid."""

from __future__ import annotations

import json
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offline_rl_lib.evaluation import EVALUATION_SEEDS, evaluate
from offline_rl_lib.pendulum import (
    ENV_ID,
    QUICK_GRID,
    Grid,
    OptimalPolicy,
    SwingUpController,
    observation_of,
    optimal_policy,
    simulate,
    start_states,
    state_of,
    step,
    store_reference_returns,
    wrap,
)


@pytest.fixture(scope="module")
def optimum() -> OptimalPolicy:
    return optimal_policy(QUICK_GRID)


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


def test_interpolation_is_exact_on_the_grid_and_for_bilinear_functions() -> None:
    grid = Grid(angles=24, velocities=17, torques=3)
    angle, velocity = grid.states()
    value = torch.randn(24, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    policy = OptimalPolicy(grid, value)
    torch.testing.assert_close(policy.values(angle, velocity), value)
    # Angles repeat round the circle; the last grid point is followed by the first.
    torch.testing.assert_close(policy.values(angle + 2 * math.pi, velocity), value)
    seam = policy.values(angle[-1] + math.pi / 24, velocity[0])
    torch.testing.assert_close(seam, (value[-1] + value[0]) / 2)
    linear = OptimalPolicy(grid, 2 + 3 * velocity + 0 * angle)
    between = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(linear.values(torch.zeros(101), between), 2 + 3 * between)


@pytest.mark.parametrize("steps", [1, 2])
def test_short_horizons_equal_exhaustive_search(steps: int) -> None:
    # Up to two steps a grid point's value needs no more than one interpolation.
    grid = Grid(angles=40, velocities=33, torques=5)
    angle, velocity = grid.states()
    torque = grid.torque_values()
    next_angle, next_velocity, reward = step(angle[..., None], velocity[..., None], torque)
    best = reward.amax(dim=-1)
    if steps == 2:
        last = OptimalPolicy(grid, best).values(next_angle, next_velocity)
        best = (reward + last).amax(dim=-1)
    torch.testing.assert_close(optimal_policy(grid, steps).value, best)


def test_the_optimum_keeps_what_it_promises(optimum: OptimalPolicy) -> None:
    starts = start_states(30)
    promised, achieved = optimum.values(*starts).mean(), simulate(optimum, *starts).mean()
    assert abs(promised - achieved) < 1
    # About -138 in the limit of a fine grid; 2.5 covers this grid's error.
    assert abs(achieved + 138) < 2.5


def test_a_finer_grid_promises_more_and_converges(optimum: OptimalPolicy) -> None:
    starts = start_states(30)
    promises = [
        float(optimal_policy(Grid(points, points, 21)).values(*starts).mean())
        for points in (38, 76)
    ]
    promises.append(float(optimum.values(*starts).mean()))
    assert promises[0] < promises[1] < promises[2]
    # Halving the spacing at least halves the error.
    assert promises[2] - promises[1] < 0.5 * (promises[1] - promises[0])


def test_nobody_beats_the_optimum(optimum: OptimalPolicy) -> None:
    controller = evaluate(SwingUpController(), ENV_ID)
    best = evaluate(optimum, ENV_ID)
    gap = best.returns - controller.returns  # paired by start
    assert gap.mean() > 2 * gap.std(ddof=1) / math.sqrt(len(gap))
    assert controller.mean > -175


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


def test_policies_act_on_one_and_on_many_inside_the_bounds(optimum: OptimalPolicy) -> None:
    observations = observation_of(*start_states(10)).numpy()
    for policy in (SwingUpController(), optimum):
        many = policy.act(observations)
        assert many.shape == (100, 1)
        assert np.abs(many).max() <= 2
        one = policy.act(observations[3])
        assert one.shape == (1,)
        assert one == many[3]


def test_the_controller_balances_and_swings_up() -> None:
    upright = torch.tensor([0.3, math.pi]), torch.tensor([0.0, 0.0])
    near, hanging = simulate(SwingUpController(), *(start.double() for start in upright))
    assert near > -5
    assert hanging > -500


def test_unusable_grids_and_horizons_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 angles, 2 velocities and 2 torques"):
        optimal_policy(Grid(angles=2))
    with pytest.raises(ValueError, match="at least one step; got steps=0"):
        optimal_policy(QUICK_GRID, steps=0)


def test_stored_reference_returns_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "results" / "optimum.json"
    stored = store_reference_returns(path, Grid(61, 61, 13))
    assert json.loads(path.read_text(encoding="utf-8")) == stored
    assert stored["seeds"] == list(EVALUATION_SEEDS)
    assert stored["grid"] == {"angles": 61, "velocities": 61, "torques": 13}
    means = {name: policy["mean"] for name, policy in stored["policies"].items()}
    assert means["optimum"] > means["controller"] > max(means["random"], means["zero_torque"])
    for policy in stored["policies"].values():
        assert policy["mean"] == pytest.approx(np.mean(policy["returns"]))
        assert len(policy["returns"]) == len(EVALUATION_SEEDS)
    achieved = [row["achieved"] for row in stored["convergence"]]
    assert achieved == sorted(achieved)
    assert stored["convergence"][-1]["angles"] == 61
