"""Proofs of the chapter on the actor step, and tests of its exercise checkers.

The truth is an integral over torques by adaptive quadrature, with densities from scipy: it shares
no code with the library and no derivation with the chapter. Wrong versions fail the same checks.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

from offline_rl_lib import CQL, SAC, TanhNormal
from offline_rl_lib.agent import Agent
from offline_rl_lib.data import OfflineDataset, TransitionBatch, load_dataset
from offline_rl_lib.experiments import PENDULUM_CQL
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Curve = Callable[[Any], Any]

SETTINGS = replace(PENDULUM_CQL, penalty_weight=0.25)
GRID = [(-1.0, 0.2), (0.4, 0.5), (0.9, 1.1)]
BOXES = [(-2.0, 2.0), (0.0, 5.0)]
NOISE = np.linspace(-8, 8, 4001)
WEIGHT = stats.norm.pdf(NOISE) * 0.004


def q_value(a: Any) -> Any:
    return 2 - (a - 0.8) ** 2


def q_slope(a: Any) -> Any:
    return -2 * (a - 0.8)


def density(a: float, mean: float, std: float, low: float = -2.0, high: float = 2.0) -> float:
    """Of a squashed normal, as the derivative of its distribution function."""
    mid, half = (low + high) / 2, (high - low) / 2
    y = (a - mid) / half
    return stats.norm.pdf(math.atanh(y), mean, std) / (half * (1 - y * y))


def loss_by_quadrature(
    mean: float, std: float, alpha: float, q: Curve, box: tuple[float, float] = (-2.0, 2.0)
) -> float:
    """Integral over actions of p (alpha log p - q)."""

    def integrand(a: float) -> float:
        p = density(a, mean, std, *box)
        return p * (alpha * math.log(p) - q(a)) if p > 1e-300 else 0.0

    low, high = box
    middle = (low + high) / 2 + (high - low) / 2 * math.tanh(mean)
    points = [middle, 0.9 * middle + 0.1 * low, 0.9 * middle + 0.1 * high]
    return integrate.quad(
        integrand, low + 1e-12, high - 1e-12, points=points, limit=300, epsabs=1e-10
    )[0]


def gradient_by_differences(loss: Callable[[float, float], float], mean: float, std: float) -> Any:
    step = 1e-4  # quadrature is good to 1e-10, so the quotient is to 1e-6
    by_mean = (loss(mean + step, std) - loss(mean - step, std)) / (2 * step)
    by_std = (loss(mean, std + step) - loss(mean, std - step)) / (2 * step)
    return np.array([by_mean, by_std])


def policy(mean: float, std: float, box: tuple[float, float] = (-2.0, 2.0)) -> TanhNormal:
    tensors = torch.tensor([[mean], [std]], dtype=torch.float64)
    return TanhNormal(tensors[0], tensors[1], [box[0]], [box[1]])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------- the loss


@pytest.mark.proves("eq-actor-loss", method="the library's loss against adaptive quadrature")
def test_the_librarys_loss_averages_to_the_integral(deviation: Deviation) -> None:
    """One state, repeated 40,000 times, with two formulas in place of the twin critics."""
    agent = SAC(*spaces(), replace(SAC.settings_class(), initial_temperature=0.3))
    lower = lambda a: np.minimum(q_value(a), 1.9 - 0.4 * a * a)  # noqa: E731

    class Twins(torch.nn.Module):
        def forward(self, observation: Tensor, action: Tensor) -> Tensor:
            a = action[:, 0]
            return torch.stack([q_value(a), 1.9 - 0.4 * a * a])

    agent.critic = Twins()  # type: ignore[assignment]
    state = torch.tensor([[0.3, -0.2, 0.5]])
    batch = blank_batch(state.expand(40_000, 3))
    loss, log_prob = agent.actor_loss(batch)
    one = agent.policy(state)
    truth = loss_by_quadrature(one.mean.item(), one.std.item(), 0.3, lower)
    deviation(abs(loss.item() - truth), 0.05)
    assert log_prob.shape == (40_000,)
    for wrong in (
        lambda a: np.maximum(q_value(a), 1.9 - 0.4 * a * a),
        lambda a: (q_value(a) + 1.9 - 0.4 * a * a) / 2,
    ):
        other = loss_by_quadrature(one.mean.item(), one.std.item(), 0.3, wrong)
        assert abs(loss.item() - other) > 0.1


@pytest.mark.proves("eq-actor-kl", method="three adaptive quadratures")
@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("mean", "std"), GRID)
def test_the_loss_is_a_divergence(
    mean: float, std: float, alpha: float, deviation: Deviation
) -> None:
    loss = loss_by_quadrature(mean, std, alpha, q_value)
    soft = alpha * math.log(integrate.quad(lambda a: math.exp(q_value(a) / alpha), -2, 2)[0])

    def divergence_term(a: float) -> float:
        p = density(a, mean, std)
        return p * (math.log(p) - (q_value(a) - soft) / alpha) if p > 1e-300 else 0.0

    middle = 2 * math.tanh(mean)
    edges = (-2 + 1e-12, 2 - 1e-12)
    divergence = integrate.quad(divergence_term, *edges, points=[middle], limit=300)[0]
    deviation(abs(loss - (alpha * divergence - soft)), 1e-6)
    assert abs(loss - (divergence - soft)) > 1e-2  # alpha in front of the divergence forgotten
    by_library = policy(mean, std).log_prob(torch.tensor([[middle]], dtype=torch.float64))
    assert by_library.item() == pytest.approx(math.log(density(middle, mean, std)), abs=1e-9)


@pytest.mark.proves("claim-actor-bound", method="300 random policies on 10 random critics")
def test_no_policy_beats_the_soft_maximum(deviation: Deviation) -> None:
    random = np.random.default_rng(0)
    grid = (np.arange(4000) + 0.5) / 1000 - 2
    below, strict, closest, beyond = 0.0, 0.0, 0.0, 0
    for _ in range(10):
        a, b, c = random.normal(size=3) * 2
        q = a * grid + b * np.sin(3 * grid + c)
        alpha = random.uniform(0.1, 2)
        peak = q.max()
        soft = peak + alpha * math.log(np.exp((q - peak) / alpha).sum() / 1000)
        best = np.exp((q - soft) / alpha)
        closest = max(closest, abs(best @ (alpha * np.log(best) - q) / 1000 + soft))
        for _ in range(30):
            p = np.exp(random.normal() * grid + random.normal() * np.cos(random.normal() * grid))
            p /= p.sum() / 1000
            loss = p @ (alpha * np.log(p) - q) / 1000
            below = max(below, -soft - loss)
            # Only the best density attains it (Pinsker): every other one is off by a margin.
            apart = np.abs(p - best).sum() / 1000
            strict = max(strict, -soft + alpha / 2 * apart**2 - loss)
            beyond += loss < -peak  # the plain maximum is no bound: the entropy adds to it
    deviation(max(below, 0.0), 1e-12)
    deviation(max(strict, 0.0), 1e-12)
    deviation(closest, 1e-12)
    assert beyond > 0


# ----------------------------------------------------------------------------- the gradients


def pathwise(mean: float, std: float, alpha: float, slope: Curve, box: Any) -> np.ndarray:
    """The chapter's formula, averaged over noise without random numbers."""
    mid, half = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
    squashed = np.tanh(mean + std * NOISE)
    climb = slope(mid + half * squashed) * half * (1 - squashed**2)
    by_mean = 2 * alpha * squashed - climb
    return np.array([WEIGHT @ by_mean, WEIGHT @ (NOISE * by_mean - alpha / std)])


@pytest.mark.proves("eq-actor-pathwise", method="finite differences of adaptive quadrature")
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("alpha", [0.05, 0.7])
@pytest.mark.parametrize(("mean", "std"), GRID)
def test_the_pathwise_gradient(
    mean: float, std: float, alpha: float, box: tuple[float, float], deviation: Deviation
) -> None:
    truth = gradient_by_differences(
        lambda m, s: loss_by_quadrature(m, s, alpha, q_value, box), mean, std
    )
    tolerance = 1e-4
    right = pathwise(mean, std, alpha, q_slope, box)
    deviation(np.abs(right - truth).max(), tolerance)
    wrong = {
        "scale of the box forgotten": pathwise(mean, std, alpha, lambda a: q_slope(a) / 2, box),
        "alpha / std forgotten": right + np.array([0, alpha / std]),
        "entropy forgotten": pathwise(mean, std, 0.0, q_slope, box),
        "constant action": np.zeros(2),
    }
    for name, value in wrong.items():
        assert np.abs(value - truth).max() > 10 * tolerance, name


@pytest.mark.proves("eq-actor-pathwise", method="automatic differentiation through the library")
@pytest.mark.parametrize("box", BOXES)
def test_each_draw_has_the_gradient_of_the_formula(
    box: tuple[float, float], deviation: Deviation
) -> None:
    alpha, half = 0.3, (box[1] - box[0]) / 2
    mean = torch.linspace(-1, 1, 50).double()[:, None].requires_grad_()
    std = torch.linspace(0.1, 1.5, 50).double()[:, None].requires_grad_()
    action, log_prob = TanhNormal(mean, std, [box[0]], [box[1]]).rsample_with_log_prob(
        (), seeded(0)
    )
    (alpha * log_prob - q_value(action[:, 0])).sum().backward()
    noise = torch.randn((50, 1), dtype=torch.float64, generator=seeded(0))
    squashed = torch.tanh(mean + std * noise).detach()
    flat = 1 - squashed**2
    by_mean = 2 * alpha * squashed - q_slope(action.detach()) * half * flat
    deviation((mean.grad - by_mean).abs().max(), 1e-10)
    deviation((std.grad - (noise * by_mean - alpha / std.detach())).abs().max(), 1e-10)


@pytest.mark.proves("eq-actor-score", method="finite differences of adaptive quadrature")
@pytest.mark.parametrize("baseline", [0.0, 40.0])
@pytest.mark.parametrize(("mean", "std"), GRID)
def test_the_score_function_gradient(
    mean: float, std: float, baseline: float, deviation: Deviation
) -> None:
    alpha = 0.3
    truth = gradient_by_differences(
        lambda m, s: loss_by_quadrature(m, s, alpha, q_value), mean, std
    )
    squashed = np.tanh(mean + std * NOISE)
    log_pi = stats.norm.logpdf(NOISE) - math.log(2 * std) - np.log1p(-(squashed**2))
    value = WEIGHT * (alpha * log_pi - q_value(2 * squashed) - baseline)
    scores = np.array([NOISE / std, (NOISE**2 - 1) / std])
    deviation(np.abs(scores @ value - truth).max(), 1e-4)
    by_second = np.array([NOISE / std, NOISE**2 / std])  # the normalisation of the normal forgotten
    assert np.abs(by_second @ value - truth).max() > 1e-2


def spreads(mean: float, std: float, q: Curve) -> tuple[float, float]:
    """Standard deviation per draw by the mean: pathwise, score function with baseline."""
    alpha, generator = 0.2, seeded(1)
    values = torch.tensor([[mean], [std]], dtype=torch.float64).expand(2, 200_000)[..., None]
    means = values[0].clone().requires_grad_()
    action, log_prob = TanhNormal(means, values[1], [-2.0], [2.0]).rsample_with_log_prob(
        (), generator
    )
    loss = alpha * log_prob - q(action[:, 0])
    (path,) = torch.autograd.grad(loss.sum(), means)
    fixed = action.detach().clamp(-1.99999, 1.99999)
    log_pi = TanhNormal(means, values[1], [-2.0], [2.0]).log_prob(fixed)
    (scores,) = torch.autograd.grad(log_pi.sum(), means)
    centred = (loss - loss.mean()).detach()
    return path.std().item(), (centred * scores[:, 0]).std().item()


@pytest.mark.proves("claim-actor-spread", method="200,000 draws by automatic differentiation")
def test_slopes_help_narrow_policies_on_smooth_critics(deviation: Deviation) -> None:
    path, score = spreads(-0.3, 0.1, q_value)
    deviation(path / score, 0.1)
    path, score = spreads(-0.3, 0.8, q_value)
    deviation(path / score, 1.0)
    rippled = lambda a: q_value(a) + 0.2 * torch.sin(15 * a)  # noqa: E731
    for wide, q in ((0.8, rippled), (1.5, q_value)):
        path, score = spreads(-0.3, wide, q)
        deviation(score / path, 1.0)


@pytest.mark.proves("claim-actor-smaller-critic", method="finite differences, random networks")
def test_the_smaller_critic_decides_alone(deviation: Deviation) -> None:
    agent = SAC(*spaces())
    state = torch.randn((200, 3), generator=seeded(2))
    action = (4 * torch.rand((200, 1), generator=seeded(3)) - 2).requires_grad_()
    agent.critic.double()
    state, action = state.double(), action.detach().double().requires_grad_()
    pair = agent.critic(state, action)
    (slope,) = torch.autograd.grad(pair.amin(dim=0).sum(), action)
    with torch.no_grad():
        up, down = (agent.critic(state, action + d) for d in (1e-6, -1e-6))
        each = (up - down) / 2e-6  # (2, 200)
        smaller = pair.argmin(dim=0)
        own = each.gather(0, smaller[None])[0]
        other = each.gather(0, 1 - smaller[None])[0]
        clear = (pair[0] - pair[1]).abs() > 1e-4
        kink_free = (up + down - 2 * pair).abs().amax(dim=0) < 1e-11  # no ReLU switches in between
    use = clear & kink_free
    assert use.sum() > 150
    deviation((slope[use, 0] - own[use]).abs().max(), 1e-6)
    assert (slope[use, 0] - other[use]).abs().max() > 1e-2
    assert (slope[use, 0] - each[:, use].mean(dim=0)).abs().max() > 1e-2


# ----------------------------------------------------------------------------- nothing leaks


def spaces() -> tuple[Any, Any]:
    import gymnasium as gym

    box = gym.spaces.Box(np.array([-2.0], np.float32), np.array([2.0], np.float32))
    return gym.spaces.Box(-np.inf, np.inf, (3,)), box


def blank_batch(observation: Tensor) -> TransitionBatch:
    zero = torch.zeros(len(observation))
    return TransitionBatch(observation, zero[:, None], zero, observation, zero.bool())


@pytest.fixture(scope="module")
def narrow() -> OfflineDataset:
    return load_dataset("pendulum/narrow-v0")


@pytest.fixture
def batch(narrow: OfflineDataset) -> TransitionBatch:
    return narrow.sample(64, seeded(4))


def flat(module: torch.nn.Module, gradient: bool = True) -> Tensor:
    parts = [p.grad if gradient else p.detach() for p in module.parameters()]
    return torch.cat([part.flatten() for part in parts if part is not None])


@pytest.mark.proves("claim-actor-no-leak", method="gradients of separate agents, bit for bit")
def test_each_part_gets_the_gradient_of_its_own_loss(
    narrow: OfflineDataset, batch: TransitionBatch, deviation: Deviation
) -> None:
    agent = CQL.from_dataset(narrow, SETTINGS)
    other = CQL.from_dataset(narrow, SETTINGS)
    frozen = CQL.from_dataset(narrow, SETTINGS)
    for part in (agent.policy, agent.critic, agent.log_temperature):
        for parameter in part.parameters():
            parameter.grad = torch.ones_like(parameter)  # left over from before: to be cleared
    agent.update(batch)
    assert all(p.grad is None for p in agent.target_critic.parameters())

    # One loss at a time, on an agent of its own, with plain automatic differentiation.
    wanted = list(other.critic.parameters())
    expected = torch.autograd.grad(other.critic_loss(batch)[0], wanted)
    expected = torch.cat([g.flatten() for g in expected])
    deviation((flat(agent.critic) - expected).abs().max(), 0.0)
    other.critic.load_state_dict(agent.critic.state_dict())
    loss, log_prob = other.actor_loss(batch)
    slopes = torch.autograd.grad(loss, list(other.policy.parameters()))
    slopes = torch.cat([g.flatten() for g in slopes])
    deviation((flat(agent.policy) - slopes).abs().max(), 0.0)
    (slope,) = torch.autograd.grad(
        other.temperature_loss(log_prob), list(other.log_temperature.parameters())
    )
    deviation((flat(agent.log_temperature) - slope).abs().max(), 0.0)

    # A policy that cannot receive a gradient changes nothing for the critics.
    frozen.policy.requires_grad_(False)
    frozen.critic_loss(batch)[0].backward()
    deviation((flat(frozen.critic) - flat(agent.critic)).abs().max(), 0.0)

    # The check would see the leak: without `inputs=`, the actor's loss reaches the critics.
    leaky = CQL.from_dataset(narrow, SETTINGS)
    leaky.critic_loss(batch)[0].backward()
    leaky.actor_loss(batch)[0].backward()
    assert (flat(leaky.critic) - flat(agent.critic)).abs().max() > 1e-4


@pytest.mark.proves("claim-actor-leak", method="training with and without the leak, two seeds")
def test_the_leak_works_against_the_penalty(narrow: OfflineDataset, deviation: Deviation) -> None:
    favour: dict[tuple[float, bool], list[float]] = {}
    cases = [(0.25, 0), (0.25, 1), (1.0, 0)]
    for (weight, seed), leak in itertools.product(cases, (False, True)):
        agent = CQL.from_dataset(narrow, replace(SETTINGS, seed=seed, penalty_weight=weight))
        source = seeded(7)
        for _ in range(150):
            batch = narrow.sample(64, source)
            loss = agent.critic_loss(batch)[0]
            if leak:
                loss = loss + agent.actor_loss(batch)[0]
            Agent._step(agent.critic_optimiser, loss, agent.critic)
            agent.update_target()
        with torch.no_grad():
            own = agent.policy(narrow.observation).sample((), source)
            both = torch.stack([own, narrow.action], dim=1)
            q = agent.critic(narrow.observation, both)
        ahead = (q[..., 0] - q[..., 1]).mean().item()
        favour.setdefault((weight, leak), []).append(ahead)
    # Distances from the claim's two sides; zero when the claim holds with room to spare.
    deviation(max(0.0, max(favour[0.25, False]) + 0.05), 0.0)
    deviation(max(0.0, 0.05 - min(favour[0.25, True])), 0.0)
    # A penalty of weight 1 outweighs the leak, and loses more than half of its effect.
    clean, leaky = favour[1.0, False][0], favour[1.0, True][0]
    deviation(max(0.0, leaky + 0.05), 0.0)
    deviation(max(0.0, clean / 2 - leaky), 0.0)


# ----------------------------------------------------------------------------- what goes wrong


@pytest.mark.proves("claim-actor-stale", method="three gradients at three seeds")
def test_the_stale_gradient_mixes_two_critics(
    narrow: OfflineDataset, batch: TransitionBatch, deviation: Deviation
) -> None:
    for seed in range(3):
        old = CQL.from_dataset(narrow, replace(SETTINGS, seed=seed))
        for _ in range(100):
            old.update(narrow.sample(64, old.generator))
        new = copy.deepcopy(old)
        loss, _ = new.actor_loss(batch)
        plain = torch.optim.Adam(new.critic.parameters(), lr=1e-3)
        Agent._step(plain, new.critic_loss(batch)[0], new.critic)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        gradients = [actor_gradient(a, b) for a, b in ((old, None), (new, None), (old, new))]
        before, after, mixed = gradients
        shift = (after - before).norm()
        for clean in (before, after):
            apart = (mixed - clean).norm()
            assert apart > 0.002 * before.norm(), "a mixture is neither of the two"
            deviation(apart / shift, 2.0)


def actor_gradient(agent: CQL, behind_its_back: CQL | None) -> Tensor:
    agent = copy.deepcopy(agent)
    agent.generator.manual_seed(11)
    loss, _ = agent.actor_loss(blank_batch(torch.linspace(-1, 1, 192).reshape(64, 3)))
    if behind_its_back is not None:
        pairs = zip(agent.critic.parameters(), behind_its_back.critic.parameters(), strict=True)
        for own, new in pairs:
            own.data.copy_(new.data)
    slopes = torch.autograd.grad(loss, list(agent.policy.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


def blind_gradient(alpha: float, mean: float, std: float) -> tuple[float, float]:
    by_mean = (alpha - 1) * 2 * np.tanh(mean + std * NOISE)
    return WEIGHT @ by_mean, WEIGHT @ (NOISE * by_mean) - (alpha - 1) / std


def blind_walk(alpha: float, mean: float, std: float, steps: int) -> tuple[float, float]:
    """Mean and std after exact gradient steps of 0.01 on mean and log std, or once std is 3."""
    for _ in range(steps):
        if std > 3:
            break
        by_mean, by_std = blind_gradient(alpha, mean, std)
        mean, std = mean - 0.01 * by_mean, std * math.exp(-0.01 * std * by_std)
    return mean, std


@pytest.mark.proves("claim-actor-ignores-data", method="exact gradient of the blind loss")
def test_the_blind_warm_up_runs_to_the_edge(deviation: Deviation) -> None:
    """(alpha - 1) E[log pi], by the noise integral, from several starts."""
    alpha = 0.2
    for start in (-0.8, 0.8):  # narrow and off the middle: a spike at the nearer edge
        mean, std = blind_walk(alpha, start, 0.5, 2000)
        deviation(std, 1e-3)
        deviation(2 - math.copysign(2, start) * math.tanh(mean), 1e-3)
    # In the middle: narrow stays there and narrows, a push carries it off, wide gets wider.
    mean, std = blind_walk(alpha, 0.0, 0.8, 800)
    deviation(abs(mean), 1e-9)
    assert std < 0.1
    assert blind_walk(alpha, 0.01, 0.8, 2000)[0] > 3
    mean, std = blind_walk(alpha, 0.0, 0.95, 250)
    deviation(abs(mean), 1e-9)
    assert std > 3
    crossing = optimize.brentq(lambda s: blind_gradient(alpha, 0.0, s)[1], 0.3, 2)
    deviation(abs(crossing - 0.87), 0.01)
    # With the data in the loss the walk ends on the data, at 1.2 with a spread of 0.1.
    data = np.arctanh((1.2 + 0.1 * stats.norm.ppf((np.arange(64) + 0.5) / 64)) / 2)
    mean, log_std = -0.8, math.log(0.5)
    for _ in range(2000):
        std = math.exp(log_std)
        squashed = np.tanh(mean + std * NOISE)
        by_mean = alpha * 2 * WEIGHT @ squashed - ((data - mean) / std**2).mean()
        entropy = alpha * (2 * WEIGHT @ (NOISE * squashed) - 1 / std)
        by_std = entropy + 1 / std - (((data - mean) ** 2).mean() / std**3)
        mean -= 0.01 * np.clip(by_mean, -5, 5)
        log_std -= 0.01 * std * np.clip(by_std, -20, 20)
    deviation(abs(2 * math.tanh(mean) - 1.2), 0.05)


# ----------------------------------------------------------------------------- the exercises


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def one_draw(
    half: float = 2.5, noise: float = -1.0, sign: float = 1.0, pull: float = 1.0, flat: bool = True
) -> tuple[float, float]:
    squashed = math.tanh(0.2 + 0.5 * noise)
    climb = 0.8 * half * (1 - squashed**2 if flat else 1.0)
    by_mean = pull * 2 * 0.1 * squashed + sign * climb
    return by_mean, noise * by_mean - 0.1 / 0.5


def actor_step(agent: SAC, observation: Tensor, variant: str = "") -> Tensor:
    if variant == "forward pass under no_grad":
        with torch.no_grad():
            return loss_of(agent, observation, "")
    loss = loss_of(agent, observation, variant)
    if variant == "critics step":
        agent.critic_optimiser.zero_grad()
        loss.backward()
        agent.critic_optimiser.step()
        return loss
    if variant != "no zero_grad":
        agent.policy_optimiser.zero_grad()
    wanted = None if variant == "leak" else list(agent.policy.parameters())
    loss.backward(inputs=wanted)
    if variant != "no step":
        agent.policy_optimiser.step()
    return loss.detach()


def loss_of(agent: SAC, observation: Tensor, variant: str) -> Tensor:
    policy = agent.policy(observation)
    action, log_prob = policy.rsample_with_log_prob((), agent.generator)
    if variant == "sample":
        action = action.detach()
        log_prob = policy.log_prob(action)
    if variant == "detached density":
        log_prob = log_prob.detach()
    with torch.set_grad_enabled(variant != "critics under no_grad"):
        pair = agent.critic(observation, action)
    rated = {"max": pair.amax(0), "mean": pair.mean(0), "first": pair[0], "plus": -pair.amin(0)}
    q = rated.get(variant, pair.amin(dim=0))
    alpha = {"no alpha": 1.0, "turned": -agent.temperature, "no entropy": 0.0}
    return (alpha.get(variant, agent.temperature) * log_prob - q).mean()


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("ex-actor-one-draw", one_draw),
        ("ex-actor-one-draw", lambda: list(one_draw())),
        ("ex-actor-step", actor_step),
        ("ex-actor-spike", {"stays": 0.1, "leaves": 0.5}),
        ("ex-actor-spike", {"stays": 0.2, "leaves": 0.9}),
    ],
)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = verdict(capsys, exercise, answer)
    assert out.startswith(f"{exercise}: passed."), out


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-actor-one-draw", lambda: ...),
        ("ex-actor-one-draw", lambda: (one_draw()[0], ...)),
        ("ex-actor-step", lambda agent, observation: ...),
        ("ex-actor-spike", {"stays": ..., "leaves": ...}),
        ("ex-actor-spike", {"stays": 0.1, "leaves": ...}),
    ],
)
def test_stubs_are_told_gently(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-actor-one-draw", lambda: one_draw(half=5.0), "2.5, not 5"),
        ("ex-actor-one-draw", lambda: one_draw(half=1.0), "factor h is missing"),
        ("ex-actor-one-draw", lambda: one_draw(noise=1.0), "u = mean - std"),
        ("ex-actor-one-draw", lambda: one_draw(sign=-1.0), "enters with a minus"),
        ("ex-actor-one-draw", lambda: one_draw(pull=0.0), "log-density depends on u"),
        ("ex-actor-one-draw", lambda: one_draw(flat=False), "1 - tanh(u)**2 is missing"),
        ("ex-actor-one-draw", lambda: (one_draw()[0], -one_draw()[0]), "alpha / std, is missing"),
        ("ex-actor-one-draw", lambda: (one_draw()[0], 0.2 - one_draw()[0]), "it widens"),
        ("ex-actor-one-draw", lambda: (one_draw()[0], one_draw()[0] - 0.2), "epsilon is -1"),
        ("ex-actor-one-draw", lambda: (one_draw()[0], 9.0), "epsilon times it"),
        ("ex-actor-one-draw", lambda: (9.0, 9.0), "Its two terms"),
        ("ex-actor-one-draw", lambda: 9.0, "Return two numbers"),
        ("ex-actor-step", partial(actor_step, variant="max"), "larger of the two"),
        ("ex-actor-step", partial(actor_step, variant="mean"), "mean of the two"),
        ("ex-actor-step", partial(actor_step, variant="first"), "first critic only"),
        ("ex-actor-step", partial(actor_step, variant="plus"), "sign of Q is turned"),
        ("ex-actor-step", partial(actor_step, variant="turned"), "entropy's sign"),
        ("ex-actor-step", partial(actor_step, variant="no alpha"), "not multiplied"),
        ("ex-actor-step", partial(actor_step, variant="no entropy"), "entropy term is missing"),
        ("ex-actor-step", partial(actor_step, variant="leak"), "the leak"),
        ("ex-actor-step", partial(actor_step, variant="no step"), "has not moved"),
        ("ex-actor-step", partial(actor_step, variant="no zero_grad"), "zero_grad() is missing"),
        ("ex-actor-step", partial(actor_step, variant="critics under no_grad"), "without slopes"),
        ("ex-actor-step", partial(actor_step, variant="sample"), "a constant action"),
        ("ex-actor-step", partial(actor_step, variant="detached density"), "Typical"),
        ("ex-actor-step", partial(actor_step, variant="critics step"), "critics have changed"),
        (
            "ex-actor-step",
            partial(actor_step, variant="forward pass under no_grad"),
            "has not moved",
        ),
        ("ex-actor-step", lambda agent, observation: 2.0, "Return the loss"),
        ("ex-actor-step", lambda agent, observation: torch.tensor(7.0), "Draw once"),
        ("ex-actor-spike", {"stays": 0.5, "leaves": 0.5}, "finds the spike"),
        ("ex-actor-spike", {"stays": 0.1, "leaves": 0.1}, "stays on the hill"),
        ("ex-actor-spike", {"stays": 2.0, "leaves": 0.5}, "between 0.05 and 1"),
        ("ex-actor-spike", {"stays": 0.1}, "missing: leaves"),
        ("ex-actor-spike", 0.1, "A dictionary is expected"),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert help_ in out, out
