"""Returns of a policy over paired starts, and the two cheapest policies to compare with.

Every agent meets the same starts: a start is fixed by its seed alone, so two agents evaluated on
``EVALUATION_SEEDS`` can be compared start by start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.vector import SyncVectorEnv

EVALUATION_SEEDS: range = range(1000, 1100)
"""The 100 starts behind every return in the book."""

FloatArray = npt.NDArray[np.float64]


class Policy(Protocol):
    """Anything that can be evaluated: it maps observations to actions in environment units."""

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """Actions (B, d) for observations (B, o), or (d,) for one observation (o,)."""
        ...


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Undiscounted returns, one per start.

    Attributes:
        returns: shape (starts,), in the reward units of the environment (not shifted or scaled).
        seeds: the start seeds, in the order of ``returns``.
    """

    returns: FloatArray
    seeds: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return over the starts."""
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the starts; NaN for a single start."""
        if len(self.returns) < 2:
            return math.nan
        return float(self.returns.std(ddof=1) / math.sqrt(len(self.returns)))


def evaluate(
    agent: Policy,
    env_id: str,
    seeds: Sequence[int] = EVALUATION_SEEDS,
    deterministic: bool = True,
) -> EvaluationResult:
    """Run one episode per start seed and return the undiscounted returns.

    The environments run side by side, so the agent sees one batch of observations per time step.
    An episode counts up to its own end, terminated or truncated, and no further. The return of
    one start depends neither on the other starts nor on their number, as long as the agent treats
    the rows of a batch independently.

    Args:
        agent: any object with ``act(observation, deterministic)``: shape (B, o) in, (B, d) out.
        env_id: a registered Gymnasium environment with a time limit, e.g. ``"Pendulum-v1"``.
        seeds: one start seed per episode.
        deterministic: passed on to the agent.

    Raises:
        ValueError: unknown environment, environment without a time limit, no seeds, or an agent
            whose actions have the wrong shape, are not finite, or lie outside the action space.
    """
    start_seeds = [int(seed) for seed in seeds]
    if not start_seeds:
        raise ValueError("No start seeds given; pass at least one, such as seeds=EVALUATION_SEEDS.")
    environments = _make_environments(env_id, len(start_seeds))
    try:
        observation, _ = environments.reset(seed=list(start_seeds))
        returns = np.zeros(len(start_seeds), dtype=np.float64)
        running = np.ones(len(start_seeds), dtype=np.bool_)
        while running.any():
            action = np.asarray(agent.act(observation, deterministic))
            _check_actions(action, environments, agent)
            observation, reward, terminated, truncated, _ = environments.step(action)
            returns += np.where(running, reward, 0.0)
            # An environment that has ended starts anew by itself; its rewards no longer count.
            running &= ~(terminated | truncated)
    finally:
        environments.close()
    return EvaluationResult(returns=returns, seeds=tuple(start_seeds))


class RandomPolicy:
    """Actions drawn uniformly from the action space, whatever is observed.

    Args:
        action_space: box with finite bounds, shape (d,).
        seed: of the policy's own generator. The draws follow the order of the calls.
    """

    def __init__(self, action_space: gym.spaces.Box, seed: int = 0) -> None:
        self.action_space = action_space
        self._generator = np.random.default_rng(seed)

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """Fresh uniform actions (B, d) or (d,); ``deterministic`` has no meaning here."""
        low, high = self.action_space.low, self.action_space.high
        shape = (*np.shape(observation)[:-1], *self.action_space.shape)
        return self._generator.uniform(low, high, shape).astype(self.action_space.dtype)


class ConstantPolicy:
    """The same action always, e.g. ``ConstantPolicy([0.0])`` for a pendulum without torque.

    Args:
        action: shape (d,), in environment units.
    """

    def __init__(self, action: Sequence[float] | npt.NDArray[np.floating]) -> None:
        self.action = np.asarray(action, dtype=np.float32)

    def act(
        self, observation: npt.NDArray[np.floating], deterministic: bool = True
    ) -> npt.NDArray[np.floating]:
        """The constant action, (B, d) or (d,)."""
        shape = (*np.shape(observation)[:-1], *self.action.shape)
        return np.broadcast_to(self.action, shape).copy()


def _make_environments(env_id: str, number: int) -> SyncVectorEnv:
    try:
        spec = gym.spec(env_id)
    except gym.error.Error as error:
        raise ValueError(
            f"Unknown environment {env_id!r}: {error} "
            "gymnasium.pprint_registry() lists the registered names; gymnasium.register adds yours."
        ) from error
    if spec.max_episode_steps is None:
        raise ValueError(
            f"Environment {env_id!r} has no time limit, so an episode may never end. "
            "Register it with max_episode_steps=..."
        )
    # Gymnasium's checker is for authors of environments; it would cost a third of the time.
    environments = gym.make_vec(
        spec, num_envs=number, vectorization_mode="sync", disable_env_checker=True
    )
    assert isinstance(environments, SyncVectorEnv)
    return environments


def _check_actions(
    action: npt.NDArray[np.floating],
    environments: SyncVectorEnv,
    agent: Policy,
) -> None:
    space = environments.action_space
    name = type(agent).__name__
    if action.shape != space.shape:
        raise ValueError(
            f"{name}.act gave actions of shape {action.shape}; "
            f"{environments.num_envs} observations need shape {space.shape}."
        )
    if isinstance(space, gym.spaces.Box) and not np.all(
        (action >= space.low) & (action <= space.high)
    ):
        raise ValueError(
            f"{name}.act gave an action that is not finite or lies outside "
            f"{environments.single_action_space}. Actions are in environment units: "
            "scale or clip them."
        )
