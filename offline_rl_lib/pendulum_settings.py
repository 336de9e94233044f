"""Settings of the algorithms for Pendulum, all with the rewards ``(r + 8) / 8``.

Those of CQL stand in :mod:`offline_rl_lib.experiments`.
"""

from __future__ import annotations

from typing import Any

from offline_rl_lib.best_bc import BestBCSettings
from offline_rl_lib.cql_lagrange import CQLLagrangeSettings
from offline_rl_lib.iql import IQLSettings
from offline_rl_lib.td3_bc import TD3BCSettings

SHARED: dict[str, Any] = {
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "reward_shift": 8.0,
    "reward_scale": 1 / 8,
}

PENDULUM_BEST_BC = BestBCSettings(fraction=0.1)
PENDULUM_TD3BC = TD3BCSettings(**SHARED, q_weight=2.5)
PENDULUM_IQL = IQLSettings(**SHARED, expectile=0.7, inverse_temperature=15.0)
PENDULUM_CQL_LAGRANGE = CQLLagrangeSettings(**SHARED, penalty_threshold=0.0)
