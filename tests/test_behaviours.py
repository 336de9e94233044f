"""Recordings of policies that do not learn, joined and selected: the book's other datasets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from offline_rl_lib import behaviours
from offline_rl_lib.behaviours import (
    RECORDED,
    SELECTED,
    Recording,
    agent_after,
    join_datasets,
    make_recorded,
    make_selected,
    record_policy,
)
from offline_rl_lib.collecting import REPLAY, CollectionSettings
from offline_rl_lib.data import COLUMNS, load_dataset, shipped_datasets
from offline_rl_lib.evaluation import ConstantPolicy
from offline_rl_lib.pendulum import ENV_ID, SwingUpController
from offline_rl_lib.sac import SACSettings

TINY = CollectionSettings(
    episodes=1, warm_up_steps=150, batch_size=8, sac=SACSettings(critic_hidden_sizes=(8,))
)


def test_a_recording_is_what_the_environment_did() -> None:
    recorded = record_policy(SwingUpController(), ENV_ID, episodes=2, seed=3)
    starts = np.random.SeedSequence(3).generate_state(2)
    env = gym.make(ENV_ID)
    observation, _ = env.reset(seed=int(starts[1]))
    for row in range(200, 400):
        action = SwingUpController().act(observation)
        np.testing.assert_array_equal(recorded.observation[row].numpy(), observation)
        np.testing.assert_array_equal(recorded.action[row].numpy(), action)
        observation, reward, _, truncated, _ = env.step(action)
        assert recorded.reward[row].item() == pytest.approx(float(reward), rel=1e-6)
        np.testing.assert_array_equal(recorded.next_observation[row].numpy(), observation)
        assert bool(recorded.truncated[row]) == truncated
    assert recorded.truncated.sum() == 2
    assert not recorded.terminated.any()


def test_recordings_follow_their_seed() -> None:
    policy = ConstantPolicy([0.5])
    first, same, other = (record_policy(policy, ENV_ID, 1, seed) for seed in (1, 1, 2))
    assert first.content_hash() == same.content_hash()
    assert not torch.equal(first.observation, other.observation)
    with pytest.raises(ValueError, match="At least one episode"):
        record_policy(policy, ENV_ID, 0, 1)


def test_joined_episodes_stay_apart() -> None:
    policy = ConstantPolicy([0.5])
    one, two = record_policy(policy, ENV_ID, 1, 1), record_policy(policy, ENV_ID, 2, 2)
    joined = join_datasets([one, one, two], "joined")
    assert joined.episode.unique(return_counts=True)[1].tolist() == [200] * 4
    expected = torch.cat([one.episode_returns()] * 2 + [two.episode_returns()])
    torch.testing.assert_close(joined.episode_returns(), expected)
    for key in set(COLUMNS) - {"episode"}:
        assert torch.equal(getattr(joined, key)[400:], getattr(two, key))


def test_what_cannot_be_joined_is_refused() -> None:
    pendulum = record_policy(ConstantPolicy([0.5]), ENV_ID, 1, 1)
    wider = gym.spaces.Box(-3.0, 3.0, (1,))
    with pytest.raises(ValueError, match="spaces differ"):
        join_datasets([pendulum, replace(pendulum, action_space=wider)], "joined")
    with pytest.raises(ValueError, match="Nothing to join"):
        join_datasets([], "joined")


def test_the_frozen_agent_is_the_one_of_the_replay_data() -> None:
    """Its training is the beginning of the run that the replay data were kept from."""
    agent = agent_after(1, TINY)
    assert agent.updates == 50
    again = agent_after(1, replace(TINY, episodes=7))
    observation = np.zeros((1, 3), dtype=np.float32)
    np.testing.assert_array_equal(agent.act(observation), again.act(observation))


def test_making_twice_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = {
        "tests/mixed-v0": (
            Recording("uniform", 1, seed=1),
            Recording("controller", 1, seed=2, deterministic=True),
            Recording("SAC", 1, 3, trained_episodes=1),
        )
    }
    monkeypatch.setattr(behaviours, "RECORDED", recorded)
    monkeypatch.setattr(behaviours, "SELECTED", {"tests/part-v0": ("tests/mixed-v0", range(1, 3))})
    monkeypatch.setattr(behaviours, "agent_after", lambda episodes: agent_after(episodes, TINY))
    (made,) = make_recorded(tmp_path)
    (part,) = make_selected(tmp_path)
    assert (len(made), len(part)) == (600, 400)
    assert torch.equal(part.action, made.action[200:])
    assert set(made.card["made"]) == {"how", "recordings"}
    monkeypatch.setattr(behaviours, "agent_after", None)  # nothing may be trained again
    (again,) = make_recorded(tmp_path)
    assert again.content_hash() == made.content_hash()


@pytest.mark.parametrize("name", RECORDED)
def test_shipped_recordings_come_from_these_settings(name: str) -> None:
    shipped = load_dataset(name)
    recordings = RECORDED[name]
    assert [part["seed"] for part in shipped.card["made"]["recordings"]] == [
        part.seed for part in recordings
    ]
    # The torques of SAC differ between machines; the hash on the card covers them.
    first = recordings[0]
    starts = np.random.SeedSequence(first.seed).generate_state(first.episodes)
    env = gym.make(ENV_ID)
    for episode, start in enumerate(starts):
        torch.testing.assert_close(
            shipped.observation[200 * episode],
            torch.from_numpy(env.reset(seed=int(start))[0]),
        )


def test_every_dataset_of_the_book_is_shipped_and_small() -> None:
    names = {REPLAY, *RECORDED, *SELECTED}
    assert set(shipped_datasets()) == names
    for name, (source, episodes) in SELECTED.items():
        whole, part = load_dataset(source), load_dataset(name)
        expected = whole.select_episodes(episodes)
        for key in set(COLUMNS) - {"episode"}:
            assert torch.equal(getattr(part, key), getattr(expected, key))
