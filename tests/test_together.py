"""Many seeds side by side give what each gives alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from offline_rl_lib.agent import Agent, AgentSettings
from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.best_bc import BestBC, BestBCSettings
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.cql_lagrange import CQLLagrange, CQLLagrangeSettings
from offline_rl_lib.data import OfflineDataset, TransitionBatch, load_dataset
from offline_rl_lib.iql import IQL, IQLSettings
from offline_rl_lib.sac import SAC, SACSettings
from offline_rl_lib.td3_bc import TD3BC, TD3BCSettings
from offline_rl_lib.together import Together, train_together

WIDTHS: dict[str, Any] = {"policy_hidden_sizes": (16,), "critic_hidden_sizes": (16, 16)}
AGENTS: list[tuple[type[Agent], AgentSettings]] = [
    (BC, BCSettings(policy_hidden_sizes=(16,))),
    (BestBC, BestBCSettings(policy_hidden_sizes=(16,))),
    (SAC, SACSettings(**WIDTHS)),
    (CQL, CQLSettings(**WIDTHS, penalty_weight=0.0)),
    (CQL, CQLSettings(**WIDTHS, penalty_weight=2.0)),
    (CQLLagrange, CQLLagrangeSettings(**WIDTHS)),
    (TD3BC, TD3BCSettings(**WIDTHS)),
    (IQL, IQLSettings(**WIDTHS, value_hidden_sizes=(16, 16))),
]


@pytest.fixture(scope="module")
def dataset() -> OfflineDataset:
    return load_dataset("pendulum/narrow-v0")


def build(
    agent_class: type[Agent], settings: AgentSettings, dataset: OfflineDataset, seeds: range
) -> list[Agent]:
    return [agent_class.from_dataset(dataset, replace(settings, seed=seed)) for seed in seeds]


@pytest.mark.parametrize(("agent_class", "settings"), AGENTS, ids=lambda part: str(part)[:40])
def test_each_member_learns_what_it_learns_alone(
    agent_class: type[Agent], settings: AgentSettings, dataset: OfflineDataset
) -> None:
    members, alone = (build(agent_class, settings, dataset, range(3)) for _ in range(2))
    for agent in (*members, *alone):
        agent.generator.manual_seed(5)  # "same" randomness: every member draws these numbers
    together = Together(members, randomness="same")
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        batches = [dataset.sample(16, generator) for _ in alone]
        found = together.update(
            TransitionBatch(*(torch.stack(columns) for columns in zip(*batches, strict=True)))
        )
        expected = [agent.update(batch) for agent, batch in zip(alone, batches, strict=True)]
        assert found.keys() == expected[0].keys()
        for name, values in found.items():
            np.testing.assert_allclose(
                values, [metrics[name] for metrics in expected], rtol=1e-3, atol=1e-5, err_msg=name
            )
    together.hand_back()
    observation = dataset.observation[:50].numpy()
    for member, agent in zip(members, alone, strict=True):
        assert member.updates == agent.updates == 6
        np.testing.assert_allclose(member.act(observation), agent.act(observation), atol=1e-4)
        for name, module in agent._modules().items():
            for own, other in zip(
                member._modules()[name].parameters(), module.parameters(), strict=True
            ):
                torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-3)
    # The members were not all the same agent.
    assert not np.allclose(members[0].act(observation), members[1].act(observation), atol=1e-2)


def test_members_have_their_own_random_numbers(dataset: OfflineDataset) -> None:
    """Agents of one seed on one minibatch part ways, because their proposals differ."""
    settings = CQLSettings(**WIDTHS)
    members = build(CQL, settings, dataset, range(1)) + build(CQL, settings, dataset, range(1))
    batch = dataset.sample(16, torch.Generator().manual_seed(0))
    stacked = TransitionBatch(*(torch.stack((column, column)) for column in batch))
    penalty = Together(members).update(stacked)["penalty"]
    assert abs(penalty[0] - penalty[1]) > 1e-4
    members = build(CQL, settings, dataset, range(1)) + build(CQL, settings, dataset, range(1))
    penalty = Together(members, randomness="same").update(stacked)["penalty"]
    assert penalty[0] == pytest.approx(penalty[1])


def test_a_group_repeats_bit_for_bit(dataset: OfflineDataset) -> None:
    settings = CQLSettings(**WIDTHS)
    runs = []
    for _ in range(2):
        members = build(CQL, settings, dataset, range(3))
        history = train_together(members, dataset, 12, 16, log_every=5)
        runs.append((history, [agent.act(np.ones(3)) for agent in members]))
    (first, first_actions), (second, second_actions) = runs
    assert first["updates"].tolist() == [5, 10, 12]
    assert first["penalty"].shape == (3, 3)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    np.testing.assert_array_equal(first_actions, second_actions)


def test_agents_can_act_at_every_entry_of_the_history(dataset: OfflineDataset) -> None:
    members = build(BC, BCSettings(policy_hidden_sizes=(8,)), dataset, range(2))
    seen = []
    train_together(
        members,
        dataset,
        4,
        8,
        log_every=2,
        on_log=lambda update: seen.append((update, members[1].updates, members[1].act(np.ones(3)))),
    )
    assert [entry[:2] for entry in seen] == [(2, 2), (4, 4)]
    assert seen[0][2] != seen[1][2]


def test_a_member_that_diverges_stays_alone(dataset: OfflineDataset) -> None:
    members = build(SAC, SACSettings(**WIDTHS), dataset, range(3))
    with torch.no_grad():
        next(members[1]._modules()["critic"].parameters()).fill_(float("nan"))
    history = train_together(members, dataset, 4, 16, log_every=4)
    assert np.isnan(history["td_loss"][0]).tolist() == [False, True, False]
    assert np.isfinite(members[2].act(np.ones(3))).all()


def test_only_seeds_may_differ(dataset: OfflineDataset) -> None:
    one = BC.from_dataset(dataset)
    with pytest.raises(ValueError, match="apart from the seed"):
        Together([one, BC.from_dataset(dataset, BCSettings(actor_learning_rate=0.5))])
    with pytest.raises(ValueError, match="apart from the seed"):
        Together([one, SAC.from_dataset(dataset)])
    with pytest.raises(ValueError, match="at least one"):
        Together([])


def test_bad_batches_are_refused(dataset: OfflineDataset) -> None:
    together = Together(build(BC, BCSettings(), dataset, range(2)))
    batch = dataset.sample(8, torch.Generator().manual_seed(0))
    stacked = TransitionBatch(*(torch.stack((column, column)) for column in batch))
    with pytest.raises(ValueError, match="outside the box"):
        together.update(stacked._replace(action=stacked.action + 10))
    with pytest.raises(ValueError, match=r"batch\."):
        together.update(stacked._replace(reward=stacked.reward.unsqueeze(-1)))
