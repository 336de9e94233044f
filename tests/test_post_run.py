"""The original post's run: its settings, and what is stored of each run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from offline_rl_lib import post_run
from offline_rl_lib.experiments import load_runs, run_experiment
from offline_rl_lib.map import load_cells, write_map_summary
from offline_rl_lib.post_run import POST_RUN, run_post_run
from offline_rl_lib.silent_bugs import PostCQL


def test_the_methods_differ_by_the_code_or_the_weight_alone() -> None:
    posted, corrected, off = POST_RUN.methods.values()
    assert posted[0] is PostCQL
    assert replace(posted[1], target_entropy=None) == corrected[1]
    assert replace(corrected[1], penalty_weight=0.0) == off[1]
    assert corrected[0] is off[0]


def test_promise_and_truth_are_stored_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_run, "earned_value", partial(post_run.earned_value, steps=20))
    tiny = replace(
        POST_RUN, name="tiny", seeds=(0, 1), updates=4, evaluate_every=2, seeds_together=2
    )
    run_experiment(tiny, tmp_path, jobs=1, run=run_post_run, summarise=write_map_summary)
    runs = load_runs(tmp_path / "tiny.jsonl")
    assert len(runs) == 6
    for run in runs:
        for name in ("returns", "promised", "earned_on_the_way"):
            assert np.shape(run[name]) == (2,), name
            assert np.isfinite(run[name]).all()
        assert run["earned"] == run["earned_on_the_way"][-1]
    earned = load_cells(tiny, tmp_path).earned
    assert earned.shape == (1, 3, 2)
    assert np.isfinite(earned).all()
