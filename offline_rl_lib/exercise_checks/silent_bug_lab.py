"""Checkers for the exercises of the silent-bug lab, and the unnamed agents of the first one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from offline_rl_lib.conservative import log_mean_exp_q
from offline_rl_lib.cql import CQL
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.densities import TanhNormal
from offline_rl_lib.probes import run_probes
from offline_rl_lib.silent_bugs import SMALL, WARM, SteppedCQL
from offline_rl_lib.teaching import WrongAnswer, call, checker, require_all

DIAGNOSES = {"A": "uniform density", "B": "weight twice", "C": "none"}
WORDS = ("none", "uniform density", "weight twice", "reward scale", "same critic")
HINTS = {
    "A": "A: its policy's density and the range of its proposals pass; units and log volume do "
    "not. Which density is left?",
    "B": "B: how much harder does it push when the weight is eight times as large?",
    "C": "C: every probe passes, and one of the three has no bug.",
}


def unnamed(letter: str) -> type[CQL]:
    """Return the class of an agent, for the settings ``SMALL``.

    Raises:
        ValueError: there is no agent of that letter.
    """
    if letter not in DIAGNOSES:
        raise ValueError(f"The unnamed agents are A, B and C; got {letter!r}.")

    class Unnamed(SteppedCQL):
        """An agent with a bug, or without."""

        def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
            if letter == "A":
                count = self.settings.num_proposals
                half = torch.full_like(log_densities[:, :count], math.log(0.5))
                log_densities = torch.cat([half, log_densities[:, count:]], dim=1)
            return super().soft_maximum(q_values, log_densities)

        def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = super().critic_loss(batch)
            if letter == "B":
                # The metrics are means over the critics, the loss is their sum.
                weight = self.settings.penalty_weight
                loss = 2 * (metrics["td_loss"] + weight**2 * metrics["penalty"])
            return loss, metrics

    return Unnamed


@checker("ex-bug-unnamed")
def check_unnamed(answer: Any) -> str:
    """Compare the diagnoses."""
    if not isinstance(answer, Mapping) or set(answer) != set(DIAGNOSES):
        raise WrongAnswer("A dictionary with the keys A, B and C is expected.")
    for letter in DIAGNOSES:
        if answer[letter] not in WORDS:
            raise WrongAnswer(
                f"{letter}: {answer[letter]!r} is none of the words {', '.join(WORDS)}."
            )
    require_all(
        [
            None if answer[letter] == word else f"{answer[letter]!r} is not it. {HINTS[letter]}"
            for letter, word in DIAGNOSES.items()
        ]
    )
    return "One wrong constant, one weight applied twice, and one agent without a mistake."


@checker("ex-bug-repair")
def check_repair(answer: Any) -> str:
    """Build an agent on the reader's estimator and probe it."""
    q_values, log_mu = torch.zeros(2, 3, 6), torch.zeros(3, 6)
    shape = tuple(torch.as_tensor(call(answer, q_values, log_mu, 1.0)).shape)
    if shape != (2, 3):
        raise WrongAnswer(
            f"For q of shape (2, 3, 6) the result must have shape (2, 3); got {shape}."
        )

    class Repaired(SteppedCQL):
        """An agent that estimates as the reader says."""

        def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
            result: Tensor = answer(q_values, log_densities, self.settings.penalty_temperature)
            return result

    known = _what_is_left(answer)
    for settings in (SMALL, WARM):
        for verdict in run_probes(Repaired, settings).values():
            if verdict.passed is False and known:
                raise WrongAnswer(
                    f"{known} An agent built on it fails the probe “{verdict.probe}”: "
                    f"{verdict.measured:.3f} in place of {verdict.expected:.3f}."
                )
            if verdict.passed is False:
                raise WrongAnswer(f"An agent built on it does not pass. {verdict}")
    q_values, log_mu = _anything()
    got = torch.as_tensor(call(answer, q_values, log_mu, 2.0))
    expected = log_mean_exp_q(q_values, log_mu, 2.0)
    if not torch.allclose(got.to(expected.dtype), expected, atol=1e-4):
        raise WrongAnswer(
            "An agent built on it passes every probe, and still it is not the soft maximum: for "
            f"random Q and T = 2 it gives {got.flatten()[0]:.3f} in place of "
            f"{expected.flatten()[0]:.3f}. One mean runs over all M proposals, inside of one "
            "logarithm."
        )
    return "An agent built on your estimator passes every probe."


def _anything() -> tuple[Tensor, Tensor]:
    """Values and log-densities without a pattern: two critics, three states, six proposals."""
    generator = torch.Generator().manual_seed(0)
    q_values = torch.randn((2, 3, 6), generator=generator, dtype=torch.float32)
    return q_values, torch.randn((3, 6), generator=generator, dtype=torch.float32)


def _what_is_left(answer: Any) -> str:
    """Which of the three mistakes the reader's estimator still has, or which new one."""
    q_values, log_mu = _anything()
    t, log_m = 2.0, math.log(6)
    given = torch.as_tensor(call(answer, q_values, log_mu, t)).float()
    divided, right = (q_values - log_mu) / t, q_values / t - log_mu
    forms: dict[str, Tensor] = {}
    for place, scores in {"T divides the log-density": divided, "": right}.items():
        of_three = scores.unflatten(-1, (3, -1)).logsumexp(-2).mean(-1)
        for groups, total, amounts in (
            ("the logsumexp of three", of_three, (0.0, math.log(3), log_m)),
            ("", scores.logsumexp(-1), (0.0, log_m)),
        ):
            for amount in amounts:
                forgotten = "" if amount == log_m else "log M is not subtracted"
                mistakes = [text for text in (groups, place, forgotten) if text]
                if mistakes:
                    still = f"Still there: {', '.join(mistakes)}."
                    forms[f"{still}{'' if amount in (0.0, log_m) else ' (Log 3 is.)'}"] = t * (
                        total - amount
                    )
    whole = right.logsumexp(-1)
    forms |= {
        "T multiplies log M too.": t * whole - log_m,
        "The logarithm is multiplied by T.": whole - log_m,
        "The log-density is subtracted, not added.": t
        * ((q_values / t + log_mu).logsumexp(-1) - log_m),
        "Q is divided by T, not multiplied.": ((q_values * t - log_mu).logsumexp(-1) - log_m) / t,
    }
    return next(
        (text for text, form in forms.items() if torch.allclose(given, form, atol=1e-4)), ""
    )


@checker("ex-bug-probe")
def check_probe(answer: Any) -> str:
    """Give the reader's probe one right and three wrong densities, on two boxes."""
    for low, high in ((-1.0, 1.0), (-2.0, 3.0)):
        for name, (log_prob, broken) in _densities(low, high).items():
            given = call(answer, log_prob, low, high)
            if bool(given) != broken:
                said = "broken" if given else "correct"
                raise WrongAnswer(f"On the box [{low:g}, {high:g}] it calls {name} {said}.")
    return "It tells a density from three impostors."


def _densities(low: float, high: float) -> dict[str, tuple[Any, bool]]:
    generator = torch.Generator().manual_seed(0)

    def policy(observation: Tensor) -> TanhNormal:
        mean = torch.full((len(observation), 1), 0.4)
        box = torch.tensor([low]), torch.tensor([high])
        return TanhNormal(mean, torch.full_like(mean, 0.6), *box)

    def right(observation: Tensor, action: Tensor) -> Tensor:
        return policy(observation).log_prob(action)

    def draws_anew(observation: Tensor, action: Tensor) -> Tensor:
        return policy(observation).rsample_with_log_prob((), generator)[1]

    def unscaled(observation: Tensor, action: Tensor) -> Tensor:
        return right(observation, action) + math.log(high - low)

    def constant(observation: Tensor, action: Tensor) -> Tensor:
        return torch.zeros(len(observation))

    return {
        "the correct density": (right, False),
        "a function that draws an action of its own": (draws_anew, True),
        "a density times the width of the box": (unscaled, True),
        "a function that is zero everywhere": (constant, True),
    }
