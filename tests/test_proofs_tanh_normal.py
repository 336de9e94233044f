"""Proofs of the chapter on the tanh-normal log-prob, and its exercises."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import mpmath
import nbformat
import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from offline_rl_lib import TanhNormal
from offline_rl_lib.densities import log_tanh_jacobian
from offline_rl_lib.exercise_checks.tanh_normal import SUSPECTS
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]

DOUBLE = torch.float64
CHAPTER = Path(__file__).parent.parent / "notebooks" / "04_tanh_normal.ipynb"
BOXES = [(-1.0, 1.0), (-2.0, 2.0), (0.0, 5.0)]


def policy(mean: float, std: float, low: float = -2.0, high: float = 2.0) -> TanhNormal:
    return TanhNormal(
        torch.tensor([mean], dtype=DOUBLE), torch.tensor([std], dtype=DOUBLE), [low], [high]
    )


def settings() -> Iterator[tuple[float, float, float, float]]:
    for low, high in BOXES:
        for mean in (0.0, 1.0, 2.0, 3.0):
            for std in (0.1, 0.3, 0.5, 1.0):
                yield mean, std, low, high


def graded_rule(low: float, high: float, shrink: float = 0.85) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points and weights in panels that shrink towards both bounds."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    panels = math.ceil(math.log(1e-14) / math.log(shrink))
    distance = (high - low) / 2 * shrink ** np.arange(panels)
    edges = np.concatenate([low + distance[::-1], high - distance[1:]])
    middle, radius = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    points = (middle[:, None] + radius[:, None] * nodes).ravel()
    return torch.from_numpy(points), torch.from_numpy((radius[:, None] * weights).ravel())


def mean_over_normal(
    function: Callable[[np.ndarray], np.ndarray], mean: float, std: float
) -> float:
    """E[function(u)], u ~ Normal(mean, std), by the trapezoidal rule on 20 standard deviations.

    The rule converges faster than any power of the step for such integrands.
    """
    z = np.linspace(-10, 10, 4001)
    return float((stats.norm.pdf(z) * function(mean + std * z)).sum() * (z[1] - z[0]))


def squeeze(u: np.ndarray) -> np.ndarray:
    """log(1 - tanh(u)**2) as -2 log cosh u."""
    return -2 * (np.logaddexp(u, -u) - math.log(2))


def squeeze_twice(u: np.ndarray) -> np.ndarray:
    return np.log(1 - np.tanh(np.tanh(u)) ** 2)


def pre_tanh_of(points: Tensor, low: float, high: float) -> np.ndarray:
    return np.arctanh((points.numpy() - (low + high) / 2) / ((high - low) / 2))


# --- the derivation -------------------------------------------------------------------------------


@pytest.mark.proves(
    "eq-change-of-variables", method="probability of a slice of u over the width of its image"
)
def test_shrinking_slices_approach_the_density(deviation: Deviation) -> None:
    for mean, std, low, high in [(0.5, 1.0, -2, 2), (-1.0, 0.4, 0, 5), (0.0, 2.0, -1, 1)]:
        for u in (-1.5, 0.0, 0.5, 2.0):
            edges = np.array([u - 1e-4, u + 1e-4])
            # On the far side of the mean the tails differ in digits that the cdf has rounded away.
            tail = stats.norm.sf if u > mean else stats.norm.cdf
            probability = abs(np.diff(tail(edges, mean, std))[0])
            image = np.diff((low + high) / 2 + (high - low) / 2 * np.tanh(edges))[0]
            action = (low + high) / 2 + (high - low) / 2 * math.tanh(u)
            score = policy(mean, std, low, high).log_prob(torch.tensor([action], dtype=DOUBLE))
            density = score.exp().item()
            deviation(abs(density / (probability / image) - 1), 1e-6)
            # Without the division by the slope the same comparison fails.
            if u:
                assert abs(stats.norm.pdf(u, mean, std) / (probability / image) - 1) > 0.1


@pytest.mark.proves("eq-tanh-slope", method="automatic differentiation of the sampled action")
def test_slope_of_the_squash(deviation: Deviation) -> None:
    mean = torch.linspace(-4, 4, 81, dtype=DOUBLE).unsqueeze(-1).requires_grad_()
    for low, high in BOXES:
        action = TanhNormal(mean, torch.ones_like(mean), [low], [high]).mode
        (slope,) = torch.autograd.grad(action.sum(), mean)
        formula = (high - low) / 2 * (1 - mean.detach().tanh() ** 2)
        deviation((slope - formula).abs().max(), 1e-14)


@pytest.mark.proves(
    "eq-tanh-normal", method="derivative of the distribution function, in 40 digits"
)
def test_density_is_the_derivative_of_the_distribution_function(deviation: Deviation) -> None:
    """P(action <= a) is Phi((atanh((a - m) / h) - mean) / std); mpmath differentiates it."""
    mean, std = [0.5, -0.3, 1.5], [1.0, 0.4, 2.0]
    low, high = [-2.0, 0.0, -1.0], [2.0, 5.0, 1.0]
    joint = TanhNormal(torch.tensor(mean, dtype=DOUBLE), torch.tensor(std, dtype=DOUBLE), low, high)
    fraction = torch.rand(20, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    actions = joint.low + (joint.high - joint.low) * (0.001 + 0.998 * fraction)
    for action, log_prob in zip(actions.tolist(), joint.log_prob(actions).tolist(), strict=True):
        exact = 0.0
        with mpmath.workdps(40):
            for a, mu, sigma, lower, upper in zip(action, mean, std, low, high, strict=True):

                def distribution(
                    x: mpmath.mpf,
                    mu: float = mu,
                    sigma: float = sigma,
                    lower: float = lower,
                    upper: float = upper,
                ) -> mpmath.mpf:
                    y = (2 * x - lower - upper) / (mpmath.mpf(upper) - lower)
                    return mpmath.ncdf((mpmath.atanh(y) - mu) / sigma)

                exact += float(mpmath.log(mpmath.diff(distribution, mpmath.mpf(a))))
        deviation(abs(log_prob - exact), 1e-10)


@pytest.mark.proves("eq-stable-jacobian", method="the left-hand side in 60 digits")
def test_stable_form_equals_the_direct_form(deviation: Deviation) -> None:
    """PyTorch's softplus(x) returns x above 20, which leaves out exp(-20) = 2e-9."""
    u = torch.linspace(-30, 30, 601, dtype=DOUBLE)
    with mpmath.workdps(60):
        exact = [float(mpmath.log(1 - mpmath.tanh(mpmath.mpf(x)) ** 2)) for x in u.tolist()]
    deviation((log_tanh_jacobian(u) - torch.tensor(exact, dtype=DOUBLE)).abs().max(), 5e-9)


@pytest.mark.proves("claim-stable-float32", method="float32 against -2 log cosh u in float64")
def test_single_precision(deviation: Deviation) -> None:
    u = torch.linspace(-20, 20, 40_001)
    exact = torch.from_numpy(squeeze(u.double().numpy()))
    deviation((log_tanh_jacobian(u).double() - exact).abs().max(), 2e-5)
    with_constant = torch.log(1 - torch.tanh(u) ** 2 + 1e-6)
    assert (with_constant.double() - exact).abs().max() > 20, "the 1e-6 form passes as well"
    assert not torch.isfinite(torch.log(1 - torch.tanh(u) ** 2)).all()

    far = torch.linspace(-50, 50, 1001, requires_grad=True)
    value = log_tanh_jacobian(far)
    (slope,) = torch.autograd.grad(value.sum(), far)
    assert torch.isfinite(value).all()
    deviation((slope + 2 * torch.tanh(far.detach())).abs().max(), 2e-5)


@pytest.mark.proves("eq-inverse-squash", method="inverse hyperbolic tangent in 40 digits")
def test_inverse_from_the_two_distances(deviation: Deviation) -> None:
    """The library scores an action on the inverse; a steep normal makes the inverse visible.

    With std = 1 the difference of two scores with means 0 and 1 is 1/2 - u.
    """
    for low, high in BOXES:
        actions = torch.linspace(low, high, 203, dtype=DOUBLE)[1:-1].unsqueeze(-1)
        difference = policy(0, 1, low, high).log_prob(actions)
        difference = difference - policy(1, 1, low, high).log_prob(actions)
        with mpmath.workdps(40):
            exact = [
                float(mpmath.atanh((2 * mpmath.mpf(a) - low - high) / (mpmath.mpf(high) - low)))
                for a in actions.squeeze(-1).tolist()
            ]
        inverse = 0.5 - difference
        deviation((inverse - torch.tensor(exact, dtype=DOUBLE)).abs().max(), 1e-12)


# --- the shape of the density ---------------------------------------------------------------------


@pytest.mark.proves("eq-peaks", method="direct maximisation of the density over the action")
def test_peaks_solve_their_equation(deviation: Deviation) -> None:
    for mean, std, low, high in [(0.0, 1.0, -2, 2), (1.0, 1.0, -2, 2), (-0.4, 0.3, 0, 5)]:
        density = policy(mean, std, low, high)
        points, _ = graded_rule(low, high)
        scores = density.log_prob(points.unsqueeze(-1))
        best = int(scores.argmax())
        found = optimize.minimize_scalar(
            lambda a, density=density: -density.log_prob(torch.tensor([a]).double()).item(),
            bounds=(points[best - 1].item(), points[best + 1].item()),
            method="bounded",
            options={"xatol": 1e-10},
        )
        u = math.atanh((found.x - (low + high) / 2) / ((high - low) / 2))
        deviation(abs((u - mean) / std**2 - 2 * math.tanh(u)), 1e-5)


@pytest.mark.proves("claim-two-peaks", method="counting local maxima on a fine grid")
def test_one_peak_or_two(deviation: Deviation) -> None:
    for low, high in BOXES:
        # Evenly spaced in u, so that peaks next to a bound are resolved; 0 is one of the points.
        y = torch.tanh(torch.linspace(-12, 12, 24_001, dtype=DOUBLE))
        actions = ((low + high) / 2 + (high - low) / 2 * y).unsqueeze(-1)
        for std, expected in [(0.1, 1), (0.5, 1), (0.70, 1), (0.72, 2), (1.0, 2), (2.0, 2)]:
            scores = policy(0.0, std, low, high).log_prob(actions)
            rises = scores.diff() > 0
            peaks = int((rises[:-1] & ~rises[1:]).sum())
            deviation(abs(peaks - expected), 0)


@pytest.mark.proves("claim-mode-median", method="quadrature of the density up to the mode")
def test_mode_is_the_median(deviation: Deviation) -> None:
    for mean, std, low, high in settings():
        density = policy(mean, std, low, high)
        mode = density.mode.item()
        points, weights = graded_rule(low, mode)
        below = (weights * density.log_prob(points.unsqueeze(-1)).exp()).sum().item()
        deviation(abs(below - 0.5), 1e-9)
    # Not the peak: the density is higher elsewhere.
    wide = policy(1.0, 1.0)
    assert wide.log_prob(torch.tensor([1.99]).double()) > wide.log_prob(wide.mode) + 1


# --- the density as a whole -----------------------------------------------------------------------


@pytest.mark.proves("claim-tanh-integrates", method="graded Gauss-Legendre quadrature")
def test_integrates_to_one(deviation: Deviation) -> None:
    for mean, std, low, high in settings():
        points, weights = graded_rule(low, high)
        log_prob = policy(mean, std, low, high).log_prob(points.unsqueeze(-1))
        deviation(abs((weights * log_prob.exp()).sum().item() - 1), 1e-12)
        # The same check finds the two classical mistakes.
        u = pre_tanh_of(points, low, high)
        twice = log_prob + torch.from_numpy(squeeze(u) - squeeze_twice(u))
        assert abs((weights * twice.exp()).sum().item() - 1) > 1e-4
        if high - low != 2:
            unscaled = log_prob + math.log((high - low) / 2)
            assert abs((weights * unscaled.exp()).sum().item() - 1) > 0.9


@pytest.mark.proves("claim-tanh-integrates", method="product of two quadrature rules")
def test_integrates_to_one_in_two_dimensions(deviation: Deviation) -> None:
    low, high = torch.tensor([-2.0, 0.0]).double(), torch.tensor([2.0, 5.0]).double()
    mean, std = torch.tensor([[0.5, -0.3], [1.0, 0.4]], dtype=DOUBLE)
    (x, weight_x), (y, weight_y) = graded_rule(-2, 2, 0.6), graded_rule(0, 5, 0.6)
    log_prob = TanhNormal(mean, std, low, high).log_prob(torch.cartesian_prod(x, y))
    total = weight_x @ log_prob.exp().view(len(x), len(y)) @ weight_y
    deviation(abs(total.item() - 1), 1e-9)


@pytest.mark.proves("claim-tanh-torch", method="torch.distributions.TransformedDistribution")
def test_agrees_with_torch_distributions(deviation: Deviation) -> None:
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(200, 3, dtype=DOUBLE, generator=generator)
    std = torch.rand(200, 3, dtype=DOUBLE, generator=generator) + 0.1
    low, high = torch.tensor([[-2.0, 0.0, -1.0], [2.0, 5.0, 1.0]], dtype=DOUBLE)
    joint = TanhNormal(mean, std, low, high)
    reference = torch.distributions.TransformedDistribution(
        torch.distributions.Independent(torch.distributions.Normal(mean, std), 1),
        [
            torch.distributions.TanhTransform(),
            torch.distributions.AffineTransform((low + high) / 2, (high - low) / 2, event_dim=1),
        ],
    )
    action = joint.sample((50,), generator=generator)
    deviation((joint.log_prob(action) - reference.log_prob(action)).abs().max(), 1e-6)


# --- what a wrong density does --------------------------------------------------------------------


def printed_table(heading: str) -> list[list[str]]:
    """The rows, split at spaces, of the table in the chapter's stored output with this heading."""
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        for output in cell.get("outputs", []):
            _, found, rows = output.get("text", "").partition(heading)
            if found:
                return [line.split() for line in rows.splitlines()[1:]]
    raise AssertionError(f"the chapter prints no table with the heading {heading!r}")


@pytest.mark.proves("claim-double-tanh-integral", method="mean over u of h (1 - tanh u ^2) / (...)")
def test_historical_density_does_not_integrate_to_one(deviation: Deviation) -> None:
    """The integral over actions, as the chapter prints it, against a mean over the normal."""
    rows = printed_table("mean  std   integral over [-2, 2]")
    assert len(rows) == 5
    for mean, std, printed in (map(float, row) for row in rows):
        total = 2 * mean_over_normal(lambda u: np.exp(squeeze(u) - squeeze_twice(u)), mean, std)
        deviation(abs(float(printed) - total), 6e-5)
        assert abs(total - 1) > 0.4


def claimed_entropy(mean: float, std: float) -> float:
    noise = 0.5 * math.log(2 * math.pi * math.e * std**2)
    return noise + math.log(2) + mean_over_normal(squeeze_twice, mean, std)


@pytest.mark.proves("eq-tanh-entropy", method="quadrature of -p log p over the actions")
def test_entropy(deviation: Deviation) -> None:
    for mean, std, low, high in settings():
        points, weights = graded_rule(low, high)
        log_prob = policy(mean, std, low, high).log_prob(points.unsqueeze(-1))
        integrated = -(weights * log_prob.exp() * log_prob).sum().item()
        formula = 0.5 * math.log(2 * math.pi * math.e * std**2) + math.log((high - low) / 2)
        formula += mean_over_normal(squeeze, mean, std)
        deviation(abs(integrated - formula), 1e-10)


@pytest.mark.proves("claim-entropy-runaway", method="trapezoidal mean over u, 25 widths to 100")
def test_doubled_tanh_rewards_saturation(deviation: Deviation) -> None:
    floor = math.log(2) + math.log(1 - math.tanh(1) ** 2)
    for std in np.geomspace(0.1, 100, 25):
        for mean in (0.0, 2.0):
            noise = 0.5 * math.log(2 * math.pi * math.e * std**2)
            deviation(max(0.0, noise + floor - claimed_entropy(mean, std)), 1e-12)
            true = noise + math.log(2) + mean_over_normal(squeeze, mean, std)
            deviation(max(0.0, true - math.log(4)), 1e-12)
    # More than any distribution on the box can have, and growing with every doubling.
    assert claimed_entropy(0.0, 1.0) > math.log(4)
    assert claimed_entropy(0.0, 100.0) > claimed_entropy(0.0, 50.0) + 0.99 * math.log(2)


def test_std_that_meets_the_entropy_target() -> None:
    """The chapter's table, with the trapezoidal rule instead of its Gauss-Legendre rule."""
    rows = printed_table("mean   std, right density")
    target = -1 + math.log(2)

    def entropy(mean: float, std: float, correction: Callable[[np.ndarray], np.ndarray]) -> float:
        noise = 0.5 * math.log(2 * math.pi * math.e * std**2)
        return noise + math.log(2) + mean_over_normal(correction, mean, std)

    assert [row[0] for row in rows] == ["0.0", "0.5", "1.0", "1.5", "2.0"]
    for mean, right, twice, true in rows:
        assert abs(entropy(float(mean), float(twice), squeeze_twice) - target) < 0.05
        reached = optimize.brentq(
            lambda std, mean=float(mean): entropy(mean, std, squeeze_twice) - target, 0.01, 1
        )
        assert float(twice) == pytest.approx(reached, abs=0.0051)
        assert float(true) == pytest.approx(entropy(float(mean), reached, squeeze), abs=0.0051)
        if right == "none":
            best = max(entropy(float(mean), std, squeeze) for std in np.geomspace(0.05, 6, 40))
            assert best < target - 0.1
        else:
            assert abs(entropy(float(mean), float(right), squeeze) - target) < 0.06


@pytest.mark.proves("eq-weight-ratio", method="ratio of the two densities, each computed by itself")
def test_error_of_the_importance_weights(deviation: Deviation) -> None:
    actions = torch.linspace(-1.99, 1.99, 399, dtype=DOUBLE)
    y = actions / 2
    formula = (1 - y.tanh() ** 2) / (2 * (1 - y**2))
    u = torch.atanh(y)
    for mean, std in [(0.0, 0.5), (0.6, 0.5), (-1.0, 2.0)]:
        right = policy(mean, std).log_prob(actions.unsqueeze(-1))
        # The historical computation, as it runs: tanh of the tanh, no scale.
        noise = torch.from_numpy(stats.norm.logpdf(u.numpy(), mean, std))
        historical = noise - torch.log(1 - torch.tanh(torch.tanh(u)) ** 2)
        deviation(((right - historical).exp() / formula - 1).abs().max(), 1e-9)


# --- the exercises --------------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: object) -> str:
    check(exercise, answer)
    return capsys.readouterr().out.strip().removeprefix(f"{exercise}: ")


NOT_DONE = "not done yet. Replace the dots and run the cell again."
U, H, MEAN, STD = math.atanh(0.6), 2.5, 0.3, 0.4
NORMAL = stats.norm.logpdf(U, MEAN, STD)
LOG_P = NORMAL - math.log(H) - math.log(1 - 0.36)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: (U, LOG_P), "passed"),
        (lambda: ..., NOT_DONE),
        (lambda: LOG_P, "not right yet. Return two numbers"),
        (lambda: (math.atanh(0.8), LOG_P), "the middle of this box is 2.5"),
        (lambda: [U, LOG_P], "passed"),
        (lambda: (0.693, -0.956), "passed"),
        (lambda: (0.5, LOG_P), "is not the pre-tanh value of 4"),
        (lambda: (0.6, LOG_P), "u is artanh y"),
        (lambda: (math.tanh(0.6), LOG_P), "this is tanh y"),
        (lambda: (math.atanh(4 / 2.5), LOG_P), "measured from the middle of the box"),
        (lambda: (LOG_P, U), "u first and log p second"),
        (lambda: (U, ...), "log p is still to be written"),
        (lambda: (U, "unknown"), "For log p a number is expected"),
        (lambda: (U, NORMAL + math.log(H) + math.log(1 - 0.36)), "are both subtracted"),
        (lambda: (U, NORMAL - math.log(H) - math.log(1 - math.tanh(0.6) ** 2)), "applied twice"),
        (lambda: (U, LOG_P + math.log(2 * math.pi) / 2), "lacks -log(2 pi) / 2"),
        (
            lambda: (U, LOG_P - NORMAL + stats.norm.logpdf(U, MEAN, math.sqrt(STD))),
            "not the variance",
        ),
        (lambda: (U, LOG_P + math.log(H)), "log h is missing"),
        (lambda: (U, LOG_P - math.log(2)), "h is half of the width"),
        (lambda: (U, NORMAL), "the density of u"),
        (lambda: (U, NORMAL - math.log(H)), "the squeeze log"),
        (lambda: (U, NORMAL - math.log(H) + math.log(1 - 0.36)), "the squeeze has the wrong sign"),
        (lambda: (U, LOG_P + math.log(STD)), "the normal lacks -log(std)"),
        (lambda: (U, math.exp(LOG_P)), "this is p(a), not its logarithm"),
        (lambda: (U, 12.0), "log p = 12.0000 is not"),
    ],
)
def test_exercise_by_hand(
    answer: Callable[[], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in verdict(capsys, "ex-tanh-normal-by-hand", answer)


def sigmoid_answer(
    *, scale: float = 1.0, missing: float = 0.0, form: str = "stable", reduce: bool = True
) -> Callable[..., Tensor]:
    def log_prob(u: Tensor, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> Tensor:
        s = torch.sigmoid(u)
        slope = {
            "stable": torch.nn.functional.logsigmoid(u) + torch.nn.functional.logsigmoid(-u),
            "direct": torch.log(s * (1 - s)),
            "one factor": torch.log(s),
        }[form]
        normal = -0.5 * ((u - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
        width = 0.0 if missing else (scale * (high - low)).log()
        terms = normal - width - slope
        return terms.sum(dim=-1) if reduce else terms

    return log_prob


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (sigmoid_answer(), "passed"),
        (lambda u, mean, std, low, high: ..., NOT_DONE),
        (sigmoid_answer(reduce=False), "must have shape (7,)"),
        (sigmoid_answer(missing=1.0), "the width of the box, high - low, is missing"),
        (sigmoid_answer(scale=0.5), "contains the half-width"),
        (sigmoid_answer(scale=3.0), "look for a missing constant"),
        (sigmoid_answer(form="one factor"), "The error depends on u"),
        (sigmoid_answer(form="direct"), "Use logsigmoid(u)"),
    ],
)
def test_exercise_sigmoid(
    answer: Callable[..., object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in verdict(capsys, "ex-tanh-normal-sigmoid", answer)


def midpoint(log_prob: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> float:
    fraction = (torch.arange(400, dtype=DOUBLE) + 0.5) / 400
    actions = low + (high - low) * torch.cartesian_prod(fraction, fraction)
    return (log_prob(actions).exp().mean() * (high - low).prod()).item()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (midpoint, "passed"),
        (lambda log_prob, low, high: ..., NOT_DONE),
        (
            lambda log_prob, low, high: midpoint(log_prob, low, high) / (high - low).prod().item(),
            "multiplied by the area of the box",
        ),
        (
            lambda log_prob, low, high: midpoint(log_prob, (low + high) / 2, high),
            "do the points cover all of it",
        ),
        (lambda log_prob, low, high: 1.0, "must not normalise"),
        (3, "A function is expected"),
    ],
)
def test_exercise_probe(answer: object, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in verdict(capsys, "ex-tanh-normal-probe", answer)


def test_only_suspect_c_is_a_density() -> None:
    low, high = torch.tensor([-2.0, 0.0]).double(), torch.tensor([2.0, 5.0]).double()
    totals = {name: midpoint(suspect, low, high) for name, suspect in SUSPECTS.items()}
    assert totals["C"] == pytest.approx(1, abs=1e-4)
    assert totals["A"] == pytest.approx(2.5, abs=1e-3)
    assert totals["B"] < 0.9
    assert totals["D"] > 3


def test_the_chapter_names_every_exercise() -> None:
    text = CHAPTER.read_text(encoding="utf-8")
    for exercise in ("by-hand", "sigmoid", "probe"):
        assert re.search(rf"solution-start}} ex-tanh-normal-{exercise}", text)
