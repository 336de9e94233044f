"""CQL on small finite problems, solved exactly: the theorems without networks or sampling.

Everything is a float64 array. The last axes are states S and actions A; axes before them hold
several problems, which are solved together. The penalty is weighed as in the paper, with
``alpha_cql`` beside *half* the squared error; the agents' ``penalty_weight`` is twice that number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax, wrightomega

Array = NDArray[np.float64]
StateValue = Callable[[Array], Array]  # Q of shape (..., S, A) to values of shape (..., S)


@dataclass(frozen=True)
class MDP:
    """A finite Markov decision process, or several of them along leading axes.

    Attributes:
        reward: expected reward of action ``a`` in state ``s``, shape ``(..., S, A)``.
        transition: probability of the next state, shape ``(..., S, A, S)``.
        discount: per step, in [0, 1).

    Raises:
        ValueError: the shapes do not belong together, the probabilities of the next state do not
            add up to one, or the discount is not in [0, 1).
    """

    reward: Array
    transition: Array
    discount: float

    def __post_init__(self) -> None:
        if self.transition.shape != (*self.reward.shape, self.reward.shape[-2]):
            raise ValueError(
                f"transition must have shape (..., S, A, S) for a reward of shape "
                f"{self.reward.shape}; got {self.transition.shape}."
            )
        if (self.transition < 0).any() or not np.allclose(self.transition.sum(-1), 1):
            raise ValueError("The probabilities of the next state must add up to one.")
        if not 0 <= self.discount < 1:
            raise ValueError(f"The discount must lie in [0, 1); got {self.discount}.")


# ---- Random problems --------------------------------------------------------------------------


def random_mdps(
    count: int, states: int, actions: int, discount: float, rng: np.random.Generator
) -> MDP:
    """Draw problems with rewards uniform on [0, 1] and next-state probabilities from a simplex.

    Returns:
        ``count`` problems in one object: reward ``(count, S, A)``, transition
        ``(count, S, A, S)``, each row uniform on the simplex.
    """
    reward = rng.uniform(size=(count, states, actions))
    transition = rng.dirichlet(np.ones(states), size=(count, states, actions))
    return MDP(reward, transition, discount)


def random_policies(count: int, states: int, actions: int, rng: np.random.Generator) -> Array:
    """Draw policies uniformly from the simplex of each state, shape ``(count, S, A)``."""
    return rng.dirichlet(np.ones(actions), size=(count, states))


# ---- Policy evaluation ------------------------------------------------------------------------


def values(q: Array, policy: Array) -> Array:
    """Return ``V(s) = sum_a policy(a | s) q(s, a)``, shape ``(..., S)``."""
    value: Array = (policy * q).sum(-1)
    return value


def backup(mdp: MDP, value: Array) -> Array:
    """Return ``r(s, a) + discount * sum_s' P(s' | s, a) value(s')``, shape ``(..., S, A)``."""
    expected = np.einsum("...sat,...t->...sa", mdp.transition, value)
    result: Array = mdp.reward + mdp.discount * expected
    return result


def policy_q(mdp: MDP, policy: Array) -> Array:
    """Solve ``Q = r + discount * P^policy Q`` by linear algebra, shape ``(..., S, A)``."""
    move = np.einsum("...sa,...sat->...st", policy, mdp.transition)
    system = np.eye(move.shape[-1]) - mdp.discount * move
    value = np.linalg.solve(system, values(mdp.reward, policy)[..., None])[..., 0]
    return backup(mdp, value)


def discounted_sum(mdp: MDP, policy: Array, per_step: Array) -> Array:
    """Return what ``per_step`` adds up to along the policy, shape ``(..., S, A)``.

    This is ``(I - discount * P^policy)^-1 per_step``: the Q-values of a problem in which
    ``per_step``, of shape ``(..., S, A)``, is the reward. No entry of that inverse is negative.
    """
    reward = np.broadcast_to(per_step, mdp.reward.shape)
    return policy_q(MDP(reward, mdp.transition, mdp.discount), policy)


def visits(mdp: MDP, policy: Array, start: Array) -> Array:
    """Return the share of discounted time spent in each state, shape ``(..., S)``.

    The shares add up to one. ``start`` holds the probabilities of the first state.
    """
    move = np.einsum("...sa,...sat->...st", policy, mdp.transition)
    system = np.eye(move.shape[-1]) - mdp.discount * np.swapaxes(move, -1, -2)
    first = np.broadcast_to(start, move.shape[:-1])[..., None]
    share: Array = (1 - mdp.discount) * np.linalg.solve(system, first)[..., 0]
    return share


# ---- CQL with a given distribution pushed down: the paper's equations 1 and 2 -----------------


def require_support(policy: Array, behaviour: Array) -> None:
    """Refuse a policy with actions that the behaviour never takes.

    Raises:
        ValueError: there is such an action. The paper's theorems exclude it: the loss does not
            hold its Q, and the backup would carry whatever stands there to the other pairs.
    """
    if ((policy > 0) & (behaviour == 0)).any():
        raise ValueError("An action is weighed that the behaviour never takes.")


def density_ratio(numerator: Array, behaviour: Array) -> Array:
    """Return ``numerator / behaviour``, with 0 / 0 = 0.

    Raises:
        ValueError: an action has probability above zero that the behaviour never takes.
    """
    require_support(numerator, behaviour)
    ratio: Array = numerator / np.where(behaviour == 0, 1.0, behaviour)
    return ratio


def penalised_q(
    mdp: MDP,
    policy: Array,
    behaviour: Array,
    alpha_cql: float | Array,
    push_down: Array,
    push_up: Array | None = None,
) -> Array:
    """Return the fixed point of CQL's evaluation of a policy, shape ``(..., S, A)``.

    Each step minimises, with the target ``B Q`` held fixed, ``alpha_cql * (sum_a push_down Q -
    sum_a push_up Q) + 1/2 sum_a behaviour (Q - B Q)^2`` in every state. Its minimiser is ``B Q -
    alpha_cql (push_down - push_up) / behaviour``, so the steps evaluate the policy on a reward
    from which that term is subtracted (Kumar et al. 2020, equations 1 and 2).

    Args:
        mdp: the problem.
        policy: the policy that is evaluated.
        behaviour: the policy that collected the data.
        alpha_cql: the paper's penalty weight; a number, or an array that broadcasts to Q.
        push_down: the distribution over actions whose Q is pushed down, called mu in the paper.
        push_up: the distribution whose Q is pushed up. None pushes nothing up, which is
            equation 1; the behaviour gives equation 2.

    Raises:
        ValueError: the policy takes, or a push moves, an action that the behaviour never takes.
            A pair that nobody uses gets its exact backup, though the loss leaves it free.
    """
    require_support(policy, behaviour)
    ratio = density_ratio(push_down, behaviour)
    if push_up is not None:
        ratio = ratio - density_ratio(push_up, behaviour)
    reward = mdp.reward - alpha_cql * ratio
    return policy_q(MDP(reward, mdp.transition, mdp.discount), policy)


def chi_square(policy: Array, behaviour: Array) -> Array:
    """Return ``sum_a policy (policy / behaviour - 1)``, the paper's D_CQL, shape ``(..., S)``.

    Raises:
        ValueError: the policy takes an action that the behaviour never takes.
    """
    return values(density_ratio(policy, behaviour) - 1, policy)


# ---- CQL(H), CQL(rho) and discrete CQL: the paper's equation 4 --------------------------------


def soft_penalty_step(
    target: Array, behaviour: Array, alpha_cql: float, prior: Array | None = None
) -> Array:
    r"""Minimise ``alpha_cql (log sum_a prior e^Q - E_behaviour[Q]) + 1/2 E_behaviour[(Q - y)^2]``.

    The minimiser satisfies ``Q = y - alpha_cql (p / behaviour - 1)`` with ``p`` proportional to
    ``prior * e^Q``. For a given value L of the log-sum-exp each action has the closed form
    ``Q = y + alpha_cql - omega(z)``, with Wright's omega function and ``z = log(alpha_cql prior /
    behaviour) + y + alpha_cql - L``. So one number per state is left. The probabilities p add up
    to one where the convex, falling function ``sum_a behaviour omega(z)`` of L meets
    ``alpha_cql``. Newton's method, started on the left of that point, approaches it from one side.

    Args:
        target: the target ``y``, shape ``(..., S, A)``.
        behaviour: the policy that collected the data, positive everywhere.
        alpha_cql: the paper's penalty weight, not negative.
        prior: rho of CQL(rho), positive everywhere. None gives CQL(H), whose minimiser is that of
            the uniform prior: the two penalties differ by the constant log A.

    Returns:
        The minimiser, shape ``(..., S, A)``.

    Raises:
        ValueError: the behaviour or the prior is zero somewhere, or the weight is negative. An
            action without data has no minimiser: the penalty would push its Q down for ever.
    """
    if alpha_cql < 0:
        raise ValueError(f"The penalty weight must not be negative; got {alpha_cql}.")
    if (behaviour <= 0).any() or (prior is not None and (prior <= 0).any()):
        raise ValueError("The soft penalty needs a behaviour and a prior without zeros.")
    if alpha_cql == 0:
        return target
    log_prior = 0.0 if prior is None else np.log(prior)  # a constant factor moves L, not Q
    raised = target + alpha_cql
    level = (log_prior + raised - alpha_cql / behaviour).max(-1, keepdims=True)
    for _ in range(100):
        omega = wrightomega(np.log(alpha_cql / behaviour) + log_prior + raised - level)
        excess = (behaviour * omega).sum(-1, keepdims=True) - alpha_cql
        step = excess / (behaviour * omega / (1 + omega)).sum(-1, keepdims=True)
        level = level + step
        if (abs(step) <= 1e-12 * (1 + alpha_cql + abs(level))).all():
            break
    minimiser: Array = raised - omega
    return minimiser


def soft_penalised_q(
    mdp: MDP,
    behaviour: Array,
    alpha_cql: float,
    state_value: StateValue,
    prior: Array | None = None,
    tolerance: float = 1e-12,
    max_steps: int = 10_000,
) -> Array:
    """Iterate backup and :func:`soft_penalty_step` to their fixed point, shape ``(..., S, A)``.

    Args:
        mdp: the problem.
        behaviour: the policy that collected the data, positive everywhere.
        alpha_cql: the paper's penalty weight.
        state_value: how the next state is valued. ``lambda q: values(q, policy)`` evaluates a
            policy, ``lambda q: q.max(-1)`` is discrete CQL, and :func:`soft_policy_value` is an
            actor that follows the critic at once. The first two make each step a contraction by
            the discount; the third does not have to converge.
        prior: rho of CQL(rho); None is CQL(H).
        tolerance: largest change of the last step, in units of Q.
        max_steps: give up after so many.

    Raises:
        RuntimeError: no convergence within ``max_steps``.
    """
    q = mdp.reward
    for _ in range(max_steps):
        target = backup(mdp, state_value(q))
        following = soft_penalty_step(target, behaviour, alpha_cql, prior)
        change = abs(following - q).max()
        q = following
        if change <= tolerance:
            return q
    raise RuntimeError(f"No fixed point after {max_steps} steps; the last changed Q by {change}.")


def soft_policy(q: Array) -> Array:
    """Return the policy proportional to ``e^Q``, shape ``(..., S, A)``."""
    policy: Array = softmax(q, axis=-1)
    return policy


def soft_policy_value(q: Array) -> Array:
    """Return the value of the policy proportional to ``e^Q`` under Q itself, ``(..., S)``."""
    return values(q, soft_policy(q))


# ---- Data: the same problem known from samples ------------------------------------------------


@dataclass(frozen=True)
class TabularData:
    """A finite data set, summed up.

    Attributes:
        counts: how often action ``a`` was taken in state ``s``, shape ``(..., S, A)``.
        mdp: the problem as the data show it: mean rewards and shares of next states. A pair that
            never occurs has reward 0 and stays where it is; no supported policy uses it.
    """

    counts: Array
    mdp: MDP

    @property
    def behaviour(self) -> Array:
        """The share of each action in the data of its state, shape ``(..., S, A)``."""
        share: Array = self.counts / self.counts.sum(-1, keepdims=True)
        return share


def sample_data(
    mdp: MDP, behaviour: Array, per_state: int, rng: np.random.Generator
) -> TabularData:
    """Draw ``per_state`` actions of the behaviour in every state, rewards and next states.

    A reward is 1 with the probability ``mdp.reward`` and else 0, so its mean is right.

    Raises:
        ValueError: a mean reward is not in [0, 1], or ``per_state`` is not positive.
    """
    if (mdp.reward < 0).any() or (mdp.reward > 1).any():
        raise ValueError("Rewards of 0 or 1 can be drawn only for means in [0, 1].")
    if per_state < 1:
        raise ValueError(f"At least one transition per state is needed; got {per_state}.")
    policy = np.broadcast_to(behaviour, mdp.reward.shape)
    counts = rng.multinomial(per_state, policy)
    arrivals = rng.multinomial(counts, mdp.transition)
    wins = rng.binomial(counts, mdp.reward)
    seen = np.maximum(counts, 1)
    stay = np.eye(mdp.reward.shape[-2])[:, None, :]
    transition = np.where(counts[..., None] > 0, arrivals / seen[..., None], stay)
    return TabularData(counts.astype(np.float64), MDP(wins / seen, transition, mdp.discount))


def supported_policy(policy: Array, counts: Array) -> Array:
    """Remove the actions without data from a policy and share out what they had."""
    kept = policy * (counts > 0)
    supported: Array = kept / kept.sum(-1, keepdims=True)
    return supported


def safe_weight(
    policy: Array, data: TabularData, reward_range: float, failure_probability: float
) -> Array:
    """Return a weight from which on equation 2 bounds the policy's value, shape ``(...)``.

    By Hoeffding's inequality the target of a pair with n samples is off by at most
    ``C reward_range / (1 - discount) / sqrt(n)``, with ``C = sqrt(log(2 S A / failure_probability)
    / 2)``, in all pairs at once and with probability at least ``1 - failure_probability``. The
    weight makes the penalty of every state at least as large as the policy's mean of that error
    (the book's explicit form of the condition in Kumar et al. 2020, theorem 3.2). Given the
    counts, the samples of each pair must be independent draws, as those of :func:`sample_data`
    are and those of one long trajectory are not. The policy may depend on the counts, but not on
    the sampled rewards and next states.

    Returns:
        The weight in units of Q; infinite where the policy equals the data's behaviour in some
        state, because nothing is subtracted there.

    Raises:
        ValueError: the policy takes an action that the data do not hold.
    """
    states, actions = policy.shape[-2:]
    constant = math.sqrt(math.log(2 * states * actions / failure_probability) / 2)
    error = constant * reward_range / (1 - data.mdp.discount) / np.sqrt(np.maximum(data.counts, 1))
    with np.errstate(divide="ignore"):
        weight: Array = (values(error, policy) / chi_square(policy, data.behaviour)).max(-1)
    return weight


# ---- One problem to look at -------------------------------------------------------------------


@dataclass(frozen=True)
class GridWorld:
    """A floor of 3 x 4 tiles with a charger and two puddles.

    State ``4 * row + column`` is a tile, row 0 at the top. The actions are up, right, down, left.

    Attributes:
        mdp: reward ``(12, 4)`` and transition ``(12, 4, 12)``.
        behaviour: the policy that collected the data, ``(12, 4)``.
        policy: the policy to evaluate, ``(12, 4)``.
        rows, columns: the size of the floor.
        start, charger: tiles.
        puddles: tiles.
    """

    mdp: MDP
    behaviour: Array
    policy: Array
    rows: int = 3
    columns: int = 4
    start: int = 8
    charger: int = 3
    puddles: tuple[int, int] = (5, 6)


def grid_world(discount: float = 0.8) -> GridWorld:
    """Build the book's grid world.

    A robot stands on a tile and collects the tile's reward: 1 on the charger (top right), 0 in a
    puddle (the two middle tiles), 0.3 elsewhere. Its step succeeds with probability 0.8 and slips
    to either side with 0.1 each; at a wall it stays. The behaviour drifts right, the same on every
    tile. The policy takes each action with a probability proportional to the behaviour's,
    times ``e`` to the power of the behaviour's Q: it leans to what was good for the behaviour.
    """
    rows, columns = GridWorld.rows, GridWorld.columns
    states = rows * columns
    transition = np.zeros((states, 4, states))
    moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left
    for state in range(states):
        row, column = divmod(state, columns)
        for action in range(4):
            for turn, probability in ((0, 0.8), (1, 0.1), (-1, 0.1)):
                down, right = moves[(action + turn) % 4]
                next_row = min(max(row + down, 0), rows - 1)
                next_column = min(max(column + right, 0), columns - 1)
                transition[state, action, columns * next_row + next_column] += probability
    reward = np.full((states, 4), 0.3)
    reward[GridWorld.charger] = 1.0
    reward[list(GridWorld.puddles)] = 0.0
    mdp = MDP(reward, transition, discount)
    behaviour = np.tile([0.15, 0.5, 0.25, 0.1], (states, 1))
    policy = soft_policy(np.log(behaviour) + policy_q(mdp, behaviour))
    return GridWorld(mdp, behaviour, policy)
