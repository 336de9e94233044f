"""The tabular problems against other methods: iteration, simulation, optimisers, brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize

from offline_rl_lib import tabular
from offline_rl_lib.tabular import MDP, grid_world, policy_q, random_mdps, random_policies, values

S, A = 5, 3


def problems(seed: int = 0, count: int = 20, discount: float = 0.8) -> tuple[MDP, Any, Any]:
    """Random problems with a policy and a behaviour for each."""
    rng = np.random.default_rng(seed)
    mdp = random_mdps(count, S, A, discount, rng)
    return mdp, random_policies(count, S, A, rng), random_policies(count, S, A, rng)


def single(mdp: MDP, index: int) -> MDP:
    return MDP(mdp.reward[index], mdp.transition[index], mdp.discount)


UNSUPPORTED = r"^An action is weighed"

# ---- The problem ------------------------------------------------------------------------------


def test_random_problems_are_problems() -> None:
    mdp, policy, _ = problems()
    assert mdp.reward.shape == (20, S, A)
    assert mdp.transition.shape == (20, S, A, S)
    assert policy.shape == (20, S, A)
    assert mdp.discount == 0.8
    np.testing.assert_allclose(policy.sum(-1), 1)
    assert (mdp.transition >= 0).all()
    assert 0.45 < mdp.reward.mean() < 0.55
    # Uniform on the simplex of three actions: each share has variance 1 / 18.
    assert policy.var() == pytest.approx(1 / 18, rel=0.15)
    assert mdp.transition.var() == pytest.approx(4 / 150, rel=0.15)


@pytest.mark.parametrize(
    ("reward", "transition", "discount", "message"),
    [
        (np.zeros((2, 3)), np.full((2, 3, 3), 1 / 3), 0.5, "must have shape"),
        (
            np.zeros((2, 3)),
            np.full((2, 3, 2), 0.4),
            0.5,
            r"^The probabilities",
        ),
        (np.zeros((2, 3)), np.tile([1.5, -0.5], (2, 3, 1)), 0.5, "add up to one"),
        (np.zeros((2, 3)), np.full((2, 3, 2), 0.5), 1.0, "discount"),
        (np.zeros((2, 3)), np.full((2, 3, 2), 0.5), -0.1, "discount"),
    ],
)
def test_what_is_no_problem_is_refused(
    reward: Any, transition: Any, discount: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        MDP(reward, transition, discount)


def test_without_a_future_q_is_the_reward() -> None:
    mdp, policy, _ = problems(count=2)
    blind = MDP(mdp.reward, mdp.transition, 0.0)
    np.testing.assert_array_equal(tabular.policy_q(blind, policy), mdp.reward)


# ---- Policy evaluation ------------------------------------------------------------------------


def big_matrix(mdp: MDP, policy: Any) -> Any:
    """P^pi over pairs (s, a), as the paper writes it: entry P(s' | s, a) policy(a' | s')."""
    s, a = mdp.reward.shape
    return (mdp.transition[..., None] * policy).reshape(s * a, s * a)


def test_policy_q_is_the_inverse_over_pairs() -> None:
    mdp, policy, _ = problems()
    for i in range(20):
        one = single(mdp, i)
        inverse = np.linalg.inv(np.eye(S * A) - one.discount * big_matrix(one, policy[i]))
        expected = (inverse @ one.reward.reshape(-1)).reshape(S, A)
        np.testing.assert_allclose(policy_q(mdp, policy)[i], expected, atol=1e-12)
        ones = np.random.default_rng(i).normal(size=(S, A))
        np.testing.assert_allclose(
            tabular.discounted_sum(one, policy[i], ones),
            (inverse @ ones.reshape(-1)).reshape(S, A),
            atol=1e-12,
        )


def test_policy_q_is_the_mean_discounted_return() -> None:
    world = grid_world()
    rng = np.random.default_rng(0)
    runs = 20_000
    state = np.full(runs, world.start)
    action = np.full(runs, 1)
    returns = np.zeros(runs)
    for step in range(60):
        returns += world.mdp.discount**step * world.mdp.reward[state, action]
        threshold = world.mdp.transition[state, action].cumsum(-1)
        state = (rng.uniform(size=(runs, 1)) > threshold).sum(-1).clip(max=11)
        action = (rng.uniform(size=(runs, 1)) > world.policy[state].cumsum(-1)).sum(-1).clip(max=3)
    total = returns.mean()
    error = returns.std() / math.sqrt(runs)
    expected = policy_q(world.mdp, world.policy)[world.start, 1]
    assert abs(total - expected) < 4 * error + 5 * 0.8**60
    assert error < 0.01 * expected


def test_visits_weigh_rewards_into_the_value() -> None:
    mdp, policy, start = problems()
    start = start[:, :, 0] / start[:, :, 0].sum(-1, keepdims=True)
    share = tabular.visits(mdp, policy, start)
    np.testing.assert_allclose(share.sum(-1), 1)
    assert (share > 0).all()
    value = (start * values(policy_q(mdp, policy), policy)).sum(-1)
    per_step = (share * values(mdp.reward, policy)).sum(-1)
    np.testing.assert_allclose(per_step / (1 - mdp.discount), value, atol=1e-12)
    # The same start for every problem may be given once.
    uniform = np.full(S, 1 / S)
    np.testing.assert_allclose(
        tabular.visits(mdp, policy, uniform), tabular.visits(mdp, policy, np.tile(uniform, (20, 1)))
    )


# ---- Equations 1 and 2 ------------------------------------------------------------------------


@pytest.mark.parametrize("up", [False, True])
def test_penalised_q_is_where_minimising_again_and_again_ends(up: bool) -> None:
    mdp, policy, behaviour = (part for part in problems(seed=1, count=1))
    mdp, policy, behaviour = single(mdp, 0), policy[0], behaviour[0]
    push_down = random_policies(1, S, A, np.random.default_rng(2))[0]
    push_up = random_policies(1, S, A, np.random.default_rng(3))[0] if up else np.zeros((S, A))
    q = np.zeros((S, A))
    for _ in range(150):
        target = torch.tensor(tabular.backup(mdp, values(q, policy)))
        guess = target.clone().requires_grad_()
        for _ in range(2):  # The loss is quadratic: one Newton step by autograd is exact.
            pushes = torch.tensor(push_down - push_up)
            loss = 0.7 * (pushes * guess).sum()
            loss = loss + 0.5 * (torch.tensor(behaviour) * (guess - target) ** 2).sum()
            (slope,) = torch.autograd.grad(loss, guess)
            guess = (guess - slope / torch.tensor(behaviour)).detach().requires_grad_()
        q = guess.detach().numpy()
    result = tabular.penalised_q(mdp, policy, behaviour, 0.7, push_down, push_up if up else None)
    np.testing.assert_allclose(result, q, atol=1e-10)


def test_an_action_outside_the_support_is_refused() -> None:
    behaviour = np.array([[0.5, 0.5, 0.0]])
    inside, outside = np.array([[1.0, 0.0, 0.0]]), np.array([[0.5, 0.0, 0.5]])
    np.testing.assert_allclose(tabular.density_ratio(inside, behaviour), [[2.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=UNSUPPORTED):
        tabular.density_ratio(outside, behaviour)
    with pytest.raises(ValueError, match=UNSUPPORTED):
        tabular.chi_square(outside, behaviour)
    # Nor may the policy that is evaluated leave the support, even if nothing is pushed there.
    loop = MDP(np.zeros((1, 3)), np.ones((1, 3, 1)), 0.9)
    tabular.penalised_q(loop, inside, behaviour, 1.0, inside)
    with pytest.raises(ValueError, match=UNSUPPORTED):
        tabular.penalised_q(loop, outside, behaviour, 1.0, inside)
    with pytest.raises(ValueError, match=UNSUPPORTED):
        tabular.penalised_q(loop, inside, behaviour, 1.0, inside, outside)


def test_chi_square_of_two_coins() -> None:
    policy, behaviour = np.array([[0.75, 0.25]]), np.array([[0.5, 0.5]])
    assert tabular.chi_square(policy, behaviour) == pytest.approx(0.25)
    assert tabular.chi_square(behaviour, behaviour) == pytest.approx(0.0)


# ---- The soft penalty -------------------------------------------------------------------------


def soft_loss(q: Any, target: Any, behaviour: Any, alpha_cql: float, prior: Any) -> float:
    """One state's objective, written down as it stands."""
    top = q.max()
    soft_maximum = top + np.log((prior * np.exp(q - top)).sum())
    error = 0.5 * (behaviour * (q - target) ** 2).sum()
    return float(alpha_cql * (soft_maximum - (behaviour * q).sum()) + error)


@pytest.mark.parametrize("alpha_cql", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("with_prior", [False, True])
def test_the_soft_step_is_what_a_general_optimiser_finds(
    alpha_cql: float, with_prior: bool
) -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        behaviour = rng.dirichlet(np.ones(A)) * 0.9 + 0.1 / A
        target = 3 * rng.normal(size=A)
        prior = rng.dirichlet(np.ones(A)) * 0.9 + 0.1 / A if with_prior else None
        weights = np.full(A, 1 / A) if prior is None else prior
        result = tabular.soft_penalty_step(
            target[None], behaviour[None], alpha_cql, None if prior is None else prior[None]
        )[0]
        found = optimize.minimize(
            soft_loss, target, (target, behaviour, alpha_cql, weights), tol=1e-12
        )
        np.testing.assert_allclose(result, found.x, atol=2e-4)
        loss = soft_loss(result, target, behaviour, alpha_cql, weights)
        assert loss <= found.fun + 1e-12
        for direction in np.eye(A):  # and no small step to any side goes lower
            for size in (-1e-4, 1e-4):
                moved = soft_loss(result + size * direction, target, behaviour, alpha_cql, weights)
                assert moved > loss


@pytest.mark.parametrize("alpha_cql", [1e-6, 1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_the_soft_step_is_stationary_for_extreme_numbers(alpha_cql: float, scale: float) -> None:
    rng = np.random.default_rng(5)
    behaviour = random_policies(100, S, A, rng)
    target = scale * rng.normal(size=(100, S, A))
    q = tabular.soft_penalty_step(target, behaviour, alpha_cql)
    slope = alpha_cql * (tabular.soft_policy(q) - behaviour) + behaviour * (q - target)
    assert abs(slope).max() < 1e-9 * max(alpha_cql, scale, 1)


def test_no_weight_changes_nothing_and_a_bad_input_is_refused() -> None:
    target, behaviour = np.array([[1.0, 2.0]]), np.array([[0.3, 0.7]])
    np.testing.assert_array_equal(tabular.soft_penalty_step(target, behaviour, 0.0), target)
    with pytest.raises(ValueError, match="weight"):
        tabular.soft_penalty_step(target, behaviour, -0.1)
    for bad in (np.array([[0.0, 1.0]]), np.array([[-0.1, 1.1]])):
        with pytest.raises(ValueError, match=r"^The soft penalty needs"):
            tabular.soft_penalty_step(target, bad, 1.0)
        with pytest.raises(ValueError, match=r"^The soft penalty needs"):
            tabular.soft_penalty_step(target, behaviour, 1.0, bad)


def test_the_soft_fixed_point_repeats_itself() -> None:
    mdp, policy, behaviour = problems(seed=6, count=5)
    for state_value in (
        lambda q: values(q, policy),
        lambda q: q.max(-1),
        tabular.soft_policy_value,
    ):
        q = tabular.soft_penalised_q(mdp, behaviour, 0.5, state_value)
        again = tabular.soft_penalty_step(tabular.backup(mdp, state_value(q)), behaviour, 0.5)
        np.testing.assert_allclose(q, again, atol=1e-11)
    prior = random_policies(5, S, A, np.random.default_rng(7))
    q = tabular.soft_penalised_q(mdp, behaviour, 0.5, lambda q: q.max(-1), prior)
    again = tabular.soft_penalty_step(tabular.backup(mdp, q.max(-1)), behaviour, 0.5, prior)
    np.testing.assert_allclose(q, again, atol=1e-11)


def test_a_fixed_point_that_is_not_reached_is_said() -> None:
    mdp, _, behaviour = problems(count=1)
    with pytest.raises(RuntimeError, match="after 3 steps"):
        tabular.soft_penalised_q(mdp, behaviour, 0.5, lambda q: q.max(-1), max_steps=3)
    # The tolerance decides when it ends: a rough one needs few steps.
    rough = tabular.soft_penalised_q(
        mdp, behaviour, 0.5, lambda q: q.max(-1), tolerance=0.1, max_steps=20
    )
    fine = tabular.soft_penalised_q(mdp, behaviour, 0.5, lambda q: q.max(-1))
    assert 1e-6 < abs(rough - fine).max() < 0.1 / (1 - mdp.discount)


def test_soft_policy_is_proportional_to_exp_q() -> None:
    q = np.array([[0.0, math.log(3.0)], [1000.0, 1000.0]])
    np.testing.assert_allclose(tabular.soft_policy(q), [[0.25, 0.75], [0.5, 0.5]])
    expected = [0.75 * math.log(3.0), 1000.0]
    np.testing.assert_allclose(tabular.soft_policy_value(q), expected)


# ---- Data -------------------------------------------------------------------------------------


def test_data_have_the_frequencies_of_problem_and_behaviour() -> None:
    mdp, _, behaviour = problems(seed=8, count=3)
    data = tabular.sample_data(mdp, behaviour, 200_000, np.random.default_rng(0))
    np.testing.assert_array_equal(data.counts.sum(-1), 200_000)
    np.testing.assert_allclose(data.behaviour, behaviour, atol=0.01)
    well_known = data.counts > 2000
    assert well_known.mean() > 0.9
    error = abs(data.mdp.reward - mdp.reward)[well_known]
    assert 1e-6 < error.max() < 0.05
    transition_error = abs(data.mdp.transition - mdp.transition)[well_known]
    assert 1e-6 < transition_error.max() < 0.05
    assert data.mdp.discount == mdp.discount


def test_pairs_without_data_stay_and_are_left_out() -> None:
    world = grid_world()
    data = tabular.sample_data(world.mdp, world.behaviour, 2, np.random.default_rng(0))
    state, action = np.argwhere(data.counts == 0)[0]
    assert data.mdp.reward[state, action] == 0
    np.testing.assert_array_equal(data.mdp.transition[state, action], np.eye(12)[state])
    policy = tabular.supported_policy(world.policy, data.counts)
    assert policy[state, action] == 0
    np.testing.assert_allclose(policy.sum(-1), 1)
    tabular.chi_square(policy, data.behaviour)  # Now the support condition holds.
    with pytest.raises(ValueError, match=UNSUPPORTED):
        tabular.chi_square(world.policy, data.behaviour)


def test_a_single_transition_is_data() -> None:
    world = grid_world()
    data = tabular.sample_data(world.mdp, world.behaviour, 1, np.random.default_rng(3))
    assert data.counts.dtype == np.float64
    np.testing.assert_array_equal(data.counts.sum(-1), 1)
    taken = np.argwhere(data.counts == 1)
    moved = [data.mdp.transition[s, a, s] == 0 for s, a in taken]
    assert any(moved), "some of the twelve steps led to another tile"
    for s, a in taken:
        reached = np.flatnonzero(data.mdp.transition[s, a])
        assert len(reached) == 1
        assert world.mdp.transition[s, a, reached[0]] > 0


def test_data_that_cannot_be_drawn_are_refused() -> None:
    mdp, _, behaviour = problems(count=1)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="At least one"):
        tabular.sample_data(mdp, behaviour, 0, rng)
    for factor, shift in ((2.0, 0.0), (1.0, -1.0)):
        other = MDP(factor * mdp.reward + shift, mdp.transition, mdp.discount)
        with pytest.raises(ValueError, match=r"^Rewards of 0 or 1"):
            tabular.sample_data(other, behaviour, 5, rng)


def test_safe_weight_by_hand() -> None:
    # One state, two actions, 9 and 1 samples, policy half and half.
    mdp = MDP(np.zeros((1, 2)), np.ones((1, 2, 1)), 0.5)
    data = tabular.TabularData(np.array([[9.0, 1.0]]), mdp)
    policy = np.array([[0.5, 0.5]])
    constant = math.sqrt(math.log(2 * 2 / 0.1) / 2)
    error = constant * 3.0 / 0.5 * (0.5 / 3 + 0.5 / 1)
    divergence = 0.25 / 0.9 + 0.25 / 0.1 - 1
    result = tabular.safe_weight(policy, data, 3.0, 0.1)
    assert result == pytest.approx(error / divergence)
    assert tabular.safe_weight(data.behaviour, data, 3.0, 0.1) == np.inf
    # The hardest state decides, of each problem for itself; all pairs share the failures.
    both = MDP(np.zeros((2, 2, 2)), np.full((2, 2, 2, 2), 0.5), 0.5)
    counts = np.array([[[9.0, 1.0], [5.0, 5.0]], [[9.0, 1.0], [9.0, 1.0]]])
    weights = tabular.safe_weight(
        np.full((2, 2, 2), 0.5), tabular.TabularData(counts, both), 3.0, 0.1
    )
    wider = math.sqrt(math.log(2 * 4 / 0.1) / 2) / constant
    assert weights[0] == np.inf
    assert weights[1] == pytest.approx(wider * error / divergence)


# ---- The grid world ---------------------------------------------------------------------------


def test_the_grid_world_has_walls_slips_and_rewards() -> None:
    world = grid_world()
    assert world.mdp.reward.shape == (12, 4)
    assert world.mdp.discount == 0.8
    # In the middle: right from tile 5 leads to 6, slips to 1 and 9.
    row = world.mdp.transition[5, 1]
    assert {i: row[i] for i in np.flatnonzero(row)} == pytest.approx({6: 0.8, 1: 0.1, 9: 0.1})
    # In the corner: up from the charger stays there, and slips left to 2 or right into the wall.
    row = world.mdp.transition[world.charger, 0]
    assert {i: row[i] for i in np.flatnonzero(row)} == pytest.approx({3: 0.9, 2: 0.1})
    # Down from the start, the other corner, and left from the tile above it.
    row = world.mdp.transition[world.start, 2]
    assert {i: row[i] for i in np.flatnonzero(row)} == pytest.approx({8: 0.9, 9: 0.1})
    row = world.mdp.transition[4, 3]
    assert {i: row[i] for i in np.flatnonzero(row)} == pytest.approx({4: 0.8, 0: 0.1, 8: 0.1})
    expected = [0.3, 0.3, 0.3, 1.0, 0.3, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.3]
    for action in range(4):
        np.testing.assert_array_equal(world.mdp.reward[:, action], expected)
    np.testing.assert_allclose(world.behaviour, np.tile([0.15, 0.5, 0.25, 0.1], (12, 1)))
    assert grid_world(0.5).mdp.discount == 0.5


def test_the_grid_worlds_policy_leans_to_the_good() -> None:
    world = grid_world()
    np.testing.assert_allclose(world.policy.sum(-1), 1)
    q = policy_q(world.mdp, world.behaviour)
    lean = np.log(world.policy / world.behaviour) - q
    np.testing.assert_allclose(lean, lean[:, :1].repeat(4, 1), atol=1e-12)
    better = values(policy_q(world.mdp, world.policy), world.policy)
    assert (better > values(q, world.behaviour)).all()
