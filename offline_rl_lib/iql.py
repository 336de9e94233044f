"""IQL, implicit Q-learning (Kostrikov et al. 2022): no action outside the data is ever valued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from offline_rl_lib.agent import metrics_to_floats
from offline_rl_lib.critic_agent import CriticAgent, CriticAgentSettings
from offline_rl_lib.networks import ValueNetwork, seeded_initialisation

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class IQLSettings(CriticAgentSettings):
    """Settings of IQL.

    Attributes:
        value_hidden_sizes: widths of the value network's hidden layers.
        value_learning_rate: Adam's step size for the value network.
        expectile: the paper's tau, above 0 and below 1. 0.5 makes V the mean of Q over the data's
            actions, towards 1 it approaches their maximum.
        inverse_temperature: the paper's beta, per unit of *scaled* return: an action whose
            advantage is larger by ``1 / inverse_temperature`` weighs e times as much. It has to be
            chosen together with the reward scale. 0 makes behavioural cloning.
        max_weight: no transition weighs more than this.
    """

    value_hidden_sizes: tuple[int, ...] = (128, 128)
    value_learning_rate: float = 1e-3
    expectile: float = 0.7
    inverse_temperature: float = 3.0
    max_weight: float = 100.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must lie between 0 and 1; got {self.expectile}.")
        if not self.inverse_temperature >= 0:
            raise ValueError(
                f"inverse_temperature must not be negative; got {self.inverse_temperature}."
            )
        if not self.max_weight > 0:
            raise ValueError(f"max_weight must be positive; got {self.max_weight}.")


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Squares weighted by side: ``expectile`` above zero, ``1 - expectile`` below.

    The number ``v`` that minimises the mean over ``difference = x - v`` is the expectile of ``x``
    (paper, equation 3).

    Args:
        difference: any shape.
        expectile: between 0 and 1.

    Returns:
        The shape of ``difference``, in its unit squared.
    """
    squares = difference.square()
    return torch.where(difference > 0, expectile * squares, (1 - expectile) * squares)


class IQL(CriticAgent):
    """Expectile regression for V, one-step targets for Q, weighted cloning for the policy.

    Differences from the paper: the policy is the library's tanh-normal whose spread depends on
    the state, where the paper's is a normal around a squashed mean with one spread; no learning
    rate decays; widths, learning rates and minibatch are the book's.
    """

    settings: IQLSettings
    settings_class = IQLSettings

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        settings: IQLSettings | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, settings)
        settings = self.settings
        with seeded_initialisation(settings.seed + 2_000_003):
            self.value = ValueNetwork(self.observation_size, settings.value_hidden_sizes).to(
                self.device
            )
        self.value_optimiser = torch.optim.Adam(
            self.value.parameters(), lr=settings.value_learning_rate, fused=True
        )

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one step on value, policy, critics and slow critics, in this order.

        Args:
            batch: B transitions in the environment's units.

        Returns:
            The logged metrics: means over the batch.
        """
        batch = self._check(batch)
        self._check_actions(batch)
        value_loss, metrics = self.value_loss(batch)
        self._step(self.value_optimiser, value_loss, self.value)
        actor_loss, actor_metrics = self.actor_loss(batch)
        self._step(self.policy_optimiser, actor_loss, self.policy)
        critic_loss, critic_metrics = self.critic_loss(batch)
        self._step(self.critic_optimiser, critic_loss, self.critic)
        self.update_target()
        self.updates += 1
        return metrics_to_floats(critic_metrics | metrics | actor_metrics)

    @torch.no_grad()
    def data_value(self, batch: TransitionBatch) -> Tensor:
        """Return the smaller slow Q of the data's actions, shape ``(B,)``."""
        return self.target_critic(batch.observation, batch.action).amin(dim=0)

    def value_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean expectile loss of ``Q - V`` at the data (paper, equation 5)."""
        value = self.value(batch.observation)  # (B,)
        loss = expectile_loss(self.data_value(batch) - value, self.settings.expectile).mean()
        return loss, {"value_loss": loss, "state_value": value.mean()}

    @torch.no_grad()
    def td_target(self, batch: TransitionBatch) -> Tensor:
        """Return reward plus discounted V of the next state, shape ``(B,)`` (equation 6)."""
        next_value = self.value(batch.next_observation) * (1.0 - batch.terminated.float())
        return self.scaled_reward(batch) + self.settings.discount * next_value

    @torch.no_grad()
    def advantage_weight(self, batch: TransitionBatch) -> Tensor:
        """Return ``exp(beta (Q - V))`` of the data's actions, clipped, shape ``(B,)``."""
        advantage = self.data_value(batch) - self.value(batch.observation)
        weight = (self.settings.inverse_temperature * advantage).exp()
        return weight.clamp(max=self.settings.max_weight)

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted negative log-density of the data's actions (equation 7)."""
        weight = self.advantage_weight(batch)  # (B,)
        log_prob = self.policy(batch.observation).log_prob(batch.action)  # (B,)
        return -(weight * log_prob).mean(), {
            "advantage_weight": weight.mean(),
            "negative_log_likelihood": -log_prob.mean(),
        }

    def _modules(self) -> dict[str, nn.Module]:
        return {**super()._modules(), "value": self.value}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {**super()._optimisers(), "value": self.value_optimiser}
