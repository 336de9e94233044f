"""IQL: expectiles, one-step targets and weighted cloning, each against its own calculation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from in_double import array, double_agent, double_batch, gradient, output_of, q_of
from scipy import optimize, stats
from torch import Tensor, nn

from offline_rl_lib import BC, IQL, SAC, BCSettings, IQLSettings
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.iql import expectile_loss

Deviation = Callable[..., None]
EXPECTILES = [0.1, 0.5, 0.7, 0.9, 0.99]


def make(**settings: Any) -> Any:
    return double_agent(IQL, **{"value_hidden_sizes": (12, 10)} | settings)


def expectile(values: np.ndarray, share: float) -> float:
    """The expectile by its definition: pulls from above and below balance, by bisection."""

    def surplus(v: float) -> float:
        above, below = np.maximum(values - v, 0).mean(), np.maximum(v - values, 0).mean()
        return float(share * above - (1 - share) * below)

    return float(optimize.bisect(surplus, values.min(), values.max(), xtol=1e-13))


# ---- expectiles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("share", EXPECTILES)
@pytest.mark.proves("eq-alg-iql-expectile", method="closed form for a uniform distribution")
def test_expectile_of_a_uniform_distribution(share: float, deviation: Deviation) -> None:
    points = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1] + 0.5 / 20_000
    found = optimize.minimize_scalar(
        lambda v: expectile_loss(points - v, share).mean().item(),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-9},
    )
    # share * (1 - v)^2 = (1 - share) * v^2
    exact = math.sqrt(share) / (math.sqrt(share) + math.sqrt(1 - share))
    deviation(abs(found.x - exact), 1e-6)
    if share != 0.5:
        quantile = share  # what the loss without the square would find
        swapped = math.sqrt(1 - share) / (math.sqrt(share) + math.sqrt(1 - share))
        assert min(abs(found.x - quantile), abs(found.x - swapped)) > 1e-3


@pytest.mark.parametrize("share", EXPECTILES)
@pytest.mark.proves("eq-alg-iql-balance", method="bisection with the normal's partial moments")
def test_expectile_of_a_normal_distribution(share: float, deviation: Deviation) -> None:
    def surplus(v: float) -> float:
        above = stats.norm.pdf(v) - v * stats.norm.sf(v)  # E max(X - v, 0)
        below = stats.norm.pdf(v) + v * stats.norm.cdf(v)  # E max(v - X, 0)
        return share * above - (1 - share) * below

    exact = optimize.bisect(surplus, -10, 10, xtol=1e-13)
    points = torch.tensor(stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000))

    def slope(v: float) -> float:
        value = torch.tensor(v, dtype=torch.float64, requires_grad=True)
        loss = expectile_loss(points - value, share).mean()
        return float(torch.autograd.grad(loss, value)[0])

    deviation(abs(slope(exact)), 1e-4)
    assert slope(exact - 0.05) < -1e-3 < 1e-3 < slope(exact + 0.05)


def test_one_half_is_the_mean_and_one_the_maximum() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=500)
    assert expectile(values, 0.5) == pytest.approx(values.mean(), abs=1e-10)
    assert values.max() - 0.1 < expectile(values, 1 - 1e-6) < values.max()
    half = expectile_loss(torch.tensor([-3.0, 0.0, 2.0]), 0.5)
    assert half.tolist() == [4.5, 0.0, 2.0]
    assert expectile_loss(torch.tensor([-1.0, 1.0]), 0.9).tolist() == pytest.approx([0.1, 0.9])


class TableQ(nn.Module):
    """Q of the batch's own transitions, from a table: shape (2, B), whatever is asked."""

    def __init__(self, q_values: np.ndarray) -> None:
        super().__init__()
        self.q_values = torch.tensor(q_values)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.q_values


@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
@pytest.mark.proves("eq-alg-iql-value", method="expectile of each state's data, by bisection")
def test_the_value_network_learns_each_states_expectile(share: float, deviation: Deviation) -> None:
    agent = make(expectile=share, value_learning_rate=0.03, value_hidden_sizes=(12,))
    source = np.random.default_rng(1)
    q_values = source.normal(size=(2, 60)) * 0.5 + np.repeat([0.0, 3.0, -2.0], 20)
    agent.target_critic = TableQ(q_values)
    observation = torch.eye(3, dtype=torch.float64).repeat_interleave(20, dim=0)
    batch = double_batch(60)._replace(observation=observation)
    rate = torch.optim.lr_scheduler.ExponentialLR(agent.value_optimiser, 0.985)
    for _ in range(350):
        agent._step(agent.value_optimiser, agent.value_loss(batch)[0], agent.value)
        rate.step()
    found = array(agent.value(torch.eye(3, dtype=torch.float64)))
    smaller = q_values.min(axis=0).reshape(3, 20)
    deviation(np.abs(found - [expectile(row, share) for row in smaller]).max(), 2e-3)
    larger = q_values.max(axis=0).reshape(3, 20)
    assert np.abs(found - [expectile(row, share) for row in larger]).max() > 0.05
    if share != 0.5:
        assert np.abs(found - [expectile(row, 1 - share) for row in smaller]).max() > 0.05


@pytest.mark.proves("eq-alg-iql-value", method="loops over single transitions, NumPy")
@pytest.mark.proves("eq-metric-value-loss", method="loops over single transitions, NumPy")
@pytest.mark.proves("eq-metric-state-value", method="loops over single transitions, NumPy")
def test_value_loss_in_a_plain_loop(deviation: Deviation) -> None:
    agent, batch = make(expectile=0.8), double_batch(15)
    losses, values = [], []
    for i in range(15):
        observation, action = array(batch.observation[i]), array(batch.action[i])
        values.append(output_of(agent.value.body, observation)[0])
        slow = min(q_of(agent.target_critic, j, observation, action) for j in (0, 1))
        difference = slow - values[-1]
        losses.append((0.8 if difference > 0 else 0.2) * difference**2)
    loss, metrics = agent.value_loss(batch)
    deviation(abs(loss.item() - np.mean(losses)), 1e-12)
    assert metrics["value_loss"].item() == loss.item()
    deviation(abs(metrics["state_value"].item() - np.mean(values)), 1e-12, "eq-metric-state-value")
    fast = make(expectile=0.8)
    fast.target_critic = fast.critic
    assert abs(fast.value_loss(batch)[0].item() - loss.item()) > 1e-6


# ---- the critics --------------------------------------------------------------------------------


@pytest.mark.proves("eq-alg-iql-target", method="loops over single transitions, NumPy")
def test_target_in_a_plain_loop(deviation: Deviation) -> None:
    agent = make(reward_shift=1.0, reward_scale=0.5, discount=0.9)
    batch = double_batch(15)
    target = agent.td_target(batch)
    assert not target.requires_grad
    expected, bootstrapped = [], []
    for i in range(15):
        value = output_of(agent.value.body, array(batch.next_observation[i]))[0]
        reward = 0.5 * (float(batch.reward[i]) + 1)
        bootstrapped.append(reward + 0.9 * value)
        expected.append(reward if batch.terminated[i] else bootstrapped[-1])
    deviation(np.abs(array(target) - expected).max(), 1e-12)
    assert np.abs(array(target) - bootstrapped).max() > 1e-3


def asked_actions(agent: Any, batch: TransitionBatch) -> list[Tensor]:
    """All actions on which an update asks a critic, fast or slow."""
    asked: list[Tensor] = []
    for critic in (agent.critic, agent.target_critic):
        critic.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    agent.update(batch)
    return asked


def test_only_the_datas_actions_are_ever_valued() -> None:
    batch = double_batch()
    asked = asked_actions(make(), batch)
    assert len(asked) == 3  # value, policy, critics
    assert all(torch.equal(action, batch.action) for action in asked)
    asked = asked_actions(double_agent(SAC), batch)
    assert not all(torch.equal(action, batch.action) for action in asked)


# ---- the policy ---------------------------------------------------------------------------------


@pytest.mark.proves("eq-alg-iql-policy", method="loops over single transitions, NumPy")
@pytest.mark.proves("eq-metric-advantage-weight", method="loops over single transitions, NumPy")
def test_actor_loss_in_a_plain_loop(deviation: Deviation) -> None:
    agent, batch = make(inverse_temperature=8.0, max_weight=2.0), double_batch(15)
    agent.value.body[-1].bias.data -= 0.6  # so that some advantages are positive
    with torch.no_grad():
        log_prob = array(agent.policy(batch.observation).log_prob(batch.action))
    weights, unclipped = [], []
    for i in range(15):
        observation, action = array(batch.observation[i]), array(batch.action[i])
        slow = min(q_of(agent.target_critic, j, observation, action) for j in (0, 1))
        advantage = slow - output_of(agent.value.body, observation)[0]
        unclipped.append(math.exp(8.0 * advantage))
        weights.append(min(unclipped[-1], 2.0))
    loss, metrics = agent.actor_loss(batch)
    deviation(abs(loss.item() + np.mean(weights * log_prob)), 1e-12, "eq-alg-iql-policy")
    deviation(
        abs(metrics["advantage_weight"].item() - np.mean(weights)),
        1e-12,
        "eq-metric-advantage-weight",
    )
    assert metrics["negative_log_likelihood"].item() == pytest.approx(-log_prob.mean())
    assert max(unclipped) > 2 > min(unclipped), "the clip is at work on some"
    assert abs(loss.item() + np.mean(unclipped * log_prob)) > 1e-3


ADVANTAGES = np.array([0.3, -0.2, 0.05, 0.4, -0.5])
POSITIONS = np.array([-0.6, 0.7, 0.1, -0.2, 0.5])  # actions in half-widths from the middle


@pytest.mark.parametrize("beta", [0.0, 3.0, 20.0])
@pytest.mark.proves("eq-alg-iql-bandit", method="weighted mean and variance before the tanh")
def test_policy_of_a_bandit_in_closed_form(beta: float, deviation: Deviation) -> None:
    """One state, five actions: the best normal has the weighted mean and standard deviation."""
    agent = make(
        inverse_temperature=beta, max_weight=100.0, actor_learning_rate=0.1, policy_hidden_sizes=()
    )
    for parameter in agent.value.parameters():
        parameter.data.zero_()
    agent.target_critic = TableQ(np.stack([ADVANTAGES, ADVANTAGES + 1]))
    middle, half = (agent.low + agent.high) / 2, (agent.high - agent.low) / 2
    action = middle + half * torch.tensor(np.stack([POSITIONS, -0.5 * POSITIONS], axis=1))
    batch = double_batch(5)._replace(
        observation=torch.zeros(5, 3, dtype=torch.float64), action=action
    )
    rate = torch.optim.lr_scheduler.ExponentialLR(agent.policy_optimiser, 0.98)
    for _ in range(350):
        agent._step(agent.policy_optimiser, agent.actor_loss(batch)[0], agent.policy)
        rate.step()
    policy = agent.policy(batch.observation[0])
    found = np.concatenate([array(policy.mean), array(policy.std)])

    def best_normal(weights: np.ndarray) -> np.ndarray:
        u = np.arctanh(np.stack([POSITIONS, -0.5 * POSITIONS], axis=1))
        share = (weights / weights.sum())[:, None]
        mean = (share * u).sum(axis=0)
        return np.concatenate([mean, np.sqrt((share * (u - mean) ** 2).sum(axis=0))])

    weights = np.minimum(np.exp(beta * ADVANTAGES), 100)
    deviation(np.abs(found - best_normal(weights)).max(), 1e-3)
    if beta == 20:
        assert np.exp(beta * ADVANTAGES).max() > 100
        assert np.abs(found - best_normal(np.exp(beta * ADVANTAGES))).max() > 0.01
        assert np.abs(found - best_normal(np.exp(-beta * ADVANTAGES))).max() > 0.1


@pytest.mark.parametrize("factor", [0.125, 4.0])
@pytest.mark.proves("eq-alg-iql-units", method="rewards in another unit")
def test_beta_belongs_to_the_reward_scale(factor: float, deviation: Deviation) -> None:
    batch, advantages = double_batch(5), ADVANTAGES
    first, second = make(inverse_temperature=3.0), make(inverse_temperature=3.0 / factor)
    for agent, q_values in ((first, advantages), (second, factor * advantages)):
        for parameter in agent.value.parameters():
            parameter.data.zero_()
        agent.target_critic = TableQ(np.stack([q_values, q_values]))
    same = first.advantage_weight(batch) - second.advantage_weight(batch)
    deviation(same.abs().max(), 1e-12)
    other = make(inverse_temperature=3.0)
    other.value, other.target_critic = second.value, second.target_critic
    assert (first.advantage_weight(batch) - other.advantage_weight(batch)).abs().max() > 0.1


def test_without_beta_the_policy_is_cloned_bit_for_bit() -> None:
    spaces = Box(-1.0, 1.0, (3,)), Box(-2.0, 2.0, (2,))
    iql = IQL(*spaces, IQLSettings(inverse_temperature=0.0, actor_learning_rate=1e-3, seed=2))
    bc = BC(*spaces, BCSettings(seed=2))
    for seed in range(10):
        columns = [column.float() for column in double_batch(8, seed)]
        batch = TransitionBatch(*columns)._replace(action=columns[1].clamp(-1.9, 1.9))
        found, expected = iql.update(batch), bc.update(batch)
        assert found["negative_log_likelihood"] == expected["negative_log_likelihood"]
    for one, other in zip(iql.policy.parameters(), bc.policy.parameters(), strict=True):
        assert torch.equal(one, other)


# ---- the update ---------------------------------------------------------------------------------


def test_value_then_policy_then_critics_then_slow_critics() -> None:
    agent, twin, batch = make(), make(), double_batch()
    metrics = agent.update(batch)
    by_hand = {}
    for loss, optimiser, part in (
        (twin.value_loss, twin.value_optimiser, twin.value),
        (twin.actor_loss, twin.policy_optimiser, twin.policy),
        (twin.critic_loss, twin.critic_optimiser, twin.critic),
    ):
        value, found = loss(batch)
        by_hand |= {name: number.item() for name, number in found.items()}
        twin._step(optimiser, value, part)
    twin.update_target()
    assert metrics == by_hand
    for name, module in agent._modules().items():
        for one, other in zip(module.parameters(), twin._modules()[name].parameters(), strict=True):
            assert torch.equal(one, other), name


@pytest.mark.parametrize(
    ("loss", "part"), [("value_loss", "value"), ("actor_loss", "policy"), ("critic_loss", "critic")]
)
def test_each_loss_reaches_its_own_part_only(loss: str, part: str) -> None:
    agent, batch = make(), double_batch()
    getattr(agent, loss)(batch)[0].backward()
    for name, module in agent._modules().items():
        reached = [parameter.grad is not None for parameter in module.parameters()]
        assert all(reached) if name == part else not any(reached), name


def test_slow_critics_are_moving_averages() -> None:
    agent, batch = make(target_update_rate=0.3), double_batch()
    before = [tensor.clone() for tensor in agent.target_critic.parameters()]
    agent.update(batch)
    for old, new, fast in zip(
        before, agent.target_critic.parameters(), agent.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.7 * old + 0.3 * fast, rtol=1e-12, atol=1e-12)


def test_critic_gradient_is_that_of_the_mean_squared_errors() -> None:
    agent, batch = make(), double_batch()
    target = agent.td_target(batch)
    errors = agent.critic(batch.observation, batch.action) - target
    expected = gradient(sum(row.square().sum() / 6 for row in errors), agent.critic)
    found = gradient(agent.critic_loss(batch)[0], agent.critic)
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_an_action_outside_the_box_is_named() -> None:
    agent, batch = make(), double_batch()
    with pytest.raises(ValueError, match=r"6 action\(s\) lie outside the box"):
        agent.update(batch._replace(action=batch.action + 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"expectile": 0.0}, "expectile must lie between 0 and 1"),
        ({"expectile": 1.0}, "expectile must lie between 0 and 1"),
        ({"expectile": math.nan}, "expectile must lie between 0 and 1"),
        ({"inverse_temperature": -1.0}, "inverse_temperature must not be negative"),
        ({"max_weight": 0.0}, "max_weight must be positive"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IQLSettings(**settings)
