"""What TD3+BC and IQL share with SAC: twin critics, slow copies, rewards in another scale."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from offline_rl_lib.agent import Agent, AgentSettings
from offline_rl_lib.networks import TwinCritic, seeded_initialisation

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class CriticAgentSettings(AgentSettings):
    """Settings of an agent with twin critics. They mean what they mean in SAC.

    Attributes:
        critic_hidden_sizes: widths of each critic's hidden layers.
        critic_learning_rate: Adam's step size for the critics.
        discount: gamma, per step.
        target_update_rate: tau, the share of a network that its slow copy takes on per move.
        reward_shift: added to every reward of the data, in the environment's units.
        reward_scale: multiplied after the shift.
    """

    critic_hidden_sizes: tuple[int, ...] = (128, 128)
    critic_learning_rate: float = 1e-3
    discount: float = 0.99
    target_update_rate: float = 0.005
    reward_shift: float = 0.0
    reward_scale: float = 1.0


class CriticAgent(Agent):
    """An agent with twin critics and their slow copy; its subclasses say what the target is."""

    settings: CriticAgentSettings
    settings_class = CriticAgentSettings

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        settings: CriticAgentSettings | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, settings)
        settings = self.settings
        # The seed of SAC's critics: agents of one seed start from the same critics.
        with seeded_initialisation(settings.seed + 1_000_003):
            self.critic = TwinCritic(
                self.observation_size, self.action_size, settings.critic_hidden_sizes
            ).to(self.device)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), lr=settings.critic_learning_rate, fused=True
        )

    def scaled_reward(self, batch: TransitionBatch) -> Tensor:
        """Return ``(r + shift) * scale``, shape ``(B,)``."""
        return (batch.reward + self.settings.reward_shift) * self.settings.reward_scale

    def td_target(self, batch: TransitionBatch) -> Tensor:
        """Return the regression target of both critics, shape ``(B,)``, in scaled reward."""
        raise NotImplementedError

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum over both critics of the mean squared TD error, and metrics."""
        target = self.td_target(batch)  # (B,)
        data_q = self.critic(batch.observation, batch.action)  # (2, B)
        td_loss = (data_q - target).square().mean(dim=-1)  # (2,)
        return td_loss.sum(), {"td_loss": td_loss.mean(), "data_q": data_q.mean()}

    @torch.no_grad()
    def update_target(self) -> None:
        """Move each slow copy a share ``target_update_rate`` of the way to its original."""
        modules = self._modules()
        for name in [name for name in modules if name.startswith("target_")]:
            source = modules[name.removeprefix("target_")].parameters()
            for slow, fast in zip(modules[name].parameters(), source, strict=True):
                slow.lerp_(fast, self.settings.target_update_rate)

    def _modules(self) -> dict[str, nn.Module]:
        return {
            **super()._modules(),
            "critic": self.critic,
            "target_critic": self.target_critic,
        }

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {**super()._optimisers(), "critic": self.critic_optimiser}
