"""A small library for *Conservative Q-Learning, step by step*: one module an idea."""

from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.conservative import cql_penalty, log_mean_exp_q
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.densities import TanhNormal, uniform_actions, uniform_log_density
from offline_rl_lib.sac import SAC, SACSettings

__all__ = [
    "BC",
    "CQL",
    "SAC",
    "BCSettings",
    "CQLSettings",
    "SACSettings",
    "TanhNormal",
    "cql_penalty",
    "log_mean_exp_q",
    "uniform_actions",
    "uniform_log_density",
]
