"""TD3+BC (Fujimoto and Gu 2021): a deterministic actor-critic held close to the data's actions."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from offline_rl_lib.agent import metrics_to_floats
from offline_rl_lib.critic_agent import CriticAgent, CriticAgentSettings
from offline_rl_lib.networks import DeterministicPolicy

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class TD3BCSettings(CriticAgentSettings):
    """Settings of TD3+BC.

    Attributes:
        q_weight: the paper's alpha. How much the critic counts beside the distance to the data's
            action. 0 makes a regression on the data's actions.
        target_noise: standard deviation of the noise on the target's action, in half-widths of
            the action box.
        target_noise_clip: largest size of that noise, in half-widths of the box.
        policy_delay: critic steps per step of the policy and of the slow copies.
    """

    q_weight: float = 2.5
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    policy_delay: int = 2

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("q_weight", "target_noise", "target_noise_clip"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if self.policy_delay < 1:
            raise ValueError(f"policy_delay must be at least 1; got {self.policy_delay}.")


class TD3BC(CriticAgent):
    """TD3 whose policy maximises Q and stays close to the data's actions.

    Differences from the paper: observations are not normalised, so that all agents of the book
    see the same; the action box may be any, so noise and distance are counted in half-widths of
    the box, which on [-1, 1] is the paper's; widths, learning rates and minibatch are the
    book's. As in the authors' code, the mean of ``|Q|`` is taken at the policy's actions.
    """

    settings: TD3BCSettings
    settings_class = TD3BCSettings
    policy_class = DeterministicPolicy

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        settings: TD3BCSettings | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, settings)
        self.target_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self.half_width = (self.high - self.low) / 2

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one step on the critics and, every ``policy_delay`` updates, on the rest.

        Args:
            batch: B transitions in the environment's units.

        Returns:
            The logged metrics: means over the batch, those of the policy also between its steps.
        """
        batch = self._check(batch)
        critic_loss, metrics = self.critic_loss(batch)
        self._step(self.critic_optimiser, critic_loss, self.critic)
        actor_loss, actor_metrics = self.actor_loss(batch)
        self.updates += 1
        if self.updates % self.settings.policy_delay == 0:
            self._step(self.policy_optimiser, actor_loss, self.policy)
            self.update_target()
        return metrics_to_floats(metrics | actor_metrics)

    @torch.no_grad()
    def smoothed_action(self, observation: Tensor) -> Tensor:
        """Return the slow policy's action plus clipped noise, inside the box, ``(B, d)``."""
        action = self.target_policy(observation).mode
        noise = torch.randn(
            action.shape, dtype=action.dtype, device=action.device, generator=self.generator
        )
        limit = self.settings.target_noise_clip
        noise = (self.settings.target_noise * noise).clamp(-limit, limit)
        return (action + noise * self.half_width).clamp(self.low, self.high)

    @torch.no_grad()
    def td_target(self, batch: TransitionBatch) -> Tensor:
        """Return reward plus discounted smaller Q at the smoothed action, shape ``(B,)``."""
        next_action = self.smoothed_action(batch.next_observation)
        next_q = self.target_critic(batch.next_observation, next_action).amin(dim=0)
        going_on = 1.0 - batch.terminated.float()
        return self.scaled_reward(batch) + self.settings.discount * next_q * going_on

    def actor_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return squared distance to the data minus normalised Q (paper, equation 5)."""
        action = self.policy(batch.observation).mode  # (B, d)
        q_value = self.critic(batch.observation, action)[0]  # (B,): the first critic, as in TD3
        # Without gradient, and not zero where Q is: a fresh critic may be.
        scale = q_value.detach().abs().mean().clamp(min=1e-8)
        distance = ((action - batch.action) / self.half_width).square().mean()
        loss = distance - self.settings.q_weight * q_value.mean() / scale
        return loss, {"policy_q": q_value.mean(), "data_distance": distance}

    def _modules(self) -> dict[str, nn.Module]:
        return {**super()._modules(), "target_policy": self.target_policy}
