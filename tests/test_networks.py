"""The networks: twin critics against two ordinary ones, the policy, and seeded initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from offline_rl_lib import TanhNormal
from offline_rl_lib.networks import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    GaussianPolicy,
    TwinCritic,
    TwinLinear,
    seeded_initialisation,
)

LOW, HIGH = [-1.0, 0.0, -3.0], [1.0, 0.5, 4.0]
SIZES = [(3, 1, (8,)), (5, 3, (16, 8)), (2, 2, (4, 4, 4))]
each_size = pytest.mark.parametrize(("observations", "actions", "hidden"), SIZES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twin(observations: int, actions: int, hidden: tuple[int, ...], seed: int = 0) -> TwinCritic:
    with seeded_initialisation(seed):
        return TwinCritic(observations, actions, hidden).double()


def ordinary_critic(critic: TwinCritic, index: int) -> nn.Sequential:
    """One of the two critics as a plain network on the concatenated observation and action."""
    first = critic.from_observation
    weights = [torch.cat([first.weight[index], critic.from_action[index]])]
    biases = [first.bias[index, 0]]
    for layer in critic.layers:
        weights.append(layer.weight[index])
        biases.append(layer.bias[index, 0])
    modules: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(*weight.shape, dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight.detach().T.clone(), bias.detach().clone()
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


@each_size
def test_twin_critic_equals_two_ordinary_networks(
    observations: int, actions: int, hidden: tuple[int, ...]
) -> None:
    critic = twin(observations, actions, hidden)
    observation, action = random(7, observations), random(7, actions, seed=1)
    q_values = critic(observation, action)
    assert q_values.shape == (2, 7)
    for index in range(2):
        expected = ordinary_critic(critic, index)(torch.cat([observation, action], dim=-1))
        torch.testing.assert_close(q_values[index], expected[:, 0], rtol=0, atol=1e-12)


@each_size
def test_twin_gradients_equal_two_ordinary_networks(
    observations: int, actions: int, hidden: tuple[int, ...]
) -> None:
    critic = twin(observations, actions, hidden)
    observation, action = random(7, observations), random(7, actions, seed=1)
    critic(observation, action).square().sum().backward()
    for index in range(2):
        ordinary = ordinary_critic(critic, index)
        ordinary(torch.cat([observation, action], dim=-1)).square().sum().backward()
        layers = [layer for layer in ordinary if isinstance(layer, nn.Linear)]
        first = torch.cat(
            [critic.from_observation.weight.grad[index], critic.from_action.grad[index]]
        )
        for own, layer in zip(
            [first, *(layer.weight.grad[index] for layer in critic.layers)], layers, strict=True
        ):
            torch.testing.assert_close(own, layer.weight.grad.T, rtol=0, atol=1e-11)


@each_size
def test_many_actions_equal_many_calls(
    observations: int, actions: int, hidden: tuple[int, ...]
) -> None:
    critic = twin(observations, actions, hidden)
    observation, action = random(6, observations), random(6, 9, actions, seed=1)
    together = critic(observation, action)
    assert together.shape == (2, 6, 9)
    one_by_one = torch.stack([critic(observation, action[:, k]) for k in range(9)], dim=-1)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-12)


def test_one_action_with_its_axis_keeps_the_axis() -> None:
    critic = twin(3, 2, (8,))
    assert critic(random(4, 3), random(4, 1, 2)).shape == (2, 4, 1)
    assert critic(random(1, 3), random(1, 2)).shape == (2, 1)


def test_the_two_critics_start_different() -> None:
    critic = twin(3, 2, (8, 8))
    for name, parameter in critic.named_parameters():
        assert not torch.equal(parameter[0], parameter[1]), name
    q_values = critic(random(20, 3), random(20, 2))
    assert (q_values[0] - q_values[1]).abs().min() > 0


def test_initial_weights_have_the_range_of_an_ordinary_layer() -> None:
    critic = twin(60, 40, (500,))
    joined = torch.cat([critic.from_observation.weight, critic.from_action], dim=1)
    bound = 1 / math.sqrt(100)  # of a layer that sees observation and action together
    for weights in (critic.from_observation.weight, critic.from_action, joined):
        assert weights.abs().max() <= bound
        assert weights.abs().max() > 0.99 * bound
        assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert critic.layers[0].weight.abs().max() <= 1 / math.sqrt(500)


def test_twin_linear_applies_a_layer_of_its_own_to_each_half() -> None:
    layer = TwinLinear(3, 5).double()
    shared, separate = random(4, 3), random(2, 4, 3, seed=1)
    for index in range(2):
        weight, bias = layer.weight[index].T, layer.bias[index, 0]
        torch.testing.assert_close(layer(shared)[index], nn.functional.linear(shared, weight, bias))
        torch.testing.assert_close(
            layer(separate)[index], nn.functional.linear(separate[index], weight, bias)
        )


def test_a_critic_without_hidden_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one hidden layer"):
        TwinCritic(3, 1, ())


def test_seeded_initialisation_repeats_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = twin(3, 1, (8,)), twin(3, 1, (8,)), twin(3, 1, (8,), seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_policy_is_a_tanh_normal_on_the_box() -> None:
    policy = GaussianPolicy(4, LOW, HIGH, (16, 16))
    observation = random(10, 4).float()
    distribution = policy(observation)
    assert isinstance(distribution, TanhNormal)
    output = policy.mean_and_log_std(policy.body(observation))
    assert torch.equal(distribution.mean, output[:, :3])
    assert torch.equal(distribution.std, output[:, 3:].clamp(LOG_STD_MIN, LOG_STD_MAX).exp())
    assert torch.equal(distribution.low, torch.tensor(LOW))
    assert torch.equal(distribution.high, torch.tensor(HIGH))
    for single in (policy(observation[0]).mode, distribution.mode[0]):
        torch.testing.assert_close(single, policy(observation[:1]).mode[0])


def test_policy_keeps_its_spread_in_range_for_any_input() -> None:
    policy = GaussianPolicy(4, LOW, HIGH, (16,))
    distribution = policy(1e6 * random(50, 4).float())
    assert distribution.std.min() >= math.exp(LOG_STD_MIN) * (1 - 1e-6)
    assert distribution.std.max() <= math.exp(LOG_STD_MAX) * (1 + 1e-6)
    assert (distribution.std == distribution.std.min()).any(), "the clamp was not reached"
    action, log_prob = distribution.rsample_with_log_prob((3,))
    assert torch.isfinite(action).all()
    assert torch.isfinite(log_prob).all()
    assert ((action >= distribution.low) & (action <= distribution.high)).all()


def test_policy_carries_its_box_in_its_state() -> None:
    state = GaussianPolicy(4, LOW, HIGH, (16,)).state_dict()
    assert torch.equal(state["low"], torch.tensor(LOW))
    assert torch.equal(state["high"], torch.tensor(HIGH))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([-1.0, 0.0], [math.inf, 1.0], "finite bounds"),
        ([1.0, 0.0], [-1.0, 1.0], "below its upper bound"),
        ([-1.0, 0.0], [1.0], "shape"),
    ],
)
def test_policy_refuses_an_impossible_box(
    low: list[float], high: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianPolicy(4, low, high, (16,))
