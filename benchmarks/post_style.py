"""An update laid out as in the original post, with the mathematics of the library.

It does what the post does: states repeated for every sampled action, a distribution object at
each pass, two critics one after the other, three passes each for the proposals, the data's value
computed twice, and one optimiser a network. Nothing is left out of the graph: the proposals and
the target carry gradients that are thrown away later.

Only the mistakes are not taken over, so that both can be compared number by number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.plain import Noise, Pairs, PlainCQL


class PostStyleCQL(PlainCQL):
    """:class:`offline_rl_lib.plain.PlainCQL`, with the graphs that the post builds and keeps.

    Args:
        agent: where the numbers are copied from. The agent is left as it is.
    """

    def proposals(self, batch: TransitionBatch, noise: Noise) -> Pairs:
        """Return what the plain version returns, with the actor's graph behind the actions."""
        with_graph = PlainCQL.proposals.__wrapped__  # type: ignore[attr-defined]  # past no_grad
        pairs: Pairs = with_graph(self, batch, noise)
        return [(action, log_density.detach()) for action, log_density in pairs]

    def critic_losses(self, batch: TransitionBatch, noise: Noise) -> list[Tensor]:
        """Return the loss of each critic: both are built before the first step is taken."""
        at_data = torch.cat([batch.observation, batch.action], dim=1)
        target, pairs = self.target(batch, noise), self.proposals(batch, noise)
        return [
            mse_loss(critic(at_data), target)
            + self.settings.penalty_weight * self.penalty(critic, batch, pairs)
            for critic in self.critics
        ]

    def update(self, batch: TransitionBatch, noise: Noise) -> None:
        """Take one step on critics, policy, temperature and target critics."""
        losses = self.critic_losses(batch, noise)
        for loss, step in zip(losses, self.critic_steps, strict=True):
            step.zero_grad()
            loss.backward(retain_graph=True)  # Both losses stand on the graph of the proposals.
            step.step()
        loss, log_prob = self.actor_loss(batch, noise)
        self.policy_step.zero_grad()
        loss.backward()
        self.policy_step.step()
        surplus = -log_prob.mean() - self.wanted_entropy
        self.alpha_step.zero_grad()
        (self.log_alpha.exp() * surplus).backward()
        self.alpha_step.step()
        self.follow()
