"""CQL with a learned penalty weight (Kumar et al. 2020, equation 30): dual gradient steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from offline_rl_lib.agent import metrics_to_floats
from offline_rl_lib.cql import CQL, CQLSettings

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch


@dataclass(frozen=True)
class CQLLagrangeSettings(CQLSettings):
    """Settings of CQL with a learned penalty weight; ``penalty_weight`` is its first value.

    Attributes:
        penalty_threshold: the paper's tau, what the penalty is steered to, in scaled reward. It
            belongs to this library's penalty: log N is subtracted and the density is per unit of
            the environment's actions, so a critic that is flat in the action has the log of the
            box's volume. It is not multiplied by a weight.
        penalty_weight_learning_rate: Adam's step size for the log of the weight.
        min_penalty_weight: the weight is kept from falling below this.
        max_penalty_weight: the weight is kept from rising above this. Where it stays there, the
            threshold cannot be met.
    """

    penalty_threshold: float = 0.0
    penalty_weight_learning_rate: float = 1e-3
    min_penalty_weight: float = 1e-3
    max_penalty_weight: float = 1e3

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        bounds = self.min_penalty_weight, self.max_penalty_weight
        if not 0 < bounds[0] <= self.penalty_weight <= bounds[1] < math.inf:
            raise ValueError(
                "The weight's range must be positive and finite and hold its first value; got "
                f"penalty_weight {self.penalty_weight} and the range {bounds[0]} to {bounds[1]}."
            )


class CQLLagrange(CQL):
    """CQL whose penalty weight rises while the penalty is above a threshold and falls below it.

    The weight ``w`` is the multiplier of the constraint ``penalty <= threshold``: critics minimise
    ``td_loss + w * (penalty - threshold)`` while ``w`` maximises it. Both critics share one weight.
    """

    settings: CQLLagrangeSettings
    settings_class = CQLLagrangeSettings

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        settings: CQLLagrangeSettings | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, settings)
        settings = self.settings
        self.log_penalty_weight = nn.ParameterList(
            [torch.tensor(math.log(settings.penalty_weight), device=self.device)]
        )
        self.penalty_weight_optimiser = torch.optim.Adam(
            self.log_penalty_weight.parameters(),
            lr=settings.penalty_weight_learning_rate,
            fused=True,
        )

    @property
    def penalty_weight(self) -> Tensor:
        """w, a scalar tensor without gradient."""
        return self.log_penalty_weight[0].detach().exp()

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one step on critics, penalty weight, policy, temperature and target critics.

        Args:
            batch: B transitions in the environment's units.

        Returns:
            The logged metrics: those of CQL, and the penalty weight after its step.
        """
        batch = self._check(batch)
        critic_loss, metrics = self.critic_loss(batch)
        self._step(self.critic_optimiser, critic_loss, self.critic)
        weight_loss = self.penalty_weight_loss(metrics["penalty"])
        self._step(self.penalty_weight_optimiser, weight_loss, self.log_penalty_weight)
        self.limit_penalty_weight()
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
                "penalty_weight": self.penalty_weight,
            }
        )

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return TD error plus penalty times the learned weight, over both critics, and metrics."""
        _, metrics = super().critic_loss(batch)
        # The metrics are means over the two critics, the loss is their sum.
        return 2 * (metrics["td_loss"] + self.penalty_weight * metrics["penalty"]), metrics

    def penalty_weight_loss(self, penalty: Tensor) -> Tensor:
        """Return ``-w * (penalty - threshold)``: descending it raises w above the threshold.

        The penalty is taken as a number: no gradient of this loss reaches the critics.
        """
        surplus = penalty.detach() - self.settings.penalty_threshold
        return -self.log_penalty_weight[0].exp() * surplus

    @torch.no_grad()
    def limit_penalty_weight(self) -> None:
        """Put the weight back into its range, so that it can leave the end at once."""
        settings = self.settings
        self.log_penalty_weight[0].clamp_(
            math.log(settings.min_penalty_weight), math.log(settings.max_penalty_weight)
        )

    def _modules(self) -> dict[str, nn.Module]:
        return {**super()._modules(), "log_penalty_weight": self.log_penalty_weight}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {**super()._optimisers(), "log_penalty_weight": self.penalty_weight_optimiser}
