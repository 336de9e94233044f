"""Soft actor-critic (Haarnoja et al. 2018), the algorithm that CQL adds its penalty to."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from offline_rl_lib.agent import Agent, AgentSettings, metrics_to_floats
from offline_rl_lib.networks import TwinCritic, seeded_initialisation

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class SACSettings(AgentSettings):
    """Settings of SAC.

    Attributes:
        critic_hidden_sizes: widths of each critic's hidden layers.
        critic_learning_rate: Adam's step size for the critics.
        temperature_learning_rate: Adam's step size for the log of the temperature.
        discount: gamma, per step.
        target_update_rate: tau, the share of the critic that the target takes on per update.
        initial_temperature: first value of alpha, in units of scaled reward per nat.
        target_entropy: entropy that the temperature steers the policy to, in nats with respect to
            the environment's units. ``None`` means minus the number of action dimensions in the
            box [-1, 1], which is ``-d + sum(log((high - low) / 2))`` here.
        reward_shift: added to every reward of the data, in the environment's units.
        reward_scale: multiplied after the shift. Pendulum's post uses ``(r + 8) / 8``.
    """

    critic_hidden_sizes: tuple[int, ...] = (128, 128)
    critic_learning_rate: float = 1e-3
    temperature_learning_rate: float = 3e-4
    discount: float = 0.99
    target_update_rate: float = 0.005
    initial_temperature: float = 0.01
    target_entropy: float | None = None
    reward_shift: float = 0.0
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not self.initial_temperature > 0:
            raise ValueError(
                f"initial_temperature must be positive; got {self.initial_temperature}."
            )


class SAC(Agent):
    """Soft actor-critic with twin critics, target copies and a learned temperature.

    It learns from minibatches alone: fed by a growing replay buffer it is the online algorithm,
    fed by a fixed dataset it is offline SAC.
    """

    settings: SACSettings
    settings_class = SACSettings

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        settings: SACSettings | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, settings)
        settings = self.settings
        # A seed of its own, so that the critics do not share random numbers with the policy.
        with seeded_initialisation(settings.seed + 1_000_003):
            self.critic = TwinCritic(
                self.observation_size, self.action_size, settings.critic_hidden_sizes
            ).to(self.device)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), lr=settings.critic_learning_rate, fused=True
        )
        self.log_temperature = nn.ParameterList(
            [torch.tensor(math.log(settings.initial_temperature), device=self.device)]
        )
        self.temperature_optimiser = torch.optim.Adam(
            self.log_temperature.parameters(), lr=settings.temperature_learning_rate, fused=True
        )
        half_widths = (self.high - self.low) / 2
        self.target_entropy = (
            float(half_widths.log().sum()) - self.action_size
            if settings.target_entropy is None
            else settings.target_entropy
        )

    @property
    def temperature(self) -> Tensor:
        """alpha, a scalar tensor without gradient."""
        return self.log_temperature[0].detach().exp()

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one step on critics, policy, temperature and target critics.

        Args:
            batch: B transitions in the environment's units.

        Returns:
            The logged metrics: means over the batch.
        """
        batch = self._check(batch)
        critic_loss, metrics = self.critic_loss(batch)
        self._step(self.critic_optimiser, critic_loss, self.critic)
        actor_loss, log_prob = self.actor_loss(batch)
        self._step(self.policy_optimiser, actor_loss, self.policy)
        temperature_loss = self.temperature_loss(log_prob)
        self._step(self.temperature_optimiser, temperature_loss, self.log_temperature)
        self.update_target()
        self.updates += 1
        return metrics_to_floats(
            metrics
            | {
                "actor_loss": actor_loss,
                "entropy": -log_prob.mean(dim=-1),
                "temperature": self.temperature,
            }
        )

    @torch.no_grad()
    def td_target(self, batch: TransitionBatch) -> Tensor:
        """Return the regression target of both critics, shape ``(B,)``, in scaled reward.

        Only ``terminated`` cuts the bootstrap: a time limit is no property of the state.
        """
        settings = self.settings
        reward = (batch.reward + settings.reward_shift) * settings.reward_scale
        next_policy = self.policy(batch.next_observation)
        next_action, next_log_prob = next_policy.rsample_with_log_prob((), self.generator)
        next_q = self.target_critic(batch.next_observation, next_action).amin(dim=0)
        next_value = next_q - self.temperature * next_log_prob
        return reward + settings.discount * next_value * (1.0 - batch.terminated.float())

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum over both critics of the mean squared TD error, and metrics."""
        target = self.td_target(batch)  # (B,)
        data_q = self.critic(batch.observation, batch.action)  # (2, B)
        td_loss = (data_q - target).square().mean(dim=-1)  # (2,)
        return td_loss.sum(), {"td_loss": td_loss.mean(), "data_q": data_q.mean()}

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Return the mean of ``alpha * log_prob - min Q`` and the log-densities, shape ``(B,)``."""
        action, log_prob = self.policy(batch.observation).rsample_with_log_prob((), self.generator)
        q_value = self.critic(batch.observation, action).amin(dim=0)
        return (self.temperature * log_prob - q_value).mean(), log_prob.detach()

    def temperature_loss(self, log_prob: Tensor) -> Tensor:
        """Return ``alpha * (entropy - target entropy)`` (Haarnoja et al. 2018b, equation 18)."""
        surplus_entropy = -log_prob.mean() - self.target_entropy
        return self.log_temperature[0].exp() * surplus_entropy

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target critics a share ``target_update_rate`` of the way to the critics."""
        rate = self.settings.target_update_rate
        pairs = zip(self.target_critic.parameters(), self.critic.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, rate)

    def _modules(self) -> dict[str, nn.Module]:
        return {
            **super()._modules(),
            "critic": self.critic,
            "target_critic": self.target_critic,
            "log_temperature": self.log_temperature,
        }

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            **super()._optimisers(),
            "critic": self.critic_optimiser,
            "temperature": self.temperature_optimiser,
        }
