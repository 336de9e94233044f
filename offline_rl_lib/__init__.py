"""A small library for *Conservative Q-Learning, step by step*: one module an idea."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.best_bc import BestBC, BestBCSettings
from offline_rl_lib.conservative import cql_penalty, log_mean_exp_q
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.cql_lagrange import CQLLagrange, CQLLagrangeSettings
from offline_rl_lib.densities import TanhNormal, uniform_actions, uniform_log_density
from offline_rl_lib.fast_cql import FastCQL
from offline_rl_lib.iql import IQL, IQLSettings
from offline_rl_lib.sac import SAC, SACSettings
from offline_rl_lib.td3_bc import TD3BC, TD3BCSettings

if TYPE_CHECKING:
    from offline_rl_lib.collecting import collect_dataset
    from offline_rl_lib.data import OfflineDataset, TransitionBatch, load_dataset
    from offline_rl_lib.evaluation import EvaluationResult, evaluate
    from offline_rl_lib.training import train

# Loaded at first use: they bring Minari with them, and collecting is a command of its own too.
_MODULE_OF = {
    "EvaluationResult": "evaluation",
    "OfflineDataset": "data",
    "TransitionBatch": "data",
    "collect_dataset": "collecting",
    "evaluate": "evaluation",
    "load_dataset": "data",
    "train": "training",
}

__all__ = [
    "BC",
    "CQL",
    "IQL",
    "SAC",
    "TD3BC",
    "BCSettings",
    "BestBC",
    "BestBCSettings",
    "CQLLagrange",
    "CQLLagrangeSettings",
    "CQLSettings",
    "EvaluationResult",
    "FastCQL",
    "IQLSettings",
    "OfflineDataset",
    "SACSettings",
    "TD3BCSettings",
    "TanhNormal",
    "TransitionBatch",
    "collect_dataset",
    "cql_penalty",
    "evaluate",
    "load_dataset",
    "log_mean_exp_q",
    "train",
    "uniform_actions",
    "uniform_log_density",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
