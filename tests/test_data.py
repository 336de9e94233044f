"""Datasets: reading, verifying, sampling, and every way in which a dataset can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from scipy import stats

from offline_rl_lib.collecting import store_dataset
from offline_rl_lib.data import (
    CARD_FILE,
    COLUMNS,
    SHIPPED_DATASETS,
    OfflineDataset,
    load_dataset,
    shipped_datasets,
)

LENGTHS = (3, 5, 4)
OBSERVATIONS = Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))


def make_dataset(**changes: Any) -> OfflineDataset:
    """Three episodes; the second one is terminated, the others are truncated."""
    generator = torch.Generator().manual_seed(0)
    size = sum(LENGTHS)
    ends = np.cumsum(LENGTHS) - 1
    states = [torch.randn(length + 1, 3, generator=generator) for length in LENGTHS]
    columns: dict[str, Any] = {
        "observation": torch.cat([state[:-1] for state in states]),
        "action": torch.rand(size, 2, generator=generator),
        "reward": torch.randn(size, generator=generator),
        "next_observation": torch.cat([state[1:] for state in states]),
        "terminated": torch.zeros(size, dtype=torch.bool),
        "truncated": torch.zeros(size, dtype=torch.bool),
        "episode": torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS)),
        "observation_space": OBSERVATIONS,
        "action_space": ACTIONS,
        "name": "tests/tiny-v0",
    }
    columns["terminated"][ends[1]] = True
    columns["truncated"][ends[[0, 2]]] = True
    return OfflineDataset(**(columns | changes))


def changed(key: str, row: int, value: float) -> torch.Tensor:
    column = getattr(make_dataset(), key).clone()
    column[row] = value
    return column


def reversed_box() -> Box:
    # Gymnasium refuses to build one, but its bounds can be overwritten.
    box = Box(-2, 2, (2,))
    box.low[0] = 5
    return box


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "tests" / "tiny-v0"
    store_dataset(make_dataset(), target, "Pendulum-v1", {"how": "by a test"})
    return target


def assert_same(first: OfflineDataset, second: OfflineDataset) -> None:
    for key in COLUMNS:
        assert torch.equal(getattr(first, key), getattr(second, key)), key


def test_a_stored_dataset_reads_back_bit_for_bit(folder: Path) -> None:
    loaded = load_dataset(folder)
    assert_same(loaded, make_dataset())
    assert loaded.name == "tests/tiny-v0"
    assert loaded.observation_space == OBSERVATIONS
    assert loaded.action_space == ACTIONS
    assert loaded.card["sha256"] == make_dataset().content_hash()


def test_next_observation_is_the_following_one_and_the_true_last_one(folder: Path) -> None:
    data = load_dataset(folder)
    same_episode = data.episode[1:] == data.episode[:-1]
    assert torch.equal(data.next_observation[:-1][same_episode], data.observation[1:][same_episode])
    # At the end of an episode it is not the first observation of the next episode.
    ends = (~same_episode).nonzero().flatten()
    for end in ends.tolist():
        assert not torch.equal(data.next_observation[end], data.observation[end + 1])


def test_terminated_and_truncated_stay_apart(folder: Path) -> None:
    data = load_dataset(folder)
    assert data.terminated.nonzero().flatten().tolist() == [7]
    assert data.truncated.nonzero().flatten().tolist() == [2, 11]
    batch = data.sample(len(data), torch.Generator().manual_seed(0))
    assert batch.terminated.dtype == torch.bool
    assert not hasattr(batch, "truncated")


def test_plain_minari_reads_the_folder(folder: Path) -> None:
    program = "import minari; d = minari.load_dataset('tests/tiny-v0'); print(d.total_steps)"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MINARI_DATASETS_PATH": str(folder.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(sum(LENGTHS))


def test_a_foreign_dataset_without_card_loads_unverified(folder: Path) -> None:
    (folder / CARD_FILE).unlink()
    loaded = load_dataset(folder)
    assert_same(loaded, make_dataset())
    assert loaded.card == {}


# Sampling and selecting


def test_sampling_is_uniform_over_transitions() -> None:
    data = replace(make_dataset(), reward=torch.arange(12.0))
    generator = torch.Generator().manual_seed(1)
    drawn = torch.cat([data.sample(12, generator).reward for _ in range(1_000)])
    assert stats.chisquare(torch.bincount(drawn.long(), minlength=12).numpy()).pvalue > 1e-3


def test_a_batch_keeps_transitions_whole_and_repeats_with_the_generator() -> None:
    data = make_dataset()
    batch, again = (data.sample(8, torch.Generator().manual_seed(2)) for _ in range(2))
    for column, same_column in zip(batch, again, strict=True):
        assert torch.equal(column, same_column)
    rows = [int((data.reward == reward).nonzero()) for reward in batch.reward]
    for key, column in batch._asdict().items():
        assert torch.equal(column, getattr(data, key)[rows])


def test_episode_returns_sum_the_rewards_of_each_episode() -> None:
    data = make_dataset()
    expected = [part.double().sum() for part in data.reward.split(LENGTHS)]
    torch.testing.assert_close(data.episode_returns(), torch.stack(expected))


def test_selected_episodes_are_whole_and_in_order() -> None:
    data = make_dataset()
    part = data.select_episodes([2, 0], name="part")
    assert part.name == "part"
    assert part.episode.unique_consecutive().tolist() == [0, 2]
    torch.testing.assert_close(part.episode_returns(), data.episode_returns()[[0, 2]])
    assert part.card == {}
    with pytest.raises(ValueError, match=r"episodes \[7\].*episodes 0 to 2"):
        data.select_episodes([1, 7])
    with pytest.raises(ValueError, match="none given"):
        data.select_episodes([])


@pytest.mark.parametrize("batch_size", [0, -1, 13])
def test_batch_size_must_fit_the_dataset(batch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch of {batch_size}.*12 transitions.*from 1 to 12"):
        make_dataset().sample(batch_size, torch.Generator())


def test_moving_to_a_device_keeps_the_content() -> None:
    data = make_dataset()
    assert_same(data.to("cpu"), data)


# What is wrong with the content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observation", float("nan")),
        ("action", float("nan")),
        ("reward", float("inf")),
        ("next_observation", float("-inf")),
    ],
)
def test_values_that_are_not_finite_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{key} of .*not finite.*transition 4 \(episode 1\)"):
        make_dataset(**{key: changed(key, 4, value)})


def test_an_action_outside_the_box_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 actions outside .*transition 9 \(episode 2\)"):
        make_dataset(action=changed("action", 9, 2.0001))
    # The bounds themselves are inside.
    make_dataset(action=changed("action", 9, 2.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"action_space": Box(-2, 2, (1,))},
        {"observation_space": Box(-1, 1, (4,))},
        {"reward": torch.zeros(12, 1)},
        {"reward": torch.zeros(11)},
        {"reward": torch.zeros(12, dtype=torch.float64)},
        {"terminated": torch.zeros(12)},
        {"episode": torch.zeros(12)},
    ],
)
def test_shapes_and_types_must_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tests/tiny-v0.* has shape .* need shape .* type"):
        make_dataset(**changes)


def test_an_empty_dataset_is_refused() -> None:
    data = make_dataset()
    with pytest.raises(ValueError, match="no transitions"):
        replace(data, **{key: getattr(data, key)[:0] for key in COLUMNS})


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (Discrete(3), "box of continuous actions"),
        (Box(-np.inf, np.inf, (2,)), "finite bounds"),
        (Box(1, 1, (2,)), "below its upper"),
        (reversed_box(), "below its upper"),
    ],
)
def test_the_action_space_must_be_a_finite_box(space: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"tests/tiny-v0.*{reason}"):
        make_dataset(action_space=space)


def test_the_observation_space_must_be_a_flat_box() -> None:
    with pytest.raises(ValueError, match="Flatten"):
        make_dataset(observation_space=Box(0, 1, (3, 1)))


# What is wrong with the files


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_dataset("pendulum/expert-v9")
    assert "pendulum/expert-v9" in str(error.value)
    assert "does not exist" in str(error.value)
    for name in shipped_datasets():
        assert name in str(error.value)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no Minari dataset"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, -1000])
def test_a_cut_file_is_refused(folder: Path, keep: int) -> None:
    file = folder / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"tiny-v0 cannot be read; .*incomplete or damaged"):
        load_dataset(folder)


def test_damaged_metadata_are_refused(folder: Path) -> None:
    (folder / "data" / "metadata.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="incomplete or damaged"):
        load_dataset(folder)


def test_a_missing_column_is_refused(folder: Path) -> None:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]["rewards"]
    with pytest.raises(ValueError, match="incomplete or damaged"):
        load_dataset(folder)


def test_a_changed_number_is_noticed(folder: Path) -> None:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1"]["rewards"][2] += 1e-6
    with pytest.raises(ValueError, match=r"not what its card describes: its SHA-256 is .*Restore"):
        load_dataset(folder)


def test_a_swapped_flag_is_noticed(folder: Path) -> None:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_0"]["truncations"][-1] = False
        file["episode_0"]["terminations"][-1] = True
    with pytest.raises(ValueError, match="not what its card describes"):
        load_dataset(folder)


def test_an_episode_of_uneven_lengths_is_refused(folder: Path) -> None:
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_2"]["actions"].resize(3, axis=0)
    with pytest.raises(ValueError, match=r"Episode 2 .*T \+ 1 observations"):
        load_dataset(folder)


def test_an_unusable_card_is_refused(folder: Path) -> None:
    (folder / CARD_FILE).write_text(json.dumps({"name": "x"}), encoding="utf-8")
    with pytest.raises(ValueError, match="'name' and 'sha256'"):
        load_dataset(folder)


# The data that come with the package


@pytest.mark.parametrize(
    ("name", "episodes"), [("pendulum/replay-v0", 100), ("pendulum/narrow-v0", 10)]
)
def test_shipped_data_are_complete_and_verified(name: str, episodes: int) -> None:
    assert name in shipped_datasets()
    data = load_dataset(name)
    assert len(data) == 200 * episodes
    assert data.content_hash() == data.card["sha256"]
    assert data.observation_space.shape == (3,)
    assert data.action_space == Box(-2, 2, (1,))
    assert not data.terminated.any()
    assert data.truncated.nonzero().flatten().tolist() == list(range(199, len(data), 200))
    np.testing.assert_allclose(data.episode_returns(), data.card["returns"], atol=1e-3)


def test_the_narrow_data_are_episodes_of_the_replay_data() -> None:
    narrow, replay = load_dataset("pendulum/narrow-v0"), load_dataset("pendulum/replay-v0")
    made = narrow.card["made"]
    assert made["source_sha256"] == replay.card["sha256"]
    part = replay.select_episodes(made["source_episodes"])
    for key in COLUMNS[:-1]:
        assert torch.equal(getattr(narrow, key), getattr(part, key))


def test_a_shipped_dataset_without_card_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offline_rl_lib.data.SHIPPED_DATASETS", folder.parents[1])
    assert shipped_datasets() == ["tests/tiny-v0"]
    (folder / CARD_FILE).unlink()
    with pytest.raises(ValueError, match="cannot be verified"):
        load_dataset(folder)


def test_plain_minari_lists_the_shipped_data(tmp_path: Path) -> None:
    program = "import minari; print(sorted(minari.list_local_datasets()))"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"MINARI_DATASETS_PATH": str(SHIPPED_DATASETS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(shipped_datasets())
    shutil.copytree(SHIPPED_DATASETS / "pendulum", tmp_path / "pendulum")
    assert len(load_dataset(tmp_path / "pendulum" / "narrow-v0")) == 2_000
