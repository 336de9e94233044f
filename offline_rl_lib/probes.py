"""Problems with known answers, put to an offline agent before it is trained.

A learning curve says how well an agent does, and hardly ever why. A probe asks one question whose
answer is known beforehand. Each takes the class of an agent and its settings, takes a fraction of a
second and returns a :class:`Verdict`: what was measured, what was expected, and which mistakes
would explain the difference.

What an agent must offer is little, and a probe that needs more than an agent has does not apply
to it (``passed`` is ``None``):

- ``agent_class(observation_space, action_space, settings)``, with dataclass settings;
- ``policy(observation)``, a distribution with ``log_prob(action)``;
- ``td_target(batch)``, shape ``(B,)``, which asks ``target_critic(observation, action)``;
- ``critic_loss(batch)``, a loss and a dictionary that holds ``"td_loss"`` and ``"penalty"``,
  made from ``critic(observation, action)``, whose answers have shape ``(2, B)`` for actions
  ``(B, d)`` and ``(2, B, K)`` for ``(B, K, d)``;
- ``learns_from(dataset)``, the dataset as the agent sees it.

The probes put critics of their own in the place of ``critic`` and ``target_critic``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from offline_rl_lib.data import OfflineDataset, TransitionBatch
from offline_rl_lib.tabular import soft_penalty_step

Function = Callable[[Tensor, Tensor], Tensor]
"""Q of observations ``(..., o)`` and actions ``(..., d)``, shape ``(...)``."""

LOW, HIGH = -1.0, 4.0  # A box that is neither centred nor two wide shows what [-1, 1] hides.


@dataclass(frozen=True)
class Verdict:
    """The outcome of a probe.

    Attributes:
        probe: its name.
        passed: whether measured and expected agree; ``None`` if the probe does not apply.
        measured: what the agent gave.
        expected: what it should have given.
        tolerance: largest difference that passes.
        message: in words, with the likely mistakes if it did not pass.
    """

    probe: str
    passed: bool | None
    measured: float
    expected: float
    tolerance: float
    message: str

    def __str__(self) -> str:
        """One line."""
        if self.passed is None:
            return f"{self.probe}: does not apply. {self.message}"
        mark = "passed" if self.passed else "FAILED"
        numbers = f"measured {self.measured:.3f}, expected {self.expected:.3f}"
        return f"{self.probe}: {mark}, {numbers}. {self.message}"


class NotApplicable(Exception):
    """The agent does not have what the probe asks about; the message says what is missing."""


@dataclass(frozen=True)
class Probe:
    """A question with a known answer.

    Attributes:
        question: in one line.
        ask: returns measured, expected and tolerance for an agent's class and settings.
        right: said when the agent passes.
        likely: the mistakes that would explain another answer.
    """

    question: str
    ask: Callable[[type[Any], Any], tuple[float, float, float]]
    right: str
    likely: str


# ---- Means --------------------------------------------------------------------------------------


class KnownCritic(nn.Module):
    """Twin critics that are both one known function, and remember what they were asked.

    Args:
        function: Q of observations and actions.

    Attributes:
        calls: for each call the observations ``(B, K, o)``, the actions ``(B, K, d)`` and the
            values ``(2, B, K)``, which receive gradients.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return ``(2, B)`` for actions ``(B, d)``, ``(2, B, K)`` for ``(B, K, d)``."""
        actions = action if action.dim() == 3 else action.unsqueeze(1)
        observations = observation.unsqueeze(1).expand(-1, actions.shape[1], -1)
        values = self.function(observations, actions).expand(2, -1, -1).detach().clone()
        values.requires_grad_()
        self.calls.append((observations, actions, values))
        return values if action.dim() == 3 else values.squeeze(2)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return observations ``(M, o)``, actions ``(M, d)`` and the first critic's gradients.

        A positive gradient is a push down.
        """
        rows = [
            (observations.flatten(0, 1), actions.flatten(0, 1), values.grad[0].flatten())
            for observations, actions, values in self.calls
            if values.grad is not None
        ]
        observations, actions, gradients = (torch.cat(part) for part in zip(*rows, strict=True))
        return observations, actions, gradients


def changed(settings: Any, **values: Any) -> Any:
    """Return settings with other values, of those fields that they have."""
    known = {field.name for field in fields(settings)}
    return replace(settings, **{name: value for name, value in values.items() if name in known})


def build(
    agent_class: type[Any],
    settings: Any,
    low: float = LOW,
    high: float = HIGH,
    dimensions: int = 1,
    **values: Any,
) -> Any:
    """Return a new agent with two observation components and some settings changed.

    The box of actions is ``[low, high]`` in every dimension.
    """
    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Box(low, high, (dimensions,), np.float32)
    return agent_class(observation_space, action_space, changed(settings, seed=0, **values))


def flat_batch(agent: Any, size: int, action: float | None = None) -> TransitionBatch:
    """Return transitions of one state that end at once with scaled reward 0.

    Args:
        agent: says how rewards are scaled.
        size: B.
        action: of all of them; the middle of the box if left out.
    """
    middle = (agent.low + agent.high) / 2
    actions = middle.expand(size, -1) if action is None else torch.full((size, 1), action)
    nothing = torch.zeros(size, 2)
    return TransitionBatch(
        nothing, actions, raw_reward(agent, torch.zeros(size)), nothing + 1, torch.ones(size) > 0
    )


def raw_reward(agent: Any, scaled: Tensor) -> Tensor:
    """Return the rewards that become ``scaled`` once the agent has shifted and scaled them."""
    shift = getattr(agent.settings, "reward_shift", 0.0)
    return scaled / getattr(agent.settings, "reward_scale", 1.0) - shift


def watched_loss(agent: Any, batch: TransitionBatch, function: Function) -> KnownCritic:
    """Put a known critic into the agent, back-propagate its critic loss, and return the critic."""
    agent.critic = agent.target_critic = critic = KnownCritic(function)
    loss, metrics = _critic_loss(agent, batch)
    if "penalty" not in metrics:
        raise NotApplicable("The agent has no conservative penalty.")
    loss.backward()
    return critic


def penalty_of(agent: Any, batch: TransitionBatch, function: Function) -> float:
    """Return the penalty that the agent reports for a known critic."""
    agent.critic = agent.target_critic = KnownCritic(function)
    _, metrics = _critic_loss(agent, batch)
    if "penalty" not in metrics:
        raise NotApplicable("The agent has no conservative penalty.")
    return float(metrics["penalty"].detach())


def _critic_loss(agent: Any, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
    if not hasattr(agent, "critic_loss"):
        raise NotApplicable("The agent has no critic_loss.")
    torch.manual_seed(0)  # for agents without a generator of their own
    loss, metrics = agent.critic_loss(batch)
    return loss, metrics


def _temperature(agent: Any) -> float:
    return float(getattr(agent.settings, "penalty_temperature", 1.0))


# ---- The density and its units ------------------------------------------------------------------


def density(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Integrate the policy's density over a box of two dimensions by quadrature."""
    agent = build(agent_class, settings, dimensions=2)
    v, step = torch.linspace(-5, 5, 201), 10 / 200
    half = (HIGH - LOW) / 2
    grid = torch.cartesian_prod(v, v)  # actions as mid + half * tanh(v): fine near the bounds
    with torch.no_grad():
        distribution = agent.policy(torch.zeros(2))
        if not hasattr(distribution, "log_prob"):
            raise NotApplicable("The policy has no density.")
        log_prob = distribution.log_prob((LOW + HIGH) / 2 + half * torch.tanh(grid))
    area = (half * step / torch.cosh(grid).square()).prod(dim=-1)
    return float((log_prob.exp() * area).sum()), 1.0, 0.01


def units(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Measure actions in other units: the penalty moves by T times the log of the factor."""
    wide = build(agent_class, settings, LOW, HIGH, num_proposals=20, penalty_weight=1.0)
    unit = build(agent_class, settings, -1.0, 1.0, num_proposals=20, penalty_weight=1.0)

    def bowl(agent: Any) -> float:
        """Take the penalty of a critic that is the same function of the place in the box."""
        width, middle = agent.high - agent.low, (agent.high + agent.low) / 2
        return penalty_of(
            agent, flat_batch(agent, 64), lambda _, a: -4 * ((a - middle) / width).square().sum(-1)
        )

    factor = (HIGH - LOW) / 2
    return bowl(wide) - bowl(unit), _temperature(wide) * math.log(factor), 1e-3


def log_volume(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Where Q is zero everywhere, the soft maximum is T times the log of the box's volume."""
    agent = build(
        agent_class, settings, num_proposals=1_000, penalty_weight=1.0, penalty_temperature=2.0
    )
    measured = penalty_of(agent, flat_batch(agent, 64), lambda _, a: torch.zeros(a.shape[:-1]))
    return measured, _temperature(agent) * math.log(HIGH - LOW), 0.03


# ---- Where the critic is pushed -----------------------------------------------------------------


def coverage(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Where Q is flat, every tenth of the box gets a tenth of the push down; find the least."""
    plain: dict[str, Any] = {"penalty_weight": 1.0, "penalty_temperature": 1.0}
    agent = build(agent_class, settings, num_proposals=1_000, **plain)
    flat = watched_loss(agent, flat_batch(agent, 64), lambda _, a: torch.zeros(a.shape[:-1]))
    _, actions, gradients = flat.gradients()
    tenth = ((actions[:, 0] - LOW) / (HIGH - LOW) * 10).long().clamp(0, 9)
    push = torch.zeros(10).index_add_(0, tenth, gradients.clamp(min=0))
    return float(push.min() / push.sum()), 0.1, 0.008


def own_state(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Find the share of the push down that falls on the states of the batch."""
    agent = build(agent_class, settings, num_proposals=20, penalty_weight=1.0)
    batch = flat_batch(agent, 64)
    critic = watched_loss(agent, batch, lambda _, a: torch.zeros(a.shape[:-1]))
    observations, _, gradients = critic.gradients()
    push = gradients.clamp(min=0)
    here = (observations == batch.observation[0]).all(dim=-1)
    return float(push[here].sum() / push.sum()), 1.0, 1e-4


def peak(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """At a low temperature the soft maximum is the maximum, up to a Gaussian integral."""
    agent = build(
        agent_class, settings, num_proposals=1_000, penalty_weight=1.0, penalty_temperature=0.02
    )
    place, temperature = 3.0, _temperature(agent)
    measured = penalty_of(
        agent, flat_batch(agent, 16, action=place), lambda _, a: -4 * (a[..., 0] - place).square()
    )
    edges = [math.erf(abs(edge - place) * math.sqrt(4 / temperature)) for edge in (LOW, HIGH)]
    integral = math.sqrt(math.pi * temperature / 4) * sum(edges) / 2
    return measured, temperature * math.log(integral), 0.015


# ---- What the critic converges to ----------------------------------------------------------------


def bandit(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Stand at the exact minimiser of a one-step problem: nothing should push.

    The box is cut into eight strips. The minimiser for rewards and shares is that of
    :func:`offline_rl_lib.tabular.soft_penalty_step`, with half the weight.

    Returns:
        The largest push left on a strip, in shares of the penalty's whole push.
    """
    weight, strips = 1.0, 8
    agent = build(
        agent_class, settings, num_proposals=1_000, penalty_weight=weight, penalty_temperature=1.0
    )
    count = torch.tensor([2, 4, 8, 14, 16, 12, 6, 2])
    reward = torch.tensor([-0.6, -0.1, 0.3, 0.5, 0.6, 0.4, 0.0, 1.4])
    width = (HIGH - LOW) / strips
    strip = torch.repeat_interleave(torch.arange(strips), count)
    share = (count / count.sum()).double().numpy()
    best = torch.as_tensor(soft_penalty_step(reward.double().numpy(), share, weight / 2)).float()

    def number(action: Tensor) -> Tensor:
        return ((action[..., 0] - LOW) / width).long().clamp(0, strips - 1)

    batch = flat_batch(agent, len(strip))._replace(
        action=(LOW + (strip + 0.5) * width).unsqueeze(1),
        reward=raw_reward(agent, reward[strip]),
    )
    critic = watched_loss(agent, batch, lambda _, a: best[number(a)])
    _, actions, gradients = critic.gradients()
    push = torch.zeros(strips).index_add_(0, number(actions), gradients)
    return float(push.abs().max()) / weight, 0.0, 0.02


def exact_fit(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """A critic that equals its targets, each another number, has no squared error."""
    agent = build(agent_class, settings, num_proposals=5, penalty_weight=1.0)
    value = torch.linspace(-2, 2, 64)
    batch = flat_batch(agent, 64)._replace(
        observation=torch.stack([value, 0 * value], dim=1), reward=raw_reward(agent, value)
    )
    agent.critic = agent.target_critic = KnownCritic(lambda o, _: o[..., 0])
    _, metrics = _critic_loss(agent, batch)
    if "td_loss" not in metrics:
        raise NotApplicable("The critic loss does not report a td_loss.")
    return float(metrics["td_loss"].detach()), 0.0, 1e-6


def loop(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """One state, reward 1 a step, recordings of 200 steps: what does the value settle at?

    The target is a straight line in the value that the target critic gives; two points of it
    tell where target and value agree.
    """
    agent = build(agent_class, settings, discount=0.99, initial_temperature=1e-9)
    if not hasattr(agent, "td_target"):
        raise NotApplicable("The agent has no td_target.")
    dataset = agent.learns_from(_recorded_loop(agent))
    batch = TransitionBatch(*(getattr(dataset, name) for name in TransitionBatch._fields))

    def mean_target(value: float) -> float:
        agent.target_critic = KnownCritic(lambda _, a: torch.full(a.shape[:-1], value))
        return float(agent.td_target(batch).detach().double().mean())

    start = mean_target(0.0)
    slope = (mean_target(100.0) - start) / 100
    return start / (1 - slope), 100.0, 0.5


def _recorded_loop(agent: Any, episodes: int = 3, steps: int = 200) -> OfflineDataset:
    """Return episodes of one state that are cut by the recording and never end."""
    total = episodes * steps
    step = torch.arange(total)
    return OfflineDataset(
        observation=torch.zeros(total, 2),
        action=((agent.low + agent.high) / 2).expand(total, -1).clone(),
        reward=raw_reward(agent, torch.ones(total)),
        next_observation=torch.zeros(total, 2),
        terminated=torch.zeros(total, dtype=torch.bool),
        truncated=(step + 1) % steps == 0,
        episode=step // steps,
        observation_space=agent.observation_space,
        action_space=agent.action_space,
        name="loop",
    )


# ---- The weight ---------------------------------------------------------------------------------


def weight(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """Multiply the weight by eight: the push up on the data's actions grows by eight."""
    pushes = []
    for value in (0.5, 4.0):
        agent = build(agent_class, settings, num_proposals=5, penalty_weight=value)
        batch = flat_batch(agent, 64)
        critic = watched_loss(agent, batch, lambda _, a: torch.zeros(a.shape[:-1]))
        _, actions, gradients = critic.gradients()
        data = (actions == batch.action[0]).all(dim=-1)
        pushes.append(-float(gradients[data].sum()))
    return pushes[1] / pushes[0], 8.0, 1e-3


def threshold(agent_class: type[Any], settings: Any) -> tuple[float, float, float]:
    """A learned weight rises if the penalty is above its threshold, and falls if below.

    Returns:
        Half the difference of the two directions in which one update moves the weight.
    """
    if "penalty_threshold" not in {field.name for field in fields(settings)}:
        raise NotApplicable("The penalty's weight is not learned.")
    directions = []
    for value in (-100.0, 100.0):
        agent = build(agent_class, settings, penalty_threshold=value, penalty_weight=1.0)
        before = float(agent.penalty_weight)
        agent.update(flat_batch(agent, 64))
        directions.append(np.sign(float(agent.penalty_weight) - before))
    return float(directions[0] - directions[1]) / 2, 1.0, 1e-9


PROBES: dict[str, Probe] = {
    "density": Probe(
        "Does the policy's density integrate to one over the box?",
        density,
        "The density is one of actions in the environment's units.",
        "Look for a tanh taken twice, a missing log of the half width, a mean over action "
        "dimensions instead of a sum.",
    ),
    "units": Probe(
        "Does the penalty follow a change of the actions' units?",
        units,
        "The penalty moves by the log of the factor.",
        "Look for a scale that is missing in one of the densities, uniform actions drawn from a "
        "fixed box, a density divided by the temperature.",
    ),
    "log volume": Probe(
        "Is the soft maximum of a flat critic the log of the box's volume?",
        log_volume,
        "All proposals estimate one integral.",
        "Look at the sign and the scale of the log-densities, at a temperature that divides them, "
        "at a missing log N (harmless to learning), at the axis of the logsumexp.",
    ),
    "coverage": Probe(
        "Is a flat critic pushed down evenly over the box?",
        coverage,
        "No tenth of the box gets less than its share.",
        "Look at the range of the uniform proposals, at the policy's density near the bounds, at "
        "the sign of the log-densities, and for a logsumexp over few proposals.",
    ),
    "own state": Probe(
        "Is the push down at the states of the batch?",
        own_state,
        "No other state is touched.",
        "Proposals of the policy at the next state belong to the current state's penalty.",
    ),
    "peak": Probe(
        "Does the soft maximum become the maximum as T goes to 0?",
        peak,
        "The peak is found.",
        "Look for a density divided by the temperature, for a logsumexp over fewer proposals than "
        "there are, and for parts of the box that no proposal reaches.",
    ),
    "bandit": Probe(
        "Does the exact minimiser of a one-step problem stay where it is?",
        bandit,
        "Nothing pushes.",
        "The critic would converge to something else: look at the densities, the range of the "
        "proposals, the axis of the logsumexp, and at the shapes in the squared error.",
    ),
    "exact fit": Probe(
        "Is the squared error zero where the critic equals its targets?",
        exact_fit,
        "Each value is compared with its own target.",
        "A table of every value against every target: look for (B,) against (B, 1).",
    ),
    "loop": Probe(
        "Is a state that earns 1 a step for ever worth 100?",
        loop,
        "The recording's end does not end the task.",
        "Look for truncation stored as termination (66.9), and for a discount applied twice.",
    ),
    "weight": Probe(
        "Does eight times the weight push eight times as much?",
        weight,
        "The push is proportional to the weight.",
        "Look for a weight applied twice (64), and for the multiplier's own loss reaching the "
        "critic, which turns the sign.",
    ),
    "threshold": Probe(
        "Does a learned weight rise above the threshold and fall below it?",
        threshold,
        "The weight answers the gap.",
        "Look at the sign of the multiplier's loss.",
    ),
}
"""The probes by name."""


def run_probe(name: str, agent_class: type[Any], settings: Any) -> Verdict:
    """Ask one question.

    Args:
        name: a key of ``PROBES``.
        agent_class: the class of the agent.
        settings: an instance of its settings. A probe changes what its question needs, such as
            the number of proposals, and keeps the rest.

    Raises:
        KeyError: there is no probe of that name; the message lists those that exist.
    """
    if name not in PROBES:
        raise KeyError(f"There is no probe {name!r}; the probes are {sorted(PROBES)}.")
    probe = PROBES[name]
    try:
        with torch.random.fork_rng(devices=[]):
            measured, expected, tolerance = probe.ask(agent_class, settings)
    except NotApplicable as reason:
        return Verdict(name, None, math.nan, math.nan, math.nan, str(reason))
    passed = abs(measured - expected) <= tolerance
    message = probe.right if passed else probe.likely
    return Verdict(name, passed, measured, expected, tolerance, message)


def run_probes(agent_class: type[Any], settings: Any) -> dict[str, Verdict]:
    """Ask every question; see :func:`run_probe`."""
    return {name: run_probe(name, agent_class, settings) for name in PROBES}
