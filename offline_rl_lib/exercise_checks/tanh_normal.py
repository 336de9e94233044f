"""Checks of the exercises in the chapter on the tanh-normal log-prob."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from offline_rl_lib.densities import LOG_SQRT_2PI, TanhNormal, log_tanh_jacobian
from offline_rl_lib.teaching import WrongAnswer, call, checker, finite_number

LogProb = Callable[[Tensor], Tensor]

DOUBLE = torch.float64
LOW = torch.tensor([-2.0, 0.0], dtype=DOUBLE)
HIGH = torch.tensor([2.0, 5.0], dtype=DOUBLE)
TOLERANCE = 1e-3
"""Numbers worked out by hand are right to three decimals."""


@checker("ex-tanh-normal-by-hand")
def check_score_by_hand(answer: Any) -> str:
    """Compare (u, log p) of the pump with the library's, and name the usual slips."""
    try:
        result = call(answer)
    except ValueError as error:
        raise WrongAnswer(
            f"Your code stopped with ValueError: {error}. math.atanh takes numbers between -1 and "
            "1, math.log positive ones. Is the action measured from the middle of the box, 2.5?"
        ) from error
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise WrongAnswer(f"Return two numbers, (u, log p); got {result!r}.")
    to_do = result[1] is ... or result[1] is None
    pre_tanh = finite_number(result[0], "For u")
    log_density = math.inf if to_do else finite_number(result[1], "For log p")
    mid, half, mean, std, action = 2.5, 2.5, 0.3, 0.4, 4.0
    inside = (action - mid) / half
    exact_u = math.atanh(inside)
    wrong_values = {
        math.atanh(action / 5.0): "y = a / 5 forgets that the middle of this box is 2.5, not 0.",
        inside: "this is y = (a - m) / h; u is artanh y.",
        math.tanh(inside): "this is tanh y; the way back from the action is artanh, math.atanh.",
    }
    for wrong, slip in wrong_values.items():
        if math.isclose(pre_tanh, wrong, abs_tol=TOLERANCE):
            raise WrongAnswer(f"u is wrong: {slip}")
    if not math.isclose(pre_tanh, exact_u, abs_tol=TOLERANCE):
        if math.isclose(log_density, exact_u, abs_tol=TOLERANCE):
            raise WrongAnswer("Return u first and log p second.")
        raise WrongAnswer(
            f"u = {pre_tanh:.4f} is not the pre-tanh value of 4: m + h tanh(u) gives "
            f"{mid + half * math.tanh(pre_tanh):.4f} litres per second."
        )
    if to_do:
        raise WrongAnswer("u is right; log p is still to be written.", share=0.5)
    log_normal = _log_normal(exact_u, mean, std)
    squeeze = math.log(1 - inside**2)
    exact = log_normal - math.log(half) - squeeze
    slips = {
        log_normal - squeeze: "log h is missing: the box is 5 wide, not 2.",
        log_normal - math.log(2 * half) - squeeze: "h is half of the width: 2.5, not 5.",
        log_normal - math.log(half): "the squeeze log(1 - tanh(u)**2) is missing.",
        log_normal: "this is the density of u; both terms of the slope da/du are missing.",
        log_normal - math.log(half) + squeeze: "the squeeze has the wrong sign.",
        log_normal + math.log(std) - math.log(half) - squeeze: "the normal lacks -log(std).",
        math.exp(exact): "this is p(a), not its logarithm.",
        log_normal + math.log(half) + squeeze: "the normal is divided by the slope da/du: log h "
        "and log(1 - tanh(u)**2) are both subtracted.",
        log_normal
        - math.log(half)
        - math.log(1 - math.tanh(inside) ** 2): "the tanh is applied twice "
        "in the squeeze: 1 - tanh(u)**2 is 1 - y**2.",
        exact + LOG_SQRT_2PI: "the normal lacks -log(2 pi) / 2.",
        exact - log_normal + _log_normal(exact_u, mean, math.sqrt(std)): "0.4 is the standard "
        "deviation, not the variance.",
    }
    for wrong, slip in slips.items():
        if math.isclose(log_density, wrong, abs_tol=TOLERANCE):
            raise WrongAnswer(f"u is right. In log p, {slip}", share=0.5)
    if not math.isclose(log_density, exact, abs_tol=TOLERANCE):
        raise WrongAnswer(
            f"u is right, but log p = {log_density:.4f} is not. Add up three terms: the normal "
            "at u, minus log h, minus log(1 - tanh(u)**2).",
            share=0.5,
        )
    return "u and log p agree with the library to three decimals."


def _log_normal(value: float, mean: float, std: float) -> float:
    return -0.5 * ((value - mean) / std) ** 2 - math.log(std) - LOG_SQRT_2PI


@checker("ex-tanh-normal-sigmoid")
def check_sigmoid_normal(answer: Any) -> str:
    """Score a sigmoid-normal as the tanh-normal that it is, then try saturated values."""
    generator = torch.Generator().manual_seed(0)
    pre_squash = torch.randn(7, 2, dtype=DOUBLE, generator=generator)
    mean = torch.tensor([0.5, -0.3], dtype=DOUBLE)
    std = torch.tensor([1.0, 0.4], dtype=DOUBLE)
    result = call(answer, pre_squash, mean, std, LOW, HIGH)
    if not isinstance(result, Tensor) or result.shape != (7,):
        raise WrongAnswer(
            "For u of shape (7, 2) the result must have shape (7,): one log-density per action, "
            f"summed over the dimensions. Got {tuple(getattr(result, 'shape', ())) or result!r}."
        )
    same_family = TanhNormal(mean / 2, std / 2, LOW, HIGH)
    exact = same_family.log_prob(LOW + (HIGH - LOW) * torch.sigmoid(pre_squash))
    offset = result - exact
    if offset.abs().max() > 1e-8:
        log_width = (HIGH - LOW).log().sum()
        if (offset - offset.mean()).abs().max() < 1e-8:
            known = {
                float(log_width): "the width of the box, high - low, is missing from the slope",
                LOW.numel() * math.log(2): (
                    "the slope contains the half-width; here a = low + (high - low) * s(u)"
                ),
            }
            reason = next(
                (text for value, text in known.items() if abs(float(offset[0]) - value) < 1e-6),
                "look for a missing constant",
            )
            raise WrongAnswer(
                f"Every score is too large by the same {float(offset[0]):.4f}: {reason}."
            )
        raise WrongAnswer(
            f"At u = {pre_squash[0].tolist()} the score is {float(result[0]):.4f}; expected "
            f"{float(exact[0]):.4f}. The error depends on u: check ds/du = s(u) (1 - s(u)) and its "
            "sign in the logarithm."
        )
    for value in (-50.0, 50.0):
        saturated = torch.full((1, 2), value, requires_grad=True)
        score = call(answer, saturated, mean.float(), std.float(), LOW.float(), HIGH.float())
        (slope,) = torch.autograd.grad(score.sum(), saturated)
        if not (torch.isfinite(score).all() and torch.isfinite(slope).all()):
            raise WrongAnswer(
                f"The formula is right, but at u = {value:g} in float32 value or gradient is not "
                "finite: s(u) rounds to 0 or 1 there. Use logsigmoid(u) and logsigmoid(-u).",
                share=0.5,
            )
    return "It is a density, summed over dimensions, and finite up to |u| = 50 in float32."


def _suspect(name: str) -> LogProb:
    mean = torch.tensor([0.5, -0.3], dtype=DOUBLE)
    std = torch.tensor([0.6, 0.4], dtype=DOUBLE)
    half = (HIGH - LOW) / 2

    def log_prob(action: Tensor) -> Tensor:
        pre_tanh = torch.atanh((action - (LOW + HIGH) / 2) / half)
        log_normal = -0.5 * ((pre_tanh - mean) / std) ** 2 - std.log() - LOG_SQRT_2PI
        squeeze = log_tanh_jacobian(torch.tanh(pre_tanh) if name == "B" else pre_tanh)
        if name == "A":
            return (log_normal - squeeze).sum(dim=-1) - half[0].log()
        terms = log_normal - half.log() - squeeze
        return terms.mean(dim=-1) if name == "D" else terms.sum(dim=-1)

    return log_prob


SUSPECTS: dict[str, LogProb] = {name: _suspect(name) for name in "ABCD"}
"""Log-densities on the box from (-2, 0) to (2, 5); one is right, three have a silent mistake."""


@checker("ex-tanh-normal-probe")
def check_probe(answer: Any) -> str:
    """Let the reader's probe integrate densities with a known integral, and wrong ones."""
    unit = torch.ones(2, dtype=DOUBLE)
    boxes = {"the unit box": (-unit, unit), "the box from (-2, 0) to (2, 5)": (LOW, HIGH)}
    for where, (low, high) in boxes.items():
        policy = TanhNormal(0.4 * unit, 0.5 * unit, low, high)
        total = float(call(answer, policy.log_prob, low, high))
        area = float((high - low).prod())
        if math.isclose(total, 1 / area, rel_tol=1e-2):
            raise WrongAnswer(
                f"On {where} a right density gives {total:.4f}, which is 1 / {area:g}: the mean of "
                "the density over the box has to be multiplied by the area of the box."
            )
        if not math.isclose(total, 1, abs_tol=1e-3):
            raise WrongAnswer(
                f"On {where} a right density gives {total:.4f} instead of 1. Does the area of a "
                "cell follow the box, and do the points cover all of it? Or is the rule less "
                "accurate than 1e-3, as random points are?"
            )
        # A probe that always answers one would pass so far.
        doubled = float(call(answer, lambda a, p=policy: p.log_prob(a) + math.log(2), low, high))
        if not math.isclose(doubled, 2, abs_tol=2e-3):
            raise WrongAnswer(
                f"On {where} a function that is twice a density gives {doubled:.4f} instead of 2. "
                "The probe must not normalise."
            )
    return "It finds 1 for a density and 2 for twice a density, on both boxes."
