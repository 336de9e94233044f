"""The map of datasets against algorithms: what is measured, how it is stored and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offline_rl_lib import CQL, map
from offline_rl_lib.agent import Agent
from offline_rl_lib.data import load_dataset, shipped_datasets
from offline_rl_lib.evaluation import evaluate
from offline_rl_lib.experiments import Experiment, load_runs, run_experiment
from offline_rl_lib.failure import predicted_q
from offline_rl_lib.intervals import interquartile_mean, stratified_bootstrap_interval
from offline_rl_lib.map import (
    MAP,
    METHODS,
    QUICK,
    WEIGHTS,
    earned_value,
    last_metric,
    load_cells,
    normalised,
    promised_value,
    run_map,
    short_name,
    slug,
    weight_methods,
    weight_sweep,
    write_map_summary,
)
from offline_rl_lib.pendulum import ENV_ID, evaluation_starts, observation_of, step
from offline_rl_lib.td3_bc import TD3BC

NARROW = "pendulum/narrow-v0"
TINY = replace(
    MAP,
    name="tiny",
    datasets=(NARROW,),
    methods={name: METHODS[name] for name in ("BC", "CQL, weight 1", "TD3+BC")},
    seeds=(0, 1),
    updates=4,
    evaluate_every=2,
    batch_size=8,
    seeds_together=2,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    run_experiment(TINY, directory, jobs=1, run=run_map, summarise=write_map_summary)
    return directory


def agents_of(method: str, experiment: Experiment = TINY) -> Agent:
    agent_class, settings = experiment.methods[method]
    return agent_class.from_dataset(load_dataset(NARROW), settings)


def test_the_map_covers_every_dataset_and_the_weights_from_0_to_20() -> None:
    assert set(MAP.datasets) == set(shipped_datasets())
    assert len(MAP.datasets) == len(set(MAP.datasets)) >= 6
    weights = {
        settings.penalty_weight
        for agent_class, settings in METHODS.values()
        if agent_class is CQL and hasattr(settings, "penalty_weight")
    }
    assert weights == {0.0, *WEIGHTS}
    assert max(weights) == 20
    assert len(MAP.seeds) == 10
    assert set(QUICK.methods) <= set(METHODS)
    assert len({slug(method) for method in METHODS}) == len(METHODS)


def test_every_run_stores_what_the_agent_has(tiny: Path) -> None:
    runs = load_runs(tiny / "tiny.jsonl")
    assert len(runs) == 6
    for run in runs:
        assert run["updates"] == [2, 4]
        assert np.shape(run["returns"]) == (2,)
        assert ("promised" in run) == ("earned" in run) == (run["method"] != "BC")
        assert run["group"] == [0, 1]
        assert run["batch_size"] == 8
        assert set(run["versions"]) >= {"torch", "gymnasium", "numpy"}
    first, second = (run for run in runs if run["method"] == "TD3+BC")
    assert first["returns"] != second["returns"]


def test_cells_are_in_their_places(tiny: Path) -> None:
    cells = load_cells(TINY, tiny)
    assert cells.returns.shape == (1, 3, 2, 2)
    assert cells.updates.tolist() == [2, 4]
    for run in load_runs(tiny / "tiny.jsonl"):
        place = (*cells.of(run["dataset"], run["method"]), run["seed"])
        assert cells.returns[place].tolist() == run["returns"]
        if "earned" in run:
            assert cells.earned[place] == run["earned"]
            assert cells.promised[place].tolist() == run["promised"]
        else:
            assert np.isnan(cells.earned[place])
    with pytest.raises(ValueError, match=r"'DQN' is not among BC, CQL"):
        cells.of(NARROW, "DQN")
    with pytest.raises(ValueError, match=r"'narrow' is not among pendulum/narrow-v0"):
        cells.of("narrow", "BC")


def test_what_is_not_stored_is_not_a_number(tmp_path: Path) -> None:
    assert np.isnan(load_cells(TINY, tmp_path).returns).all()


def test_a_metric_is_read_from_the_last_stretch(tiny: Path) -> None:
    losses = last_metric("td_loss", TINY, tiny)
    cells = load_cells(TINY, tiny)
    assert losses.shape == (1, 3, 2)
    for run in load_runs(tiny / "tiny.jsonl"):
        place = (*cells.of(run["dataset"], run["method"]), run["seed"])
        if run["method"] == "BC":
            assert np.isnan(losses[place])
        else:
            assert losses[place] == run["metrics"]["td_loss"][-1]
    assert np.isnan(last_metric("no such metric", TINY, tiny)).all()


def test_the_sweep_holds_the_five_weights_in_their_order() -> None:
    methods = weight_methods()
    weights = [METHODS[method][1].penalty_weight for method in methods]  # type: ignore[attr-defined]
    assert weights == [0.0, *WEIGHTS] == sorted(weights)
    random = np.random.default_rng(0)
    shape = (2, len(METHODS), 10)
    cells = map.Cells(
        (NARROW, "pendulum/rare-v0"),
        tuple(METHODS),
        returns=random.normal(-500, 100, (*shape, 3)),
        promised=random.normal(10, 2, (*shape, 3)),
        earned=random.normal(50, 9, shape),
        updates=np.arange(3),
    )
    sweep = weight_sweep(cells)
    assert sweep["weights"] == weights
    assert list(sweep["datasets"]) == ["narrow", "rare"]
    for name, dataset in zip(sweep["datasets"], cells.datasets, strict=True):
        rows = sweep["datasets"][name]
        behaviour = load_dataset(dataset).episode_returns().mean()
        assert rows["behaviour"] == pytest.approx(float(normalised(behaviour)), abs=0.01)
        for place, method in enumerate(methods):
            found = cells.of(dataset, method)
            for key, values in (
                ("score", normalised(cells.returns[found][:, -1])),
                ("promised", cells.promised[found][:, -1]),
                ("earned", cells.earned[found]),
            ):
                expected = interquartile_mean(values), *stratified_bootstrap_interval(values)
                assert rows[key][place] == pytest.approx(expected, abs=0.006)
    json.dumps(sweep)


def test_the_summary_tells_last_and_best_apart(tiny: Path) -> None:
    summary = json.loads((tiny / "tiny.json").read_text(encoding="utf-8"))
    cells = load_cells(TINY, tiny)
    d, m = cells.of(NARROW, "CQL, weight 1")
    entry = summary["scores"]["narrow"]["cql-weight-1"]
    returns = cells.returns[d, m]
    assert entry["last"]["worst"] == pytest.approx(returns[:, -1].min(), abs=0.01)
    assert entry["best"]["worst"] == pytest.approx(returns.max(axis=1).min(), abs=0.01)
    assert entry["best"]["iqm"] >= entry["last"]["iqm"]
    assert entry["earned"]["best"] == pytest.approx(cells.earned[d, m].max(), abs=0.01)
    assert "earned" not in summary["scores"]["narrow"]["bc"]
    behaviour = load_dataset(NARROW).episode_returns().mean()
    assert summary["scores"]["narrow"]["behaviour"] == pytest.approx(float(behaviour), abs=0.01)


@pytest.mark.parametrize("method", ["BC", "CQL, weight 1", "TD3+BC"])
def test_the_fast_return_is_that_of_the_environment(method: str) -> None:
    agent = agents_of(method)
    fast = map.simulate(agent, *evaluation_starts()).numpy()
    np.testing.assert_allclose(fast, evaluate(agent, ENV_ID).returns, atol=0.5)


def test_what_a_deterministic_policy_earns() -> None:
    """Against a loop over the rewards as the agent sees them."""
    agent = agents_of("TD3+BC")
    assert isinstance(agent, TD3BC)
    angle, velocity = evaluation_starts()
    settings, total = agent.settings, torch.zeros(100, dtype=torch.float64)
    for time in range(40):
        action = agent.act(observation_of(angle, velocity).float().numpy())
        angle, velocity, reward = step(angle, velocity, torch.from_numpy(action)[:, 0].double())
        scaled = (reward + settings.reward_shift) * settings.reward_scale
        total += settings.discount**time * scaled
    assert earned_value(agent, steps=40) == pytest.approx(float(total.mean()), rel=1e-6)


def test_the_promise_is_the_smaller_critic_at_the_policys_action() -> None:
    agent = agents_of("TD3+BC")
    angle, velocity = evaluation_starts()
    torque = torch.from_numpy(agent.act(observation_of(angle, velocity).float().numpy())).double()
    expected = float(predicted_q(agent, angle, velocity, torque).mean())  # type: ignore[arg-type]
    assert promised_value(agent) == pytest.approx(expected)


def test_the_scale_of_scores() -> None:
    ends = map.reference_returns()
    assert normalised([ends["random"], ends["optimum"]]).tolist() == [0.0, 100.0]
    middle = (ends["random"] + ends["optimum"]) / 2
    assert normalised(middle) == pytest.approx(50)


def test_short_names() -> None:
    assert short_name("pendulum/two-policies-v0") == "two-policies"
    assert slug("CQL, weight 0.25") == "cql-weight-0_25"
    assert slug("TD3+BC") == "td3-bc"
