"""Proofs of the chapter on the temperature step, and tests of its exercise checkers.

The truth comes from adaptive quadrature with root finding, from a general constrained optimiser,
or from automatic differentiation of a whole agent. Wrong versions fail the same checks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special
from torch import Tensor

from offline_rl_lib import SAC, SACSettings, uniform_log_density
from offline_rl_lib.agent import Agent
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.experiments import RESULTS
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Curve = Callable[[float], float]

TARGET = math.log(2) - 1
ALPHA_STAR = math.exp(2 * TARGET - 1) / math.pi  # of the chapter's parabola, k = 2


def parabola(a: float) -> float:
    return -((a - 0.5) ** 2)


def hilly(a: float) -> float:
    return 1.5 * math.sin(2 * a) - 0.4 * a * a


class Best:
    """The density proportional to exp(Q / alpha) on an interval, by adaptive quadrature."""

    def __init__(self, q: Curve, alpha: float, low: float = -2.0, high: float = 2.0) -> None:
        grid = np.linspace(low, high, 2001)
        values = np.array([q(a) for a in grid])
        top = grid[values.argmax()]
        self.q, self.alpha, self.ends = q, alpha, (low, high)
        self.offset = values.max()
        reach = 6 * math.sqrt(alpha)
        self.points = [x for x in (top - reach, top, top + reach) if low < x < high]
        self.mass = self.integral(lambda a: 1.0, normalised=False)

    def integral(self, f: Curve, normalised: bool = True) -> float:
        """Integral of f against the density."""

        def integrand(a: float) -> float:
            return f(a) * math.exp((self.q(a) - self.offset) / self.alpha)

        options = {"points": self.points, "limit": 200, "epsabs": 1e-13, "epsrel": 1e-12}
        value = integrate.quad(integrand, *self.ends, **options)[0]
        return value / self.mass if normalised else value

    def soft_maximum(self) -> float:
        return self.offset + self.alpha * math.log(self.mass)

    def entropy(self) -> float:
        """Minus the mean of the log-density."""
        log_mass = self.offset / self.alpha + math.log(self.mass)
        return log_mass - self.integral(lambda a: self.q(a) / self.alpha)


def price(q: Curve, target: float, low: float = -2.0, high: float = 2.0) -> float:
    """The temperature at which the best policy has the target entropy, by root finding."""
    return math.exp(
        optimize.brentq(
            lambda x: Best(q, math.exp(x), low, high).entropy() - target, -9.0, 6.0, xtol=1e-12
        )
    )


# ----------------------------------------------------------------------------- the dual


def cells(count: int = 40) -> tuple[np.ndarray, float]:
    width = 4 / count
    return -2 + width * (np.arange(count) + 0.5), width


def entropy_on_cells(p: np.ndarray, width: float) -> float:
    """Of probabilities p per cell."""
    return float(-(p * np.log(np.maximum(p / width, 1e-300))).sum())


def dual_on_cells(alpha: float, q: np.ndarray, width: float, target: float) -> float:
    top = q.max()
    total = np.exp((q - top) / alpha).sum() * width
    return float(top + alpha * math.log(total) - alpha * target)


@pytest.mark.proves("eq-temperature-dual", method="2,000 random policies and prices")
def test_every_price_bounds_what_is_possible(deviation: Deviation) -> None:
    random = np.random.default_rng(0)
    axis, width = cells()
    q = np.array([hilly(a) for a in axis])
    beyond, beaten_outside = 0.0, 0
    for _ in range(2000):
        slope, wave, sharpness = random.normal(size=3) * [0.3, 0.3, 0.5]
        p = special.softmax(q * math.exp(3 * sharpness) + slope * axis + wave * np.sin(3 * axis))
        bound = dual_on_cells(math.exp(random.uniform(-4, 2)), q, width, TARGET)
        excess = float(p @ q) - bound
        if entropy_on_cells(p, width) >= TARGET:
            beyond = max(beyond, excess)
        else:
            beaten_outside += excess > 0.01
    deviation(max(beyond, 0.0), 1e-12)
    assert beaten_outside > 0  # policies that break the constraint do better than the bound


@pytest.mark.proves("claim-temperature-duality", method="direct constrained optimisation (SLSQP)")
@pytest.mark.parametrize("curve", [parabola, hilly])
def test_the_lowest_bound_is_attained(curve: Curve, deviation: Deviation) -> None:
    axis, width = cells(24)
    q = np.array([curve(a) for a in axis])
    target = 0.2
    direct = optimize.minimize(
        lambda z: -special.softmax(z) @ q,
        np.zeros(len(q)),
        constraints={
            "type": "ineq",
            "fun": lambda z: entropy_on_cells(special.softmax(z), width) - target,
        },
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-10},
    )
    assert direct.success
    lowest = optimize.minimize_scalar(
        lambda x: dual_on_cells(math.exp(x), q, width, target), bounds=(-5, 3), method="bounded"
    )
    deviation(abs(lowest.fun + direct.fun), 1e-4)
    weight = np.exp((q - q.max()) / math.exp(lowest.x))
    best = weight / weight.sum()
    deviation(np.abs(best - special.softmax(direct.x)).max(), 1e-3)
    with_wrong_target = optimize.minimize_scalar(
        lambda x: dual_on_cells(math.exp(x), q, width, -target), bounds=(-5, 3), method="bounded"
    )
    assert abs(with_wrong_target.fun + direct.fun) > 1e-2


@pytest.mark.proves("claim-temperature-duality", method="a plateau, on 4,000 cells")
def test_randomness_costs_nothing_on_a_plateau(deviation: Deviation) -> None:
    """Flat between -1 and 1: a uniform density there has log 2 nats, more than the target."""
    axis, width = cells(4000)
    q = -(np.maximum(0, np.abs(axis) - 1) ** 2)
    prices = np.geomspace(1e-6, 3, 60)
    bounds = [dual_on_cells(alpha, q, width, TARGET) for alpha in prices]
    deviation(bounds[0] - q.max(), 1e-5)  # g(0) = max Q is the lowest bound ...
    assert np.all(np.diff(bounds) > 0)
    best = (np.abs(axis) < math.exp(TARGET) / 2) / math.exp(TARGET) * width
    deviation(abs(entropy_on_cells(best, width) - TARGET), 5e-3)
    deviation(abs(best @ q), 1e-12)  # ... and a policy that just meets the target earns it
    # With a target above log 2 no such policy exists, and the lowest bound is inside.
    bounds = [dual_on_cells(alpha, q, width, 1.0) for alpha in prices]
    assert 0 < int(np.argmin(bounds)) < len(prices) - 1


@pytest.mark.proves("eq-temperature-slope", method="differences of adaptive quadratures")
@pytest.mark.parametrize("curve", [parabola, hilly])
@pytest.mark.parametrize("alpha", [0.05, 0.4, 3.0])
def test_the_slope_of_the_dual_is_the_surplus(
    curve: Curve, alpha: float, deviation: Deviation
) -> None:
    step = 1e-3 * alpha
    up, down = (Best(curve, alpha + d).soft_maximum() for d in (step, -step))
    slope = (up - down) / (2 * step)
    entropy = Best(curve, alpha).entropy()
    deviation(abs(slope - entropy), 1e-5)
    mean_q = Best(curve, alpha).integral(curve)
    assert abs(slope - mean_q) > 1e-2  # the slope is no mean of Q
    assert abs(slope + entropy) > 1e-2


@pytest.mark.proves("eq-temperature-curvature", method="differences of adaptive quadratures")
@pytest.mark.parametrize("curve", [parabola, hilly])
@pytest.mark.parametrize("alpha", [0.05, 0.4, 3.0])
def test_the_entropy_rises_with_the_temperature(
    curve: Curve, alpha: float, deviation: Deviation
) -> None:
    step = 1e-3 * alpha
    up, down = (Best(curve, alpha + d).entropy() for d in (step, -step))
    rise = (up - down) / (2 * step)
    best = Best(curve, alpha)
    mean_q = best.integral(curve)
    variance = best.integral(lambda a: (curve(a) - mean_q) ** 2)
    deviation(abs(alpha * (rise - variance / alpha**3)), 1e-5)
    assert rise > 0
    assert abs(alpha * (rise - variance / alpha**2)) > 1e-3


# ----------------------------------------------------------------------------- the closed form


BOXES = [(-2.0, 2.0), (-0.1, 0.1), (0.0, 5.0)]


@pytest.mark.proves("eq-temperature-quadratic", method="root finding on adaptive quadrature")
@pytest.mark.parametrize("k", [0.5, 20.0])
@pytest.mark.parametrize(("low", "high"), BOXES)
def test_the_price_of_a_parabola(low: float, high: float, k: float, deviation: Deviation) -> None:
    centre, half = 0.4 * low + 0.6 * high, (high - low) / 2
    target = -1.5 + math.log(half)
    # The price scales with the square of the box: measure it in a box of half-width 1.
    q = lambda y: -0.5 * k * (half * y + (low + high) / 2 - centre) ** 2 / half**2  # noqa: E731
    found = price(q, target - math.log(half), -1.0, 1.0) * half**2
    deviation(abs(k / (2 * math.pi) * math.exp(2 * target - 1) / found - 1), 1e-6)
    wrong = {
        "e forgotten": k / (2 * math.pi) * math.exp(2 * target),
        "target once": k / (2 * math.pi) * math.exp(target - 1),
        "half of k": k / (4 * math.pi) * math.exp(2 * target - 1),
    }
    for name, value in wrong.items():
        assert abs(value / found - 1) > 0.1 or (name == "target once" and abs(target) < 0.1), name


@pytest.mark.proves("claim-temperature-scale", method="root finding on adaptive quadrature")
@pytest.mark.parametrize("scale", [0.125, 10.0])
def test_the_price_follows_the_scale(scale: float, deviation: Deviation) -> None:
    alpha = price(hilly, TARGET)
    scaled = price(lambda a: scale * hilly(a), TARGET)
    deviation(abs(scaled / (scale * alpha) - 1), 1e-8)
    before, after = Best(hilly, alpha), Best(lambda a: scale * hilly(a), scaled)
    for power in (1, 2, 3):
        moments = [best.integral(lambda a, n=power: a**n) for best in (before, after)]
        deviation(abs(moments[0] - moments[1]), 1e-7)
    kept = Best(lambda a: scale * hilly(a), alpha)  # a fixed temperature changes the policy
    assert abs(kept.entropy() - TARGET) > 0.1


# ----------------------------------------------------------------------------- the two losses


def spaces(half: float = 2.0, size: int = 1) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    box = np.full(size, half, np.float32)
    return gym.spaces.Box(-np.inf, np.inf, (3,)), gym.spaces.Box(-box, box)


@pytest.mark.proves("eq-temperature-losses", method="finite differences, and the library's loss")
@pytest.mark.parametrize("log_alpha", [-4.0, 0.0, 1.0])
def test_the_gradients_of_both_losses(log_alpha: float, deviation: Deviation) -> None:
    surplus, step = 1.3, 1e-5
    for loss, formula in (
        (lambda x: math.exp(x) * surplus, math.exp(log_alpha) * surplus),
        (lambda x: x * surplus, surplus),
    ):
        slope = (loss(log_alpha + step) - loss(log_alpha - step)) / (2 * step)
        deviation(abs(slope - formula), 1e-8)
    agent = SAC(*spaces(), SACSettings(initial_temperature=math.exp(log_alpha)))
    log_prob = torch.linspace(-3, 1, 64)
    loss = agent.temperature_loss(log_prob)
    (slope,) = torch.autograd.grad(loss, list(agent.log_temperature.parameters()))
    expected = math.exp(log_alpha) * (1.0 - TARGET)  # the entropy of these draws is 1
    deviation(abs(slope.item() - expected) / expected, 1e-5)
    assert abs(slope.item() - (1.0 - TARGET)) > 1e-2 or log_alpha == 0
    assert abs(slope.item() - math.exp(log_alpha) * (-1.0 - TARGET)) > 1e-3


@pytest.mark.proves("eq-temperature-log-descent", method="PyTorch's gradient descent, 60 steps")
@pytest.mark.parametrize("start", [0.01, 1.0])
def test_descent_on_the_log_loss_is_geometric(start: float, deviation: Deviation) -> None:
    rate = 0.1
    x = torch.tensor(math.log(start), dtype=torch.float64, requires_grad=True)
    slow = torch.tensor(math.log(start), dtype=torch.float64, requires_grad=True)
    descent = torch.optim.SGD([x, slow], lr=rate)
    apart = math.log(start / ALPHA_STAR)
    for t in range(1, 61):
        surplus, slow_surplus = (0.5 * (y.detach() - math.log(ALPHA_STAR)) for y in (x, slow))
        descent.zero_grad()
        (x * surplus + slow.exp() * slow_surplus).backward()
        descent.step()
        deviation(abs(x.item() - math.log(ALPHA_STAR) - (1 - rate / 2) ** t * apart), 1e-12)
    # The other loss does not follow the formula.
    assert abs(slow.item() - x.item()) > 0.1


@pytest.mark.proves("claim-temperature-pace", method="PyTorch's Adam on both losses")
def test_adam_sets_the_pace(deviation: Deviation) -> None:
    x = torch.full((2,), math.log(0.01), dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([x], lr=3e-4, fused=True)
    path = []
    for _ in range(9000):
        with torch.no_grad():
            surplus = 0.5 * (x - math.log(ALPHA_STAR))
            x.grad = torch.stack([x[0].exp() * surplus[0], surplus[1]])
        adam.step()
        path.append(x.detach().clone())
    apart = (torch.stack(path) - math.log(ALPHA_STAR)).abs()
    far = [int(torch.nonzero(column > 0.1)[-1]) + 1 for column in apart.T]
    deviation(max(far), 9000)
    assert min(far) > 5000
    deviation((path[4999] - math.log(0.01)).max(), 1.6)


# ----------------------------------------------------------------------------- the target's units


@pytest.mark.proves("eq-temperature-share", method="the library's target and uniform densities")
@pytest.mark.parametrize(("half", "size"), [(2.0, 1), (0.4, 17), (0.1, 6)])
def test_the_target_covers_the_same_share_of_every_box(
    half: float, size: int, deviation: Deviation
) -> None:
    target = SAC(*spaces(half, size)).target_entropy
    side = 2 * half * 0.5 / math.e  # the edge of a cube that is 0.184 of the box per dimension
    low, high = torch.zeros(size).double(), torch.full((size,), side).double()
    deviation(abs(-uniform_log_density(low, high).item() - target), 1e-5)
    log_share = target - size * math.log(2 * half)
    deviation(abs(log_share - size * math.log(1 / (2 * math.e))), 1e-5)
    assert abs(-size - target) > 0.1  # the plain target is another one


@pytest.mark.proves("claim-temperature-unreachable", method="quadrature over 400 policies")
def test_a_target_above_the_volume_is_out_of_reach(deviation: Deviation) -> None:
    random = np.random.default_rng(1)
    half = 0.1
    axis = half * (-1 + (np.arange(4000) + 0.5) / 2000)
    highest = -math.inf
    for _ in range(400):
        z = random.normal(size=4)
        p = np.exp(z[0] * axis / half + z[1] * np.sin(3 * axis / half + z[2]) * abs(z[3]))
        highest = max(highest, entropy_on_cells(p / p.sum(), half / 2000))
    flat = np.full(4000, 1 / 4000)
    deviation(max(0.0, highest - math.log(2 * half)), 1e-12)
    deviation(abs(entropy_on_cells(flat, half / 2000) - math.log(2 * half)), 1e-12)
    # Dual descent with the target -1 > log 0.2: every step raises the temperature.
    x = math.log(0.01)
    for _ in range(300):
        surplus = Best(parabola_at_zero, math.exp(min(x, 12.0)), -half, half).entropy() + 1.0
        assert surplus < -0.6
        x -= 0.1 * surplus
    assert x > 12


def parabola_at_zero(a: float) -> float:
    return -a * a


@pytest.mark.proves("claim-temperature-units", method="root finding on adaptive quadrature")
def test_mixed_units_change_the_price(deviation: Deviation) -> None:
    consistent, plain = (price(parabola, target) for target in (TARGET, -1.0))
    deviation(abs(plain / consistent - 0.25), 1e-4)
    widths = [
        math.sqrt(Best(parabola, a).integral(lambda x: (x - 0.5) ** 2))
        for a in (
            consistent,
            plain,
        )
    ]
    deviation(abs(widths[1] / widths[0] - 0.5), 1e-4)
    reachable = Best(parabola_at_zero, 1e6, -0.1, 0.1).entropy()
    assert reachable < -1.0  # even the flattest policy of the small box has less
    deviation(abs(reachable - math.log(0.2)), 1e-6)


# ----------------------------------------------------------------------------- in the agent


class Parabola(torch.nn.Module):
    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        q = -((action[..., 0] - 0.5) ** 2)
        return torch.stack([q, q])


def one_state(size: int = 64) -> TransitionBatch:
    observation, zero = torch.tensor([[0.6, 0.8, 0.3]]).expand(size, 3), torch.zeros(size)
    return TransitionBatch(observation, zero[:, None], zero, observation, zero.bool())


@pytest.mark.proves("claim-temperature-joint", method="the library's two steps on a parabola")
@pytest.mark.parametrize("start", [0.03, 0.13])
def test_actor_and_temperature_arrive_together(start: float, deviation: Deviation) -> None:
    settings = SACSettings(
        actor_learning_rate=3e-3, temperature_learning_rate=5e-3, initial_temperature=start
    )
    agent, batch, record = SAC(*spaces(), settings), one_state(), []
    agent.critic = Parabola()  # type: ignore[assignment]
    for _ in range(1200):
        loss, log_prob = agent.actor_loss(batch)
        Agent._step(agent.policy_optimiser, loss, agent.policy)
        loss = agent.temperature_loss(log_prob)
        Agent._step(agent.temperature_optimiser, loss, agent.log_temperature)
        record.append(agent.temperature.item())
    deviation(abs(np.mean(record[-500:]) / ALPHA_STAR - 1), 0.1)
    assert abs(start / ALPHA_STAR - 1) > 0.5  # it had a way to go


@pytest.mark.proves("claim-temperature-not-settled", method="the stored runs, ten seeds")
def test_the_stored_runs_have_not_settled(deviation: Deviation) -> None:
    runs = [json.loads(x) for x in (RESULTS / "comparison.jsonl").read_text().splitlines()]
    narrow = [r for r in runs if r["dataset"] == "pendulum/narrow-v0" and r["method"] == "CQL"]
    assert len(narrow) == 10
    for run in narrow:
        settings = run["settings"]
        assert settings["temperature_learning_rate"] == 3e-4
        # Each number is a mean over the thousand updates before it, so they lie 4,000 apart.
        assert run["updates"] == [1000, 2000, 3000, 4000, 5000]
        first, *_, last = run["metrics"]["temperature"]
        pace = math.log(last / first) / (3e-4 * 4000)
        deviation(max(0.0, 1.0 - pace), 0.0)
        assert pace < 1.2  # a little more than the rate, no more
        deviation(max(0.0, run["metrics"]["entropy"][-1] - (TARGET - 0.5)), 0.0)


@pytest.mark.proves("eq-temperature-undetached", method="automatic differentiation of an agent")
@pytest.mark.parametrize("std_shift", [-2.0, 0.0, 1.0])
def test_the_summed_gradient_forgets_the_entropy(std_shift: float, deviation: Deviation) -> None:
    agent, batch = SAC(*spaces(), SACSettings(initial_temperature=0.2)), one_state(256)
    with torch.no_grad():
        agent.policy.mean_and_log_std.bias[1] += std_shift  # another width, another entropy
    action, log_prob = agent.policy(batch.observation).rsample_with_log_prob((), agent.generator)
    x = agent.log_temperature[0]
    actor = (x.exp() * log_prob - agent.critic(batch.observation, action).amin(dim=0)).mean()
    (summed,) = torch.autograd.grad(actor + agent.temperature_loss(log_prob), x, retain_graph=True)
    deviation(abs(summed.item() + 0.2 * TARGET), 1e-6)
    # The policy's gradient has lost its entropy as well: it is that of -Q.
    weights = list(agent.policy.parameters())
    together = actor + agent.temperature_loss(log_prob)
    minus_q = -agent.critic(batch.observation, action).amin(dim=0).mean()
    sums, alone, clean = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
        for loss in (together, minus_q, actor)
    )
    deviation((sums - alone).norm() / alone.norm(), 1e-4)
    assert (clean - alone).norm() / alone.norm() > 1e-2
    (right,) = torch.autograd.grad(agent.temperature_loss(log_prob.detach()), x)
    surplus = -log_prob.mean().item() - TARGET
    deviation(abs(right.item() - 0.2 * surplus), 1e-6)
    assert abs(summed.item() - right.item()) > 1e-2


# ----------------------------------------------------------------------------- the exercises


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def valve(target: float | None = None, alpha: float | None = None, std: float | None = None) -> Any:
    right = -1 + math.log(0.25)
    price_of = 40 / (2 * math.pi) * math.exp(2 * right - 1)
    numbers = (right, price_of, math.sqrt(price_of / 40))
    given = (target, alpha, std)
    return lambda: tuple(n if g is None else g for n, g in zip(numbers, given, strict=True))


VALVE_PRICE = valve()()[1]


def step(
    x: float, log_prob: Tensor, target: float, rate: float, loss: str, slip: str = ""
) -> float:
    entropy = -log_prob.mean().item()
    if slip == "entropy sign":
        entropy = -entropy
    if slip == "sum":
        entropy = -log_prob.sum().item()
    surplus = entropy + target if slip == "plus target" else entropy - target
    factor = math.exp(x) if (loss == "alpha") != (slip == "other loss") else 1.0
    if slip == "uphill":
        return x + rate * factor * surplus
    return (math.exp(x) if slip == "alpha" else x) - rate * factor * surplus


def slipped(slip: str) -> Callable[..., float]:
    return lambda *arguments: step(*arguments, slip=slip)


def share(target: float, low: list[float], high: list[float]) -> float:
    return math.exp(target - sum(math.log(b - a) for a, b in zip(low, high, strict=True)))


def in_single_precision(target: float, low: list[float], high: list[float]) -> Tensor:
    return (target - (torch.tensor(high) - torch.tensor(low)).log().sum()).exp()


def step_by_autograd(x: float, log_prob: Tensor, target: float, rate: float, loss: str) -> float:
    log_alpha = torch.tensor(x, requires_grad=True)
    factor = log_alpha.exp() if loss == "alpha" else log_alpha
    (slope,) = torch.autograd.grad(factor * (-log_prob.mean() - target), log_alpha)
    return x - rate * slope.item()


def by_volume(target: float, low: list[float], high: list[float]) -> float:
    return math.exp(target) / math.prod(b - a for a, b in zip(low, high, strict=True))


def by_halves(target: float, low: list[float], high: list[float]) -> float:
    return math.exp(target - sum(math.log((b - a) / 2) for a, b in zip(low, high, strict=True)))


def by_sum(target: float, low: list[float], high: list[float]) -> float:
    return math.exp(target) / sum(b - a for a, b in zip(low, high, strict=True))


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("ex-temperature-valve", valve()),
        ("ex-temperature-valve", lambda: list(valve()())),
        ("ex-temperature-valve", lambda: (-2.39, 0.020, 0.022)),
        ("ex-temperature-step", step),
        ("ex-temperature-share", share),
        ("ex-temperature-share", in_single_precision),
    ],
)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = verdict(capsys, exercise, answer)
    assert out.startswith(f"{exercise}: passed."), out


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-temperature-valve", lambda: (..., ..., ...)),
        ("ex-temperature-valve", lambda: ...),
        ("ex-temperature-valve", lambda: (-2.386, ..., ...)),
        ("ex-temperature-step", lambda x, log_prob, target, rate, loss: ...),
        ("ex-temperature-share", lambda target, low, high: ...),
    ],
)
def test_stubs_are_told_gently(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-temperature-valve", valve(target=-1.0), "target of the unit box"),
        ("ex-temperature-valve", valve(target=-1 + math.log(0.5)), "half-width is 0.25"),
        ("ex-temperature-valve", valve(target=1 + math.log(0.25)), "minus the number"),
        ("ex-temperature-valve", valve(target=-1 - math.log(0.25)), "less room"),
        ("ex-temperature-valve", valve(target=5.0), "The formula is -d plus"),
        ("ex-temperature-valve", valve(alpha=VALVE_PRICE / 2), "twice the factor 20"),
        ("ex-temperature-valve", valve(alpha=VALVE_PRICE * math.e), "holds an e"),
        (
            "ex-temperature-valve",
            valve(alpha=40 / (2 * math.pi) * math.exp(-2 + math.log(0.25))),
            "target twice",
        ),
        ("ex-temperature-valve", valve(alpha=VALVE_PRICE * 2 * math.pi), "1 / (2 pi)"),
        ("ex-temperature-valve", valve(alpha=9.0), "k exp(2H - 1) / 2 pi"),
        ("ex-temperature-valve", valve(std=VALVE_PRICE / 40), "square root"),
        ("ex-temperature-valve", valve(std=math.sqrt(VALVE_PRICE)), "alpha / k, not alpha"),
        ("ex-temperature-valve", valve(std=9.0), "sqrt(alpha / k)"),
        ("ex-temperature-valve", lambda: 1.0, "Return three numbers"),
        ("ex-temperature-step", slipped("uphill"), "goes uphill"),
        ("ex-temperature-step", slipped("other loss"), "factor alpha belongs"),
        ("ex-temperature-step", slipped("entropy sign"), "mean of minus"),
        ("ex-temperature-step", slipped("plus target"), "entropy minus target"),
        ("ex-temperature-step", slipped("sum"), "not the sum"),
        ("ex-temperature-step", slipped("alpha"), "not alpha"),
        ("ex-temperature-step", lambda *a: math.exp(step(*a)), "not alpha"),
        ("ex-temperature-step", lambda *a: (a[0] - step(*a)) / a[3], "This is the gradient"),
        (
            "ex-temperature-step",
            lambda x, p, h, r, loss: (
                step(x, p, h, r, loss) if loss == "alpha" else x + r * x * (p.mean() + h)
            ),
            "slope is the surplus alone",
        ),
        ("ex-temperature-step", lambda x, p, h, r, loss: x + r * (p + h), "of shape (8,)"),
        ("ex-temperature-step", step_by_autograd, "autograd is switched off"),
        ("ex-temperature-step", lambda *arguments: 7.0, "expected"),
        ("ex-temperature-share", by_halves, "not of half-widths"),
        ("ex-temperature-share", by_sum, "product of widths"),
        ("ex-temperature-share", lambda t, low, high: math.log(share(t, low, high)), "exponential"),
        ("ex-temperature-share", lambda t, low, high: math.exp(t), "Divide it"),
        ("ex-temperature-share", lambda t, low, high: 1 / share(t, low, high), "upside down"),
        ("ex-temperature-share", lambda t, low, high: share(-t, low, high), "sign of the target"),
        (
            "ex-temperature-share",
            lambda t, low, high: share(t, low[:1], high[:1]),
            "Every dimension counts",
        ),
        ("ex-temperature-share", lambda t, low, high: 7.0, "expected"),
        ("ex-temperature-share", by_volume, "Subtract logarithms first"),
        (
            "ex-temperature-share",
            lambda t, low, high: by_volume(t, low, high) if len(low) < 9 else 0.0,
            "two thousand|2000",
        ),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert any(part in out for part in help_.split("|")), out
