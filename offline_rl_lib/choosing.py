"""What can be chosen without the environment, and what a choice costs.

Whoever has only a dataset must pick one agent of several without letting any of them act. A rule
picks from what training and the data show. It is judged afterwards, by the return that its choice
gave up against the best method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from offline_rl_lib.coverage import torque_spread
from offline_rl_lib.cql import CQLSettings
from offline_rl_lib.data import OfflineDataset, load_dataset
from offline_rl_lib.experiments import RESULTS
from offline_rl_lib.failure import backups_seen
from offline_rl_lib.intervals import interquartile_mean
from offline_rl_lib.map import MAP, SMALL_CQL, Cells, last_metric, normalised, weight_methods

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a rule may look at, and the scores that it is judged by.

    Attributes:
        datasets: D names.
        methods: M names.
        scores: (..., D, M, S), last normalised score of each seed. A rule may use those of
            strangers: datasets that are not kin of the one that it chooses for.
        promised: (..., D, M, S), the critics' value at the starts, scaled reward; NaN without.
        td_loss: (..., D, M, S), squared scaled reward; NaN without critics.
        best_episode: (D,), scaled reward, the largest return of an episode of the data, as far as
            a critic can have seen it.
        mean_episode: (D,), the mean of the same.
        spread: (D,), N m, how different the torques are near one state.
        kin: (D, D), whether two datasets have transitions in common; each is its own kin.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    scores: FloatArray
    promised: FloatArray
    td_loss: FloatArray
    best_episode: FloatArray
    mean_episode: FloatArray
    spread: FloatArray
    kin: BoolArray

    @property
    def middles(self) -> FloatArray:
        """Interquartile mean of the scores over the seeds, (..., D, M)."""
        middles: FloatArray = interquartile_mean(self.scores, axis=-1)
        return middles

    def resampled(self, resamples: int, seed: int = 0) -> Evidence:
        """Draw the seeds of each dataset again, with replacement, the same for all methods.

        Returns:
            The evidence with a new first axis of that length.
        """
        count, (datasets, seeds) = resamples, (len(self.datasets), self.scores.shape[-1])
        drawn = np.random.default_rng(seed).integers(seeds, size=(count, datasets, 1, seeds))

        def again(values: FloatArray) -> FloatArray:
            return np.take_along_axis(values[None], drawn, axis=-1)

        return replace(
            self,
            scores=again(self.scores),
            promised=again(self.promised),
            td_loss=again(self.td_loss),
        )


def gather(cells: Cells, directory: Path = RESULTS) -> Evidence:
    """Put the evidence together.

    Args:
        cells: the stored map.
        directory: where its files lie.
    """
    data = [load_dataset(name) for name in cells.datasets]
    reachable = [reachable_returns(one) for one in data]
    return Evidence(
        cells.datasets,
        cells.methods,
        scores=normalised(cells.returns[..., -1]),
        promised=cells.promised[..., -1],
        td_loss=last_metric("td_loss", directory=directory),
        best_episode=np.array([one.max() for one in reachable]),
        mean_episode=np.array([one.mean() for one in reachable]),
        spread=np.array([torque_spread(one) for one in data]),
        kin=kinship(data),
    )


def kinship(data: Sequence[OfflineDataset]) -> BoolArray:
    """Whether two datasets have transitions in common, (D, D)."""
    transitions = [
        {
            row.tobytes()
            for row in torch.cat([one.observation, one.action, one.next_observation], dim=1).numpy()
        }
        for one in data
    ]
    return np.array([[not one.isdisjoint(other) for other in transitions] for one in transitions])


def reachable_returns(
    dataset: OfflineDataset, settings: CQLSettings = SMALL_CQL, updates: int = MAP.updates
) -> FloatArray:
    """Discounted return of each episode, as far as a critic can have seen it.

    Args:
        dataset: n transitions.
        settings: for discount, reward scale and the rate of the target critics.
        updates: of the critic; see :func:`offline_rl_lib.failure.backups_seen`.

    Returns:
        (episodes,), scaled reward, from the first state of each episode on.
    """
    reward = ((dataset.reward.double() + settings.reward_shift) * settings.reward_scale).numpy()
    first = np.unique(dataset.episode.numpy(), return_index=True)[1]
    episodes = np.split(reward, first[1:])
    longest = max(len(episode) for episode in episodes)
    seen = backups_seen(updates, settings.target_update_rate, longest)
    weights = settings.discount ** np.arange(longest) * seen
    return np.array([episode @ weights[: len(episode)] for episode in episodes])


# ---- Rules --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A way to choose a method for each run.

    Attributes:
        says: the rule in one sentence.
        choose: maps evidence to K equally likely choices, (K, ..., D, S), numbers of methods.
    """

    says: str
    choose: Callable[[Evidence], IntArray]


def always(*methods: str) -> Callable[[Evidence], IntArray]:
    """Choose one method everywhere, or each of several with the same chance."""

    def choose(evidence: Evidence) -> IntArray:
        shape = (*evidence.scores.shape[:-2], evidence.scores.shape[-1])
        numbers = [evidence.methods.index(method) for method in methods]
        return np.stack([np.full(shape, number) for number in numbers])

    return choose


def _of_weights(
    pick: Callable[[Evidence, IntArray], IntArray],
) -> Callable[[Evidence], IntArray]:
    """Turn places among the weights, (..., D, S), into numbers of methods."""

    def choose(evidence: Evidence) -> IntArray:
        numbers = np.array([evidence.methods.index(method) for method in weight_methods()])
        return numbers[pick(evidence, numbers)][None]

    return choose


def smallest_below(values: FloatArray, ceiling: FloatArray) -> IntArray:
    """Place of the first method whose value is not above the ceiling; the last one if none is.

    Args:
        values: (..., D, W, S).
        ceiling: (D,).

    Returns:
        (..., D, S).
    """
    below = values <= ceiling[:, None, None]
    return np.where(below.any(axis=-2), below.argmax(axis=-2), values.shape[-2] - 1)


def best_elsewhere(middles: FloatArray, options: IntArray, kin: BoolArray) -> IntArray:
    """Choose per dataset the option that does best on its strangers together.

    Args:
        middles: (..., D, M), what each method scores.
        options: (K, D), what each option takes on each dataset.
        kin: (D, D), which datasets are not strangers to each other.

    Returns:
        (..., D), numbers of methods.
    """
    places = np.arange(options.shape[1])
    earned = middles[..., places, options]  # (..., K, D)
    elsewhere = earned @ ~kin  # (..., K, D)
    return options[elsewhere.argmax(axis=-2), places]


def _one_for_all(evidence: Evidence) -> IntArray:
    methods, datasets = len(evidence.methods), len(evidence.datasets)
    options = np.repeat(np.arange(methods)[:, None], datasets, axis=1)
    return _for_every_seed(best_elsewhere(evidence.middles, options, evidence.kin), evidence)


def spread_options(evidence: Evidence, chosen_for: int) -> IntArray:
    """No penalty where the torques spread more than some limit, one other method elsewhere.

    Args:
        evidence: with the spread of D datasets.
        chosen_for: place of the dataset that is chosen for; it and its kin set no limit.

    Returns:
        (K, D): every limit halfway between two strangers, and none, with every method.
    """
    off = evidence.methods.index("penalty off")
    strangers = np.sort(evidence.spread[~evidence.kin[chosen_for]])
    limits = [*((strangers[1:] + strangers[:-1]) / 2), np.inf]
    return np.array(
        [
            np.where(evidence.spread > limit, off, method)
            for limit in limits
            for method in range(len(evidence.methods))
        ]
    )


def _spread_decides(evidence: Evidence) -> IntArray:
    middles = evidence.middles
    chosen = [
        best_elsewhere(middles, spread_options(evidence, d), evidence.kin)[..., d]
        for d in range(len(evidence.datasets))
    ]
    return _for_every_seed(np.stack(chosen, axis=-1), evidence)


def _for_every_seed(chosen: IntArray, evidence: Evidence) -> IntArray:
    return np.repeat(chosen[..., None], evidence.scores.shape[-1], axis=-1)[None]


RULES: dict[str, Rule] = {
    "highest promise": Rule(
        "of the five weights, the run whose critics promise most",
        _of_weights(lambda evidence, w: evidence.promised[..., w, :].argmax(axis=-2)),
    ),
    "lowest promise": Rule(
        "of the five weights, the run whose critics promise least",
        _of_weights(lambda evidence, w: evidence.promised[..., w, :].argmin(axis=-2)),
    ),
    "smallest TD loss": Rule(
        "of the five weights, the run with the smallest TD loss at the end",
        _of_weights(lambda evidence, w: evidence.td_loss[..., w, :].argmin(axis=-2)),
    ),
    "below best episode": Rule(
        "the smallest weight whose promise is not above the data's best episode",
        _of_weights(
            lambda evidence, w: smallest_below(evidence.promised[..., w, :], evidence.best_episode)
        ),
    ),
    "below mean episode": Rule(
        "the smallest weight whose promise is not above the data's mean episode",
        _of_weights(
            lambda evidence, w: smallest_below(evidence.promised[..., w, :], evidence.mean_episode)
        ),
    ),
    **{f"always {name}": Rule(f"{name}, whatever the data", always(name)) for name in MAP.methods},
    "best elsewhere": Rule(
        "the one method that scores best on the data that share no transition with these",
        _one_for_all,
    ),
    "spread decides": Rule(
        "no penalty where the torques spread more than a limit, one other method elsewhere; limit "
        "and method that score best on the data that share no transition with these",
        _spread_decides,
    ),
    "random weight": Rule("one of the five weights, by lot", always(*weight_methods())),
    "random method": Rule("one of all methods, by lot", always(*MAP.methods)),
}
"""Rules that need no environment, stated before their cost was computed."""


# ---- What a rule costs ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cost:
    """Score that a rule gave up against the best method of each dataset.

    Attributes:
        per_dataset: (D,), normalised score.
        resampled: (R, D), the same from evidence with the seeds drawn again.
    """

    per_dataset: FloatArray
    resampled: FloatArray

    @property
    def mean(self) -> float:
        """Mean over the datasets."""
        return float(self.per_dataset.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean."""
        low, high = np.quantile(self.resampled.mean(axis=-1), [0.025, 0.975])
        return float(low), float(high)

    def minus(self, other: Cost) -> tuple[float, float, float]:
        """How much more this rule costs than another, with the interval of the difference.

        Both must come from one call of :func:`costs_of`: they share the seeds drawn.
        """
        low, high = np.quantile((self.resampled - other.resampled).mean(axis=-1), [0.025, 0.975])
        return self.mean - other.mean, float(low), float(high)


def chosen_scores(evidence: Evidence, choice: IntArray) -> FloatArray:
    """Interquartile mean of the scores of the chosen runs.

    Args:
        evidence: with scores (..., D, M, S).
        choice: (..., D, S), number of the method per dataset and seed.

    Returns:
        (..., D).
    """
    picked = np.take_along_axis(evidence.scores, choice[..., None, :], axis=-2)[..., 0, :]
    scores: FloatArray = interquartile_mean(picked, axis=-1)
    return scores


def costs_of(
    evidence: Evidence, rules: dict[str, Rule] | None = None, resamples: int = 2_000, seed: int = 0
) -> dict[str, Cost]:
    """What each rule costs, with the intervals of resampling the seeds.

    The best method of a dataset is the one with the highest interquartile mean of all stored runs.
    It stays the same in all resamples, and it was found by looking at these runs, so the costs are
    a little too high.

    Args:
        evidence: of the stored map.
        rules: by their names; ``RULES`` if left out.
        resamples: how often the seeds are drawn again.
        seed: of these draws.
    """
    again = evidence.resampled(resamples, seed)
    best = evidence.middles.argmax(axis=-1)
    reachable, reachable_again = (
        one.middles[..., np.arange(len(best)), best] for one in (evidence, again)
    )

    def earned(rule: Rule, one: Evidence) -> FloatArray:
        scores: FloatArray = np.mean(
            [chosen_scores(one, choice) for choice in rule.choose(one)], axis=0
        )
        return scores

    return {
        name: Cost(reachable - earned(rule, evidence), reachable_again - earned(rule, again))
        for name, rule in (RULES if rules is None else rules).items()
    }
