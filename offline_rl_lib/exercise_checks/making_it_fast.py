"""Checks of the exercises in the chapter on making an update fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from offline_rl_lib.teaching import (
    NotDoneYet,
    WrongAnswer,
    call_without_autograd,
    checker,
    require_all,
)

TIGHT = 1e-9


@checker("ex-speed-penalty")
def check_penalty(answer: Any) -> str:
    """Compare with automatic differentiation in double precision, and name known slips."""
    for size, count, temperature in ((4, 6, 1.0), (7, 3, 0.5), (3, 16, 2.5)):
        drawn = torch.Generator().manual_seed(size)
        options: dict[str, Any] = {"generator": drawn, "dtype": torch.float64}
        q = 2 * torch.randn(size, count, **options)
        log_density = torch.randn(size, count, **options)
        given = q.clone(), log_density.clone()
        result = call_without_autograd(answer, *given, temperature)
        where = f"B = {size}, K = {count}, T = {temperature}"
        if not isinstance(result, Tensor) or result.shape != q.shape:
            raise WrongAnswer(f"A tensor of the shape of q, {tuple(q.shape)}, is expected.")
        if not (torch.equal(given[0], q) and torch.equal(given[1], log_density)):
            raise WrongAnswer(
                "Your function changes its arguments: it writes into q or l in place."
            )
        exact = _penalty_by_autograd(q, log_density, temperature)
        _compare(result, exact, _penalty_slips(q, log_density, temperature, exact), where)
    return "It agrees with automatic differentiation, for three sizes and temperatures."


def _penalty_by_autograd(q: Tensor, log_density: Tensor, temperature: float) -> Tensor:
    with torch.enable_grad():
        leaf = q.clone().requires_grad_()
        exponents = leaf / temperature - log_density
        soft_maximum = temperature * torch.logsumexp(exponents, dim=1)
        return torch.autograd.grad((soft_maximum - leaf[:, 0]).mean(), leaf)[0]


def _penalty_slips(
    q: Tensor, log_density: Tensor, temperature: float, exact: Tensor
) -> list[tuple[Tensor, str]]:
    """What each usual slip would return."""
    size = len(q)
    exponents = q / temperature - log_density
    one = torch.zeros_like(q)
    one[:, 0] = 1.0
    softmax = torch.softmax(exponents, dim=1)
    proposals = torch.softmax(exponents[:, 1:], dim=1)
    without = torch.cat([torch.zeros_like(q[:, :1]), proposals], dim=1)
    return [
        (softmax / size, "The term of the data's Q is missing: column 0 has one more summand."),
        (exact * size, "The factor 1/B is missing: P is a mean over the states."),
        (exact / q.shape[1], "P is a mean over states and a sum over actions: divide by B only."),
        ((exponents.exp() - one) / size, "The weights of each state must add up to one."),
        (
            (without - one) / size,
            "Here the soft maximum runs over all K actions, so column 0 has a share in it too.",
        ),
        (
            (torch.softmax(q / temperature, dim=1) - one) / size,
            "The log-densities belong into the exponents.",
        ),
        (
            (torch.softmax(q / temperature + log_density, dim=1) - one) / size,
            "The log-densities are subtracted in the exponents.",
        ),
        (
            (torch.softmax(q - log_density, dim=1) - one) / size,
            "In the exponents q is divided by T.",
        ),
        (
            (softmax / temperature - one) / size,
            "The factor T before the logarithm cancels the inner derivative 1/T.",
        ),
        (
            (temperature * softmax - one) / size,
            "The inner derivative 1/T cancels the factor T before the logarithm.",
        ),
        (
            (torch.softmax(exponents, dim=0) - one) / size,
            "The softmax runs over the actions of a state, dim=1, and not over the states.",
        ),
        (
            softmax / size - one,
            "Both terms are means over the states: the one in column 0 is divided by B as well.",
        ),
        (
            torch.cat([-one[:, :1], softmax[:, 1:]], dim=1) / size,
            "In column 0 the share of the soft maximum is added to the minus one.",
        ),
        (
            (softmax + one) / size,
            "The data's Q is subtracted in P: in column 0 it adds minus one.",
        ),
        (
            (torch.softmax((q - log_density) / temperature, dim=1) - one) / size,
            "Only q is divided by T; the log-density is subtracted as it is.",
        ),
        (-exact, "The sign is turned: this is the step of descent, not the derivative."),
    ]


@checker("ex-speed-layer")
def check_layer(answer: Any) -> str:
    """Compare all three derivatives with automatic differentiation in double precision."""
    for rows, entering, leaving in ((5, 3, 4), (9, 6, 2)):
        drawn = torch.Generator().manual_seed(rows)
        options: dict[str, Any] = {"generator": drawn, "dtype": torch.float64}
        inputs = torch.randn(2, rows, entering, **options)
        weight = torch.randn(2, entering, leaving, **options)
        bias = torch.randn(2, 1, leaving, **options)
        gradient = torch.randn(2, rows, leaving, **options)
        arguments = (inputs, weight, bias, gradient)
        given = tuple(argument.clone() for argument in arguments)
        result = call_without_autograd(answer, *given)
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise WrongAnswer("Return three tensors: by inputs, by weight, by bias.")
        if any(part is ... or part is None for part in result):
            raise NotDoneYet("Some of the three are not done yet.")
        if not all(torch.equal(*pair) for pair in zip(given, arguments, strict=True)):
            raise WrongAnswer("Your function changes its arguments in place.")
        exact = _layer_by_autograd(*arguments)
        shapes = [getattr(part, "shape", None) for part in result]
        if shapes == [exact[1].shape, exact[0].shape, exact[2].shape]:
            raise WrongAnswer("The order is by inputs, by weight, by bias; yours come turned.")
        slips = _layer_slips(*arguments)
        names = ("by inputs", "by weight", "by bias")
        require_all(
            [
                _complaint(part, own, mistakes, f"{name}, R = {rows}")
                for name, part, own, mistakes in zip(names, result, exact, slips, strict=True)
            ]
        )
    return "All three derivatives agree with automatic differentiation."


def _layer_by_autograd(
    inputs: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [tensor.clone().requires_grad_() for tensor in (inputs, weight, bias)]
        output = torch.relu(leaves[0] @ leaves[1] + leaves[2])
        return torch.autograd.grad(output, leaves, gradient)


def _layer_slips(
    inputs: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor
) -> tuple[list[tuple[Tensor, str]], ...]:
    """What each usual slip would return, for each of the three derivatives."""
    unbiased = (inputs @ weight > 0).double()
    forgotten = "The rectifier is forgotten: nothing comes back where the output is zero."
    unshifted = "The rectifier sees X W + c; your mask leaves out the bias."
    order = "Here the rectifier comes after the layer: its mask belongs to X W + c, not to X."
    scaled = "The mask is one or zero: multiply by where X W + c > 0, not by the output itself."
    output = torch.relu(inputs @ weight + bias)
    masks = [
        (gradient, forgotten),
        (gradient * unbiased, unshifted),
        (gradient * output, scaled),
    ]
    by_inputs = [(mask @ weight.mT, message) for mask, message in masks]
    by_inputs.append(((gradient @ weight.mT) * (inputs > 0), order))
    by_weight = [(inputs.mT @ mask, message) for mask, message in masks]
    by_weight.append((inputs.relu().mT @ gradient, order))
    by_bias = [(mask.sum(1, keepdim=True), message) for mask, message in masks]
    by_bias.append(
        (
            _layer_by_autograd(inputs, weight, bias, gradient)[2] / inputs.shape[1],
            "Every row used the bias: its derivative is a sum, no mean.",
        )
    )
    return by_inputs, by_weight, by_bias


def _compare(result: Tensor, exact: Tensor, slips: list[tuple[Tensor, str]], where: str) -> None:
    problem = _complaint(result, exact, slips, where)
    if problem is not None:
        raise WrongAnswer(problem)


def _complaint(
    result: Any, exact: Tensor, slips: list[tuple[Tensor, str]], where: str
) -> str | None:
    """Say what is wrong with a derivative, if anything is."""
    if not isinstance(result, Tensor) or result.shape != exact.shape:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        return f"The shape {tuple(exact.shape)} is expected; got {shape} ({where})."
    if _close(result, exact):
        return None
    for wrong, message in slips:
        if _close(result, wrong) and not _close(wrong, exact):
            return f"{message} ({where})"
    apart = float((result - exact).abs().max())
    return f"The largest deviation from automatic differentiation is {apart:.3g} ({where})."


def _close(one: Tensor, other: Tensor) -> bool:
    return bool(((one - other).abs() <= TIGHT * (1 + other.abs())).all())


WORDS = {
    "a": ("overflow", "It takes the exponential of what it is given: try exponents around 1,000."),
    "b": ("safe", "It passes all three experiments of the hint; run them."),
    "c": ("argument", "Compare its argument before and after the call."),
    "d": ("memory", "Keep the answer, call again with another argument of that shape, and look."),
}


@checker("ex-speed-which")
def check_which(answer: Any) -> str:
    """Check one word for each of the four versions; each is a quarter."""
    if not isinstance(answer, dict) or set(answer) != set(WORDS):
        raise WrongAnswer("A dictionary with the keys a, b, c and d is expected.")
    if any(word is ... or word is None for word in answer.values()):
        raise NotDoneYet
    known = {word for word, _ in WORDS.values()}
    unknown = [str(word) for word in answer.values() if word not in known]
    if unknown:
        raise WrongAnswer(f"{unknown[0]!r} is none of the words {', '.join(sorted(known))}.")
    require_all(
        [
            None if answer[letter] == word else f"Version {letter}: {help_}"
            for letter, (word, help_) in WORDS.items()
        ]
    )
    return "One is safe; the others pass a single small test and fail elsewhere."
