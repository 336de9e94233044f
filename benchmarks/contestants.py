"""The contestants that share the book's environment: our two, the post's style and the floor.

Run as ``python -m benchmarks.contestants NAME WORK``, with the work as JSON.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import cycle
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from benchmarks.blocks import serve
from benchmarks.post_style import PostStyleCQL
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.fast_cql import FastCQL
from offline_rl_lib.plain import draw_noise
from offline_rl_lib.together import Together

PREPARED = 32


@dataclass(frozen=True)
class Work:
    """The size of one update. The defaults are those of the original post.

    Attributes:
        observation_size: components of an observation.
        action_size: action dimensions.
        batch_size: transitions.
        proposals: sampled actions per state and source; there are three sources.
        width: of every hidden layer: two a critic, one in the policy.
        seeds: agents trained side by side in one batch.
    """

    observation_size: int = 3
    action_size: int = 1
    batch_size: int = 64
    proposals: int = 5
    width: int = 128
    seeds: int = 1

    def __post_init__(self) -> None:
        """Refuse sizes that cannot work."""
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")

    @property
    def rows(self) -> int:
        """State-action pairs that each critic values in its own loss."""
        return self.batch_size * (1 + 3 * self.proposals)


def make_agent(work: Work, seed: int = 0, agent_class: type[CQL] = CQL) -> CQL:
    """Build the library's agent for the work, with the learning rates of the post."""
    settings = CQLSettings(
        policy_hidden_sizes=(work.width,),
        critic_hidden_sizes=(work.width, work.width),
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-3,
        penalty_weight=5.0,
        num_proposals=work.proposals,
        reward_shift=8.0,
        reward_scale=1 / 8,
        seed=seed,
    )
    return agent_class(
        Box(-np.inf, np.inf, (work.observation_size,)), Box(-2, 2, (work.action_size,)), settings
    )


def make_batches(work: Work, number: int = PREPARED) -> list[TransitionBatch]:
    """Draw minibatches that look like Pendulum's: the numbers do not change the cost."""
    source = torch.Generator().manual_seed(0)
    size = work.batch_size

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=source)

    return [
        TransitionBatch(
            observation=uniform(-1, 1, size, work.observation_size),
            action=uniform(-2, 2, size, work.action_size),
            reward=uniform(-16, 0, size),
            next_observation=uniform(-1, 1, size, work.observation_size),
            terminated=torch.zeros(size, dtype=torch.bool),
        )
        for _ in range(number)
    ]


def plain(work: Work) -> Callable[[], Any]:
    """The update that the chapters build; with several seeds all of them in one batch."""
    batches = cycle(make_batches(work))
    if work.seeds == 1:
        agent = make_agent(work)
        return lambda: agent.update(next(batches))
    together = Together([make_agent(work, seed) for seed in range(work.seeds)])
    groups = cycle(
        TransitionBatch(*(torch.stack(columns) for columns in zip(*members, strict=True)))
        for members in [[next(batches) for _ in range(work.seeds)] for _ in range(4)]
    )
    return lambda: together.update(next(groups))


def fast(work: Work) -> Callable[[], Any]:
    """The same update with its derivatives written out."""
    agent = make_agent(work, agent_class=FastCQL)
    batches = cycle(make_batches(work))
    return lambda: agent.update(next(batches))


def post_style(work: Work) -> Callable[[], Any]:
    """The update laid out as in the post; it draws its random numbers as the library does."""
    agent = make_agent(work)
    slow = PostStyleCQL(agent)
    batches = cycle(make_batches(work))
    return lambda: slow.update(next(batches), draw_noise(agent, work.batch_size, agent.generator))


def floor(work: Work) -> Callable[[], Any]:
    """The matrix products of the critic loss alone, forward and backward, into ready memory.

    An update does more of them, on the B rows of its target and its actor loss; those are a few
    per cent. Nothing else is in it: no bias, no rectifier, no loss, no optimiser.
    """
    source = torch.Generator().manual_seed(0)
    inputs, width, rows = work.observation_size + work.action_size, work.width, work.rows

    def normal(*shape: int) -> Tensor:
        return torch.randn((2, *shape), generator=source)

    weights = [normal(inputs, width), normal(width, width), normal(width, 1)]
    values = [normal(rows, inputs), normal(rows, width), normal(rows, width), normal(rows, 1)]
    gradients = [torch.randn_like(value) for value in values]
    steps = [torch.empty_like(weight) for weight in weights]

    def products() -> None:
        for layer, weight in enumerate(weights):
            torch.bmm(values[layer], weight, out=values[layer + 1])
        for layer in (2, 1, 0):
            torch.bmm(values[layer].mT, gradients[layer + 1], out=steps[layer])
            if layer:  # Nobody asks for the gradient of the data.
                torch.bmm(gradients[layer + 1], weights[layer].mT, out=gradients[layer])

    return products


CONTESTANTS: dict[str, Callable[[Work], Callable[[], Any]]] = {
    "FastCQL": fast,
    "CQL": plain,
    "post's layout": post_style,
    "matrix products": floor,
}


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of packages."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def seconds_per_update(
    name: str, works: Sequence[Work], blocks: int, updates: int
) -> list[list[float]]:
    """Processor time of an update, per update and seed: a list for each work, an entry a block.

    The blocks of all works alternate.
    """
    running = [CONTESTANTS[name](work) for work in works]
    costs: list[list[float]] = [[] for _ in works]
    for _ in range(blocks):
        for work, update, cost in zip(works, running, costs, strict=True):
            update()
            start = time.process_time()
            for _ in range(updates):
                update()
            cost.append((time.process_time() - start) / updates / work.seeds)
    return costs


def main(arguments: Sequence[str]) -> None:
    """Serve the contestant of that name."""
    name, work = arguments
    torch.set_num_threads(1)
    update = CONTESTANTS[name](replace(Work(), **json.loads(work)))
    serve(update, versions("torch", "numpy"))


if __name__ == "__main__":
    main(sys.argv[1:])
