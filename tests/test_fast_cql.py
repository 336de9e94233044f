"""The fast update of CQL is CQL's update: compared bit for bit, number by number, file by file."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from offline_rl_lib import fast_cql
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.fast_cql import FastCQL

SETTINGS = CQLSettings(
    policy_hidden_sizes=(32,),
    critic_hidden_sizes=(32, 32),
    critic_learning_rate=3e-3,
    penalty_weight=5.0,
    reward_shift=8.0,
    reward_scale=1 / 8,
)
VARIANTS = {
    "as it is": {},
    "no penalty": {"penalty_weight": 0.0},
    "odd weight and temperature": {"penalty_weight": 1.3, "penalty_temperature": 0.7},
    "deep policy": {"policy_hidden_sizes": (32, 48)},
    "flat critics": {"critic_hidden_sizes": (64,)},
    "deep critics": {"critic_hidden_sizes": (32, 48, 64)},
    "one proposal": {"num_proposals": 1},
    "own target entropy": {"target_entropy": 0.5, "initial_temperature": 0.3},
}


def pair(actions: int = 1, **changes: object) -> tuple[CQL, FastCQL]:
    """Return both versions of one agent."""
    low, high = np.linspace(-2, -1, actions), np.linspace(1, 3, actions)
    spaces = Box(-np.inf, np.inf, (3,)), Box(low.astype(np.float32), high.astype(np.float32))
    settings = replace(SETTINGS, **changes)
    return CQL(*spaces, settings), FastCQL(*spaces, settings)


def batches(number: int, size: int = 32, actions: int = 1) -> list[TransitionBatch]:
    """Draw minibatches, some of whose transitions are terminal and some actions at a bound."""
    source = torch.Generator().manual_seed(3)
    low, high = torch.linspace(-2, -1, actions), torch.linspace(1, 3, actions)
    drawn = []
    for _ in range(number):
        action = low + (high - low) * torch.rand(size, actions, generator=source)
        action[0] = high
        drawn.append(
            TransitionBatch(
                observation=torch.randn(size, 3, generator=source),
                action=action,
                reward=-16 * torch.rand(size, generator=source),
                next_observation=torch.randn(size, 3, generator=source),
                terminated=torch.rand(size, generator=source) < 0.2,
            )
        )
    return drawn


def differences(one: CQL, other: CQL) -> list[str]:
    """Names of everything in two agents that differs in at least a bit."""
    first, second = one._state(), other._state()
    found = [] if torch.equal(first["generator"], second["generator"]) else ["generator"]
    for name, module in first["modules"].items():
        for key, value in module.items():
            if not torch.equal(value, second["modules"][name][key]):
                found.append(f"{name}.{key}")
    for name, optimiser in first["optimisers"].items():
        for index, state in optimiser["state"].items():
            for key, value in state.items():
                if not torch.equal(value, second["optimisers"][name]["state"][index][key]):
                    found.append(f"{name} optimiser {index} {key}")
    return found


@pytest.mark.parametrize("actions", [1, 3])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_it_agrees_to_the_last_bit(changes: dict[str, object], actions: int) -> None:
    plain, fast = pair(actions, **changes)
    for batch in batches(40, actions=actions):
        assert plain.update(batch) == fast.update(batch)
    assert differences(plain, fast) == []


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_it_agrees_closely_on_every_size(size: int) -> None:
    plain, fast = pair(2)
    for batch in batches(20, size, actions=2):
        expected, found = plain.update(batch), fast.update(batch)
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-4)
    for own, other in zip(plain.critic.parameters(), fast.critic.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-3)


def test_one_step_agrees_to_rounding_on_an_odd_size() -> None:
    # Derivatives, not parameters: Adam's first step divides each by its own size.
    (batch,) = batches(1, 50, actions=2)
    plain, fast = pair(2)
    plain.update(batch), fast.update(batch)
    for module in ("critic", "policy", "log_temperature"):
        own, other = getattr(plain, module).parameters(), getattr(fast, module).parameters()
        for one, two in zip(own, other, strict=True):
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_the_size_of_a_batch_may_change() -> None:
    plain, fast = pair()
    for batch in [*batches(3, 32), *batches(3, 64), *batches(3, 32)]:
        assert plain.update(batch) == fast.update(batch)
    assert differences(plain, fast) == []


def test_equal_critics_share_the_actors_derivative() -> None:
    plain, fast = pair()
    for agent in (plain, fast):
        with torch.no_grad():
            for parameter in agent.critic.parameters():
                parameter[1] = parameter[0]
    for batch in batches(1):
        assert plain.update(batch) == fast.update(batch)
    assert differences(plain, fast) == []


def test_a_wrong_derivative_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = pair()
    (batch,) = batches(1)
    plain.update(batch)
    monkeypatch.setattr(fast_cql, "relu_backward", lambda *_, grad_input: grad_input)
    fast.update(batch)
    assert "critic.layers.0.weight" in differences(plain, fast)


def test_checkpoints_go_both_ways(tmp_path: Path) -> None:
    (plain, fast), (later_plain, later_fast) = pair(), pair(seed=9)
    first, second = batches(2), batches(6)
    for batch in first:
        plain.update(batch), fast.update(batch)
    plain.save(tmp_path / "plain.pt")
    fast.save(tmp_path / "fast.pt")
    later_fast.update(first[0])  # It has averages and arrays of its own by then.
    later_fast.load(tmp_path / "plain.pt")
    later_plain.load(tmp_path / "fast.pt")
    for batch in second:
        expected = plain.update(batch)
        assert later_fast.update(batch) == expected
        assert later_plain.update(batch) == expected
    assert differences(plain, later_fast) == differences(plain, later_plain) == []


def test_a_copy_trains_on_its_own() -> None:
    _, fast = pair()
    first, second = batches(2)
    fast.update(first)
    twin = copy.deepcopy(fast)
    assert twin.update(second) == fast.update(second)
    assert differences(twin, fast) == []


@pytest.mark.parametrize("field", ["reward", "observation"])
def test_a_batch_with_nan_loses_nothing(field: str) -> None:
    _, fast = pair()
    good, bad = batches(2)
    fast.update(good)
    before = copy.deepcopy(fast)
    getattr(bad, field)[0] = torch.nan
    with pytest.raises(FloatingPointError, match="no step was taken"):
        fast.update(bad)
    assert set(differences(before, fast)) == {"generator"}
    assert fast.updates == 1


def test_wrong_shapes_are_refused() -> None:
    _, fast = pair()
    (batch,) = batches(1)
    with pytest.raises(ValueError, match=r"batch\.action must have shape \(32, 1\)"):
        fast.update(batch._replace(action=batch.action.squeeze(1)))
