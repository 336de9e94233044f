"""Summaries of repeated training runs: interquartile mean and bootstrap intervals.

After Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice",
sections 4.2 and 4.3. The unit that is resampled is a training run (a seed): returns over starts
within one run are averaged first, because they share one policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

FloatArray = npt.NDArray[np.float64]


def interquartile_mean(values: npt.ArrayLike, axis: int | None = None) -> Any:
    """Mean of the middle half: the lowest and the highest quarter of the values are left out.

    Args:
        values: scores, any shape, in any unit.
        axis: axis to average over; all values together if left out.

    Returns:
        A number, or an array without that axis. With 10 values the lowest 2 and highest 2 go.
    """
    return stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)


def stratified_bootstrap_interval(
    scores: npt.ArrayLike | Sequence[npt.ArrayLike],
    statistic: Callable[..., Any] = interquartile_mean,
    confidence: float = 0.95,
    resamples: int = 5_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval for a statistic of the scores of all strata together.

    Every resample draws, within each stratum separately, as many scores as it has, with
    replacement, and applies the statistic to all of them at once. A stratum is a task or a
    dataset; with a single one this is the ordinary bootstrap.

    Args:
        scores: one score per run: (runs,) for a single stratum, or a sequence with one (runs,)
            array per stratum. The numbers of runs may differ.
        statistic: maps an array to numbers by averaging over ``axis``.
        confidence: between 0 and 1.
        resamples: number of bootstrap resamples.
        seed: the same seed gives the same interval.

    Returns:
        Lower and upper end, in the unit of the scores.

    Raises:
        ValueError: fewer than two runs in a stratum, scores that are not finite, or a confidence
            outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"The confidence must lie between 0 and 1, such as 0.95; got {confidence}."
        )
    strata = _strata(scores)
    result = stats.bootstrap(
        strata,
        lambda *resampled, axis: statistic(np.concatenate(resampled, axis=axis), axis=axis),
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Effect:
    """How far the interquartile means of two sets of runs are apart, with a 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """Difference and interval, without digits after the point."""
        return f"{self.difference:+.0f} [{self.low:+.0f}, {self.high:+.0f}]"


def compare(mine: npt.ArrayLike, theirs: npt.ArrayLike) -> Effect:
    """Compare the interquartile means of two sets of runs.

    Args:
        mine: one score per run, (runs,).
        theirs: the same of the others; the numbers of runs may differ.

    Returns:
        Mine minus theirs, and the stratified bootstrap interval of it: the runs of both are drawn
        again, each among themselves.
    """
    first, second = (np.asarray(scores, np.float64) for scores in (mine, theirs))

    def difference(values: FloatArray, axis: int = -1) -> Any:
        ours, other = np.split(values, [len(first)], axis=axis)
        return interquartile_mean(ours, axis=axis) - interquartile_mean(other, axis=axis)

    low, high = stratified_bootstrap_interval([first, second], difference)
    return Effect(float(difference(np.concatenate([first, second]))), low, high)


def _strata(scores: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[FloatArray]:
    rows = list(scores) if isinstance(scores, Sequence | np.ndarray) else [scores]
    strata = [np.asarray(rows)] if np.ndim(rows[0]) == 0 else [np.asarray(row) for row in rows]
    for number, stratum in enumerate(strata):
        if stratum.ndim != 1 or len(stratum) < 2 or not np.isfinite(stratum).all():
            raise ValueError(
                f"Stratum {number} must hold one finite score per run, from two runs or more; got "
                f"shape {stratum.shape} with {stratum.tolist()}."
            )
    return [stratum.astype(np.float64) for stratum in strata]
