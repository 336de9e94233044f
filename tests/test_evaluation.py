"""Evaluation: paired starts, episodes that end at different times, and clear refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from offline_rl_lib.evaluation import (
    EVALUATION_SEEDS,
    ConstantPolicy,
    EvaluationResult,
    RandomPolicy,
    evaluate,
)

CORRIDOR = "TestCorridor-v0"


class Corridor(gym.Env[np.ndarray, np.ndarray]):
    """Walk from a random place; beyond 1 the episode is terminated. Every step earns 1."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, 1)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place += 0.1 * float(action[0])
        return self._observation(), 1.0, self.place > 1, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.place], dtype=np.float32)


@pytest.fixture(autouse=True)
def corridor() -> Iterator[None]:
    gym.register(CORRIDOR, Corridor, max_episode_steps=20)
    gym.register("TestEndless-v0", Corridor)
    yield
    del gym.registry[CORRIDOR], gym.registry["TestEndless-v0"]


def one_by_one(env_id: str, policy: Any, seeds: range) -> list[float]:
    """The returns by the plainest loop there is, one environment after the other."""
    returns = []
    env = gym.make(env_id)
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
            total, ended = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


@pytest.mark.parametrize("speed", [1.0, 0.3, -1.0])
def test_episodes_of_different_length_count_to_their_own_end(speed: float) -> None:
    seeds = range(40)
    policy = ConstantPolicy([speed])
    returns = evaluate(policy, CORRIDOR, seeds).returns
    assert returns.tolist() == one_by_one(CORRIDOR, policy, seeds)
    assert returns.max() <= 20
    if speed > 0:
        assert len(set(returns.tolist())) > 5


@pytest.mark.parametrize("env_id", [CORRIDOR, "Pendulum-v1"])
def test_a_return_does_not_depend_on_the_others(env_id: str) -> None:
    policy = ConstantPolicy([0.7])
    together = evaluate(policy, env_id, range(5, 12)).returns
    apart = [evaluate(policy, env_id, [seed]).returns[0] for seed in range(5, 12)]
    backwards = evaluate(policy, env_id, range(11, 4, -1)).returns
    assert together.tolist() == apart == backwards[::-1].tolist()


def test_pendulum_returns_are_those_of_the_plain_loop() -> None:
    policy = ConstantPolicy([0.0])
    result = evaluate(policy, "Pendulum-v1", range(1000, 1003))
    np.testing.assert_allclose(
        result.returns, one_by_one("Pendulum-v1", policy, range(1000, 1003)), rtol=1e-12
    )
    assert result.seeds == (1000, 1001, 1002)


def test_calibration_with_a_random_policy_and_no_torque() -> None:
    # Means of 600 and 300 other episodes: -1242 (SE 12) and -1216 (SE 21).
    space = gym.make("Pendulum-v1").action_space
    assert isinstance(space, Box)
    for policy, expected, its_error in (
        (RandomPolicy(space), -1242, 12),
        (ConstantPolicy([0.0]), -1216, 21),
    ):
        result = evaluate(policy, "Pendulum-v1")
        assert result.seeds == tuple(EVALUATION_SEEDS)
        assert abs(result.mean - expected) < 4 * math.hypot(result.standard_error, its_error)


def test_the_deterministic_flag_reaches_the_agent() -> None:
    class Recorder(ConstantPolicy):
        def act(self, observation: np.ndarray, deterministic: bool = True) -> np.ndarray:
            flags.append(deterministic)
            return super().act(observation)

    for wanted in (True, False):
        flags: list[bool] = []
        evaluate(Recorder([1.0]), CORRIDOR, [0], deterministic=wanted)
        assert set(flags) == {wanted}


def test_mean_and_standard_error() -> None:
    result = EvaluationResult(np.array([1.0, 2.0, 6.0]), (0, 1, 2))
    assert result.mean == 3.0
    assert result.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert math.isnan(EvaluationResult(np.array([1.0]), (0,)).standard_error)


def test_baseline_policies_act_on_one_and_on_many() -> None:
    box = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
    for policy in (RandomPolicy(box, seed=3), ConstantPolicy([1.0, 4.0])):
        assert policy.act(np.zeros(3)).shape == (2,)
        actions = policy.act(np.zeros((500, 3)))
        assert actions.shape == (500, 2)
        assert ((actions >= box.low) & (actions <= box.high)).all()
    first, second = (RandomPolicy(box, seed=3).act(np.zeros((500, 3))) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.abs(first.mean(axis=0) - [0.0, 2.5]).max() < 0.3


# Refusals


def test_unknown_environment() -> None:
    with pytest.raises(ValueError, match=r"Unknown environment 'Pendulm-v1'.*Did you mean"):
        evaluate(ConstantPolicy([0.0]), "Pendulm-v1", [0])


def test_environment_without_time_limit() -> None:
    with pytest.raises(ValueError, match=r"TestEndless-v0.*no time limit.*max_episode_steps"):
        evaluate(ConstantPolicy([0.0]), "TestEndless-v0", [0])


def test_no_seeds() -> None:
    with pytest.raises(ValueError, match="No start seeds"):
        evaluate(ConstantPolicy([0.0]), CORRIDOR, [])


def test_actions_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"ConstantPolicy\.act .*shape \(3, 2\).*shape \(3, 1\)"):
        evaluate(ConstantPolicy([0.0, 0.0]), CORRIDOR, range(3))


@pytest.mark.parametrize("action", [1.01, -7.0, math.nan, math.inf])
def test_actions_outside_the_space(action: float) -> None:
    with pytest.raises(ValueError, match="not finite or lies outside"):
        evaluate(ConstantPolicy([action]), CORRIDOR, range(3))
