"""Proofs of the chapter on the logsumexp penalty, and tests of its exercise checkers.

Each proof reaches the number by another method than the library, and shows that a wrong version
that has been seen in public code does not pass the same check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from offline_rl_lib import (
    TanhNormal,
    cql_penalty,
    log_mean_exp_q,
    uniform_actions,
    uniform_log_density,
)
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]

LOW, HIGH = torch.tensor([-2.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
LOG_4 = math.log(4.0)
SOURCES = ["uniform", "current policy", "next policy"]
TEMPERATURES = [0.5, 1.0, 2.0, 5.0]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Compute in float64, as the chapter does."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def critic(state: float, action: Tensor) -> Tensor:
    """The chapter's critic: a hill at minus the state, and a spike at 1.4."""
    torque = action[..., 0]
    spike = 4.5 * torch.exp(-0.5 * ((torque - 1.4) / 0.15) ** 2)
    return 3 + state - (torque + state) ** 2 + spike


def q_here(action: Tensor) -> Tensor:
    return critic(0.5, action)


def exact(
    q: Callable[[Tensor], Tensor], temperature: float = 1.0, low: float = -2.0, high: float = 2.0
) -> float:
    """T log of the integral of exp(Q / T), by adaptive quadrature."""

    def integrand(torque: float) -> float:
        return math.exp(q(torch.tensor([torque])).item() / temperature)

    breaks = [x for x in (1.1, 1.4, 1.7) if low < x < high]
    value = integrate.quad(integrand, low, high, points=breaks or None, epsabs=0, epsrel=1e-12)[0]
    return temperature * math.log(value)


def policy(source: str) -> TanhNormal:
    mean, std = {"current policy": (-0.3, 0.5), "next policy": (0.4, 0.6)}[source]
    return TanhNormal(torch.tensor([mean]), torch.tensor([std]), LOW, HIGH)


def draw(source: str, shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    if source == "uniform":
        action = uniform_actions(shape, LOW, HIGH, seeded(seed))
        return action, uniform_log_density(LOW, HIGH).expand(shape)
    return policy(source).rsample_with_log_prob(shape, seeded(seed))


def draw_mixture(repeats: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    parts = [draw(source, (repeats, count // 3), seed + i) for i, source in enumerate(SOURCES)]
    return torch.cat([a for a, _ in parts], dim=1), torch.cat([m for _, m in parts], dim=1)


# ----------------------------------------------------------------------------- the soft maximum


@pytest.mark.proves("eq-soft-maximum", method="closed form of a linear and a quadratic Q")
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (0.5, 4.0)])
def test_the_integral_has_the_closed_forms(
    low: float, high: float, temperature: float, deviation: Deviation
) -> None:
    t, k, centre = temperature, 2.0, 0.6
    linear = t * math.log(t / k * (math.exp(k * high / t) - math.exp(k * low / t)))
    scale = math.sqrt(k / (2 * t))
    erf = math.erf((high - centre) * scale) - math.erf((low - centre) * scale)
    hill = t * math.log(math.sqrt(math.pi * t / (2 * k)) * erf)
    deviation(abs(exact(lambda a: k * a[..., 0], t, low, high) - linear), 1e-9)
    deviation(abs(exact(lambda a: -0.5 * k * (a[..., 0] - centre) ** 2, t, low, high) - hill), 1e-9)


@pytest.mark.proves("eq-soft-maximum", method="Riemann sum on ever finer grids")
def test_a_sum_times_the_spacing_tends_to_the_integral(deviation: Deviation) -> None:
    totals = {}
    for count in (1_000, 100_000):
        grid = -2 + 4.0 / count * (torch.arange(count) + 0.5)
        totals[count] = torch.logsumexp(q_here(grid.unsqueeze(-1)), dim=0).item()
    deviation(abs(totals[100_000] + math.log(4.0 / 100_000) - exact(q_here)), 1e-8)
    # The bare sum has no limit: a hundred times more points add log 100.
    assert totals[100_000] - totals[1_000] == pytest.approx(math.log(100.0), abs=1e-5)


@pytest.mark.proves("claim-between-mean-and-maximum", method="adaptive quadrature, 10 critics")
def test_the_soft_maximum_lies_between_mean_and_maximum(deviation: Deviation) -> None:
    grid = torch.linspace(-2, 2, 4001).unsqueeze(-1)
    outside, unnormalised_outside = 0.0, 0.0
    for seed in range(10):
        a, b, c, d = (3 * torch.randn(4, generator=seeded(seed))).tolist()

        def q(x: Tensor, a: float = a, b: float = b, c: float = c, d: float = d) -> Tensor:
            return a * x[..., 0] + b * torch.sin(c * x[..., 0]) + d * torch.cos(2 * x[..., 0])

        mean = integrate.quad(lambda x, q=q: q(torch.tensor([x])).item() / 4, -2, 2)[0]
        highest = q(grid).max().item() + 1e-4  # the grid may miss the top by a little
        for t in (0.2, 1.0, 5.0):
            value = exact(q, t)
            outside = max(outside, mean - value + t * LOG_4, value - t * LOG_4 - highest)
            unnormalised_outside = max(unnormalised_outside, value - highest)
    deviation(max(outside, 0.0), 1e-12)
    assert unnormalised_outside > 1.0  # with the volume's share it is no value between the two
    deviation(abs(exact(q_here, 0.01) - 0.01 * LOG_4 - q_here(grid).max().item()), 0.06)
    mean = integrate.quad(lambda x: q_here(torch.tensor([x])).item() / 4, -2, 2, points=[1.4])[0]
    deviation(abs(exact(q_here, 1e4) - 1e4 * LOG_4 - mean), 1e-3)


# ----------------------------------------------------------------------------- the estimate


@pytest.mark.proves("eq-importance-sampling", method="adaptive quadrature")
@pytest.mark.parametrize("source", SOURCES)
def test_weighted_samples_average_to_the_integral(source: str, deviation: Deviation) -> None:
    action, log_density = draw(source, (1_000_000,), seed=0)
    integral = math.exp(exact(q_here))
    average = (q_here(action).exp() / log_density.exp()).mean().item()
    deviation(abs(average / integral - 1), 0.02)
    without = q_here(action).exp().mean().item()
    assert abs(without / integral - 1) > 0.2


@pytest.mark.proves("eq-log-mean-exp", method="plain loop with exact summation")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_library_agrees_with_a_plain_loop(temperature: float, deviation: Deviation) -> None:
    action, log_density = draw_mixture(5, 30, seed=1)
    q_values = q_here(action)
    for row in range(5):
        ratios = [
            math.exp(q / temperature) / math.exp(m)
            for q, m in zip(q_values[row].tolist(), log_density[row].tolist(), strict=True)
        ]
        by_hand = temperature * math.log(math.fsum(ratios) / len(ratios))
        estimate = log_mean_exp_q(q_values[row], log_density[row], temperature).item()
        deviation(abs(estimate - by_hand), 1e-12)


@pytest.mark.proves("eq-log-mean-exp", method="adaptive quadrature; five wrong versions fail")
@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_the_estimate_converges_and_wrong_versions_do_not(
    temperature: float, deviation: Deviation
) -> None:
    t, count = temperature, 900_000
    action, m = draw_mixture(1, count, seed=2)
    q, truth, tolerance = q_here(action), exact(q_here, temperature), 0.02
    deviation(abs(log_mean_exp_q(q, m, t).item() - truth), tolerance)
    exponents = {
        "no density": q / t,
        "sign turned": q / t + m,
        "temperature on both": (q - m) / t,
    }
    wrong = {n: t * (torch.logsumexp(x, 1).item() - math.log(count)) for n, x in exponents.items()}
    wrong["without log N"] = t * torch.logsumexp(q / t - m, 1).item()
    wrong["T in front forgotten"] = torch.logsumexp(q / t - m, 1).item() - math.log(count)
    for name, value in wrong.items():
        assert abs(value - truth) > 5 * tolerance, name


@pytest.mark.proves("claim-any-proposal", method="adaptive quadrature at both states")
@pytest.mark.parametrize("source", SOURCES)
def test_the_source_does_not_matter_and_the_state_does(source: str, deviation: Deviation) -> None:
    action, log_density = draw(source, (1_000_000,), seed=3)
    here, there = exact(q_here), exact(lambda a: critic(-0.8, a))
    at_s = log_mean_exp_q(critic(0.5, action), log_density).item()
    at_next = log_mean_exp_q(critic(-0.8, action), log_density).item()
    deviation(abs(at_s - here), 0.02)
    deviation(abs(at_next - there), 0.02)
    assert abs(at_next - here) > 0.4


@pytest.mark.proves("eq-log-n", method="automatic differentiation of both versions")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_log_n_shifts_the_value_and_not_the_gradient(
    temperature: float, deviation: Deviation
) -> None:
    action, log_density = draw_mixture(4, 30, seed=4)
    q_values = q_here(action).requires_grad_()
    complete = log_mean_exp_q(q_values, log_density, temperature)
    without = temperature * torch.logsumexp(q_values / temperature - log_density, dim=1)
    difference = (without - complete).detach() - temperature * math.log(30)
    deviation(difference.abs().max(), 1e-12)
    gradients = [torch.autograd.grad(x.sum(), q_values)[0] for x in (complete, without)]
    deviation((gradients[0] - gradients[1]).abs().max(), 1e-14)


@pytest.mark.proves("eq-temperature-error", method="difference of two adaptive quadratures")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_dividing_the_density_by_t_shifts_uniform_estimates(
    temperature: float, deviation: Deviation
) -> None:
    t = temperature
    action, log_density = draw("uniform", (300_000,), seed=5)
    q_values = q_here(action)
    both = t * (torch.logsumexp((q_values - log_density) / t, 0).item() - math.log(300_000))
    right = log_mean_exp_q(q_values, log_density, t).item()
    deviation(abs(both - right - (1 - t) * LOG_4), 1e-11)
    # The limit of the wrong version is another integral: exp((Q + log 4) / T) / 4.
    limit = exact(lambda a: q_here(a) + LOG_4, t) - t * LOG_4
    deviation(abs(both - limit), 0.02 * max(t, 1.0))


# ----------------------------------------------------------------------------- its quality


def relative_variance() -> float:
    """c^2 of a uniform proposal, by quadrature of exp(2 Q)."""
    return math.exp(LOG_4 + 2 * exact(q_here, 0.5) - 2 * exact(q_here)) - 1


@pytest.mark.proves("eq-bias-and-spread", method="20,000 repetitions against quadrature")
def test_bias_and_spread_follow_their_formulas(deviation: Deviation) -> None:
    c2, truth = relative_variance(), exact(q_here)
    for count in (60, 240):
        action, log_density = draw("uniform", (20_000, count), seed=6)
        estimates = log_mean_exp_q(q_here(action), log_density)
        # The relative error of the average has mean zero: taking it away removes most noise.
        relative = (q_here(action) - log_density - truth).exp().mean(dim=1) - 1
        bias = (estimates - relative).mean().item() - truth
        deviation(abs(bias / (-c2 / (2 * count)) - 1), 0.05)
        deviation(abs(estimates.std().item() / math.sqrt(c2 / count) - 1), 0.03)


@pytest.mark.proves("eq-effective-sample-size", method="second moment by quadrature")
def test_effective_sample_size_of_uniform_proposals(deviation: Deviation) -> None:
    action, log_density = draw("uniform", (1_000_000,), seed=7)
    log_ratio = q_here(action) - log_density
    ratio = log_ratio.exp()
    by_sums = (ratio.sum().square() / ratio.square().sum()).item()
    by_softmax = (1 / torch.softmax(log_ratio, 0).square().sum()).item()
    deviation(abs(by_sums / by_softmax - 1), 1e-10)
    deviation(abs(by_sums / 1_000_000 - 1 / (1 + relative_variance())), 0.005)


@pytest.mark.proves("claim-mixture-pays", method="closed form: a product of Gaussian integrals")
def test_a_mixture_pays_in_many_dimensions_and_not_in_one(deviation: Deviation) -> None:
    erf = math.erf(1.4 * math.sqrt(2)) + math.erf(2.6 * math.sqrt(2))
    one_dimension = math.log(math.sqrt(math.pi / 2) / 2 * erf)
    biases = {}
    for d in (1, 8):
        box = torch.full((d,), -2.0), torch.full((d,), 2.0)
        flat = uniform_log_density(*box)
        action = uniform_actions((4000, 30), *box, seeded(8))
        parts = [(action[:, :10], flat.expand(4000, 10))]
        for seed, (mean, std) in enumerate(((0.3, 0.35), (0.2, 0.45)), start=9):
            source = TanhNormal(torch.full((d,), mean), torch.full((d,), std), *box)
            parts.append(source.rsample_with_log_prob((4000, 10), seeded(seed)))
        mixed, own = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
        for name, a, m in (("uniform", action, flat.expand(4000, 30)), ("mixture", mixed, own)):
            hill = -2 * (a - 0.6).square().sum(-1)
            error = log_mean_exp_q(hill, m) - d * one_dimension
            biases[name, d] = error.mean().item()
    deviation(abs(biases["uniform", 1]), 0.1)
    deviation(abs(biases["mixture", 8]), 0.6)
    assert biases["uniform", 8] < -2


@pytest.mark.proves("claim-infinite-variance", method="adaptive quadrature over pre-tanh values")
@pytest.mark.parametrize(("mean", "std"), [(-0.3, 0.5), (0.4, 0.6), (0.0, 1.0), (1.0, 0.2)])
def test_a_squashed_policy_has_no_second_moment(
    mean: float, std: float, deviation: Deviation
) -> None:
    def log_length(u: float) -> float:  # log da/du for half-width 2, without cancellation
        return math.log(8.0) - 2 * abs(u) - 2 * math.log1p(math.exp(-2 * abs(u)))

    def log_normal(u: float) -> float:
        return -0.5 * ((u - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))

    def second_moment(cut: float) -> float:
        return integrate.quad(
            lambda u: math.exp(2 * log_length(u) - log_normal(u)), mean - cut, mean + cut, limit=200
        )[0]

    cuts = [10.0 * std**2 + 2 * std * k for k in (0, 1, 2)]
    near, middle, far = (second_moment(cut) for cut in cuts)
    # It grows faster and faster: what has been collected so far becomes negligible.
    deviation(near / middle, 0.05)
    deviation(middle / far, 0.05)
    # The first moment stays: it is the length of the axis.
    first = integrate.quad(lambda u: math.exp(log_length(u)), -30, 30, points=[0])[0]
    deviation(abs(first - 4.0), 1e-9)
    # One third uniform, weighted by the density of the *mixture*: no weight exceeds 3 vol = 12.
    u = torch.linspace(-18, 18, 2001)
    length = torch.tensor([math.exp(log_length(x)) for x in u.tolist()])
    density = torch.tensor([math.exp(log_normal(x)) for x in u.tolist()]) / length
    weight = 1 / (2 / 3 * density + 1 / 3 * 0.25)
    assert (weight <= 12.0 + 1e-9).all()
    assert weight.max() > 11.9  # and the bound is reached where the policy never goes
    assert (1 / density).max() > 1e6


# ----------------------------------------------------------------------------- the penalty


def random_inputs(seed: int, lead: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    q = torch.randn((*lead, 5, 12), generator=generator)
    m = torch.randn((5, 12), generator=generator)
    return q, m, torch.randn((*lead, 5), generator=generator)


@pytest.mark.proves("eq-penalty", method="plain loop over states and critics")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_penalty_agrees_with_a_plain_loop(temperature: float, deviation: Deviation) -> None:
    q, m, data = random_inputs(10, (2,))
    penalty = cql_penalty(q, m, data, temperature)
    for critic_index in range(2):
        gaps = []
        for b in range(5):
            ratios = [math.exp(q[critic_index, b, i] / temperature - m[b, i]) for i in range(12)]
            soft = temperature * math.log(math.fsum(ratios) / 12)
            gaps.append(soft - data[critic_index, b].item())
        deviation(abs(penalty[critic_index].item() - math.fsum(gaps) / 5), 1e-12)


@pytest.mark.proves("eq-penalty-gradient", method="autograd and central finite differences")
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_is_softmax_minus_data(temperature: float, deviation: Deviation) -> None:
    q, m, data = random_inputs(11)
    formula = torch.softmax(q / temperature - m, dim=1) / 5
    q_leaf, data_leaf = q.clone().requires_grad_(), data.clone().requires_grad_()
    penalty = cql_penalty(q_leaf, m, data_leaf, temperature)
    by_q, by_data = torch.autograd.grad(penalty, (q_leaf, data_leaf))
    deviation((by_q - formula).abs().max(), 1e-14)
    deviation((by_data + 1 / 5).abs().max(), 1e-14)
    step = 1e-5
    for b, i in np.ndindex(5, 12):
        nudge = torch.zeros(5, 12)
        nudge[b, i] = step
        up, down = (cql_penalty(q + s * nudge, m, data, temperature).item() for s in (1, -1))
        deviation(abs((up - down) / (2 * step) - formula[b, i].item()), 1e-9)
    wrong = torch.softmax((q - m) / temperature, dim=1) / 5
    if temperature != 1.0:
        assert (by_q - wrong).abs().max() > 1e-3
    assert (by_q - torch.softmax(q / temperature + m, dim=1) / 5).abs().max() > 1e-3


@pytest.mark.proves("claim-shift", method="shifted critics, sums of autograd's gradients")
def test_only_differences_within_a_state_count(deviation: Deviation) -> None:
    q, m, data = random_inputs(12)
    shift = 100 * torch.randn(5, generator=seeded(13))
    before = cql_penalty(q, m, data, 2.0)
    after = cql_penalty(q + shift.unsqueeze(1), m, data + shift, 2.0)
    deviation(abs(after.item() - before.item()), 1e-10)
    q, data = q.requires_grad_(), data.requires_grad_()
    by_q, by_data = torch.autograd.grad(cql_penalty(q, m, data, 2.0), (q, data))
    deviation((by_q.sum(1) + by_data).abs().max(), 1e-14)
    # A shift of the proposals alone is no such shift.
    moved = cql_penalty(q.detach() + 1.0, m, data.detach(), 2.0)
    assert abs(moved.item() - before.item()) > 0.5


@pytest.mark.proves("claim-three-or-thirty", method="share of the integral by quadrature")
def test_thirty_at_once_find_a_narrow_spike(deviation: Deviation) -> None:
    def narrow(action: Tensor) -> Tensor:
        return 6.0 * torch.exp(-0.5 * ((action[..., 0] - 1.4) / 0.04) ** 2)

    def integrand(torque: float) -> float:
        return math.exp(narrow(torch.tensor([torque])).item())

    inside = integrate.quad(integrand, 1.28, 1.52)[0]
    outside = integrate.quad(integrand, -2, 1.28)[0] + integrate.quad(integrand, 1.52, 2)[0]
    truth = inside / (inside + outside)
    shares = {}
    for count in (30, 30_000):
        repeats = 600_000 // count
        action, log_density = draw_mixture(repeats, count, seed=14)
        exponents = narrow(action) - log_density
        on_spike = (action[..., 0] - 1.4).abs() < 0.12
        shares[count] = torch.softmax(exponents, 1)[on_spike].sum().item() / repeats
        if count == 30:  # three neighbours along the last axis: one proposal of each source
            triples = torch.softmax(exponents.reshape(repeats, 3, 10), dim=1)
            shares[3] = triples.reshape(repeats, 30)[on_spike].sum().item() / (10 * repeats)
    deviation(abs(shares[30_000] - truth), 0.01)
    deviation(shares[3] / shares[30], 0.5)


@pytest.mark.parametrize("source", ["current policy", "next policy"])
def test_the_turned_sign_estimates_another_integral(source: str) -> None:
    action, log_density = draw(source, (400_000,), seed=15)
    turned = torch.logsumexp(q_here(action) + log_density, 0).item() - math.log(400_000)
    limit = exact(lambda a: q_here(a) + 2 * policy(source).log_prob(a))
    assert turned == pytest.approx(limit, abs=0.02)
    assert abs(limit - exact(q_here)) > 0.5


# ----------------------------------------------------------------------------- the exercises


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def mixture_density(log_densities: Tensor) -> Tensor:
    return torch.logsumexp(log_densities, dim=0) - math.log(len(log_densities))


def gradient(q: Tensor, m: Tensor, t: float) -> tuple[Tensor, Tensor]:
    return torch.softmax(q / t - m, 1) / len(q), torch.full((len(q),), -1 / len(q))


def by_autograd(q: Tensor, m: Tensor, t: float) -> tuple[Tensor, ...]:
    q = q.clone().requires_grad_()
    data_q = torch.zeros(len(q), dtype=q.dtype, requires_grad=True)
    penalty = (t * torch.logsumexp(q / t - m, 1) - data_q).mean()
    return torch.autograd.grad(penalty, (q, data_q))


SILENT_BUG = {
    "shape": (64, 64),
    "value_changes": False,
    "gradient_changes": False,
    "clipping_changes": True,
}


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("ex-logsumexp-volume", 6.47),
        ("ex-logsumexp-volume", torch.tensor(1.5 + 2 * math.log(12))),
        ("ex-logsumexp-mixture", mixture_density),
        ("ex-logsumexp-gradient", gradient),
        ("ex-logsumexp-gradient", lambda q, m, t: [part.numpy() for part in gradient(q, m, t)]),
        ("ex-logsumexp-broadcast", SILENT_BUG),
    ],
)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(capsys, exercise, answer).startswith(f"{exercise}: passed.")


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-logsumexp-volume", ...),
        ("ex-logsumexp-mixture", lambda log_densities: ...),
        ("ex-logsumexp-gradient", lambda q, m, t: ...),
        ("ex-logsumexp-broadcast", dict.fromkeys(SILENT_BUG, ...)),
        ("ex-logsumexp-broadcast", SILENT_BUG | {"shape": ...}),
    ],
)
def test_stubs_are_told_gently(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-logsumexp-volume", 1.5, "volume of the box|box's volume"),
        ("ex-logsumexp-volume", 1.5 + math.log(12), "T = 1"),
        ("ex-logsumexp-volume", 1.5 - 2 * math.log(12), "sign"),
        ("ex-logsumexp-volume", 0.75 + math.log(12), "log of the integral"),
        ("ex-logsumexp-volume", 12 * math.exp(0.75), "integral itself"),
        ("ex-logsumexp-volume", 1.5 + 2 * math.log(8), "3 and 4"),
        ("ex-logsumexp-volume", 2 * (1.5 + math.log(12)), "Q is divided by T"),
        ("ex-logsumexp-volume", 1.5 / 2 + 2 * math.log(12), "the whole logarithm"),
        ("ex-logsumexp-volume", 1.5 + 2 * math.log(7), "not their sum"),
        ("ex-logsumexp-volume", 1.5 + 2 * math.log(1.5 * 2), "not half of them"),
        ("ex-logsumexp-volume", 1.5 + 2 * math.log10(12), "natural one"),
        ("ex-logsumexp-volume", 99.0, "Write down the integral"),
        ("ex-logsumexp-volume", "six", "A number is expected"),
        ("ex-logsumexp-mixture", lambda m: torch.logsumexp(m, 0), "log J is missing"),
        ("ex-logsumexp-mixture", lambda m: m.mean(0), "mean of the logs"),
        ("ex-logsumexp-mixture", lambda m: m.exp().mean(0).log(), "use torch.logsumexp"),
        ("ex-logsumexp-mixture", lambda m: m.logsumexp(-1), "shape should be"),
        ("ex-logsumexp-mixture", lambda m: m[0], "Wrong values"),
        ("ex-logsumexp-mixture", lambda m: 3.0, "A tensor is expected"),
        ("ex-logsumexp-gradient", lambda q, m, t: gradient(q, 0 * m, t), "belongs inside"),
        ("ex-logsumexp-gradient", lambda q, m, t: gradient(q, -m, t), "subtracted, not added"),
        ("ex-logsumexp-gradient", lambda q, m, t: gradient(q, m / t, t), "not the log-density"),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (gradient(q, m, t)[0] / t, gradient(q, m, t)[1]),
            "one 1 / T too many",
        ),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (gradient(q, m, t)[0] * t, gradient(q, m, t)[1]),
            "one T too many",
        ),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (gradient(q, m, t)[0] * len(q), gradient(q, m, t)[1]),
            "divides by B",
        ),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (torch.softmax(q / t - m, 0) / len(q), gradient(q, m, t)[1]),
            "axis 1",
        ),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (gradient(q, m, t)[0], -gradient(q, m, t)[1]),
            "negative",
        ),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (gradient(q, m, t)[0], -torch.ones(len(q))),
            "each is -1 / B",
        ),
        ("ex-logsumexp-gradient", lambda q, m, t: gradient(q, m, t)[0], "two tensors"),
        ("ex-logsumexp-gradient", lambda q, m, t: gradient(q, m, t)[::-1], "proposal_q first"),
        ("ex-logsumexp-gradient", lambda q, m, t: (gradient(q, m, t)[0], ...), "to be written"),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: tuple(-part for part in gradient(q, m, t)),
            "the sign is turned",
        ),
        ("ex-logsumexp-gradient", lambda q, m, t: gradient(q, m, 1.0), "T is missing"),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (torch.softmax(q / t - m, 1) / q.shape[1], gradient(q, m, t)[1]),
            "not over the N proposals.",
        ),
        (
            "ex-logsumexp-gradient",
            lambda q, m, t: (torch.softmax(q / t - m, 1) / q.numel(), gradient(q, m, t)[1]),
            "not over the N proposals too",
        ),
        ("ex-logsumexp-gradient", by_autograd, "autograd is switched off"),
        ("ex-logsumexp-gradient", lambda q, m, t: (q, q[:, 0]), "is wrong for"),
        ("ex-logsumexp-broadcast", SILENT_BUG | {"shape": (64,)}, "whole table"),
        ("ex-logsumexp-broadcast", SILENT_BUG | {"value_changes": True}, "value of the mean"),
        ("ex-logsumexp-broadcast", SILENT_BUG | {"gradient_changes": True}, "gradient of the"),
        ("ex-logsumexp-broadcast", SILENT_BUG | {"clipping_changes": False}, "not linear"),
        ("ex-logsumexp-broadcast", {"shape": (64, 64)}, "missing: value_changes"),
        ("ex-logsumexp-broadcast", 3, "A dictionary is expected"),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert any(part in out for part in help_.split("|")), out


def test_the_claims_of_the_silent_bug_hold() -> None:
    soft, data = torch.randn(64, generator=seeded(16)), torch.randn((64, 1), generator=seeded(17))
    data.requires_grad_()
    table, intended = soft - data, soft - data.squeeze(1)
    gradients = [torch.autograd.grad(gap.mean(), data)[0] for gap in (table, intended)]
    measured = {
        "shape": tuple(table.shape),
        "value_changes": not torch.allclose(table.mean(), intended.mean()),
        "gradient_changes": not torch.allclose(*gradients),
        "clipping_changes": not torch.allclose(
            table.clamp(min=0).mean(), intended.clamp(min=0).mean()
        ),
    }
    assert measured == SILENT_BUG
