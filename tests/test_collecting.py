"""Collecting: what is recorded, and that a killed run ends with the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from offline_rl_lib import behaviours, collecting
from offline_rl_lib.collecting import (
    PENDULUM_SAC,
    CollectionSettings,
    ReplayBuffer,
    card_as_markdown,
    collect_dataset,
    collect_selection,
)
from offline_rl_lib.data import COLUMNS, TransitionBatch, load_dataset
from offline_rl_lib.sac import SAC

NAME = "tests/tiny-v0"
SMALL = replace(PENDULUM_SAC, policy_hidden_sizes=(8,), critic_hidden_sizes=(8,))


class Corridor(gym.Env[np.ndarray, np.ndarray]):
    """Ends by itself beyond 1. Two actions with different, asymmetric bounds."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(np.array([-1.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(0, 1)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place += 0.1 * float(action[0])
        return self._observation(), float(action[1]), self.place > 1, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.place, 1.0], dtype=np.float32)


@pytest.fixture(autouse=True)
def corridor() -> Iterator[None]:
    gym.register("TestCorridor-v1", Corridor, max_episode_steps=15)
    gym.register("TestEndless-v1", Corridor)
    yield
    del gym.registry["TestCorridor-v1"], gym.registry["TestEndless-v1"]


TINY = CollectionSettings(
    env_id="TestCorridor-v1", episodes=8, warm_up_steps=20, batch_size=16, sac=SMALL
)


def test_every_transition_is_recorded_as_it_was(tmp_path: Path) -> None:
    data = collect_dataset(tmp_path, NAME, TINY)
    assert data.episode.unique().tolist() == list(range(8))
    # Both ways to end occur, and never one in place of the other.
    assert data.terminated.any()
    assert data.truncated.any()
    torch.testing.assert_close(data.terminated, data.next_observation[:, 0] > 1)
    lengths = torch.bincount(data.episode)
    ends = lengths.cumsum(0) - 1
    assert (data.terminated | data.truncated).nonzero().flatten().tolist() == ends.tolist()
    assert data.truncated[ends].tolist() == ((lengths == 15) & ~data.terminated[ends]).tolist()
    # The environment's own law holds in every row, also in the last one of an episode.
    place = data.observation[:, 0] + 0.1 * data.action[:, 0]
    torch.testing.assert_close(data.next_observation[:, 0], place)
    torch.testing.assert_close(data.reward, data.action[:, 1])


def test_the_warm_up_is_uniform_and_the_agent_learns_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates, update = [], SAC.update

    def counted(agent: SAC, batch: TransitionBatch) -> dict[str, float]:
        updates.append(len(batch.reward))
        return update(agent, batch)

    monkeypatch.setattr(SAC, "update", counted)
    settings = replace(TINY, episodes=30, warm_up_steps=250)
    data = collect_dataset(tmp_path, NAME, settings)
    assert updates == [16] * (len(data) - 250)
    warm_up = data.action[:250].numpy()
    width = data.action_space.high - data.action_space.low
    centre = (data.action_space.high + data.action_space.low) / 2
    assert (np.abs(warm_up.mean(axis=0) - centre) < 4 * width / np.sqrt(12 * 250)).all()
    np.testing.assert_allclose(warm_up.std(axis=0), width / np.sqrt(12), rtol=0.1)


def test_settings_and_seeds_determine_the_bits(tmp_path: Path) -> None:
    first = collect_dataset(tmp_path / "a", NAME, TINY).content_hash()
    assert collect_dataset(tmp_path / "b", NAME, TINY, checkpoint_every=3).content_hash() == first
    other = replace(TINY, seed=1)
    assert collect_dataset(tmp_path / "c", NAME, other).content_hash() != first


@pytest.mark.parametrize("share", [0.45, 0.7, 0.95])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    whole = collect_dataset(tmp_path / "whole", NAME, TINY)
    stop_after = int(share * len(whole))
    steps, step = [0], Corridor.step

    def stopping(env: Corridor, action: np.ndarray) -> Any:
        steps[0] += 1
        if steps[0] == stop_after:
            raise KeyboardInterrupt
        return step(env, action)

    with monkeypatch.context() as patch:
        patch.setattr(Corridor, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            collect_dataset(tmp_path / "stopped", NAME, TINY, checkpoint_every=2)
    assert not (tmp_path / "stopped" / NAME).exists()
    taken = []
    monkeypatch.setattr(Corridor, "step", lambda *args: (taken.append(1), step(*args))[1])
    resumed = collect_dataset(tmp_path / "stopped", NAME, TINY, checkpoint_every=2)
    assert resumed.content_hash() == whole.content_hash()
    assert len(taken) < len(whole)  # it did go on rather than start anew
    assert [path.name for path in (tmp_path / "stopped" / "tests").iterdir()] == ["tiny-v0"]


def test_a_stop_while_a_checkpoint_is_written_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect_dataset(tmp_path / "whole", NAME, TINY)
    saves, save = [0], torch.save

    def stopping(*args: Any, **options: Any) -> None:
        saves[0] += 1
        if saves[0] == 4:  # the transitions of the second checkpoint, after its agent
            raise KeyboardInterrupt
        save(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            collect_dataset(tmp_path / "stopped", NAME, TINY, checkpoint_every=2)
    unfinished = tmp_path / "stopped" / "tests" / ".tiny-v0.unfinished"
    assert [path.name for path in unfinished.glob("after-*")] == ["after-000002"]
    resumed = collect_dataset(tmp_path / "stopped", NAME, TINY, checkpoint_every=2)
    assert resumed.content_hash() == whole.content_hash()


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = CollectionSettings(episodes=4, warm_up_steps=450, batch_size=8, sac=SMALL)
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from dataclasses import replace\n"
        "from offline_rl_lib.collecting import *\n"
        "sac = replace(PENDULUM_SAC, policy_hidden_sizes=(8,), critic_hidden_sizes=(8,))\n"
        "settings = CollectionSettings(episodes=4, warm_up_steps=450, batch_size=8, sac=sac)\n"
        f"collect_dataset({str(tmp_path / 'killed')!r}, {NAME!r}, settings, checkpoint_every=1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    unfinished = tmp_path / "killed" / "tests" / ".tiny-v0.unfinished"
    # Wait for the checkpoint just before learning starts, so that the kill falls into learning.
    deadline = time.monotonic() + 120
    while not list(unfinished.glob("after-000002")):
        assert process.poll() is None, "the process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = collect_dataset(tmp_path / "killed", NAME, settings)
        whole = collect_dataset(tmp_path / "whole", NAME, settings)
    finally:
        torch.set_num_threads(threads)
    assert resumed.content_hash() == whole.content_hash()


def test_a_finished_dataset_is_loaded_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collect_dataset(tmp_path, NAME, TINY)
    monkeypatch.setattr(collecting, "SAC", None)  # nothing may be trained again
    assert collect_dataset(tmp_path, NAME, TINY).content_hash() == first.content_hash()
    with pytest.raises(FileExistsError, match="tiny-v0 already holds a dataset"):
        collect_dataset(tmp_path, NAME, replace(TINY, seed=5))


def test_a_started_collection_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(collecting.Collection, "dataset", _stop)
        with pytest.raises(KeyboardInterrupt):
            collect_dataset(tmp_path, NAME, TINY, checkpoint_every=2)
    with pytest.raises(ValueError, match="started collection with other settings"):
        collect_dataset(tmp_path, NAME, replace(TINY, batch_size=17))


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        ("Pendulm-v1", "Unknown environment"),
        ("TestEndless-v1", "no time limit"),
        ("CartPole-v1", "[Dd]iscrete"),
    ],
)
def test_unsuitable_environments_are_refused(tmp_path: Path, env_id: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        collect_dataset(tmp_path, NAME, replace(TINY, env_id=env_id))
    assert not (tmp_path / NAME).exists()


def test_the_card_tells_how_and_verifies(tmp_path: Path) -> None:
    data = collect_dataset(tmp_path, NAME, TINY)
    card = json.loads((tmp_path / NAME / "card.json").read_text(encoding="utf-8"))
    assert card["made"]["sac"]["critic_learning_rate"] == 3e-3
    assert card["transitions"] == len(data)
    assert card["episodes"] == 8
    assert card["terminated"] + card["truncated"] == 8
    np.testing.assert_allclose(card["returns"], data.episode_returns(), atol=1e-3)
    assert {"python", "torch", "gymnasium", "minari", "numpy"} == card["versions"].keys()
    markdown = (tmp_path / NAME / "card.md").read_text(encoding="utf-8")
    assert markdown == card_as_markdown(card)
    for part in (card["sha256"], f"{len(data)} transitions", "`TestCorridor-v1`"):
        assert part in markdown


def test_a_selection_is_stored_with_its_source(tmp_path: Path) -> None:
    source = collect_dataset(tmp_path, NAME, TINY)
    part = collect_selection(source, tmp_path, "tests/part-v0", range(2, 5))
    assert part.episode.unique().tolist() == [0, 1, 2]
    assert part.card["made"]["source_episodes"] == [2, 3, 4]
    assert part.card["made"]["source_sha256"] == source.content_hash()
    for key in COLUMNS[:-1]:
        expected = getattr(source.select_episodes(range(2, 5)), key)
        assert torch.equal(getattr(part, key), expected)
    assert collect_selection(source, tmp_path, "tests/part-v0", range(2, 5)).card == part.card
    with pytest.raises(FileExistsError, match="another way"):
        collect_selection(source, tmp_path, "tests/part-v0", range(3, 6))


def test_the_buffer_samples_only_what_it_holds() -> None:
    buffer = ReplayBuffer(10, 1, 1)
    for number in range(1, 4):
        buffer.add(
            observation=[number],
            action=[number],
            reward=number,
            next_observation=[number + 1],
            terminated=False,
            truncated=False,
            episode=0,
        )
    batch = buffer.sample(200, torch.Generator().manual_seed(0))
    assert set(batch.reward.tolist()) == {1.0, 2.0, 3.0}
    assert torch.equal(batch.next_observation, batch.observation + 1)


def test_the_shipped_data_come_from_these_settings(tmp_path: Path) -> None:
    shipped = load_dataset(collecting.REPLAY)
    settings = replace(CollectionSettings(), episodes=5)
    made = json.loads(json.dumps(shipped.card["made"]))
    assert made["sac"]["critic_learning_rate"] == settings.sac.critic_learning_rate
    # The warm-up needs no learning, so it repeats on any machine up to rounding.
    start = collect_dataset(tmp_path, NAME, settings)
    expected = shipped.select_episodes(range(5))
    for key in ("observation", "action", "reward", "next_observation"):
        torch.testing.assert_close(
            getattr(start, key), getattr(expected, key), atol=1e-4, rtol=1e-4
        )


def test_the_command_makes_all_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collecting, "CollectionSettings", lambda: TINY)
    monkeypatch.setattr(behaviours, "RECORDED", {})
    monkeypatch.setattr(behaviours, "SELECTED", {"tests/part-v0": (collecting.REPLAY, range(2, 4))})
    threads = torch.get_num_threads()
    for _ in range(2):
        assert collecting.main(["--out", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert "pendulum/replay-v0" in lines[0]
        assert "other bits than the shipped data" in lines[0]
    monkeypatch.setattr(collecting, "collect_dataset", _stop)
    assert collecting.main(["--out", str(tmp_path)]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    torch.set_num_threads(threads)
