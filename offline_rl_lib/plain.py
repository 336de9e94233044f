"""CQL the direct way: separate networks, repeated states, one pass per source.

Slower than :class:`offline_rl_lib.cql.CQL` and easier to believe. It is the judge: on the same
random numbers both must arrive at the same parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import mse_loss, softplus

from offline_rl_lib.cql import CQL
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.networks import TwinCritic

Pairs = list[tuple[Tensor, Tensor]]


class Noise(NamedTuple):
    """The random numbers of one update of CQL; z means standard normal.

    Attributes:
        target: z, (B, d), for the action of the TD target.
        uniform: uniform on [0, 1), (B, N, d).
        current: z, (N, B, d), for the policy at the states.
        upcoming: z, (N, B, d), for the policy at the next states.
        actor: z, (B, d), for the actor loss.
    """

    target: Tensor
    uniform: Tensor
    current: Tensor
    upcoming: Tensor
    actor: Tensor


def draw_noise(agent: CQL, batch_size: int, generator: torch.Generator) -> Noise:
    """Draw what ``agent.update`` draws, in the same order and the same precision.

    Args:
        agent: tells the number of proposals, the action dimensions and the precision.
        batch_size: B.
        generator: in the state of the agent's own generator for the very same numbers.
    """
    count, size, dtype = agent.settings.num_proposals, agent.action_size, agent.low.dtype

    def normal(*shape: int) -> Tensor:
        return torch.randn((*shape, size), dtype=dtype, generator=generator)

    return Noise(
        target=normal(batch_size),
        uniform=torch.rand((batch_size, count, size), dtype=dtype, generator=generator),
        current=normal(count, batch_size),
        upcoming=normal(count, batch_size),
        actor=normal(batch_size),
    )


def ordinary_critic(twins: TwinCritic, j: int) -> nn.Sequential:
    """Return critic j as one network on joined states and actions, ``(R, o + d)`` to ``(R, 1)``."""
    first = twins.from_observation
    weights = [torch.cat([first.weight[j], twins.from_action[j]])]
    biases = [first.bias[j, 0]]
    layer: Any
    for layer in twins.layers:
        weights.append(layer.weight[j])
        biases.append(layer.bias[j, 0])
    modules: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        inputs, outputs = weight.shape
        linear = nn.Linear(inputs, outputs, dtype=weight.dtype)
        linear.weight.data = weight.detach().T.clone()
        linear.bias.data = bias.detach().clone()
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])  # no ReLU after the last layer


def repeat_rows(states: Tensor, count: int) -> Tensor:
    """Repeat each state ``count`` times, copies together: ``(B, o)`` to ``(B * count, o)``."""
    size = states.shape[-1]
    return states.unsqueeze(1).repeat(1, count, 1).view(-1, size)


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step of gradient descent."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


class PlainCQL:
    """The parts of a CQL agent, copied into ordinary networks with new optimisers.

    Columns have shape ``(B, 1)``; rows of repeated states come ``N`` to a state. The temperature of
    the soft maximum is 1.

    Args:
        agent: where the numbers are copied from. The agent is left as it is.

    Raises:
        ValueError: the agent's ``penalty_temperature`` is not 1.
    """

    def __init__(self, agent: CQL) -> None:
        if agent.settings.penalty_temperature != 1:
            raise ValueError("The plain version knows the soft maximum at temperature 1 only.")
        self.settings, self.wanted_entropy = agent.settings, agent.target_entropy
        self.mid = (agent.high + agent.low) / 2
        self.half = (agent.high - agent.low) / 2
        self.policy = copy.deepcopy(agent.policy)
        self.critics = [ordinary_critic(agent.critic, j) for j in (0, 1)]
        self.targets = [ordinary_critic(agent.target_critic, j) for j in (0, 1)]
        self.log_alpha = agent.log_temperature[0].detach().clone()
        self.log_alpha.requires_grad_()
        self.critic_steps = [
            torch.optim.Adam(critic.parameters(), self.settings.critic_learning_rate)
            for critic in self.critics
        ]
        self.policy_step = torch.optim.Adam(
            self.policy.parameters(), self.settings.actor_learning_rate
        )
        self.alpha_step = torch.optim.Adam(
            [self.log_alpha], self.settings.temperature_learning_rate
        )

    def squash(self, rows: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions ``(R, d)`` and log-densities ``(R, 1)`` at R states."""
        distribution = self.policy(rows)
        mean, std = distribution.mean, distribution.std
        u = mean + std * z
        log_slope = 2 * (math.log(2) - u - softplus(-2 * u))
        log_prob = Normal(mean, std).log_prob(u) - log_slope - self.half.log()
        action = self.mid + self.half * torch.tanh(u)
        return action, log_prob.sum(dim=1, keepdim=True)

    def target(self, batch: TransitionBatch, noise: Noise) -> Tensor:
        """Return the TD target, ``(B, 1)``."""
        action, log_prob = self.squash(batch.next_observation, noise.target)
        joined = torch.cat([batch.next_observation, action], dim=1)
        first, second = (critic(joined) for critic in self.targets)
        value = torch.min(first, second) - self.log_alpha.exp() * log_prob
        shift, scale = self.settings.reward_shift, self.settings.reward_scale
        reward = (batch.reward.unsqueeze(1) + shift) * scale
        goes_on = (~batch.terminated).unsqueeze(1)
        target: Tensor = reward + self.settings.discount * value * goes_on
        return target.detach()

    @torch.no_grad()
    def proposals(self, batch: TransitionBatch, noise: Noise) -> Pairs:
        """Return three pairs of actions ``(B * N, d)`` and log-densities ``(B * N, 1)``."""
        count, size = noise.uniform.shape[1:]
        fraction = noise.uniform.reshape(-1, size)
        uniform = self.mid + self.half * (2 * fraction - 1)
        log_volume = (2 * self.half).log().sum()
        pairs = [(uniform, -log_volume.expand(len(uniform), 1))]
        for observation, z in (
            (batch.observation, noise.current),
            (batch.next_observation, noise.upcoming),
        ):
            rows = repeat_rows(observation, count)
            in_order = z.transpose(0, 1).reshape(-1, size)
            pairs.append(self.squash(rows, in_order))
        return pairs

    @staticmethod
    def penalty(
        critic: nn.Module,
        batch: TransitionBatch,
        pairs: Pairs,
        repeat: Callable[[Tensor, int], Tensor] = repeat_rows,
    ) -> Tensor:
        """Return the penalty of one critic, a scalar: three passes, side by side."""
        count = len(pairs[0][0]) // len(batch.observation)
        rows = repeat(batch.observation, count)  # (B * N, o)
        columns = []
        for action, log_density in pairs:
            q_value = critic(torch.cat([rows, action], dim=1))  # (B * N, 1)
            columns.append((q_value - log_density).view(-1, count, 1))
        together = torch.cat(columns, dim=1)  # (B, 3 * N, 1)
        soft = torch.logsumexp(together, dim=1) - math.log(3 * count)
        at_data = torch.cat([batch.observation, batch.action], dim=1)
        gap: Tensor = soft - critic(at_data)  # (B, 1)
        return gap.mean()

    def actor_loss(self, batch: TransitionBatch, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return the actor loss and the log-densities, ``(B, 1)``."""
        action, log_prob = self.squash(batch.observation, noise.actor)
        joined = torch.cat([batch.observation, action], dim=1)
        first, second = (critic(joined) for critic in self.critics)
        alpha = self.log_alpha.exp().detach()
        loss = alpha * log_prob - torch.min(first, second)
        return loss.mean(), log_prob.detach()

    def update(self, batch: TransitionBatch, noise: Noise) -> None:
        """Take one step on critics, policy, temperature and target critics."""
        target = self.target(batch, noise)
        pairs = self.proposals(batch, noise)
        at_data = torch.cat([batch.observation, batch.action], dim=1)
        for critic, step in zip(self.critics, self.critic_steps, strict=True):
            error = mse_loss(critic(at_data), target)
            penalty = self.penalty(critic, batch, pairs)
            descend(step, error + self.settings.penalty_weight * penalty)
        loss, log_prob = self.actor_loss(batch, noise)
        descend(self.policy_step, loss)
        surplus = -log_prob.mean() - self.wanted_entropy
        descend(self.alpha_step, self.log_alpha.exp() * surplus)
        self.follow()

    def follow(self) -> None:
        """Move both target critics a share of the way."""
        rate = self.settings.target_update_rate
        for slow, fast in zip(self.targets, self.critics, strict=True):
            pairs = zip(slow.parameters(), fast.parameters(), strict=True)
            for theirs, ours in pairs:
                theirs.data.copy_(theirs.data * (1 - rate) + ours.data * rate)

    def numbers(self) -> Tensor:
        """Return every number that an update may change, in one vector."""
        networks = [*self.critics, *self.targets, self.policy]
        tensors = [p for network in networks for p in network.parameters()]
        flat = [tensor.detach().flatten() for tensor in tensors]
        return torch.cat([*flat, self.log_alpha.detach().reshape(1)])
