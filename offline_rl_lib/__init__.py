"""A small library for *Conservative Q-Learning, step by step*: one module an idea."""

from offline_rl_lib.bc import BC, BCSettings
from offline_rl_lib.best_bc import BestBC, BestBCSettings
from offline_rl_lib.conservative import cql_penalty, log_mean_exp_q
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.cql_lagrange import CQLLagrange, CQLLagrangeSettings
from offline_rl_lib.densities import TanhNormal, uniform_actions, uniform_log_density
from offline_rl_lib.iql import IQL, IQLSettings
from offline_rl_lib.sac import SAC, SACSettings
from offline_rl_lib.td3_bc import TD3BC, TD3BCSettings

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
    "IQLSettings",
    "SACSettings",
    "TD3BCSettings",
    "TanhNormal",
    "cql_penalty",
    "log_mean_exp_q",
    "uniform_actions",
    "uniform_log_density",
]
