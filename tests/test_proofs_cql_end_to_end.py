"""Proofs of *CQL end to end*, and tests of its exercise checkers.

Formulas are computed a second time in NumPy loops or with torch.distributions, in 64-bit, and
wrong versions have to fail the same check. Observations are computed again from the stored runs,
with a bootstrap of this file's own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution

from offline_rl_lib import CQL, CQLSettings
from offline_rl_lib.data import TransitionBatch, load_dataset
from offline_rl_lib.experiments import PENDULUM_CQL, RESULTS, load_runs
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = np.ndarray[Any, np.dtype[np.float64]]

SETTINGS = [
    replace(PENDULUM_CQL, penalty_weight=0.25),
    replace(PENDULUM_CQL, penalty_weight=5.0, num_proposals=1, seed=1),
    replace(PENDULUM_CQL, penalty_weight=1.0, penalty_temperature=2.5, num_proposals=3, seed=2),
    replace(PENDULUM_CQL, penalty_weight=0.0, seed=3),
]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=["chapter", "one", "warm", "off"])


# ---- an agent in 64-bit, on a box that forgives no mistake ---------------------------------------


def double_agent(settings: CQLSettings, initial_temperature: float = 0.3) -> CQL:
    """An agent with 64-bit parameters for 3 observations and 2 unequal, one-sided actions."""
    space = Box(np.array([-1.0, 0.5], np.float32), np.array([3.0, 1.0], np.float32))
    settings = replace(settings, initial_temperature=initial_temperature)
    agent = CQL(Box(-np.inf, np.inf, (3,)), space, settings)
    for module in (agent.policy, agent.critic, agent.target_critic, agent.log_temperature):
        module.double()
    agent.low, agent.high = agent.low.double(), agent.high.double()
    with torch.no_grad():  # target critics that differ from the critics
        for parameter in agent.target_critic.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
            )
    return agent


def double_batch(size: int = 6, seed: int = 0) -> TransitionBatch:
    """A minibatch in 64-bit; every third transition is terminated."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    low, width = torch.tensor([-1.0, 0.5]), torch.tensor([4.0, 0.5])
    action = low + width * torch.rand((size, 2), generator=generator, dtype=torch.float64)
    ends = torch.arange(size) % 3 == 0
    return TransitionBatch(normal(size, 3), action, -5 * normal(size).abs(), normal(size, 3), ends)


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def q_value(critic: nn.Module, j: int, observation: Array, action: Array) -> float:
    """Critic j as one ordinary network on the joined input."""
    first: Any = critic.from_observation
    weight = np.concatenate([array(first.weight)[j], array(critic.from_action)[j]])  # type: ignore[arg-type]
    hidden = np.concatenate([observation, action]) @ weight + array(first.bias)[j, 0]
    for layer in critic.layers:  # type: ignore[union-attr]
        hidden = np.maximum(hidden, 0) @ array(layer.weight)[j] + array(layer.bias)[j, 0]
    return float(hidden[0])


def distribution(agent: CQL, observation: Array) -> TransformedDistribution:
    """The policy at one observation, built from torch.distributions."""
    layer: Any = agent.policy.body[0]
    hidden = np.maximum(array(layer.weight) @ observation + array(layer.bias), 0)
    last = agent.policy.mean_and_log_std
    mean, log_std = np.split(array(last.weight) @ hidden + array(last.bias), 2)
    normal = Normal(torch.from_numpy(mean), torch.from_numpy(log_std).exp())
    middle, half = (agent.low + agent.high) / 2, (agent.high - agent.low) / 2
    return TransformedDistribution(normal, [TanhTransform(), AffineTransform(middle, half)])


def log_density(agent: CQL, observation: Array, action: Array) -> float:
    return float(distribution(agent, observation).log_prob(torch.from_numpy(action)).sum())


@dataclass
class Loops:
    """The losses of one minibatch as plain loops, right or with one slip."""

    agent: CQL
    batch: TransitionBatch
    slip: str = ""

    def target(self, i: int, next_action: Array) -> float:
        settings, batch, slow = self.agent.settings, self.batch, self.agent.target_critic
        following = array(batch.next_observation[i])
        pick = max if self.slip == "larger critic" else min
        value = pick(q_value(slow, j, following, next_action) for j in range(2))
        if self.slip != "no entropy":
            alpha = float(self.agent.temperature)
            value -= alpha * log_density(self.agent, following, next_action)
        reward = (float(batch.reward[i]) + settings.reward_shift) * settings.reward_scale
        ended = bool(batch.terminated[i]) and self.slip != "never ended"
        return reward + (0.0 if ended else settings.discount * value)

    def soft_maximum(self, i: int, j: int, actions: Array) -> float:
        agent, settings = self.agent, self.agent.settings
        here, there = array(self.batch.observation[i]), array(self.batch.next_observation[i])
        temperature, count = settings.penalty_temperature, settings.num_proposals
        volume = float((agent.high - agent.low).prod())
        total = 0.0
        for k, action in enumerate(actions):
            source = (None, here, there)[k // count]
            density = 1 / volume
            if source is not None:
                density = math.exp(log_density(agent, source, action))
            if self.slip == "no density":
                density = 1.0
            place = there if self.slip == "scored at s'" else here
            total += math.exp(q_value(agent.critic, j, place, action) / temperature) / density
        return temperature * math.log(total / (1 if self.slip == "no log N" else len(actions)))

    def critic_loss(self, next_actions: Array, proposals: Array) -> float:
        batch, loss, weight = self.batch, 0.0, self.agent.settings.penalty_weight
        for i in range(len(batch.reward)):
            y = self.target(i, next_actions[i])
            for j in range(2):
                q = q_value(
                    self.agent.critic, j, array(batch.observation[i]), array(batch.action[i])
                )
                loss += (0.5 if self.slip == "half the error" else 1.0) * (q - y) ** 2
                if weight:
                    sign = -1 if self.slip == "sign" else 1
                    loss += sign * weight * (self.soft_maximum(i, j, proposals[i]) - q)
        return loss / len(batch.reward)

    def actor_loss(self, actions: Array) -> float:
        total = 0.0
        for i, action in enumerate(actions):
            here, pick = array(self.batch.observation[i]), min
            if self.slip == "larger critic":
                pick = max  # type: ignore[assignment]
            bonus = float(self.agent.temperature) * log_density(self.agent, here, action)
            smallest = pick(q_value(self.agent.critic, j, here, action) for j in range(2))
            total += (0 if self.slip == "no entropy" else bonus) - smallest
        return total / len(actions)


@torch.no_grad()
def draws(agent: CQL, batch: TransitionBatch, noise: Tensor) -> tuple[Array, Array]:
    """The next actions and the proposals that the library draws from this random state."""
    agent.generator.set_state(noise)
    following = agent.policy(batch.next_observation).rsample((), agent.generator)
    proposals = agent.proposals(batch)[0] if agent.settings.penalty_weight else following
    return array(following), array(proposals)


# ---- the update's formulas -----------------------------------------------------------------------


@pytest.mark.proves("eq-e2e-target", method="NumPy loops and torch.distributions, one by one")
@each_setting
def test_the_target(settings: CQLSettings, deviation: Deviation) -> None:
    agent, batch = double_agent(settings), double_batch()
    noise = agent.generator.get_state()
    target = array(agent.td_target(batch))
    next_actions, _ = draws(agent, batch, noise)

    def apart(slip: str) -> float:
        loops = Loops(agent, batch, slip)
        return float(max(abs(loops.target(i, a) - target[i]) for i, a in enumerate(next_actions)))

    deviation(apart(""), 1e-7)
    for slip in ("larger critic", "no entropy", "never ended"):
        assert apart(slip) > 1e-3, f"the check does not notice: {slip}"


def test_truncation_does_not_end_the_bootstrap() -> None:
    narrow = load_dataset("pendulum/narrow-v0")
    assert int(narrow.truncated.sum()) == 10
    assert not narrow.terminated.any()
    agent = CQL.from_dataset(narrow, PENDULUM_CQL)
    with torch.no_grad():  # critics that expect much
        agent.target_critic.layers[-1].bias += 50.0
    ends = narrow.truncated
    batch = TransitionBatch(*(getattr(narrow, name)[ends] for name in TransitionBatch._fields))
    assert (agent.td_target(batch) > 40).all()
    cut = agent.td_target(batch._replace(terminated=narrow.truncated[ends]))
    assert torch.allclose(cut, (batch.reward + 8) / 8, atol=1e-6)


@pytest.mark.proves("eq-e2e-critic-loss", method="NumPy loops and torch.distributions, one by one")
@each_setting
def test_the_critic_loss(settings: CQLSettings, deviation: Deviation) -> None:
    agent, batch = double_agent(settings), double_batch()
    noise = agent.generator.get_state()
    loss = agent.critic_loss(batch)[0].item()
    drawn = draws(agent, batch, noise)
    deviation(abs(Loops(agent, batch).critic_loss(*drawn) - loss), 1e-7)
    slips = ["half the error", "never ended", "larger critic"]
    if settings.penalty_weight:
        slips += ["scored at s'", "no density", "no log N", "sign"]
    for slip in slips:
        assert abs(Loops(agent, batch, slip).critic_loss(*drawn) - loss) > 1e-3, slip


def difference_quotient(
    loss: Callable[[], float], parameters: Sequence[Tensor], seed: int
) -> tuple[float, float]:
    """Slope of the loss in a random direction: central differences, and from the gradients."""
    generator = torch.Generator().manual_seed(seed)
    directions = [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
    ]
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
            values.append(loss())
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter += step * direction
    pairs = zip(parameters, directions, strict=True)
    slope = sum(float((p.grad * d).sum()) for p, d in pairs if p.grad is not None)
    return (values[0] - values[1]) / (2 * step), slope


@pytest.mark.proves(
    "eq-e2e-critic-loss", method="finite differences of the loss with fixed targets"
)
@each_setting
def test_the_critics_gradient(settings: CQLSettings, deviation: Deviation) -> None:
    agent, batch = double_agent(settings), double_batch()
    noise = agent.generator.get_state()
    agent.critic_loss(batch)[0].backward()

    def loss() -> float:
        agent.generator.set_state(noise)
        return agent.critic_loss(batch)[0].item()

    for seed in range(3):
        quotient, slope = difference_quotient(loss, list(agent.critic.parameters()), seed)
        deviation(abs(quotient - slope) / max(1, abs(slope)), 1e-6)
        assert abs(quotient) > 1e-2


@pytest.mark.proves(
    "eq-e2e-actor-loss", method="NumPy loops; finite differences through the sample"
)
@each_setting
def test_the_actor_loss(settings: CQLSettings, deviation: Deviation) -> None:
    agent, batch = double_agent(settings), double_batch()
    noise = agent.generator.get_state()
    loss, log_prob = agent.actor_loss(batch)
    agent.generator.set_state(noise)
    actions = array(agent.policy(batch.observation).rsample((), agent.generator))
    deviation(abs(Loops(agent, batch).actor_loss(actions) - loss.item()), 1e-7)
    for slip in ("larger critic", "no entropy"):
        assert abs(Loops(agent, batch, slip).actor_loss(actions) - loss.item()) > 1e-3, slip
    assert not log_prob.requires_grad

    loss.backward(inputs=list(agent.policy.parameters()))
    assert all(parameter.grad is None for parameter in agent.critic.parameters())

    def again() -> float:
        agent.generator.set_state(noise)
        return agent.actor_loss(batch)[0].item()

    for seed in range(3):
        quotient, slope = difference_quotient(again, list(agent.policy.parameters()), seed)
        deviation(abs(quotient - slope) / max(1, abs(slope)), 1e-6)


@pytest.mark.proves(
    "eq-e2e-temperature-loss", method="formula in floats; finite differences in log alpha"
)
@pytest.mark.parametrize("alpha", [0.01, 0.3, 2.0])
def test_the_temperature_loss(alpha: float, deviation: Deviation) -> None:
    agent = double_agent(SETTINGS[0], initial_temperature=alpha)
    agent.log_temperature[0].data.fill_(math.log(alpha))
    target_entropy = -2 + math.log(4.0 / 2) + math.log(0.5 / 2)
    assert math.isclose(agent.target_entropy, target_entropy, abs_tol=1e-6)
    for entropies in ([-1.0, 0.5, 2.0], [-9.0, -7.0, -8.0]):
        log_prob = -torch.tensor(entropies, dtype=torch.float64)
        surplus = sum(entropies) / 3 - agent.target_entropy
        agent.log_temperature[0].grad = None
        loss = agent.temperature_loss(log_prob)
        loss.backward()
        deviation(abs(loss.item() - alpha * surplus), 1e-12)
        assert abs(loss.item() + alpha * surplus) > 1e-3, "the sign would be noticed"
        quotient, slope = difference_quotient(
            lambda x=log_prob: agent.temperature_loss(x).item(),
            [agent.log_temperature[0]],
            0,  # type: ignore[misc]
        )
        deviation(abs(quotient - slope), 1e-7)
        # Too much entropy: a descent step makes alpha smaller.
        assert math.copysign(1, agent.log_temperature[0].grad.item()) == math.copysign(1, surplus)


@pytest.mark.proves("eq-e2e-soft-update", method="number by number in Python")
@pytest.mark.parametrize("rate", [0.005, 0.3, 1.0])
def test_the_target_critics_follow(rate: float, deviation: Deviation) -> None:
    agent = double_agent(replace(SETTINGS[0], target_update_rate=rate))
    pairs = list(zip(agent.target_critic.parameters(), agent.critic.parameters(), strict=True))
    before = [(slow.flatten().tolist(), fast.flatten().tolist()) for slow, fast in pairs]
    agent.update_target()
    for (slow, fast), (old, source) in zip(pairs, before, strict=True):
        assert fast.flatten().tolist() == source, "the critics stay"
        moved = [(1 - rate) * a + rate * b for a, b in zip(old, source, strict=True)]
        exchanged = [rate * a + (1 - rate) * b for a, b in zip(old, source, strict=True)]
        now = slow.flatten().tolist()
        deviation(max(abs(a - b) for a, b in zip(moved, now, strict=True)), 1e-14)
        assert max(abs(a - b) for a, b in zip(exchanged, now, strict=True)) > 1e-3


# ---- the update as a whole -----------------------------------------------------------------------


class Adam:
    """Adam as in its paper (Kingma and Ba 2015, algorithm 1), for one group of parameters."""

    def __init__(self, parameters: Sequence[Tensor], rate: float) -> None:
        self.parameters, self.rate, self.steps = list(parameters), rate, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]

    @torch.no_grad()
    def descend(self, loss: Tensor) -> None:
        self.steps += 1
        gradients = torch.autograd.grad(loss, self.parameters)
        for p, g, (m, v) in zip(self.parameters, gradients, self.moments, strict=True):
            m.copy_(0.9 * m + 0.1 * g)
            v.copy_(0.999 * v + 0.001 * g * g)
            first, second = m / (1 - 0.9**self.steps), v / (1 - 0.999**self.steps)
            p -= self.rate * first / (second.sqrt() + 1e-8)


class EightSteps:
    """The chapter's update, from an agent's networks, torch.distributions and our own Adam."""

    def __init__(self, agent: CQL) -> None:
        self.agent, s = agent, agent.settings
        self.adams = [
            Adam(list(agent.critic.parameters()), s.critic_learning_rate),
            Adam(list(agent.policy.parameters()), s.actor_learning_rate),
            Adam([agent.log_temperature[0]], s.temperature_learning_rate),
        ]

    def sample(self, observation: Tensor, shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        agent = self.agent
        mean, log_std = agent.policy.mean_and_log_std(agent.policy.body(observation)).chunk(2, -1)
        size = (*shape, *mean.shape)
        noise = torch.randn(size, generator=agent.generator, dtype=mean.dtype)
        normal = Normal(mean, log_std.exp())
        middle, half = (agent.low + agent.high) / 2, (agent.high - agent.low) / 2
        squashed = TransformedDistribution(
            normal, [TanhTransform(cache_size=1), AffineTransform(middle, half, cache_size=1)]
        )
        action = mean + log_std.exp() * noise
        for transform in squashed.transforms:
            action = transform(action)
        return action, squashed.log_prob(action).sum(-1)

    def update(self, batch: TransitionBatch) -> None:
        agent, s = self.agent, self.agent.settings
        alpha = agent.log_temperature[0].exp().detach()
        size, count = len(batch.reward), s.num_proposals
        with torch.no_grad():
            next_action, next_log = self.sample(batch.next_observation)
            next_q = agent.target_critic(batch.next_observation, next_action)
            value = torch.minimum(next_q[0], next_q[1]) - alpha * next_log
            y = (batch.reward + s.reward_shift) * s.reward_scale
            y = torch.where(batch.terminated, y, y + s.discount * value)
            if s.penalty_weight:
                share = torch.rand(
                    (size, count, len(agent.low)), generator=agent.generator, dtype=y.dtype
                )
                uniform = agent.low * (1 - share) + agent.high * share
                volume = (agent.high - agent.low).prod()
                parts = [(uniform, torch.full((size, count), float(-volume.log()), dtype=y.dtype))]
                for observation in (batch.observation, batch.next_observation):
                    action, log_prob = self.sample(observation, (count,))
                    parts.append((action.movedim(0, 1), log_prob.movedim(0, 1)))
        q = agent.critic(batch.observation, batch.action)
        loss = ((q[0] - y) ** 2).mean() + ((q[1] - y) ** 2).mean()
        if s.penalty_weight:
            t, terms = s.penalty_temperature, []
            for action, log_mu in parts:
                terms.append((agent.critic(batch.observation, action) / t - log_mu).exp())
            soft = t * torch.cat(terms, dim=-1).mean(dim=-1).log()
            loss = loss + s.penalty_weight * (soft - q).mean(dim=-1).sum()
        self.adams[0].descend(loss)
        action, log_prob = self.sample(batch.observation)
        q = agent.critic(batch.observation, action)
        self.adams[1].descend((alpha * log_prob - torch.minimum(q[0], q[1])).mean())
        surplus = -log_prob.detach().mean() - agent.target_entropy
        self.adams[2].descend(agent.log_temperature[0].exp() * surplus)
        with torch.no_grad():
            rate = s.target_update_rate
            pairs = zip(agent.target_critic.parameters(), agent.critic.parameters(), strict=True)
            for slow, fast in pairs:
                slow.copy_((1 - rate) * slow + rate * fast)


def everything(agent: CQL) -> Tensor:
    parts = (agent.critic, agent.policy, agent.target_critic, agent.log_temperature)
    return torch.cat([p.detach().flatten() for part in parts for p in part.parameters()])


@pytest.mark.proves(
    "claim-e2e-same-update", method="torch.distributions and our own Adam, 20 updates"
)
@each_setting
def test_eight_steps_are_one_update(settings: CQLSettings, deviation: Deviation) -> None:
    library, mine = double_agent(settings), double_agent(settings)
    steps, start = EightSteps(mine), everything(library)
    for number in range(20):
        batch = double_batch(32, seed=number)
        library.update(batch)
        steps.update(batch)
    assert torch.equal(library.generator.get_state(), mine.generator.get_state())
    deviation(float((everything(library) - everything(mine)).abs().max()), 1e-5)
    assert float((everything(library) - start).abs().max()) > 1e-2

    other = replace(settings, penalty_weight=settings.penalty_weight + 0.05)
    different = EightSteps(double_agent(other))
    for number in range(20):
        different.update(double_batch(32, seed=number))
    assert float((everything(library) - everything(different.agent)).abs().max()) > 1e-4


@pytest.mark.proves(
    "claim-e2e-same-update", method="torch.distributions and our own Adam, in 32-bit"
)
def test_eight_steps_are_one_update_on_real_data(deviation: Deviation) -> None:
    narrow = load_dataset("pendulum/narrow-v0")
    library, mine = (CQL.from_dataset(narrow, SETTINGS[0]) for _ in range(2))
    batch = narrow.sample(64, torch.Generator().manual_seed(3))
    library.update(batch)
    EightSteps(mine).update(batch)
    deviation(float((everything(library) - everything(mine)).abs().max()), 1e-5)


@pytest.mark.proves("claim-e2e-critics-only", method="counting gradients that are not None")
@each_setting
def test_the_critic_loss_moves_the_critics_only(
    settings: CQLSettings, deviation: Deviation
) -> None:
    agent = double_agent(settings)
    agent.critic_loss(double_batch())[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in agent.critic.parameters())
    others = [agent.policy, agent.target_critic, agent.log_temperature]
    deviation(sum(p.grad is not None for part in others for p in part.parameters()), 0)


def penalty_with_graph(agent: CQL, batch: TransitionBatch, keep: bool) -> tuple[Tensor, float]:
    """Gradient of the sampled penalty at the critics, and its norm at the policy."""
    with torch.set_grad_enabled(keep):
        action, log_prob = agent.policy(batch.observation).rsample_with_log_prob(
            (9,), agent.generator
        )
    q_values = agent.critic(batch.observation, action.movedim(0, 1))
    scores = q_values - log_prob.detach().movedim(0, 1)
    (scores.logsumexp(-1) - agent.critic(batch.observation, batch.action)).mean().backward()
    critic = torch.cat([p.grad.flatten() for p in agent.critic.parameters()])  # type: ignore[union-attr]
    gradients = [p.grad for p in agent.policy.parameters() if p.grad is not None]
    return critic, math.sqrt(sum(float((g**2).sum()) for g in gradients))


@pytest.mark.proves("claim-e2e-wasted-graph", method="both gradients, compared number by number")
def test_the_kept_graph_changes_nothing(deviation: Deviation) -> None:
    batch = double_batch(32)
    kept, policy_norm = penalty_with_graph(double_agent(SETTINGS[0]), batch, keep=True)
    cut, no_norm = penalty_with_graph(double_agent(SETTINGS[0]), batch, keep=False)
    assert policy_norm > 1e-4
    assert no_norm == 0
    deviation(float((kept - cut).abs().max()), 1e-12)


@pytest.mark.proves("claim-e2e-post-shares", method="torch.distributions and a softmax in Python")
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_foreign_densities_reweight_the_sources(seed: int, deviation: Deviation) -> None:
    narrow = load_dataset("pendulum/narrow-v0")
    agent = CQL.from_dataset(narrow, SETTINGS[0])
    batch = narrow.sample(64, torch.Generator().manual_seed(seed))
    agent.update(batch)
    random, right, post = np.random.default_rng(seed), [], []
    for i in range(64):
        here, there = array(batch.observation[i]), array(batch.next_observation[i])
        for bound, log_uniform, wrong, found in (
            (2.0, math.log(1 / 4), False, right),
            (1.0, math.log(1 / 2), True, post),
        ):
            exponents = []
            for torque in random.uniform(-bound, bound, 40):
                exponents.append(q_value(agent.critic, 0, here, np.array([torque])) - log_uniform)
            for where in (here, there):
                policy = distribution(agent, where)
                normal: Any = policy.base_dist
                for _ in range(40):
                    u = random.normal(float(normal.mean), float(normal.stddev))
                    action = np.array([2 * math.tanh(u)])
                    z = (u - float(normal.mean)) / float(normal.stddev)
                    log_mu = -z * z / 2 - math.log(float(normal.stddev) * math.sqrt(2 * math.pi))
                    if wrong:
                        log_mu -= math.log(1 - math.tanh(math.tanh(u)) ** 2)
                    else:
                        log_mu -= math.log(2 * (1 - math.tanh(u) ** 2))
                    exponents.append(q_value(agent.critic, 0, here, action) - log_mu)
            weights = np.exp(exponents)
            found.append(weights[:40].sum() / weights.sum())
    deviation(abs(float(np.mean(right)) - 1 / 3), 0.03)
    deviation(float(np.mean(post)), 0.24)


# ---- rulers --------------------------------------------------------------------------------------


@pytest.mark.proves(
    "eq-e2e-worth", method="discounted sum of the scaled rewards of a long recording"
)
@pytest.mark.parametrize("episode_return", [0.0, -143.9, -700.0, -1600.0])
def test_worth_of_a_return(episode_return: float, deviation: Deviation) -> None:
    reward = (episode_return / 200 + 8) / 8
    total = sum(0.99**step * reward for step in range(5_000))
    deviation(abs(total - (100 + episode_return / 16)), 1e-9)
    if episode_return:
        assert abs(total - (100 + episode_return / 8)) > 1


@pytest.mark.proves("eq-e2e-slow-critic", method="the recursion, update by update")
@pytest.mark.parametrize(("discount", "rate"), [(0.99, 0.005), (0.9, 0.05), (0.999, 0.01)])
def test_slow_critic(discount: float, rate: float, deviation: Deviation) -> None:
    slow, reward = 0.0, 0.7
    for update in range(3_000):
        fitted = reward + discount * slow
        shrink = (1 - rate * (1 - discount)) ** update
        deviation(abs(fitted - reward / (1 - discount) * (1 - discount * shrink)), 1e-9)
        slow = (1 - rate) * slow + rate * fitted
        without_gamma = reward / (1 - discount) * (1 - shrink)
        assert abs(fitted - without_gamma) > 1e-3 or update > 500, "a wrong one would be noticed"


def test_a_real_critic_stays_close_below_the_slow_one() -> None:
    """One state, reward 1 for ever, all actions equal, no entropy bonus."""
    settings = replace(
        SETTINGS[3],
        critic_learning_rate=3e-3,
        critic_hidden_sizes=(64,),
        initial_temperature=1e-9,
        reward_scale=1.0,
        reward_shift=0.0,
    )
    agent = CQL(Box(-1, 1, (1,)), Box(-1, 1, (1,)), settings)
    generator = torch.Generator().manual_seed(0)
    zero, one = torch.zeros(32, 1), torch.ones(32)
    for _ in range(2_000):
        action = 2 * torch.rand((32, 1), generator=generator) - 1
        loop = TransitionBatch(zero, action, one, zero, one > 2)
        agent._step(agent.critic_optimiser, agent.critic_loss(loop)[0], agent.critic)
        agent.update_target()
    reached = 100 * (1 - 0.99 * (1 - 0.005 * 0.01) ** 2_000)
    measured = agent.critic(zero, action).mean().item()
    # A network lags behind its target a little, and the smaller critic makes the target.
    assert 0.85 * reached < measured < reached


# ---- observations: the stored runs ---------------------------------------------------------------


@cache
def stored(dataset: str, method: str) -> tuple[dict[str, Any], ...]:
    runs = load_runs(RESULTS / "comparison.jsonl")
    cell = [r for r in runs if (r["dataset"], r["method"]) == (f"pendulum/{dataset}-v0", method)]
    assert [run["seed"] for run in sorted(cell, key=lambda run: run["seed"])] == list(range(10))
    return tuple(sorted(cell, key=lambda run: run["seed"]))


def last_scores(dataset: str, method: str) -> Array:
    return np.array([np.mean(run["returns"][-1]) for run in stored(dataset, method)])


def scores_at_all_points(dataset: str, method: str) -> Array:
    return np.array([np.mean(run["returns"], axis=1) for run in stored(dataset, method)])


def last_data_q(dataset: str, method: str) -> Array:
    return np.array([run["metrics"]["data_q"][-1] for run in stored(dataset, method)])


def middle_of_ten(scores: Array) -> Array:
    """Interquartile mean of ten scores, or of many rows of ten: without two at either end."""
    return np.sort(scores, axis=-1)[..., 2:8].mean(axis=-1)


def interval_of_ten(scores: Array) -> Array:
    """Ends of a 95 % bootstrap interval, with other draws than the chapter's."""
    runs = np.random.default_rng(4).integers(10, size=(20_000, 10))
    return np.quantile(middle_of_ten(scores[runs]), [0.025, 0.975])


def share_not_above_zero(differences: Array) -> float:
    """Share of bootstrap resamples whose interquartile mean is not positive."""
    seeds = np.random.default_rng(3).integers(10, size=(20_000, 10))
    return float((middle_of_ten(differences[seeds]) <= 0).mean())


BOOTSTRAP = "bootstrap of paired runs: share of resamples with the other sign"


def references() -> dict[str, float]:
    text = (RESULTS / "reference_returns.json").read_text(encoding="utf-8")
    return {name: policy["mean"] for name, policy in json.loads(text)["policies"].items()}


@pytest.mark.proves("claim-e2e-narrow-saves", method=BOOTSTRAP)
def test_on_narrow_data_the_penalty_saves_the_agent(deviation: Deviation) -> None:
    difference = last_scores("narrow", "CQL") - last_scores("narrow", "penalty off")
    deviation(share_not_above_zero(difference), 0.025)
    assert (difference > 0).all(), "all ten seeds agree"
    assert share_not_above_zero(-difference) > 0.975, "the exchanged claim would fail"


@pytest.mark.proves("claim-e2e-narrow-collapse", method="counting runs")
def test_without_penalty_every_run_ends_below_random(deviation: Deviation) -> None:
    scores = last_scores("narrow", "penalty off")
    deviation(int((scores >= references()["random"]).sum()), 0)
    assert (last_scores("narrow", "CQL") > references()["random"]).all()


@pytest.mark.proves("claim-e2e-narrow-beats-bc", method=BOOTSTRAP)
def test_on_narrow_data_cql_beats_bc_and_the_behaviour(deviation: Deviation) -> None:
    cql = last_scores("narrow", "CQL")
    deviation(share_not_above_zero(cql - last_scores("narrow", "BC")), 0.025)
    behaviour = load_dataset("pendulum/narrow-v0").episode_returns().numpy()
    error = behaviour.std(ddof=1) / math.sqrt(len(behaviour))
    deviation(share_not_above_zero(cql - (behaviour.mean() + 2 * error)), 0.025)


@pytest.mark.proves("claim-e2e-replay-no-help", method=f"{BOOTSTRAP}, minus one half")
def test_on_replay_data_no_difference_is_measured(deviation: Deviation) -> None:
    for first, second in (("CQL", "penalty off"), ("CQL", "BC"), ("penalty off", "BC")):
        difference = last_scores("replay", first) - last_scores("replay", second)
        # Between 2.5 % and 97.5 % of the resamples: the 95 % interval contains zero.
        deviation(abs(share_not_above_zero(difference) - 0.5), 0.475)
    clear = last_scores("narrow", "CQL") - last_scores("narrow", "penalty off")
    assert abs(share_not_above_zero(clear) - 0.5) > 0.475


@pytest.mark.proves("claim-e2e-weight-five", method=BOOTSTRAP)
def test_weight_five_is_too_strong_on_narrow_data(deviation: Deviation) -> None:
    heavy = last_scores("narrow", "CQL, weight 5")
    deviation(share_not_above_zero(last_scores("narrow", "CQL") - heavy), 0.025)
    deviation(share_not_above_zero(last_scores("narrow", "BC") - heavy), 0.025)
    # It still prevents the collapse; and on the replay data there is no clear difference.
    deviation(share_not_above_zero(heavy - last_scores("narrow", "penalty off")), 0.025)
    unclear = last_scores("replay", "CQL") - last_scores("replay", "CQL, weight 5")
    assert 0.025 < share_not_above_zero(unclear) < 0.975


@pytest.mark.proves("claim-e2e-late", method=BOOTSTRAP)
def test_improvement_over_imitation_comes_late(deviation: Deviation) -> None:
    scores = {m: scores_at_all_points("narrow", m) for m in ("CQL", "BC")}
    for point in range(5):
        undecided = share_not_above_zero((scores["CQL"] - scores["BC"])[:, point])
        if point < 2:
            assert undecided > 0.025, "better already: the claim is wrong"
        else:
            deviation(undecided, 0.025)


@pytest.mark.proves("claim-e2e-replay-early", method=BOOTSTRAP)
def test_on_replay_data_the_penalty_helps_at_first(deviation: Deviation) -> None:
    first = [scores_at_all_points("replay", m)[:, 0] for m in ("CQL", "penalty off")]
    deviation(share_not_above_zero(first[0] - first[1]), 0.025)
    assert (first[0] > first[1]).all()


@pytest.mark.proves("claim-e2e-overestimate", method="counting runs that contradict")
def test_data_q_and_worth_are_in_opposite_orders(deviation: Deviation) -> None:
    above = {
        m: int((last_data_q("narrow", m) > 100 + last_scores("narrow", m) / 16).sum())
        for m in ("penalty off", "CQL")
    }
    deviation(10 - above["penalty off"], 1)
    deviation(above["CQL"], 0)
    assert {f"{n}" for n in above.values()} == {
        glued_value("result-above-off"),
        glued_value("result-above-cql"),
    }
    for method, key in (("penalty off", "off"), ("CQL", "cql")):
        values = {"q": last_data_q("narrow", method)}
        values["worth"] = 100 + last_scores("narrow", method) / 16
        for name, numbers in values.items():
            middle, *ends = quoted_numbers(f"result-{name}-{key}-interval")
            assert abs(middle - float(middle_of_ten(numbers))) <= 0.051
            assert np.abs(np.subtract(ends, interval_of_ten(numbers))).max() < 0.35
    worths = [interval_of_ten(100 + last_scores("narrow", m) / 16) for m in above]
    assert worths[0][1] < interval_of_ten(last_data_q("narrow", "penalty off"))[0]
    assert interval_of_ten(last_data_q("narrow", "CQL"))[1] < worths[1][0]


@pytest.mark.proves("claim-e2e-data-q-blind", method="relative distance of the interquartile means")
def test_data_q_does_not_betray_the_collapse(deviation: Deviation) -> None:
    off, on = (float(middle_of_ten(last_data_q("narrow", m))) for m in ("penalty off", "CQL"))
    deviation(abs(off - on) / on, 0.1)
    returns = [middle_of_ten(last_scores("narrow", m)) for m in ("penalty off", "CQL")]
    assert returns[1] - returns[0] > 1_000
    apart = last_data_q("narrow", "CQL") - last_data_q("narrow", "penalty off")
    middle, *ends = quoted_numbers("result-q-difference")
    assert abs(middle - float(middle_of_ten(apart))) <= 0.051
    assert np.abs(np.subtract(ends, interval_of_ten(apart))).max() < 0.1


@pytest.mark.proves(
    "claim-e2e-ceiling", method="largest excess over the ceiling, summed update by update"
)
def test_data_q_lies_below_the_ceiling(deviation: Deviation) -> None:
    slow, ceiling = 0.0, []
    for _ in range(5_000):
        fitted = 1 + 0.99 * slow
        ceiling.append(fitted)
        slow += 0.005 * (fitted - slow)
    per_stretch = np.reshape(ceiling, (5, 1_000)).mean(axis=1)
    for dataset in ("replay", "narrow"):
        for method in ("penalty off", "CQL"):
            for run in stored(dataset, method):
                deviation(max(0.0, max(np.array(run["metrics"]["data_q"]) - per_stretch)), 0)


@pytest.mark.proves("claim-e2e-one-episode", method="counting pairs one by one")
def test_single_episodes_vote_wrongly(deviation: Deviation) -> None:
    cql, bc = (
        [value for run in stored("narrow", m) for value in run["returns"][-1]]
        for m in ("CQL", "BC")
    )
    ordered, wrong = np.sort(cql), 0
    for value in bc:
        wrong += int(np.searchsorted(ordered, value))
    share = wrong / (len(cql) * len(bc))
    glued = glued_value("result-wrong-votes")
    deviation(abs(share - float(glued.rstrip("%")) / 100), 0.005)
    assert (last_scores("narrow", "CQL") > last_scores("narrow", "BC")).all()
    # The interval: other draws of the runs, and of each drawn run its own ordered episodes.
    generator, shares = np.random.default_rng(5), []
    table = [np.array([run["returns"][-1] for run in stored("narrow", m)]) for m in ("BC", "CQL")]
    for _ in range(1_000):
        some_bc, some_cql = (t[generator.integers(10, size=10)].ravel() for t in table)
        shares.append(np.searchsorted(np.sort(some_cql), some_bc).mean() / some_cql.size)
    quoted = quoted_numbers("result-wrong-votes-interval")
    assert quoted[1] == 95, "share, confidence, ends"
    assert np.abs(np.subtract(quoted[2:], 100 * np.quantile(shares, [0.025, 0.975]))).max() < 1.5


def quoted_numbers(key: str) -> list[float]:
    """The numbers of a text that the chapter's prose quotes, in their order."""
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", glued_value(key))]


def glued_value(key: str) -> str:
    """A number that the chapter's prose quotes."""
    path = RESULTS.parents[1] / "notebooks" / "13_cql_end_to_end.ipynb"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            glued = output.get("metadata", {}).get("scrapbook", {})
            if glued.get("name") == key:
                return str(
                    "".join(output["data"]["application/papermill.record/text/plain"])
                ).strip("'")
    raise AssertionError(f"the chapter glues no {key}")


# ---- the exercises -------------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def loss(
    data_q: Tensor,
    target: Tensor,
    proposal_q: Tensor,
    log_mu: Tensor,
    weight: float,
    *,
    td: float = 1.0,
    sign: float = 1.0,
    data: float = 1.0,
    log_n: bool = True,
    density: float = 1.0,
) -> Tensor:
    error = td * (data_q - target.detach()).square().mean(-1)
    soft = (proposal_q - density * log_mu).logsumexp(-1) - log_n * math.log(proposal_q.shape[-1])
    return (error + sign * weight * (soft - data * data_q).mean(-1)).sum()


LOSS_MISTAKES: dict[str, Callable[..., Tensor]] = {
    "average over the critics": lambda *x: loss(*x) / 2,
    "factor 1/2": lambda *x: loss(*x, td=0.5),
    "sign of the penalty": lambda *x: loss(*x, sign=-1),
    "is not subtracted": lambda *x: loss(*x, data=0.0),
    "log M is not subtracted": lambda *x: loss(*x, log_n=False),
    "log-densities are not subtracted": lambda *x: loss(*x, density=0.0),
    "log-densities are added": lambda *x: loss(*x, density=-1.0),
    "penalty only": lambda *x: x[4] * loss(*x[:4], 1.0),
    "sum over the batch": lambda *x: loss(*x) * x[0].shape[-1],
    "average over the batch, then sum": lambda q, y, *x: (q - y).square(),
    "gradient flows into the target": lambda q, y, p, m, w: (
        (q - y).square().mean(-1) + w * ((p - m).logsumexp(-1) - math.log(p.shape[-1]) - q).mean(-1)
    ).sum(),
    "gradient at data_q": lambda q, y, p, m, w: (
        loss(q, y, p, m, 0.0)
        + w * (loss(q.detach(), y, p, m, 1.0) - loss(q.detach(), y, p, m, 0.0))
    ),
    "no gradient reaches proposal_q": lambda q, y, p, m, w: loss(q, y, p.detach(), m, w),
    "log M is added": lambda *x: loss(*x) + 4 * x[4] * math.log(x[2].shape[-1]),
    "B stands where M": lambda *x: loss(*x) + 2 * x[4] * math.log(x[2].shape[-1] / len(x[1])),
    "runs over the batch": lambda q, y, p, m, w: (
        (q - y.detach()).square().mean(-1)
        + w * ((p - m).logsumexp(1).mean(-1) - math.log(p.shape[-1]) - q.mean(-1))
    ).sum(),
    "not a mean": lambda q, y, p, m, w: (
        (q - y.detach()).square().mean(-1) + w * ((p - m).mean(-1) - q).mean(-1)
    ).sum(),
    "first critic alone": lambda q, y, p, m, w: loss(q[:1], y, p[:1], m, w),
    "second critic alone": lambda q, y, p, m, w: loss(q[1:], y, p[1:], m, w),
    "smaller critic is for targets": lambda q, y, p, m, w: loss(
        q.min(0, keepdim=True).values, y, p.min(0, keepdim=True).values, m, w
    ),
    "weight is not used": lambda *x: loss(*x[:4], 1.0),
    "it belongs to the penalty": lambda *x: loss(*x[:4], 1.0, td=x[4]),
    "it has no gradient": lambda *x: loss(*x).detach(),
    "compare with steps": lambda *x: 3.7 * loss(*x),
}


def test_the_loss_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-e2e-critic-loss"
    assert f"{exercise}: passed." in verdict(capsys, exercise, loss)
    for message, mistake in LOSS_MISTAKES.items():
        said = verdict(capsys, exercise, mistake)
        assert "not right yet" in said, message
        assert message in said, said


def needed(share: float, discount: float, rate: float) -> float:
    return math.log((1 - share) / discount) / math.log(1 - rate * (1 - discount))


NEEDED_MISTAKES: dict[str, Callable[[float, float, float], Any]] = {
    "factor gamma": lambda q, g, t: math.log(1 - q) / math.log(1 - t * (1 - g)),
    "that is left": lambda q, g, t: needed(1 - q, g, t),
    "sign is turned": lambda q, g, t: -needed(q, g, t),
    "not by tau": lambda q, g, t: math.log((1 - q) / g) / math.log(1 - t),
    "solve": lambda q, g, t: 12.0,
    "not a number": lambda q, g, t: "many",
}


def test_the_updates_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-e2e-updates-needed"
    assert f"{exercise}: passed." in verdict(capsys, exercise, needed)
    for message, mistake in NEEDED_MISTAKES.items():
        said = verdict(capsys, exercise, mistake)
        assert "not right yet" in said, message
        assert message in said, said


def test_the_weight_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-e2e-weight"
    assert "passed. The stored runs agree, in all 20" in verdict(capsys, exercise, ("fall", "rise"))
    assert "data_q does the opposite" in verdict(capsys, exercise, ("fall", "fall"))
    assert "penalty does the opposite" in verdict(capsys, exercise, ("rise", "rise"))
    assert "passed" in verdict(capsys, exercise, ["Falls", "rises "])
    assert 'write "rise" or "fall"' in verdict(capsys, exercise, ("down", "up"))
    assert "Two words" in verdict(capsys, exercise, "fall")
    assert "not done yet" in verdict(capsys, exercise, (..., ...))
    assert "not done yet" in verdict(capsys, exercise, ("fall", ...))


def interval(first: Array, second: Array, *, paired: bool = True, mean: bool = True) -> Any:
    random = np.random.default_rng(5)
    if not paired:
        draws = [random.choice(x, (10_000, len(x))).mean(axis=1) for x in (first, second)]
        return np.quantile(draws[0] - draws[1], [0.025, 0.975])
    difference = first - second
    if not mean:
        return np.quantile(difference, [0.025, 0.975])
    seeds = random.integers(len(first), size=(10_000, len(first)))
    return tuple(np.quantile(difference[seeds].mean(axis=1), [0.025, 0.975]))


INTERVAL_MISTAKES: dict[str, Callable[[Array, Array], Any]] = {
    "resampled separately": lambda a, b: interval(a, b, paired=False),
    "second - first": lambda a, b: interval(b, a),
    "not their mean": lambda a, b: interval(a, b, mean=False),
    "swapped": lambda a, b: interval(a, b)[::-1],
    "two numbers": lambda a, b: 3.0,
    "draw whole seeds": lambda a, b: (0.0, 1.0),
}


def test_the_interval_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-e2e-paired-interval"
    assert f"{exercise}: passed." in verdict(capsys, exercise, interval)
    for message, mistake in INTERVAL_MISTAKES.items():
        said = verdict(capsys, exercise, mistake)
        assert "not right yet" in said, message
        assert message in said, said


@pytest.mark.parametrize("exercise", ["critic-loss", "updates-needed", "paired-interval"])
def test_stubs_are_not_done_yet(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    for stub in (lambda *arguments: ..., lambda *arguments: None, ...):
        assert "not done yet" in verdict(capsys, f"ex-e2e-{exercise}", stub)
    assert "A function is expected" in verdict(capsys, f"ex-e2e-{exercise}", 1.0)
