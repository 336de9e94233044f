"""Checks of the exercises in the chapter on the temperature step."""

from __future__ import annotations

import math
from typing import Any

import torch

from offline_rl_lib.teaching import (
    NotDoneYet,
    WrongAnswer,
    call,
    call_without_autograd,
    checker,
    finite_number,
)


@checker("ex-temperature-valve")
def check_valve(answer: Any) -> str:
    """Check target -1 + log 0.25, the closed form and sqrt(alpha / k), in this order."""
    result = call(answer)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise WrongAnswer(f"Return three numbers: target entropy, alpha*, std; got {result!r}.")
    if any(number is ... or number is None for number in result):
        raise NotDoneYet
    target, alpha, std = (finite_number(number, "For each of the three") for number in result)
    exact_target, k = -1 + math.log(0.25), 40.0
    targets = {
        -1.0: "-1 is the target of the unit box. The valve's half-width adds its logarithm.",
        -1 + math.log(0.5): "0.5 is the box's width. The half-width is 0.25.",
        1 + math.log(0.25): "The usual target is minus the number of dimensions.",
        -1 - math.log(0.25): "A small box has less room: the logarithm is added, and is negative.",
    }
    _require(target, exact_target, targets, "The target entropy", "-d plus log of the half-width")
    exact_alpha = _closed_form(k, exact_target)
    alphas = {
        _closed_form(20.0, exact_target): "k is twice the factor 20: write Q as -k (a - c)**2 / 2.",
        exact_alpha * math.e: "The entropy of a normal holds an e: the exponent is 2 target - 1.",
        _closed_form(k, exact_target / 2): "The exponent holds the target twice.",
        exact_alpha * 2 * math.pi: "The factor 1 / (2 pi) is missing.",
    }
    _require(
        *(alpha, exact_alpha, alphas, "The target is right, but alpha*", "k exp(2H - 1) / 2 pi"),
        share=1 / 3,
    )
    stds = {
        exact_alpha / k: "This is the variance; take its square root.",
        math.sqrt(exact_alpha): "The variance is alpha / k, not alpha.",
    }
    exact_std = math.sqrt(exact_alpha / k)
    _require(
        *(std, exact_std, stds, "Target and alpha* are right, but the std", "sqrt(alpha / k)"),
        share=2 / 3,
    )
    return f"{exact_target:.3f} nats, {exact_alpha:.4f} and {exact_std:.4f} litres per second."


def _closed_form(k: float, target: float) -> float:
    return k / (2 * math.pi) * math.exp(2 * target - 1)


def _require(
    value: float,
    exact: float,
    mistakes: dict[float, str],
    what: str,
    formula: str,
    share: float = 0.0,
) -> None:
    """Compare to two per cent, which two digits are, and name a known slip before any other.

    A wrong number keeps the share of the points that the numbers before it have earned.
    """
    if math.isclose(value, exact, rel_tol=0.02):
        return
    for wrong, message in mistakes.items():
        if math.isclose(value, wrong, rel_tol=0.01):
            raise WrongAnswer(message, share)
    raise WrongAnswer(f"{what} is not {value:.4g}. The formula is {formula}.", share)


@checker("ex-temperature-step")
def check_step(answer: Any) -> str:
    """Compare both losses with automatic differentiation."""
    log_prob = torch.linspace(-2.0, 0.5, 8, dtype=torch.float64)
    for loss in ("alpha", "log"):
        for log_alpha, target in ((-3.0, -0.3), (0.7, 2.0)):
            x = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
            surplus = -log_prob.mean() - target
            value = (x.exp() if loss == "alpha" else x) * surplus
            (slope,) = torch.autograd.grad(value, x)
            expected = log_alpha - 0.1 * slope.item()
            where = f'loss "{loss}", log alpha {log_alpha}, target {target}'
            result = finite_number(
                call_without_autograd(answer, log_alpha, log_prob, target, 0.1, loss),
                f"For {where}",
            )
            for wrong, message in _step_mistakes(log_alpha, surplus.item(), target, loss):
                if math.isclose(result, wrong, abs_tol=1e-6):
                    raise WrongAnswer(f"{message} ({where})")
            if not math.isclose(result, expected, abs_tol=1e-6):
                raise WrongAnswer(
                    f"Got {result:.4f}, expected {expected:.4f} for {where}. A step subtracts "
                    "the rate times the gradient of log alpha."
                )
    return "Both steps agree with automatic differentiation."


def _step_mistakes(
    log_alpha: float, surplus: float, target: float, loss: str
) -> list[tuple[float, str]]:
    """What each usual slip would return; those that happen to be right are left out."""
    alpha = math.exp(log_alpha)
    factor, other = (alpha, 1.0) if loss == "alpha" else (1.0, alpha)
    exact = log_alpha - 0.1 * factor * surplus
    turned = -(surplus + target) - target
    slips = [
        (
            log_alpha + 0.1 * factor * surplus,
            "The step goes uphill: the surplus is entropy minus target, and the gradient is "
            "subtracted.",
        ),
        (
            log_alpha - 0.1 * other * surplus,
            "The factor alpha belongs to the loss alpha * surplus.",
        ),
        (log_alpha - 0.1 * factor * turned, "The entropy is the mean of minus the log-densities."),
        (
            log_alpha - 0.1 * factor * (surplus + 2 * target),
            "The surplus is entropy minus target, not plus.",
        ),
        (
            log_alpha - 0.1 * factor * 8 * surplus - 0.1 * factor * 7 * target,
            "Take the mean over the minibatch, not the sum.",
        ),
        (alpha - 0.1 * factor * surplus, "Log alpha is learned and returned, not alpha."),
        (math.exp(exact), "Log alpha is learned and returned, not alpha."),
        (factor * surplus, "This is the gradient. Return log alpha minus the rate times it."),
        (
            log_alpha - 0.1 * log_alpha * surplus,
            'The loss "log" is log alpha times the surplus; its slope is the surplus alone.',
        ),
    ]
    return [slip for slip in slips if not math.isclose(slip[0], exact, abs_tol=1e-6)]


@checker("ex-temperature-share")
def check_share(answer: Any) -> str:
    """exp(target - sum of log widths), also where the volume under- or overflows."""
    cases: list[tuple[float, list[float], list[float]]] = [
        (-1 + math.log(2), [-2.0], [2.0]),
        (-1.0, [-0.1], [0.1]),
        (-2.0, [0.0, -1.0], [5.0, 2.0]),
    ]
    for target, low, high in cases:
        result = finite_number(call(answer, target, low, high), f"For low {low}, high {high}")
        widths = [b - a for a, b in zip(low, high, strict=True)]
        volume = math.prod(widths)
        where = f"target {target:.3f}, low {low}, high {high}"
        share = math.exp(target) / volume
        slips = [
            (share * 2 ** len(low), "The volume is made of widths, not of half-widths."),
            (math.exp(target) / sum(widths), "A volume is a product of widths; sum their logs."),
            (target - math.log(volume), "This is the log of the share; take the exponential."),
            (math.exp(target), "This is the covered volume. Divide it by the box's."),
            (1 / share, "The share is turned upside down."),
            (math.exp(-target) / volume, "The sign of the target entropy is turned."),
            (math.exp(target) / widths[0], "Every dimension counts, not only the first."),
        ]
        for wrong, message in slips:
            same = math.isclose(wrong, share, rel_tol=1e-6)
            if math.isclose(result, wrong, rel_tol=1e-6) and not same:
                raise WrongAnswer(f"{message} ({where})")
        if not math.isclose(result, share, rel_tol=1e-6):
            raise WrongAnswer(f"Got {result:.4g}, expected {share:.4g} for {where}.")
    wide = 2000
    try:
        many = float(call(answer, -1.0 + wide * math.log(4.0), [-2.0] * wide, [2.0] * wide))
    except (OverflowError, ZeroDivisionError) as error:
        raise WrongAnswer(
            f"With {wide} dimensions it stops with {type(error).__name__}: the volume has left the "
            "range of floating point. Subtract logarithms first.",
            share=0.5,
        ) from error
    if not math.isclose(many, math.exp(-1), rel_tol=0.01):  # the sum of logs in 32-bit numbers
        raise WrongAnswer(
            f"With {wide} dimensions of width 4 and the target -1 + {wide} log 4 the share is "
            f"exp(-1) = 0.368; got {many:.3g}. Subtract logarithms first.",
            share=0.5,
        )
    return "It holds for one, two and two thousand dimensions."
