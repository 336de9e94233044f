"""Datasets from policies that do not learn, and mixtures of episodes.

Together with the replay data of :mod:`offline_rl_lib.collecting` they are the datasets that the
book compares algorithms on: from uniform torques to an expert, from wide to narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from offline_rl_lib.collecting import (
    Collection,
    CollectionSettings,
    collect_selection,
    existing_dataset,
    make_environment,
    store_dataset,
)
from offline_rl_lib.data import COLUMNS, OfflineDataset, load_dataset
from offline_rl_lib.evaluation import Policy, RandomPolicy
from offline_rl_lib.pendulum import ENV_ID, SwingUpController
from offline_rl_lib.progress import progress
from offline_rl_lib.sac import SAC


def agent_after(episodes: int, settings: CollectionSettings | None = None) -> SAC:
    """Train SAC online for some episodes, as the replay data's agent was, and return it.

    Args:
        episodes: episodes of training.
        settings: of the collection; its own number of episodes does not count.
    """
    settings = replace(settings or CollectionSettings(), episodes=episodes)
    env = make_environment(settings.env_id)
    try:
        collection = Collection(env, settings)
        for episode in progress(range(episodes), description=f"SAC, {episodes} episodes"):
            collection.run_episode(episode)
    finally:
        env.close()
    return collection.agent


def record_policy(
    policy: Policy,
    env_id: str,
    episodes: int,
    seed: int,
    name: str = "recording",
    deterministic: bool = False,
) -> OfflineDataset:
    """Record a policy that does not learn, episode by episode.

    Args:
        policy: maps one observation (o,) to an action (d,), in the environment's units.
        env_id: a registered environment with a time limit and boxes of shape (o,) and (d,).
        episodes: how many.
        seed: fixes the starts.
        name: of the dataset.
        deterministic: passed on to the policy.

    Raises:
        ValueError: an unknown environment, one without a time limit, or no episodes.
    """
    if episodes < 1:
        raise ValueError(f"At least one episode is needed; got {episodes}.")
    env = make_environment(env_id)
    rows: list[tuple[Any, ...]] = []
    starts = np.random.SeedSequence(seed).generate_state(episodes)
    try:
        for episode, start in enumerate(starts):
            observation, _ = env.reset(seed=int(start))
            terminated = truncated = False
            while not (terminated or truncated):
                action = policy.act(observation, deterministic)
                next_observation, reward, terminated, truncated, _ = env.step(action)
                rows.append(
                    (
                        *(observation, action, float(reward), next_observation),
                        *(terminated, truncated, episode),
                    )
                )
                observation = next_observation
        observation_space, action_space = env.observation_space, env.action_space
    finally:
        env.close()
    assert isinstance(observation_space, Box)
    assert isinstance(action_space, Box)
    columns: dict[str, Any] = {
        key: torch.from_numpy(np.array(values))
        for key, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    for key in ("observation", "action", "reward", "next_observation"):
        columns[key] = columns[key].float()
    return OfflineDataset(
        **columns,
        observation_space=observation_space,
        action_space=action_space,
        name=name,
    )


def join_datasets(parts: Sequence[OfflineDataset], name: str) -> OfflineDataset:
    """Put datasets of one task behind one another; episodes are numbered anew from 0.

    Raises:
        ValueError: no parts, or parts with different spaces.
    """
    if not parts:
        raise ValueError("Nothing to join: give at least one dataset.")
    first = parts[0]
    for part in parts[1:]:
        if (part.observation_space, part.action_space) != (
            first.observation_space,
            first.action_space,
        ):
            raise ValueError(
                f"{part.name!r} and {first.name!r} cannot be joined: their spaces differ "
                f"({part.observation_space}, {part.action_space} against "
                f"{first.observation_space}, {first.action_space})."
            )
    columns: dict[str, Any] = {
        key: torch.cat([getattr(part, key) for part in parts]) for key in COLUMNS
    }
    # Neighbouring parts may end and start with the same number, so the part counts too.
    part_number = torch.repeat_interleave(
        torch.arange(len(parts)), torch.tensor([len(part) for part in parts])
    )
    pairs = torch.stack((part_number, columns["episode"]), dim=1)
    columns["episode"] = torch.unique_consecutive(pairs, dim=0, return_inverse=True)[1]
    return replace(first, **columns, name=name, card={})


# ---- The book's datasets -------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """Episodes of one behaviour.

    Attributes:
        behaviour: ``"uniform"`` torques, the ``"controller"`` of :mod:`offline_rl_lib.pendulum`,
            or ``"SAC"``.
        episodes: how many of 200 steps.
        seed: fixes the starts, and the uniform torques.
        trained_episodes: of SAC, before its policy was frozen.
        deterministic: the policy's mode, and no sample of it.
    """

    behaviour: str
    episodes: int
    seed: int
    trained_episodes: int | None = None
    deterministic: bool = False


MEDIUM_TRAINING, EXPERT_TRAINING = 15, 40

RECORDED: dict[str, tuple[Recording, ...]] = {
    "pendulum/random-v0": (Recording("uniform", 25, seed=1),),
    "pendulum/medium-v0": (Recording("SAC", 25, 2, MEDIUM_TRAINING),),
    "pendulum/expert-v0": (Recording("SAC", 25, 3, EXPERT_TRAINING),),
    "pendulum/rare-v0": (
        Recording("uniform", 23, seed=4),
        Recording("SAC", 2, 5, EXPERT_TRAINING),
    ),
    "pendulum/two-policies-v0": (
        Recording("controller", 13, seed=6, deterministic=True),
        Recording("SAC", 12, 7, MEDIUM_TRAINING, deterministic=True),
    ),
}
"""Datasets by the recordings that they are joined from."""

SELECTED: dict[str, tuple[str, Sequence[int]]] = {
    "pendulum/narrow-v0": ("pendulum/replay-v0", range(10, 20)),
    "pendulum/early-v0": ("pendulum/replay-v0", range(25)),
    "pendulum/replay-small-v0": ("pendulum/replay-v0", range(5, 100, 10)),
    "pendulum/medium-small-v0": ("pendulum/medium-v0", range(10)),
    "pendulum/expert-small-v0": ("pendulum/expert-v0", range(10)),
}
"""Datasets by the dataset and the episodes that they are selected from."""


def make_recorded(out: str | Path) -> Iterator[OfflineDataset]:
    """Record what ``RECORDED`` lists; what is there already is loaded and verified.

    Args:
        out: folder for datasets; each goes to ``out / name``.
    """
    agents: dict[int, SAC] = {}

    def trained(episodes: int) -> SAC:
        if episodes not in agents:
            agents[episodes] = agent_after(episodes)
        return agents[episodes]

    for name, recordings in RECORDED.items():
        folder = Path(out) / name
        made = {
            "how": "recordings of policies that do not learn",
            "recordings": [asdict(recording) for recording in recordings],
        }
        if (dataset := existing_dataset(folder, made)) is None:
            parts = [
                record_policy(
                    _policy(recording, trained),
                    ENV_ID,
                    recording.episodes,
                    recording.seed,
                    deterministic=recording.deterministic,
                )
                for recording in recordings
            ]
            store_dataset(join_datasets(parts, name), folder, ENV_ID, made)
            dataset = load_dataset(folder)
        yield dataset


def make_selected(out: str | Path) -> Iterator[OfflineDataset]:
    """Select what ``SELECTED`` lists from the datasets in ``out``."""
    for name, (source, episodes) in SELECTED.items():
        yield collect_selection(load_dataset(Path(out) / source), out, name, episodes)


def _policy(recording: Recording, trained: Callable[[int], SAC]) -> Policy:
    if recording.behaviour == "uniform":
        return RandomPolicy(_torques(), recording.seed)
    if recording.behaviour == "controller":
        return SwingUpController()
    assert recording.trained_episodes is not None
    agent = trained(recording.trained_episodes)
    # Each recording draws its own actions, whatever was recorded before it.
    agent.generator.manual_seed(recording.seed)
    return agent


def _torques() -> Box:
    env = make_environment(ENV_ID)
    assert isinstance(env.action_space, Box)
    return env.action_space
