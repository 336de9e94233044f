"""Checkers of *The uniform log-density*."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_rl_lib.densities import uniform_actions
from offline_rl_lib.teaching import WrongAnswer, call, checker

Sampler = Callable[[int], Tensor]


def _number(value: Any, arguments: str) -> float:
    """The reader's result as a float; anything else gets a message."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise WrongAnswer(
            f"For {arguments} your function returned {value!r}; one number is expected."
        ) from error
    if math.isnan(number):
        raise WrongAnswer(f"For {arguments} your function returned NaN.")
    return number


@checker("ex-uniform-log-density")
def check_log_density(function: Callable[[Sequence[float], Sequence[float]], float]) -> str:
    """Minus the sum of the logs of the widths, on boxes that separate the usual mistakes."""
    # First a box on which no two of the usual mistakes give the same number.
    boxes = {
        "a box away from zero": ([-3.0, 0.5, -0.1], [-0.5, 0.75, 7.0]),
        "Pendulum's box": ([-2.0], [2.0]),
        "CarRacing's box": ([-1.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        "5,000 dimensions of width 4": ([-2.0] * 5000, [2.0] * 5000),
    }
    for name, (low, high) in boxes.items():
        got = _number(call(function, low, high), name)
        widths = np.subtract(high, low)
        expected = -float(np.log(widths).sum())
        if math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12):
            continue
        first_width_only = -len(low) * float(np.log(widths[0]))
        with np.errstate(over="ignore"):
            likely_mistakes = {
                -expected: "the sign is turned: a large box has a low density",
                -len(low) * math.log(2): "this is log(0.5**d), the value for [-1, 1]^d; use the "
                "bounds",
                first_width_only: "this uses the first dimension's bounds for all dimensions",
                -float(np.log(widths / 2).sum()): "this is the half-width; the box is "
                "high - low wide",
                float(1 / widths.prod()): "this is the density; its logarithm is asked for",
                float("-inf"): "the product of the widths overflows; add logarithms instead",
            }
        reason = next(
            (why for wrong, why in likely_mistakes.items() if math.isclose(got, wrong)),
            "compare with minus the sum of log(high - low)",
        )
        raise WrongAnswer(f"For {name} the answer is {expected:.4f}, yours is {got:.4f}: {reason}.")
    return "Right on four boxes, up to 5,000 dimensions."


@checker("ex-uniform-part-box")
def check_part_box(function: Callable[[float, float, float], float]) -> str:
    """The error of sampling a part of the box, against Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(60)

    def log_integral(slope: float, half_width: float) -> float:
        return float(np.log((half_width * weights * np.exp(slope * half_width * nodes)).sum()))

    for slope, bound, fraction in [(2, 2, 0.5), (0.3, 1, 0.5), (1, 3, 0.25), (2, 2, 1)]:
        arguments = f"slope={slope}, bound={bound}, fraction={fraction}"
        got = _number(call(function, slope, bound, fraction), arguments)
        expected = log_integral(slope, fraction * bound) - log_integral(slope, bound)
        if math.isclose(got, expected, abs_tol=1e-9):
            continue
        likely_mistakes = {
            -expected: "the sign is turned; the estimate minus the truth is asked for",
            math.exp(expected): "this is the ratio of the integrals; the difference of their "
            "logarithms is asked for",
            math.log(fraction): "this is the volume alone, right only for a flat critic",
            expected - math.log(fraction): "this divides by the density of the whole box; the "
            "program divides by that of the interval it draws from",
        }
        reason = next(
            (why for wrong, why in likely_mistakes.items() if math.isclose(got, wrong)),
            "compare with the two integrals of exp(slope * a)",
        )
        raise WrongAnswer(
            f"For {arguments} quadrature gives {expected:.4f}, yours is {got:.4f}: {reason}."
        )
    return "It agrees with quadrature for four settings."


@checker("ex-uniform-detector")
def check_detector(function: Callable[[Sampler, Tensor, Tensor], bool]) -> str:
    """The reader's test accepts correct samplers and rejects faulty ones."""
    boxes = [([-2.0], [2.0]), ([-1.0, 0.0, 0.0], [1.0, 1.0, 1.0]), ([-0.4] * 5, [0.4] * 5)]
    for bounds in boxes:
        low, high = torch.tensor(bounds[0]), torch.tensor(bounds[1])
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            if not call(function, lambda n: uniform_actions((n,), low, high, generator), low, high):  # noqa: B023
                raise WrongAnswer(
                    f"Your test rejects a correct sampler (box {bounds[0]} to {bounds[1]}, "
                    f"seed {seed}). Its threshold is too strict: remember that it is asked often."
                )
    faulty = list(_faulty_samplers())
    missed = [(name, why) for name, why, sampler, box in faulty if call(function, sampler, *box)]
    if missed:
        found = len(faulty) - len(missed)
        raise WrongAnswer(
            f"Your test accepts the correct samplers and finds {found} of {len(faulty)} faulty "
            f"ones. It misses {missed[0][0]!r}: {missed[0][1]}.",
            share=found / len(faulty),
        )
    return f"15 correct samplers accepted, {len(faulty)} faulty ones found."


def _faulty_samplers() -> Iterator[tuple[str, str, Sampler, tuple[Tensor, Tensor]]]:
    """Name, what is wrong with it, sampler, and the box that it should fill."""
    generator = torch.Generator().manual_seed(100)
    wide = torch.tensor([-2.0, -2.0]), torch.tensor([2.0, 2.0])
    cars = torch.tensor([-1.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 1.0])
    last = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 3.0])

    def fractions(count: int, size: int) -> Tensor:
        return torch.rand(count, size, generator=generator)

    def stretched(fraction: Tensor, box: tuple[Tensor, Tensor]) -> Tensor:
        return box[0] + (box[1] - box[0]) * fraction

    def clipped_normal(count: int) -> Tensor:
        return torch.randn(count, 2, generator=generator).clamp(-2, 2)

    yield "constants", "it draws from [-1, 1]", lambda n: 2 * fractions(n, 2) - 1, wide
    yield "zero to one", "it draws from [0, 1]", lambda n: fractions(n, 2), wide
    yield (
        "first bounds",
        "it draws gas and brake from [-1, 1]",
        lambda n: 2 * fractions(n, 3) - 1,
        cars,
    )
    yield (
        "second dimension short",
        "only the last dimension is drawn from a part of its range",
        lambda n: 2 * fractions(n, 2) - 1,
        last,
    )
    yield (
        "clipped normal",
        "its range is right, its shape is not (or you draw too few actions to see it)",
        clipped_normal,
        wide,
    )
    yield (
        "square root",
        "it fills the range, more densely towards the upper bound",
        lambda n: stretched(fractions(n, 2).sqrt(), wide),
        wide,
    )
    yield (
        "one number for all",
        "each dimension alone is uniform, but all of them are copies of one random number",
        lambda n: stretched(fractions(n, 1).expand(n, 2), wide),
        wide,
    )
