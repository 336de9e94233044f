"""Proofs of *The whole class, line by line*, and tests of its exercise checkers.

The judge of the batched update is `offline_rl_lib.plain`; here it is judged itself, by loops over
single transitions and actions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium.spaces import Box
from torch import Tensor, nn

from offline_rl_lib import CQL, SAC, CQLSettings, cql_penalty
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.exercise_checks.line_by_line import BROKEN, CULPRITS, ORDER, traced_shapes
from offline_rl_lib.experiments import RESULTS, load_runs
from offline_rl_lib.networks import TwinCritic
from offline_rl_lib.plain import Noise, PlainCQL, draw_noise, ordinary_critic, repeat_rows
from offline_rl_lib.teaching import check
from offline_rl_lib.tracing import trace

Deviation = Callable[..., None]

GLUED = "application/papermill.record/text/plain"
PARTS = ("critic", "target_critic", "policy", "log_temperature")
OPTIMISERS = ("critic_optimiser", "policy_optimiser", "temperature_optimiser")
SETTINGS = [
    CQLSettings(penalty_weight=0.25, num_proposals=5, reward_shift=8.0, reward_scale=0.125),
    CQLSettings(penalty_weight=5.0, num_proposals=1, discount=0.9, seed=1),
    CQLSettings(penalty_weight=0.5, num_proposals=3, target_update_rate=0.3, seed=2),
]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=["five", "one", "three"])


# ---- agents in 64-bit, on a box that forgives no mistake -----------------------------------------


def doubled(agent: CQL) -> CQL:
    for name in PARTS:
        getattr(agent, name).double()
    agent.low, agent.high = agent.low.double(), agent.high.double()
    return agent


def make(settings: CQLSettings, kind: type[CQL] = CQL) -> CQL:
    """Three observations, two unequal one-sided actions; targets apart from the critics."""
    small = replace(
        settings,
        policy_hidden_sizes=(12,),
        critic_hidden_sizes=(12, 10),
        initial_temperature=0.3,
    )
    space = Box(np.array([-1.0, 0.5], np.float32), np.array([3.0, 1.0], np.float32))
    agent = doubled(kind(Box(-np.inf, np.inf, (3,)), space, small))
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for tensor in agent.target_critic.parameters():
            tensor += 0.05 * torch.randn(tensor.shape, generator=source, dtype=torch.float64)
    return agent


def make_batch(size: int = 6, seed: int = 0) -> TransitionBatch:
    source = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    low, width = torch.tensor([-1.0, 0.5]), torch.tensor([4.0, 0.5])
    action = low + width * torch.rand((size, 2), generator=source, dtype=torch.float64)
    ends = torch.arange(size) % 3 == 0
    return TransitionBatch(normal(size, 3), action, -5 * normal(size).abs(), normal(size, 3), ends)


def shared_noise(agent: CQL, size: int) -> Noise:
    """What the agent is about to draw, without drawing it."""
    source = torch.Generator()
    source.set_state(agent.generator.get_state())
    return draw_noise(agent, size, source)


# ---- the plain version against loops -------------------------------------------------------------


def q_loop(twins: TwinCritic, j: int, s: Tensor, a: Tensor) -> float:
    """Critic j at one state (o,) and one action (d,), in NumPy."""
    first: Any = twins.from_observation
    weight = np.vstack([first.weight[j].detach().numpy(), twins.from_action[j].detach().numpy()])
    hidden = np.concatenate([s.numpy(), a.numpy()]) @ weight + first.bias[j, 0].detach().numpy()
    layer: Any
    for layer in twins.layers:
        bias = layer.bias[j, 0].detach().numpy()
        hidden = np.maximum(hidden, 0) @ layer.weight[j].detach().numpy() + bias
    return float(hidden[0])


def sample_loop(agent: CQL, s: Tensor, z: Tensor) -> tuple[Tensor, float]:
    """Action (d,) and log-density at one state; the slope of tanh is 1 / cosh^2."""
    with torch.no_grad():
        policy = agent.policy(s.unsqueeze(0))
    action, log_prob = [], 0.0
    for i in range(len(z)):
        mean, std, low, high = (
            float(part[i]) for part in (policy.mean[0], policy.std[0], agent.low, agent.high)
        )
        u = mean + std * float(z[i])
        action.append((low + high) / 2 + (high - low) / 2 * math.tanh(u))
        normal = math.exp(-(((u - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
        log_prob += math.log(normal * math.cosh(u) ** 2 * 2 / (high - low))
    return torch.tensor(action, dtype=torch.float64), log_prob


def target_loop(agent: CQL, batch: TransitionBatch, noise: Noise) -> Tensor:
    settings, values = agent.settings, []
    for i in range(len(batch.reward)):
        s = batch.next_observation[i]
        action, log_prob = sample_loop(agent, s, noise.target[i])
        slow = [q_loop(agent.target_critic, j, s, action) for j in (0, 1)]
        value = min(slow) - float(agent.temperature) * log_prob
        reward = (float(batch.reward[i]) + settings.reward_shift) * settings.reward_scale
        goes_on = 0.0 if batch.terminated[i] else 1.0
        values.append(reward + settings.discount * goes_on * value)
    return torch.tensor(values, dtype=torch.float64)


def penalty_loop(agent: CQL, j: int, batch: TransitionBatch, noise: Noise) -> float:
    """Penalty of critic j: a mean of exp(Q) / density per state, its logarithm at the end."""
    width = agent.high - agent.low
    gaps = []
    for i in range(len(batch.reward)):
        s, total, count = batch.observation[i], 0.0, noise.uniform.shape[1]
        for n in range(count):
            uniform = agent.low + width * noise.uniform[i, n]
            total += math.exp(q_loop(agent.critic, j, s, uniform)) * float(width.prod())
            for place, z in ((s, noise.current), (batch.next_observation[i], noise.upcoming)):
                action, log_prob = sample_loop(agent, place, z[n, i])
                total += math.exp(q_loop(agent.critic, j, s, action) - log_prob)
        gaps.append(math.log(total / (3 * count)) - q_loop(agent.critic, j, s, batch.action[i]))
    return sum(gaps) / len(gaps)


@each_setting
@pytest.mark.proves(
    "claim-line-plain-is-library", method="loops over single actions, change of variables by cosh"
)
def test_target_and_penalty_agree_with_loops(settings: CQLSettings, deviation: Deviation) -> None:
    agent, batch = make(settings), make_batch(4)
    noise, judge = shared_noise(agent, 4), PlainCQL(agent)
    expected = target_loop(agent, batch, noise)
    deviation((judge.target(batch, noise)[:, 0] - expected).abs().max(), 1e-12)
    with torch.no_grad():
        pairs = judge.proposals(batch, noise)
        found = [float(judge.penalty(critic, batch, pairs)) for critic in judge.critics]
    loops = [penalty_loop(agent, j, batch, noise) for j in (0, 1)]
    deviation(max(abs(a - b) for a, b in zip(found, loops, strict=True)), 1e-12)
    _, metrics = agent.critic_loss(batch)  # the library, on the same draws
    deviation(abs(metrics["penalty"].item() - sum(loops) / 2), 1e-12)
    data_q = torch.tensor(
        [[q_loop(agent.critic, j, s, a) for s, a in zip(*batch[:2], strict=True)] for j in (0, 1)],
        dtype=torch.float64,
    )
    td_loss = (data_q - expected).square().mean()
    deviation(abs(metrics["td_loss"].item() - td_loss.item()), 1e-12)


@each_setting
@pytest.mark.proves("claim-line-plain-is-library", method="separate networks and passes, 3 updates")
def test_three_updates_lead_to_the_same_parameters(
    settings: CQLSettings, deviation: Deviation
) -> None:
    agent = make(settings)
    judge, start = PlainCQL(agent), PlainCQL(agent).numbers()
    for seed in range(3):
        batch = make_batch(16, seed)
        judge.update(batch, shared_noise(agent, 16))
        agent.update(batch)
    arrived = PlainCQL(agent).numbers()
    assert (arrived - start).abs().max() > 1e-3
    deviation((judge.numbers() - arrived).abs().max(), 1e-11)


@pytest.mark.parametrize("name", BROKEN)
def test_the_judge_notices_a_broken_agent(name: str) -> None:
    """Adam's first step follows the gradient's sign alone; the later ones see its size."""
    agent = make(SETTINGS[0], BROKEN[name])
    judge = PlainCQL(agent)
    for seed in range(3):
        batch = make_batch(16, seed)
        judge.update(batch, shared_noise(agent, 16))
        agent.update(batch)
    assert (judge.numbers() - PlainCQL(agent).numbers()).abs().max() > 1e-6


@each_setting
def test_gradients_of_the_critic_loss_agree(settings: CQLSettings) -> None:
    agent, batch = make(settings), make_batch()
    judge, noise = PlainCQL(agent), shared_noise(agent, 6)
    agent.critic_loss(batch)[0].backward()
    pairs, target = judge.proposals(batch, noise), judge.target(batch, noise)
    at_data = torch.cat([batch.observation, batch.action], dim=1)
    for j, critic in enumerate(judge.critics):
        error = nn.functional.mse_loss(critic(at_data), target)
        (error + settings.penalty_weight * judge.penalty(critic, batch, pairs)).backward()
        first: Any = critic[0]
        joined = torch.cat(
            [agent.critic.from_observation.weight.grad[j], agent.critic.from_action.grad[j]]
        )
        torch.testing.assert_close(first.weight.grad, joined.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("slip", ["tiled", "reshaped", "next state"])
def test_slips_of_layout_are_caught(slip: str) -> None:
    agent, batch = make(SETTINGS[0]), make_batch()
    judge, noise = PlainCQL(agent), shared_noise(agent, 6)
    pairs, critic = judge.proposals(batch, noise), judge.critics[0].requires_grad_(False)
    right = float(judge.penalty(critic, batch, pairs))
    if slip == "tiled":
        wrong = judge.penalty(critic, batch, pairs, lambda states, n: states.repeat(n, 1))
    elif slip == "reshaped":
        mixed = [(a, d.reshape(6, 5).T.reshape(-1, 1)) for a, d in pairs]
        wrong = judge.penalty(critic, batch, mixed)
    else:
        elsewhere = batch._replace(observation=batch.next_observation)
        wrong = judge.penalty(critic, elsewhere, pairs)
    assert right == pytest.approx(penalty_loop(agent, 0, batch, noise), abs=1e-12)
    assert abs(float(wrong) - right) > 1e-3


def test_the_plain_version_refuses_another_temperature() -> None:
    with pytest.raises(ValueError, match="temperature 1 only"):
        PlainCQL(make(replace(SETTINGS[0], penalty_temperature=2.0)))


# ---- rows, joint, count --------------------------------------------------------------------------


@pytest.mark.proves("eq-line-rows", method="every row looked up, several sizes")
def test_rows_of_repeated_states(deviation: Deviation) -> None:
    wrong = 0
    for size, count in ((3, 2), (64, 10), (5, 1), (2, 7)):
        states = torch.arange(2.0 * size).view(size, 2)
        rows, tiled = repeat_rows(states, count), states.repeat(count, 1)
        places = [(b, n) for b in range(size) for n in range(count)]
        wrong += sum(not torch.equal(rows[b * count + n], states[b]) for b, n in places)
        table = rows[:, :1].view(-1, count, 1)
        wrong += sum(float(table[b, n, 0]) != float(states[b, 0]) for b, n in places)
        if count > 1:
            assert any(not torch.equal(tiled[b * count + n], states[b]) for b, n in places)
            assert all(torch.equal(tiled[n * size + b], states[b]) for b, n in places)
    deviation(wrong, 0)


@pytest.mark.parametrize(
    ("o", "d", "hidden"), [(3, 1, (128, 128)), (5, 4, (7,)), (2, 2, (9, 3, 6))]
)
@pytest.mark.proves("eq-line-split", method="one matrix product on the joined vector")
def test_the_first_layer_may_be_cut(
    o: int, d: int, hidden: tuple[int, ...], deviation: Deviation
) -> None:
    twins = TwinCritic(o, d, hidden).double().requires_grad_(False)
    source = torch.Generator().manual_seed(1)
    states = torch.randn((4, o), generator=source, dtype=torch.float64)
    actions = torch.randn((4, 6, d), generator=source, dtype=torch.float64)
    found = twins(states, actions)
    joined = torch.cat([states.unsqueeze(1).expand(-1, 6, -1), actions], dim=-1)
    swapped = torch.cat([actions, states.unsqueeze(1).expand(-1, 6, -1)], dim=-1)
    for j in (0, 1):
        critic = ordinary_critic(twins, j).requires_grad_(False)
        deviation((critic(joined)[..., 0] - found[j]).abs().max(), 1e-12)
        assert (critic(swapped)[..., 0] - found[j]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("o", "d", "critic_sizes", "policy_sizes"),
    [(3, 1, (128, 128), (128,)), (17, 6, (256, 256, 256), (256, 256)), (2, 3, (5,), (4, 7, 3))],
)
@pytest.mark.proves("eq-line-count", method="elements of a real agent's tensors counted")
def test_numbers_of_an_agent(
    o: int,
    d: int,
    critic_sizes: tuple[int, ...],
    policy_sizes: tuple[int, ...],
    deviation: Deviation,
) -> None:
    def formula(*widths: int) -> int:
        n, *hidden, m = widths
        inner = sum((hidden[i] + 1) * hidden[i + 1] for i in range(len(hidden) - 1))
        return (n + 1) * hidden[0] + inner + (hidden[-1] + 1) * m

    settings = CQLSettings(critic_hidden_sizes=critic_sizes, policy_hidden_sizes=policy_sizes)
    agent = CQL(Box(-1.0, 1.0, (o,)), Box(-1.0, 1.0, (d,)), settings)
    counts = [sum(p.numel() for p in getattr(agent, name).parameters()) for name in PARTS]
    critics = 2 * formula(o + d, *critic_sizes, 1)
    expected = [critics, critics, formula(o, *policy_sizes, 2 * d), 1]
    deviation(max(abs(a - b) for a, b in zip(counts, expected, strict=True)), 0)
    assert 2 * formula(o + d, *critic_sizes, d) != critics or d == 1


# ---- who reads, who changes ----------------------------------------------------------------------


def vector(agent: CQL, part: str) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in getattr(agent, part).parameters()])


def step(agent: CQL, loss: Tensor, optimiser: str, part: str) -> Tensor:
    agent._step(getattr(agent, optimiser), loss, getattr(agent, part))
    return vector(agent, part)


def run_step(number: int, agent: CQL, batch: TransitionBatch) -> Tensor:
    """One of the eight steps; what it computes, or the part that it changes."""
    if number in (1, 3):
        return (
            agent.td_target(batch)
            if number == 1
            else torch.cat([tensor.flatten() for tensor in agent.proposals(batch)])
        )
    if number in (2, 4):
        metrics = agent.critic_loss(batch)[1]
        return metrics["td_loss" if number == 2 else "penalty"]
    if number == 5:
        return step(agent, agent.critic_loss(batch)[0], "critic_optimiser", "critic")
    actor_loss, log_prob = agent.actor_loss(batch)
    if number == 6:
        return step(agent, actor_loss, "policy_optimiser", "policy")
    if number == 7:
        loss = agent.temperature_loss(log_prob)
        return step(agent, loss, "temperature_optimiser", "log_temperature")
    agent.update_target()
    return vector(agent, "target_critic")


# What the formulas of the eight steps name.
READS = {
    1: {"target_critic", "policy", "log_temperature"},
    2: {"critic", "target_critic", "policy", "log_temperature"},
    3: {"policy"},
    4: {"critic", "policy"},
    5: {"critic", "target_critic", "policy", "log_temperature"},
    6: {"critic", "policy", "log_temperature"},
    7: {"policy", "log_temperature"},
    8: {"critic", "target_critic"},
}
CHANGES = {5: {"critic"}, 6: {"policy"}, 7: {"log_temperature"}, 8: {"target_critic"}}


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.proves("claim-line-reads", method="each part shaken, against the formulas' letters")
def test_each_step_reads_and_changes_its_parts(number: int, deviation: Deviation) -> None:
    batch, calm = make_batch(), make(SETTINGS[0])
    result = run_step(number, calm, batch)
    fresh = make(SETTINGS[0])
    changed = {p for p in PARTS if not torch.equal(vector(calm, p), vector(fresh, p))}
    read = set()
    for part in PARTS:
        shaken = make(SETTINGS[0])
        with torch.no_grad():
            for tensor in getattr(shaken, part).parameters():
                noise = torch.Generator().manual_seed(4)
                tensor += 0.1 * torch.randn(tensor.shape, generator=noise)
        if not torch.equal(run_step(number, shaken, batch), result):
            read.add(part)
    deviation(len(read ^ READS[number]) + len(changed ^ CHANGES.get(number, set())), 0)


# ---- passes --------------------------------------------------------------------------------------


def count_passes(networks: list[nn.Module], run: Callable[[], object]) -> tuple[int, int]:
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[-1].numel() // inputs[-1].shape[-1])

    handles = [network.register_forward_pre_hook(note) for network in networks]
    run()
    for handle in handles:
        handle.remove()
    return len(seen), sum(seen)


@pytest.mark.parametrize(("size", "count"), [(64, 5), (6, 1), (16, 10)])
@pytest.mark.proves("claim-line-passes", method="forward hooks, three sizes")
def test_passes_and_rows_of_an_update(size: int, count: int, deviation: Deviation) -> None:
    agent = make(replace(SETTINGS[0], num_proposals=count))
    judge, batch, noise = PlainCQL(agent), make_batch(size), shared_noise(agent, size)
    ours, theirs = [agent.critic, agent.target_critic], [*judge.critics, *judge.targets]
    found = [
        count_passes(theirs, lambda: judge.update(batch, noise)),
        count_passes([judge.policy], lambda: judge.update(batch, noise)),
        count_passes(ours, lambda: agent.update(batch)),
        count_passes([agent.policy], lambda: agent.update(batch)),
    ]
    found[2] = found[2][0], 2 * found[2][1]  # a row of twins is two
    expected = [
        (14, (8 + 6 * count) * size),
        (4, (2 + 2 * count) * size),
        (3, (6 + 6 * count) * size),
        (4, 4 * size),
    ]
    deviation(sum(a != b for a, b in zip(found, expected, strict=True)), 0)


# ---- what goes wrong -----------------------------------------------------------------------------


@cache
def glued() -> dict[str, str]:
    """The numbers that the stored notebook put into its text."""
    path = ROOT / "notebooks" / "12_line_by_line.ipynb"
    found = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                found[name] = "".join(output["data"][GLUED]).strip("'")
    return found


def test_an_ordinary_step_between_loss_and_gradient_is_noticed() -> None:
    agent, batch = make(SETTINGS[0]), make_batch()
    loss, _ = agent.actor_loss(batch)
    adam = torch.optim.Adam(agent.critic.parameters())
    agent.critic_loss(batch)[0].backward()
    adam.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.proves("claim-line-checkpoint", method="library agents saved, loaded and trained on")
def test_a_replaced_parameter_is_out_of_reach(tmp_path: Path, deviation: Deviation) -> None:
    agent = CQL(Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (2,)), CQLSettings(num_proposals=2))

    def narrow(seed: int) -> TransitionBatch:
        batch = make_batch(8, seed)
        columns = [c.float() if c.is_floating_point() else c for c in batch]
        return TransitionBatch(*columns)._replace(action=columns[1].clamp(-1, 1))

    for seed in range(3):
        agent.update(narrow(seed))
    agent.save(tmp_path / "agent.pt")
    loaded = CQL(agent.observation_space, agent.action_space, agent.settings)
    loaded.load(tmp_path / "agent.pt")
    for seed in range(3, 6):
        agent.update(narrow(seed))
        loaded.update(narrow(seed))
    apart = [(vector(agent, p) - vector(loaded, p)).abs().max() for p in PARTS]
    deviation(max(float(distance) for distance in apart), 0)

    stuck = CQL(agent.observation_space, agent.action_space, agent.settings)
    stuck.log_temperature = nn.ParameterList([agent.log_temperature[0].detach().clone()])
    before = float(stuck.temperature)
    free = float(agent.temperature)
    for one in (stuck, agent):
        for _ in range(3):
            one.temperature_optimiser.zero_grad()
            one.temperature_loss(torch.full((8,), -3.0)).backward()
            one.temperature_optimiser.step()
    assert abs(float(agent.temperature) - free) > 1e-6
    deviation(abs(float(stuck.temperature) - before), 0)


@pytest.mark.proves("claim-line-misleading", method="stored runs read again, worst pair of seeds")
def test_the_smallest_td_error_belongs_to_the_worst_agent(deviation: Deviation) -> None:
    runs = load_runs(RESULTS / "comparison.jsonl")

    def last(method: str) -> tuple[list[float], list[float]]:
        cell = ("pendulum/narrow-v0", method)
        chosen = [run for run in runs if (run["dataset"], run["method"]) == cell]
        assert len(chosen) == 10
        returns = [float(np.mean(run["returns"][-1])) for run in chosen]
        return [run["metrics"]["td_loss"][-1] for run in chosen], returns

    (off, off_returns), (cql, cql_returns) = last("penalty off"), last("CQL")
    deviation(max(off) / min(cql), 1)
    assert max(off_returns) < min(cql_returns)
    for key, values, ends in (("off", off, off_returns), ("cql", cql, cql_returns)):
        assert glued()[f"line-td-{key}"] == f"{min(values):.3f} to {max(values):.3f}"
        assert glued()[f"line-return-{key}"] == f"{min(ends):.0f} to {max(ends):.0f}"


# ---- the trace in the stored page ----------------------------------------------------------------


def test_the_page_shows_every_statement_of_the_update() -> None:
    """The stored traces hold the library's source as it is now."""
    path = ROOT / "notebooks" / "12_line_by_line.ipynb"
    pages = [
        "".join(output["data"]["text/markdown"])
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if "show_trace(" in "".join(cell["source"])
        for output in cell["outputs"]
    ]
    agent, batch = make(SETTINGS[0]), make_batch()
    functions = (SAC.update, CQL.critic_loss, SAC.td_target, CQL.proposals, cql_penalty)
    functions += (SAC.actor_loss, SAC.temperature_loss, SAC.update_target)
    record = trace(lambda: agent.update(batch), *functions)
    assert len(pages) == len(record) == 8
    for page, statements in zip(pages, record.values(), strict=True):
        lines = page.splitlines()
        for statement in statements:
            assert statement.source.splitlines()[0] in lines


# ---- the exercises -------------------------------------------------------------------------------


def verdict(capsys: pytest.CaptureFixture[str], exercise: str, answer: Any) -> str:
    check(exercise, answer)
    return capsys.readouterr().out


SHAPES = {
    "next_action": (32, 2),
    "next_q": (32,),
    "all_actions": (32, 13, 2),
    "q_values": (2, 32, 13),
    "log_densities": (32, 12),
    "td_loss": (2,),
}
PLACES = {name: truth for name, (truth, _) in ORDER.items()}
ANSWERS = {"ex-line-shapes": SHAPES, "ex-line-broken": CULPRITS, "ex-line-order": PLACES}


@pytest.mark.parametrize("exercise", ANSWERS)
def test_right_answers_pass(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(capsys, exercise, ANSWERS[exercise]).startswith(f"{exercise}: passed.")


@pytest.mark.parametrize("exercise", ANSWERS)
def test_stubs_are_told_gently(exercise: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ANSWERS[exercise]
    assert "not done yet" in verdict(capsys, exercise, dict.fromkeys(answer, ...))
    assert "not done yet" in verdict(capsys, exercise, answer | {next(iter(answer)): ...})


@pytest.mark.parametrize(
    ("exercise", "change", "help_"),
    [
        ("ex-line-shapes", {"next_action": (32, 1, 2)}, "Find the name in the traces"),
        ("ex-line-shapes", {"next_action": 32}, "a tuple such as"),
        ("ex-line-shapes", {"next_q": (2, 32)}, "smaller of the two"),
        ("ex-line-shapes", {"next_q": (32, 1)}, "no trailing axis"),
        ("ex-line-shapes", {"all_actions": (32, 12, 2)}, "one more than the proposals"),
        ("ex-line-shapes", {"all_actions": (32, 5, 2)}, "three sources"),
        ("ex-line-shapes", {"q_values": (32, 13)}, "first axis of a critic's answer"),
        ("ex-line-shapes", {"q_values": (2, 32, 12)}, "one more than the proposals"),
        ("ex-line-shapes", {"log_densities": (32, 12, 2)}, "one number per action vector"),
        ("ex-line-shapes", {"log_densities": (32, 13)}, "it is no proposal"),
        ("ex-line-shapes", {"td_loss": (2, 32)}, "one number per critic"),
        ("ex-line-shapes", {"td_loss": ()}, "two lines later"),
        ("ex-line-broken", {"A": "critic_loss"}, "compare what it calls"),
        ("ex-line-broken", {"B": "actor_loss"}, "is the library's"),
        ("ex-line-broken", {"C": "update"}, "is none of"),
        ("ex-line-order", {"actor_before_critics": False}, "reads the critics"),
        ("ex-line-order", {"targets_before_actor": True}, "not their slow copies"),
        ("ex-line-order", {"targets_before_critics": "yes"}, "True or False"),
    ],
)
def test_typical_mistakes_get_help(
    exercise: str, change: dict[str, Any], help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verdict(capsys, exercise, ANSWERS[exercise] | change)
    assert "not right yet" in out
    assert help_ in out


def test_incomplete_answers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing: B, C" in verdict(capsys, "ex-line-broken", {"A": "td_target"})
    assert "A dictionary is expected" in verdict(capsys, "ex-line-order", 3)


def test_the_traced_shapes_are_those_of_the_solution() -> None:
    assert {name: traced_shapes()[name] for name in SHAPES} == SHAPES


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_agent_is_broken_in_one_method(name: str) -> None:
    """Equal in all methods but the culprit and, for two of them, critic_loss that calls it."""
    batch, different = make_batch(), set()
    probes = {
        "td_target": lambda a: a.td_target(batch),
        "proposals": lambda a: torch.cat([tensor.flatten() for tensor in a.proposals(batch)]),
        "critic_loss": lambda a: a.critic_loss(batch)[0],
        "actor_loss": lambda a: a.actor_loss(batch)[0],
        "temperature_loss": lambda a: a.temperature_loss(batch.reward),
        "update_target": lambda a: (a.update_target(), vector(a, "critic"))[1],
    }
    for method, probe in probes.items():
        ours, theirs = make(SETTINGS[0]), make(SETTINGS[0], BROKEN[name])
        if not torch.equal(probe(ours), probe(theirs)):
            different.add(method)
    assert different - {"critic_loss"} == {CULPRITS[name]}
    for seed in range(2):  # and it trains without an error
        theirs.update(make_batch(6, seed))


def update_in_order(order: str) -> Tensor:
    """One update with its steps in another order, each with its own noise; all parameters."""
    agent, batch = make(SETTINGS[0]), make_batch()
    states = {name: seed for seed, name in enumerate(("critics", "actor"))}

    def seeded(name: str) -> None:
        agent.generator.manual_seed(states[name])

    def critics() -> None:
        seeded("critics")
        step(agent, agent.critic_loss(batch)[0], "critic_optimiser", "critic")

    def actor() -> None:
        seeded("actor")
        step(agent, agent.actor_loss(batch)[0], "policy_optimiser", "policy")

    def temperature(log_prob: Tensor) -> None:
        loss = agent.temperature_loss(log_prob)
        step(agent, loss, "temperature_optimiser", "log_temperature")

    def densities() -> Tensor:
        seeded("actor")
        return agent.actor_loss(batch)[1]

    # The library's temperature step uses the densities of the policy before its step.
    first = {"targets_before_critics": agent.update_target, "actor_before_critics": actor}
    log_prob = densities()
    first.get(order, lambda: None)()
    critics()
    if order == "targets_before_actor":
        agent.update_target()
    if order == "temperature_before_actor":
        temperature(log_prob)
    if order != "actor_before_critics":
        actor()
    if order == "targets_before_temperature":
        agent.update_target()
    if order != "temperature_before_actor":
        temperature(log_prob)
    if order not in {
        "targets_before_critics",
        "targets_before_actor",
        "targets_before_temperature",
    }:
        agent.update_target()
    return torch.cat([vector(agent, part) for part in PARTS])


@pytest.mark.parametrize("order", ORDER)
def test_which_steps_may_change_places(order: str) -> None:
    differs = not torch.equal(update_in_order(order), update_in_order("library"))
    assert differs == PLACES[order]


def test_built_losses_let_the_steps_on_policy_and_temperature_change_places() -> None:
    def arrive(temperature_first: bool) -> Tensor:
        agent, batch = make(SETTINGS[0]), make_batch()
        actor_loss, log_prob = agent.actor_loss(batch)
        steps = [
            (actor_loss, "policy_optimiser", "policy"),
            (agent.temperature_loss(log_prob), "temperature_optimiser", "log_temperature"),
        ]
        for one in reversed(steps) if temperature_first else steps:
            step(agent, *one)
        return torch.cat([vector(agent, part) for part in PARTS])

    assert torch.equal(arrive(True), arrive(False))


def test_the_random_state_is_read_and_moved_on_too() -> None:
    alone, after = make(SETTINGS[0]), make(SETTINGS[0])
    after.td_target(make_batch())
    assert not torch.equal(alone.proposals(make_batch())[0], after.proposals(make_batch())[0])
