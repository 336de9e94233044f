"""Proofs of *The uniform log-density*, and tests of its exercise checkers.

Each proof is by another method than the library's, and each also shows that a wrong version that
was published somewhere does not pass the same check.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from offline_rl_lib import TanhNormal, log_mean_exp_q, uniform_actions, uniform_log_density
from offline_rl_lib.densities import log_tanh_jacobian
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Bounds = tuple[list[float], list[float]]

BOXES: dict[str, Bounds] = {
    "pendulum": ([-2.0], [2.0]),
    "one-sided": ([0.0], [5.0]),
    "small": ([-0.4, -0.4], [0.4, 0.4]),
    "car racing": ([-1.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "unequal": ([-3.0, 0.5, -0.1], [-1.0, 0.75, 7.0]),
}
PENDULUM = BOXES["pendulum"]
CRITICS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda a: 2 * a,
    "wavy": lambda a: 3 * np.sin(2 * a) - 0.8 * (a - 0.5) ** 2,
    "peak at the edge": lambda a: 4 * np.exp(-(((a - 1.8) / 0.2) ** 2)),
}
each_box = pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
each_critic = pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS.keys())


@pytest.fixture(autouse=True)
def double_precision() -> Any:
    """Compute in float64, as the chapter does."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadrature(low: list[float], high: list[float], order: int) -> tuple[Tensor, Tensor]:
    """Points (K, d) and weights (K,) of the product Gauss-Legendre rule."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    axes = [(hi + lo) / 2 + (hi - lo) / 2 * nodes for lo, hi in zip(low, high, strict=True)]
    scales = [(hi - lo) / 2 * weights for lo, hi in zip(low, high, strict=True)]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    products = np.prod([scale.ravel() for scale in np.meshgrid(*scales, indexing="ij")], axis=0)
    return torch.tensor(points), torch.tensor(products)


def log_integral(critic: Callable[[Any], Any], low: float, high: float) -> float:
    """log of the integral of exp Q by SciPy's adaptive rule, independent of `quadrature`."""
    value, _ = integrate.quad(
        lambda a: math.exp(critic(a)), low, high, epsabs=1e-13, epsrel=1e-13, limit=300
    )
    return math.log(value)


# ---- the density -------------------------------------------------------------------------------


@each_box
@pytest.mark.proves("eq-uniform-density", method="Gauss-Legendre quadrature over the box")
def test_density_integrates_to_one(box: Bounds, deviation: Deviation) -> None:
    _, weights = quadrature(*box, order=12)
    integral = (weights * uniform_log_density(*box).exp()).sum().item()
    deviation(abs(integral - 1), 1e-12)
    fixed = (weights * 0.5 ** len(box[0])).sum().item()
    assert abs(fixed - 1) > 0.1, "0.5**d must fail the same check on these boxes"


@each_box
@pytest.mark.proves("eq-uniform-density", method="SciPy's uniform distributions, multiplied")
def test_density_agrees_with_scipy_inside_and_outside(box: Bounds, deviation: Deviation) -> None:
    low, high = np.array(box[0]), np.array(box[1])
    inside = uniform_actions((50,), *box, generator()).numpy()
    reference = stats.uniform(low, high - low)
    densities = reference.pdf(inside).prod(axis=-1)
    deviation(np.abs(densities * np.prod(high - low) - 1).max(), 1e-12)
    outside = inside.copy()
    outside[:, -1] = high[-1] + 0.01
    assert (reference.pdf(outside).prod(axis=-1) == 0).all()


@each_box
@pytest.mark.proves("eq-uniform-log-density", method="exact rational arithmetic for the volume")
def test_log_density_is_minus_log_volume(box: Bounds, deviation: Deviation) -> None:
    from fractions import Fraction

    volume = Fraction(1)
    for low, high in zip(*box, strict=True):
        volume *= Fraction(high) - Fraction(low)
    exact = math.log(volume.denominator) - math.log(volume.numerator)
    deviation(abs(uniform_log_density(*box).item() - exact), 1e-12)
    half_widths = -sum(math.log((hi - lo) / 2) for lo, hi in zip(*box, strict=True))
    assert abs(half_widths - exact) > 0.5


@pytest.mark.parametrize("size", [1, 3, 6, 17])
def test_the_posts_constant_is_right_on_the_unit_box_only(size: int) -> None:
    ones = torch.ones(size)
    assert uniform_log_density(-ones, ones).item() == pytest.approx(math.log(0.5**size))
    missing = math.log(0.5**size) - uniform_log_density(-2 * ones, 2 * ones).item()
    assert missing == pytest.approx(size * math.log(2))


@pytest.mark.proves("claim-underflow", method="exponent range of IEEE 754, and exact log 4")
def test_the_product_underflows_and_the_sum_does_not(deviation: Deviation) -> None:
    for number_type, bits, first_zero in [
        (np.float32, torch.float32, 150),
        (np.float64, torch.float64, 1075),
    ]:
        # The smallest subnormal number is 2**-149 in 32 bits and 2**-1074 in 64 bits.
        info = np.finfo(number_type)
        assert first_zero == info.nmant - info.minexp + 1
        half = number_type(0.5)
        assert half ** number_type(first_zero) == 0 < half ** number_type(first_zero - 1)
        widths = torch.full((5000,), 2.0, dtype=bits)
        log_density = uniform_log_density(-widths, widths)
        assert torch.isfinite(log_density)
        assert torch.isinf((2 * widths).prod())
        exact = -5000 * math.log(4)
        # The sum of 5,000 equal terms in 32 bits keeps about six digits.
        deviation(abs(log_density.item() / exact - 1), 1e-5 if bits == torch.float32 else 1e-12)


# ---- the draws ---------------------------------------------------------------------------------


@each_box
@pytest.mark.proves("eq-uniform-sample", method="Kolmogorov-Smirnov distance, per dimension")
def test_draws_fill_every_dimension(box: Bounds, deviation: Deviation) -> None:
    count = 20_000
    actions = uniform_actions((count,), *box, generator(1)).numpy()
    critical = stats.kstwo.isf(1e-4, count)  # exceeded once in 10,000 such tests
    for j, (low, high) in enumerate(zip(*box, strict=True)):
        reference = stats.uniform(low, high - low).cdf
        deviation(stats.kstest(actions[:, j], reference).statistic, critical)
        middle = (low + high) / 2 + (actions[:, j] - (low + high) / 2) / 2
        half_range = stats.kstest(middle, reference).statistic
        assert half_range == pytest.approx(0.25, abs=0.02)
        assert half_range > critical


def test_dimensions_are_independent() -> None:
    actions = uniform_actions((20_000,), *BOXES["unequal"], generator(2))
    correlation = torch.corrcoef(actions.T) - torch.eye(3)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)


@each_box
def test_draws_are_the_stretched_random_numbers(box: Bounds) -> None:
    low, high = torch.tensor(box[0]), torch.tensor(box[1])
    fraction = torch.rand(64, 10, len(low), generator=generator(3))
    actions = uniform_actions((64, 10), *box, generator(3))
    assert actions.shape == (64, 10, len(low))
    assert torch.equal(actions, low + (high - low) * fraction)


# ---- the estimate ------------------------------------------------------------------------------


@each_critic
@pytest.mark.proves(
    "eq-uniform-estimate", method="the expectation by quadrature; Z by SciPy's quad"
)
def test_the_estimate_is_right_on_average(critic: Any, deviation: Deviation) -> None:
    (low,), (high,) = PENDULUM
    points, weights = quadrature(*PENDULUM, order=200)
    ratios = (
        torch.from_numpy(np.exp(critic(points[:, 0].numpy())))
        / uniform_log_density(*PENDULUM).exp()
    )
    mean = (weights / (high - low) * ratios).sum().item()
    truth = log_integral(critic, low, high)
    deviation(abs(math.log(mean) - truth), 1e-10)
    assert abs(math.log(mean * 0.25 / 0.5) - truth) > 0.1, "a claimed density of 0.5 must fail"


@each_critic
@pytest.mark.proves("eq-uniform-estimate", method="one million draws, in standard errors")
def test_sampled_estimate_is_within_its_standard_error(critic: Any, deviation: Deviation) -> None:
    actions = uniform_actions((1_000_000,), *PENDULUM, generator(4))[:, 0].numpy()
    samples = np.exp(critic(actions) - uniform_log_density(*PENDULUM).item())
    standard_error = samples.std(ddof=1) / math.sqrt(len(samples))
    deviation(abs(samples.mean() - math.exp(log_integral(critic, -2, 2))) / standard_error, 4)


@each_critic
@pytest.mark.proves("eq-push-down", method="automatic differentiation and finite differences")
def test_the_push_is_a_softmax_over_the_draws(critic: Any, deviation: Deviation) -> None:
    actions = uniform_actions((30,), *PENDULUM, generator(5))[:, 0]
    q_values = torch.from_numpy(critic(actions.numpy())).requires_grad_()
    log_densities = uniform_log_density(*PENDULUM).expand(30)
    log_mean_exp_q(q_values, log_densities).backward()
    weights = np.exp(q_values.detach().numpy())
    softmax = weights / weights.sum()  # the constant density cancels
    deviation(np.abs(q_values.grad.numpy() - softmax).max(), 1e-12)
    step = 1e-6
    for i in (0, 17):
        shifted = q_values.detach().clone()
        shifted[i] += step
        change = log_mean_exp_q(shifted, log_densities) - log_mean_exp_q(
            q_values.detach(), log_densities
        )
        assert change.item() / step == pytest.approx(softmax[i], abs=1e-5)
    assert np.abs(softmax - 1 / 30).max() > 1e-3, "an even push is not what the gradient is"


@pytest.mark.proves("eq-push-down", method="exp Q / Z by its closed form, on intervals")
def test_the_push_of_many_draws_is_the_softmax_density(deviation: Deviation) -> None:
    actions = uniform_actions((500_000,), *PENDULUM, generator(6))[:, 0]
    q_values = (2 * actions).requires_grad_()
    log_mean_exp_q(q_values, uniform_log_density(*PENDULUM)).backward()
    edges = np.linspace(-2, 2, 9)
    pushed = np.histogram(actions.numpy(), edges, weights=q_values.grad.numpy())[0]
    exact = np.diff(np.exp(2 * edges)) / (2 * math.sinh(4))
    deviation(np.abs(pushed - exact).max(), 0.005)
    inner = np.diff(np.exp(2 * edges.clip(-1, 1))) / (2 * math.sinh(2))
    assert np.abs(inner - exact).max() > 0.3, "the push of the half box is another one"


# ---- half of the box ---------------------------------------------------------------------------


@each_critic
@pytest.mark.proves("eq-half-box", method="SciPy's adaptive quadrature over the drawn range")
def test_a_half_box_estimates_the_half_integral(critic: Any, deviation: Deviation) -> None:
    points, weights = quadrature([-1.0], [1.0], order=200)
    ratios = np.exp(critic(points[:, 0].numpy()) - uniform_log_density([-1.0], [1.0]).item())
    limit = math.log((weights.numpy() / 2 * ratios).sum())
    deviation(abs(limit - log_integral(critic, -1, 1)), 1e-10)
    assert log_integral(critic, -2, 2) - limit > 0.2, "and the whole integral is larger"


@pytest.mark.proves("eq-half-box", method="closed form log sinh 2, a million draws")
def test_half_box_draws_converge_to_the_half_integral(deviation: Deviation) -> None:
    actions = uniform_actions((1_000_000,), [-1.0], [1.0], generator(7))
    estimate = log_mean_exp_q(2 * actions[:, 0], uniform_log_density([-1.0], [1.0])).item()
    deviation(abs(estimate - math.log(math.sinh(2))), 0.005)
    assert math.log(math.sinh(4)) - estimate > 2


@pytest.mark.parametrize("slope", [0.01, 0.7, 2.0])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.proves(
    "eq-half-share", method="product Gauss-Legendre quadrature in 1 to 3 dimensions"
)
def test_share_of_the_half_box(slope: float, size: int, deviation: Deviation) -> None:
    def integral(bound: float) -> float:
        points, weights = quadrature([-bound] * size, [bound] * size, order=24)
        return (weights * (slope * points.sum(dim=-1)).exp()).sum().item()

    share = (math.sinh(slope) / math.sinh(2 * slope)) ** size
    deviation(abs(integral(1.0) / integral(2.0) - share), 1e-12)
    assert share <= 0.5**size
    if slope < 0.1:
        assert share == pytest.approx(0.5**size, rel=1e-3)
    else:
        assert abs(share - 0.5**size) > 1e-3, "the share of the volume is not the share of the push"


def trained_table(sampled_bound: float) -> tuple[np.ndarray, np.ndarray]:
    """The chapter's table critic, trained with a gradient that is written out by hand."""
    width = 4 / 80
    cells = np.linspace(-2 + width / 2, 2 - width / 2, 80)
    sampled = np.abs(cells) < sampled_bound
    table = 2 * cells
    for _ in range(300):
        push = np.where(sampled, np.exp(table), 0.0)
        gradient = push / push.sum()
        gradient[40] += 2 * table[40] - 1
        table = table - 0.5 * gradient
    return cells, table


@pytest.mark.proves("claim-half-box-greedy", method="the gradient written out by hand, in NumPy")
def test_half_box_leaves_the_greedy_action_at_the_edge(deviation: Deviation) -> None:
    cells, whole = trained_table(2.0)
    _, half = trained_table(1.0)
    deviation(abs(cells[whole.argmax()] - cells[40]), 1e-12)
    deviation(abs(cells[half.argmax()] - cells[-1]), 1e-12)
    deviation(abs(half.max() - 2 * cells[-1]), 1e-12)
    assert whole.max() < 1 < half.max()


# ---- a wrong constant --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [math.log(2), -3.0, 10.0])
@pytest.mark.proves(
    "claim-constant-cancels", method="automatic differentiation with both constants"
)
def test_a_constant_shifts_the_value_only(error: float, deviation: Deviation) -> None:
    q_values = torch.randn(4, 25, generator=generator(8))
    results = []
    for shift in (0.0, error):
        leaf = q_values.clone().requires_grad_()
        value = log_mean_exp_q(leaf, uniform_log_density(*PENDULUM) + shift)
        value.sum().backward()
        results.append((value.detach(), leaf.grad))
    (value, gradient), (shifted_value, shifted_gradient) = results
    deviation((shifted_value - value + error).abs().max(), 1e-12)
    deviation((shifted_gradient - gradient).abs().max(), 1e-14)
    mixed = torch.cat([torch.full((4, 10), error), torch.zeros(4, 15)], dim=1)
    leaf = q_values.clone().requires_grad_()
    log_mean_exp_q(leaf, mixed).sum().backward()
    assert (leaf.grad - gradient).abs().max() > 0.01, "on one of two sources it does move it"


def policy_mean(critic: Callable[[Any], Any], mean: float, std: float) -> float:
    """E[exp Q(a) / pi(a)] under a tanh-normal on Pendulum's box, by quadrature before the tanh."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = 12 * nodes
    normal = stats.norm(mean, std).pdf(u)
    jacobian = 2 * np.exp(log_tanh_jacobian(torch.from_numpy(u)).numpy())
    density = normal / jacobian
    return float((12 * weights * normal * np.exp(critic(2 * np.tanh(u))) / density).sum())


@each_critic
@pytest.mark.parametrize("claimed", [0.25, 0.5, 0.125])
@pytest.mark.proves("eq-source-share", method="the expectation of each source by quadrature")
def test_limit_and_share_of_mixed_sources(
    critic: Any, claimed: float, deviation: Deviation
) -> None:
    truth = math.exp(log_integral(critic, -2, 2))
    points, weights = quadrature(*PENDULUM, order=200)
    uniform = (weights.numpy() / 4 * np.exp(critic(points[:, 0].numpy())) / claimed).sum()
    policies = [policy_mean(critic, 0.5, 1.0), policy_mean(critic, -0.3, 0.6)]
    ratio = 0.25 / claimed
    for n_uniform, n_policy in [(10, 10), (5, 20)]:
        count = n_uniform + 2 * n_policy
        mean = (n_uniform * uniform + n_policy * sum(policies)) / count
        limit = math.log(truth) + math.log((ratio * n_uniform + 2 * n_policy) / count)
        deviation(abs(math.log(mean) - limit), 1e-8)
        share = ratio * n_uniform / (ratio * n_uniform + 2 * n_policy)
        deviation(abs(n_uniform * uniform / (count * mean) - share), 1e-8)
        if claimed != 0.25:
            assert abs(math.log(mean / truth)) > 0.05
            assert abs(share - n_uniform / count) > 0.05


@pytest.mark.proves("eq-source-share", method="softmax over 1.2 million draws of three sources")
def test_share_of_sampled_sources(deviation: Deviation) -> None:
    count, rng = 400_000, generator(9)
    uniform = uniform_actions((count,), *PENDULUM, rng)
    policy = TanhNormal(torch.tensor([0.5]), torch.tensor([1.0]), *PENDULUM)
    drawn, log_policy = policy.rsample_with_log_prob((2 * count,), rng)
    q_values = 2 * torch.cat([uniform, drawn])[:, 0]
    for claimed, share in [(0.25, 1 / 3), (0.5, 1 / 5)]:
        log_densities = torch.cat([torch.full((count,), math.log(claimed)), log_policy])
        measured = (q_values - log_densities).softmax(dim=0)[:count].sum().item()
        deviation(abs(measured - share), 0.005)
    assert abs(1 / 3 - 1 / 5) > 0.005


# ---- the historical recipes --------------------------------------------------------------------


def judged(box: Bounds) -> dict[str, tuple[float, float, float]]:
    """For each recipe: share of box reached, share of draws inside, mean of 1/claimed over V.

    By counting points of a fine grid, not by the chapter's products of interval lengths.
    """
    low, high = np.array(box[0]), np.array(box[1])
    size, one = len(low), np.ones(len(low))
    ranges = {
        "constants": (-one, one, 0.5**size),
        "zero to one": (0 * one, one, 0.5**size),
        "first bounds": (low[0] * one, high[0] * one, 0.5**size),
        "right range": (low, high, 0.5**size),
        "swapped power": (low, high, size**0.5),
        "this book": (low, high, math.exp(uniform_log_density(*box).item())),
    }

    def counted(of: tuple[Any, Any], inside: tuple[Any, Any]) -> float:
        middles = (np.arange(200) + 0.5) / 200
        return float(
            np.prod(
                [
                    np.mean((lo + (hi - lo) * middles >= a) & (lo + (hi - lo) * middles <= b))
                    for lo, hi, a, b in zip(*of, *inside, strict=True)
                ]
            )
        )

    volume = np.prod(high - low)
    return {
        name: (counted((low, high), (a, b)), counted((a, b), (low, high)), 1 / claimed / volume)
        for name, (a, b, claimed) in ranges.items()
    }


@pytest.mark.proves("claim-unequal-box", method="counting the points of a grid")
def test_one_unequal_box_finds_all_five_recipes(deviation: Deviation) -> None:
    cheetah, car = judged(([-1.0] * 6, [1.0] * 6)), judged(BOXES["car racing"])
    exact = {name for name, judgement in cheetah.items() if np.allclose(judgement, 1)}
    assert exact == {"constants", "first bounds", "right range", "this book"}
    deviation(max(abs(number - 1) for number in car["this book"]), 1e-12)
    for name, judgement in car.items():
        if name != "this book":
            assert max(abs(number - 1) for number in judgement) > 0.2, name
    assert judged(PENDULUM)["constants"][::2] == pytest.approx((0.5, 0.5))
    assert judged(PENDULUM)["right range"] == pytest.approx((1, 1, 0.5))


# ---- the exercises -----------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


ANSWERS: dict[str, tuple[Callable[..., Any], dict[str, Callable[..., Any]]]] = {
    "ex-uniform-log-density": (
        lambda low, high: -sum(math.log(hi - lo) for lo, hi in zip(low, high, strict=True)),
        {
            "sign is turned": lambda low, high: sum(
                math.log(hi - lo) for lo, hi in zip(low, high, strict=True)
            ),
            "value for [-1, 1]^d": lambda low, high: math.log(0.5 ** len(low)),
            "half-width": lambda low, high: (
                -sum(math.log((hi - lo) / 2) for lo, hi in zip(low, high, strict=True))
            ),
            "this is the density": lambda low, high: 1 / math.prod(np.subtract(high, low)),
            "add logarithms": lambda low, high: (
                -math.log(math.prod(hi - lo for lo, hi in zip(low, high, strict=True)))
            ),
            "one number is expected": lambda low, high: [1.0, 2.0],
            "NaN": lambda low, high: math.nan,
        },
    ),
    "ex-uniform-part-box": (
        lambda k, c, f: math.log(math.sinh(k * f * c) / math.sinh(k * c)),
        {
            "sign is turned": lambda k, c, f: math.log(math.sinh(k * c) / math.sinh(k * f * c)),
            "ratio of the integrals": lambda k, c, f: math.sinh(k * f * c) / math.sinh(k * c),
            "volume alone": lambda k, c, f: math.log(f),
            "density of the whole box": lambda k, c, f: math.log(
                math.sinh(k * f * c) / math.sinh(k * c) / f
            ),
        },
    ),
}


@pytest.mark.parametrize("exercise", [*ANSWERS, "ex-uniform-detector"])
def test_stub_is_not_done_yet(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not done yet" in verdict(capsys, exercise, lambda *arguments: ...)
    assert "not done yet" in verdict(capsys, exercise, ...)


@pytest.mark.parametrize("exercise", ANSWERS)
def test_solution_passes_and_mistakes_are_named(
    exercise: str, capsys: pytest.CaptureFixture[str]
) -> None:
    solution, mistakes = ANSWERS[exercise]
    assert f"{exercise}: passed." in verdict(capsys, exercise, solution)
    for message, mistake in mistakes.items():
        said = verdict(capsys, exercise, mistake)
        assert "not right yet" in said
        assert message in said


def marginals_are_uniform(sampler: Callable[[int], Tensor], low: Tensor, high: Tensor) -> bool:
    fractions = (sampler(10_000) - low) / (high - low)
    return min(stats.kstest(column.numpy(), "uniform").pvalue for column in fractions.T) > 1e-4


def fills_the_box(sampler: Callable[[int], Tensor], low: Tensor, high: Tensor) -> bool:
    draws = (sampler(10_000) - low) / (high - low)
    correlation = torch.corrcoef(draws.T).reshape(len(low), len(low)) - torch.eye(len(low))
    return marginals_are_uniform(sampler, low, high) and correlation.abs().max().item() < 0.05


def test_detector_passes_and_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-uniform-detector"
    assert "passed. 15 correct samplers accepted, 7 faulty ones found" in verdict(
        capsys, exercise, fills_the_box
    )
    assert "finds 6 of 7" in (said := verdict(capsys, exercise, marginals_are_uniform))
    assert "copies of one random number" in said
    in_range = verdict(
        capsys,
        exercise,
        lambda sampler, low, high: bool(((a := sampler(1000)) >= low).all() and (a <= high).all()),
    )
    assert "It misses 'constants'" in in_range
    assert "rejects a correct sampler" in verdict(capsys, exercise, lambda *arguments: False)
