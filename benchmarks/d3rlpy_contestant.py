"""CQL of d3rlpy, run by the Python of its own environment.

Its update gets a minibatch as NumPy arrays, as from its replay buffer, and copies it to tensors.
Its 5 + 5 + 5 proposals are 5 from the policy at the state, 5 from the policy at the next state and
5 uniform ones. Its penalty weight is fixed (alpha_learning_rate=0) and its target has the entropy
term (soft_q_backup=True), as in ours. Its policy has one hidden layer, its critics two. Metrics are
read after each of its updates, as in ours.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import cycle

import d3rlpy
import numpy as np
import structlog
import torch

from benchmarks.blocks import serve

PREPARED = 32


def main(arguments: Sequence[str]) -> None:
    """Serve updates of the given work."""
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    work = {
        "observation_size": 3,
        "action_size": 1,
        "batch_size": 64,
        "proposals": 5,
        "width": 128,
        **json.loads(arguments[0]),
    }
    config = d3rlpy.algos.CQLConfig(
        batch_size=work["batch_size"],
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-3,
        temp_learning_rate=3e-4,
        alpha_learning_rate=0.0,
        conservative_weight=5.0,
        n_action_samples=work["proposals"],
        soft_q_backup=True,
        n_critics=2,
        actor_encoder_factory=d3rlpy.models.VectorEncoderFactory([work["width"]]),
        critic_encoder_factory=d3rlpy.models.VectorEncoderFactory([work["width"], work["width"]]),
    )
    algorithm = config.create(device="cpu:0")
    source = np.random.default_rng(0)
    rows = 1000
    ends = np.zeros(rows, np.float32)
    ends[199::200] = 1.0  # Its episodes need an end each; what they end with costs nothing.
    recorded = d3rlpy.dataset.MDPDataset(
        observations=source.uniform(-1, 1, (rows, work["observation_size"])).astype(np.float32),
        actions=source.uniform(-1, 1, (rows, work["action_size"])).astype(np.float32),
        rewards=source.uniform(-1, 1, rows).astype(np.float32),
        terminals=ends,
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    algorithm.build_with_dataset(recorded)
    batches = cycle([recorded.sample_transition_batch(work["batch_size"]) for _ in range(PREPARED)])
    names = ("d3rlpy", "torch", "numpy")
    installed = {"python": platform.python_version(), **{name: version(name) for name in names}}
    serve(lambda: algorithm.update(next(batches)), installed)


if __name__ == "__main__":
    main(sys.argv[1:])
