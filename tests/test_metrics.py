"""The page "Logged metrics": its list is what `update` returns, its formulas are what it means."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from gymnasium.spaces import Box
from test_proofs_line_by_line import (
    SETTINGS,
    make,
    make_batch,
    penalty_loop,
    q_loop,
    sample_loop,
    shared_noise,
    step,
    target_loop,
)

from offline_rl_lib import (
    BC,
    CQL,
    IQL,
    SAC,
    TD3BC,
    BCSettings,
    BestBC,
    BestBCSettings,
    CQLLagrange,
    CQLLagrangeSettings,
    CQLSettings,
    IQLSettings,
    SACSettings,
    TD3BCSettings,
)
from offline_rl_lib.data import TransitionBatch

Deviation = Callable[..., None]

PAGE = (ROOT / "book" / "metrics.md").read_text(encoding="utf-8")
LISTED = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", PAGE, re.MULTILINE)
SPACES = Box(-1.0, 1.0, (3,)), Box(-1.0, 1.0, (2,))
SMALL: dict[str, Any] = {"policy_hidden_sizes": (8,), "critic_hidden_sizes": (8,)}
AGENTS = {
    "BC": lambda: BC(*SPACES, BCSettings(policy_hidden_sizes=(8,))),
    "SAC": lambda: SAC(*SPACES, SACSettings(**SMALL)),
    "CQL": lambda: CQL(*SPACES, CQLSettings(**SMALL)),
    "BestBC": lambda: BestBC(*SPACES, BestBCSettings(policy_hidden_sizes=(8,))),
    "CQLLagrange": lambda: CQLLagrange(*SPACES, CQLLagrangeSettings(**SMALL)),
    "TD3BC": lambda: TD3BC(*SPACES, TD3BCSettings(**SMALL)),
    "IQL": lambda: IQL(*SPACES, IQLSettings(**SMALL)),
}


def single_batch() -> TransitionBatch:
    """A minibatch in 32-bit on the box of SPACES."""
    batch = make_batch(8)
    columns = [column.float() for column in batch]
    return TransitionBatch(*columns)._replace(
        action=columns[1].clamp(-0.9, 0.9), terminated=batch.terminated
    )


@pytest.mark.parametrize("name", AGENTS)
def test_the_page_lists_what_update_returns(name: str) -> None:
    returned = AGENTS[name]().update(single_batch())
    assert list(returned) == [metric for metric, agents in LISTED if name in agents.split(", ")]


def test_every_listed_metric_has_its_section_with_formula_and_curves() -> None:
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
    assert list(sections) == [metric for metric, _ in LISTED]
    for metric, text in sections.items():
        assert re.search(r"^\$\$ \(eq-metric-[a-z-]+\)$", text, re.MULTILINE), metric
        assert "*Healthy.*" in text, metric
        assert "*Sick.*" in text, metric


def test_without_weight_cql_logs_what_sac_logs() -> None:
    off = CQL(*SPACES, CQLSettings(**SMALL, penalty_weight=0.0))
    assert list(off.update(single_batch())) == list(AGENTS["SAC"]().update(single_batch()))


@pytest.mark.parametrize("settings", SETTINGS, ids=["five", "one", "three"])
@pytest.mark.proves("eq-metric-td-loss", method="loops over single transitions")
@pytest.mark.proves("eq-metric-data-q", method="loops over single transitions")
@pytest.mark.proves("eq-metric-penalty", method="loops over single proposals")
def test_metrics_of_the_critics(settings: CQLSettings, deviation: Deviation) -> None:
    agent, batch = make(settings), make_batch(4)
    noise = shared_noise(agent, 4)
    target = target_loop(agent, batch, noise).numpy()
    penalty = np.mean([penalty_loop(agent, j, batch, noise) for j in (0, 1)])
    pairs = list(zip(batch.observation, batch.action, strict=True))
    data_q = np.array([[q_loop(agent.critic, j, s, a) for s, a in pairs] for j in (0, 1)])
    found = agent.update(batch)
    deviation(abs(found["td_loss"] - ((data_q - target) ** 2).mean()), 1e-12, "eq-metric-td-loss")
    deviation(abs(found["data_q"] - data_q.mean()), 1e-12, "eq-metric-data-q")
    deviation(abs(found["penalty"] - penalty), 1e-12, "eq-metric-penalty")
    wrong = {
        "td_loss": ((data_q - target) ** 2).sum(axis=0).mean(),
        "data_q": data_q.min(axis=0).mean(),
        "penalty": settings.penalty_weight * penalty,
    }
    for name, value in wrong.items():
        assert abs(found[name] - value) > 1e-4, name


@pytest.mark.proves("eq-metric-td-loss", method="loops, the weight at 0")
@pytest.mark.proves("eq-metric-data-q", method="loops, the weight at 0")
def test_metrics_of_the_critics_without_penalty(deviation: Deviation) -> None:
    agent, batch = make(replace(SETTINGS[0], penalty_weight=0.0)), make_batch(4)
    target = target_loop(agent, batch, shared_noise(agent, 4)).numpy()
    pairs = list(zip(batch.observation, batch.action, strict=True))
    data_q = np.array([[q_loop(agent.critic, j, s, a) for s, a in pairs] for j in (0, 1)])
    found = agent.update(batch)
    deviation(abs(found["td_loss"] - ((data_q - target) ** 2).mean()), 1e-12, "eq-metric-td-loss")
    deviation(abs(found["data_q"] - data_q.mean()), 1e-12, "eq-metric-data-q")


@pytest.mark.parametrize("settings", SETTINGS, ids=["five", "one", "three"])
@pytest.mark.proves("eq-metric-actor-loss", method="loops after the critics' step")
@pytest.mark.proves("eq-metric-entropy", method="loops after the critics' step")
@pytest.mark.proves("eq-metric-temperature", method="the parameter read after the update")
def test_metrics_of_actor_and_temperature(settings: CQLSettings, deviation: Deviation) -> None:
    agent, twin, batch = make(settings), make(settings), make_batch(6)
    noise = shared_noise(twin, 6)
    found = agent.update(batch)
    alpha = float(twin.temperature)
    draws = [sample_loop(twin, s, noise.actor[i]) for i, s in enumerate(batch.observation)]

    def loss(place: int) -> float:
        s, (action, log_prob) = batch.observation[place], draws[place]
        return alpha * log_prob - min(q_loop(twin.critic, j, s, action) for j in (0, 1))

    stale = [loss(place) for place in range(6)]
    step(twin, twin.critic_loss(batch)[0], "critic_optimiser", "critic")
    losses = [loss(place) for place in range(6)]
    log_probs = [log_prob for _, log_prob in draws]
    deviation(abs(found["actor_loss"] - np.mean(losses)), 1e-12, "eq-metric-actor-loss")
    deviation(abs(found["entropy"] + np.mean(log_probs)), 1e-12, "eq-metric-entropy")
    after = float(torch.exp(agent.log_temperature[0].detach()))
    deviation(abs(found["temperature"] - after), 1e-12, "eq-metric-temperature")
    assert abs(found["actor_loss"] - np.mean(stale)) > 1e-5
    assert abs(found["temperature"] - alpha) > 1e-6


@pytest.mark.proves("eq-metric-nll", method="change of variables by arctanh, NumPy")
def test_negative_log_likelihood(deviation: Deviation) -> None:
    agent, batch = AGENTS["BC"](), single_batch()
    agent.policy.double()
    with torch.no_grad():
        policy = agent.policy(batch.observation.double())
    mean, std, action = policy.mean.numpy(), policy.std.numpy(), batch.action.double().numpy()
    z = (np.arctanh(action) - mean) / std
    log_prob = -(z**2) / 2 - np.log(std * np.sqrt(2 * np.pi)) - np.log(1 - action**2)
    columns = [c.double() if c.is_floating_point() else c for c in batch]
    found = agent.update(TransitionBatch(*columns))
    deviation(abs(found["negative_log_likelihood"] + log_prob.sum(axis=1).mean()), 1e-12)
    assert abs(found["negative_log_likelihood"] + log_prob.mean()) > 1e-2


def test_the_joined_names_on_the_page() -> None:
    # Marked as text, because a formatter of Python would join the strings and spoil the example.
    [block] = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(block, scope)
    assert "cql_qf1_diff" not in scope["names"]
