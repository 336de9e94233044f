"""Checkers for the exercises of the chapter on the logsumexp penalty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_rl_lib.conservative import cql_penalty
from offline_rl_lib.teaching import (
    NotDoneYet,
    WrongAnswer,
    call,
    call_without_autograd,
    checker,
    require_all,
)


@checker("ex-logsumexp-volume")
def check_volume(answer: Any) -> str:
    """Q = 1.5 on a box of volume 12 at temperature 2: M = 1.5 + 2 log 12."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise WrongAnswer(f"A number is expected; got {type(answer).__name__}.") from None
    mistakes = [
        (1.5 + math.log(12), "The volume's share is T log vol; you seem to use T = 1 there."),
        (1.5 - 2 * math.log(12), "The sign of log vol is turned: a larger box, a larger integral."),
        (1.5, "Q alone is the mean and the maximum. The integral also counts the box's volume."),
        (0.75 + math.log(12), "This is the log of the integral. T times it is asked for."),
        (1.5 + 2 * math.log(8), "The sides of [-1, 2] x [0, 4] are 3 and 4, so the volume is 12."),
        (12 * math.exp(0.75), "This is the integral itself; take its logarithm, times T."),
        (3 + 2 * math.log(12), "In the integral Q is divided by T: exp(1.5 / 2), not exp(1.5)."),
        (
            0.75 + 2 * math.log(12),
            "T multiplies the whole logarithm, the share of Q too: 2 times 1.5 / 2 is 1.5.",
        ),
        (1.5 + 2 * math.log(7), "The volume is the product of the sides, not their sum."),
        (1.5 + 2 * math.log(3), "The volume takes whole sides, 3 and 4, not half of them."),
        (1.5 + 2 * math.log10(12), "The logarithm is the natural one."),
    ]
    if abs(value - (1.5 + 2 * math.log(12))) <= 6e-4:
        return f"The soft maximum is 1.5 + 2 log 12 = {1.5 + 2 * math.log(12):.3f}."
    for mistake, message in mistakes:
        if abs(value - mistake) <= 6e-3:
            raise WrongAnswer(message)
    raise WrongAnswer(
        f"Got {value:.3f}. Write down the integral of exp(1.5 / 2) over the box, then T log of it."
    )


@checker("ex-logsumexp-mixture")
def check_mixture(answer: Any) -> str:
    """Log of the mean density over axis 0, in a stable way."""
    generator = torch.Generator().manual_seed(0)
    log_densities = torch.randn((3, 5, 7), generator=generator, dtype=torch.float64)
    expected = log_densities.exp().mean(dim=0).log()
    result = _tensor(call(answer, log_densities), "log_densities of shape (3, 5, 7)")
    _same_shape(result, expected, "log_densities of shape (3, 5, 7)")
    if torch.allclose(result, expected + math.log(3)):
        raise WrongAnswer("The sum of the densities is not their mean: log J is missing.")
    if torch.allclose(result, log_densities.mean(dim=0)):
        raise WrongAnswer("This is the mean of the logs. The log of the mean is asked for.")
    if not torch.allclose(result, expected):
        raise WrongAnswer(
            "Wrong values for random log-densities of shape (3, 5, 7). The mean runs over the "
            "densities exp(log_densities) along axis 0."
        )
    tiny = torch.full((3, 4), -2000.0, dtype=torch.float64)
    if not torch.allclose(_tensor(call(answer, tiny), "the log-density -2000"), tiny[0]):
        raise WrongAnswer(
            "Three equal log-densities of -2000 must give -2000. exp(-2000) is 0 in floating "
            "point: use torch.logsumexp.",
            share=0.5,
        )
    return "It gives the log of the mean density, and stays finite for tiny densities."


@checker("ex-logsumexp-gradient")
def check_gradient(answer: Any) -> str:
    """Compare with automatic differentiation of the library's penalty."""
    for batch, count, temperature in ((4, 6, 1.0), (3, 5, 2.5)):
        generator = torch.Generator().manual_seed(batch)
        proposal_q, log_density = torch.randn(
            (2, batch, count), generator=generator, dtype=torch.float64
        )
        data_q = torch.zeros(batch, dtype=torch.float64, requires_grad=True)
        proposal_q.requires_grad_()
        penalty = cql_penalty(proposal_q, log_density, data_q, temperature)
        expected, expected_data = torch.autograd.grad(penalty, (proposal_q, data_q))
        q_values = proposal_q.detach()
        result = call_without_autograd(answer, q_values, log_density, temperature)
        where = f"B={batch}, N={count}, T={temperature}"
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise WrongAnswer("Return two tensors: for proposal_q and for data_q.")
        gradient = _tensor(result[0], where)
        if gradient.shape == expected_data.shape:
            raise WrongAnswer("Return the gradient for proposal_q first, that for data_q second.")
        _same_shape(gradient, expected, where)
        for wrong, message in _gradient_mistakes(q_values, log_density, temperature):
            if torch.allclose(gradient, wrong) and not torch.allclose(gradient, expected):
                raise WrongAnswer(f"{message} ({where})")
        if not torch.allclose(gradient, expected):
            raise WrongAnswer(
                f"The gradient for proposal_q is wrong for {where}. It is a softmax over the "
                "proposals of Q / T minus the log-density, divided by B."
            )
        if result[1] is ... or result[1] is None:
            raise WrongAnswer("One gradient is right; that for data_q is still to be written.", 0.5)
        data_gradient = _tensor(result[1], where)
        _same_shape(data_gradient, expected_data, where)
        if torch.allclose(data_gradient, -expected_data):
            raise WrongAnswer("The data's Q is subtracted, so its gradient is negative.", 0.5)
        if not torch.allclose(data_gradient.to(expected_data), expected_data):
            raise WrongAnswer(f"The gradient for data_q is wrong for {where}: each is -1 / B.", 0.5)
    return "It agrees with autograd for two batch sizes and temperatures."


def _gradient_mistakes(q: Tensor, m: Tensor, t: float) -> list[tuple[Tensor, str]]:
    batch, count = q.shape
    softmax = torch.softmax(q / t - m, 1)
    return [
        (softmax, "The mean over the batch divides by B."),
        (
            -softmax / batch,
            "A loss is made smaller, so what is pushed down has a positive gradient: the proposals "
            "are pushed down, and the sign is turned.",
        ),
        (softmax / count, "The mean is over the B states, not over the N proposals."),
        (softmax / (batch * count), "The mean is over the B states, not over the N proposals too."),
        (torch.softmax(q - m, 1) / batch, "T is missing: it divides Q inside the softmax."),
        (softmax / (batch * t), "The T in front and the 1 / T inside cancel: one 1 / T too many."),
        (softmax * (t / batch), "The T in front and the 1 / T inside cancel: one T too many."),
        (torch.softmax(q / t, 1) / batch, "The log-density belongs inside the softmax."),
        (torch.softmax(q / t + m, 1) / batch, "The log-density is subtracted, not added."),
        (torch.softmax((q - m) / t, 1) / batch, "T divides Q and not the log-density."),
        (torch.softmax(q / t - m, 0) / batch, "The softmax runs over the proposals, axis 1."),
    ]


@checker("ex-logsumexp-broadcast")
def check_broadcast(answer: Any) -> str:
    """A (64,) tensor minus a (64, 1) tensor is a (64, 64) table."""
    if not isinstance(answer, Mapping):
        raise WrongAnswer(f"A dictionary is expected; got {type(answer).__name__}.")
    keys = ("shape", "value_changes", "gradient_changes", "clipping_changes")
    missing = [key for key in keys if key not in answer]
    if missing:
        raise WrongAnswer(f"These answers are missing: {', '.join(missing)}.")
    if any(answer[key] is ... for key in keys):
        raise NotDoneYet
    shape = answer["shape"] if isinstance(answer["shape"], Sequence) else (answer["shape"],)
    survives = (
        "The {} of the mean survives: the mean over all pairs of soft_j - data_i is the mean of "
        "soft minus the mean of data."
    )
    problems = {
        f"The shape is not {tuple(shape)}. Broadcasting turns (64,) into (1, 64), and (1, 64) "
        "minus (64, 1) is a whole table.": tuple(shape) != (64, 64),
        survives.format("value"): bool(answer["value_changes"]),
        survives.format("gradient"): bool(answer["gradient_changes"]),
        "Clipping is not linear. Take soft = (1, 0) and data = (1, 0): each state's own gap "
        "is 0, but the table holds a 1, which clipping keeps, and a -1, which it "
        "removes.": not answer["clipping_changes"],
    }
    require_all([problem if wrong else None for problem, wrong in problems.items()])
    return "The mean hides the mistake because it is linear; clipping brings it to light."


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise WrongAnswer(f"A tensor is expected for {where}; got {type(value).__name__}.")
    return value.to(torch.float64)


def _same_shape(result: Tensor, expected: Tensor, where: str) -> None:
    if result.shape != expected.shape:
        raise WrongAnswer(
            f"The shape should be {tuple(expected.shape)} for {where}; got {tuple(result.shape)}."
        )
