"""The probes and the silent bugs: what each switch changes, and which question notices it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from offline_rl_lib import BC, CQL, SAC, BCSettings, SACSettings, probes
from offline_rl_lib.cql_lagrange import CQLLagrange
from offline_rl_lib.data import OfflineDataset, TransitionBatch, load_dataset
from offline_rl_lib.densities import TanhNormal, uniform_actions, uniform_log_density
from offline_rl_lib.probes import PROBES, run_probe, run_probes
from offline_rl_lib.silent_bugs import (
    BUGS,
    LAGRANGE,
    SILENT_BUGS,
    SMALL,
    WARM,
    NoLogN,
    PostCQL,
    SoftMaximumOfThree,
    SteppedCQL,
    TruncationAsTermination,
)
from offline_rl_lib.training import train

CAUGHT = {
    "tanh twice": {"density", "log volume", "coverage", "bandit"},
    "missing scale": {"density", "units", "log volume"},
    "uniform on [-1, 1]": {"units", "log volume", "coverage", "bandit"},
    "uniform on [0, 1]": {"units", "coverage", "bandit"},
    "wrong sign": {"units", "log volume", "peak"},
    "logsumexp of three": {"log volume", "coverage", "peak", "bandit"},
    "scored at next state": {"own state"},
    "truncation ends": {"loop"},
    "broadcast": {"exact fit", "bandit"},
    "post": {"density", "units", "log volume", "coverage", "peak", "bandit", "loop"},
    "temperature in weight": {"units", "log volume", "peak"},
    "multiplier in critic": {"weight", "bandit"},
    "no log N": {"log volume", "peak"},
}


@pytest.fixture(scope="module")
def dataset() -> OfflineDataset:
    return load_dataset("pendulum/narrow-v0")


@pytest.fixture(scope="module")
def batch(dataset: OfflineDataset) -> TransitionBatch:
    return dataset.sample(32, torch.Generator().manual_seed(1))


# ---- The matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BUGS))
def test_every_bug_is_caught_by_the_probes_that_know_it(name: str) -> None:
    verdicts = run_probes(BUGS[name].agent_class, BUGS[name].settings)
    assert {probe for probe, verdict in verdicts.items() if verdict.passed is False} == CAUGHT[name]


def test_every_probe_but_the_threshold_catches_something() -> None:
    assert set().union(*CAUGHT.values()) == set(PROBES) - {"threshold"}
    assert set(CAUGHT) == set(BUGS)


@pytest.mark.parametrize(
    ("agent_class", "settings"),
    [
        (CQL, SMALL),
        (CQL, WARM),
        (CQL, replace(SMALL, penalty_temperature=0.5, reward_scale=1.0, reward_shift=0.0)),
        (CQL, replace(SMALL, policy_hidden_sizes=(128,), critic_hidden_sizes=(8,))),
        (SteppedCQL, SMALL),
        (CQLLagrange, LAGRANGE),
    ],
)
def test_correct_agents_pass_every_probe(agent_class: type[CQL], settings: Any) -> None:
    verdicts = run_probes(agent_class, settings)
    assert not [str(verdict) for verdict in verdicts.values() if verdict.passed is False]
    assert [name for name, verdict in verdicts.items() if verdict.passed is None] == (
        [] if agent_class is CQLLagrange else ["threshold"]
    )


def test_the_threshold_probe_notices_a_turned_dual_loss() -> None:
    class Turned(CQLLagrange):
        def penalty_weight_loss(self, penalty: Tensor) -> Tensor:
            return -super().penalty_weight_loss(penalty)

    verdict = run_probe("threshold", Turned, LAGRANGE)
    assert verdict.passed is False
    assert verdict.measured == -1


def test_the_weight_probe_notices_a_weight_applied_twice() -> None:
    class Twice(SteppedCQL):
        def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
            return self.settings.penalty_weight * super().soft_maximum(q_values, log_densities)

        def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = super().critic_loss(batch)
            extra = self.settings.penalty_weight * (self.settings.penalty_weight - 1)
            data_q = self.critic(batch.observation, batch.action)
            return loss - extra * data_q.mean(dim=-1).sum(), metrics

    verdict = run_probe("weight", Twice, SMALL)
    assert verdict.measured == pytest.approx(64, rel=1e-3)
    assert verdict.passed is False


def test_expected_numbers_by_hand() -> None:
    verdicts = run_probes(CQL, SMALL)
    assert verdicts["log volume"].expected == pytest.approx(2 * math.log(5))
    assert verdicts["units"].expected == pytest.approx(math.log(2.5))
    a = np.linspace(-1, 4, 2_000_001)
    integral = (np.exp(-4 * (a - 3) ** 2 / 0.02)).sum() * (a[1] - a[0])
    assert verdicts["peak"].expected == pytest.approx(0.02 * math.log(integral), abs=1e-6)
    assert run_probe("loop", TruncationAsTermination, SMALL).measured == pytest.approx(66.89, 1e-3)


# ---- Other agents -------------------------------------------------------------------------------


def test_probes_that_do_not_apply_say_why() -> None:
    cloning = run_probes(BC, BCSettings())
    assert [name for name, verdict in cloning.items() if verdict.passed] == ["density"]
    assert "no td_target" in str(cloning["loop"])
    assert "does not apply" in str(cloning["coverage"])
    plain = run_probes(SAC, SACSettings())
    passed = [name for name, verdict in plain.items() if verdict.passed]
    assert passed == ["density", "exact fit", "loop"]
    assert "no conservative penalty" in plain["units"].message


def test_unknown_probe_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="log volume"):
        run_probe("volume", CQL, SMALL)


@dataclass(frozen=True)
class OwnSettings:
    """Settings of somebody else's agent."""

    penalty_weight: float = 1.0
    num_proposals: int = 10
    discount: float = 0.99
    seed: int = 0


class OwnAgent:
    """A CQL that shares no class with the library and has what the probes ask for."""

    def __init__(self, observation_space: Any, action_space: Any, settings: OwnSettings) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.low, self.high = (torch.as_tensor(b) for b in (action_space.low, action_space.high))
        self.settings = settings
        self.critic: Any = None
        self.target_critic: Any = None

    def learns_from(self, dataset: OfflineDataset) -> OfflineDataset:
        return dataset

    def policy(self, observation: Tensor) -> TanhNormal:
        shape = (*observation.shape[:-1], len(self.low))
        return TanhNormal(torch.zeros(shape), torch.ones(shape), self.low, self.high)

    def td_target(self, batch: TransitionBatch) -> Tensor:
        value = self.target_critic(batch.next_observation, batch.action).amin(0)
        return batch.reward + self.settings.discount * value * (~batch.terminated)

    def log_density(self) -> Tensor:
        return uniform_log_density(self.low, self.high)

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        count = self.settings.num_proposals
        actions = uniform_actions((len(batch.reward), count), self.low, self.high)
        data_q = self.critic(batch.observation, batch.action)
        scores = self.critic(batch.observation, actions) - self.log_density()
        penalty = (torch.logsumexp(scores, -1) - math.log(count) - data_q).mean()
        td_loss = (data_q - self.td_target(batch)).square().mean()
        return 2 * (td_loss + self.settings.penalty_weight * penalty), {
            "td_loss": td_loss,
            "penalty": penalty,
        }


def test_an_agent_of_ones_own_can_be_probed() -> None:
    before = torch.get_rng_state()
    verdicts = run_probes(OwnAgent, OwnSettings())  # it uses the global random numbers
    assert torch.equal(torch.get_rng_state(), before)
    assert not [str(verdict) for verdict in verdicts.values() if verdict.passed is False]

    class Unscaled(OwnAgent):
        def log_density(self) -> Tensor:
            return torch.tensor(-math.log(2.0))

    assert run_probe("units", Unscaled, OwnSettings()).passed is False
    assert run_probe("log volume", Unscaled, OwnSettings()).passed is False


# ---- The switches -------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL, replace(WARM, num_proposals=3)])
def test_the_stepped_loss_is_the_library_s(
    dataset: OfflineDataset, batch: TransitionBatch, settings: Any
) -> None:
    losses, slopes = [], []
    for agent_class in (CQL, SteppedCQL):
        agent = agent_class.from_dataset(dataset, settings)
        loss, _ = agent.critic_loss(batch)
        losses.append(loss.item())
        slopes.append(torch.autograd.grad(loss, list(agent.critic.parameters())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(BUGS))
def test_switches_share_the_random_numbers_of_the_correct_run(
    dataset: OfflineDataset, batch: TransitionBatch, name: str
) -> None:
    states = []
    for agent_class in (CQL, BUGS[name].agent_class):
        agent = agent_class.from_dataset(dataset, BUGS[name].settings)
        agent.update(batch)
        states.append(agent.generator.get_state())
    assert torch.equal(*states)


def test_no_log_n_changes_the_value_and_no_gradient(
    dataset: OfflineDataset, batch: TransitionBatch
) -> None:
    agents = [kind.from_dataset(dataset, SMALL) for kind in (CQL, NoLogN)]
    losses = [agent.critic_loss(batch)[0] for agent in agents]
    assert (losses[1] - losses[0]).item() == pytest.approx(2 * 0.25 * math.log(15), rel=1e-5)
    slopes = [
        torch.autograd.grad(loss, list(agent.critic.parameters()))
        for agent, loss in zip(agents, losses, strict=True)
    ]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_three_proposals_stay_three_however_many_there_are(dataset: OfflineDataset) -> None:
    def estimate(agent_class: type[SteppedCQL], count: int) -> float:
        agent = probes.build(agent_class, SMALL, num_proposals=count, penalty_weight=1.0)
        batch = probes.flat_batch(agent, 400, action=3.0)
        return probes.penalty_of(agent, batch, lambda _, a: -4 * (a[..., 0] - 3).square())

    truth = 0.5 * math.log(math.pi / 4)
    assert abs(estimate(SteppedCQL, 400) - truth) < 0.02
    assert estimate(SoftMaximumOfThree, 400) < truth - 0.5
    assert estimate(SoftMaximumOfThree, 400) == pytest.approx(
        estimate(SoftMaximumOfThree, 40), abs=0.1
    )


def test_truncation_is_the_only_thing_that_the_one_flag_changes(dataset: OfflineDataset) -> None:
    agent = TruncationAsTermination.from_dataset(dataset, SMALL)
    seen = agent.learns_from(dataset)
    assert int(seen.terminated.sum()) == int(dataset.truncated.sum()) == 10
    assert torch.equal(seen.observation, dataset.observation)
    plain, cut = (
        train(kind.from_dataset(dataset, SMALL), dataset, 5, seed=0, log_every=5)["td_loss"]
        for kind in (CQL, TruncationAsTermination)
    )
    assert plain != pytest.approx(cut, rel=1e-6)


class TransitionsOfThePost(nn.Module):
    """The post's loss once more, from torch's own distributions, a state at a time."""

    def __init__(self, agent: PostCQL) -> None:
        super().__init__()
        self.agent, self.noise = agent, torch.Generator().manual_seed(agent.settings.seed)

    def actor(self, observation: Tensor, count: int) -> tuple[Tensor, Tensor]:
        agent = self.agent
        mean, raw = agent.policy.mean_and_log_std(agent.policy.body(observation)).chunk(2, -1)
        normal = Normal(mean, torch.log1p(raw.exp()))
        shape = (count, *mean.shape) if count else mean.shape
        u = normal.loc + normal.scale * torch.randn(shape, generator=self.noise)
        squashed = torch.tanh(u)
        log_prob = normal.log_prob(u) - torch.log(1 - torch.tanh(squashed) ** 2 + 1e-7)
        return 2.0 * squashed, log_prob[..., 0]

    def loss(self, batch: TransitionBatch) -> Tensor:
        agent, count = self.agent, self.agent.settings.num_proposals
        action, log_prob = self.actor(batch.next_observation, 0)
        value = agent.target_critic(batch.next_observation, action).min(0).values
        value = value - 0.01 * log_prob
        target = (batch.reward + 8) / 8 + 0.99 * value * (1 - batch.terminated.float())
        size = len(batch.reward)
        uniform = 2 * torch.rand((size, count, 1), generator=self.noise) - 1
        current, log_current = self.actor(batch.observation, count)
        upcoming, log_upcoming = self.actor(batch.next_observation, count)
        total = torch.zeros(())
        for j in range(2):
            soft = torch.zeros(size)
            for b in range(size):
                state = batch.observation[b : b + 1]
                parts = [
                    agent.critic(state, uniform[b : b + 1])[j, 0] - math.log(0.5),
                    agent.critic(state, current[:, b][None])[j, 0] - log_current[:, b],
                    agent.critic(state, upcoming[:, b][None])[j, 0] - log_upcoming[:, b],
                ]
                soft[b] = torch.logsumexp(torch.cat(parts), 0)
            data_q = agent.critic(batch.observation, batch.action)[j]
            weight = agent.settings.penalty_weight
            total = total + nn.functional.mse_loss(data_q, target.detach())
            total = total + weight * (soft.mean() - data_q.mean())
        return total


def test_the_post_s_class_computes_the_post_s_loss(dataset: OfflineDataset) -> None:
    settings = replace(BUGS["post"].settings, penalty_weight=5.0, seed=3)
    agent = PostCQL.from_dataset(dataset, settings)
    assert agent.target_entropy == -1
    ends = agent.learns_from(dataset)
    rows = torch.arange(190, 206)  # the end of the first episode is among them
    batch = TransitionBatch(*(getattr(ends, name)[rows] for name in TransitionBatch._fields))
    assert int(batch.terminated.sum()) == 1
    theirs = TransitionsOfThePost(agent).loss(batch)
    ours, _ = agent.critic_loss(batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_every_switch_is_trained_and_has_its_control() -> None:
    for name, bug in BUGS.items():
        agent_class, settings = SILENT_BUGS.methods[name]
        control_class, control = SILENT_BUGS.methods[bug.control]
        assert issubclass(agent_class, control_class)
        assert replace(settings, target_entropy=None) == control
        assert bug.agent_class.__doc__ is not None
        for word in ("Seen:", "Right"):
            assert word in bug.agent_class.__doc__ or name == "post"
    assert len(SILENT_BUGS.methods) == 16
    assert len(SILENT_BUGS.seeds) == 10


def test_bugs_train_on_any_box() -> None:
    space, actions = (
        gym.spaces.Box(-1, 1, (4,), np.float32),
        gym.spaces.Box(np.array([-1, 0], np.float32), np.array([3, 1], np.float32)),
    )
    generator = torch.Generator().manual_seed(0)
    size = 6
    batch = TransitionBatch(
        torch.randn(size, 4, generator=generator),
        uniform_actions((size,), [-1.0, 0.0], [3.0, 1.0], generator),
        torch.randn(size, generator=generator),
        torch.randn(size, 4, generator=generator),
        torch.zeros(size, dtype=torch.bool),
    )
    for bug in BUGS.values():
        metrics = bug.agent_class(space, actions, bug.settings).update(batch)
        assert all(map(math.isfinite, metrics.values()))
