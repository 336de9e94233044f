"""Many seeds of one agent trained side by side, as one batch.

An update of small networks costs more in calls than in arithmetic, and ten seeds in one batch share
the calls. The narrower the networks, the more this saves: about half at width 16, little at 128
(`run.py benchmark growth` measures it). Nothing is written twice: the agent's own
``update`` runs, once, over tensors that carry one more axis, the *members*. Its losses are mapped
over that axis by :func:`torch.func.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from offline_rl_lib.agent import Agent
from offline_rl_lib.data import OfflineDataset, TransitionBatch
from offline_rl_lib.progress import progress

FloatArray = npt.NDArray[np.float64]


class _Parts(nn.Module):
    """The modules of an agent under one roof, so that their parameters can be exchanged at once."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        for name, module in agent._modules().items():
            self.add_module(name, module)

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of the agent, which sees the parameters of the moment."""
        return function(*arguments)


class Together:
    """Stands in for an agent during ``update``: the same code, all members at once.

    Whatever ``update`` asks for is answered by the rules below; everything else is the first
    member's. A method named ``*_loss`` and a property are evaluated for each member on its own
    parameters. A module is its members' parameters, stacked. Any other method runs as it is.

    Args:
        agents: of one class, with the same settings but for the seed. They keep their initial
            weights until :meth:`hand_back`.
        randomness: ``"different"`` gives each member its own random numbers, from one stream of
            the first member's generator; ``"same"`` gives all of them the same ones, as tests need.

    Raises:
        ValueError: no agents, or agents that differ in more than the seed.
    """

    def __init__(self, agents: Sequence[Agent], randomness: str = "different") -> None:
        if not agents:
            raise ValueError("Give at least one agent.")
        first = agents[0]
        for agent in agents[1:]:
            if type(agent) is not type(first) or agent.settings != replace(
                first.settings, seed=agent.settings.seed
            ):
                raise ValueError(
                    "Only agents of one class and one set of settings, apart from the seed, can be "
                    f"trained together; got {first.settings} and {agent.settings}."
                )
        self.agents, self.updates = list(agents), first.updates
        self._first, self._randomness = first, randomness
        self._parts = _Parts(first)
        stacked, self._buffers = stack_module_state([_Parts(agent) for agent in agents])
        self._parameters = {
            name: nn.Parameter(values, values.requires_grad) for name, values in stacked.items()
        }
        self._stacked = {name: self._stack(name) for name in first._modules()}
        self._optimisers = {
            id(optimiser): type(optimiser)(
                self._stacked[_owner(first, optimiser)].parameters(), **optimiser.defaults
            )
            for optimiser in first._optimisers().values()
        }

    def update(self, batch: TransitionBatch) -> dict[str, FloatArray]:
        """Run the agent's ``update`` for all members.

        Args:
            batch: one minibatch a member: the columns carry a members' axis in front.

        Returns:
            The logged metrics, one number a member, shape ``(members,)``.
        """
        metrics = type(self._first).update(self, batch)  # type: ignore[arg-type]
        return {name: np.array(values) for name, values in metrics.items()}

    def hand_back(self) -> None:
        """Give each agent its trained parameters, to act with. Optimisers stay behind."""
        for member, agent in enumerate(self.agents):
            agent.updates = self.updates
            for name, module in agent._modules().items():
                pairs = zip(module.parameters(), self._stacked[name].parameters(), strict=True)
                for own, stacked in pairs:
                    own.data.copy_(stacked[member].detach())

    def __getattr__(self, name: str) -> Any:
        if name in self._stacked:
            return self._stacked[name]
        found = getattr(type(self._first), name, None)
        if isinstance(found, property):
            return self._for_each(lambda: getattr(self._first, name))
        if name.endswith("_loss"):
            return lambda *arguments: self._for_each(getattr(self._first, name), *arguments)
        if callable(found):
            return MethodType(found, self)
        return getattr(self._first, name)

    def _check(self, batch: TransitionBatch) -> TransitionBatch:
        for member in range(len(self.agents)):
            self._first._check(type(batch)(*(column[member] for column in batch)))
        return type(batch)(*(column.to(self._first.device) for column in batch))

    def _step(self, optimiser: torch.optim.Optimizer, loss: Tensor, module: nn.Module) -> None:
        # The members share no parameter, so the gradient of the sum is each one's own. A member
        # that has diverged stays alone with its NaN.
        stacked = self._optimisers[id(optimiser)]
        stacked.zero_grad(set_to_none=True)
        loss.sum().backward(inputs=list(module.parameters()))
        stacked.step()

    def _modules(self) -> dict[str, nn.Module]:
        return dict(self._stacked)

    def _stack(self, name: str) -> nn.ParameterList:
        prefix = name + "."
        return nn.ParameterList(
            value for key, value in self._parameters.items() if key.startswith(prefix)
        )

    def _for_each(self, function: Callable[..., Any], *arguments: Any) -> Any:
        def one(parameters: Any, buffers: Any, *own: Any) -> Any:
            return functional_call(self._parts, (parameters, buffers), (function, *own))

        return vmap(one, randomness=self._randomness)(self._parameters, self._buffers, *arguments)


def _owner(agent: Agent, optimiser: torch.optim.Optimizer) -> str:
    """Name of the module whose parameters an optimiser of the agent moves."""
    moved = optimiser.param_groups[0]["params"][0]
    return next(
        name
        for name, module in agent._modules().items()
        if any(parameter is moved for parameter in module.parameters())
    )


def train_together(
    agents: Sequence[Agent],
    dataset: OfflineDataset,
    updates: int,
    batch_size: int = 64,
    *,
    log_every: int = 100,
    on_log: Callable[[int], None] | None = None,
) -> dict[str, FloatArray]:
    """Train agents that differ only in their seed, each on minibatches of its own.

    The members' random numbers come from one stream, so a member's run depends on the others in
    its group: the group is what repeats.

    Args:
        agents: the members; they are changed in place.
        dataset: the transitions.
        updates: number of gradient updates of each member.
        batch_size: transitions per member and update.
        log_every: updates between two entries of the history.
        on_log: called after each entry, when the agents hold their parameters of the moment.

    Returns:
        As :func:`offline_rl_lib.training.train`, each metric with a members' axis behind:
        ``(L, members)``. Metrics of a member that has diverged are NaN.
    """
    together = Together(agents)
    dataset = agents[0].learns_from(dataset)
    generator = torch.Generator().manual_seed(agents[0].settings.seed)
    history: dict[str, list[Any]] = {"updates": []}
    stretch: list[dict[str, FloatArray]] = []
    description = f"{type(agents[0]).__name__}, {len(agents)} seeds"
    for update in progress(range(1, updates + 1), description=description):
        members = [dataset.sample(batch_size, generator) for _ in agents]
        batch = TransitionBatch(*(torch.stack(columns) for columns in zip(*members, strict=True)))
        stretch.append(together.update(batch))
        if update % log_every and update != updates:
            continue
        history["updates"].append(update)
        for name in stretch[0]:
            mean = np.mean([metrics[name] for metrics in stretch], axis=0)
            history.setdefault(name, []).append(mean)
        stretch.clear()
        together.hand_back()
        if on_log is not None:
            on_log(update)
    return {name: np.array(values) for name, values in history.items()}
