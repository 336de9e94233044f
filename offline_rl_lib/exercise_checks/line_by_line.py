"""Checkers for the exercises of the chapter that reads the whole class line by line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.sac import SAC
from offline_rl_lib.teaching import NotDoneYet, WrongAnswer, checker, require_all
from offline_rl_lib.tracing import trace

SIZE, COUNT, OBSERVATIONS, ACTIONS = 32, 4, 5, 2


def _answers(answer: Any, names: list[str]) -> dict[str, Any]:
    """Return a complete dictionary of answers, or say what is missing."""
    if not isinstance(answer, Mapping):
        raise WrongAnswer(f"A dictionary is expected; got {type(answer).__name__}.")
    missing = [name for name in names if name not in answer]
    if missing:
        raise WrongAnswer(f"These answers are missing: {', '.join(missing)}.")
    if any(answer[name] is ... for name in names):
        raise NotDoneYet
    return {name: answer[name] for name in names}


# ---- Shapes of another task -------------------------------------------------------------------


def traced_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that one real update of the exercise's agent binds, by name."""
    agent = CQL(
        Box(-np.inf, np.inf, (OBSERVATIONS,)),
        Box(-1.0, 1.0, (ACTIONS,)),
        CQLSettings(policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), num_proposals=COUNT),
    )
    batch = TransitionBatch(
        torch.zeros(SIZE, OBSERVATIONS),
        torch.zeros(SIZE, ACTIONS),
        torch.zeros(SIZE),
        torch.zeros(SIZE, OBSERVATIONS),
        torch.zeros(SIZE, dtype=torch.bool),
    )
    record = trace(lambda: agent.update(batch), CQL.critic_loss, SAC.td_target)
    return {
        name: tuple(value.shape)
        for statements in record.values()
        for statement in statements
        for run in statement.runs
        for name, value in run.items()
        if isinstance(value, Tensor)
    }


def _shape_advice(name: str, got: tuple[Any, ...]) -> str:
    """Return what a typical wrong shape has overlooked."""
    if name in ("all_actions", "q_values") and 3 * COUNT in got:
        return "These hold the data's action too: one more than the proposals."
    if name == "log_densities" and got[-1:] == (ACTIONS,):
        return "A log-density is one number per action vector, whatever its length."
    if name == "log_densities" and 3 * COUNT + 1 in got:
        return "The data's action brings no log-density: it is no proposal."
    if COUNT in got or COUNT + 1 in got:
        return "There are three sources, each with 4 proposals."
    if name == "next_q" and got == (2, SIZE):
        return "amin(dim=0) has already taken the smaller of the two critics."
    if name == "td_loss" and SIZE in got:
        return "The mean over the minibatch has been taken; what is left is one number per critic."
    if name == "td_loss" and got == ():
        return "Both critics have a loss of their own; they are added two lines later."
    if name == "q_values" and got[:1] == (SIZE,):
        return "The first axis of a critic's answer is the critic."
    if got[-1:] == (1,):
        return "The library keeps no trailing axis of length 1 here."
    return "Find the name in the traces and replace 64, 5, 3, 1 by 32, 4, 5, 2."


@checker("ex-line-shapes")
def check_shapes(answer: Any) -> str:
    """Compare with the shapes that a trace of a real update reports."""
    names = ["next_action", "next_q", "all_actions", "q_values", "log_densities", "td_loss"]
    answers = _answers(answer, names)
    for name in names:
        if not isinstance(answers[name], (tuple, list, torch.Size)):
            raise WrongAnswer(f"{name}: a tuple such as (32, 2) is expected.")
    shapes, found = {name: tuple(answers[name]) for name in names}, traced_shapes()
    require_all(
        [
            None
            if got == found[name]
            else f"{name} does not have the shape {got}. {_shape_advice(name, got)}"
            for name, got in shapes.items()
        ]
    )
    return "All six agree with a traced update of such an agent."


# ---- Three broken agents ----------------------------------------------------------------------


class _LargerTarget(CQL):
    @torch.no_grad()
    def td_target(self, batch: TransitionBatch) -> Tensor:
        """Take the larger of the two target critics."""
        settings = self.settings
        reward = (batch.reward + settings.reward_shift) * settings.reward_scale
        next_policy = self.policy(batch.next_observation)
        next_action, next_log_prob = next_policy.rsample_with_log_prob((), self.generator)
        next_q = self.target_critic(batch.next_observation, next_action).amax(dim=0)
        next_value = next_q - self.temperature * next_log_prob
        goes_on = 1.0 - batch.terminated.float()
        return torch.as_tensor(reward + settings.discount * next_value * goes_on)


class _BothMove(CQL):
    @torch.no_grad()
    def update_target(self) -> None:
        """Move the target critics to the critics, and the critics to the target critics."""
        rate = self.settings.target_update_rate
        pairs = zip(self.target_critic.parameters(), self.critic.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, rate)
            source.lerp_(target, rate)


class _ForeignDensity(CQL):
    @torch.no_grad()
    def proposals(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Give the uniform proposals the density of the box [-1, 1]."""
        actions, log_densities = super().proposals(batch)
        log_densities[:, : self.settings.num_proposals] = self.action_size * np.log(0.5)
        return actions, log_densities


BROKEN: dict[str, type[CQL]] = {"A": _LargerTarget, "B": _BothMove, "C": _ForeignDensity}
"""Agents with one method that does something else than the library's."""

CULPRITS = {"A": "td_target", "B": "update_target", "C": "proposals"}
METHODS = (
    *("td_target", "proposals", "critic_loss", "actor_loss"),
    *("temperature_loss", "update_target"),
)


def _no_culprit(name: str, method: Any) -> str | None:
    """Return why the method is not what is wrong with the agent; nothing if it is."""
    if method not in METHODS:
        raise WrongAnswer(f"{name}: {method!r} is none of {', '.join(METHODS)}.")
    if method == CULPRITS[name]:
        return None
    if method == "critic_loss":
        return (
            f"{name}: critic_loss itself is the library's. If its result differs, compare what "
            "it calls, td_target and proposals."
        )
    return (
        f"{name}: {method} is the library's. Call each method on another(BROKEN['{name}']) "
        "and on another(), and compare the results; for update_target compare all parts "
        "after it."
    )


@checker("ex-line-broken")
def check_broken(answer: Any) -> str:
    """Each agent has one culprit; critic_loss is only the messenger of two of them."""
    answers = _answers(answer, list(CULPRITS))
    require_all([_no_culprit(name, method) for name, method in answers.items()])
    return "Three methods, three agents, and no logged number would have told."


# ---- Which steps may change places? -----------------------------------------------------------

ORDER = {
    "actor_before_critics": (
        True,
        "The actor's loss reads the critics, so it matters whether they have moved.",
    ),
    "temperature_before_actor": (
        True,
        "The actor's loss holds alpha, which the temperature's step changes.",
    ),
    "targets_before_temperature": (
        False,
        "The temperature's step neither reads nor changes critics or target critics.",
    ),
    "targets_before_actor": (
        False,
        "The actor's loss reads the critics, not their slow copies, and changes neither.",
    ),
    "targets_before_critics": (
        True,
        "The target critics would follow the critics of the update before, and step 1 would read "
        "them after their move.",
    ),
}


@checker("ex-line-order")
def check_order(answer: Any) -> str:
    """With noise of their own, two steps commute if neither touches what the other changes."""
    answers = _answers(answer, list(ORDER))
    for name, value in answers.items():
        if not isinstance(value, (bool, np.bool_)):
            raise WrongAnswer(f"{name}: True or False is expected; got {value!r}.")
    require_all(
        [
            None if bool(answers[name]) == truth else f"{name}: look again. {reason}"
            for name, (truth, reason) in ORDER.items()
        ]
    )
    return "Two steps with equal noise may change places if neither touches what the other changes."
