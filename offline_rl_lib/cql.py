"""Conservative Q-learning, CQL(H) (Kumar et al. 2020): SAC plus a penalty on its critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offline_rl_lib.conservative import cql_penalty
from offline_rl_lib.densities import uniform_actions, uniform_log_density
from offline_rl_lib.sac import SAC, SACSettings

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class CQLSettings(SACSettings):
    """Settings of CQL.

    Attributes:
        penalty_weight: w, multiplies the penalty beside a mean squared TD error *without* the
            factor 1/2 of the paper, so it is twice the paper's alpha. 0 makes offline SAC.
        num_proposals: N, sampled actions per state and source; the sources are the uniform
            distribution, the policy at the state and the policy at the next state.
        penalty_temperature: T of the soft maximum, in units of scaled reward.
    """

    penalty_weight: float = 1.0
    num_proposals: int = 5
    penalty_temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        if not self.penalty_weight >= 0:
            raise ValueError(f"penalty_weight must not be negative; got {self.penalty_weight}.")
        if self.num_proposals < 1:
            raise ValueError(f"num_proposals must be at least 1; got {self.num_proposals}.")
        if not self.penalty_temperature > 0:
            raise ValueError(
                f"penalty_temperature must be positive; got {self.penalty_temperature}."
            )


class CQL(SAC):
    """SAC whose critics are pushed down on sampled actions and up on the data's actions."""

    settings: CQLSettings
    settings_class = CQLSettings

    @torch.no_grad()
    def proposals(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Sample the actions on which the soft maximum is estimated.

        All of them are scored at the *current* observation. The policy at the next observation
        is one more proposal for the same integral, not a visit to the next state.

        Returns:
            Actions of shape ``(B, 3N, d)`` and their log-densities, shape ``(B, 3N)``.
        """
        size, count = batch.reward.shape[0], self.settings.num_proposals
        uniform = uniform_actions((size, count), self.low, self.high, self.generator)
        uniform_log = uniform_log_density(self.low, self.high).expand(size, count)
        actions, log_densities = [uniform], [uniform_log]
        for observation in (batch.observation, batch.next_observation):
            distribution = self.policy(observation)
            action, log_prob = distribution.rsample_with_log_prob((count,), self.generator)
            actions.append(action.transpose(0, 1))  # (N, B, d) -> (B, N, d)
            log_densities.append(log_prob.transpose(0, 1))  # (N, B) -> (B, N)
        return torch.cat(actions, dim=1), torch.cat(log_densities, dim=1)

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return TD error plus weighted penalty, summed over both critics, and metrics."""
        settings = self.settings
        if settings.penalty_weight == 0:
            return super().critic_loss(batch)
        target = self.td_target(batch)  # (B,)
        actions, log_densities = self.proposals(batch)  # (B, 3N, d), (B, 3N)
        all_actions = torch.cat([batch.action.unsqueeze(1), actions], dim=1)
        q_values = self.critic(batch.observation, all_actions)  # (2, B, 1 + 3N)
        data_q, proposal_q = q_values[..., 0], q_values[..., 1:]
        td_loss = (data_q - target).square().mean(dim=-1)  # (2,)
        penalty = cql_penalty(proposal_q, log_densities, data_q, settings.penalty_temperature)
        loss = (td_loss + settings.penalty_weight * penalty).sum()
        return loss, {
            "td_loss": td_loss.mean(),
            "data_q": data_q.mean(),
            "penalty": penalty.mean(),
        }
