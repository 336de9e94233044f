"""Proofs of the chapter on the theorems, and tests of its exercise checkers.

Each proof reaches the number by another method than the library: the big matrix over pairs,
truncated sums, general optimisers, simulation. Each shows that a wrong version fails its check.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize

from offline_rl_lib import tabular as tb
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
COUNT, S, A = 250, 6, 4
DISCOUNTS = [0.5, 0.9]


def drawn(discount: float, seed: int = 0) -> tuple[tb.MDP, Any, Any, Any]:
    """Random problems with a policy, a behaviour without rare actions, and another policy."""
    rng = np.random.default_rng(seed)
    mdp = tb.random_mdps(COUNT, S, A, discount, rng)
    policy, behaviour, other = (tb.random_policies(COUNT, S, A, rng) for _ in range(3))
    return mdp, policy, (behaviour + 1 / A) / 2, other


def mean(q: Any, policy: Any) -> Any:
    """Mean of Q over actions, written with einsum and not with the library."""
    return np.einsum("nsa,nsa->ns", q, policy)


def by_pairs(mdp: tb.MDP, policy: Any, subtract: Any = 0.0) -> Any:
    """Solve Q = r - subtract + discount P^pi Q with the (SA, SA) matrix of the paper."""
    count, states, actions = mdp.reward.shape
    moves = mdp.transition[..., None] * policy[:, None, None]
    system = np.eye(states * actions) - mdp.discount * moves.reshape(count, states * actions, -1)
    right = (mdp.reward - subtract).reshape(count, -1, 1)
    return np.linalg.solve(system, right).reshape(mdp.reward.shape)


def state_inverse(mdp: tb.MDP, policy: Any, terms: int = 400) -> Any:
    """(I - discount P^pi_S)^-1 as the truncated sum of discounted powers."""
    moves = mdp.discount * np.einsum("nsa,nsat->nst", policy, mdp.transition)
    total = np.broadcast_to(np.eye(moves.shape[-1]), moves.shape).copy()
    power = total.copy()
    for _ in range(terms):
        power = power @ moves
        total += power
    return total


def above(measured: Any) -> float:
    """How far the largest entry lies above zero; 0 if none does."""
    return max(0.0, float(np.max(measured)))


# ---- Equations 1 and 2 ------------------------------------------------------------------------


@pytest.mark.proves("eq-theorems-step", method="autograd: the loss is stationary and convex there")
def test_the_step_minimises_its_loss(deviation: Deviation) -> None:
    rng = np.random.default_rng(1)
    behaviour = torch.tensor((tb.random_policies(50, S, A, rng) + 1 / A) / 2)
    down, up = (torch.tensor(tb.random_policies(50, S, A, rng)) for _ in range(2))
    y = torch.tensor(rng.normal(size=(50, S, A)))

    def slope(q: torch.Tensor) -> float:
        q = q.clone().requires_grad_()
        loss = 0.7 * ((down - up) * q).sum() + 0.5 * (behaviour * (q - y) ** 2).sum()
        return float(torch.autograd.grad(loss, q)[0].abs().max())

    deviation(slope(y - 0.7 * (down - up) / behaviour), 1e-14)
    assert slope(y - 0.7 * (down - up)) > 0.1  # without the density ratio
    assert slope(y - 0.35 * (down - up) / behaviour) > 0.1  # with the code's weight


@pytest.mark.proves("eq-theorems-fixed-point", method="matrix over pairs; the step repeated")
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_the_fixed_point_is_the_truth_minus_the_summed_penalty(
    discount: float, deviation: Deviation
) -> None:
    mdp, policy, behaviour, other = drawn(discount)
    nothing = np.zeros_like(other)
    for down, up in ((policy, behaviour), (other, behaviour), (other, nothing), (policy, other)):
        subtract = 0.7 * (down - up) / behaviour
        library = tb.penalised_q(mdp, policy, behaviour, 0.7, down, None if up is nothing else up)
        # Q - G x is the solution for the smaller reward, because the equation is linear.
        deviation(abs(library - by_pairs(mdp, policy, subtract)).max(), 1e-10)
        summed = by_pairs(tb.MDP(subtract, mdp.transition, discount), policy)
        deviation(abs(library - (by_pairs(mdp, policy) - summed)).max(), 1e-10)
        q = np.zeros_like(library)
        for _ in range(60 if discount == 0.5 else 330):
            backup = mdp.reward + discount * np.einsum(
                "nsat,nt->nsa", mdp.transition, mean(q, policy)
            )
            q = backup - subtract
        deviation(abs(library - q).max(), 1e-10)
        assert abs(library - (by_pairs(mdp, policy) - subtract)).max() > 0.1  # once is not enough


@pytest.mark.proves("claim-theorems-pointwise", method="matrix over pairs, 250 problems a discount")
@pytest.mark.parametrize("discount", [*DISCOUNTS, 0.99])
def test_pushing_down_only_bounds_every_pair(discount: float, deviation: Deviation) -> None:
    mdp, policy, behaviour, other = drawn(discount, seed=2)
    truth = by_pairs(mdp, policy)
    for weight in (1e-3, 0.5, 20.0):
        for down in (other, policy, np.full_like(policy, 1 / A)):
            q = tb.penalised_q(mdp, policy, behaviour, weight, down)
            excess = q - (truth - weight * down / behaviour)
            deviation(above(excess), 1e-9 * (1 + weight) / (1 - discount))
    # Turned around, the penalty raises every pair, and the same check notices.
    raised = tb.penalised_q(mdp, policy, behaviour, -0.5, other)
    assert above(raised - truth) > 0.1
    # On the edge of the condition, where nobody takes the first action, the bound holds.
    never, narrow, low = (part.copy() for part in (behaviour, policy, other))
    for part in (never, narrow, low):
        part[..., 0] = 0
        part /= part.sum(-1, keepdims=True)
    q = tb.penalised_q(mdp, narrow, never, 0.5, low)
    fraction = np.divide(low, never, out=np.zeros_like(low), where=never > 0)
    excess = (q - (by_pairs(mdp, narrow) - 0.5 * fraction))[..., 1:]
    deviation(above(excess), 1e-9 / (1 - discount))
    for pair in ((policy, low), (narrow, other)):
        with pytest.raises(ValueError, match="never takes"):
            tb.penalised_q(mdp, pair[0], never, 0.5, pair[1])


def free_end(start: float, policy: Any, push: Any, data: Any) -> Any:
    """Repeat the step in one state with rewards 0; pairs without data keep their Q."""
    q = np.array([0.0] * (len(data) - 1) + [start])
    held = data > 0
    for _ in range(300):
        q[held] = 0.9 * (policy @ q) - push[held] / data[held]
    return q


def test_a_policy_outside_the_support_breaks_the_bounds() -> None:
    """Where the loss leaves Q free the policy carries any number to the pairs with data."""
    data, policy = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert free_end(5.0, policy, data, data)[0] > 3  # theorem 3.1 promises at most -1
    assert free_end(5.0, data, data, data)[0] < -9  # and keeps it inside the support
    # Theorem 3.3: its inequality holds, a rare action without data breaks the bound.
    data, pushed = np.array([0.9, 0.1, 0.0]), np.array([0.1, 0.9, 0.0])
    policy = np.array([0.1, 0.85, 0.05])
    ratio = pushed[:2] / data[:2]
    assert pushed[:2] @ (ratio - 1) > 0.05 * ratio.max()
    assert policy @ free_end(200.0, policy, pushed - data, data) > 20
    inside = np.array([0.1, 0.9, 0.0])
    assert inside @ free_end(200.0, inside, pushed - data, data) < 0


@pytest.mark.proves("eq-theorems-chi-square", method="sum of squares, against the mean ratio")
def test_chi_square_has_two_forms(deviation: Deviation) -> None:
    _, policy, behaviour, _ = drawn(0.5, seed=3)
    squares = ((policy - behaviour) ** 2 / behaviour).sum(-1)
    deviation(abs(tb.chi_square(policy, behaviour) - squares).max(), 1e-13)
    deviation(above(-tb.chi_square(policy, behaviour)), 0.0)
    deviation(abs(tb.chi_square(behaviour, behaviour)).max(), 1e-14)
    assert squares.min() > 1e-6  # zero only for equal policies
    assert abs(tb.chi_square(behaviour, policy) - squares).max() > 0.1  # it is not symmetric


@pytest.mark.proves("claim-theorems-value", method="sum of 400 powers of the policy's moves")
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_the_value_sinks_by_the_summed_divergence(discount: float, deviation: Deviation) -> None:
    mdp, policy, behaviour, _ = drawn(discount, seed=4)
    divergence = ((policy - behaviour) ** 2 / behaviour).sum(-1)
    truth = mean(by_pairs(mdp, policy), policy)
    reduction = np.einsum("nst,nt->ns", state_inverse(mdp, policy), divergence)
    for weight in (0.01, 0.5, 5.0):
        q = tb.penalised_q(mdp, policy, behaviour, weight, policy, behaviour)
        value = mean(q, policy)
        deviation(abs(value - (truth - weight * reduction)).max(), 1e-9)
        deviation(above(value - (truth - weight * divergence)), 1e-9)
        own = tb.penalised_q(mdp, behaviour, behaviour, weight, behaviour, behaviour)
        deviation(abs(own - by_pairs(mdp, behaviour)).max(), 1e-9)  # nothing sinks
    # The divergence the wrong way round is another number.
    turned = ((policy - behaviour) ** 2 / policy).sum(-1)
    assert abs(np.einsum("nst,nt->ns", state_inverse(mdp, policy), turned) - reduction).max() > 0.1


@pytest.mark.proves("eq-theorems-difference", method="both fixed points, matrix over pairs")
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_equation_two_is_higher_by_a_constant(discount: float, deviation: Deviation) -> None:
    mdp, policy, behaviour, other = drawn(discount, seed=5)
    for weight in (0.5, 3.0):
        two = tb.penalised_q(mdp, policy, behaviour, weight, other, behaviour)
        one = by_pairs(mdp, policy, weight * other / behaviour)
        deviation(abs(two - one - weight / (1 - discount)).max(), 1e-9)
        assert abs(two - one - weight).min() > 0.1  # not one step's worth


@pytest.mark.proves("eq-theorems-visits", method="visits counted along 400 powers")
def test_the_fine_is_the_divergence_where_the_policy_goes(deviation: Deviation) -> None:
    mdp, policy, behaviour, _ = drawn(0.8, seed=6)
    rng = np.random.default_rng(0)
    start = rng.dirichlet(np.ones(S), size=COUNT)
    share = (1 - 0.8) * np.einsum("ns,nst->nt", start, state_inverse(mdp, policy))
    deviation(abs(share - tb.visits(mdp, policy, start)).max(), 1e-12)
    q = tb.penalised_q(mdp, policy, behaviour, 0.5, policy, behaviour)
    lost = (start * mean(by_pairs(mdp, policy) - q, policy)).sum(-1)
    divergence = ((policy - behaviour) ** 2 / behaviour).sum(-1)
    deviation(abs(lost - 0.5 / (1 - 0.8) * (share * divergence).sum(-1)).max(), 1e-10)
    # Weighing the divergence by the first state only is not enough.
    assert abs(lost - 0.5 / (1 - 0.8) * (start * divergence).sum(-1)).max() > 0.1


@pytest.mark.proves("claim-theorems-overrated", method="matrix over pairs, 250 problems")
def test_single_actions_are_overrated_and_values_are_not(deviation: Deviation) -> None:
    mdp, policy, behaviour, _ = drawn(0.5, seed=7)
    q = tb.penalised_q(mdp, policy, behaviour, 0.5, policy, behaviour)
    truth = by_pairs(mdp, policy)
    share = (q > truth).mean()
    deviation(abs(share - 0.13), 0.05)
    deviation(above(mean(q - truth, policy)), 1e-12)
    deviation(above(q - truth - 0.5), 1e-12)  # by no more than the weight
    never = behaviour > policy  # only actions that the data take more often
    assert (never | (q <= truth + 1e-12)).all()
    low = tb.penalised_q(mdp, policy, behaviour, 0.5, policy)
    assert (low <= truth).all()  # equation 1 has none


@pytest.mark.proves("claim-theorems-push-up", method="minimised over the simplex by SLSQP")
def test_only_the_data_may_be_pushed_up(deviation: Deviation) -> None:
    rng = np.random.default_rng(8)
    equal = {"type": "eq", "fun": lambda m: m.sum() - 1}
    for draw in range(20):
        behaviour = (rng.dirichlet(np.ones(A)) + 1 / A) / 2
        other = rng.dirichlet(np.ones(A))
        if draw >= 10:  # on the edge of the simplex too, up to a single action
            other[: draw % A] = 0
            other /= other.sum()
        for up in (behaviour, other):

            def lowered(m: Any, up: Any = up, behaviour: Any = behaviour) -> float:
                return float((m * (m - up) / behaviour).sum())

            found = optimize.minimize(
                lowered, np.full(A, 1 / A), bounds=[(0, 1)] * A, constraints=equal, tol=1e-12
            )
            if up is behaviour:
                deviation(abs(found.fun), 1e-9)  # the smallest value is 0
                np.testing.assert_allclose(found.x, behaviour, atol=1e-4)
            else:
                assert found.fun < -1e-4  # some policy's value is raised


# ---- Theorems 3.3 and 3.4 ---------------------------------------------------------------------


@pytest.mark.proves("eq-theorems-lag", method="both sums, term by term")
@pytest.mark.proves("claim-theorems-slow", method="matrix over pairs, 21 mixtures a problem")
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_a_lagging_policy_is_bounded_if_it_is_near(discount: float, deviation: Deviation) -> None:
    mdp, pushed, behaviour, other = drawn(discount, seed=9)
    ratio = pushed / behaviour
    divergence = ((pushed - behaviour) ** 2 / behaviour).sum(-1)
    met_and_broken, met, broken = 0, 0, 0
    for share in np.linspace(0, 1, 21):
        policy = (1 - share) * pushed + share * other
        distance = abs(policy - pushed).sum(-1) / 2
        lowered = mean(ratio - 1, policy)
        rest = mean(ratio, policy - pushed)
        deviation(abs(lowered - (divergence + rest)).max(), 1e-12, label="eq-theorems-lag")
        # The rest is at worst the moved probability times the spread of the ratios.
        spread = ratio.max(-1) - ratio.min(-1)
        deviation(above(-rest - distance * spread), 1e-12, label="claim-theorems-slow")
        for worst in (ratio.max(-1), spread):
            holds = (divergence >= distance * worst).all(-1)
            q = tb.penalised_q(mdp, policy, behaviour, 0.5, pushed, behaviour)
            excess = mean(q - by_pairs(mdp, policy), policy).max(-1)
            deviation(
                above(excess[holds]) if holds.any() else 0.0, 1e-10, label="claim-theorems-slow"
            )
            met, broken = met + holds.sum(), broken + (excess > 1e-10).sum()
            met_and_broken += (holds & (excess > 1e-10)).sum()
    # On the edge: an action without data, which neither the policy nor the push uses.
    data, down, rest = (part.copy() for part in (behaviour, pushed, other))
    for part in (data, down, rest):
        part[..., 0] = 0
        part /= part.sum(-1, keepdims=True)
    policy = 0.9 * down + 0.1 * rest
    ratio = np.divide(down, data, out=np.zeros_like(down), where=data > 0)
    distance = abs(policy - down).sum(-1) / 2
    holds = (mean(ratio - 1, down) >= distance * ratio.max(-1)).all(-1)
    q = tb.penalised_q(mdp, policy, data, 0.5, down, data)
    excess = mean(q - by_pairs(mdp, policy), policy).max(-1)
    assert holds.sum() > 20
    deviation(above(excess[holds]), 1e-10, label="claim-theorems-slow")
    # Both sides occur, so that the check can fail.
    assert met > 1000
    assert broken > 100
    assert met_and_broken == 0


@pytest.mark.proves("eq-theorems-gap", method="BFGS on the loss, after three steps")
@pytest.mark.proves("claim-theorems-gap", method="BFGS on the loss on both sides of the threshold")
def test_the_gap_expands_in_one_step(deviation: Deviation) -> None:
    mdp, pushed, behaviour, _ = drawn(0.9, seed=10)
    divergence = ((pushed - behaviour) ** 2 / behaviour).sum(-1)

    def gap(q: Any) -> Any:
        return mean(q, behaviour) - mean(q, pushed)

    # Three steps with and without a penalty; then both take one more.
    y, plain = mdp.reward, mdp.reward
    for _ in range(3):
        penalised = y - 2.0 * (pushed / behaviour - 1)
        y = mdp.reward + 0.9 * np.einsum("nsat,nt->nsa", mdp.transition, mean(penalised, pushed))
        plain = mdp.reward + 0.9 * np.einsum("nsat,nt->nsa", mdp.transition, mean(plain, pushed))
    threshold = gap(plain - y) / divergence

    def step(place: tuple[int, ...], weight: float) -> Any:
        data, down, target = behaviour[place], pushed[place], y[place]

        def loss(q: Any) -> tuple[float, Any]:
            value = weight * (down - data) @ q + 0.5 * data @ (q - target) ** 2
            return value, weight * (down - data) + data * (q - target)

        return optimize.minimize(loss, target, jac=True, options={"gtol": 1e-10}).x

    wider = []
    for place in np.ndindex(5, S):
        data, down = behaviour[place], pushed[place]
        for weight in (0.1, 3.0):
            q = step(place, weight)
            grown = (data - down) @ (q - y[place]) - weight * divergence[place]
            deviation(abs(grown), 1e-6, label="eq-theorems-gap")
            assert abs(grown + weight * divergence[place] / 2) > 1e-4  # the code's weight
        # Just below the threshold the gap is smaller than without penalty, above it is larger.
        for factor, sign in ((-1e-3, 1), (1e-3, -1)):
            q = step(place, threshold[place] + factor)
            gained = (data - down) @ (q - plain[place])
            deviation(above(sign * gained), 0.0, label="claim-theorems-gap")
        wider.append(threshold[place] < 0)
    assert 0 < sum(wider) < len(wider)  # a small weight is not always enough


@pytest.mark.proves("claim-theorems-gap-shrinks", method="matrix over pairs, two weights")
def test_the_final_gap_may_be_smaller_whatever_the_weight(deviation: Deviation) -> None:
    mdp, policy, _, behaviour = drawn(0.9, seed=11)  # a behaviour with rare actions
    truth = by_pairs(mdp, policy)
    wider = {}
    for weight in (0.5, 50.0):
        q = by_pairs(mdp, policy, weight * (policy / behaviour - 1))
        library = tb.penalised_q(mdp, policy, behaviour, weight, policy, behaviour)
        deviation(abs(library / weight - q / weight).max(), 1e-7)
        wider[weight] = (mean(q - truth, behaviour) - mean(q - truth, policy)) / weight
    scale = abs(wider[0.5]).max()
    deviation(abs(wider[0.5] - wider[50.0]).max() / scale, 1e-10)
    assert 0.03 < (wider[0.5] < 0).mean() < 0.3
    assert np.array_equal(wider[0.5] < 0, wider[50.0] < 0)
    # In one step, with the target unchanged, it widens in every state.
    step = truth - 0.5 * (policy / behaviour - 1)
    assert (mean(step - truth, behaviour) > mean(step - truth, policy)).all()


# ---- The soft penalties -----------------------------------------------------------------------


def soft_problem(seed: int, count: int = 100) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    behaviour = tb.random_policies(count, S, A, rng)
    prior = (tb.random_policies(count, S, A, rng) + 1 / A) / 2
    return 3 * rng.normal(size=(count, S, A)), behaviour, prior


@pytest.mark.proves("eq-theorems-soft-step", method="autograd of the loss as it is written")
@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_the_soft_step_is_stationary(weight: float, deviation: Deviation) -> None:
    target, behaviour, prior = soft_problem(12)

    def slope(q: Any, rho: Any) -> float:
        leaf = torch.tensor(q, requires_grad=True)
        shares = torch.tensor(behaviour)
        soft = torch.logsumexp(leaf + torch.tensor(np.log(rho)), -1)
        loss = weight * (soft.sum() - (shares * leaf).sum())
        loss = loss + 0.5 * (shares * (leaf - torch.tensor(target)) ** 2).sum()
        return float(torch.autograd.grad(loss, leaf)[0].abs().max())

    uniform = np.full(A, 1 / A)
    library = tb.soft_penalty_step(target, behaviour, weight)
    with_prior = tb.soft_penalty_step(target, behaviour, weight, prior)
    deviation(slope(library, uniform), 1e-11)
    deviation(slope(with_prior, prior), 1e-11)
    weights = library + np.log(prior)
    p = np.exp(library) / np.exp(library).sum(-1, keepdims=True)
    deviation(abs(library - (target - weight * (p / behaviour - 1))).max(), 1e-8)
    assert weights.shape == library.shape
    assert slope(library, prior) > 1e-3  # the prior matters
    assert slope(target - weight * (tb.soft_policy(target) / behaviour - 1), uniform) > 1e-3


@pytest.mark.proves("claim-theorems-data-value", method="mean under the behaviour, two priors")
def test_the_datas_own_value_stays(deviation: Deviation) -> None:
    target, behaviour, prior = soft_problem(13)
    for weight in (0.1, 1.0, 10.0):
        for rho in (None, prior):
            q = tb.soft_penalty_step(target, behaviour, weight, rho)
            deviation(abs(mean(q - target, behaviour)).max(), 1e-12)
            assert abs(mean(q - target, np.full_like(behaviour, 1 / A))).max() > 0.01


@pytest.mark.proves("claim-theorems-saddle", method="SLSQP over the simplex")
@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_the_soft_policy_maximises_its_objective(weight: float, deviation: Deviation) -> None:
    target, behaviour, prior = soft_problem(14, count=2)
    behaviour = (behaviour + 1 / A) / 2
    p = prior * np.exp(tb.soft_penalty_step(target, behaviour, weight, prior))
    p /= p.sum(-1, keepdims=True)
    equal = {"type": "eq", "fun": lambda m: m.sum() - 1}
    for index in np.ndindex(2, S):
        y, data, rho = target[index], behaviour[index], prior[index]

        def cost(m: Any, y: Any = y, data: Any = data, rho: Any = rho, k: float = 0.5) -> float:
            divergence = ((m - data) ** 2 / data).sum()
            return float(-(m @ y - k * weight * divergence - (m * np.log(m / rho)).sum()))

        found = optimize.minimize(cost, data, bounds=[(1e-9, 1)] * A, constraints=equal, tol=1e-13)
        deviation(abs(found.x - p[index]).max(), 1e-4)
        deviation(above(cost(p[index]) - found.fun), 1e-9)
        # With the whole divergence instead of half of it p is not the best.
        assert cost(p[index], k=1.0) > cost(0.999 * p[index] + 0.001 * data, k=1.0)


@pytest.mark.proves("claim-theorems-soft-bound", method="matrix over pairs, 100 problems a setting")
@pytest.mark.parametrize(("discount", "weight"), [(0.5, 0.1), (0.5, 2.0), (0.8, 0.5)])
def test_cql_h_bounds_its_soft_policy(discount: float, weight: float, deviation: Deviation) -> None:
    rng = np.random.default_rng(15)
    mdp = tb.random_mdps(100, S, A, discount, rng)
    behaviour = tb.random_policies(100, S, A, rng)
    q = tb.soft_penalised_q(mdp, behaviour, weight, tb.soft_policy_value)
    p = np.exp(q) / np.exp(q).sum(-1, keepdims=True)
    truth = by_pairs(mdp, p)
    deviation(above(mean(q - truth, p)), 0.0)
    # It is the fixed point of equation 2 that pushes down its own policy.
    second = by_pairs(mdp, p, weight * (p / behaviour - 1))
    deviation(abs(q - second).max(), 1e-8)
    # With the penalty turned round every value lies above the truth, and the check would see it.
    turned = by_pairs(mdp, p, -weight * (p / behaviour - 1))
    assert (mean(turned - truth, p) > 0).all()


@pytest.mark.proves("eq-theorems-cross-entropy", method="torch's cross_entropy and its autograd")
def test_the_discrete_penalty_is_a_cross_entropy(deviation: Deviation) -> None:
    generator = torch.Generator().manual_seed(16)
    q = 3 * torch.randn((200, A), generator=generator, dtype=torch.float64)
    q.requires_grad_()
    action = torch.randint(A, (200,), generator=generator)
    loss = torch.nn.functional.cross_entropy(q, action, reduction="none")
    plain = q.detach().numpy()
    picked = plain[np.arange(200), action.numpy()]
    penalty = np.log(np.exp(plain).sum(-1)) - picked
    deviation(abs(penalty - loss.detach().numpy()).max(), 1e-12)
    (slope,) = torch.autograd.grad(loss.sum(), q)
    one_hot = np.eye(A)[action.numpy()]
    deviation(abs(slope.numpy() - (tb.soft_policy(plain) - one_hot)).max(), 1e-14)
    assert penalty.min() >= 0
    assert (np.log(np.exp(plain).mean(-1)) - picked).min() < 0  # the mean's log is no such loss


@pytest.mark.proves("claim-theorems-discrete", method="evaluation of the greedy policy over pairs")
def test_discrete_cql_overestimates_its_greedy_policy(deviation: Deviation) -> None:
    world = tb.grid_world()
    q = tb.soft_penalised_q(world.mdp, world.behaviour, 1.0, lambda q: q.max(-1))
    greedy = np.eye(4)[q.argmax(-1)]
    one = tb.MDP(world.mdp.reward[None], world.mdp.transition[None], world.mdp.discount)
    truth = (by_pairs(one, greedy[None])[0] * greedy).sum(-1)[world.start]
    predicted = q.max(-1)[world.start]
    deviation(abs(predicted - 2.83), 0.01)
    deviation(abs(truth - 1.58), 0.01)
    # Without a penalty the prediction is the truth.
    plain = tb.soft_penalised_q(world.mdp, world.behaviour, 0.0, lambda q: q.max(-1))
    best = np.eye(4)[plain.argmax(-1)]
    worth = (by_pairs(one, best[None])[0] * best).sum(-1)
    deviation(abs(plain.max(-1) - worth).max(), 1e-10)


@pytest.mark.proves("claim-theorems-cloning", method="weights up to 100,000")
def test_a_huge_weight_clones(deviation: Deviation) -> None:
    world = tb.grid_world()
    off = []
    for weight in (1e2, 1e3, 1e5):
        q = tb.soft_penalised_q(
            world.mdp, world.behaviour, weight, tb.soft_policy_value, tolerance=1e-9
        )
        p = np.exp(q - q.max(-1, keepdims=True))
        off.append(abs(p / p.sum(-1, keepdims=True) - world.behaviour).max())
    deviation(off[-1], 1e-4)
    assert off[0] > 5 * off[1] > 25 * off[2]
    for weight, same in ((1e3, 12), (0.1, 8)):  # a small weight does not clone
        q = tb.soft_penalised_q(world.mdp, world.behaviour, weight, lambda q: q.max(-1))
        off_mode = (q.argmax(-1) != world.behaviour.argmax(-1)).sum()
        deviation(abs(off_mode - (12 - same)), 0)
    # CQL(rho): alternate the step and the policy until it has settled.
    off = []
    for weight in (1.0, 1e3, 1e5):
        p = np.full((12, 4), 0.25)
        for _ in range(50):
            target = tb.backup(world.mdp, (p * q).sum(-1))
            q = tb.soft_penalty_step(target, world.behaviour, weight, p)
            p = p * np.exp(q - q.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
        off.append(abs(p - world.behaviour).max())
    deviation(off[-1], 1e-4)
    assert off[0] > 0.1 > 10 * off[1] > 100 * off[2]
    # Equation 2 with a given policy does no such thing: its Q move with the weight for ever.
    given = world.policy, world.behaviour, 1e5, world.policy, world.behaviour
    assert abs(tb.penalised_q(world.mdp, *given)).max() > 1e4


# ---- Finite data ------------------------------------------------------------------------------


def data_sets(per_state: int, count: int, discount: float = 0.8) -> tuple[Any, ...]:
    """Data sets of the grid world and an even policy, as the chapter draws them."""
    world = tb.grid_world(discount)
    shape = (count, 12, 4)
    mdp = tb.MDP(
        np.broadcast_to(world.mdp.reward, shape),
        np.broadcast_to(world.mdp.transition, (*shape, 12)),
        discount,
    )
    data = tb.sample_data(mdp, world.behaviour, per_state, np.random.default_rng(per_state))
    return mdp, data, tb.supported_policy(np.full(shape, 0.25), data.counts)


@pytest.mark.proves("eq-theorems-data-error", method="matrix over pairs, sum of 400 powers")
def test_the_error_is_one_backup_of_the_true_value(deviation: Deviation) -> None:
    mdp, data, policy = data_sets(20, 50)
    truth = mean(by_pairs(mdp, policy), policy)
    share = data.counts / data.counts.sum(-1, keepdims=True)
    ratio = policy / np.where(share > 0, share, 1)
    value = mean(tb.penalised_q(data.mdp, policy, share, 0.3, policy, share), policy)
    moved = np.einsum("nsat,nt->nsa", data.mdp.transition - mdp.transition, truth)
    error = data.mdp.reward - mdp.reward + 0.8 * moved
    bracket = mean(error, policy) - 0.3 * (mean(ratio, policy) - 1)
    expected = np.einsum("nst,nt->ns", state_inverse(data.mdp, policy), bracket)
    deviation(abs(value - truth - expected).max(), 1e-10)
    # With the true moves instead of the data's it is not exact.
    wrong = np.einsum("nst,nt->ns", state_inverse(mdp, policy), bracket)
    assert abs(value - truth - wrong).max() > 0.01


@pytest.mark.proves("eq-theorems-hoeffding", method="1,000 simulated data sets")
def test_hoeffding_bounds_all_pairs_at_once(deviation: Deviation) -> None:
    mdp, data, policy = data_sets(50, 1000)
    truth = mean(by_pairs(mdp, policy), policy)
    moved = np.einsum("nsat,nt->nsa", data.mdp.transition - mdp.transition, truth)
    error = abs(data.mdp.reward - mdp.reward + 0.8 * moved)
    held = data.counts > 0

    def exceeded(failure: float, factor: float = 1.0) -> float:
        constant = factor * math.sqrt(math.log(2 * 12 * 4 / failure) / 2)
        limit = constant / (1 - 0.8) / np.sqrt(np.maximum(data.counts, 1))
        return float(((error > limit) & held).any((1, 2)).mean())

    for failure in (0.5, 0.1):
        deviation(exceeded(failure), failure)
    assert exceeded(0.1, factor=0.1) > 0.1  # the check can fail


@pytest.mark.proves("claim-theorems-data", method="500 simulated data sets a size")
@pytest.mark.parametrize("per_state", [30, 300])
def test_the_promised_weight_bounds_the_value(per_state: int, deviation: Deviation) -> None:
    mdp, data, policy = data_sets(per_state, 500)
    truth = mean(by_pairs(mdp, policy), policy)
    promised = tb.safe_weight(policy, data, 1.0, 0.1)
    assert np.isfinite(promised).all()
    rates = []
    for share in (0.0, 0.001, 0.01, 0.1, 1.0, 2.0):
        weight = share * promised[:, None, None]
        q = tb.penalised_q(data.mdp, policy, data.behaviour, weight, policy, data.behaviour)
        rates.append((mean(q, policy) > truth + 1e-12).any(-1).mean())
    deviation(rates[-2], 0.1)
    deviation(rates[-1], 0.1)
    deviation(above(np.diff(rates)), 0.0)  # a larger weight never breaks more
    assert rates[0] > 0.8  # and without one nearly all are broken
    # A policy that equals the data's behaviour gets no weight at all.
    own = data.behaviour
    assert (tb.safe_weight(own, data, 1.0, 0.1) > 1e6).all()
    plain = mean(tb.penalised_q(data.mdp, own, own, 1e3, own, own), own)
    assert (plain > mean(by_pairs(mdp, own), own)).any(-1).mean() > 0.5


@pytest.mark.proves("claim-theorems-data", method="50 data sets of each of 40 random problems")
def test_the_promised_weight_bounds_the_value_of_random_problems(deviation: Deviation) -> None:
    rng = np.random.default_rng(18)
    mdp = tb.random_mdps(40, S, A, 0.8, rng)
    mdp = tb.MDP(mdp.reward.repeat(50, 0), mdp.transition.repeat(50, 0), 0.8)
    policy, behaviour = (tb.random_policies(40, S, A, rng).repeat(50, 0) for _ in range(2))
    data = tb.sample_data(mdp, behaviour, 100, rng)
    policy = tb.supported_policy(policy, data.counts)  # some rare actions are not in the data
    assert (data.counts == 0).any()
    truth = mean(by_pairs(mdp, policy), policy)
    promised = tb.safe_weight(policy, data, 1.0, 0.1)[:, None, None]
    broken = {}
    for share in (0.0, 1.0):
        q = tb.penalised_q(
            data.mdp, policy, data.behaviour, share * promised, policy, data.behaviour
        )
        broken[share] = (mean(q, policy) > truth + 1e-9 * promised[..., 0]).any(-1)
    deviation(broken[1.0].reshape(40, 50).mean(1).max(), 0.1)
    assert broken[0.0].mean() > 0.5


@pytest.mark.proves("claim-theorems-careful", method="400 simulated data sets a size")
def test_the_promise_falls_like_the_root_and_is_too_careful(deviation: Deviation) -> None:
    sizes = [50, 200, 800, 3200]
    promised, needed = [], []
    for size in sizes:
        mdp, data, policy = data_sets(size, 400)
        truth = mean(by_pairs(mdp, policy), policy)
        plain = mean(by_pairs(data.mdp, policy), policy)
        q = tb.penalised_q(data.mdp, policy, data.behaviour, 1.0, policy, data.behaviour)
        sunk = plain - mean(q, policy)
        weight = np.median(tb.safe_weight(policy, data, 1.0, 0.1))
        promised.append(weight)
        needed.append(np.quantile(((plain - truth) / sunk).max(-1).clip(0), 0.95))
        own = tb.safe_weight(policy, data, 1.0, 0.1)[:, None]
        bound = plain - own * sunk
        deviation(above(np.delete(bound, 3, axis=1)), 0.0)  # below zero: no news
    assert (bound[:, 3] > 0).all()  # on the charger, with the most data, there is some
    for row in (promised[1:], needed):
        slope = np.polyfit(np.log(sizes[-len(row) :]), np.log(row), 1)[0]
        deviation(abs(slope + 0.5), 0.1)
    assert min(np.array(promised) / needed) > 10


def test_cql_h_does_not_bound_q() -> None:
    """About a third of the entries lie above the truth, on problems as the chapter draws them."""
    mdp, _, behaviour, _ = drawn(0.5, seed=7)
    for weight in (0.1, 0.5, 2.0):
        q = tb.soft_penalised_q(mdp, behaviour, weight, tb.soft_policy_value)
        assert 0.25 < (q > by_pairs(mdp, tb.soft_policy(q))).mean() < 0.4
    world = tb.grid_world()
    for weight in (0.01, 1.0, 100.0):  # the actions of a tile differ by less than two
        q = tb.soft_penalised_q(world.mdp, world.behaviour, weight, tb.soft_policy_value)
        assert np.ptp(q, axis=-1).max() < 2


# ---- What the page says of the floor ----------------------------------------------------------


def test_the_numbers_of_the_picture() -> None:
    world = tb.grid_world()
    one = tb.MDP(world.mdp.reward[None], world.mdp.transition[None], world.mdp.discount)
    policy, behaviour = world.policy[None], world.behaviour[None]
    truth = by_pairs(one, policy)
    q = by_pairs(one, policy, policy / behaviour - 1)
    assert (q > truth).sum() == 8
    assert (mean(q, policy) < mean(truth, policy)).all()
    assert mean(truth, policy)[0, world.start] == pytest.approx(1.56, abs=0.005)
    assert mean(q, policy)[0, world.start] == pytest.approx(1.45, abs=0.005)


def test_what_the_live_figure_lets_one_find() -> None:
    counts = {}
    for discount in (0.5, 0.8, 0.9):
        world = tb.grid_world(discount)
        truth = tb.policy_q(world.mdp, world.policy)
        for weight in (0.2, 1.0, 2.0):
            q = tb.penalised_q(
                world.mdp, world.policy, world.behaviour, weight, world.policy, world.behaviour
            )
            counts[discount, weight] = int((q > truth).sum())
    # The shorter-sighted, the more entries above the truth; the weight has no say.
    assert counts[0.5, 1.0] > counts[0.8, 1.0] > counts[0.9, 1.0] == 0
    assert all(count == counts[discount, 1.0] for (discount, _), count in counts.items())


def test_the_codes_weight_is_twice_the_papers() -> None:
    """The minimiser of MSE + w penalty is that of half the MSE + alpha penalty at w = 2 alpha."""
    target, behaviour, _ = soft_problem(17, count=5)
    shares, y = torch.tensor(behaviour), torch.tensor(target)
    for w in (0.5, 2.0):
        q = torch.tensor(tb.soft_penalty_step(target, behaviour, w / 2), requires_grad=True)
        loss = (shares * (q - y) ** 2).sum()
        loss = loss + w * (torch.logsumexp(q, -1).sum() - (shares * q).sum())
        assert torch.autograd.grad(loss, q)[0].abs().max() < 1e-10


# ---- The exercises ----------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def solution_value(
    reward: Any, transition: Any, discount: float, policy: Any, behaviour: Any, alpha_cql: float
) -> Any:
    smaller = (policy * (reward - alpha_cql * (policy / behaviour - 1))).sum(1)
    moves = (policy[..., None] * transition).sum(1)
    return np.linalg.solve(np.eye(len(moves)) - discount * moves, smaller)


def solution_weight(true_value: Any, plain_value: Any, reduction: Any) -> float:
    excess = plain_value - true_value
    if ((excess > 0) & (reduction == 0)).any():
        return math.inf
    moved = reduction > 0
    return max(0.0, (excess[moved] / reduction[moved]).max(initial=0.0))


KEEN, DATA = np.array([0.98, 0.01, 0.01]), np.array([0.8, 0.1, 0.1])


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("ex-theorems-loop", 2 * 0.25 / (1 - 0.9)),
        ("ex-theorems-evaluate", solution_value),
        ("ex-theorems-break", (KEEN, DATA)),
        ("ex-theorems-break", [KEEN, DATA]),
        ("ex-theorems-weight", solution_weight),
    ],
)
def test_solutions_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{exercise}: passed." in verdict(capsys, exercise, answer)


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-theorems-loop", ...),
        ("ex-theorems-evaluate", lambda *arguments: ...),
        ("ex-theorems-break", (..., ...)),
        ("ex-theorems-break", (KEEN, ...)),
        ("ex-theorems-weight", lambda *arguments: ...),
    ],
)
def test_stubs_are_not_done_yet(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (0.5, "one step's subtraction"),
        (2.5, "the weight is 2"),
        (25.0, "equation 1"),
        (-5.0, "positive number"),
        (20 / 3, "divides by pi"),
        (4.5, "first step"),
        (10.0, "D is 0.25"),
        (1.0, "Got 1.000"),
        ("five", "number is expected"),
    ],
)
def test_the_loop_exercise_knows_the_mistakes(
    answer: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in verdict(capsys, "ex-theorems-loop", answer)


def with_weight(factor: float) -> Callable[..., Any]:
    return lambda r, t, g, p, b, w: solution_value(r, t, g, p, b, factor * w)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (with_weight(0.0), "nothing is subtracted"),
        (lambda r, t, g, p, b, w: solution_value(r - w, t, g, p, b, w), "equation 1"),
        (with_weight(-1.0), "sign is turned"),
        (with_weight(0.5), "halved"),
        (
            lambda r, t, g, p, b, w: solution_value(
                r - w * (1 / len(b[0]) / b - 1), t, g, p, b, 0.0
            ),
            "uniform distribution",
        ),
        (
            lambda r, t, g, p, b, w: (
                solution_value(r, t, g, p, b, 0.0) - w * ((p - b) ** 2 / b).sum(1)
            ),
            "added up over the steps",
        ),
        (lambda r, t, g, p, b, w: solution_value(r, t, 0.1, p, b, w), "Wrong values"),
        (lambda r, t, g, p, b, w: r, "V is its mean"),
        (lambda r, t, g, p, b, w: r[0], "shape should be (4,)"),
        (lambda r, t, g, p, b, w: "no", "array of numbers"),
        (3, "function is expected"),
    ],
)
def test_the_evaluation_exercise_knows_the_mistakes(
    answer: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in verdict(capsys, "ex-theorems-evaluate", answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (KEEN, "Two arrays"),
        ((KEEN, np.array([1.0, 0.0, 0.0])), "behaviour must give every action"),
        ((np.array([1.0, 0.0, 0.0]), DATA), "policy must give every action"),
        ((KEEN, DATA / 2), "add up to 0.500"),
        ((DATA[::-1], DATA), "value sinks"),
        ((np.array([0.4, 0.3, 0.3]), np.array([0.38, 0.31, 0.31])), "not by 0.3 yet"),
        ((DATA, DATA), "the policy's value stays"),
        ((KEEN, DATA[:2]), "shape should be (3,)"),
    ],
)
def test_the_breaking_exercise_knows_the_mistakes(
    answer: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in verdict(capsys, "ex-theorems-break", answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, p, k: ((p - v) / k).min(), "needs most decides"),
        (lambda v, p, k: ((p - v) / k).mean(), "needs most decides"),
        (lambda v, p, k: ((p - v) / k).max(), "not negative"),
        (
            lambda v, p, k: max(0.0, ((p - v)[k > 0] / k[k > 0]).max(initial=0.0)),
            "no weight helps",
        ),
        (lambda v, p, k: max(0.0, (p - v).max()), "excess / reduction"),
        (lambda v, p, k: [1, 2], "number is expected"),
    ],
)
def test_the_weight_exercise_knows_the_mistakes(
    answer: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in verdict(capsys, "ex-theorems-weight", answer)
