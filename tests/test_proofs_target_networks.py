"""Proofs of the chapter on target networks, and tests of its exercise checkers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import linalg, optimize, signal
from torch import Tensor, nn

from offline_rl_lib import SAC, SACSettings
from offline_rl_lib.data import load_dataset
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = npt.NDArray[np.float64]

DISCOUNT = 0.99
# Two states: A leads to B, B leads to itself. Q(A) = x + y / 2, Q(B) = 2 x.
FEATURES = np.array([[1.0, 0.5], [2.0, 0.0]])
TRANSITION = np.array([[0.0, 1.0], [0.0, 1.0]])
SHARES = np.diag([0.5, 0.5])
REWARD = np.array([0.0, 1.0])
FIT = FEATURES.T @ SHARES @ FEATURES
SPILL = DISCOUNT * FEATURES.T @ SHARES @ TRANSITION @ FEATURES
WORTH = np.linalg.solve(np.eye(2) - DISCOUNT * TRANSITION, REWARD)
SOLUTION = np.linalg.solve(FEATURES, WORTH)
RATES = [1.0, 0.3, 0.05, 0.005, 0.0005]


def joint(rate: float, step: float, fit: Array = FIT, spill: Array = SPILL) -> Array:
    eye = np.eye(len(fit))
    return np.block(
        [
            [eye - step * fit, step * spill],
            [rate * (eye - step * fit), (1 - rate) * eye + rate * step * spill],
        ]
    )


def radius(matrix: Array) -> float:
    return float(np.abs(linalg.eigvals(matrix)).max())


def follow_library(signal_values: Array, start: float, rate: float) -> float:
    """What SAC.update_target makes of a signal, one update for each value."""

    class Follower:
        settings = SACSettings(target_update_rate=rate)
        critic = nn.Linear(1, 1, bias=False).double()
        target_critic = nn.Linear(1, 1, bias=False).double()

    follower: Any = Follower()
    with torch.no_grad():
        follower.target_critic.weight.fill_(start)
        for value in signal_values:
            follower.critic.weight.fill_(float(value))
            SAC.update_target(follower)
    return float(follower.target_critic.weight.item())


def learn(theta: Tensor, slow: Tensor, rate: float, learning_rate: float) -> tuple[Tensor, Tensor]:
    """One update by torch's own SGD on the mean squared error, and the soft update."""
    critic = nn.Parameter(theta.clone())
    features, following = torch.tensor(FEATURES), torch.tensor(TRANSITION @ FEATURES)
    target = torch.tensor(REWARD) + DISCOUNT * following @ slow
    optimiser = torch.optim.SGD([critic], lr=learning_rate)
    nn.functional.mse_loss(features @ critic, target).backward()
    optimiser.step()
    return critic.detach(), torch.lerp(slow, critic.detach(), rate)


# ----------------------------------------------------------------------------- the filter


@pytest.mark.proves("eq-target-polyak", method="the library's update_target on a random signal")
@pytest.mark.proves("eq-target-weights", method="scipy.signal.lfilter, a recursive filter")
@pytest.mark.parametrize("rate", RATES)
def test_the_copy_is_a_weighted_average_of_all_that_the_critic_was(
    rate: float, deviation: Deviation
) -> None:
    values, start = np.random.default_rng(0).normal(size=300), 2.0
    by_library = follow_library(values, start, rate)
    ages = np.arange(299, -1, -1)
    by_weights = (1 - rate) ** 300 * start + (rate * (1 - rate) ** ages * values).sum()
    by_scipy = signal.lfilter([rate], [1, rate - 1], values, zi=[(1 - rate) * start])[0][-1]
    deviation(abs(by_library - by_scipy), 1e-12)
    deviation(abs(by_weights - by_scipy), 1e-12)
    if rate < 0.3:  # the shares exchanged
        wrong = signal.lfilter([1 - rate], [1, -rate], values, zi=[rate * start])[0][-1]
        assert abs(by_library - wrong) > 0.05
    assert (rate * (1 - rate) ** ages).sum() + (1 - rate) ** 300 == pytest.approx(1, abs=1e-12)


@pytest.mark.proves("eq-target-half-life", method="the library's soft update, counted")
@pytest.mark.parametrize("rate", [0.3, 0.05, 0.005, 0.001])
def test_half_of_the_way_is_done_after_the_half_life(rate: float, deviation: Deviation) -> None:
    half_life = math.log(2) / -math.log1p(-rate)
    count = math.floor(half_life)
    before = follow_library(np.ones(count), 0.0, rate)
    after = follow_library(np.ones(count + 1), 0.0, rate)
    assert before < 0.5 < after
    # Interpolated between the two counts, geometrically as the distance shrinks.
    share = math.log(0.5 / (1 - before)) / math.log((1 - after) / (1 - before))
    deviation(abs(count + share - half_life), 1e-8 / rate)
    assert abs(half_life * rate / math.log(2) - 1) < rate  # the approximation 0.69 / tau


@pytest.mark.proves("eq-target-age", method="lag behind a steadily rising signal")
@pytest.mark.parametrize("rate", [0.3, 0.05, 0.005])
def test_the_mean_age_is_the_lag_behind_a_ramp(rate: float, deviation: Deviation) -> None:
    updates = math.ceil(40 / rate)
    ramp = np.arange(1.0, updates + 1)
    lag = updates - signal.lfilter([rate], [1, rate - 1], ramp)[-1]
    deviation(abs(lag / ((1 - rate) / rate) - 1), 1e-9)
    assert abs(lag / (1 / rate) - 1) > 0.004  # 1 / tau is another number


@pytest.mark.proves("eq-target-noise", method="power spectrum by quadrature, and simulation")
@pytest.mark.parametrize("rate", [0.5, 0.05, 0.005])
def test_noise_shrinks_by_the_formula(rate: float, deviation: Deviation) -> None:
    frequency = 2 * np.pi * (np.arange(200_000) + 0.5) / 200_000
    gain = np.abs(rate / (1 - (1 - rate) * np.exp(-1j * frequency))) ** 2
    deviation(abs(gain.mean() / (rate / (2 - rate)) - 1), 1e-9)
    noise = np.random.default_rng(1).normal(size=2_000_000)
    spread = signal.lfilter([rate], [1, rate - 1], noise)[10_000:].std()
    deviation(abs(spread / math.sqrt(rate / (2 - rate)) - 1), 0.03)


# ----------------------------------------------------------------------------- two states


@pytest.mark.proves("eq-target-step", method="torch's SGD on the mean squared error")
@pytest.mark.parametrize("learning_rate", [0.2, 0.05, 0.001])
def test_the_update_by_matrices_is_the_update_by_autograd(
    learning_rate: float, deviation: Deviation
) -> None:
    generator = torch.Generator().manual_seed(2)
    pull = FEATURES.T @ SHARES @ REWARD
    for theta, slow in 10 * torch.randn((20, 2, 2), generator=generator, dtype=torch.float64):
        by_torch, _ = learn(theta, slow, 0.05, learning_rate)
        gradient = FIT @ theta.numpy() - SPILL @ slow.numpy() - pull
        by_matrices = theta.numpy() - 2 * learning_rate * gradient
        deviation(np.abs(by_torch.numpy() - by_matrices).max(), 1e-12)
        without_the_two = theta.numpy() - learning_rate * gradient
        assert np.abs(by_torch.numpy() - without_the_two).max() > 1e-4


@pytest.mark.proves("eq-target-joint", method="200 updates by torch's SGD and lerp")
@pytest.mark.parametrize("rate", RATES)
def test_the_joint_matrix_foretells_200_updates(rate: float, deviation: Deviation) -> None:
    start = torch.randn((2, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    theta, slow = start
    for _ in range(200):
        theta, slow = learn(theta, slow, rate, learning_rate=0.05)
    solution = np.tile(SOLUTION, 2)
    measured = torch.cat([theta, slow]).numpy() - solution
    foretold = np.linalg.matrix_power(joint(rate, 0.1), 200) @ (start.reshape(4).numpy() - solution)
    deviation(np.linalg.norm(measured - foretold) / np.linalg.norm(measured), 1e-11)
    old_critic = joint(rate, 0.1)
    old_critic[2:] = np.hstack([rate * np.eye(2), (1 - rate) * np.eye(2)])
    wrong = np.linalg.matrix_power(old_critic, 200) @ (start.reshape(4).numpy() - solution)
    assert np.linalg.norm(measured - wrong) / np.linalg.norm(measured) > 1e-7


def test_the_truth_is_at_rest_with_and_without_a_target_network() -> None:
    np.testing.assert_allclose(WORTH, [99, 100], rtol=1e-12)
    truth = torch.tensor(SOLUTION)
    for rate in RATES:
        theta, slow = learn(truth, truth, rate, learning_rate=0.05)
        torch.testing.assert_close(theta, truth, rtol=1e-13, atol=0)
        torch.testing.assert_close(slow, truth, rtol=1e-13, atol=0)


@pytest.mark.proves("claim-target-diverges", method="characteristic polynomial, and simulation")
def test_without_a_target_network_every_step_size_diverges(deviation: Deviation) -> None:
    difference = FIT - SPILL
    # x^2 - trace x + determinant: a negative root, so 1 - step x exceeds 1 for every step > 0.
    trace, determinant = np.trace(difference), np.linalg.det(difference)
    root = (trace - math.sqrt(trace**2 - 4 * determinant)) / 2
    deviation(abs(root - linalg.eigvals(difference).real.min()), 1e-12)
    assert root < -0.3
    assert linalg.eigvals(difference).real.max() < 0  # so no start but the solution stays
    for learning_rate in (0.4, 0.05):
        updates = math.ceil(20 / learning_rate)
        theta = slow = torch.zeros(2, dtype=torch.float64)
        sizes = []
        for _ in range(2 * updates):
            theta, slow = learn(theta, slow, 1.0, learning_rate)
            sizes.append(np.linalg.norm(theta.numpy() - SOLUTION))
        growth = (sizes[-1] / sizes[updates - 1]) ** (1 / updates)
        deviation(abs(math.log(growth) / math.log(1 - 2 * learning_rate * root) - 1), 1e-3)


@pytest.mark.proves("claim-target-converges", method="roots of det(J - I) on the unit circle")
def test_a_slow_target_converges_and_a_quick_one_does_not(deviation: Deviation) -> None:
    for rate in np.geomspace(0.0005, 0.06, 200):
        assert radius(joint(rate, 0.1)) < 1
    for rate in np.geomspace(0.07, 1.0, 200):
        assert radius(joint(rate, 0.1)) > 1
    # Independently: the pair of eigenvalues leaves the unit circle where J has one of exactly
    # absolute value 1, at an angle that is solved for together with the rate.

    def on_the_circle(unknown: Array) -> Array:
        rate, angle = unknown
        value = np.linalg.det(joint(rate, 0.1) - np.exp(1j * angle) * np.eye(4))
        return 1e6 * np.array([value.real, value.imag])

    solved = optimize.fsolve(on_the_circle, [0.067, 0.0023], xtol=1e-12)
    limit = optimize.brentq(lambda rate: radius(joint(rate, 0.1)) - 1, 0.02, 0.2, xtol=1e-13)
    deviation(abs(solved[0] - limit), 1e-7)
    deviation(abs(limit - 0.0674), 5e-5)
    parameters, copied, pull = np.zeros(2), np.zeros(2), FEATURES.T @ SHARES @ REWARD
    for _ in range(12_000):
        parameters = parameters - 0.1 * (FIT @ parameters - SPILL @ copied - pull)
        copied = copied + 0.05 * (parameters - copied)
    deviation(np.abs(FEATURES @ parameters - WORTH).max(), 0.01)


@pytest.mark.proves("claim-target-no-cure", method="determinant by elimination over a wide grid")
def test_a_target_network_cannot_replace_missing_data(deviation: Deviation) -> None:
    for discount in (0.51, 0.9, 0.99):
        fit, spill = np.array([[1.0]]), np.array([[2 * discount]])
        for step in (1e-3, 0.1, 1.0, 3.0):
            for rate in RATES:
                matrix = joint(rate, step, fit, spill)
                determinant = np.linalg.det(np.eye(2) - matrix)
                deviation(abs(determinant - step * rate * (1 - 2 * discount)), 1e-13)
                assert determinant < 0
                largest_real = max(x.real for x in linalg.eigvals(matrix) if abs(x.imag) < 1e-12)
                assert largest_real > 1
                if largest_real < 1.002:
                    continue  # too slow to wait for
                fast, slow, updates = 0.3, -0.2, 0  # a start without meaning; the truth is 0
                while abs(fast) < 1e6 and updates < 20_000:
                    fast -= step * (fast - 2 * discount * slow)
                    slow += rate * (fast - slow)
                    updates += 1
                assert abs(fast) >= 1e6
    assert radius(joint(0.005, 0.1, np.array([[1.0]]), np.array([[2 * 0.49]]))) < 1


@pytest.mark.proves("eq-target-slow", method="eigenvalues of random problems with a fitted critic")
def test_the_slow_factor_on_random_problems(deviation: Deviation) -> None:
    random = np.random.default_rng(4)
    for _ in range(50):
        size = int(random.integers(2, 6))
        chain = random.dirichlet(np.ones(size), size=size)
        features = random.normal(size=(size, size))
        shares = np.diag(random.dirichlet(np.ones(size)))
        discount, rate = random.uniform(0.5, 0.99), random.uniform(0.001, 1)
        fitted = np.linalg.solve(
            features.T @ shares @ features, discount * features.T @ shares @ chain @ features
        )
        found = np.sort_complex(linalg.eigvals((1 - rate) * np.eye(size) + rate * fitted))
        foretold = np.sort_complex(1 - rate * (1 - discount * linalg.eigvals(chain)))
        scale = np.linalg.cond(features) ** 2
        deviation(np.abs(found - foretold).max() / scale, 1e-10)
        deviation(abs(radius(np.diag(foretold)) - (1 - rate * (1 - discount))), 1e-10)
    # And without a perfect fit: the two states, in the limit of a slow copy.
    deviation(abs((1 - radius(joint(5e-5, 0.1))) / (5e-5 * 0.01) - 1), 2e-3)
    # A perfect fit is no bound: this critic is faster, the more so the quicker the copy.
    ratios = [(1 - radius(joint(rate, 0.1))) / (rate * 0.01) for rate in (0.05, 0.005, 0.0005)]
    assert ratios[0] > 2 > ratios[1] > ratios[2] > 1


# ----------------------------------------------------------------------------- the library


def critic_values(reward: float, rate: float, seed: int, updates: int) -> list[float]:
    """Mean Q over the minibatch in each update of the library's critics."""
    data = load_dataset("pendulum/narrow-v0")
    data = replace(data, reward=torch.full_like(data.reward, reward))
    settings = SACSettings(
        critic_hidden_sizes=(32, 32),
        policy_hidden_sizes=(32,),
        initial_temperature=1e-6,
        target_update_rate=rate,
        seed=seed,
    )
    agent, generator = SAC.from_dataset(data, settings), torch.Generator().manual_seed(seed)
    history = []
    for _ in range(updates):
        loss, metrics = agent.critic_loss(data.sample(32, generator))
        agent.critic_optimiser.zero_grad()
        loss.backward()
        agent.critic_optimiser.step()
        agent.update_target()
        history.append(metrics["data_q"].item())
    return history


@pytest.mark.proves(
    "claim-target-near-start", method="library critics on constant rewards, 2 seeds"
)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("reward", [1.0, -1.0])
def test_a_slow_target_keeps_q_near_its_start(
    reward: float, seed: int, deviation: Deviation
) -> None:
    history = critic_values(reward, 0.005, seed, updates=500)
    deviation(max(abs(q) for q in history), 5)
    assert history[-1] * reward > 1  # on its way, to a value of 100 in this direction


def test_without_a_target_network_q_leaves_its_start() -> None:
    assert max(abs(q) for q in critic_values(-1.0, 1.0, seed=1, updates=300)) > 20


def test_the_target_critic_is_a_copy_without_gradient_and_without_buffers() -> None:
    agent = SAC.from_dataset(load_dataset("pendulum/narrow-v0"))
    pairs = zip(agent.target_critic.parameters(), agent.critic.parameters(), strict=True)
    for slow, fast in pairs:
        assert torch.equal(slow, fast)
        assert slow.data_ptr() != fast.data_ptr()
        assert not slow.requires_grad
    # update_target visits parameters only; a buffer would stay behind.
    assert not list(agent.critic.buffers())


def test_one_update_of_the_library_moves_the_target_once_and_after_the_critic() -> None:
    data = load_dataset("pendulum/narrow-v0")
    agent = SAC.from_dataset(data, SACSettings(target_update_rate=0.25))
    before = copy.deepcopy(agent.target_critic)
    agent.update(data.sample(8, torch.Generator().manual_seed(0)))
    triples = zip(
        before.parameters(),
        agent.critic.parameters(),
        agent.target_critic.parameters(),
        strict=True,
    )
    for old, fast, slow in triples:
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * fast, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("kind", "stop"), [(torch.bfloat16, 0.7), (torch.float16, 0.97)])
def test_in_half_precision_the_copy_stops_early(kind: torch.dtype, stop: float) -> None:
    slow, fast = torch.zeros((), dtype=kind), torch.ones((), dtype=kind)
    for _ in range(5_000):
        before, slow = slow, slow + 0.005 * (fast - slow)
    assert slow == before  # at rest
    assert slow.item() < stop


# ----------------------------------------------------------------------------- the exercises


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def updates_needed(share: float, rate: float, discount: float) -> int:
    factor = 1 - rate * (1 - discount)
    return max(0, math.ceil(math.log((1 - share) / discount) / math.log(factor)))


def hard_copy(fit: Tensor, spill: Tensor, step: float, n: int) -> Tensor:
    eye = torch.eye(len(fit), dtype=fit.dtype)
    left_over = torch.linalg.matrix_power(eye - step * fit, n)
    return left_over + (eye - left_over) @ torch.linalg.solve(fit, spill)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float, *, buffers: bool = True) -> nn.Module:
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, rate)
    if buffers:
        for slow, fast in zip(target.buffers(), source.buffers(), strict=True):
            slow.copy_(fast)
    return target


def follow_in_place(target: nn.Module, source: nn.Module, rate: float) -> None:
    follow(target, source, rate)


@torch.no_grad()
def follow_by_data(target: nn.Module, source: nn.Module, rate: float) -> nn.Module:
    for slow, fast in zip(target.buffers(), source.buffers(), strict=True):
        slow.data = fast.data
    return follow(target, source, rate, buffers=False)


def push_source(target: nn.Module, source: nn.Module, rate: float) -> nn.Module:
    follow(source, target, 1 - rate)
    return follow(target, source, 1.0)


RIGHT = [
    ("ex-target-updates", updates_needed),
    ("ex-target-hard-copy", hard_copy),
    ("ex-target-follow", follow),
]


@pytest.mark.parametrize(("exercise", "answer"), RIGHT)
def test_right_answers_pass(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(capsys, exercise, answer).startswith(f"{exercise}: passed.")


@pytest.mark.parametrize("exercise", [exercise for exercise, _ in RIGHT])
def test_stubs_are_told_gently(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not done yet" in verdict(capsys, exercise, lambda *_: ...)


def exact_updates(share: float, rate: float, discount: float) -> float:
    return math.log((1 - share) / discount) / math.log(1 - rate * (1 - discount))


@pytest.mark.parametrize(
    ("exercise", "answer", "help_"),
    [
        ("ex-target-updates", lambda *x: math.floor(exact_updates(*x)), "round up"),
        ("ex-target-updates", exact_updates, "A whole number"),
        (
            "ex-target-updates",
            lambda s, r, d: math.ceil(math.log(1 - s) / math.log(1 - r * (1 - d))),
            "gamma in front",
        ),
        (
            "ex-target-updates",
            lambda s, r, d: math.ceil(math.log((1 - s) / d) / math.log(1 - r)),
            "pace of the copy alone",
        ),
        (
            "ex-target-updates",
            lambda s, r, d: math.ceil(math.log(s / d) / math.log(1 - r * (1 - d))),
            "still missing",
        ),
        ("ex-target-updates", lambda *x: 7, "is the smallest number"),
        ("ex-target-updates", lambda *x: "many", "A number is expected"),
        (
            "ex-target-updates",
            lambda *x: math.ceil(exact_updates(*x)) if x[0] else -3,
            "the answer is 0",
        ),
        ("ex-target-hard-copy", lambda c, g, s, n: torch.linalg.solve(c, g), "fit to the end"),
        (
            "ex-target-hard-copy",
            lambda c, g, s, n: torch.linalg.matrix_power(torch.eye(len(c)).double() - s * c, n),
            "not towards 0",
        ),
        (
            "ex-target-hard-copy",
            lambda c, g, s, n: (
                torch.linalg.matrix_power(torch.eye(len(c)).double() - s * c, n)
                + torch.linalg.solve(c, g)
            ),
            "only as far as",
        ),
        (
            "ex-target-hard-copy",
            lambda c, g, s, n: torch.linalg.matrix_power(
                torch.eye(len(c)).double() - s * (c - g), n
            ),
            "stand still",
        ),
        (
            "ex-target-hard-copy",
            lambda c, g, s, n: (
                hard_copy(c, g * 0, s, n)
                + torch.linalg.solve(c, g)
                @ (torch.eye(len(c)).double() - hard_copy(c, g * 0, s, n))
            ),
            "do not commute",
        ),
        (
            "ex-target-hard-copy",
            lambda c, g, s, n: (
                (torch.eye(len(c)) - s * c) ** n
                + (torch.eye(len(c)) - (torch.eye(len(c)) - s * c) ** n) @ torch.linalg.solve(c, g)
            ),
            "power of each entry",
        ),
        (
            "ex-target-hard-copy",
            lambda c, g, s, n: hard_copy(c, c @ g @ torch.linalg.inv(c), s, n),
            "in this order",
        ),
        ("ex-target-hard-copy", lambda c, g, s, n: c, "Wrong values"),
        ("ex-target-hard-copy", lambda c, g, s, n: 1.0, "A tensor of shape"),
        ("ex-target-follow", lambda t, s, r: follow(t, s, r, buffers=False), "The buffer"),
        ("ex-target-follow", lambda t, s, r: follow(t, s, 1.0), "copied whole"),
        ("ex-target-follow", lambda t, s, r: follow(t, s, 1 - r), "exchanged"),
        ("ex-target-follow", lambda t, s, r: t, "have not moved"),
        ("ex-target-follow", lambda t, s, r: follow(t, s, 0.5), "are not where"),
        ("ex-target-follow", lambda t, s, r: s, "two names"),
        ("ex-target-follow", push_source, "source has changed"),
        ("ex-target-follow", lambda t, s, r: 3, "Return the target"),
        ("ex-target-follow", follow_in_place, "nothing came back"),
        ("ex-target-follow", follow_by_data, "is shared with the source"),
        (
            "ex-target-follow",
            lambda t, s, r: follow(copy.deepcopy(t), s, r),
            "Move the target itself",
        ),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, answer: Any, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, answer)
    assert "not right yet" in out
    assert help_ in out, out


def test_the_hard_copy_becomes_stable_at_17() -> None:
    fit, spill = torch.tensor(FIT), torch.tensor(SPILL)
    sizes = {n: radius(hard_copy(fit, spill, 0.1, n).numpy()) for n in range(1, 400)}
    assert all(size > 1 for n, size in sizes.items() if n < 17)
    assert all(size < 1 for n, size in sizes.items() if n >= 17)
    assert radius(hard_copy(fit, spill, 0.1, 100_000).numpy()) == pytest.approx(DISCOUNT, abs=1e-9)
