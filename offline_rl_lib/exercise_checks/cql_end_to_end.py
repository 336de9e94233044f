"""Checkers of *CQL end to end*."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_rl_lib.conservative import cql_penalty
from offline_rl_lib.experiments import RESULTS, final_scores, load_runs
from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker, require_all

Scores = npt.NDArray[np.float64]
Interval = tuple[float, float]


def _stored(dataset: str, method: str) -> list[dict[str, Any]]:
    """The stored runs of one cell, in the order of their seeds."""
    runs = load_runs(RESULTS / "comparison.jsonl")
    cell = [run for run in runs if (run["dataset"], run["method"]) == (dataset, method)]
    return sorted(cell, key=lambda run: int(run["seed"]))


# ---- the critic loss ----------------------------------------------------------------------------


@checker("ex-e2e-critic-loss")
def check_critic_loss(function: Callable[..., Tensor]) -> str:
    """The loss and its gradients on random critics of several sizes and weights."""
    for batch, count, weight in [(64, 15, 0.25), (7, 3, 5.0), (1, 1, 0.0)]:
        inputs = _random_inputs(batch, count)
        loss = call(function, *inputs, weight)
        sizes = f"For B = {batch}, M = {count}, weight = {weight}"
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise WrongAnswer(
                f"{sizes} your function returned {shape}; a scalar tensor is expected: average "
                "over the batch, then sum over the critics."
            )
        expected = _reference_loss(*inputs, weight)
        if not torch.isclose(loss, expected, atol=1e-8):
            reason = _loss_mistake(loss.item(), inputs, weight)
            raise WrongAnswer(
                f"{sizes} the loss is {expected.item():.4f}, yours is {loss.item():.4f}: {reason}."
            )
        _check_gradients(loss, expected, inputs, sizes)
    return "Value and gradients are right for three sizes and weights."


def _random_inputs(batch: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    log_density = normal(batch, count).detach() - 1.0
    return normal(2, batch), normal(batch), normal(2, batch, count), log_density


def _reference_loss(
    data_q: Tensor, target: Tensor, proposal_q: Tensor, log_density: Tensor, weight: float
) -> Tensor:
    td_loss = (data_q - target.detach()).square().mean(dim=-1)
    return (td_loss + weight * cql_penalty(proposal_q, log_density, data_q)).sum()


def _loss_mistake(got: float, inputs: tuple[Tensor, ...], weight: float) -> str:
    data_q, target, proposal_q, log_density = (tensor.detach() for tensor in inputs)
    td_loss = (data_q - target).square().mean(dim=-1).sum()
    soft = cql_penalty(proposal_q, log_density, torch.zeros_like(data_q)).sum()
    data = data_q.mean(dim=-1).sum()
    count, flat = proposal_q.shape[-1], torch.zeros_like(log_density)
    without_density = cql_penalty(proposal_q, flat, torch.zeros_like(data_q)).sum()
    added_density = cql_penalty(proposal_q, -log_density, torch.zeros_like(data_q)).sum()
    right = td_loss + weight * (soft - data)
    each = [
        _reference_loss(data_q[one], target, proposal_q[one], log_density, weight)
        for one in ([0], [1])
    ]
    smaller = [tensor.min(dim=0, keepdim=True).values for tensor in (data_q, proposal_q)]
    along_the_batch = (proposal_q - log_density).logsumexp(dim=1).mean(dim=-1).sum()
    log_sizes = math.log(count), math.log(data_q.shape[-1])
    likely_mistakes = {
        "you average over the critics; the loss is their sum": right / 2,
        "the squared error of the paper has a factor 1/2, this one has none": right - td_loss / 2,
        "the sign of the penalty is turned": td_loss - weight * (soft - data),
        "the value of the data's action is not subtracted": td_loss + weight * soft,
        "log M is not subtracted": right + 2 * weight * log_sizes[0],
        "log M is added; subtract it": right + 4 * weight * log_sizes[0],
        "B stands where M belongs, the number of proposals": right
        + 2 * weight * (log_sizes[0] - log_sizes[1]),
        "the logsumexp runs over the batch; the proposals are the last axis": td_loss
        + weight * (along_the_batch - 2 * log_sizes[0] - data),
        "the soft maximum is a logsumexp, not a mean": td_loss
        + weight * ((proposal_q - log_density).mean(dim=-1).mean(dim=-1).sum() - data),
        "the first critic alone counts; sum over both": each[0],
        "the second critic alone counts; sum over both": each[1],
        "the smaller critic is for targets; here both critics learn, each from its own error": (
            _reference_loss(smaller[0], target, smaller[1], log_density, weight)
        ),
        "the weight is not used; it multiplies the penalty": td_loss + soft - data,
        "the weight multiplies the squared error; it belongs to the penalty": weight * td_loss
        + soft
        - data,
        "the log-densities are not subtracted": td_loss + weight * (without_density - data),
        "the log-densities are added; subtract them": td_loss + weight * (added_density - data),
        "the weight multiplies the penalty only, not the squared error": weight
        * (td_loss + soft - data),
        "you sum over the batch; average over it": right * data_q.shape[-1],
    }
    return next(
        (why for why, wrong in likely_mistakes.items() if math.isclose(got, wrong, abs_tol=1e-7)),
        "compare with steps 2, 4 and 5",
    )


def _check_gradients(
    loss: Tensor, expected: Tensor, inputs: tuple[Tensor, ...], sizes: str
) -> None:
    leaves = inputs[:3]
    if not loss.requires_grad:
        raise WrongAnswer(
            f"{sizes} the value is right, but it has no gradient: torch.no_grad() and detach() "
            "leave nothing to learn from.",
            share=0.5,
        )
    mine = torch.autograd.grad(loss, leaves, allow_unused=True)
    right = torch.autograd.grad(expected, leaves, allow_unused=True)
    if mine[1] is not None and bool((mine[1] != 0).any()):
        raise WrongAnswer(
            f"{sizes} the value is right, but a gradient flows into the target: use "
            "target.detach().",
            share=0.5,
        )
    for name, got, wanted in zip(("data_q", "proposal_q"), mine[::2], right[::2], strict=True):
        wanted = torch.zeros_like(inputs[0]) if wanted is None else wanted
        if got is None and bool((wanted != 0).any()):
            raise WrongAnswer(f"{sizes} no gradient reaches {name}: do not detach it.", 0.5)
        if got is not None and not torch.allclose(got, wanted, atol=1e-8):
            raise WrongAnswer(
                f"{sizes} the value is right, but the gradient at {name} is not: is a part of it "
                "detached?",
                share=0.5,
            )


# ---- updates needed -----------------------------------------------------------------------------


@checker("ex-e2e-updates-needed")
def check_updates_needed(function: Callable[[float, float, float], float]) -> str:
    """The number of updates, by running the recursion until the share is reached."""
    for share, discount, rate in [(0.5, 0.9, 0.05), (0.9, 0.99, 0.005), (0.2, 0.95, 0.01)]:
        settings = f"share={share}, discount={discount}, rate={rate}"
        got = call(function, share, discount, rate)
        if not isinstance(got, int | float | np.floating) or not math.isfinite(got):
            raise WrongAnswer(f"For {settings} your function returned {got!r}, not a number.")
        updates = _count_updates(share, discount, rate)
        if updates - 1 <= got <= updates:
            continue
        shrink = math.log1p(-rate * (1 - discount))
        likely_mistakes = {
            "the factor gamma in front of the power is missing": math.log(1 - share) / shrink,
            "this is the number for the share that is left": math.log(share / discount) / shrink,
            "the sign is turned": -math.log((1 - share) / discount) / shrink,
            "the targets move by tau (1 - gamma) of the distance, not by tau": math.log(
                (1 - share) / discount
            )
            / math.log1p(-rate),
        }
        reason = next(
            (why for why, wrong in likely_mistakes.items() if math.isclose(got, wrong)),
            "solve 1 - gamma (1 - tau (1 - gamma))^k = share for k",
        )
        raise WrongAnswer(
            f"For {settings} the share is reached between {updates - 1:,} and {updates:,} updates, "
            f"yours is {got:,.1f}: {reason}."
        )
    return "It agrees with the recursion, run update by update, for three settings."


def _count_updates(share: float, discount: float, rate: float) -> int:
    """First update at which a critic that fits its targets has reached the share."""
    slow, updates = 0.0, 0
    while (fitted := 1 + discount * slow) < share / (1 - discount):
        slow += rate * (fitted - slow)
        updates += 1
    return updates


# ---- a heavier penalty --------------------------------------------------------------------------


@checker("ex-e2e-weight")
def check_weight(answer: Any) -> str:
    """Compare the reader's two words with the stored runs, seed by seed."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise WrongAnswer('Two words are expected: ("rise" or "fall", "rise" or "fall").')
    if any(word is ... for word in answer):
        raise NotDoneYet
    explanations = {
        "penalty": "the penalty is what is minimised, and now it weighs twenty times as much",
        "data_q": "the penalty pushes down the proposals and *up* the data's actions, and only "
        "the TD error holds these back",
    }
    problems: list[str | None] = []
    for (metric, why), given in zip(explanations.items(), answer, strict=True):
        word = str(given).strip().lower().removesuffix("s")
        if word not in ("rise", "fall"):
            raise WrongAnswer(f'For {metric} write "rise" or "fall"; got {given!r}.')
        risen, pairs = _rises(metric)
        if risen not in (0, pairs):
            raise RuntimeError(f"{metric} rises in {risen} of {pairs} pairs: no clear answer")
        problem = (
            f"In all {pairs} pairs of stored runs {metric} does the opposite. Think again: {why}."
        )
        problems.append(problem if (word == "rise") != (risen == pairs) else None)
    require_all(problems)
    return f"The stored runs agree, in all {_rises('data_q')[1]} pairs of runs with equal seeds."


def _rises(metric: str) -> tuple[int, int]:
    """Pairs of runs in which the metric is higher at the end with weight 5, and all pairs."""
    changes = [
        heavy["metrics"][metric][-1] - light["metrics"][metric][-1]
        for dataset in ("pendulum/replay-v0", "pendulum/narrow-v0")
        for light, heavy in zip(
            _stored(dataset, "CQL"), _stored(dataset, "CQL, weight 5"), strict=True
        )
    ]
    return sum(change > 0 for change in changes), len(changes)


# ---- an interval for a difference ---------------------------------------------------------------


@checker("ex-e2e-paired-interval")
def check_paired_interval(function: Callable[[Scores, Scores], Interval]) -> str:
    """The ends of the interval, within the randomness of a bootstrap."""
    generator = np.random.default_rng(7)
    hard_seeds = generator.normal(-400, 200, 10)
    made_up = hard_seeds + 20 + generator.normal(0, 10, 10), hard_seeds
    narrow = (
        final_scores(_stored("pendulum/narrow-v0", "CQL")),
        final_scores(_stored("pendulum/narrow-v0", "BC")),
    )
    for name, (first, second) in {"the made-up pair": made_up, "CQL and BC": narrow}.items():
        got = call(function, first, second)
        if not isinstance(got, tuple | list | np.ndarray) or len(got) != 2:
            raise WrongAnswer(f"For {name} two numbers are expected, low and high; got {got!r}.")
        low, high = float(got[0]), float(got[1])
        expected = _bootstrap(first - second)
        if _close((low, high), expected):
            continue
        raise WrongAnswer(
            f"For {name} the interval is {expected[0]:+.1f} to {expected[1]:+.1f}, yours is "
            f"{low:+.1f} to {high:+.1f}: {_interval_mistake((low, high), first, second)}."
        )
    return "Right for the stored scores and for a pair in which pairing matters much."


def _bootstrap(difference: Scores, resamples: int = 20_000) -> Interval:
    draws = np.random.default_rng(1).integers(len(difference), size=(resamples, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _close(got: Interval, expected: Interval) -> bool:
    # A few thousand resamples place an end to about 3 % of the width; 8 % leaves room.
    room = 0.08 * (expected[1] - expected[0])
    return all(abs(g - e) < room for g, e in zip(got, expected, strict=True))


def _interval_mistake(got: Interval, first: Scores, second: Scores) -> str:
    difference = first - second
    random = np.random.default_rng(2)
    apart = [
        random.choice(scores, (20_000, len(scores))).mean(axis=1) for scores in (first, second)
    ]
    unpaired = np.quantile(apart[0] - apart[1], [0.025, 0.975])
    likely_mistakes = {
        "it is that of second - first": _bootstrap(-difference),
        "the two are resampled separately, so the luck of a seed does not cancel: subtract "
        "first, then draw": (float(unpaired[0]), float(unpaired[1])),
        "this is where single differences lie, not their mean: average over each resample": (
            float(np.quantile(difference, 0.025)),
            float(np.quantile(difference, 0.975)),
        ),
        "lower and upper end are swapped": _bootstrap(difference)[::-1],
    }
    for why, wrong in likely_mistakes.items():
        if _close(got, wrong) or (wrong[0] > wrong[1] and _close(got[::-1], wrong[::-1])):
            return why
    return "draw whole seeds with replacement, average, and take the 2.5 % and 97.5 % quantiles"
