"""The long runs: a tiny experiment end to end, interruptions, failures, and what is stored."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from functools import partial
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
    append_runs,
    final_scores,
    load_runs,
    run_experiment,
    run_key,
    run_seeds,
    stored_runs,
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
    return {name: value for name, value in run.items() if name not in ("seconds", "versions")}


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
def test_an_interrupted_experiment_makes_only_what_is_missing(tmp_path: Path) -> None:
    run_experiment(TINY, tmp_path, jobs=1)
    path, summary = tmp_path / "tiny.jsonl", (tmp_path / "tiny.json").read_bytes()
    complete, lines = load_runs(path), path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line + "\n" for line in lines[:4]), encoding="utf-8")

    made: list[tuple[str, int]] = []

    def counting(
        experiment: Experiment, dataset: str, method: str, seeds: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        made.extend((method, seed) for seed in seeds)
        return run_seeds(experiment, dataset, method, seeds)

    run_experiment(TINY, tmp_path, jobs=1, run=counting)
    lost = [json.loads(line) for line in lines[4:]]
    assert sorted(made) == sorted((run["method"], run["seed"]) for run in lost)
    assert path.read_text(encoding="utf-8").splitlines()[:4] == lines[:4], "finished runs stay"
    assert in_order(load_runs(path)) == in_order(complete), "the second half repeats bit for bit"
    assert (tmp_path / "tiny.json").read_bytes() == summary

    made.clear()
    run_experiment(TINY, tmp_path, jobs=1, run=counting)
    assert made == [], "nothing is missing any more"


@pytest.mark.usefixtures("few_starts")
def test_a_half_written_line_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    whole = json.dumps(run_seeds(TINY, NARROW, "BC", (0,))[0])
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
    ("changed", "difference"),
    [
        (replace(TINY, updates=6), "planned_updates 4 in the file, 6 today"),
        (replace(TINY, evaluate_every=4), "evaluate_every 2 in the file, 4 today"),
        (
            replace(TINY, methods={"BC": (BC, BCSettings(actor_learning_rate=1e-4))}),
            "'actor_learning_rate': 0.0001",
        ),
        (replace(TINY, datasets=("pendulum/replay-v0",)), "dataset, method and seed are not in it"),
    ],
    ids=["updates", "evaluation points", "settings", "dataset"],
)
def test_runs_of_another_experiment_are_refused_and_kept(
    tmp_path: Path, changed: Experiment, difference: str
) -> None:
    original = replace(TINY, methods={"BC": TINY.methods["BC"]}, seeds=(0, 1))
    run_experiment(original, tmp_path, jobs=1)
    path = tmp_path / "tiny.jsonl"
    before = path.read_bytes()
    changed = replace(changed, methods={"BC": changed.methods["BC"]}, seeds=(0, 1))
    with pytest.raises(ValueError, match=f"line 1, is not a run of today.*{difference}.*Move"):
        run_experiment(changed, tmp_path, jobs=1)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("few_starts")
def test_runs_on_other_data_are_refused(tmp_path: Path) -> None:
    original = replace(TINY, methods={"BC": TINY.methods["BC"]}, seeds=(0, 1))
    run_experiment(original, tmp_path, jobs=1)
    path = tmp_path / "tiny.jsonl"
    other_hash = "0" * 64
    text = path.read_text(encoding="utf-8").replace(load_dataset(NARROW).card["sha256"], other_hash)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"dataset_hash {other_hash} in the file"):
        stored_runs(original, tmp_path)


@pytest.mark.usefixtures("few_starts")
def test_seeds_of_a_group_are_one_job(tmp_path: Path) -> None:
    grouped = replace(TINY, methods={"BC": TINY.methods["BC"]}, seeds_together=2)
    made: list[tuple[int, ...]] = []

    def counting(
        experiment: Experiment, dataset: str, method: str, seeds: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        made.append(seeds)
        return run_seeds(experiment, dataset, method, seeds)

    run_experiment(grouped, tmp_path, jobs=1, run=counting)
    assert made == [(0, 1), (2,)]
    path = tmp_path / "tiny.jsonl"
    runs = load_runs(path)
    assert [run["group"] for run in runs] == [[0, 1], [0, 1], [2]]
    # A group repeats as a whole; what is stored already is not stored twice.
    path.write_text(json.dumps(runs[1]) + "\n" + json.dumps(runs[2]) + "\n", encoding="utf-8")
    run_experiment(grouped, tmp_path, jobs=1, run=counting)
    assert made[2:] == [(0, 1)]
    assert in_order(load_runs(path)) == in_order(runs)


@pytest.mark.usefixtures("few_starts")
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.jsonl"
    (whole,) = run_seeds(TINY, NARROW, "BC", (0,))
    append_runs(path, [whole])
    before = path.read_bytes()
    write = Path.write_text

    def half(self: Path, data: str, **how: Any) -> int:
        write(self, data[: len(data) // 2], **how)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(RuntimeError, match=r"could not be stored.*No space left.*Make room"):
        append_runs(path, [whole | {"seed": 1}])
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.jsonl"]


def kill_the_worker(
    path: Path, experiment: Experiment, dataset: str, method: str, seeds: tuple[int, ...]
) -> list[dict[str, Any]]:
    """As the system does when the memory is full: at seed 1, once another run is stored."""
    if seeds != (1,):
        return run_seeds(experiment, dataset, method, seeds)
    while not path.exists():
        time.sleep(0.1)
    os._exit(1)


def test_a_dead_worker_is_named_and_finished_runs_are_kept(tmp_path: Path) -> None:
    deadly = replace(TINY, methods={"BC": TINY.methods["BC"]}, seeds=(0, 1))
    path = tmp_path / "tiny.jsonl"
    with pytest.raises(RuntimeError, match=r"worker process died.*the same command makes"):
        run_experiment(deadly, tmp_path, jobs=2, run=partial(kill_the_worker, path))
    assert [run["seed"] for run in load_runs(path)] == [0]
    run_experiment(deadly, tmp_path, jobs=1)
    assert len(load_runs(path)) == 2


def test_a_cluster_gives_the_numbers_of_one_process(tmp_path: Path) -> None:
    """Two workers of a local Dask cluster, through joblib, against one run after the other."""
    distributed = pytest.importorskip("distributed")
    grid = replace(TINY, seeds=(0, 1))
    (tmp_path / "serial").mkdir()
    (tmp_path / "cluster").mkdir()
    run_experiment(grid, tmp_path / "serial", jobs=1)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        run_experiment(grid, tmp_path / "cluster", backend="dask")
    serial, parallel = (load_runs(tmp_path / name / "tiny.jsonl") for name in ("serial", "cluster"))
    assert in_order(parallel) == in_order(serial)
    summaries = [(tmp_path / name / "tiny.json").read_bytes() for name in ("serial", "cluster")]
    assert summaries[0] == summaries[1]


def test_the_score_is_the_last_one_and_never_the_best() -> None:
    rising = {"returns": [[-900.0, -700.0], [-200.0, -100.0]]}
    falling = {"returns": [[-100.0, -200.0], [-1500.0, -1300.0]]}
    assert final_scores([rising, falling]).tolist() == [-150.0, -1400.0]


# ---- what is stored in the repository ---------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> list[dict[str, Any]]:
    return load_runs(RESULTS / "comparison.jsonl")


def test_stored_runs_are_those_of_the_current_settings_and_data(
    stored: list[dict[str, Any]],
) -> None:
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


@pytest.mark.usefixtures("few_starts")
def test_a_short_rerun_of_a_stored_cell_repeats_bit_for_bit() -> None:
    short = replace(COMPARISON, updates=20, evaluate_every=10)
    once, again = (run_seeds(short, NARROW, "CQL", (3,))[0] for _ in range(2))
    assert without_times(once) == without_times(again)
    assert without_times(once) != without_times(run_seeds(short, NARROW, "CQL", (4,))[0])


def test_a_stored_run_begins_as_it_does_today(stored: list[dict[str, Any]]) -> None:
    first = replace(COMPARISON, updates=1_000)
    (today,) = run_seeds(first, NARROW, "BC", (0,))
    (run,) = (
        run for run in stored if (run["dataset"], run["method"], run["seed"]) == (NARROW, "BC", 0)
    )
    # Machines round differently and the differences grow, so not bit for bit here.
    likelihood, returns = "negative_log_likelihood", np.array(run["returns"][0])
    assert today["metrics"][likelihood] == pytest.approx(run["metrics"][likelihood][:1], abs=0.02)
    assert np.mean(today["returns"][0]) == pytest.approx(returns.mean(), abs=60)
