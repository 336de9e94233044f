"""Transitions: a dataset as tensors, read from Minari folders, sampled in minibatches.

A dataset on disk is a Minari dataset folder, with ``card.json`` beside its ``data`` folder: how
the data was made, and the hash that loading verifies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Space
from minari.dataset.minari_storage import MinariStorage  # type: ignore[import-untyped]
from torch import Tensor

from offline_rl_lib.agent import action_box

SHIPPED_DATASETS = Path(__file__).parent / "datasets"
CARD_FILE = "card.json"
EPISODES_AT_ONCE = 250  # HDF5 keeps notes on each episode that it opened, until it closes the file.


class TransitionBatch(NamedTuple):
    """A minibatch of B transitions.

    Attributes:
        observation: (B, o) float32.
        action: (B, d) float32, in environment units.
        reward: (B,) float32, as the environment gave it, neither shifted nor scaled.
        next_observation: (B, o) float32, what followed; at a time limit the true next one.
        terminated: (B,) bool, true where the task itself ended. Nothing is gained after it.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor


@dataclass(frozen=True, eq=False)
class OfflineDataset:
    """All n transitions of a dataset, in the order in which they were collected.

    ``terminated`` and ``truncated`` are kept apart: the task ended, or only the recording did.

    Attributes:
        observation: (n, o) float32.
        action: (n, d) float32, in environment units, inside the action space.
        reward: (n,) float32, in the units of the environment.
        next_observation: (n, o) float32, also at the end of an episode the true next observation.
        terminated: (n,) bool.
        truncated: (n,) bool.
        episode: (n,) int64, number of the episode; equal for neighbours of one episode.
        observation_space: box of shape (o,).
        action_space: box of shape (d,) with finite bounds.
        name: how the dataset is called in messages and cards.
        card: the data card, empty if there is none.

    Raises:
        ValueError: on creation, if shapes do not fit the spaces or each other, an observation,
            action or reward is not finite, or an action lies outside the action space.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    truncated: Tensor
    episode: Tensor
    observation_space: Box
    action_space: Box
    name: str = "dataset"
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_spaces(self.name, self.observation_space, self.action_space)
        _check_shapes(self)
        _check_values(self)

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.reward)

    def sample(self, batch_size: int, generator: torch.Generator) -> TransitionBatch:
        """Draw a minibatch uniformly, with replacement.

        Args:
            batch_size: B, from 1 to the number of transitions.
            generator: source of the randomness; the same state gives the same batch.

        Raises:
            ValueError: batch size below 1, or above the size of the dataset.
        """
        if not 1 <= batch_size <= len(self):
            raise ValueError(
                f"Cannot draw a batch of {batch_size} from {self.name!r}, which has {len(self)} "
                f"transitions: choose a batch size from 1 to {len(self)}."
            )
        index = torch.randint(
            len(self), (batch_size,), generator=generator, device=generator.device
        ).to(self.reward.device)
        return TransitionBatch(
            self.observation[index],
            self.action[index],
            self.reward[index],
            self.next_observation[index],
            self.terminated[index],
        )

    def episode_returns(self) -> Tensor:
        """Undiscounted return of each episode, in the order of collection: (episodes,) float64."""
        numbers, position = torch.unique_consecutive(self.episode, return_inverse=True)
        returns = torch.zeros(len(numbers), dtype=torch.float64, device=self.reward.device)
        return returns.index_add_(0, position, self.reward.double())

    def select_episodes(self, episodes: Iterable[int], name: str | None = None) -> OfflineDataset:
        """The transitions of some episodes only, in the order of collection.

        Args:
            episodes: episode numbers, e.g. ``range(20, 30)``.
            name: of the new dataset. The card is not carried over: it describes the whole.

        Raises:
            ValueError: an episode that the dataset does not have, or none at all.
        """
        wanted = torch.tensor(sorted(set(episodes)), dtype=torch.int64, device=self.episode.device)
        missing = wanted[~torch.isin(wanted, self.episode)].tolist()
        if missing or len(wanted) == 0:
            raise ValueError(
                f"Cannot select episodes {missing or '(none given)'} of {self.name!r}: it has the "
                f"episodes {int(self.episode.min())} to {int(self.episode.max())}."
            )
        chosen = torch.isin(self.episode, wanted)
        columns = {key: getattr(self, key)[chosen] for key in COLUMNS}
        return replace(self, **columns, name=name or f"{self.name} (selection)", card={})

    def to(self, device: str | torch.device) -> Self:
        """The same dataset with its tensors on another device."""
        return replace(self, **{key: getattr(self, key).to(device) for key in COLUMNS})

    def content_hash(self) -> str:
        """SHA-256 of the transitions, as hexadecimal digits.

        Over, for each column in the order of ``COLUMNS``: its name, its type and shape (such as
        ``observation float32 (20000, 3)``, in ASCII) and its bytes, row by row, little-endian.
        """
        digest = hashlib.sha256()
        for key in COLUMNS:
            array = getattr(self, key).cpu().numpy()
            digest.update(f"{key} {array.dtype.name} {array.shape}".encode("ascii"))
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        return digest.hexdigest()


COLUMNS = tuple(field.name for field in fields(OfflineDataset))[:7]
"""The tensors of a dataset, from observation to episode."""


def shipped_datasets() -> list[str]:
    """Names of the datasets that come with the package, such as ``pendulum/replay-v0``."""
    folders = (card.parent for card in SHIPPED_DATASETS.glob(f"**/{CARD_FILE}"))
    return sorted(folder.relative_to(SHIPPED_DATASETS).as_posix() for folder in folders)


def load_dataset(name_or_path: str | Path) -> OfflineDataset:
    """Read a dataset and verify it.

    Args:
        name_or_path: the name of a shipped dataset (``"pendulum/replay-v0"``), or the path of a
            Minari dataset folder, the one that holds ``data``.

    Returns:
        The dataset. If the folder has a ``card.json``, its hash has been verified; every shipped
        dataset has one. Datasets made elsewhere have none and load without verification.

    Raises:
        FileNotFoundError: no dataset of that name and no such folder.
        ValueError: the files are damaged, their content does not have the hash on the card, or the
            transitions break a rule of ``OfflineDataset``.
    """
    folder = _find(name_or_path)
    card = _read_card(folder)
    dataset = _read(folder, str(card["name"]) if card else folder.name, card)
    if card and dataset.content_hash() != card["sha256"]:
        raise ValueError(
            f"The data in {folder} is not what its card describes: its SHA-256 is "
            f"{dataset.content_hash()}, the card says {card['sha256']}. The files were changed or "
            "damaged. Restore them from the repository, or make the data again with "
            "python -m offline_rl_lib.collecting."
        )
    return dataset


def _find(name_or_path: str | Path) -> Path:
    known = shipped_datasets()
    if str(name_or_path) in known:
        return SHIPPED_DATASETS / str(name_or_path)
    folder = Path(name_or_path)
    if (folder / "data" / "metadata.json").is_file():
        return folder
    holds_none = "holds no Minari dataset (data/metadata.json is missing)"
    what = holds_none if folder.is_dir() else "does not exist"
    raise FileNotFoundError(
        f"No dataset {str(name_or_path)!r}: it is not the name of a shipped dataset "
        f"({', '.join(known)}), and as a folder it {what}."
    )


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD_FILE
    if not path.is_file():
        if folder.is_relative_to(SHIPPED_DATASETS):
            raise ValueError(
                f"The shipped dataset in {folder} has lost its {CARD_FILE}, so it cannot be "
                "verified. Restore it from the repository."
            )
        return {}
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("name", "sha256"):
            card[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"The data card {path} cannot be used ({error!r}); it must be a JSON object with at "
            "least 'name' and 'sha256'. Restore it, or remove it to load without verification."
        ) from error
    return card


def _read(folder: Path, name: str, card: Mapping[str, Any]) -> OfflineDataset:
    try:
        storage = MinariStorage.read(folder / "data")
        episodes = []
        for start in range(0, storage.total_episodes, EPISODES_AT_ONCE):
            stop = min(start + EPISODES_AT_ONCE, storage.total_episodes)
            episodes += storage.get_episodes(range(start, stop))
    except Exception as error:  # Minari and HDF5 raise many kinds for the one cause: damaged files
        raise ValueError(
            f"The Minari dataset in {folder} cannot be read; its files are incomplete or damaged "
            f"({type(error).__name__}: {error}). Copy or make the dataset again."
        ) from error
    if not episodes:
        raise ValueError(f"The Minari dataset in {folder} has no episodes.")
    # Checked before anything is stacked: a dictionary of observations has no shape.
    observation_space, action_space = _check_spaces(
        name, storage.observation_space, storage.action_space
    )
    for episode in episodes:
        _check_episode(name, episode)

    def joined(key: str, rows: slice, dtype: npt.DTypeLike) -> Tensor:
        parts = [episode[key][rows] for episode in episodes]
        return torch.from_numpy(np.concatenate(parts).astype(dtype, copy=False))

    every, all_but_last, all_but_first = slice(None), slice(None, -1), slice(1, None)
    lengths = torch.tensor([len(episode["rewards"]) for episode in episodes])
    return OfflineDataset(
        # Minari stores T + 1 observations for T actions: the last is the true final one.
        observation=joined("observations", all_but_last, np.float32),
        action=joined("actions", every, np.float32),
        reward=joined("rewards", every, np.float32),
        next_observation=joined("observations", all_but_first, np.float32),
        terminated=joined("terminations", every, np.bool_),
        truncated=joined("truncations", every, np.bool_),
        episode=torch.repeat_interleave(torch.arange(len(episodes)), lengths),
        observation_space=observation_space,
        action_space=action_space,
        name=name,
        card=card,
    )


def _check_episode(name: str, episode: Mapping[str, Any]) -> None:
    lengths = {
        key: len(episode[key])
        for key in ("observations", "actions", "rewards", "terminations", "truncations")
    }
    steps = lengths["rewards"]
    if lengths != {**dict.fromkeys(lengths, steps), "observations": steps + 1}:
        raise ValueError(
            f"Episode {episode['id']} of {name!r} is inconsistent: T steps need T + 1 observations "
            f"and T of everything else, but the lengths are {lengths}."
        )


def _check_spaces(
    name: str, observation_space: Space[Any], action_space: Space[Any]
) -> tuple[Box, Box]:
    if not isinstance(observation_space, Box) or len(observation_space.shape) != 1:
        raise ValueError(
            f"Dataset {name!r} has the observation space {observation_space}; a Box of shape (o,) "
            "is needed. Flatten the observations before you store them."
        )
    try:
        action_box(action_space)
    except ValueError as error:
        raise ValueError(f"Dataset {name!r}: {error}") from error
    assert isinstance(action_space, Box)
    return observation_space, action_space


def _check_shapes(dataset: OfflineDataset) -> None:
    size = len(dataset.reward) if dataset.reward.dim() else 0
    if size == 0:
        raise ValueError(f"Dataset {dataset.name!r} has no transitions.")
    observation, action = (
        (size, *dataset.observation_space.shape),
        (size, *dataset.action_space.shape),
    )
    expected = dict.fromkeys(COLUMNS, ((size,), torch.bool)) | {
        "observation": (observation, torch.float32),
        "action": (action, torch.float32),
        "reward": ((size,), torch.float32),
        "next_observation": (observation, torch.float32),
        "episode": ((size,), torch.int64),
    }
    for key, (shape, dtype) in expected.items():
        tensor = getattr(dataset, key)
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(
                f"{key} of dataset {dataset.name!r} has shape {tuple(tensor.shape)} and type "
                f"{tensor.dtype}; {size} rewards, the observation space of shape "
                f"{dataset.observation_space.shape} and the action space of shape "
                f"{dataset.action_space.shape} need shape {shape} and type {dtype}."
            )


def _check_values(dataset: OfflineDataset) -> None:
    for key in ("observation", "action", "reward", "next_observation"):
        values = getattr(dataset, key).reshape(len(dataset), -1)
        finite = values.isfinite().all(dim=1)
        if not finite.all():
            first = int((~finite).nonzero()[0])
            raise ValueError(
                f"{key} of dataset {dataset.name!r} is not finite in {int((~finite).sum())} of "
                f"{len(dataset)} transitions; the first is {_place(dataset, first)}, with "
                f"{values[first].tolist()}. Remove or repair these transitions."
            )
    low = torch.as_tensor(dataset.action_space.low, device=dataset.action.device)
    high = torch.as_tensor(dataset.action_space.high, device=dataset.action.device)
    inside = ((dataset.action >= low) & (dataset.action <= high)).all(dim=1)
    if not inside.all():
        first = int((~inside).nonzero()[0])
        raise ValueError(
            f"Dataset {dataset.name!r} has {int((~inside).sum())} actions outside the action space "
            f"[{low.tolist()}, {high.tolist()}]; the first is {_place(dataset, first)}, with "
            f"{dataset.action[first].tolist()}. Actions must be in environment units: undo a "
            "rescaling, or clip them if the environment clipped them."
        )


def _place(dataset: OfflineDataset, row: int) -> str:
    return f"transition {row} (episode {int(dataset.episode[row])})"
