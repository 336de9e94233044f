"""CQL with a learned weight: the loss, the direction of the weight, where it ends, its range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from in_double import double_agent, double_batch, gradient
from scipy import optimize
from torch import Tensor, nn

from offline_rl_lib import CQL, CQLLagrange, CQLLagrangeSettings
from offline_rl_lib.data import TransitionBatch

Deviation = Callable[..., None]


def make(**settings: Any) -> Any:
    return double_agent(CQLLagrange, **{"num_proposals": 3} | settings)


class UpsideDown(CQLLagrange):
    """The sign of the weight's loss turned round."""

    def penalty_weight_loss(self, penalty: Tensor) -> Tensor:
        return -super().penalty_weight_loss(penalty)


# ---- the critics' loss --------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.01, 1.0, 4.5])
@pytest.mark.proves("eq-alg-lagrange-critic", method="CQL with the weight as a setting")
def test_critics_see_cql_with_the_weight_of_the_moment(weight: float, deviation: Deviation) -> None:
    learned, fixed = make(), double_agent(CQL, num_proposals=3, penalty_weight=weight)
    learned.log_penalty_weight[0].data.fill_(math.log(weight))
    batch = double_batch(20)
    loss, metrics = learned.critic_loss(batch)
    expected, expected_metrics = fixed.critic_loss(batch)
    deviation(abs(loss.item() - expected.item()), 1e-12)
    found, exact = gradient(loss, learned.critic), gradient(expected, fixed.critic)
    deviation(np.abs(found - exact).max(), 1e-12)
    assert {name: value.item() for name, value in metrics.items()} == {
        name: value.item() for name, value in expected_metrics.items()
    }
    assert learned.settings.penalty_weight == 1.0, "the setting is the first value only"


@pytest.mark.parametrize("weight", [0.5, 2.5, 7.0])
def test_the_penalty_presses_down_whatever_the_weight(weight: float) -> None:
    """The weight's gradient on the critics is w times the penalty's: never turned round."""
    agent, batch = make(), double_batch(20)
    agent.log_penalty_weight[0].data.fill_(math.log(weight))
    state = agent.generator.get_state()

    def critic_gradient(part: str) -> np.ndarray:
        agent.generator.set_state(state)
        loss, metrics = agent.critic_loss(batch)
        return gradient(loss if part == "loss" else 2 * metrics[part], agent.critic)

    penalty = critic_gradient("penalty")
    pressure = critic_gradient("loss") - critic_gradient("td_loss")
    np.testing.assert_allclose(pressure, weight * penalty, atol=1e-12)
    assert np.abs(penalty).max() > 1e-3


# ---- the weight's loss --------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [-1.5, 0.2, 0.3, 2.0])
@pytest.mark.proves("eq-alg-lagrange-weight", method="central differences in the log of the weight")
def test_slope_of_the_weights_loss(penalty: float, deviation: Deviation) -> None:
    agent = make(penalty_threshold=0.25, penalty_weight=3.0)
    log_weight = agent.log_penalty_weight[0]
    given = torch.tensor(penalty, dtype=torch.float64, requires_grad=True)
    loss = agent.penalty_weight_loss(given)
    slope = torch.autograd.grad(loss, log_weight)[0].item()

    def dual(log_w: float) -> float:  # what the weight climbs: w * (penalty - threshold)
        return math.exp(log_w) * (penalty - 0.25)

    at = log_weight.item()
    difference = (dual(at + 1e-5) - dual(at - 1e-5)) / 2e-5
    deviation(abs(-slope - difference), 1e-8)
    assert agent.penalty_weight_loss(given).requires_grad
    agent.penalty_weight_loss(given).backward()
    assert given.grad is None, "the penalty is a number here"


@pytest.mark.proves("eq-metric-penalty-weight", method="the parameter read after the update")
@pytest.mark.parametrize(("threshold", "direction"), [(-50.0, 1), (50.0, -1)])
def test_the_weight_rises_above_the_threshold_and_falls_below(
    threshold: float, direction: int, deviation: Deviation
) -> None:
    agent, batch = make(penalty_threshold=threshold), double_batch()
    weights = [agent.update(batch)["penalty_weight"] for _ in range(3)]
    steps = np.diff(np.log([1.0, *weights]))
    # Adam's first steps have the size of the learning rate.
    np.testing.assert_allclose(steps, direction * 1e-3, rtol=0.05)
    deviation(abs(weights[-1] - math.exp(agent.log_penalty_weight[0].item())), 1e-12)
    turned = double_agent(UpsideDown, penalty_threshold=threshold, num_proposals=3)
    assert math.copysign(1, math.log(turned.update(batch)["penalty_weight"])) == -direction


def test_the_critics_loss_leaves_the_weight_alone() -> None:
    agent, batch = make(), double_batch()
    agent.critic_loss(batch)[0].backward()
    assert agent.log_penalty_weight[0].grad is None


def test_the_critics_step_uses_the_weight_before_its_own_step() -> None:
    agent, batch = make(penalty_weight_learning_rate=0.5), double_batch()
    fixed = double_agent(CQL, num_proposals=3, penalty_weight=1.0)
    agent.update(batch)
    fixed.update(batch)
    for one, other in zip(agent.critic.parameters(), fixed.critic.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert agent.penalty_weight.item() == pytest.approx(math.exp(0.5), rel=0.01)


# ---- where the weight ends ----------------------------------------------------------------------


GRID = torch.linspace(-2, 2, 41, dtype=torch.float64)
DATA = 1 + 0.3 * torch.linspace(-2, 2, 32, dtype=torch.float64)
THRESHOLD = 0.45  # between the smallest penalty that these critics can have and that of the true Q
TRUE_Q = [-1.0, 4.0, -4.0]  # of -(a - 1)^2 = -(2 y - 1)^2


class QuadraticQ(nn.Module):
    """Two critics of three numbers each: constant, slope and curvature in the action."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.Parameter(torch.tensor([TRUE_Q, TRUE_Q], dtype=torch.float64))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        y = action[..., 0] / 2
        return torch.tensordot(self.numbers, torch.stack([torch.ones_like(y), y, y**2]), dims=1)


class Bandit(CQLLagrange):
    """One state, one step, and nothing sampled: the proposals are a grid over the box."""

    def td_target(self, batch: TransitionBatch) -> Tensor:
        return batch.reward

    def proposals(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        size = len(batch.reward)
        density = torch.full((size, len(GRID)), -math.log(4.0), dtype=torch.float64)
        return GRID.expand(size, -1).unsqueeze(-1), density


class UpsideDownBandit(UpsideDown, Bandit):
    """The bandit with the wrong sign."""


def bandit() -> TransitionBatch:
    """Torques around 1 in the data, reward -(a - 1)^2."""
    nothing, ended = torch.zeros(32, 1), torch.ones(32, dtype=torch.bool)
    return TransitionBatch(nothing, DATA.unsqueeze(1), -((DATA - 1) ** 2), nothing, ended)


def at_rest(kind: type[CQLLagrange], updates: int) -> tuple[float, float]:
    """Penalty and weight after many steps of critics and weight."""
    settings = CQLLagrangeSettings(
        penalty_threshold=THRESHOLD,
        penalty_weight=0.1,
        penalty_weight_learning_rate=0.02,
        policy_hidden_sizes=(),
        critic_hidden_sizes=(1,),
    )
    agent, batch = kind(Box(-1.0, 1.0, (1,)), Box(-2.0, 2.0, (1,)), settings), bandit()
    critic: Any = QuadraticQ()
    agent.critic, agent.log_penalty_weight = critic, agent.log_penalty_weight.double()
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.05)
    for _ in range(updates):
        loss, metrics = agent.critic_loss(batch)
        agent._step(optimiser, loss, critic)
        weight_loss = agent.penalty_weight_loss(metrics["penalty"])
        agent._step(agent.penalty_weight_optimiser, weight_loss, agent.log_penalty_weight)
        agent.limit_penalty_weight()
    return metrics["penalty"].item(), float(agent.penalty_weight)


def constrained_fit() -> float:
    """The multiplier of the smallest squared error whose penalty is the threshold, by SciPy."""
    y, grid, reward = DATA.numpy() / 2, GRID.numpy() / 2, -((DATA.numpy() - 1) ** 2)

    def q_values(numbers: np.ndarray, at: np.ndarray) -> np.ndarray:
        return numbers[0] + numbers[1] * at + numbers[2] * at**2

    def error(numbers: np.ndarray) -> float:
        return float(((q_values(numbers, y) - reward) ** 2).mean())

    def penalty(numbers: np.ndarray) -> float:
        soft_maximum = math.log(4 * np.exp(q_values(numbers, grid)).mean())
        return float(soft_maximum - q_values(numbers, y).mean())

    fit = optimize.minimize(
        error,
        np.array(TRUE_Q),
        constraints={"type": "eq", "fun": lambda numbers: penalty(numbers) - THRESHOLD},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert fit.success
    slopes = [optimize.approx_fprime(fit.x, of, 1e-7) for of in (error, penalty)]
    return float(-slopes[0] @ slopes[1] / (slopes[1] @ slopes[1]))


@pytest.mark.proves("claim-alg-lagrange-meets", method="the constrained problem, solved by SLSQP")
def test_the_penalty_settles_at_the_threshold(deviation: Deviation) -> None:
    penalty, weight = at_rest(Bandit, 1_200)
    deviation(abs(penalty - THRESHOLD), 0.01)
    deviation(abs(weight / constrained_fit() - 1), 0.05)
    penalty, weight = at_rest(UpsideDownBandit, 400)
    assert abs(penalty - THRESHOLD) > 0.1
    assert not 0.01 < weight < 100, "with the wrong sign it runs away"


@pytest.mark.proves("claim-alg-lagrange-floor", method="Gauss-Legendre quadrature, 200 random Q")
def test_no_critic_gets_below_the_behaviours_entropy(deviation: Deviation) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(400)
    action, weight = 2 * nodes, 2 * weights  # on [-2, 2]
    source = np.random.default_rng(0)
    undershoot, at_best = 0.0, 0.0
    for _ in range(10):
        # A behaviour policy with two humps, and its entropy.
        places, widths = source.uniform(-1.5, 1.5, 2), source.uniform(0.3, 1.0, 2)
        humps = np.exp(-(((action[:, None] - places) / widths) ** 2)).sum(axis=1) + 0.01
        density = humps / (weight @ humps)
        entropy = -weight @ (density * np.log(density))

        def penalty(q: np.ndarray, density: np.ndarray = density) -> float:
            return float(math.log(weight @ np.exp(q)) - weight @ (density * q))

        for _ in range(20):
            size, phase = source.normal(scale=3, size=6), source.uniform(0, 6, 6)
            waves = size * np.sin(np.arange(1, 7) * action[:, None] + phase)
            undershoot = max(undershoot, entropy - penalty(waves.sum(axis=1)))
        at_best = max(at_best, abs(penalty(np.log(density) + 7) - entropy))
    deviation(max(undershoot, 0), 1e-10)
    deviation(at_best, 1e-10)
    flat = math.log(weight.sum())
    assert flat == pytest.approx(math.log(4)), "of uniform data the floor is where flat critics are"


def test_a_threshold_out_of_reach_drives_the_weight_to_its_end_and_no_further() -> None:
    for threshold, end in ((-1e6, 2.0), (1e6, 0.5)):
        agent = make(
            penalty_threshold=threshold,
            penalty_weight_learning_rate=0.2,
            min_penalty_weight=0.5,
            max_penalty_weight=2.0,
        )
        for seed in range(8):
            weight = agent.update(double_batch(6, seed))["penalty_weight"]
        assert weight == pytest.approx(end, rel=1e-6)


def weight_after_turning(agent: CQLLagrange) -> float:
    """A long time of too much penalty, then a short one of too little."""
    for surplus in [1.0] * 60 + [-1.0] * 40:
        loss = agent.penalty_weight_loss(torch.tensor(surplus, dtype=torch.float64))
        agent._step(agent.penalty_weight_optimiser, loss, agent.log_penalty_weight)
        agent.limit_penalty_weight()
    return float(agent.penalty_weight)


def test_the_weight_leaves_the_end_of_its_range_again() -> None:
    settings = {"penalty_weight_learning_rate": 0.2, "max_penalty_weight": 2.0}
    assert weight_after_turning(make(**settings)) < 1

    class Unlimited(CQLLagrange):
        """The parameter runs on beyond the range, and has to come all the way back."""

        def limit_penalty_weight(self) -> None:
            pass

    assert weight_after_turning(double_agent(Unlimited, **settings)) > 2


@pytest.mark.parametrize(
    "settings",
    [
        {"penalty_weight": 0.0},
        {"penalty_weight": 1e4},
        {"min_penalty_weight": 0.0},
        {"min_penalty_weight": 2.0},
        {"max_penalty_weight": math.inf},
        {"max_penalty_weight": math.nan},
    ],
    ids=str,
)
def test_impossible_ranges_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="range must be positive and finite and hold its first"):
        CQLLagrangeSettings(**settings)


def test_settings_of_cql_are_still_checked() -> None:
    with pytest.raises(ValueError, match="num_proposals must be at least 1"):
        CQLLagrangeSettings(num_proposals=0)
