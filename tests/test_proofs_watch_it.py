"""Proofs of the chapter *Watch it*, and tests of its exercise checkers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import ROOT
from scipy.integrate import solve_ivp
from scipy.stats import binom

from book.extensions.stored_values import find_source, look_up
from offline_rl_lib import pendulum, watching
from offline_rl_lib.data import load_dataset
from offline_rl_lib.failure import Support
from offline_rl_lib.networks import GaussianPolicy
from offline_rl_lib.pendulum import evaluation_starts
from offline_rl_lib.teaching import check
from offline_rl_lib.watching import NAMES, TRAINED, Swing, Watched, swing

Deviation = Callable[..., None]
Array = npt.NDArray[np.float64]

BC, OFF, CQL, FIVE, REPLAY_OFF, REPLAY_CQL = TRAINED
GAMMA, RATE, UPDATES = 0.99, 0.005, 5_000
CEILING = (1 - GAMMA * (1 - RATE * (1 - GAMMA)) ** UPDATES) / (1 - GAMMA)


@cache
def watched() -> Watched:
    return watching.load_watched_policies()


@cache
def played(name: str) -> Swing:
    """The 100 paired episodes of a policy."""
    return swing(watched().policies[name], *(x.numpy() for x in evaluation_starts()))


@cache
def hanging(name: str) -> Swing:
    return swing(watched().policies[name], [3.14], [0.0])


def wrapped(angle: Array) -> Array:
    return np.abs(np.arctan2(np.sin(angle), np.cos(angle)))


def energy(swung: Swing) -> Array:
    return (swung.velocity**2 / 2 + 15 * np.cos(swung.angle))[:, 0]


# ---- equations --------------------------------------------------------------------------------


@pytest.mark.proves("eq-watch-policy", method="the library's torch network with the same weights")
@pytest.mark.parametrize("name", TRAINED)
def test_the_stored_policy_is_the_torch_network(name: str, deviation: Deviation) -> None:
    policy = watched().network(name)
    network = GaussianPolicy(3, [-2.0], [2.0], (64,)).double()
    (w1, b1), (w2, b2) = (map(torch.from_numpy, layer) for layer in policy.policy)
    network.load_state_dict(
        network.state_dict()
        | {"body.0.weight": w1.T, "body.0.bias": b1}
        | {"mean_and_log_std.weight": w2.T, "mean_and_log_std.bias": b2}
    )
    random = np.random.default_rng(0)
    angle, velocity = random.uniform(-7, 7, 500), random.uniform(-8, 8, 500)
    observation = np.stack((np.cos(angle), np.sin(angle), velocity), axis=1)
    distribution = network(torch.from_numpy(observation))
    expected = distribution.mode.detach().numpy()
    deviation(np.abs(policy.act(observation) - expected).max(), 1e-12)
    mean, std = policy.distribution(observation)
    deviation(np.abs(mean - distribution.mean.detach().numpy()).max(), 1e-11)
    deviation(np.abs(std - distribution.std.detach().numpy()).max(), 1e-11)
    clipped = np.clip(mean, -2, 2)
    assert np.abs(clipped - expected).max() > 0.1, "the tanh is needed"
    np.testing.assert_allclose(policy.act(observation[0]), expected[0], atol=1e-12)


@pytest.mark.proves("eq-watch-energy", method="initial value problem of order 5 with the work")
def test_energy_changes_by_the_work_of_the_torque(deviation: Deviation) -> None:
    for start, strength in (((3.0, 0.0), 2.0), ((0.1, -4.0), -1.3), ((1.5, 2.0), 0.4)):

        def motion(t: float, y: Array, strength: float = strength) -> list[float]:
            torque = strength * math.cos(2 * t)
            return [y[1], 15 * math.sin(y[0]) + 3 * torque, 3 * torque * y[1]]

        path = solve_ivp(motion, (0, 4), [*start, 0.0], rtol=1e-11, atol=1e-11).y
        gained = path[1] ** 2 / 2 + 15 * np.cos(path[0])
        gained -= gained[0]
        deviation(np.abs(gained - path[2]).max(), 1e-7)
        assert np.abs(gained - path[2] / 3).max() > 0.1, "the factor 3 is needed"


@pytest.mark.proves("eq-watch-energy", method="the environment's step with ever smaller time steps")
def test_the_step_of_the_environment_approaches_the_rate(
    deviation: Deviation, monkeypatch: pytest.MonkeyPatch
) -> None:
    angle, velocity, torque = (torch.tensor(x, dtype=torch.float64) for x in (1.2, 3.0, -1.5))
    errors = []
    for time_step in (1e-3, 5e-4):
        monkeypatch.setattr(pendulum, "TIME_STEP", time_step)
        after = pendulum.step(angle, velocity, torque)
        change = (after[1] ** 2 - velocity**2) / 2 + 15 * (after[0].cos() - angle.cos())
        errors.append(abs(float(change) / time_step - float(3 * torque * velocity)))
    deviation(abs(errors[0] / errors[1] - 2), 0.01)  # half the step, half the error


@pytest.mark.proves("eq-watch-difference", method="charges of all steps, for any value function")
@pytest.mark.parametrize("name", NAMES)
def test_the_charges_of_the_steps_are_the_whole_loss(name: str, deviation: Deviation) -> None:
    one = swing(watched().policies[name], [0.1, 3.14, -1.0], [0.0, 0.0, 1.0], 151)
    angle, velocity, torque = map(torch.from_numpy, (one.angle, one.velocity, one.torque))
    value = watched().optimum.value(angle, velocity).numpy()
    q = watched().optimum.q(angle, velocity, torque).numpy()
    weight = GAMMA ** np.arange(150)
    charged = weight @ (value - q)[:150]
    lost = value[0] - weight @ one.reward[:150] - GAMMA**150 * value[150]
    deviation(np.abs(charged - lost).max(), 1e-9)
    if name == OFF:
        without_end = value[0] - weight @ one.reward[:150]
        assert np.abs(charged - without_end).max() > 1, "the last value is needed"


@pytest.mark.proves("eq-watch-kept", method="moves of the target critics along a path, one by one")
@pytest.mark.proves("eq-watch-ceiling", method="the same moves under a reward of one")
def test_kept_is_what_fitted_critics_hold(deviation: Deviation) -> None:
    one = swing(watched().policies[OFF], [0.1], [0.0], 400)
    rewards = (one.reward[:, 0] + 8) / 8

    def held(path: Array) -> float:
        slow = np.zeros(len(path) + 1)
        for _ in range(UPDATES):
            slow[:-1] += RATE * (path + GAMMA * slow[1:] - slow[:-1])
        return float(path[0] + GAMMA * slow[1])

    deviation(abs(watched().kept(one.reward)[0] - held(rewards)), 1e-6, label="eq-watch-kept")
    whole = GAMMA ** np.arange(400) @ rewards
    assert abs(whole - held(rewards)) > 0.1, "without the reach it is another number"
    ones = held(np.ones(400))
    deviation(abs(CEILING - ones), 1e-6, label="eq-watch-ceiling")
    far = np.arange(2_000)
    summed = (GAMMA**far * binom.sf(far - 1, UPDATES, RATE)).sum()
    deviation(abs(CEILING - summed), 1e-9, label="eq-watch-ceiling")


# ---- claims -----------------------------------------------------------------------------------


@pytest.mark.proves("claim-watch-same-start", method="episodes of 200 steps from hanging")
def test_who_stands_after_hanging(deviation: Deviation) -> None:
    for name in NAMES:
        one = hanging(name)
        far = wrapped(one.angle)
        if name in (CQL, REPLAY_CQL, watching.CONTROLLER, watching.OPTIMUM):
            deviation(far[-50:].max(), 0.3)
            assert np.abs(one.velocity[-50:]).max() < 1
        else:
            assert (far[-50:] > 0.3).any()
        if name in (BC, FIVE):
            assert far.min() > 0.3
    for key, name in (("rounds", OFF), ("rounds-replay", REPLAY_OFF)):
        angle = hanging(name).angle
        rounds = (angle.max() - angle.min()) / (2 * math.pi)
        said = look_up(find_source(ROOT, "18_watch_it"), f"watch-{key}")
        assert abs(rounds - float(said)) < 0.06
        assert rounds > 2, "it goes round and round"


@pytest.mark.proves("claim-watch-energy", method="energy and torque of the episodes from hanging")
def test_energy_from_hanging(deviation: Deviation) -> None:
    deviation(max(0.0, energy(hanging(BC)).max()), 15)
    deviation(abs(energy(hanging(CQL))[-1] - 15), 0.5)
    assert (hanging(OFF).torque < 0).mean() > 0.9
    assert (energy(hanging(OFF))[60:] > 15).all()
    assert energy(hanging(BC)).max() < -5


@pytest.mark.proves("claim-watch-ceiling", method="every step of 100 episodes, bonus included")
def test_promises_above_what_is_possible(deviation: Deviation) -> None:
    shares = {}
    for name in TRAINED:
        policy, episodes = watched().network(name), played(name)
        if policy.critics:
            limit = CEILING * (1 + policy.record["temperature"] * math.log(4) * GAMMA)
            promised = policy.q(episodes.angle, episodes.velocity, episodes.torque)
            shares[name] = float((promised > limit).mean())
    assert shares[OFF] > 0.5
    for name in (CQL, REPLAY_OFF, REPLAY_CQL):
        deviation(shares[name], 0.005)
    assert 0 < shares[FIVE] < 0.1


@pytest.mark.proves("claim-watch-kept", method="playing on from the 100 paired starts")
def test_promised_and_kept_at_the_starts(deviation: Deviation) -> None:
    for name, more_is_promised in ((OFF, True), (CQL, False), (FIVE, True)):
        policy, episodes = watched().network(name), played(name)
        angle, velocity, torque = (
            x[0] for x in (episodes.angle, episodes.velocity, episodes.torque)
        )
        promised = policy.q(angle, velocity, torque).mean()
        kept = watched().kept(episodes.reward).mean()
        bonus = policy.record["temperature"] * math.log(4) * GAMMA * CEILING
        if more_is_promised:
            deviation(kept + bonus, promised)
        else:
            deviation(promised, kept)


def test_a_bonus_of_every_state_brings_no_more_than_the_limit_counts() -> None:
    """Critics fitted with the largest reward and the largest bonus hold the limit exactly."""
    bonus, slow = 0.03 * math.log(4), 0.0
    for _ in range(UPDATES):  # the same value in every state
        slow += RATE * (1 + GAMMA * (slow + bonus) - slow)
    held = 1 + GAMMA * (slow + bonus)
    assert held == pytest.approx(CEILING * (1 + bonus * GAMMA), rel=1e-9)


@pytest.mark.proves("claim-watch-mean", method="count over the 100 paired episodes")
def test_no_episode_is_like_the_mean(deviation: Deviation) -> None:
    episodes = played(REPLAY_OFF)
    returns = episodes.reward.sum(axis=0)
    deviation(float((np.abs(returns - returns.mean()) < 50).sum()), 0)
    spins = np.ptp(episodes.angle, axis=0) > 4 * math.pi
    assert 35 <= spins.sum() <= 45
    late = slice(-20, None)
    stand = (wrapped(episodes.angle[late]) < 0.3) & (np.abs(episodes.velocity[late]) < 1)
    np.testing.assert_array_equal(stand.all(axis=0), ~spins)


def test_what_the_chapter_says_of_the_five_tries() -> None:
    def tried(name: str, angle: float, velocity: float) -> Swing:
        return swing(watched().policies[name], [angle], [velocity])

    def stands(one: Swing) -> Any:
        return ((wrapped(one.angle) < 0.3) & (np.abs(one.velocity) < 1))[-50:].all()

    off, cql, five = (tried(name, 0.1, 0.0) for name in (OFF, CQL, FIVE))
    assert np.ptp(off.angle) > 8 * 2 * math.pi
    assert stands(cql)
    assert 0.1 < wrapped(cql.angle[-1, 0]) < 0.2
    # It leans, and a constant torque balances gravity there.
    assert 15 * math.sin(cql.angle[-1, 0]) + 3 * cql.torque[-1, 0] == pytest.approx(0, abs=0.01)
    assert (wrapped(five.angle[:20]) < 0.3).all()
    assert not stands(five)
    assert (wrapped(five.angle) > 3).any()
    assert not stands(tried(BC, 3.14, 0.0))
    assert stands(tried(BC, 0.5, 0.0))
    assert stands(tried(REPLAY_OFF, -2.0, 0.0))
    assert np.ptp(tried(REPLAY_OFF, -1.0, 1.0).angle) > 8 * 2 * math.pi


def test_the_loss_sits_on_few_steps() -> None:
    one = swing(watched().policies[OFF], [0.1], [0.0])
    cost = np.sort(watched().cost(one)[:, 0])[::-1]
    assert cost[:20].sum() > 0.75 * cost.sum()
    assert cost.min() > -1e-6


def test_opposite_failures_earn_nearly_the_same_from_hanging() -> None:
    bc, off = (float(hanging(name).reward.sum()) for name in (BC, OFF))
    assert bc == pytest.approx(off, abs=20)
    assert np.ptp(hanging(BC).angle) < 2.5 < 50 < np.ptp(hanging(OFF).angle)


def test_the_hesitation_has_its_step() -> None:
    one = swing(watched().policies[FIVE], [0.1], [0.0])
    speed = one.velocity[8:36, 0]
    assert (speed > 0.05).all()
    assert (speed < 0.2).all()
    # Beyond 0.41 rad no torque is a match for gravity.
    assert math.asin(2 * 3 / 15) == pytest.approx(0.41, abs=0.005)
    here, there, torque = one.angle[40, 0], one.velocity[40, 0], one.torque[40, 0]
    assert here < 0.41
    observation = np.array([[math.cos(here), math.sin(here), there]])
    near = Support(load_dataset("pendulum/narrow-v0")).near(observation)
    assert near.min() < torque < near.max()
    assert torque == pytest.approx(near.mean(), abs=0.1)
    q = watched().landscape(FIVE, here, there, np.array([-2.0, torque]))
    assert q["best"][0] - q["best"][1] > 10
    assert q["promised"][0] < q["promised"][1]


def test_cloning_often_pushes_against_the_motion_and_the_propeller_along_it() -> None:
    one = hanging(BC)
    assert (one.torque * one.velocity < 0).mean() > 0.3
    late = slice(60, None)
    assert (hanging(OFF).torque[late] * hanging(OFF).velocity[late] > 0).all()


def test_draws_cost_cloning_the_most_and_a_forgotten_tanh_goes_unnoticed() -> None:
    starts = [x.numpy() for x in evaluation_starts()]
    losses = {}
    for name in TRAINED:
        drawn = swing(watching.Sampled(watched().network(name), seed=0), *starts)
        if name == REPLAY_OFF:
            assert drawn.reward.sum(axis=0).std() > 300
        losses[name] = float((drawn.reward - played(name).reward).sum(axis=0).mean())
    assert min(losses, key=losses.__getitem__) == BC
    assert losses[BC] < -100
    assert all(abs(loss) < 40 for name, loss in losses.items() if name != BC)

    class Exported:
        def __init__(self, last: Callable[[Array], Array]) -> None:
            self.last = last

        def act(self, observation: Array, deterministic: bool = True) -> Array:
            return self.last(watched().network(CQL).distribution(observation)[0])

    def mean_return(last: Callable[[Array], Array]) -> float:
        return float(swing(Exported(last), *starts).reward.sum(axis=0).mean())

    right = float(played(CQL).reward.sum(axis=0).mean())
    assert mean_return(lambda mean: 2 * np.tanh(mean)) == pytest.approx(right)
    assert right < mean_return(lambda mean: 2 * mean) < right + 20
    assert mean_return(lambda mean: np.clip(mean, -2, 2)) < right - 150
    assert mean_return(np.tanh) < right - 300


# ---- exercises --------------------------------------------------------------------------------


def verdict(exercise: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


def by_hand(observation: Array, layers: Any, low: float, high: float) -> Array:
    (w1, b1), (w2, b2) = layers
    mean = (np.maximum(observation @ w1 + b1, 0) @ w2 + b2)[:, 0]
    return (high + low) / 2 + (high - low) / 2 * np.tanh(mean)


def without_relu(observation: Array, layers: Any, low: float, high: float) -> Array:
    (w1, b1), (w2, b2) = layers
    mean = ((observation @ w1 + b1) @ w2 + b2)[:, 0]
    return (high + low) / 2 + (high - low) / 2 * np.tanh(mean)


def charged(reward: Array, value: Array, discount: float) -> float:
    cost = value[:-1] - (reward + discount * value[1:])
    return float(discount ** np.arange(len(reward)) @ cost)


def undiscounted(reward: Array, value: Array, discount: float) -> float:
    return float((value[:-1] - reward - discount * value[1:]).sum())


def spinners(rounds: float = 2) -> dict[str, int]:
    limit = rounds * 2 * math.pi
    return {name: int((np.ptp(played(name).angle, axis=0) > limit).sum()) for name in TRAINED}


@pytest.mark.parametrize(
    ("exercise", "solution", "stub"),
    [
        ("ex-watch-forward", by_hand, lambda *a: ...),
        ("ex-watch-round", lambda torque: -6 * math.pi * torque, lambda torque: ...),
        ("ex-watch-charge", charged, lambda *a: ...),
        ("ex-watch-spins", spinners, dict.fromkeys(TRAINED, ...)),
    ],
)
def test_solutions_pass_and_stubs_fail_gently(
    exercise: str, solution: Any, stub: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = solution() if exercise == "ex-watch-spins" else solution
    assert f"{exercise}: passed." in verdict(exercise, answer, capsys)
    assert "not done yet" in verdict(exercise, stub, capsys)


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("ex-watch-forward", without_relu, "a ReLU belongs"),
        ("ex-watch-forward", lambda *a: by_hand(*a)[:, None], "the shape is (5,)"),
        ("ex-watch-forward", lambda seen, layers, *_: by_hand(seen, layers, -1, 1), "not scaled"),
        ("ex-watch-round", lambda torque: 6 * math.pi * torque, "the sign is wrong"),
        ("ex-watch-round", lambda torque: -3 * torque, "a round is 2 pi, not one"),
        ("ex-watch-charge", undiscounted, "each cost counts gamma^t"),
        ("ex-watch-charge", lambda *a: -charged(*a), "not Q minus the value"),
        ("ex-watch-spins", {}, "The names are"),
        ("ex-watch-spins", 3, "A dictionary"),
    ],
)
def test_typical_mistakes_get_their_hint(
    exercise: str, answer: Any, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(exercise, answer, capsys)
    assert "not right yet" in out
    assert hint in out


def test_one_round_is_not_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert spinners(1) != spinners(2)
    assert "you counted one round" in verdict("ex-watch-spins", spinners(1), capsys)


# ---- what the page is given -------------------------------------------------------------------


def test_the_stored_data_are_the_datasets() -> None:
    for name, table in watched().data.items():
        data = load_dataset(name)
        every = len(data) // 2_000
        angle, velocity = pendulum.state_of(data.observation[::every].numpy())
        expected = torch.stack((angle, velocity, data.action[::every, 0].double()), dim=1).numpy()
        np.testing.assert_allclose(table, expected, atol=1e-6)


def test_the_pages_of_the_book_stay_small() -> None:
    assert watching.WATCHED_FILE.stat().st_size < 400_000
    assert (ROOT / "notebooks" / "18_watch_it.ipynb").stat().st_size < 1_500_000
