"""Mistakes in CQL that raise no error, each as a subclass with one thing wrong.

They were found in public programs, several of which many people learn from; the docstrings say
where. One of the differences is harmless, and one is a step away from the place where it was found.
They are written anew here and shown with thanks: each program works in the task that it was made
for, which is why the mistakes are hard to see.

Every class draws the random numbers that :class:`CQL` draws, in the same order, so a run can be
compared with the correct one of the same seed. ``BUGS`` lists them, ``SILENT_BUGS`` trains them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from offline_rl_lib.conservative import log_mean_exp_q
from offline_rl_lib.cql import CQL, CQLSettings
from offline_rl_lib.cql_lagrange import CQLLagrange, CQLLagrangeSettings
from offline_rl_lib.data import OfflineDataset, TransitionBatch
from offline_rl_lib.densities import LOG_SQRT_2PI, TanhNormal, log_tanh_jacobian
from offline_rl_lib.experiments import PENDULUM_CQL, Experiment
from offline_rl_lib.intervals import Effect, compare
from offline_rl_lib.networks import GaussianPolicy

# ---- The density of the policy ------------------------------------------------------------------


class TanhTwiceNormal(TanhNormal):
    """A tanh-normal whose correction takes the tanh of the action, which is a tanh already."""

    def _log_prob_of_pre_tanh(self, pre_tanh: Tensor) -> Tensor:
        standardised = (pre_tanh - self.mean) / self.std
        log_normal = -0.5 * standardised.square() - self.std.log() - LOG_SQRT_2PI
        wrong = log_tanh_jacobian(torch.tanh(pre_tanh))
        return (log_normal - self.half.log() - wrong).sum(dim=-1)


class TanhTwicePolicy(GaussianPolicy):
    """The policy network with that density."""

    distribution_class = TanhTwiceNormal


class TanhTwice(CQL):
    """The log-density of the policy's action is corrected at ``tanh(tanh(u))``.

    Wrong: the change of variables needs the slope of the tanh at ``u``, before the squashing. The
    correction stops at -0.87 per dimension, where the true one goes on to minus infinity.

    Seen: Hands-on-RL (boyu-ai), chapters 14 and 18 at commit 4a151a4, the policy network's
    ``forward`` (issues 44 and 121 there), and programs that grew from it.

    Right: ``log(1 - tanh(u)**2)``, of the value before the tanh.
    """

    policy_class = TanhTwicePolicy


class MissingScaleNormal(TanhNormal):
    """A tanh-normal whose log-density is that of the box [-1, 1], whatever its own box is."""

    def _log_prob_of_pre_tanh(self, pre_tanh: Tensor) -> Tensor:
        return super()._log_prob_of_pre_tanh(pre_tanh) + self.half.log().sum()


class MissingScalePolicy(GaussianPolicy):
    """The policy network with that density."""

    distribution_class = MissingScaleNormal


class MissingScale(CQL):
    """The action is stretched to the box, and the log-density does not lose ``log(half)``.

    Wrong: the density is too large by the factor ``half`` per dimension. In SAC alone that is a
    shift of the entropy target, and the usual target ``-d`` takes it back. In CQL the proposals
    of the policy lose weight against the uniform ones.

    Seen: Hands-on-RL (boyu-ai), chapter 18 at commit 4a151a4; CORL, ``algorithms/offline/cql.py``,
    whose actor is scaled by ``max_action``. Spinning Up's SAC, ``core.py`` (issue 314), has the
    same density, without the proposals that would suffer.

    Right: subtract the sum of ``log((high - low) / 2)``.
    """

    policy_class = MissingScalePolicy


# ---- The uniform proposals ----------------------------------------------------------------------


class UniformOnUnitBox(CQL):
    """The uniform proposals are drawn from [-1, 1], whatever the box, with the density 1/2.

    Wrong: on a box from -2 to 2 the uniform part estimates the integral over the inner half. The
    critic is pushed down in the outer half only where the policy itself goes.

    Seen: Hands-on-RL (boyu-ai), chapter 18 at commit 4a151a4; CORL, ``algorithms/offline/cql.py``;
    TorchRL 0.14.1, ``objectives/cql.py``. In an action space that is normalised to [-1, 1] it is
    right, and that is what the last two are mostly used with.

    Right: draw from ``[low, high]`` and use minus the sum of ``log(high - low)``.
    """

    @torch.no_grad()
    def proposals(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Return the proposals, the uniform ones (the first N) moved to [-1, 1]."""
        actions, log_densities = super().proposals(batch)
        count = self.settings.num_proposals
        moved = 2 * (actions[:, :count] - self.low) / (self.high - self.low) - 1
        log_density = torch.full_like(log_densities[:, :count], -self.action_size * math.log(2))
        return (
            torch.cat([moved, actions[:, count:]], dim=1),
            torch.cat([log_density, log_densities[:, count:]], dim=1),
        )


class UniformFromZero(CQL):
    """The uniform proposals are drawn from [0, 1] and scored as if they filled the box.

    Wrong: most of the box is never seen by the uniform source, here three quarters of it.

    Seen: JaxCQL (young-geng), issue 1. It was found because results on hopper-medium-expert were
    poor, and repaired; there the box was [-1, 1], so half of it was never seen.

    Right: ``low + (high - low) * uniform``.
    """

    @torch.no_grad()
    def proposals(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Return the proposals, the uniform ones (the first N) left as fractions of the box."""
        actions, log_densities = super().proposals(batch)
        count = self.settings.num_proposals
        fractions = (actions[:, :count] - self.low) / (self.high - self.low)
        return torch.cat([fractions, actions[:, count:]], dim=1), log_densities


# ---- The soft maximum ---------------------------------------------------------------------------


class SteppedCQL(CQL):
    """CQL with its critic loss cut into steps, so that a subclass can replace one of them."""

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what :meth:`CQL.critic_loss` returns, for a weight above zero."""
        target = self.td_target(batch)
        actions, log_densities = self.proposals(batch)
        data_q = self.critic(batch.observation, batch.action)
        td_loss = self.td_loss(data_q, target)
        soft_maximum = self.soft_maximum(self.score(batch, actions), log_densities)
        penalty = (soft_maximum - data_q).mean(dim=-1)
        loss = (td_loss + self.settings.penalty_weight * penalty).sum()
        return loss, {
            "td_loss": td_loss.mean(),
            "data_q": data_q.mean(),
            "penalty": penalty.mean(),
        }

    def td_loss(self, data_q: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of both critics, ``(2,)``, from ``(2, B)`` and ``(B,)``."""
        return (data_q - target).square().mean(dim=-1)

    def score(self, batch: TransitionBatch, actions: Tensor) -> Tensor:
        """Q of the proposals, ``(2, B, 3N)``, from actions of shape ``(B, 3N, d)``."""
        q_values: Tensor = self.critic(batch.observation, actions)
        return q_values

    def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
        """Soft maximum of each state, ``(2, B)``, from ``(2, B, 3N)`` and ``(B, 3N)``."""
        return log_mean_exp_q(q_values, log_densities, self.settings.penalty_temperature)


class WrongSign(SteppedCQL):
    """The log-density of the policy's proposals is added to Q instead of subtracted.

    Wrong: an importance weight divides by the density. Multiplying by it counts twice what the
    policy likes anyway, and the average estimates no integral at all.

    Seen: Simple_Reinforcement_Learning (lansinuote), chapter 14 on offline learning, state of
    October 2024, where the entropy is subtracted; an entropy is *minus* the mean log-density. The
    uniform source is right there and here.

    Right: ``Q - log_density`` for every source.
    """

    def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
        """Turn the sign for the two sources that are policies."""
        count = self.settings.num_proposals
        uniform, policy = log_densities[:, :count], log_densities[:, count:]
        return super().soft_maximum(q_values, torch.cat([uniform, -policy], dim=-1))


class SoftMaximumOfThree(SteppedCQL):
    """The logarithm is taken over three proposals at a time, and averaged over N afterwards.

    Wrong: one uniform action and one from each policy are all that a soft maximum sees. The mean
    of N coarse logarithms is not the logarithm of a mean: it lies below, and a peak that is rarely
    hit is hardly pushed down.

    Seen: TorchRL 0.14.1, ``objectives/cql.py`` (since pull request 1239), and OfflineRL-Kit,
    ``policy/model_free/cql.py``, where the result of a ``reshape`` is not used.

    Right: one logsumexp over all 3N proposals of a state.
    """

    def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
        """Estimate from one proposal of each source, N times, and average the estimates."""
        triples = (3, self.settings.num_proposals)
        q_triples = q_values.unflatten(-1, triples)  # (2, B, 3, N)
        log_triples = log_densities.unflatten(-1, triples)  # (B, 3, N)
        temperature = self.settings.penalty_temperature
        return log_mean_exp_q(q_triples, log_triples, temperature, dim=-2).mean(dim=-1)


class TemperatureInWeight(SteppedCQL):
    """The log-density is divided by the temperature along with Q.

    Wrong: ``T log(mean(exp((Q - log_density) / T)))`` weighs a proposal by ``density**(-1 / T)``,
    and only ``1 / density`` makes the mean an integral. With T = 1 nothing is seen.

    Seen: the official CQL (aviralkumar2907), ``d4rl/rlkit/torch/sac/cql.py``; young-geng/CQL,
    issue 3, where the author agrees that it is a mistake; JaxCQL, CORL, TorchRL, OfflineRL-Kit
    and RLlib follow. Their published results use T = 1.

    Right: ``T log(mean(exp(Q / T) / density))``.
    """

    def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
        """Divide both."""
        return super().soft_maximum(q_values, log_densities / self.settings.penalty_temperature)


class NoLogN(SteppedCQL):
    """The sum over the proposals is not divided by their number.

    Different, and harmless: the penalty is larger by ``T log(3N)`` everywhere, and no gradient
    changes. It matters where the penalty's *value* is used: in a log, or against the threshold of
    the Lagrange version.

    Seen: the official code and nearly every program after it. The paper's appendix has the 1/2N.

    Right for reading the value: subtract ``log(3N)``.
    """

    def soft_maximum(self, q_values: Tensor, log_densities: Tensor) -> Tensor:
        """Put the logarithm of the number back that the library subtracts."""
        log_count = math.log(q_values.shape[-1])
        return (
            super().soft_maximum(q_values, log_densities)
            + self.settings.penalty_temperature * log_count
        )


# ---- Which state, which shape, which end ---------------------------------------------------------


class ScoredAtNextState(SteppedCQL):
    """The proposals of the policy at the next state are scored at the next state.

    Wrong: the soft maximum belongs to one state. Q of another state is the integrand of another
    integral, and the critic is pushed down there without data to hold it up.

    Seen: RLlib's new stack (Ray), and unifloral, whose comment takes the original for the
    mistake. TorchRL 0.14.1, ``objectives/cql.py``, scores the *current* policy's there. It is an
    easy misreading: for Kumar et al. 2020 the next policy is one more proposal, nothing else.

    Right: score every proposal at the state whose penalty it belongs to.
    """

    def score(self, batch: TransitionBatch, actions: Tensor) -> Tensor:
        """Take the last N proposals to the next observation."""
        count = self.settings.num_proposals
        here = self.critic(batch.observation, actions[:, :-count])
        there = self.critic(batch.next_observation, actions[:, -count:])
        return torch.cat([here, there], dim=-1)


class BroadcastError(SteppedCQL):
    """The TD error subtracts targets of shape ``(B,)`` from values of shape ``(B, 1)``.

    Wrong: the result is a ``(B, B)`` table of every value against every target. Its mean square
    is smallest where all values equal the batch's mean target.

    Seen: these two shapes meet in joyrl-book (datawhalechina), discrete CQL, state of May 2026,
    in the penalty, whose mean is linear, so that the result is right. One line further, in the
    squared error, it would not be; that is the switch here.

    Right: two tensors of shape ``(B,)``, or a loss function that refuses other shapes.
    """

    def td_loss(self, data_q: Tensor, target: Tensor) -> Tensor:
        """Compare every value with every target."""
        table = data_q.unsqueeze(-1) - target  # (2, B, 1) - (B,) -> (2, B, B)
        return table.square().mean(dim=(-2, -1))


def one_flag(dataset: OfflineDataset) -> OfflineDataset:
    """Store one flag "done" for two events: the task ended, or only the recording did."""
    return replace(dataset, terminated=dataset.terminated | dataset.truncated)


class TruncationAsTermination(CQL):
    """A time limit ends the bootstrap, as if nothing could be gained after it.

    Wrong: the state at the limit is worth as much as the same state earlier. With 200 steps and a
    discount of 0.99, standing upright becomes worth 66.9 instead of 100.

    Seen: Hands-on-RL (boyu-ai) at commit 4a151a4, ``rl_utils.py``, written for a Gym that had one
    flag; joyrl-book (datawhalechina), ``done = terminated or truncated``.

    Right: only ``terminated`` cuts the bootstrap.
    """

    def learns_from(self, dataset: OfflineDataset) -> OfflineDataset:
        """Learn from the dataset with one flag."""
        return one_flag(dataset)


# ---- All of the post's at once ------------------------------------------------------------------


class PostNormal(TanhNormal):
    """The density of the post: tanh twice, no scale, a small number inside the logarithm."""

    def _log_prob_of_pre_tanh(self, pre_tanh: Tensor) -> Tensor:
        standardised = (pre_tanh - self.mean) / self.std
        log_normal = -0.5 * standardised.square() - self.std.log() - LOG_SQRT_2PI
        squashed_twice = torch.tanh(torch.tanh(pre_tanh))
        return (log_normal - (1 - squashed_twice.square() + 1e-7).log()).sum(dim=-1)


class PostPolicy(GaussianPolicy):
    """The policy network of the post: its spread is a softplus, without bounds."""

    distribution_class = PostNormal

    def forward(self, observation: Tensor) -> TanhNormal:
        """Return the policy's distribution at observations of shape ``(..., o)``."""
        mean, raw_std = self.mean_and_log_std(self.body(observation)).chunk(2, dim=-1)
        return PostNormal(mean, F.softplus(raw_std), self.low, self.high, validate_args=False)


class PostCQL(UniformOnUnitBox, NoLogN):
    """What the CQL class of the original post computes.

    The post brings chapter 18 of Hands-on-RL (boyu-ai, commit 4a151a4) to the interface of Gym
    0.26. Its density takes the tanh twice and leaves out the scale, its uniform proposals fill
    half of the box, log N is not subtracted, and the time limit ends the bootstrap. Its entropy
    target is ``-d``. Gradients that it computes and discards are not computed here.
    """

    policy_class = PostPolicy

    def learns_from(self, dataset: OfflineDataset) -> OfflineDataset:
        """Learn from the dataset with one flag."""
        return one_flag(dataset)


# ---- The learned weight --------------------------------------------------------------------------


class MultiplierInCritic(CQLLagrange):
    """The multiplier's own loss reaches the critic, with a minus sign.

    Wrong: the critic minimises ``penalty - w / 2 * penalty``, and the learned ``w`` does not
    multiply the penalty anywhere else. The push is ``1 - w / 2``: the larger the weight, the
    weaker, and turned round as soon as w exceeds 2.

    Seen: TorchRL 0.14.1, ``objectives/cql.py``, with ``sota-implementations/cql``, which adds all
    losses up: the penalty is not detached in the loss of the multiplier.

    Right: the critic's penalty times a ``w`` without gradient; the multiplier's loss on a penalty
    without gradient.
    """

    def critic_loss(self, batch: TransitionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of losses whose gradient the critics would get there."""
        _, metrics = super().critic_loss(batch)
        push = 1 - self.penalty_weight / 2
        return 2 * (metrics["td_loss"] + push * metrics["penalty"]), metrics


# ---- The registry and the runs -------------------------------------------------------------------

SMALL = replace(
    PENDULUM_CQL, policy_hidden_sizes=(64,), critic_hidden_sizes=(64, 64), penalty_weight=0.25
)
"""CQL with the weight that serves narrow data best, in networks of half the usual width."""

LAGRANGE = CQLLagrangeSettings(
    **{field.name: getattr(SMALL, field.name) for field in fields(SMALL)} | {"penalty_weight": 1.0}
)
"""The same with a learned weight that starts at 1 and steers the penalty to zero."""

WARM = replace(SMALL, penalty_temperature=2.0)
"""The same with a soft maximum at temperature 2, where a mistake with T can be seen."""

UNIT_BOX_ENTROPY = replace(SMALL, target_entropy=-1.0)
"""The same with the entropy target -d, which belongs to a density on [-1, 1]."""


@dataclass(frozen=True)
class Bug:
    """One switch.

    Attributes:
        agent_class: CQL with this one thing wrong.
        note: what is wrong, in one line.
        settings: of its runs.
        control: the method of ``SILENT_BUGS`` that differs from this one by the mistake alone.
    """

    agent_class: type[CQL]
    note: str
    settings: CQLSettings = SMALL
    control: str = "correct"


BUGS: dict[str, Bug] = {
    "tanh twice": Bug(TanhTwice, "log-density corrected at tanh(tanh(u))"),
    "missing scale": Bug(
        MissingScale, "log-density without the log of the half width", UNIT_BOX_ENTROPY
    ),
    "uniform on [-1, 1]": Bug(UniformOnUnitBox, "uniform proposals on half of the box"),
    "uniform on [0, 1]": Bug(UniformFromZero, "uniform proposals on a quarter of the box"),
    "wrong sign": Bug(WrongSign, "log-density of the policy added instead of subtracted"),
    "logsumexp of three": Bug(SoftMaximumOfThree, "soft maximum over 3 proposals instead of 3N"),
    "scored at next state": Bug(ScoredAtNextState, "next policy's proposals scored at next state"),
    "truncation ends": Bug(TruncationAsTermination, "time limit cuts the bootstrap"),
    "broadcast": Bug(BroadcastError, "every value compared with every target"),
    "post": Bug(PostCQL, "the original post's code, all at once", UNIT_BOX_ENTROPY),
    "temperature in weight": Bug(
        TemperatureInWeight, "log-density divided by the temperature", WARM, "correct, T = 2"
    ),
    "multiplier in critic": Bug(
        MultiplierInCritic, "learned weight pushes the wrong way", LAGRANGE, "correct, learned w"
    ),
    "no log N": Bug(NoLogN, "sum instead of mean in the logarithm; harmless"),
}
"""The switches by name."""

SILENT_BUGS = Experiment(
    name="silent_bugs",
    datasets=("pendulum/narrow-v0",),
    methods={
        "correct": (CQL, SMALL),
        "correct, T = 2": (CQL, WARM),
        "correct, learned w": (CQLLagrange, LAGRANGE),
        **{name: (bug.agent_class, bug.settings) for name, bug in BUGS.items()},
    },
    seeds=tuple(range(10)),
    updates=5_000,
    evaluate_every=1_000,
    seeds_together=10,
    batch_size=32,
)
"""Ten runs of every switch on the narrow data, and of what it has to be compared with."""

# ---- What a bug did ------------------------------------------------------------------------------

Record = Mapping[str, Any]


def last_return(run: Record) -> float:
    """Mean return over the paired starts after a run's last update."""
    return float(np.mean(run["returns"][-1]))


def last_promise(run: Record) -> float:
    """The critics' value of the policy's own actions at the starts, at the end, scaled reward."""
    return float(run["promised"][-1])


def effect(
    runs: Sequence[Record],
    method: str,
    control: str | None = None,
    value: Callable[[Record], float] = last_return,
) -> Effect:
    """Compare the interquartile means of a method's and its control's runs.

    Args:
        runs: stored runs.
        method: a method of ``SILENT_BUGS``.
        control: what it is compared with; the bug's own control if left out.
        value: what is compared, a number per run.

    Returns:
        Method minus control, and its stratified bootstrap interval: the seeds of both are drawn
        again, each among themselves.
    """
    control = BUGS[method].control if control is None else control
    mine, theirs = (
        np.array([value(run) for run in runs if run["method"] == name])
        for name in (method, control)
    )

    return compare(mine, theirs)
