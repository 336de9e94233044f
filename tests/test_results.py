"""The command that lists, makes and checks everything stored."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline_rl_lib import BC, BCSettings, results
from offline_rl_lib.experiments import RESULTS, Experiment, append_runs, load_runs, run_key
from offline_rl_lib.results import COMPUTATIONS, GRIDS, Grid, check, connected, main

PAGE = Path(__file__).parents[1] / "book" / "results.md"
TINY = Experiment(
    name="tiny",
    datasets=("pendulum/narrow-v0",),
    methods={"BC": (BC, BCSettings())},
    seeds=(0, 1, 2),
    updates=4,
    evaluate_every=2,
)


def invented(
    experiment: Experiment, dataset: str, method: str, seeds: tuple[int, ...]
) -> list[dict[str, Any]]:
    """A run of no cost: its return follows from its seed."""
    return [
        run_key(experiment, dataset, method, seed)
        | {"seconds": 0.1, "versions": {}, "updates": [4], "returns": [-100.0 - seed]}
        for seed in seeds
    ]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    def summarise(experiment: Experiment, directory: Path) -> None:
        (directory / f"{experiment.name}.json").write_text("{}", encoding="utf-8")

    grid = Grid(TINY, "nothing at all", invented, summarise, tmp_path / "here")
    monkeypatch.setitem(GRIDS, "tiny", grid)
    return grid


def test_a_named_experiment_is_made_once(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--jobs", "1"]) == 0
    assert len(load_runs(grid.directory / "tiny.jsonl")) == 3
    table = capsys.readouterr().out
    assert "pendulum/narrow-v0" in table
    assert "-101" in table
    before = (grid.directory / "tiny.jsonl").read_bytes()
    assert main(["tiny", "--jobs", "1"]) == 0
    assert (grid.directory / "tiny.jsonl").read_bytes() == before


def test_unknown_names_are_named_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["maps"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "unknown: maps" in message
    assert "comparison, failure, map" in message


def test_the_list_counts_what_is_stored(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == {*COMPUTATIONS, *GRIDS}
    assert "0 of 3 runs" in lines["tiny"]
    assert "80 of 80 runs" in lines["comparison"]
    assert "1 of 1 files" in lines["references"]


def test_a_check_tells_same_near_and_other(grid: Grid) -> None:
    with pytest.raises(ValueError, match="no runs of BC on pendulum/narrow-v0 are stored yet"):
        check(grid)
    main(["tiny", "--jobs", "1"])
    assert check(grid).endswith("the same bits")

    def moved(by: float) -> Grid:
        def run(*job: Any) -> list[dict[str, Any]]:
            return [run | {"returns": [run["returns"][0] + by]} for run in invented(*job)]

        return replace(grid, run=run)

    assert "other bits, and scores" in check(moved(0.5))
    with pytest.raises(ValueError, match=r"scores \[-150\.0\] today.*between -102\.0 and -100\.0"):
        check(moved(-50.0))


def test_a_failing_check_fails_the_command(grid: Grid, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--check"]) == 1
    assert "no runs of BC" in capsys.readouterr().err


def test_a_stopped_command_says_how_to_go_on(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "run_experiment", stop)
    assert main(["tiny"]) == 130
    assert "makes what is still missing" in capsys.readouterr().err


def test_foreign_runs_stop_the_command_with_their_line(
    grid: Grid, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tiny", "--jobs", "1"])
    path = grid.directory / "tiny.jsonl"
    foreign = load_runs(path)[0] | {"method": "DQN"}
    append_runs(path, [foreign])
    before = path.read_bytes()
    assert main(["tiny"]) == 1
    assert "line 4, is not a run of today's experiment" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_workers_keep_their_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "7")
    with connected("loky", None):
        assert results.os.environ["MALLOC_TRIM_THRESHOLD_"] == "1000000000"
        assert results.os.environ["MALLOC_MMAP_THRESHOLD_"] == "7", "the user's choice stays"


@pytest.mark.parametrize(
    "grid", [grid for grid in GRIDS.values() if grid.directory == RESULTS], ids=lambda g: g.shows
)
def test_stored_runs_are_all_there_and_their_summary_follows_from_them(
    grid: Grid, tmp_path: Path
) -> None:
    experiment = grid.experiment
    runs = RESULTS / f"{experiment.name}.jsonl"
    made = [(run["dataset"], run["method"], run["seed"]) for run in load_runs(runs)]
    planned = itertools.product(experiment.datasets, experiment.methods, experiment.seeds)
    assert sorted(made) == sorted(planned)
    shutil.copy(runs, tmp_path)
    grid.summarise(experiment, tmp_path)
    computed, stored = (
        json.loads((folder / f"{experiment.name}.json").read_text(encoding="utf-8"))
        for folder in (tmp_path, RESULTS)
    )
    # The versions are those of the machine that made the runs.
    assert computed.pop("versions", {}).keys() == stored.pop("versions", {}).keys()
    assert computed == stored


def test_the_page_lists_every_stored_result() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (*COMPUTATIONS, *GRIDS):
        assert f"run.py results {name}`" in text, name
    described = {file for computation in COMPUTATIONS.values() for file in computation.files}
    described |= {
        f"{name}.{kind}"
        for name, grid in GRIDS.items()
        if grid.directory == RESULTS
        for kind in ("json", "jsonl")
    }
    # Written by the commands that build, test and measure, not by long runs.
    generated = {"benchmark.json", "chapter_times.json", "environment.json", "ledger.json"}
    assert "run.py benchmark`" in text
    assert {file.name for file in RESULTS.iterdir()} == described | generated
    for file in described:
        assert f"`{file}`" in text, file


def test_the_quick_experiment_is_a_corner_of_the_map() -> None:
    quick, whole = GRIDS["quick"], GRIDS["map"]
    assert quick.directory != RESULTS
    assert set(quick.experiment.datasets) <= set(whole.experiment.datasets)
    json.dumps(run_key(quick.experiment, quick.experiment.datasets[0], "BC", 0))
