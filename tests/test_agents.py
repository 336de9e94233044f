"""SAC, CQL and BC: losses, gradients, determinism, checkpoints, acting, bad input.

What every agent must do is asked of the other algorithms here too; their own mathematics has files
of its own.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from offline_rl_lib import (
    BC,
    CQL,
    IQL,
    SAC,
    TD3BC,
    BCSettings,
    BestBC,
    CQLLagrange,
    CQLSettings,
    SACSettings,
)
from offline_rl_lib.agent import Agent
from offline_rl_lib.data import OfflineDataset, TransitionBatch
from offline_rl_lib.networks import TwinCritic

LOW, HIGH = [-1.0, 0.0, -3.0], [1.0, 0.5, 4.0]
OBSERVATIONS = spaces.Box(-math.inf, math.inf, (5,))
ACTIONS = spaces.Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))
PENDULUM_OBSERVATIONS = spaces.Box(-8.0, 8.0, (3,))
PENDULUM_ACTIONS = spaces.Box(-2.0, 2.0, (1,))
SMALL: dict[str, Any] = {"policy_hidden_sizes": (16,), "critic_hidden_sizes": (16, 16)}
CLASSES: dict[str, type[Agent]] = {
    kind.__name__: kind for kind in (SAC, CQL, BC, BestBC, CQLLagrange, TD3BC, IQL)
}
KINDS = list(CLASSES)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def make(kind: str, seed: int = 0, **settings: Any) -> Any:
    """A small agent on an asymmetric box of three dimensions."""
    agent_class = CLASSES[kind]
    widths: dict[str, Any] = {"policy_hidden_sizes": (16,)} if kind in ("BC", "BestBC") else SMALL
    all_settings: Any = agent_class.settings_class(**widths | settings, seed=seed)
    return agent_class(OBSERVATIONS, ACTIONS, all_settings)


def make_batch(
    size: int = 32, seed: int = 0, observations: int = 5, low: Any = LOW, high: Any = HIGH
) -> TransitionBatch:
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(low), torch.tensor(high)
    return TransitionBatch(
        observation=torch.randn(size, observations, generator=generator),
        action=low + (high - low) * torch.rand(size, len(low), generator=generator),
        reward=torch.randn(size, generator=generator),
        next_observation=torch.randn(size, observations, generator=generator),
        terminated=torch.rand(size, generator=generator) < 0.2,
    )


def run_updates(agent: Agent, count: int, first: int = 0) -> list[dict[str, float]]:
    return [agent.update(make_batch(16, seed)) for seed in range(first, first + count)]


def bits(agent: Agent) -> dict[str, Tensor]:
    """Everything that decides how training goes on, by name."""
    state = agent._state()
    found = {"generator": state["generator"].clone(), "updates": torch.tensor(state["updates"])}
    for part, tensors in state["modules"].items():
        found |= {f"{part}.{name}": tensor.clone() for name, tensor in tensors.items()}
    for part, optimiser in state["optimisers"].items():
        for index, slots in optimiser["state"].items():
            found |= {f"{part}.{index}.{slot}": value.clone() for slot, value in slots.items()}
    return found


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def no_gradients(module: torch.nn.Module) -> bool:
    return all(parameter.grad is None for parameter in module.parameters())


def set_constant(critic: TwinCritic, first: float, second: float) -> None:
    """Make the two critics constant functions."""
    for parameter in critic.parameters():
        parameter.data.zero_()
    critic.layers[-1].bias.data[:, 0, 0] = torch.tensor([first, second])


# ---- one update --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_update_changes_the_agent_and_reports_finite_numbers(kind: str) -> None:
    agent = make(kind)
    before = bits(agent)
    # Two updates, because TD3+BC moves its policy in every second one.
    for metrics in run_updates(agent, 2):
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert agent.updates == 2
    for name, tensor in bits(agent).items():
        if name.endswith("weight"):
            assert not torch.equal(tensor, before[name]), name


def test_reported_metrics_are_what_they_say() -> None:
    agent, batch = make("CQL"), make_batch()
    reference = make("CQL")
    loss, metrics = reference.critic_loss(batch)
    reported = agent.update(batch)
    assert reported["data_q"] == pytest.approx(
        reference.critic(batch.observation, batch.action).mean().item()
    )
    expected = 2 * (metrics["td_loss"] + reference.settings.penalty_weight * metrics["penalty"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert reported["penalty"] == pytest.approx(metrics["penalty"].item(), rel=1e-6)
    assert reported["temperature"] == pytest.approx(agent.temperature.item())


@pytest.mark.parametrize("kind", ["SAC", "CQL"])
def test_critic_loss_reaches_the_critics_only(kind: str) -> None:
    agent = make(kind)
    agent.critic_loss(make_batch())[0].backward()
    assert all(parameter.grad is not None for parameter in agent.critic.parameters())
    assert no_gradients(agent.policy)
    assert no_gradients(agent.target_critic)
    assert no_gradients(agent.log_temperature)


@pytest.mark.parametrize("kind", ["SAC", "CQL"])
def test_actor_and_temperature_losses_leave_the_others_alone(kind: str) -> None:
    agent, batch = make(kind), make_batch()
    _, log_prob = agent.actor_loss(batch)
    assert log_prob.shape == (32,)
    assert not log_prob.requires_grad
    agent.temperature_loss(log_prob).backward()
    assert no_gradients(agent.policy)
    assert no_gradients(agent.critic)
    assert agent.log_temperature[0].grad is not None


@pytest.mark.parametrize("kind", ["SAC", "CQL"])
def test_an_update_gives_each_part_the_gradient_of_its_own_loss(kind: str) -> None:
    agent, twin, batch = make(kind), make(kind), make_batch()
    agent.update(batch)
    critic_loss, _ = twin.critic_loss(batch)
    critic_gradients = torch.autograd.grad(critic_loss, list(twin.critic.parameters()))
    for parameter, expected in zip(agent.critic.parameters(), critic_gradients, strict=True):
        assert torch.equal(parameter.grad, expected)  # nothing of the actor loss is added
    assert no_gradients(agent.target_critic)
    # The actor's step comes after the critic's, so its loss sees the new critics.
    twin.critic.load_state_dict(agent.critic.state_dict())
    actor_loss, _ = twin.actor_loss(batch)
    actor_gradients = torch.autograd.grad(actor_loss, list(twin.policy.parameters()))
    for parameter, expected in zip(agent.policy.parameters(), actor_gradients, strict=True):
        assert torch.equal(parameter.grad, expected)


@pytest.mark.parametrize("kind", ["SAC", "CQL"])
def test_one_update_calls_the_critics_once_a_loss(kind: str) -> None:
    agent, rows = make(kind), []
    agent.critic.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[1].shape))
    agent.update(make_batch(32))
    proposals = (1 + 3 * agent.settings.num_proposals,) if kind == "CQL" else ()
    assert rows == [(32, *proposals, 3), (32, 3)]


# ---- the TD target -----------------------------------------------------------------------------


def sac_with_constant_critics(**settings: Any) -> SAC:
    agent = make("SAC", **settings)
    set_constant(agent.target_critic, 7.0, 4.0)
    return agent


def test_td_target_without_entropy_in_closed_form() -> None:
    agent = sac_with_constant_critics(
        initial_temperature=1e-30, discount=0.9, reward_shift=8.0, reward_scale=0.125
    )
    batch = make_batch()
    assert 0 < batch.terminated.sum() < 32
    expected = (batch.reward + 8) / 8 + torch.where(batch.terminated, 0.0, 0.9 * 4.0)
    torch.testing.assert_close(agent.td_target(batch), expected)
    assert not agent.td_target(batch).requires_grad


def test_td_target_adds_the_entropy_of_the_next_action() -> None:
    agent, batch = sac_with_constant_critics(initial_temperature=0.2, discount=0.9), make_batch()
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    policy = agent.policy(batch.next_observation)
    _, log_prob = policy.rsample_with_log_prob((), generator)
    expected = batch.reward + 0.9 * (~batch.terminated) * (4.0 - 0.2 * log_prob.detach())
    torch.testing.assert_close(agent.td_target(batch), expected)


def one_state_dataset(terminated: bool, truncated: bool) -> OfflineDataset:
    """Two episodes of one step each; the last step of an episode ends it one way or the other."""
    ends = torch.ones(2, dtype=torch.bool)
    return OfflineDataset(
        observation=torch.zeros(2, 5),
        action=torch.tensor([LOW, HIGH]),
        reward=torch.ones(2),
        next_observation=torch.zeros(2, 5),
        terminated=ends & terminated,
        truncated=ends & truncated,
        episode=torch.arange(2),
        observation_space=OBSERVATIONS,
        action_space=ACTIONS,
    )


def plain_q(critic: TwinCritic, which: int, observation: Tensor, action: Tensor) -> float:
    """One critic at one observation and action, written out with its own weights."""
    first = critic.from_observation
    features = observation @ first.weight[which] + first.bias[which, 0]
    features = features + action @ critic.from_action[which]
    for layer in critic.layers:
        features = features.relu() @ layer.weight[which] + layer.bias[which, 0]
    return features.item()


def test_td_target_in_a_plain_loop() -> None:
    agent, batch = make("SAC", reward_shift=1.0, reward_scale=0.5, discount=0.9), make_batch(6)
    run_updates(agent, 3)  # so that target and critic differ
    state = agent.generator.get_state()
    target = agent.td_target(batch)
    agent.generator.set_state(state)
    action, log_prob = agent.policy(batch.next_observation).rsample_with_log_prob(
        (), agent.generator
    )
    for row in range(6):
        at = (batch.next_observation[row], action[row])
        smaller = min(plain_q(agent.target_critic, which, *at) for which in (0, 1))
        soft_value = smaller - agent.temperature.item() * log_prob[row].item()
        reward = 0.5 * (batch.reward[row].item() + 1.0)
        expected = reward if batch.terminated[row] else reward + 0.9 * soft_value
        assert target[row].item() == pytest.approx(expected, abs=1e-5)


def test_actor_loss_in_a_plain_loop() -> None:
    agent, batch = make("SAC"), make_batch(6)
    run_updates(agent, 3)
    state = agent.generator.get_state()
    loss, returned = agent.actor_loss(batch)
    agent.generator.set_state(state)
    action, log_prob = agent.policy(batch.observation).rsample_with_log_prob((), agent.generator)
    terms = []
    for row in range(6):
        at = (batch.observation[row], action[row])
        smaller = min(plain_q(agent.critic, which, *at) for which in (0, 1))
        terms.append(agent.temperature.item() * log_prob[row].item() - smaller)
    assert loss.item() == pytest.approx(sum(terms) / 6, abs=1e-5)
    torch.testing.assert_close(returned, log_prob.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_changes_nothing(kind: str) -> None:
    agent, batch = make(kind), make_batch()
    before = {name: value.clone() for name, value in bits(agent).items() if name != "generator"}
    observation = batch.observation.clone()
    observation[3, 1] = math.nan
    with pytest.raises(FloatingPointError, match="no step was taken"):
        agent.update(batch._replace(observation=observation))
    after = bits(agent)
    assert_same_bits(before, {name: after[name] for name in before})


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch is empty"):
        make("CQL").update(make_batch(0))


def test_truncation_bootstraps_and_termination_does_not() -> None:
    """With reward 1 for ever, 1 / (1 - 0.99) = 100 is the fixed point of the target."""
    agent = make("SAC", initial_temperature=1e-30, discount=0.99)
    set_constant(agent.target_critic, 100.0, 100.0)
    generator = torch.Generator().manual_seed(0)
    for terminated, truncated, expected in [
        (False, False, 100.0),
        (False, True, 100.0),
        (True, False, 1.0),
        (True, True, 1.0),
    ]:
        batch = one_state_dataset(terminated, truncated).sample(2, generator)
        torch.testing.assert_close(agent.td_target(batch), torch.full((2,), expected))


@pytest.mark.parametrize("rate", [0.005, 0.3, 1.0])
def test_target_update_is_the_polyak_average(rate: float) -> None:
    agent = make("SAC", target_update_rate=rate)
    before = [target.clone() for target in agent.target_critic.parameters()]
    agent.update(make_batch())
    for old, target, source in zip(
        before, agent.target_critic.parameters(), agent.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(target, (1 - rate) * old + rate * source, rtol=1e-6, atol=1e-7)
        assert not torch.equal(target, old)
        assert not target.requires_grad


# ---- the temperature ---------------------------------------------------------------------------


@pytest.mark.parametrize(("target_entropy", "direction"), [(-100.0, -1), (100.0, 1)])
def test_temperature_falls_with_surplus_entropy_and_rises_without(
    target_entropy: float, direction: int
) -> None:
    agent = make("SAC", target_entropy=target_entropy, initial_temperature=0.1)
    entropy = run_updates(agent, 1)[0]["entropy"]
    gradient = agent.log_temperature[0].grad.item()
    assert gradient == pytest.approx(0.1 * (entropy - target_entropy), rel=1e-5)
    assert math.copysign(1, agent.temperature.item() - 0.1) == direction


def test_default_target_entropy_is_in_the_environments_units() -> None:
    widths = np.subtract(HIGH, LOW)
    assert make("SAC").target_entropy == pytest.approx(-3 + np.log(widths / 2).sum())
    unit = SAC(OBSERVATIONS, spaces.Box(-1.0, 1.0, (3,)))
    assert unit.target_entropy == pytest.approx(-3)
    assert SAC(PENDULUM_OBSERVATIONS, PENDULUM_ACTIONS).target_entropy == pytest.approx(
        -1 + math.log(2)
    )


# ---- CQL ---------------------------------------------------------------------------------------


def test_cql_without_penalty_is_sac_bit_for_bit() -> None:
    sac, cql, penalised = make("SAC"), make("CQL", penalty_weight=0.0), make("CQL")
    sac_metrics, cql_metrics = run_updates(sac, 50), run_updates(cql, 50)
    assert_same_bits(bits(sac), bits(cql))
    assert sac_metrics == cql_metrics
    run_updates(penalised, 50)
    assert not torch.equal(
        next(iter(sac.critic.parameters())), next(iter(penalised.critic.parameters()))
    )


def test_proposals_come_from_three_sources_with_their_own_densities() -> None:
    agent, batch = make("CQL", num_proposals=4), make_batch()
    actions, log_densities = agent.proposals(batch)
    assert actions.shape == (32, 12, 3)
    assert log_densities.shape == (32, 12)
    assert not actions.requires_grad
    assert not log_densities.requires_grad
    assert ((actions >= agent.low) & (actions <= agent.high)).all()
    uniform = -math.log(2.0 * 0.5 * 7.0)
    torch.testing.assert_close(log_densities[:, :4], torch.full((32, 4), uniform))
    sources = [(batch.observation, slice(4, 8)), (batch.next_observation, slice(8, 12))]
    for observation, columns in sources:
        for k in range(columns.start, columns.stop):
            expected = agent.policy(observation).log_prob(actions[:, k]).detach()
            torch.testing.assert_close(log_densities[:, k], expected, rtol=1e-3, atol=1e-3)


def test_uniform_proposals_reach_every_edge_of_the_box() -> None:
    agent, batch = make("CQL", num_proposals=50), make_batch(200)
    uniform = agent.proposals(batch)[0][:, :50].reshape(-1, 3)
    position = (uniform - agent.low) / (agent.high - agent.low)
    for edge in (position < 0.02, position > 0.98):
        torch.testing.assert_close(edge.float().mean(0), torch.full((3,), 0.02), rtol=0, atol=5e-3)


def test_each_part_learns_at_its_own_rate() -> None:
    rates = {"actor_learning_rate": 0.1, "critic_learning_rate": 0.2}
    agent = make("CQL", **rates, temperature_learning_rate=0.3)
    found = {name: part.param_groups[0]["lr"] for name, part in agent._optimisers().items()}
    assert found == {"policy": 0.1, "critic": 0.2, "temperature": 0.3}


def test_sac_critic_loss_is_the_sum_of_both_mean_squared_errors() -> None:
    agent, batch = make("SAC"), make_batch(7)
    target = make("SAC").td_target(batch)
    loss, metrics = agent.critic_loss(batch)
    errors = [
        sum(
            (plain_q(agent.critic, which, batch.observation[b], batch.action[b]) - target[b].item())
            ** 2
            for b in range(7)
        )
        / 7
        for which in (0, 1)
    ]
    assert loss.item() == pytest.approx(sum(errors), rel=1e-5)
    assert metrics["td_loss"].item() == pytest.approx(sum(errors) / 2, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_critic_loss_is_td_error_plus_weighted_penalty(temperature: float) -> None:
    agent = make("CQL", penalty_weight=3.0, penalty_temperature=temperature)
    batch, state = make_batch(8), agent.generator.get_state()
    loss, metrics = agent.critic_loss(batch)
    agent.generator.set_state(state)
    target = agent.td_target(batch)
    actions, log_densities = agent.proposals(batch)
    expected_loss, penalties = 0.0, []
    for critic in range(2):  # a plain loop over critics, states and proposals
        for b in range(8):
            one = batch.observation[b : b + 1]
            data_q = agent.critic(one, batch.action[b : b + 1])[critic, 0].item()
            total = 0.0
            for action, log_density in zip(actions[b], log_densities[b], strict=True):
                q = agent.critic(one, action[None])[critic, 0].item()
                total += math.exp(q / temperature - log_density.item())
            penalty = temperature * math.log(total / actions.shape[1]) - data_q
            penalties.append(penalty)
            expected_loss += ((data_q - target[b].item()) ** 2 + 3.0 * penalty) / 8
    assert loss.item() == pytest.approx(expected_loss, rel=1e-4)
    assert metrics["penalty"].item() == pytest.approx(np.mean(penalties), rel=1e-4)


def test_one_proposal_per_source_is_enough_to_train() -> None:
    agent = make("CQL", num_proposals=1)
    assert agent.proposals(make_batch(4))[0].shape == (4, 3, 3)
    assert math.isfinite(agent.update(make_batch())["penalty"])


def test_the_penalty_lowers_unseen_actions_relative_to_the_data() -> None:
    gaps = []
    for weight in (0.0, 5.0):
        batch = make_batch(200, seed=1000)
        batch = batch._replace(action=torch.tensor(LOW).expand(200, 3) * 0.5)  # a narrow dataset
        agent = make("CQL", penalty_weight=weight, critic_learning_rate=3e-3)
        for _ in range(150):
            agent.update(batch)
        unseen = make_batch(200, seed=2000).action
        with torch.no_grad():
            seen_q = agent.critic(batch.observation, batch.action).mean()
            gaps.append((seen_q - agent.critic(batch.observation, unseen).mean()).item())
    assert gaps[1] > gaps[0] + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty_weight": -0.1}, "penalty_weight must not be negative"),
        ({"penalty_weight": math.nan}, "penalty_weight must not be negative"),
        ({"num_proposals": 0}, "at least 1"),
        ({"penalty_temperature": 0.0}, "penalty_temperature must be positive"),
        ({"initial_temperature": 0.0}, "initial_temperature must be positive"),
    ],
)
def test_impossible_cql_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CQLSettings(**settings)


# ---- BC ----------------------------------------------------------------------------------------


def test_bc_minimises_the_negative_log_density_of_the_data() -> None:
    agent, batch = make("BC"), make_batch()
    expected = -agent.policy(batch.observation).log_prob(batch.action).mean().item()
    assert agent.update(batch)["negative_log_likelihood"] == pytest.approx(expected, rel=1e-6)


def test_bc_recovers_a_deterministic_policy_and_ignores_rewards() -> None:
    generator = torch.Generator().manual_seed(3)
    observation = torch.randn(256, 5, generator=generator)
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    fraction = torch.sigmoid(observation[:, :3])
    action = low + (high - low) * fraction
    batch = make_batch(256)._replace(observation=observation, action=action)
    agent, other = make("BC"), make("BC")
    first = agent.update(batch)["negative_log_likelihood"]
    other.update(batch._replace(reward=batch.reward + 100))
    assert_same_bits(bits(agent), bits(other))
    for _ in range(800):
        last = agent.update(batch)["negative_log_likelihood"]
    assert last < first - 2
    error = torch.from_numpy(agent.act(observation.numpy())) - action
    assert (error.abs() / (high - low)).mean() < 0.05


def test_bc_accepts_actions_at_the_bounds() -> None:
    batch = make_batch(2)._replace(action=torch.tensor([LOW, HIGH]))
    agent = make("BC")
    assert math.isfinite(agent.update(batch)["negative_log_likelihood"])
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def test_bc_names_an_action_outside_the_box() -> None:
    outside = torch.tensor([LOW, [1.5, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"1 action\(s\) lie outside the box"):
        make("BC").update(make_batch(2)._replace(action=outside))


# ---- determinism and checkpoints ---------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits_after_100_updates(kind: str) -> None:
    torch.manual_seed(1)
    first = make(kind)
    global_state = torch.random.get_rng_state()
    first_metrics = run_updates(first, 100)
    assert torch.equal(torch.random.get_rng_state(), global_state), "global randomness was used"
    torch.manual_seed(2)
    second, other = make(kind), make(kind, seed=1)
    assert run_updates(second, 100) == first_metrics
    assert_same_bits(bits(first), bits(second))
    assert not torch.equal(bits(other)["policy.body.0.weight"], bits(first)["policy.body.0.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_training_resumes_bit_for_bit_from_a_checkpoint(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "agent.pt"
    through = make(kind)
    run_updates(through, 30)
    through.save(path)
    rest = run_updates(through, 30, first=30)
    resumed = make(kind, seed=9)
    assert resumed.load(path) is resumed
    assert resumed.updates == 30
    assert run_updates(resumed, 30, first=30) == rest
    assert_same_bits(bits(through), bits(resumed))
    observation = np.ones((4, 5), np.float32)
    assert np.array_equal(
        through.act(observation, deterministic=False), resumed.act(observation, False)
    )
    assert [file.name for file in path.parent.iterdir()] == ["agent.pt"]


def test_a_killed_save_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.pt"
    agent = make("SAC")
    agent.save(path)
    saved = bits(agent)
    run_updates(agent, 2)

    def killed(_: object, destination: Path) -> None:
        destination.write_bytes(b"half a check")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        agent.save(path)
    assert_same_bits(bits(make("SAC", seed=3).load(path)), saved)


def flip_a_weight_bit(data: bytes) -> bytes:
    """Change one bit inside the largest tensor, the kind of damage a reader cannot see."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        content = archive.read(largest)
    where = data.index(content) + len(content) // 2
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut to a tenth": lambda data: data[: len(data) // 10],
    "cut in half": lambda data: data[: len(data) // 2],
    "last bytes missing": lambda data: data[:-3],
    "text": lambda data: b"not a checkpoint",
    "one bit of a weight": flip_a_weight_bit,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("kind", ["CQL", "BC", "TD3BC"])
def test_a_damaged_checkpoint_is_refused(
    kind: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "agent.pt"
    make(kind, seed=1).save(path)
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(make(kind), path, "not a readable checkpoint")


def assert_refused(agent: Agent, path: Path, message: str) -> None:
    """Loading names the file, says why, and leaves every bit of the agent as it was."""
    run_updates(agent, 2)
    before = bits(agent)
    with pytest.raises(ValueError, match=message) as caught:
        agent.load(path)
    assert str(path) in str(caught.value)
    assert_same_bits(bits(agent), before)


def test_the_parts_of_a_checkpoint_keep_their_names() -> None:
    """Other names could not read the checkpoints that readers have stored."""
    state = make("CQL")._state()
    assert set(state["modules"]) == {"policy", "critic", "target_critic", "log_temperature"}
    assert set(state["optimisers"]) == {"policy", "critic", "temperature"}
    assert set(make("BC")._state()["modules"]) == {"policy"}
    parts = {
        "TD3BC": {"policy", "target_policy", "critic", "target_critic"},
        "IQL": {"policy", "critic", "target_critic", "value"},
    }
    for kind, expected in parts.items():
        assert set(make(kind)._state()["modules"]) == expected
    lagrange = make("CQLLagrange")._state()
    assert set(lagrange["modules"]) == {*state["modules"], "log_penalty_weight"}
    assert set(lagrange["optimisers"]) == {*state["optimisers"], "log_penalty_weight"}


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint at"):
        make("SAC").load(tmp_path / "nothing.pt")


@pytest.mark.parametrize("content", [[1, 2, 3], {"agent": "SAC"}, {}], ids=["list", "part", "none"])
def test_another_torch_file_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert_refused(make("SAC"), tmp_path / "other.pt", "not a readable checkpoint")


@pytest.mark.parametrize("missing", ["modules", "optimisers", "generator", "updates", "settings"])
def test_a_checkpoint_with_a_part_missing_is_refused(missing: str, tmp_path: Path) -> None:
    state = make("SAC", seed=1)._state()
    del state[missing]
    torch.save(state, tmp_path / "agent.pt")
    assert_refused(make("SAC"), tmp_path / "agent.pt", "not a readable checkpoint")


@pytest.mark.parametrize(
    ("saved", "loading"),
    [
        ("SAC", "CQL"),
        ("CQL", "SAC"),
        ("BC", "SAC"),
        ("BC", "BestBC"),
        ("CQL", "CQLLagrange"),
        ("CQLLagrange", "CQL"),
        ("TD3BC", "IQL"),
        ("IQL", "TD3BC"),
    ],
)
def test_a_checkpoint_of_another_class_is_refused(saved: str, loading: str, tmp_path: Path) -> None:
    make(saved, seed=1).save(tmp_path / "agent.pt")
    assert_refused(make(loading), tmp_path / "agent.pt", f"holds a {saved} checkpoint")


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    wide = make("SAC", seed=1, critic_hidden_sizes=(16, 24))
    wide.save(tmp_path / "wide.pt")
    assert_refused(make("SAC"), tmp_path / "wide.pt", r"24\) in the file, .* here")
    deep = make("SAC", seed=1, critic_hidden_sizes=(16, 16, 16))
    deep.save(tmp_path / "deep.pt")
    assert_refused(make("SAC"), tmp_path / "deep.pt", "with other parts")
    SAC(spaces.Box(-1.0, 1.0, (4,)), ACTIONS, SACSettings(**SMALL)).save(tmp_path / "other.pt")
    assert_refused(make("SAC"), tmp_path / "other.pt", "of another shape")


def test_a_checkpoint_for_another_action_box_is_refused(tmp_path: Path) -> None:
    unit_box = spaces.Box(-1.0, 1.0, (3,))
    SAC(OBSERVATIONS, unit_box, SACSettings(**SMALL)).save(tmp_path / "unit.pt")
    assert_refused(make("SAC"), tmp_path / "unit.pt", "saved for actions from")


class RunsCodeWhenUnpickled:
    """What an unsafe loader would execute."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


def test_loading_never_runs_code_from_the_file(tmp_path: Path) -> None:
    victim = tmp_path / "executed"
    state = make("SAC", seed=1)._state()
    torch.save({**state, "settings": RunsCodeWhenUnpickled(victim)}, tmp_path / "evil.pt")
    assert_refused(make("SAC"), tmp_path / "evil.pt", "not a readable checkpoint")
    assert not victim.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert victim.exists(), "the file of this test does run code in an unsafe loader"
    victim.unlink()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(RunsCodeWhenUnpickled(victim)))
    assert_refused(make("SAC"), tmp_path / "plain.pkl", "not a readable checkpoint")
    assert not victim.exists()


# ---- acting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_act_on_one_observation_and_on_a_batch(kind: str) -> None:
    agent = make(kind)
    observation = make_batch(7).observation.numpy()
    batch = agent.act(observation)
    assert batch.shape == (7, 3)
    assert batch.dtype == np.float32
    for row, action in zip(observation, batch, strict=True):
        single = agent.act(row)
        assert single.shape == (3,)
        np.testing.assert_allclose(single, action, atol=1e-6)
        assert ACTIONS.contains(single)
    assert agent.act(observation[0].tolist()).shape == (3,)
    assert agent.act(observation.astype(np.float64)).dtype == np.float32


def test_deterministic_action_is_the_squashed_mean() -> None:
    agent, observation = make("SAC"), make_batch(7).observation
    with torch.no_grad():
        mean = agent.policy(observation).mean.numpy()
    low, high = np.array(LOW), np.array(HIGH)
    expected = (low + high) / 2 + (high - low) / 2 * np.tanh(mean)
    np.testing.assert_allclose(agent.act(observation.numpy()), expected, atol=1e-6)
    state = agent.generator.get_state()
    agent.act(observation.numpy())
    assert torch.equal(agent.generator.get_state(), state), "no randomness is used"


def test_stochastic_actions_vary_repeat_by_seed_and_stay_inside() -> None:
    agent, same = make("SAC"), make("SAC")
    observation = np.zeros((5000, 5), np.float32)
    first = agent.act(observation, deterministic=False)
    assert np.array_equal(first, same.act(observation, deterministic=False))
    assert not np.array_equal(first, agent.act(observation, deterministic=False))
    assert (first.std(axis=0) > 0.05).all()
    assert ((first >= ACTIONS.low) & (first <= ACTIONS.high)).all()
    # tanh is monotone, so the deterministic action is the median of the sampled ones.
    width = ACTIONS.high - ACTIONS.low
    distance = np.abs(np.median(first, axis=0) - agent.act(observation[0])) / width
    assert (distance < 0.03).all()


@pytest.mark.parametrize("shape", [(), (4,), (6,), (7, 4), (2, 7, 5)])
def test_act_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(5,\) or \(B, 5\); got"):
        make("SAC").act(np.zeros(shape))


# ---- spaces and batches ------------------------------------------------------------------------


def broken_box(low: float, high: float) -> spaces.Box:
    """A box that gymnasium itself would not build."""
    box = spaces.Box(-1.0, 1.0, (2,))
    box.low, box.high = np.array([-1, low], np.float32), np.array([1, high], np.float32)
    return box


@pytest.mark.parametrize("agent_class", CLASSES.values(), ids=KINDS)
@pytest.mark.parametrize(
    ("action_space", "message"),
    [
        (spaces.Discrete(3), "box of continuous actions"),
        (spaces.MultiBinary(3), "box of continuous actions"),
        (spaces.Box(-math.inf, math.inf, (2,)), "finite bounds"),
        (spaces.Box(np.float32([-1, -math.inf]), np.float32([1, 1])), "finite bounds"),
        (broken_box(2.0, -2.0), "below its upper bound"),
        (broken_box(1.0, 1.0), "below its upper bound"),
        (broken_box(math.nan, 1.0), "finite bounds"),
        (spaces.Box(-1.0, 1.0, (2, 2)), "shape"),
    ],
    ids=["discrete", "binary", "infinite", "half infinite", "reversed", "empty", "nan", "matrix"],
)
def test_impossible_action_spaces_are_refused(
    agent_class: type[Agent], action_space: spaces.Space[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        agent_class(OBSERVATIONS, action_space)


@pytest.mark.parametrize(
    "observation_space",
    [spaces.Discrete(4), spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Dict({"x": OBSERVATIONS})],
    ids=["discrete", "image", "dictionary"],
)
def test_impossible_observation_spaces_are_refused(observation_space: Any) -> None:
    with pytest.raises(ValueError, match=r"box of shape \(o,\).*FlattenObservation"):
        SAC(observation_space, ACTIONS)


WRONG_SHAPES = {
    "observation": [(32, 4), (32, 5, 1), (31, 5), (160,)],
    "action": [(32, 2), (32,), (32, 1, 3), (31, 3)],
    "reward": [(32, 1), (1, 32), ()],
    "next_observation": [(32, 6), (5, 32), (33, 5)],
    "terminated": [(32, 1), (31,), ()],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("field", "shape"), [(field, shape) for field in WRONG_SHAPES for shape in WRONG_SHAPES[field]]
)
def test_a_batch_of_another_shape_is_refused(kind: str, field: str, shape: tuple[int, ...]) -> None:
    agent = make(kind)
    before = bits(agent)
    batch = make_batch(32)._replace(**{field: torch.zeros(shape)})
    with pytest.raises(ValueError, match=r"batch\.\w+ must have shape") as caught:
        agent.update(batch)
    assert str(shape) in str(caught.value) or field == "reward"
    assert_same_bits(bits(agent), before)


def test_a_reward_column_is_explained() -> None:
    batch = make_batch(32)
    with pytest.raises(ValueError, match=r"got .*32.*vectors of shape \(B,\)"):
        make("SAC").update(batch._replace(reward=batch.reward[:, None]))


# ---- end to end --------------------------------------------------------------------------------


BOXES = {
    "one-sided": ([0.0], [5.0]),
    "small": ([-0.4] * 4, [0.4] * 4),
    "car racing": ([-1.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "far from zero": ([99.0, -7.0], [101.0, -6.9]),
}


@pytest.mark.parametrize("agent_class", CLASSES.values(), ids=KINDS)
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_agents_train_and_act_on_any_box(
    agent_class: type[Agent], box: tuple[list[float], list[float]]
) -> None:
    space = spaces.Box(np.array(box[0], np.float32), np.array(box[1], np.float32))
    agent = agent_class(OBSERVATIONS, space)
    for seed in range(20):
        metrics = agent.update(make_batch(16, seed, low=box[0], high=box[1]))
        assert all(math.isfinite(value) for value in metrics.values())
    observation = 10 * make_batch(100).observation.numpy()
    for deterministic in (True, False):
        actions = agent.act(observation, deterministic)
        assert all(space.contains(action) for action in actions)
        assert (actions.std(axis=0) > 0.01 * (space.high - space.low)).all()


def test_agents_build_themselves_from_a_dataset() -> None:
    dataset = one_state_dataset(terminated=False, truncated=True)
    agent = CQL.from_dataset(dataset, CQLSettings(**SMALL))
    assert torch.equal(agent.low, torch.tensor(LOW))
    assert torch.equal(agent.high, torch.tensor(HIGH))
    agent.update(dataset.sample(2, torch.Generator().manual_seed(0)))
    assert BC.from_dataset(dataset).settings == BCSettings()


def test_settings_default_and_cannot_be_changed_later() -> None:
    agent = CQL(PENDULUM_OBSERVATIONS, PENDULUM_ACTIONS)
    assert agent.settings == CQLSettings()
    with pytest.raises(AttributeError):
        agent.settings.penalty_weight = 3.0  # type: ignore[misc]


# ---- CUDA --------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_trains_acts_and_exchanges_checkpoints(kind: str, tmp_path: Path) -> None:
    on_cuda, on_cpu = make(kind, device="cuda"), make(kind)
    batch = make_batch()
    if "critic" in on_cpu._modules():
        cpu_q = on_cpu.critic(batch.observation, batch.action)
        cuda_q = on_cuda.critic(batch.observation.cuda(), batch.action.cuda())
        torch.testing.assert_close(cuda_q.cpu(), cpu_q, rtol=1e-4, atol=1e-4)
    for metrics in run_updates(on_cuda, 10):
        assert all(math.isfinite(value) for value in metrics.values())
    assert {parameter.device.type for parameter in on_cuda.policy.parameters()} == {"cuda"}
    observation = batch.observation.numpy()
    action = on_cuda.act(observation)
    assert all(ACTIONS.contains(one) for one in on_cuda.act(observation, deterministic=False))
    on_cuda.save(tmp_path / "agent.pt")
    again = make(kind, seed=1, device="cuda").load(tmp_path / "agent.pt")
    np.testing.assert_array_equal(again.act(observation), action)
