"""Proofs of the chapter on the TD target, and tests of its exercise checkers.

Each proof reaches the number by another method than the chapter and the library do, and shows that
a wrong version does not pass the same check.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, optimize
from torch import Tensor

from book.extensions.stored_values import find_source, look_up
from offline_rl_lib import CQL, SAC, CQLSettings, SACSettings, pendulum
from offline_rl_lib.data import OfflineDataset, TransitionBatch, load_dataset
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.networks import TwinCritic
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = np.ndarray

ROOT = Path(__file__).parent.parent
DISCOUNT = 0.99


def on_the_page(key: str) -> float:
    """A number of the chapter's prose."""
    return float(look_up(find_source(ROOT, "07_td_target"), key))


# ----------------------------------------------------------------------------- random tasks


class Task:
    """A random task with tables: 5 states, 3 actions, a random policy."""

    def __init__(self, seed: int, discount: float = DISCOUNT) -> None:
        random = np.random.default_rng(seed)
        self.discount = discount
        self.moves = random.dirichlet(np.full(5, 0.5), size=(5, 3))  # (s, a) -> s'
        self.reward = random.normal(size=(5, 3))
        self.policy = random.dirichlet(np.ones(3), size=5)
        self.entropy = -(self.policy * np.log(self.policy)).sum(axis=1)

    def sweeps(
        self, reward: Array, *, bonus: Array | float = 0.0, error: Array | float = 0.0
    ) -> Array:
        """Q by repeating the target until nothing changes."""
        q, sweeps = np.zeros((5, 3)), math.ceil(35 / (1 - self.discount))
        for _ in range(sweeps):
            opinion = (self.policy * q).sum(axis=1) + bonus + error
            q = reward + self.discount * np.tensordot(self.moves, opinion, axes=1)
        return q

    def solved(self, reward: Array, later: Array | float = 0.0) -> Array:
        """Q from one linear system over all 15 pairs; `later` (5,) is added from s' on."""
        chain = np.einsum("sat,tb->satb", self.moves, self.policy).reshape(15, 15)
        gain = reward + self.discount * np.tensordot(self.moves, later * np.ones(5), axes=1)
        system = np.eye(15) - self.discount * chain
        return np.linalg.solve(system, gain.reshape(15)).reshape(5, 3)

    def simulated(self, bonus: float, walks: int, steps: int) -> float:
        """Mean return of random walks from state 0 with action 0, bonus * entropy later on."""
        random, total = np.random.default_rng(1), np.full(walks, self.reward[0, 0])
        state, action = np.zeros(walks, int), np.zeros(walks, int)
        for t in range(1, steps):
            reached = self.moves[state, action].cumsum(axis=1)
            state = (random.random(walks)[:, None] > reached).sum(axis=1).clip(max=4)
            chosen = self.policy[state].cumsum(axis=1)
            action = (random.random(walks)[:, None] > chosen).sum(axis=1).clip(max=2)
            gain = self.reward[state, action] - bonus * np.log(self.policy[state, action])
            total = total + self.discount**t * gain
        return float(total.mean())


@pytest.mark.proves("eq-td-amplified", method="bisection for the fixed point, 3 discounts")
@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99])
def test_an_error_is_counted_again_and_again(discount: float, deviation: Deviation) -> None:
    def fixed_point(error: float) -> float:
        return optimize.brentq(lambda v: 1 + discount * (v + error) - v, -1e4, 1e4, xtol=1e-12)

    for error in (-0.3, 0.1, 2.0):
        measured = fixed_point(error) - fixed_point(0.0)
        deviation(abs(measured - discount / (1 - discount) * error), 1e-8)
        assert abs(measured - error / (1 - discount)) > 0.05  # the factor is 99 and not 100
    if discount == DISCOUNT:
        assert on_the_page("td-amplified") == pytest.approx(9.9, abs=0.051)


@pytest.mark.proves("claim-td-amplified", method="one linear system each for 200 random tasks")
def test_errors_are_amplified_by_at_most_the_factor(deviation: Deviation) -> None:
    beyond, equality, typical = 0.0, 0.0, []
    for seed in range(200):
        task = Task(seed, discount=(0.5, 0.9, 0.99)[seed % 3])
        factor = task.discount / (1 - task.discount)
        error = np.random.default_rng(seed).uniform(-1, 1, 5)
        right = task.solved(task.reward)
        off = np.abs(task.solved(task.reward, later=error) - right).max()
        beyond = max(beyond, off - factor * np.abs(error).max())
        typical.append(off / factor)
        constant = task.solved(task.reward, later=1.0) - right
        equality = max(equality, np.abs(constant - factor).max())
        # With terminations the bound still holds, and is not reached.
        task.moves *= np.random.default_rng(seed).uniform(0.5, 0.98, (5, 3, 1))
        right = task.solved(task.reward)
        off = np.abs(task.solved(task.reward, later=error) - right).max()
        beyond = max(beyond, off - factor * np.abs(error).max())
        assert (task.solved(task.reward, later=1.0) - right).max() < 0.95 * factor
    deviation(max(beyond, 0.0), 1e-9)
    deviation(equality, 1e-9)
    assert np.mean(typical) > 0.1  # the bound is not empty


# ----------------------------------------------------------------------------- noise


def above(x: float) -> float:
    """Probability that a standard normal number is larger than x."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def bell(x: float) -> float:
    """Density of a standard normal number."""
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def best_of(count: int, critics: int) -> float:
    """Mean of the largest of `count` errors by the density of the order statistic."""

    def density(x: float) -> float:
        slope = critics * bell(x) * above(x) ** (critics - 1)
        return count * (1 - above(x) ** critics) ** (count - 1) * slope

    return float(integrate.quad(lambda x: x * density(x), -12, 12, epsabs=1e-11)[0])


def area_formula(count: int, critics: int) -> float:
    """The chapter's formula, by adaptive quadrature on both sides of zero."""

    def f(x: float) -> float:
        return (1 - above(x) ** critics) ** count

    right = integrate.quad(lambda x: 1 - f(x), 0, 12, epsabs=1e-11)[0]
    return float(right - integrate.quad(f, -12, 0, epsabs=1e-11)[0])


@pytest.mark.proves("eq-td-best-of-n", method="density of the order statistic; closed forms")
@pytest.mark.parametrize("critics", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
def test_mean_of_the_largest_error(count: int, critics: int, deviation: Deviation) -> None:
    formula = area_formula(count, critics)
    deviation(abs(formula - best_of(count, critics)), 1e-8)
    closed = {(1, 1): 0.0, (2, 1): math.pi**-0.5, (3, 1): 1.5 * math.pi**-0.5}
    closed |= {(1, 2): -(math.pi**-0.5)}
    if (count, critics) in closed:
        deviation(abs(formula - closed[count, critics]), 1e-8)
    if count == 10:
        assert on_the_page(f"td-{'max' if critics == 1 else 'twin'}-10") == pytest.approx(
            formula, abs=0.0075
        )
    assert abs(formula - best_of(count + 1, critics)) > 1e-3


def test_correlated_errors_are_overestimated_less() -> None:
    noise = np.random.default_rng(2).standard_normal((200_000, 11))
    for rho in (0.5, 0.9):
        errors = math.sqrt(rho) * noise[:, :1] + math.sqrt(1 - rho) * noise[:, 1:]
        predicted = math.sqrt(1 - rho) * best_of(10, 1)
        assert errors.max(axis=1).mean() == pytest.approx(predicted, abs=0.015)


@pytest.mark.proves("eq-td-best-of-n", method="simulated loops, 800 learners")
def test_the_noisy_loop_settles_where_the_formula_says(deviation: Deviation) -> None:
    random = np.random.default_rng(7)
    for count, critics in ((10, 1), (10, 2), (1, 2)):
        value, means = np.full(800, 100.0), []
        for sweep in range(800):
            errors = random.normal(0, 0.5, (critics, count, 800))
            value = 1 + DISCOUNT * (value + errors.min(axis=0).max(axis=0))
            means += [value.mean()] if sweep >= 600 else []
        predicted = 100 + 99 * 0.5 * best_of(count, critics)
        deviation(abs(float(np.mean(means)) - predicted), 0.5)
        assert abs(on_the_page(f"td-loop-{count}-{critics}") - predicted) < 1
        assert abs(predicted - 100) > 20


@pytest.mark.proves("eq-td-min-of-two", method="integral over the first, closed over the second")
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_mean_of_the_smaller_of_two(rho: float, deviation: Deviation) -> None:
    spread = 0.7

    def smaller_given(first: float) -> float:
        """E min(first, second): second is normal around rho * first."""
        rest = spread * math.sqrt(1 - rho**2)
        if rest == 0:
            return min(first, rho * first)
        z = (first - rho * first) / rest
        return first * above(z) + rho * first * (1 - above(z)) - rest * bell(z)

    mean = integrate.quad(
        lambda x: smaller_given(x) * bell(x / spread) / spread, -8, 8, points=[0], limit=200
    )[0]
    deviation(abs(mean + spread * math.sqrt((1 - rho) / math.pi)), 1e-6)
    if 0 < rho < 1:
        assert abs(mean + spread / math.sqrt(math.pi)) > 0.05  # correlated critics correct less


@pytest.mark.proves("claim-td-three-actions", method="density of the order statistic, 60 values")
def test_twins_turn_from_pessimistic_to_optimistic_at_three(deviation: Deviation) -> None:
    bias = {count: best_of(count, critics=2) for count in range(1, 61)}
    deviation(max(bias[1], bias[2], 0.0), 0.0)
    deviation(max(0.0, *(-bias[count] for count in range(3, 61))), 0.0)
    deviation(max(0.0, *(bias[n] - best_of(n, critics=1) for n in bias)), 0.0)
    assert bias[2] < -0.05
    assert bias[3] > 0.05


@pytest.mark.proves("claim-td-max-order", method="plain loops over 2,000 random tables")
def test_minimum_first_is_never_larger(deviation: Deviation) -> None:
    random, beyond, apart, differs = np.random.default_rng(0), 0.0, 0.0, 0
    for _ in range(2000):
        critics, actions = random.integers(1, 4), random.integers(1, 8)
        table = random.normal(size=(critics, actions)).tolist()
        minimum_first = max(min(row[a] for row in table) for a in range(actions))
        maximum_first = min(max(row) for row in table)
        beyond = max(beyond, minimum_first - maximum_first)
        differs += maximum_first > minimum_first
        same = [table[0]] * critics
        agreed = max(min(row[a] for row in same) for a in range(actions))
        apart = max(apart, abs(agreed - min(max(row) for row in same)))
    deviation(max(beyond, 0.0), 0.0)
    deviation(apart, 0.0)
    assert differs > 500


# ----------------------------------------------------------------------------- the library's target


@cache
def replay() -> OfflineDataset:
    return load_dataset("pendulum/replay-v0")


def real_batch(size: int = 16) -> TransitionBatch:
    batch = replay().sample(size, torch.Generator().manual_seed(3))
    return batch._replace(terminated=torch.arange(size) % 3 == 0)


def agent_for(kind: str = "SAC", **settings: Any) -> SAC:
    dataset = replay()
    units: dict[str, Any] = {"reward_shift": 8.0, "reward_scale": 1 / 8} | settings
    if kind == "CQL":
        return CQL.from_dataset(dataset, CQLSettings(**units))
    return SAC.from_dataset(dataset, SACSettings(**units))


def plain_q(critic: TwinCritic, which: int, inputs: tuple[Tensor, Tensor]) -> float:
    """One critic for one observation and action, layer by layer in float64."""
    observation, action = (part.double() for part in inputs)
    first = critic.from_observation
    hidden = observation @ first.weight[which].double() + first.bias[which, 0].double()
    hidden = hidden + action @ critic.from_action[which].double()
    for layer in critic.layers:
        hidden = hidden.relu() @ layer.weight[which].double() + layer.bias[which, 0].double()
    return hidden.item()


@pytest.mark.proves("eq-td-soft-target", method="one transition at a time in float64; 6 wrong fail")
@pytest.mark.parametrize("kind", ["SAC", "CQL"])
@pytest.mark.parametrize("temperature", [0.01, 0.5])
def test_the_librarys_target(kind: str, temperature: float, deviation: Deviation) -> None:
    agent, batch = agent_for(kind, initial_temperature=temperature), real_batch()
    with torch.no_grad():
        for part in agent.target_critic.parameters():
            part.mul_(3.0)  # far from the online critics, and the twins far from each other
    noise = torch.Generator().set_state(agent.generator.get_state())
    target = agent.td_target(batch)
    wrong: dict[str, float] = {}
    for row, got in enumerate(target.tolist()):
        observation = batch.next_observation[row]
        action, log_prob = _same_noise(agent, batch, noise.clone_state(), row)
        reward = (batch.reward[row].item() + 8) / 8
        alive = 0.0 if batch.terminated[row] else 1.0
        pair = [plain_q(agent.target_critic, j, (observation, action)) for j in (0, 1)]
        online = [plain_q(agent.critic, j, (observation, action)) for j in (0, 1)]
        bonus = -temperature * log_prob
        deviation(abs(got - (reward + DISCOUNT * alive * (min(pair) + bonus))), 5e-5)
        versions = {
            "larger critic": reward + DISCOUNT * alive * (max(pair) + bonus),
            "mean critic": reward + DISCOUNT * alive * (sum(pair) / 2 + bonus),
            "turned sign": reward + DISCOUNT * alive * (min(pair) - bonus),
            "bonus after the end": reward + DISCOUNT * (alive * min(pair) + bonus),
            "never ends": reward + DISCOUNT * (min(pair) + bonus),
            "online critic": reward + DISCOUNT * alive * (min(online) + bonus),
        }
        for name, value in versions.items():
            wrong[name] = max(wrong.get(name, 0.0), abs(got - value))
    assert min(wrong.values()) > 1e-3, wrong


def _same_noise(
    agent: SAC, batch: TransitionBatch, noise: torch.Generator, row: int
) -> tuple[Tensor, float]:
    with torch.no_grad():
        policy = agent.policy(batch.next_observation)
        action, log_prob = policy.rsample_with_log_prob((), noise)
    return action[row], float(log_prob[row])


@pytest.mark.proves("eq-td-entropy-difference", method="two agents that differ in temperature only")
@pytest.mark.parametrize("temperature", [0.01, 0.2, 3.0])
def test_what_the_entropy_adds_to_a_target(temperature: float, deviation: Deviation) -> None:
    batch = real_batch()
    with_bonus = agent_for(initial_temperature=temperature)
    without = agent_for(initial_temperature=1e-30)
    noise = torch.Generator().set_state(with_bonus.generator.get_state())
    difference = with_bonus.td_target(batch) - without.td_target(batch)
    with torch.no_grad():
        policy = with_bonus.policy(batch.next_observation)
        action = policy.rsample((), noise)
    log_prob = policy.log_prob(action.clamp(-2 + 1e-6, 2 - 1e-6)).double()
    alive = (~batch.terminated).double()
    predicted = -DISCOUNT * alive * temperature * log_prob
    scale = max(1.0, temperature)
    deviation((difference.double() - predicted).abs().max() / scale, 1e-4)
    assert (difference[batch.terminated] == 0).all()
    assert (difference.double() + predicted).abs().max() > 1e-2
    # Without the mask a terminated transition would still be paid.
    assert (DISCOUNT * temperature * log_prob[batch.terminated]).abs().max() > 1e-3


@pytest.mark.proves("eq-td-soft-split", method="repeated targets on 20 random tasks")
def test_soft_q_is_q_plus_the_future_entropy(deviation: Deviation) -> None:
    for seed in range(20):
        task = Task(seed, discount=0.9)
        bonus = 0.3 * task.entropy
        soft = task.sweeps(task.reward, bonus=bonus)
        plain = task.sweeps(task.reward)
        future = task.solved(np.zeros((5, 3)), later=bonus)
        deviation(np.abs(soft - plain - future).max(), 1e-9)
        paid_now_too = future + bonus[:, None]
        assert np.abs(soft - plain - paid_now_too).max() > 1e-2


@pytest.mark.proves("eq-td-soft-split", method="simulated walks, paid -log of each later action")
def test_soft_q_is_what_a_paid_walk_earns(deviation: Deviation) -> None:
    task = Task(3, discount=0.9)
    earned = task.simulated(bonus=0.3, walks=20_000, steps=80)
    soft = task.solved(task.reward, later=0.3 * task.entropy)[0, 0]
    deviation(abs(earned - soft), 0.06)
    assert abs(earned - task.solved(task.reward)[0, 0]) > 0.5


@pytest.mark.proves("claim-td-fee", method="every stored run on its own")
def test_the_entropy_of_every_stored_run_is_negative(deviation: Deviation) -> None:
    runs = [run for run in load_runs(RESULTS / "comparison.jsonl") if run["method"] != "BC"]
    assert len(runs) == 60
    last = [run["metrics"]["entropy"][-1] for run in runs]
    deviation(max(*last, 0.0), 0.0)
    # Not so by construction: at the beginning most policies were still wide.
    assert max(run["metrics"]["entropy"][0] for run in runs) > 0
    shifts = [
        99 * run["metrics"]["temperature"][-1] * run["metrics"]["entropy"][-1]
        for run in runs
        if run["method"] == "CQL, weight 5" and "narrow" in run["dataset"]
    ]
    assert on_the_page("td-narrow-CQL,-weight-5") == pytest.approx(np.mean(shifts), abs=0.15)


# ----------------------------------------------------------------------------- ends and scale


class OneNumber(torch.nn.Module):
    value = 0.0

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return torch.full((2, len(action)), self.value)


def loop_batch(steps: int, *, cut: bool) -> TransitionBatch:
    """The upright pendulum at rest, one episode; the last transition is truncated."""
    upright = torch.tensor([1.0, 0.0, 0.0]).expand(steps, 3)
    ended = (torch.arange(steps) == steps - 1) & cut
    return TransitionBatch(upright, torch.zeros(steps, 1), torch.zeros(steps), upright, ended)


def settled(agent: SAC, batch: TransitionBatch, reset_value: float | None = None) -> float:
    """Fixed point of the library's mean target, by the secant through two values."""
    agent.target_critic = critic = OneNumber()
    targets = []
    for critic.value in (0.0, 100.0):
        target = agent.td_target(batch).double()
        if reset_value is not None:
            value, critic.value = critic.value, reset_value
            target[-1] = agent.td_target(batch)[-1].double()
            critic.value = value
        targets.append(target.mean().item())
    slope = (targets[1] - targets[0]) / 100
    return targets[0] / (1 - slope)


def test_a_truncation_bootstraps_in_the_library() -> None:
    agent = agent_for(initial_temperature=1e-30)
    assert settled(agent, loop_batch(200, cut=False)) == pytest.approx(100, abs=0.05)
    assert settled(agent, loop_batch(200, cut=True)) == pytest.approx(66.89, abs=0.05)
    assert on_the_page("td-loop-right") == 100.0
    assert on_the_page("td-loop-cut") == 66.9
    assert on_the_page("td-loop-error") == pytest.approx(66.89 / 200, abs=6e-4)


@pytest.mark.proves("eq-td-reset-value", method="the library's target with a reset observation")
@pytest.mark.parametrize("start", [20.0, 85.0])
def test_bootstrapping_from_the_next_episode(start: float, deviation: Deviation) -> None:
    agent = agent_for(initial_temperature=1e-30)
    formula = (1 + DISCOUNT * start / 200) / (1 - DISCOUNT * (1 - 1 / 200))
    measured = settled(agent, loop_batch(200, cut=False), reset_value=start)
    deviation(abs(measured - formula), 0.02)
    assert abs(formula - 100) > 4
    assert abs(formula - 1 / (1 - DISCOUNT * (1 - 1 / 200))) > 1


def test_the_data_hold_the_true_last_observation() -> None:
    """At a truncation the next observation continues the old episode."""
    data = replay()
    last = data.truncated.nonzero()[:, 0]
    assert len(last) == 100
    angle, velocity = pendulum.state_of(data.observation[last].numpy())
    angle, velocity, _ = pendulum.step(angle, velocity, data.action[last, 0].double())
    predicted = pendulum.observation_of(angle, velocity)
    assert (predicted - data.next_observation[last]).abs().max() < 1e-5
    of_next_episode = data.observation[last[:-1] + 1]
    assert (predicted[:-1] - of_next_episode).norm(dim=1).mean() > 0.5


@pytest.mark.proves("eq-td-affine", method="one linear system each for 60 random tasks")
def test_scaled_rewards_give_scaled_values(deviation: Deviation) -> None:
    for seed in range(60):
        shift, scale = np.random.default_rng(seed).uniform((-3, 0.1), (9, 2))
        task = Task(seed)
        scaled = task.solved(scale * (task.reward + shift))
        rule = scale * task.solved(task.reward) + scale * shift / (1 - DISCOUNT)
        deviation(np.abs(scaled - rule).max() / (1 + np.abs(rule).max()), 1e-10)
        # A temperature scales like the values: with the old one the soft values do not.
        soft = task.solved(scale * task.reward, later=scale * 0.4 * task.entropy)
        kept = task.solved(scale * task.reward, later=0.4 * task.entropy)
        expected = scale * task.solved(task.reward, later=0.4 * task.entropy)
        assert np.abs(soft - expected).max() < 1e-9
        assert np.abs(kept - expected).max() > 1e-2 or abs(scale - 1) < 0.05


@pytest.mark.proves("eq-td-affine", method="discounted simulation of the controller, both units")
def test_scaled_rewards_on_the_pendulum(deviation: Deviation) -> None:
    angle, velocity = (part[::250] for part in pendulum.start_states())
    controller, total, scaled = pendulum.SwingUpController(), 0.0, 0.0
    for t in range(2500):
        observation = pendulum.observation_of(angle, velocity).numpy()
        torque = torch.as_tensor(controller.act(observation)).double()[:, 0]
        angle, velocity, reward = pendulum.step(angle, velocity, torque)
        total = total + DISCOUNT**t * reward
        scaled = scaled + DISCOUNT**t * (reward + 8) / 8
    deviation((scaled - (total / 8 + 100)).abs().max(), 1e-8)
    assert (scaled - total / 8).abs().max() > 99


FREQUENCY = np.array([0.05, 0.10, 0.20, 0.50, 0.15])
RETURN = np.array([-70.0, -66.0, -62.0, -60.0, -58.0])


def conservative_values(target: Array, weight: float, t: float) -> Array:
    """Where the slope of the loss vanishes, by root finding on the slope alone."""

    def slope(q: Array) -> Array:
        share = np.exp((q - q.max()) / t)
        return 2 * FREQUENCY * (q - target) + weight * (share / share.sum() - FREQUENCY)

    solution = optimize.root(slope, target, method="hybr", tol=1e-13)
    assert np.abs(slope(solution.x)).max() < 1e-8
    return solution.x


@pytest.mark.proves("eq-td-weight-scale", method="root of the loss's slope, 4 settings")
@pytest.mark.parametrize(("weight", "t"), [(5.0, 1.0), (2.0, 1.0), (5.0, 3.0), (0.5, 2.0)])
def test_weight_and_temperature_scale_with_the_reward(
    weight: float, t: float, deviation: Deviation
) -> None:
    raw = conservative_values(RETURN, weight, t)
    for scale, shift in ((1 / 8, 100.0), (3.0, -7.0)):
        target = scale * RETURN + shift
        converted = conservative_values(target, scale * weight, scale * t)
        deviation(np.abs((converted - shift) / scale - raw).max(), 1e-6)
        for w, temperature in ((weight, scale * t), (scale * weight, t), (weight, t)):
            kept = conservative_values(target, w, temperature)
            assert np.abs((kept - shift) / scale - raw).max() > 1e-2
    if (weight, t) == (5.0, 1.0):
        kept = 8 * (conservative_values(RETURN / 8 + 100, 5.0, 1.0) - 100)
        assert on_the_page("td-lead-raw") == pytest.approx(raw[3] - raw[4], abs=0.051)
        assert on_the_page("td-lead") == pytest.approx(kept[3] - kept[4], abs=0.051)


@pytest.mark.proves("claim-td-residual", method="normal equations of both losses")
def test_a_gradient_through_the_target_learns_other_values(deviation: Deviation) -> None:
    # Rows: A to B, A to C, B to the end, C to the end; columns: values of A, B, C.
    here = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    after = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]], float)
    reward = np.array([0, 0, 1, 0], float)
    constant_target = np.linalg.solve(here.T @ (here - after), here.T @ reward)
    residual = here - after
    through_target = np.linalg.solve(residual.T @ residual, residual.T @ reward)
    deviation(np.abs(constant_target - [0.5, 1.0, 0.0]).max(), 1e-12)
    deviation(np.abs(through_target - [0.5, 0.75, 0.25]).max(), 1e-12)
    assert np.abs(constant_target - through_target).max() > 0.2


@pytest.mark.parametrize("kind", ["SAC", "CQL"])
def test_no_graph_is_built_for_the_target(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, recording = agent_for(kind), []
    forward = type(agent.target_critic).forward

    def probe(critic: TwinCritic, observation: Tensor, action: Tensor) -> Tensor:
        recording.append(torch.is_grad_enabled() or action.requires_grad)
        return forward(critic, observation, action)

    monkeypatch.setattr(type(agent.target_critic), "forward", probe)
    target = agent.td_target(real_batch())
    assert recording == [False]
    assert target.grad_fn is None


def test_a_detached_target_gives_the_same_gradient_bit_by_bit() -> None:
    """What several programs do: build the graph, then cut it."""
    agent, batch = agent_for(), real_batch()

    def gradients(*, graph: bool) -> list[Tensor]:
        noise = torch.Generator().manual_seed(5)
        with torch.set_grad_enabled(graph):
            policy = agent.policy(batch.next_observation)
            action, log_prob = policy.rsample_with_log_prob((), noise)
            opinion = agent.target_critic(batch.next_observation, action).amin(dim=0)
            soft = opinion - agent.temperature * log_prob
            target = batch.reward + DISCOUNT * (~batch.terminated) * soft
        assert target.requires_grad is graph
        q = agent.critic(batch.observation, batch.action)
        loss = (q - target.detach()).square().mean()
        return list(torch.autograd.grad(loss, list(agent.critic.parameters())))

    pairs = zip(gradients(graph=True), gradients(graph=False), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


# ----------------------------------------------------------------------------- exercises


def max_backup(
    reward: Tensor, terminated: Tensor, next_q: Tensor, log_prob: Tensor, temperature: float
) -> Tensor:
    best, index = next_q.amin(dim=0).max(dim=-1)
    chosen = log_prob.gather(-1, index.unsqueeze(-1)).squeeze(-1)
    return reward + 0.99 * (~terminated).to(reward) * (best - temperature * chosen)


def critical_shift(cost: float, goal: float, discount: float) -> float:
    return cost + goal * (1 - discount) / discount


SOLUTIONS: dict[str, Any] = {
    "ex-td-two-torques": 99 * 0.3 / math.sqrt(math.pi),
    "ex-td-max-backup": max_backup,
    "ex-td-alive": critical_shift,
}


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_solutions_pass(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{exercise}: passed." in verdict(capsys, exercise, SOLUTIONS[exercise])


@pytest.mark.parametrize("exercise", SOLUTIONS)
def test_stubs_are_not_done_yet(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub = (lambda *_: ...) if callable(SOLUTIONS[exercise]) else ...
    assert "not done yet" in verdict(capsys, exercise, stub)


def test_rounded_answers_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert "passed" in verdict(capsys, "ex-td-two-torques", 16.8)
    assert "passed" in verdict(capsys, "ex-td-two-torques", "16.75")


def backup(choose: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """A solution with another opinion about the next state."""

    def target(
        reward: Tensor, terminated: Tensor, q: Tensor, log_prob: Tensor, temperature: float
    ) -> Tensor:
        return reward + 0.99 * (~terminated).double() * choose(q, log_prob, temperature)

    return target


def picked(q: Tensor, m: Tensor) -> Tensor:
    return m.gather(-1, q.amin(0).argmax(-1, keepdim=True)).squeeze(-1)


def never_ends(r: Tensor, d: Tensor, q: Tensor, m: Tensor, t: float) -> Tensor:
    return r + 0.99 * (q.amin(0).amax(-1) - t * picked(q, m))


def paid_after_the_end(r: Tensor, d: Tensor, q: Tensor, m: Tensor, t: float) -> Tensor:
    return r + 0.99 * ((~d) * q.amin(0).amax(-1) - t * picked(q, m))


TWO, MAX, ALIVE = SOLUTIONS


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        (TWO, 0.3 / math.sqrt(math.pi), "counted 99 times"),
        (TWO, 100 * 0.3 / math.sqrt(math.pi), "99 and not 100"),
        (TWO, 29.7, "0.56 standard deviations"),
        (TWO, -16.76, "The sign"),
        (TWO, 116.76, "above 100"),
        (TWO, 99 / math.sqrt(math.pi), "is 0.3, not 1"),
        (TWO, 99 * 0.09 / math.sqrt(math.pi), "not the variance"),
        (TWO, 3.0, "First the mean of the larger"),
        (TWO, "many", "A number is expected"),
        (MAX, backup(lambda q, m, t: q.amin(0).amax(-1) + t * picked(q, m)), "is subtracted"),
        (MAX, backup(lambda q, m, t: q.amin(0).amax(-1)), "entropy of the chosen action is miss"),
        (MAX, backup(lambda q, m, t: q.amin(0).amax(-1) - picked(q, m)), "by the temperature"),
        (MAX, backup(lambda q, m, t: q.amin(0).amax(-1) - t * m.mean(-1)), "Not the mean log"),
        (MAX, backup(lambda q, m, t: q.amin(0).amax(-1) - t * m[:, 0]), "Not the first log"),
        (MAX, backup(lambda q, m, t: q.amin(0).amax(-1) - t * m.amax(-1)), "Not the largest log"),
        (MAX, backup(lambda q, m, t: (q.amin(0) - t * m).amax(-1)), "smaller critic alone"),
        (MAX, backup(lambda q, m, t: q.amax(-1).amin(0) - t * picked(q, m)), "Minimum first"),
        (MAX, backup(lambda q, m, t: q.amax(0).amax(-1) - t * picked(q, m)), "not the larger"),
        (MAX, backup(lambda q, m, t: (q.amin(0) - t * m).mean(-1)), "mean over actions"),
        (MAX, backup(lambda q, m, t: q[0, :, 0]), "Wrong values"),
        (MAX, never_ends, "`terminated` is not used"),
        (MAX, paid_after_the_end, "Transitions that terminate are wrong"),
        (MAX, lambda r, d, q, m, t: max_backup(r, d, q, m, t)[:, None], "trailing axis"),
        (MAX, lambda *_: 3.0, "A tensor is expected"),
        (MAX, 3.0, "A function is expected"),
        (ALIVE, lambda c, g, d: c, "the goal still pays"),
        (ALIVE, lambda c, g, d: c + g * (1 - d), "one more discount"),
        (ALIVE, lambda c, g, d: c + g / (1 - d), "divided the goal"),
        (ALIVE, lambda c, g, d: c - g * (1 - d) / d, "The sign"),
        (ALIVE, lambda c, g, d: g * (1 - d) / d, "make up for it first"),
        (ALIVE, lambda c, g, d: 7.0, "They should be equal"),
        (ALIVE, lambda c, g, d: "much", "A number is expected"),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out, out
    assert help_ in out, out


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_the_critical_shift_parts_the_two_policies(steps: int) -> None:
    """Summed reward by reward; the number of working steps does not matter."""
    shift = critical_shift(1.0, 10.0, DISCOUNT)
    for b, finishing_wins in ((shift - 0.01, True), (shift + 0.01, False)):
        finish = sum(DISCOUNT**t * (b - 1) for t in range(steps)) + DISCOUNT ** (steps - 1) * 10
        never = sum(DISCOUNT**t * (b - 1) for t in range(4000))
        assert (finish > never) is finishing_wins
