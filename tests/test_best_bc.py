"""Cloning of the best episodes: exactly the right episodes, and nothing but cloning on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from offline_rl_lib import BC, BCSettings, BestBC, BestBCSettings
from offline_rl_lib.data import OfflineDataset, load_dataset
from offline_rl_lib.together import train_together
from offline_rl_lib.training import train

Deviation = Callable[..., None]
SMALL: dict[str, Any] = {"policy_hidden_sizes": (8,)}


def dataset_of(rewards: Sequence[Sequence[float]], numbers: Sequence[int]) -> OfflineDataset:
    """Episodes with these rewards, called by these numbers; no two transitions are equal."""
    lengths = [len(episode) for episode in rewards]
    size = sum(lengths)
    observation = torch.arange(3.0 * size).reshape(size, 3)
    return OfflineDataset(
        observation=observation,
        action=torch.linspace(-1, 1, size).unsqueeze(1),
        reward=torch.tensor([reward for episode in rewards for reward in episode]),
        next_observation=observation + 1,
        terminated=torch.zeros(size, dtype=torch.bool),
        truncated=torch.zeros(size, dtype=torch.bool),
        episode=torch.repeat_interleave(torch.tensor(numbers), torch.tensor(lengths)),
        observation_space=Box(-np.inf, np.inf, (3,)),
        action_space=Box(-2.0, 2.0, (1,)),
        name="made here",
    )


# Long episodes with small rewards and short ones with large: mean, last and total disagree.
REWARDS = [
    [1.0, 1.0, 1.0, 1.0, 1.0],  # total 5
    [3.0],  # total 3, the best mean
    [-9.0, 9.0, 0.0, 4.0],  # total 4, the best last step
    [0.0, 0.0],  # total 0
    [2.0, 2.0, 2.0],  # total 6
]
NUMBERS = [7, 3, 12, 5, 9]  # neither from zero nor in order


def learner(fraction: float) -> BestBC:
    return BestBC(
        Box(-np.inf, np.inf, (3,)), Box(-2.0, 2.0, (1,)), BestBCSettings(fraction=fraction)
    )


def episodes_of(dataset: OfflineDataset) -> list[int]:
    return [number for number, _ in groupby(dataset.episode.tolist())]


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.01, [9]), (0.2, [9]), (0.4, [7, 9]), (0.6, [7, 12, 9]), (1.0, NUMBERS)],
)
def test_the_best_episodes_are_kept_whole_and_in_order(
    fraction: float, expected: list[int]
) -> None:
    dataset = dataset_of(REWARDS, NUMBERS)
    kept = learner(fraction).learns_from(dataset)
    assert episodes_of(kept) == expected
    rewards = [
        reward
        for number, episode in zip(NUMBERS, REWARDS, strict=True)
        for reward in episode
        if number in expected
    ]
    assert kept.reward.tolist() == rewards
    chosen = torch.isin(dataset.episode, torch.tensor(expected))
    assert torch.equal(kept.observation, dataset.observation[chosen])
    assert torch.equal(kept.action, dataset.action[chosen])
    assert len(dataset) == 15, "the dataset itself is left alone"


@pytest.mark.parametrize(
    "score",
    [
        lambda episode: sum(episode) / len(episode),
        lambda episode: episode[-1],
        lambda episode: -sum(episode),
        lambda episode: sum(0.5**step * reward for step, reward in enumerate(episode)),
        len,
    ],
    ids=["mean", "last step", "worst", "discounted", "length"],
)
def test_another_idea_of_best_would_choose_others(score: Callable[[list[float]], float]) -> None:
    ranked = sorted(NUMBERS, key=lambda number: score(REWARDS[NUMBERS.index(number)]))
    kept = learner(0.4).learns_from(dataset_of(REWARDS, NUMBERS))
    assert set(episodes_of(kept)) != set(ranked[-2:])


def test_of_equal_episodes_the_earlier_are_kept() -> None:
    dataset = dataset_of([[1.0], [2.0], [1.0, 1.0], [2.0], [0.0]], [4, 3, 2, 1, 0])
    assert episodes_of(learner(0.2).learns_from(dataset)) == [3]
    assert episodes_of(learner(0.4).learns_from(dataset)) == [3, 2]
    assert episodes_of(learner(0.6).learns_from(dataset)) == [3, 2, 1]


@pytest.mark.proves("eq-alg-best-count", method="exact fractions, counted episodes")
def test_number_of_kept_episodes(deviation: Deviation) -> None:
    worst = 0
    for episodes in (1, 3, 7, 10, 29, 100):
        dataset = dataset_of([[float(i)] for i in range(episodes)], list(range(episodes)))
        for percent in (1, 10, 29, 34, 57, 99, 100):
            exact = Fraction(percent, 100) * episodes
            if exact - math.floor(exact) == Fraction(1, 2):
                continue  # either neighbour is the nearest
            expected = max(1, math.floor(exact + Fraction(1, 2)))
            kept = learner(percent / 100).learns_from(dataset)
            worst = max(worst, abs(len(episodes_of(kept)) - expected))
            assert kept.reward.tolist() == list(range(episodes))[-expected:]
    deviation(worst, 0)


def trained(agent: BC, dataset: OfflineDataset) -> dict[str, torch.Tensor]:
    train(agent, dataset, updates=25, batch_size=16, log_every=25)
    return agent.policy.state_dict()


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_the_fraction_one_is_cloning_bit_for_bit() -> None:
    narrow = load_dataset("pendulum/narrow-v0")
    whole = BestBC.from_dataset(narrow, BestBCSettings(**SMALL, fraction=1.0))
    assert_equal(
        trained(whole, narrow), trained(BC.from_dataset(narrow, BCSettings(**SMALL)), narrow)
    )


def test_training_sees_the_best_episodes_only() -> None:
    narrow = load_dataset("pendulum/narrow-v0")
    returns = [
        sum(reward for _, reward in steps)
        for _, steps in groupby(
            zip(narrow.episode.tolist(), narrow.reward.tolist(), strict=True), lambda pair: pair[0]
        )
    ]
    best = narrow.select_episodes(np.argsort(returns)[-3:].tolist())
    assert len(best) == 600
    settings = BestBCSettings(**SMALL, fraction=0.3)
    found = trained(BestBC.from_dataset(narrow, settings), narrow)
    expected = trained(BC.from_dataset(narrow, BCSettings(**SMALL)), best)
    assert_equal(found, expected)
    everything = trained(BC.from_dataset(narrow, BCSettings(**SMALL)), narrow)
    assert not torch.equal(found["body.0.weight"], everything["body.0.weight"])


def test_groups_of_seeds_see_the_best_episodes_too() -> None:
    narrow = load_dataset("pendulum/narrow-v0")
    [members, others] = [
        [kind.from_dataset(narrow, settings) for _ in range(2)]
        for kind, settings in ((BestBC, BestBCSettings(**SMALL)), (BC, BCSettings(**SMALL)))
    ]
    best = BestBC.from_dataset(narrow).learns_from(narrow)
    assert len(best) == 200
    train_together(members, narrow, 5, 16)
    train_together(others, best, 5, 16)
    for one, other in zip(members, others, strict=True):
        assert_equal(one.policy.state_dict(), other.policy.state_dict())


def test_a_minibatch_larger_than_the_best_episodes_is_explained() -> None:
    dataset = dataset_of(REWARDS, NUMBERS)
    with pytest.raises(ValueError, match=r"made here \(best 1 of 5 episodes\).*3 transitions"):
        train(learner(0.1), dataset, updates=1, batch_size=4)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction must be above 0 and at most 1"):
        BestBCSettings(fraction=fraction)
