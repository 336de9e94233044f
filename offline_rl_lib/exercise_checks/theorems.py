"""Checkers for the exercises of the chapter on the theorems."""

from __future__ import annotations

from typing import Any

import numpy as np

from offline_rl_lib import tabular
from offline_rl_lib.tabular import Array
from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, call, checker


@checker("ex-theorems-loop")
def check_loop(answer: Any) -> str:
    """The reduction is weight * D / (1 - discount) = 2 * 0.25 / 0.1 = 5."""
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise WrongAnswer(f"A number is expected; got {type(answer).__name__}.") from None
    mistakes = [
        (0.5, "This is one step's subtraction. It is made again in every step to come."),
        (2.5, "Nearly: the weight is 2, not 1."),
        (
            25.0,
            "This is equation 1. Equation 2 also pushes the data up: subtract 1 from pi / pi_beta.",
        ),
        (-5.0, "The amount is right. Asked is how far below, so it is a positive number."),
        (20 / 3, "This divides by pi. The squared difference is divided by the behaviour."),
        (4.5, "The first step's penalty counts as well: the sum is 1 + 0.9 + 0.9 ** 2 + ..."),
        (10.0, "The weight counts once, and no half enters: D is 0.25."),
    ]
    if abs(value - 5) <= 1e-6:
        return "D is 0.25, its discounted sum 2.5, and the weight 2 makes it 5."
    for mistake, message in mistakes:
        if abs(value - mistake) <= 6e-3:
            raise WrongAnswer(message)
    raise WrongAnswer(
        f"Got {value:.3f}. First D, the sum of (pi - pi_beta) ** 2 / pi_beta; then the discounted "
        "sum of a constant; then the weight."
    )


@checker("ex-theorems-evaluate")
def check_evaluate(answer: Any) -> str:
    """Compare with the library on two random problems."""
    for seed, (states, actions, discount, weight) in enumerate(
        ((4, 3, 0.8, 0.7), (3, 2, 0.5, 2.0))
    ):
        rng = np.random.default_rng(seed)
        many = tabular.random_mdps(1, states, actions, discount, rng)
        mdp = tabular.MDP(many.reward[0], many.transition[0], discount)
        policy, behaviour = tabular.random_policies(2, states, actions, rng)
        where = f"S={states}, A={actions}, discount={discount}, alpha_cql={weight}"
        arrays = mdp.reward.copy(), mdp.transition.copy(), discount, policy.copy(), behaviour.copy()
        result = call(answer, *arrays, weight)
        if getattr(result, "shape", ()) == (states, actions):
            raise WrongAnswer(f"This is Q. V is its mean under the policy, shape ({states},).")
        result = _array(result, (states,), where)

        def value(
            push_down: Array,
            push_up: Array | None,
            alpha_cql: float = weight,
            mdp: tabular.MDP = mdp,
            policy: Array = policy,
            behaviour: Array = behaviour,
        ) -> Array:
            q = tabular.penalised_q(mdp, policy, behaviour, alpha_cql, push_down, push_up)
            return tabular.values(q, policy)

        if np.allclose(result, value(policy, behaviour), atol=1e-6):
            continue
        mistakes = [
            (value(policy, behaviour, 0.0), "This is the true value; nothing is subtracted."),
            (value(policy, None), "This is equation 1. Equation 2 subtracts pi / pi_beta - 1."),
            (
                value(policy, behaviour, -weight),
                "The sign is turned: the penalty is subtracted from the reward.",
            ),
            (value(policy, behaviour, weight / 2), "The weight is halved. It is the paper's here."),
            (
                value(np.full_like(policy, 1 / actions), behaviour),
                "This pushes down the uniform distribution; mu is the policy.",
            ),
            (
                tabular.values(tabular.policy_q(mdp, policy), policy)
                - weight * tabular.chi_square(policy, behaviour),
                "This subtracts the divergence once. It must be added up over the steps to come.",
            ),
        ]
        for mistake, message in mistakes:
            if np.allclose(result, mistake, atol=1e-6):
                raise WrongAnswer(f"{message} ({where})")
        raise WrongAnswer(
            f"Wrong values for {where}: expected {np.round(value(policy, behaviour), 3)}, got "
            f"{np.round(result, 3)}. Check the mean over actions of reward and transition."
        )
    return "It agrees with the library on two random problems."


@checker("ex-theorems-break")
def check_break(answer: Any) -> str:
    """The mean of (uniform - behaviour) / behaviour under the policy is at most -0.3."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise WrongAnswer("Two arrays are expected: the policy and the behaviour.")
    if any(part is ... for part in answer):
        raise NotDoneYet
    policy = _array(answer[0], (3,), "the policy")
    behaviour = _array(answer[1], (3,), "the behaviour")
    for name, row in (("policy", policy), ("behaviour", behaviour)):
        if (row <= 0).any():
            raise WrongAnswer(f"The {name} must give every action a probability above zero.")
        if abs(row.sum() - 1) > 1e-6:
            raise WrongAnswer(f"The {name}'s probabilities add up to {row.sum():.3f}, not to 1.")
    lowered = float((policy * (1 / 3 - behaviour) / behaviour).sum())
    if abs(lowered) < 1e-9:
        raise WrongAnswer(
            "The sum is 0: the policy's value stays. Let the policy take the data's favourite more "
            "often than the data do."
        )
    if lowered > 0:
        raise WrongAnswer(
            f"The sum is {lowered:.2f}: the policy's value sinks. Let it take the action that the "
            "data hold most often."
        )
    if lowered > -0.3:
        raise WrongAnswer(
            f"The sum is {lowered:.2f}, so the policy is over-rated, but not by 0.3 yet. Make the "
            "data's favourite more frequent, or the policy keener on it."
        )
    return f"The sum is {lowered:.2f}: this policy's value comes out too high."


@checker("ex-theorems-weight")
def check_weight(answer: Any) -> str:
    """The largest of excess / reduction, at least 0, infinite where nothing is subtracted."""
    cases = [
        ("two states above the truth", [1.0, 2.0], [1.4, 2.3], [0.5, 2.0], 0.8),
        ("one state above, one below", [1.0, 2.0], [0.5, 2.3], [0.5, 2.0], 0.15),
        ("all states below the truth", [1.0, 2.0], [0.5, 1.3], [0.5, 2.0], 0.0),
        ("a state without reduction, below the truth", [1.0, 2.0], [0.5, 2.3], [0.0, 2.0], 0.15),
        ("no reduction at all, below the truth", [1.0, 2.0], [0.5, 1.3], [0.0, 0.0], 0.0),
        ("a state without reduction, above the truth", [1.0, 2.0], [1.1, 2.3], [0.0, 2.0], np.inf),
    ]
    for name, truth, plain, reduction, expected in cases:
        arrays = (np.array(part) for part in (truth, plain, reduction))
        with np.errstate(all="ignore"):
            result = call(answer, *arrays)
        try:
            value = float(result)
        except (TypeError, ValueError):
            raise WrongAnswer(f"A number is expected; got {type(result).__name__}.") from None
        if value == expected or abs(value - expected) <= 1e-9:
            continue
        advice = "Each state needs excess / reduction."
        if abs(value - max(p - v for p, v in zip(plain, truth, strict=True))) <= 1e-9:
            pass  # The excess itself, undivided.
        elif expected == np.inf:
            advice = "Where nothing is subtracted no weight helps: return np.inf."
        elif expected == 0 or value < 0:
            advice = "A weight is not negative: what is below the truth needs none."
        elif value < expected:
            advice = "The state that needs most decides: the largest quotient."
        raise WrongAnswer(f"{name}: expected {expected:.3g}, got {value:.3g}. {advice}")
    return "It is right for six cases, with and without states where nothing is subtracted."


def _array(value: Any, shape: tuple[int, ...], where: str) -> Array:
    try:
        result = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise WrongAnswer(
            f"An array of numbers is expected for {where}; got {type(value).__name__}."
        ) from None
    if result.shape != shape:
        raise WrongAnswer(f"The shape should be {shape} for {where}; got {result.shape}.")
    return result
