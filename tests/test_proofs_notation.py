"""Proofs of the conventions on the page "Notation and conventions"."""

from __future__ import annotations

import math
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from offline_rl_lib import CQL, SAC, CQLSettings, TanhNormal, log_mean_exp_q, uniform_log_density
from offline_rl_lib.data import TransitionBatch

Deviation = Callable[..., None]
BOXES = [([-2.0], [2.0]), ([0.0], [5.0]), ([-1.0, 0.5, -3.0], [1.0, 2.0, 4.0])]


def policies(low: list[float], high: list[float]) -> tuple[TanhNormal, TanhNormal]:
    """The same policy on a box and on [-1, 1]^d."""
    size = len(low)
    mean = torch.linspace(-0.4, 0.8, size, dtype=torch.float64)
    std = torch.linspace(0.5, 0.9, size, dtype=torch.float64)
    ones = torch.ones(size, dtype=torch.float64)
    return (
        TanhNormal(mean, std, torch.tensor(low).double(), torch.tensor(high).double()),
        TanhNormal(mean, std, -ones, ones),
    )


@pytest.mark.proves("eq-notation-units", method="slope of the distribution function")
@pytest.mark.parametrize(("low", "high"), BOXES)
def test_change_of_units(low: list[float], high: list[float], deviation: Deviation) -> None:
    boxed, unit = policies(low, high)
    mid, half = (boxed.low + boxed.high) / 2, (boxed.high - boxed.low) / 2
    y = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)[:, None].expand(-1, len(low))
    shifted = unit.log_prob(y) - half.log().sum()
    deviation((boxed.log_prob(mid + half * y) - shifted).abs().max(), 1e-10)

    def probability_below(action: np.ndarray) -> np.ndarray:
        before = np.arctanh((action - mid.numpy()) / half.numpy())
        return special.ndtr((before - boxed.mean.numpy()) / boxed.std.numpy())

    # Differences of the distribution function know nothing of densities or their Jacobians.
    action, width = (mid + half * y).numpy(), 1e-5
    slope = (probability_below(action + width) - probability_below(action - width)) / (2 * width)
    deviation(np.abs(np.log(slope).sum(axis=-1) - shifted.numpy()).max(), 1e-6)
    assert np.abs(np.log(slope).sum(axis=-1) - unit.log_prob(y).numpy()).max() > 1e-2


@pytest.mark.proves("eq-notation-estimate", method="adaptive quadrature")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_estimate_of_the_soft_maximum(temperature: float, deviation: Deviation) -> None:
    def q(action: torch.Tensor) -> torch.Tensor:
        return 3 * torch.sin(2 * action) - 0.8 * (action - 0.5) ** 2

    integral, _ = integrate.quad(
        lambda a: math.exp(q(torch.tensor(a, dtype=torch.float64)).item() / temperature), -2, 2
    )
    exact = temperature * math.log(integral)
    number, generator = 200_000, torch.Generator().manual_seed(0)
    low, high = torch.tensor([-2.0]).double(), torch.tensor([2.0]).double()
    draws = 4 * torch.rand(number, dtype=torch.float64, generator=generator) - 2
    policy = TanhNormal(torch.tensor([0.3]).double(), torch.tensor([0.8]).double(), low, high)
    more, log_prob = policy.rsample_with_log_prob((number,), generator)
    actions = torch.cat([draws, more[:, 0]])
    log_density = torch.cat([uniform_log_density(low, high).expand(number), log_prob])
    estimate = log_mean_exp_q(q(actions), log_density, temperature)
    deviation(abs(estimate.item() - exact), 0.05)
    with_log_n = estimate + temperature * math.log(2 * number)
    assert abs(with_log_n.item() - exact) > 0.05
    if temperature != 1:
        divided = log_mean_exp_q(q(actions), log_density / temperature, temperature)
        assert abs(divided.item() - exact) > 0.05


@pytest.mark.proves("eq-notation-loss-weight", method="the library's gradient, the paper by hand")
@pytest.mark.parametrize("paper_weight", [0.1, 1.0, 2.5])
def test_weight_is_twice_the_papers(paper_weight: float, deviation: Deviation) -> None:
    """The library's critic loss at w = 2 alpha against the paper's, written state by state."""
    box = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    agent = CQL(box, box, CQLSettings(penalty_weight=2 * paper_weight, num_proposals=2))
    for module in (agent.critic, agent.target_critic, agent.policy):
        module.double()
    random = torch.Generator().manual_seed(0)
    state, action, reward, then = torch.randn((4, 6, 1), generator=random).double()
    going_on = torch.zeros(6, dtype=torch.bool)
    batch = TransitionBatch(state, action.clamp(-2, 2), reward[:, 0], then, going_on)
    weights = list(agent.critic.parameters())
    before = agent.generator.get_state()

    def flat(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])

    def papers(weight: float) -> torch.Tensor:
        agent.generator.set_state(before)
        target, (proposals, log_densities) = agent.td_target(batch), agent.proposals(batch)
        loss = torch.zeros(())
        for s, a, y, a_i, log_mu in zip(
            batch.observation, batch.action, target, proposals, log_densities, strict=True
        ):
            q = agent.critic(s[None], a[None])[:, 0]
            q_i = agent.critic(s.expand(len(a_i), -1), a_i)
            soft_maximum = torch.log((torch.exp(q_i) / torch.exp(log_mu)).mean(dim=1))
            loss = loss + (0.5 * (q - y) ** 2 + weight * (soft_maximum - q)).sum() / 6
        return flat(loss)

    ours = flat(agent.critic_loss(batch)[0])
    deviation((ours - 2 * papers(paper_weight)).abs().max(), 1e-9)
    assert (ours - 2 * papers(2 * paper_weight)).abs().max() > 1e-2  # the weight not translated
    assert (ours - papers(paper_weight)).abs().max() > 1e-2


@pytest.mark.proves("eq-notation-target-entropy", method="adaptive quadrature of -p log p, scipy")
@pytest.mark.parametrize(("low", "high"), BOXES)
def test_target_entropy_follows_the_units(
    low: list[float], high: list[float], deviation: Deviation
) -> None:
    observations = gym.spaces.Box(-1, 1, (3,))
    box = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    unit = gym.spaces.Box(-1, 1, (len(low),))
    surplus = SAC(observations, box).target_entropy - SAC(observations, unit).target_entropy
    assert SAC(observations, unit).target_entropy == -len(low)

    def entropy(mean: float, std: float, bottom: float, top: float) -> float:
        """Of one dimension of a squashed normal; its density is a slope of its distribution."""
        mid, half = (bottom + top) / 2, (top - bottom) / 2

        def minus_p_log_p(action: float) -> float:
            y = (action - mid) / half
            p = stats.norm.pdf(math.atanh(y), mean, std) / (half * (1 - y * y))
            return -p * math.log(p) if p > 0 else 0.0

        inset = 1e-12 * half  # atanh is infinite on the bounds, where the density is zero
        return integrate.quad(minus_p_log_p, bottom + inset, top - inset, limit=200)[0]

    boxed, _ = policies(low, high)
    shapes = list(zip(boxed.mean.tolist(), boxed.std.tolist(), strict=True))
    edges = list(zip(low, high, strict=True))
    in_box = sum(entropy(*s, *e) for s, e in zip(shapes, edges, strict=True))
    in_unit_box = sum(entropy(*s, -1.0, 1.0) for s in shapes)
    deviation(abs(surplus - (in_box - in_unit_box)), 1e-5)
    widths = sum(math.log(top - bottom) for bottom, top in edges)
    assert abs(widths - (in_box - in_unit_box)) > 1e-2  # the whole width in place of the half
