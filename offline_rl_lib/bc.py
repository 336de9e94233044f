"""Behavioural cloning: the policy that makes the data's actions most likely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from offline_rl_lib.agent import Agent, AgentSettings, metrics_to_floats

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class BCSettings(AgentSettings):
    """Settings of behavioural cloning."""

    actor_learning_rate: float = 1e-3


class BC(Agent):
    """Maximise the tanh-normal log-density of the data's actions. Rewards are not used."""

    settings_class = BCSettings

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one step on the negative mean log-density of the batch's actions."""
        batch = self._check(batch)
        self._check_actions(batch)
        loss = self.cloning_loss(batch)
        self._step(self.policy_optimiser, loss, self.policy)
        self.updates += 1
        return metrics_to_floats({"negative_log_likelihood": loss})

    def cloning_loss(self, batch: TransitionBatch) -> Tensor:
        """Return the mean of minus the log-density of the batch's actions."""
        return -self.policy(batch.observation).log_prob(batch.action).mean()
