"""Make the datasets: online SAC from scratch, every transition kept, stored through Minari.

``python -m offline_rl_lib.collecting`` makes the shipped datasets again. A killed run goes on
where it was, and gives the same bits as one that was never stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer  # type: ignore[import-untyped]
from minari.dataset.minari_storage import MinariStorage  # type: ignore[import-untyped]
from torch import Tensor

from offline_rl_lib.data import (
    CARD_FILE,
    SHIPPED_DATASETS,
    OfflineDataset,
    TransitionBatch,
    load_dataset,
)
from offline_rl_lib.densities import uniform_actions
from offline_rl_lib.progress import progress
from offline_rl_lib.sac import SAC, SACSettings

REPLAY = "pendulum/replay-v0"
DATA_FILES = "data"

PENDULUM_SAC = SACSettings(
    critic_learning_rate=3e-3,
    # Pendulum's rewards lie between -16.3 and 0; this brings them to about [-1, 1].
    reward_shift=8.0,
    reward_scale=1 / 8,
)


@dataclass(frozen=True)
class CollectionSettings:
    """Everything that determines the data, apart from versions and machine.

    Attributes:
        env_id: a registered environment with a time limit and boxes of shape (o,) and (d,).
        episodes: number of episodes to collect.
        seed: fixes the starts, the warm-up actions and the minibatches. The agent has its own.
        warm_up_steps: first steps, taken with uniform actions and without learning. They cover the
            whole action box before the policy narrows.
        batch_size: transitions per update. There is one update per step after the warm-up.
        sac: settings of the agent.
    """

    env_id: str = "Pendulum-v1"
    episodes: int = 100
    seed: int = 0
    warm_up_steps: int = 1000
    batch_size: int = 64
    sac: SACSettings = field(default_factory=lambda: PENDULUM_SAC)


class ReplayBuffer:
    """The transitions collected so far, in tensors with room for all that will come.

    Args:
        capacity: most transitions it can hold.
        observation_size: o.
        action_size: d.
    """

    def __init__(self, capacity: int, observation_size: int, action_size: int) -> None:
        self.size = 0
        self.columns: dict[str, Tensor] = {
            "observation": torch.zeros(capacity, observation_size),
            "action": torch.zeros(capacity, action_size),
            "reward": torch.zeros(capacity),
            "next_observation": torch.zeros(capacity, observation_size),
            "terminated": torch.zeros(capacity, dtype=torch.bool),
            "truncated": torch.zeros(capacity, dtype=torch.bool),
            "episode": torch.zeros(capacity, dtype=torch.int64),
        }

    def add(self, **transition: npt.ArrayLike) -> None:
        """Append one transition, given by the names of the columns."""
        for name, column in self.columns.items():
            column[self.size] = torch.as_tensor(transition[name])
        self.size += 1

    def sample(self, batch_size: int, generator: torch.Generator) -> TransitionBatch:
        """Draw a minibatch uniformly, with replacement, from the transitions so far."""
        index = torch.randint(self.size, (batch_size,), generator=generator)
        return TransitionBatch(*(self.columns[name][index] for name in TransitionBatch._fields))

    def contents(self) -> dict[str, Tensor]:
        """Copy the columns, cut to the transitions so far."""
        return {name: column[: self.size].clone() for name, column in self.columns.items()}

    def restore(self, contents: Mapping[str, Tensor]) -> None:
        """Put back what ``contents`` gave."""
        self.size = len(contents["reward"])
        for name, column in self.columns.items():
            column[: self.size] = contents[name]


def collect_dataset(
    out: str | Path,
    name: str = REPLAY,
    settings: CollectionSettings | None = None,
    checkpoint_every: int = 5,
) -> OfflineDataset:
    """Train SAC online from scratch and store every transition it collected.

    Interrupt it as you like: called again, it goes on from the last checkpoint, and the data are
    bit for bit those of an uninterrupted run. If the dataset is already there, made with the same
    settings, it is loaded and nothing is computed.

    Args:
        out: folder for datasets; the data go to ``out / name``.
        name: of the dataset, ``group/name-v0``.
        settings: what to collect; the shipped replay data if left out.
        checkpoint_every: episodes between two checkpoints.

    Returns:
        The stored dataset, read back and verified.

    Raises:
        ValueError: an unknown or unsuitable environment, or a started collection of other settings.
        FileExistsError: a dataset of other settings has that name.
    """
    settings = settings or CollectionSettings()
    folder = Path(out) / name
    made = {"how": "online SAC from scratch, every transition kept", **asdict(settings)}
    if (existing := existing_dataset(folder, made)) is not None:
        return existing
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    env = make_environment(settings.env_id)
    try:
        collection = Collection(env, settings)
        done = collection.resume(unfinished)
        for episode in progress(range(done, settings.episodes), description=name):
            collection.run_episode(episode)
            if (episode + 1) % checkpoint_every == 0:
                collection.save(unfinished, episode + 1)
        dataset = collection.dataset(name)
    finally:
        env.close()
    store_dataset(dataset, folder, settings.env_id, made)
    shutil.rmtree(unfinished, ignore_errors=True)
    return load_dataset(folder)


def collect_selection(
    source: OfflineDataset, out: str | Path, name: str, episodes: Iterable[int]
) -> OfflineDataset:
    """Store some episodes of a stored dataset as a dataset of its own.

    Args:
        source: a dataset with a card.
        out: folder for datasets; the data go to ``out / name``.
        name: of the new dataset, ``group/name-v0``.
        episodes: numbers of the episodes in the source. They are numbered from 0 in the new one.

    Raises:
        ValueError: an episode that the source does not have.
        FileExistsError: a dataset made in another way has that name.
    """
    selection = source.select_episodes(episodes, name)
    made = {
        "how": f"episodes of {source.name}",
        "source": source.name,
        "source_sha256": source.card["sha256"],
        "source_episodes": selection.episode.unique().tolist(),
    }
    folder = Path(out) / name
    if (existing := existing_dataset(folder, made)) is not None:
        return existing
    store_dataset(selection, folder, source.card["env_id"], made)
    return load_dataset(folder)


def store_dataset(
    dataset: OfflineDataset, folder: Path, env_id: str, made: Mapping[str, Any]
) -> None:
    """Write a dataset as a Minari folder with a data card.

    The folder appears only when it is complete. Minari finds it if ``MINARI_DATASETS_PATH`` points
    at the folder above the dataset's name.

    Args:
        dataset: what to write; its name becomes Minari's id.
        folder: where to write; it must not exist.
        env_id: the environment that the data came from.
        made: how the data were made, for the card.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    storage = MinariStorage.new(
        partial / DATA_FILES,
        observation_space=dataset.observation_space,
        action_space=dataset.action_space,
        env_spec=_serialisable_spec(env_id),
    )
    storage.update_episodes(_episode_buffers(dataset))
    storage.update_metadata(
        {
            "dataset_id": dataset.name,
            "minari_version": version("minari"),
            "description": f"{made['how']}; see {CARD_FILE}",
        }
    )
    # The hash is that of the data as they are read back, so it also covers the way through Minari.
    stored = load_dataset(partial)
    card = _card(stored, dataset.name, env_id, made)
    (partial / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (partial / "card.md").write_text(card_as_markdown(card), encoding="utf-8")
    partial.rename(folder)


def card_as_markdown(card: Mapping[str, Any]) -> str:
    """Render a data card for people to read."""
    returns = np.array(card["returns"])
    blocks = [
        f"| {start}–{start + len(block) - 1} | {block.mean():.0f} | {block.min():.0f} | "
        f"{block.max():.0f} |"
        for start in range(0, len(returns), 10)
        for block in [returns[start : start + 10]]
    ]
    settings = [f"- {key}: `{json.dumps(value)}`" for key, value in card["made"].items()]
    versions = ", ".join(f"{name} {number}" for name, number in card["versions"].items())
    lines = [
        f"# {card['name']}",
        "",
        f"{card['transitions']} transitions of `{card['env_id']}` in {card['episodes']} episodes; "
        f"{card['terminated']} ended by the task, {card['truncated']} by the time limit. "
        f"Mean return {returns.mean():.1f} per episode.",
        "",
        "## How it was made",
        "",
        *settings,
        "",
        f"Made with {versions} on {card['machine']}. Another version or machine gives data that "
        "differ in the last bits first, and then in everything, because the agent learns from its "
        "own data.",
        "",
        "## Returns by episode",
        "",
        "| episodes | mean | lowest | highest |",
        "|---|---|---|---|",
        *blocks,
        "",
        "## What is stored",
        "",
        "A Minari dataset (`data/`), float32. Rewards and actions are in the units of the "
        "environment, neither shifted nor scaled. `terminated` and `truncated` are apart. "
        "An episode of T steps has T + 1 observations; the last is the true final one.",
        "",
        "SHA-256 of the transitions (the rule is in `OfflineDataset.content_hash`):",
        f"`{card['sha256']}`",
    ]
    return "\n".join(lines) + "\n"


class Collection:
    """The agent, its data so far, and how to go on."""

    def __init__(self, env: gym.Env[Any, Any], settings: CollectionSettings) -> None:
        self.env, self.settings = env, settings
        self.agent = SAC(env.observation_space, env.action_space, settings.sac)
        assert env.spec is not None
        assert env.spec.max_episode_steps is not None
        capacity = settings.episodes * env.spec.max_episode_steps
        self.buffer = ReplayBuffer(capacity, self.agent.observation_size, self.agent.action_size)

    def run_episode(self, episode: int) -> None:
        """Collect one episode, learning after every step once the warm-up is over.

        All randomness outside the agent follows from the seed and the number of the episode, so a
        checkpoint between episodes has no generator to remember but the agent's.
        """
        start_seed, other_seed = self._seeds(episode)
        generator = torch.Generator().manual_seed(other_seed)
        low, high = self.agent.low.cpu(), self.agent.high.cpu()
        observation, _ = self.env.reset(seed=start_seed)
        terminated = truncated = False
        while not (terminated or truncated):
            warming_up = self.buffer.size < self.settings.warm_up_steps
            if warming_up:
                action = uniform_actions((), low, high, generator).numpy()
            else:
                action = self.agent.act(observation, deterministic=False)
            next_observation, reward, terminated, truncated, _ = self.env.step(action)
            self.buffer.add(
                observation=observation,
                action=action,
                reward=float(reward),
                next_observation=next_observation,
                terminated=terminated,
                truncated=truncated,
                episode=episode,
            )
            observation = next_observation
            if not warming_up:
                self.agent.update(self.buffer.sample(self.settings.batch_size, generator))

    def save(self, folder: Path, episodes_done: int) -> None:
        """Write a checkpoint; an older one is removed only when the new one is complete."""
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.agent.save(partial / "agent.pt")
        torch.save(self.buffer.contents(), partial / "transitions.pt")
        (partial / "settings.json").write_text(json.dumps(asdict(self.settings)), encoding="utf-8")
        older = list(folder.glob("after-*"))
        partial.rename(folder / f"after-{episodes_done:06d}")
        for checkpoint in older:
            shutil.rmtree(checkpoint)

    def resume(self, folder: Path) -> int:
        """Restore the last checkpoint, if there is one; return the number of episodes done."""
        checkpoints = sorted(folder.glob("after-*"))
        if not checkpoints:
            return 0
        last = checkpoints[-1]
        started = json.loads((last / "settings.json").read_text(encoding="utf-8"))
        if started != _plain(asdict(self.settings)):
            raise ValueError(
                f"{folder} holds a started collection with other settings: {started}. "
                "Go on with those, or remove the folder to start anew."
            )
        self.agent.load(last / "agent.pt")
        self.buffer.restore(torch.load(last / "transitions.pt", weights_only=True))
        return int(last.name.removeprefix("after-"))

    def dataset(self, name: str) -> OfflineDataset:
        """Everything collected, as a dataset."""
        observation_space, action_space = self.env.observation_space, self.env.action_space
        assert isinstance(observation_space, Box)
        assert isinstance(action_space, Box)
        columns: dict[str, Any] = self.buffer.contents()
        return OfflineDataset(
            **columns,
            observation_space=observation_space,
            action_space=action_space,
            name=name,
        )

    def _seeds(self, episode: int) -> tuple[int, int]:
        start_seed, other_seed = np.random.SeedSequence(
            [self.settings.seed, episode]
        ).generate_state(2)
        return int(start_seed), int(other_seed)


def make_environment(env_id: str) -> gym.Env[Any, Any]:
    """Make a registered environment that has a time limit.

    Raises:
        ValueError: an unknown environment, or one without a time limit.
    """
    try:
        env = gym.make(env_id)
    except gym.error.Error as error:
        raise ValueError(f"Unknown environment {env_id!r}: {error}") from error
    if env.spec is None or env.spec.max_episode_steps is None:
        raise ValueError(
            f"Environment {env_id!r} has no time limit, so an episode may never end. "
            "Register it with max_episode_steps=..."
        )
    return env


def _serialisable_spec(env_id: str) -> gym.envs.registration.EnvSpec | None:
    """The environment's specification, or None if it was registered with a class, not a name."""
    spec = gym.spec(env_id)
    return spec if isinstance(spec.entry_point, str) else None


def existing_dataset(folder: Path, made: Mapping[str, Any]) -> OfflineDataset | None:
    """Load the dataset if it is there and was made like this; None if it is not there."""
    if not folder.exists():
        return None
    dataset = load_dataset(folder)
    if dataset.card.get("made") != _plain(made):
        raise FileExistsError(
            f"{folder} already holds a dataset that was made in another way. Choose another folder "
            "or name, or remove it first."
        )
    return dataset


def _episode_buffers(dataset: OfflineDataset) -> list[EpisodeBuffer]:
    _, lengths = torch.unique_consecutive(dataset.episode, return_counts=True)
    ends = lengths.cumsum(0).tolist()
    buffers = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        rows = slice(start, end)
        final = dataset.next_observation[end - 1 : end]
        buffers.append(
            EpisodeBuffer(
                observations=torch.cat((dataset.observation[rows], final)).numpy(),
                actions=dataset.action[rows].numpy(),
                rewards=dataset.reward[rows].numpy(),
                terminations=dataset.terminated[rows].numpy(),
                truncations=dataset.truncated[rows].numpy(),
            )
        )
    return buffers


def _card(
    dataset: OfflineDataset, name: str, env_id: str, made: Mapping[str, Any]
) -> dict[str, Any]:
    returns = dataset.episode_returns()
    packages = ("gymnasium", "minari", "numpy", "torch")
    return {
        "name": name,
        "env_id": env_id,
        "transitions": len(dataset),
        "episodes": len(returns),
        "terminated": int(dataset.terminated.sum()),
        "truncated": int(dataset.truncated.sum()),
        "made": _plain(made),
        "command": "python -m offline_rl_lib.collecting",
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "machine": f"{platform.system()} {platform.machine()}",
        "returns": [round(value, 3) for value in returns.tolist()],
        "sha256": dataset.content_hash(),
    }


def _plain(settings: Mapping[str, Any]) -> Any:
    """The settings as JSON gives them back, to compare with a stored card."""
    return json.loads(json.dumps(settings))


def main(arguments: list[str] | None = None) -> int:
    """Make the shipped datasets again and say whether they are bit for bit the same."""
    parser = argparse.ArgumentParser(
        prog="python -m offline_rl_lib.collecting",
        description="Make the book's datasets again. Safe to interrupt and to repeat.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("datasets"),
        help="folder to write to (default: %(default)s)",
    )
    out: Path = parser.parse_args(arguments).out
    from offline_rl_lib import behaviours  # It imports this module, so it cannot come first.

    # One thread: the data are the same bits on every run, and these small networks gain nothing.
    torch.set_num_threads(1)
    try:
        datasets = [collect_dataset(out, REPLAY)]
        datasets += behaviours.make_recorded(out)
        datasets += behaviours.make_selected(out)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    for dataset in datasets:
        shipped = SHIPPED_DATASETS / dataset.name / CARD_FILE
        same = shipped.is_file() and (
            json.loads(shipped.read_text(encoding="utf-8"))["sha256"] == dataset.card["sha256"]
        )
        print(
            f"{out / dataset.name}: {len(dataset)} transitions, mean return "
            f"{dataset.episode_returns().mean():.1f}, "
            f"{'the same bits as' if same else 'other bits than'} the shipped data"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
