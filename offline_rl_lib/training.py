"""Fit an agent to a dataset: minibatches in, a history of metrics out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from offline_rl_lib.agent import Agent
from offline_rl_lib.data import OfflineDataset
from offline_rl_lib.progress import progress


def train(
    agent: Agent,
    dataset: OfflineDataset,
    updates: int,
    batch_size: int = 64,
    seed: int = 0,
    *,
    log_every: int = 100,
    on_log: Callable[[int], None] | None = None,
) -> dict[str, npt.NDArray[np.float64]]:
    """Update an agent on minibatches of a dataset. No environment is involved.

    Args:
        agent: the agent; it is changed in place.
        dataset: the transitions; the agent may choose a part of them, see
            :meth:`offline_rl_lib.agent.Agent.learns_from`.
        updates: number of gradient updates.
        batch_size: transitions per update.
        seed: seeds the choice of minibatches.
        log_every: updates between two entries of the history.
        on_log: called after each entry with the number of updates so far, for example to
            evaluate the policy.

    Returns:
        For each metric its mean over every stretch of ``log_every`` updates, shape ``(L,)``, and
        under ``"updates"`` the number of updates at the end of each stretch.

    Raises:
        FloatingPointError: a metric is no longer finite.
    """
    dataset = agent.learns_from(dataset)
    generator = torch.Generator().manual_seed(seed)
    history: dict[str, list[float]] = {"updates": []}
    stretch: list[dict[str, float]] = []
    for update in progress(range(1, updates + 1), description=type(agent).__name__):
        stretch.append(agent.update(dataset.sample(batch_size, generator)))
        if update % log_every and update != updates:
            continue
        history["updates"].append(update)
        for name in stretch[0]:
            mean = sum(metrics[name] for metrics in stretch) / len(stretch)
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"{name} is {mean} around update {update}: training has diverged. Lower the "
                    "learning rates, or look at the Q-values before this point."
                )
            history.setdefault(name, []).append(mean)
        stretch.clear()
        if on_log is not None:
            on_log(update)
    return {name: np.array(values) for name, values in history.items()}
