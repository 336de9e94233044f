"""Proofs of "The task and the data", and tests of its exercise checkers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch

from book.extensions.stored_values import find_source, look_up
from offline_rl_lib import SAC, pendulum
from offline_rl_lib.collecting import PENDULUM_SAC
from offline_rl_lib.data import SHIPPED_DATASETS, TransitionBatch, load_dataset
from offline_rl_lib.dynamic_programming import QUICK_GRID, optimal_policy
from offline_rl_lib.evaluation import (
    EVALUATION_SEEDS,
    ConstantPolicy,
    EvaluationResult,
    RandomPolicy,
    evaluate,
)
from offline_rl_lib.experiments import RESULTS
from offline_rl_lib.teaching import check

ROOT = Path(__file__).resolve().parent.parent
Deviation = Callable[..., None]
Array = np.ndarray[Any, np.dtype[np.float64]]


def on_the_page(key: str) -> float:
    """A number of the chapter's prose."""
    return float(look_up(find_source(ROOT, "01_task_and_data"), key).strip("%"))


@cache
def stored_returns(policy: str) -> Array:
    stored = json.loads((RESULTS / "reference_returns.json").read_text(encoding="utf-8"))
    return np.array(stored["policies"][policy]["returns"])


@cache
def replay() -> Any:
    return load_dataset("pendulum/replay-v0")


# ---- The pendulum --------------------------------------------------------------------------------


def plain_step(angle: Array, velocity: Array, torque: Array) -> tuple[Array, Array, Array]:
    """The equations of motion in physical constants, apart from the library and its rounding."""
    gravity, mass, length, time_step = 10.0, 1.0, 1.0, 0.05
    torque = np.minimum(np.maximum(torque, -2.0), 2.0)
    wrapped = np.arctan2(np.sin(angle), np.cos(angle))
    reward = -(wrapped**2) - velocity**2 / 10 - torque**2 / 1000
    inertia = mass * length**2 / 3
    moment = mass * gravity * (length / 2) * np.sin(angle) + torque
    faster = np.minimum(np.maximum(velocity + time_step * moment / inertia, -8.0), 8.0)
    return angle + time_step * faster, faster, reward


def gymnasium_steps(seeds: range) -> tuple[Array, Array]:
    """States with torques (n, 3) and what followed, with rewards (n, 3), under random torques."""
    before, after = [], []
    environment, random = gym.make("Pendulum-v1"), np.random.default_rng(0)
    for seed in seeds:
        environment.reset(seed=seed)
        for _ in range(200):
            torque = random.uniform(-3, 3)  # beyond the bounds, to see the clipping
            before.append([*environment.unwrapped.state, torque])
            _, reward, _, _, _ = environment.step(np.array([torque]))
            after.append([*environment.unwrapped.state, reward])
    return np.array(before), np.array(after)


@pytest.mark.proves("eq-pendulum-dynamics", method="Gymnasium's own steps")
@pytest.mark.proves("eq-pendulum-reward", method="Gymnasium's own steps")
def test_dynamics_and_reward_are_those_of_gymnasium(deviation: Deviation) -> None:
    before, after = gymnasium_steps(range(10))
    angle, velocity, torque = torch.from_numpy(before).unbind(-1)
    ours = torch.stack(pendulum.step(angle, velocity, torque), dim=-1).numpy()
    distance = np.abs(ours - after).max(axis=0)
    deviation(distance[:2].max(), 1e-12, label="eq-pendulum-dynamics")
    deviation(distance[2], 1e-12, label="eq-pendulum-reward")
    old_velocity_moves_the_angle = np.abs(before[:, 0] + 0.05 * before[:, 1] - after[:, 0]).max()
    reward_of_the_next_state = np.abs(ours[1:, 2] - after[:-1, 2]).max()
    assert old_velocity_moves_the_angle > 1e-2
    assert reward_of_the_next_state > 1e-2


@pytest.mark.proves("eq-pendulum-dynamics", method="moment of inertia and gravity of a rod")
@pytest.mark.proves("eq-pendulum-reward", method="angle wrapped by arctan2")
def test_dynamics_follow_from_physics(deviation: Deviation) -> None:
    random = np.random.default_rng(1)
    angle, velocity, torque = random.uniform([-9, -8, -3], [9, 8, 3], (2000, 3)).T
    library = pendulum.step(*(torch.from_numpy(x) for x in (angle, velocity, torque)))
    physics = plain_step(angle, velocity, torque)
    distances = [np.abs(x.numpy() - y).max() for x, y in zip(library, physics, strict=True)]
    deviation(max(distances[:2]), 1e-12, label="eq-pendulum-dynamics")
    deviation(distances[2], 1e-12, label="eq-pendulum-reward")


@pytest.mark.proves("eq-pendulum-dynamics", method="equations applied to all stored transitions")
@pytest.mark.proves("eq-pendulum-reward", method="equations applied to all stored transitions")
def test_stored_transitions_obey_the_equations_also_at_truncation(deviation: Deviation) -> None:
    data = replay()
    angle, velocity = (x.numpy() for x in pendulum.state_of(data.observation.numpy()))
    following = plain_step(angle, velocity, data.action[:, 0].double().numpy())
    expected = np.stack([np.cos(following[0]), np.sin(following[0]), following[1]], axis=1)
    # Single precision: the observations carry rounding errors of up to 5e-7.
    deviation(np.abs(expected - data.next_observation.numpy()).max(), 1e-5, "eq-pendulum-dynamics")
    deviation(np.abs(following[2] - data.reward.numpy()).max(), 1e-5, "eq-pendulum-reward")
    cut = data.truncated[:-1].numpy()
    next_row = np.abs(expected[:-1] - data.observation[1:].numpy()).max(axis=1)
    assert np.median(next_row[cut]) > 0.1
    assert next_row[~cut].max() < 1e-5


@pytest.mark.proves("claim-never-terminates", method="count over policies and extreme states")
def test_pendulum_never_terminates(deviation: Deviation) -> None:
    environment = gym.make("Pendulum-v1")
    extremes = [(0.0, 0.0), (math.pi, 8.0), (-math.pi, -8.0), (100.0, 0.0)]
    terminations, lengths = 0, []
    for start in (None, *extremes):
        for policy in (RandomPolicy(environment.action_space), ConstantPolicy([2.0])):
            observation, _ = environment.reset(seed=0)
            if start is not None:
                environment.unwrapped.state = np.array(start)
            truncated, steps = False, 0
            while not truncated:
                observation, _, terminated, truncated, _ = environment.step(policy.act(observation))
                terminations, steps = terminations + terminated, steps + 1
            lengths.append(steps)
    deviation(terminations + int(replay().terminated.sum()), 0)
    assert lengths == [200] * 10
    assert int(replay().truncated.sum()) * 200 == len(replay())


# ---- Returns -------------------------------------------------------------------------------------


@pytest.mark.proves("eq-return", method="a plain loop over one environment at a time")
def test_return_is_the_plain_sum_of_rewards(deviation: Deviation) -> None:
    policy, environment = pendulum.SwingUpController(), gym.make("Pendulum-v1")
    seeds = EVALUATION_SEEDS[:4]
    for seed, measured in zip(seeds, evaluate(policy, "Pendulum-v1", seeds).returns, strict=True):
        observation, _ = environment.reset(seed=seed)
        total, discounted = 0.0, 0.0
        for step in range(200):
            observation, reward, _, _, _ = environment.step(policy.act(observation))
            total += reward
            discounted += 0.99**step * reward
        deviation(abs(total - measured), 1e-6)
        assert abs(discounted - measured) > 1e-6


@pytest.mark.proves("eq-discounted-return", method="backward recursion, and geometric series")
@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_discounted_return_three_ways(discount: float, deviation: Deviation) -> None:
    rewards = replay().reward.double().numpy().reshape(100, 200)
    summed = rewards @ discount ** np.arange(200)
    backward = np.zeros(100)
    for step in reversed(range(200)):
        backward = rewards[:, step] + discount * backward
    deviation(np.abs(summed - backward).max(), 1e-9)
    constant = (-3.0 * discount ** np.arange(200)).sum()
    deviation(abs(constant + 3.0 * (1 - discount**200) / (1 - discount)), 1e-9)
    assert np.abs(rewards @ discount ** np.arange(1, 201) - backward).max() > 1e-9


def simulated(act: Callable[[Array], Array], angle: Array, velocity: Array) -> Array:
    """Returns from given starts under the plain equations of motion."""
    total = np.zeros_like(angle)
    for _ in range(200):
        observation = np.stack([np.cos(angle), np.sin(angle), velocity], axis=-1)
        angle, velocity, reward = plain_step(angle, velocity, act(observation.astype(np.float32)))
        total += reward
    return total


@cache
def start_states() -> tuple[Array, Array]:
    environment, states = gym.make("Pendulum-v1"), []
    for seed in EVALUATION_SEEDS:
        environment.reset(seed=seed)
        states.append(environment.unwrapped.state)
    angle, velocity = np.array(states).T
    return angle, velocity


@pytest.mark.proves("claim-reference-returns", method="own simulation; coarse dynamic programme")
def test_reference_returns(deviation: Deviation) -> None:
    controller, random = pendulum.SwingUpController(), np.random.default_rng(5)
    resting = simulated(lambda observation: np.zeros(len(observation)), *start_states())
    balanced = simulated(lambda observation: controller.act(observation)[..., 0], *start_states())
    for name, returns in (("zero_torque", resting), ("controller", balanced)):
        deviation(np.abs(returns - stored_returns(name)).max(), 0.05)
        deviation(abs(returns.mean() - on_the_page(f"task-{name}")), 0.1)
    drawn = simulated(lambda observation: random.uniform(-2, 2, len(observation)), *start_states())
    noise = math.sqrt(2) * (drawn - stored_returns("random")).std() / math.sqrt(2 * 100)
    deviation(abs(drawn.mean() - on_the_page("task-random")), 4 * noise)
    angle, velocity = (torch.from_numpy(x) for x in start_states())
    coarse = optimal_policy(QUICK_GRID)
    promised = coarse.value(angle, velocity).mean().item()
    deviation(abs(promised - on_the_page("task-optimum")), 4.0)
    assert on_the_page("task-controller") < on_the_page("task-optimum") < 0


# ---- Standard errors -----------------------------------------------------------------------------


@cache
def fresh_experiments() -> tuple[Array, Array]:
    """Returns (500, 10) of controller and zero torque: 500 experiments of ten new starts each."""
    angle, velocity = np.random.default_rng(21).uniform([-np.pi, -1], [np.pi, 1], (5000, 2)).T
    controller = pendulum.SwingUpController()
    balanced = simulated(lambda x: controller.act(x)[..., 0], angle, velocity)
    resting = simulated(lambda x: np.zeros(len(x)), angle, velocity)
    return balanced.reshape(500, 10), resting.reshape(500, 10)


@pytest.mark.proves("eq-standard-error", method="scatter of 500 means over fresh starts")
@pytest.mark.parametrize("policy", [0, 1])
def test_standard_error_predicts_the_scatter_of_means(policy: int, deviation: Deviation) -> None:
    experiments = fresh_experiments()[policy]
    seeds = tuple(range(10))
    predicted = [EvaluationResult(row, seeds).standard_error for row in experiments]
    scatter = experiments.mean(axis=1).std(ddof=1)
    # The scatter of 500 means is itself uncertain by about 3 %.
    deviation(abs(np.sqrt(np.mean(np.square(predicted))) / scatter - 1), 0.1)
    forgotten_root = experiments.std(axis=1, ddof=1) / 10
    assert abs(np.sqrt(np.mean(forgotten_root**2)) / scatter - 1) > 0.1


@pytest.mark.proves("eq-paired-standard-error", method="scatter of 500 paired differences")
def test_paired_standard_error(deviation: Deviation) -> None:
    first, second = fresh_experiments()
    covariance = np.array([np.cov(x, y) for x, y in zip(first, second, strict=True)])
    separate = covariance[:, 0, 0] + covariance[:, 1, 1]
    predicted = math.sqrt((separate - 2 * covariance[:, 0, 1]).mean() / 10)
    scatter = (first - second).mean(axis=1).std(ddof=1)
    deviation(abs(predicted / scatter - 1), 0.1)
    assert abs(math.sqrt(separate.mean() / 10) / scatter - 1) > 0.1


@pytest.mark.proves("claim-one-episode", method="2,500 other starts, simulated")
def test_one_episode_tells_almost_nothing(deviation: Deviation) -> None:
    angle, velocity = pendulum.start_states(50)
    returns = pendulum.simulate(pendulum.SwingUpController(), angle, velocity).numpy()
    # The spread of 100 starts is itself uncertain by about 7 %.
    deviation(abs(on_the_page("task-spread") / returns.std() - 1), 0.2)
    tens = np.random.default_rng(3).permutation(returns).reshape(250, 10).mean(axis=1)
    deviation(abs(on_the_page("task-error-10") / tens.std() - 1), 0.2)


@pytest.mark.proves("claim-pairing", method="bootstrap with separate and with paired starts")
def test_pairing_pays(deviation: Deviation) -> None:
    first, second = stored_returns("controller"), stored_returns("optimum")
    rows, others = np.random.default_rng(11).integers(100, size=(2, 20_000, 100))
    paired = (first - second)[rows].mean(axis=1)
    separate = first[rows].mean(axis=1) - second[others].mean(axis=1)
    deviation(abs(paired.std() / on_the_page("task-paired") - 1), 0.05)
    deviation(abs(separate.std() / on_the_page("task-unpaired") - 1), 0.05)
    deviation(abs(paired.mean() - on_the_page("task-difference")), 0.2)
    low, high = np.quantile(paired, [0.025, 0.975])
    assert high < 0, "paired starts tell the two policies apart"
    low, high = np.quantile(separate, [0.025, 0.975])
    assert low < 0 < high, "separate starts do not"


# ---- The data ------------------------------------------------------------------------------------


def returns_from_disk(name: str) -> Array:
    """Episode returns straight from the HDF5 file, past the library's loader."""
    with h5py.File(SHIPPED_DATASETS / name / "data" / "main_data.hdf5") as file:
        numbers = sorted(int(key.removeprefix("episode_")) for key in file)
        return np.array(
            [np.sum(file[f"episode_{number}/rewards"][:], dtype=np.float64) for number in numbers]
        )


@pytest.mark.proves("claim-mixed-data", method="returns summed from the HDF5 file")
def test_replay_data_are_mixed(deviation: Deviation) -> None:
    returns = returns_from_disk("pendulum/replay-v0")
    assert len(returns) == 100
    for key, part in (("early", returns[:10]), ("late", returns[50:]), ("all", returns)):
        deviation(abs(part.mean() - on_the_page(f"task-{key}")), 0.51)
    random, optimum = stored_returns("random"), stored_returns("optimum")
    assert returns[:10].mean() < random.mean()
    late_error = returns[50:].std(ddof=1) / math.sqrt(50)
    deviation(abs(late_error - on_the_page("task-late-error")), 0.51)
    assert abs(returns[50:].mean() - optimum.mean()) < late_error


@pytest.mark.proves("claim-narrow-support", method="numpy's histogramdd")
def test_what_the_narrow_data_leave_open(deviation: Deviation) -> None:
    def counts(data: Any) -> Array:
        cosine, sine, velocity = data.observation.double().numpy().T
        rows = np.stack([np.arctan2(sine, cosine), velocity, data.action[:, 0].numpy()], axis=1)
        limits = [(-np.pi, np.pi), (-8, 8), (-2, 2)]
        return np.histogramdd(rows, bins=(30, 30, 8), range=limits)[0]

    many, few = counts(replay()), counts(load_dataset("pendulum/narrow-v0"))
    visited = few.sum(axis=-1) > 0
    for name, count in (("replay", many), ("narrow", few)):
        # A value on the edge of a bin may fall to either side in single and double precision.
        deviation(abs((count > 0).sum() - on_the_page(f"task-boxes-{name}")), 3)
        bands = (count > 0)[visited].sum(axis=-1).mean()
        deviation(abs(bands - on_the_page(f"task-bands-{name}")), 0.06)
    drawn = torch.randperm(len(replay()), generator=torch.Generator().manual_seed(1))[:2000]
    subset = replay().observation[drawn], replay().action[drawn]
    own = counts(SimpleNamespace(observation=subset[0], action=subset[1])) > 0
    own_bands = own.sum(axis=-1)[own.any(axis=-1)].mean()
    # Another draw of the same size.
    deviation(abs(own_bands - on_the_page("task-own-bands-drawn")), 0.15)
    assert on_the_page("task-bands-narrow") < on_the_page("task-bands-replay") / 2
    assert own_bands < few[visited].astype(bool).sum(axis=-1).mean()
    assert on_the_page("task-boxes-drawn") < on_the_page("task-boxes-narrow")


# ---- Scaled rewards ------------------------------------------------------------------------------


def batch_of(data: Any, size: int, terminated: bool) -> TransitionBatch:
    batch = data.sample(size, torch.Generator().manual_seed(0))
    return batch._replace(terminated=torch.full((size,), terminated))


@pytest.mark.proves("eq-reward-scaling", method="the agent's target after a terminal step")
def test_agents_scale_rewards_like_the_equation(deviation: Deviation) -> None:
    batch = batch_of(replay(), 256, terminated=True)
    target = SAC.from_dataset(replay(), PENDULUM_SAC).td_target(batch)
    deviation((target - (batch.reward + 8) / 8).abs().max(), 1e-6)
    assert (target - (batch.reward / 8 + 8)).abs().max() > 1e-6
    worst = pendulum.step(*(torch.tensor(x).double() for x in (-math.pi, 8.0, 2.0)))[2]
    assert -1.04 < (worst + 8) / 8 < -1.03


@pytest.mark.proves("eq-scaled-return", method="scaled rewards summed one by one")
@pytest.mark.parametrize("discount", [0.9, 0.99])
def test_scaled_return_differs_by_a_constant(discount: float, deviation: Deviation) -> None:
    rewards = replay().reward.double().numpy().reshape(100, 200)
    summed, plain = np.zeros(100), np.zeros(100)
    for step in range(200):
        summed += discount**step * (rewards[:, step] + 8) / 8
        plain += discount**step * rewards[:, step]
    formula = plain / 8 + (1 - discount**200) / (1 - discount)
    deviation(np.abs(summed - formula).max(), 1e-9)
    endless = plain / 8 + 1 / (1 - discount)
    assert np.abs(summed - endless).max() > 1e-9
    assert (summed.argsort() == plain.argsort()).all()


# ---- Terminated and truncated --------------------------------------------------------------------


@pytest.mark.proves("eq-td-target", method="one transition at a time")
def test_td_target_one_transition_at_a_time(deviation: Deviation) -> None:
    agent = SAC.from_dataset(replay(), PENDULUM_SAC)
    ends = torch.arange(64) % 3 == 0
    batch = batch_of(replay(), 64, terminated=False)._replace(terminated=ends)
    state = agent.generator.get_state()
    targets = agent.td_target(batch)
    agent.generator.set_state(state)
    with torch.no_grad():
        action, log_prob = agent.policy(batch.next_observation).rsample_with_log_prob(
            (), agent.generator
        )
        for row in range(64):
            target = (batch.reward[row].item() + 8) / 8
            if not ends[row]:
                observation, chosen = batch.next_observation[row : row + 1], action[row : row + 1]
                first, second = agent.target_critic(observation, chosen)[:, 0].tolist()
                value = min(first, second) - agent.temperature.item() * log_prob[row].item()
                target += 0.99 * value
            deviation(abs(target - targets[row].item()), 1e-5)
    agent.generator.set_state(state)
    never_cut = agent.td_target(batch._replace(terminated=torch.zeros(64, dtype=torch.bool)))
    assert (never_cut - targets).abs()[ends].max() > 1e-5


def upright_transitions() -> tuple[Array, Array, Array]:
    """Scaled rewards and the two flags of an episode that stands upright."""
    environment = gym.make("Pendulum-v1")
    environment.reset(seed=0)
    environment.unwrapped.state = np.zeros(2)
    steps = [environment.step(np.zeros(1, dtype=np.float32)) for _ in range(200)]
    assert all(np.array_equal(step[0], [1, 0, 0]) for step in steps)
    reward, terminated, truncated = (np.array([step[i] for step in steps]) for i in (1, 2, 3))
    return (reward + 8) / 8, terminated, truncated


def sampled_td(reward: Array, ended: Array) -> float:
    """TD learning on single transitions in random order: the mean over 400 learners and time."""
    random, value, means = np.random.default_rng(0), np.zeros(400), []
    for rows in random.integers(len(reward), size=(8_000, 400)):
        value += 0.5 * (reward[rows] + 0.99 * (1 - ended[rows]) * value - value)
        means.append(value.mean())
    return float(np.mean(means[4_000:]))


@pytest.mark.proves("eq-loop-value", method="sampled TD learning on the real environment")
@pytest.mark.proves("eq-cut-loop-value", method="sampled TD learning on the real environment")
def test_the_loop_values_by_td_learning(deviation: Deviation) -> None:
    reward, terminated, truncated = upright_transitions()
    right = sampled_td(reward, terminated)
    cut = sampled_td(reward, terminated | truncated)
    deviation(abs(right - 100), 1e-6, label="eq-loop-value")
    formula = 1 / (1 - 0.99 * (1 - 1 / 200))
    # Which transitions are drawn leaves an error here: the cut one comes at random.
    deviation(abs(cut - formula), 1.0, label="eq-cut-loop-value")
    assert abs(right - formula) > 30


@pytest.mark.proves("eq-loop-value", method="fixed point of the mean target, by bisection")
@pytest.mark.proves("eq-cut-loop-value", method="fixed point of the mean target, by bisection")
@pytest.mark.parametrize("discount", [0.9, 0.99, 0.999])
def test_the_loop_values_by_bisection(discount: float, deviation: Deviation) -> None:
    reward, terminated, truncated = upright_transitions()

    def fixed_point(ended: Array) -> float:
        low, high = 0.0, 1e4
        for _ in range(100):
            middle = (low + high) / 2
            surplus = (reward + discount * (1 - ended) * middle).mean() - middle
            low, high = (middle, high) if surplus > 0 else (low, middle)
        return low

    whole, cut = 1 / (1 - discount), 1 / (1 - discount * (1 - 1 / 200))
    deviation(abs(fixed_point(terminated) - whole), 1e-8, label="eq-loop-value")
    deviation(abs(fixed_point(terminated | truncated) - cut), 1e-8, label="eq-cut-loop-value")
    assert abs(fixed_point(terminated | truncated) - whole) > 1e-8
    if discount == 0.99:
        assert abs(cut - on_the_page("task-loop-cut")) < 0.051


def counted_values(data: Any, ended: Array, cells: int = 30) -> float:
    """Value of upright rest by counting: transition frequencies between cells, then solved."""

    def cell(observation: torch.Tensor) -> Array:
        cosine, sine, velocity = observation.double().numpy().T
        column = np.minimum((np.arctan2(sine, cosine) / np.pi + 1) / 2 * cells, cells - 1)
        row = np.minimum((velocity / 8 + 1) / 2 * cells, cells - 1)
        return column.astype(int) * cells + row.astype(int)

    now, after = cell(data.observation), cell(data.next_observation)
    visits = np.bincount(now, minlength=cells**2)
    known = np.maximum(visits, 1)
    moves = np.zeros((cells**2, cells**2))
    np.add.at(moves, (now, after), 1.0 - ended)
    reward = np.bincount(now, weights=(data.reward.double().numpy() + 8) / 8, minlength=cells**2)
    system = np.eye(cells**2) - 0.99 * moves / known[:, None]
    values = np.linalg.solve(system, reward / known)
    return float(values[cell(torch.tensor([[1.0, 0.0, 0.0]]))[0]])


@pytest.mark.proves("claim-truncation-cost", method="counted transitions between 900 cells")
def test_cutting_at_the_time_limit_lowers_values(deviation: Deviation) -> None:
    late = replay().select_episodes(range(50, 100))
    terminated, truncated = late.terminated.numpy(), late.truncated.numpy()
    right, cut = counted_values(late, terminated), counted_values(late, terminated | truncated)
    deviation(abs(right - on_the_page("task-upright-1")), 4.0)
    deviation(abs(cut - on_the_page("task-upright-3")), 4.0)
    assert right - cut > 20


# ---- Exercises -----------------------------------------------------------------------------------

SOLUTIONS: dict[str, Callable[..., Any]] = {
    "ex-task-hanging-return": lambda steps, discount: (
        -(math.pi**2) * np.sum(discount ** np.arange(steps))
    ),
    "ex-task-td-target": lambda reward, value, terminated, truncated: (
        (reward + 8) / 8 + 0.99 * ~terminated * value
    ),
    "ex-task-episodes-needed": lambda first, second: math.ceil(
        4 * (first - second).var(ddof=1) / (first - second).mean() ** 2
    ),
    "ex-task-time-limit": lambda discount, error: max(
        1, math.ceil(discount * (1 - error) / (error * (1 - discount)) - 1e-9)
    ),
}
MISTAKES: list[tuple[str, Callable[..., Any], str]] = [
    ("ex-task-hanging-return", lambda n, g: math.pi**2 * np.sum(g ** np.arange(n)), "negative"),
    ("ex-task-hanging-return", lambda n, g: -(math.pi**2) * n, "left out the discount"),
    (
        "ex-task-hanging-return",
        lambda n, g: -(math.pi**2) * np.sum(g ** np.arange(1, n + 1)),
        "already discounted",
    ),
    (
        "ex-task-hanging-return",
        lambda n, g: -(math.pi**2) * (n if g == 1 or n == 1 else 1 / (1 - g)),
        "infinitely many",
    ),
    ("ex-task-hanging-return", lambda n, g: 7.0, "the angle is pi"),
    (
        "ex-task-hanging-return",
        lambda n, g: (8 - math.pi**2) / 8 * np.sum(g ** np.arange(n)),
        "scaled reward",
    ),
    (
        "ex-task-hanging-return",
        lambda n, g: -(3.14**2) * np.sum(g ** np.arange(n)),
        "not as a rounded number",
    ),
    (
        "ex-task-td-target",
        lambda r, v, d, t: (r + 8) / 8 + 0.99 * ~(d | t) * v,
        "has a future",
    ),
    ("ex-task-td-target", lambda r, v, d, t: (r + 8) / 8 + 0.99 * ~t * v, "swapped"),
    ("ex-task-td-target", lambda r, v, d, t: (r + 8) / 8 + 0.99 * v, "nothing is cut"),
    ("ex-task-td-target", lambda r, v, d, t: r + 0.99 * ~d * v, "not shifted"),
    ("ex-task-td-target", lambda r, v, d, t: (r + 8) / 8 + ~d * v, "discount is missing"),
    ("ex-task-td-target", lambda r, v, d, t: r[:, None] + v, "(4, 4)"),
    ("ex-task-td-target", lambda r, v, d, t: r + 8 / 8 + 0.99 * ~d * v, "needs brackets"),
    ("ex-task-td-target", lambda r, v, d, t: (r + 8 + 0.99 * ~d * v) / 8, "only the reward is"),
    ("ex-task-td-target", lambda r, v, d, t: (r + 8) / 8 + 0.99 * d * v, "round with ~"),
    ("ex-task-td-target", lambda r, v, d, t: ~d * ((r + 8) / 8 + 0.99 * v), "the reward too"),
    ("ex-task-td-target", lambda r, v, d, t: r, "The targets are"),
    (
        "ex-task-episodes-needed",
        lambda a, b: math.ceil(4 * (a.var(ddof=1) + b.var(ddof=1)) / (a - b).mean() ** 2),
        "paired",
    ),
    (
        "ex-task-episodes-needed",
        lambda a, b: math.ceil((a - b).var(ddof=1) / (a - b).mean() ** 2),
        "two are asked for",
    ),
    (
        "ex-task-episodes-needed",
        lambda a, b: math.ceil(2 * (a - b).std(ddof=1) / abs((a - b).mean())),
        "square",
    ),
    ("ex-task-episodes-needed", lambda a, b: 5000, "Solve"),
    ("ex-task-time-limit", lambda g, e: 200, "too short"),
    ("ex-task-time-limit", lambda g, e: 10**7, "not the fewest"),
    ("ex-task-time-limit", lambda g, e: 0.5, "whole number"),
]


@pytest.mark.parametrize("exercise", sorted(SOLUTIONS))
def test_solutions_pass(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(exercise, SOLUTIONS[exercise])
    assert f"{exercise}: passed." in capsys.readouterr().out


def test_the_printed_reward_is_precise_enough(capsys: pytest.CaptureFixture[str]) -> None:
    check("ex-task-hanging-return", lambda n, g: -9.8696 * sum(g**step for step in range(n)))
    assert "ex-task-hanging-return: passed." in capsys.readouterr().out


@pytest.mark.parametrize("exercise", sorted(SOLUTIONS))
def test_stubs_fail_gently(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(exercise, lambda *arguments: ...)
    assert "not done yet" in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer", "help_expected"), MISTAKES)
def test_mistakes_get_a_helpful_message(
    exercise: str,
    answer: Callable[..., Any],
    help_expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check(exercise, answer)
    message = capsys.readouterr().out
    assert f"{exercise}: not right yet." in message
    assert help_expected in message
