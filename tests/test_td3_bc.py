"""TD3+BC: target, smoothing, normalised actor loss and delay, each against its own calculation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from in_double import HALF, HIGH, LOW, array, double_agent, double_batch, gradient, output_of, q_of
from scipy import optimize, stats
from torch import Tensor, nn

from offline_rl_lib import SAC, TD3BC, SACSettings, TD3BCSettings
from offline_rl_lib.data import TransitionBatch

Deviation = Callable[..., None]

# So much noise that every clip matters.
NOISY: dict[str, Any] = {
    "target_noise": 0.8,
    "target_noise_clip": 0.5,
    "reward_shift": 1.0,
    "reward_scale": 0.5,
    "discount": 0.9,
}


def make(**settings: Any) -> Any:
    return double_agent(TD3BC, **settings)


def next_noise(agent: TD3BC, size: int) -> np.ndarray:
    """The standard normal numbers that the agent draws next, without drawing them."""
    source = torch.Generator()
    source.set_state(agent.generator.get_state())
    return torch.randn(size, 2, dtype=torch.float64, generator=source).numpy()


def policy_loop(policy: Any, observation: np.ndarray) -> np.ndarray:
    return (LOW + HIGH) / 2 + HALF * np.tanh(output_of(policy.body, observation))


# ---- the target ---------------------------------------------------------------------------------


def target_loop(agent: TD3BC, batch: TransitionBatch, noise: np.ndarray, wrong: str = "") -> Any:
    """The target of each transition, or a wrong version of it."""
    settings, targets = agent.settings, []
    policy = agent.policy if wrong == "fast policy" else agent.target_policy
    critic = agent.critic if wrong == "fast critics" else agent.target_critic
    for i in range(len(batch.reward)):
        observation = array(batch.next_observation[i])
        step = settings.target_noise * noise[i]
        if wrong != "noise not clipped":
            step = np.minimum(np.maximum(step, -0.5), 0.5)
        if wrong != "noise in the environment's units":
            step = step * HALF
        if wrong == "no smoothing":
            step = 0 * step
        action = policy_loop(policy, observation) + step
        if wrong != "action not clipped":
            action = np.minimum(np.maximum(action, LOW), HIGH)
        q_values = [q_of(critic, j, observation, action) for j in (0, 1)]
        value = max(q_values) if wrong == "larger of the two" else min(q_values)
        reward = (float(batch.reward[i]) + 1.0) * 0.5
        going_on = 1.0 if wrong == "termination ignored" else 1.0 - float(batch.terminated[i])
        targets.append(reward + 0.9 * going_on * value)
    return np.array(targets)


@pytest.mark.proves("eq-alg-td3-target", method="loops over single transitions, NumPy")
def test_target_in_a_plain_loop(deviation: Deviation) -> None:
    agent, batch = make(**NOISY), double_batch(20)
    for policy in (agent.policy, agent.target_policy):  # near the edges, so that noise leaves
        policy.body[-1].bias.data += torch.tensor([1.2, -1.2])
    noise = next_noise(agent, 20)
    target = agent.td_target(batch)
    assert not target.requires_grad
    deviation(np.abs(array(target) - target_loop(agent, batch, noise)).max(), 1e-12)
    for wrong in (
        "noise not clipped",
        "noise in the environment's units",
        "no smoothing",
        "action not clipped",
        "larger of the two",
        "fast policy",
        "fast critics",
        "termination ignored",
    ):
        missed = np.abs(array(target) - target_loop(agent, batch, noise, wrong)).max()
        assert missed > 1e-4, wrong


def test_termination_ends_the_bootstrap_and_truncation_does_not() -> None:
    """Reward 1 for ever is worth 1 / (1 - 0.99) = 100; reward 1 and then nothing is worth 1."""
    agent, batch = make(discount=0.99), double_batch()
    for parameter in agent.target_critic.parameters():
        parameter.data.zero_()
    agent.target_critic.layers[-1].bias.data.fill_(100.0)
    target = agent.td_target(batch._replace(reward=torch.ones(6, dtype=torch.float64)))
    expected = torch.where(batch.terminated, 1.0, 100.0).double()
    torch.testing.assert_close(target, expected)


def test_noise_is_clipped_and_stays_in_the_box() -> None:
    agent = make()  # the paper's noise: deviation 0.2, clipped at 0.5, in half-widths
    for parameter in agent.target_policy.parameters():
        parameter.data.zero_()  # the middle of the box, from where no noise can leave it
    observation = torch.zeros(40_000, 3, dtype=torch.float64)
    offset = (array(agent.smoothed_action(observation)) - (LOW + HIGH) / 2) / HALF
    assert np.abs(offset).max() == pytest.approx(0.5, abs=1e-12)
    at_the_clip = (np.abs(offset) > 0.5 - 1e-9).mean(axis=0)
    np.testing.assert_allclose(at_the_clip, 2 * stats.norm.cdf(-2.5), atol=2e-3)
    np.testing.assert_allclose(np.quantile(offset, stats.norm.cdf(1), axis=0), 0.2, atol=4e-3)
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.02, "each dimension has noise of its own"
    agent.target_policy.body[-1].bias.data.fill_(3.0)  # near the upper edge
    action = array(agent.smoothed_action(observation))
    assert (action <= HIGH).all()
    assert (action == HIGH).mean() > 0.3, "the box cuts the noise here"


# ---- the policy ---------------------------------------------------------------------------------


def actor_loss_loop(agent: TD3BC, batch: TransitionBatch) -> tuple[float, float, float]:
    """Loss, mean Q of the policy's actions and mean squared distance, one number at a time."""
    q_values, distances = [], []
    for i in range(len(batch.reward)):
        observation = array(batch.observation[i])
        action = policy_loop(agent.policy, observation)
        q_values.append(q_of(agent.critic, 0, observation, action))
        distances += [((action[d] - float(batch.action[i, d])) / HALF[d]) ** 2 for d in (0, 1)]
    weight = agent.settings.q_weight / np.mean(np.abs(q_values))
    distance = float(np.mean(distances))
    return distance - weight * float(np.mean(q_values)), float(np.mean(q_values)), distance


@pytest.mark.proves("eq-alg-td3-actor", method="loops over single transitions, NumPy")
@pytest.mark.proves("eq-metric-policy-q", method="loops over single transitions, NumPy")
@pytest.mark.proves("eq-metric-data-distance", method="loops over single transitions, NumPy")
def test_actor_loss_in_a_plain_loop(deviation: Deviation) -> None:
    agent, batch = make(q_weight=0.7), double_batch(20)
    loss, metrics = agent.actor_loss(batch)
    expected, policy_q, distance = actor_loss_loop(agent, batch)
    deviation(abs(loss.item() - expected), 1e-12, "eq-alg-td3-actor")
    deviation(abs(metrics["policy_q"].item() - policy_q), 1e-12, "eq-metric-policy-q")
    deviation(abs(metrics["data_distance"].item() - distance), 1e-12, "eq-metric-data-distance")
    action = agent.policy(batch.observation).mode
    in_units = (action - batch.action).square().mean()
    assert abs(metrics["data_distance"].item() - in_units.item()) > 0.01
    smaller = agent.critic(batch.observation, action).amin(dim=0).mean()
    assert abs(policy_q - smaller.item()) > 1e-4, "the first critic, not the smaller"


@pytest.mark.proves("eq-alg-td3-actor", method="central differences with the scale held fixed")
def test_gradient_against_finite_differences(deviation: Deviation) -> None:
    agent, batch = make(q_weight=2.5), double_batch(20)
    with torch.no_grad():
        found_q = agent.critic(batch.observation, agent.policy(batch.observation).mode)[0]
    fixed_scale = found_q.abs().mean().item()

    def loss(scale: float | None) -> float:
        _, policy_q, distance = actor_loss_loop(agent, batch)
        if scale is None:  # the scale moves with the policy: a gradient flows through it
            with torch.no_grad():
                moved = agent.critic(batch.observation, agent.policy(batch.observation).mode)[0]
            scale = moved.abs().mean().item()
        return distance - 2.5 * policy_q / scale

    def differences(scale: float | None) -> np.ndarray:
        slopes = []
        for parameter in agent.policy.parameters():
            flat = parameter.data.view(-1)
            for place in range(0, len(flat), 5):
                values = []
                for move in (1e-5, -2e-5):
                    flat[place] += move
                    values.append(loss(scale))
                flat[place] += 1e-5
                slopes.append((values[0] - values[1]) / 2e-5)
        return np.array(slopes)

    exact = np.concatenate(
        [
            array(part).ravel()[::5]
            for part in torch.autograd.grad(
                agent.actor_loss(batch)[0], list(agent.policy.parameters())
            )
        ]
    )
    deviation(np.abs(exact - differences(fixed_scale)).max(), 1e-7)
    assert np.abs(exact - differences(None)).max() > 1e-3


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e4])
@pytest.mark.proves("eq-alg-td3-scale", method="critics multiplied by a number")
def test_the_scale_of_q_does_not_matter(factor: float, deviation: Deviation) -> None:
    agent, batch = make(), double_batch(20)
    loss, metrics = agent.actor_loss(batch)
    before = gradient(loss, agent.policy)
    last = agent.critic.layers[-1]
    last.weight.data *= factor
    last.bias.data *= factor
    scaled_loss, scaled_metrics = agent.actor_loss(batch)
    assert scaled_metrics["policy_q"].item() == pytest.approx(factor * metrics["policy_q"].item())
    after = gradient(scaled_loss, agent.policy)
    deviation(np.abs(after - before).max() / np.abs(before).max(), 1e-10)


def test_a_critic_that_is_zero_leaves_cloning() -> None:
    agent, batch = make(), double_batch(20)
    for parameter in agent.critic.parameters():
        parameter.data.zero_()
    loss, metrics = agent.actor_loss(batch)
    assert loss.item() == metrics["data_distance"].item()


class LinearQ(nn.Module):
    """Both critics are 3 + 2 y, y the first action in half-widths from the middle of the box."""

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        y = (action[..., 0] - float(LOW[0] + HIGH[0]) / 2) / float(HALF[0])
        return (3 + 2 * y).expand(2, *y.shape)


@pytest.mark.parametrize("q_weight", [0.0, 0.3, 0.6])
@pytest.mark.proves("eq-alg-td3-optimum", method="root of the stationarity condition, SciPy")
def test_where_the_policy_comes_to_rest(q_weight: float, deviation: Deviation) -> None:
    agent = make(q_weight=q_weight, actor_learning_rate=0.03)
    agent.critic = LinearQ()
    middle = torch.tensor((LOW + HIGH) / 2)
    batch = double_batch(4)._replace(
        observation=torch.zeros(4, 3, dtype=torch.float64), action=middle.expand(4, 2)
    )
    for _ in range(300):
        agent._step(agent.policy_optimiser, agent.actor_loss(batch)[0], agent.policy)
    found = (array(agent.policy(batch.observation[0]).mode) - middle.numpy()) / HALF
    # The distance is a mean over two dimensions, so its slope in y is 2 y / 2.
    expected = optimize.brentq(lambda y: y - q_weight * 2 / (3 + 2 * y), 0, 1)
    deviation(np.abs(found - [expected, 0]).max(), 1e-4)


# ---- the update ---------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_policy_and_slow_copies_move_every_so_many_updates(delay: int) -> None:
    agent, batch = make(policy_delay=delay), double_batch()
    for update in range(1, 7):
        before = {
            name: [tensor.clone() for tensor in module.parameters()]
            for name, module in agent._modules().items()
        }
        metrics = agent.update(batch)
        assert list(metrics) == ["td_loss", "data_q", "policy_q", "data_distance"]
        moved = {
            name: not all(
                torch.equal(old, new)
                for old, new in zip(before[name], module.parameters(), strict=True)
            )
            for name, module in agent._modules().items()
        }
        on = update % delay == 0
        expected = {"policy": on, "critic": True, "target_critic": on, "target_policy": on}
        assert moved == expected, update


def test_slow_copies_are_moving_averages() -> None:
    agent, batch = make(policy_delay=1, target_update_rate=0.3), double_batch()
    names = ("policy", "critic")
    before = {
        name: [tensor.clone() for tensor in agent._modules()[f"target_{name}"].parameters()]
        for name in names
    }
    agent.update(batch)
    for name in names:
        modules = agent._modules()
        for old, new, fast in zip(
            before[name],
            modules[f"target_{name}"].parameters(),
            modules[name].parameters(),
            strict=True,
        ):
            torch.testing.assert_close(new, 0.7 * old + 0.3 * fast, rtol=1e-12, atol=1e-12)
            assert not new.requires_grad


def test_each_loss_reaches_its_own_part() -> None:
    agent, twin, batch = make(policy_delay=1), make(policy_delay=1), double_batch()
    critic_gradient = gradient(twin.critic_loss(batch)[0], twin.critic)
    agent.update(batch)
    found = np.concatenate([array(part.grad).ravel() for part in agent.critic.parameters()])
    np.testing.assert_array_equal(found, critic_gradient)
    # The policy's step comes after the critics'.
    twin.critic.load_state_dict(agent.critic.state_dict())
    found = np.concatenate([array(part.grad).ravel() for part in agent.policy.parameters()])
    np.testing.assert_array_equal(found, gradient(twin.actor_loss(batch)[0], twin.policy))
    for slow in (agent.target_critic, agent.target_policy):
        assert all(parameter.grad is None for parameter in slow.parameters())


def test_agents_of_one_seed_start_from_the_same_critics() -> None:
    spaces = Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (2,))
    first, second = TD3BC(*spaces, TD3BCSettings(seed=4)), SAC(*spaces, SACSettings(seed=4))
    for one, other in zip(first.critic.parameters(), second.critic.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_deterministic_policy_has_one_action() -> None:
    agent = make()
    agent.policy.float()
    observation = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    state = agent.generator.get_state()
    action = agent.act(observation)
    np.testing.assert_array_equal(action, agent.act(observation, deterministic=False))
    assert torch.equal(agent.generator.get_state(), state), "no random number is used"
    expected = [policy_loop(agent.policy, row) for row in observation]
    np.testing.assert_allclose(action, expected, atol=1e-6)
    assert agent.policy(torch.tensor(observation)).sample((7,)).shape == (7, 5, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"q_weight": -1.0}, "q_weight must not be negative"),
        ({"q_weight": math.nan}, "q_weight must not be negative"),
        ({"target_noise": -0.1}, "target_noise must not be negative"),
        ({"target_noise_clip": -0.1}, "target_noise_clip must not be negative"),
        ({"policy_delay": 0}, "policy_delay must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TD3BCSettings(**settings)
