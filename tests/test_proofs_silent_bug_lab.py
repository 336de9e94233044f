"""Proofs of the silent-bug lab, and tests of its exercise checkers.

The expected answers of the probes are computed again in other ways, and the claims about learning
curves from the stored runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch import Tensor

from offline_rl_lib import CQL, probes
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.exercise_checks.silent_bug_lab import DIAGNOSES, unnamed
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.probes import KnownCritic, run_probe, run_probes
from offline_rl_lib.silent_bugs import (
    BUGS,
    SILENT_BUGS,
    SMALL,
    MissingScale,
    SteppedCQL,
    TanhTwice,
    TruncationAsTermination,
    UniformOnUnitBox,
    effect,
    last_return,
)
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Verdict = Callable[[str, Any], str]
Array = np.ndarray


# ---- The expected answers ------------------------------------------------------------------------


def quantiles(low: float, high: float, mean: float, std: float, count: int) -> tuple[Array, Array]:
    """Evenly spread draws of a tanh-normal and their log-densities, from its quantiles."""
    z = special.ndtri((np.arange(count) + 0.5) / count)
    u, half = mean + std * z, (high - low) / 2
    log_density = -(z**2) / 2 - math.log(std * half * math.sqrt(2 * math.pi))
    return (low + high) / 2 + half * np.tanh(u), log_density + 2 * np.log(np.cosh(u))


@pytest.mark.proves("eq-bug-volume", method="quantiles of the proposals instead of random draws")
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 2.0), (0.0, 5.0)])
@pytest.mark.parametrize("t", [0.5, 1.0, 2.0])
def test_flat_critics_have_the_log_of_the_volume(
    deviation: Deviation, low: float, high: float, t: float
) -> None:
    volume = high - low
    for mean, std in ((0.0, 1.0), (0.4, 0.8), (-0.5, 1.2)):
        _, log_density = quantiles(low, high, mean, std, 1_000_000)
        estimate = t * (special.logsumexp(-log_density) - math.log(len(log_density)))
        deviation(abs(estimate - t * math.log(volume)), 0.02 * t)
        if t != 1:
            wrong = t * (special.logsumexp(-log_density / t) - math.log(len(log_density)))
            assert abs(wrong - t * math.log(volume)) > 0.02 * t or volume == 2


@pytest.mark.proves("eq-bug-units", method="the library's agent in a box times the factor")
@pytest.mark.parametrize("factor", [0.1, 2.0, 2.5, 1000.0])
def test_other_units_move_the_penalty_by_the_log_of_the_factor(
    deviation: Deviation, factor: float
) -> None:
    def moved(kind: type[CQL], offset: float) -> float:
        found = []
        for middle, half in ((0.0, 1.0), (offset, factor)):
            agent = probes.build(kind, SMALL, middle - half, middle + half, num_proposals=30)
            found.append(
                probes.penalty_of(
                    agent,
                    probes.flat_batch(agent, 16),
                    lambda _, a, m=middle, h=half: torch.sin(3 * (a[..., 0] - m) / h),
                )
            )
        return found[1] - found[0]

    for offset in (0.0, factor / 2):
        deviation(abs(moved(CQL, offset) - math.log(factor)), 1e-3)
        assert abs(moved(MissingScale, offset) - math.log(factor)) > 0.1


@pytest.mark.proves("eq-bug-push", method="BFGS for the minimiser, NumPy for the shares")
@pytest.mark.parametrize("kind", [CQL, UniformOnUnitBox, TanhTwice])
def test_what_is_left_at_the_minimiser_is_the_error_of_the_softmax(
    deviation: Deviation, kind: type[CQL]
) -> None:
    weight, strips, width = 0.7, 8, 5 / 8
    count = np.array([2, 4, 8, 14, 16, 12, 6, 2])
    share, reward = count / count.sum(), np.array([-0.6, -0.1, 0.3, 0.5, 0.6, 0.4, 0.0, 1.4])

    def loss(q: Array) -> float:
        soft_maximum = special.logsumexp(q) + math.log(width)
        return float(share @ (q - reward) ** 2 + weight * (soft_maximum - share @ q))

    best = optimize.minimize(loss, reward, method="BFGS", options={"gtol": 1e-9}).x
    exact = special.softmax(best)
    agent = probes.build(kind, SMALL, num_proposals=200, penalty_weight=weight)
    strip = torch.repeat_interleave(torch.arange(strips), torch.from_numpy(count))
    batch = probes.flat_batch(agent, len(strip))._replace(
        action=(-1 + (strip + 0.5) * width).unsqueeze(1).float(),
        reward=probes.raw_reward(agent, torch.from_numpy(reward).float()[strip]),
    )
    start = agent.generator.get_state()
    table = torch.from_numpy(best).float()
    critic = probes.watched_loss(
        agent, batch, lambda _, a: table[((a[..., 0] + 1) / width).long().clamp(0, 7)]
    )
    _, actions, gradients = critic.gradients()
    number = ((actions[:, 0] + 1) / width).long().clamp(0, 7).numpy()
    push = np.bincount(number, gradients.double().numpy(), strips)
    # The same proposals once more, and the softmax of each state in NumPy.
    agent.generator.set_state(start)
    agent.td_target(batch)
    proposed, log_density = agent.proposals(batch)
    place = ((proposed[..., 0] + 1) / width).long().clamp(0, 7).numpy()
    shares = special.softmax(best[place] - log_density.double().numpy(), axis=1)
    estimated = np.bincount(place.ravel(), shares.ravel(), strips) / len(strip)
    deviation(abs(push - weight * (estimated - exact)).max(), 1e-4)
    assert (abs(push).max() > 0.02 * weight) == (kind is not CQL)


@pytest.mark.proves("eq-bug-loop", method="summing the rewards of recordings that may end")
@pytest.mark.parametrize("steps", [50, 200, 1000])
def test_the_value_of_a_loop_whose_recordings_end_it(deviation: Deviation, steps: int) -> None:
    discount = 0.99
    goes_on = discount * (1 - 1 / steps)
    total = sum(goes_on**t for t in range(20_000))
    deviation(abs(total - 1 / (1 - goes_on)), 1e-6)
    # An agent on recordings of that length: its target is a line, the value where it is met.
    agent = probes.build(TruncationAsTermination, SMALL, initial_temperature=1e-9)
    dataset = agent.learns_from(probes._recorded_loop(agent, 2, steps))
    batch = TransitionBatch(*(getattr(dataset, name) for name in TransitionBatch._fields))
    value = 0.0
    for _ in range(12):  # Steffensen's method: two targets tell the line
        targets = []
        for guess in (value, value + 1):
            agent.target_critic = KnownCritic(
                lambda _, a, guess=guess: torch.full(a.shape[:-1], guess)
            )
            targets.append(float(agent.td_target(batch).double().mean()))
        slope = targets[1] - targets[0]
        value = (targets[0] - slope * value) / (1 - slope)
    deviation(abs(value - total), 0.02)
    assert abs(value - 100) > 5


# ---- The claims ---------------------------------------------------------------------------------


@pytest.mark.proves("claim-bug-caught", method="counting exceptions")
def test_every_switch_is_caught_and_correct_agents_pass(deviation: Deviation) -> None:
    exceptions = 0
    for name, (agent_class, settings) in SILENT_BUGS.methods.items():
        failed = [v for v in run_probes(agent_class, settings).values() if v.passed is False]
        exceptions += bool(failed) != (name in BUGS)
    deviation(exceptions, 0)
    assert len(BUGS) == 13
    assert len(SILENT_BUGS.methods) - len(BUGS) == 3


class Factored(SteppedCQL):
    """All densities are wrong by one factor."""

    def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
        return super().soft_maximum(q_values, log_densities + 1.7)


@pytest.mark.proves("claim-bug-common-factor", method="gradients compared; shares in the limit")
def test_a_common_factor_does_not_move_the_push(deviation: Deviation) -> None:
    def pushes(kind: type[CQL], count: int) -> Tensor:
        agent = probes.build(kind, SMALL, num_proposals=count, penalty_weight=1.0)
        critic = probes.watched_loss(
            agent, probes.flat_batch(agent, 64), lambda _, a: torch.sin(2 * a[..., 0])
        )
        _, actions, gradients = critic.gradients()
        place = ((actions[:, 0] + 1) / 0.5).long().clamp(0, 9)
        return torch.zeros(10).index_add_(0, place, gradients)

    right = pushes(SteppedCQL, 5)
    deviation(float((pushes(Factored, 5) - right).abs().max()), 1e-5)
    few, many = (
        float((pushes(MissingScale, count) - pushes(SteppedCQL, count)).abs().max())
        for count in (5, 2_000)
    )
    deviation(many, 0.005)
    assert few > 4 * many, "with few proposals the votes are shared out differently"
    assert float((pushes(TanhTwice, 2_000) - right).abs().max()) > 0.05


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    return load_runs(RESULTS / "silent_bugs.jsonl")


@pytest.mark.proves("claim-bug-curve-blind", method="bootstrap by hand of the same runs")
def test_some_differences_that_probes_see_leave_no_clear_mark(
    deviation: Deviation, runs: list[dict[str, Any]]
) -> None:
    random = np.random.default_rng(11)

    def middle(values: Array) -> Array:
        return np.sort(values, axis=-1)[..., 2:8].mean(axis=-1)  # type: ignore[no-any-return]

    unclear = 0
    for name, bug in BUGS.items():
        mine, theirs = (
            np.array([last_return(run) for run in runs if run["method"] == method])
            for method in (name, bug.control)
        )
        assert len(mine) == len(theirs) == 10
        drawn = middle(mine[random.integers(10, size=(20_000, 10))]) - middle(
            theirs[random.integers(10, size=(20_000, 10))]
        )
        low, high = np.quantile(drawn, [0.025, 0.975])
        found = effect(runs, name)
        assert found.difference == pytest.approx(float(middle(mine) - middle(theirs)))
        spread = high - low
        deviation(max(abs(found.low - low), abs(found.high - high)) / spread, 0.15)
        unclear += not found.clear and name != "no log N"  # which is no mistake
    deviation(float(unclear == 0), 0.5)


def test_every_run_is_there_and_no_switch_repeats_its_control(runs: list[dict[str, Any]]) -> None:
    for name in SILENT_BUGS.methods:
        seeds = sorted(run["seed"] for run in runs if run["method"] == name)
        assert seeds == list(SILENT_BUGS.seeds)
    returns = {name: [r["returns"] for r in runs if r["method"] == name] for name in BUGS}
    for name, bug in BUGS.items():
        control = [run["returns"] for run in runs if run["method"] == bug.control]
        assert returns[name] != control, f"{name} was trained as if its switch were off"


# ---- Exercises ----------------------------------------------------------------------------------


@pytest.fixture
def verdict(capsys: pytest.CaptureFixture[str]) -> Verdict:
    def ask(exercise: str, answer: Any) -> str:
        check(exercise, answer)
        return capsys.readouterr().out

    return ask


def test_unnamed_agents(verdict: Verdict) -> None:
    assert "passed" in verdict("ex-bug-unnamed", DIAGNOSES)
    assert "not done yet" in verdict("ex-bug-unnamed", None)
    assert "Which density" in verdict("ex-bug-unnamed", DIAGNOSES | {"A": "none"})
    assert "eight times" in verdict("ex-bug-unnamed", DIAGNOSES | {"B": "reward scale"})
    assert "every probe passes" in verdict("ex-bug-unnamed", DIAGNOSES | {"C": "same critic"})
    assert "none of the words" in verdict("ex-bug-unnamed", DIAGNOSES | {"A": "typo"})
    assert "keys A, B and C" in verdict("ex-bug-unnamed", {"A": "none"})
    with pytest.raises(ValueError, match="A, B and C"):
        unnamed("D")
    caught = {
        letter: {n for n, v in run_probes(unnamed(letter), SMALL).items() if v.passed is False}
        for letter in "ABC"
    }
    assert caught == {"A": {"units", "log volume"}, "B": {"weight"}, "C": set()}
    assert run_probe("weight", unnamed("B"), SMALL).measured == pytest.approx(64, rel=1e-4)


def test_repair(verdict: Verdict) -> None:
    def right(q: Tensor, log_mu: Tensor, t: float) -> Tensor:
        z = q / t - log_mu
        return t * (z.logsumexp(-1) - math.log(z.shape[-1]))

    def three(q: Tensor, log_mu: Tensor, t: float) -> Tensor:
        z = (q / t - log_mu).unflatten(-1, (3, -1))
        return t * (z.logsumexp(-2) - math.log(3)).mean(-1)

    def both_divided(q: Tensor, log_mu: Tensor, t: float) -> Tensor:
        z = (q - log_mu) / t
        return t * (z.logsumexp(-1) - math.log(z.shape[-1]))

    assert "passed" in verdict("ex-bug-repair", right)
    assert "not done yet" in verdict("ex-bug-repair", lambda q, log_mu, t: ...)

    def given(q: Tensor, log_mu: Tensor, t: float) -> Tensor:
        return t * ((q - log_mu) / t).unflatten(-1, (3, -1)).logsumexp(-2).mean(-1)

    def mean_of_soft_maxima(q: Tensor, log_mu: Tensor, t: float) -> Tensor:
        z = (q / t - log_mu).unflatten(-1, (3, -1))
        return t * (z.logsumexp(-1) - math.log(z.shape[-1])).mean(-1)

    said = verdict("ex-bug-repair", given)
    for mistake in ("logsumexp of three", "T divides the log-density", "log M is not subtracted"):
        assert mistake in said
    assert "fails the probe “log volume”: 3.7" in said
    said = verdict("ex-bug-repair", three)
    assert "Still there: the logsumexp of three, log M is not subtracted. (Log 3 is.)" in said
    assert "Still there: T divides the log-density. " in verdict("ex-bug-repair", both_divided)
    assert "Still there: log M is not subtracted. " in verdict(
        "ex-bug-repair", lambda q, log_mu, t: t * (q / t - log_mu).logsumexp(-1)
    )
    log_m = math.log(30)
    for slip, wrong in {
        "T multiplies log M too": lambda q, log_mu, t: (
            t * (q / t - log_mu).logsumexp(-1) - math.log(q.shape[-1])
        ),
        "multiplied by T": lambda q, log_mu, t: right(q, log_mu, t) / t,
        "subtracted, not added": lambda q, log_mu, t: right(q, -log_mu, t),
        "divided by T, not multiplied": lambda q, log_mu, t: right(q, log_mu, 1 / t),
        "An agent built on it does not pass. log volume": lambda q, log_mu, t: (
            t * ((q / t - log_mu).logsumexp(-1) - log_m)
        ),
    }.items():
        assert slip in verdict("ex-bug-repair", wrong), slip
    # Every probe passes: a flat critic's soft maximum is the same in each group.
    assert "passes every probe, and still" in verdict("ex-bug-repair", mean_of_soft_maxima)
    assert "shape (2, 3)" in verdict("ex-bug-repair", lambda q, log_mu, t: q - log_mu)


def test_own_probe(verdict: Verdict) -> None:
    def right(log_prob: Any, low: float, high: float) -> bool:
        width = (high - low) / 10_000
        action = low + width * (torch.arange(10_000).unsqueeze(1) + 0.5)
        integral = (log_prob(torch.zeros(10_000, 2), action).exp() * width).sum().item()
        return abs(integral - 1) > 0.01

    def differs(log_prob: Any, low: float, high: float) -> bool:
        action = torch.tensor([[low + 0.3], [high - 0.3]])
        first, second = log_prob(torch.zeros(2, 2), action)
        return bool(first == second)

    assert "passed" in verdict("ex-bug-probe", right)
    assert "not done yet" in verdict("ex-bug-probe", lambda log_prob, low, high: ...)
    assert "draws an action of its own correct" in verdict("ex-bug-probe", differs)
    always = verdict("ex-bug-probe", lambda log_prob, low, high: True)
    assert "the correct density broken" in always
