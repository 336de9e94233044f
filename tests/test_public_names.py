"""What can be imported from the package itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import offline_rl_lib


@pytest.mark.parametrize("name", offline_rl_lib.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(offline_rl_lib, name).__doc__


def test_the_core_is_public() -> None:
    assert set(offline_rl_lib.__all__) >= {
        "BC",
        "CQL",
        "EvaluationResult",
        "SAC",
        "TanhNormal",
        "collect_dataset",
        "cql_penalty",
        "evaluate",
        "load_dataset",
        "log_mean_exp_q",
        "uniform_actions",
        "uniform_log_density",
    }


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'DQN'"):
        _ = offline_rl_lib.DQN


def test_the_formulas_do_not_wait_for_the_data_format() -> None:
    code = "import sys, offline_rl_lib; assert 'minari' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
