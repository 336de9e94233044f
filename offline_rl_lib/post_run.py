"""The run of the original post: on its data, with its settings, as posted and corrected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from offline_rl_lib.agent import Agent
from offline_rl_lib.collecting import REPLAY
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.experiments import Experiment, Record, train_job
from offline_rl_lib.map import earned_value, promised_value
from offline_rl_lib.pendulum import evaluation_starts, simulate
from offline_rl_lib.silent_bugs import PostCQL

POST_SETTINGS = CQLSettings(
    policy_hidden_sizes=(128,),
    critic_hidden_sizes=(128, 128),
    actor_learning_rate=3e-4,
    critic_learning_rate=3e-3,
    temperature_learning_rate=3e-4,
    initial_temperature=0.01,
    discount=0.99,
    target_update_rate=0.005,
    penalty_weight=5.0,
    num_proposals=5,
    reward_shift=8.0,
    reward_scale=1 / 8,
)
"""Every number of the post; the entropy target is the same one, in units of the torque."""

POST_RUN = Experiment(
    name="post_run",
    datasets=(REPLAY,),
    methods={
        "as posted": (PostCQL, replace(POST_SETTINGS, target_entropy=-1.0)),
        "corrected": (CQL, POST_SETTINGS),
        "corrected, penalty off": (CQL, replace(POST_SETTINGS, penalty_weight=0.0)),
    },
    seeds=tuple(range(10)),
    updates=10_000,
    evaluate_every=1_000,
    seeds_together=10,
    batch_size=64,
)
"""Ten runs of each, over the first fifth of the post's 50,000 updates."""


def run_post_run(
    experiment: Experiment, dataset_name: str, method: str, seeds: tuple[int, ...]
) -> list[Record]:
    """Train the agents of one method side by side, and compare promise and truth on the way.

    Returns:
        As :func:`offline_rl_lib.map.run_map`, and ``earned_on_the_way`` with a value for every
        evaluation point.
    """
    looks: list[Record] = [{"returns": [], "promised": [], "earned_on_the_way": []} for _ in seeds]

    def look(agents: Sequence[Agent]) -> None:
        for agent, points in zip(agents, looks, strict=True):
            points["returns"].append(round(float(simulate(agent, *evaluation_starts()).mean()), 2))
            points["promised"].append(round(promised_value(agent), 4))
            points["earned_on_the_way"].append(round(earned_value(agent), 4))

    _, records = train_job(experiment, dataset_name, method, seeds, look)
    return [
        record | points | {"earned": points["earned_on_the_way"][-1]}
        for record, points in zip(records, looks, strict=True)
    ]
