"""Behavioural cloning of the best episodes: imitation that looks at the returns once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from offline_rl_lib.bc import BC, BCSettings

if TYPE_CHECKING:
    from offline_rl_lib.data import OfflineDataset


@dataclass(frozen=True)
class BestBCSettings(BCSettings):
    """Settings of behavioural cloning of the best episodes.

    Attributes:
        fraction: share of the episodes that is imitated, above 0, at most 1. The number of
            episodes is rounded; at least one is kept.
    """

    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1; got {self.fraction}.")


class BestBC(BC):
    """Behavioural cloning that sees only the episodes with the highest undiscounted return."""

    settings: BestBCSettings
    settings_class = BestBCSettings

    def learns_from(self, dataset: OfflineDataset) -> OfflineDataset:
        """Return the best episodes of a dataset; of equal ones, those collected first."""
        returns = dataset.episode_returns()
        count = max(1, round(self.settings.fraction * len(returns)))
        best = torch.sort(returns, descending=True, stable=True).indices[:count]
        numbers = torch.unique_consecutive(dataset.episode)
        return dataset.select_episodes(
            numbers[best].tolist(), name=f"{dataset.name} (best {count} of {len(returns)} episodes)"
        )
