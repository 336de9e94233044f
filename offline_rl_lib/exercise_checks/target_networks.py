"""Checkers for the exercises of the chapter on target networks."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker


@checker("ex-target-updates")
def check_updates(answer: Any) -> str:
    """Smallest k with 1 - discount (1 - rate (1 - discount))^k >= share."""
    cases = [(0.9, 0.005, 0.99), (0.9, 0.01, 0.99), (0.5, 0.05, 0.9), (0.8, 1.0, 0.6)]
    for share, rate, discount in cases:
        result = call(answer, share, rate, discount)
        where = f"share={share}, rate={rate}, discount={discount}"
        try:
            value = float(result)
        except (TypeError, ValueError):
            raise WrongAnswer(
                f"A number is expected for {where}; got {type(result).__name__}."
            ) from None
        factor = 1 - rate * (1 - discount)
        exact = math.log((1 - share) / discount) / math.log(factor)
        expected = math.ceil(exact)
        mistakes = [
            (math.floor(exact), "At that update the share is not yet reached: round up."),
            (exact, "A whole number of updates is asked for: round up."),
            (
                math.ceil(math.log(1 - share) / math.log(factor)),
                "The gamma in front is missing: the first fit already sees one reward.",
            ),
            (
                math.ceil(math.log((1 - share) / discount) / math.log(1 - rate))
                if rate < 1
                else math.nan,
                "This is the pace of the copy alone. The error shrinks by 1 - tau (1 - gamma).",
            ),
            (
                math.ceil(math.log(share / discount) / math.log(factor)),
                "The share that is still missing, 1 - share, belongs in the logarithm.",
            ),
        ]
        if value == expected:
            continue
        for mistake, message in mistakes:
            if math.isclose(value, mistake):
                raise WrongAnswer(f"{message} ({where})")
        raise WrongAnswer(f"Got {value:g} for {where}; {expected} is the smallest number.")
    if call(answer, 0.0, 0.005, 0.99) != 0:
        raise WrongAnswer("A share of 0 is reached before the first update: the answer is 0.")
    return "90 % takes 45,850 updates at tau = 0.005 and 22,925 at tau = 0.01."


@checker("ex-target-hard-copy")
def check_hard_copy(answer: Any) -> str:
    """Compare with updates taken one by one on random problems."""
    for seed, size, n in ((0, 2, 1), (1, 2, 7), (2, 3, 25)):
        generator = torch.Generator().manual_seed(seed)
        features, following = torch.randn(
            (2, 5, size), generator=generator, dtype=torch.float64
        ).unbind()
        fit, spill = features.T @ features / 5, 0.9 * features.T @ following / 5
        step = 0.3
        expected = _one_by_one(fit, spill, step, n)
        where = f"{size} parameters, step={step}, n={n}"
        result = call(answer, fit, spill, step, n)
        if not isinstance(result, Tensor) or result.shape != expected.shape:
            raise WrongAnswer(f"A tensor of shape {(size, size)} is expected for {where}.")
        if torch.allclose(result, expected):
            continue
        eye = torch.eye(size, dtype=torch.float64)
        once = eye - step * fit
        left_over = torch.linalg.matrix_power(once, n)
        limit = torch.linalg.solve(fit, spill)
        exchanged = spill @ torch.linalg.inv(fit)
        mistakes = [
            (
                once**n + (eye - once**n) @ limit,
                "** takes the power of each entry. The matrix power is torch.linalg.matrix_power.",
            ),
            (
                left_over + (eye - left_over) @ exchanged,
                "F is C^-1 G, in this order: torch.linalg.solve(C, G).",
            ),
            (limit, "This is a fit to the end. n updates come only part of the way."),
            (left_over, "The critic goes towards F e, and not towards 0."),
            (left_over + limit, "F e is reached only as far as R^n has faded: (I - R^n) F."),
            (
                torch.linalg.matrix_power(eye - step * (fit - spill), n),
                "Here the target moved with every update. It must stand still for n of them.",
            ),
            (
                left_over + limit @ (eye - left_over),
                "Matrices do not commute. F acts on the error first: (I - R^n) F.",
            ),
        ]
        for mistake, message in mistakes:
            if torch.allclose(result, mistake):
                raise WrongAnswer(f"{message} ({where})")
        raise WrongAnswer(f"Wrong values for {where}. Try n = 1: it must be I - step (C - G).")
    return "It agrees with updates taken one by one, for 1, 7 and 25 of them."


def _one_by_one(fit: Tensor, spill: Tensor, step: float, n: int) -> Tensor:
    target = torch.eye(len(fit), dtype=fit.dtype)  # every error at once, as columns
    error = target.clone()
    for _ in range(n):
        error = error - step * (fit @ error - spill @ target)
    return error


@checker("ex-target-follow")
def check_follow(answer: Any) -> str:
    """Parameters move a share of the way, buffers are copied, nothing else happens."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    source = copy.deepcopy(target)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter))
    for _ in range(3):
        source(torch.randn(8, 3))
    torch.set_rng_state(torch_state)
    before, source_before = copy.deepcopy(target), copy.deepcopy(source)
    try:
        result = call(answer, target, source, 0.25)
    except NotDoneYet:
        if _equal(target, before):
            raise
        raise WrongAnswer("The target has moved, but nothing came back. Return it.") from None
    if not isinstance(result, nn.Module):
        raise WrongAnswer(f"Return the target, a module; got {type(result).__name__}.")
    if any(parameter.grad_fn is not None for parameter in result.parameters()):
        raise WrongAnswer("The new parameters carry a gradient graph. Use torch.no_grad().")
    if not _equal(source, source_before):
        raise WrongAnswer("The source has changed. Only the target may move.")
    if result is source or any(
        slow.data_ptr() == fast.data_ptr()
        for slow, fast in zip(result.parameters(), source.parameters(), strict=True)
    ):
        raise WrongAnswer("Target and source share memory now: two names for one network.")
    if result is not target:
        raise WrongAnswer("Another module came back. Move the target itself, and return it.")
    for rate, message in (
        (1.0, "The parameters were copied whole. They move the share `rate` of the way."),
        (0.75, "The shares are exchanged: `rate` belongs to the source."),
        (0.0, "The parameters have not moved."),
    ):
        if _at(result, before, source, rate):
            raise WrongAnswer(message)
    if not _at(result, before, source, 0.25):
        raise WrongAnswer("The parameters are not where 0.75 target + 0.25 source would be.")
    for (name, slow), fast in zip(result.named_buffers(), source.buffers(), strict=True):
        if not torch.equal(slow, fast):
            raise WrongAnswer(f"The buffer {name} is {slow.tolist()}, not {fast.tolist()}.")
        if slow.data_ptr() == fast.data_ptr():
            raise WrongAnswer(f"The buffer {name} is shared with the source: copy its values.")
    return "Parameters move a quarter of the way, three buffers are copied, the source rests."


def _equal(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def _at(result: nn.Module, before: nn.Module, source: nn.Module, rate: float) -> bool:
    triples = zip(result.parameters(), before.parameters(), source.parameters(), strict=True)
    return all(
        torch.allclose(now, (1 - rate) * old + rate * fast, atol=1e-6) for now, old, fast in triples
    )
