"""What the description of a dataset counts and averages."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from offline_rl_lib.behaviours import record_policy
from offline_rl_lib.coverage import state_coverage, torque_spread, visits
from offline_rl_lib.data import OfflineDataset, load_dataset
from offline_rl_lib.evaluation import ConstantPolicy, RandomPolicy
from offline_rl_lib.pendulum import ENV_ID, observation_of


@pytest.fixture(scope="module")
def replay() -> OfflineDataset:
    return load_dataset("pendulum/replay-small-v0")


def test_every_transition_is_counted_once_where_it_is(replay: OfflineDataset) -> None:
    counts = visits(replay, angles=6, velocities=4)
    assert counts.shape == (6, 4)
    assert counts.sum() == len(replay)
    by_hand = np.zeros((6, 4))
    for x, y, velocity in replay.observation.double().tolist():
        column = int((math.atan2(y, x) + math.pi) // (math.pi / 3))
        row = int((velocity + 8) // 4)
        by_hand[min(column, 5), min(row, 3)] += 1
    np.testing.assert_array_equal(counts, by_hand)
    assert state_coverage(replay, 6, 4) == pytest.approx((by_hand > 0).mean())
    assert state_coverage(replay, 1, 1) == 1


def test_a_state_on_the_edge_of_the_circle_is_not_lost(replay: OfflineDataset) -> None:
    angle = torch.tensor([math.pi, -math.pi, 3.1415927], dtype=torch.float64)
    edge = replace(
        replay.select_episodes([0]),
        observation=observation_of(angle.repeat(67)[:200], torch.full((200,), 8.0)).float(),
    )
    assert visits(edge).sum() == 200


def test_spread_of_uniform_torques_and_of_one_torque(replay: OfflineDataset) -> None:
    uniform = record_policy(RandomPolicy(replay.action_space, 0), ENV_ID, 5, seed=0)
    constant = record_policy(ConstantPolicy(np.array([0.5], np.float32)), ENV_ID, 2, seed=0)
    # The standard deviation of twenty is a little too small on average.
    drawn = np.random.default_rng(0).uniform(-2, 2, (10_000, 20)).std(axis=1).mean()
    assert torque_spread(uniform) == pytest.approx(drawn, abs=0.03)
    assert 0.9 * 4 / math.sqrt(12) < drawn < 4 / math.sqrt(12)
    assert torque_spread(constant) == pytest.approx(0, abs=1e-7)
    assert torque_spread(constant) < torque_spread(replay) < torque_spread(uniform)


def test_spread_is_that_of_the_nearest_states(replay: OfflineDataset) -> None:
    few = replay.select_episodes([0])
    points = few.observation.double()
    points = points / points.std(dim=0, correction=0)
    nearest = torch.cdist(points, points).topk(20, largest=False).indices
    expected = few.action[:, 0].double()[nearest].std(dim=1, correction=0).mean()
    assert torque_spread(few) == pytest.approx(float(expected), rel=1e-6)
