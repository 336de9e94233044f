"""The long runs on narrow data: support, predicted and true values, records and landscapes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from offline_rl_lib import CQL, failure
from offline_rl_lib.data import load_dataset
from offline_rl_lib.experiments import RESULTS, Experiment, load_runs, run_experiment, run_key
from offline_rl_lib.failure import FAILURE, Record, Support
from offline_rl_lib.pendulum import evaluation_starts, observation_of, simulate, state_of

NARROW = "pendulum/narrow-v0"


@pytest.fixture(scope="module")
def support() -> Support:
    return Support(load_dataset(NARROW))


@pytest.fixture(scope="module")
def agent() -> CQL:
    """A new agent that claims to have made 300 updates."""
    settings = replace(failure.PENDULUM_CQL, initial_temperature=0.1, seed=3)
    agent = CQL.from_dataset(load_dataset(NARROW), settings)
    agent.updates = 300
    return agent


# ---- support ----------------------------------------------------------------------------------


def test_one_data_torque_in_twenty_is_outside_by_its_own_gap(support: Support) -> None:
    assert np.mean(support.own_gaps > support.limit) == pytest.approx(0.05, abs=0.001)
    dataset = load_dataset(NARROW)
    row = 777
    others = np.delete(np.arange(len(dataset)), row)
    scaled = dataset.observation.double().numpy() / support.scale
    distance = np.linalg.norm(scaled[others] - scaled[row], axis=1)
    near = support.torque[others[np.argsort(distance)[: support.neighbours]]]
    assert support.own_gaps[row] == pytest.approx(np.abs(near - support.torque[row]).min())


def test_gaps_of_many_torques_are_those_of_one(support: Support) -> None:
    states = load_dataset(NARROW).observation[:7].numpy()
    torques = np.linspace(-2, 2, 5)
    gaps = support.gap(states, np.tile(torques, (7, 1)))
    assert gaps.shape == (7, 5)
    for column, torque in enumerate(torques):
        assert np.array_equal(gaps[:, column], support.gap(states, np.full(7, torque)))
    assert np.array_equal(support.outside(states, np.tile(torques, (7, 1))), gaps > support.limit)


# ---- values -----------------------------------------------------------------------------------


def test_backups_are_counted_by_tossing_coins() -> None:
    tosses = np.random.default_rng(0).random((40_000, 60)) < 0.1
    counted = [(tosses.sum(axis=1) >= t).mean() for t in range(15)]
    assert np.allclose(failure.backups_seen(60, 0.1, 15), counted, atol=0.01)
    assert failure.backups_seen(0, 0.1, 3).tolist() == [1.0, 0.0, 0.0]


def test_predicted_q_is_the_smaller_critic(agent: CQL) -> None:
    angle, velocity = torch.tensor([0.3, -2.0]), torch.tensor([1.0, -4.0])
    torque = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.5, -2.0]])
    predicted = failure.predicted_q(agent, angle, velocity, torque)
    for i in range(2):
        observation = observation_of(angle[i], velocity[i]).expand(3, 3)
        with torch.no_grad():
            both = agent.critic(observation, torque[i].unsqueeze(-1))
        assert torch.allclose(predicted[i].float(), both.min(dim=0).values, atol=1e-6)


def test_own_torques_integrate_the_policy(agent: CQL) -> None:
    angle, velocity = torch.tensor([0.3, -2.0]).double(), torch.tensor([1.0, -4.0]).double()
    torque, probability = failure.own_torques(agent, angle, velocity, nodes=40)
    with torch.no_grad():
        policy = agent.policy(observation_of(angle, velocity).float())
        samples = policy.sample((200_000,), torch.Generator().manual_seed(0))[..., 0].double()
    for power in (1, 2):
        error = 5 * samples.pow(power).std(dim=0) / 200_000**0.5
        mean = (torque.pow(power) * probability).sum(dim=-1)
        assert ((samples.pow(power).mean(dim=0) - mean).abs() < error).all()


def test_playing_and_programming_give_the_same_value(agent: CQL) -> None:
    angle, velocity = evaluation_starts()
    whole, part = failure.simulated_values(agent, angle, velocity, repeats=4, steps=800)
    torque, probability = failure.own_torques(agent, angle, velocity)
    truth = failure.true_q(agent).q(angle[:, None], velocity[:, None], torque)
    programmed = (failure.scaled(agent, truth) * probability).sum(dim=-1)
    assert abs(float((whole - programmed).mean())) < 0.5
    # After 300 updates a critic sees 2.5 steps: the part is a few steps' worth of the whole.
    assert part.abs().max() < 5 < whole.abs().max()


def test_an_untrained_critic_can_have_seen_one_reward_and_one_bonus(agent: CQL) -> None:
    angle, velocity = evaluation_starts()
    cost = angle**2 + 0.1 * velocity**2  # beside the torque's share, at most 0.004
    beyond = {}
    for temperature in (1e-9, 0.1):
        settings = replace(agent.settings, initial_temperature=temperature)
        fresh = CQL.from_dataset(load_dataset(NARROW), settings)
        _, part = failure.simulated_values(fresh, angle, velocity, repeats=50, steps=3)
        beyond[temperature] = part - (8 - cost) / 8
    assert (beyond[1e-9].abs() < 0.001).all()
    # The bonus of the next state: discount * temperature * entropy. A new policy is almost the
    # tanh of a standard normal, whose entropy over [-2, 2] N m lies just below that of uniform.
    bonus = beyond[0.1].mean() / (0.99 * 0.1)
    assert 1.1 < bonus < math.log(4)


def test_measuring_does_not_change_the_agent(agent: CQL, support: Support) -> None:
    before = agent.generator.get_state()
    found = failure.measure(agent, support, load_dataset(NARROW))
    assert torch.equal(agent.generator.get_state(), before)
    starts = evaluation_starts()
    assert found["returns"] == pytest.approx(float(simulate(agent, *starts).mean()))
    assert found == failure.measure(agent, support, load_dataset(NARROW)), "it repeats"
    assert 0 <= found["outside"] <= 1


# ---- runs -------------------------------------------------------------------------------------


def test_a_run_is_measured_and_stored_and_not_repeated(tmp_path: Path) -> None:
    experiment = replace(FAILURE, name="tiny", seeds=(0, 1), updates=250)
    made: list[int] = []

    def run(
        experiment: Experiment, dataset: str, method: str, seeds: tuple[int, ...]
    ) -> list[Record]:
        (seed,) = seeds
        made.append(seed)
        if seed == 0 and method == "CQL":
            return failure.run_failure(experiment, dataset, method, seeds)
        points = {250: dict.fromkeys(("returns", "outside"), 0.1 * seed)}
        key = run_key(experiment, dataset, method, seed)
        return [failure.record(key, points, np.zeros(1))]

    def summarise(experiment: Experiment, directory: Path) -> None:
        (directory / "summary").write_text(experiment.name, encoding="utf-8")

    for _ in range(2):
        run_experiment(experiment, tmp_path, jobs=1, run=run, summarise=summarise)
    assert made == [0, 0, 1, 1], "the second time nothing is missing"
    assert (tmp_path / "summary").read_text(encoding="utf-8") == "tiny"
    runs = load_runs(tmp_path / "tiny.jsonl")
    real = next(run for run in runs if (run["method"], run["seed"]) == ("CQL", 0))
    assert real["measured"] == [250]
    assert len(real["data_q"]) == 1
    # The long run went through the same point.
    long = next(
        run
        for run in load_runs(RESULTS / "failure.jsonl")
        if (run["method"], run["seed"]) == ("CQL", 0)
    )
    assert real["points"]["returns"][0] == pytest.approx(long["points"]["returns"][0], abs=100)
    assert real["points"]["predicted"][0] == pytest.approx(long["points"]["predicted"][0], abs=0.2)


def test_stored_runs_are_complete_and_those_of_the_comparison() -> None:
    runs = load_runs(RESULTS / "failure.jsonl")
    for method in FAILURE.methods:
        for seed in FAILURE.seeds:
            key = run_key(FAILURE, NARROW, method, seed)
            matches = [run for run in runs if all(run[name] == key[name] for name in key)]
            assert len(matches) == 1
            assert matches[0]["measured"] == [250, 500, 1000, 2000, 3000, 4000, 5000]
    assert len(runs) == len(FAILURE.methods) * len(FAILURE.seeds)
    for run in load_runs(RESULTS / "comparison.jsonl"):
        if run["dataset"] == NARROW and run["method"] in FAILURE.methods:
            same_seed = [r for r in runs if r["seed"] == run["seed"]]
            mine = failure.curve(same_seed, run["method"], "returns")
            assert np.allclose(mine[0, 2:], np.mean(run["returns"], axis=1), atol=1.0)


# ---- landscapes -------------------------------------------------------------------------------


def test_a_landscape_holds_what_it_says(
    tmp_path: Path, agent: CQL, support: Support, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = failure.optimal_q
    monkeypatch.setattr(failure, "optimal_q", lambda grid: quick(failure.Grid(61, 61, 9)))
    path = tmp_path / "landscapes.json"
    failure.store_landscapes(path, {"new": agent}, load_dataset(NARROW), {"new": {"seed": 3}})
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["runs"] == {"new": {"seed": 3}}
    assert np.shape(stored["optimum"]) == np.shape(stored["new"]["true"]) == (25, 5, 41)
    assert np.shape(stored["data"]) == (25, 5, 20)
    angle, velocity = torch.tensor(stored["angle"][7]), torch.tensor(stored["velocity"][3])
    torque = torch.tensor(stored["torque"]).double()
    predicted = failure.predicted_q(agent, angle, velocity, torque)
    assert np.allclose(stored["new"]["predicted"][7][3], predicted, rtol=1e-3, atol=1e-4)
    observation = observation_of(angle, velocity).numpy()
    chosen = float(agent.act(observation)[0])
    assert stored["new"]["torque"][7][3] == pytest.approx(chosen, abs=1e-3)
    assert np.allclose(stored["data"][7][3], np.sort(support.near(observation[None])[0]), rtol=1e-4)


def test_the_stored_landscapes_belong_to_the_stored_runs() -> None:
    path = RESULTS / "landscapes.json"
    assert path.stat().st_size < 250_000
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["runs"] == {m: run_key(FAILURE, NARROW, m, 0) for m in FAILURE.methods}
    optimum = np.array(stored["optimum"])
    for method in FAILURE.methods:
        assert (np.array(stored[method]["true"]) <= optimum + 0.5).all(), "nothing beats the best"


def test_landscapes_are_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "landscapes.json"
    path.write_bytes((RESULTS / path.name).read_bytes())
    monkeypatch.setattr(failure, "train", lambda *_, **__: pytest.fail("it trains again"))
    failure.make_landscapes(path)
    assert path.read_bytes() == (RESULTS / path.name).read_bytes()


def test_starts_are_those_of_the_evaluation() -> None:
    angle, velocity = evaluation_starts()
    assert angle.shape == velocity.shape == (100,)
    assert velocity.abs().max() <= 1
    again = state_of(observation_of(angle, velocity).numpy())
    assert torch.allclose(again[0], angle)
