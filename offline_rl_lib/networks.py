"""The networks: a Gaussian policy squashed onto the action box, and twin critics in one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from offline_rl_lib.densities import BoxBound, TanhNormal, as_box

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Initialise networks from ``seed`` and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class GaussianPolicy(nn.Module):
    """Map observations to a :class:`TanhNormal` on the action box.

    Args:
        observation_size: number of observation components ``o``.
        low: lower bounds of the action box, shape ``(d,)``, in the environment's units.
        high: upper bounds, shape ``(d,)``.
        hidden_sizes: widths of the hidden layers.
    """

    low: Tensor
    high: Tensor
    distribution_class: type[TanhNormal] = TanhNormal

    def __init__(
        self, observation_size: int, low: BoxBound, high: BoxBound, hidden_sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        low_tensor, high_tensor = as_box(low, high)
        self.register_buffer("low", low_tensor)
        self.register_buffer("high", high_tensor)
        layers: list[nn.Module] = []
        width = observation_size
        for hidden_size in hidden_sizes:
            layers += [nn.Linear(width, hidden_size), nn.ReLU()]
            width = hidden_size
        self.body = nn.Sequential(*layers)
        self.mean_and_log_std = nn.Linear(width, 2 * low_tensor.shape[0])

    def forward(self, observation: Tensor) -> TanhNormal:
        """Return the policy's distribution at observations of shape ``(..., o)``."""
        mean, log_std = self.mean_and_log_std(self.body(observation)).chunk(2, dim=-1)
        std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        # The clamp makes std positive and the box was checked above: nothing left to validate.
        return self.distribution_class(mean, std, self.low, self.high, validate_args=False)


class TwinLinear(nn.Module):
    """Two linear layers of equal shape, applied by one batched matrix product.

    Maps ``(B, inputs)`` or ``(2, B, inputs)`` to ``(2, B, outputs)``. Both halves are initialised
    like :class:`torch.nn.Linear`, each with its own random numbers.
    """

    def __init__(self, inputs: int, outputs: int, fan_in: int | None = None) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(fan_in or inputs)
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply both layers."""
        if inputs.dim() == 2:
            inputs = inputs.expand(2, -1, -1)
        return torch.baddbmm(self.bias, inputs, self.weight)


class TwinCritic(nn.Module):
    """Two independent Q-functions, evaluated together on one or many actions per observation.

    The first layer is written as a sum of an observation part and an action part. With K actions
    per observation the observation part is computed once and shared, so no observation is ever
    repeated.

    Args:
        observation_size: number of observation components ``o``.
        action_size: number of action dimensions ``d``.
        hidden_sizes: widths of the hidden layers, at least one.
    """

    def __init__(
        self, observation_size: int, action_size: int, hidden_sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        if not hidden_sizes:
            raise ValueError("A critic needs at least one hidden layer; hidden_sizes is empty.")
        fan_in = observation_size + action_size
        self.from_observation = TwinLinear(observation_size, hidden_sizes[0], fan_in)
        self.from_action = nn.Parameter(
            torch.empty(2, action_size, hidden_sizes[0]).uniform_(-(fan_in**-0.5), fan_in**-0.5)
        )
        widths = (*hidden_sizes, 1)
        self.layers = nn.ModuleList(
            TwinLinear(inputs, outputs) for inputs, outputs in pairwise(widths)
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Evaluate both critics.

        Args:
            observation: shape ``(B, o)``.
            action: shape ``(B, d)`` for one action per observation, or ``(B, K, d)`` for K.

        Returns:
            Q of shape ``(2, B)`` or ``(2, B, K)``; the first axis is the critic.
        """
        actions = action if action.dim() == 3 else action.unsqueeze(1)
        batch, count, size = actions.shape
        observation_part = self.from_observation(observation)  # (2, B, hidden)
        action_part = actions.reshape(batch * count, size) @ self.from_action  # (2, B*K, hidden)
        hidden = action_part.view(2, batch, count, -1) + observation_part.unsqueeze(2)
        features = hidden.view(2, batch * count, -1)
        for layer in self.layers:
            features = layer(torch.relu(features))
        q_values = features.view(2, batch, count)
        return q_values if action.dim() == 3 else q_values.squeeze(2)


def perceptron(inputs: int, hidden_sizes: tuple[int, ...], outputs: int) -> nn.Sequential:
    """A plain network: linear layers with rectifiers between them, ``(..., inputs)`` to outputs."""
    widths = (inputs, *hidden_sizes)
    layers: list[nn.Module] = []
    for width, hidden_size in pairwise(widths):
        layers += [nn.Linear(width, hidden_size), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class ValueNetwork(nn.Module):
    """Map observations to one number each, the value of the state."""

    def __init__(self, observation_size: int, hidden_sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.body = perceptron(observation_size, hidden_sizes, 1)

    def forward(self, observation: Tensor) -> Tensor:
        """Return values of shape ``(...)`` for observations of shape ``(..., o)``."""
        return self.body(observation).squeeze(-1)


class OneAction:
    """A distribution with all its mass on one action, so that every policy can be asked alike."""

    def __init__(self, action: Tensor) -> None:
        self.mode = action

    def sample(
        self, shape: tuple[int, ...] = (), generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the one action, repeated: ``shape + (..., d)``. No randomness is used."""
        return self.mode.detach().expand(*shape, *self.mode.shape)


class DeterministicPolicy(nn.Module):
    """Map observations to one action each, ``mid + half * tanh(u)``.

    The arguments are those of :class:`GaussianPolicy`.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, observation_size: int, low: BoxBound, high: BoxBound, hidden_sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        low_tensor, high_tensor = as_box(low, high)
        self.register_buffer("low", low_tensor)
        self.register_buffer("high", high_tensor)
        self.body = perceptron(observation_size, hidden_sizes, low_tensor.shape[0])

    def forward(self, observation: Tensor) -> OneAction:
        """Return the policy's action at observations of shape ``(..., o)``."""
        mid, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        action = mid + half * torch.tanh(self.body(observation))
        # The clamp only removes the last-bit rounding of mid + half, which can leave the box.
        return OneAction(action.clamp(self.low, self.high))
