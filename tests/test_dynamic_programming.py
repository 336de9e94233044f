"""Dynamic programming: interpolation, optimum and policy values against slower calculations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

from offline_rl_lib import CQL, CQLSettings
from offline_rl_lib.data import load_dataset
from offline_rl_lib.dynamic_programming import (
    QUICK_GRID,
    ActionValues,
    Grid,
    TorqueLottery,
    in_agent_units,
    load_optimal_q,
    optimal_policy,
    optimal_q,
    policy_q,
    store_ground_truth,
    store_reference_returns,
    torque_lottery,
)
from offline_rl_lib.evaluation import EVALUATION_SEEDS, ConstantPolicy, evaluate
from offline_rl_lib.pendulum import (
    ENV_ID,
    MAX_TORQUE,
    SwingUpController,
    observation_of,
    simulate,
    start_states,
    step,
)

SMALL_GRID = Grid(angles=40, velocities=41, torques=5)


@pytest.fixture(scope="module")
def optimum() -> ActionValues:
    return optimal_policy(QUICK_GRID)


@pytest.fixture(scope="module")
def endless() -> ActionValues:
    return optimal_q(QUICK_GRID)


@pytest.fixture(scope="module")
def agent() -> CQL:
    settings = CQLSettings(initial_temperature=0.2, reward_shift=8.0, reward_scale=1 / 8)
    return CQL.from_dataset(load_dataset("pendulum/narrow-v0"), settings)


def test_interpolation_is_exact_on_the_grid_and_for_bilinear_functions() -> None:
    grid = Grid(angles=24, velocities=17, torques=3)
    angle, velocity = grid.states()
    value = torch.randn(24, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    policy = ActionValues(grid, 1.0, value)
    torch.testing.assert_close(policy.value(angle, velocity), value)
    # Angles repeat round the circle; the last grid point is followed by the first.
    torch.testing.assert_close(policy.value(angle + 2 * math.pi, velocity), value)
    seam = policy.value(angle[-1] + math.pi / 24, velocity[0])
    torch.testing.assert_close(seam, (value[-1] + value[0]) / 2)
    linear = ActionValues(grid, 1.0, 2 + 3 * velocity + 0 * angle)
    between = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(linear.value(torch.zeros(101), between), 2 + 3 * between)


@pytest.mark.parametrize("steps", [1, 2])
def test_short_horizons_equal_exhaustive_search(steps: int) -> None:
    # Up to two steps a grid point's value needs no more than one interpolation.
    grid = Grid(angles=40, velocities=33, torques=5)
    angle, velocity = grid.states()
    torque = grid.torque_values()
    next_angle, next_velocity, reward = step(angle[..., None], velocity[..., None], torque)
    best = reward.amax(dim=-1)
    if steps == 2:
        last = ActionValues(grid, 1.0, best).value(next_angle, next_velocity)
        best = (reward + last).amax(dim=-1)
    torch.testing.assert_close(optimal_policy(grid, steps).state_value, best)


def test_the_optimum_keeps_what_it_promises(optimum: ActionValues) -> None:
    starts = start_states(30)
    promised, achieved = optimum.value(*starts).mean(), simulate(optimum, *starts).mean()
    assert abs(promised - achieved) < 1
    # About -138 in the limit of a fine grid; 2.5 covers this grid's error.
    assert abs(achieved + 138) < 2.5


def test_a_finer_grid_promises_more_and_converges(optimum: ActionValues) -> None:
    starts = start_states(30)
    promises = [
        float(optimal_policy(Grid(points, points, 21)).value(*starts).mean()) for points in (38, 76)
    ]
    promises.append(float(optimum.value(*starts).mean()))
    assert promises[0] < promises[1] < promises[2]
    # Halving the spacing at least halves the error.
    assert promises[2] - promises[1] < 0.5 * (promises[1] - promises[0])


def test_nobody_beats_the_optimum(optimum: ActionValues) -> None:
    controller = evaluate(SwingUpController(), ENV_ID)
    best = evaluate(optimum, ENV_ID)
    gap = best.returns - controller.returns  # paired by start
    assert gap.mean() > 2 * gap.std(ddof=1) / math.sqrt(len(gap))
    assert controller.mean > -175


def test_greedy_policies_act_on_one_and_on_many_inside_the_bounds(optimum: ActionValues) -> None:
    observations = observation_of(*start_states(10)).numpy()
    many = optimum.act(observations)
    assert many.shape == (100, 1)
    assert np.abs(many).max() <= 2
    assert optimum.act(observations[3]) == many[3]


def test_unusable_grids_and_horizons_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 angles, 2 velocities and 2 torques"):
        optimal_policy(Grid(angles=2))
    with pytest.raises(ValueError, match="at least one step; got steps=0"):
        optimal_policy(QUICK_GRID, steps=0)
    for solve in (optimal_q, lambda **rest: policy_q(SwingUpController(), **rest)):
        with pytest.raises(ValueError, match=r"at least 0 and below 1; got 1\.0"):
            solve(discount=1.0)


def test_stored_reference_returns_are_complete(tmp_path: Path) -> None:
    path = tmp_path / "results" / "optimum.json"
    stored = store_reference_returns(path, Grid(61, 61, 13))
    assert json.loads(path.read_text(encoding="utf-8")) == stored
    assert stored["seeds"] == list(EVALUATION_SEEDS)
    assert stored["grid"] == {"angles": 61, "velocities": 61, "torques": 13}
    means = {name: policy["mean"] for name, policy in stored["policies"].items()}
    assert means["optimum"] > means["controller"] > max(means["random"], means["zero_torque"])
    for policy in stored["policies"].values():
        assert policy["mean"] == pytest.approx(np.mean(policy["returns"]))
        assert len(policy["returns"]) == len(EVALUATION_SEEDS)
    achieved = [row["achieved"] for row in stored["convergence"]]
    assert achieved == sorted(achieved)
    assert stored["convergence"][-1]["angles"] == 61


# ---- The endless, discounted task ----------------------------------------------------------------


def plain_value_iteration(grid: Grid, discount: float, sweeps: int) -> Tensor:
    """The textbook algorithm, without matrices: every torque tried in every sweep."""
    angle, velocity = (x.unsqueeze(-1) for x in grid.states())
    value = torch.zeros(grid.angles, grid.velocities, dtype=torch.float64)
    for _ in range(sweeps):
        value = (
            ActionValues(grid, discount, value).q(angle, velocity, grid.torque_values()).amax(-1)
        )
    return value


def test_the_optimum_is_that_of_plain_value_iteration() -> None:
    plain = plain_value_iteration(SMALL_GRID, 0.9, 250)  # 0.9^250 * 170 < 1e-9
    fast = optimal_q(SMALL_GRID, 0.9, tolerance=1e-8)
    torch.testing.assert_close(fast.state_value, plain, rtol=0, atol=2e-8)


@pytest.mark.parametrize("tolerance", [20.0, 5.0, 1.0, 0.1])
def test_the_tolerance_bounds_the_distance_to_the_end(tolerance: float) -> None:
    grid = Grid(angles=16, velocities=17, torques=5)
    for discount in (0.99, 0.999):
        end = optimal_q(grid, discount, tolerance=1e-8).state_value
        early = optimal_q(grid, discount, tolerance).state_value
        assert (early - end).abs().max() <= tolerance


@pytest.mark.parametrize("policy", [SwingUpController(), ConstantPolicy([0.5])])
def test_policy_values_solve_the_linear_equations(policy: object) -> None:
    solved = solve_densely(policy, SMALL_GRID, 0.99)
    iterated = policy_q(policy, SMALL_GRID, 0.99, tolerance=1e-7)  # type: ignore[arg-type]
    torch.testing.assert_close(iterated.state_value, solved, rtol=0, atol=1e-7)


def solve_densely(policy: object, grid: Grid, discount: float) -> Tensor:
    """V = (1 - discount P)^-1 r, with P written down densely from the four corners."""
    angle, velocity = (x.flatten() for x in torch.broadcast_tensors(*grid.states()))
    observation = observation_of(angle, velocity).float().numpy()
    torque = torch.from_numpy(policy.act(observation)).double()[:, 0]  # type: ignore[attr-defined]
    next_angle, next_velocity, reward = step(angle, velocity, torque)
    index, weight = grid.corners(next_angle, next_velocity)
    transition = torch.zeros(len(angle), len(angle), dtype=torch.float64)
    transition.scatter_add_(1, index, weight)
    system = torch.eye(len(angle), dtype=torch.float64) - discount * transition
    return torch.linalg.solve(system, reward).reshape(grid.angles, grid.velocities)


def test_the_greedy_policy_earns_what_the_optimum_promises(endless: ActionValues) -> None:
    starts = start_states(10)
    gap = endless.value(*starts) - simulate(endless, *starts, steps=500, discount=0.99)
    # A start on the edge between two numbers of swings may miss by more than the others.
    assert gap.abs().median() < 2
    assert abs(gap.mean()) < 4


def test_policy_iteration_ends_where_its_own_policy_is_worth_as_much(endless: ActionValues) -> None:
    again = policy_q(endless, QUICK_GRID)
    torch.testing.assert_close(again.state_value, endless.state_value, rtol=0, atol=1e-4)


def test_policy_values_are_discounted_returns() -> None:
    starts = start_states(20)
    promised = policy_q(SwingUpController(), QUICK_GRID).value(*starts)
    gap = promised - simulate(SwingUpController(), *starts, steps=600, discount=0.99)
    # The controller jumps between two laws, so single starts may miss by more than the others.
    assert gap.abs().median() < 0.5
    assert abs(gap.mean()) < 4


def test_the_value_of_a_torque_is_one_step_and_then_the_policy() -> None:
    controller = SwingUpController()
    values = policy_q(controller, QUICK_GRID)
    angle, velocity = (2 * x for x in start_states(20))
    torque = torch.where(angle * velocity > 0, 2.0, -2.0).double()  # pushes it faster
    next_angle, next_velocity, reward = step(angle, velocity, torque)
    rest = simulate(controller, next_angle, next_velocity, steps=500, discount=0.99)
    achieved = reward + 0.99 * rest
    assert (values.q(angle, velocity, torque) - achieved).abs().median() < 0.3
    # The value of the state, where the controller takes the first torque too, is something else.
    assert (values.value(angle, velocity) - achieved).abs().median() > 0.6


def test_the_bonus_is_paid_in_every_state_reached() -> None:
    shape = (SMALL_GRID.angles, SMALL_GRID.velocities)
    torque = torch.tensor([-1.0, 0.0, 2.0]).double().expand(*shape, 3)
    probability = torch.tensor([0.2, 0.5, 0.3]).double().expand(*shape, 3)
    plain, paid = (
        policy_q(TorqueLottery(torque, probability, torch.full(shape, bonus).double()), SMALL_GRID)
        for bonus in (0.0, 0.25)
    )
    torch.testing.assert_close(paid.state_value, plain.state_value + 25, rtol=0, atol=1e-4)
    zero = torch.zeros(3).double()
    q_difference = paid.q(zero, zero, zero) - plain.q(zero, zero, zero)
    torch.testing.assert_close(q_difference, zero + 0.99 * 25, rtol=0, atol=1e-4)


def test_a_lottery_averages_over_its_torques() -> None:
    angle, velocity = SMALL_GRID.states()
    shape = (SMALL_GRID.angles, SMALL_GRID.velocities)
    torque = torch.tensor([-2.0, 1.0]).double().expand(*shape, 2)
    probability = torch.tensor([0.25, 0.75]).double().expand(*shape, 2)
    values = policy_q(TorqueLottery(torque, probability, torch.zeros(shape).double()), SMALL_GRID)
    mixed = 0.25 * values.q(angle, velocity, torque[..., 0])
    mixed = mixed + 0.75 * values.q(angle, velocity, torque[..., 1])
    torch.testing.assert_close(values.state_value, mixed, rtol=0, atol=1e-4)


def test_a_lottery_must_fit_the_grid() -> None:
    torque = torch.zeros(40, 41, 2).double()
    bonus = torch.zeros(40, 41).double()
    with pytest.raises(ValueError, match="sum to 1"):
        policy_q(TorqueLottery(torque, torque + 0.4, bonus), SMALL_GRID)
    with pytest.raises(ValueError, match=r"\(40, 41, K\)"):
        policy_q(TorqueLottery(torque[:10], torque[:10] + 0.5, bonus[:10]), SMALL_GRID)


def test_an_agents_lottery_has_its_moments_and_its_entropy(agent: CQL) -> None:
    grid = Grid(angles=5, velocities=3, torques=2)
    lottery = torque_lottery(agent, grid, nodes=40)
    angle, velocity = torch.broadcast_tensors(*grid.states())
    with torch.no_grad():
        policy = agent.policy(observation_of(angle, velocity).float())
    for row, column in ((0, 0), (2, 1), (4, 2)):
        mean, std = float(policy.mean[row, column]), float(policy.std[row, column])

        def density(torque: float, mean: float = mean, std: float = std) -> float:
            normal = math.atanh(torque / MAX_TORQUE)
            slope = MAX_TORQUE * (1 - (torque / MAX_TORQUE) ** 2)
            squared = ((normal - mean) / std) ** 2
            return math.exp(-squared / 2) / (std * math.sqrt(2 * math.pi) * slope)

        def integral(of: object, density: object = density) -> float:
            edge = MAX_TORQUE * (1 - 1e-9)
            return integrate.quad(lambda x: density(x) * of(x), -edge, edge, limit=400)[0]  # type: ignore[operator]

        weight, torque = lottery.probability[row, column], lottery.torque[row, column]
        for power in (1, 2):
            exact = integral(lambda x, power=power: x**power)
            assert float((weight * torque**power).sum()) == pytest.approx(exact, abs=2e-3)
        entropy = integral(lambda x, density=density: -math.log(density(x)))
        bonus = float(lottery.bonus[row, column])
        # alpha is in scaled reward; in the environment's units it weighs 8 times as much.
        assert bonus == pytest.approx(0.2 * 8 * entropy, abs=5e-3)
    assert torque_lottery(agent, grid, entropy=False).bonus.abs().max() == 0


def test_a_stochastic_policy_earns_what_its_values_say(agent: CQL) -> None:
    angle, velocity = (x.repeat_interleave(20) for x in start_states(8))
    torch.manual_seed(0)
    drawn = simulate(agent, angle, velocity, 500, discount=0.99, deterministic=False)
    values = policy_q(torque_lottery(agent, QUICK_GRID, entropy=False), QUICK_GRID)
    gap = (drawn - values.value(angle, velocity)).reshape(-1, 20).mean(dim=1)
    # Four standard errors, and one percent for the grid and for the steps after 500.
    allowed = 4 * float(gap.std()) / math.sqrt(len(gap)) + 0.01 * abs(float(drawn.mean()))
    assert abs(float(gap.mean())) < allowed


def test_the_optimum_is_stored_and_read_back(tmp_path: Path) -> None:
    stored = store_ground_truth(tmp_path, Grid(angles=48, velocities=49, torques=5), points=8)
    assert json.loads((tmp_path / "ground_truth.json").read_text(encoding="utf-8")) == stored
    finest = stored["convergence"][-1]
    assert (finest["angles"], finest["velocities"], finest["torques"]) == (48, 49, 5)
    # Rounded to 0.001, and half of it comes back by mirror symmetry.
    read, solved = load_optimal_q(tmp_path / "optimal_value.npz"), optimal_q(Grid(48, 49, 5))
    torch.testing.assert_close(read.state_value, solved.state_value, rtol=0, atol=6e-4)
    assert (read.grid, read.discount) == (solved.grid, solved.discount)
    promised = float(solved.value(*start_states(8)).mean())
    assert finest["optimum"]["promised"] == pytest.approx(promised)
    assert stored["starts"] == 64
    with pytest.raises(ValueError, match="41 angles have no half"):
        store_ground_truth(tmp_path, Grid(angles=41))
    with pytest.raises(FileNotFoundError, match=r"run\.py results"):
        load_optimal_q(tmp_path / "nothing.npz")


def test_agent_units_are_those_of_shifted_and_scaled_rewards() -> None:
    # Hanging at rest for ever, once with scaled rewards and once converted.
    reward = -(math.pi**2)
    scaled = (reward + 8) / 8 / (1 - 0.99)
    assert float(in_agent_units(torch.tensor(reward / (1 - 0.99)))) == pytest.approx(scaled)
    assert float(in_agent_units(torch.tensor(0.0))) == pytest.approx(100)
