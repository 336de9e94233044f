"""Proofs of the chapter *Why offline learning fails*, and tests of its exercise checkers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binom

from offline_rl_lib import failure
from offline_rl_lib.data import load_dataset
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.failure import Support
from offline_rl_lib.teaching import check

Deviation = Callable[..., None]
Array = npt.NDArray[np.float64]

OFF, CQL = "penalty off", "CQL"
GAMMA = 0.99


# ---- equations --------------------------------------------------------------------------------


@pytest.mark.proves("eq-offline-gap", method="search over all states, one after the other")
def test_the_gap_by_brute_force(deviation: Deviation) -> None:
    data = load_dataset("pendulum/narrow-v0")
    support = Support(data)
    random = np.random.default_rng(0)
    angle, velocity = random.uniform(-np.pi, np.pi, 60), random.uniform(-8, 8, 60)
    states = np.stack((np.cos(angle), np.sin(angle), velocity), axis=1)
    torques = random.uniform(-2, 2, 60)
    observations, actions = data.observation.double().numpy(), data.action.double().numpy()[:, 0]
    unit = observations.std(axis=0, ddof=1)

    def slow(scale: Array) -> Array:
        gaps = []
        for state, torque in zip(states, torques, strict=True):
            distances = (((observations - state) / scale) ** 2).sum(axis=1)
            nearest = sorted(range(len(distances)), key=distances.tolist().__getitem__)[:20]
            gaps.append(min(abs(actions[i] - torque) for i in nearest))
        return np.array(gaps)

    fast = support.gap(states, torques)
    deviation(np.abs(fast - slow(unit)).max(), 1e-12)
    assert np.abs(fast - slow(np.ones(3))).max() > 0.1, "without the scale it is another number"


@pytest.mark.proves("eq-offline-feedback", method="linear system on random chains of 40 states")
def test_the_feedback_solves_the_linear_system(deviation: Deviation) -> None:
    for seed in range(50):
        random = np.random.default_rng(seed)
        move = random.dirichlet(np.full(40, 0.3), size=40)
        share, follow, bias = random.uniform(0, 1, 3)
        # Two values per state: at the data's torque and at the untried one.
        known = np.hstack((GAMMA * (1 - share) * move, GAMMA * share * move))
        guess = np.hstack((follow * np.eye(40), np.zeros((40, 40))))
        system = np.eye(80) - np.vstack((known, guess))
        solved = np.linalg.solve(system, np.repeat((0.0, bias), 40))[:40]
        formula = GAMMA * share * bias / (1 - GAMMA * (1 - share + share * follow))
        deviation(np.abs(solved - formula).max() / formula, 1e-9)
        assert np.abs(solved - formula / GAMMA).max() > 1e-3 * formula, "gamma is needed"
        assert formula <= GAMMA * share * bias / (1 - GAMMA) + 1e-12, "bounded: no divergence"


@pytest.mark.proves("eq-offline-reach", method="recursion of the target critics, by updates")
def test_the_reach_is_a_binomial_mixture(deviation: Deviation) -> None:
    for seed, updates, rate in ((0, 0, 0.1), (1, 7, 0.5), (2, 400, 0.02), (3, 5_000, 0.005)):
        random = np.random.default_rng(seed)
        move, reward = random.dirichlet(np.ones(12), size=12), random.uniform(-1, 1, 12)
        slow = np.zeros(12)
        for _ in range(updates):
            slow = (1 - rate) * slow + rate * (reward + GAMMA * move @ slow)
        critic = reward + GAMMA * move @ slow
        weights = failure.backups_seen(updates, rate, 300)
        mixture, expected = np.zeros(12), reward
        for t in range(300):
            mixture += GAMMA**t * weights[t] * expected
            expected = move @ expected
        deviation(np.abs(critic - mixture).max(), 1e-10)
        assert np.abs(slow - mixture).max() > 1e-3, "the critics look one step further"


# ---- stored runs ------------------------------------------------------------------------------


@cache
def last(method: str, name: str) -> Array:
    return curves(method, name)[:, -1]


@cache
def curves(method: str, name: str) -> Array:
    runs = [run for run in load_runs(RESULTS / "failure.jsonl") if run["method"] == method]
    runs.sort(key=lambda run: int(run["seed"]))
    assert [run["seed"] for run in runs] == list(range(10))
    return np.array([run["points"][name] for run in runs])


def share_not_above_zero(differences: Array) -> float:
    """Share of bootstrap resamples whose interquartile mean is not positive."""
    seeds = np.random.default_rng(3).integers(10, size=(20_000, 10))
    middle = np.sort(differences[seeds], axis=1)[:, 2:8].mean(axis=1)
    return float((middle <= 0).mean())


def random_return() -> float:
    text = (RESULTS / "reference_returns.json").read_text(encoding="utf-8")
    return float(json.loads(text)["policies"]["random"]["mean"])


def glued_value(key: str) -> str:
    """A text that the chapter's prose quotes."""
    path = RESULTS.parents[1] / "notebooks" / "03_why_offline_fails.ipynb"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output.get("metadata", {}).get("scrapbook", {}).get("name") == key:
                text = "".join(output["data"]["application/papermill.record/text/plain"])
                return text.strip("'")
    raise AssertionError(f"the chapter glues no {key}")


@pytest.mark.proves("claim-offline-collapse", method="counting runs that contradict")
def test_the_promise_rises_and_the_return_stays_below_random(deviation: Deviation) -> None:
    rising = (np.diff(curves(OFF, "predicted"), axis=1) > 0).all(axis=1)
    below = (curves(OFF, "returns") < random_return()).all(axis=1)
    deviation(int((~rising).sum()), 0)
    deviation(abs(int(below.sum()) - int(glued_value("offline-below"))), 0)
    assert not (curves(CQL, "returns") < random_return()).all(axis=1).any(), "CQL contradicts"


@pytest.mark.proves("claim-offline-outside", method="counting pairs of runs that contradict")
def test_without_penalty_more_torques_are_outside(deviation: Deviation) -> None:
    off, cql = last(OFF, "outside"), last(CQL, "outside")
    deviation(int((off <= cql).sum()), 0)
    assert off.min() > 0.05 > cql.max(), "one above and one below the data's own five per cent"


@pytest.mark.proves("claim-offline-gain", method="counting runs that contradict")
def test_the_critics_prefer_what_is_worse(deviation: Deviation) -> None:
    deviation(int((last(OFF, "predicted_gain") <= 0).sum()), 0)
    deviation(int((last(OFF, "true_gain") >= 0).sum()), 0)
    deviation(int((last(CQL, "predicted_gain") <= 0).sum()), 0)
    deviation(int((last(CQL, "true_gain") <= 0).sum()), 0)


@pytest.mark.proves("claim-offline-promise", method="bootstrap of the middle; counting seeds")
def test_the_promise_exceeds_what_can_have_been_seen(deviation: Deviation) -> None:
    excess = {m: last(m, "predicted") - last(m, "reachable") for m in (OFF, CQL)}
    deviation(share_not_above_zero(excess[OFF]), 0.025)
    deviation(int((excess[OFF] <= excess[CQL]).sum()), 0)
    for method, key in ((OFF, "off"), (CQL, "cql")):
        middle = np.sort(excess[method])[2:8].mean()
        assert abs(middle - float(glued_value(f"offline-excess-{key}").split()[0])) <= 0.06
    deviation(share_not_above_zero(last(CQL, "programmed") - last(CQL, "predicted")), 0.025)


@pytest.mark.proves("claim-offline-two-truths", method="largest distance at 140 points")
def test_dynamic_programming_and_playing_agree(deviation: Deviation) -> None:
    apart = np.concatenate([curves(m, "programmed") - curves(m, "simulated") for m in (OFF, CQL)])
    assert apart.size == 140
    deviation(np.abs(apart).max(), 2.5)
    deviation(np.abs(apart).mean(), 0.5)
    assert f"{np.abs(apart).max():.1f}" == glued_value("offline-truths-most")
    assert f"{np.abs(apart).mean():.1f}" == glued_value("offline-truths")
    # Twice the disagreement would still not turn the conclusion about levels round.
    excess = last(OFF, "predicted") - last(OFF, "programmed")
    assert np.median(excess) > 2 * np.abs(apart).max()


@pytest.mark.proves("claim-offline-stakes", method="median over 125 states of both stored grids")
def test_stakes_are_small_and_errors_are_not(deviation: Deviation) -> None:
    stored = json.loads((RESULTS / "landscapes.json").read_text(encoding="utf-8"))
    stakes = np.median(np.ptp(np.array(stored["optimum"]), axis=-1))
    deviation(stakes, 1.0)
    for method, key in ((OFF, "off"), (CQL, "cql")):
        predicted, true = (np.array(stored[method][name]) for name in ("predicted", "true"))
        error = np.median(np.ptp(predicted - true, axis=-1))
        deviation(abs(error - float(glued_value(f"offline-error-{key}"))), 0.051)
        assert error > 2 * stakes


# ---- exercises --------------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], exercise: str, wrong: dict[str, Any]) -> None:
    for message, answer in wrong.items():
        said = verdict(capsys, exercise, answer)
        assert "not right yet" in said, message
        assert message in said, said


def nearest(states: Array, state: Array, count: int, *, scaled: bool = True) -> Any:
    scale = states.std(axis=0) if scaled else 1.0
    return np.linalg.norm((states - state) / scale, axis=1).argsort()[:count]


def test_the_gap_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    def gap(s: Array, a: Array, x: Array, torque: float, k: int) -> float:
        return float(np.abs(a[nearest(s, x, k)] - torque).min())

    assert "passed" in verdict(capsys, "ex-offline-gap", gap)
    refused(
        capsys,
        "ex-offline-gap",
        {
            "largest distance": lambda s, a, x, t, k: np.abs(a[nearest(s, x, k)] - t).max(),
            "not to their mean": lambda s, a, x, t, k: abs(a[nearest(s, x, k)].mean() - t),
            "standard deviation first": lambda s, a, x, t, k: np.abs(
                a[nearest(s, x, k, scaled=False)] - t
            ).min(),
            "not all": lambda s, a, x, t, k: np.abs(a - t).min(),
            "far to near": lambda s, a, x, t, k: np.abs(a[nearest(s, x, 60)[-k:]] - t).min(),
            "by hand": lambda *_: 17.0,
            "a number is expected": lambda *_: "near",
        },
    )


def steady(p: float, k: float, b: float, g: float) -> float:
    return g * p * b / (1 - g * (1 - p + p * k))


def test_the_feedback_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    assert "passed" in verdict(capsys, "ex-offline-feedback", steady)
    refused(
        capsys,
        "ex-offline-feedback",
        {
            "numerator": lambda p, k, b, g: steady(p, k, b, g) / g,
            "not all of them": lambda p, k, b, g: steady(p, k, b, g) / p,
            "rho kappa is missing": lambda p, k, b, g: steady(p, 0, b, g),
            "follows with kappa only": lambda p, k, b, g: steady(p, 1, b, g),
            "fixed at 0.99": lambda p, k, b, g: steady(p, k, b, 0.99),
            "by hand": lambda *_: 17.0,
            "returned inf": lambda *_: math.inf,
        },
    )


def test_the_reach_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    def seen(r: Array, k: int, tau: float, g: float, shift: int = -1) -> float:
        t = np.arange(len(r))
        return float((g**t * binom.sf(t + shift, k, tau)) @ r)

    assert "passed" in verdict(capsys, "ex-offline-reach", seen)
    refused(
        capsys,
        "ex-offline-reach",
        {
            "the critic looks one step further": lambda r, k, t, g: seen(r, k, t, g, shift=0),
            "not all seen": lambda r, k, t, g: float(r @ g ** np.arange(len(r))),
            "discount is missing": lambda r, k, t, g: seen(r, k, t, 1.0),
            "fixed at 0.99": lambda r, k, t, g: seen(r, k, t, 0.99),
            "use sf, not pmf": lambda r, k, t, g: float(
                (g ** np.arange(len(r)) * binom.pmf(np.arange(len(r)), k, t)) @ r
            ),
            "does not stop at the mean": lambda r, k, t, g: float(
                (g ** np.arange(len(r)) * (np.arange(len(r)) <= k * t)) @ r
            ),
            "by hand": lambda *_: 17.0,
        },
    )


def test_the_visible_exercise(capsys: pytest.CaptureFixture[str]) -> None:
    exercise = "ex-offline-visible"
    right = {"promise", "outside", "promised gain"}
    assert "passed" in verdict(capsys, exercise, right)
    refused(
        capsys,
        exercise,
        {
            "'promise' can be seen": right - {"promise"},
            "'return' cannot be seen": right | {"return"},
            "'outside' can be seen": right - {"outside"},
            "'promised gain' can be seen": right - {"promised gain"},
            "'true gain' cannot be seen": right | {"true gain"},
            "Unknown": {"loss"},
            "A set of words": "promise",
        },
    )
    assert "not done yet" in verdict(capsys, exercise, {...})


@pytest.mark.parametrize("exercise", ["gap", "feedback", "reach"])
def test_stubs_are_not_done_yet(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    for stub in (lambda *_: ..., lambda *_: None, ...):
        assert "not done yet" in verdict(capsys, f"ex-offline-{exercise}", stub)
    assert "A function is expected" in verdict(capsys, f"ex-offline-{exercise}", 1.0)
