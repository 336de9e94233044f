"""The long runs: a tiny experiment end to end, interruptions, failures, and what is stored."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from offline_rl_lib import BC, CQL, BCSettings, experiments
from offline_rl_lib.agent import Agent
from offline_rl_lib.data import TransitionBatch, load_dataset
from offline_rl_lib.evaluation import EVALUATION_SEEDS, EvaluationResult, evaluate
from offline_rl_lib.experiments import (
    COMPARISON,
    PENDULUM_CQL,
    RESULTS,
    Experiment,
    final_scores,
    load_runs,
    run_experiment,
    run_key,
    run_once,
    write_summary,
)

NARROW = "pendulum/narrow-v0"
TINY = Experiment(
    name="tiny",
    datasets=(NARROW,),
    methods={"BC": (BC, BCSettings()), "CQL, weight 5": (CQL, PENDULUM_CQL)},
    seeds=(0, 1, 2),
    updates=4,
    evaluate_every=2,
)


@pytest.fixture
def few_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate on 3 of the 100 starts: what is tested here is the book-keeping."""

    def quick(agent: Agent, env_id: str) -> EvaluationResult:
        return evaluate(agent, env_id, EVALUATION_SEEDS[:3])

    monkeypatch.setattr(experiments, "evaluate", quick)


def without_times(run: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name != "seconds"}


def in_order(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(map(without_times, runs), key=lambda run: (run["method"], run["seed"]))


# ---- a tiny experiment ------------------------------------------------------------------------


@pytest.mark.usefixtures("few_starts")
def test_an_experiment_stores_every_run_and_its_summary(tmp_path: Path) -> None:
    run_experiment(TINY, tmp_path, jobs=1)
    runs = load_runs(tmp_path / "tiny.jsonl")
    assert {(run["method"], run["seed"]) for run in runs} == {
        (method, seed) for method in TINY.methods for seed in TINY.seeds
    }
    for run in runs:
        assert run["updates"] == [2, 4]
        assert np.shape(run["returns"]) == (2, 3)
        assert run["dataset_hash"] == load_dataset(NARROW).card["sha256"]
        assert run["settings"]["seed"] == run["seed"]
        assert ("data_q" in run["metrics"]) == (run["agent"] == "CQL")
        assert all(len(values) == 2 for values in run["metrics"].values())

    summary = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    assert set(summary["scores"]["narrow"]) == {"bc", "cql-weight-5"}
    for method, slug in (("BC", "bc"), ("CQL, weight 5", "cql-weight-5")):
        last = [np.mean(run["returns"][-1]) for run in runs if run["method"] == method]
        stored = summary["scores"]["narrow"][slug]
        assert stored["iqm"] == pytest.approx(stats.trim_mean(last, 0.25), abs=0.051)
        assert (stored["worst"], stored["best"]) == pytest.approx((min(last), max(last)), abs=0.051)
        assert stored["worst"] <= stored["interval"][0] <= stored["iqm"] <= stored["interval"][1]
        assert stored["runs"] == 3
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.usefixtures("few_starts")
def test_an_interrupted_experiment_makes_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_experiment(TINY, tmp_path, jobs=1)
    path, summary = tmp_path / "tiny.jsonl", (tmp_path / "tiny.json").read_bytes()
    complete, lines = load_runs(path), path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line + "\n" for line in lines[:4]), encoding="utf-8")

    made: list[tuple[str, int]] = []

    def counting(experiment: Experiment, dataset: str, method: str, seed: int) -> dict[str, Any]:
        made.append((method, seed))
        return run_once(experiment, dataset, method, seed)

    monkeypatch.setattr(experiments, "run_once", counting)
    run_experiment(TINY, tmp_path, jobs=1)
    lost = [json.loads(line) for line in lines[4:]]
    assert sorted(made) == sorted((run["method"], run["seed"]) for run in lost)
    assert path.read_text(encoding="utf-8").splitlines()[:4] == lines[:4], "finished runs stay"
    assert in_order(load_runs(path)) == in_order(complete), "the second half repeats bit for bit"
    assert (tmp_path / "tiny.json").read_bytes() == summary

    made.clear()
    run_experiment(TINY, tmp_path, jobs=1)
    assert made == [], "nothing is missing any more"


@pytest.mark.usefixtures("few_starts")
def test_a_half_written_line_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    whole = json.dumps(run_once(TINY, NARROW, "BC", 0))
    half_written = f"{whole}\n{whole[: len(whole) // 2]}"
    path.write_text(half_written, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tiny\.jsonl, line 2, is not a whole run.*Delete the"):
        run_experiment(TINY, tmp_path, jobs=1)
    assert path.read_text(encoding="utf-8") == half_written
    path.write_text(whole + "\n", encoding="utf-8")  # what the message says to do
    run_experiment(TINY, tmp_path, jobs=1)
    assert len(load_runs(path)) == 6


def test_missing_runs_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl.*run\.py results"):
        load_runs(tmp_path / "nothing.jsonl")


class FailsOnce(BC):
    """Behavioural cloning that cannot cope with seed 1."""

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        if self.settings.seed == 1:
            raise FloatingPointError("as if it had diverged")
        return super().update(batch)


@pytest.mark.usefixtures("few_starts")
def test_a_failing_run_is_reported_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(TINY, methods={"BC": (FailsOnce, BCSettings())})
    run_experiment(broken, tmp_path, jobs=1)
    assert [run["seed"] for run in load_runs(tmp_path / "tiny.jsonl")] == [0, 2]
    summary = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    assert summary["scores"]["narrow"]["bc"]["runs"] == 2
    message = capsys.readouterr().err
    assert f"{NARROW}, BC, seed 1 failed" in message
    assert "as if it had diverged" in message


@pytest.mark.usefixtures("few_starts")
@pytest.mark.parametrize(
    "changed",
    [
        replace(TINY, updates=6),
        replace(TINY, evaluate_every=4),
        replace(TINY, methods={"BC": (BC, BCSettings(actor_learning_rate=1e-4))}),
        replace(TINY, datasets=("pendulum/replay-v0",)),
    ],
    ids=["updates", "evaluation points", "settings", "dataset"],
)
def test_a_run_with_other_settings_does_not_count(tmp_path: Path, changed: Experiment) -> None:
    changed = replace(changed, methods={"BC": changed.methods["BC"]}, seeds=(0, 1))
    original = replace(TINY, methods={"BC": TINY.methods["BC"]}, seeds=(0, 1))
    run_experiment(original, tmp_path, jobs=1)
    run_experiment(changed, tmp_path, jobs=1)
    runs = load_runs(tmp_path / "tiny.jsonl")
    assert len(runs) == 4
    key = run_key(changed, changed.datasets[0], "BC", 1)
    assert sum(all(run.get(name) == value for name, value in key.items()) for run in runs) == 1


def test_the_score_is_the_last_one_and_never_the_best() -> None:
    rising = {"returns": [[-900.0, -700.0], [-200.0, -100.0]]}
    falling = {"returns": [[-100.0, -200.0], [-1500.0, -1300.0]]}
    assert final_scores([rising, falling]).tolist() == [-150.0, -1400.0]


# ---- what is stored in the repository ---------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> list[dict[str, Any]]:
    return load_runs(RESULTS / "comparison.jsonl")


def test_stored_runs_are_those_of_the_current_settings_and_data(
    stored: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "load_dataset", cache(load_dataset))  # 80 keys, two datasets
    keys = [
        run_key(COMPARISON, dataset, method, seed)
        for dataset in COMPARISON.datasets
        for method in COMPARISON.methods
        for seed in COMPARISON.seeds
    ]
    found = [{name: run[name] for name in keys[0]} for run in stored]
    assert len(found) == len(keys) == 80
    for key in keys:
        assert found.count(key) == 1, f"run.py results makes the missing run {key}"


def test_stored_runs_are_whole(stored: list[dict[str, Any]]) -> None:
    for run in stored:
        assert run["updates"] == [1_000, 2_000, 3_000, 4_000, 5_000]
        returns = np.array(run["returns"])
        assert returns.shape == (5, len(EVALUATION_SEEDS))
        assert np.isfinite(returns).all()
        # 200 steps, each between -(pi^2 + 0.1 * 8^2 + 0.001 * 2^2) and 0.
        assert (returns <= 0).all()
        assert (returns >= -200 * 16.2737).all()


def test_stored_summary_is_computed_from_the_stored_runs(tmp_path: Path) -> None:
    (tmp_path / "comparison.jsonl").write_bytes((RESULTS / "comparison.jsonl").read_bytes())
    write_summary(COMPARISON, tmp_path)
    computed = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    stored = json.loads((RESULTS / "comparison.json").read_text(encoding="utf-8"))
    # The versions are those of the machine that made the runs.
    assert computed.pop("versions").keys() == stored.pop("versions").keys()
    assert computed == stored


@pytest.mark.usefixtures("few_starts")
def test_a_short_rerun_of_a_stored_cell_repeats_bit_for_bit() -> None:
    short = replace(COMPARISON, updates=20, evaluate_every=10)
    once, again = (run_once(short, NARROW, "CQL", 3) for _ in range(2))
    assert without_times(once) == without_times(again)
    assert without_times(once) != without_times(run_once(short, NARROW, "CQL", 4))


def test_a_stored_run_begins_as_it_does_today(stored: list[dict[str, Any]]) -> None:
    first = replace(COMPARISON, updates=1_000)
    today = run_once(first, NARROW, "BC", 0)
    (run,) = (
        run for run in stored if (run["dataset"], run["method"], run["seed"]) == (NARROW, "BC", 0)
    )
    # Machines round differently and the differences grow, so not bit for bit here.
    likelihood, returns = "negative_log_likelihood", np.array(run["returns"][0])
    assert today["metrics"][likelihood] == pytest.approx(run["metrics"][likelihood][:1], abs=0.02)
    assert np.mean(today["returns"][0]) == pytest.approx(returns.mean(), abs=60)
