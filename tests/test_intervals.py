"""Interquartile mean and bootstrap intervals, against hand computation and by coverage."""

from __future__ import annotations

import numpy as np
import pytest

from offline_rl_lib.intervals import (
    Effect,
    compare,
    interquartile_mean,
    stratified_bootstrap_interval,
)


def test_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    values = np.array([7.0, -100.0, 3.0, 4.0, 900.0, 5.0, 6.0, 2.0])
    assert interquartile_mean(values) == np.mean([3.0, 4.0, 5.0, 6.0])
    table = np.stack((values, values + 1), axis=1)
    assert interquartile_mean(table, axis=0).tolist() == [4.5, 5.5]


@pytest.mark.parametrize("strata", [1, 3])
def test_intervals_cover_the_truth_as_often_as_they_say(strata: int) -> None:
    repetitions, covered = 1_000, 0
    generator = np.random.default_rng(0)
    for repetition in range(repetitions):
        scores = [generator.normal(-200, 10 * (1 + stratum), 40) for stratum in range(strata)]
        low, high = stratified_bootstrap_interval(
            scores if strata > 1 else scores[0], resamples=500, seed=repetition
        )
        covered += low <= -200 <= high
    assert 0.93 <= covered / repetitions <= 0.97


def test_strata_are_resampled_apart() -> None:
    # Two tasks without any spread within them: nothing is left to vary.
    low, high = stratified_bootstrap_interval([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]], np.mean)
    assert low == high == 5.0
    # The same scores as one stratum do vary.
    low, high = stratified_bootstrap_interval([1.0, 1.0, 1.0, 9.0, 9.0, 9.0], np.mean)
    assert high - low > 3


def test_an_interval_repeats_with_its_seed_and_widens_with_confidence() -> None:
    scores = np.random.default_rng(1).normal(size=15)
    assert stratified_bootstrap_interval(scores) == stratified_bootstrap_interval(scores)
    narrow, wide = (stratified_bootstrap_interval(scores, confidence=c) for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("scores", [[1.0], [[1.0, 2.0], [3.0]], [1.0, np.nan], [[[1.0, 2.0]]]])
def test_unusable_scores_are_refused(scores: list[object]) -> None:
    with pytest.raises(ValueError, match=r"Stratum \d must hold one finite score per run"):
        stratified_bootstrap_interval(scores)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_bootstrap_interval([1.0, 2.0], confidence=confidence)


def test_a_comparison_is_a_difference_of_middles_with_its_interval() -> None:
    random = np.random.default_rng(3)
    mine, theirs = random.normal(10, 2, 10), random.normal(4, 5, 8)
    found = compare(mine, theirs)
    middle = np.sort(mine)[2:8].mean() - np.sort(theirs)[2:6].mean()
    assert found.difference == pytest.approx(middle)
    again = np.sort(mine[random.integers(10, size=(20_000, 10))])[:, 2:8].mean(axis=1)
    again = again - np.sort(theirs[random.integers(8, size=(20_000, 8))])[:, 2:6].mean(axis=1)
    low, high = np.quantile(again, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))
    assert found.low < found.difference < found.high
    back = compare(theirs, mine)
    assert back.difference == pytest.approx(-found.difference)


@pytest.mark.parametrize(
    ("low", "high", "clear"), [(0.1, 2, True), (-2, -0.1, True), (-0.1, 2, False), (0, 2, False)]
)
def test_a_difference_is_clear_if_its_interval_leaves_zero_out(
    low: float, high: float, clear: bool
) -> None:
    assert Effect((low + high) / 2, low, high).clear == clear


def test_a_comparison_is_written_with_its_sign() -> None:
    assert str(Effect(-3.4, -10.2, 3.6)) == "-3 [-10, +4]"
