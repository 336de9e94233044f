"""Agents in 64-bit on a box that forgives no mistake, and their networks written out in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from offline_rl_lib.agent import Agent
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.networks import TwinCritic

LOW, HIGH = np.array([-1.0, 0.5]), np.array([3.0, 1.0])
HALF = (HIGH - LOW) / 2
SPACES = Box(-np.inf, np.inf, (3,)), Box(LOW.astype(np.float32), HIGH.astype(np.float32))


def double_agent(agent_class: type[Agent], **settings: Any) -> Any:
    """Three observations, two unequal one-sided actions; slow copies apart from the originals."""
    widths: dict[str, Any] = {"policy_hidden_sizes": (12,), "critic_hidden_sizes": (12, 10)}
    all_settings: Any = agent_class.settings_class(**widths | settings)
    agent: Any = agent_class(*SPACES, all_settings)
    noise = torch.Generator().manual_seed(9)
    for name, module in agent._modules().items():
        module.double()
        if name.startswith("target_"):
            with torch.no_grad():
                for tensor in module.parameters():
                    tensor += 0.05 * torch.randn(tensor.shape, generator=noise, dtype=torch.float64)
    for name, value in vars(agent).items():
        if isinstance(value, Tensor):  # the box and what was computed from it
            setattr(agent, name, value.double())
    return agent


def double_batch(size: int = 6, seed: int = 0) -> TransitionBatch:
    """A minibatch in 64-bit that holds terminated and other transitions."""
    source = np.random.default_rng(seed)
    batch = TransitionBatch(
        observation=torch.tensor(source.normal(size=(size, 3))),
        action=torch.tensor(source.uniform(LOW, HIGH, size=(size, 2))),
        reward=torch.tensor(source.normal(size=size)),
        next_observation=torch.tensor(source.normal(size=(size, 3))),
        terminated=torch.arange(size) % 3 == 1,
    )
    assert batch.terminated.any()
    return batch


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def q_of(critic: TwinCritic, which: int, observation: np.ndarray, action: np.ndarray) -> float:
    """One critic at one observation and one action."""
    first = critic.from_observation
    features = observation @ array(first.weight)[which] + array(first.bias)[which, 0]
    features = features + action @ array(critic.from_action)[which]
    for layer in critic.layers:
        features = np.maximum(features, 0) @ array(layer.weight)[which]
        features = features + array(layer.bias)[which, 0]
    return float(features[0])


def output_of(network: nn.Sequential, observation: np.ndarray) -> np.ndarray:
    """A plain network at one observation."""
    features = observation
    for layer in network:
        if isinstance(layer, nn.Linear):
            features = array(layer.weight) @ features + array(layer.bias)
        else:
            features = np.maximum(features, 0)
    return features


def gradient(loss: Tensor, module: nn.Module) -> np.ndarray:
    """The gradient with respect to all parameters of a module as one vector."""
    parts = torch.autograd.grad(loss, list(module.parameters()))
    return np.concatenate([array(part).ravel() for part in parts])
