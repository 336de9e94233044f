"""Training: the history's stretches, determinism, divergence, and no environment anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from offline_rl_lib import BC, CQL, CQLSettings
from offline_rl_lib.agent import Agent
from offline_rl_lib.data import OfflineDataset, TransitionBatch, load_dataset
from offline_rl_lib.training import train


@pytest.fixture(scope="module")
def narrow() -> OfflineDataset:
    return load_dataset("pendulum/narrow-v0")


class Scripted(Agent):
    """Reports 1, 2, 3, ... as its loss, or what it is told to, and remembers its batches."""

    def __init__(self, dataset: OfflineDataset, losses: Iterator[float]) -> None:
        super().__init__(dataset.observation_space, dataset.action_space)
        self.losses, self.batches = losses, list[TransitionBatch]()

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        self.batches.append(batch)
        return {"loss": next(self.losses)}


def parameters(agent: Agent) -> torch.Tensor:
    return torch.cat([part.detach().flatten() for part in agent.policy.parameters()])


def test_history_holds_the_mean_of_each_stretch_and_of_the_short_last_one(
    narrow: OfflineDataset,
) -> None:
    logged: list[int] = []
    agent = Scripted(narrow, iter(range(1, 8)))
    history = train(agent, narrow, updates=7, batch_size=5, log_every=3, on_log=logged.append)
    assert history["updates"].tolist() == [3, 6, 7] == logged
    assert history["loss"].tolist() == [2.0, 5.0, 7.0]
    assert [len(batch.reward) for batch in agent.batches] == [5] * 7


def test_the_seed_decides_the_minibatches(narrow: OfflineDataset) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        agent = Scripted(narrow, iter(range(3)))
        train(agent, narrow, updates=3, seed=seed)
        return [batch.observation for batch in agent.batches]

    once, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(once, other, strict=True))


@pytest.mark.parametrize("agent_class", [BC, CQL])
def test_the_same_seed_gives_the_same_bits(
    agent_class: type[Agent], narrow: OfflineDataset
) -> None:
    first, second = agent_class.from_dataset(narrow), agent_class.from_dataset(narrow)
    histories = [train(agent, narrow, updates=20, log_every=5) for agent in (first, second)]
    assert torch.equal(parameters(first), parameters(second))
    for name in histories[0]:
        assert np.array_equal(histories[0][name], histories[1][name])
    third = agent_class.from_dataset(narrow)
    train(third, narrow, updates=20, seed=1)
    assert not torch.equal(parameters(first), parameters(third))


def test_training_touches_no_environment(
    narrow: OfflineDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("offline training has built an environment")

    monkeypatch.setattr(gymnasium, "make", refuse)
    monkeypatch.setattr(gymnasium, "make_vec", refuse)
    agent = CQL.from_dataset(narrow)
    before = parameters(agent)
    train(agent, narrow, updates=3)
    assert agent.updates == 3
    assert not torch.equal(before, parameters(agent)), "the agent is changed in place"


def test_training_goes_on_from_a_checkpoint_bit_for_bit(
    narrow: OfflineDataset, tmp_path: Path
) -> None:
    straight, interrupted = CQL.from_dataset(narrow), CQL.from_dataset(narrow)
    for agent in (straight, interrupted):
        train(agent, narrow, updates=10, seed=0)
    interrupted.save(tmp_path / "agent.pt")
    resumed = CQL.from_dataset(narrow, CQLSettings()).load(tmp_path / "agent.pt")
    for agent in (straight, resumed):
        train(agent, narrow, updates=10, seed=1)
    assert resumed.updates == 20
    assert torch.equal(parameters(straight), parameters(resumed))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_stops_with_the_metric_and_the_update(
    value: float, narrow: OfflineDataset
) -> None:
    agent = Scripted(narrow, iter([1.0, 2.0, 3.0, value, 5.0]))
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) around update 4.*diverged"):
        train(agent, narrow, updates=5, log_every=2)


def test_a_batch_larger_than_the_dataset_is_refused(narrow: OfflineDataset) -> None:
    with pytest.raises(ValueError, match="choose a batch size from 1 to 2000"):
        train(BC.from_dataset(narrow), narrow, updates=1, batch_size=2001)
