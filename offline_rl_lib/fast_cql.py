"""CQL's update with its derivatives written out: the same bits in about half of the time.

:class:`offline_rl_lib.cql.CQL` is the version to read. On small networks most of its time goes into
recording a graph, making tensors and asking for memory. Here every derivative is written down, and
arrays and the views of them are made once and filled again and again. The numbers go through the
same operations in the same order, so that both versions agree to the last bit on all usual sizes
(:class:`FastCQL` says on which).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim.adam import adam

from offline_rl_lib.agent import require_finite
from offline_rl_lib.cql import CQL
from offline_rl_lib.densities import LOG_SQRT_2PI, uniform_log_density
from offline_rl_lib.networks import LOG_STD_MAX, LOG_STD_MIN, GaussianPolicy, TwinCritic, TwinLinear

if TYPE_CHECKING:
    from offline_rl_lib.data import TransitionBatch

# The kernels that autograd calls for a rectifier, a softplus and a tanh.
relu_backward = torch.ops.aten.threshold_backward.grad_input
softplus_backward = torch.ops.aten.softplus_backward
tanh_backward = torch.ops.aten.tanh_backward


class CriticLayer:
    """A rectifier and a linear layer of both critics, forward and back.

    Args:
        weight: shape ``(2, inputs, outputs)``.
        bias: shape ``(2, 1, outputs)``.
        inputs: where the inputs are, shape ``(2, R, inputs)``; they are rectified in place.
    """

    def __init__(self, weight: Tensor, bias: Tensor, inputs: Tensor) -> None:
        self.weight, self.bias, self.inputs = weight, bias, inputs
        self.output = inputs.new_empty(2, inputs.shape[1], weight.shape[2])
        self.output_gradient = torch.empty_like(self.output)
        self.turned_weight, self.turned_inputs = weight.mT, inputs.mT

    def forward(self) -> None:
        """Fill in ``output``."""
        torch.baddbmm(self.bias, self.inputs.relu_(), self.weight, out=self.output)

    def store(self) -> None:
        """From ``output_gradient``, fill in the ``grad`` of both parameters."""
        torch.sum(self.output_gradient, 1, keepdim=True, out=self.bias.grad)
        torch.bmm(self.turned_inputs, self.output_gradient, out=self.weight.grad)

    def back(self, below: Tensor) -> None:
        """From ``output_gradient``, fill in the derivative of what entered the rectifier."""
        torch.bmm(self.output_gradient, self.turned_weight, out=below)
        relu_backward(below, self.inputs, 0, grad_input=below)


class CriticPass:
    """Twin critics on K actions of each of B states, forward and back, in memory that is kept.

    Args:
        critic: the networks. Those that learn have a ``grad`` at each parameter.
        observation: where the B states are, shape ``(B, o)``.
        action: where their actions are, shape ``(B * K, d)``.

    Attributes:
        q_values: what :meth:`forward` fills in, shape ``(2, B, K)``.
        q_gradient: the derivative of a loss with respect to it, to be filled in, same shape.
    """

    def __init__(self, critic: TwinCritic, observation: Tensor, action: Tensor) -> None:
        self.weight, self.bias = critic.from_observation.weight, critic.from_observation.bias
        self.from_action = critic.from_action
        self.observation, self.action = observation.expand(2, -1, -1), action.expand(2, -1, -1)
        self.turned_observation, self.turned_action = self.observation.mT, self.action.mT
        width, states, rows = self.from_action.shape[2], len(observation), len(action)
        self.at_states = action.new_empty(2, states, width)
        self.hidden = action.new_empty(2, rows, width)
        self.hidden_gradient = torch.empty_like(self.hidden)
        self.layers: list[CriticLayer] = []
        for layer in critic.layers:
            assert isinstance(layer, TwinLinear)
            inputs = self.layers[-1].output if self.layers else self.hidden
            self.layers.append(CriticLayer(layer.weight, layer.bias, inputs))
        by_state = (2, states, rows // states, -1)
        self.at_every_action = self.at_states.unsqueeze(2)
        self.hidden_by_state = self.hidden.view(by_state)
        self.hidden_gradient_by_state = self.hidden_gradient.view(by_state)
        self.q_values = self.layers[-1].output.view(by_state[:3])
        self.q_gradient = self.layers[-1].output_gradient.view(by_state[:3])
        below = [self.hidden_gradient, *(layer.output_gradient for layer in self.layers[:-1])]
        self.backwards = list(zip(self.layers, below, strict=True))[::-1]

    def forward(self) -> Tensor:
        """Fill in and return ``q_values``."""
        torch.baddbmm(self.bias, self.observation, self.weight, out=self.at_states)
        torch.bmm(self.action, self.from_action, out=self.hidden)
        self.hidden_by_state.add_(self.at_every_action)
        for layer in self.layers:
            layer.forward()
        return self.q_values

    def parameter_gradients(self) -> None:
        """Carry ``q_gradient`` back and fill in the ``grad`` of each parameter."""
        for layer, below in self.backwards:
            layer.store()
            layer.back(below)
        torch.bmm(self.turned_action, self.hidden_gradient, out=self.from_action.grad)
        torch.sum(self.hidden_gradient_by_state, 2, out=self.at_states)
        torch.sum(self.at_states, 1, keepdim=True, out=self.bias.grad)
        torch.bmm(self.turned_observation, self.at_states, out=self.weight.grad)

    def action_gradient(self) -> Tensor:
        """Carry ``q_gradient`` back to the actions; return the sum over critics, ``(B * K, d)``."""
        for layer, below in self.backwards:
            layer.back(below)
        from_both = self.from_action.transpose(0, 1).flatten(1)  # (d, 2 * width)
        return torch.mm(from_both, self.hidden_gradient.mT.flatten(0, 1)).t()


class PolicyPass:
    """The policy at two groups of B states, 1 + N sampled actions each, with their scores.

    The first action of the first group is the one that the policy learns from.

    Args:
        policy: the network; each parameter has a ``grad``.
        observation: where the states are, shape ``(2 * B, o)``.
        samples: 1 + N.

    Attributes:
        noise: standard normal numbers to be filled in, shape ``(2, 1 + N, B, d)``.
        action: what :meth:`forward` fills in, same shape, in the environment's units.
        log_prob: and the log-densities, shape ``(2, 1 + N, B)``.
    """

    def __init__(self, policy: GaussianPolicy, observation: Tensor, samples: int) -> None:
        linear = [layer for layer in policy.body if isinstance(layer, nn.Linear)]
        layers = [*linear, policy.mean_and_log_std]
        self.low, self.high = policy.low, policy.high
        self.mid, self.half = (self.low + self.high) / 2, (self.high - self.low) / 2
        self.log_half = self.half.log()
        new, size, d = observation.new_empty, len(observation), self.low.shape[0]
        outputs = [new(size, layer.bias.shape[0]) for layer in layers]
        inputs = [observation, *outputs[:-1]]
        self.hidden = outputs[:-1]
        self.layers = [
            (layer.bias, own_inputs, layer.weight.t(), output)
            for layer, own_inputs, output in zip(layers, inputs, outputs, strict=True)
        ]
        self.learners = [
            (layer.weight, layer.bias, own_inputs[: size // 2])
            for layer, own_inputs in zip(layers, inputs, strict=True)
        ][::-1]
        by_group = outputs[-1].view(2, 1, size // 2, 2 * d)
        self.mean, self.log_std = by_group[..., :d], by_group[..., d:]
        self.clamped, self.std = new(2, 1, size // 2, d), new(2, 1, size // 2, d)
        shape = (2, samples, size // 2, d)
        names = ("noise", "tanh", "unclamped", "action", "standardised", "minus_twice")
        kept = {name: new(shape) for name in names}
        self.noise, self.action, self.kept = kept["noise"], kept["action"], kept
        self.log_prob = new(shape[:3])
        self.own = {name: array[0, 0] for name, array in kept.items()}
        self.own |= {name: getattr(self, name)[0, 0] for name in ("log_std", "clamped", "std")}
        self.output_gradient = new(size // 2, 2 * d)
        self.mean_gradient, self.log_std_gradient = self.output_gradient.chunk(2, dim=1)

    def forward(self) -> None:
        """Choose and score the actions."""
        for bias, inputs, turned_weight, output in self.layers[:-1]:
            torch.addmm(bias, inputs, turned_weight, out=output).relu_()
        bias, inputs, turned_weight, output = self.layers[-1]
        torch.addmm(bias, inputs, turned_weight, out=output)
        kept, mean, std = self.kept, self.mean, self.std
        torch.clamp(self.log_std, LOG_STD_MIN, LOG_STD_MAX, out=self.clamped)
        torch.exp(self.clamped, out=std)
        pre_tanh = mean + std * self.noise
        tanh = torch.tanh(pre_tanh, out=kept["tanh"])
        unclamped = torch.add(self.mid, self.half * tanh, out=kept["unclamped"])
        torch.clamp(unclamped, self.low, self.high, out=self.action)
        standardised = torch.div(pre_tanh - mean, std, out=kept["standardised"])
        minus_twice = torch.mul(pre_tanh, -2.0, out=kept["minus_twice"])
        log_normal = -0.5 * standardised.square() - std.log() - LOG_SQRT_2PI
        log_jacobian = 2.0 * (math.log(2.0) - pre_tanh - softplus(minus_twice))
        torch.sum(log_normal - self.log_half - log_jacobian, -1, out=self.log_prob)

    def parameter_gradients(self, action_gradient: Tensor, log_prob_gradient: Tensor) -> None:
        """Fill in the ``grad`` of each parameter.

        Args:
            action_gradient: derivative of the loss with respect to the actions, ``(B, d)``.
            log_prob_gradient: with respect to each state's log-density, a scalar.
        """
        own, weight = self.own, log_prob_gradient
        std, standardised = own["std"], own["standardised"]
        # u = mean + std * noise, z = (u - mean) / std, and apart from constants
        # log_prob = sum(-z^2 / 2 - log std - 2 * (log 2 - u - softplus(-2u))).
        by_action = action_gradient * (own["unclamped"] == own["action"]) * self.half
        by_tanh = tanh_backward(by_action, own["tanh"])
        twice = 2.0 * weight
        by_softplus = softplus_backward(twice.expand_as(std), own["minus_twice"], 1, 20) * -2.0
        by_square = (-0.5 * weight) * (2.0 * standardised)
        by_standardised = by_square / std
        pre_tanh = by_softplus + twice + by_standardised + by_tanh
        torch.sub(pre_tanh, by_standardised, out=self.mean_gradient)
        by_std = -weight / std - by_square * (standardised / std) + pre_tanh * own["noise"]
        torch.mul(by_std * std, own["clamped"] == own["log_std"], out=self.log_std_gradient)
        gradient = self.output_gradient
        for layer, (weight, bias, inputs) in enumerate(self.learners):
            torch.sum(gradient, 0, out=bias.grad)
            torch.mm(gradient.t(), inputs, out=weight.grad)
            if layer < len(self.learners) - 1:
                gradient = torch.mm(gradient, weight)
                relu_backward(gradient, inputs, 0, grad_input=gradient)


class FastCQL(CQL):
    """:class:`offline_rl_lib.cql.CQL` in about half of the time, with the same settings.

    Where B times d is a multiple of 32, with B and the layers' widths not below 16 and 8, we have
    found the numbers of CQL to the last bit. Otherwise the last bit may differ: a processor takes
    exponentials and logarithms in groups of 16 or 32 and what is left over by another routine, and
    tiny matrix products have routines of their own. CQL asks in pieces, this class once.

    A subclass that changes a loss of CQL is not seen by this update; build it on CQL.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._size = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own arrays: copied parameters come without their derivatives.
        return {**self.__dict__, "_size": 0}

    @torch.no_grad()
    def update(self, batch: TransitionBatch) -> dict[str, float]:
        """Take one step on critics, policy, temperature and target critics, as CQL does."""
        batch = self._check(batch)
        size = batch.reward.shape[0]
        if size != self._size:
            self._make_room(size)
        log_temperature = self._log_temperature
        torch.cat([batch.observation, batch.next_observation], out=self._observation)
        self._data_action.copy_(batch.action)
        self._draw()
        self._policy.forward()
        temperature = log_temperature.exp()
        metrics = self._critic_step(batch, temperature)
        surplus, actor_metrics = self._actor_step(temperature)
        torch.mul(surplus, temperature, out=log_temperature.grad)
        _step(self.temperature_optimiser)
        for target, source in self._target_pairs:
            target.lerp_(source, self.settings.target_update_rate)
        self.updates += 1
        return metrics | actor_metrics | {"temperature": log_temperature.exp().item()}

    def _state(self) -> dict[str, Any]:
        """Return CQL's state: a checkpoint of either class continues in the other."""
        return {**super()._state(), "agent": CQL.__name__}

    def _critic_step(self, batch: TransitionBatch, alpha: Tensor) -> dict[str, float]:
        """Step on the critics; ``alpha`` is the temperature of the entropy."""
        settings, count = self.settings, self._count
        next_q = self._at_next.forward().amin(dim=0).squeeze(1)
        next_value = next_q - alpha * self._next_log_prob
        reward = (batch.reward + settings.reward_shift) * settings.reward_scale
        goes_on = 1.0 - batch.terminated.float()
        target = reward + settings.discount * next_value * goes_on
        if count:
            uniform = self.low + self._width * self._fraction
            torch.clamp(uniform, self.low, self.high, out=self._uniform_action)
            self._policy_action.copy_(self._sampled_action)
            self._policy_log_density.copy_(self._sampled_log_prob)
        self._at_data.forward()
        error = self._data_q - target
        td_loss = error.square().mean(dim=-1)
        data_gradient = self._share * (2.0 * error)
        metrics = {"td_loss": td_loss.mean(), "data_q": self._data_q.mean()}
        loss = td_loss
        if count:
            temperature = settings.penalty_temperature
            exponents = self._proposal_q / temperature - self._log_density
            log_sum = torch.logsumexp(exponents, dim=-1, keepdim=True)
            soft_maximum = temperature * (log_sum.squeeze(-1) - math.log(3 * count))
            penalty = (soft_maximum - self._data_q).mean(dim=-1)
            loss = td_loss + settings.penalty_weight * penalty
            metrics["penalty"] = penalty.mean()
            # The derivative of a log-sum-exp is a softmax.
            softmax = torch.sub(exponents, log_sum, out=exponents).exp_()
            softmax.mul_(self._penalty_share * temperature)
            torch.div(softmax, temperature, out=self._proposal_gradient)
            data_gradient -= self._penalty_share
        self._data_gradient.copy_(data_gradient)
        *values, total = torch.stack([*metrics.values(), loss.sum()]).tolist()
        require_finite(total)
        self._at_data.parameter_gradients()
        _step(self.critic_optimiser)
        return dict(zip(metrics, values, strict=True))

    def _actor_step(self, alpha: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Step on the policy; return the entropy above its target, and metrics."""
        q_values, log_prob = self._at_policy.forward(), self._policy.log_prob[0, 0]
        smaller_q = q_values.amin(dim=0)
        loss = (alpha * log_prob - smaller_q.squeeze(1)).mean()
        entropy = -log_prob.mean()
        surplus = entropy - self.target_entropy
        *values, temperature_loss = torch.stack([loss, entropy, alpha * surplus]).tolist()
        require_finite(values[0])
        require_finite(temperature_loss)
        # Where both critics are equal, each takes half of the derivative, as amin has it.
        chosen = q_values == smaller_q
        torch.mul(self._minus_share / chosen.sum(dim=0), chosen, out=self._at_policy.q_gradient)
        by_action = self._at_policy.action_gradient()
        self._policy.parameter_gradients(by_action, self._share * alpha)
        _step(self.policy_optimiser)
        return surplus, {"actor_loss": values[0], "entropy": values[1]}

    def _draw(self) -> None:
        """Fill in random numbers, in the order in which CQL draws them."""
        own, of_states, at_next, of_next = self._noise
        at_next.normal_(generator=self.generator)
        if self._count:
            self._fraction.uniform_(generator=self.generator)
            of_states.normal_(generator=self.generator)
            of_next.normal_(generator=self.generator)
        own.normal_(generator=self.generator)

    def _make_room(self, size: int) -> None:
        """Make the arrays for batches of that size, and the views of them."""
        settings, new, d = self.settings, self.low.new_empty, self.action_size
        count = settings.num_proposals if settings.penalty_weight > 0 else 0
        self._size, self._count = size, count
        for module in (self.critic, self.policy, self.log_temperature):
            for parameter in module.parameters():
                parameter.grad = torch.zeros_like(parameter)
        self._observation = new(2 * size, self.observation_size)
        observation, next_observation = self._observation.chunk(2)
        assert isinstance(self.policy, GaussianPolicy)
        policy = self._policy = PolicyPass(self.policy, self._observation, 1 + count)
        noise = policy.noise
        self._noise = noise[0, 0], noise[0, 1:], noise[1, 0], noise[1, 1:]
        self._next_log_prob = policy.log_prob[1, 0]
        self._sampled_action = policy.action[:, 1:].permute(2, 0, 1, 3)
        self._sampled_log_prob = policy.log_prob[:, 1:].permute(2, 0, 1)

        action = new(size, 1 + 3 * count, d)
        self._data_action, self._uniform_action = action[:, 0], action[:, 1 : 1 + count]
        self._policy_action = action[:, 1 + count :].view(size, 2, count, d)
        self._log_density = new(size, 3 * count)
        self._log_density[:, :count] = uniform_log_density(self.low, self.high)
        self._policy_log_density = self._log_density[:, count:].view(size, 2, count)
        self._fraction, self._width = new(size, count, d), self.high - self.low

        at_data = self._at_data = CriticPass(self.critic, observation, action.flatten(0, 1))
        self._data_q, self._proposal_q = at_data.q_values[..., 0], at_data.q_values[..., 1:]
        self._data_gradient = at_data.q_gradient[..., 0]
        self._proposal_gradient = at_data.q_gradient[..., 1:]
        self._at_policy = CriticPass(self.critic, observation, policy.action[0, 0])
        self._at_next = CriticPass(self.target_critic, next_observation, policy.action[1, 0])

        self._log_temperature = self.log_temperature[0]
        pairs = zip(self.target_critic.parameters(), self.critic.parameters(), strict=True)
        self._target_pairs = list(pairs)
        self._share = torch.ones((), device=self.device) / size
        self._minus_share = -self._share
        self._penalty_share = torch.full((), settings.penalty_weight, device=self.device) / size


def _step(optimiser: torch.optim.Optimizer) -> None:
    """Take Adam's step without the bookkeeping of ``step``, which costs more than the step."""
    if not optimiser.state:
        optimiser.step()  # It makes the averages.
        return
    group = optimiser.param_groups[0]
    parameters = group["params"]
    states = [optimiser.state[parameter] for parameter in parameters]
    adam(
        parameters,
        [parameter.grad for parameter in parameters],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
