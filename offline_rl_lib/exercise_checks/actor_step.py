"""Checks of the exercises in the chapter on the actor step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from offline_rl_lib.data import TransitionBatch
from offline_rl_lib.sac import SAC
from offline_rl_lib.teaching import (
    NotDoneYet,
    WrongAnswer,
    call,
    checker,
    finite_number,
    require_all,
)

Pair = tuple[float, float]


@checker("ex-actor-one-draw")
def check_one_draw(answer: Any) -> str:
    """Compare both derivatives of the valve's loss with the closed form."""
    result = call(answer)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise WrongAnswer(f"Return two numbers, (by mean, by std); got {result!r}.")
    by_mean, by_std = (finite_number(part, "For both derivatives") for part in result)
    exact_mean, exact_std = _one_draw()
    for (wrong, _), message in _mean_mistakes():
        if math.isclose(by_mean, wrong, abs_tol=1e-3):
            raise WrongAnswer(message)
    if not math.isclose(by_mean, exact_mean, abs_tol=1e-3):
        raise WrongAnswer(
            f"The derivative by the mean is not {by_mean:.3f}. Its two terms are "
            "2 alpha tanh(u) and minus the critic's slope times h (1 - tanh(u)**2)."
        )
    slips = {
        -exact_mean: "the entropy's own term, minus alpha / std, is missing.",
        -exact_mean + 0.2: "the entropy's own term has the wrong sign: it widens the policy.",
        exact_mean - 0.2: "u changes by epsilon per unit of std, and epsilon is -1 here.",
    }
    for wrong, slip in slips.items():
        if math.isclose(by_std, wrong, abs_tol=1e-3):
            raise WrongAnswer(
                f"The derivative by the mean is right. In the one by std, {slip}", share=0.5
            )
    if not math.isclose(by_std, exact_std, abs_tol=1e-3):
        raise WrongAnswer(
            "The derivative by the mean is right. The one by std is epsilon times it, minus "
            f"alpha / std; got {by_std:.3f}.",
            share=0.5,
        )
    return f"{exact_mean:.3f} and {exact_std:.3f}: a step against the gradient closes the valve."


def _one_draw(half: float = 2.5, noise: float = -1.0, sign: float = 1.0) -> Pair:
    """Both derivatives; the arguments allow the usual slips."""
    squashed = math.tanh(0.2 + 0.5 * noise)
    by_mean = 2 * 0.1 * squashed + sign * 0.8 * half * (1 - squashed**2)
    return by_mean, noise * by_mean - 0.1 / 0.5


def _mean_mistakes() -> list[tuple[Pair, str]]:
    squashed = math.tanh(-0.3)
    return [
        (_one_draw(half=5.0), "h is half of the box's width: 2.5, not 5."),
        (_one_draw(half=1.0), "The chain rule's factor h is missing: a = m + h tanh(u)."),
        (_one_draw(sign=-1.0), "The critic's slope enters with a minus: the loss contains -Q."),
        (_one_draw(noise=1.0), "The noise is -1, so u = mean - std."),
        (
            (0.8 * 2.5 * (1 - squashed**2), 0.0),
            "The entropy's pull 2 alpha tanh(u) is missing: the log-density depends on u too.",
        ),
        (
            (2 * 0.1 * squashed + 0.8 * 2.5, 0.0),
            "The tanh's own slope 1 - tanh(u)**2 is missing.",
        ),
    ]


@checker("ex-actor-step")
def check_actor_step(answer: Any) -> str:
    """Compare the reader's step with the library's on a small agent, bit for bit."""
    observation = torch.randn((16, 3), generator=torch.Generator().manual_seed(0))
    library, reader = _agent(), _agent()
    exact, _ = library.actor_loss(_batch(observation))
    library.policy_optimiser.zero_grad()
    exact.backward(inputs=list(library.policy.parameters()))
    library.policy_optimiser.step()
    # A gradient left over from before: the reader's step has to clear it.
    for parameter in reader.policy.parameters():
        parameter.grad = torch.ones_like(parameter)
    untouched = _numbers(reader.policy)
    critics = _numbers(reader.critic)
    loss = call(answer, reader, observation)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise WrongAnswer("Return the loss, a tensor with one number.")
    if not torch.equal(_numbers(reader.critic), critics):
        raise WrongAnswer("The critics have changed. Step the policy's optimiser only.")
    if not torch.allclose(loss.detach(), exact.detach(), atol=1e-6):
        raise WrongAnswer(_loss_help(float(loss), observation))
    if any(p.grad is not None for p in reader.critic.parameters()):
        raise WrongAnswer(
            "The loss and the critics' weights are right, but the critics hold a gradient: the "
            "leak. Give backward the list of the parameters that may receive one."
        )
    if any(p.grad is not None for p in reader.log_temperature.parameters()):
        raise WrongAnswer("The temperature holds a gradient; agent.temperature has none.")
    if torch.equal(_numbers(reader.policy), untouched):
        raise WrongAnswer("The loss is right, but the policy has not moved: step its optimiser.")
    if not torch.equal(_numbers(reader.policy), _numbers(library.policy)):
        raise WrongAnswer(_step_help(reader, library, observation))
    return "The policy is the library's bit for bit, and nothing leaked."


def _agent() -> SAC:
    box = gym.spaces.Box(np.array([-2.0], np.float32), np.array([2.0], np.float32))
    return SAC(gym.spaces.Box(-np.inf, np.inf, (3,)), box)


def _batch(observation: Tensor) -> TransitionBatch:
    zero = torch.zeros(len(observation))
    return TransitionBatch(observation, zero[:, None], zero, observation, zero)


def _numbers(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@torch.no_grad()
def _loss_help(loss: float, observation: Tensor) -> str:
    agent = _agent()
    action, log_prob = agent.policy(observation).rsample_with_log_prob((), agent.generator)
    pair, entropy = agent.critic(observation, action), agent.temperature * log_prob
    mistakes: list[tuple[Tensor, str]] = [
        (entropy - pair.amax(dim=0), "This takes the larger of the two critics."),
        (entropy - pair.mean(dim=0), "This takes the mean of the two critics, not the smaller."),
        (entropy - pair[0], "This asks the first critic only; take the smaller of the two."),
        (-entropy - pair.amin(dim=0), "The entropy's sign is turned: alpha times log_prob."),
        (entropy + pair.amin(dim=0), "The sign of Q is turned: the loss contains -Q."),
        (log_prob - pair.amin(dim=0), "The log-density is not multiplied by the temperature."),
        (-pair.amin(dim=0), "The entropy term is missing."),
    ]
    for values, message in mistakes:
        if math.isclose(loss, float(values.mean()), abs_tol=1e-6):
            return message
    return (
        f"The loss is {loss:.4f}, which is not the library's on the same noise. Draw once, with "
        "agent.generator, and take the mean of alpha * log_prob - min Q."
    )


def _step_help(reader: SAC, library: SAC, observation: Tensor) -> str:
    """Recognise the slip by the gradient that the reader's policy holds."""
    held, right = _gradient(reader.policy), _gradient(library.policy)
    agent = _agent()
    policy = agent.policy(observation)
    action, log_prob = policy.rsample_with_log_prob((), agent.generator)
    slips: list[tuple[Tensor, str]] = [
        (agent.temperature * log_prob, "The critics' values arrive without slopes: no_grad?"),
        (
            agent.temperature * policy.log_prob(action.detach()),
            "This is the gradient of a constant action: sample in place of rsample?",
        ),
    ]
    if torch.allclose(held, right + 1, atol=1e-4):
        return "The loss is right, but zero_grad() is missing: an older gradient is added."
    for values, message in slips:
        agent.policy.zero_grad()
        values.mean().backward(retain_graph=True)
        if torch.allclose(held, _gradient(agent.policy), rtol=1e-2, atol=1e-5):
            return f"The loss is right. {message}"
    return (
        "The loss is right, but the policy after the step is not the library's. Typical: a part "
        "of the loss is detached, or the step is not the policy's own optimiser's."
    )


def _gradient(module: torch.nn.Module) -> Tensor:
    """All gradients in one vector, zero where there is none."""
    held = (torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters())
    return torch.cat([gradient.flatten() for gradient in held])


@checker("ex-actor-spike")
def check_spike(answer: Any) -> str:
    """Follow the exact gradient from both widths, and see where the median ends."""
    if not isinstance(answer, Mapping):
        raise WrongAnswer(f"A dictionary is expected; got {type(answer).__name__}.")
    missing = [key for key in ("stays", "leaves") if key not in answer]
    if missing:
        raise WrongAnswer(f"These answers are missing: {', '.join(missing)}.")
    if any(answer[key] is ... for key in ("stays", "leaves")):
        raise NotDoneYet
    problems: list[str | None] = []
    for key, home in (("stays", -0.5), ("leaves", 1.2)):
        width = float(answer[key])
        if not 0.05 <= width <= 1:
            raise WrongAnswer(f"{key!r}: a width between 0.05 and 1 is asked for; got {width}.")
        end = _end_on_spiky_critic(width)
        other = "finds the spike" if key == "stays" else "stays on the hill"
        problem = (
            f"{key!r}: from width {width} the actor {other}, it ends at {end:.1f} N m. "
            "Which torques does it draw in its first steps?"
        )
        problems.append(problem if abs(end - home) > 0.3 else None)
    require_all(problems)
    return "A narrow actor never draws the spike's slope; a wide one does, and leaves."


def _end_on_spiky_critic(width: float, alpha: float = 0.1) -> float:
    """Median torque after following the exact gradient of the exercise's critic."""
    noise = np.linspace(-5, 5, 401)
    weight = np.exp(-0.5 * noise**2)
    weight /= weight.sum()
    mean, log_std = math.atanh(-0.25), math.log(width)
    slope: Callable[[Any], Any] = lambda a: (  # noqa: E731
        -2 * (a + 0.5) - 5 * (a - 1.2) / 0.09 * np.exp(-0.5 * ((a - 1.2) / 0.3) ** 2)
    )
    for _ in range(1500):
        std = math.exp(log_std)
        squashed = np.tanh(mean + std * noise)
        by_mean = 2 * alpha * squashed - slope(2 * squashed) * 2 * (1 - squashed**2)
        mean -= 0.01 * float(weight @ by_mean)
        log_std -= 0.01 * (std * float(weight @ (noise * by_mean)) - alpha)
    return 2 * math.tanh(mean)
