"""What every agent shares: spaces, acting, checkpoints.

The agents learn from batches and never see an environment.
"""

from __future__ import annotations

import math
import pickle
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from offline_rl_lib.densities import as_box, require_inside
from offline_rl_lib.networks import DeterministicPolicy, GaussianPolicy, seeded_initialisation

if TYPE_CHECKING:
    from offline_rl_lib.data import OfflineDataset, TransitionBatch


# What reading a damaged or foreign file can raise.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, LookupError, TypeError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class AgentSettings:
    """Settings that every agent has.

    Attributes:
        policy_hidden_sizes: widths of the policy's hidden layers.
        actor_learning_rate: Adam's step size for the policy.
        seed: seeds the initial weights and the agent's own random numbers.
        device: where the networks live, such as ``"cpu"`` or ``"cuda"``.
    """

    policy_hidden_sizes: tuple[int, ...] = (128,)
    actor_learning_rate: float = 3e-4
    seed: int = 0
    device: str = "cpu"


def action_box(action_space: Space[Any]) -> tuple[Tensor, Tensor]:
    """Return the bounds of a one-dimensional box of actions as float32 tensors of shape ``(d,)``.

    Raises:
        ValueError: the space is not a :class:`gymnasium.spaces.Box`, has another shape than
            ``(d,)``, or has infinite or reversed bounds.
    """
    if not isinstance(action_space, spaces.Box):
        raise ValueError(
            f"These agents choose from a box of continuous actions; the action space is "
            f"{action_space}. Discrete actions need another algorithm, such as discrete CQL."
        )
    return as_box(
        torch.as_tensor(action_space.low, dtype=torch.float32),
        torch.as_tensor(action_space.high, dtype=torch.float32),
    )


class Agent:
    """Base of all agents.

    Args:
        observation_space: a box of shape ``(o,)``.
        action_space: a finite box of shape ``(d,)``, in the environment's units.
        settings: an instance of the agent's ``settings_class``, or ``None`` for its defaults.

    Raises:
        ValueError: a space is not a box of the required shape.
    """

    settings_class: type[AgentSettings] = AgentSettings
    policy_class: type[GaussianPolicy | DeterministicPolicy] = GaussianPolicy

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        settings: AgentSettings | None = None,
    ) -> None:
        settings = self.settings_class() if settings is None else settings
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(
                f"Observations must come from a box of shape (o,); the observation space is "
                f"{observation_space}. Flatten it, for example with "
                "gymnasium.wrappers.FlattenObservation."
            )
        low, high = action_box(action_space)
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_size, self.action_size = observation_space.shape[0], low.shape[0]
        self.settings = settings
        self.device = torch.device(settings.device)
        self.low, self.high = low.to(self.device), high.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(settings.seed)
        self.updates = 0
        with seeded_initialisation(settings.seed):
            self.policy = self.policy_class(
                self.observation_size, low, high, settings.policy_hidden_sizes
            ).to(self.device)
        # fused: one kernel for all parameters; the plain loop costs more than these small networks.
        self.policy_optimiser = torch.optim.Adam(
            self.policy.parameters(), lr=settings.actor_learning_rate, fused=True
        )

    @classmethod
    def from_dataset(cls, dataset: OfflineDataset, settings: AgentSettings | None = None) -> Self:
        """Build an agent for the spaces of a dataset."""
        return cls(dataset.observation_space, dataset.action_space, settings)

    def learns_from(self, dataset: OfflineDataset) -> OfflineDataset:
        """Return the part of a dataset that this agent learns from: all of it, unless it says so.

        ``train`` asks once, before the first minibatch.
        """
        return dataset

    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Learn from one minibatch and return the logged metrics."""
        raise NotImplementedError

    @torch.no_grad()
    def act(
        self, observation: npt.ArrayLike, deterministic: bool = True
    ) -> npt.NDArray[np.float32]:
        """Choose an action in the environment's units.

        Args:
            observation: shape ``(o,)`` or a batch ``(B, o)``.
            deterministic: the policy's ``mode``; otherwise a sample.

        Returns:
            Shape ``(d,)`` or ``(B, d)``, inside the action box.

        Raises:
            ValueError: the last axis of ``observation`` is not ``o``.
        """
        inputs = torch.as_tensor(np.asarray(observation, dtype=np.float32), device=self.device)
        if inputs.dim() not in (1, 2) or inputs.shape[-1] != self.observation_size:
            raise ValueError(
                f"An observation must have shape ({self.observation_size},) or "
                f"(B, {self.observation_size}); got {tuple(inputs.shape)}."
            )
        distribution = self.policy(inputs)
        action = distribution.mode if deterministic else distribution.sample((), self.generator)
        chosen: npt.NDArray[np.float32] = action.cpu().numpy()
        return chosen

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which training continues bit for bit.

        The file is written beside its final place and moved there, so a killed run leaves the
        previous checkpoint whole.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        torch.save(self._state(), unfinished)
        unfinished.replace(path)

    def load(self, path: str | Path) -> Self:
        """Restore a checkpoint into this agent and return the agent.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or belongs to another class of agent, to other spaces
                or to other network sizes. The agent is left unchanged.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"There is no checkpoint at {path}.")
        state, mine = self._read(path), self._state()
        agent_class = state["agent"]
        differences = [
            f"{name} {tuple(stored.shape)} in the file, {tuple(own.shape)} here"
            for name, own, stored in _paired_tensors(mine["modules"], state["modules"])
            if stored.shape != own.shape
        ]
        if agent_class != mine["agent"] or _names(mine["modules"]) != _names(state["modules"]):
            raise ValueError(
                f"{path} holds a {agent_class} checkpoint with other parts than this "
                f"{type(self).__name__}; build the agent that was saved."
            )
        if differences:
            raise ValueError(
                f"{path} was saved by a {agent_class} of another shape: {'; '.join(differences)}. "
                f"Build the agent with the settings that were saved: {state['settings']}."
            )
        policy = state["modules"]["policy"]
        if not (torch.equal(policy["low"], self.low) and torch.equal(policy["high"], self.high)):
            raise ValueError(
                f"{path} was saved for actions from {policy['low'].tolist()} to "
                f"{policy['high'].tolist()}; this agent's go from {self.low.tolist()} to "
                f"{self.high.tolist()}. Build the agent for the space it was saved for."
            )
        for name, module in self._modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimiser in self._optimisers().items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]
        return self

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint file without changing the agent."""
        try:
            with zipfile.ZipFile(path) as archive:
                # torch.load does not compare the checksums: a flipped bit would become a weight.
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            state = torch.load(path, map_location=self.device, weights_only=True)
            if not isinstance(state, dict) or set(state) != set(self._state()):
                raise TypeError("the parts of a checkpoint are not in it")
        except UNREADABLE as error:
            raise ValueError(
                f"{path} is not a readable checkpoint: it is damaged or was not written by "
                "Agent.save. Save it again."
            ) from error
        return state

    def _modules(self) -> dict[str, nn.Module]:
        return {"policy": self.policy}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"policy": self.policy_optimiser}

    def _state(self) -> dict[str, Any]:
        return {
            "agent": type(self).__name__,
            "settings": asdict(self.settings),
            "updates": self.updates,
            "generator": self.generator.get_state(),
            "modules": {name: part.state_dict() for name, part in self._modules().items()},
            "optimisers": {name: part.state_dict() for name, part in self._optimisers().items()},
        }

    @staticmethod
    def _step(optimiser: torch.optim.Optimizer, loss: Tensor, module: nn.Module) -> None:
        """Step on the parameters of one module; no other parameter receives a gradient."""
        require_finite(loss.item())
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=list(module.parameters()))
        optimiser.step()

    def _check(self, batch: TransitionBatch) -> TransitionBatch:
        """Check the shapes of a minibatch and move it to the agent's device."""
        if batch.reward.numel() == 0:
            raise ValueError("The batch is empty; at least one transition is needed.")
        size = batch.reward.shape[0] if batch.reward.dim() == 1 else -1
        expected = {
            "observation": (size, self.observation_size),
            "action": (size, self.action_size),
            "reward": (size,),
            "next_observation": (size, self.observation_size),
            "terminated": (size,),
        }
        for name, shape in expected.items():
            got = tuple(getattr(batch, name).shape)
            if got != shape:
                raise ValueError(
                    f"batch.{name} must have shape "
                    f"{('B', *shape[1:]) if size < 0 else shape}; got {got}. Rewards and "
                    "terminated flags are vectors of shape (B,), without a trailing axis."
                )
        return type(batch)(*(tensor.to(self.device) for tensor in batch))

    def _check_actions(self, batch: TransitionBatch) -> None:
        """Check that the actions of a minibatch can be scored: they must lie in the action box."""
        require_inside(batch.action, self.low, self.high)


def require_finite(loss: float) -> None:
    """Refuse to step on a loss that is no number."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"The loss is {loss}, so no step was taken and the networks are as they were. Look "
            "for NaN in the batch, or for values that have grown out of bounds."
        )


def metrics_to_floats(metrics: dict[str, Tensor]) -> dict[str, float]:
    """Convert scalar tensors to floats with a single transfer from the device."""
    values = torch.stack([value.detach() for value in metrics.values()]).tolist()
    return dict(zip(metrics, values, strict=True))


def _names(modules: dict[str, dict[str, Tensor]]) -> set[tuple[str, str]]:
    return {(part, name) for part, tensors in modules.items() for name in tensors}


def _paired_tensors(
    mine: dict[str, dict[str, Tensor]], stored: dict[str, dict[str, Tensor]]
) -> list[tuple[str, Tensor, Tensor]]:
    return [
        (f"{part}.{name}", mine[part][name], stored[part][name])
        for part, name in sorted(_names(mine) & _names(stored))
    ]
