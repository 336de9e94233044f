"""Rules that choose without the environment, and what their choices cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline_rl_lib.choosing import (
    RULES,
    Evidence,
    Rule,
    best_elsewhere,
    chosen_scores,
    costs_of,
    kinship,
    reachable_returns,
    smallest_below,
    spread_options,
)
from offline_rl_lib.data import load_dataset
from offline_rl_lib.failure import backups_seen
from offline_rl_lib.map import MAP, short_name, weight_methods

METHODS = tuple(MAP.methods)
DATASETS = ("a", "b", "c")
SEEDS = 10


@pytest.fixture
def evidence() -> Evidence:
    random = np.random.default_rng(0)
    shape = (len(DATASETS), len(METHODS), SEEDS)
    critics = np.array(["BC" not in name or "TD3" in name for name in METHODS])[:, None]
    return Evidence(
        DATASETS,
        METHODS,
        scores=random.normal(50, 20, shape),
        promised=np.where(critics, random.normal(10, 5, shape), np.nan),
        td_loss=np.where(critics, random.exponential(1, shape), np.nan),
        best_episode=np.array([12.0, 8.0, 30.0]),
        mean_episode=np.array([5.0, 4.0, 9.0]),
        spread=np.array([0.3, 1.1, 0.6]),
        kin=np.eye(3, dtype=bool),
    )


def choice_of(name: str, evidence: Evidence) -> np.ndarray:
    (choice,) = RULES[name].choose(evidence)
    return choice


@pytest.mark.parametrize(
    ("name", "values", "pick"),
    [
        ("highest promise", "promised", np.argmax),
        ("lowest promise", "promised", np.argmin),
        ("smallest TD loss", "td_loss", np.argmin),
    ],
)
def test_rules_that_take_an_extreme_run(
    evidence: Evidence, name: str, values: str, pick: np.ufunc
) -> None:
    choice = choice_of(name, evidence)
    assert choice.shape == (len(DATASETS), SEEDS)
    for d in range(len(DATASETS)):
        for seed in range(SEEDS):
            five = [getattr(evidence, values)[d, METHODS.index(m), seed] for m in weight_methods()]
            assert METHODS[choice[d, seed]] == weight_methods()[pick(five)]


@pytest.mark.parametrize("kind", ["best", "mean"])
def test_rules_with_a_ceiling_take_the_smallest_weight_below_it(
    evidence: Evidence, kind: str
) -> None:
    choice = choice_of(f"below {kind} episode", evidence)
    ceilings = getattr(evidence, f"{kind}_episode")
    for d, ceiling in enumerate(ceilings):
        for seed in range(SEEDS):
            fitting = [
                m for m in weight_methods()
                if evidence.promised[d, METHODS.index(m), seed] <= ceiling
            ]  # fmt: skip
            expected = fitting[0] if fitting else weight_methods()[-1]
            assert METHODS[choice[d, seed]] == expected


def test_the_ceiling_itself_is_allowed() -> None:
    values = np.array([5.0, 4.0, 3.0]).reshape(1, 3, 1)
    assert smallest_below(values, np.array([4.0])).tolist() == [[1]]
    assert smallest_below(values, np.array([2.0])).tolist() == [[2]]


def test_an_option_is_chosen_by_the_other_datasets_only() -> None:
    middles = np.array([[100.0, 0.0, 9.0], [0.0, 60.0, 9.0], [0.0, 50.0, 9.0]])
    options = np.repeat(np.arange(3)[:, None], 3, axis=1)
    alone = np.eye(3, dtype=bool)
    assert best_elsewhere(middles, options, alone).tolist() == [1, 0, 0]
    own = middles.copy()
    own[0] = -1_000, -2_000, 5_000
    assert best_elsewhere(own, options, alone)[0] == 1, "the dataset's own scores were looked at"
    mixed = np.array([[2, 2, 2], [0, 1, 1]])
    assert best_elsewhere(middles, mixed, alone).tolist() == [0, 1, 1]
    assert best_elsewhere(np.stack([middles, own]), options, alone).shape == (2, 3)
    kin = alone.copy()
    kin[0, 2] = kin[2, 0] = True
    assert best_elsewhere(middles, options, kin).tolist() == [1, 0, 1], "a relative had a say"


def test_kin_have_transitions_in_common() -> None:
    names = [short_name(name) for name in MAP.datasets]
    kin = kinship([load_dataset(name) for name in MAP.datasets])
    assert (kin == kin.T).all()
    families = {frozenset(np.array(names)[row].tolist()) for row in kin}
    assert families == {
        frozenset(family.split())
        for family in (
            *("replay early narrow replay-small", "medium medium-small", "expert expert-small"),
            *("random", "rare", "two-policies"),
        )
    }


def test_own_scores_never_change_a_choice(evidence: Evidence) -> None:
    for name, rule in RULES.items():
        before = rule.choose(evidence)
        for d in range(len(DATASETS)):
            scores = evidence.scores.copy()
            scores[d] = np.random.default_rng(d).normal(0, 1_000, scores[d].shape)
            after = rule.choose(replace(evidence, scores=scores))
            np.testing.assert_array_equal(after[:, d], before[:, d], err_msg=name)


def test_the_spread_turns_the_penalty_off_on_wide_data(evidence: Evidence) -> None:
    off, narrow = METHODS.index("penalty off"), METHODS.index("best BC")
    options = spread_options(evidence, 1)
    assert options.shape == (2 * len(METHODS), len(DATASETS))
    assert [narrow, off, off] in options.tolist()  # limit between 0.3 and 0.6
    assert [narrow] * 3 in options.tolist()  # no limit
    assert [narrow, off, narrow] in spread_options(evidence, 2).tolist()  # between 0.3 and 1.1
    related = replace(evidence, kin=np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], dtype=bool))
    assert len(spread_options(related, 0)) == len(METHODS), "one stranger sets no limit"
    best = ["best BC", "penalty off", "best BC", "penalty off", "best BC"]
    scores = np.zeros((5, len(METHODS), SEEDS))
    for d, method in enumerate(best):
        scores[d, METHODS.index(method)] = 90
    five = replace(
        evidence,
        datasets=(*DATASETS, "d", "e"),
        scores=scores,
        spread=np.array([0.3, 1.1, 0.6, 1.0, 0.5]),
        kin=np.eye(5, dtype=bool),
    )
    chosen = [METHODS[place] for place in choice_of("spread decides", five)[:, 0]]
    assert chosen == best


def test_costs_by_hand(evidence: Evidence) -> None:
    costs = costs_of(evidence, resamples=50)
    assert set(costs) == set(RULES)
    middles = np.sort(evidence.scores)[..., 2:8].mean(axis=-1)
    for d in range(len(DATASETS)):
        best = middles[d].max()
        for place, method in enumerate(METHODS):
            cost = costs[f"always {method}"].per_dataset[d]
            assert cost == pytest.approx(best - middles[d, place])
        lot = costs["random method"].per_dataset[d]
        assert lot == pytest.approx(best - middles[d].mean())
        picked = choice_of("highest promise", evidence)[d]
        scores = np.sort([evidence.scores[d, picked[s], s] for s in range(SEEDS)])
        expected = best - scores[2:8].mean()
        assert costs["highest promise"].per_dataset[d] == pytest.approx(expected)
    assert min(costs[f"always {m}"].per_dataset.min() for m in METHODS) == 0


def test_the_interval_draws_seeds_and_keeps_the_reference(evidence: Evidence) -> None:
    steady = replace(evidence, scores=evidence.scores[..., :1].repeat(SEEDS, axis=-1))
    cost = costs_of(steady, {"BC": RULES["always BC"]}, resamples=20)["BC"]
    assert cost.interval == pytest.approx((cost.mean, cost.mean))
    best = _best(evidence)

    def peek(one: Evidence) -> np.ndarray:
        shape = (*one.scores.shape[:-2], SEEDS)
        return np.broadcast_to(best[:, None], shape)[None]

    peeking = costs_of(evidence, {"peek": Rule("peeks", peek)}, resamples=5)["peek"]
    assert peeking.per_dataset == pytest.approx(np.zeros(3))
    assert peeking.resampled == pytest.approx(np.zeros((5, 3)))


def _best(evidence: Evidence) -> np.ndarray:
    return evidence.middles.argmax(axis=-1)


def test_rules_choose_again_on_drawn_seeds(evidence: Evidence) -> None:
    again = evidence.resampled(7, seed=3)
    drawn = np.random.default_rng(3).integers(SEEDS, size=(7, 3, 1, SEEDS))
    for d in range(3):
        np.testing.assert_array_equal(again.td_loss[4, d], evidence.td_loss[d][:, drawn[4, d, 0]])
        np.testing.assert_array_equal(again.scores[4, d], evidence.scores[d][:, drawn[4, d, 0]])
    for name, rule in RULES.items():
        choices = rule.choose(again)
        assert choices.shape[1:] == (7, 3, SEEDS), name
        if name != "best elsewhere" and name != "spread decides":
            one = rule.choose(evidence)
            np.testing.assert_array_equal(choices[:, 4, 1], one[:, 1, drawn[4, 1, 0]])
    assert chosen_scores(again, choices[0]).shape == (7, 3)


def test_differences_of_costs_share_their_draws(evidence: Evidence) -> None:
    costs = costs_of(evidence, resamples=200)
    one, other = costs["always BC"], costs["always IQL"]
    more, low, high = one.minus(other)
    assert more == pytest.approx(one.mean - other.mean)
    assert low < more < high
    assert one.minus(one) == (0, 0, 0)


def test_what_a_critic_can_have_seen_of_an_episode() -> None:
    dataset = load_dataset("pendulum/narrow-v0")
    found = reachable_returns(dataset)
    assert found.shape == (10,)
    seen = backups_seen(MAP.updates, 0.005, 200)
    rewards = dataset.reward[dataset.episode == dataset.episode.unique()[3]].double().tolist()
    by_hand = sum(0.99**t * seen[t] * (r + 8) / 8 for t, r in enumerate(rewards))
    assert found[3] == pytest.approx(by_hand)
    assert reachable_returns(dataset, updates=0) == pytest.approx(
        [(float(r) + 8) / 8 for r in dataset.reward[::200].double()]
    )
    assert (found < 26).all()
