"""Proofs of the chapter on the critic loss, and tests of its exercise checkers.

The chapter solves a problem of one step in closed form. Here the same minimum is reached in other
ways: by a quasi-Newton method, by bisection, by plain loops, by the library's own loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch import Tensor, nn
from torch.nn import functional as F

from offline_rl_lib import CQL, CQLSettings, cql_penalty
from offline_rl_lib.data import TransitionBatch, load_dataset
from offline_rl_lib.dynamic_programming import load_optimal_q
from offline_rl_lib.experiments import RESULTS
from offline_rl_lib.pendulum import state_of
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = np.ndarray

WIDTH = 0.5
SHARE = np.array([2, 8, 30, 56, 60, 32, 10, 2]) / 200
REWARD = np.array([-0.6, -0.1, 0.3, 0.5, 0.6, 0.4, 0.0, 1.4])
SETTINGS = [(0.05, 1.0), (1.0, 1.0), (1.0, 0.5), (5.0, 2.0), (40.0, 8.0)]


def softmax(q: Array, t: float = 1.0) -> Array:
    return special.softmax(q / t)


def penalty_term(q: Tensor, share: Array, t: float, proposals: Tensor | None = None) -> Tensor:
    """The library's penalty, with every strip proposed once: an exact sum, not an estimate."""
    evenly = torch.full((1, len(q)), -math.log(WIDTH * len(q)), dtype=torch.float64)
    log_density = evenly if proposals is None else proposals
    data_q = (torch.from_numpy(share) * q).sum().unsqueeze(0)
    return cql_penalty(q.unsqueeze(0), log_density, data_q, t)


def minimum(
    w: float,
    t: float = 1.0,
    y: Array = REWARD,
    share: Array = SHARE,
    error: Callable[[Tensor], Tensor] = torch.square,
    proposals: Tensor | None = None,
    polish: int = 3,
) -> Array:
    """Minimise squared error plus w times the library's penalty with BFGS, then polish."""

    def loss(q: Tensor) -> Tensor:
        gap = error(q - torch.from_numpy(y))
        return (torch.from_numpy(share) * gap).sum() + w * penalty_term(q, share, t, proposals)

    def value_and_gradient(flat: Array) -> tuple[float, Array]:
        q = torch.tensor(flat, requires_grad=True)
        value = loss(q)
        return value.item(), torch.autograd.grad(value, q)[0].numpy()

    options = {"gtol": 1e-12, "maxiter": 3000}
    q = optimize.minimize(value_and_gradient, y, jac=True, method="BFGS", options=options).x
    for _ in range(polish):  # Newton steps: BFGS stops where the loss no longer changes
        curvature = torch.autograd.functional.hessian(loss, torch.tensor(q)).numpy()
        q = q - np.linalg.solve(curvature, value_and_gradient(q)[1])
    return q


def closed_form(w: float, t: float = 1.0, y: Array = REWARD, share: Array = SHARE) -> Array:
    """The chapter's formula; its one unknown is found by plain bisection."""

    def candidate(soft: float) -> Array:
        z = np.log(w * WIDTH / (2 * share * t)) + (y + w / 2 - soft) / t
        return special.wrightomega(z)

    low, high = -1e4, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        too_many = (2 * share * t / w * candidate(middle)).sum() > 1
        low, high = (middle, high) if too_many else (low, middle)
    return y + w / 2 - t * candidate(low)


def random_problem(seed: int) -> tuple[float, float, Array, Array]:
    random = np.random.default_rng(seed)
    w, t = np.exp(random.uniform(-2, 2, size=2))
    return w, t, random.normal(size=8), random.dirichlet(np.full(8, 2.0))


# ----------------------------------------------------------------------- the library's whole loss


def small_agent(**changes: Any) -> tuple[CQL, TransitionBatch]:
    """An agent on an asymmetric box of two dimensions, and a minibatch of five."""
    observations = gym.spaces.Box(-1, 1, (3,), np.float32)
    actions = gym.spaces.Box(np.float32([-2, 0]), np.float32([1, 3]), dtype=np.float32)
    hidden = {"policy_hidden_sizes": (16,), "critic_hidden_sizes": (16,)}
    agent = CQL(observations, actions, CQLSettings(num_proposals=2, seed=3, **hidden, **changes))
    for module in (agent.critic, agent.target_critic, agent.policy):
        module.double()
    seed = torch.Generator().manual_seed(4)
    batch = TransitionBatch(
        observation=torch.randn((5, 3), generator=seed).double(),
        action=(torch.rand((5, 2), generator=seed) * 3 + torch.tensor([-2.0, 0.0])).double(),
        reward=3 * torch.randn(5, generator=seed).double(),
        next_observation=torch.randn((5, 3), generator=seed).double(),
        terminated=torch.tensor([False, True, False, False, True]),
    )
    return agent, batch


def by_loops(agent: CQL, batch: TransitionBatch, half: float, weight: float, t: float) -> Tensor:
    """half * squared error + weight * penalty, critic by critic and state by state."""
    target = agent.td_target(batch)
    actions, log_densities = agent.proposals(batch)
    losses = []
    for i in range(2):
        for b in range(5):
            where = batch.observation[b : b + 1]
            q = agent.critic(where, batch.action[b : b + 1])[i, 0]
            terms = [
                torch.exp(agent.critic(where, actions[b, k].unsqueeze(0))[i, 0] / t)
                / log_densities[b, k].exp()
                for k in range(actions.shape[1])
            ]
            soft = t * torch.log(torch.stack(terms).mean())
            losses.append(half * (q - target[b]) ** 2 + weight * (soft - q))
    return torch.stack(losses).sum() / 5


def gradient(loss: Tensor, agent: CQL) -> Tensor:
    parts = torch.autograd.grad(loss, list(agent.critic.parameters()))
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.proves("eq-critic-loss", method="plain loops over critics, states and proposals")
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_library_assembles_both_terms(temperature: float, deviation: Deviation) -> None:
    agent, batch = small_agent(penalty_weight=0.7, penalty_temperature=temperature)
    before = agent.generator.get_state()
    loss, metrics = agent.critic_loss(batch)
    agent.generator.set_state(before)
    expected = by_loops(agent, batch, 1.0, 0.7, temperature)
    deviation(abs(loss - expected).item(), 1e-9)
    deviation((gradient(loss, agent) - gradient(expected, agent)).abs().max(), 1e-9)
    assert 2 * (metrics["td_loss"] + 0.7 * metrics["penalty"]).item() == pytest.approx(loss.item())
    for wrong in ((0.5, 0.7, temperature), (1.0, -0.7, temperature), (1.0, 0.7, 2 * temperature)):
        agent.generator.set_state(before)
        assert abs(by_loops(agent, batch, *wrong) - loss).item() > 0.1


@pytest.mark.proves("eq-critic-half", method="gradient of the library's loss against plain loops")
@pytest.mark.parametrize("paper_weight", [0.125, 2.5])
def test_the_book_is_twice_the_paper(paper_weight: float, deviation: Deviation) -> None:
    agent, batch = small_agent(penalty_weight=2 * paper_weight)
    before = agent.generator.get_state()
    ours = gradient(agent.critic_loss(batch)[0], agent)
    for weight in (paper_weight, 2 * paper_weight):
        agent.generator.set_state(before)
        off = ours - 2 * gradient(by_loops(agent, batch, 0.5, weight, 1.0), agent)
        if weight == paper_weight:
            deviation(off.abs().max(), 1e-9)
        else:
            assert off.abs().max() > 1e-2


@pytest.mark.proves("claim-critic-adam", method="the critics after 50 steps of the library")
def test_adam_does_not_see_a_common_factor(deviation: Deviation) -> None:
    ends = {}
    for factor in (1.0, 2.0):
        for kind in (torch.optim.Adam, torch.optim.SGD):
            agent, batch = small_agent(penalty_weight=0.5)
            optimiser = kind(agent.critic.parameters(), lr=1e-3)
            for _ in range(50):
                optimiser.zero_grad()
                (factor * agent.critic_loss(batch)[0]).backward()
                optimiser.step()
            weights = [p.detach().flatten() for p in agent.critic.parameters()]
            ends[kind, factor] = torch.cat(weights)
    # Adam's epsilon of 1e-8 is all that tells the two apart.
    deviation((ends[torch.optim.Adam, 1.0] - ends[torch.optim.Adam, 2.0]).abs().max(), 1e-4)
    assert (ends[torch.optim.SGD, 1.0] - ends[torch.optim.SGD, 2.0]).abs().max() > 1e-2


# ----------------------------------------------------------------------------- one step, solved


class TableCritic(nn.Module):
    """Twin critics that know eight strips of torque and no state."""

    def __init__(self, q: Array) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(q).float().expand(2, 8).clone())

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.table[:, ((action[..., 0] + 2) / WIDTH).long().clamp(0, 7)]


@pytest.mark.proves("eq-critic-one-step", method="gradient of the library's loss, 200 records")
def test_the_one_step_loss_is_the_librarys(deviation: Deviation) -> None:
    counts = torch.from_numpy((200 * SHARE).round().astype(int))
    records = TransitionBatch(
        observation=torch.zeros(200, 1),
        action=torch.arange(-1.75, 2, WIDTH).repeat_interleave(counts).unsqueeze(1),
        reward=torch.from_numpy(REWARD).float().repeat_interleave(counts),
        next_observation=torch.zeros(200, 1),
        terminated=torch.ones(200, dtype=torch.bool),
    )
    box = gym.spaces.Box(-2, 2, (1,), np.float32)
    agent = CQL(box, box, CQLSettings(penalty_weight=1.0, num_proposals=500))
    for q in (closed_form(1.0), REWARD):
        formula = 2 * SHARE * (q - REWARD) + 1.0 * (softmax(q) - SHARE)
        agent.critic = TableCritic(q)
        loss, _ = agent.critic_loss(records)
        (measured,) = torch.autograd.grad(loss, agent.critic.table)
        deviation(np.abs(measured.numpy() - formula).max(), 0.01)
    assert np.abs(formula).max() > 0.2  # at the mean rewards it is not zero


@pytest.mark.proves("eq-critic-stationary", method="BFGS and Newton on the library's penalty")
@pytest.mark.parametrize("seed", range(5))
def test_the_critic_is_data_plus_correction(seed: int, deviation: Deviation) -> None:
    w, t, y, share = random_problem(seed)
    q = minimum(w, t, y, share)
    ratio = softmax(q, t) / share
    deviation(np.abs(q - y - w / 2 * (1 - ratio)).max(), 1e-8)
    assert np.abs(q - y - w * (1 - ratio)).max() > 1e-3  # the paper's weight, not halved
    assert (q - y).max() < w / 2


@pytest.mark.proves("eq-critic-closed-form", method="BFGS and Newton on the library's penalty")
@pytest.mark.parametrize(("w", "t"), SETTINGS)
def test_the_closed_form_is_the_minimum(w: float, t: float, deviation: Deviation) -> None:
    deviation(np.abs(closed_form(w, t) - minimum(w, t)).max(), 1e-8)
    _, _, y, share = random_problem(int(10 * w))
    deviation(np.abs(closed_form(w, t, y, share) - minimum(w, t, y, share)).max(), 1e-8)
    # the weight or the temperature misplaced: another critic
    assert np.abs(closed_form(2 * w, t) - minimum(w, t)).max() > 1e-3
    assert np.abs(closed_form(w, 2 * t) - minimum(w, t)).max() > 1e-3


# ----------------------------------------------------------------------------- the gap


@pytest.mark.proves("claim-critic-data-mean", method="BFGS and Newton on the library's penalty")
@pytest.mark.parametrize("seed", range(5))
def test_the_datas_mean_stays(seed: int, deviation: Deviation) -> None:
    w, t, y, share = random_problem(seed)
    q = minimum(w, t, y, share)
    deviation(abs(share @ (q - y)), 1e-9)
    # Push down only, as in the paper's first equation: the same tilt, w/2 lower.
    down_only = optimize.root(
        lambda x: 2 * share * (x - y) + w * softmax(x, t), q - w / 2, tol=1e-13
    ).x
    deviation(np.abs(down_only - (q - w / 2)).max(), 1e-7)
    assert abs(share @ (down_only - y)) > 0.4 * w


@pytest.mark.proves("eq-critic-chi-square", method="BFGS and Newton on the library's penalty")
@pytest.mark.parametrize("seed", range(5))
def test_the_gap_is_half_w_chi_square(seed: int, deviation: Deviation) -> None:
    w, t, y, share = random_problem(seed)
    q = minimum(w, t, y, share)
    p = softmax(q, t)
    chi_square = ((p - share) ** 2 / share).sum()
    deviation(abs(p @ (y - q) - w / 2 * chi_square), 1e-8)
    assert p @ (y - q) > 0
    kl = (p * np.log(p / share)).sum()  # another distance does not do
    assert abs(p @ (y - q) - w / 2 * kl) > 1e-4


@pytest.mark.proves("claim-critic-cloning", method="BFGS and Newton on the library's penalty")
@pytest.mark.parametrize("t", [0.5, 1.0, 3.0])
def test_a_heavy_penalty_clones(t: float, deviation: Deviation) -> None:
    limit = SHARE @ REWARD + t * (np.log(SHARE) - SHARE @ np.log(SHARE))
    far = [np.abs(minimum(w, t) - limit).max() for w in (1e3, 1e4)]
    deviation(far[1], 0.05)
    assert far[0] > 5 * far[1]  # it falls like 1 / w
    deviation(np.abs(softmax(minimum(1e4, t), t) / SHARE - 1).max(), 0.05)
    assert np.abs(minimum(0.1, t) - limit).max() > 0.5


def test_the_gap_grows_and_then_shrinks() -> None:
    gaps = [softmax(q) @ (REWARD - q) for q in (closed_form(w) for w in (0.05, 0.2, 5, 25))]
    assert gaps[0] < gaps[1] > gaps[2] > gaps[3] > 0


@pytest.mark.proves("claim-critic-unseen", method="gradient descent with other steps and weights")
@pytest.mark.parametrize(("w", "t", "rate"), [(1.0, 1.0, 0.5), (1.0, 2.0, 0.5), (3.0, 1.0, 0.2)])
def test_no_floor_under_an_action_without_data(
    w: float, t: float, rate: float, deviation: Deviation
) -> None:
    share = SHARE.copy()
    share[-1] = 0
    share /= share.sum()
    q, depth = REWARD.copy(), {}
    for step in range(1, 10_001):
        q -= rate * (2 * share * (q - REWARD) + w * (softmax(q, t) - share))
        depth[step] = q[-1]
    fall = depth[1000] - depth[10_000]
    deviation(abs(fall / (t * math.log(10)) - 1), 0.05)
    # The others settle, as if the strip without data were not there.
    deviation(np.abs(q[:-1] - minimum(w, t, REWARD[:-1], share[:-1])).max(), 0.05)
    assert softmax(q, t)[-1] > 0  # still a slope: no minimum


# ----------------------------------------------------------------------------- what 5 means


@pytest.mark.proves("eq-critic-scaling", method="BFGS and Newton on the library's penalty")
@pytest.mark.parametrize("c", [0.125, 3.0, 8.0])
def test_a_weight_has_the_unit_of_q(c: float, deviation: Deviation) -> None:
    reference = minimum(5.0, 1.0)
    deviation(np.abs(minimum(c * 5.0, c, c * REWARD) / c - reference).max(), 1e-8)
    lifted = minimum(c * 5.0, c, c * (REWARD - 8))  # a shift lifts, and tilts nothing
    deviation(np.abs(lifted / c + 8 - reference).max(), 1e-7)
    assert np.abs(minimum(5.0, 1.0, c * REWARD) / c - reference).max() > 0.1


def huber(error: Tensor) -> Tensor:
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")


@pytest.mark.proves("eq-critic-huber", method="BFGS, rewards up to 50 times larger")
@pytest.mark.parametrize("w", [2.0, 5.0])
def test_a_bounded_error_bounds_the_softmax(w: float, deviation: Deviation) -> None:
    for scale in (1.0, 10.0, 50.0):
        ratio = softmax(minimum(w, 1.0, scale * REWARD, error=huber, polish=0)) / SHARE
        deviation(max(ratio.max() - 1 - 1 / w, 1 - 1 / w - ratio.min(), 0), 1e-5)
    # The largest rewards use the bound up; half the square knows no such bound.
    assert ratio.max() == pytest.approx(1 + 1 / w, abs=1e-4)
    assert (softmax(minimum(2 * w, 1.0, 50 * REWARD)) / SHARE).max() > 1 + 2 / w


@pytest.mark.proves("claim-critic-weight", method="minima under two errors and two scales")
def test_the_same_5_gives_different_critics(deviation: Deviation) -> None:
    square, half = minimum(5.0), minimum(5.0, error=lambda e: 0.5 * e**2)
    other_scale = minimum(5.0, 1.0, 8 * REWARD) / 8
    assert np.abs(square - half).max() > 0.2
    assert np.abs(square - other_scale).max() > 0.5
    # Near zero smooth_l1 is half the square: a weight of 5 is the paper's 5, and 10 here.
    quiet = 1e-3 * REWARD
    near = minimum(5e-3, 1e-3, quiet, error=huber)
    deviation(np.abs(near - minimum(10e-3, 1e-3, quiet)).max() / 1e-3, 1e-6)
    assert np.abs(near - minimum(5e-3, 1e-3, quiet)).max() / 1e-3 > 0.1


@pytest.mark.proves("claim-critic-pendulum", method="Gymnasium's own steps, then the stored value")
def test_5_outweighs_most_differences_on_pendulum(deviation: Deviation) -> None:
    best = load_optimal_q(RESULTS / "optimal_value.npz")
    observations = load_dataset("pendulum/narrow-v0").observation[::10].double()
    env = gym.make("Pendulum-v1").unwrapped
    env.reset(seed=0)
    spread = []
    for angle, velocity in zip(*state_of(observations), strict=True):
        q = []
        for torque in np.linspace(-2, 2, 9):
            env.state = np.array([angle, velocity])  # type: ignore[attr-defined]
            observation, reward, *_ = env.step(np.array([torque]))
            value = best.value(*state_of(torch.from_numpy(observation).double()))
            q.append((reward + 0.99 * value.item()) / 8)
        spread.append(max(q) - min(q))
    typical = float(np.median(spread))
    deviation(typical / 2.5, 0.1)  # w = 5
    deviation(abs(math.log(typical / 0.125)), math.log(1.5))  # w = 0.25
    assert np.quantile(spread, 0.95) > 2.5  # in a few states a torque decides more than that


# ----------------------------------------------------------------------------- what goes wrong


@pytest.mark.proves("eq-critic-temperature-slip", method="BFGS and Newton on the slipped loss")
@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
def test_the_slip_is_a_bonus_on_the_rewards(t: float, deviation: Deviation) -> None:
    torque = np.arange(-1.75, 2, WIDTH)
    mu = softmax(-2 * torque**2) / WIDTH
    # Each strip stands for mu * WIDTH of all proposals; both Q and log mu are divided by T.
    slipped = torch.from_numpy(np.log(mu) / t - np.log(mu * WIDTH)).unsqueeze(0)
    bonus = (t - 1) * np.log(mu)
    q = minimum(1.0, t, proposals=slipped)
    deviation(np.abs(q - (closed_form(1.0, t, REWARD + bonus) - bonus)).max(), 1e-7)
    right = torch.from_numpy(np.log(mu) - np.log(mu * WIDTH)).unsqueeze(0)
    assert np.abs(minimum(1.0, t, proposals=right) - closed_form(1.0, t)).max() < 1e-8
    assert np.abs(q - closed_form(1.0, t)).max() > 0.1


@pytest.mark.proves("eq-critic-lagrange", method="autograd of the sum as transcribed")
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 4.5])
def test_the_summed_losses_turn_the_sign(factor: float, deviation: Deviation) -> None:
    w, threshold = 0.8, 5.0
    q = torch.from_numpy(np.stack([REWARD, REWARD[::-1].copy()])).requires_grad_()
    penalties = torch.cat([penalty_term(q[i], SHARE, 1.0).reshape(1) for i in range(2)])
    learnt = torch.tensor(factor, dtype=torch.float64)

    def reaches_q(multiplier_sees: Tensor, critics_see: Tensor) -> Tensor:
        multiplier = (-learnt * (w * multiplier_sees - threshold)).sum() / 2
        total = w * (critics_see * penalties).sum() + multiplier
        return torch.autograd.grad(total, q, retain_graph=True)[0]

    one = torch.ones(())
    plain = torch.autograd.grad(w * penalties.sum(), q, retain_graph=True)[0]
    turned = reaches_q(penalties, one)
    deviation((turned - (1 - factor / 2) * plain).abs().max(), 1e-14)
    repaired = reaches_q(penalties.detach(), learnt)
    deviation((repaired - factor * plain).abs().max(), 1e-14)
    assert (turned - repaired).norm() > 0.2 * plain.norm()


# ----------------------------------------------------------------------------- the exercises


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


WEIGHTS = {"book": 10.0, "paper": 0.125, "own_rewards": 2.0}


def deciding(share: list[float], reward: list[float]) -> float:
    return 2 * (reward[1] - reward[0]) / (0.5 / share[1] - 0.5 / share[0])


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        ("ex-critic-translate", WEIGHTS),
        ("ex-critic-decision", deciding),
        ("ex-critic-squares", lambda target: target.mean().expand(len(target))),
        ("ex-critic-squares", lambda target: target.double().mean().repeat(len(target))),
    ],
)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(capsys, exercise, answer).startswith(f"{exercise}: passed.")


@pytest.mark.parametrize(
    ("exercise", "stub"),
    [
        ("ex-critic-translate", dict.fromkeys(WEIGHTS, ...)),
        ("ex-critic-translate", WEIGHTS | {"paper": ...}),
        ("ex-critic-decision", lambda share, reward: ...),
        ("ex-critic-squares", lambda target: ...),
    ],
)
def test_stubs_are_told_gently(
    exercise: str, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not done yet" in verdict(capsys, exercise, stub)


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-critic-translate", 10.0, "A dictionary is expected"),
        ("ex-critic-translate", {"book": 10}, "missing: paper, own_rewards"),
        ("ex-critic-translate", WEIGHTS | {"book": 2.5}, "you halved"),
        ("ex-critic-translate", {"book": 2.5, "paper": ..., "own_rewards": ...}, "you halved"),
        ("ex-critic-translate", WEIGHTS | {"book": 5}, "book: the number does not stay"),
        ("ex-critic-translate", WEIGHTS | {"paper": 0.5}, "you doubled"),
        ("ex-critic-translate", WEIGHTS | {"paper": 0.25}, "paper: the number does not stay"),
        ("ex-critic-translate", WEIGHTS | {"own_rewards": 0.03125}, "8 times as large"),
        ("ex-critic-translate", WEIGHTS | {"own_rewards": 0.25}, "in units of Q"),
        ("ex-critic-translate", WEIGHTS | {"own_rewards": 10.0}, "moves every Q alike"),
        ("ex-critic-translate", WEIGHTS | {"own_rewards": 16.0}, "Only their ratio"),
        ("ex-critic-translate", WEIGHTS | {"own_rewards": 7.0}, "Write both losses down"),
        ("ex-critic-translate", WEIGHTS | {"book": "ten"}, "A number is expected for book"),
        ("ex-critic-decision", lambda s, r: deciding(s, r) / 2, "or this is w/2"),
        ("ex-critic-decision", lambda s, r: -deciding(s, r), "sign is turned"),
        ("ex-critic-decision", lambda s, r: deciding(s, r) / 4, "A quarter of it"),
        (
            "ex-critic-decision",
            lambda s, r: 4 * (r[1] - r[0]) / (s[0] - s[1]),
            "1 / beta counts",
        ),
        ("ex-critic-decision", lambda s, r: 99.0, "are not equal"),
        ("ex-critic-decision", 0.17, "A function is expected"),
        ("ex-critic-decision", lambda s, r: "much", "A number is expected"),
        ("ex-critic-squares", lambda y: y[:, 0], "what was intended"),
        ("ex-critic-squares", lambda y: y, "shape should be (64,)"),
        ("ex-critic-squares", lambda y: y.median().expand(len(y)), "The median"),
        ("ex-critic-squares", lambda y: y.sum().expand(len(y)), "divide it by their number"),
        ("ex-critic-squares", lambda y: 0 * y[:, 0], "do not minimise"),
        ("ex-critic-squares", lambda y: 3.0, "A tensor is expected"),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert help_ in out, out


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_at_the_deciding_weight_both_actions_are_equal(t: float) -> None:
    share, y = np.array([0.95, 0.05]), np.array([1.0, 1.8])
    w = deciding(list(share), list(y))
    assert w == pytest.approx(0.1689, abs=1e-4)
    q = minimum(w, t, y, share)
    assert q[0] == pytest.approx(q[1], abs=1e-9)
    below, above = (minimum(factor * w, t, y, share) for factor in (0.9, 1.1))
    assert below.argmax() == 1
    assert above.argmax() == 0


def test_the_table_of_squares_forgets_which_is_which() -> None:
    target = torch.randn((6, 1), generator=torch.Generator().manual_seed(0))
    q = torch.zeros(6, requires_grad=True)
    optimiser = torch.optim.LBFGS([q], max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = ((q - target) ** 2).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert torch.allclose(q, target.mean().expand(6), atol=1e-4)
